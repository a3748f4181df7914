"""Schemas of the embeddings and of the index."""

from __future__ import annotations

import pyarrow as pa

from glr_assets.tables import Column, Table

_ID = Column("id", pa.string(), "Image id")
_VECTOR = Column("vector", pa.list_(pa.float32()), "Embedding, L2-normalised; as long as the embedder's dimensions")

EMBEDDINGS = Table(
    "embeddings/{split}/{shard}.parquet", "one row per stored image of the shard", (_ID, _VECTOR), ("id",)
)
NON_LANDMARK_EMBEDDINGS = Table(
    "embeddings/non_landmark_embeddings.parquet",
    "one row per test image known to show no landmark, of the recipe's Usage",
    (_ID, _VECTOR),
    ("id",),
)
FAISS_INDEX = Table(
    "index/faiss_index.parquet",
    "one row per train image that is searched, in the order of the faiss index",
    (
        _ID,
        Column("landmark_id", pa.int64(), "Train landmark"),
        Column("penalty", pa.float32(), "B: mean of its best cosines to non-landmark images"),
    ),
    ("id",),
)
INDEX_FILE = "index/faiss_index.faiss"
CALIBRATION_FILE = "index/calibration.json"
