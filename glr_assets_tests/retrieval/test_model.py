"""From evidence to probabilities: the fit against a search of its loss, shares that add up, and more is never less."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.errors import StoreError
from glr_assets.retrieval.answering import TOLD, Evidence, evidence_of
from glr_assets.retrieval.calibration import Calibration
from glr_assets.retrieval.model import (
    CHANCE,
    CLASSES,
    PRECISION,
    PRIOR,
    RecognitionModel,
    features_of,
    fit_model,
    fit_neighbours,
    log_odds,
    one_right,
)

CERTAIN = Calibration(slope=1, intercept=0)


def drawn(random: np.random.Generator, landmarks: int, number: int = 0, right: int | None = None) -> Evidence:
    """Evidence of so many landmarks, among which the right one has more on its side."""
    best = random.normal(0.2, 0.1, landmarks)
    inliers = np.sort(random.poisson(3, (landmarks, TOLD)), axis=1)[:, ::-1].astype(np.int32)
    if right is not None:
        best[right] += random.normal(0.3, 0.2)
        inliers[right] += random.integers(0, 30)
    seen = np.where(random.random(landmarks) < 0.6, best * 1.5, -np.inf)
    own_b = np.random.default_rng([number, landmarks]).normal(0.1, 0.05, landmarks)
    return Evidence(f"q{number:03d}", float(random.random() / 10), np.arange(landmarks) * 7, seen, best, own_b, inliers)


def samples(seed: int, count: int = 60) -> tuple[list[Evidence], list[int | None]]:
    random = np.random.default_rng(seed)
    evidence, shown = [], []
    for number in range(count):
        landmarks = int(random.integers(2, 7))
        right = int(random.integers(landmarks)) if number % 3 else None
        evidence.append(drawn(random, landmarks, number, right))
        shown.append(None if right is None else 7 * right)
    return evidence, shown


def test_evidence_of_a_worked_example() -> None:
    scores = np.array([0.5, 0.4, 0.3, 0.2, 0.1])
    landmarks = np.array([9, 4, 9, 4, 2])
    own_b = np.array([0.01, 0.02, 0.03, 0.04, 0.05])
    found = evidence_of("q", 0.05, scores, landmarks, own_b, np.array([3, 12, 40], np.int32), 3)
    assert found.landmark_ids.tolist() == [2, 4, 9]
    np.testing.assert_allclose(found.neighbours, [-np.inf, 0.4, 0.8])
    np.testing.assert_allclose(found.best, [0.1, 0.4, 0.5])
    np.testing.assert_allclose(found.best_penalty, [0.05, 0.02, 0.01])
    assert found.inliers is not None
    assert found.inliers.tolist() == [[0, 0, 0], [12, 0, 0], [40, 3, 0]]
    assert evidence_of("q", 0.05, scores, landmarks, own_b, None, 3).inliers is None


def test_features_of_a_worked_example() -> None:
    found = Evidence(
        "q",
        0.2,
        np.array([1, 2]),
        np.array([0.9, -np.inf]),
        np.array([0.5, 0.3]),
        np.array([0.1, 0.15]),
        np.array([[CHANCE + 2, CHANCE + 1, 3], [0, 0, 0]], np.int32),
    )
    learned = features_of(found, "learned")
    assert list(learned) == ["neighbours", "best", "index_penalty", "query_penalty", "geometry"]
    # Cosines as they are; of a landmark without a neighbour the support is 0.
    np.testing.assert_allclose(learned["neighbours"], [0.9, 0.0])
    np.testing.assert_allclose(learned["best"], [0.5, 0.3])
    np.testing.assert_allclose(learned["index_penalty"], [-0.1, -0.15])
    np.testing.assert_allclose(learned["query_penalty"], [-0.2, -0.2])
    np.testing.assert_allclose(learned["geometry"], [math.log(4), 0.0])
    fixed = features_of(found, "fixed")
    np.testing.assert_allclose(fixed["neighbours"], [0.7, -0.2])
    np.testing.assert_allclose(fixed["best"], [0.3, 0.1])
    off = features_of(replace(found, inliers=None), "off")
    assert list(off) == ["neighbours", "best"]
    np.testing.assert_allclose(off["best"], [0.5, 0.3])


def test_log_odds_of_a_worked_example() -> None:
    # Weights 2, 1 and 1 of none: shares 1/2, 1/4 and 1/4.
    np.testing.assert_allclose(log_odds(np.log([2.0, 1.0]), 0.0), [0.0, math.log(1 / 3)], atol=1e-12)
    assert log_odds(np.zeros(0), 0.0).shape == (0,)


@given(st.integers(0, 2**31), st.integers(1, 8))
def test_probabilities_of_all_landmarks_and_none_add_up_to_one(seed: int, landmarks: int) -> None:
    evidence = drawn(np.random.default_rng(seed), landmarks)
    model = RecognitionModel(
        penalties="learned", weights=dict(PRIOR), scales=dict.fromkeys(PRIOR, 1.0), none=0.5, calibration=CERTAIN
    )
    model = model.model_copy(update={"weights": {name: PRIOR[name] for name in features_of(evidence, "learned")}})
    ranked = model.ranked(evidence)
    assert sorted(answer.landmark_id for answer in ranked) == evidence.landmark_ids.tolist()
    shares = model.probabilities([answer.score for answer in ranked])
    columns = features_of(evidence, "learned")
    logs = sum(weight * columns[name] for name, weight in model.weights.items())
    none = math.exp(0.5) / (math.exp(0.5) + np.exp(logs).sum())
    assert sum(shares) + none == pytest.approx(1, abs=1e-3)


@given(st.integers(0, 2**31), st.integers(2, 6), st.sampled_from(["inliers", "best", "neighbours"]))
def test_more_that_speaks_for_a_landmark_makes_no_other_more_probable(seed: int, landmarks: int, what: str) -> None:
    random = np.random.default_rng(seed)
    evidence = drawn(random, landmarks)
    model = fit_model(*samples(seed % 5))
    assert all(weight >= 0 for weight in model.weights.values())
    chosen = int(random.integers(landmarks))
    more = getattr(evidence, what).copy()
    more[chosen] += random.integers(1, 20) if what == "inliers" else random.random()
    before = {answer.landmark_id: answer.score for answer in model.ranked(evidence)}
    after = {answer.landmark_id: answer.score for answer in model.ranked(replace(evidence, **{what: more}))}
    for landmark, score in before.items():
        if landmark == evidence.landmark_ids[chosen]:
            assert after[landmark] >= score - 1e-9
        else:
            assert after[landmark] <= score + 1e-9


def _loss(model: RecognitionModel, evidence: list[Evidence], shown: list[int | None]) -> float:
    """The penalised likelihood, photograph by photograph, as the model's own scores tell it."""
    total = 0.0
    for found, landmark in zip(evidence, shown, strict=True):
        columns = features_of(found, model.penalties)
        logs = sum(weight * columns[name] / model.scales[name] for name, weight in model.weights.items())
        logs = np.append(logs, model.none)
        at = np.flatnonzero(found.landmark_ids == landmark) if landmark is not None else []
        own = logs[at[0]] if len(at) else model.none
        total -= own - math.log(np.exp(logs).sum())
    return total + 0.5 * PRECISION * sum((model.weights[name] - PRIOR[name]) ** 2 for name in model.weights)


@pytest.mark.parametrize("seed", range(3))
def test_no_weights_near_those_found_are_likelier(seed: int) -> None:
    evidence, shown = samples(seed)
    model = fit_model(evidence, shown)
    least = _loss(model, evidence, shown)
    for step, name in product((-0.05, 0.05), [*model.weights, "none"]):
        if name == "none":
            moved = model.model_copy(update={"none": model.none + step})
        else:
            weight = max(0.0, model.weights[name] + step)
            moved = model.model_copy(update={"weights": model.weights | {name: weight}})
        assert _loss(moved, evidence, shown) >= least - 1e-7


def test_who_answers_for_none_of_them_is_learnt() -> None:
    evidence, shown = samples(0)
    nobody, somebody = fit_model(evidence, [None] * len(evidence)), fit_model(evidence, shown)
    assert nobody.calibration.correct == 0 < somebody.calibration.correct
    for found in evidence:
        assert nobody.ranked(found)[0].score < somebody.ranked(found)[0].score
    # The photographs themselves are all it knows: hardly any answer is more likely right than not.
    assert np.mean([nobody.ranked(found)[0].score > 0 for found in evidence]) < 0.1


def test_class_logits_count_where_they_tell_the_right_landmark() -> None:
    evidence, shown = samples(0)
    random = np.random.default_rng(0)
    without = fit_model(evidence, shown, "fixed")
    assert CLASSES not in without.weights

    def told(right: bool) -> RecognitionModel:
        logits = []
        for found, landmark in zip(evidence, shown, strict=True):
            known = (found.landmark_ids == landmark) if right else np.zeros(len(found.landmark_ids))
            logits.append(random.normal(0.1, 0.05, len(known)) + 0.6 * known)
        with_logits = [replace(f, classes=of) for f, of in zip(evidence, logits, strict=True)]
        return fit_model(with_logits, shown, "fixed", classes=True)

    telling, noise = told(True), told(False)
    assert telling.weights[CLASSES] > PRIOR[CLASSES] > noise.weights[CLASSES] >= 0
    assert telling.calibration.correct > without.calibration.correct
    # A landmark that the head does not know is weighed by its best photograph alone.
    unknown = replace(evidence[0], classes=np.full(len(evidence[0].landmark_ids), np.nan))
    as_best = replace(evidence[0], classes=evidence[0].best)
    assert telling.ranked(unknown) == telling.ranked(as_best)
    # What it was fitted with, it asks for.
    with pytest.raises(KeyError):
        telling.ranked(evidence[0])


def test_penalties_count_where_they_tell_non_landmarks_and_not_where_they_mislead() -> None:
    evidence, shown = samples(0)
    random = np.random.default_rng(0)

    def fitted(sign: float) -> RecognitionModel:
        """C of non-landmarks is larger by `sign` / 4, and so is B of landmarks that are not shown."""
        changed = []
        for found, landmark in zip(evidence, shown, strict=True):
            c = 0.4 + sign * 0.25 * (landmark is None) + random.normal(0, 0.05)
            b = 0.4 + sign * 0.25 * (found.landmark_ids != landmark) + random.normal(0, 0.05, len(found.landmark_ids))
            changed.append(replace(found, penalty=float(c), best_penalty=b))
        return fit_model(changed, shown)

    telling, misleading = fitted(1), fitted(-1)
    assert telling.weights["query_penalty"] > 0.5
    assert telling.weights["index_penalty"] > 0.5
    # Never negative: where likeness to non-landmarks speaks for a landmark it does not count.
    assert misleading.weights["query_penalty"] == misleading.weights["index_penalty"] == 0
    # More likeness to non-landmarks never makes an answer more probable.
    one = evidence[0]
    before, after = (telling.ranked(replace(one, penalty=penalty))[0].score for penalty in (0.4, 0.5))
    assert after < before


def test_few_samples_leave_the_weights_where_they_were() -> None:
    nothing = fit_model([], [])
    assert nothing.weights == {name: weight for name, weight in PRIOR.items() if name != CLASSES}
    assert nothing.ranked(samples(1)[0][0])
    bare = fit_model([], [], "off", geometry=False)
    assert set(bare.weights) == {"neighbours", "best"}
    assert bare.ranked(replace(samples(1)[0][0], inliers=None))
    evidence, shown = samples(1, 2)
    model = fit_model(evidence, shown)
    # They go no further from the prior than what two photographs say against it is worth.
    away = 0.5 * PRECISION * sum((weight - PRIOR[name]) ** 2 for name, weight in model.weights.items())
    prior = model.model_copy(update={"weights": {name: PRIOR[name] for name in model.weights}, "none": 0.0})
    assert 0 < away < _loss(prior, evidence, shown)


def test_an_answer_by_neighbours_alone_is_calibrated_by_its_score() -> None:
    evidence, shown = samples(2)
    model = fit_neighbours(evidence, shown)
    ranked = model.ranked(evidence[1])
    seen = np.isfinite(evidence[1].neighbours)
    assert len(ranked) == int(seen.sum())
    assert ranked[0].score == pytest.approx(evidence[1].neighbours.max() - evidence[1].penalty, abs=1e-6)
    assert model.probabilities([ranked[0].score])[0] == model.calibration.probability([ranked[0].score])[0]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_probabilities_of_ranked_answers_are_of_one_right_at_most(values: list[float]) -> None:
    found = one_right(values)
    assert found[:1] == values[:1]
    assert sum(found) <= 1 + 1e-9
    assert all(one <= other for one, other in zip(found, values, strict=True))
    ranked = one_right(sorted(values, reverse=True))
    assert ranked == sorted(ranked, reverse=True)


def test_a_model_survives_its_document() -> None:
    model = fit_model(*samples(3))
    assert RecognitionModel.from_json(model.model_dump_json()) == model
    with pytest.raises(StoreError, match="recognition model: penalties: Field required; materialise"):
        RecognitionModel.from_json('{"calibration": {"slope": 1, "intercept": 0}}')
    with pytest.raises(StoreError, match="recognition model: weights"):
        RecognitionModel.from_json('{"penalties": "off", "weights": 1, "calibration": {"slope": 1, "intercept": 0}}')
