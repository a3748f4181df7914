"""Near-duplicates by 64-bit difference hash: hashes at most some bits apart, found exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]

HASH_BITS = 64
#: Partners that are told of an image: of a blank image there are thousands. They are counted all the same.
MOST_PARTNERS = 10
#: What a row costs in each sorted table, in comparisons of two hashes; measured.
_SORTING = 100
#: How many more real hashes than random ones agree in some bits, from photographs; it only chooses the tables.
_SKEW = 30
_TABLES = 200


@dataclass(frozen=True)
class Leaders:
    """Rows parted into those that stay and those that follow one of them.

    Attributes:
        leader: [n] the row itself where it stays, the row it is a near-duplicate of, or -1 where there was no room.
        distance: [n] the bits between the two.
    """

    leader: Rows
    distance: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Near:
    """For each row its nearest rows of other groups.

    Attributes:
        row, other: [pairs] rows, sorted by row and then from the nearest on, equals by their rows.
        distance: [pairs] the bits between their hashes.
        same_file: [pairs] whether both are of the same source bytes.
        count: [n] how many rows of other groups are that near; no more than `most` of them are pairs.
    """

    row: Rows
    other: Rows
    distance: npt.NDArray[np.uint8]
    same_file: npt.NDArray[np.bool_]
    count: Rows


def leaders(
    hashes: Hashes,
    starts: Rows,
    bits: int,
    given: npt.NDArray[np.bool_] | None = None,
    room: Rows | None = None,
) -> Leaders:
    """Part the rows of each class, in their order, into leaders and what is at most `bits` from one before it.

    So every row that does not lead is a near-duplicate of its own leader, never of one by way of others: no chain
    of small steps swallows a class. And no two leaders are near-duplicates. With the better images first (larger,
    sharper) a leader is at least as good as those that follow it. Connected components have neither property.

    Args:
        hashes: [n], class by class, each class in order of preference.
        starts: [classes + 1] first row of each class, and n.
        bits: bits within which two are near-duplicates; -1 of nothing is.
        given: [n] rows that lead whatever they are like; they stand first in their class.
        room: [classes] leaders that a class takes beside the given ones; default as many as there are.
    """
    from glr_assets.curation import hash_loops

    given = np.zeros(len(hashes), bool) if given is None else given
    room = np.diff(starts) if room is None else room
    leader, distance = hash_loops.lead(
        np.array(hashes, np.uint64), np.array(starts, np.int64), bits, np.array(given), np.array(room, np.int64)
    )
    return Leaders(leader, distance)


def near_others(
    hashes: Hashes,
    groups: npt.NDArray[np.int64],
    bits: int,
    files: Hashes | None = None,
    most: int = MOST_PARTNERS,
) -> Near:
    """Every pair of rows of different groups whose hashes differ in at most `bits` bits, the `most` nearest of a row.

    Exact, by pigeonholes (Manku, Jain and Das Sarma 2007): with the 64 bits in `bits` + k parts two such hashes agree
    in k parts whole, so they stand together in one of the tables that are sorted by k parts. Equal hashes are compared
    once, whatever their number. Memory is some `most` * 5 bytes a row, and no list of all pairs is ever made; of t
    images of the same hash the time grows with t².

    Args:
        hashes: [n].
        groups: [n] rows of the same group make no pair.
        bits: 0 to 64.
        files: [n] digest of each image's bytes, 0 where it is not known: of equally near rows those of the same bytes
            come first.
        most: partners held of a row.
    """
    from glr_assets.curation import hash_loops

    n = len(hashes)
    hashes, groups = np.array(hashes, np.uint64), np.array(groups, np.int64)
    files = np.zeros(n, np.uint64) if files is None else np.array(files, np.uint64)
    members = np.argsort(hashes, kind="stable")
    distinct, firsts = np.unique(hashes[members], return_index=True)
    images = (np.append(firsts, n).astype(np.int64), members.astype(np.int64), groups, files)
    rows, keys = np.empty((n, most), np.int32), np.empty((n, most), np.uint8)
    sizes, count = np.zeros(n, np.int32), np.zeros(n, np.int64)
    held = (rows, keys, sizes, count)
    hash_loops.meet_twins(images, held)
    masks = table_masks(len(distinct), bits)
    for table in range(len(masks)):
        order = np.argsort(distinct & masks[table])
        hash_loops.meet_near(distinct, order, masks, table, bits, images, held)
    found = np.arange(most) < sizes[:, None]
    key = keys[found]
    row = np.repeat(np.arange(n), sizes)
    return Near(row, rows[found].astype(np.int64), (key >> 1).astype(np.uint8), key & 1 == 0, count)


def table_masks(count: int, bits: int) -> Hashes:
    """The bits by which each table of `count` distinct hashes is sorted; any two at most `bits` apart share one."""
    if not bits:
        return np.zeros(0, np.uint64)
    whole = np.zeros(1, np.uint64)
    best, cheapest = whole, float(count) ** 2 / 2
    for agreeing in range(1, 5):
        parts = bits + agreeing
        if parts > HASH_BITS or math.comb(parts, agreeing) > _TABLES:
            break
        together = min(1.0, _SKEW / 2 ** (HASH_BITS * agreeing // parts))
        cost = math.comb(parts, agreeing) * (count * _SORTING + count**2 / 2 * together)
        if cost < cheapest:
            # Neighbouring bits of a difference hash are alike, so a part takes every so many-th.
            of_part = [sum(1 << bit for bit in range(part, HASH_BITS, parts)) for part in range(parts)]
            tables = [sum(chosen) for chosen in combinations(of_part, agreeing)]
            best, cheapest = np.array(tables, np.uint64), cost
    return best
