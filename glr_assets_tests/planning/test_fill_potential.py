from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.planning.fill_potential import (
    PICTURE,
    SIZES_PICTURE,
    THRESHOLDS,
    class_sizes,
    make_fill_potential,
    potential_by_threshold,
)
from glr_assets.planning.schemas import FILL_POTENTIAL
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets.tables import problems, read_table
from glr_assets_tests.images.handmade import TINY, Bucket, identifier, make_tables

classes = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 120)), max_size=30)


def curves(counts: list[tuple[int, int]]) -> list[dict[str, int]]:
    both = np.array(counts, np.int64).reshape(-1, 2)
    table = potential_by_threshold(both[:, 0], both[:, 1])
    assert problems(FILL_POTENTIAL, table) == []
    return table.to_pylist()


@given(classes)
@settings(max_examples=60, deadline=None)
def test_potential_is_the_published_sum_over_competition_classes(counts: list[tuple[int, int]]) -> None:
    of_competition = [(count, extras) for count, extras in counts if count > 0]
    for row in curves(counts):
        n = row["threshold"]
        assert row["classes"] == sum(count < n for count, _ in of_competition)
        # METHODS, section 2.1: the potential of a threshold is the sum of max(0, n - count).
        assert row["potential"] == sum(max(0, n - count) for count, _ in of_competition)
        # Image by image: a class takes one while it is below the threshold and has one left.
        filled = [(count, list(range(extras))) for count, extras in of_competition]
        taken = [next(k for k in range(101) if count + k >= n or k == len(left)) for count, left in filled]
        assert row["supply"] == sum(taken)
        assert row["exhausted"] == sum(count + k < n for (count, _), k in zip(filled, taken, strict=True))


@given(classes)
@settings(max_examples=60, deadline=None)
def test_curves_rise_and_supply_stays_below_potential(counts: list[tuple[int, int]]) -> None:
    rows = curves(counts)
    assert [row["threshold"] for row in rows] == list(range(101))
    for key in ("classes", "potential", "supply", "exhausted"):
        values = [row[key] for row in rows]
        assert values[0] == 0
        assert values == sorted(values)
    assert all(row["supply"] <= row["potential"] and row["exhausted"] <= row["classes"] for row in rows)
    assert all((row["exhausted"] == 0) == (row["supply"] == row["potential"]) for row in rows)


def test_potential_can_be_had_from_the_histogram_of_class_sizes() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.geometric(0.05, 2000)
    histogram = Counter(sizes.tolist())
    rows = curves([(size, 1000) for size in sizes.tolist()])
    for n in THRESHOLDS:
        assert rows[n]["potential"] == sum(classes * (n - size) for size, classes in histogram.items() if size < n)
        assert rows[n]["supply"] == rows[n]["potential"]


def test_the_asset_tells_of_the_recipes_threshold(tmp_path: Path, store: Store) -> None:
    # Landmark 1 has 2 images in the competition and 3 beside it, landmark 2 has 1 and none.
    train = {identifier(n): 1 if n < 5 else 2 for n in range(6)}
    bucket = Bucket(train, [identifier(n) for n in (0, 1, 5)]).write(tmp_path / "bucket")
    make_tables(BucketSource(bucket), store, TINY)
    made = make_fill_potential(store, 4)
    assert made.receipt.summary == {
        "rows": 101,
        "classes_at_4": 2,
        "potential_at_4": 5,
        "supply_at_4": 2,
        "exhausted_at_4": 1,
        "shortfall_at_4": 3,
    }
    assert read_table(store, FILL_POTENTIAL).num_rows == 101
    pictures = [store.read(path) for path in (PICTURE, SIZES_PICTURE)]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    # A threshold beyond the table's is told of all the same.
    beyond = make_fill_potential(store, 201).receipt.summary
    assert beyond["potential_at_201"] == 199 + 200
    assert beyond["supply_at_201"] == 3
    assert beyond["exhausted_at_201"] == 2
    assert store.read(PICTURE) != pictures[0]
    assert store.read(SIZES_PICTURE) != pictures[1]


@given(classes, st.integers(0, 150))
@settings(max_examples=60, deadline=None)
def test_class_sizes_after_filling_are_those_the_curves_tell_of(counts: list[tuple[int, int]], threshold: int) -> None:
    both = np.array(counts, np.int64).reshape(-1, 2)
    before, after = class_sizes(both[:, 0], both[:, 1], threshold).values()
    row = potential_by_threshold(both[:, 0], both[:, 1], [threshold]).to_pylist()[0]
    assert (after - before).sum() == row["supply"]
    assert np.count_nonzero(after < threshold) == row["exhausted"]
    assert (after >= before).all()
    assert np.count_nonzero(after > np.maximum(before, threshold)) == 0
