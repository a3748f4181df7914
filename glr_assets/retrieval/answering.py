"""What speaks for each landmark that a photograph may show: neighbours by embedding, and local features that agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from glr_assets.recipes import Retrieval
from glr_assets.retrieval.embeddings import NonLandmarks, Vectors
from glr_assets.retrieval.expansion import expanded
from glr_assets.retrieval.local import QUERIES_AT_ONCE, Comparer, Counts
from glr_assets.retrieval.scoring import QUERY_BLOCK, SCORE_DECIMALS, Floats, PenalisedIndex, support
from glr_assets.training.centres import ClassCentres
from glr_assets.verification.matching import Prepared

#: Images of a landmark whose inliers are told.
TOLD: Final = 3

#: The features of the queries of these ids, in their order; None where one has none.
Photographs = Callable[[Sequence[str]], Iterator[Prepared | None]]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What speaks for the landmarks among a query's candidates.

    Attributes:
        id: the query's.
        penalty: C, its likeness to non-landmarks.
        landmark_ids: int64 [l], ascending.
        neighbours: float64 [l], the support of the landmark's images among the first neighbours (`scoring.support`);
            -inf where none is among them.
        best: float64 [l], the best score of the landmark's candidates: the cosine, less B where penalties are fixed.
        best_penalty: float64 [l], B of that candidate, its likeness to non-landmarks.
        inliers: int32 [l, TOLD], of its candidates that agree most, descending, 0 where there are fewer; absent where
            local features are not compared.
        classes: float64 [l], the cosine to the nearest centre of the landmark in the embedder's head, its class
            logit, and nan where the head does not know the landmark; absent where the embedder has no head, or the
            recipe does not ask for it.
    """

    id: str
    penalty: float
    landmark_ids: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.float64]
    best: npt.NDArray[np.float64]
    best_penalty: npt.NDArray[np.float64]
    inliers: Counts | None = None
    classes: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class Witness:
    """All that speaks for landmarks, opened once.

    Attributes:
        index: the train images that are searched.
        non_landmarks: the gallery of the penalties.
        recipe: `[retrieval]`.
        comparer: compares local features with those of the first candidates; absent where none are.
        centres: the embedder's of its landmarks; absent where class logits do not count.
        every_candidate: look at all `[retrieval] rerank` candidates, even where neither of the two is there.
    """

    index: PenalisedIndex
    non_landmarks: NonLandmarks
    recipe: Retrieval
    comparer: Comparer | None = None
    centres: ClassCentres | None = None
    every_candidate: bool = False

    @property
    def penalty_weight(self) -> float:
        """What B is multiplied by where the index is searched: 1 where the recipe fixes penalties, else 0."""
        return 1.0 if self.recipe.penalties == "fixed" else 0.0

    def search(
        self, vectors: Floats, k: int, exclude_ids: Sequence[str] | None = None
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Scores and rows of the `k` best images of each query, as `PenalisedIndex.search`, by the recipe's score."""
        return self.index.search(vectors, k, exclude_ids, penalty_weight=self.penalty_weight)

    def of(
        self, queries: Vectors, photographs: Photographs | None = None, *, leave_one_out: bool = False
    ) -> Iterator[Evidence]:
        """The evidence of each query in their order; what one gets depends on no other.

        Memory is that of a block of queries, whatever their number.

        Args:
            queries: what is asked.
            photographs: local features of the queries; needed where they are compared.
            leave_one_out: do not let a query find the index image of its own id.

        Raises:
            EmbedderError: the vectors are not of the index's embedder, or a value is not finite.
            StoreError: local features cannot be read.
        """
        size = QUERIES_AT_ONCE if self._of_many else QUERY_BLOCK
        for start in range(0, len(queries), size):
            part = queries.rows(range(start, min(start + size, len(queries))))
            yield from self._of_block(part, photographs, leave_one_out)

    @property
    def _of_many(self) -> bool:
        """Whether all candidates of a query are looked at, not its first neighbours alone."""
        return self.comparer is not None or self.centres is not None or self.every_candidate

    def _of_block(self, queries: Vectors, photographs: Photographs | None, leave_one_out: bool) -> Iterator[Evidence]:
        own = self.non_landmarks.penalties(queries, self.recipe.query_penalty_top)
        wanted = max(self.recipe.neighbours, self.recipe.rerank if self._of_many else 0)
        own_ids = queries.ids if leave_one_out else None
        asked = queries.vectors
        if self.recipe.expansion:
            _, first = self.search(asked, self.recipe.expansion, own_ids)
            asked = expanded(asked, self.index.vectors, first, self.recipe.expansion_power)
        scores, rows = self.search(asked, wanted, own_ids)
        if self.recipe.clip:
            scores, rows = clipped(scores, rows, self.index.penalties * np.float32(self.penalty_weight))
        inliers: Sequence[Counts | None] = [None] * len(rows)
        if self.comparer is not None and photographs is not None:
            ids = [[self.index.ids[row] for row in found[: self.recipe.rerank] if row >= 0] for found in rows]
            inliers = self.comparer(list(photographs(queries.ids)), ids)
        of_classes = None if self.centres is None else class_logits(self.centres, queries, self.index, rows)
        for number, (query, penalty, of_query, found, counts) in enumerate(
            zip(queries.ids, own, scores, rows, inliers, strict=True)
        ):
            known = found >= 0
            landmarks = self.index.landmark_ids[found[known]]
            evidence = evidence_of(
                query,
                float(penalty),
                of_query[known],
                landmarks,
                self.index.penalties[found[known]].astype(np.float64),
                counts,
                self.recipe.neighbours,
                self.recipe.top_per_landmark,
            )
            yield evidence if of_classes is None else replace(evidence, classes=of_classes[number])


def class_logits(
    centres: ClassCentres, queries: Vectors, index: PenalisedIndex, rows: npt.NDArray[np.int64]
) -> list[npt.NDArray[np.float64]]:
    """The class logits of each query's landmarks, ascending, among the index images `rows` [q, k]; -1 is no image."""
    landmarks = [np.unique(index.landmark_ids[found[found >= 0]]) for found in rows]
    together = np.unique(np.concatenate(landmarks)) if landmarks else np.zeros(0, np.int64)
    cosines = centres.cosines(queries.vectors, together).round(SCORE_DECIMALS)
    return [of_query[np.searchsorted(together, mine)] for of_query, mine in zip(cosines, landmarks, strict=True)]


def clipped(
    scores: npt.NDArray[np.float64], rows: npt.NDArray[np.int64], penalties: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Scores and rows [q, k] of a search with the cosines clipped to 0…1, in their new order; ties by row.

    Args:
        scores: float64, cosine - B; -inf where there is no image.
        rows: int64; -1 there.
        penalties: float32 [n], B of each row.
    """
    of_image = np.where(rows >= 0, penalties[rows], 0.0).astype(np.float64)
    found = (np.clip(scores + of_image, 0.0, 1.0) - of_image).round(SCORE_DECIMALS) + 0.0
    found[rows < 0] = -np.inf
    # Places without an image are last.
    order = np.lexsort((rows, -found), axis=-1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(rows, order, axis=1)


def evidence_of(
    query: str,
    penalty: float,
    scores: npt.NDArray[np.float64],
    landmarks: npt.NDArray[np.int64],
    penalties: npt.NDArray[np.float64],
    inliers: Counts | None,
    neighbours: int,
    top_per_landmark: int = 0,
) -> Evidence:
    """The evidence in a query's candidates.

    Args:
        query: its id.
        penalty: C.
        scores: float64 [n], the best first.
        landmarks: int64 [n] of the candidates.
        penalties: float64 [n], B of the candidates.
        inliers: int32 [m] of the first m <= n candidates; None where local features are not compared.
        neighbours: candidates whose scores are summed by landmark.
        top_per_landmark: of a landmark at most so many of them; 0 = all.
    """
    names, number = np.unique(landmarks, return_inverse=True)
    first = np.full(len(names), -np.inf)
    for landmark in np.unique(number[:neighbours]).tolist():
        first[landmark] = support(scores[:neighbours][number[:neighbours] == landmark].tolist(), top_per_landmark)
    # The first candidate of a landmark is its best.
    at = np.unique(number, return_index=True)[1]
    best, best_penalty = scores[at], penalties[at]
    if inliers is None:
        return Evidence(query, penalty, names, first, best, best_penalty)
    told = np.zeros((len(names), TOLD), np.int32)
    for landmark in np.unique(number[: len(inliers)][inliers > 0]).tolist():
        most = np.sort(inliers[number[: len(inliers)] == landmark])[::-1][:TOLD]
        told[landmark, : len(most)] = most
    return Evidence(query, penalty, names, first, best, best_penalty, told)
