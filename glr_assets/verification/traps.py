"""Pairs that agree for the wrong reason: what was laid over two photographs, or printed round them, is the same.

A watermark, a frame, a time stamp or the table of a calendar is a digital copy: one similarity without a turn takes
it from one image to the other within a pixel or so. Two views of a thing in space seldom do (in the median of 498 true
pairs of 25 landmarks a third of the inliers). Copies of one photograph do too, but agree wherever both have features.
So a pair is refused where it agrees exactly, at a place or a size that things laid over have, and much of what both
show agrees nowhere; and where all that agrees lies along one edge of both.

What cannot be told: a pattern laid over all of it and cut elsewhere in one of the two, which is like a facade, and a
layout that differs in a small place alone, which is like one view with somebody before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from glr_assets.verification.matching import Agreement, Prepared

IN_A_STRIP: Final = "agrees only in a strip along the edge"
IN_A_PART: Final = "agrees only in a small part, as in an overlay"
AT_IDENTICAL_PLACES: Final = "agrees only at identical places (a layout, frame or overlay)"
REFUSALS: Final = (IN_A_STRIP, IN_A_PART, AT_IDENTICAL_PLACES)

#: Pixels, at a smaller side of 384, that a copied feature may lie off, and those that the similarity is narrowed down
#: by. Where width and height are stretched apart a letter's features move a little more.
EXACT: Final = 1.5
NARROWING: Final = (5.0, 3.0, 2.0, EXACT, EXACT)
STRETCHED: Final = 2.0
LEAST_EXACT: Final = 6
"""Fewer exact inliers tell no copy: three or four agree with some similarity by chance."""
MOST_TURN: Final = math.radians(1.5)
#: So many of all inliers are exact. A strip is told by its place too, and text made smaller is less exact.
EXACT_SHARE: Final = 0.6
EXACT_SHARE_OF_STRIP: Final = 0.5
#: A strip's depth and a small part's length, as shares of the image's side, and the share of inliers in it. The least
#: depth of a true pair's is .14.
STRIP: Final = 0.1
PART: Final = 0.3
WITHIN: Final = 0.9
#: What is laid over stands as far from an edge or from the middle, in each direction, to this share of the smaller
#: side, or it is as large, in pixels or in widths or heights of the image, to this share.
OFF_PLACE: Final = 0.008
OFF_SIZE: Final = 0.02
#: Cells a side in which features are counted, and the share of features in cells where nothing agrees: at most .36 of
#: true pairs that are exact.
CELLS: Final = 8
SILENT: Final = 0.38
#: Cells a side of a hole inside the image, the agreeing features missed there, of which a tenth may be found, and the
#: share that agree around it. Holes of two cells are found in one in three photographs from a tripod that somebody
#: walked through, of three in one in 15.
HOLE: Final = 3
MISSED: Final = 6.0
FOUND_IN_HOLE: Final = 0.1
AGREEING_ROUND_HOLE: Final = 0.25

Places = npt.NDArray[np.complex128]
"""Pixels of features, x + iy."""
Chosen = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Image:
    """One image of a pair.

    Attributes:
        places: of all its features.
        agreeing: of its inliers, in the order of the other's.
        size: width + i height.
    """

    places: Places
    agreeing: Places
    size: complex

    @classmethod
    def of(cls, prepared: Prepared, inliers: npt.NDArray[np.int64]) -> _Image:
        places = prepared.places[:, 0] + 1j * prepared.places[:, 1].astype(np.float64)
        return cls(places, places[inliers], complex(prepared.width, prepared.height))

    @property
    def smaller_side(self) -> float:
        return min(self.size.real, self.size.imag)

    def shares(self, chosen: Chosen) -> npt.NDArray[np.float64]:
        """The chosen inliers' x by the width and y by the height, [2, n], either sorted."""
        places = self.agreeing[chosen]
        return np.sort((places.real / self.size.real, places.imag / self.size.imag), axis=1)


@dataclass(frozen=True, eq=False)
class _Copy:
    """What is copied from one image to the other.

    Attributes:
        factor: what places are multiplied with: the size, and the turn.
        shift: what is added.
        exact: [inliers] those that it takes to their place.
    """

    factor: complex
    shift: complex
    exact: Chosen

    @property
    def count(self) -> int:
        """How many inliers are exact."""
        return int(np.count_nonzero(self.exact))


def refusal(one: Prepared, other: Prepared, agreement: Agreement) -> str:
    """Why a pair's agreement is no evidence that both show the same thing: one of `REFUSALS`, or "" where it is.

    Args:
        one: an image.
        other: another; which of the two comes first does not matter.
        agreement: of the two, as `Matcher.compare` gives it, with inliers enough to be accepted.
    """
    one, other = (one, other) if one.id <= other.id else (other, one)
    near, far = _Image.of(one, agreement.first), _Image.of(other, agreement.second)
    if agreement.inliers < LEAST_EXACT:
        return ""
    if _in_a_strip(near, far, np.ones(agreement.inliers, np.bool_)):
        return IN_A_STRIP
    copy = _copied(near.agreeing, far.agreeing)
    upright = copy.count >= LEAST_EXACT and abs(np.angle(copy.factor)) <= MOST_TURN
    if upright and copy.count >= EXACT_SHARE_OF_STRIP * agreement.inliers and _in_a_strip(near, far, copy.exact):
        return IN_A_STRIP
    if upright and copy.count >= EXACT_SHARE * agreement.inliers and _as_laid_over(near, far, copy):
        overlaps = (
            _inside(copy.factor * near.places + copy.shift, far.size),
            _inside((far.places - copy.shift) / copy.factor, near.size),
        )
        if _apart(near, far, overlaps, copy.exact):
            return _shape(near, far, copy.exact)
    # A photograph cropped by a few pixels is at identical places in part, and the similarity explains all of it.
    stretched = _stretched(near, far)
    if np.count_nonzero(stretched) >= max(LEAST_EXACT, EXACT_SHARE * agreement.inliers, copy.count + 1):
        whole = np.ones(len(near.places), np.bool_), np.ones(len(far.places), np.bool_)
        if _apart(near, far, whole, stretched):
            return _shape(near, far, stretched)
    return ""


def _copied(near: Places, far: Places) -> _Copy:
    """The similarity that most inliers agree with exactly, found by narrowing down from all of them.

    Size and residual treat both images alike (Horn, Closed-form solution of absolute orientation using unit
    quaternions, JOSA A 1987, 2.D).
    """
    exact, factor, shift = np.ones(len(near), np.bool_), 1 + 0j, 0j
    for reach in NARROWING:
        count = np.count_nonzero(exact)
        if count < LEAST_EXACT:
            break
        middle, to = near[exact].sum() / count, far[exact].sum() / count
        spread, to_spread = near[exact] - middle, far[exact] - to
        sizes, turn = (np.vdot(spread, spread).real, np.vdot(to_spread, to_spread).real), np.vdot(spread, to_spread)
        if min(*sizes, abs(turn)) < 1e-9:
            return _Copy(factor, shift, np.zeros(len(near), np.bool_))
        factor = complex(math.sqrt(sizes[1] / sizes[0]) * turn / abs(turn))
        shift = complex(to - factor * middle)
        exact = np.abs(factor * near + shift - far) <= reach * math.sqrt(abs(factor))
    return _Copy(factor, shift, exact)


def _in_a_strip(near: _Image, far: _Image, chosen: Chosen) -> bool:
    """Whether the chosen inliers lie along one edge, the same in both."""
    depths = []
    for image in (near, far):
        shares = image.shares(chosen)
        last = math.ceil(WITHIN * shares.shape[1]) - 1
        depths.append((shares[:, last], 1 - shares[:, -1 - last]))
    return bool(np.max(depths, axis=0).min() <= STRIP)


def _shape(near: _Image, far: _Image, exact: Chosen) -> str:
    """The reason by how large what agrees is: of `REFUSALS`, a small part of both or not."""
    for image in (near, far):
        shares = image.shares(exact)
        left_out = math.floor((1 - WITHIN) * shares.shape[1])
        if (shares[:, -1 - left_out] - shares[:, left_out]).max() > PART:
            return AT_IDENTICAL_PLACES
    return IN_A_PART


def _as_laid_over(near: _Image, far: _Image, copy: _Copy) -> bool:
    """Whether a copy has the same size in both, or stands as far from an edge or from the middle."""
    size = abs(copy.factor)
    ratios = 1.0, far.size.real / near.size.real, far.size.imag / near.size.imag
    if min(abs(math.log(size / ratio)) for ratio in ratios) <= OFF_SIZE:
        return True
    middle = complex(near.agreeing[copy.exact].mean()) * math.sqrt(size)
    to = complex(far.agreeing[copy.exact].mean()) / math.sqrt(size)
    # How far it has moved, were the one edge, the middle or the other edge of both at one place.
    moved = [to - middle - part * (far.size / math.sqrt(size) - near.size * math.sqrt(size)) for part in (0, 0.5, 1)]
    most = OFF_PLACE * math.sqrt(near.smaller_side * far.smaller_side)
    return min(abs(by.real) for by in moved) <= most and min(abs(by.imag) for by in moved) <= most


def _stretched(near: _Image, far: _Image) -> Chosen:
    """The inliers [n] that lie at the same share of width and height in both."""
    moved = near.agreeing / near.size.real - far.agreeing / far.size.real
    across = moved.real * math.sqrt(near.size.real * far.size.real)
    down = near.agreeing.imag / near.size.imag - far.agreeing.imag / far.size.imag
    return np.hypot(across, down * math.sqrt(near.size.imag * far.size.imag)) <= STRETCHED


def _apart(near: _Image, far: _Image, overlaps: tuple[Chosen, Chosen], exact: Chosen) -> bool:
    """Whether in both images much lies where nothing agrees, or there is a hole among what agrees.

    Args:
        near: an image.
        far: the other.
        overlaps: the features of each that the other has room for.
        exact: inliers that count.
    """
    counts, agreeing = [], []
    for image, seen in zip((near, far), overlaps, strict=True):
        counts.append(_counted(image.places[seen], image.size))
        agreeing.append(_counted(image.agreeing[exact], image.size))
    silent = [count[found == 0].sum() / max(count.sum(), 1) for count, found in zip(counts, agreeing, strict=True)]
    return bool(min(silent) >= SILENT) or _has_hole(counts, agreeing)


def _inside(places: Places, size: complex) -> Chosen:
    x, y = places.real, places.imag
    return (x >= 0) & (x <= size.real) & (y >= 0) & (y <= size.imag)


def _counted(places: Places, size: complex) -> Counts:
    """How many lie in each cell: [CELLS, CELLS]."""
    column = np.minimum(places.real * (CELLS / size.real), CELLS - 1).astype(np.int64)
    row = np.minimum(places.imag * (CELLS / size.imag), CELLS - 1).astype(np.int64)
    return np.bincount(row * CELLS + column, minlength=CELLS * CELLS).reshape(CELLS, CELLS)


def _has_hole(counts: list[Counts], agreeing: list[Counts]) -> bool:
    """Whether all but one place inside agrees, as of two notes with another portrait.

    At the border somebody may walk through a photograph.
    """
    share = agreeing[0].sum() / max(min(count.sum() for count in counts), 1)
    if share < AGREEING_ROUND_HOLE:
        return False
    missed = share * np.minimum(*(_in_windows(count) for count in counts))
    found = np.maximum(*(_in_windows(count) for count in agreeing))
    return bool(((missed >= MISSED) & (found <= FOUND_IN_HOLE * missed)).any())


def _in_windows(counts: Counts) -> Counts:
    """Sums over windows of `HOLE` by `HOLE` cells that do not touch the border."""
    windows = np.lib.stride_tricks.sliding_window_view(counts[1:-1, 1:-1], (HOLE, HOLE))
    return np.asarray(windows.sum(axis=(2, 3)), np.int64)
