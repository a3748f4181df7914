"""Schemas of the planning tables."""

from __future__ import annotations

import pyarrow as pa

from glr_assets.tables import Column, Table

CLASS_COUNTS = Table(
    "metadata/class_counts.parquet",
    "one row per landmark of the full train set",
    (
        Column("landmark_id", pa.int64(), "Landmark"),
        Column("train_images", pa.int64(), "Images in the full train set"),
        Column("competition_images", pa.int64(), "Images in the competition's set; 0 = not one of its classes"),
        Column("extra_images", pa.int64(), "Images of the full set that are not in the competition's"),
    ),
    ("landmark_id",),
)
FILL_POTENTIAL = Table(
    "metadata/fill_potential.parquet",
    "one row per threshold, 0 to 100 images a class",
    (
        Column("threshold", pa.int64(), "Classes with fewer images are filled up to it"),
        Column("classes", pa.int64(), "Competition classes below it"),
        Column("potential", pa.int64(), "Images it would take to fill them all"),
        Column("supply", pa.int64(), "Images of these that the full train set has"),
        Column("exhausted", pa.int64(), "Classes that stay below it with all the images they have"),
    ),
    ("threshold",),
)
FILL_PLAN = Table(
    "manifests/fill_plan.parquet",
    "one row per train image planned as an extra, or held in reserve for a corrupt one",
    (
        Column("id", pa.string(), "Image id"),
        Column("landmark_id", pa.int64(), "Landmark it fills"),
        Column("rank", pa.int64(), "Its place in the class's seeded order, from 0"),
        Column("role", pa.string(), "extra, or reserve: used when an image before it proves corrupt"),
    ),
    ("id",),
)
