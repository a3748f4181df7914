"""Schemas of the grouped images and of the groups' answers to images that none of them learned from."""

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
