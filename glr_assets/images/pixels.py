"""One image: decoded as a viewer shows it, downsized, encoded and hashed, or refused with a reason."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError

from glr_assets.recipes import Images

#: Raised when the same bytes would be stored as other pixels; part of every shard's version.
PIXEL_PATH = "pillow-lanczos-1"
#: Multi-picture JPEGs (MPO) come with JPEG: Pillow has no opener of that name.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
#: What Pillow's decoders raise on damaged files, beside OSError and its own error for bombs.
_DECODER_ERRORS = (
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
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: The longest side that libjpeg writes (JPEG_MAX_DIMENSION).
_LONGEST_JPEG_SIDE = 65_500
# Damaged files are told by their reasons. A filter for a while, as `catch_warnings` sets one, is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class StoredImage:
    """What is stored of an image: JPEG bytes, sizes in pixels (width, height) and its 64-bit dhash."""

    jpeg: bytes
    size: tuple[int, int]
    source_size: tuple[int, int]
    source_format: str
    dhash: int


@dataclass(frozen=True)
class Refused:
    """An image that cannot be stored, and why."""

    reason: str


def downsize(data: bytes, recipe: Images) -> StoredImage | Refused:
    """Decode `data`, turn it upright, shrink its smaller side to the recipe's and encode it as JPEG.

    The resampling filter is Lanczos over the full support, which anti-aliases when shrinking. A JPEG that
    is small enough, upright and in RGB or grey is kept byte for byte: encoding it again would only lose.
    """
    if not data:
        return Refused("empty: zero bytes")
    try:
        return _downsized(data, recipe)
    except UnidentifiedImageError:
        return Refused(f"no image that can be opened: starts with {data[:8].hex(' ')}")
    except Image.DecompressionBombError as error:
        return Refused(f"too large: {_in_a_line(error)}")
    except _DECODER_ERRORS as error:
        return Refused(f"undecodable: {_in_a_line(error)}")


def _downsized(data: bytes, recipe: Images) -> StoredImage | Refused:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        width, height = image.size
        if width * height > recipe.max_pixels:
            return Refused(f"too large: {width}x{height} pixels, at most {recipe.max_pixels} are decoded")
        image.load()
        image_format, turn = str(image.format), _TURNS.get(_orientation(image))
        untouched = image_format == "JPEG" and image.mode in {"RGB", "L"} and turn is None
        pixels = _as_rgb(image if turn is None else image.transpose(turn))
    source_size = pixels.size
    scale = recipe.min_side / min(source_size)
    if scale < 1:
        target = tuple(max(recipe.min_side, round(side * scale)) for side in source_size)
        pixels = pixels.resize((target[0], target[1]), Image.Resampling.LANCZOS)
        untouched = False
    if max(pixels.size) > _LONGEST_JPEG_SIDE:
        return Refused(f"too large: {width}x{height} pixels, a JPEG has at most {_LONGEST_JPEG_SIDE} a side")
    if untouched:
        jpeg = data
    else:
        file = io.BytesIO()
        pixels.save(file, "JPEG", quality=recipe.jpeg_quality, optimize=True)
        jpeg = file.getvalue()
    return StoredImage(jpeg, pixels.size, source_size, image_format, dhash(pixels))


def _orientation(image: Image.Image) -> int:
    """The orientation that EXIF or XMP tells; 1, upright, where that block is damaged: the pixels are not."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DECODER_ERRORS:
        return 1


def _as_rgb(image: Image.Image) -> Image.Image:
    """RGB, transparent parts over white, 16-bit greys scaled to 8 bits."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image.convert("RGB")


def dhash(image: Image.Image) -> int:
    """The 64-bit difference hash of `imagehash.dhash`, its bits row by row, the first the highest."""
    import imagehash

    return int(str(imagehash.dhash(image)), 16)


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
