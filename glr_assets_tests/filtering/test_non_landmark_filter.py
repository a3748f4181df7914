from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.filtering.checks import too_often_dropped, unjudged
from glr_assets.filtering.non_landmark_filter import LEAST, NEVER, curve_of, decide, dropped_share, threshold_of
from glr_assets.openimages.schemas import NON_LANDMARK_FILTER, NON_LANDMARK_SCORES
from glr_assets.verification.calibration import halves_of

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


def test_each_half_of_the_landmarks_is_judged_by_the_threshold_of_the_other() -> None:
    landmarks = np.repeat(np.arange(6), 5)
    found = dropped_share(np.where(landmarks < 5, 0.1, 0.9), landmarks, 0.02)
    # One landmark of six looks like none; whichever half it is in, the other's threshold is the least.
    assert found is not None
    assert found.share == pytest.approx(1 / 6)
    assert found.least == 0.0  # One draw of landmarks in three leaves it out.
    never = dropped_share(np.full(30, 0.9), landmarks, 0.02)
    assert never is not None
    assert (never.share, never.least) == (0.0, 0.0)
    given = dropped_share(np.full(30, 0.9), landmarks, 0.02, threshold=0.8)
    assert given is not None
    assert (given.share, given.least) == (1.0, 1.0)
    assert dropped_share(np.array([0.1, 0.2]), np.array([3, 3]), 0.02) is None
    assert dropped_share(np.array([]), np.array([], np.int64), 0.02) is None


Scores = Callable[[int], np.ndarray]


def arbitrary_scores(random: np.random.Generator) -> Scores:
    """Scores of four photographs of each of so many landmarks, good or bad, some landmarks worse than others."""
    level, spread, noise = random.normal(-1.5, 1.5), random.uniform(0, 4), random.uniform(0.1, 2)

    def of(count: int) -> np.ndarray:
        odds = level + np.repeat(random.normal(0, spread, count), 4) + random.normal(0, noise, 4 * count)
        return (1 / (1 + np.exp(-odds))).round(3)

    return of


def test_of_arbitrary_scores_the_share_dropped_is_that_of_unseen_landmarks() -> None:
    """Judged by the photographs that chose it no threshold ever drops too many, however bad the scores are."""
    random, rate = np.random.default_rng(7), 0.05
    landmarks = np.repeat(np.arange(16), 4)
    half = halves_of(landmarks, 0)
    judged, true, by_chosen = [], [], []
    for _ in range(300):
        scores = arbitrary_scores(random)
        held_out, unseen = scores(16), scores(1000)
        found = dropped_share(held_out, landmarks, rate)
        assert found is not None
        judged.append(found.share)
        true.append(np.mean([(unseen >= threshold_of(held_out[half == part], rate)).mean() for part in (0, 1)]))
        by_chosen.append((held_out >= threshold_of(held_out, rate)).mean())
    assert max(by_chosen) <= rate < np.mean(true)
    assert np.mean(judged) == pytest.approx(np.mean(true), rel=0.15)


def test_arbitrarily_bad_scores_are_reported_and_good_ones_seldom() -> None:
    random, rate, landmarks = np.random.default_rng(8), 0.05, np.repeat(np.arange(40), 4)
    reported: dict[bool, list[bool]] = {True: [], False: []}
    for _ in range(300):
        scores = arbitrary_scores(random)
        # The recipe's threshold, whatever the scores.
        found = dropped_share(scores(40), landmarks, rate, threshold=0.5)
        assert found is not None
        true = (scores(1000) >= 0.5).mean()
        if not rate < true < 3 * rate:
            reported[true > rate].append(bool(too_often_dropped(found.least, found.share, rate)))
    assert len(reported[True]) > 100
    assert np.mean(reported[True]) > 0.95
    assert len(reported[False]) > 40
    assert np.mean(reported[False]) < 0.05


def test_a_threshold_that_drops_too_many_landmarks_or_cannot_be_judged_is_reported() -> None:
    assert too_often_dropped(0.01, 0.05, 0.01) == ""
    assert "5.0% of held-out" in too_often_dropped(0.02, 0.05, 0.01)
    assert "at least 2.0%" in too_often_dropped(0.02, 0.05, 0.01)
    assert too_often_dropped(None, None, 0.01) == ""
    assert "is not known" in unjudged(None)
    assert unjudged(0.0) == ""


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
