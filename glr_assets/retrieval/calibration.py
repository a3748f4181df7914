"""From raw recognition scores to probabilities, by one fixed monotone map.

Min-max over a batch of queries makes a confidence depend on the other queries and divides by zero for a
single one; a logistic map fitted once, on photographs whose landmark is known, does neither.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from glr_assets.errors import EmbedderError

FEWEST_SAMPLES = 10
"""Samples under which no slope is fitted."""

PRIOR_SLOPE = 1.0
"""Slope where none can be fitted: the odds grow by e for each unit of summed cosine."""

_LEAST_SPREAD = 1e-6  # the scores' own resolution, scoring.SCORE_DECIMALS
_LEAST_SLOPE = 0.02  # flatter, scores of six decimals print alike in a submission's eight
_LARGEST_SCORE = 1e9
_MOST_STEPS = 100
_TINY = np.finfo(np.float64).tiny
_BELOW_ONE = np.nextafter(1.0, 0.0)


class Calibration(BaseModel):
    """The map score -> 1 / (1 + exp(-(slope * score + intercept))), strictly increasing.

    `samples` and `correct` count what it was fitted on; `fitted` is False where the data could not give a
    slope and `PRIOR_SLOPE` stands in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slope: float = Field(gt=0, allow_inf_nan=False)
    intercept: float = Field(allow_inf_nan=False)
    samples: int = Field(0, ge=0)
    correct: int = Field(0, ge=0)
    fitted: bool = False

    def probability(self, scores: ArrayLike) -> NDArray[np.float64]:
        """The probability that an answer of that raw score is right: float64 of the scores' shape, in (0, 1).

        Scores that differ give probabilities that differ as far as float64 can tell them apart, which is to
        odds of about 1e15; printed with eight decimals all above 0.999999995 look alike (see `confidence`).
        """
        odds = self._log_odds(scores)
        # exp of a negative number alone: no overflow, and no cancellation near 0.
        small = np.exp(-np.abs(odds))
        probability = np.where(odds >= 0, 1.0, small) / (1.0 + small)
        return np.clip(probability, _TINY, _BELOW_ONE)

    def confidence(self, scores: ArrayLike) -> NDArray[np.float64]:
        """A number in (0, 1) in the order of the probability, for the `%.8f` of a submission file.

        With log odds z it is 1/2 + z / (2 (1 + |z|)): 1/2 where the probability is 1/2, and with tails that
        fall as 1/|z|, so eight decimals tell apart two scores that differ by d wherever
        d * slope > 2e-8 * (1 + |z|)^2. For scores of six decimals and a slope of 10 that is up to |z| = 21,
        where the probability itself prints as 1.00000000 from z = 19 on. GAP asks for the order alone.
        """
        odds = self._log_odds(scores)
        # The distance to the nearer end: the sum as written above cancels far from 1/2, and would not rise.
        tail = 0.5 / (1.0 + np.abs(odds))
        return np.clip(np.where(odds < 0, tail, 1.0 - tail), _TINY, _BELOW_ONE)

    def _log_odds(self, scores: ArrayLike) -> NDArray[np.float64]:
        # Bounded so that even a slope and a score near float64's largest give no infinity below.
        limit = np.finfo(np.float64).max / 4
        with np.errstate(over="ignore"):
            odds = self.slope * np.asarray(scores, np.float64) + self.intercept
        return np.clip(odds, -limit, limit)


def fit_calibration(scores: ArrayLike, correct: ArrayLike) -> Calibration:
    """Logistic regression of "the answer was right" on the raw score, with Platt's smoothed targets.

    Platt, "Probabilistic outputs for support vector machines" (1999): with N+ right and N- wrong samples the
    targets are (N+ + 1)/(N+ + 2) and 1/(N- + 2), which keeps the slope finite where scores separate the two.
    Solved by Newton's method with backtracking, Lin, Lin and Weng, "A note on Platt's probabilistic outputs
    for support vector machines", Machine Learning 68 (2007).

    Where the samples cannot give a rising map (fewer than `FEWEST_SAMPLES`, all right, all wrong, all scores
    alike, or right answers scoring hardly higher than wrong ones) the slope is `PRIOR_SLOPE`, and the mean score
    gets the probability (N+ + 1)/(N + 2), Laplace's rule of succession.

    Args:
        scores: float [n], finite raw scores of `scoring.recognise`.
        correct: bool [n], whether each answer was right.

    Raises:
        EmbedderError: a score is not a number within ±1e9, or the lengths differ.
    """
    x = np.asarray(scores, np.float64)
    right = np.asarray(correct, np.bool_)
    if x.ndim != 1 or x.shape != right.shape:
        raise EmbedderError(
            f"calibration: {list(x.shape)} scores and {list(right.shape)} answers, expected as many of each; "
            "materialise the embeddings again"
        )
    usable = np.abs(x) <= _LARGEST_SCORE
    if not usable.all():
        row = int(np.argmin(usable))
        raise EmbedderError(
            f"calibration: score {row} is {x[row]}, expected a sum of cosines; materialise the embeddings again"
        )
    positives = int(right.sum())
    negatives = len(x) - positives
    spread = float(x.std()) if len(x) else 0.0
    if min(positives, negatives) > 0 and len(x) >= FEWEST_SAMPLES and spread >= _LEAST_SPREAD:
        mean = float(x.mean())
        targets = np.where(right, (positives + 1) / (positives + 2), 1 / (negatives + 2))
        slope, intercept = _logistic_regression((x - mean) / spread, targets)
        slope /= spread
        if slope >= _LEAST_SLOPE:
            return Calibration(
                slope=slope,
                intercept=intercept - slope * mean,
                samples=len(x),
                correct=positives,
                fitted=True,
            )
    middle = float(x.mean()) if len(x) else 0.0
    return Calibration(
        slope=PRIOR_SLOPE,
        intercept=math.log((positives + 1) / (negatives + 1)) - PRIOR_SLOPE * middle,
        samples=len(x),
        correct=positives,
    )


def _logistic_regression(x: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and intercept of the least cross-entropy; x standardised, targets strictly between 0 and 1."""
    design = np.stack([x, np.ones_like(x)], axis=1)
    weights = np.array([0.0, math.log(targets.mean() / (1 - targets.mean()))])
    loss = _cross_entropy(design @ weights, targets)
    for _ in range(_MOST_STEPS):
        odds = design @ weights
        probability = 0.5 * (1.0 + np.tanh(0.5 * odds))
        gradient = design.T @ (probability - targets)
        if np.abs(gradient).max() < 1e-10 * len(x):
            break
        curvature = (design * (probability * (1 - probability))[:, np.newaxis]).T @ design
        # The ridge keeps the system solvable where every probability is near 0 or 1.
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), -gradient)
        length = 1.0
        while length > 1e-10:
            moved = weights + length * step
            moved_loss = _cross_entropy(design @ moved, targets)
            if moved_loss <= loss + 1e-4 * length * float(gradient @ step):
                break
            length /= 2
        else:
            break
        weights, loss = moved, moved_loss
    return float(weights[0]), float(weights[1])


def _cross_entropy(odds: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    return float((np.logaddexp(0.0, odds) - targets * odds).sum())
