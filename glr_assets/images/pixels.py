"""One image: decoded as a viewer shows it, downsized, encoded and hashed, or refused with a reason.

There are three ways, told in the index. A JPEG in YCbCr or grey is worked on in its own planes; any other image,
and any that this way stumbles over, through Pillow; a JPEG that is small and upright is kept byte for byte.
Both ways resample by the same Lanczos and read the hash from luma. Colour profiles are not applied: GLDv2's files
hold none, and converting takes longer than all the rest.
"""

from __future__ import annotations

import io
import math
import struct
import threading
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import ExifTags, Image, UnidentifiedImageError

from glr_assets.codecs.cost import jpeg_excess, measure
from glr_assets.codecs.exif import read_orientation
from glr_assets.codecs.jpeg_header import START as JPEG_START
from glr_assets.codecs.jpeg_header import JpegHeader, read_app1, read_header
from glr_assets.codecs.turbojpeg import JpegPlanes, NoPlanesError, Plane, decode_planes, encode_planes, read_size
from glr_assets.recipes import Images

if TYPE_CHECKING:
    from glr_assets.images.resample import Axis

# Each is raised when the same bytes would be stored as other pixels, or hashed otherwise, that way.
PLANES, PILLOW, KEPT, LUMA_HASH = "planes-1", "pillow-1", "kept-1", "luma-1"
#: Part of every shard's version.
PIXELS_VERSION = f"{PLANES},{PILLOW},{KEPT},{LUMA_HASH}"
#: The inverse DCT halves an image, or quarters it, where its smaller side stays this much longer than wanted. Luma of
#: large photographs is then 45 dB from Lanczos on the whole in the mean and 36 at worst, where encoding is at 30.
SPARE = 1.25
#: From so many pixels on, images are worked on one at a time: of a recipe's largest two would not fit in memory.
LARGE_PIXELS = 2**24
#: Rows that are turned into RGB at a time: the whole image in RGB beside itself would be half a gigabyte.
_STRIP = 256
#: Multi-picture JPEGs (MPO) come with JPEG: Pillow has no opener of that name.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
#: What Pillow's decoders raise on damaged files, beside OSError and its own error for bombs.
DECODER_ERRORS = (
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
#: Orientations, 1 to 8, that mirror columns and rows, and that then swap them (EXIF 2.3, 4.6.4.A).
_MIRRORED = ({2, 3, 7, 8}, {3, 4, 6, 7})
_TRANSPOSED = {5, 6, 7, 8}
#: The longest side that libjpeg writes (JPEG_MAX_DIMENSION).
_LONGEST_JPEG_SIDE = 65_500
_large = threading.Lock()
# Damaged files are told by their reasons. A filter for a while, as `catch_warnings` sets one, is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class StoredImage:
    """What is stored of an image, and what was measured of it.

    Attributes:
        jpeg: the bytes to store.
        size: width and height in pixels of what is stored.
        source_size: the same of the upright source image.
        source_format: as Pillow names it.
        dhash: 64-bit difference hash of its luma before encoding.
        sharpness: variance of the Laplacian of that luma, of images of one size and scene the higher the sharper.
        pixel_path: the way it was made, with its version.
        dhash_path: the way the hash was computed, with its version.
    """

    jpeg: bytes
    size: tuple[int, int]
    source_size: tuple[int, int]
    source_format: str
    dhash: int
    sharpness: float
    pixel_path: str
    dhash_path: str = LUMA_HASH


@dataclass(frozen=True)
class Refused:
    """An image that cannot be stored, and why."""

    reason: str


def downsize(data: bytes | memoryview, recipe: Images) -> StoredImage | Refused:
    """Decode `data`, turn it upright, shrink its smaller side to the recipe's and encode it as JPEG.

    The resampling filter is Lanczos over the full support, which anti-aliases when shrinking. A JPEG that
    is small enough, upright and in colour or grey is kept byte for byte: encoding it again would only lose.
    """
    if not data:
        return Refused("empty: zero bytes")
    if data[:2] != JPEG_START:
        refusal = measure(data).refusal(recipe.max_pixels)
        return Refused(refusal) if refusal else _by_pillow_or_why_not(data, recipe, "")
    header = read_header(data)
    refused = _too_large(*header.size, recipe)
    if refused is not None:
        return refused
    excess = jpeg_excess(data, header)
    if excess:
        return Refused(f"undecodable: {excess}")
    try:
        return _by_planes(data, header, recipe)
    except NoPlanesError as error:  # Pillow takes other color spaces and slight damage
        return _by_pillow_or_why_not(data, recipe, f"; as a JPEG: {in_a_line(error)}")


def _by_pillow_or_why_not(data: bytes | memoryview, recipe: Images, told: str) -> StoredImage | Refused:
    try:
        return _by_pillow(data, recipe)
    except UnidentifiedImageError:
        return Refused(f"no image that can be opened: starts with {bytes(data[:8]).hex(' ')}{told}")
    except Image.DecompressionBombError as error:
        return Refused(f"too large: {in_a_line(error)}")
    except DECODER_ERRORS as error:
        return Refused(f"undecodable: {in_a_line(error)}{told}")


def _too_large(width: int, height: int, recipe: Images) -> Refused | None:
    if width * height > recipe.max_pixels:
        return Refused(f"too large: {width}x{height} pixels, at most {recipe.max_pixels} are decoded")
    return None


def alone_if_large(pixels: int) -> AbstractContextManager[object]:
    """Held while an image of so many pixels is decoded: of large ones one at a time."""
    return _large if pixels > LARGE_PIXELS else nullcontext()


def _target(size: tuple[int, int], min_side: int) -> tuple[int, int]:
    """The size to store: the smaller side is `min_side`, or what it is where that is less."""
    scale = min_side / min(size)
    if scale >= 1:
        return size
    width, height = (max(min_side, round(side * scale)) for side in size)
    return width, height


def _too_long(size: tuple[int, int], target: tuple[int, int]) -> Refused | None:
    if max(target) > _LONGEST_JPEG_SIDE:
        return Refused(f"too large: {size[0]}x{size[1]} pixels, a JPEG has at most {_LONGEST_JPEG_SIDE} a side")
    return None


def _by_planes(data: bytes | memoryview, header: JpegHeader, recipe: Images) -> StoredImage | Refused:
    """A JPEG in the planes that it holds: half the samples of RGB, no conversion of colours.

    Raises:
        NoPlanesError: it is damaged, or of another colour space.
    """
    size = read_size(data)
    refused = _too_large(*size, recipe)
    if refused is not None:
        return refused
    turn = read_orientation(*read_app1(data)) if header.has_app1 else 1
    upright = (size[1], size[0]) if turn in _TRANSPOSED else size
    target = _target(upright, recipe.min_side)
    refused = _too_long(size, target)
    if refused is not None:
        return refused
    reduction = 1
    while reduction < 8 and min(size) >= 2 * reduction * SPARE * recipe.min_side:
        reduction *= 2
    kept = target == size and turn == 1 and not header.has_more
    image_format = "MPO" if header.has_more else "JPEG"
    # Of several scans the decoder holds all coefficients, whatever it is to make of them.
    with alone_if_large(size[0] * size[1] // (1 if header.has_scans else reduction**2)):
        if kept:
            luma = decode_planes(data).luma
        else:
            luma, chroma = _shrunk(decode_planes(data, reduction), target, turn)
    if kept:
        return StoredImage(bytes(data), size, size, image_format, *_measured(luma), KEPT)
    jpeg = encode_planes(luma, chroma, recipe.jpeg_quality)
    return StoredImage(jpeg, target, upright, image_format, *_measured(luma), PLANES)


def _measured(luma: Plane) -> tuple[int, float]:
    """The hash and the sharpness of an image."""
    import cv2
    import numpy as np

    from glr_assets.images.resample import dhash

    _, deviation = cv2.meanStdDev(cv2.Laplacian(np.ascontiguousarray(luma), cv2.CV_16S))
    return dhash(luma), float(deviation[0, 0]) ** 2


def _shrunk(planes: JpegPlanes, target: tuple[int, int], turn: int) -> tuple[Plane, tuple[Plane, Plane]]:
    """The planes of the upright image of size `target`: luma, and chroma of half its sides."""
    import numpy as np

    from glr_assets.images.resample import resampled

    width, height = (side / planes.reduction for side in planes.size)
    across, down = planes.covers
    of_chroma, halved = (width / across, height / down), (target[0] / 2, target[1] / 2)
    luma = resampled(planes.luma, *_axes(planes.luma.shape, (width, height), target, turn))
    chroma = [resampled(plane, *_axes(plane.shape, of_chroma, halved, turn)) for plane in planes.chroma]
    if turn in _TRANSPOSED:
        luma, *chroma = (np.ascontiguousarray(plane.T) for plane in (luma, *chroma))
    if not chroma:
        grey = np.full((math.ceil(halved[1]), math.ceil(halved[0])), 128, np.uint8)
        return luma, (grey, grey)
    blue, red = chroma
    return luma, (blue, red)


def _axes(
    shape: tuple[int, ...], extent: tuple[float, float], target: tuple[float, float], turn: int
) -> tuple[Axis, Axis]:
    """How a plane of this shape is resampled, across and down, before it is transposed if it is.

    Args:
        shape: rows and columns of the plane as it is decoded.
        extent: how much of its columns and rows the image covers: the last may lie partly beyond it.
        target: columns and rows that the upright image shall cover.
        turn: EXIF's orientation.
    """
    from glr_assets.images.resample import Axis

    if turn in _TRANSPOSED:
        target = (target[1], target[0])
    across, down = (
        Axis(given, math.ceil(wanted), covered / wanted, turn in mirrored, covered)
        for given, covered, wanted, mirrored in zip(shape[::-1], extent, target, _MIRRORED, strict=True)
    )
    return across, down


def _by_pillow(data: bytes | memoryview, recipe: Images) -> StoredImage | Refused:
    import numpy as np

    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        size = image.size
        refused = _too_large(*size, recipe)
        if refused is not None:
            return refused
        with alone_if_large(size[0] * size[1]):
            image.load()
            size = image.size
            image_format, turn = str(image.format), orientation(image)
            upright = (size[1], size[0]) if turn in _TRANSPOSED else size
            target = _target(upright, recipe.min_side)
            refused = _too_long(size, target)
            if refused is not None:
                return refused
            kept = image_format == "JPEG" and image.mode in {"RGB", "L"} and turn == 1 and target == size
            pixels = _shrunk_rgb(image, target, turn)
    measured = _measured(np.asarray(pixels.convert("L")))
    if kept:
        return StoredImage(bytes(data), target, upright, image_format, *measured, KEPT)
    return StoredImage(_encoded(pixels, recipe), target, upright, image_format, *measured, PILLOW)


def _shrunk_rgb(image: Image.Image, target: tuple[int, int], turn: int) -> Image.Image:
    """The upright image of size `target` in RGB."""
    import numpy as np

    from glr_assets.images.resample import resampled_strips

    width, height = image.size
    strips = (
        [np.asarray(band) for band in as_rgb(image.crop((0, top, width, min(top + _STRIP, height)))).split()]
        for top in range(0, height, _STRIP)
    )
    bands = resampled_strips(strips, *_axes((height, width), (width, height), target, turn))
    if turn in _TRANSPOSED:
        bands = [band.T for band in bands]
    return Image.merge("RGB", [Image.fromarray(np.ascontiguousarray(band)) for band in bands])


def _encoded(pixels: Image.Image, recipe: Images) -> bytes:
    file = io.BytesIO()
    pixels.save(file, "JPEG", quality=recipe.jpeg_quality)
    return file.getvalue()


def orientation(image: Image.Image) -> int:
    """The orientation that EXIF or XMP tells, 1 to 8; 1, upright, where that block is damaged: the pixels are not."""
    try:
        turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODER_ERRORS:
        return 1
    return int(turn) if turn in range(1, 9) else 1


def as_rgb(image: Image.Image) -> Image.Image:
    """RGB, transparent parts over white, 16-bit greys scaled to 8 bits."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def in_a_line(error: BaseException) -> str:
    """What an error says, in one line of at most 120 characters."""
    return " ".join(str(error).split())[:120] or type(error).__name__
