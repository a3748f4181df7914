from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.curation.fill import NO_BITS, fill, make_fill_shortfall, make_train_extra, shortfall
from glr_assets.curation.schemas import FILL_SHORTFALL, TRAIN_EXTRA
from glr_assets.planning.schemas import CLASS_COUNTS, FILL_PLAN
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets.tables import problems, read_table, write_table
from glr_assets_tests.curation.test_diversity import bits
from glr_assets_tests.images.handmade import TINY, Bucket, identifier, make_curated, photo, picture, tar_of

PLAN = pa.schema(
    {
        "id": pa.string(),
        "landmark_id": pa.int64(),
        "rank": pa.int64(),
        "role": pa.string(),
        "shard": pa.string(),
        "status": pa.string(),
        "reason": pa.string(),
        "dhash": pa.uint64(),
    }
)
PRESENT = pa.schema({"id": pa.string(), "landmark_id": pa.int64(), "dhash": pa.uint64()})

hashes = st.integers(0, 15) | st.integers(0, 2**64 - 1)
#: Of each landmark: images of the competition's set, the hashes of those that train, how many others there are, and
#: the hash of each of these that is stored.
Landmark = tuple[int, list[int], int, list[int | None]]
landmarks = st.lists(
    st.tuples(
        st.integers(1, 6),
        st.lists(hashes, max_size=6),
        st.integers(0, 6),
        st.lists(st.none() | hashes, min_size=10, max_size=10),
    ),
    max_size=6,
)


def inputs(of: list[Landmark], threshold: int) -> tuple[pa.Table, pa.Table]:
    """A plan as the planning stage makes it for these landmarks, and the images of the competition's set that train."""
    plan, present = [], []
    for landmark, (count, trains, available, stored) in enumerate(of):
        need = max(0, threshold - count)
        for rank in range(min(available, need + 2) if need else 0):
            plan.append(
                {
                    "id": f"{landmark}-{rank}",
                    "landmark_id": landmark,
                    "rank": rank,
                    "role": "extra" if rank < need else "reserve",
                    "shard": "000" if stored[rank] is not None else None,
                    "status": "stored" if stored[rank] is not None else "missing",
                    "reason": "" if stored[rank] is not None else f"why {rank}",
                    "dhash": stored[rank],
                }
            )
        present += [
            {"id": f"c{landmark}-{number}", "landmark_id": landmark, "dhash": value}
            for number, value in enumerate(trains[:count])
        ]
    return pa.Table.from_pylist(plan, schema=PLAN), pa.Table.from_pylist(present, schema=PRESENT)


def filled_by_hand(
    plan: list[dict], present: list[dict], threshold: int, limit: int, leaks: dict[str, tuple[str, int]]
) -> dict[str, tuple[str, str, str | None]]:
    found: dict[str, tuple[str, str, str | None]] = {}
    training = {landmark: [] for landmark in {row["landmark_id"] for row in plan}}
    for row in present:
        training.setdefault(row["landmark_id"], []).append(row)
    for row in sorted(plan, key=lambda row: (row["landmark_id"], row["rank"])):
        mine = training[row["landmark_id"]]
        near = (
            [(bits(row["dhash"], other["dhash"]), n) for n, other in enumerate(mine)]
            if row["dhash"] is not None
            else []
        )
        extra = row["role"] == "extra"
        if row["status"] != "stored":
            found[row["id"]] = ("failed", row["reason"], None)
        elif row["id"] in leaks:
            partner, distance = leaks[row["id"]]
            found[row["id"]] = ("dropped", f"like a test image: {partner}, {distance} bits apart", partner)
        elif len(mine) >= threshold:
            word = f"extra beyond {threshold} images of its class" if extra else "reserve that was not needed"
            found[row["id"]] = ("dropped", word, None)
        elif near and min(near)[0] <= limit:
            distance, place = min(near)
            partner = mine[place]["id"]
            word = f"near-duplicate of an image that trains: {partner}, {distance} bits apart"
            found[row["id"]] = ("dropped", word, partner)
        else:
            mine.append(row)
            word = f"fills its class up to {threshold}"
            found[row["id"]] = ("kept", word if extra else "reserve in the place of an image that cannot be used", None)
    return found


def leaks_of(found: dict[str, tuple[str, int]]) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(found.keys(), pa.string()),
            "partner": pa.array([partner for partner, _ in found.values()], pa.string()),
            "distance": pa.array([distance for _, distance in found.values()], pa.int32()),
            "same_file": pa.array([distance == 0 for _, distance in found.values()], pa.bool_()),
        }
    )


@given(landmarks, st.integers(0, 8), st.integers(-1, 8), st.none() | st.sets(st.integers(0, 5)))
@settings(max_examples=150)
def test_decisions_are_those_made_one_by_one(
    of: list[Landmark], threshold: int, limit: int, leaking: set[int] | None
) -> None:
    plan, present = inputs(of, threshold)
    leaks = {f"0-{rank}": (f"t{rank}", rank % 3) for rank in sorted(leaking or ())}
    found = fill(plan, present, threshold, limit, None if leaking is None else leaks_of(leaks))
    assert problems(TRAIN_EXTRA, found) == []
    decided = {row["id"]: (row["decision"], row["reason"], row["partner"]) for row in found.to_pylist()}
    assert decided == filled_by_hand(plan.to_pylist(), present.to_pylist(), threshold, limit, leaks)
    assert found["id"].to_pylist() == sorted(plan["id"].to_pylist())


@given(landmarks, st.integers(0, 8), st.integers(-1, 8))
@settings(max_examples=100)
def test_no_class_passes_the_threshold_and_none_stays_short_while_another_candidate_is_left(
    of: list[Landmark], threshold: int, limit: int
) -> None:
    plan, present = inputs(of, threshold)
    hash_of = {row["id"]: row["dhash"] for row in plan.to_pylist() + present.to_pylist()}
    rows = fill(plan, present, threshold, limit).to_pylist()
    for landmark in range(len(of)):
        before = [row["id"] for row in present.to_pylist() if row["landmark_id"] == landmark]
        mine = [row for row in rows if row["landmark_id"] == landmark]
        kept = [row["id"] for row in mine if row["decision"] == "kept"]
        assert len(before) + len(kept) <= max(threshold, len(before))
        trains = [*before, *kept]
        for extra in kept:
            others = [hash_of[other] for other in trains if other != extra]
            assert all(bits(hash_of[extra], other) > limit for other in others)
        if len(trains) < threshold:
            for row in mine:
                if row["decision"] == "dropped":
                    assert min(bits(hash_of[row["id"]], hash_of[other]) for other in trains) <= limit


@given(landmarks, st.integers(-1, 8), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_rows_in_any_order_give_the_same_bytes(of: list[Landmark], limit: int, random: Random) -> None:
    plan, present = inputs(of, 5)
    files = []
    for shuffled in (False, True):
        tables = [
            table.take(pa.array(random.sample(range(table.num_rows), table.num_rows), pa.int64()))
            if shuffled
            else table
            for table in (plan, present)
        ]
        file = io.BytesIO()
        write_table(TRAIN_EXTRA, fill(*tables, 5, limit), file)
        files.append(file.getvalue())
    assert files[0] == files[1]


def decisions(found: pa.Table) -> list[tuple[str, str]]:
    return [(row["id"], row["decision"]) for row in found.to_pylist()]


def test_a_worked_example() -> None:
    # 3 in the competition's set, 1 of them corrupt; threshold 5: 2 extras and 2 reserves, the first extra corrupt.
    plan, present = inputs([(3, [1, 2], 4, [None, 1 << 20, 1 << 30, 1 << 40, *[None] * 6])], threshold=5)
    assert decisions(fill(plan, present, 5)) == [("0-0", "failed"), ("0-1", "kept"), ("0-2", "kept"), ("0-3", "kept")]


def test_near_duplicates_are_passed_over_and_the_reserves_stand_in() -> None:
    # One image trains; the first extra is 1 bit from it, the second new, the first reserve like the second.
    plan, present = inputs([(2, [0xFF00], 5, [0xFF01, 0xF0F00, 0xF0F00, 1 << 40, *[None] * 6])], threshold=4)
    rows = {
        row["id"]: (row["decision"], row["partner"], row["distance"]) for row in fill(plan, present, 4, 3).to_pylist()
    }
    assert rows == {
        "0-0": ("dropped", "c0-0", 1),
        "0-1": ("kept", None, None),
        "0-2": ("dropped", "0-1", 0),
        "0-3": ("kept", None, None),
    }
    assert [row for _, row in decisions(fill(plan, present, 4, NO_BITS))] == ["kept", "kept", "kept", "dropped"]


def test_an_extra_of_a_plan_for_a_higher_threshold_is_dropped_as_that() -> None:
    plan, present = inputs([(1, [0], 6, [1 << (4 * n) for n in range(10)])], threshold=4)
    rows = fill(plan, present, 2).to_pylist()
    assert [(row["decision"], row["reason"]) for row in rows] == [
        ("kept", "fills its class up to 2"),
        ("dropped", "extra beyond 2 images of its class"),
        ("dropped", "extra beyond 2 images of its class"),
        ("dropped", "reserve that was not needed"),
        ("dropped", "reserve that was not needed"),
    ]


@pytest.mark.parametrize("threshold", [0, 20])
def test_an_empty_plan_fills_nothing(threshold: int) -> None:
    plan, present = inputs([], threshold)
    found = fill(plan, present, threshold, 3, leaks_of({}))
    assert found.num_rows == 0
    assert found.schema.equals(TRAIN_EXTRA.empty().schema, check_metadata=False) or problems(TRAIN_EXTRA, found) == []


@given(landmarks, st.integers(0, 8), st.integers(-1, 8))
@settings(max_examples=80)
def test_the_shortfall_of_each_class_is_counted(of: list[Landmark], threshold: int, limit: int) -> None:
    plan, present = inputs(of, threshold)
    extra = fill(plan, present, threshold, limit)
    deduped, counts = [], []
    for landmark, (count, trains, available, _) in enumerate(of):
        trains = trains[:count]
        words = ["kept"] * len(trains) + ["failed"] * (count - len(trains))
        deduped += [{"id": f"{landmark}{n}", "landmark_id": landmark, "decision": word} for n, word in enumerate(words)]
        counts.append(
            {
                "landmark_id": landmark,
                "train_images": count + available,
                "competition_images": count,
                "extra_images": available,
            }
        )
    counts.append({"landmark_id": 99, "train_images": 5, "competition_images": 0, "extra_images": 5})
    schema = pa.schema({"id": pa.string(), "landmark_id": pa.int64(), "decision": pa.string()})
    found = shortfall(pa.Table.from_pylist(deduped, schema=schema), extra, CLASS_COUNTS.rows(counts), threshold)
    assert problems(FILL_SHORTFALL, found) == []
    rows = {row["landmark_id"]: row for row in found.to_pylist()}
    planned = Counter(plan["landmark_id"].to_pylist())
    for landmark, (count, trains, available, _) in enumerate(of):
        mine = Counter(row["decision"] for row in extra.to_pylist() if row["landmark_id"] == landmark)
        have = len(trains[:count]) + mine["kept"]
        assert (landmark in rows) == (have < threshold)
        if landmark in rows:
            row = rows[landmark]
            assert (row["short"], row["from_competition"], row["extras"]) == (
                threshold - have,
                len(trains[:count]),
                mine["kept"],
            )
            assert row["failed"] == count - len(trains[:count]) + mine["failed"]
            assert row["passed_over"] == mine["dropped"]
            assert (row["unplanned"], row["exhausted"]) == (
                available - planned[landmark],
                available == planned[landmark],
            )


def test_the_assets_tell_who_stays_short_and_whether_more_reserves_would_help(tmp_path: Path, store: Store) -> None:
    # Threshold 3, 1 reserve. 1: filled. 2: one image, none beside it. 3: one image and others that are alike.
    of = {1: 4, 2: 1, 3: 1}
    train: dict[str, int] = {}
    data: dict[str, bytes] = {}
    competition = []
    for landmark, count in of.items():
        for number in range(count):
            image_id = identifier(100 * landmark + number)
            competition.append(image_id)
            train[image_id], data[image_id] = landmark, picture(100 * landmark + number)
    for number in range(4):
        image_id = identifier(390 + number)
        train[image_id], data[image_id] = 3, picture(390)
    shard = tar_of([photo(image_id, data[image_id]) for image_id in train])
    source = BucketSource(Bucket(train, competition, {"train": {"000": shard}}).write(tmp_path / "bucket"))
    recipe = TINY.overridden({"fill": {"threshold": 3, "reserves": 1}})
    made = make_curated(source, store, recipe)
    rows = read_table(store, FILL_SHORTFALL).to_pylist()
    common = {"failed": 0, "from_competition": 1}
    assert rows == [
        common | {"landmark_id": 2, "extras": 0, "short": 2, "passed_over": 0, "unplanned": 0, "exhausted": True},
        common | {"landmark_id": 3, "extras": 1, "short": 1, "passed_over": 2, "unplanned": 1, "exhausted": False},
    ]
    assert made["fill_shortfall"].receipt.summary == {
        "rows": 2,
        "classes": 3,
        "shortfall": 3,
        "exhausted": 1,
        "shortfall_more_reserves_could_fill": 1,
    }
    summary = made["train_extra"].receipt.summary
    assert (summary["kept"], summary["passed_over"]) == (1, 2)
    assert (summary["classes_short"], summary["shortfall"]) == (2, 3)
    assert read_table(store, FILL_PLAN).num_rows == 3
    assert make_train_extra(store, recipe.fill, recipe.dedupe).reused
    every = make_train_extra(store, recipe.overridden({"fill": {"variety": False}}).fill, recipe.dedupe)
    assert (every.receipt.summary["kept"], every.receipt.summary["shortfall"]) == (2, 2)
    assert make_fill_shortfall(store, 3).receipt.summary["exhausted"] == 1
