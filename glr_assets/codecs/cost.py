"""What decoding a file would take, read from its structure before a decoder sees it.

Decoders and their wrappers walk over each segment, chunk, strip and scan. A file of some megabytes can hold millions of
them and keep a core busy for many seconds, whatever its dimensions. Each walk here is linear in the file or stops at
its limit: the costliest file of 16 MiB takes some 50 ms.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from glr_assets.codecs import jpeg_header, tiff_header
from glr_assets.codecs.formats import Format, format_of

#: A decoder goes over the whole image for each scan of a JPEG; encoders write a dozen.
MAX_SCANS = 100
#: Pixels of all scans of a JPEG together: 16 scans of 64 million pixels, or 100 of 10 million.
MAX_SCAN_PIXELS = 2**30
#: Chunks, blocks, strips or tiles of a file of another format; each costs Pillow some 10 µs.
MAX_PARTS = 65_536
#: Color profiles of a PNG, of which the standard allows one; each is unpacked, up to 1 MB.
MAX_PROFILES = 4
#: Components of a JPEG 2000 image: the decoder holds a plane of 32 bits for each.
MAX_COMPONENTS = 5
#: Bytes of formats that Pillow unpacks in Python: run-length coded BMP, PPM as text.
MAX_SLOW_BYTES = 4 * 2**20
_PPM = re.compile(rb"P[1-6](?:\s|#[^\n\r]*[\n\r])+(\d+)(?:\s|#[^\n\r]*[\n\r])+(\d+)[\s#]", re.DOTALL)
_PFM = re.compile(rb"P[Ff]\s+(\d+)\s+(\d+)\s", re.DOTALL)


@dataclass(frozen=True)
class Cost:
    """The work that a file asks of its decoder.

    Attributes:
        format: what its bytes tell it is; None where they tell nothing.
        size: (width, height) in pixels as declared; (0, 0) where that cannot be read.
        scans: passes over the whole image; more than 1 for JPEGs of several scans.
        parts: segments, chunks, blocks, strips or tiles, counted up to one more than their limit.
        frames: pictures that are declared, of which the first is decoded; 1 where a file has one or tells nothing.
        excess: which limit other than that of pixels it is over; empty where it is within all.
    """

    format: Format | None
    size: tuple[int, int] = (0, 0)
    scans: int = 1
    parts: int = 0
    frames: int = 1
    excess: str = ""

    @property
    def pixels(self) -> int:
        """Pixels of one frame."""
        return self.size[0] * self.size[1]

    def refusal(self, max_pixels: int) -> str:
        """Why it is not decoded, as ingest says it; empty where its format is decoded and it is within all limits."""
        if self.format is not None and self.format.fix:
            return f"unsupported format: {self.format.name}; {self.format.fix}"
        if self.pixels > max_pixels:
            return f"too large: {self.size[0]}x{self.size[1]} pixels, at most {max_pixels} are decoded"
        return self.excess and f"undecodable: {self.excess}"


def measure(data: bytes | memoryview) -> Cost:
    """The cost of decoding a file; damage is left for its decoder to judge."""
    found = format_of(data)
    if found is None or found.fix:
        return Cost(found)
    walk = _WALKS.get(found.name)
    try:
        return walk(found, memoryview(data)) if walk else Cost(found)
    except (struct.error, IndexError, OverflowError):
        return Cost(found)


def jpeg_excess(data: bytes | memoryview, header: jpeg_header.JpegHeader) -> str:
    """Which limit a JPEG is over, but that of pixels; its scans are counted where there are several."""
    return _jpeg(Format("JPEG"), data, header).excess


def _jpeg(found: Format, data: bytes | memoryview, header: jpeg_header.JpegHeader | None = None) -> Cost:
    header = header or jpeg_header.read_header(data)
    scans = jpeg_header.count_scans(data) if header.has_scans else 1
    excess = ""
    if header.segments > jpeg_header.MAX_SEGMENTS:
        excess = f"a JPEG of more than {jpeg_header.MAX_SEGMENTS} segments before its picture"
    elif scans > MAX_SCANS:
        excess = f"a JPEG of more than {MAX_SCANS} scans"
    elif scans * header.size[0] * header.size[1] > MAX_SCAN_PIXELS:
        excess = f"a JPEG of {scans} scans of {header.size[0]}x{header.size[1]} pixels"
    return Cost(found, header.size, scans, header.segments, 2 if header.has_more else 1, excess)


def _png(found: Format, data: memoryview) -> Cost:
    if bytes(data[8:16]) != b"\0\0\0\x0dIHDR":
        return Cost(found)
    size = struct.unpack_from(">II", data, 16)
    parts, frames, profiles, at = 0, 1, 0, 8
    while at + 12 <= len(data) and parts <= MAX_PARTS:
        length, kind = struct.unpack_from(">I4s", data, at)
        parts += 1
        if kind == b"acTL":
            frames = struct.unpack_from(">I", data, at + 8)[0]
        profiles += kind == b"iCCP"
        if kind == b"IEND":
            break
        at += 12 + length
    excess = _too_many(parts, "a PNG", "chunks")
    if not excess and profiles > MAX_PROFILES:
        excess = f"a PNG of {profiles} color profiles"
    return Cost(found, size, 1, parts, frames, excess)


def _gif(found: Format, data: memoryview) -> Cost:
    """Blocks before the first picture: a decoder in C takes what is within pictures, and later ones are not read."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    parts = 0
    while at + 2 <= len(data) and parts <= MAX_PARTS:
        if data[at] == 0x2C:
            left, top, wide, high = struct.unpack_from("<HHHH", data, at + 1)
            width, height = max(width, left + wide), max(height, top + high)
            break
        parts += 1
        if data[at] != 0x21:
            at += 1
            continue
        at += 2
        while at < len(data) and data[at] and parts <= MAX_PARTS:
            at += 1 + data[at]
            parts += 1
        at += 1
    return Cost(found, (width, height), 1, parts, 1, _too_many(parts, "a GIF", "blocks before its picture"))


def _webp(found: Format, data: memoryview) -> Cost:
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        size = tuple(1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        size = (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    else:
        size = tuple(side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    parts, frames, at = 0, 0, 12
    while at + 8 <= len(data) and parts <= MAX_PARTS:
        name, length = struct.unpack_from("<4sI", data, at)
        parts, frames = parts + 1, frames + (name == b"ANMF")
        at += 8 + length + length % 2
    return Cost(found, (size[0], size[1]), 1, parts, max(frames, 1), _too_many(parts, "a WebP", "chunks"))


def _tiff(found: Format, data: memoryview) -> Cost:
    first = tiff_header.first_directory(data)
    if first is None:
        return Cost(found)
    size = (first.integer(tiff_header.WIDTH), first.integer(tiff_header.HEIGHT))
    strips = max(first.count(tiff_header.STRIP_OFFSETS), first.count(tiff_header.TILE_OFFSETS))
    parts = min(strips, MAX_PARTS + 1)
    excess = _too_many(parts, "a TIFF", "strips or tiles")
    if not excess and first.value_bytes > len(data):
        excess = f"a TIFF whose tags take {first.value_bytes} bytes of {len(data)}"
    return Cost(found, size, 1, parts, 1, excess)


def _bmp(found: Format, data: memoryview) -> Cost:
    """The dimensions of a bitmap, and of a run-length coded one its bytes."""
    (head,) = struct.unpack_from("<I", data, 14)
    if head == 12:
        return Cost(found, struct.unpack_from("<HH", data, 18))
    width, height, _, compression = struct.unpack_from("<iiIxxI", bytes(data[18:30]) + b"\0\0" + bytes(data[30:34]), 0)
    slow = compression in {1, 2} and len(data) > MAX_SLOW_BYTES
    excess = f"a run-length coded BMP of more than {MAX_SLOW_BYTES} bytes; convert it to PNG" if slow else ""
    return Cost(found, (abs(width), abs(height)), excess=excess)


def _ppm(found: Format, data: memoryview) -> Cost:
    head = bytes(data[:4096])
    sides = (_PFM if found.name == "PFM" else _PPM).match(head)
    if sides is None:
        return Cost(found, excess=f"a {found.name} without dimensions in its first 4096 bytes")
    slow = head[1:2] in b"123" and len(data) > MAX_SLOW_BYTES
    excess = f"a PPM as text of more than {MAX_SLOW_BYTES} bytes; convert it to PNG" if slow else ""
    return Cost(found, (min(int(sides[1]), 2**31), min(int(sides[2]), 2**31)), excess=excess)


def _psd(found: Format, data: memoryview) -> Cost:
    """Dimensions, and image resources, which Pillow walks over."""
    height, width = struct.unpack_from(">II", data, 14)
    at = 30 + struct.unpack_from(">I", data, 26)[0]
    end = min(at + 4 + struct.unpack_from(">I", data, at)[0], len(data))
    at, parts = at + 4, 0
    while at + 12 <= end and parts <= MAX_PARTS:
        name = data[at + 6] + 1
        at += 6 + name + name % 2
        length = struct.unpack_from(">I", data, at)[0]
        at += 4 + length + length % 2
        parts += 1
    return Cost(found, (width, height), 1, parts, 1, _too_many(parts, "a PSD", "resources"))


def _jpeg2000(found: Format, data: memoryview) -> Cost:
    """Dimensions and components of the codestream (ITU T.800, A.5.1)."""
    at = bytes(data[: 2**20]).find(b"\xff\x4f\xff\x51")
    if at < 0:
        return Cost(found)
    right, bottom, left, top, wide, high, first_x, first_y, components = struct.unpack_from(">8IH", data, at + 8)
    size = (max(right - left, 0), max(bottom - top, 0))
    tiles = min(-(-(right - first_x) // max(wide, 1)) * -(-(bottom - first_y) // max(high, 1)), MAX_PARTS + 1)
    excess = _too_many(tiles, "a JPEG 2000", "tiles")
    if components > MAX_COMPONENTS:
        excess = f"a JPEG 2000 of {components} components, at most {MAX_COMPONENTS} are decoded"
    return Cost(found, size, 1, tiles, 1, excess)


def _boxes(found: Format, data: memoryview) -> Cost:
    """The largest of the dimensions that boxes `ispe` tell (ISO/IEC 23008-12, 6.5.3); tiles of a grid have theirs."""
    head = bytes(data[: 2**20])
    size, at, parts = (0, 0), head.find(b"ispe"), 0
    while at >= 0 and at + 16 <= len(head) and parts <= MAX_PARTS:
        size = max(size, struct.unpack_from(">II", head, at + 8), key=lambda sides: sides[0] * sides[1])
        parts += 1
        at = head.find(b"ispe", at + 4)
    return Cost(found, size, 1, parts)


def _ico(found: Format, data: memoryview) -> Cost:
    (count,) = struct.unpack_from("<H", data, 4)
    size = (0, 0)
    for number in range(min(count, (len(data) - 6) // 16)):
        size = max(size, (data[6 + 16 * number] or 256, data[7 + 16 * number] or 256))
    return Cost(found, size, 1, count, count)


def _tga(found: Format, data: memoryview) -> Cost:
    width, height = struct.unpack_from("<HH", data, 12)
    return Cost(found, (width, height))


def _too_many(parts: int, name: str, what: str) -> str:
    return f"{name} of more than {MAX_PARTS} {what}" if parts > MAX_PARTS else ""


_WALKS = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "WEBP": _webp,
    "TIFF": _tiff,
    "BMP": _bmp,
    "PPM": _ppm,
    "PFM": _ppm,
    "PSD": _psd,
    "JPEG2000": _jpeg2000,
    "AVIF": _boxes,
    "HEIF": _boxes,
    "ICO": _ico,
    "TGA": _tga,
}
