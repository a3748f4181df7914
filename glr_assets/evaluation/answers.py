"""The official metrics of answers held as arrays, for stages that answer without a submission file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from glr_assets.evaluation.metrics import Prediction, global_average_precision, top1_accuracy


def scores_of_answers(
    ids: Sequence[str],
    landmark_ids: npt.NDArray[np.int64],
    confidence: npt.NDArray[np.float64],
    shown: npt.NDArray[np.int64],
) -> dict[str, float]:
    """GAP, GAP over the queries that show a landmark alone, and top-1.

    Args:
        ids: of the queries.
        landmark_ids: [n] the answers.
        confidence: [n] of each.
        shown: [n] the landmark of each query; negative where it shows none.

    Raises:
        MetricError: no query shows a landmark, or an id stands twice.
    """
    predictions = [Prediction(*row) for row in zip(ids, landmark_ids.tolist(), confidence.tolist(), strict=True)]
    solution = {
        query: frozenset([landmark] if landmark >= 0 else [])
        for query, landmark in zip(ids, shown.tolist(), strict=True)
    }
    return {
        "gap": global_average_precision(predictions, solution),
        "gap_landmarks_only": global_average_precision(predictions, solution, landmarks_only=True),
        "top1": top1_accuracy(predictions, solution),
    }
