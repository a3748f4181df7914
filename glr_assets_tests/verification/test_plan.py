"""Which images are compared, against a plain computation, and the stretches that buckets are."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.curation.schemas import DEDUPED_MANIFEST, TRAIN_MANIFEST
from glr_assets.errors import MissingInputError
from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.recipes import Verification
from glr_assets.store import Store
from glr_assets.verification.plan import (
    BEYOND_CAP,
    COMPARED,
    TOO_SMALL,
    bucket_keys,
    buckets_of,
    comparison_plan,
    landmark_order,
    set_to_clean,
)
from glr_assets_tests.images.handmade import identifier, write_made
from glr_assets_tests.siphash import splitmix64
from glr_assets_tests.test_seeded import reference

PLANNED = pa.schema([("id", pa.string()), ("landmark_id", pa.int64()), ("shard", pa.string())])
#: The landmark of each image: few of them, some beyond what 32 bits hold, so that sizes differ.
landmarks = st.lists(st.sampled_from([0, 1, 1, 1, 7, 7, 2**40, 203_093]), max_size=60)
recipes = st.builds(
    lambda min_class, cap: Verification(min_class=min_class, cap=cap, keep=1), st.integers(2, 8), st.integers(2, 20)
)


def images_of(of_image: list[int]) -> pa.Table:
    rows = [{"id": identifier(n), "landmark_id": of, "shard": f"{n % 3:03d}"} for n, of in enumerate(of_image)]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["id"])), PLANNED)


def outcomes(plan: pa.Table) -> dict[str, str]:
    return dict(zip(plan["id"].to_pylist(), plan["outcome"].to_pylist(), strict=True))


def by_hand(images: pa.Table, recipe: Verification, seed: int) -> dict[str, str]:
    classes: dict[int, list[str]] = {}
    for row in images.to_pylist():
        classes.setdefault(row["landmark_id"], []).append(row["id"])
    found = {}
    for ids in classes.values():
        if len(ids) < recipe.min_class:
            found |= dict.fromkeys(ids, TOO_SMALL)
            continue
        order = sorted(ids, key=lambda image_id: (reference(image_id, seed, "verification"), image_id))
        found |= dict.fromkeys(order, BEYOND_CAP) | dict.fromkeys(order[: recipe.cap], COMPARED)
    return found


@given(landmarks, recipes, st.integers(0, 3))
def test_the_plan_is_that_of_a_plain_computation(of_image: list[int], recipe: Verification, seed: int) -> None:
    images = images_of(of_image)
    plan = comparison_plan(images, recipe, seed)
    assert plan.drop_columns("outcome").equals(images)
    assert outcomes(plan) == by_hand(images, recipe, seed)


def test_both_bounds_are_the_last_that_is_well() -> None:
    recipe = Verification(min_class=4, cap=6, keep=1)
    of_image = [n for n in (3, 4, 6, 7) for _ in range(n)]
    plan = comparison_plan(images_of(of_image), recipe, 0)
    counted = Counter(zip(plan["landmark_id"].to_pylist(), plan["outcome"].to_pylist(), strict=True))
    assert counted == {(3, TOO_SMALL): 3, (4, COMPARED): 4, (6, COMPARED): 6, (7, COMPARED): 6, (7, BEYOND_CAP): 1}


def test_a_class_smaller_than_the_fewest_is_too_small_even_where_the_cap_is_lower_still() -> None:
    plan = comparison_plan(images_of([1] * 5), Verification(min_class=6, cap=2, keep=1), 0)
    assert set(outcomes(plan).values()) == {TOO_SMALL}


@given(landmarks, recipes, st.randoms(use_true_random=False))
def test_neither_the_order_of_rows_nor_other_landmarks_change_a_choice(
    of_image: list[int], recipe: Verification, random: Random
) -> None:
    images = images_of(of_image)
    found = outcomes(comparison_plan(images, recipe, 5))
    order = list(range(images.num_rows))
    random.shuffle(order)
    shuffled = images.take(pa.array(order, pa.int64()))
    assert outcomes(comparison_plan(shuffled, recipe, 5)) == found
    alone: dict[str, str] = {}
    for landmark in set(of_image):
        mine = pa.array([of == landmark for of in images["landmark_id"].to_pylist()])
        alone |= outcomes(comparison_plan(images.filter(mine), recipe, 5))
    assert alone == found


@given(st.integers(21, 60), st.integers(2, 20), st.integers(0, 9))
def test_an_image_more_takes_the_place_of_one_at_most(count: int, cap: int, seed: int) -> None:
    recipe = Verification(min_class=2, cap=cap, keep=1)
    before, after = (
        {name for name, word in outcomes(comparison_plan(images_of([1] * n), recipe, seed)).items() if word == COMPARED}
        for n in (count, count + 1)
    )
    assert len(before) == len(after) == cap
    assert len(before - after) == len(after - before) <= 1
    assert after - before <= {identifier(count)}


def test_another_seed_compares_others() -> None:
    recipe = Verification(cap=50, keep=1)
    found = [outcomes(comparison_plan(images_of([1] * 200), recipe, seed)) for seed in (0, 1)]
    compared = [{name for name, word in of.items() if word == COMPARED} for of in found]
    assert len(compared[0]) == len(compared[1]) == 50
    # Two draws of 50 of 200 have 12.5 in common, by chance (standard deviation 2.7).
    assert 1 <= len(compared[0] & compared[1]) <= 26


@given(
    st.lists(st.integers(0, 2**31 - 1) | st.integers(-(2**63), 2**63 - 1), max_size=60, unique=True),
    st.integers(1, 10_000),
)
def test_buckets_are_stretches_of_one_order(ids: list[int], buckets: int) -> None:
    of = np.array(ids, np.int64)
    order = landmark_order(of)
    assert order.tolist() == [splitmix64(value % 2**64) for value in ids]
    found = buckets_of(of, buckets)
    assert ((found >= 0) & (found < buckets)).all()
    rising = found[np.argsort(order)]
    assert (np.diff(rising) >= 0).all()
    # Equal stretches: a bucket begins at its share of all orders, by arithmetic without bounds.
    assert found.tolist() == [((splitmix64(value % 2**64) >> 32) * buckets) >> 32 for value in ids]


@pytest.mark.parametrize("buckets", [1, 3, 4, 16, 100])
def test_buckets_are_about_equally_large_on_landmarks_as_they_are_numbered(buckets: int) -> None:
    counts = np.bincount(buckets_of(np.arange(50_000), buckets), minlength=buckets)
    mean = 50_000 / buckets
    assert np.abs(counts - mean).max() < 5 * np.sqrt(mean)


@given(st.integers(1, 10_000))
def test_keys_are_numbers_as_long_as_one_another(buckets: int) -> None:
    keys = bucket_keys(buckets)
    assert [int(key) for key in keys] == list(range(buckets))
    assert len({len(key) for key in keys}) == 1
    assert keys == sorted(keys)


def test_keys_have_two_digits_or_as_many_as_the_last() -> None:
    assert bucket_keys(1) == ["00"]
    assert (bucket_keys(100)[0], bucket_keys(100)[-1]) == ("00", "99")
    assert (bucket_keys(101)[0], bucket_keys(101)[-1]) == ("000", "100")


def catalog_row(image: int, shard: str, status: str, landmark: int | None, split: str = "train") -> dict[str, object]:
    row = dict.fromkeys(IMAGE_CATALOG.schema.names)
    row |= {"split": split, "shard": shard, "id": identifier(image), "landmark_id": landmark, "status": status}
    row |= {"member": f"{image}.jpg", "kind": "file", "source_path": f"{split}/{shard}", "source_offset": image}
    return row | {"source_size": 1, "reason": "" if status == "stored" else "why"}


def test_what_is_cleaned_is_what_the_manifest_keeps(store: Store) -> None:
    for name, table in (("train_manifest", TRAIN_MANIFEST), ("deduped_manifest", DEDUPED_MANIFEST)):
        recipe = Verification(manifest=name)
        with pytest.raises(MissingInputError, match=name):
            set_to_clean(store, recipe)
        rows = [
            dict.fromkeys(table.schema.names)
            | {"id": identifier(n), "landmark_id": n % 5, "decision": decision, "reason": ""}
            | {"shard": f"{n % 3:03d}" if decision != "failed" else None}
            for n, decision in enumerate(["kept", "dropped", "failed", "kept", "kept", "dropped"])
        ]
        if table is TRAIN_MANIFEST:
            rows = [row | {"origin": "extra"} for row in rows]
        write_made(store, name, table, rows[::-1])
        found = set_to_clean(store, recipe)
        wanted = sorted((identifier(n), n % 5, f"{n % 3:03d}") for n in (0, 3, 4))
        assert [tuple(row.values()) for row in found.to_pylist()] == wanted
        assert found.column_names == ["id", "landmark_id", "shard"]


def test_what_is_cleaned_is_every_stored_image_of_a_landmark(store: Store) -> None:
    recipe = Verification(manifest="stored")
    with pytest.raises(MissingInputError, match="image_catalog"):
        set_to_clean(store, recipe)
    rows = [
        catalog_row(0, "000", "stored", 8),
        catalog_row(1, "000", "failed", 8),
        catalog_row(2, "000", "skipped", 9),
        catalog_row(3, "000", "stored", None),  # of no train table
        catalog_row(4, "000", "failed", 9),
        catalog_row(4, "001", "stored", 9),
        catalog_row(5, "001", "stored", 2**40),
        catalog_row(6, "000", "stored", 3, "index"),
        catalog_row(7, "000", "stored", 3, "test"),
    ]
    write_made(store, "image_catalog", IMAGE_CATALOG, rows)
    found = set_to_clean(store, recipe).to_pylist()
    wanted = [(0, 8, "000"), (4, 9, "001"), (5, 2**40, "001")]
    assert [tuple(row.values()) for row in found] == sorted((identifier(n), of, shard) for n, of, shard in wanted)
