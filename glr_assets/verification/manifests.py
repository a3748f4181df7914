"""The curated sets that a recipe may name: what each keeps."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.schemas import DEDUPED_MANIFEST, TRAIN_MANIFEST
from glr_assets.store import Store
from glr_assets.tables import Table, read_table
from glr_assets.verification.schemas import CLEANED_MANIFEST

MANIFESTS: dict[str, Table] = {
    "train_manifest": TRAIN_MANIFEST,
    "deduped_manifest": DEDUPED_MANIFEST,
    "cleaned_manifest": CLEANED_MANIFEST,
}


def kept_images(store: Store, manifest: str) -> pa.Table:
    """`id, landmark_id, shard` of the images that a manifest keeps, sorted by id.

    Args:
        store: the store.
        manifest: a key of `MANIFESTS`.
    """
    rows = read_table(store, MANIFESTS[manifest], ["id", "landmark_id", "shard", "decision"])
    return rows.filter(pc.equal(rows["decision"], "kept")).drop_columns("decision").sort_by("id")
