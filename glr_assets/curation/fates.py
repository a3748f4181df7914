"""What became of each image id at ingest, one row an id."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import read_table

MISSING_REASON = "in no ingested shard"
_COLUMNS = ["id", "shard", "status", "reason", "dhash"]
_BEST_FIRST = ("stored", "failed", "skipped")


def fates(store: Store, split: Split) -> pa.Table:
    """`id, shard, status, reason, dhash` of every id the split's shards hold.

    Of an id with several members the stored one counts, else the first failed one.
    """
    catalog = read_table(store, IMAGE_CATALOG, ["split", *_COLUMNS])
    rows = catalog.filter(pc.and_(pc.equal(catalog["split"], split), pc.is_valid(catalog["id"]))).select(_COLUMNS)
    rows = rows.append_column("best", pc.index_in(rows["status"], pa.array(_BEST_FIRST)))
    rows = rows.append_column("row", pa.array(np.arange(rows.num_rows)))
    rows = rows.sort_by([("id", "ascending"), ("best", "ascending"), ("row", "ascending")])
    firsts = rows.append_column("place", pa.array(np.arange(rows.num_rows))).group_by("id", use_threads=False)
    places = firsts.aggregate([("place", "min")])["place_min"]
    return rows.take(places).select(_COLUMNS)


def asked(wanted: pa.Table, found: pa.Table) -> pa.Table:
    """`wanted` (with a column `id`) with what became of each: status `missing` where no shard has it; sorted by id."""
    joined = wanted.join(found, "id", use_threads=False).sort_by("id")
    for name, value in (("status", "missing"), ("reason", MISSING_REASON)):
        place = joined.schema.get_field_index(name)
        joined = joined.set_column(place, name, pc.fill_null(joined[name], value))
    return joined
