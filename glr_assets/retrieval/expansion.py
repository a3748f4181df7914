"""Query expansion: a query asks again as the mean of itself and of what it found first.

The weights are those of alpha query expansion (Radenović, Tolias and Chum, "Fine-tuning CNN image retrieval with no
human annotation", TPAMI 2018): 1 for the query, and for an image its cosine, in 0…1, to a power.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
#: Values of neighbours' vectors that are in memory at once.
_AT_ONCE = 2**22


def expanded(queries: Floats, stored: Floats, rows: npt.NDArray[np.int64], power: float) -> Floats:
    """The expanded queries, float32 [q, D] of unit length; what one becomes depends on no other.

    Args:
        queries: float32 [q, D], L2-normalised.
        stored: float32 [n, D], L2-normalised.
        rows: int64 [q, k] of the images that each query found; -1 where it found fewer.
        power: to which cosines are taken; 0 gives every image on the query's side the weight of the query.
    """
    found = np.empty_like(queries)
    step = max(1, _AT_ONCE // max(1, rows.shape[1] * stored.shape[1]))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        asked, near = queries[part].astype(np.float64), stored[rows[part]].astype(np.float64)
        # Pair by pair and added in their order: no product of matrices, whose last bits depend on their sizes.
        cosines = np.clip(np.vecdot(asked[:, np.newaxis], near), 0.0, 1.0)
        weights = np.where((rows[part] >= 0) & (cosines > 0), cosines**power, 0.0)
        mean = asked
        for place in range(rows.shape[1]):
            mean = mean + weights[:, place, np.newaxis] * near[:, place]
        found[part] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return found
