"""Queries whose picture is not stored.

Nothing can answer them, and the official scores count each as answered wrong. So their number and the reasons stand
beside the scores, with the scores of the other queries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glr_assets.evaluation.metrics import Prediction
from glr_assets.evaluation.score import (
    RecognitionSolution,
    RetrievalSolution,
    recognition_scores,
    retrieval_scores,
)
from glr_assets.images.reader import ImageReader
from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.store import Store
from glr_assets.tables import read_parts

#: Queries that are named.
NAMED = 10
IN_NO_SHARD = "in no ingested shard"


@dataclass(frozen=True)
class WithoutPicture:
    """Scored queries whose picture is not stored.

    Attributes:
        ids: ascending.
        landmark_queries: of these, how many show a landmark.
        reasons: of these, how many by the kind of reason.
    """

    ids: tuple[str, ...]
    landmark_queries: int
    reasons: Mapping[str, int]

    @property
    def problem(self) -> str:
        """One line for people; empty where every query has its picture."""
        if not self.ids:
            return ""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
        return f"{len(self.ids)} queries have no picture and count as answered wrong: {reasons}"


def without_picture(store: Store, solution: RecognitionSolution) -> WithoutPicture:
    """The queries of a solution that count and whose picture is not stored.

    Raises:
        MissingInputError: the image catalog has not been made.
    """
    ids = sorted(solution.landmarks)
    stored = ImageReader.of_split(store, "test", ids)
    missing = [query for query in ids if query not in stored]
    reasons = dict.fromkeys(missing, IN_NO_SHARD)
    if missing:
        failed = {"split": "test", "status": "failed"}
        for part in read_parts(store, IMAGE_CATALOG, ["id", "reason"], failed):
            rows = zip(part["id"].to_pylist(), part["reason"].to_pylist(), strict=True)
            reasons.update({query: reason.partition(":")[0] for query, reason in rows if query in reasons})
    return WithoutPicture(
        tuple(missing),
        sum(bool(solution.landmarks[query]) for query in missing),
        dict(sorted(Counter(reasons.values()).items())),
    )


def told_of(
    found: WithoutPicture,
    predictions: Sequence[Prediction],
    solution: RecognitionSolution,
    retrieved: Mapping[str, Sequence[str]],
    retrieval: RetrievalSolution,
) -> dict[str, Any]:
    """For the report: `without_picture`, and `with_picture`, the scores of the queries that have one.

    `with_picture` is absent where each has one. A score is None where no query is left that it could be of.
    """
    told: dict[str, Any] = {
        "queries": len(found.ids),
        "landmark_queries": found.landmark_queries,
        "reasons": dict(found.reasons),
        "examples": list(found.ids[:NAMED]),
    }
    if not found.ids:
        return {"without_picture": told}
    gone = frozenset(found.ids)
    landmarks = {query: truth for query, truth in solution.landmarks.items() if query not in gone}
    usage = {query: solution.usage[query] for query in landmarks}
    scores: dict[str, float | None] = dict.fromkeys(("gap", "gap_landmarks_only", "top1", "map100"))
    if any(landmarks.values()):
        left = recognition_scores(
            [one for one in predictions if one.id not in gone],
            RecognitionSolution(landmarks, usage, solution.ignored | gone),
        )
        scores |= {name: getattr(left, name) for name in ("gap", "gap_landmarks_only", "top1")}
    images = {query: relevant for query, relevant in retrieval.images.items() if query not in gone}
    if any(images.values()):
        kept = RetrievalSolution(images, {query: retrieval.usage[query] for query in images}, retrieval.ignored | gone)
        scores["map100"] = retrieval_scores({q: of for q, of in retrieved.items() if q in images}, kept).map100
    return {"without_picture": told, "with_picture": {"queries": len(landmarks)} | scores}
