"""Schemas of the grouped images, and of what models answer to images that they did not learn from."""

from __future__ import annotations

import pyarrow as pa

from glr_assets.tables import Column, Table

TRAINING_GROUPS = Table(
    "manifests/training_groups.parquet",
    "one row per image that the training's manifest keeps",
    (
        Column("id", pa.string(), "Image id"),
        Column("landmark_id", pa.int64(), "Train landmark"),
        Column("shard", pa.string(), "Train shard it is stored in"),
        Column("group", pa.string(), "Group of its landmark; absent where the image is in none", nullable=True),
        Column("fold", pa.string(), "train, calibration or validation; absent where it is in no group", nullable=True),
        Column("reason", pa.string(), "Why it is in no group; empty where it is in one"),
    ),
    ("id",),
)
GROUP_CALIBRATION = Table(
    "reports/group_calibration.parquet",
    "one row per image that every group's classifier was shown: held out of training, or of no landmark",
    (
        Column("id", pa.string(), "Image id"),
        Column("fold", pa.string(), "calibration: its outcome fitted the calibration; validation: it did not"),
        Column("landmark_id", pa.int64(), "Train landmark; absent where it shows none", nullable=True),
        Column("group", pa.string(), "Group of that landmark; absent where it shows none", nullable=True),
        Column("answer", pa.int64(), "Landmark of the highest calibrated probability"),
        Column("probability", pa.float64(), "That probability"),
        Column("none", pa.float64(), "Probability that no group's answer is right"),
        Column("rejected", pa.bool_(), "Whether the answer is less probable than the recipe asks for"),
        Column("raw_answer", pa.int64(), "Landmark of the highest softmax of any group, as it is"),
        Column("raw_softmax", pa.float64(), "That softmax"),
    ),
    ("id",),
)
HELD_OUT_ANSWERS = Table(
    "models/embedder/{version}/held_out.parquet",
    "one row per held-out photograph that the trained embedder was asked of",
    (
        Column("id", pa.string(), "Train image that was held out of training"),
        Column("landmark_id", pa.int64(), "Landmark it shows"),
        Column("train_images", pa.int64(), "Images of that landmark that trained"),
        Column("answer", pa.int64(), "Landmark of the nearest photograph that trained"),
        Column("nearest", pa.string(), "That photograph"),
        Column("cosine", pa.float32(), "Its cosine, to four decimals"),
        Column("own_nearest", pa.string(), "The nearest photograph of the landmark it shows"),
        Column("own_cosine", pa.float32(), "Its cosine, to four decimals"),
    ),
    ("id",),
)
