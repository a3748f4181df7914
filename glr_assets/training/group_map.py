"""What makes the answers of separately trained groups comparable, with "none of them" among them.

A softmax tells how sure a classifier is among its own landmarks, and says nothing of an image that shows none of
them: of several, the surest is often the one that knows least. So each group's classifier is shown held-out images of
all groups, and of no landmark, and learns from them how likely its answer is to be right (Platt 1999, on two features:
the log odds of its best landmark and the energy of Liu et al. 2020, arXiv 2010.03759). As an image shows the landmark
of one group or of none, the groups' odds then share one probability.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from glr_assets.errors import ClassifierError

#: What is shown by an image of no landmark, where landmarks are numbers.
NO_LANDMARK: Final = -1
#: A group's weights and intercept are drawn to those of all groups together as by a normal distribution of this
#: precision, a deviation of 0.18: three right answers, as a small group has, teach little, and thousands overrule it.
#: Of 1, 10, 30 and 100 it gave the best GAP on the validation folds of photographs in two splits.
PRECISION: Final = 30.0
#: Of the weights of all groups together, to none: it keeps them finite.
POOLED_PRECISION: Final = 1.0

#: Logits that are reduced together: some 100 MB on the way.
_LOGITS_AT_ONCE: Final = 2**21

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class GroupScores:
    """What one group's classifier says of images: 24 bytes an image, whatever the number of its classes.

    Attributes:
        landmark_ids: int64 [n], the landmark of the highest logit.
        log_odds: float64 [n], of that landmark's softmax.
        energy: float64 [n], the log of the summed exp of the landmarks' logits.
    """

    landmark_ids: Numbers
    log_odds: Floats
    energy: Floats

    @classmethod
    def of_logits(cls, landmark_ids: Sequence[int], logits: npt.NDArray[np.floating[Any]]) -> GroupScores:
        """Reduce logits to scores; memory beside them is that of a few rows.

        Args:
            landmark_ids: the landmark of each class.
            logits: float [n, classes]; one column more where the classifier has a class for none of them.
        """
        from scipy.special import logsumexp

        classes = len(landmark_ids)
        best = np.empty(len(logits), np.int64)
        log_odds, energy = np.empty(len(logits)), np.empty(len(logits))
        step = max(1, _LOGITS_AT_ONCE // max(1, logits.shape[1]))
        for start in range(0, len(logits), step):
            part = slice(start, start + step)
            values = np.array(logits[part], np.float64)  # a copy, which is written to below
            rows, highest = np.arange(len(values)), np.argmax(values[:, :classes], axis=1)
            best[part] = highest
            energy[part] = logsumexp(values[:, :classes], axis=1)
            top = values[rows, highest]
            values[rows, highest] = -np.inf
            log_odds[part] = top - logsumexp(values, axis=1)
        return cls(np.asarray(landmark_ids, np.int64)[best], log_odds, energy)

    @classmethod
    def concatenated(cls, parts: Sequence[GroupScores]) -> GroupScores:
        """Scores of the images of all parts, in their order."""
        empty = cls(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
        fields = [(part.landmark_ids, part.log_odds, part.energy) for part in (empty, *parts)]
        return cls(*(np.concatenate(column) for column in zip(*fields, strict=True)))

    @property
    def features(self) -> Floats:
        """Of each image, [n, 2]: log odds and energy."""
        return np.stack([self.log_odds, self.energy], axis=1)

    def rows(self, rows: npt.NDArray[Any] | slice) -> GroupScores:
        """The scores of some images."""
        return GroupScores(self.landmark_ids[rows], self.log_odds[rows], self.energy[rows])


@dataclass(frozen=True, eq=False)
class Answers:
    """One answer an image: `landmark_ids` int64 [n], `probability` float64 [n] of each, `none` float64 [n].

    `none` is the probability that the answer of no group is right.
    """

    landmark_ids: Numbers
    probability: Floats
    none: Floats


class GroupMap(BaseModel):
    """How likely a group's answer is to be right, by its features: log odds = weights · standardised + intercept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[float, float]
    spread: tuple[float, float]
    weights: tuple[float, float]
    intercept: float
    prior: float
    """share of images whose landmark the group's answer is"""
    right: int
    """how many of these there were"""

    def log_odds(self, features: Floats) -> Floats:
        """Log odds [n] of features [n, 2]."""
        standard = (features - np.array(self.mean)) / np.array(self.spread)
        return np.asarray(standard @ np.array(self.weights) + self.intercept, np.float64)


class GroupCalibration(BaseModel):
    """The map of each group, by key, and the share of images that no group's answer is right of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: dict[str, GroupMap]
    none: float
    samples: int
    """images it was fitted on"""

    def answers(self, found: Mapping[str, GroupScores]) -> Answers:
        """The most probable landmark of each image, over all groups.

        With the posterior odds o of each group's answer by itself and its prior p, the probability is
        o (1 - p) / (p_none + Σ o (1 - p)) by Bayes' rule, where the groups' features are independent given what is
        right; so the answers of all groups and "none of them" sum to 1.

        Args:
            found: of each group that the calibration knows, in the same order of images.

        Raises:
            ClassifierError: other groups than it was fitted on.
        """
        if found.keys() != self.groups.keys():
            raise ClassifierError(
                f"group calibration: of the groups {sorted(self.groups)}, found scores of {sorted(found)}; "
                "materialise group_calibration again"
            )
        keys = sorted(self.groups)
        best = np.stack([found[key].landmark_ids for key in keys], axis=1)
        odds = [self.groups[key].log_odds(found[key].features) + math.log1p(-self.groups[key].prior) for key in keys]
        shares = np.stack([np.full(len(best), math.log(self.none)), *odds], axis=1)
        shares = np.exp(shares - shares.max(axis=1, keepdims=True, initial=-np.inf))
        shares /= shares.sum(axis=1, keepdims=True)
        group = np.argmax(shares[:, 1:], axis=1)
        rows = np.arange(len(best))
        return Answers(best[rows, group], shares[rows, group + 1], shares[:, 0])


def raw_answers(found: Mapping[str, GroupScores]) -> Answers:
    """The earlier system's answer: the landmark of the highest softmax of any group, as it is."""
    keys = sorted(found)
    best = np.stack([found[key].landmark_ids for key in keys], axis=1)
    softmax = np.stack([0.5 * (1 + np.tanh(0.5 * found[key].log_odds)) for key in keys], axis=1)
    group = np.argmax(softmax, axis=1)
    rows = np.arange(len(best))
    return Answers(best[rows, group], softmax[rows, group], 1 - softmax[rows, group])


def fit_group_calibration(found: Mapping[str, GroupScores], shown: Numbers) -> GroupCalibration:
    """Learn how likely each group's answer is to be right, on images that none of them learned from.

    Platt's targets, (N₊ + 1)/(N₊ + 2) and 1/(N₋ + 2), keep weights finite where features tell right from wrong
    without fail. What all groups have in common, in features standardised in each, is found first; each is drawn
    to it.

    Args:
        found: of each group, in the same order of images.
        shown: the landmark of each image [n], `NO_LANDMARK` where it shows none.

    Raises:
        ClassifierError: no group has a classifier, or there is no image to learn from.
    """
    if not found:
        raise ClassifierError(
            "group calibration: no group has a classifier, expected one or more; set other [groups] bounds"
        )
    if not len(shown):
        raise ClassifierError(
            "group calibration: no image is held out to calibrate; raise [groups] validation_first and validation_last"
        )
    keys = sorted(found)
    raw = {key: found[key].features for key in keys}
    mean = {key: raw[key].mean(axis=0) for key in keys}
    # Of a group that gives the same for every image nothing can be learned but how often it is right.
    spread = {key: np.maximum(raw[key].std(axis=0), 1e-6) for key in keys}
    standard = {key: (raw[key] - mean[key]) / spread[key] for key in keys}
    right = {key: found[key].landmark_ids == shown for key in keys}
    # The intercept of all groups together is free.
    free = np.array([POOLED_PRECISION, POOLED_PRECISION, 0.0])
    pooled = _platt(np.concatenate(list(standard.values())), np.concatenate(list(right.values())), np.zeros(3), free)
    total = len(shown) + 0.5 * (len(keys) + 1)
    maps = {}
    for key in keys:
        weights = _platt(standard[key], right[key], pooled, np.full(3, PRECISION))
        maps[key] = GroupMap(
            mean=(float(mean[key][0]), float(mean[key][1])),
            spread=(float(spread[key][0]), float(spread[key][1])),
            weights=(float(weights[0]), float(weights[1])),
            intercept=float(weights[2]),
            # Jeffreys' prior: half an image of each outcome beside those that were seen.
            prior=(int(right[key].sum()) + 0.5) / total,
            right=int(right[key].sum()),
        )
    none = 1 - sum(group.prior for group in maps.values())
    return GroupCalibration(groups=maps, none=none, samples=len(shown))


def _platt(standard: Floats, right: npt.NDArray[np.bool_], prior: Floats, precision: Floats) -> Floats:
    """Two weights and an intercept, drawn to `prior` by `precision`, [3] each: the least penalised cross-entropy."""
    from scipy.optimize import minimize

    positives = int(right.sum())
    targets = np.where(right, (positives + 1) / (positives + 2), 1 / (len(right) - positives + 2))
    design = np.concatenate([standard, np.ones((len(standard), 1))], axis=1)
    base = float(targets.mean())

    def loss(weights: Floats) -> tuple[float, Floats]:
        odds = design @ weights
        away = weights - prior
        value = float((np.logaddexp(0.0, odds) - targets * odds).sum() + 0.5 * away @ (precision * away))
        return value, design.T @ (0.5 * (1 + np.tanh(0.5 * odds)) - targets) + precision * away

    start = np.array([*prior[:2], math.log(base / (1 - base))])
    return np.asarray(minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-7}).x, np.float64)


def expected_calibration_error(confidence: Floats, right: npt.NDArray[np.bool_], bins: int = 15) -> float:
    """Mean distance of confidence and share right over equal ranges of confidence (Guo et al. 2017), 0 of no answer."""
    number = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(number, confidence - right, bins)
    return float(np.abs(gaps).sum() / max(len(confidence), 1))
