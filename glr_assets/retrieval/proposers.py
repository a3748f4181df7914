"""Which rows of an index may be the nearest to a query: faiss indexes, exact or faster and smaller.

A proposer only proposes; who asks computes the scores of what is proposed from the stored vectors. So all that an
approximate one can do is to overlook a row, and how seldom it does is measured when it is built.

What is proposed for a query depends on no other query of the call: faiss compares a query with the centres of its
lists by BLAS, whose last bits change with the number of queries, so lists are chosen here instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from glr_assets.errors import StoreError

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Kind = Literal["flat", "ivf", "hnsw", "pq"]
KINDS: Final = get_args(Kind)

#: Up to so many rows `auto` searches all: some milliseconds a query.
FEW: Final = 50_000
#: Rows are padded with zeros to a multiple of this, so that codes may have any number of parts.
MULTIPLE: Final = 16
#: Numbers that product quantisation makes one byte of.
NUMBERS_A_BYTE: Final = 8
#: Rows that are proposed for one that is wanted: codes of a byte a number order rows almost rightly, smaller ones not.
PROPOSED: Final[dict[str, int]] = {"flat": 1, "ivf": 4, "hnsw": 4, "pq": 40}
#: Decimals to which queries are compared with the centres of lists.
_DECIMALS = 6
_LINKS = 32
_MOST_EFFORT = 4096
#: Rows that a list, and the codes, are learnt from.
_A_LIST, _FOR_CODES = 64, 16_384


def width(dimensions: int) -> int:
    """The length of rows that an approximate index keeps of vectors of these dimensions."""
    return -(-dimensions // MULTIPLE) * MULTIPLE


def bytes_of(kind: Kind, count: int, dimensions: int) -> int:
    """About what an index of that kind takes in memory."""
    padded = width(dimensions)
    lists = 4 * _lists(count) * padded
    each = {
        "flat": 4 * dimensions,
        "ivf": padded + 8,
        "hnsw": padded + 4 * 2 * _LINKS,
        "pq": padded // NUMBERS_A_BYTE + 8,
    }[kind]
    return count * each + (lists if kind in ("ivf", "pq") else 0)


def chosen(kind: Kind | Literal["auto"], count: int, dimensions: int, memory: int) -> Kind:
    """The kind of index for so many vectors: what was asked for, or the most exact that is fast and fits.

    Args:
        kind: auto leaves the choice to size and budget.
        count: vectors.
        dimensions: of each.
        memory: bytes that the index may take.
    """
    if kind != "auto":
        return kind
    candidates: tuple[Kind, ...] = ("flat", "ivf", "pq") if count <= FEW else ("ivf", "pq")
    fitting = [candidate for candidate in candidates if bytes_of(candidate, count, dimensions) <= memory]
    return fitting[0] if fitting else "pq"


def _lists(count: int) -> int:
    """Lists of an inverted file: a power of two of about four times the root of the rows, with 39 rows each or more."""
    return max(1, 2 ** int(math.log2(max(1, min(4 * math.sqrt(count), count / 39)))))


def _factory(kind: Kind, count: int, padded: int) -> str:
    return {
        "ivf": f"IVF{_lists(count)},SQ8",
        "hnsw": f"HNSW{_LINKS}_SQ8",
        "pq": f"IVF{_lists(count)},PQ{padded // NUMBERS_A_BYTE}",
    }[kind]


@dataclass(frozen=True, eq=False)
class Proposer:
    """An approximate faiss index of rows, and how hard it looks.

    Attributes:
        kind: its kind, which is not flat.
        effort: lists that are searched, or nodes that are kept on the way.
        index: faiss's.
        centres: float64 [lists, d] of an inverted file.
    """

    kind: Kind
    effort: int
    index: Any
    centres: npt.NDArray[np.float64] | None

    @classmethod
    def build(cls, kind: Kind, count: int, rows: Callable[[], Iterator[Floats]]) -> Proposer:
        """Index rows of one length, block by block, on one thread; the same rows give the same bytes.

        The effort is the least there is: see `tuned`.

        Args:
            kind: not flat.
            count: rows.
            rows: gives them from the start at each call, float32 blocks [b, d].
        """
        import faiss

        sample = _sample(rows(), count)
        index = faiss.index_factory(sample.shape[1], _factory(kind, count, sample.shape[1]), faiss.METRIC_INNER_PRODUCT)
        if isinstance(index, faiss.IndexIVFPQ):
            # For a filter that is not used it would anneal for minutes.
            index.do_polysemous_training = False  # type: ignore[attr-defined]
        with one_thread():
            index.train(sample)
            del sample
            for block in rows():
                index.add(_padded(block))
        return cls(kind, 1, index, _centres(index))

    @classmethod
    def opened(cls, kind: Kind, effort: int, index: Any) -> Proposer:
        """A proposer of a faiss index that was read."""
        return cls(kind, effort, index, _centres(index))

    def __call__(self, queries: Floats, wanted: int) -> Rows:
        """Rows int64 [q, n] that may be the `wanted` best of queries float32 [q, d]; -1 where fewer are found."""
        queries = _padded(queries)
        count = min(wanted * PROPOSED[self.kind], self.index.ntotal)
        if self.centres is None:
            import faiss

            parameters = faiss.SearchParametersHNSW(efSearch=max(self.effort, count))  # type: ignore[attr-defined]
            return np.asarray(self.index.search(queries, count, params=parameters)[1], np.int64)
        looked = min(self.effort, len(self.centres))
        products = (queries.astype(np.float64) @ self.centres.T).round(_DECIMALS)
        lists = np.argsort(-products, axis=1, kind="stable")[:, :looked]
        nearness = np.take_along_axis(products, lists, axis=1).astype(np.float32)
        self.index.nprobe = looked
        return np.asarray(self.index.search_preassigned(queries, count, lists, nearness)[1], np.int64)

    def with_effort(self, effort: int) -> Proposer:
        """The same, looking as hard as that."""
        return Proposer(self.kind, effort, self.index, self.centres)


def tuned(proposer: Proposer, recall_of: Callable[[Proposer], float], wanted: float) -> Proposer:
    """The proposer of the least effort, by doubling, whose recall is as wanted, or of the most there is."""
    while True:
        recall = recall_of(proposer)
        most = _MOST_EFFORT if proposer.centres is None else len(proposer.centres)
        if recall >= wanted or proposer.effort >= most:
            return proposer
        proposer = proposer.with_effort(min(2 * proposer.effort, most))


def opened_faiss(data: bytes | str | IO[bytes]) -> Any:
    """A faiss index from its bytes or an open file, or memory-mapped from a file of this machine, where faiss can.

    Raises:
        StoreError: it is no faiss index.
    """
    import faiss

    try:
        if isinstance(data, bytes):
            return faiss.deserialize_index(np.frombuffer(data, np.uint8))
        if isinstance(data, str):
            return faiss.read_index(data, faiss.IO_FLAG_MMAP_IFC)
        return faiss.read_index(faiss.PyCallbackIOReader(data.read))  # type: ignore[attr-defined]
    except RuntimeError as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        where = f"{len(data)} bytes" if isinstance(data, bytes) else str(data)
        raise StoreError(f"faiss index: {where} cannot be read: {first_line}; materialise faiss_index again") from error


@contextmanager
def one_thread() -> Iterator[None]:
    """Let faiss use one thread: what several add up, or link, depends on which is first."""
    import faiss

    usual = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(usual)


def _centres(index: Any) -> npt.NDArray[np.float64] | None:
    import faiss

    if not isinstance(index, faiss.IndexIVF):
        return None
    return np.asarray(index.quantizer.reconstruct_n(0, index.nlist), np.float64)


def _padded(rows: Floats) -> Floats:
    wide = np.zeros((len(rows), width(rows.shape[1])), np.float32)
    wide[:, : rows.shape[1]] = rows
    return wide


def _sample(blocks: Iterator[Floats], count: int) -> Floats:
    """Padded rows to learn from, evenly spread: as many as k-means takes of each list, and no fewer than codes want."""
    wanted = min(count, max(_A_LIST * _lists(count), _FOR_CODES))
    at = np.arange(wanted) * count // max(wanted, 1)
    sample = np.zeros((0, 0), np.float32)
    start = 0
    for block in blocks:
        first, end = np.searchsorted(at, [start, start + len(block)])
        if not len(sample):
            sample = np.zeros((wanted, width(block.shape[1])), np.float32)
        sample[first:end, : block.shape[1]] = block[at[first:end] - start]
        start += len(block)
    return sample
