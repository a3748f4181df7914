from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.curation.diversity import (
    Method,
    chosen,
    class_starts,
    extreme_rows,
    farthest_pairs,
    hamming,
    most_diverse,
    nearest_chosen,
)

hashes_of_any_kind = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 15), max_size=14)
METHODS: tuple[Method, ...] = ("max_min", "farthest_pairs", "random")


def bits(left: int, right: int) -> int:
    return bin(left ^ right).count("1")


def one_class(hashes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(hashes, np.uint64), np.array([0, len(hashes)])


def rows_chosen(hashes: list[int], keep: int, method: Method = "max_min", draw: Sequence[int] = ()) -> list[int]:
    values, starts = one_class(hashes)
    order = np.array(draw or range(len(hashes)), np.int64)
    return np.flatnonzero(chosen(method, values, starts, order, keep)).tolist()


def greedy_by_hand(hashes: list[int], keep: int) -> list[int]:
    """Max-min without a matrix: the farthest pair, then always the row whose nearest chosen row is farthest."""
    pairs = list(combinations(range(len(hashes)), 2))
    first, second = max(pairs, key=lambda pair: bits(hashes[pair[0]], hashes[pair[1]]))
    picked = [first, second][:keep]
    while len(picked) < keep:
        left = [row for row in range(len(hashes)) if row not in picked]
        picked.append(max(left, key=lambda row: min(bits(hashes[row], hashes[other]) for other in picked)))
    return picked


def exchanged_by_hand(hashes: list[int], picked: list[int]) -> list[int]:
    """Exchange one of the closest two as long as a row outside is farther from the others than they are apart."""
    while len(picked) > 1:
        closest = min(
            combinations(range(len(picked)), 2), key=lambda at: bits(hashes[picked[at[0]]], hashes[picked[at[1]]])
        )
        least = bits(*(hashes[picked[at]] for at in closest))
        found = {
            (at, row): min(bits(hashes[row], hashes[other]) for other in picked[:at] + picked[at + 1 :])
            for at in closest
            for row in range(len(hashes))
            if row not in picked
        }
        if max(found.values(), default=0) <= least:
            break
        at, row = max(found, key=found.__getitem__)
        picked = [*picked[:at], row, *picked[at + 1 :]]
    return sorted(picked)


def by_hand(hashes: list[int], keep: int, draw: Sequence[int] = ()) -> list[int]:
    """The greedy choice with exchanges, or the first of the draw where they are farther apart."""
    if len(hashes) <= keep:
        return list(range(len(hashes)))
    chosen_rows = exchanged_by_hand(hashes, greedy_by_hand(hashes, keep))
    drawn = sorted((draw or range(len(hashes)))[:keep])
    return drawn if least_distance(hashes, drawn) > least_distance(hashes, chosen_rows) else chosen_rows


def earlier_by_hand(hashes: list[int], keep: int, closest_first: bool) -> list[int]:
    """Seed 001's loop over its sorted list of pairs, ended at exactly `keep`."""
    if len(hashes) <= keep:
        return list(range(len(hashes)))
    pairs = {pair: bits(hashes[pair[0]], hashes[pair[1]]) for pair in combinations(range(len(hashes)), 2)}
    ordered = sorted(pairs.items(), key=lambda item: item[1])
    picked: list[int] = []
    for index in range(len(ordered) + 1):
        if index == 0 and not closest_first:
            continue
        (one, other), _ = ordered[-index]
        for row in (one, other):
            if row not in picked and len(picked) < keep:
                picked.append(row)
    return sorted(picked)


def least_distance(hashes: list[int], rows: Sequence[int]) -> int:
    return min((bits(hashes[a], hashes[b]) for a, b in combinations(rows, 2)), default=65)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=5), st.lists(st.integers(0, 2**64 - 1), max_size=5))
@settings(max_examples=50)
def test_hamming_counts_differing_bits(left: list[int], right: list[int]) -> None:
    found = hamming(np.array(left, np.uint64), np.array(right, np.uint64))
    assert found.shape == (len(left), len(right))
    assert found.tolist() == [[bits(a, b) for b in right] for a in left]


@given(hashes_of_any_kind, st.integers(1, 16), st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_rows_are_those_of_max_min_by_hand(hashes: list[int], keep: int, random: Random) -> None:
    draw = random.sample(range(len(hashes)), len(hashes))
    found = rows_chosen(hashes, keep, draw=draw)
    assert len(found) == min(keep, len(hashes))
    assert found == by_hand(hashes, keep, draw)


@given(hashes_of_any_kind, st.integers(1, 16), st.booleans())
@settings(max_examples=150)
def test_farthest_pairs_are_the_earlier_systems(hashes: list[int], keep: int, closest_first: bool) -> None:
    values, starts = one_class(hashes)
    found = np.flatnonzero(farthest_pairs(values, starts, keep, closest_first=closest_first)).tolist()
    assert found == earlier_by_hand(hashes, keep, closest_first)


@given(hashes_of_any_kind, st.integers(1, 16), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_a_random_choice_is_the_first_of_the_draw(hashes: list[int], keep: int, random: Random) -> None:
    draw = random.sample(range(len(hashes)), len(hashes))
    assert rows_chosen(hashes, keep, "random", draw) == sorted(draw[:keep])


@given(hashes_of_any_kind, st.integers(2, 16), st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_max_min_is_never_less_diverse_than_the_other_methods(hashes: list[int], keep: int, random: Random) -> None:
    draw = random.sample(range(len(hashes)), len(hashes))
    least = {method: least_distance(hashes, rows_chosen(hashes, keep, method, draw)) for method in METHODS}
    assert least["max_min"] >= max(least.values())


@given(st.lists(hashes_of_any_kind, min_size=1, max_size=5), st.integers(1, 6), st.sampled_from(METHODS))
@settings(max_examples=80)
def test_classes_side_by_side_are_chosen_from_each_by_itself(
    classes: list[list[int]], keep: int, method: Method
) -> None:
    classes = [hashes for hashes in classes if hashes]
    values = np.array([value for hashes in classes for value in hashes], np.uint64)
    starts = class_starts(np.repeat(np.arange(len(classes)), [len(hashes) for hashes in classes]))
    marked = chosen(method, values, starts, np.arange(len(values)), keep)
    apart = [np.flatnonzero(part).tolist() for part in np.split(marked, starts[1:-1])] if classes else []
    assert apart == [rows_chosen(hashes, keep, method) for hashes in classes]
    nearest, distance = nearest_chosen(values, starts, marked)
    for number, hashes in enumerate(classes):
        for row, value in enumerate(hashes):
            others = [bits(value, hashes[other]) for other in apart[number]]
            at = int(starts[number]) + row
            assert distance[at] == min(others)
            told = int(nearest[at]) - int(starts[number])
            assert told == (row if row in apart[number] else apart[number][others.index(min(others))])


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 255), min_size=2, max_size=9), st.integers(2, 5))
@settings(max_examples=80)
def test_least_distance_is_at_least_half_of_the_best_possible(hashes: list[int], keep: int) -> None:
    keep = min(keep, len(hashes))
    best = max(least_distance(hashes, rows) for rows in combinations(range(len(hashes)), keep))
    assert 2 * least_distance(hashes, rows_chosen(hashes, keep)) >= best


def test_choice_is_more_diverse_than_any_of_many_random_ones() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 300, dtype=np.uint64)
    # As in a class: half of the images are near-duplicates of others.
    hashes[150:] = hashes[:150] ^ (np.uint64(1) << rng.integers(0, 64, 150, dtype=np.uint64))
    found = least_distance(hashes.tolist(), rows_chosen(hashes.tolist(), 25))
    drawn = [least_distance(hashes.tolist(), rng.choice(300, 25, replace=False).tolist()) for _ in range(200)]
    assert found > max(drawn)


@pytest.mark.parametrize("keep", [5, 10])
def test_on_real_photographs_no_method_and_no_draw_is_more_diverse(shared_photos: Path, keep: int) -> None:
    imagehash = pytest.importorskip("imagehash")
    from PIL import Image

    folders = sorted(path for path in (shared_photos / "landmarks").iterdir() if path.is_dir())
    compared, better = 0, 0
    for folder in folders[::3]:
        hashes = [
            int(str(imagehash.dhash(Image.open(path).convert("L")))[:16], 16) for path in sorted(folder.iterdir())
        ]
        if len(hashes) <= keep:
            continue
        rng = np.random.default_rng(0)
        mine = least_distance(hashes, rows_chosen(hashes, keep))
        draws = [rng.permutation(len(hashes)).tolist() for _ in range(50)]
        others = [least_distance(hashes, draw[:keep]) for draw in draws]
        others += [least_distance(hashes, earlier_by_hand(hashes, keep, first)) for first in (True, False)]
        assert mine >= max(others), folder.name
        compared, better = compared + 1, better + (mine > max(others))
    assert compared > 5
    assert better


@pytest.mark.parametrize("keep", [1, 2, 3, 5])
@pytest.mark.parametrize("method", METHODS)
def test_of_equal_hashes_as_many_are_kept(keep: int, method: Method) -> None:
    assert len(rows_chosen([7] * 5, keep, method)) == keep
    assert len(rows_chosen([7] * 50, keep, method)) == keep


def test_one_image_is_kept_of_a_class_when_one_is_asked_for() -> None:
    assert rows_chosen([0b0, 0b1, 0b1111, 0b11], 1) == [0]  # the earlier row of the farthest pair
    assert rows_chosen([], 1) == []
    assert rows_chosen([3], 1) == [0]


def test_a_worked_example() -> None:
    # Bits set: rows 0 and 3 are the farthest, then row 2 is 4 bits from both, rows 1 and 4 at most 1.
    hashes = [0x00, 0x01, 0x0F, 0xFF, 0xFE]
    assert rows_chosen(hashes, 2) == [0, 3]
    assert rows_chosen(hashes, 3) == [0, 2, 3]
    assert rows_chosen(hashes, 4) == [0, 1, 2, 3]
    # The earlier system begins with the closest pair, rows 0 and 1.
    assert rows_chosen(hashes, 3, "farthest_pairs") == [0, 1, 4]  # of equal pairs it takes the last


@given(
    st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 7), min_size=1, max_size=8), min_size=1, max_size=4)
)
@settings(max_examples=80)
def test_extreme_rows_are_the_first_of_all_pairs_of_each_class(classes: list[list[int]]) -> None:
    values = np.array([value for hashes in classes for value in hashes], np.uint64)
    starts = np.concatenate([[0], np.cumsum([len(hashes) for hashes in classes])])
    closest, farthest = extreme_rows(values, starts)
    for number, hashes in enumerate(classes):
        pairs = {(a, b): bits(hashes[a], hashes[b]) for a, b in combinations(range(len(hashes)), 2)}
        for found, best in ((closest[number], min), (farthest[number], max)):
            if not pairs:
                assert found.tolist() == [-1, -1, -1]
                continue
            pair = best(pairs, key=pairs.__getitem__)
            assert (found[:2] - starts[number]).tolist() == list(pair)
            assert found[2] == pairs[pair]


def test_no_rows_are_no_classes() -> None:
    nothing = np.zeros(0, np.uint64)
    starts = class_starts(np.zeros(0, np.int64))
    assert most_diverse(nothing, starts, np.zeros(0, np.int64), 3).tolist() == []
    assert extreme_rows(nothing, starts)[0].shape == (0, 3)
    assert class_starts(np.array([4, 4, 9])).tolist() == [0, 2, 3]
