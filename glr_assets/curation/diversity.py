"""The most diverse images of a class by their difference hashes, and two other ways of choosing as many."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
Method = Literal["max_min", "farthest_pairs", "random"]


def hamming(left: Hashes, right: Hashes) -> npt.NDArray[np.uint8]:
    """Bits in which each hash of `left` [n] differs from each of `right` [m], as [n, m]."""
    return np.bitwise_count(left[:, None] ^ right[None, :])


def class_starts(classes: npt.NDArray[np.int64]) -> Rows:
    """Where each class begins in rows that stand class by class, and their number; [0] of no rows."""
    if not len(classes):
        return np.zeros(1, np.int64)
    return np.r_[0, np.flatnonzero(np.diff(classes)) + 1, len(classes)].astype(np.int64)


def chosen(method: Method, hashes: Hashes, starts: Rows, draw: Rows, keep: int) -> npt.NDArray[np.bool_]:
    """Which rows [n] a method keeps: exactly `keep` of a class that has more, else all.

    Args:
        method: `max_min` (`most_diverse`), `farthest_pairs` (`farthest_pairs`) or `random` (the first of `draw`).
        hashes: [n], class by class.
        starts: [classes + 1] first row of each class, and n.
        draw: [n] the rows of each class in a random order, in the places of that class.
        keep: how many of a class, at least 1.
    """
    if method == "max_min":
        return most_diverse(hashes, starts, draw, keep)
    if method == "farthest_pairs":
        return farthest_pairs(hashes, starts, keep)
    place = np.arange(len(hashes)) - np.repeat(starts[:-1], np.diff(starts))
    marked = np.zeros(len(hashes), bool)
    marked[draw[place < keep]] = True
    return marked


def most_diverse(hashes: Hashes, starts: Rows, draw: Rows, keep: int) -> npt.NDArray[np.bool_]:
    """Max-min: rows whose two closest are as far apart as a greedy choice and exchanges make them.

    Greedily (Gonzalez 1985) the farthest pair, then always the row whose nearest chosen row is farthest: the least
    distance is at least half of the best possible. Then one of the two closest is exchanged for a row that is farther
    from all others, as long as there is one. Ties go to the earlier row. Where a class is hardly larger than `keep` a
    lucky draw can be more diverse still: where the first rows of `draw` are, they are taken. Arguments as of `chosen`.
    """
    from glr_assets.curation import hash_loops

    marked = np.zeros(len(hashes), bool)
    hash_loops.max_min(np.array(hashes, np.uint64), np.array(starts, np.int64), np.array(draw, np.int64), keep, marked)
    return marked


def farthest_pairs(hashes: Hashes, starts: Rows, keep: int, *, closest_first: bool = True) -> npt.NDArray[np.bool_]:
    """The earlier system's choice: images of the farthest pairs, pair after pair, until there are enough.

    It sorts all pairs and walks the list from its end, but begins at index -0: with the closest pair. That is kept
    here for comparison, and left out with `closest_first` false. The earlier system overshoots by one image where a
    pair brings two; here of the last pair the earlier row is taken. Arguments as of `chosen`.
    """
    from glr_assets.curation import hash_loops

    marked = np.zeros(len(hashes), bool)
    hash_loops.farthest_pairs(np.array(hashes, np.uint64), np.array(starts, np.int64), keep, closest_first, marked)
    return marked


def nearest_chosen(hashes: Hashes, starts: Rows, marked: npt.NDArray[np.bool_]) -> tuple[Rows, npt.NDArray[np.uint8]]:
    """Of each row the nearest marked row of its class and the bits between them; itself and 0 of a marked one.

    Of equally near rows it is the first; -1 where a class has none.
    """
    from glr_assets.curation import hash_loops

    nearest, distance = hash_loops.nearest_chosen(
        np.array(hashes, np.uint64), np.array(starts, np.int64), np.array(marked, bool)
    )
    return nearest, distance


def extreme_rows(hashes: Hashes, starts: Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The closest and the farthest pair of each class, each as [classes, 3]: both rows, the earlier first, and bits.

    Of equal pairs it is the one whose rows come first; -1 of a class of one row.
    """
    from glr_assets.curation import hash_loops

    closest, farthest = hash_loops.extremes(np.array(hashes, np.uint64), np.array(starts, np.int64))
    return closest, farthest
