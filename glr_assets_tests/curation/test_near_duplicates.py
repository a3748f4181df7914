from __future__ import annotations

from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.curation.near_duplicates import Near, leaders, near_others, table_masks
from glr_assets_tests.curation.test_diversity import bits

#: Hashes that are near each other: few bits set in one of two places.
near_hashes = st.builds(
    lambda base, flips: (0xF0F0F0F0F0F0F0F0 * base) ^ sum(1 << flip for flip in flips),
    st.integers(0, 1),
    st.sets(st.integers(0, 63), max_size=4),
)
some_hashes = st.lists(near_hashes | st.integers(0, 2**64 - 1), max_size=30)


def planted(count: int, seed: int) -> np.ndarray:
    """Hashes of which some are a few bits from others."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    for row in range(count // 2):
        of = int(hashes[int(rng.integers(0, count))])
        for bit in rng.integers(0, 64, int(rng.integers(0, 8))).tolist():
            of ^= 1 << bit
        hashes[row] = of
    return hashes


def pairs_by_hand(
    hashes: list[int], groups: list[int], limit: int, files: list[int], most: int
) -> dict[int, list[tuple[int, bool, int]]]:
    """Of each row its nearest rows of other groups: (bits, whether of another file, row)."""
    found: dict[int, list[tuple[int, bool, int]]] = {}
    for row, value in enumerate(hashes):
        near = [
            (bits(value, hashes[other]), files[row] != files[other] or not files[row], other)
            for other in range(len(hashes))
            if groups[other] != groups[row] and bits(value, hashes[other]) <= limit
        ]
        found[row] = sorted(near)[:most]
    return {row: near for row, near in found.items() if near}


def told(near: Near) -> dict[int, list[tuple[int, bool, int]]]:
    found: dict[int, list[tuple[int, bool, int]]] = {}
    for row, other, distance, same in zip(
        near.row.tolist(), near.other.tolist(), near.distance.tolist(), near.same_file.tolist(), strict=True
    ):
        found.setdefault(row, []).append((distance, not same, other))
    return found


@given(some_hashes, st.integers(0, 8), st.integers(1, 4), st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_pairs_of_other_groups_are_those_of_all_pairs(
    hashes: list[int], limit: int, kinds: int, most: int, random: Random
) -> None:
    groups = [random.randrange(kinds) for _ in hashes]
    files = [random.randrange(3) for _ in hashes]
    near = near_others(np.array(hashes, np.uint64), np.array(groups, np.int64), limit, np.array(files, np.uint64), most)
    assert told(near) == pairs_by_hand(hashes, groups, limit, files, most)
    assert list(near.row) == sorted(near.row)
    assert near.count.tolist() == [
        sum(groups[other] != groups[row] and bits(hashes[row], hashes[other]) <= limit for other in range(len(hashes)))
        for row in range(len(hashes))
    ]


@pytest.mark.parametrize("limit", range(9))
def test_the_tables_find_what_faiss_finds(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    # As of many hashes: sorting is cheap beside comparing all with all.
    monkeypatch.setattr("glr_assets.curation.near_duplicates._SORTING", 0)
    hashes = planted(3000, limit)
    index = faiss.IndexBinaryFlat(64)
    codes = hashes.view(np.uint8).reshape(-1, 8)
    index.add(codes)
    limits, distances, others = index.range_search(codes, limit + 1)  # those less than the radius
    rows = np.repeat(np.arange(len(hashes)), np.diff(limits.astype(np.int64)))
    expected = {(int(a), int(b), int(d)) for a, b, d in zip(rows, others, distances, strict=True) if a != b}
    masks = table_masks(len(hashes), limit)
    assert len(masks) > 1 or not limit
    near = near_others(hashes, np.arange(len(hashes)), limit, most=200)
    found = set(zip(near.row.tolist(), near.other.tolist(), near.distance.tolist(), strict=True))
    assert found == expected
    assert expected
    assert near.count.sum() == len(expected)


@pytest.mark.parametrize("limit", range(1, 9))
@pytest.mark.parametrize("count", [10, 10**4, 10**6, 4 * 10**6])
def test_any_two_near_hashes_share_a_table(count: int, limit: int) -> None:
    masks = table_masks(count, limit).tolist()
    rng = np.random.default_rng([count, limit])
    for _ in range(300):
        differing = sum(1 << bit for bit in rng.choice(64, limit, replace=False).tolist())
        assert any(not differing & mask for mask in masks)


def test_thousands_of_twins_are_counted_and_the_first_few_told() -> None:
    hashes = np.zeros(3000, np.uint64)
    groups = np.arange(3000) // 2
    near = near_others(hashes, groups, 3, most=10)
    assert len(near.row) == 30_000
    assert set(near.count.tolist()) == {2998}
    assert near.other[:10].tolist() == list(range(2, 12))


@given(some_hashes, st.integers(0, 8), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_rows_in_any_order_make_the_same_pairs(hashes: list[int], limit: int, random: Random) -> None:
    order = random.sample(range(len(hashes)), len(hashes))
    one = near_others(np.array(hashes, np.uint64), np.arange(len(hashes)), limit, most=30)
    other = near_others(np.array(hashes, np.uint64)[order], np.arange(len(hashes)), limit, most=30)
    pairs = {(row, partner) for row, partner in zip(one.row.tolist(), one.other.tolist(), strict=True)}
    assert pairs == {(order[row], order[at]) for row, at in zip(other.row.tolist(), other.other.tolist(), strict=True)}


def leaders_of(hashes: list[int], limit: int, given_rows: int = 0, room: int | None = None) -> list[int]:
    found = leaders(
        np.array(hashes, np.uint64),
        np.array([0, len(hashes)]),
        limit,
        np.arange(len(hashes)) < given_rows,
        None if room is None else np.array([room]),
    )
    return found.leader.tolist()


def leaders_by_hand(hashes: list[int], limit: int, given_rows: int = 0, room: int = 10**6) -> list[int]:
    found: list[int] = []
    leading: list[int] = []
    for row, value in enumerate(hashes):
        if row >= given_rows:
            if sum(leader >= given_rows for leader in leading) >= room:
                found.append(-1)
                continue
            near = [(bits(value, hashes[leader]), leader) for leader in leading]
            if near and min(near)[0] <= limit:
                found.append(min(near)[1])
                continue
        leading.append(row)
        found.append(row)
    return found


@given(some_hashes, st.integers(-1, 8), st.integers(0, 4), st.integers(0, 20))
@settings(max_examples=150)
def test_rows_lead_or_follow_as_by_hand(hashes: list[int], limit: int, given_rows: int, room: int) -> None:
    given_rows = min(given_rows, len(hashes))
    assert leaders_of(hashes, limit, given_rows, room) == leaders_by_hand(hashes, limit, given_rows, room)


@given(some_hashes, st.integers(0, 8))
@settings(max_examples=100)
def test_who_follows_is_near_its_own_leader_and_no_two_leaders_are_near(hashes: list[int], limit: int) -> None:
    found = leaders_of(hashes, limit)
    for row, leader in enumerate(found):
        assert leader <= row
        assert bits(hashes[row], hashes[leader]) <= limit
    leading = sorted(set(found))
    assert all(bits(hashes[a], hashes[b]) > limit for a, b in combinations(leading, 2))


def test_no_chain_swallows_a_class() -> None:
    # Each 1 bit from the next, the ends 40 bits apart: one connected component, but not one photograph.
    chain = [(1 << length) - 1 for length in range(41)]
    found = leaders_of(chain, 3)
    assert sorted(set(found)) == list(range(0, 41, 4))
    assert all(row - leader <= 3 for row, leader in enumerate(found))


def test_classes_have_leaders_of_their_own() -> None:
    found = leaders(np.array([0, 1, 0, 1], np.uint64), np.array([0, 2, 4]), 1)
    assert found.leader.tolist() == [0, 0, 2, 2]
    assert found.distance.tolist() == [0, 1, 0, 1]
    assert leaders(np.zeros(0, np.uint64), np.zeros(1, np.int64), 3).leader.tolist() == []
