"""Any image file as a viewer shows it: the first picture, its orientation, its colors as sRGB over white.

JPEGs in YCbCr or grey are faster in their own planes (`turbojpeg.py`); all others, and those that the planes' decoder
finds fault with, come here. What is refused is refused by what it is, with the way out.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from glr_assets.codecs import color, deep, jpeg_header, mending
from glr_assets.codecs.cost import Cost, measure
from glr_assets.codecs.exif import read_orientation

#: From so many pixels on, images are worked on one at a time: of a recipe's largest two would not fit in memory.
LARGE_PIXELS: Final = 2**24
#: Pixels of the others that are worked on at a time, however many threads there are.
PIXELS_AT_ONCE: Final = 2**26
#: Multi-picture JPEGs (MPO) come with JPEG: Pillow has no opener of that name.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "ICO", "TGA", "PSD", "HEIF")
#: What Pillow's decoders raise on damaged files, beside OSError and its own error for bombs.
DECODER_ERRORS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    EOFError,
    struct.error,
    ZeroDivisionError,
    MemoryError,
    RuntimeError,
)
#: Rows that are turned into RGB at a time: the whole image in RGB beside itself would be half a gigabyte.
_STRIP = 256
#: Formats of plain samples, in which bytes may be missing at the end.
_PLAIN = {"BMP", "PPM", "TGA"}
#: Tags of TIFF: bits of a sample.
_BITS_PER_SAMPLE, _ICC_IN_TIFF = 258, 34675
# Damaged files are told by their reasons. A filter for a while, as `catch_warnings` sets one, is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class _Large:
    """What is held while a large image is decoded, and which images are."""

    lock: AbstractContextManager[object] = threading.Lock()
    pixels = LARGE_PIXELS


class RefusedError(Exception):
    """A file that is not shown; the message says why, in one line that begins with the kind of reason."""


@dataclass(frozen=True)
class Picture:
    """A decoded file.

    Attributes:
        image: its first picture as it lies in the file, loaded, of any of Pillow's modes.
        format: as Pillow names it; MPO for a JPEG of several pictures.
        orientation: how it is to be turned (EXIF 2.3, 4.6.4.A), 1 to 8; 1 is upright.
        profile: its color profile; None where there is none or it cannot be applied.
        note: what was not heeded, as `profile-ignored`; empty where all was.
        mended: that its last rows were missing and are the decoder's.
    """

    image: Image.Image
    format: str
    orientation: int
    profile: color.Profile | None
    note: str = ""
    mended: bool = False

    @property
    def converts(self) -> bool:
        """Whether its colors are other than its samples, read as sRGB, say."""
        return self.profile is not None and not self.profile.is_srgb

    def rgb_strips(self) -> Iterator[Image.Image]:
        """The picture as RGB, strips from the top; its profile is applied only where that is not of RGB or grey."""
        width, height = self.image.size
        scale = _grey_scale(self)
        for top in range(0, height, _STRIP):
            strip = self.image.crop((0, top, width, min(top + _STRIP, height)))
            if self.profile is not None and self.profile.mode == "CMYK" and strip.mode == "CMYK":
                yield self.profile.to_srgb(strip)
            else:
                yield _as_rgb(strip, scale)

    def to_srgb(self, rgb: Image.Image) -> Image.Image:
        """What `rgb_strips` gave, or any picture resampled from it, with the profile applied."""
        if self.profile is None or self.profile.mode == "CMYK":
            return rgb
        return self.profile.to_srgb(rgb.getchannel(0) if self.profile.mode == "L" else rgb)

    def rgb(self) -> Image.Image:
        """The whole picture in sRGB, not turned."""
        whole = Image.new("RGB", self.image.size)
        for number, strip in enumerate(self.rgb_strips()):
            whole.paste(strip, (0, number * _STRIP))
        return self.to_srgb(whole)


class _Room:
    """Room for images that are decoded at a time, of `PIXELS_AT_ONCE` together; first come, first in."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._pixels = 0

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Wait for room, and hold it."""
        with self._turn, self._changed:
            self._changed.wait_for(lambda: not self._pixels or self._pixels + pixels <= PIXELS_AT_ONCE)
            self._pixels += pixels
        try:
            yield
        finally:
            with self._changed:
                self._pixels -= pixels
                self._changed.notify_all()


_ordinary = _Room()


def share_large(lock: AbstractContextManager[object], pixels: int) -> None:
    """Let `alone_if_large` hold this lock, as processes want that share one, for images of more than so many pixels."""
    _Large.lock, _Large.pixels = lock, pixels


def alone_if_large(pixels: int) -> AbstractContextManager[object]:
    """Held while an image of so many pixels is decoded: of large ones one at a time, of others what fits together."""
    return _Large.lock if pixels > _Large.pixels else _ordinary.taken(pixels)


def decode(data: bytes | memoryview, max_pixels: int, cost: Cost | None = None) -> Picture:
    """Decode the first picture of a file.

    Args:
        data: the whole file.
        max_pixels: larger pictures are refused before they are decoded.
        cost: what `measure` says of it, where that is known.

    Raises:
        RefusedError: it is too large, of a format that is not taken, damaged, or no image.
    """
    if not data:
        raise RefusedError("empty: zero bytes")
    cost = cost or measure(data)
    refusal = cost.refusal(max_pixels)
    if refusal:
        raise RefusedError(refusal)
    if cost.format is None:
        raise RefusedError(f"no image that can be opened: starts with {bytes(data[:8]).hex(' ')}")
    try:
        return _decoded(bytes(data), cost.format.name, max_pixels)
    except UnidentifiedImageError as error:
        told = f"undecodable: {cost.format.name} with a damaged header, or of a kind that no decoder here takes"
        raise RefusedError(told) from error
    except Image.DecompressionBombError as error:
        raise RefusedError(f"too large: {in_a_line(error)}") from error
    except (*DECODER_ERRORS, mending.CutError) as error:
        raise RefusedError(f"undecodable: {in_a_line(error)}") from error


def _decoded(data: bytes, name: str, max_pixels: int) -> Picture:
    if name == "JPEG":
        return _jpeg(data)
    if name == "ICO":
        inner = _largest_png(data)
        if inner is not None:
            return replace(decode(inner, max_pixels), format=name)
    try:
        return _opened(data, name, max_pixels)
    except DECODER_ERRORS as error:
        # Traces, its own and its cause's, would keep what was decoded so far while the picture is decoded again.
        error.__cause__ = error.__context__ = None
        failed = error.with_traceback(None)
    try:
        found = _otherwise(data, name, max_pixels)
        if found is None:
            raise failed
        return found
    finally:
        del failed


def _otherwise(data: bytes, name: str, max_pixels: int) -> Picture | None:
    """What Pillow finds fault with, by another way; None where there is none for the format.

    Raises:
        CutError: too much of the picture is missing.
        OSError and others of `DECODER_ERRORS`: it cannot be decoded.
    """
    if name == "PNG":
        # A chunk that is not needed may be damaged, or the end of the file be missing.
        with suppress(*DECODER_ERRORS):
            return _opened(mending.bare_png(data), name, max_pixels)
        with suppress(*DECODER_ERRORS):
            unprofiled = _opened(mending.bare_png(data, profile=False), name, max_pixels)
            return replace(unprofiled, note=color.IGNORED)
        return _opened(mending.mended_png(data), name, max_pixels, mended=True)
    deeper = {"TIFF": deep.tiff, "BMP": deep.bitfields}.get(name, lambda _: None)(data)
    if deeper is not None:
        return Picture(deeper.image, name, deeper.orientation, None, color.IGNORED if deeper.has_profile else "")
    if name in _PLAIN:
        return _opened(mending.padded(data), name, max_pixels, mended=True)
    return None


def _opened(data: bytes, name: str, max_pixels: int, mended: bool = False) -> Picture:
    if name == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    formats = {"BMP": ("BMP", "DIB"), "PFM": ("PPM",)}.get(name, (name,))
    with Image.open(io.BytesIO(data), formats=formats) as image:
        if image.width * image.height > max_pixels:
            raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels, at most {max_pixels} are decoded")
        image.load()
        turn = _orientation(image)
        profile, note = _profile(image, image.info.get("icc_profile") or b"")
        if name == "PNG":
            _scale_key(image, data[24])
        # Its 16th bit is said to mean nothing, or is never set.
        unused = name == "TGA" and data[16] == 16 and image.mode == "RGBA"
        if unused and (not data[17] & 0x0F or image.getchannel("A").getextrema() == (0, 0)):
            return Picture(image.convert("RGB"), name, turn, profile, note, mended)
        return Picture(image, name, turn, profile, note, mended)


def _scale_key(image: Image.Image, bits: int) -> None:
    """Give the transparent grey of a PNG in the scale of its pixels: Pillow spreads 2 and 4 bits over 8, but not it."""
    key = image.info.get("transparency")
    if image.mode == "L" and bits in {2, 4} and isinstance(key, int):
        image.info["transparency"] = key * 255 // (2**bits - 1)


def _jpeg(data: bytes) -> Picture:
    """A JPEG, spared what its metadata may hold but orientation and profile."""
    header = jpeg_header.read_header(data)
    if header.precision not in {0, 8}:
        raise OSError(f"a JPEG of {header.precision} bits a sample, of which no decoder is here; convert it to 8 bits")
    if not jpeg_header.starts_well(data):
        raise OSError("a JPEG whose first segment is damaged")
    try:
        image, mended = _loaded_jpeg(jpeg_header.without_metadata(data)), False
    except OSError as error:
        mended = "truncated" in str(error) and not isinstance(error, UnidentifiedImageError)
        if not mended:
            raise
    if mended:  # not while the error is handled, whose trace keeps what was decoded so far
        image = _loaded_jpeg(mending.mended_jpeg(data))
    turn = read_orientation(*jpeg_header.read_app1(data)) if header.has_app1 else 1
    profile, note = _profile(image, jpeg_header.read_profile(data) if header.has_profile else b"")
    if header.has_profile and profile is None:
        note = color.IGNORED
    return Picture(image, "MPO" if header.has_more else "JPEG", turn, profile, note, mended)


def _loaded_jpeg(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.load()
        return image


def _profile(image: Image.Image, data: bytes) -> tuple[color.Profile | None, str]:
    """The profile of an image, and a note where there is one that cannot be applied to it."""
    if not data:
        return None, ""
    found = color.read_profile(data)
    fits = {"RGB": {"RGB", "RGBA", "RGBX", "P", "PA", "RGBa"}, "L": {"L", "LA", "I", "1"}, "CMYK": {"CMYK"}}
    mode = "I" if image.mode.startswith("I;16") else image.mode
    if found is None or mode not in fits[found.mode]:
        return None, color.IGNORED
    return found, ""


def _orientation(image: Image.Image) -> int:
    """The orientation of an image that is loaded, by its TIFF tags, EXIF or XMP."""
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        # libtiff turned it already where Pillow has removed the tag.
        told = tags.get(274)
        return told if isinstance(told, int) and 1 <= told <= 8 else 1
    info = image.info
    exif, xmp = info.get("exif") or b"", info.get("xmp") or b""
    if not exif and isinstance(info.get("Raw profile type exif"), str):
        exif = _unhexed(info["Raw profile type exif"])
    if not xmp and isinstance(info.get("XML:com.adobe.xmp"), str):
        xmp = info["XML:com.adobe.xmp"].encode("utf-8", "replace")
    return read_orientation(bytes(exif), bytes(xmp))


def _unhexed(text: str) -> bytes:
    """The EXIF block that ImageMagick writes into a PNG as text: three lines, then hexadecimal digits."""
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return b""


def _largest_png(data: bytes) -> bytes | None:
    """The largest picture of an icon, where that is a PNG."""
    (count,) = struct.unpack_from("<H", data, 4)
    entries = [struct.unpack_from("<BBxxHHII", data, 6 + 16 * n) for n in range(min(count, (len(data) - 6) // 16))]
    if not entries:
        return None
    *_, size, at = max(entries, key=lambda e: ((e[0] or 256) * (e[1] or 256), e[3]))
    found = data[at : at + size]
    return found if found.startswith(b"\x89PNG\r\n\x1a\n") else None


@dataclass(frozen=True)
class _Scale:
    """How deeper greys become 8 bits: `(value - low) * factor`."""

    low: float
    factor: float
    wraps: bool = False


def _grey_scale(picture: Picture) -> _Scale | None:
    """The scale of integers by their bits, of floats 0 to 1, or, beyond that, from their least to their largest."""
    image = picture.image
    if image.mode == "F":
        width, height = image.size
        tops = range(0, height, _STRIP)
        strips = (image.crop((0, top, width, min(top + _STRIP, height))) for top in tops)
        return _Scale(*deep.float_scale(np.asarray(strip, np.float32) for strip in strips))
    if image.mode.startswith("I;16"):
        return _Scale(0, 255 / 65535)
    if image.mode == "I":
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
        wide = bits[0] > 16 if isinstance(bits, tuple) else bits > 16
        return _Scale(0, 255 / (2**32 - 1), wraps=True) if wide else _Scale(0, 255 / 65535)
    return None


def _as_rgb(image: Image.Image, scale: _Scale | None) -> Image.Image:
    """RGB, transparent parts over white, deeper greys by their scale."""
    if scale is not None:
        values = np.asarray(image)
        key = image.info.get("transparency")
        shown = deep.to_bytes(values.view(np.uint32) if scale.wraps else values, scale.low, scale.factor)
        if isinstance(key, int):
            shown = np.where(values == key, np.uint8(255), shown)
        return Image.fromarray(shown).convert("RGB")
    if image.mode in {"La", "RGBa"}:  # with alpha multiplied in
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def in_a_line(error: BaseException) -> str:
    """What an error says, in one line of at most 120 characters."""
    return " ".join(str(error).split())[:120] or type(error).__name__
