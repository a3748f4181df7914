"""Which pairs of a landmark are tried: fewer than all, and the decisions of all. No pixel is needed for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.verification.classes import (
    Outcome,
    Pair,
    TriedPairs,
    best_connected,
    components,
    connect,
    connecting_pairs,
    likely_first,
    try_all,
    verify,
)
from glr_assets_tests.images.handmade import identifier

WANTED = 11


@dataclass
class Landmark:
    """A landmark's images as their pairs are, and the pairs that were compared."""

    outcomes: dict[Pair, Outcome]
    likeness: np.ndarray
    compared: list[Pair] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.likeness)

    @property
    def order(self) -> np.ndarray:
        return likely_first(self.likeness)

    def __call__(self, one: int, other: int) -> Outcome:
        assert one < other
        self.compared.append((one, other))
        return self.outcomes[one, other]

    def accepted(self) -> list[Pair]:
        return [pair for pair, outcome in self.outcomes.items() if outcome.inliers >= WANTED and not outcome.refusal]


@st.composite
def landmarks(draw: st.DrawFn) -> Landmark:
    """Up to 12 images, from those where nothing agrees to those where all does; some pairs are refused.

    The likeness follows the inliers closely, loosely or not at all, and has ties.
    """
    size = draw(st.integers(1, 12))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share, follows = draw(st.sampled_from([0.0, 0.05, 0.15, 0.4, 1.0])), draw(st.sampled_from([0.0, 0.5, 1.0]))
    outcomes, likeness = {}, np.zeros((size, size))
    for one, other in combinations(range(size), 2):
        inliers = int(random.integers(WANTED, 40) if random.random() < share else random.integers(0, WANTED))
        refusal = "a strip" if inliers >= WANTED and random.random() < 0.1 and share < 1 else ""
        outcomes[one, other] = Outcome(2 * inliers, inliers, WANTED, refusal)
        alike = round(follows * inliers + (1 - follows) * random.integers(0, 40))
        likeness[one, other] = likeness[other, one] = alike
    return Landmark(outcomes, likeness)


def connected_by_hand(size: int, accepted: list[Pair]) -> list[set[int]]:
    """Groups of two images or more, breadth first: the largest first, of equals that with the smallest image."""
    partners: dict[int, set[int]] = {image: set() for image in range(size)}
    for one, other in accepted:
        partners[one].add(other)
        partners[other].add(one)
    groups, seen = [], set()
    for image in range(size):
        if image in seen or not partners[image]:
            continue
        group, front = {image}, [image]
        while front:
            front = [other for near in front for other in partners[near] if other not in group]
            group |= set(front)
        seen |= group
        groups.append(group)
    return sorted(groups, key=lambda group: (-len(group), min(group)))


def groups_of(component: np.ndarray) -> list[set[int]]:
    return [set(np.flatnonzero(component == number).tolist()) for number in range(component.max(initial=-1) + 1)]


def test_an_outcome_is_accepted_by_as_many_inliers_as_are_wanted_unless_refused() -> None:
    assert Outcome(30, 11, 11).accepted
    assert not Outcome(30, 10, 11).accepted
    assert not Outcome(30, 29, 11, "a strip").accepted


def test_a_pair_is_compared_once_whichever_way_round_it_is_asked_for() -> None:
    landmark = Landmark({(1, 4): Outcome(9, 20, WANTED)}, np.zeros((5, 5)))
    tried = TriedPairs(landmark)
    assert tried(4, 1) is tried(1, 4) is landmark.outcomes[1, 4]
    assert landmark.compared == [(1, 4)]
    assert tried.accepted == [(1, 4)]


@given(landmarks())
def test_the_likeliest_partner_is_first_and_of_equals_the_first_image(landmark: Landmark) -> None:
    for image, partners in enumerate(landmark.order.tolist()):
        others = [other for other in range(landmark.size) if other != image]
        assert partners == sorted(others, key=lambda other: (-landmark.likeness[image, other], other))


@given(landmarks())
@settings(max_examples=300)
def test_stopping_early_decides_as_all_pairs_do(landmark: Landmark) -> None:
    every, early = TriedPairs(landmark), TriedPairs(landmark)
    wanted = try_all(every, landmark.size)
    assert sorted(every.outcomes) == list(combinations(range(landmark.size), 2))
    accepted = landmark.accepted()
    assert every.accepted == accepted
    assert np.flatnonzero(wanted).tolist() == sorted({image for pair in accepted for image in pair})
    verified = verify(early, landmark.order)
    assert verified.dtype == wanted.dtype == np.bool_
    assert verified.tolist() == wanted.tolist()
    assert len(early.outcomes) <= len(every.outcomes)
    for image in np.flatnonzero(~verified).tolist():
        assert sum(image in pair for pair in early.outcomes) == landmark.size - 1
    # Each accepted pair verified one of its two images, which was not before, or both.
    assert len(early.accepted) <= np.count_nonzero(verified)


@given(landmarks())
@settings(max_examples=200)
def test_no_pair_is_tried_of_two_images_that_are_verified(landmark: Landmark) -> None:
    found: set[int] = set()

    def compare(one: int, other: int) -> Outcome:
        assert not {one, other} <= found
        outcome = landmark(one, other)
        if outcome.accepted:
            found.update((one, other))
        return outcome

    verify(TriedPairs(compare), landmark.order)


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_where_all_agree_a_pair_an_image_is_enough(size: int, seed: int) -> None:
    # The first pair verifies two images, each later one at least one: between half and one less than there are.
    outcomes = dict.fromkeys(combinations(range(size), 2), Outcome(50, 40, WANTED))
    likeness = np.random.default_rng(seed).random((size, size))
    landmark = Landmark(outcomes, likeness + likeness.T)
    assert verify(TriedPairs(landmark), landmark.order).all() == (size > 1)
    fewest = (size + 1) // 2 if size > 1 else 0
    assert fewest <= len(landmark.compared) <= size - 1


@pytest.mark.parametrize(("kind", "pairs"), [("star", 19), ("twins", 10)])
def test_both_bounds_are_reached(kind: str, pairs: int) -> None:
    outcomes = dict.fromkeys(combinations(range(20), 2), Outcome(50, 40, WANTED))
    likeness = np.zeros((20, 20))
    for image in range(20):
        other = 0 if kind == "star" else image ^ 1
        likeness[image, other] = likeness[other, image] = 1
    landmark = Landmark(outcomes, likeness)
    verify(TriedPairs(landmark), landmark.order)
    assert len(landmark.compared) == pairs


def test_where_none_agree_every_pair_is_tried_once() -> None:
    outcomes = dict.fromkeys(combinations(range(9), 2), Outcome(50, 10, WANTED))
    landmark = Landmark(outcomes, np.zeros((9, 9)))
    assert not verify(TriedPairs(landmark), landmark.order).any()
    assert sorted(landmark.compared) == list(outcomes)


def test_every_likeliest_partner_comes_before_any_second() -> None:
    outcomes = dict.fromkeys(combinations(range(4), 2), Outcome(50, 0, WANTED))
    likeness = np.array([[0, 9, 8, 1], [9, 0, 2, 3], [8, 2, 0, 7], [1, 3, 7, 0]], float)
    landmark = Landmark(outcomes, likeness)
    verify(TriedPairs(landmark), landmark.order)
    # First partners: 1, 0, 0, 2. Second ones: 2, 3, 3, 1. The last: 3, 2, 1, 0.
    assert landmark.compared == [(0, 1), (0, 2), (2, 3), (1, 3), (0, 3), (1, 2)]


@given(landmarks())
@settings(max_examples=300)
def test_connected_groups_are_those_that_all_pairs_give(landmark: Landmark) -> None:
    tried = TriedPairs(landmark)
    verified = verify(tried, landmark.order)
    connect(tried, verified, landmark.order)
    assert len(tried.outcomes) <= len(landmark.outcomes)
    assert len(landmark.compared) == len(set(landmark.compared))
    wanted = components(landmark.size, landmark.accepted())
    found = components(landmark.size, tried.accepted)
    assert found.tolist() == wanted.tolist()
    assert groups_of(found) == connected_by_hand(landmark.size, landmark.accepted())
    assert ((found >= 0) == verified).all()


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_groups_are_those_of_a_search_breadth_first(size: int, pairs: list[Pair]) -> None:
    accepted = [(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1] and max(pair) < size]
    found = components(size, accepted)
    assert found.dtype == np.int64
    groups = connected_by_hand(size, accepted)
    assert groups_of(found) == groups
    alone = set(range(size)) - set().union(*groups)
    assert set(np.flatnonzero(found == -1).tolist()) == alone
    assert components(size, accepted[::-1]).tolist() == found.tolist()


@given(landmarks(), st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=200)
def test_the_best_connected_are_the_same_whichever_pairs_were_tried_before(
    landmark: Landmark, connections: int, keep: int
) -> None:
    # Names in another order than numbers, so that a choice by number would show.
    ids = [identifier(image) for image in range(landmark.size)]
    every, early = TriedPairs(landmark), TriedPairs(landmark)
    found = []
    for tried, verified in (
        (every, try_all(every, landmark.size)),
        (early, verify(early, landmark.order)),
    ):
        pairs = connecting_pairs(verified, landmark.order, connections)
        chosen, degree = best_connected(verified, {pair: tried(*pair) for pair in pairs}, ids, keep)
        found.append((pairs, chosen.tolist(), degree.tolist()))
    assert found[0] == found[1]
    pairs, chosen, degree = found[0]
    verified = {image for pair in landmark.accepted() for image in pair}
    assert sum(chosen) == min(keep, len(verified))
    wanted: set[Pair] = set()
    for image in verified:
        partners = sorted(verified - {image}, key=lambda other: (-landmark.likeness[image, other], other))
        wanted |= {(min(image, other), max(image, other)) for other in partners[:connections]}
    assert pairs == sorted(wanted)
    score: dict[int, tuple[int, int, str]] = {}
    for image in verified:
        mine = [landmark.outcomes[pair] for pair in wanted if image in pair]
        good = [outcome.inliers for outcome in mine if outcome.inliers >= WANTED and not outcome.refusal]
        assert degree[image] == len(good)
        score[image] = (-len(good), -sum(good), ids[image])
    assert np.flatnonzero(chosen).tolist() == sorted(sorted(verified, key=lambda image: score[image])[:keep])


def test_of_images_as_well_connected_the_one_of_more_inliers_then_of_the_smaller_id_stays() -> None:
    among = np.array([True, True, True, True, False])
    outcomes = {
        (0, 1): Outcome(50, 12, WANTED),
        (2, 3): Outcome(50, 13, WANTED),
        (0, 2): Outcome(50, 10, WANTED),
        (1, 3): Outcome(50, 44, WANTED, "a strip"),
    }
    chosen, degree = best_connected(among, outcomes, ["d", "c", "b", "a", "0"], 3)
    assert degree.tolist() == [1, 1, 1, 1, 0]
    assert chosen.tolist() == [False, True, True, True, False]
    outcomes[0, 2] = Outcome(50, 11, WANTED)
    chosen, degree = best_connected(among, outcomes, ["d", "c", "b", "a", "0"], 3)
    assert degree.tolist() == [2, 1, 2, 1, 0]
    assert chosen.tolist() == [True, False, True, True, False]
