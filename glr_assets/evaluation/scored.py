"""The queries that are scored: the published solutions without every Usage in which a fit used a label.

All figures of answers to queries are computed from what this module returns. A Usage (Public or Private) is scored
whole or not at all: without the queries whose labels were used, which are mostly non-landmarks, the share of
non-landmarks would fall and GAP would rise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from glr_assets.errors import MetricError, TableError
from glr_assets.evaluation.score import (
    RecognitionScores,
    RecognitionSolution,
    RetrievalSolution,
    read_recognition_solution,
    read_recognition_submission,
    recognition_scores,
)
from glr_assets.metadata.schemas import RECOGNITION_SOLUTION, RETRIEVAL_SOLUTION
from glr_assets.query_labels import USED_LABELS, QueryLabels, need_unused, query_labels_used
from glr_assets.receipts import digest_of, need_receipt
from glr_assets.source.layout import Usage
from glr_assets.store import Store
from glr_assets.tables import read_table


@dataclass(frozen=True)
class LeftOut:
    """A Usage that is not scored.

    Attributes:
        usage: Public or Private.
        queries: in that Usage.
        labels_used: of these, how many labels fits used.
        fits: the assets that used them.
    """

    usage: Usage
    queries: int
    labels_used: int
    fits: tuple[str, ...]

    @property
    def reason(self) -> str:
        """One line for people."""
        return (
            f"{self.usage} is not scored: of its {self.queries} labels {self.labels_used} were used by "
            f"{', '.join(self.fits)}"
        )

    def as_json(self) -> dict[str, Any]:
        """For a JSON report."""
        return asdict(self) | {"fits": list(self.fits)}


def left_out(usage: Mapping[str, Usage], used: QueryLabels) -> list[LeftOut]:
    """The Usages that must not be scored, by name.

    Args:
        usage: of each query that counts.
        used: labels that fits used.
    """
    queries: dict[Usage, list[str]] = {}
    for query, found in usage.items():
        queries.setdefault(found, []).append(query)
    every = used.ids
    parts = []
    for name, ids in sorted(queries.items()):
        seen = every.intersection(ids)
        if seen:
            parts.append(LeftOut(name, len(ids), len(seen), tuple(used.fits_of(seen))))
    return parts


def without_used(solution: RecognitionSolution, used: QueryLabels) -> tuple[RecognitionSolution, list[LeftOut]]:
    """A recognition solution whose unscorable Usages are ignored, and these Usages."""
    parts = left_out(solution.usage, used)
    unscored = {part.usage for part in parts}
    kept = {query: found for query, found in solution.landmarks.items() if solution.usage[query] not in unscored}
    need_unused(kept, used.ids, "recognition solution")
    usage = {query: solution.usage[query] for query in kept}
    return RecognitionSolution(kept, usage, solution.ignored | (solution.landmarks.keys() - kept.keys())), parts


def without_used_retrieval(solution: RetrievalSolution, used: QueryLabels) -> tuple[RetrievalSolution, list[LeftOut]]:
    """A retrieval solution whose unscorable Usages are ignored, and these Usages."""
    parts = left_out(solution.usage, used)
    unscored = {part.usage for part in parts}
    kept = {query: found for query, found in solution.images.items() if solution.usage[query] not in unscored}
    need_unused(kept, used.ids, "retrieval solution")
    usage = {query: solution.usage[query] for query in kept}
    return RetrievalSolution(kept, usage, solution.ignored | (solution.images.keys() - kept.keys())), parts


def scored_recognition(store: Store, answers: str = "submission") -> tuple[RecognitionSolution, list[LeftOut]]:
    """The recognition queries by which the answers of an asset are scored, and the Usages left out.

    Args:
        store: the store.
        answers: receipt name of the asset that answers; what it and its inputs were fitted on is left out.

    Raises:
        MissingInputError: the asset or the solution has not been made, or a fit has no record of its labels.
    """
    rows = read_table(store, RECOGNITION_SOLUTION).to_pylist()
    counted = [row for row in rows if row["usage"] != "Ignored"]
    solution = RecognitionSolution(
        landmarks={row["id"]: frozenset(row["landmark_ids"]) for row in counted},
        usage={row["id"]: row["usage"] for row in counted},
        ignored=frozenset(row["id"] for row in rows if row["usage"] == "Ignored"),
    )
    return without_used(solution, _used(store, answers))


def scored_retrieval(store: Store, answers: str = "retrieval_submission") -> tuple[RetrievalSolution, list[LeftOut]]:
    """The retrieval queries by which the answers of an asset are scored; see `scored_recognition`."""
    rows = read_table(store, RETRIEVAL_SOLUTION).to_pylist()
    counted = [row for row in rows if row["usage"] != "Ignored"]
    solution = RetrievalSolution(
        images={row["id"]: frozenset(row["index_ids"]) for row in counted},
        usage={row["id"]: row["usage"] for row in counted},
        ignored=frozenset(row["id"] for row in rows if row["usage"] == "Ignored"),
    )
    return without_used_retrieval(solution, _used(store, answers))


def score_file(submission_csv: Path, solution_csv: Path) -> tuple[RecognitionScores, list[LeftOut]]:
    """The official scores of a recognition submission file, and the Usages left out.

    Where the submission lies in a store, `USED_LABELS` lies beside it and names the queries that its model was fitted
    on; of any other file every query counts.

    Raises:
        MetricError: see `score_recognition`; or fits used labels of every Usage with landmarks.
        TableError: the record beside the submission is damaged.
    """
    solution = read_recognition_solution(solution_csv)
    record = submission_csv.with_name(PurePosixPath(USED_LABELS.path).name)
    unscored: list[LeftOut] = []
    if record.is_file():
        try:
            rows = pq.read_table(record, columns=USED_LABELS.schema.names)
        except (pa.ArrowException, OSError) as error:
            raise TableError(
                f"{record}: not the record of query labels: {error}; materialise submission again"
            ) from error
        solution, unscored = without_used(solution, QueryLabels.from_table(rows))
        reason = unscored_reason(solution, unscored)
        if reason:
            raise MetricError(f"{submission_csv}: {reason}")
    return recognition_scores(read_recognition_submission(submission_csv, solution), solution), unscored


def _used(store: Store, answers: str) -> QueryLabels:
    receipt = need_receipt(store, answers)
    if USED_LABELS.path in receipt.outputs:  # collected when the answers were made, whatever was made again since
        return QueryLabels.from_table(read_table(store, USED_LABELS))
    return query_labels_used(store, answers)


def unscored_reason(solution: RecognitionSolution, parts: list[LeftOut]) -> str:
    """Why recognition cannot be scored, with the fix; empty where it can be."""
    if any(solution.landmarks.values()):
        return ""
    if parts:
        told = "; ".join(part.reason for part in parts)
        return f"{told}; leave a Usage with landmarks out of [retrieval] non_landmark_usage"
    return "the source publishes no solution with a test image that shows a landmark"


def queries_digest(solution: RecognitionSolution) -> str:
    """SHA-256 of the scored queries and their landmarks: scores with equal digests can be compared."""
    return digest_of({query: sorted(landmarks) for query, landmarks in solution.landmarks.items()})
