"""The images of one landmark: which of their pairs are tried, and which of them are verified.

An image is verified by one accepted pair, whichever of the two it is. So it is tried with its likeliest partners first
and left alone once it is verified; it stays unverified only after all its pairs have failed. Trying all pairs gives
the same decisions, since a pair's outcome depends on nothing but the pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import numpy.typing as npt

Pair = tuple[int, int]
"""Two images by their numbers in the class, the smaller first."""


@dataclass(frozen=True)
class Outcome:
    """What trying a pair gave.

    Attributes:
        putative: features that are each other's nearest and alike enough.
        inliers: of those, that agree with one model; what counts.
        threshold: inliers wanted.
        refusal: the trap it is refused for; empty where none.
        model: a b c d e f of the affine model, smaller id to larger; zeros where there is none.
    """

    putative: int
    inliers: int
    threshold: int
    refusal: str = ""
    model: tuple[float, ...] = (0.0,) * 6

    @property
    def accepted(self) -> bool:
        """Whether the pair shows the same thing."""
        return self.inliers >= self.threshold and not self.refusal


@dataclass
class TriedPairs:
    """The pairs of a class that were tried, each once."""

    compare: Callable[[int, int], Outcome]
    outcomes: dict[Pair, Outcome] = field(default_factory=dict)

    def __call__(self, one: int, other: int) -> Outcome:
        """The outcome of a pair, tried if it has not been."""
        pair = (one, other) if one < other else (other, one)
        if pair not in self.outcomes:
            self.outcomes[pair] = self.compare(*pair)
        return self.outcomes[pair]

    @property
    def accepted(self) -> list[Pair]:
        """The accepted pairs, in the order of their numbers."""
        return sorted(pair for pair, outcome in self.outcomes.items() if outcome.accepted)


def likely_first(likeness: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Of each image the others, the likeliest first, of equals the smaller number: [n, n - 1].

    Args:
        likeness: [n, n], symmetric.
    """
    n = len(likeness)
    alike = likeness.copy()
    np.fill_diagonal(alike, -np.inf)
    order = np.argsort(-alike, axis=1, kind="stable")
    return order[:, : n - 1]


def verify(tried: TriedPairs, order: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Try pairs until each image is verified or has none left; returns which are verified [n].

    Every image's likeliest partner is tried before any one's second.

    Args:
        tried: takes the outcomes.
        order: [n, n - 1] as `likely_first` gives it.
    """
    verified = np.zeros(len(order), bool)
    for place in range(order.shape[1]):
        for image in np.flatnonzero(~verified):
            other = order[image, place]
            if not verified[image] and tried(int(image), int(other)).accepted:
                verified[image] = verified[other] = True
    return verified


def try_all(tried: TriedPairs, images: int) -> npt.NDArray[np.bool_]:
    """Try every pair; returns which images are verified [images]."""
    verified = np.zeros(images, bool)
    for one, other in combinations(range(images), 2):
        if tried(one, other).accepted:
            verified[[one, other]] = True
    return verified


def components(images: int, accepted: Sequence[Pair]) -> npt.NDArray[np.int64]:
    """The group of each image [images] that accepted pairs connect it with, the largest 0, of equals the first.

    An image without an accepted pair has -1.
    """
    parent = list(range(images))
    for one, other in accepted:
        _join(parent, one, other)
    root = np.array([_root(parent, image) for image in range(images)], np.int64)
    paired = np.zeros(images, bool)
    paired[np.array(accepted, np.int64).reshape(-1)] = True
    roots, first, sizes = np.unique(root[paired], return_index=True, return_counts=True)
    rank = dict(zip(roots[np.lexsort((first, -sizes))].tolist(), range(len(roots)), strict=True))
    return np.array(
        [rank[value] if known else -1 for value, known in zip(root.tolist(), paired, strict=True)], np.int64
    )


def _root(parent: list[int], image: int) -> int:
    while parent[image] != image:
        parent[image] = parent[parent[image]]
        image = parent[image]
    return image


def _join(parent: list[int], one: int, other: int) -> None:
    one, other = _root(parent, one), _root(parent, other)
    parent[max(one, other)] = min(one, other)


def connect(tried: TriedPairs, verified: npt.NDArray[np.bool_], order: npt.NDArray[np.int64]) -> None:
    """Try pairs until the components are those that all pairs would give.

    A pair inside a component can tell nothing new and is not tried.
    """
    parent = list(range(len(order)))
    for one, other in tried.accepted:
        _join(parent, one, other)
    for place in range(order.shape[1]):
        for image in np.flatnonzero(verified).tolist():
            other = int(order[image, place])
            apart = verified[other] and _root(parent, image) != _root(parent, other)
            if apart and tried(image, other).accepted:
                _join(parent, image, other)


def connecting_pairs(among: npt.NDArray[np.bool_], order: npt.NDArray[np.int64], connections: int) -> list[Pair]:
    """The pairs that tell how well images are connected: each with its `connections` likeliest of `among`."""
    pairs: set[Pair] = set()
    for image in np.flatnonzero(among).tolist():
        partners = [int(other) for other in order[image] if among[other]][:connections]
        pairs |= {(min(image, other), max(image, other)) for other in partners}
    return sorted(pairs)


def best_connected(
    among: npt.NDArray[np.bool_], outcomes: Mapping[Pair, Outcome], ids: Sequence[str], keep: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """The `keep` images of `among` that most connecting pairs verify, and how many do of each [n].

    Of as many the one whose pairs have more inliers in all, of equals that of the smaller id.

    Args:
        among: [n] images to choose of.
        outcomes: of the connecting pairs alone.
        ids: [n].
        keep: images.
    """
    degree, inliers = np.zeros(len(among), np.int64), np.zeros(len(among), np.int64)
    for pair, outcome in outcomes.items():
        if outcome.accepted:
            degree[list(pair)] += 1
            inliers[list(pair)] += outcome.inliers
    chosen = np.zeros(len(among), bool)
    rows = np.flatnonzero(among)
    names = np.array(ids)[rows]
    chosen[rows[np.lexsort((names, -inliers[rows], -degree[rows]))][:keep]] = True
    return chosen, degree
