"""Local features of an image: what an extractor gives, and how they are kept in six bytes and a code each.

Descriptors are rounded to eight bits. The products of such whole numbers, summed over a descriptor, are below 2^24 and
so exact in float32: whatever multiplies them, in whatever order and with however many threads, finds the same matches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

#: Places in sixteenths of a pixel; sizes in sixteenths of a doubling, from half a pixel; angles in 256ths of a turn.
PLACES_A_PIXEL: Final = 16
SIZES_A_DOUBLING: Final = 16
SMALLEST_SIZE: Final = 0.5
ANGLES: Final = 256

#: One feature's place as it is kept.
KEPT_PLACE = np.dtype([("x", "<u2"), ("y", "<u2"), ("size", "u1"), ("angle", "u1")])
MAX_FEATURES: Final = 2048
"""Matching packs the number of a feature into eleven bits."""
MAX_DIMENSIONS: Final = 256
"""The largest sum of products is then 255² · 256 = 16,646,400, less than 2^24 = 16,777,216: float32 holds it."""

#: What one is in a code without signs: as OpenCV's SIFT scales its own bytes. Of RootSIFT it clips what is above .498.
UNSIGNED_SCALE: Final = 512
#: A value of a unit vector is of the order of d^(-1/2); a code with signs has room for so many times that.
SIGNED_ROOM: Final = 4


@dataclass(frozen=True, eq=False)
class Features:
    """The local features of one image, the strongest first.

    Attributes:
        places: [n, 4] float32: x, y and size in pixels of the stored image, angle in radians in [0, 2π). An extractor
            that tells no size or angle gives size 1 and angle 0 throughout.
        descriptors: [n, d] float32, of unit length.
        width: pixels of the image.
        height: pixels of the image.
    """

    places: npt.NDArray[np.float32]
    descriptors: npt.NDArray[np.float32]
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class KeptFeatures:
    """Features as they come back from the store.

    Attributes:
        places: [n, 4] float32, as in `Features`, to the precision they are kept with.
        codes: [n, d] float32 of whole numbers, each descriptor times a scale, rounded.
        width: pixels of the image.
        height: pixels of the image.
    """

    places: npt.NDArray[np.float32]
    codes: npt.NDArray[np.float32]
    width: int
    height: int


def bytes_each(dimensions: int) -> int:
    """Bytes that one feature is kept in: its place and its code."""
    return KEPT_PLACE.itemsize + dimensions


def code_scale(dimensions: int, signed: bool) -> float:
    """What a descriptor of unit length is multiplied with before it is rounded.

    Codes with signs use -127 to 127 for `SIGNED_ROOM` standard deviations of a random unit vector's values: ±.63 of
    40 dimensions, ±.25 of 256.
    """
    return 127 * math.sqrt(dimensions) / SIGNED_ROOM if signed else float(UNSIGNED_SCALE)


def encoded(features: Features, signed: bool) -> bytes:
    """Features as they are kept: all places, then all codes, in their order.

    Places outside the image are moved to its edge, and values that a code has no room for to the nearest it has.

    Args:
        features: at most `MAX_FEATURES`, of at most `MAX_DIMENSIONS`.
        signed: whether descriptors have values below zero.

    Raises:
        ValueError: there are too many, of too many dimensions, or values that are not finite.
    """
    count, dimensions = features.descriptors.shape
    if count > MAX_FEATURES or not 0 < dimensions <= MAX_DIMENSIONS:
        raise ValueError(
            f"{count} features of {dimensions} dimensions: at most {MAX_FEATURES} of at most {MAX_DIMENSIONS} are kept"
        )
    if not (np.isfinite(features.places).all() and np.isfinite(features.descriptors).all()):
        raise ValueError("places or descriptors are not finite")
    places = np.zeros(count, KEPT_PLACE)
    x, y, size, angle = features.places.astype(np.float64).T
    unit = _places_a_pixel(features.width, features.height)
    places["x"] = np.rint(np.clip(x, 0, features.width) * unit)
    places["y"] = np.rint(np.clip(y, 0, features.height) * unit)
    doublings = np.log2(np.maximum(size, SMALLEST_SIZE) / SMALLEST_SIZE)
    places["size"] = np.minimum(np.rint(doublings * SIZES_A_DOUBLING), 255)
    places["angle"] = np.rint(angle * (ANGLES / (2 * np.pi))) % ANGLES
    least, most, kind = (-127, 127, np.int8) if signed else (0, 255, np.uint8)
    scaled = np.rint(features.descriptors * np.float32(code_scale(dimensions, signed)))
    return places.tobytes() + np.clip(scaled, least, most).astype(kind).tobytes()


def decoded(
    data: bytes | memoryview, count: int, dimensions: int, signed: bool, width: int, height: int
) -> KeptFeatures:
    """What `encoded` kept.

    Args:
        data: count * `bytes_each(dimensions)` bytes.
        count: features.
        dimensions: of a descriptor.
        signed: as `encoded` was told.
        width: pixels of the image.
        height: pixels of the image.

    Raises:
        ValueError: it is of another length.
    """
    if len(data) != count * bytes_each(dimensions):
        raise ValueError(
            f"{len(data)} bytes for {count} features of {dimensions} dimensions, "
            f"expected {count * bytes_each(dimensions)}"
        )
    kept = np.frombuffer(data, KEPT_PLACE, count)
    codes = np.frombuffer(data, np.int8 if signed else np.uint8, offset=count * KEPT_PLACE.itemsize)
    places = np.empty((count, 4), np.float32)
    unit = _places_a_pixel(width, height)
    places[:, 0] = kept["x"] / unit
    places[:, 1] = kept["y"] / unit
    places[:, 2] = SMALLEST_SIZE * 2 ** (kept["size"] / SIZES_A_DOUBLING)
    places[:, 3] = kept["angle"] * (2 * np.pi / ANGLES)
    return KeptFeatures(places, codes.reshape(count, dimensions).astype(np.float32), width, height)


def _places_a_pixel(width: int, height: int) -> float:
    """Sixteen, or of an image with a side of 4,096 pixels or more the power of two that 16 bits have room for."""
    unit = float(PLACES_A_PIXEL)
    while max(width, height) * unit > 65535:
        unit /= 2
    return unit
