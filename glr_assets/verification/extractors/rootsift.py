"""RootSIFT: OpenCV's SIFT, its descriptors compared by Hellinger's kernel. It needs no weights.

SIFT is Lowe's (IJCV 2004), RootSIFT Arandjelović's and Zisserman's (CVPR 2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from glr_assets.verification.extractors.base import Pixels, luma, none_found
from glr_assets.verification.features import Features

#: Half of OpenCV's own .04, by which 24 % of photographs have fewer than 500 features, by this 12 %; it costs no time.
CONTRAST: Final = 0.02


@dataclass(frozen=True)
class RootSift:
    """The strongest features of an image by SIFT's response; a place with several orientations is several features.

    Attributes:
        max_features: at most so many of an image.
        contrast: SIFT's threshold.
    """

    max_features: int
    contrast: float = CONTRAST
    dimensions: ClassVar[int] = 128
    signed: ClassVar[bool] = False
    oriented: ClassVar[bool] = True
    min_cosine: ClassVar[float] = 0.85
    batch: ClassVar[int] = 1

    @property
    def version(self) -> str:
        """Name, version of this code, and the threshold."""
        return f"rootsift 1, contrast {self.contrast}"

    def extract(self, images: Sequence[Pixels]) -> list[Features]:
        """Their features; several threads may ask at once."""
        return [self._of(image) for image in images]

    def _of(self, image: Pixels) -> Features:
        import cv2

        # Of those as strong as the last one OpenCV keeps all; which of them stay is decided here.
        sift = cv2.SIFT.create(nfeatures=self.max_features, contrastThreshold=self.contrast)
        found, descriptors = sift.detectAndCompute(luma(image), None)
        if not found:
            return none_found(self.dimensions, image)
        places = np.array([(*point.pt, point.size, np.deg2rad(point.angle)) for point in found], np.float32)
        response = np.array([point.response for point in found], np.float32)
        x, y, size, angle = places.T
        order = np.lexsort((angle, size, x, y, -response))[: self.max_features]
        places[:, 3] %= 2 * np.pi
        height, width = image.shape[:2]
        return Features(places[order], _root(descriptors[order]), width, height)


def _root(descriptors: np.ndarray) -> np.ndarray:
    """Roots of histograms [n, 128] that sum to one: the Euclidean product of two is the Hellinger kernel."""
    sums = descriptors.sum(axis=1, keepdims=True, dtype=np.float64)
    return np.sqrt(descriptors / np.maximum(sums, 1)).astype(np.float32)
