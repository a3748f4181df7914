from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.filtering.non_landmark_filter import LEAST, NEVER, curve_of, decide, threshold_of
from glr_assets.openimages.schemas import NON_LANDMARK_FILTER, NON_LANDMARK_SCORES

SCORES = st.lists(st.integers(0, 1000).map(lambda part: part / 1000), max_size=40)


@given(SCORES, st.floats(0, 1))
def test_the_threshold_is_the_least_that_gives_up_no_more_than_allowed(scores: list[float], rate: float) -> None:
    found = threshold_of(np.array(scores), rate)
    if not scores:
        assert found == NEVER
        return
    assert sum(score >= found for score in scores) <= rate * len(scores)
    assert found >= LEAST
    lower = round(found - 0.001, 3)
    if lower >= LEAST:
        assert sum(score >= lower for score in scores) > int(rate * len(scores))


def test_a_worked_example_of_thresholds() -> None:
    landmarks = np.array([0.0, 0.1, 0.6, 0.9])
    assert threshold_of(landmarks, 0.0) == pytest.approx(0.901)
    assert threshold_of(landmarks, 0.25) == pytest.approx(0.601)
    assert threshold_of(landmarks, 0.5) == threshold_of(landmarks, 1.0) == LEAST
    assert threshold_of(np.array([1.0, 0.5]), 0.0) == NEVER
    curve = curve_of(landmarks, np.array([1.0, 0.6]), steps=3)
    assert curve == {"threshold": [0.0, 0.5, 1.0], "landmarks": [1.0, 0.5, 0.0], "crops": [1.0, 1.0, 0.5]}


def table(names: str) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(list(names)),
            "landmark_id": pa.array(range(len(names)), pa.int64()),
            "shard": pa.array(["000"] * len(names)),
        }
    )


def scores(**told: float | None) -> pa.Table:
    return NON_LANDMARK_SCORES.rows(
        [
            {
                "id": name,
                "score": score,
                "category": None if score is None else "Tree",
                "reason": "" if score is not None else f"image {name}: it cannot be decoded",
            }
            for name, score in told.items()
        ]
    )


def test_each_decision_has_its_reason() -> None:
    found = decide(table("abcde"), scores(a=0.95, b=0.95, c=0.899, d=None, z=1.0), pa.array(["b"]), 0.9, True)
    assert NON_LANDMARK_FILTER.schema.names == found.schema.names
    told = {row["id"]: (row["decision"], row["reason"]) for row in found.to_pylist()}
    assert told == {
        "a": ("dropped", "looks like Tree, not like a landmark: score 0.950, 0.900 or more"),
        "b": ("kept", "verified by geometry, though it looks like Tree, not like a landmark: score 0.950"),
        "c": ("kept", "like a landmark: score 0.899, under 0.900"),
        "d": ("failed", "image d: it cannot be decoded"),
        "e": ("failed", "not stored: it is not among the images of its shard"),
    }
    assert [row["verified"] for row in found.to_pylist()] == [False, True, False, False, False]


def test_verified_images_are_dropped_too_where_the_recipe_says_so() -> None:
    found = decide(table("ab"), scores(a=0.95, b=0.95), pa.array(["b"]), 0.95, False)
    assert found["decision"].to_pylist() == ["dropped", "dropped"]
    never = decide(table("ab"), scores(a=1.0, b=0.95), pa.array([], pa.string()), NEVER, True)
    assert never["decision"].to_pylist() == ["kept", "kept"]
