"""Calibration across groups: hand-worked numbers, the fit against its own definition, and planted groups."""

from __future__ import annotations

import io
import math
import tracemalloc
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from glr_assets.errors import ClassifierError
from glr_assets.evaluation.answers import scores_of_answers
from glr_assets.recipes import Execution
from glr_assets.training import group_map as reduction
from glr_assets.training.group_calibration import Classifiers, report_of
from glr_assets.training.group_map import (
    NO_LANDMARK,
    POOLED_PRECISION,
    PRECISION,
    GroupCalibration,
    GroupMap,
    GroupScores,
    expected_calibration_error,
    fit_group_calibration,
    raw_answers,
)
from glr_assets.training.schemas import GROUP_CALIBRATION


def logits(landmark_ids: tuple[int, ...], rows: list[list[float]]) -> GroupScores:
    return GroupScores.of_logits(landmark_ids, np.array(rows, np.float32).reshape(len(rows), -1 if rows else 2))


def test_features_are_the_log_odds_of_the_best_landmark_and_the_energy_of_all() -> None:
    # Softmax of (0, ln 3, 0): 1/5, 3/5, 1/5. The third column of the second is of none of the landmarks.
    three = logits((4, 9, 2), [[0, math.log(3), 0]]).features
    assert three[0] == pytest.approx([math.log(1.5), math.log(5)])
    outside = logits((4, 9), [[0, math.log(3), math.log(12)]]).features
    assert outside[0] == pytest.approx([math.log(3 / 13), math.log(4)])
    # One landmark alone is told by its class against none of them.
    assert logits((4,), [[math.log(2), 0]]).features[0] == pytest.approx([math.log(2), math.log(2)])


@given(arrays(np.float32, (7, 5), elements=st.floats(-30, 30, width=32)), st.integers(1, 5), st.integers(1, 40))
def test_scores_are_those_of_each_row_by_itself_however_many_are_reduced_together(
    values: np.ndarray, classes: int, at_once: int
) -> None:
    names = (40, 10, 30, 20, 50)[:classes]
    # One column more is of none of the landmarks.
    values = values[:, : min(classes + 1, 5)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduction, "_LOGITS_AT_ONCE", at_once)
        found = GroupScores.of_logits(names, values)
    for row, logit in enumerate(values.astype(np.float64).tolist()):
        best = max(range(classes), key=lambda number: (logit[number], -number))
        others = [value for number, value in enumerate(logit) if number != best]
        assert found.landmark_ids[row] == names[best]
        assert found.energy[row] == pytest.approx(math.log(math.fsum(map(math.exp, logit[:classes]))))
        rest = math.log(math.fsum(map(math.exp, others))) if others else -math.inf
        assert found.log_odds[row] == pytest.approx(logit[best] - rest, abs=1e-9)


class Loud:
    """A classifier of many landmarks: its logits are much larger than what is kept of them."""

    classes = 1000

    def __init__(self, number: int) -> None:
        self.config = SimpleNamespace(image_size=8, landmark_ids=tuple(range(number, number + self.classes)))

    def logits(self, images: list[np.ndarray], execution: Execution) -> np.ndarray:
        return np.random.default_rng(len(images)).normal(size=(len(images), self.classes)).astype(np.float32)


def test_memory_does_not_grow_by_the_logits_of_the_images() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    classifiers = Classifiers({f"{number:02d}": Loud(number) for number in range(3)}, Execution(workers=1))

    def peak(images: int) -> int:
        tracemalloc.start()
        try:
            found = classifiers.scores(file.getvalue() for _ in range(images))
            assert {len(scores.landmark_ids) for scores in found.values()} == {images}
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    few = peak(512)
    assert peak(5 * 512) < few + 3 * 5 * 512 * 2 * 24 + 2**19


def test_the_raw_answer_is_the_highest_softmax_of_any_group() -> None:
    found = {
        "00": logits((4, 9, 2), [[0, math.log(3), 0], [5, 0, 0]]),
        "01": logits((7, 1), [[math.log(3), 0], [0.1, 0]]),
    }
    raw = raw_answers(found)
    assert raw.landmark_ids.tolist() == [7, 4]
    assert raw.probability == pytest.approx([3 / 4, math.exp(5) / (math.exp(5) + 2)])


def group_map(odds: float, prior: float) -> GroupMap:
    """A group that gives the same odds to every image."""
    return GroupMap(mean=(0, 0), spread=(1, 1), weights=(0, 0), intercept=math.log(odds), prior=prior, right=0)


def test_groups_share_one_probability_by_bayes_rule() -> None:
    # By enumeration: a group that is right with prior p and posterior odds o by itself has seen evidence that is
    # L = o (1 - p) / p times as likely where it is right. Of the outcomes "00 right", "01 right" and "none" the
    # evidence of the other group has the factor 1.
    odds, prior = {"00": Fraction(3), "01": Fraction(1, 2)}, {"00": Fraction(1, 5), "01": Fraction(1, 4)}
    weight = {key: prior[key] * (odds[key] * (1 - prior[key]) / prior[key]) for key in odds}
    none = 1 - sum(prior.values())
    total = none + sum(weight.values())
    calibration = GroupCalibration(
        groups={key: group_map(float(odds[key]), float(prior[key])) for key in odds}, none=float(none), samples=9
    )
    answers = calibration.answers({"00": logits((4, 9), [[1, 0]]), "01": logits((7, 1), [[9, 0]])})
    assert answers.landmark_ids.tolist() == [4]
    assert answers.probability[0] == pytest.approx(float(weight["00"] / total))
    assert answers.none[0] == pytest.approx(float(none / total))
    # One group by itself keeps its own odds where what is not right is none.
    alone = GroupCalibration(groups={"00": group_map(3, 0.2)}, none=0.8, samples=9)
    assert alone.answers({"00": logits((4, 9), [[1, 0]])}).probability[0] == pytest.approx(3 / 4)


def planted(
    seed: int, images: int, classes: tuple[int, ...], strangers: float
) -> tuple[dict[str, GroupScores], np.ndarray]:
    """Groups of so many landmarks, whose classifiers know their own images well and are noisy on others.

    The fewer landmarks a group has the surer its softmax is of images that are none of its own.
    """
    random = np.random.default_rng(seed)
    starts = np.cumsum([0, *classes])
    shown = random.integers(0, starts[-1], images)
    shown[random.random(images) < strangers] = NO_LANDMARK
    found = {}
    for number, (start, count) in enumerate(zip(starts, classes, strict=False)):
        values = random.normal(0, 3, (images, count))
        own = np.flatnonzero((shown >= start) & (shown < start + count))
        values[own, shown[own] - start] += random.normal(6, 2, len(own))
        found[f"{number:02d}"] = GroupScores.of_logits(tuple(range(start, start + count)), values.astype(np.float32))
    return found, shown


def part(found: dict[str, GroupScores], rows: slice | np.ndarray) -> dict[str, GroupScores]:
    return {key: one.rows(rows) for key, one in found.items()}


@pytest.mark.parametrize("seed", range(3))
def test_calibrated_groups_are_right_more_often_and_as_sure_as_they_are_right(seed: int) -> None:
    found, shown = planted(seed, 6000, (2, 3, 30), strangers=0.3)
    calibration = fit_group_calibration(part(found, slice(0, 3000)), shown[:3000])
    held, true = part(found, slice(3000, None)), shown[3000:]
    calibrated, raw = calibration.answers(held), raw_answers(held)
    ids = [f"{n:05d}" for n in range(3000)]
    scores = {
        name: scores_of_answers(ids, answers.landmark_ids, answers.probability, true)
        for name, answers in (("calibrated", calibrated), ("raw", raw))
    }
    error = expected_calibration_error(calibrated.probability, calibrated.landmark_ids == true)
    assert error < 0.05 < expected_calibration_error(raw.probability, raw.landmark_ids == true)
    assert scores["calibrated"]["gap"] > scores["raw"]["gap"] + 0.05
    assert scores["calibrated"]["top1"] > scores["raw"]["top1"]
    # What shows no landmark is told from what does.
    assert calibrated.none[true == NO_LANDMARK].mean() > calibrated.none[true != NO_LANDMARK].mean() + 0.1
    # "None" is as probable as it is common that no group's answer is right.
    nobody = np.all([g.landmark_ids != true for g in held.values()], axis=0)
    assert calibrated.none.mean() == pytest.approx(nobody.mean(), abs=0.05)


def penalised(
    weights: np.ndarray, standard: np.ndarray, right: np.ndarray, prior: np.ndarray, precision: np.ndarray
) -> float:
    """The fit's loss, from its definition: Platt's targets, cross-entropy, normal priors."""
    n = int(right.sum())
    targets = [(n + 1) / (n + 2) if r else 1 / (len(right) - n + 2) for r in right]
    total = 0.5 * sum(k * (w - p) ** 2 for k, w, p in zip(precision, weights, prior, strict=True))
    for row, target in zip(standard, targets, strict=True):
        probability = 1 / (1 + math.exp(-(weights[0] * row[0] + weights[1] * row[1] + weights[2])))
        total -= target * math.log(probability) + (1 - target) * math.log(1 - probability)
    return total


def test_a_fit_is_the_least_of_its_loss_and_its_priors_count() -> None:
    found, shown = planted(7, 120, (3,), strangers=0.4)
    calibration = fit_group_calibration(found, shown)
    own = calibration.groups["00"]
    raw = found["00"].features
    assert own.mean == pytest.approx(raw.mean(axis=0))
    assert own.spread == pytest.approx(raw.std(axis=0))
    right = found["00"].landmark_ids == shown
    assert own.right == right.sum()
    # Half an image of each of the two outcomes, right and none.
    assert own.prior == pytest.approx((right.sum() + 0.5) / 121)
    assert calibration.none == pytest.approx((120 - right.sum() + 0.5) / 121)
    standard = (raw - raw.mean(axis=0)) / raw.std(axis=0)

    def descended(prior: np.ndarray, precision: list[float]) -> np.ndarray:
        """By coordinate search: no derivative, no library."""
        weights, step = np.zeros(3), 1.0
        while step > 1e-5:
            moves = [weights + sign * step * axis for axis in np.eye(3) for sign in (1, -1)]
            losses = [penalised(w, standard, right, prior, np.array(precision)) for w in [weights, *moves]]
            best = moves[int(np.argmin(losses[1:]))]
            if min(losses[1:]) < losses[0]:
                weights = best
            else:
                step /= 2
        return weights

    # The one group is all groups: what they have in common is found first, and its own weights are drawn to it.
    pooled = descended(np.zeros(3), [POOLED_PRECISION, POOLED_PRECISION, 0.0])
    expected = descended(pooled, [PRECISION] * 3)
    assert [*own.weights, own.intercept] == pytest.approx(expected, abs=2e-3)


def test_a_group_that_is_never_right_is_not_believed_and_spoils_no_other() -> None:
    found, shown = planted(1, 2000, (4, 4, 4), strangers=0.3)
    rows = shown < 8
    calibration = fit_group_calibration(part(found, rows), shown[rows])
    assert calibration.groups["02"].right == 0
    answers = calibration.answers(part(found, rows))
    of_last = answers.landmark_ids >= 8
    # By itself it is right of about a third of the images, as the others are.
    assert answers.probability[of_last].mean() < 0.1
    assert answers.probability[of_last].max() < 0.3
    two = {key: found[key] for key in ("00", "01")}
    without = fit_group_calibration(part(two, rows), shown[rows]).answers(part(two, rows))
    same = answers.landmark_ids == without.landmark_ids
    assert same.mean() > 0.95
    np.testing.assert_allclose(answers.probability[same], without.probability[same], atol=0.1)


FINITE = st.floats(-30, 30, width=32)


@given(
    arrays(np.float32, (12, 3), elements=FINITE),
    arrays(np.float32, (12, 2), elements=FINITE),
    arrays(np.int64, 12, elements=st.integers(-1, 4)),
    st.permutations(range(12)),
)
def test_probabilities_are_of_one_whole_whatever_the_logits_and_their_order(
    one: np.ndarray, two: np.ndarray, shown: np.ndarray, order: list[int]
) -> None:
    found = {"00": GroupScores.of_logits((0, 1, 2), one), "01": GroupScores.of_logits((3, 4), two)}
    calibration = fit_group_calibration(found, shown)
    answers = calibration.answers(found)
    assert np.isfinite(answers.probability).all()
    assert ((answers.probability >= 0) & (answers.none >= 0)).all()
    # The other group's share is at least nothing and at most the answer's.
    rest = 1 - answers.none - answers.probability
    assert (rest >= -1e-9).all()
    assert (rest <= answers.probability + 1e-9).all()
    assert sum(group.prior for group in calibration.groups.values()) + calibration.none == pytest.approx(1)
    shuffled = fit_group_calibration(part(found, np.array(order)), shown[order]).answers(found)
    np.testing.assert_allclose(shuffled.probability, answers.probability, atol=1e-4)
    # An image's answer is its own.
    alone = calibration.answers(part(found, slice(3, 4)))
    assert alone.probability[0] == pytest.approx(answers.probability[3])
    assert GroupCalibration.model_validate_json(calibration.model_dump_json()) == calibration


def test_what_cannot_be_calibrated_is_one_line() -> None:
    with pytest.raises(ClassifierError, match="no group has a classifier"):
        fit_group_calibration({}, np.zeros(0, np.int64))
    with pytest.raises(ClassifierError, match="no image is held out to calibrate"):
        fit_group_calibration({"00": logits((1, 2), [])}, np.zeros(0, np.int64))
    found, shown = planted(0, 50, (2, 3), strangers=0.2)
    with pytest.raises(ClassifierError, match=r"of the groups \['00', '01'\], found scores of \['00'\]"):
        fit_group_calibration(found, shown).answers({"00": found["00"]})


def test_the_calibration_error_by_hand() -> None:
    # 15 ranges: .05 is by itself and wrong, the two of .95 are half right; the mean of .05 and twice .45.
    confidence, right = np.array([0.05, 0.95, 0.95]), np.array([False, True, False])
    assert expected_calibration_error(confidence, right) == pytest.approx((0.05 + 0.9) / 3)
    assert expected_calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0
    assert expected_calibration_error(np.zeros(0), np.zeros(0, bool)) == 0


def test_a_report_counts_by_way_by_group_and_with_the_reject() -> None:
    def row(name: str, shown: int | None, group: str | None, answer: int, probability: float, raw: int) -> dict:
        return {
            "id": name, "fold": "validation", "landmark_id": shown, "group": group, "answer": answer,
            "probability": probability, "none": 0.0, "rejected": probability < 0.5, "raw_answer": raw,
            "raw_softmax": 0.9,
        }  # fmt: skip

    rows = [
        row("a", 4, "00", 4, 0.9, 4),
        row("b", 4, "00", 7, 0.3, 4),
        row("c", 7, "01", 7, 0.8, 4),
        row("d", None, None, 7, 0.6, 4),
        row("e", None, None, 7, 0.1, 4),
    ]
    table = pa.Table.from_pylist(rows, schema=GROUP_CALIBRATION.schema)
    report = report_of(table, scores_of_answers)
    assert (report["images"], report["non_landmarks"]) == (5, 2)
    # GAP by hand: right at ranks 1 and 2 of three positives; raw ties are in the order of ids: ranks 1 and 2.
    assert report["calibrated"]["gap"] == pytest.approx(2 / 3)
    assert report["raw"]["gap"] == pytest.approx(2 / 3)
    assert report["calibrated"]["top1"] == pytest.approx(2 / 3)
    assert report["raw"]["ece"] == pytest.approx(0.9 - 2 / 5)
    assert report["groups"]["00"]["calibrated top1"] == 0.5
    assert report["groups"]["00"]["raw top1"] == 1
    assert report["groups"]["01"]["images"] == 1
    assert report["groups"]["01"]["raw top1"] == 0
    assert report["reject"] == {
        "accepted": 3,
        "accepted_right": pytest.approx(2 / 3),
        "non_landmarks_rejected": 0.5,
    }
