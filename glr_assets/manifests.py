"""The curated sets that a recipe may name."""

from __future__ import annotations

import pyarrow as pa

from glr_assets.curation.kept import kept_rows
from glr_assets.curation.schemas import DEDUPED_MANIFEST, TRAIN_MANIFEST
from glr_assets.openimages.schemas import NON_LANDMARK_FILTER
from glr_assets.store import Store
from glr_assets.tables import Table
from glr_assets.verification.schemas import CLEANED_MANIFEST

MANIFESTS: dict[str, Table] = {
    "train_manifest": TRAIN_MANIFEST,
    "deduped_manifest": DEDUPED_MANIFEST,
    "cleaned_manifest": CLEANED_MANIFEST,
    "non_landmark_filter": NON_LANDMARK_FILTER,
}


def kept_images(store: Store, manifest: str) -> pa.Table:
    """`id, landmark_id, shard` of the images that a manifest keeps, sorted by id.

    Args:
        store: the store.
        manifest: a key of `MANIFESTS`.

    Raises:
        MissingInputError: it has not been made.
    """
    return kept_rows(store, MANIFESTS[manifest])
