"""Grouping: which landmarks go together, who is held out, and that no order of rows decides on it."""

from __future__ import annotations

import io
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glr_assets.errors import RecipeError
from glr_assets.recipes import Groups, Recipe
from glr_assets.training.groups import CALIBRATION, FOLDS, TRAIN, VALIDATION, group_keys, grouped, groups_of


def images(sizes: dict[int, int]) -> pa.Table:
    rows = sorted((f"{landmark}-{n:03d}", landmark) for landmark, count in sizes.items() for n in range(count))
    return pa.table(
        {
            "id": pa.array([i for i, _ in rows], pa.string()),
            "landmark_id": pa.array([c for _, c in rows], pa.int64()),
            "shard": pa.array(["000"] * len(rows), pa.string()),
        }
    )


def by_landmark(table: pa.Table) -> dict[int, list[dict[str, object]]]:
    found: dict[int, list[dict[str, object]]] = defaultdict(list)
    for row in table.to_pylist():
        found[row["landmark_id"]].append(row)
    return found


def groups(sizes: dict[int, int], recipe: Groups) -> dict[int, int]:
    found = groups_of(np.array(list(sizes)), np.array(list(sizes.values())), recipe)
    return dict(zip(sizes, found.tolist(), strict=True))


def test_the_first_group_goes_to_ten_and_the_others_hold_equally_many_images() -> None:
    # 10 is the first group's last size. The rest, 4 x 12 + 2 x 24 = 96 images, is two groups of 48.
    sizes = {1: 5, 2: 6, 3: 10, 4: 12, 5: 12, 6: 12, 7: 12, 8: 24, 9: 24}
    assert groups(sizes, Groups(count=3)) == {1: -1, 2: 0, 3: 0, 4: 1, 5: 1, 6: 1, 7: 1, 8: 2, 9: 2}


def test_landmarks_of_one_size_are_parted_by_their_ids() -> None:
    assert groups(dict.fromkeys((40, 10, 30, 20), 14), Groups(count=3)) == {10: 1, 20: 1, 30: 2, 40: 2}


def test_bounds_of_the_recipe_are_taken_as_they_are_and_large_landmarks_belong_to_the_last() -> None:
    recipe = Groups(count=3, bounds=(6, 20, 50))
    assert groups({1: 5, 2: 6, 3: 19, 4: 20, 5: 49, 6: 50, 7: 900}, recipe) == {
        1: -1, 2: 0, 3: 0, 4: 1, 5: 1, 6: 2, 7: 2,
    }  # fmt: skip


def test_no_landmark_is_left_alone_and_what_is_left_over_is_empty() -> None:
    assert groups({1: 7, 2: 30, 3: 40, 4: 50}, Groups(count=11)) == {1: 0, 2: 0, 3: 1, 4: 1}
    assert groups({1: 30, 2: 40, 3: 50}, Groups(count=11)) == {1: 1, 2: 1, 3: 1}
    assert groups({1: 7, 2: 8, 3: 50}, Groups(count=2)) == {1: 0, 2: 0, 3: 0}
    assert groups({1: 7}, Groups(count=11)) == {1: 0}
    assert groups({1: 3}, Groups(count=11)) == {1: -1}
    assert groups({}, Groups(count=11)) == {}


SIZES = st.dictionaries(st.integers(0, 10**6), st.integers(1, 130), max_size=25)
RECIPES = st.builds(Groups, count=st.integers(1, 13), outsiders=st.just(0.0))


@given(SIZES, RECIPES)
def test_groups_rise_with_size_and_hold_two_landmarks_or_more(sizes: dict[int, int], recipe: Groups) -> None:
    found = groups(sizes, recipe)
    inside = sorted((min(sizes[landmark], 100), landmark) for landmark, group in found.items() if group >= 0)
    assert all((sizes[landmark] < 6) == (group < 0) for landmark, group in found.items())
    order = [found[landmark] for _, landmark in inside]
    assert order == sorted(order)
    assert all(0 <= group < recipe.count for group in order)
    if len(inside) > 1:
        assert min(Counter(order).values()) > 1
    # What is left over is at the end: no group after the first is empty before one that is not.
    assert set(range(1, max(order, default=0))) <= set(order)


@given(SIZES, RECIPES, st.integers(0, 3))
def test_every_image_is_for_one_thing_and_every_landmark_trains_and_is_validated(
    sizes: dict[int, int], recipe: Groups, seed: int
) -> None:
    table = grouped(images(sizes), recipe, seed)
    assert table["id"].to_pylist() == images(sizes)["id"].to_pylist()
    for landmark, rows in by_landmark(table).items():
        used = [row for row in rows if row["group"] is not None]
        assert all((row["fold"] is None) == (row["group"] is None) == bool(row["reason"]) for row in rows)
        assert len(used) == (min(sizes[landmark], 100) if sizes[landmark] >= 6 else 0)
        if not used:
            assert {row["reason"] for row in rows} == {"landmark has fewer than 6 images"}
            continue
        assert len({row["group"] for row in used}) == 1
        folds = Counter(row["fold"] for row in used)
        position = int(str(used[0]["group"])) / max(recipe.count - 1, 1)
        share = 0.4 - 0.2 * position
        held = folds[VALIDATION] + folds[CALIBRATION]
        assert abs(held - share * len(used)) < 1
        assert folds[VALIDATION] >= 1
        assert folds[TRAIN] >= 1
        assert folds[VALIDATION] - folds[CALIBRATION] in {0, 1}
        assert {row["reason"] for row in rows} <= {"", "beyond the 100 images of a landmark that are used"}


@given(
    st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=7), min_size=1, max_size=6),
    st.integers(0, 50),
    st.integers(4, 30),
)
def test_near_duplicates_are_in_one_fold(sizes: list[list[int]], seed: int, largest: int) -> None:
    of = [
        (f"{landmark}-{group}-{n}", landmark, f"{landmark}-{group}-0")
        for landmark, of_landmark in enumerate(sizes)
        for group, size in enumerate(of_landmark)
        for n in range(size)
    ]
    names = [name for name, _, _ in of]
    table = pa.table(
        {
            "id": pa.array(names),
            "landmark_id": pa.array([landmark for _, landmark, _ in of], pa.int64()),
            "shard": pa.array(["000"] * len(of)),
        }
    )
    recipe = Groups(count=2, smallest=2, first=3, largest=largest)
    duplicates = np.array([names.index(first) for _, _, first in of])
    found = grouped(table, recipe, seed, duplicates).to_pylist()
    folds: dict[str, set[str]] = defaultdict(set)
    for row, (_, _, first) in zip(found, of, strict=True):
        if row["group"] is not None:
            folds[first].add(row["fold"])
    assert all(len(parts) == 1 for parts in folds.values())
    for landmark, of_landmark in enumerate(sizes):
        used = [row for row in found if row["landmark_id"] == landmark and row["group"]]
        assert not used or TRAIN in {row["fold"] for row in used}
        assert len(used) in {0, min(largest, sum(of_landmark))}
        if len(of_landmark) == 1:
            assert {row["fold"] for row in used} <= {TRAIN}
    alone = grouped(table, recipe, seed, np.arange(len(of)))
    assert alone.equals(grouped(table, recipe, seed))


def test_shares_are_met_over_many_landmarks_of_pairs() -> None:
    table = images(dict.fromkeys(range(400), 10))
    pairs = np.arange(4000) - np.arange(4000) % 2
    folds = Counter(
        grouped(table, Groups(count=1, validation_first=0.3, validation_last=0.3), 5, pairs)["fold"].to_pylist()
    )
    # Of ten images three are held out, of which one calibrates.
    assert folds[CALIBRATION] == pytest.approx(400, rel=0.15)
    assert folds[VALIDATION] == pytest.approx(800, rel=0.1)


@given(SIZES, st.randoms(use_true_random=False), st.integers(0, 3))
def test_no_order_of_rows_decides(sizes: dict[int, int], random: object, seed: int) -> None:
    table = images(sizes)
    order = list(range(table.num_rows))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = grouped(table.take(pa.array(order, pa.int64())), Groups(count=4), seed)
    assert shuffled.sort_by("id").to_pylist() == grouped(table, Groups(count=4), seed).to_pylist()


def test_who_is_held_out_of_a_landmark_depends_on_no_other_landmark() -> None:
    one, two = (grouped(images(sizes), Groups(count=1), 5) for sizes in ({3: 20}, {1: 9, 3: 20, 7: 60}))
    told = [{row["id"]: row["fold"] for row in by_landmark(table)[3]} for table in (one, two)]
    assert told[0] == told[1]
    assert set(told[0].values()) == set(FOLDS)


def test_another_seed_holds_others_out() -> None:
    folds = [grouped(images({3: 60}), Groups(), seed)["fold"].to_pylist() for seed in (0, 1)]
    assert folds[0] != folds[1]


def test_shares_are_met_over_many_landmarks_of_few_images() -> None:
    # 40 % of 6 is 2.4: two or three held out, by a coin that has 2.4 as its mean (four deviations: .2).
    table = grouped(images(dict.fromkeys(range(100), 6)), Groups(bounds=(6,), count=1, validation_last=0.4), 0)
    folds = Counter(table["fold"].to_pylist())
    assert (folds[VALIDATION] + folds[CALIBRATION]) / 100 == pytest.approx(2.4, abs=0.2)


def test_keys_count_from_two_digits() -> None:
    assert group_keys(Groups()) == [f"{n:02d}" for n in range(11)]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"bounds": [6, 20]}, r"\[groups\] bounds = \[6, 20\], expected 11 rising numbers"),
        ({"bounds": [20, 6], "count": 2}, r"expected 2 rising numbers"),
        ({"bounds": [5, 20], "count": 2}, r"expected from smallest to largest"),
        ({"first": 200}, r"smallest = 6, first = 200, largest = 100, expected in rising order"),
        ({"dropout": 1}, r"\[groups\] dropout = 1"),
    ],
)
def test_what_cannot_be_grouped_is_refused_by_name(values: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        Recipe(name="mine").overridden({"groups": values})


def test_the_picture_is_a_picture_and_repeats() -> None:
    from glr_assets.plots import groups_of_images

    counts = {fold: np.array([3, 0, 5]) for fold in FOLDS}
    first = groups_of_images(["00", "01", "02"], np.array([2, 0, 3]), counts)
    assert first == groups_of_images(["00", "01", "02"], np.array([2, 0, 3]), counts)
    assert first != groups_of_images(["00", "01", "02"], np.array([2, 0, 4]), counts)
    assert Image.open(io.BytesIO(first)).width == 700
