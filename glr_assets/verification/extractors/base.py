"""What extractors of local features have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from glr_assets.verification.features import Features

Pixels = npt.NDArray[np.uint8]


class Extractor(Protocol):
    """Photographs to local features.

    One is opened in a moment: libraries and weights are loaded when the first features are asked for.
    """

    @property
    def version(self) -> str:
        """What decides its features: name, parameters and, where it has weights, their digest."""
        ...

    @property
    def dimensions(self) -> int:
        """Length of a descriptor."""
        ...

    @property
    def signed(self) -> bool:
        """Whether descriptors have values below zero."""
        ...

    @property
    def oriented(self) -> bool:
        """Whether it tells the size and the angle of a feature."""
        ...

    @property
    def min_cosine(self) -> float:
        """Cosine of two descriptors from which on they match, where the recipe does not say."""
        ...

    @property
    def batch(self) -> int:
        """Images that it is best given at once: of one that is given 1, several threads may ask."""
        ...

    def extract(self, images: Sequence[Pixels]) -> list[Features]:
        """The features of RGB uint8 images [H, W, 3], each of its own size.

        Raises:
            ValueError: it cannot take one of the images.
            ExtractorError: it cannot be used at all.
        """
        ...


def luma(image: Pixels) -> Pixels:
    """The luma uint8 [H, W] (ITU-R BT.601) of an RGB image."""
    import cv2

    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def none_found(dimensions: int, image: Pixels) -> Features:
    """No features of an image."""
    height, width = image.shape[:2]
    return Features(np.zeros((0, 4), np.float32), np.zeros((0, dimensions), np.float32), width, height)


def without_orientation(xy: npt.NDArray[np.float32], descriptors: npt.NDArray[np.float32], image: Pixels) -> Features:
    """Features [n, 2], [n, d] of an extractor that tells neither size nor angle."""
    height, width = image.shape[:2]
    places = np.zeros((len(xy), 4), np.float32)
    places[:, :2], places[:, 2] = xy, 1
    return Features(places, descriptors, width, height)


def unit_length(descriptors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Descriptors [n, d] brought to unit length; one of zeros stays as it is."""
    lengths = np.linalg.norm(descriptors, axis=1, keepdims=True)
    return np.asarray(descriptors / np.maximum(lengths, 1e-12), dtype=np.float32)


def files_digest(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 over names and contents of files of a folder, whatever their order."""
    digest = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()
