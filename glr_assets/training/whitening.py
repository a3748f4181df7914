"""A projection learnt on training embeddings: centre them, even out their spread inside landmarks.

What varies between photographs of one landmark (light, viewpoint, weather) is then weighed down before
cosines are taken. Within-class covariance normalisation: Hatch et al. 2006 (Interspeech); learnt whitening
of image descriptors: Mikolajczyk and Matas 2007 (ICCV), Radenović et al. 2018 (arXiv 1711.02512, 3.4).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

# The covariance of some hundred photographs has fewer directions than an embedding: it is drawn half way to
# a multiple of the identity with the same trace (Ledoit and Wolf 2004 shrink to the same target).
SHRINKAGE = 0.5


class WithinClassScatter:
    """Sums over embeddings that come landmark by landmark; memory is that of a block, a landmark and D x D numbers."""

    def __init__(self) -> None:
        self.count = 0
        self._total: Doubles | float = 0.0
        self._inside: Doubles | float = 0.0
        self._landmark: int | None = None
        self._open: list[Floats] = []

    def add(self, embeddings: Floats, landmark_ids: Sequence[int]) -> None:
        """Take some more embeddings, float32 [n, D], and the landmark of each; a landmark's come one after another."""
        numbers = np.asarray(landmark_ids, np.int64)
        if not len(numbers):
            return
        starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]])
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(numbers)], strict=True):
            if self._open and int(numbers[start]) != self._landmark:
                self._close()
            self._landmark = int(numbers[start])
            self._open.append(embeddings[start:end])

    def _close(self) -> None:
        """Count the landmark whose embeddings are gathered."""
        rows = np.concatenate(self._open).astype(np.float64)
        self._open = []
        apart = rows - rows.mean(axis=0)
        self.count += len(rows)
        self._total = self._total + rows.sum(axis=0)
        self._inside = self._inside + apart.T @ apart

    def whitening(self, shrinkage: float = SHRINKAGE) -> tuple[Floats, Floats]:
        """The mean [D] and the symmetric matrix [D, D] such that `(x - mean) @ matrix` is whitened.

        Args:
            shrinkage: 0 takes the covariance inside landmarks as it is, 1 a multiple of the identity.

        Where no landmark has two photographs nothing is known of the spread and the matrix is the identity.
        """
        if self._open:
            self._close()
        mean = np.asarray(self._total) / self.count
        covariance = np.asarray(self._inside) / self.count
        spread = float(np.trace(covariance)) / len(covariance)
        if spread <= np.finfo(np.float32).eps ** 2:
            return mean.astype(np.float32), np.eye(len(mean), dtype=np.float32)
        shrunk = (1 - shrinkage) * covariance / spread + shrinkage * np.eye(len(mean))
        values, vectors = np.linalg.eigh(shrunk)
        # Without shrinkage directions of no spread have eigenvalue 0; they are then left as they are.
        values = np.where(values > 1e-9, values, 1.0)
        matrix = (vectors / np.sqrt(values)) @ vectors.T
        return mean.astype(np.float32), matrix.astype(np.float32)


def within_class_whitening(
    embeddings: Floats, landmark_ids: Sequence[int], *, shrinkage: float = SHRINKAGE
) -> tuple[Floats, Floats]:
    """`WithinClassScatter.whitening` of embeddings that are in memory, in any order.

    Args:
        embeddings: float32 [n, D], the training photographs'.
        landmark_ids: the landmark of each row.
        shrinkage: as there.
    """
    numbers = np.asarray(landmark_ids, np.int64)
    scatter = WithinClassScatter()
    order = np.argsort(numbers, kind="stable")
    scatter.add(embeddings[order], numbers[order].tolist())
    return scatter.whitening(shrinkage)
