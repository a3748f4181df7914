"""All shards' indexes as one table, and what of the source is still to be ingested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.images.schemas import IMAGE_CATALOG, IMAGE_INDEX
from glr_assets.receipts import Made, Summary, Writer, find_receipt, make, need_receipt
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.source.layout import SPLITS
from glr_assets.store import Store
from glr_assets.tables import read_table

CODE_VERSION = "1"
REPEATED = "repeated id: stored from an earlier shard"


def ingested_shards(source: Source, store: Store) -> dict[Split, list[str]]:
    """The source's shards that have been ingested, by split."""
    return {
        split: [key for key in source.shards(split) if find_receipt(store, f"{split}_images/{key}")] for split in SPLITS
    }


def make_image_catalog(source: Source, store: Store) -> Made:
    """`image_catalog` of the shards that have been ingested; its summary names how many are missing."""
    shards = ingested_shards(source, store)
    missing = {f"{split}_shards_missing": len(source.shards(split)) - len(shards[split]) for split in SPLITS}

    def build(writer: Writer) -> Summary:
        catalog = joined(store, shards)
        writer.table(IMAGE_CATALOG, catalog)
        counts = Counter(zip(catalog["split"].to_pylist(), catalog["status"].to_pylist(), strict=True))
        figures = {
            f"{split}_{status}": counts[split, status] for split in SPLITS for status in ("stored", "skipped", "failed")
        }
        return {"rows": catalog.num_rows} | figures | missing

    inputs = {
        f"{split}_images/{key}": need_receipt(store, f"{split}_images/{key}").digest
        for split, keys in shards.items()
        for key in keys
    }
    return make(store, "image_catalog", inputs=inputs, parameters=missing, code_version=CODE_VERSION, build=build)


def joined(store: Store, shards: Mapping[Split, Sequence[str]]) -> pa.Table:
    """The indexes of these shards as `IMAGE_CATALOG`; of an id stored twice only the first counts as stored."""
    parts = []
    for split, keys in shards.items():
        for key in sorted(keys):
            index = read_table(store, IMAGE_INDEX, split=split, shard=key)
            places = [pa.array([value] * index.num_rows, pa.string()) for value in (split, key)]
            parts.append(pa.table(places + index.columns, names=["split", "shard", *index.schema.names]))
    catalog = pa.concat_tables([IMAGE_CATALOG.empty(), *(part.cast(IMAGE_CATALOG.schema) for part in parts)])
    return _without_repeats(catalog)


def _without_repeats(catalog: pa.Table) -> pa.Table:
    rows = pa.array(np.arange(catalog.num_rows))
    stored = catalog.append_column("row", rows).filter(pc.equal(catalog["status"], "stored"))
    firsts = stored.group_by(["split", "id"], use_threads=False).aggregate([("row", "min")])["row_min"]
    repeated = np.zeros(catalog.num_rows, bool)
    repeated[stored["row"].to_numpy()] = True
    repeated[firsts.to_numpy()] = False
    if not repeated.any():
        return catalog
    mask = pa.array(repeated)
    for name, value in (("status", "skipped"), ("reason", REPEATED)):
        column = pc.if_else(mask, pa.scalar(value), catalog[name])
        place = catalog.schema.get_field_index(name)
        catalog = catalog.set_column(place, catalog.schema.field(place), column)
    return catalog
