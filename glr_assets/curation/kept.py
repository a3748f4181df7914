"""What a curated set keeps."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.store import Store
from glr_assets.tables import Table, read_table


def kept_rows(store: Store, manifest: Table) -> pa.Table:
    """`id, landmark_id, shard` of the images that a manifest keeps, sorted by id.

    Args:
        store: the store.
        manifest: a table with these columns and `decision`.

    Raises:
        MissingInputError: it has not been made.
    """
    rows = read_table(store, manifest, ["id", "landmark_id", "shard", "decision"])
    return rows.filter(pc.equal(rows["decision"], "kept")).drop_columns("decision").sort_by("id")
