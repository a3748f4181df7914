"""Lanczos on planes of 8-bit samples, bit for bit as Pillow computes it, a column of SIMD lanes at a time.

An image is resampled across and then down, in fixed point with 22 bits, and rounded to 8 bits between the two. So does
Pillow, but for what it shrinks more in height, which from version 13 on it resamples down first: that rounds
otherwise. Here the order never changes. Both passes run down the columns of a transposed plane, where neighbouring
samples are neighbours in memory: the compiler makes SIMD instructions of that, which it cannot of a gather.
Integers alone decide, so every processor gives the same bytes. The compiled code runs without Python's lock.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glr_assets.codecs.turbojpeg import Plane
from glr_assets.kernels import kernel

_Weights = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]

_LOBES = 3.0
#: 32 bits less 8 of a sample, less 2 for weights whose sum overshoots (Pillow, Resample.c: PRECISION_BITS).
_PRECISION = 22
#: Rows that are transposed at a time: a copy of a whole plane would be as large as a large image.
_STRIP = 1024
#: Weights of an axis cost some 0.1 ms and 15 kB; a bucket has a few thousand different ones. Those of longer sides
#: are made each time, so that an odd bucket does not fill the memory with them.
_KEPT_AXES, _LONGEST_KEPT = 2048, 2048


@dataclass(frozen=True)
class Axis:
    """How the samples of one side are resampled.

    Attributes:
        given: samples there are.
        wanted: samples there shall be.
        scale: given samples that one wanted sample covers; not `given / wanted` where the last sample of a plane
            lies partly beyond the image.
        mirrored: from the last to the first; the image's extent is then `extent`.
        extent: samples the image covers, which may end within the last one.
        offset: where what is wanted begins, in given samples from the first one's edge; 0 where that is mirrored.
    """

    given: int
    wanted: int
    scale: float
    mirrored: bool = False
    extent: float = 0.0
    offset: float = 0.0


def resampled(plane: Plane, across: Axis, down: Axis) -> Plane:
    """`plane`, uint8 [down.given, across.given], as uint8 [down.wanted, across.wanted].

    The filter is Lanczos with a = 3 over `3 * scale` samples to each side, so it anti-aliases when it shrinks.
    """
    rows = ([plane[top : top + _STRIP]] for top in range(0, plane.shape[0], _STRIP))
    return resampled_strips(rows, across, down)[0]


def resampled_strips(strips: Iterable[Sequence[Plane]], across: Axis, down: Axis) -> list[Plane]:
    """The same for planes that come in strips from the top, each plane as uint8 [some rows, across.given].

    What is not asked for again need never be in memory as a whole.
    """
    import cv2

    lines: list[Plane] = []
    weights, top = _weights(across), 0
    for strip in strips:
        lines = lines or [np.empty((across.wanted, down.given), np.uint8) for _ in strip]
        for rows, line in zip(strip, lines, strict=True):
            _weighted_rows(np.ascontiguousarray(cv2.transpose(rows)), *weights, line, top)
        top += len(strip[0])
    weights = _weights(down)
    planes = [np.empty((down.wanted, across.wanted), np.uint8) for _ in lines]
    for line, plane in zip(lines, planes, strict=True):
        for left in range(0, across.wanted, _STRIP):
            columns = np.ascontiguousarray(cv2.transpose(line[left : left + _STRIP]))
            _weighted_rows(columns, *weights, plane, left)
    return planes


def resized(plane: Plane, size: tuple[int, int]) -> Plane:
    """`plane` resampled to `size`, (width, height)."""
    (height, width), (wide, high) = plane.shape, size
    return resampled(plane, Axis(width, wide, width / wide), Axis(height, high, height / high))


def dhash(luma: Plane) -> int:
    """The 64-bit difference hash of `imagehash.dhash` of this luma, its bits row by row, the first the highest."""
    small = resized(luma, (9, 8))
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def _weights(axis: Axis) -> _Weights:
    """Weights int32 [wanted, taps] of each wanted sample in units of 2^-22, its first given sample and their number."""
    return _kept_weights(axis) if axis.given <= _LONGEST_KEPT else _made_weights(axis)


def _made_weights(axis: Axis) -> _Weights:
    made: _Weights = _lanczos(axis.given, axis.wanted, axis.scale, axis.mirrored, axis.extent, axis.offset)
    return made


_kept_weights = functools.lru_cache(_KEPT_AXES)(_made_weights)


@kernel("Tuple((i4[:,::1], i4[::1], i4[::1]))(i8, i8, f8, b1, f8, f8)")
def _lanczos(given, wanted, scale, mirrored, extent, offset):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    stretch = max(scale, 1.0)
    support = _LOBES * stretch
    taps = math.ceil(support) * 2 + 1
    weights = np.zeros((wanted, taps), np.int32)
    first = np.zeros(wanted, np.int32)
    count = np.zeros(wanted, np.int32)
    row = np.zeros(taps, np.float64)
    for i in range(wanted):
        centre = offset + (i + 0.5) * scale
        if mirrored:
            centre = extent - centre
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), given)
        total = 0.0
        for x in range(low, high):
            at = (x - centre + 0.5) / stretch
            weight = 0.0
            if at == 0.0:
                weight = 1.0
            elif -_LOBES <= at < _LOBES:
                angle = at * math.pi
                weight = math.sin(angle) / angle * (math.sin(angle / _LOBES) / (angle / _LOBES))
            row[x - low] = weight
            total += weight
        first[i] = low
        count[i] = high - low
        for k in range(high - low):
            fixed = row[k] / total * (1 << _PRECISION)
            weights[i, k] = int(fixed - 0.5) if fixed < 0 else int(fixed + 0.5)
    return weights, first, count


@kernel("void(u1[:,::1], i4[:,::1], i4[::1], i4[::1], u1[:,::1], i8)")
def _weighted_rows(rows, weights, first, count, result, at):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Each row of `result`, from column `at` on, as the weighted sum of some of `rows`, rounded and held to 0…255."""
    width = rows.shape[1]
    sums = np.empty(width, np.int32)
    for i in range(result.shape[0]):
        for x in range(width):
            sums[x] = 1 << (_PRECISION - 1)
        k = 0
        while k + 4 <= count[i]:  # four at a time: the sums are fetched and put back as often
            a, b, c, d = weights[i, k], weights[i, k + 1], weights[i, k + 2], weights[i, k + 3]
            row = first[i] + k
            of_a, of_b, of_c, of_d = rows[row], rows[row + 1], rows[row + 2], rows[row + 3]
            for x in range(width):
                sums[x] += a * np.int32(of_a[x]) + b * np.int32(of_b[x]) + c * np.int32(of_c[x]) + d * np.int32(of_d[x])
            k += 4
        while k < count[i]:
            weight = weights[i, k]
            of_weight = rows[first[i] + k]
            for x in range(width):
                sums[x] += weight * np.int32(of_weight[x])
            k += 1
        line = result[i, at : at + width]  # an index with a sum in it would be checked for its sign each time
        for x in range(width):
            line[x] = np.uint8(min(max(sums[x] >> _PRECISION, 0), 255))
