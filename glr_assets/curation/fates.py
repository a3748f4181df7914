"""What became of each image id at ingest, one row an id."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import fixed_width, places, read_parts, taken

MISSING_REASON = "in no ingested shard"
_COLUMNS = ["id", "shard", "status", "reason"]
_BEST_FIRST = ("stored", "failed", "skipped")


def fates(store: Store, split: Split, more: Sequence[str] = ("dhash",)) -> pa.Table:
    """`id, shard, status, reason` and `more` columns of the catalog, of every id the split's shards hold, sorted by id.

    Of an id with several members the stored one counts, else the first failed one.
    """
    rows = _of_split(store, split, [*_COLUMNS, *more])
    rows = rows.filter(pc.is_valid(rows["id"]))
    best = pc.index_in(rows["status"], pa.array(_BEST_FIRST)).to_numpy()
    return rows.take(pa.array(_first_by_id(fixed_width(rows["id"]), best)))


def stored_images(store: Store, split: Split, columns: Sequence[str]) -> pa.Table:
    """`id` and these columns of the catalog, of the split's stored images, sorted by id."""
    rows = _of_split(store, split, ["id", "status", *columns])
    stored = pc.and_(pc.equal(rows["status"], "stored"), pc.is_valid(rows["id"]))
    rows = rows.filter(stored).drop_columns(["status"])
    return rows.take(pa.array(np.argsort(fixed_width(rows["id"]), kind="stable")))


def _of_split(store: Store, split: Split, columns: Sequence[str]) -> pa.Table:
    names = list(columns)
    empty = pa.schema([IMAGE_CATALOG.schema.field(name).with_nullable(True) for name in names]).empty_table()
    return pa.concat_tables([empty, *read_parts(store, IMAGE_CATALOG, names, {"split": split})]).combine_chunks()


def _first_by_id(ids: npt.NDArray[np.bytes_], ranks: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Rows in the order of their ids, each once: of a repeated one the first row of the lowest rank."""
    order = np.argsort(ids, kind="stable")
    first = np.ones(len(ids), bool)
    first[1:] = ids[order][1:] != ids[order][:-1]
    if first.all():
        return order
    group = np.empty(len(ids), np.int64)
    group[order] = np.cumsum(first)
    return np.lexsort((ranks, group))[first]


def asked(wanted: pa.Table, found: pa.Table) -> pa.Table:
    """`wanted` (with a column `id`) with what became of each: status `missing` where no shard has it; sorted by id."""
    ids = fixed_width(wanted["id"])
    order = np.argsort(ids, kind="stable")
    joined = wanted.take(pa.array(order))
    fate = taken(found, places(ids[order], fixed_width(found["id"])))
    for name in found.column_names:
        if name == "id":
            continue
        column = fate[name]
        if name in {"status", "reason"}:
            column = pc.fill_null(column, "missing" if name == "status" else MISSING_REASON)
        joined = joined.append_column(name, column)
    return joined
