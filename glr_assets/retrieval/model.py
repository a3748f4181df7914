"""From what speaks for each landmark to one answer, and the probability that it is right.

With neighbours alone an answer is the landmark whose neighbours score best, and its probability a logistic function of
that score (`calibration`). With re-ranking, the embedder's head or learned penalties, every landmark among a query's
candidates has log weight w · features, "none of them" has log weight 0, and their shares of the exponentials are the
probabilities: a conditional logit (McFadden, 1974) with an outside option. The features are

- neighbours: the neighbours' support, in units of its spread over what the fit saw;
- best: the best candidate's cosine, alike;
- classes: the landmark's class logit (`training.centres`), alike, where the embedder has a head; of a landmark
  that the head does not know, as one that joined later, the best candidate stands in for its centre;
- index_penalty: -B of the best candidate, its likeness to non-landmarks, in the units of best;
- query_penalty: -C, that of the query, alike: the same for all its landmarks, so it speaks for "none of them";
- geometry: log(1 + the inliers over chance of the candidates that agree most), so that the tenth counts more than the
  hundredth, and one image that agrees well more than three by chance.

Where penalties are fixed they are no features: B is subtracted from every cosine of a search and C from the first three
features. Where they are off they do not count at all.

It is fitted on photographs whose landmark is known, none of which finds itself, and on photographs of no landmark.
Weights are never negative: more that speaks for a landmark never makes it less probable, nor another one more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from glr_assets.errors import StoreError
from glr_assets.retrieval.answering import Evidence
from glr_assets.retrieval.calibration import Calibration, fit_calibration
from glr_assets.retrieval.scoring import SCORE_DECIMALS, Recognition

Floats = npt.NDArray[np.float64]

NEIGHBOURS: Final = "neighbours"
BEST: Final = "best"
CLASSES: Final = "classes"
INDEX_PENALTY: Final = "index_penalty"
QUERY_PENALTY: Final = "query_penalty"
GEOMETRY: Final = "geometry"

Penalties = Literal["learned", "fixed", "off"]

#: Inliers of a candidate that count for nothing: 60 % of the landmarks that a query shows reach so many, and 3 % of the
#: others among its candidates. Of 2 to 6 it was the likeliest on a nested split of training photographs.
CHANCE: Final = 6
#: Weights are drawn to these as by a normal distribution of this precision: twenty held-out photographs, as a small
#: set has, teach little, and hundreds overrule it. Chosen on a nested split of training photographs, by the GAP of
#: embedders from good to poor (one with more and more noise): of precisions from .1 to 5 no other did as well by all.
#: Class logits came later, on three nested splits with networks trained from nothing.
PRIOR: Final[Mapping[str, float]] = {
    NEIGHBOURS: 1.0,
    BEST: 3.5,
    CLASSES: 1.0,
    INDEX_PENALTY: 0.0,
    QUERY_PENALTY: 0.0,
    GEOMETRY: 2.0,
}
PRECISION: Final = 1.0
ODDS_DECIMALS: Final = 4
"""Decimals of log odds: by scales of about .1 and weights of a few they resolve what six decimals of a cosine do."""
_LEAST_SPREAD = 1e-6
#: Log weight of "none of them" is within this: of samples that are all right, or all wrong, it has no other bound.
_MOST: Final = 20.0


class RecognitionModel(BaseModel):
    """Gives the landmarks of a query with their scores, the best first.

    Attributes:
        penalties: how likeness to non-landmarks counts: `[retrieval] penalties`.
        weights: of the features by name; empty where neighbours alone decide.
        scales: what a feature is divided by.
        none: log weight of no landmark of the index.
        calibration: from a score to the probability that the answer is right.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    penalties: Penalties
    weights: dict[str, float] = {}
    scales: dict[str, float] = {}
    none: float = 0.0
    calibration: Calibration

    def ranked(self, evidence: Evidence) -> list[Recognition]:
        """Every landmark that something speaks for, the best first, equal scores by landmark id.

        The score is the neighbours', less C where penalties are fixed; or, where there are weights, the log odds that
        the landmark is the one.
        """
        if self.weights:
            scores = log_odds(self._log_weights(evidence), self.none).round(ODDS_DECIMALS)
        else:
            scores = (evidence.neighbours - _subtracted(evidence, self.penalties)).round(SCORE_DECIMALS)
        # Adding 0 makes -0.0 of a rounded value 0.0.
        rounded = scores + 0.0
        found = [
            Recognition(evidence.id, landmark, score)
            for landmark, score in zip(evidence.landmark_ids.tolist(), rounded.tolist(), strict=True)
            if score > -math.inf
        ]
        return sorted(found, key=lambda answer: (-answer.score, answer.landmark_id))

    def probabilities(self, scores: Sequence[float]) -> list[float]:
        """Of a query's ranked answers, of which at most one is right, the probability of each.

        By neighbours alone each score is calibrated as that of a best answer. The second can only be right where the
        first is wrong, and so on: the k-th is p_k (1 - p_1) … (1 - p_(k-1)), which leaves the first as it is and never
        adds up to more than 1.
        """
        found = self.calibration.probability(scores).tolist()
        return found if self.weights else one_right(found)

    def _log_weights(self, evidence: Evidence) -> Floats:
        columns = features_of(evidence, self.penalties)
        return np.asarray(
            sum(weight * columns[name] / self.scales[name] for name, weight in self.weights.items()), np.float64
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> RecognitionModel:
        """The model that `model_dump_json` wrote.

        Raises:
            StoreError: `text` is no such document.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(str(part) for part in first["loc"]) or "document"
            raise StoreError(f"recognition model: {at}: {first['msg']}; materialise recognition_model again") from error


def log_odds(log_weights: Floats, none: float) -> Floats:
    """Log odds [l] of each landmark against all others and none of them, from log weights [l]."""
    from scipy.special import logsumexp

    count = len(log_weights)
    others = np.tile(np.append(log_weights, none), (count, 1))
    others[np.arange(count), np.arange(count)] = -np.inf
    return np.asarray(log_weights - logsumexp(others, axis=1), np.float64) if count else log_weights


def _subtracted(evidence: Evidence, penalties: Penalties) -> float:
    """What scores lose: C where penalties are fixed."""
    return evidence.penalty if penalties == "fixed" else 0.0


def features_of(evidence: Evidence, penalties: Penalties) -> dict[str, Floats]:
    """The features of each landmark [l], by name; not yet divided by their scales.

    Those that the evidence does not have, class logits and inliers, are left out.
    """
    less = _subtracted(evidence, penalties)
    support = np.where(np.isfinite(evidence.neighbours), evidence.neighbours, np.minimum(evidence.best, 0.0))
    found = {NEIGHBOURS: support - less, BEST: evidence.best - less}
    if evidence.classes is not None:
        known = np.isfinite(evidence.classes)
        found[CLASSES] = np.where(known, evidence.classes, evidence.best) - less
    if penalties == "learned":
        found[INDEX_PENALTY] = -evidence.best_penalty
        found[QUERY_PENALTY] = np.full(len(evidence.landmark_ids), -evidence.penalty)
    if evidence.inliers is not None:
        over = np.maximum(evidence.inliers.astype(np.float64) - CHANCE, 0.0)
        found[GEOMETRY] = np.log1p(over.sum(axis=1))
    return found


def fit_neighbours(
    evidence: Sequence[Evidence], shown: Sequence[int | None], penalties: Penalties = "fixed"
) -> RecognitionModel:
    """The model by neighbours alone: the calibration of the best answers' scores.

    Args:
        evidence: of photographs that did not find themselves, nor taught the embedder.
        shown: the landmark of each; None where it shows none.
        penalties: fixed subtracts C from every score.
    """
    plain = RecognitionModel(penalties=penalties, calibration=Calibration(slope=1, intercept=0))
    best = [(answers[0], landmark) for answers, landmark in _answers(plain, evidence, shown) if answers]
    right = [answer.landmark_id == landmark for answer, landmark in best]
    calibration = fit_calibration([answer.score for answer, _ in best], right)
    return RecognitionModel(penalties=penalties, calibration=calibration)


def feature_names(penalties: Penalties, *, classes: bool, geometry: bool) -> tuple[str, ...]:
    """The features of evidence that has class logits, or inliers, or not."""
    wanted = {NEIGHBOURS, BEST}
    wanted |= {INDEX_PENALTY, QUERY_PENALTY} if penalties == "learned" else set()
    wanted |= ({CLASSES} if classes else set()) | ({GEOMETRY} if geometry else set())
    return tuple(name for name in PRIOR if name in wanted)


def fit_model(
    evidence: Sequence[Evidence],
    shown: Sequence[int | None],
    penalties: Penalties = "learned",
    *,
    classes: bool = False,
    geometry: bool = True,
) -> RecognitionModel:
    """The model by all that speaks for a landmark; where there is no evidence its weights are `PRIOR`'s.

    Args:
        evidence: of photographs that did not find themselves, nor taught the embedder.
        shown: the landmark of each; None where it shows none.
        penalties: how likeness to non-landmarks counts.
        classes: use class logits, which all evidence has.
        geometry: use inliers, which all evidence has.

    A landmark that is not among a photograph's candidates cannot be answered: "none of them" is then right.
    """
    from scipy.optimize import minimize

    columns = [features_of(found, penalties) for found in evidence]
    names = feature_names(penalties, classes=classes, geometry=geometry)
    scales = {name: _scale(name, columns) for name in names}
    rows = [np.stack([column[name] / scales[name] for name in names], axis=1) for column in columns]
    design = np.concatenate([np.zeros((0, len(names))), *rows])
    counts = np.array([len(part) for part in rows], np.int64)
    starts = np.cumsum(counts) - counts
    photo = np.repeat(np.arange(len(rows)), counts)
    truth = np.zeros(len(design), np.bool_)
    known = np.zeros(len(rows), np.bool_)
    for number, (found, landmark) in enumerate(zip(evidence, shown, strict=True)):
        at = np.flatnonzero(found.landmark_ids == (np.nan if landmark is None else landmark))
        if len(at):
            truth[starts[number] + at[0]] = known[number] = True
    prior = np.array([PRIOR[name] for name in names])

    def loss(parameters: Floats) -> tuple[float, Floats]:
        weights, none = parameters[:-1], parameters[-1]
        logs = design @ weights
        top = np.full(len(rows), none)
        np.maximum.at(top, photo, logs)
        shares = np.exp(logs - top[photo])
        outside = np.exp(none - top)
        total = outside + np.bincount(photo, shares, len(rows))
        likely = float(logs[truth].sum() + none * np.count_nonzero(~known) - (top + np.log(total)).sum())
        away = weights - prior
        given = shares / total[photo]
        of_weights = design.T @ (given - truth) + PRECISION * away
        of_none = float((outside / total).sum() - np.count_nonzero(~known))
        return 0.5 * PRECISION * float(away @ away) - likely, np.append(of_weights, of_none)

    bounds = [(0.0, None)] * len(names) + [(-_MOST, _MOST)]
    # To the bottom: scipy's own tolerances stop where weights still depend on the last bits of the features.
    options = {"ftol": 1e-14, "gtol": 1e-8, "maxiter": 10_000}
    found = minimize(loss, np.append(prior, 0.0), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    weights = {name: float(value) for name, value in zip(names, found.x, strict=False)}
    model = RecognitionModel(
        penalties=penalties,
        weights=weights,
        scales=scales,
        none=float(found.x[-1]),
        calibration=Calibration(slope=1, intercept=0),
    )
    right = sum(
        bool(answers) and answers[0].landmark_id == landmark for answers, landmark in _answers(model, evidence, shown)
    )
    fitted = Calibration(slope=1, intercept=0, samples=len(evidence), correct=right, fitted=True)
    return model.model_copy(update={"calibration": fitted})


def _scale(name: str, columns: Sequence[Mapping[str, Floats]]) -> float:
    """What a feature is divided by: cosines by the spread of each photograph's best, as embedders differ in it.

    Penalties are cosines too, and divided by the spread of the best candidates' ones.
    """
    if name == GEOMETRY:
        return 1.0
    name = BEST if name in (INDEX_PENALTY, QUERY_PENALTY) else name
    best = [float(column[name].max()) for column in columns if len(column[name])]
    spread = float(np.std(best)) if best else 0.0
    return spread if spread > _LEAST_SPREAD else 1.0


def _answers(
    model: RecognitionModel, evidence: Sequence[Evidence], shown: Sequence[int | None]
) -> Iterable[tuple[list[Recognition], int | None]]:
    return ((model.ranked(found), landmark) for found, landmark in zip(evidence, shown, strict=True))


def one_right(probabilities: Sequence[float]) -> list[float]:
    """Probabilities of ranked answers of which at most one is right, from those of each as the best answer."""
    found, left = [], 1.0
    for probability in probabilities:
        found.append(probability * left)
        left *= 1.0 - probability
    return found
