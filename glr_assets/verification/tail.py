"""How likely pairs of different landmarks reach so many inliers, also beyond what the pairs compared can show.

A class of 500 images gives a foreign image 499 chances, so each may succeed twice in a million times where one image
in a thousand may stay: no share of some thousand pairs tells that. Excesses over a high number of inliers follow a
generalized Pareto distribution (Pickands 1975; Coles, "An Introduction to Statistical Modeling of Extreme Values",
2001, chapter 4), here of whole numbers. It is fitted once for all ranges of putative matches, in which the share of
pairs that reach that number differs.

Pairs are not independent: an image is in many, and images of one landmark are alike. So bounds are quantiles over
fits to landmarks drawn with replacement (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from glr_assets.seeded import derived_seed

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Excesses are those over the number of inliers that these shares of a range's pairs reach, or so many pairs. The fit
#: to the first gives rates; bounds are the larger ones of both fits, as the far tail may be that of a few landmarks.
EXCEEDING: Final = (0.01, 0.0025)
LEAST_EXCEEDING: Final = 50
#: Fewer inliers are none: a model has three matches, and a fourth agrees.
LEAST_INLIERS: Final = 4
RESAMPLES: Final = 200
CONFIDENCE: Final = 0.95
#: Fewer excesses tell no tail: the prior decides.
TELLING: Final = 20
#: Scales and shapes that are tried. A negative shape would mean that no pair can reach a certain number.
SCALES: Final = np.geomspace(0.2, 20, 80)
SHAPES: Final = np.arange(0, 0.8, 0.02)
#: A normal prior of the shape. Of RootSIFT on 93,317 pairs of 25 landmarks it is .14 with guided matching, 0 by MAGSAC.
SHAPE_MEAN: Final = 0.1
SHAPE_DEVIATION: Final = 0.2
#: A prior of the scale, as so many excesses of that mean.
PRIOR_EXCESSES: Final = 4.0
PRIOR_MEAN: Final = 2.0


@dataclass(frozen=True, eq=False)
class ForeignPairs:
    """Pairs of images of different landmarks.

    Attributes:
        inliers: int64 [n]; 0 of pairs that are refused whatever their inliers.
        range_of: int64 [n], the range of putative matches of each.
        landmarks: int64 [n, 2].
    """

    inliers: Counts
    range_of: Counts
    landmarks: Counts


@dataclass(frozen=True, eq=False)
class ChanceRates:
    """How likely a pair of different landmarks reaches a number of inliers.

    Attributes:
        likely: float64 [ranges, numbers], of 0, 1, 2 and on inliers, by the fit to all pairs. The last is 0: no pair
            has so many.
        most: float64 [ranges, numbers], what is not exceeded with a confidence of 95 %; it never rises.
        exceeding: pairs that the fit is made to.
        pairs: all that were counted.
        resampled: float64 [1 + draws, ranges, numbers], by the fit to all pairs and to those of landmarks drawn.
    """

    likely: Floats
    most: Floats
    exceeding: int
    pairs: int
    resampled: Floats

    @classmethod
    def of(cls, pairs: ForeignPairs, ranges: int, largest: int, resamples: int = RESAMPLES) -> ChanceRates:
        """Those of each range of putative matches.

        Of numbers up to where the excesses begin the share of pairs counts, of larger ones the fit. One pair more than
        was seen counts as reaching a number, so no rate is 0 but the last; all are 1 where there is no pair.

        Args:
            pairs: of different landmarks.
            ranges: of putative matches.
            largest: number of inliers that a pair can have; one more than that has a rate of 0.
            resamples: draws of landmarks with replacement.
        """
        if not len(pairs.inliers):
            unknown = _with_none(np.ones((1 + resamples, ranges, largest + 1)))
            return cls(unknown[0], unknown[0], 0, 0, unknown)
        counts = _resampled(pairs, ranges, largest, resamples)
        fits = [_Fit.of(counts, exceeding) for exceeding in EXCEEDING]
        rates = [_with_none(fit.rates) for fit in fits]
        bounds = [np.quantile(of[1:], CONFIDENCE, axis=0) for of in rates]
        most = np.minimum.accumulate(np.maximum(rates[0][0], np.maximum(*bounds)), axis=1)
        return cls(rates[0][0], most, fits[0].exceeding, len(pairs.inliers), rates[0])


def _with_none(rates: Floats) -> Floats:
    """The rates with one of 0 behind them."""
    return np.concatenate([rates, np.zeros((*rates.shape[:2], 1))], axis=2)


def _resampled(pairs: ForeignPairs, ranges: int, largest: int, resamples: int) -> Floats:
    """Pairs by range and inliers, [1 + draws, ranges, largest + 1]: first all, then of landmarks drawn."""
    place = pairs.range_of * (largest + 1) + np.minimum(pairs.inliers, largest)
    found = np.array(
        [np.bincount(place, weights, ranges * (largest + 1)) for weights in landmark_draws(pairs.landmarks, resamples)]
    ).reshape(-1, ranges, largest + 1)
    # A range of which no pair was drawn counts as it is.
    return np.where(found.any(axis=2, keepdims=True), found, found[:1])


def landmark_draws(landmarks: Counts, resamples: int) -> Iterator[Floats]:
    """How often each pair counts [n]: once, and then in each draw of landmarks with replacement.

    A pair counts by the product of how often its two landmarks were drawn, which overstates the variance rather than
    understating it (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007). What is drawn depends on
    the number of landmarks alone. A draw that holds no pair tells nothing and is left out.

    Args:
        landmarks: int64 [n, 2], of each pair.
        resamples: draws.
    """
    names, numbers = np.unique(landmarks, return_inverse=True)
    numbers = numbers.reshape(-1, 2)
    random = np.random.default_rng(derived_seed("landmarks drawn with replacement", len(names)))
    for times in [np.ones(len(names)), *random.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)]:
        weights = np.asarray(times[numbers[:, 0]] * times[numbers[:, 1]], np.float64)
        if weights.any():
            yield weights


@dataclass(frozen=True, eq=False)
class _Fit:
    """Rates [1 + draws, ranges, numbers] by one start of excesses a range, and how many pairs exceed the starts."""

    rates: Floats
    exceeding: int

    @classmethod
    def of(cls, counts: Floats, exceeding: float) -> _Fit:
        """The fit to the excesses of this share of each range's pairs."""
        numbers = np.arange(counts.shape[2])
        reaching = counts[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]
        starts = [_start(of_range, exceeding) for of_range in reaching[0]]
        excesses = np.zeros((len(counts), len(numbers)))
        for number, start in enumerate(starts):
            excesses[:, : len(numbers) - start] += counts[:, number, start:]
        scales, shapes = _most_likely(excesses)
        rates = (reaching + 1) / (reaching[:, :, :1] + 1)
        for number, start in enumerate(starts):
            tails = survival(np.maximum(numbers - start, 0)[None], scales[:, None], shapes[:, None])
            fitted = rates[:, number, start : start + 1] * tails
            rates[:, number] = np.where(numbers < start, rates[:, number], fitted)
        return cls(rates, round(float(excesses[0].sum())))


def _start(reaching: Floats, exceeding: float) -> int:
    """The largest number of inliers that enough pairs reach, of the pairs that reach each number."""
    wanted = max(LEAST_EXCEEDING, int(exceeding * reaching[0]))
    return max(LEAST_INLIERS, int(np.count_nonzero(reaching >= wanted)) - 1)


def survival(excess: npt.NDArray[np.int64], scale: Floats, shape: Floats) -> Floats:
    """How likely a generalized Pareto variable reaches `excess`; exponential where the shape is 0. Broadcasts."""
    heavy = np.maximum(shape, 1e-9)
    return np.where(shape < 1e-9, np.exp(-excess / scale), (1 + heavy * excess / scale) ** (-1 / heavy))


def _most_likely(counts: Floats) -> tuple[Floats, Floats]:
    """Scales and shapes of the largest posterior, each [k], of counts [k, v] of the excesses 0, 1, 2 and on."""
    scale, shape = (grid.reshape(-1, 1) for grid in np.meshgrid(SCALES, SHAPES, indexing="ij"))
    seen = np.flatnonzero(counts.any(axis=0))

    def logarithms(excess: Counts) -> Floats:
        """Of the probability of each excess, [grid, excesses]."""
        one = excess[None, :]
        return np.log(np.maximum(survival(one, scale, shape) - survival(one + 1, scale, shape), 1e-300))

    usual = np.arange(40)
    geometric = PRIOR_EXCESSES / (1 + PRIOR_MEAN) * (PRIOR_MEAN / (1 + PRIOR_MEAN)) ** usual
    prior = logarithms(usual) @ geometric - 0.5 * ((shape[:, 0] - SHAPE_MEAN) / SHAPE_DEVIATION) ** 2
    best = np.argmax(counts[:, seen] @ logarithms(seen).T + prior, axis=1)
    return scale[best, 0], shape[best, 0]
