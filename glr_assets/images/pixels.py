"""One image: decoded as a viewer shows it, downsized, encoded and hashed, or refused with a reason."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from glr_assets.recipes import Images

#: Raised when the same bytes would be stored as other pixels; part of every shard's version.
PIXEL_PATH = "pillow-lanczos-1"
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
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
    Image.DecompressionBombError,
)


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _downsized(data, recipe)
    except UnidentifiedImageError:
        return Refused(f"not an image: starts with {data[:8].hex(' ')}")
    except _DECODER_ERRORS as error:
        return Refused(f"undecodable: {_in_a_line(error)}")


def _downsized(data: bytes, recipe: Images) -> StoredImage | Refused:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        width, height = image.size
        if width * height > recipe.max_pixels:
            return Refused(f"too large: {width}x{height} pixels, at most {recipe.max_pixels} are decoded")
        image_format = str(image.format)
        untouched = image_format == "JPEG" and image.mode in {"RGB", "L"} and _upright(image)
        image.load()
        upright = ImageOps.exif_transpose(image)
        source_size = upright.size
        pixels = _as_rgb(upright)
    scale = recipe.min_side / min(source_size)
    if scale < 1:
        target = tuple(max(recipe.min_side, round(side * scale)) for side in source_size)
        pixels = pixels.resize((target[0], target[1]), Image.Resampling.LANCZOS)
        untouched = False
    if untouched:
        jpeg = data
    else:
        file = io.BytesIO()
        pixels.save(file, "JPEG", quality=recipe.jpeg_quality, optimize=True)
        jpeg = file.getvalue()
    return StoredImage(jpeg, pixels.size, source_size, image_format, dhash(pixels))


def _upright(image: Image.Image) -> bool:
    return image.getexif().get(0x0112, 1) == 1


def _as_rgb(image: Image.Image) -> Image.Image:
    """RGB, transparent parts over white, 16-bit and float greys scaled to 8 bits."""
    if image.mode in {"I;16", "I;16B", "I;16L", "I"}:
        return image.point(lambda value: value / 256).convert("L").convert("RGB")
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image.convert("RGB")


def dhash(image: Image.Image) -> int:
    """The 64-bit difference hash of `imagehash.dhash`, its bits row by row, the first the highest."""
    import imagehash

    return int(str(imagehash.dhash(image)), 16)


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
