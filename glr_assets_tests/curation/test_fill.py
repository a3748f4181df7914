from __future__ import annotations

import io
from collections import Counter
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.curation.fill import fill
from glr_assets.curation.schemas import TRAIN_EXTRA
from glr_assets.tables import problems, write_table

PLAN = pa.schema(
    {
        "id": pa.string(),
        "landmark_id": pa.int64(),
        "rank": pa.int64(),
        "role": pa.string(),
        "shard": pa.string(),
        "status": pa.string(),
        "reason": pa.string(),
    }
)

#: Of each landmark: its images in the competition's set, how many of them are stored, extras and reserves planned,
#: and which planned images are stored.
landmarks = st.lists(
    st.tuples(
        st.integers(1, 6), st.integers(0, 6), st.integers(0, 6), st.lists(st.booleans(), min_size=10, max_size=10)
    ),
    max_size=6,
)


def inputs(of: list[tuple[int, int, int, list[bool]]], threshold: int) -> tuple[pa.Table, pa.Table]:
    """A plan as the planning stage makes it for these landmarks, and the stored images of the competition's set."""
    plan, present = [], []
    for landmark, (count, corrupt, available, stored) in enumerate(of):
        need = max(0, threshold - count)
        for rank in range(min(available, need + 2) if need else 0):
            plan.append(
                {
                    "id": f"{landmark}-{rank}",
                    "landmark_id": landmark,
                    "rank": rank,
                    "role": "extra" if rank < need else "reserve",
                    "shard": "000" if stored[rank] else None,
                    "status": "stored" if stored[rank] else "missing",
                    "reason": "" if stored[rank] else f"why {rank}",
                }
            )
        present += [{"landmark_id": landmark}] * max(0, count - corrupt)
    return (
        pa.Table.from_pylist(plan, schema=PLAN),
        pa.Table.from_pylist(present, schema=pa.schema({"landmark_id": pa.int64()})),
    )


def filled_by_hand(plan: list[dict], present: Counter[int], threshold: int) -> dict[str, tuple[str, str]]:
    found, count = {}, Counter(present)
    for row in sorted(plan, key=lambda row: (row["landmark_id"], row["rank"])):
        if row["status"] != "stored":
            found[row["id"]] = ("failed", row["reason"])
        elif count[row["landmark_id"]] < threshold:
            count[row["landmark_id"]] += 1
            word = f"fills its class up to {threshold}"
            found[row["id"]] = ("kept", word if row["role"] == "extra" else "reserve in the place of a corrupt image")
        else:
            assert row["role"] == "reserve"
            found[row["id"]] = ("dropped", "reserve that was not needed")
    return found


@given(landmarks, st.integers(0, 8))
@settings(max_examples=120, deadline=None)
def test_decisions_are_those_made_one_by_one(of: list[tuple[int, int, int, list[bool]]], threshold: int) -> None:
    plan, present = inputs(of, threshold)
    found = fill(plan, present, threshold)
    assert problems(TRAIN_EXTRA, found.cast(TRAIN_EXTRA.schema)) == []
    count = Counter(present["landmark_id"].to_pylist())
    decided = {row["id"]: (row["decision"], row["reason"]) for row in found.to_pylist()}
    assert decided == filled_by_hand(plan.to_pylist(), count, threshold)
    assert found["id"].to_pylist() == sorted(plan["id"].to_pylist())


@given(landmarks, st.integers(0, 8))
@settings(max_examples=80, deadline=None)
def test_no_class_passes_the_threshold_and_none_stays_short_with_images_left(
    of: list[tuple[int, int, int, list[bool]]], threshold: int
) -> None:
    plan, present = inputs(of, threshold)
    rows = fill(plan, present, threshold).to_pylist()
    for landmark in range(len(of)):
        before = Counter(present["landmark_id"].to_pylist())[landmark]
        mine = [row for row in rows if row["landmark_id"] == landmark]
        kept = sum(row["decision"] == "kept" for row in mine)
        assert before + kept <= max(threshold, before)
        if any(row["decision"] == "dropped" for row in mine):
            assert before + kept == threshold


@given(landmarks, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_rows_in_any_order_give_the_same_bytes(of: list[tuple[int, int, int, list[bool]]], random: Random) -> None:
    plan, present = inputs(of, 5)
    files = []
    for table in (plan, plan.take(pa.array(random.sample(range(plan.num_rows), plan.num_rows), pa.int64()))):
        file = io.BytesIO()
        write_table(TRAIN_EXTRA, fill(table, present, 5), file)
        files.append(file.getvalue())
    assert files[0] == files[1]


def test_a_worked_example() -> None:
    # 3 in the competition's set, 1 of them corrupt; threshold 5: 2 extras and 2 reserves, the first extra corrupt.
    plan, present = inputs([(3, 1, 4, [False, True, True, True] + [False] * 6)], threshold=5)
    assert [(row["id"], row["decision"]) for row in fill(plan, present, 5).to_pylist()] == [
        ("0-0", "failed"),
        ("0-1", "kept"),
        ("0-2", "kept"),
        ("0-3", "kept"),
    ]


def test_an_extra_of_a_plan_for_a_higher_threshold_is_dropped_as_that() -> None:
    plan, present = inputs([(1, 0, 6, [True] * 10)], threshold=4)
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
    assert fill(plan, present, threshold).cast(TRAIN_EXTRA.schema).num_rows == 0
