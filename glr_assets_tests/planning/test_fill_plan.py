from __future__ import annotations

import io
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.metadata.schemas import TRAIN_METADATA
from glr_assets.planning.class_counts import count_classes
from glr_assets.planning.fill_plan import make_fill_plan, plan_fill
from glr_assets.planning.schemas import CLASS_COUNTS, FILL_PLAN
from glr_assets.recipes import Fill
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets.tables import problems, read_table, write_table
from glr_assets_tests.images.handmade import TINY, Bucket, identifier, make_tables
from glr_assets_tests.planning.test_class_counts import images_of_classes, tables_of
from glr_assets_tests.test_seeded import reference

recipes = st.builds(Fill, threshold=st.integers(0, 12), reserves=st.integers(0, 4))


def plan(train: pa.Table, competition: pa.Table, recipe: Fill, seed: int = 0) -> pa.Table:
    return plan_fill(train, competition, count_classes(train, competition), recipe, seed)


def parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    write_table(FILL_PLAN, table, file)
    return file.getvalue()


def planned_by_hand(images: list[tuple[int, bool]], recipe: Fill, seed: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for landmark in sorted({landmark for landmark, clean in images if clean}):
        count = sum(clean for of, clean in images if of == landmark)
        need = recipe.threshold - count
        if need <= 0:
            continue
        candidates = [f"{n:04x}" for n, (of, clean) in enumerate(images) if of == landmark and not clean]
        candidates.sort(key=lambda image_id: (reference(image_id, seed, "fill"), image_id))
        rows += [
            {"id": image_id, "landmark_id": landmark, "rank": rank, "role": "extra" if rank < need else "reserve"}
            for rank, image_id in enumerate(candidates[: need + recipe.reserves])
        ]
    return rows


@given(images_of_classes, recipes, st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_plan_is_the_one_made_by_hand(images: list[tuple[int, bool]], recipe: Fill, seed: int) -> None:
    found = plan(*tables_of(images), recipe, seed)
    assert problems(FILL_PLAN, found.cast(FILL_PLAN.schema)) == []
    assert found.to_pylist() == planned_by_hand(images, recipe, seed)


@given(images_of_classes, recipes)
@settings(max_examples=60, deadline=None)
def test_plan_takes_what_is_needed_of_competition_classes_and_no_competition_image(
    images: list[tuple[int, bool]], recipe: Fill
) -> None:
    train, competition = tables_of(images)
    found = plan(train, competition, recipe).to_pylist()
    landmark_of = dict(zip(train["id"].to_pylist(), train["landmark_id"].to_pylist(), strict=True))
    assert not {row["id"] for row in found} & set(competition["id"].to_pylist())
    assert {row["landmark_id"] for row in found} <= set(competition["landmark_id"].to_pylist())
    assert all(landmark_of[row["id"]] == row["landmark_id"] for row in found)
    for row in count_classes(train, competition).to_pylist():
        roles = [found_row["role"] for found_row in found if found_row["landmark_id"] == row["landmark_id"]]
        need = max(0, recipe.threshold - row["competition_images"]) if row["competition_images"] else 0
        extras = min(need, row["extra_images"])
        reserves = min(recipe.reserves, row["extra_images"] - extras) if need else 0
        assert roles == ["extra"] * extras + ["reserve"] * reserves


@given(images_of_classes, recipes, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_rows_in_any_order_give_the_same_bytes(images: list[tuple[int, bool]], recipe: Fill, random: Random) -> None:
    train, competition = tables_of(images)
    mixed = [table.take(shuffled(table.num_rows, random)) for table in (train, competition)]
    assert parquet(plan(*mixed, recipe)) == parquet(plan(train, competition, recipe))


def shuffled(n: int, random: Random) -> pa.Array:
    rows = list(range(n))
    random.shuffle(rows)
    return pa.array(rows, pa.int64())


def test_another_seed_chooses_others_but_as_many() -> None:
    train, competition = tables_of([(1, number < 3) for number in range(60)])
    first, second = (plan(train, competition, Fill(threshold=20, reserves=5), seed) for seed in (0, 1))
    assert first.num_rows == second.num_rows == 22
    shared = set(first["id"].to_pylist()) & set(second["id"].to_pylist())
    assert len(shared) < 22


def test_choice_favours_no_place_in_the_table() -> None:
    train, competition = tables_of([(1, number < 1) for number in range(41)])
    chosen = np.zeros(41)
    for seed in range(200):
        ids = plan(train, competition, Fill(threshold=11, reserves=0), seed)["id"].to_pylist()
        chosen[[int(image_id, 16) for image_id in ids]] += 1
    assert chosen[0] == 0
    # Each of 40 candidates is one of 10 in 200 plans: 50 times, standard deviation 6.1.
    assert np.abs(chosen[1:] - 50).max() < 4 * 6.13


@pytest.mark.parametrize(
    ("images", "recipe"),
    [
        ([(1, True), (1, False)], Fill(threshold=0, reserves=5)),
        ([(1, True), (1, True), (1, False)], Fill(threshold=2, reserves=5)),
        ([(1, True), (2, True)], Fill(threshold=20, reserves=5)),
        ([(1, False), (2, False)], Fill(threshold=20, reserves=5)),
        ([], Fill(threshold=20, reserves=5)),
        ([(1, True), (1, False)], Fill(threshold=1, reserves=1000)),
    ],
    ids=["threshold 0", "class is full", "no candidates", "no competition", "no images", "reserves of none"],
)
def test_nothing_to_plan_is_an_empty_plan(images: list[tuple[int, bool]], recipe: Fill) -> None:
    found = plan(*tables_of(images), recipe)
    assert found.num_rows == 0
    parquet(found)


def test_the_asset_sums_up_extras_reserves_and_shortfall(tmp_path: Path, store: Store) -> None:
    # Landmark 1: 2 of 10 in the competition; 2: 1 of 2; 3: not in the competition; 4: full.
    landmarks = [1] * 10 + [2] * 2 + [3] * 4 + [4] * 6
    clean = [*range(2), 10, *range(16, 22)]
    train = {identifier(n): landmark for n, landmark in enumerate(landmarks)}
    bucket = Bucket(train, [identifier(n) for n in clean]).write(tmp_path / "bucket")
    recipe = TINY.overridden({"fill": {"threshold": 5, "reserves": 2}})
    make_tables(BucketSource(bucket), store, recipe)
    made = make_fill_plan(store, recipe.fill, recipe.seed)
    assert made.reused
    # Landmark 1 takes 3 and holds 2; landmark 2 takes its only 1 of the 4 it needs.
    assert made.receipt.summary == {
        "rows": 6,
        "extras": 4,
        "reserves": 2,
        "classes_below": 2,
        "classes_filled": 2,
        "classes_exhausted": 1,
        "shortfall": 3,
    }
    assert read_table(store, FILL_PLAN).num_rows == 6
    assert read_table(store, CLASS_COUNTS).num_rows == 4
    again = make_fill_plan(store, recipe.fill, seed=1)
    assert not again.reused
    assert again.receipt.summary == made.receipt.summary


def test_rows_of_the_csvs_in_any_order_and_repeated_give_the_same_plan(tmp_path: Path, store: Store) -> None:
    train = {identifier(n): n % 5 for n in range(60)}
    bucket = Path(Bucket(train, [identifier(n) for n in range(0, 60, 4)]).write(tmp_path / "bucket"))
    recipe = TINY.overridden({"fill": {"threshold": 7, "reserves": 2}})
    make_tables(BucketSource(str(bucket)), store, recipe)
    assert read_table(store, FILL_PLAN).num_rows > 10
    random = Random(0)
    for name in ("train", "train_clean"):
        path = bucket / f"metadata/{name}.csv"
        head, *rows = path.read_text().splitlines()
        mixed = [*rows, *rows[:3]]
        random.shuffle(mixed)
        path.write_text("\n".join([head, *mixed]) + "\n")
    other = Store(str(tmp_path / "other"))
    make_tables(BucketSource(str(bucket)), other, recipe)
    for table in (FILL_PLAN, CLASS_COUNTS, TRAIN_METADATA):
        assert other.read(table.path) == store.read(table.path)
