"""Recognition and retrieval by exact nearest neighbours, with the non-landmark penalty.

The scheme is that of the 2020 Google Landmark Recognition winner (Henkel and Singer, "Supporting large-scale
image recognition with out-of-domain samples", arXiv:2010.01650) in the form of the 2021 neighbour notebooks:

- B, an index image's penalty: the mean of its best cosines to photographs without a landmark;
- a neighbour's score: cosine(query, image) - B(image), which ranks the index images;
- a landmark's score: the sum over the query's best neighbours that show it, less the query's own penalty C.

This holds for `[retrieval] penalties = "fixed"`. Otherwise the search ranks by the cosine alone, and B and C are
features of the recognition model or do not count.

Three things differ from the notebooks. An image is never compared with itself. A score is never rescaled
over a batch: `calibration` makes a probability of it. And a neighbour scoring below zero, that is nearer to
non-landmarks than to the query, never lowers its landmark: where all of a landmark's neighbours score below
zero the best of them stands alone, else the positive ones are summed. (A plain sum of negative scores would
put a landmark with three such neighbours under one with a single worse neighbour.)

Scores are inner products in float64 of the stored float32 values, rounded to `SCORE_DECIMALS`. faiss only
proposes candidates, because the last bits of its float32 sums change with the number of queries in a call;
so an answer depends neither on the other queries of the batch nor on the block size.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from glr_assets.errors import EmbedderError, MissingInputError, StoreError
from glr_assets.retrieval.expansion import expanded
from glr_assets.retrieval.proposers import Proposer, width

Floats = NDArray[np.float32]

Excluded = str | tuple[str, ...]
"""What a query must not find: the id of an image, or ids."""

SCORE_DECIMALS = 6
"""Decimals of a score: what float32 embeddings resolve; closer scores are ties, decided by id."""

QUERY_BLOCK = 512
"""Queries searched at once; bounds the memory and changes no result."""

ROWS_BYTES = 512 * 2**20
"""Bytes of mapped rows that are searched at once; bounds the memory and changes no result."""

_SPARE_CANDIDATES = 8
# Where more images than this tie exactly at the cut, which of them are taken is left to faiss.
_MOST_CANDIDATES = 1024
# Far above the error of a float32 inner product of unit vectors of up to 4,096 dimensions.
_FAISS_ERROR = 1e-5
_RESCORED_VALUES = 2**22
_CHECKED_AT_ONCE = 2**14
_MEND = "materialise faiss_index again"


@dataclass(frozen=True, slots=True)
class Recognition:
    """The query `id` shows `landmark_id`; a higher raw score is surer, with no bounds of its own."""

    id: str
    landmark_id: int
    score: float


class Gallery:
    """The photographs without a landmark that others are compared with for their penalties B and C, indexed once."""

    def __init__(self, ids: Sequence[str], vectors: Floats) -> None:
        """Index them.

        Args:
            ids: m distinct image ids.
            vectors: float32 [m, D], L2-normalised.

        Raises:
            EmbedderError: the arrays do not fit together, an id stands twice or a value is not finite.
        """
        vectors = _checked(vectors, ids, "non-landmark photographs")
        self._row_of = _distinct(ids)
        self._index = None
        if len(ids):
            self._index = Flat.allocated(*vectors.shape)
            self._index.rows[:] = vectors
        self.dimensions = vectors.shape[1]

    def __len__(self) -> int:
        return len(self._row_of)

    def penalties(self, vectors: Floats, ids: Sequence[Excluded], top: int, *, block: int = QUERY_BLOCK) -> Floats:
        """The mean of each image's `top` best cosines to non-landmark images, itself left out: B and C.

        Args:
            vectors: float32 [n, D], L2-normalised.
            ids: of each image the id, or the ids, of the gallery that it is not compared with, its own as a rule.
            top: cosines averaged; where fewer other images are there, all of them.
            block: images compared at once.

        Returns:
            float32 [n]; 0 where there is no other non-landmark image.

        Raises:
            EmbedderError: the arrays do not fit together or a value is not finite.
        """
        vectors = _checked(vectors, ids, "photographs")
        if self._index is None or not len(ids):
            return np.zeros(len(ids), np.float32)
        _same_dimensions(vectors, self.dimensions)
        cosines, rows = _nearest(self._index, vectors, top, _rows_of(ids, self._row_of), block)
        return _mean_of(cosines, rows >= 0)

    def nearest(
        self, vectors: Floats, ids: Sequence[Excluded], k: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The `k` best cosines [n, k] of each image, the best first, and the rows of the gallery; -inf and -1 after.

        Arguments and errors are those of `penalties`.
        """
        vectors = _checked(vectors, ids, "photographs")
        if self._index is None or not len(ids):
            return np.full((len(ids), k), -np.inf), np.full((len(ids), k), -1, np.int64)
        _same_dimensions(vectors, self.dimensions)
        return _nearest(self._index, vectors, k, _rows_of(ids, self._row_of), QUERY_BLOCK)

    def rows_of(self, ids: Sequence[Excluded]) -> NDArray[np.int64]:
        """The rows of the gallery that hold these ids, int64 [n, m], -1 in places that are left over."""
        return _rows_of(ids, self._row_of)


def penalties_without(
    cosines: NDArray[np.float64], rows: NDArray[np.int64], excluded: NDArray[np.int64], top: int
) -> Floats:
    """The mean of each image's `top` best cosines, where some rows of the gallery are not there: float32 [n].

    Args:
        cosines: float64 [n, top + m or more], the best first, as `Gallery.nearest` gives them.
        rows: int64, of each.
        excluded: int64 [n, m], the rows that are not there, or -1.
        top: cosines averaged.
    """
    there = rows >= 0
    for column in excluded.T:
        there &= rows != column[:, np.newaxis]
    there &= there.cumsum(axis=1) <= top
    return _mean_of(cosines, there)


def _mean_of(cosines: NDArray[np.float64], counted: NDArray[np.bool_]) -> Floats:
    """The mean of the counted cosines of each row, 0 where there is none."""
    total = np.where(counted, cosines, 0.0).sum(axis=1)
    return (total / np.maximum(counted.sum(axis=1), 1)).round(SCORE_DECIMALS).astype(np.float32)


class PenalisedIndex:
    """Search of index images by cosine - weight · B, as one inner product: [q, weight] · [v, -B].

    It is exact, or, with a proposer, among the rows that are proposed. Rows are the images sorted by id, so ties go
    to the smaller id. `ids` and `landmark_ids` (int64 [n]) are in row order, as `rows` (float32 [n, D + 1]).
    """

    def __init__(self, ids: Sequence[str], landmark_ids: NDArray[np.int64], vectors: Floats, penalties: Floats) -> None:
        """Build from n images in any order.

        Args:
            ids: n distinct image ids.
            landmark_ids: int64 [n].
            vectors: float32 [n, D], L2-normalised.
            penalties: float32 [n], B of each image.

        Raises:
            MissingInputError: there is no image.
            EmbedderError: the arrays do not fit together, an id stands twice or a value is not finite.
        """
        vectors = _checked(vectors, ids, "index photographs")
        penalties = np.asarray(penalties, np.float32)
        if not len(ids):
            raise MissingInputError("the index has no image; materialise the embeddings of a manifest that holds some")
        if len(landmark_ids) != len(ids) or penalties.shape != (len(ids),):
            raise EmbedderError(
                f"index: {len(ids)} ids, {len(landmark_ids)} landmark ids and {len(penalties)} penalties, "
                "expected as many of each; materialise the embeddings again"
            )
        if not np.isfinite(penalties).all():
            raise EmbedderError("index: a penalty is not a finite number; materialise the embeddings again")
        _distinct(ids)
        order = _order(ids)
        flat = Flat.allocated(len(ids), vectors.shape[1] + 1)
        for start in range(0, len(order), QUERY_BLOCK):
            part = order[start : start + QUERY_BLOCK]
            flat.rows[start : start + len(part), :-1] = vectors[part]
            flat.rows[start : start + len(part), -1] = -penalties[part]
        self._set(flat.rows, [ids[row] for row in order], np.asarray(landmark_ids)[order], flat)

    @classmethod
    def of_flat(cls, index: Any, ids: Sequence[str], landmark_ids: NDArray[np.int64]) -> PenalisedIndex:
        """The index of a flat faiss index, as `to_bytes` wrote it, with its `ids` and `landmark_ids` in row order.

        Raises:
            StoreError: it is no flat inner-product faiss index, or belongs to other ids.
        """
        import faiss

        if not isinstance(index, faiss.IndexFlat) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise StoreError(f"faiss index: expected a flat inner-product index, found another kind; {_MEND}")
        loaded = cls.__new__(cls)
        flat = Flat(index)
        loaded._set(flat.rows, list(ids), np.asarray(landmark_ids), flat)
        return loaded

    @classmethod
    def of_filled(cls, rows: Floats | Flat, ids: Sequence[str], landmark_ids: NDArray[np.int64]) -> PenalisedIndex:
        """The exact index of rows that are in place, sorted by id: a flat index's, or an array's, which may be mapped.

        An array is not copied: each search goes through it, a block after another.

        Args:
            rows: float32 [n, D + 1] of [v, -B].
            ids: n distinct ids, ascending.
            landmark_ids: int64 [n].

        Raises:
            MissingInputError: there is no image.
            StoreError: there are not as many of each, or ids do not ascend.
        """
        if not len(ids):
            raise MissingInputError("the index has no image; materialise the embeddings of a manifest that holds some")
        loaded = cls.__new__(cls)
        if isinstance(rows, Flat):
            loaded._set(rows.rows, list(ids), np.asarray(landmark_ids), rows)
        else:
            loaded._set(rows, list(ids), np.asarray(landmark_ids), None)
        return loaded

    @classmethod
    def of_rows(
        cls, rows: Floats, ids: Sequence[str], landmark_ids: NDArray[np.int64], proposer: Proposer
    ) -> PenalisedIndex:
        """The index of `rows` [n, D + 1], which may be mapped from a file, searched where a proposer points.

        Raises:
            StoreError: rows, proposer and ids do not belong together.
        """
        if not proposer.index.ntotal == len(rows) or proposer.index.d != width(rows.shape[1]):
            raise StoreError(
                f"faiss index: {proposer.index.ntotal} rows of {proposer.index.d} numbers for {len(rows)} of "
                f"{rows.shape[1]}; {_MEND}"
            )
        loaded = cls.__new__(cls)
        loaded._set(rows, list(ids), np.asarray(landmark_ids), proposer)
        return loaded

    def _set(
        self, rows: Floats, ids: list[str], landmark_ids: NDArray[np.int64], searched: Flat | Proposer | None
    ) -> None:
        self.rows, self._searched = rows, searched
        if not len(self.rows) == len(ids) == len(landmark_ids):
            raise StoreError(
                f"faiss index: {len(self.rows)} rows for {len(ids)} ids and {len(landmark_ids)} landmark ids, "
                f"expected as many of each; {_MEND}"
            )
        if any(ids[row] >= ids[row + 1] for row in range(len(ids) - 1)):
            raise StoreError(f"faiss index: ids are not distinct and ascending; {_MEND}")
        self.ids = ids
        self.landmark_ids = landmark_ids.astype(np.int64)
        self._row_of = {image: row for row, image in enumerate(ids)}

    def proposed_by(self, proposer: Proposer) -> PenalisedIndex:
        """The same rows, searched where a proposer points."""
        return self.of_rows(self.rows, self.ids, self.landmark_ids, proposer)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def proposer(self) -> Proposer | None:
        """What proposes rows, where not all are searched."""
        return self._searched if isinstance(self._searched, Proposer) else None

    @property
    def vectors(self) -> Floats:
        """The embeddings, float32 [n, D], as a view of `rows`."""
        return self.rows[:, :-1]

    @property
    def penalties(self) -> Floats:
        """B of each image, float32 [n]."""
        return -self.rows[:, -1]

    def penalties_of(self, rows: NDArray[np.int64]) -> Floats:
        """B of some rows, float32 of their shape; that of row -1 means nothing."""
        return np.asarray(-self.rows[rows, -1], np.float32)

    @property
    def dimensions(self) -> int:
        """D, the length of a vector."""
        return int(self.rows.shape[1]) - 1

    def write(self, file: IO[bytes]) -> None:
        """Write a faiss index file, of [v, -B] where it is flat; the ids are kept beside it.

        Raises:
            EmbedderError: it has no faiss index.
        """
        import faiss

        if self._searched is None:
            raise EmbedderError("index: rows that nothing indexes cannot be written; build an index of them first")
        faiss.write_index(self._searched.index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]

    def to_bytes(self) -> bytes:
        """What `write` writes."""
        file = io.BytesIO()
        self.write(file)
        return file.getvalue()

    def search(
        self,
        query_vectors: Floats,
        k: int,
        exclude_ids: Sequence[Excluded] | None = None,
        *,
        penalty_weight: float = 1.0,
        block: int = QUERY_BLOCK,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Scores and rows of the `k` best images of each query, the best first, ties by row.

        Args:
            query_vectors: float32 [q, D], L2-normalised.
            k: images a query.
            exclude_ids: for each query the id, or the ids, of images it must not find, itself as a rule; an id
                that is not in the index excludes nothing.
            penalty_weight: 1 ranks by cosine - B, 0 by the cosine alone.
            block: queries searched at once.

        Returns:
            Scores float64 [q, k] and rows int64 [q, k]; -inf and -1 where fewer images are there.

        Raises:
            EmbedderError: the arrays do not fit together or a value is not finite.
        """
        query_vectors = _checked(query_vectors, exclude_ids, "queries")
        _same_dimensions(query_vectors, self.dimensions)
        excluded = None if exclude_ids is None else _rows_of(exclude_ids, self._row_of)
        weights = np.full((len(query_vectors), 1), penalty_weight, np.float32)
        queries = np.hstack([query_vectors, weights])
        if isinstance(self._searched, Proposer):
            return _nearest_proposed(self._searched, self.rows, queries, k, excluded, block)
        if self._searched is None:
            return nearest_rows(self.rows, queries, k, excluded, block=block)
        return _nearest(self._searched, queries, k, excluded, block)


def retrieve(
    index_vectors: Floats,
    index_ids: Sequence[str],
    query_vectors: Floats,
    k: int,
    *,
    block: int = QUERY_BLOCK,
    expansion: int = 0,
    expansion_power: float = 0.0,
) -> list[list[str]]:
    """The ids of each query's `k` nearest index images, the best cosine first, ties by id ascending.

    Args:
        index_vectors: float32 [n, D], L2-normalised.
        index_ids: n distinct image ids.
        query_vectors: float32 [q, D], L2-normalised.
        k: images a query; all n where there are fewer.
        block: queries searched at once.
        expansion: nearest images together with which a query asks again; 0 = none.
        expansion_power: see `expansion.expanded`.

    Raises:
        EmbedderError: the arrays do not fit together, an id stands twice or a value is not finite.
    """
    index_vectors = _checked(index_vectors, index_ids, "index photographs")
    query_vectors = _checked(query_vectors, None, "queries")
    _distinct(index_ids)
    if not len(index_ids) or not len(query_vectors):
        return [[] for _ in query_vectors]
    _same_dimensions(query_vectors, index_vectors.shape[1])
    order = _order(index_ids)
    flat = Flat.allocated(*index_vectors.shape)
    for start in range(0, len(order), QUERY_BLOCK):
        part = order[start : start + QUERY_BLOCK]
        flat.rows[start : start + len(part)] = index_vectors[part]
    if expansion:
        _, first = _nearest(flat, query_vectors, expansion, None, block)
        query_vectors = expanded(query_vectors, flat.rows, first, expansion_power)
    _, rows = _nearest(flat, query_vectors, k, None, block)
    ids = [index_ids[row] for row in order]
    return [[ids[row] for row in found if row >= 0] for found in rows.tolist()]


def retrieve_rows(
    rows: Floats, queries: Floats, k: int, *, expansion: int = 0, expansion_power: float = 0.0
) -> NDArray[np.int64]:
    """As `retrieve`, of vectors that are sorted by id and may be mapped: rows int64 [q, k], -1 where there are fewer.

    Raises:
        EmbedderError: the arrays do not fit together or a value is not finite.
    """
    rows, queries = _checked(rows, None, "index photographs"), _checked(queries, None, "queries")
    if not len(rows):
        return np.full((len(queries), k), -1, np.int64)
    _same_dimensions(queries, rows.shape[1])
    if expansion:
        _, first = nearest_rows(rows, queries, expansion)
        queries = expanded(queries, rows, first, expansion_power)
    return nearest_rows(rows, queries, k)[1]


def nearest_rows(
    rows: Floats,
    queries: Floats,
    k: int,
    excluded: NDArray[np.int64] | None = None,
    *,
    block: int = QUERY_BLOCK,
    block_bytes: int = ROWS_BYTES,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The `k` greatest inner products of each query with `rows`, and their rows, ties by row: exact, in flat memory.

    Args:
        rows: float32 [n, d], which may be mapped from a file; `block_bytes` of it are in memory at once.
        queries: float32 [q, d].
        k: rows a query.
        excluded: int64 [q, m], rows that each query must not find, or -1.
        block: queries searched at once.
        block_bytes: bytes of rows that are searched at once; changes no result.

    Returns:
        Products float64 [q, k], rounded, and rows int64 [q, k]; -inf and -1 where there are fewer rows.
    """
    scores = np.full((len(queries), k), -np.inf)
    found = np.full((len(queries), k), -1, np.int64)
    step = max(1, block_bytes // max(1, 4 * rows.shape[1]))
    for start in range(0, len(rows), step):
        here = rows[start : start + step]
        flat = Flat.allocated(*here.shape)
        flat.rows[:] = here
        inside = None
        if excluded is not None:
            inside = np.where((excluded >= start) & (excluded < start + len(here)), excluded - start, -1)
        for part in _parts(np.arange(len(queries)), block):
            of_part = None if inside is None else inside[part]
            new, at = _nearest(flat, queries[part], k, of_part, block, least=scores[part, -1])
            both = np.hstack([scores[part], new])
            both_rows = np.hstack([found[part], np.where(at >= 0, at + start, -1)])
            order = np.lexsort((both_rows, -both), axis=-1)[:, :k]
            scores[part] = np.take_along_axis(both, order, axis=1)
            found[part] = np.take_along_axis(both_rows, order, axis=1)
    return scores, found


def support(scores: Sequence[float], most: int = 0) -> float:
    """A landmark's score from those of its neighbours, one or more: of the `most` best of them, of all where it is 0.

    It is continuous in them, and never lower with one neighbour more.
    """
    best = max(scores)
    counted = sorted(scores, reverse=True)[:most] if most else scores
    return math.fsum(score for score in counted if score > 0) if best > 0 else best


def _nearest(
    index: Flat,
    queries: Floats,
    k: int,
    excluded: NDArray[np.int64] | None,
    block: int,
    least: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rounded inner products float64 [q, k] and rows int64 [q, k] of the best `k`, ties by row.

    `excluded` [q, m] are rows that each query must not find, or -1. Of rows below `least` [q] none need be found.
    Unfilled places are -inf and -1.
    """
    floor = np.full(len(queries), -np.inf) if least is None else least - _FAISS_ERROR
    if k < 1:
        raise EmbedderError(f"search for {k} neighbours: expected at least 1; set [retrieval] to more")
    scores = np.full((len(queries), k), -np.inf)
    rows = np.full((len(queries), k), -1, np.int64)
    for part in _parts(np.arange(len(queries)), block):
        undecided = part
        wanted = k + _SPARE_CANDIDATES + (0 if excluded is None else excluded.shape[1])
        most = max(wanted, _MOST_CANDIDATES)
        while len(undecided):
            wanted = min(wanted, len(index), most)
            proposed, candidates = index.propose(queries[undecided], wanted)
            # Proposals descend: of no query is more worth a look.
            worth = int((proposed >= floor[undecided, np.newaxis]).sum(axis=1).max())
            candidates = candidates[:, :worth]
            exact = _inner_products(queries[undecided], index.rows, candidates)
            if excluded is not None:
                exact[_among(candidates, excluded[undecided])] = -np.inf
            order = np.lexsort((candidates, -exact), axis=-1)[:, :k]
            exact = np.take_along_axis(exact, order, axis=1)
            candidates = np.where(exact > -np.inf, np.take_along_axis(candidates, order, axis=1), -1)
            # The cut is decided once whatever faiss left out must score below the last one taken.
            decided = np.full(len(undecided), True)
            if wanted < min(len(index), most):
                cut = floor[undecided]
                if exact.shape[1] == k:
                    cut = np.maximum(cut, exact[:, -1] - _FAISS_ERROR)
                decided = proposed[:, -1] < cut
            done = undecided[decided]
            scores[done, : exact.shape[1]] = exact[decided]
            rows[done, : exact.shape[1]] = candidates[decided]
            undecided = undecided[~decided]
            wanted *= 4
    return scores, rows


def _nearest_proposed(
    proposer: Proposer,
    stored: Floats,
    queries: Floats,
    k: int,
    excluded: NDArray[np.int64] | None,
    block: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """As `_nearest`, of the rows that are proposed."""
    if k < 1:
        raise EmbedderError(f"search for {k} neighbours: expected at least 1; set [retrieval] to more")
    scores = np.full((len(queries), k), -np.inf)
    rows = np.full((len(queries), k), -1, np.int64)
    for part in _parts(np.arange(len(queries)), block):
        candidates = proposer(queries[part], k + (0 if excluded is None else excluded.shape[1]))
        exact = _inner_products(queries[part], stored, candidates)
        out = candidates < 0
        if excluded is not None:
            out |= _among(candidates, excluded[part])
        exact[out] = -np.inf
        order = np.lexsort((candidates, -exact), axis=-1)[:, :k]
        exact = np.take_along_axis(exact, order, axis=1)
        scores[part, : exact.shape[1]] = exact
        found = np.take_along_axis(candidates, order, axis=1)
        rows[part, : exact.shape[1]] = np.where(exact > -np.inf, found, -1)
    return scores, rows


class Flat:
    """A faiss.IndexFlatIP: `rows` float32 [n, d] as they lie in its memory, and a search of them.

    Where faiss knows GPUs (a faiss-gpu in place of faiss-cpu), they search, once they are asked to: rows that are
    filled in must be so before.
    """

    def __init__(self, index: Any) -> None:
        import faiss

        self.index = index
        self.rows = np.zeros((0, index.d), np.float32)
        if index.ntotal:
            values = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
            self.rows = np.asarray(values.reshape(index.ntotal, index.d), np.float32)

    @classmethod
    def allocated(cls, count: int, dimensions: int) -> Flat:
        """One whose rows are zeros, to be filled in: they are then in memory once."""
        import faiss

        index = faiss.IndexFlatIP(dimensions)
        index.codes.resize(4 * count * dimensions)
        index.ntotal = count
        return cls(index)

    @functools.cached_property
    def _searched(self) -> Any:
        import faiss

        return faiss.index_cpu_to_all_gpus(self.index) if faiss.get_num_gpus() else self.index

    def __len__(self) -> int:
        return len(self.rows)

    def propose(self, queries: Floats, wanted: int) -> tuple[Floats, NDArray[np.int64]]:
        """About the `wanted` greatest inner products of each query and their rows, the greatest first."""
        scores, rows = self._searched.search(np.ascontiguousarray(queries), wanted)
        return np.asarray(scores, np.float32), np.asarray(rows, np.int64)


def _inner_products(queries: Floats, stored: Floats, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each query's inner products with its candidate rows, in float64 pair by pair, rounded: [q, c]."""
    products = np.empty(candidates.shape)
    step = max(1, _RESCORED_VALUES // max(1, candidates.shape[1] * stored.shape[1]))
    for part in _parts(np.arange(len(queries)), step):
        chosen = stored[candidates[part]].astype(np.float64)
        products[part] = np.vecdot(queries[part, np.newaxis].astype(np.float64), chosen)
    # Adding 0 makes -0.0 of a rounded value 0.0, which sorts and prints alike.
    return products.round(SCORE_DECIMALS) + 0.0


def _parts(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _order(ids: Sequence[str]) -> NDArray[np.int64]:
    return np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)


def _rows_of(ids: Sequence[Excluded], row_of: dict[str, int]) -> NDArray[np.int64]:
    """The rows of each entry's ids, int64 [n, m], -1 in places that are left over."""
    if all(isinstance(found, str) for found in ids):  # an index has millions
        return np.fromiter((row_of.get(found, -1) for found in ids), np.int64, len(ids)).reshape(-1, 1)  # type: ignore[arg-type]
    several = [(found,) if isinstance(found, str) else found for found in ids]
    rows = np.full((len(ids), max(map(len, several), default=1)), -1, np.int64)
    for number, names in enumerate(several):
        rows[number, : len(names)] = [row_of.get(name, -1) for name in names]
    return rows


def _among(candidates: NDArray[np.int64], excluded: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which candidates [q, c] are among the excluded rows [q, m] of their query."""
    found = np.zeros(candidates.shape, np.bool_)
    for column in excluded.T:
        found |= candidates == column[:, np.newaxis]
    return found


def _distinct(ids: Sequence[str]) -> dict[str, int]:
    """The row of each id."""
    row_of = {image: row for row, image in enumerate(ids)}
    if len(row_of) != len(ids):
        twice = next(image for row, image in enumerate(ids) if row_of[image] != row)
        raise EmbedderError(f"id {twice!r} has two embeddings, expected one; materialise the embeddings again")
    return row_of


def _checked(vectors: Floats, ids: Sequence[Excluded] | None, what: str) -> Floats:
    """`vectors` as float32 [n, D] with one row an id and finite values."""
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or (ids is not None and len(ids) != len(vectors)):
        expected = "[n, D]" if ids is None else f"[{len(ids)}, D] for as many ids"
        raise EmbedderError(
            f"{what}: expected vectors {expected}, found the shape {list(vectors.shape)}; "
            "materialise the embeddings again"
        )
    for start in range(0, len(vectors), _CHECKED_AT_ONCE):
        finite = np.isfinite(vectors[start : start + _CHECKED_AT_ONCE]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            name = f"row {row}" if ids is None else f"id {ids[row]!r}"
            raise EmbedderError(
                f"{what}, {name}: the embedding holds NaN or infinity; train or choose another embedder"
            )
    return vectors


def _same_dimensions(vectors: Floats, expected: int) -> None:
    if len(vectors) and vectors.shape[1] != expected:
        raise EmbedderError(
            f"vectors of {vectors.shape[1]} dimensions, expected {expected}; embed both sides with one embedder"
        )
