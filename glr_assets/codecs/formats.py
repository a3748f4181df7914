"""What a file is by its first bytes: a format that is decoded, or a known one that is not, with the way out."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from glr_assets.codecs import tiff_header

_CONVERT = "convert it to JPEG or PNG"
_DEVELOP = "a camera's raw file is no finished picture: export it as JPEG or TIFF, for example with darktable-cli"
HEIF_FIX = "install the extra `glr-assets[heif]`, or convert it to JPEG"


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
        name: as Pillow names it where it is decoded.
        fix: what to do with a file of it; empty where it is decoded.
    """

    name: str
    fix: str = ""


#: An offset, the bytes there, the format. The first that fits holds.
_BY_BYTES: tuple[tuple[int, bytes, Format], ...] = tuple(
    (offset, start, Format(name, fix))
    for name, fix, offset, starts in (
        ("JPEG-LS", _CONVERT, 0, (b"\xff\xd8\xff\xf7",)),
        ("JPEG", "", 0, (b"\xff\xd8",)),
        ("PNG", "", 0, (b"\x89PNG\r\n\x1a\n",)),
        ("GIF", "", 0, (b"GIF87a", b"GIF89a")),
        ("WEBP", "", 8, (b"WEBP",)),
        ("BMP", "", 0, (b"BM",)),
        ("JPEG2000", "", 0, (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
        ("PPM", "", 0, tuple(b"P%d" % number for number in range(1, 7))),
        ("PAM", _CONVERT, 0, (b"P7",)),
        ("PFM", "", 0, (b"PF\n", b"Pf\n", b"PF ", b"Pf ", b"PF\r", b"Pf\r")),
        ("PSD", "", 0, (b"8BPS\0\x01",)),
        ("PSB", _CONVERT, 0, (b"8BPS\0\x02",)),
        ("ICO", "", 0, (b"\0\0\x01\0",)),
        ("CUR", _CONVERT, 0, (b"\0\0\x02\0\x01\0",)),
        ("JPEG XL", _CONVERT, 0, (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
        ("JPEG XR", _CONVERT, 0, (b"II\xbc",)),
        ("CRW", _DEVELOP, 6, (b"HEAPCCDR",)),
        ("RAF", _DEVELOP, 0, (b"FUJIFILMCCD-RAW",)),
        ("X3F", _DEVELOP, 0, (b"FOVb",)),
        ("MRW", _DEVELOP, 0, (b"\0MRM",)),
        *((name, _DEVELOP, 0, (start,)) for start, name in tiff_header.RAW_STARTS.items()),
        ("TIFF", "", 0, tiff_header.STARTS),
        ("OpenEXR", _CONVERT, 0, (b"\x76\x2f\x31\x01",)),
        ("Radiance HDR", _CONVERT, 0, (b"#?RADIANCE", b"#?RGBE")),
        ("GIMP XCF", _CONVERT, 0, (b"gimp xcf",)),
        ("DDS", _CONVERT, 0, (b"DDS ",)),
        ("SGI", _CONVERT, 0, (b"\x01\xda\0\x01", b"\x01\xda\0\x02", b"\x01\xda\x01\x01", b"\x01\xda\x01\x02")),
        ("PCX", _CONVERT, 0, (b"\x0a\0\1", b"\x0a\2\1", b"\x0a\3\1", b"\x0a\4\1", b"\x0a\5\1")),
        ("DCX", _CONVERT, 0, (b"\xb1\x68\xde\x3a",)),
        ("XPM", _CONVERT, 0, (b"/* XPM",)),
        ("DPX", _CONVERT, 0, (b"SDPX", b"XPDS")),
        ("BLP", _CONVERT, 0, (b"BLP1", b"BLP2")),
        ("WMF", _CONVERT, 0, (b"\xd7\xcd\xc6\x9a",)),
        ("Sun raster", _CONVERT, 0, (b"\x59\xa6\x6a\x95",)),
        ("ICNS", _CONVERT, 0, (b"icns",)),
        ("FITS", _CONVERT, 0, (b"SIMPLE  =",)),
        ("QOI", _CONVERT, 0, (b"qoif",)),
        ("FLIF", _CONVERT, 0, (b"FLIF",)),
        ("BPG", _CONVERT, 0, (b"BPG\xfb",)),
        ("MNG", _CONVERT, 0, (b"\x8aMNG\r\n\x1a\n",)),
        ("JNG", _CONVERT, 0, (b"\x8bJNG\r\n\x1a\n",)),
        ("DjVu", _CONVERT, 0, (b"AT&TFORM",)),
        ("DICOM", _CONVERT, 128, (b"DICM",)),
        ("PDF", _CONVERT, 0, (b"%PDF",)),
        ("PostScript", _CONVERT, 0, (b"%!PS", b"\xc5\xd0\xd3\xc6")),
    )
    for start in starts
)
_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_OF_STILLS = {b"mif1", b"mif2", b"msf1", b"miaf", b"MiHE", b"1pic"}


def format_of(data: bytes | memoryview) -> Format | None:
    """The format that a file's bytes tell, whatever its name; None where they tell none.

    TGA has no mark at its beginning and is told by a footer or by the fields of its header.
    """
    for offset, start, found in _BY_BYTES:
        if data[offset : offset + len(start)] == start:
            if found.name == "ICO" and data[4:6] == b"\0\0":
                return None  # it lists no picture: other formats begin so too
            raw = tiff_header.raw_name(data) if found.name == "TIFF" else ""
            return Format(raw, _DEVELOP) if raw else found
    if data[4:8] == b"ftyp":
        return _by_brand(bytes(data[:256]))
    if _is_tga(bytes(data[:18]), bytes(data[-18:])):
        return Format("TGA")
    text = bytes(data[:1024]).lstrip().lower()
    if text.startswith((b"<?xml", b"<svg", b"<!doctype svg")) and b"<svg" in text:
        return Format("SVG", _CONVERT)
    return None


def _by_brand(head: bytes) -> Format:
    """The format of a file of ISO base media boxes, by its brands (ISO/IEC 14496-12, 4.3; 23008-12, 10)."""
    size = min(max(int.from_bytes(head[:4], "big"), 16), len(head))
    major = head[8:12]
    brands = {major, *(head[at : at + 4] for at in range(16, size - 3, 4))}
    if major == b"crx ":
        return Format("CR3", _DEVELOP)
    if major in _AVIF or (major in _OF_STILLS and brands & _AVIF):
        return Format("AVIF")
    if major in _HEIC | _OF_STILLS or brands & _HEIC:
        return Format("HEIF", "" if has_heif() else HEIF_FIX)
    return Format("a film", "take a still picture of it")


def has_heif() -> bool:
    """Whether the library that decodes HEIC is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def _is_tga(head: bytes, foot: bytes) -> bool:
    """Whether the header's fields are consistent (Truevision TGA 2.0, C.2 to C.6)."""
    if (
        len(head) < 18
        or head[1] > 1
        or head[2] not in {1, 2, 3, 9, 10, 11}
        or not any(head[12:14])
        or not any(head[14:16])
    ):
        return False
    mapped = head[2] in {1, 9}
    consistent = head[1] == mapped and head[16] in ({8} if mapped else {1, 8, 15, 16, 24, 32}) and head[17] < 0x40
    return consistent and (foot == b"TRUEVISION-XFILE.\0" or mapped or not any(head[3:8]))
