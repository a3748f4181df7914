"""The names inside a bucket shaped like Google Landmarks v2, as published at `s3://google-landmark`.

What belongs here: where each file lies and what its columns are called. Reading and writing belong elsewhere.
"""

from __future__ import annotations

from typing import Final, Literal

from glr_assets.source.base import Split, TableName

Usage = Literal["Public", "Private", "Ignored"]

SPLITS: Final[tuple[Split, ...]] = ("train", "index", "test")

TABLE_PATHS: Final[dict[TableName, str]] = {
    "train": "metadata/train.csv",
    "train_clean": "metadata/train_clean.csv",
    "train_attribution": "metadata/train_attribution.csv",
    "train_label_to_category": "metadata/train_label_to_category.csv",
    "train_label_to_hierarchical": "metadata/train_label_to_hierarchical.csv",
    "index": "metadata/index.csv",
    "index_image_to_landmark": "metadata/index_image_to_landmark.csv",
    "test": "metadata/test.csv",
    "recognition_solution": "ground_truth/recognition_solution_v2.1.csv",
    "retrieval_solution": "ground_truth/retrieval_solution_v2.1.csv",
}

TABLE_COLUMNS: Final[dict[TableName, tuple[str, ...]]] = {
    "train": ("id", "url", "landmark_id"),
    "train_clean": ("landmark_id", "images"),
    "train_attribution": ("id", "url", "author", "license", "title"),
    "train_label_to_category": ("landmark_id", "category"),
    "train_label_to_hierarchical": (
        "landmark_id",
        "category",
        "supercategory",
        "hierarchical_label",
        "natural_or_human_made",
    ),
    "index": ("id",),
    "index_image_to_landmark": ("id", "landmark_id"),
    "test": ("id",),
    "recognition_solution": ("id", "landmarks", "Usage"),
    "retrieval_solution": ("id", "images", "Usage"),
}

WRITTEN_COLUMNS: Final[dict[TableName, tuple[str, ...]]] = TABLE_COLUMNS | {
    "index": ("id", "url"),
    "test": ("id", "url"),
}
"""The columns of a bucket that is written here: where an image of index or test comes from is told too."""

CATEGORY_URL: Final = "http://commons.wikimedia.org/wiki/Category:"


def shard_path(split: str, key: str) -> str:
    """The TAR of the shard `key`: `train/images_000.tar`."""
    return f"{split}/images_{key}.tar"


def md5_path(split: str, key: str) -> str:
    """The file that publishes the MD5 of a shard: `md5sum/train/md5.images_000.txt`."""
    return f"md5sum/{split}/md5.images_{key}.txt"


def member_name(image_id: str) -> str:
    """The name of an image inside its shard: `a/b/c/abc0123456789def.jpg`."""
    return f"{image_id[0]}/{image_id[1]}/{image_id[2]}/{image_id}.jpg"
