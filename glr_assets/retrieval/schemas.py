"""Schemas of the embeddings and of the index."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from glr_assets.tables import Column, Table
from glr_assets.verification.schemas import LOCAL_FEATURES, FeatureSet

_ID = Column("id", pa.string(), "Image id")
_ROW = Column("row", pa.int64(), "Row of its embedding, L2-normalised float32, in the .npy file beside this table")
_DIGEST = Column("stored_xxh3", pa.uint64(), "64-bit XXH3 of the stored image; absent where unknown", nullable=True)

EMBEDDINGS = Table(
    "embeddings/{split}/{shard}.parquet", "one row per stored image of the shard", (_ID, _ROW, _DIGEST), ("id",)
)
NON_LANDMARK_EMBEDDINGS = Table(
    "embeddings/non_landmark_embeddings.parquet",
    "one row per image of no landmark: test images known to be, of the recipe's Usage, and filtered train images",
    (_ID, Column("split", pa.string(), "test, or train of one that was filtered"), _ROW, _DIGEST),
    ("id",),
)
EMBEDDING_VECTORS = "embeddings/{split}/{shard}.npy"
"""the vectors of a table of `EMBEDDINGS`, float32 [rows, dimensions]"""
NON_LANDMARK_VECTORS = "embeddings/non_landmark_embeddings.npy"
"""those of `NON_LANDMARK_EMBEDDINGS`"""
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
INDEX_INFO = "index/faiss_index.json"
ROWS_FILE = "index/rows.npy"
"""what is searched, float32 [n, D + 1] of v and -B, where the faiss index holds it not as it is"""
MODEL_FILE = "index/recognition_model.json"
RECOGNITION_SAMPLES = Table(
    "index/recognition_samples.parquet",
    "one row per photograph whose answer is known and that the recognition model was fitted on",
    (
        _ID,
        Column("split", pa.string(), "train (held out of the embedder's training) or test (shows no landmark)"),
        Column("landmark_id", pa.int64(), "What it shows; absent where no landmark", nullable=True),
        Column("hidden", pa.bool_(), "Whether that landmark was left out of the index, so that no answer is right"),
        Column("answer", pa.int64(), "Landmark answered without the image itself; absent where none", nullable=True),
        Column("right", pa.bool_(), "Whether the answer is right"),
        Column("probability", pa.float64(), "That the answer is right, by a model that was not fitted on it"),
    ),
    ("id", "hidden"),
)

SEARCH_FEATURES = replace(
    LOCAL_FEATURES,
    path="features/search/{shard}.parquet",
    grain="one row per image of the shard that is searched and that cleaning does not compare",
)
SEARCHED_FEATURES = FeatureSet("search_features", "train", SEARCH_FEATURES, "features/search/{shard}.bin")
ASKED_FEATURES = replace(
    LOCAL_FEATURES, path="features/test/{shard}.parquet", grain="one row per stored image of the shard"
)
TEST_FEATURES = FeatureSet("test_features", "test", ASKED_FEATURES, "features/test/{shard}.bin")
ANSWERS = Table(
    "submissions/answers.parquet",
    "one row per landmark that a test image may show, the five likeliest of each",
    (
        _ID,
        Column("rank", pa.int32(), "1 is the submission's answer"),
        Column("landmark_id", pa.int64(), "Train landmark"),
        Column("score", pa.float64(), "By which answers are ranked: see the recognition model"),
        Column("probability", pa.float64(), "That this is the landmark"),
        Column("neighbours", pa.float64(), "Support of its images among the first neighbours", nullable=True),
        Column(
            "best", pa.float64(), "Best cosine of its images among the candidates, less B where penalties are fixed"
        ),
        Column(
            "class_logit",
            pa.float64(),
            "Cosine to its nearest centre in the embedder's head; absent where there is none, or it is not asked for",
            nullable=True,
        ),
        Column("penalty", pa.float64(), "C: mean of the query's best cosines to non-landmark images"),
        Column(
            "inliers",
            pa.list_(pa.int32()),
            "Local features that agree, of its images that agree most; empty where none are compared",
        ),
    ),
    ("id", "rank"),
)
