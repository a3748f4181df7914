"""Schemas of what is told of a model's errors, and of its versions beside each other."""

from __future__ import annotations

import pyarrow as pa

from glr_assets.tables import Column, Table

_ASKED = Column("asked", pa.string(), "queries: test images; held-out: train images the embedder did not learn from")
_LANDMARK = Column("landmark_id", pa.int64(), "Landmark that is shown")
_NAME = Column("name", pa.string(), "Its published name, or its id")

CONFUSED_LANDMARKS = Table(
    "reports/confused_landmarks.parquet",
    "one row per landmark and the landmark it was taken for",
    (
        _ASKED,
        _LANDMARK,
        _NAME,
        Column("answer", pa.int64(), "Landmark that was answered"),
        Column("answer_name", pa.string(), "Its published name, or its id"),
        Column("images", pa.int64(), "Photographs of the one that were taken for the other"),
        Column("share", pa.float64(), "Of the photographs of the one that were asked"),
    ),
    ("asked", "landmark_id", "answer"),
)
LANDMARK_ACCURACY = Table(
    "reports/landmark_accuracy.parquet",
    "one row per landmark that was asked of",
    (
        _ASKED,
        _LANDMARK,
        _NAME,
        Column("train_images", pa.int64(), "Its images in the searched set; of held-out ones, those that trained"),
        Column("images", pa.int64(), "Photographs of it that were asked"),
        Column("right", pa.int64(), "Of these, told right"),
    ),
    ("asked", "landmark_id"),
)
MODEL_COMPARISON = Table(
    "reports/model_comparison.parquet",
    "one row per finished version of the embedder that the store holds",
    (
        Column("version", pa.string(), "Name of its folder under models/embedder"),
        Column("current", pa.bool_(), "Whether embeddings are made with it now"),
        Column("origin", pa.string(), "trained or brought in"),
        Column("differences", pa.string(), "JSON: recipe values and data versions in which the versions differ"),
        Column("data_versions", pa.string(), "JSON: digest of each thing it was made from"),
        Column("parameters", pa.int64(), "Numbers that its network learned"),
        Column("dimensions", pa.int64(), "Length of an embedding"),
        Column("training_images", pa.int64(), "Images that trained"),
        Column("landmarks", pa.int64(), "Landmarks that trained"),
        Column("held_out", pa.int64(), "Images held out of training"),
        Column("epochs", pa.int64(), "Passes over the training images; 0 where it was brought in"),
        Column("loss", pa.float64(), "Mean of the last epoch", nullable=True),
        Column("validation_top1", pa.float64(), "Share of held-out photographs told right", nullable=True),
        Column("gap", pa.float64(), "GAP of its submission; absent where it was not evaluated", nullable=True),
        Column("gap_landmarks_only", pa.float64(), "The same over queries that show a landmark", nullable=True),
        Column("top1", pa.float64(), "Share of the landmark queries told right", nullable=True),
        Column("map100", pa.float64(), "mAP@100 of its retrieval submission", nullable=True),
        Column("queries_digest", pa.string(), "Digest of the queries that it was scored by", nullable=True),
    ),
    ("version",),
)
