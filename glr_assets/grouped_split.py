"""Groups of near-duplicates, and splits that never part such a group.

Two photographs of one burst, a photograph and its crop, or one file saved twice are no independent evidence: where one
of them trains and the other is held out, a held-out figure is flattered. So whatever holds images out asks
`near_duplicate_groups` which images belong together, and holds out whole groups (`held_out_groups`), as scikit-learn's
`GroupShuffleSplit` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]

#: Bits of the 64-bit dhash within which two images of one class are near-duplicates. Of 129 pairs of one photograph
#: (crops, mirrored, turned, re-encoded) 84 % lie within 8 bits, and no pair of different photographs of one landmark.
NEAR_BITS: Final = 8
#: Bits within which a link always holds: what curation collapses by default.
CERTAIN_BITS: Final = 3
#: Photographs of one camera at most this far apart in time are of one burst, if their hashes are within `BURST_BITS`.
BURST_SECONDS: Final = 10.0
#: Consecutive frames differ by 10 to 19 bits; of pairs of one landmark that are not consecutive a tenth are within 24.
BURST_BITS: Final = 24
#: A group of so many images is never cut.
SMALL_GROUP: Final = 20
#: A larger one that holds more than this share of its class is cut at stricter limits.
MOST_OF_CLASS: Final = 0.5
#: Pairs of images that are compared at once: about 200 MB.
_PAIRS_AT_ONCE: Final = 2**22


@dataclass(frozen=True, eq=False)
class ImageTraits:
    """What near-duplicates are found by, an entry an image.

    Attributes:
        hashes: uint64 [n], dhash of 8 rows of 8 bits, the first pixel pair of a row in its highest bit.
        hashed: bool [n], whether the hash tells anything; an image without one, or a blank one, is a group of its own.
        seconds: float64 [n], when it was taken, by the clock of its camera; nan where that is not known.
        cameras: [n] name of the camera.
    """

    hashes: Hashes
    hashed: npt.NDArray[np.bool_]
    seconds: npt.NDArray[np.float64] | None = None
    cameras: Sequence[str] = ()


def mirrored(hashes: Hashes) -> Hashes:
    """The dhash of each image mirrored left to right, but for neighbours of equal brightness."""
    # A mirrored row has its differences in the other order and with the other sign.
    return _from_bits(1 - _bits(hashes)[:, :, ::-1])


def half_turned(hashes: Hashes) -> Hashes:
    """The dhash of each image turned by 180 degrees, but for neighbours of equal brightness."""
    return _from_bits(1 - _bits(hashes)[:, ::-1, ::-1])


def _bits(hashes: Hashes) -> npt.NDArray[np.uint8]:
    return np.unpackbits(hashes.astype(">u8").view(np.uint8)).reshape(-1, 8, 8)


def _from_bits(bits: npt.NDArray[np.uint8]) -> Hashes:
    packed = np.ascontiguousarray(np.packbits(bits, axis=-1).reshape(-1, 8))
    return packed.view(">u8").reshape(-1).astype(np.uint64)


def near_duplicate_groups(classes: Numbers, traits: ImageTraits) -> Numbers:
    """The group of each image [n]: the first row of those that near-duplicates connect it with, itself where none do.

    Two images of one class are linked where their hashes, one of them mirrored or turned by 180 degrees or not, are
    within `NEAR_BITS`, or where one camera took them within `BURST_SECONDS` and they are alike enough. Groups are the
    connected components of links, so no link crosses two groups. A chain of links that swallows a class is cut: while
    a component has more than `SMALL_GROUP` images and more than `MOST_OF_CLASS` of its class, its weakest links go,
    down to `CERTAIN_BITS`, which always hold.

    Time grows with the square of a class, memory with the class and its links. The groups depend on the images and
    not on their order, but for the row that names them.

    Args:
        classes: int64 [n], the landmark of each image.
        traits: of the same images.
    """
    groups = np.arange(len(classes), dtype=np.int64)
    order = np.argsort(classes, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(classes[order]) != 0]) if len(order) else np.zeros(0, np.int64)
    forms = (traits.hashes, mirrored(traits.hashes), half_turned(traits.hashes))
    for rows in np.split(order, starts[1:]) if len(order) else []:
        if len(rows) > 1:
            groups[rows] = rows[_groups_of_class(len(rows), *_links(rows, forms, traits))]
    return groups


def _links(rows: Numbers, forms: Sequence[Hashes], traits: ImageTraits) -> tuple[Numbers, Numbers, Numbers]:
    """The links of one class: the two images by their place in it, and how weak each is, in bits or as if in bits."""
    own, hashed = forms[0][rows], traits.hashed[rows]
    parts: list[tuple[Numbers, Numbers, Numbers]] = []
    step = max(1, _PAIRS_AT_ONCE // len(rows))
    for start in range(0, len(rows), step):
        some = slice(start, min(start + step, len(rows)))
        plain = np.bitwise_count(own[some, None] ^ own[None, :])
        least = plain
        for form in forms[1:]:
            least = np.minimum(least, np.bitwise_count(form[rows][some, None] ^ own[None, :]))
        weak = np.where(least <= NEAR_BITS, np.maximum(least, CERTAIN_BITS), np.uint8(255))
        burst = _of_one_burst(rows, some, traits, plain)
        if burst is not None:
            weak[burst & (weak > NEAR_BITS)] = NEAR_BITS + 1
        weak[~hashed[some]] = 255
        weak[:, ~hashed] = 255
        one, other = np.nonzero(weak <= NEAR_BITS + 1)
        later = other > one + start
        one, other = one[later], other[later]
        parts.append((one + start, other, weak[one, other].astype(np.int64)))
    ones, others, weakness = (np.concatenate(column) for column in zip(*parts, strict=True))
    return ones, others, weakness


def _of_one_burst(
    rows: Numbers, some: slice, traits: ImageTraits, plain: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_] | None:
    """Which pairs [some, class] one camera took within seconds; nothing where no time is known."""
    if traits.seconds is None:
        return None
    seconds = traits.seconds[rows]
    if not np.isfinite(seconds).any():
        return None
    _, camera = np.unique([traits.cameras[row] for row in rows.tolist()], return_inverse=True)
    together = np.abs(seconds[some, None] - seconds[None, :]) <= BURST_SECONDS
    return together & (camera[some, None] == camera[None, :]) & (plain <= BURST_BITS)


def _groups_of_class(size: int, ones: Numbers, others: Numbers, weakness: Numbers) -> Numbers:
    """The group [size] of each image of a class, the smallest place of its members."""
    most = max(SMALL_GROUP, int(MOST_OF_CLASS * size))
    groups = np.arange(size, dtype=np.int64)
    members, limit = np.arange(size), NEAR_BITS + 1
    while len(members):
        inside = np.zeros(size, bool)
        inside[members] = True
        used = inside[ones] & inside[others] & (weakness <= limit)
        found = _components(size, ones[used], others[used])
        groups[members] = found[members]
        sizes = np.bincount(groups[members], minlength=size)
        # Only what is still too large is looked at again.
        members = members[sizes[groups[members]] > most] if limit > CERTAIN_BITS else members[:0]
        limit -= 1
    return groups


def _components(size: int, ones: Numbers, others: Numbers) -> Numbers:
    """The smallest member of each image's connected component [size]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(ones), bool), (ones, others)), shape=(size, size))
    _, label = connected_components(links, directed=False)
    _, first = np.unique(label, return_index=True)
    return first[label].astype(np.int64)


def held_out_groups(sizes: Sequence[int], wanted: int, coin: Callable[[], float]) -> list[int]:
    """Which groups of a class are held out, so that about `wanted` of its images are and one at least is not.

    Groups are taken in their order while they fit. Where images are still wanted, and all groups left are too large,
    the first of these that leaves an image is taken with the probability that makes the expected number exact. Groups
    of one image each therefore give the first `wanted` of them.

    Args:
        sizes: images of each group, in an order drawn by seed.
        wanted: images to hold out.
        coin: a number in [0, 1), drawn only where it is needed.

    Returns:
        Places in `sizes`, ascending.
    """
    total = sum(sizes)
    left = wanted = max(0, min(wanted, total - 1))
    taken: set[int] = set()
    for place, size in enumerate(sizes):
        if size <= left:
            taken.add(place)
            left -= size
    if left:
        leaves_one = (p for p, size in enumerate(sizes) if p not in taken and wanted - left + size < total)
        first = next(leaves_one, None)
        if first is not None and coin() < left / sizes[first]:
            taken.add(first)
    return sorted(taken)
