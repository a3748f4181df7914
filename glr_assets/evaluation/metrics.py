"""The official metrics of the Google Landmarks challenges: GAP, top-1 accuracy, mAP@100.

The rules are those of the competition organisers' own code, `delf/python/datasets/google_landmarks_dataset/
metrics.py` in github.com/tensorflow/models: what is sorted how, what counts in a denominator, what is an
error. GAP (micro average precision) is defined in Perronnin, Liu and Renders, "A family of contextual
measures of similarity between distributions with application to image retrieval", CVPR 2009.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glr_assets.errors import MetricError

RETRIEVED = 100
"""Answers of a retrieval query that count: the k of the challenge's mAP@100."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer to a recognition query; a query without an answer simply has none.

    `confidence` is any finite number: only its order among the predictions counts.
    """

    id: str
    landmark_id: int
    confidence: float


@dataclass(frozen=True, slots=True, eq=False)
class PrecisionRecall:
    """The curve under which GAP is the area: one point a prediction, the most confident first.

    `confidence`, `precision`, `recall`: float64 [n]; `correct`: bool [n]. Recall is over all queries with a
    landmark, so it ends below 1 where some are answered wrongly or not at all.
    """

    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def global_average_precision(
    predictions: Sequence[Prediction],
    solution: Mapping[str, frozenset[int]],
    *,
    ignored: Collection[str] = frozenset(),
    landmarks_only: bool = False,
) -> float:
    """GAP = (1/M) Σ P(i)·rel(i) over the predictions, the most confident first.

    M is the number of queries with a landmark, answered or not; P(i) the share of right ones among the
    first i predictions; rel(i) is 1 where the i-th is right, which is where its class is among the query's
    landmarks. A prediction for a query without a landmark is wrong. Equal confidences are ordered by id
    ascending; the rule's third key, the class, never decides because an id stands once.

    Args:
        predictions: at most one an id, in any order.
        solution: landmarks of every query that counts; the empty set for a query without a landmark.
        ignored: ids of queries that are not scored (Usage `Ignored`); predictions for them are dropped.
        landmarks_only: drop the queries without a landmark, so that a prediction for one costs nothing.

    Raises:
        MetricError: an id stands twice, is in neither `solution` nor `ignored`, a confidence is not a
            finite number, or no query has a landmark (GAP is then not defined).
    """
    curve = precision_recall(predictions, solution, ignored=ignored, landmarks_only=landmarks_only)
    return float(curve.precision[curve.correct].sum() / _positives(solution))


def precision_recall(
    predictions: Sequence[Prediction],
    solution: Mapping[str, frozenset[int]],
    *,
    ignored: Collection[str] = frozenset(),
    landmarks_only: bool = False,
) -> PrecisionRecall:
    """Precision and recall after each prediction in GAP's order; arguments and errors are GAP's."""
    positives = _positives(solution)
    counted = _counted(predictions, solution, ignored)
    if landmarks_only:
        counted = [p for p in counted if solution[p.id]]
    # Sorting by id in Python and then stably by confidence keeps ids plain strings of any length.
    counted.sort(key=lambda p: p.id)
    confidence = np.fromiter((p.confidence for p in counted), np.float64, len(counted))
    correct = np.fromiter((p.landmark_id in solution[p.id] for p in counted), np.bool_, len(counted))
    order = np.argsort(-confidence, kind="stable")
    correct = correct[order]
    right = np.cumsum(correct)
    return PrecisionRecall(
        confidence=confidence[order],
        correct=correct,
        precision=right / np.arange(1, len(order) + 1),
        recall=right / positives,
    )


def top1_accuracy(
    predictions: Sequence[Prediction],
    solution: Mapping[str, frozenset[int]],
    *,
    ignored: Collection[str] = frozenset(),
) -> float:
    """Share of the queries with a landmark whose prediction is one of their landmarks; errors as GAP's."""
    positives = _positives(solution)
    return sum(p.landmark_id in solution[p.id] for p in _counted(predictions, solution, ignored)) / positives


def mean_average_precision(
    retrieved: Mapping[str, Sequence[str]],
    relevant: Mapping[str, frozenset[str]],
    k: int = RETRIEVED,
    *,
    ignored: Collection[str] = frozenset(),
) -> float:
    """mAP@k: the mean of `average_precision` over all queries, with 0 for an unanswered one.

    Args:
        retrieved: index image ids per query, the best first.
        relevant: right index images of every query that counts. A query without any counts, with 0: the
            official reader makes one unmatchable answer of an empty cell.
        k: answers of a query that count.
        ignored: ids of queries that are not scored; answers to them are dropped.

    Raises:
        MetricError: an answered id is in neither `relevant` nor `ignored`, or there is no query.
    """
    if not relevant:
        raise MetricError("the solution has no query that counts, expected at least one: mAP is not defined")
    total = []
    for query, images in retrieved.items():
        if query in relevant:
            total.append(average_precision(images, relevant[query], k))
        elif query not in ignored:
            raise MetricError(unknown(query))
    return math.fsum(total) / len(relevant)


def average_precision(retrieved: Sequence[str], relevant: frozenset[str], k: int = RETRIEVED) -> float:
    """One query's Σ P(i)·rel(i) over its first `k` answers, divided by min(number of relevant, k).

    An answer that stands again is not relevant but holds its rank. 0 where nothing is relevant.
    """
    if k < 1:
        raise MetricError(f"mAP@{k}: expected k of at least 1")
    if not relevant:
        return 0.0
    seen: set[str] = set()
    total = 0.0
    right = 0
    for rank, image in enumerate(retrieved[:k], start=1):
        if image in relevant and image not in seen:
            seen.add(image)
            right += 1
            total += right / rank
    return total / min(len(relevant), k)


def unknown(query: str) -> str:
    """What is said of an answer to a query that the solution does not know."""
    return f"id {query!r} is not in the solution; take the ids from the test set the solution belongs to"


def _positives(solution: Mapping[str, frozenset[int]]) -> int:
    positives = sum(1 for landmarks in solution.values() if landmarks)
    if not positives:
        raise MetricError("the solution has no query with a landmark, expected at least one: GAP is not defined")
    return positives


def _counted(
    predictions: Sequence[Prediction], solution: Mapping[str, frozenset[int]], ignored: Collection[str]
) -> list[Prediction]:
    """The predictions that are scored, once each is seen to keep the rules."""
    seen: set[str] = set()
    counted = []
    for prediction in predictions:
        if prediction.id in seen:
            raise MetricError(f"id {prediction.id!r} stands twice, expected one prediction a query; drop one")
        seen.add(prediction.id)
        if not math.isfinite(prediction.confidence):
            raise MetricError(f"id {prediction.id!r}: confidence {prediction.confidence}, expected a finite number")
        if prediction.id in solution:
            counted.append(prediction)
        elif prediction.id not in ignored:
            raise MetricError(unknown(prediction.id))
    return counted
