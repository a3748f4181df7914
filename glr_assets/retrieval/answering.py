"""What speaks for each landmark that a photograph may show: neighbours by embedding, and local features that agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from glr_assets.recipes import Retrieval
from glr_assets.retrieval.embeddings import LeaveOut, NonLandmarks, Vectors
from glr_assets.retrieval.expansion import expanded
from glr_assets.retrieval.local import QUERIES_AT_ONCE, Comparer, Counts
from glr_assets.retrieval.scoring import (
    QUERY_BLOCK,
    SCORE_DECIMALS,
    Excluded,
    Floats,
    PenalisedIndex,
    penalties_without,
    support,
)
from glr_assets.training.centres import ClassCentres
from glr_assets.verification.matching import Prepared

#: Images of a landmark whose inliers are told.
TOLD: Final = 3

#: Candidates of a sample, at least, that are put in order again where some go, or have another penalty.
_ORDERED_AGAIN: Final = 100
#: Non-landmarks beside the best of an image that are looked at, so that its best remain where some are left out.
_MOST_LEFT_OUT: Final = 64

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
        self, vectors: Floats, k: int, exclude_ids: Sequence[Excluded] | None = None
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Scores and rows of the `k` best images of each query, as `PenalisedIndex.search`, by the recipe's score."""
        return self.index.search(vectors, k, exclude_ids, penalty_weight=self.penalty_weight)

    def of(
        self,
        queries: Vectors,
        photographs: Photographs | None = None,
        *,
        leave_out: LeaveOut | None = None,
        hidden: Mapping[str, int] | None = None,
    ) -> Iterator[Evidence]:
        """The evidence of each query in their order; what one gets depends on no other.

        Memory is that of a block of queries, whatever their number.

        Args:
            queries: what is asked.
            photographs: local features of the queries; needed where they are compared.
            leave_out: of queries that are samples of a fit. No query finds the index image of its own id, nor those of
                the ids given for it; nor do these take part in B and C where they are non-landmarks.
            hidden: of samples, by id, a landmark that is not among their candidates, as if it were not searched.

        Raises:
            EmbedderError: the vectors are not of the index's embedder, or a value is not finite.
            StoreError: local features cannot be read.
        """
        size = QUERIES_AT_ONCE if self._of_many else QUERY_BLOCK
        without = None if leave_out is None else _Without(self, leave_out, hidden or {})
        for start in range(0, len(queries), size):
            part = queries.rows(range(start, min(start + size, len(queries))))
            yield from self._of_block(part, photographs, without)

    @property
    def _of_many(self) -> bool:
        """Whether all candidates of a query are looked at, not its first neighbours alone."""
        return self.comparer is not None or self.centres is not None or self.every_candidate

    def _of_block(
        self, queries: Vectors, photographs: Photographs | None, without: _Without | None
    ) -> Iterator[Evidence]:
        leave_out = None if without is None else without.leave_out
        own = self.non_landmarks.penalties(queries, self.recipe.query_penalty_top, leave_out)
        wanted = max(self.recipe.neighbours, self.recipe.rerank if self._of_many else 0)
        own_ids = None if leave_out is None else [(name, *leave_out.get(name, ())) for name in queries.ids]
        asked = queries.vectors
        if self.recipe.expansion:
            _, first = self.search(asked, self.recipe.expansion, own_ids)
            asked = expanded(asked, self.index.vectors, first, self.recipe.expansion_power)
        if without is None:
            scores, rows = self.search(asked, wanted, own_ids)
            penalties = self.index.penalties_of(rows)
        else:
            scores, rows, penalties = without.search(asked, wanted, own_ids, queries)
        if self.recipe.clip:
            scores, rows, penalties = clipped(scores, rows, penalties, self.penalty_weight)
        inliers: Sequence[Counts | None] = [None] * len(rows)
        if self.comparer is not None and photographs is not None:
            ids = [[self.index.ids[row] for row in found[: self.recipe.rerank] if row >= 0] for found in rows]
            inliers = self.comparer(list(photographs(queries.ids)), ids)
        of_classes = None if self.centres is None else class_logits(self.centres, queries, self.index, rows)
        for number, (query, penalty, of_query, found, of_images, counts) in enumerate(
            zip(queries.ids, own, scores, rows, penalties, inliers, strict=True)
        ):
            known = found >= 0
            landmarks = self.index.landmark_ids[found[known]]
            evidence = evidence_of(
                query,
                float(penalty),
                of_query[known],
                landmarks,
                of_images[known].astype(np.float64),
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
    scores: npt.NDArray[np.float64], rows: npt.NDArray[np.int64], penalties: Floats, penalty_weight: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], Floats]:
    """Scores, rows and penalties [q, k] of a search with the cosines clipped to 0…1, in their new order; ties by row.

    Args:
        scores: float64, cosine - `penalty_weight` · B; -inf where there is no image.
        rows: int64; -1 there.
        penalties: float32, B of each.
        penalty_weight: what B is multiplied by.
    """
    of_image = np.where(rows >= 0, penalties * np.float32(penalty_weight), 0.0).astype(np.float64)
    return in_order((np.clip(scores + of_image, 0.0, 1.0) - of_image).round(SCORE_DECIMALS) + 0.0, rows, penalties)


def in_order(
    scores: npt.NDArray[np.float64], rows: npt.NDArray[np.int64], penalties: Floats
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], Floats]:
    """Scores, rows and penalties [q, k], the best first, ties by row; places without an image, row -1, are last."""
    found = np.where(rows >= 0, scores, -np.inf)
    order = np.lexsort((rows, -found), axis=-1)
    taken = (np.take_along_axis(values, order, axis=1) for values in (found, rows, penalties))
    return next(taken), next(taken), next(taken)


class _Without:
    """A search for samples of a fit, which are in index and gallery themselves and must not speak for themselves.

    B of an index image is the mean of its best cosines to non-landmarks. A sample that is a non-landmark is often one
    of these for its own nearest images, as no photograph that is asked later ever is, so a fit on B as it stands would
    learn from the sample's label. So its candidates have B without it. Memory depends on the queries asked at once.
    """

    def __init__(self, witness: Witness, leave_out: LeaveOut, hidden: Mapping[str, int]) -> None:
        """Prepare it; `leave_out` and `hidden` are as `Witness.of` takes them."""
        self.leave_out = leave_out
        self._witness, self._hidden = witness, hidden
        self._top = witness.recipe.train_penalty_top
        # A sample, its twin and all that is left out with it may be among the best of an image.
        self._kept = self._top + 2 + min(max(map(len, leave_out.values()), default=0), _MOST_LEFT_OUT)

    def search(
        self, vectors: Floats, wanted: int, own_ids: Sequence[Excluded] | None, queries: Vectors
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], Floats]:
        """Scores, rows and penalties [q, wanted] of the best images of each query, as `Witness.search` orders them."""
        witness = self._witness
        fixed = witness.penalty_weight > 0
        count = max(wanted, _ORDERED_AGAIN) if fixed or self._hidden else wanted
        scores, rows = witness.search(vectors, count, own_ids)
        if self._hidden:
            hidden = np.array([self._hidden.get(name, -1) for name in queries.ids], np.int64)
            rows = np.where(witness.index.landmark_ids[rows] == hidden[:, np.newaxis], -1, rows)
        stored = witness.index.penalties_of(rows)
        penalties = np.minimum(stored, self._penalties(rows, queries))
        if fixed:
            scores = (scores + (stored.astype(np.float64) - penalties)).round(SCORE_DECIMALS) + 0.0
        if fixed or self._hidden:
            scores, rows, penalties = in_order(scores, rows, penalties)
        return scores[:, :wanted], rows[:, :wanted], penalties[:, :wanted]

    def _penalties(self, rows: npt.NDArray[np.int64], queries: Vectors) -> Floats:
        """B of the candidates [q, k] without the query and what is left out with it."""
        gallery, index = self._witness.non_landmarks.gallery, self._witness.index
        excluded = gallery.rows_of(self._witness.non_landmarks.left_out(queries, self.leave_out))
        found = index.penalties_of(rows)
        concerned = np.flatnonzero((excluded >= 0).any(axis=1))
        if not len(concerned):
            return found
        candidates = np.unique(rows[concerned])
        candidates = candidates[candidates >= 0]
        names = [index.ids[row] for row in candidates.tolist()]
        cosines, nearest = gallery.nearest(index.vectors[candidates], names, self._kept)
        for number in concerned.tolist():
            known = np.flatnonzero(rows[number] >= 0)
            at = np.searchsorted(candidates, rows[number, known])
            mine = np.broadcast_to(excluded[number], (len(known), excluded.shape[1]))
            found[number, known] = penalties_without(cosines[at], nearest[at], mine, self._top)
        return found


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
