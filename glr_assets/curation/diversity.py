"""The most diverse images of a class by their difference hashes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Distances held at a time, so that classes of ten thousand images need no more memory than small ones.
BLOCK = 2**20


@dataclass(frozen=True)
class RowPair:
    """Two rows, the earlier first, and the bits between their hashes."""

    first: int
    second: int
    distance: int


def hamming(left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Bits in which each hash of `left` [n] differs from each of `right` [m], as [n, m]."""
    return np.bitwise_count(left[:, None] ^ right[None, :])


def extreme_rows(hashes: npt.NDArray[np.uint64]) -> tuple[RowPair, RowPair]:
    """The closest and the farthest pair of at least two hashes; of equal pairs the one whose rows come first."""
    n = len(hashes)
    closest, farthest = RowPair(0, 0, 65), RowPair(0, 0, -1)
    step = max(1, BLOCK // n)
    for start in range(0, n - 1, step):
        bits = hamming(hashes[start : start + step], hashes).astype(np.int16)
        earlier = np.tri(len(bits), n, start, dtype=bool)  # pairs seen from their second row, and each with itself
        bits[earlier] = 65
        row, column = np.unravel_index(int(bits.argmin()), bits.shape)
        if bits[row, column] < closest.distance:
            closest = RowPair(start + int(row), int(column), int(bits[row, column]))
        bits[earlier] = -1
        row, column = np.unravel_index(int(bits.argmax()), bits.shape)
        if bits[row, column] > farthest.distance:
            farthest = RowPair(start + int(row), int(column), int(bits[row, column]))
    return closest, farthest


def most_diverse(hashes: npt.NDArray[np.uint64], keep: int) -> npt.NDArray[np.intp]:
    """Rows of the `keep` images chosen by max-min: the farthest pair, then always the one farthest from the chosen.

    The greedy choice of Gonzalez (1985): its least distance is at least half of the best possible. Ties go to
    the earlier row, so the result depends on the hashes and their order alone.

    Args:
        hashes: 64-bit hashes [n].
        keep: how many, at least 1; all rows where n is not more.
    """
    n = len(hashes)
    if n <= keep:
        return np.arange(n)
    _, farthest = extreme_rows(hashes)
    first, following = farthest.first, farthest.second
    chosen = [first]
    nearest = hamming(hashes, hashes[first : first + 1])[:, 0].astype(np.int16)
    nearest[first] = -1
    while len(chosen) < keep:
        chosen.append(following)
        nearest = np.minimum(nearest, hamming(hashes, hashes[following : following + 1])[:, 0])
        nearest[following] = -1
        following = int(np.argmax(nearest))
    return np.sort(np.array(chosen))
