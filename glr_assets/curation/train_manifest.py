"""The set that trains: what dedupe kept and what filling added."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.schemas import DEDUPED_MANIFEST, TRAIN_EXTRA, TRAIN_MANIFEST
from glr_assets.errors import TableError
from glr_assets.plots import class_histogram
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.store import Store
from glr_assets.tables import read_table

CODE_VERSION = "1"
PICTURE = "reports/train_manifest.png"


def join_sets(deduped: pa.Table, extra: pa.Table) -> pa.Table:
    """The kept rows of `DEDUPED_MANIFEST` and `TRAIN_EXTRA` as `TRAIN_MANIFEST`.

    Raises:
        TableError: an image is in both.
    """
    names = ["id", "landmark_id", "shard", "decision", "reason"]
    parts = []
    for rows, origin in ((deduped, "competition"), (extra, "extra")):
        kept = rows.filter(pc.equal(rows["decision"], "kept")).select(names)
        parts.append(kept.append_column("origin", pa.array([origin] * kept.num_rows, pa.string())))
    both = pc.is_in(parts[1]["id"], parts[0]["id"].combine_chunks())
    if pc.any(both).as_py():
        first = parts[1].filter(both)["id"][0].as_py()
        raise TableError(f"train_manifest: image {first} is both of the competition's set and an extra; plan again")
    return pa.concat_tables(parts).sort_by("id")


def make_train_manifest(store: Store) -> Made:
    """`train_manifest`, with a histogram of class sizes before and after."""

    def build(writer: Writer) -> Summary:
        deduped = read_table(store, DEDUPED_MANIFEST)
        manifest = join_sets(deduped, read_table(store, TRAIN_EXTRA))
        writer.table(TRAIN_MANIFEST, manifest)
        before, after = (_class_sizes(table) for table in (deduped, manifest))
        writer.write(PICTURE, class_histogram({"competition": before, "train manifest": after}))
        extras = pc.sum(pc.equal(manifest["origin"], "extra")).as_py() or 0
        return {
            "rows": manifest.num_rows,
            "from_competition": manifest.num_rows - extras,
            "extras": extras,
            "classes": len(after),
        }

    inputs = need_receipts(store, "deduped_manifest", "train_extra")
    return make(store, "train_manifest", inputs=inputs, parameters={}, code_version=CODE_VERSION, build=build)


def _class_sizes(rows: pa.Table) -> np.ndarray:
    return np.unique(rows["landmark_id"].to_numpy(), return_counts=True)[1]
