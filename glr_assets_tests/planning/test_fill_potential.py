from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.planning.fill_potential import PICTURE, THRESHOLDS, make_fill_potential, potential_by_threshold
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
        assert row["supply"] == sum(min(max(0, n - count), extras) for count, extras in of_competition)


@given(classes)
@settings(max_examples=60, deadline=None)
def test_curves_rise_and_supply_stays_below_potential(counts: list[tuple[int, int]]) -> None:
    rows = curves(counts)
    assert [row["threshold"] for row in rows] == list(range(101))
    for key in ("classes", "potential", "supply"):
        values = [row[key] for row in rows]
        assert values[0] == 0
        assert values == sorted(values)
    assert all(row["supply"] <= row["potential"] for row in rows)


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
    assert made.receipt.summary == {"rows": 101, "classes_at_4": 2, "potential_at_4": 5, "supply_at_4": 2}
    assert read_table(store, FILL_POTENTIAL).num_rows == 101
    assert store.read(PICTURE).startswith(b"\x89PNG")
    assert make_fill_potential(store, 101).receipt.summary == {"rows": 101}
