"""Verifiers whose rates are known: images of landmarks whose pairs agree by chance, some more readily than others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.stats import genpareto

from glr_assets.verification.calibration import halves_of
from glr_assets.verification.schemas import DIFFERENT_PAIRS
from glr_assets.verification.tail import ForeignPairs

#: Inliers are these or none.
LEAST = 4


@dataclass(frozen=True)
class Verifier:
    """What inliers pairs of different landmarks have.

    Attributes:
        share: of pairs of ordinary images that have any.
        scale: of the generalized Pareto distribution of what they have beyond the least.
        shape: of that.
        image_spread: deviation of the logarithm of how readily an image agrees.
        landmark_spread: that of its landmark.
    """

    share: float
    scale: float
    shape: float = 0.0
    image_spread: float = 0.0
    landmark_spread: float = 0.0

    @classmethod
    def arbitrary(cls, random: np.random.Generator) -> Verifier:
        """Any, good or bad."""
        spread = random.uniform(0, 1)
        return cls(
            10 ** random.uniform(-3.5, -0.3),
            random.uniform(0.5, 6),
            float(random.choice([0, 0, 0.1, 0.3])),
            spread,
            spread / 2,
        )

    def readiness(self, landmarks: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Of each image [n], with a mean of 1; `landmarks` [n] count from 0."""
        of_landmark = random.normal(0, self.landmark_spread, landmarks.max(initial=-1) + 1)[landmarks]
        spread = self.image_spread**2 + self.landmark_spread**2
        return np.exp(random.normal(0, self.image_spread, len(landmarks)) + of_landmark - spread / 2)

    def inliers(self, one: np.ndarray, other: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Of pairs [m] of images of this readiness."""
        agrees = random.random(len(one)) < np.minimum(self.share * one * other, 1)
        excess = np.floor(genpareto.rvs(self.shape, scale=self.scale, size=len(one), random_state=random))
        return np.where(agrees, np.minimum(LEAST + excess, 10_000), 0).astype(np.int64)

    def rates(self, inliers: np.ndarray, draws: int = 200_000) -> np.ndarray:
        """How likely a pair of images of landmarks that nobody has seen reaches these numbers [n], 4 or more each."""
        random = np.random.default_rng(0)
        spread = np.hypot(self.image_spread, self.landmark_spread)
        one, other = np.exp(random.normal(-(spread**2) / 2, spread, (2, draws)))
        any_inliers = np.minimum(self.share * one * other, 1).mean()
        return np.asarray(any_inliers * genpareto.sf(inliers - LEAST, self.shape, scale=self.scale))


def foreign_pairs(
    verifier: Verifier, landmarks: int, each: int, pairs: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Inliers [pairs] and landmarks [pairs, 2] of pairs of different landmarks, of `each` images of every landmark."""
    of_image = np.repeat(np.arange(landmarks), each)
    readiness = verifier.readiness(of_image, random)
    one, other = random.integers(0, len(of_image), (2, 2 * pairs + 100))
    differ = np.flatnonzero(of_image[one] != of_image[other])[:pairs]
    one, other = one[differ], other[differ]
    inliers = verifier.inliers(readiness[one], readiness[other], random)
    return inliers, np.stack([of_image[one], of_image[other]], axis=1)


def as_foreign_pairs(inliers: np.ndarray, landmarks: np.ndarray) -> ForeignPairs:
    """Of one range of putative matches."""
    return ForeignPairs(inliers, np.zeros(len(inliers), np.int64), landmarks)


def as_table(inliers: np.ndarray, landmarks: np.ndarray, putative: np.ndarray | int = 600, seed: int = 0) -> pa.Table:
    """`DIFFERENT_PAIRS`, without traps or overlaps; inliers beyond 500 count as that."""
    half = halves_of(landmarks.reshape(-1), seed).reshape(-1, 2)
    count = len(inliers)
    return pa.table(
        {
            "first": pa.array([f"{number:07d}" for number in range(count)], pa.string()),
            "second": pa.array(["x"] * count, pa.string()),
            "first_landmark": pa.array(landmarks[:, 0], pa.int64()),
            "second_landmark": pa.array(landmarks[:, 1], pa.int64()),
            "half": pa.array(half[:, 0].astype(np.int8), mask=half[:, 0] != half[:, 1]),
            "putative": pa.array(np.broadcast_to(putative, count), pa.int32()),
            "inliers": pa.array(np.minimum(inliers, 500), pa.int32()),
            "refusal": pa.array([""] * count, pa.string()),
            "overlap": pa.array([False] * count),
        },
        schema=DIFFERENT_PAIRS.schema,
    )
