"""Schemas of the curated sets and of the ledger."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.tables import Column, Table

_MANIFEST_COLUMNS = (
    Column("id", pa.string(), "Image id"),
    Column("landmark_id", pa.int64(), "Train landmark"),
    Column("shard", pa.string(), "Train shard it is stored in; absent where it is not stored", nullable=True),
    Column("decision", pa.string(), "kept, dropped or failed (asked for, but not stored)"),
    Column("reason", pa.string(), "Why"),
)
_PARTNER_COLUMNS = (
    Column(
        "partner",
        pa.string(),
        "Of an image dropped for another: that one; of one less diverse: the kept one most like it",
        nullable=True,
    ),
    Column("distance", pa.int32(), "Bits of dhash between the two", nullable=True),
)
DEDUPED_MANIFEST = Table(
    "manifests/deduped_manifest.parquet",
    "one row per image of the competition's set",
    (*_MANIFEST_COLUMNS, *_PARTNER_COLUMNS),
    ("id",),
)
TRAIN_EXTRA = Table(
    "manifests/train_extra.parquet",
    "one row per image of the fill plan",
    (*_MANIFEST_COLUMNS, *_PARTNER_COLUMNS),
    ("id",),
)
FILL_SHORTFALL = Table(
    "manifests/fill_shortfall.parquet",
    "one row per landmark of the competition's set that stays below the fill threshold",
    (
        Column("landmark_id", pa.int64(), "Train landmark"),
        Column("from_competition", pa.int64(), "Images of the competition's set that train"),
        Column("extras", pa.int64(), "Extras that train"),
        Column("short", pa.int64(), "Images it lacks to the threshold"),
        Column("failed", pa.int64(), "Images of it that were asked for and are not stored, of either set"),
        Column("passed_over", pa.int64(), "Planned images that are stored and add nothing, or leak"),
        Column("unplanned", pa.int64(), "Further images in the full train set that the plan did not ask for"),
        Column("exhausted", pa.bool_(), "Whether there are none: no more reserves could fill it"),
    ),
    ("landmark_id",),
)
_NEAR_COLUMNS = (
    Column("distance", pa.int32(), "Bits of dhash between the two"),
    Column("same_file", pa.bool_(), "Whether both are of the same source bytes"),
    Column("near", pa.int64(), "Such partners the image has in all; the nearest ten at most have rows"),
)
LABEL_CONFLICTS = Table(
    "manifests/label_conflicts.parquet",
    "one row per stored train image and near-duplicate of it that is of another landmark, from either side",
    (
        Column("id", pa.string(), "Image id"),
        Column("landmark_id", pa.int64(), "Its train landmark"),
        Column("partner", pa.string(), "The image of another landmark"),
        Column("partner_landmark_id", pa.int64(), "The partner's train landmark"),
        *_NEAR_COLUMNS,
    ),
    ("id", "partner"),
)
TRAIN_TEST_LEAKS = Table(
    "manifests/train_test_leaks.parquet",
    "one row per stored train image and near-duplicate of it in test or index",
    (
        Column("id", pa.string(), "Train image id"),
        Column("landmark_id", pa.int64(), "Its train landmark; absent where the train table has it not", nullable=True),
        Column("split", pa.string(), "Where the partner is: test or index"),
        Column("partner", pa.string(), "Image id in that split"),
        *_NEAR_COLUMNS,
    ),
    ("id", "split", "partner"),
)
TRAIN_MANIFEST = Table(
    "manifests/train_manifest.parquet",
    "one row per image that trains: the deduped set and the extras",
    (*_MANIFEST_COLUMNS, Column("origin", pa.string(), "competition or extra")),
    ("id",),
)


def decision_counts(manifest: pa.Table) -> dict[str, int]:
    """How many rows of a manifest were kept, dropped and failed."""
    decisions = manifest["decision"]
    return {word: pc.sum(pc.equal(decisions, word)).as_py() or 0 for word in ("kept", "dropped", "failed")}
