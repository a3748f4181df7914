from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.curation import diversity
from glr_assets.curation.diversity import extreme_rows, hamming, most_diverse

hashes_of_any_kind = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 15), max_size=14)


def bits(left: int, right: int) -> int:
    return bin(left ^ right).count("1")


def rows_chosen(hashes: list[int], keep: int) -> list[int]:
    found = most_diverse(np.array(hashes, np.uint64), keep)
    return [int(row) for row in found]


def by_hand(hashes: list[int], keep: int) -> list[int]:
    """Max-min without a matrix: the farthest pair, then always the row whose nearest chosen row is farthest."""
    if len(hashes) <= keep:
        return list(range(len(hashes)))
    pairs = list(combinations(range(len(hashes)), 2))
    first, second = max(pairs, key=lambda pair: bits(hashes[pair[0]], hashes[pair[1]]))
    chosen = [first, second][:keep]
    while len(chosen) < keep:
        left = [row for row in range(len(hashes)) if row not in chosen]
        chosen.append(max(left, key=lambda row: min(bits(hashes[row], hashes[other]) for other in chosen)))
    return sorted(chosen)


def least_distance(hashes: list[int], rows: Sequence[int]) -> int:
    return min(bits(hashes[a], hashes[b]) for a, b in combinations(rows, 2))


@given(st.lists(st.integers(0, 2**64 - 1), max_size=5), st.lists(st.integers(0, 2**64 - 1), max_size=5))
@settings(max_examples=50, deadline=None)
def test_hamming_counts_differing_bits(left: list[int], right: list[int]) -> None:
    found = hamming(np.array(left, np.uint64), np.array(right, np.uint64))
    assert found.shape == (len(left), len(right))
    assert found.tolist() == [[bits(a, b) for b in right] for a in left]


@given(hashes_of_any_kind, st.integers(1, 16))
@settings(max_examples=150, deadline=None)
def test_rows_are_those_of_max_min_by_hand(hashes: list[int], keep: int) -> None:
    found = rows_chosen(hashes, keep)
    assert len(found) == min(keep, len(hashes))
    assert found == sorted(set(found))
    assert found == by_hand(hashes, keep)


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 255), min_size=2, max_size=9), st.integers(2, 5))
@settings(max_examples=80, deadline=None)
def test_least_distance_is_at_least_half_of_the_best_possible(hashes: list[int], keep: int) -> None:
    keep = min(keep, len(hashes))
    best = max(least_distance(hashes, rows) for rows in combinations(range(len(hashes)), keep))
    assert 2 * least_distance(hashes, rows_chosen(hashes, keep)) >= best


def test_choice_is_more_diverse_than_any_of_many_random_ones() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 300, dtype=np.uint64)
    # As in a class: half of the images are near-duplicates of others.
    hashes[150:] = hashes[:150] ^ (np.uint64(1) << rng.integers(0, 64, 150, dtype=np.uint64))
    chosen = least_distance(hashes.tolist(), rows_chosen(hashes.tolist(), 25))
    drawn = [least_distance(hashes.tolist(), rng.choice(300, 25, replace=False).tolist()) for _ in range(200)]
    assert chosen > max(drawn)


@pytest.mark.parametrize("keep", [1, 2, 3, 5])
def test_of_equal_hashes_as_many_are_kept(keep: int) -> None:
    assert rows_chosen([7] * 5, keep) == list(range(keep))
    assert rows_chosen([7] * 50, keep) == list(range(keep))


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


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 7), min_size=2, max_size=12), st.integers(1, 40))
@settings(max_examples=80, deadline=None)
def test_extreme_rows_are_the_first_of_all_pairs_whatever_the_block(hashes: list[int], block: int) -> None:
    pairs = {(a, b): bits(hashes[a], hashes[b]) for a, b in combinations(range(len(hashes)), 2)}
    before = diversity.BLOCK
    diversity.BLOCK = block
    try:
        found = extreme_rows(np.array(hashes, np.uint64))
    finally:
        diversity.BLOCK = before
    assert [(pair.first, pair.second) for pair in found] == [
        min(pairs, key=pairs.__getitem__),
        max(pairs, key=pairs.get),
    ]
    assert [pair.distance for pair in found] == [min(pairs.values()), max(pairs.values())]
