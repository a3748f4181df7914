from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from glr_assets.errors import EmbedderError
from glr_assets.retrieval.calibration import FEWEST_SAMPLES, PRIOR_SLOPE, Calibration, fit_calibration

finite = st.floats(-1e6, 1e6)


def reference_fit(scores: np.ndarray, correct: np.ndarray) -> tuple[float, float]:
    """Platt's problem by a simplex search over probabilities, sharing neither gradient nor Hessian."""
    positives, negatives = correct.sum(), (~correct).sum()
    targets = np.where(correct, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: np.ndarray) -> float:
        p = np.clip(1 / (1 + np.exp(-(parameters[0] * scores + parameters[1]))), 1e-300, 1 - 1e-16)
        return float(-(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum())

    found = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-13, "maxiter": 5000})
    return float(found.x[0]), float(found.x[1])


class TestProbability:
    def test_worked_example(self) -> None:
        calibration = Calibration(slope=2.0, intercept=-1.0)
        np.testing.assert_allclose(
            calibration.probability([0.5, 1.0, -1.0]), [0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(3))]
        )
        assert calibration.probability(0.5).shape == ()
        assert calibration.probability([[0.1, 0.2]]).shape == (1, 2)
        assert calibration.probability([]).shape == (0,)

    def test_small_probabilities_keep_their_digits(self) -> None:
        assert Calibration(slope=1, intercept=0).probability(-50.0) == pytest.approx(math.exp(-50), rel=1e-12)

    @example(1.0, 0.0, [-6004799503160661.0, -9007199254740994.0])
    @given(st.floats(1e-3, 1e3), st.floats(-100, 100), st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=20))
    def test_stays_inside_0_and_1_and_never_falls(self, slope: float, intercept: float, scores: list[float]) -> None:
        calibration = Calibration(slope=slope, intercept=intercept)
        for values in (calibration.probability(sorted(scores)), calibration.confidence(sorted(scores))):
            assert ((values > 0) & (values < 1)).all()
            assert (np.diff(values) >= 0).all()

    @given(st.floats(0.5, 50), st.floats(-5, 5), st.lists(st.integers(-400_000, 400_000), min_size=2, unique=True))
    def test_rises_strictly_between_scores_of_six_decimals(
        self, slope: float, intercept: float, millionths: list[int]
    ) -> None:
        scores = np.sort(np.array(millionths)) / 1e6
        calibration = Calibration(slope=slope, intercept=intercept)
        assert (np.diff(calibration.probability(scores)) > 0).all()
        assert (np.diff(calibration.confidence(scores)) > 0).all()

    @given(st.lists(finite, min_size=2, max_size=30))
    def test_a_score_gets_the_same_probability_in_every_batch(self, scores: list[float]) -> None:
        calibration = Calibration(slope=3, intercept=-1)
        for values in (calibration.probability, calibration.confidence):
            np.testing.assert_array_equal(values(scores), [float(values(score)) for score in scores])


class TestConfidence:
    def test_is_a_half_where_the_probability_is(self) -> None:
        calibration = Calibration(slope=4.0, intercept=-2.0)
        np.testing.assert_allclose(calibration.confidence([0.5, 0.75, 0.25]), [0.5, 0.75, 0.25])

    def test_eight_decimals_tell_scores_of_six_apart_where_probabilities_look_alike(self) -> None:
        calibration = Calibration(slope=10.0, intercept=0.0)
        scores = 2.0 + np.arange(100) / 1e6
        assert {f"{p:.8f}" for p in calibration.probability(scores)} == {"1.00000000"}
        assert len({f"{c:.8f}" for c in calibration.confidence(scores)}) == 100
        assert len({f"{c:.8f}" for c in calibration.confidence(-scores)}) == 100


class TestFit:
    @pytest.mark.parametrize("seed", range(6))
    def test_equals_an_independent_minimiser(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        correct = rng.random(80) < rng.uniform(0.2, 0.9)
        scores = rng.normal(size=80) * 0.4 + 0.5 * correct + rng.normal()
        fit = fit_calibration(scores, correct)
        slope, intercept = reference_fit(scores, correct)
        assert (fit.slope, fit.intercept) == pytest.approx((slope, intercept), rel=1e-4, abs=1e-4)
        assert (fit.fitted, fit.samples, fit.correct) == (True, 80, int(correct.sum()))

    def test_finds_the_map_the_data_came_from(self) -> None:
        rng = np.random.default_rng(1)
        scores = rng.uniform(-1, 2, 100_000)
        correct = rng.random(len(scores)) < 1 / (1 + np.exp(-(5 * scores - 2)))
        fit = fit_calibration(scores, correct)
        assert (fit.slope, fit.intercept) == pytest.approx((5, -2), rel=0.03)
        # Calibrated: in each tenth the share of right answers is the mean probability.
        order = np.argsort(scores)
        for tenth in np.array_split(order, 10):
            assert fit.probability(scores[tenth]).mean() == pytest.approx(correct[tenth].mean(), abs=0.015)

    def test_separable_scores_have_platts_targets_at_the_two_values(self) -> None:
        # With one score for right and one for wrong the fit meets the smoothed targets exactly.
        scores = np.array([0.0] * 8 + [1.0] * 18)
        fit = fit_calibration(scores, scores == 1)
        np.testing.assert_allclose(fit.probability([0.0, 1.0]), [1 / 10, 19 / 20], rtol=1e-6)

    @pytest.mark.parametrize(
        ("scores", "correct", "at_mean"),
        [
            ([], [], None),
            ([0.3] * 20, [True] * 20, 21 / 22),
            (list(np.linspace(0, 1, 20)), [True] * 20, 21 / 22),
            (list(np.linspace(0, 1, 20)), [False] * 20, 1 / 22),
            ([0.3] * 20, [True] * 5 + [False] * 15, 6 / 22),
            ([0.3 + 1e-9] * 5 + [0.3] * 15, [True] * 5 + [False] * 15, 6 / 22),
            (list(np.linspace(1, 0, 20)), [False] * 10 + [True] * 10, 11 / 22),
            ([0.0] * (FEWEST_SAMPLES - 2) + [1.0], [False] * (FEWEST_SAMPLES - 2) + [True], 2 / 11),
        ],
        ids=["none", "alike and right", "all right", "all wrong", "alike", "alike but for noise", "falling", "too few"],
    )
    def test_data_without_a_rising_map_get_the_prior_slope(
        self, scores: list[float], correct: list[bool], at_mean: float | None
    ) -> None:
        fit = fit_calibration(scores, correct)
        assert (fit.slope, fit.fitted, fit.samples) == (PRIOR_SLOPE, False, len(scores))
        middle = np.mean(scores) if scores else 0.0
        assert fit.probability(middle) == pytest.approx(0.5 if at_mean is None else at_mean)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.tuples(st.one_of(finite, st.sampled_from([0.0, 1.0, 1 + 1e-9])), st.booleans()), max_size=40))
    def test_any_data_give_a_strictly_rising_finite_map(self, samples: list[tuple[float, bool]]) -> None:
        fit = fit_calibration([score for score, _ in samples], [right for _, right in samples])
        assert math.isfinite(fit.slope)
        assert math.isfinite(fit.intercept)
        assert fit.slope > 0
        values = fit.probability([score for score, _ in samples])
        assert ((values > 0) & (values < 1)).all()

    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-10, 10))
    def test_shift_and_scale_of_the_scores_change_no_probability(self, seed: int, scale: float, shift: float) -> None:
        rng = np.random.default_rng(seed)
        correct = np.arange(60) % 3 > 0
        scores = rng.normal(size=60) + 1.5 * correct
        expected = fit_calibration(scores, correct)
        moved = fit_calibration(scale * scores + shift, correct)
        assert expected.fitted
        np.testing.assert_allclose(moved.probability(scale * scores + shift), expected.probability(scores), atol=1e-7)

    def test_bad_samples_are_refused(self) -> None:
        for wrong in (math.nan, math.inf, 1e300):
            with pytest.raises(EmbedderError, match="score 1 is"):
                fit_calibration([0.1, wrong], [True, False])
        with pytest.raises(EmbedderError, match="as many of each"):
            fit_calibration([0.1, 0.2], [True])
