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

# The covariance of some hundred photographs has fewer directions than an embedding: it is drawn half way to
# a multiple of the identity with the same trace (Ledoit and Wolf 2004 shrink to the same target).
SHRINKAGE = 0.5


def within_class_whitening(
    embeddings: Floats, landmark_ids: Sequence[int], *, shrinkage: float = SHRINKAGE
) -> tuple[Floats, Floats]:
    """The mean [D] and the symmetric matrix [D, D] such that `(x - mean) @ matrix` is whitened.

    Args:
        embeddings: float32 [n, D], the training photographs'.
        landmark_ids: the landmark of each row.
        shrinkage: 0 takes the covariance inside landmarks as it is, 1 a multiple of the identity.

    Where no landmark has two photographs nothing is known of the spread and the matrix is the identity.
    """
    rows = embeddings.astype(np.float64)
    mean = rows.mean(axis=0)
    _, number = np.unique(np.asarray(landmark_ids), return_inverse=True)
    counts = np.bincount(number)
    sums = np.zeros((len(counts), rows.shape[1]))
    np.add.at(sums, number, rows)
    inside = rows - (sums / counts[:, None])[number]
    covariance = inside.T @ inside / len(rows)
    spread = float(np.trace(covariance)) / len(covariance)
    if spread <= np.finfo(np.float32).eps ** 2:
        return mean.astype(np.float32), np.eye(len(mean), dtype=np.float32)
    shrunk = (1 - shrinkage) * covariance / spread + shrinkage * np.eye(len(mean))
    values, vectors = np.linalg.eigh(shrunk)
    # Without shrinkage directions of no spread have eigenvalue 0; they are then left as they are.
    values = np.where(values > 1e-9, values, 1.0)
    matrix = (vectors / np.sqrt(values)) @ vectors.T
    return mean.astype(np.float32), matrix.astype(np.float32)
