"""Schema of the ledger."""

from __future__ import annotations

import pyarrow as pa

from glr_assets.tables import Column, Table

DECISION = pa.struct(
    {
        "asset": pa.string(),
        "version": pa.string(),
        "decision": pa.string(),
        "reason": pa.string(),
        "partner": pa.string(),
        "distance": pa.int32(),
    }
)
DECISIONS = pa.list_(DECISION)
IMAGE_LEDGER = Table(
    "manifests/image_ledger.parquet",
    "one row per image id any table or shard names, by split",
    (
        Column("id", pa.string(), "Image id"),
        Column("split", pa.string(), "train, index or test"),
        Column("landmark_id", pa.int64(), "Train landmark; absent outside the train tables", nullable=True),
        Column("shard", pa.string(), "Shard it was found in; absent where no ingested shard has it", nullable=True),
        Column("status", pa.string(), "stored, skipped or failed by ingest; missing = no ingested shard has it"),
        Column("reason", pa.string(), "Why it is not stored; empty where it is"),
        Column("planned", pa.string(), "competition, extra or reserve; absent where not planned", nullable=True),
        Column("decision", pa.string(), "kept, dropped or failed by curation; absent where not asked", nullable=True),
        Column("decision_reason", pa.string(), "Why curation decided so", nullable=True),
        Column("partner", pa.string(), "The image that made this one superfluous", nullable=True),
        Column("distance", pa.int32(), "Bits of dhash between the two", nullable=True),
        Column("decisions", DECISIONS, "Every decision on it in order, by asset and version of the asset's content"),
        Column("author", pa.string(), "Who took it, where that is published", nullable=True),
        Column("license", pa.string(), "Licence it may be used under, where that is published", nullable=True),
        Column("in_train", pa.bool_(), "Whether it is in train_manifest"),
        Column("in_cleaned", pa.bool_(), "Whether cleaned_manifest, where it has been made, keeps it"),
        Column("in_filtered", pa.bool_(), "Whether non_landmark_filter, where it has been made, keeps it"),
    ),
    ("split", "id"),
)
