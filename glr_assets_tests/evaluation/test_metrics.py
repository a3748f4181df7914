from __future__ import annotations

import random
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.errors import MetricError
from glr_assets.evaluation.metrics import (
    Prediction,
    average_precision,
    global_average_precision,
    mean_average_precision,
    precision_recall,
    top1_accuracy,
)


def truth(**landmarks: int | tuple[int, ...] | None) -> dict[str, frozenset[int]]:
    return {
        query: frozenset() if value is None else frozenset((value,) if isinstance(value, int) else value)
        for query, value in landmarks.items()
    }


def reference_gap(
    predictions: list[Prediction], solution: dict[str, frozenset[int]], landmarks_only: bool = False
) -> float:
    """The definition read aloud: one pass over the sorted predictions."""
    gap = 0.0
    seen = right = 0
    for p in sorted(predictions, key=lambda p: (-p.confidence, p.id, p.landmark_id)):
        if p.id not in solution or (landmarks_only and not solution[p.id]):
            continue
        seen += 1
        if p.landmark_id in solution[p.id]:
            right += 1
            gap += right / seen
    return gap / len([1 for landmarks in solution.values() if landmarks])


def reference_ap(retrieved: list[str], relevant: frozenset[str], k: int) -> float:
    """Each rank looked at by itself, quadratically."""
    first = [i for i, image in enumerate(retrieved[:k]) if image in relevant and image not in retrieved[:i]]
    return sum((n + 1) / (i + 1) for n, i in enumerate(first)) / min(len(relevant), k) if relevant else 0.0


ids = st.sampled_from([f"{n:02d}" for n in range(12)])
solutions = st.dictionaries(ids, st.frozensets(st.integers(0, 3), max_size=2), min_size=1).filter(
    lambda s: any(s.values())
)


@st.composite
def scored(draw: st.DrawFn) -> tuple[list[Prediction], dict[str, frozenset[int]]]:
    solution = draw(solutions)
    answered = draw(st.lists(st.sampled_from(sorted(solution)), unique=True))
    confidences = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.5, 19.0])
    return [Prediction(q, draw(st.integers(0, 3)), draw(confidences)) for q in answered], solution


class TestGap:
    def test_worked_example(self) -> None:
        # Sorted: a right (1/1), x no landmark, b wrong, c right (2/4); d is unanswered. M = 4.
        solution = truth(a=1, b=2, c=3, d=4, x=None)
        predictions = [
            Prediction("c", 3, 0.1),
            Prediction("a", 1, 0.9),
            Prediction("b", 7, 0.2),
            Prediction("x", 1, 0.5),
        ]
        assert global_average_precision(predictions, solution) == pytest.approx((1 + 2 / 4) / 4)

    def test_organisers_own_example(self) -> None:
        # The data and the expected values of metrics_test.py in tensorflow/models.
        solution = {
            "0123456789abcdef": frozenset({0, 12}),
            "0223456789abcdef": frozenset({100, 200, 300}),
            "0323456789abcdef": frozenset({1}),
            "0423456789abcdef": frozenset[int](),
            "0523456789abcdef": frozenset[int](),
        }
        predictions = [
            Prediction("0223456789abcdef", 0, 0.01),
            Prediction("0323456789abcdef", 1, 10.0),
            Prediction("0423456789abcdef", 150, 15.0),
        ]
        assert global_average_precision(predictions, solution) == pytest.approx(0.166667, abs=1e-6)
        assert global_average_precision(predictions, solution, landmarks_only=True) == pytest.approx(0.333333, abs=1e-6)
        assert top1_accuracy(predictions, solution) == pytest.approx(0.333333, abs=1e-6)

    def test_a_prediction_without_landmark_costs_precision_unless_landmarks_only(self) -> None:
        solution = truth(a=1, x=None)
        predictions = [Prediction("x", 1, 0.9), Prediction("a", 1, 0.1)]
        assert global_average_precision(predictions, solution) == 0.5
        assert global_average_precision(predictions, solution, landmarks_only=True) == 1.0

    @pytest.mark.parametrize(("right", "wrong", "expected"), [("a", "b", 1.0), ("b", "a", 0.5)])
    def test_equal_confidences_are_ordered_by_id(self, right: str, wrong: str, expected: float) -> None:
        solution = truth(a=1, b=1)
        predictions = [Prediction(wrong, 2, 0.5), Prediction(right, 1, 0.5)]
        assert global_average_precision(predictions, solution) == expected / 2
        assert global_average_precision(predictions[::-1], solution) == expected / 2

    def test_ids_sort_as_text_not_as_numbers(self) -> None:
        # "10" stands before "9" as text.
        predictions = [Prediction("9", 2, 0.5), Prediction("10", 1, 0.5)]
        assert global_average_precision(predictions, {"9": frozenset({1}), "10": frozenset({1})}) == 0.5

    def test_negative_zero_ties_with_zero(self) -> None:
        solution = truth(a=1, b=1)
        assert global_average_precision([Prediction("b", 2, 0.0), Prediction("a", 1, -0.0)], solution) == 0.5

    def test_any_of_several_landmarks_is_right(self) -> None:
        assert global_average_precision([Prediction("a", 3, 0.5)], truth(a=(2, 3))) == 1.0

    def test_unanswered_queries_count(self) -> None:
        assert global_average_precision([], truth(a=1)) == 0.0
        assert global_average_precision([Prediction("a", 1, 0.5)], truth(a=1, b=2, c=3)) == 1 / 3

    def test_ignored_queries_are_dropped(self) -> None:
        predictions = [Prediction("i", 5, 0.9), Prediction("a", 1, 0.1)]
        assert global_average_precision(predictions, truth(a=1), ignored={"i"}) == 1.0

    @pytest.mark.parametrize("measure", [global_average_precision, top1_accuracy, precision_recall])
    @pytest.mark.parametrize(
        ("predictions", "message"),
        [
            ([Prediction("a", 1, 0.5), Prediction("a", 2, 0.4)], "id 'a' stands twice"),
            ([Prediction("i", 1, 0.5), Prediction("i", 2, 0.4)], "id 'i' stands twice"),
            ([Prediction("z", 1, 0.5)], "id 'z' is not in the solution"),
            ([Prediction("a", 1, float("nan"))], "id 'a': confidence nan"),
            ([Prediction("a", 1, float("inf"))], "id 'a': confidence inf"),
        ],
    )
    def test_broken_rules_are_named(
        self, measure: Callable[..., object], predictions: list[Prediction], message: str
    ) -> None:
        with pytest.raises(MetricError, match=re.escape(message)):
            measure(predictions, truth(a=1), ignored={"i"})

    @pytest.mark.parametrize("measure", [global_average_precision, top1_accuracy])
    def test_undefined_without_a_landmark(self, measure: Callable[..., object]) -> None:
        with pytest.raises(MetricError, match="no query with a landmark"):
            measure([], truth(a=None))

    @given(scored())
    def test_equals_the_definition(self, case: tuple[list[Prediction], dict[str, frozenset[int]]]) -> None:
        predictions, solution = case
        for landmarks_only in (False, True):
            found = global_average_precision(predictions, solution, landmarks_only=landmarks_only)
            assert found == pytest.approx(reference_gap(predictions, solution, landmarks_only), abs=1e-12)

    @given(scored(), st.randoms(use_true_random=False))
    def test_order_of_the_file_and_scale_of_the_confidence_do_not_matter(
        self, case: tuple[list[Prediction], dict[str, frozenset[int]]], rng: random.Random
    ) -> None:
        predictions, solution = case
        expected = global_average_precision(predictions, solution)
        other = [Prediction(p.id, p.landmark_id, 8 * p.confidence - 3) for p in predictions]
        rng.shuffle(other)
        assert global_average_precision(other, solution) == expected
        assert 0 <= expected <= 1
        assert expected <= global_average_precision(predictions, solution, landmarks_only=True)

    def test_published_size(self) -> None:
        rng = np.random.default_rng(0)
        names = [f"{n:016x}" for n in rng.permutation(117_577)]
        landmarks = rng.integers(0, 50, len(names)).tolist()
        solution = {
            name: frozenset({landmark}) if n % 70 == 0 else frozenset[int]()
            for n, (name, landmark) in enumerate(zip(names, landmarks, strict=True))
        }
        confidences = rng.random(len(names)).round(4).tolist()
        predictions = [
            Prediction(name, landmark if n % 3 else 99, confidence)
            for n, (name, landmark, confidence) in enumerate(zip(names, landmarks, confidences, strict=True))
        ]
        assert global_average_precision(predictions, solution) == pytest.approx(
            reference_gap(predictions, solution), abs=1e-12
        )


class TestPrecisionRecall:
    def test_worked_example(self) -> None:
        solution = truth(a=1, b=2, c=3, d=4, x=None)
        predictions = [Prediction("c", 3, 0.1), Prediction("a", 1, 0.9), Prediction("x", 1, 0.5)]
        curve = precision_recall(predictions, solution)
        np.testing.assert_array_equal(curve.confidence, [0.9, 0.5, 0.1])
        np.testing.assert_array_equal(curve.correct, [True, False, True])
        np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3])
        np.testing.assert_allclose(curve.recall, [1 / 4, 1 / 4, 2 / 4])

    def test_no_prediction_gives_no_point(self) -> None:
        curve = precision_recall([], truth(a=1))
        assert curve.precision.shape == curve.recall.shape == curve.confidence.shape == (0,)

    @given(scored())
    def test_gap_is_the_area_under_the_curve(self, case: tuple[list[Prediction], dict[str, frozenset[int]]]) -> None:
        predictions, solution = case
        curve = precision_recall(predictions, solution)
        area = (curve.precision * np.diff(curve.recall, prepend=0)).sum()
        assert global_average_precision(predictions, solution) == pytest.approx(area, abs=1e-12)


class TestTop1:
    def test_is_over_landmark_queries_answered_or_not(self) -> None:
        solution = truth(a=(1, 2), b=2, c=3, x=None)
        predictions = [Prediction("a", 2, 0.1), Prediction("b", 9, 0.9), Prediction("x", 1, 0.5)]
        assert top1_accuracy(predictions, solution) == 1 / 3

    @given(scored())
    def test_equals_recall_at_the_end(self, case: tuple[list[Prediction], dict[str, frozenset[int]]]) -> None:
        predictions, solution = case
        by_id = {p.id: p.landmark_id for p in predictions}
        queries = [q for q, landmarks in solution.items() if landmarks]
        expected = np.mean([by_id.get(q) in solution[q] for q in queries])
        assert top1_accuracy(predictions, solution) == pytest.approx(expected)


class TestMeanAveragePrecision:
    def test_organisers_own_example(self) -> None:
        # The data and the expected values of metrics_test.py in tensorflow/models.
        relevant = {
            "0123456789abcdef": frozenset({"fedcba9876543210", "fedcba9876543220"}),
            "0223456789abcdef": frozenset({"fedcba9876543210"}),
            "0323456789abcdef": frozenset({"fedcba9876543230", "fedcba9876543240", "fedcba9876543250"}),
            "0423456789abcdef": frozenset({"fedcba9876543230"}),
        }
        retrieved = {
            "0223456789abcdef": ["fedcba9876543200", "fedcba9876543210"],
            "0323456789abcdef": ["fedcba9876543240"],
            "0423456789abcdef": ["fedcba9876543230", "fedcba9876543240"],
        }
        assert mean_average_precision(retrieved, relevant) == pytest.approx(0.458333, abs=1e-6)
        assert mean_average_precision(retrieved, relevant, k=1) == pytest.approx(0.5)

    def test_divides_by_the_fewer_of_relevant_and_k(self) -> None:
        relevant = frozenset("abcde")
        assert average_precision(["a", "b"], relevant, k=2) == 1.0
        assert average_precision(["a", "b"], relevant, k=100) == pytest.approx(2 / 5)

    def test_answers_after_k_do_not_count(self) -> None:
        assert average_precision(["x", "y", "a"], frozenset("a"), k=2) == 0.0

    def test_a_repeated_answer_scores_nothing_and_holds_its_rank(self) -> None:
        assert average_precision(["a", "a", "b"], frozenset("ab")) == pytest.approx((1 + 2 / 3) / 2)
        assert average_precision(["x", "x", "a"], frozenset("a")) == pytest.approx(1 / 3)

    def test_a_query_without_relevant_images_counts_as_zero(self) -> None:
        relevant = {"q": frozenset("a"), "r": frozenset[str]()}
        assert mean_average_precision({"q": ["a"], "r": ["a"]}, relevant) == 0.5

    def test_ignored_queries_are_dropped_and_unknown_ones_refused(self) -> None:
        relevant = {"q": frozenset("a")}
        assert mean_average_precision({"q": ["a"], "i": ["x"]}, relevant, ignored={"i"}) == 1.0
        with pytest.raises(MetricError, match="id 'z' is not in the solution"):
            mean_average_precision({"z": ["a"]}, relevant)

    def test_undefined_cases_are_refused(self) -> None:
        with pytest.raises(MetricError, match="no query that counts"):
            mean_average_precision({}, {})
        with pytest.raises(MetricError, match="mAP@0"):
            average_precision(["a"], frozenset("a"), k=0)

    @given(
        st.dictionaries(ids, st.lists(st.sampled_from("abcdefgh"), max_size=12)),
        st.dictionaries(ids, st.frozensets(st.sampled_from("abcdef"), max_size=6), min_size=1),
        st.integers(1, 9),
    )
    def test_equals_the_definition(
        self, retrieved: dict[str, list[str]], relevant: dict[str, frozenset[str]], k: int
    ) -> None:
        ignored = set(retrieved) - set(relevant)
        expected = np.mean([reference_ap(retrieved.get(q, []), images, k) for q, images in relevant.items()])
        found = mean_average_precision(retrieved, relevant, k, ignored=ignored)
        assert found == pytest.approx(expected, abs=1e-12)
        assert 0 <= found <= 1 + 1e-12
