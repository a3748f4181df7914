"""Boxes to crops: which pixels a box covers, exactly, and these pixels at the size of the dataset.

A box is published as shares of the width (X) and of the height (Y) of the pixels as they are stored: EXIF does not turn
them, and the published rotation turns image and boxes together
(https://storage.googleapis.com/openimages/web/2018-05-17-rotation-information.html). So a crop is cut out first and
turned afterwards. It holds every pixel that the box touches. The arithmetic is in whole billionths, finer than
published edges, so that no rounding of a product moves an edge by a pixel.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from glr_assets.images.pixels import FORMATS, as_rgb
from glr_assets.recipes import OpenImages

CROPS_VERSION: Final = "1"
"""Goes up when the same bytes and box give other pixels."""
_PARTS: Final = 10**9
#: What stands beside a crop that keeps its shape.
GREY: Final = 128
#: The inverse DCT halves an image where all crops of it stay this much longer than wanted: what comes out is then
#: within 45 dB of what a whole decoding gives.
_SPARE: Final = 2.0

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

    A crop is shrunk, or enlarged, by Lanczos over the full support, of its own pixels alone. Where every crop is to be
    much smaller than its box, the inverse DCT gives a smaller image to begin with, as when images are stored.

    Args:
        jpeg: the whole file.
        mode: how its pixels are told, as `openimages_images` has found.
        boxes: in pixels of the image as stored.
        turn: degrees counterclockwise, a multiple of 90.
        recipe: size, aspect and whether crops are turned.
    """
    sizes = [_fitted(box.size, recipe) for box in boxes]
    reduction = min((_reduction(box.size, size) for box, size in zip(boxes, sizes, strict=True)), default=1)
    pixels, reduction = _decoded(jpeg, mode, reduction)
    # Of decoded pixels most are thrown away: only crops are put into the order of RGB.
    quarters = turn // 90 if recipe.upright else 0
    found = []
    for box, size in zip(boxes, sizes, strict=True):
        crop = np.rot90(_resampled(pixels, box, size, reduction)[..., ::-1], quarters)
        found.append(_padded(crop, recipe.size))
    return found


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


def _decoded(jpeg: bytes, mode: str, reduction: int) -> tuple[Pixels, int]:
    """BGR [H, W, 3] of the pixels as stored, at 1 / reduction of their size, and that reduction."""
    import cv2

    if mode == "RGB":
        reduced = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
        flags = reduced.get(reduction, cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags)
        if pixels is not None:
            return np.asarray(pixels, np.uint8), reduction
    with Image.open(io.BytesIO(jpeg), formats=FORMATS) as image:
        return np.asarray(as_rgb(image), np.uint8)[..., ::-1], 1


def _resampled(pixels: Pixels, box: Rectangle, size: tuple[int, int], reduction: int) -> Pixels:
    """A box of an image that has been decoded at 1 / reduction, at this width and height."""
    import cv2

    from glr_assets.images.resample import Axis, resampled_strips

    def axis(low: int, high: int, wanted: int, there: int) -> tuple[slice, Axis]:
        first, last = low // reduction, min(-(-high // reduction), there)
        scale, offset = (high - low) / reduction / wanted, low / reduction - first
        return slice(first, last), Axis(last - first, wanted, scale, offset=offset)

    columns, across = axis(box.left, box.right, size[0], pixels.shape[1])
    rows, down = axis(box.top, box.bottom, size[1], pixels.shape[0])
    bands = resampled_strips(
        [list(map(np.asarray, cv2.split(np.ascontiguousarray(pixels[rows, columns]))))], across, down
    )
    return np.asarray(cv2.merge(bands), np.uint8)


def _padded(crop: Pixels, side: int) -> Pixels:
    """The crop in the middle of a square, grey beside it; as it is where it fills the square."""
    height, width = crop.shape[:2]
    if (height, width) == (side, side):
        return np.ascontiguousarray(crop)
    square = np.full((side, side, 3), GREY, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = crop
    return square
