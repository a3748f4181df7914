"""Boxes to crops: which pixels a box covers, exactly, and these pixels at the size of the dataset.

A box is published as shares of the width (X) and of the height (Y) of the pixels as they are stored: EXIF does not turn
them, and the published rotation turns image and boxes together
(https://storage.googleapis.com/openimages/web/2018-05-17-rotation-information.html). So a crop is cut out first and
turned afterwards. It holds every pixel that the box touches. The arithmetic is in whole billionths, finer than
published edges, so that no rounding of a product moves an edge by a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from glr_assets.codecs import color, jpeg_header
from glr_assets.codecs.decode import decode
from glr_assets.codecs.turbojpeg import NoPlanesError, decode_planes
from glr_assets.recipes import OpenImages

if TYPE_CHECKING:
    from glr_assets.images.resample import Axis

CROPS_VERSION: Final = "3"
"""Goes up when the same bytes and box give other pixels."""
_ANY_SIZE: Final = 2**31
#: In the place of a mode: colors are to be converted by a profile, which no other decoder here does.
_PROFILED: Final = "profiled"
_PARTS: Final = 10**9
#: What stands beside a crop that keeps its shape.
GREY: Final = 128
#: The inverse DCT halves an image where all crops of it stay this much longer than wanted, as when images are stored.
_SPARE: Final = 1.25

Ints = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]


def edges_in_pixels(low: npt.NDArray, high: npt.NDArray, side: Ints, margin: float) -> tuple[Ints, Ints]:
    """The first pixel [n] that a box touches along one side of its image, and the one after the last.

    Args:
        low: its lower edge [n], as a share of the side.
        high: its upper edge [n].
        side: pixels [n]: the width for X, the height for Y.
        margin: added at either end, as a share of the box's own extent, as far as the image goes.
    """
    first, last = (np.round(np.asarray(edge, np.float64) * _PARTS).astype(np.int64) for edge in (low, high))
    more = np.round((last - first) * margin).astype(np.int64)
    first, last = np.maximum(first - more, 0), np.minimum(last + more, _PARTS)
    return first * side // _PARTS, -(-last * side // _PARTS)


@dataclass(frozen=True)
class Rectangle:
    """The pixels `left <= x < right`, `top <= y < bottom` of an image as stored."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.right - self.left, self.bottom - self.top


def cropped(jpeg: bytes, mode: str, boxes: Sequence[Rectangle], turn: int, recipe: OpenImages) -> list[Pixels]:
    """The crops of an image, each RGB uint8 [size, size, 3]; the image is decoded once for all of them.

    A crop is shrunk, or enlarged, by Lanczos over the full support, of its own pixels alone, bit for bit as Pillow does
    it. Where every crop is to be much smaller than its box, the inverse DCT gives smaller planes to begin with, and
    crops are of these, as when images are stored.

    Args:
        jpeg: the whole file.
        mode: how its pixels are told, as `openimages_images` has found.
        boxes: in pixels of the image as stored.
        turn: degrees counterclockwise, a multiple of 90.
        recipe: size, aspect and whether crops are turned.
    """
    sizes = [_fitted(box.size, recipe) for box in boxes]
    reduction = min((_reduction(box.size, size) for box, size in zip(boxes, sizes, strict=True)), default=1)
    mode = _PROFILED if _is_profiled(jpeg) else mode
    resample = _of_planes(jpeg, reduction) if reduction > 1 and mode != _PROFILED else None
    resample = resample or _of_pixels(jpeg, mode)
    quarters = turn // 90 if recipe.upright else 0
    return [
        _padded(np.rot90(resample(box, size), quarters), recipe.size) for box, size in zip(boxes, sizes, strict=True)
    ]


def _is_profiled(jpeg: bytes) -> bool:
    """Whether the colors of an image are to be converted."""
    if not jpeg_header.read_header(jpeg).has_profile:
        return False
    profile = color.read_profile(jpeg_header.read_profile(jpeg))
    return profile is not None and not profile.is_srgb


def _fitted(size: tuple[int, int], recipe: OpenImages) -> tuple[int, int]:
    """Width and height of a crop before it is turned and padded."""
    if recipe.aspect == "squeeze":
        return recipe.size, recipe.size
    width, height = (max(1, round(side * recipe.size / max(size))) for side in size)
    return width, height


def _reduction(given: tuple[int, int], wanted: tuple[int, int]) -> int:
    """1, 2, 4 or 8: how far a crop may be reduced in decoding, so that what is left is still longer than wanted."""
    spare = min(have / want for have, want in zip(given, wanted, strict=True)) / _SPARE
    return 1 if spare < 2 else min(2 ** int(math.log2(spare)), 8)


def _of_planes(jpeg: bytes, reduction: int) -> Callable[[Rectangle, tuple[int, int]], Pixels] | None:
    """Gives boxes of a JPEG's planes, at 1 / reduction, in RGB of a width and height; None where it has none."""
    import cv2

    from glr_assets.images.resample import resampled

    try:
        planes = decode_planes(jpeg, reduction)
    except NoPlanesError:
        return None

    def of_plane(plane: Pixels, box: Rectangle, size: tuple[int, int], covers: tuple[int, int]) -> Pixels:
        columns, across = _axis(box.left, box.right, size[0], plane.shape[1], reduction * covers[0])
        rows, down = _axis(box.top, box.bottom, size[1], plane.shape[0], reduction * covers[1])
        return resampled(plane[rows, columns], across, down)

    def resample(box: Rectangle, size: tuple[int, int]) -> Pixels:
        luma = of_plane(planes.luma, box, size, (1, 1))
        if not planes.chroma:
            return np.asarray(cv2.cvtColor(luma, cv2.COLOR_GRAY2RGB), np.uint8)
        blue, red = (of_plane(plane, box, size, planes.covers) for plane in planes.chroma)
        return np.asarray(cv2.cvtColor(cv2.merge([luma, red, blue]), cv2.COLOR_YCrCb2RGB), np.uint8)

    return resample


def _of_pixels(jpeg: bytes, mode: str) -> Callable[[Rectangle, tuple[int, int]], Pixels]:
    """Gives boxes of a JPEG in RGB of a width and height."""
    import cv2

    from glr_assets.images.resample import resampled_strips

    pixels = _decoded(jpeg, mode)

    def resample(box: Rectangle, size: tuple[int, int]) -> Pixels:
        columns, across = _axis(box.left, box.right, size[0], pixels.shape[1])
        rows, down = _axis(box.top, box.bottom, size[1], pixels.shape[0])
        bands = cv2.split(np.ascontiguousarray(pixels[rows, columns]))
        # Of decoded pixels most are thrown away: only crops are put into the order of RGB.
        blue, green, red = resampled_strips([list(map(np.asarray, bands))], across, down)
        return np.asarray(cv2.merge([red, green, blue]), np.uint8)

    return resample


def _axis(low: int, high: int, wanted: int, there: int, covers: int = 1) -> tuple[slice, Axis]:
    """The samples of a plane that pixels from `low` to before `high` touch, and how `wanted` are made of them.

    Args:
        low: the first pixel.
        high: the one after the last.
        wanted: samples.
        there: samples of the plane.
        covers: pixels that a sample of it stands for.
    """
    from glr_assets.images.resample import Axis

    first, last = low // covers, min(-(-high // covers), there)
    return slice(first, last), Axis(last - first, wanted, (high - low) / covers / wanted, offset=low / covers - first)


def _decoded(jpeg: bytes, mode: str) -> Pixels:
    """BGR [H, W, 3] of the pixels as stored."""
    import cv2

    if mode == "RGB":
        pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is not None:
            return np.asarray(pixels, np.uint8)
    # What was obtained was within the recipe's limit.
    return np.asarray(decode(jpeg, _ANY_SIZE).rgb(), np.uint8)[..., ::-1]


def _padded(crop: Pixels, side: int) -> Pixels:
    """The crop in the middle of a square, grey beside it; as it is where it fills the square."""
    height, width = crop.shape[:2]
    if (height, width) == (side, side):
        return np.ascontiguousarray(crop)
    square = np.full((side, side, 3), GREY, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = crop
    return square
