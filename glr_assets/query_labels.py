"""Which published query labels a fit used, so that no such query is scored.

Test images have published labels: their landmarks, or that they show none. An asset whose result depends on some of
these labels (non-landmarks that penalties compare with, negative samples of a model) is a fit. It records the ids with
`record_query_labels` among its own files. `query_labels_used` follows receipts from an asset to everything it was made
from and collects the records, so a scored figure cannot miss a fit that lies several assets upstream.

An asset that reads a solution table without a record is refused: its use of labels is not known.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from glr_assets.errors import MetricError, MissingInputError
from glr_assets.receipts import Summary, Writer, digest_of, find_receipt
from glr_assets.store import Store
from glr_assets.tables import Column, Table

#: The assets that hold published labels of test images.
SOLUTIONS: Final = frozenset({"recognition_solution", "retrieval_solution"})
QUERY_LABELS = Table(
    "query_labels/{fit}.parquet",
    "one row per test image whose published label the fit used",
    (Column("id", pa.string(), "Test image id"),),
    ("id",),
)
USED_LABELS = Table(
    "submissions/query_labels.parquet",
    "one row per test image and fit that used its published label; the submission was made from these fits",
    (Column("id", pa.string(), "Test image id"), Column("fit", pa.string(), "Asset that used the label")),
    ("id", "fit"),
)


@dataclass(frozen=True)
class QueryLabels:
    """The test images whose labels were used, by the name of the fit; a fit that used none is left out."""

    by_fit: Mapping[str, frozenset[str]]

    @property
    def ids(self) -> frozenset[str]:
        """All of them."""
        return frozenset().union(*self.by_fit.values())

    def fits_of(self, ids: Collection[str]) -> list[str]:
        """The fits that used a label of one of these images, sorted."""
        wanted = frozenset(ids)
        return sorted(fit for fit, used in self.by_fit.items() if used & wanted)

    def as_table(self) -> pa.Table:
        """Rows of `USED_LABELS`, sorted."""
        pairs = sorted((image_id, fit) for fit, used in self.by_fit.items() for image_id in used)
        return USED_LABELS.rows({"id": image_id, "fit": fit} for image_id, fit in pairs)

    @classmethod
    def from_table(cls, rows: pa.Table) -> QueryLabels:
        """From rows of `USED_LABELS`."""
        by_fit: dict[str, set[str]] = {}
        for image_id, fit in zip(rows["id"].to_pylist(), rows["fit"].to_pylist(), strict=True):
            by_fit.setdefault(fit, set()).add(image_id)
        return cls({fit: frozenset(used) for fit, used in by_fit.items()})


def record_query_labels(writer: Writer, fit: str, ids: Iterable[str]) -> Summary:
    """Record the test images whose labels `fit` used, as one of its own files.

    Args:
        writer: of the fit.
        fit: its receipt's name.
        ids: of the test images; none is recorded too.

    Returns:
        Figures for the fit's summary: how many, and the SHA-256 of the sorted ids.
    """
    used = sorted(set(ids))
    writer.table(QUERY_LABELS, pa.table({"id": pa.array(used, pa.string())}), fit=fit)
    return {"query_labels": len(used), "query_labels_digest": digest_of(used)}


def query_labels_used(store: Store, *names: str) -> QueryLabels:
    """The labels that these assets, and all that they were made from, used.

    Of a partitioned asset one partition is followed: all are made by the same code from inputs of the same kinds.

    Args:
        store: the store.
        names: of receipts.

    Raises:
        MissingInputError: an asset among them reads a solution table and has no record of the labels it used.
    """
    found: dict[str, frozenset[str]] = {}
    followed: set[str] = set()
    remaining = list(names)
    while remaining:
        name = remaining.pop()
        asset = name.partition("/")[0]
        if asset in followed:
            continue
        receipt = find_receipt(store, name)
        if receipt is None:  # an input from outside, as a file of weights
            continue
        followed.add(asset)
        remaining.extend(sorted(receipt.inputs))
        path = QUERY_LABELS.at(fit=name)
        if path in receipt.outputs:
            rows = pq.read_table(io.BytesIO(store.read(path)))
            used = frozenset(rows["id"].to_pylist())
            if used:
                found[name] = used
        elif read := sorted(SOLUTIONS & receipt.inputs.keys()):
            raise MissingInputError(
                f"{name} in {store.url} was made from {' and '.join(read)} and has no record of the query labels "
                f"it used ({path}): materialise {asset} again"
            )
    return QueryLabels(dict(sorted(found.items())))


def need_unused(ids: Iterable[str], used: Collection[str], figure: str) -> None:
    """Refuse to score images whose labels a fit used.

    Args:
        ids: of the images that are to be scored.
        used: of the images whose labels were used.
        figure: what is scored, for the message.

    Raises:
        MetricError: an image is in both.
    """
    both = sorted(frozenset(ids) & frozenset(used))
    if both:
        raise MetricError(
            f"{figure}: the labels of {len(both)} of its images were used by a fit, the first {both[0]}: "
            "score images that no fit has seen"
        )
