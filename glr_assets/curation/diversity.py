"""The most diverse images of a class by their difference hashes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def hamming(left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Bits in which each hash of `left` [n] differs from each of `right` [m], as [n, m]."""
    return np.bitwise_count(left[:, None] ^ right[None, :])


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
    first, second = np.unravel_index(int(np.argmax(hamming(hashes, hashes))), (n, n))
    chosen = [int(first)]
    nearest = hamming(hashes, hashes[first : first + 1])[:, 0].astype(np.int16)
    nearest[first] = -1
    following = int(second)
    while len(chosen) < keep:
        chosen.append(following)
        nearest = np.minimum(nearest, hamming(hashes, hashes[following : following + 1])[:, 0])
        nearest[following] = -1
        following = int(np.argmax(nearest))
    return np.sort(np.array(chosen))
