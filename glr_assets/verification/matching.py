"""Two images' features compared: matches, the affine model that most of them agree with, and how many do.

Nothing here depends on what was compared before, on the order of the two, or on how many threads run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from glr_assets.seeded import derived_seed
from glr_assets.verification.features import KeptFeatures

Numbers = npt.NDArray[np.int64]

#: Features of one thing differ in size by at most this factor, and in angle by at most this much, from what the model
#: says. Measured on photographs of 25 landmarks: narrower loses true pairs, wider lets chance in.
SIZE_FACTOR: Final = 1.6
TURN: Final = math.radians(25)
#: Matches without which no model is looked for: three make one, a fourth agrees.
LEAST_MATCHES: Final = 4
REFINEMENTS: Final = 3
GUIDED_ROUNDS: Final = 2
#: Of 3,506 pairs that trying at random needs on photographs of 25 landmarks, trying the likely first needs 3,217 by
#: 100 features; knowing all inliers beforehand would need 3,114.
LOOKED_AT: Final = 100
LOOSER: Final = 0.05
#: MAGSAC's: the confidence and the iterations at most.
CONFIDENCE: Final = 0.999
ITERATIONS: Final = 1000


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image's features, ready to be compared many times.

    Attributes:
        id: its id.
        places: [n, 4] float32 as in `KeptFeatures`.
        codes: [n, d] float32, whole numbers.
        inverse: [n] float32, one over the length of each code.
        width: pixels.
        height: pixels.
    """

    id: str
    places: npt.NDArray[np.float32]
    codes: npt.NDArray[np.float32]
    inverse: npt.NDArray[np.float32]
    width: int
    height: int

    @classmethod
    def of(cls, image_id: str, kept: KeptFeatures) -> Prepared:
        """Those of a kept image."""
        squares = np.einsum("nd,nd->n", kept.codes, kept.codes, dtype=np.float64)
        inverse = np.where(squares > 0, 1 / np.sqrt(np.maximum(squares, 1)), 0).astype(np.float32)
        places, codes = (np.ascontiguousarray(part, np.float32) for part in (kept.places, kept.codes))
        return cls(image_id, places, codes, inverse, kept.width, kept.height)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.places.nbytes + self.codes.nbytes + self.inverse.nbytes


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far two images agree.

    Attributes:
        putative: features that are each other's nearest and alike enough.
        model: [2, 3] float64, first image to second; zeros where there is none.
        first: [inliers] numbers of the first image's features that agree with the model.
        second: [inliers] numbers of the second's.
    """

    putative: int
    model: npt.NDArray[np.float64]
    first: Numbers
    second: Numbers

    @property
    def inliers(self) -> int:
        """Features of the one that agree with a feature of the other."""
        return len(self.first)


@dataclass(frozen=True)
class Matcher:
    """How two images are compared.

    Attributes:
        min_cosine: of descriptors that match.
        residual: pixels.
        oriented: whether features tell their size and angle: a single match is then a model, and every one is tried.
            Else OpenCV's MAGSAC draws triples, seeded by the two ids.
    """

    min_cosine: float
    residual: float
    oriented: bool

    def compare(self, one: Prepared, other: Prepared) -> Agreement:
        """How far two images agree; which comes first is decided by their ids.

        Matches give a model, the model further matches near where it says, and those the model once more.
        """
        from glr_assets.verification import match_loops

        one, other = (one, other) if one.id <= other.id else (other, one)
        if not len(one.codes) or not len(other.codes):
            return _none(0)
        products = one.codes @ other.codes.T
        first, second, _ = match_loops.mutual(products, one.inverse, other.inverse, np.float32(self.min_cosine))
        if len(first) < LEAST_MATCHES:
            return _none(len(first))
        limits = (self.residual, self.oriented, math.log(SIZE_FACTOR), TURN)
        if self.oriented:
            found, model = match_loops.from_single(one.places, other.places, first, second, limits)
        else:
            found, model = _magsac(one, other, first, second, self.residual)
        if found >= LEAST_MATCHES:
            found, model = match_loops.refined(one.places, other.places, first, second, model, limits, REFINEMENTS)
        best = _none(len(first))
        if found < LEAST_MATCHES:
            return best
        cosines = products * one.inverse[:, None] * other.inverse
        for _ in range(GUIDED_ROUNDS):
            near, far = match_loops.guided(
                one.places, other.places, cosines, model, np.float32(self.min_cosine), limits
            )
            if len(near) > best.inliers:
                best = Agreement(len(first), model, near, far)
            model, well = match_loops.fitted(one.places, other.places, near, far, np.ones(len(near), np.bool_))
            if not well:
                break
        return best

    def likeness(self, one: Prepared, other: Prepared) -> float:
        """How likely two images agree, from their `LOOKED_AT` strongest features: for the order of trying alone."""
        from glr_assets.verification import match_loops

        one, other = (one, other) if one.id <= other.id else (other, one)
        if not len(one.codes) or not len(other.codes):
            return 0.0
        products = one.codes[:LOOKED_AT] @ other.codes[:LOOKED_AT].T
        inverses = one.inverse[:LOOKED_AT], other.inverse[:LOOKED_AT]
        return float(match_loops.likeness(products, *inverses, np.float32(self.min_cosine - LOOSER)))


def _none(putative: int) -> Agreement:
    nothing = np.zeros(0, np.int64)
    return Agreement(putative, np.zeros((2, 3)), nothing, nothing)


def _magsac(
    one: Prepared, other: Prepared, first: Numbers, second: Numbers, residual: float
) -> tuple[int, npt.NDArray[np.float64]]:
    """The affine model of OpenCV's MAGSAC++ (Barath et al., CVPR 2020) and how many matches agree with it."""
    import cv2

    from glr_assets.verification import match_loops

    params = cv2.UsacParams()
    params.randomGeneratorState = derived_seed(one.id, other.id) & 0x7FFFFFFF
    params.confidence, params.maxIterations, params.threshold = CONFIDENCE, ITERATIONS, residual
    params.score, params.sampler = cv2.SCORE_METHOD_MAGSAC, cv2.SAMPLING_UNIFORM
    params.loMethod, params.loIterations, params.loSampleSize = cv2.LOCAL_OPTIM_SIGMA, 10, 20
    params.isParallel = False
    nothing = np.zeros((2, 3))
    try:
        model, mask = cv2.estimateAffine2D(one.places[first, :2], other.places[second, :2], params=params)
    except cv2.error:  # raised where every triple lies on a line
        return 0, nothing
    if model is None or not match_loops.plausible(model):
        return 0, nothing
    return int(np.count_nonzero(mask)), np.asarray(model, np.float64)
