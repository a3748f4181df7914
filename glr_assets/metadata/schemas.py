"""Schemas of the metadata tables."""

from __future__ import annotations

import pyarrow as pa

from glr_assets.tables import Column, Table

_ID = Column("id", pa.string(), "Image id, always a string: some are all digits, some look like 1e5")
_LANDMARK = Column("landmark_id", pa.int64(), "Landmark in the numbering of the train images")
_URL = Column(
    "url",
    pa.string(),
    "Where the photograph was published; of a team's own photograph its path, percent-encoded; absent where not told",
    nullable=True,
)
_USAGE = Column("usage", pa.string(), "Public, Private or Ignored; Ignored queries are not scored")

TRAIN_METADATA = Table(
    "metadata/train_metadata.parquet",
    "one row per image of the full train set",
    (_ID, _URL, _LANDMARK),
    ("id",),
)
TRAIN_ATTRIBUTION = Table(
    "metadata/train_attribution.parquet",
    "one row per train image whose author and licence are published",
    (
        _ID,
        Column("url", pa.string(), "Page of the photograph; empty where none is known"),
        Column("author", pa.string(), "Who took it; empty where that is not known"),
        Column("license", pa.string(), "Terms it may be used under; empty where they are not known"),
        Column("title", pa.string(), "Title of the file"),
    ),
    ("id",),
)
LANDMARK_LABELS = Table(
    "metadata/landmark_labels.parquet",
    "one row per landmark whose name is published",
    (
        _LANDMARK,
        Column("name", pa.string(), "Readable name, from the category"),
        Column("category", pa.string(), "URL of the Wikimedia Commons category, or a plain name where there is none"),
        Column("supercategory", pa.string(), "Coarse kind, as church or bridge", nullable=True),
        Column("hierarchical_label", pa.string(), "Kind in the published hierarchy", nullable=True),
        Column("natural_or_human_made", pa.string(), "natural or human-made", nullable=True),
    ),
    ("landmark_id",),
)
COMPETITION_TRAIN = Table(
    "metadata/competition_train.parquet",
    "one row per image of the competition's train set (train_clean)",
    (_ID, _LANDMARK),
    ("id",),
)
INDEX_METADATA = Table(
    "metadata/index_metadata.parquet",
    "one row per image of the retrieval index",
    (
        _ID,
        Column(
            "index_landmark_id",
            pa.int64(),
            "Landmark in the numbering of the index images, which is not that of train",
            nullable=True,
        ),
        _URL,
    ),
    ("id",),
)
TEST_METADATA = Table("metadata/test_metadata.parquet", "one row per test image", (_ID, _URL), ("id",))
RECOGNITION_SOLUTION = Table(
    "metadata/recognition_solution.parquet",
    "one row per test image with a published answer",
    (
        _ID,
        Column("landmark_ids", pa.list_(pa.int64()), "Train landmarks it shows; empty = none"),
        _USAGE,
    ),
    ("id",),
)
RETRIEVAL_SOLUTION = Table(
    "metadata/retrieval_solution.parquet",
    "one row per test image with published relevant index images",
    (
        _ID,
        Column("index_ids", pa.list_(pa.string()), "Index images that show the same; empty where ignored"),
        _USAGE,
    ),
    ("id",),
)
