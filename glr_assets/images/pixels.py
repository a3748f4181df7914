"""One image: decoded as a viewer shows it, downsized, encoded and hashed, or refused with a reason.

There are three ways, told in the index. A JPEG in YCbCr or grey is worked on in its own planes; any other image,
and any that this way stumbles over, is decoded by `codecs.decode`; a JPEG that is small and upright is kept byte for
byte. All ways resample by the same Lanczos and read the hash from luma. A color profile other than sRGB's is applied to
the downsized image, where it costs little; one that cannot be applied is ignored, and the way says so.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from glr_assets.codecs import color
from glr_assets.codecs.cost import jpeg_excess, measure
from glr_assets.codecs.decode import Picture, RefusedError, alone_if_large, decode, in_a_line
from glr_assets.codecs.exif import read_orientation
from glr_assets.codecs.jpeg_header import START as JPEG_START
from glr_assets.codecs.jpeg_header import JpegHeader, read_app1, read_header, read_profile
from glr_assets.codecs.turbojpeg import JpegPlanes, NoPlanesError, Plane, decode_planes, encode_planes, read_size
from glr_assets.recipes import Images

if TYPE_CHECKING:
    from glr_assets.images.resample import Axis

# Each is raised when the same bytes would be stored as other pixels, or hashed otherwise, that way.
PLANES, PILLOW, KEPT, LUMA_HASH = "planes-2", "pillow-2", "kept-2", "luma-1"
#: Parts that a way is followed by, each after a `+`: a profile that was applied, or not; rows that were missing.
CONVERTED, PROFILE_IGNORED, MENDED = color.SRGB, color.IGNORED, "mended-1"
#: Part of every shard's version.
PIXELS_VERSION = f"{PLANES},{PILLOW},{KEPT},{LUMA_HASH},{CONVERTED},{PROFILE_IGNORED},{MENDED}"
#: The inverse DCT halves an image, or quarters it, where its smaller side stays this much longer than wanted. Luma of
#: large photographs is then 45 dB from Lanczos on the whole in the mean and 36 at worst, where encoding is at 30.
SPARE = 1.25
#: Orientations, 1 to 8, that mirror columns and rows, and that then swap them (EXIF 2.3, 4.6.4.A).
_MIRRORED = ({2, 3, 7, 8}, {3, 4, 6, 7})
_TRANSPOSED = {5, 6, 7, 8}


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
    A long or large picture is shrunk further, to the recipe's `max_side` and `max_stored_pixels`.
    """
    told = ""
    if data[:2] == JPEG_START:
        header = read_header(data)
        if header.size[0] * header.size[1] > recipe.max_pixels:
            return _too_large(header.size, recipe)
        excess = jpeg_excess(data, header)
        if excess:
            return Refused(f"undecodable: {excess}")
        try:
            return _by_planes(data, header, recipe)
        except NoPlanesError as error:  # Pillow takes other color spaces and slight damage
            told = f"; as a JPEG: {in_a_line(error)}"
    try:
        return _by_pillow(data, recipe)
    except RefusedError as error:
        return Refused(f"{error}{told}")


def _too_large(size: tuple[int, int], recipe: Images) -> Refused:
    return Refused(f"too large: {size[0]}x{size[1]} pixels, at most {recipe.max_pixels} are decoded")


def stored_size(size: tuple[int, int], recipe: Images) -> tuple[int, int]:
    """The size at which an upright image of `size` is stored.

    The smaller side is `min_side`, or what it is where that is less; neither side is longer than `max_side`, and the
    pixels are no more than `max_stored_pixels`.
    """
    scale = recipe.min_side / min(size)
    most = min(recipe.max_side / max(size), math.sqrt(recipe.max_stored_pixels / (size[0] * size[1])))
    if scale >= 1 <= most:
        return size
    if scale > most:
        width, height = (max(1, math.floor(side * most)) for side in size)
        return width, height
    width, height = (max(recipe.min_side, round(side * scale)) for side in size)
    # Rounding may lead over a limit that the scale itself keeps.
    return min(width, recipe.max_side), min(height, recipe.max_side)


def _by_planes(data: bytes | memoryview, header: JpegHeader, recipe: Images) -> StoredImage | Refused:
    """A JPEG in the planes that it holds: half the samples of RGB, no conversion of colours.

    Raises:
        NoPlanesError: it is damaged, or of another colour space.
    """
    size = read_size(data)
    if size[0] * size[1] > recipe.max_pixels:
        return _too_large(size, recipe)
    turn = read_orientation(*read_app1(data)) if header.has_app1 else 1
    upright = (size[1], size[0]) if turn in _TRANSPOSED else size
    target = stored_size(upright, recipe)
    profile, note = _profile(data, header) if header.has_profile else (None, "")
    reduction = 1
    while reduction < 8 and min(size) >= 2 * reduction * SPARE * min(target):
        reduction *= 2
    kept = target == size and turn == 1 and not header.has_more and profile is None
    image_format = "MPO" if header.has_more else "JPEG"
    # Of several scans the decoder holds all coefficients, whatever it is to make of them.
    with alone_if_large(size[0] * size[1] // (1 if header.has_scans else reduction**2)):
        if kept:
            luma = decode_planes(data).luma
        else:
            luma, chroma = _shrunk(decode_planes(data, reduction), target, turn)
    if kept:
        return StoredImage(bytes(data), size, size, image_format, *_measured(luma), _way(KEPT, note))
    if profile is not None:
        pixels = profile.to_srgb(Image.fromarray(luma) if profile.mode == "L" else _rgb(luma, chroma))
        return _of_rgb(pixels, recipe, upright, image_format, _way(PLANES, CONVERTED))
    jpeg = encode_planes(luma, chroma, recipe.jpeg_quality)
    return StoredImage(jpeg, target, upright, image_format, *_measured(luma), _way(PLANES, note))


def _profile(data: bytes | memoryview, header: JpegHeader) -> tuple[color.Profile | None, str]:
    """The profile of a JPEG where it is to be applied, and a note where it cannot be."""
    found = color.read_profile(read_profile(data))
    if found is None or found.mode != {1: "L", 3: "RGB"}.get(header.components):
        return None, PROFILE_IGNORED
    return (None, "") if found.is_srgb else (found, "")


def _way(*parts: str) -> str:
    return "+".join(part for part in parts if part)


def _rgb(luma: Plane, chroma: tuple[Plane, Plane]) -> Image.Image:
    """Planes as RGB, chroma interpolated between its samples as JPEG decoders do."""
    import cv2
    import numpy as np

    height, width = luma.shape
    wide = [
        cv2.resize(plane, (2 * plane.shape[1], 2 * plane.shape[0]), interpolation=cv2.INTER_LINEAR) for plane in chroma
    ]
    blue, red = (plane[:height, :width] for plane in wide)
    return Image.fromarray(np.asarray(cv2.cvtColor(cv2.merge([luma, red, blue]), cv2.COLOR_YCrCb2RGB), np.uint8))


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


def _by_pillow(data: bytes | memoryview, recipe: Images) -> StoredImage:
    """Any image, decoded to its pixels.

    Raises:
        RefusedError: it is not decoded; the message says why.
    """
    cost = measure(data)
    with alone_if_large(min(cost.pixels, recipe.max_pixels)):
        picture = decode(data, recipe.max_pixels, cost)
        size, turn = picture.image.size, picture.orientation
        upright = (size[1], size[0]) if turn in _TRANSPOSED else size
        target = stored_size(upright, recipe)
        mode = picture.image.mode
        kept = picture.format == "JPEG" and mode in {"RGB", "L"} and turn == 1 and target == size
        kept = kept and not picture.converts and not picture.mended
        pixels = picture.to_srgb(_shrunk_rgb(picture, target, turn))
    notes = (CONVERTED if picture.converts else picture.note, MENDED if picture.mended else "")
    if kept:
        measured = _measured_rgb(pixels)
        return StoredImage(bytes(data), target, upright, picture.format, *measured, _way(KEPT, *notes))
    return _of_rgb(pixels, recipe, upright, picture.format, _way(PILLOW, *notes))


def _of_rgb(pixels: Image.Image, recipe: Images, source: tuple[int, int], image_format: str, way: str) -> StoredImage:
    measured = _measured_rgb(pixels)
    return StoredImage(_encoded(pixels, recipe), pixels.size, source, image_format, *measured, way)


def _measured_rgb(pixels: Image.Image) -> tuple[int, float]:
    import numpy as np

    return _measured(np.asarray(pixels.convert("L")))


def _shrunk_rgb(picture: Picture, target: tuple[int, int], turn: int) -> Image.Image:
    """The upright image of size `target` in RGB, before its profile is applied."""
    import numpy as np

    from glr_assets.images.resample import resampled_strips

    width, height = picture.image.size
    strips = ([np.asarray(band) for band in strip.split()] for strip in picture.rgb_strips())
    bands = resampled_strips(strips, *_axes((height, width), (width, height), target, turn))
    if turn in _TRANSPOSED:
        bands = [band.T for band in bands]
    return Image.merge("RGB", [Image.fromarray(np.ascontiguousarray(band)) for band in bands])


def _encoded(pixels: Image.Image, recipe: Images) -> bytes:
    file = io.BytesIO()
    pixels.save(file, "JPEG", quality=recipe.jpeg_quality)
    return file.getvalue()
