"""Schemas of the image tables."""

from __future__ import annotations

import pyarrow as pa

from glr_assets.tables import Column, Table

STORED_TAR = "images/{split}/{shard}.tar"

_MEMBER_COLUMNS = (
    Column("id", pa.string(), "Image id; absent where the member's name holds none", nullable=True),
    Column("landmark_id", pa.int64(), "Train landmark; absent outside the train tables", nullable=True),
    Column("status", pa.string(), "stored, skipped (not wanted) or failed"),
    Column("reason", pa.string(), "Why it was skipped or failed; empty where it is stored"),
    Column("member", pa.string(), "Name in the source shard, as it stands there"),
    Column("kind", pa.string(), "file, directory, or what else a TAR can hold"),
    Column("source_path", pa.string(), "File of the source that holds its bytes"),
    Column("source_offset", pa.int64(), "First byte in that file"),
    Column("source_size", pa.int64(), "Bytes in that file"),
    Column("source_xxh3", pa.uint64(), "64-bit XXH3 of those bytes; absent where they were not read", nullable=True),
    Column("source_format", pa.string(), "Format of the source image, as JPEG", nullable=True),
    Column("source_width", pa.int32(), "Pixels, turned upright", nullable=True),
    Column("source_height", pa.int32(), "Pixels, turned upright", nullable=True),
    Column("stored_offset", pa.int64(), "First byte in the stored TAR", nullable=True),
    Column("stored_size", pa.int64(), "Bytes in the stored TAR", nullable=True),
    Column("stored_xxh3", pa.uint64(), "64-bit XXH3 of those bytes", nullable=True),
    Column("pixel_path", pa.string(), "How its pixels were made, with the version of that way", nullable=True),
    Column("width", pa.int32(), "Pixels as stored", nullable=True),
    Column("height", pa.int32(), "Pixels as stored", nullable=True),
    Column("sharpness", pa.float32(), "Variance of the Laplacian of the luma before encoding", nullable=True),
    Column("dhash", pa.uint64(), "64-bit difference hash of the pixels before encoding (dhash)", nullable=True),
    Column("dhash_path", pa.string(), "How it was computed, with the version of that way", nullable=True),
)
IMAGE_INDEX = Table(
    "images/{split}/{shard}.parquet",
    "one row per member of the source shard, wanted or not",
    _MEMBER_COLUMNS,
    ("source_path", "source_offset", "member"),
)
IMAGE_LOCATIONS = Table(
    "metadata/image_locations.parquet",
    "one row per stored image of train, index and test: where its bytes lie, found by id through a few row groups",
    (
        Column("split", pa.string(), "train, index or test"),
        Column("id", pa.string(), "Image id"),
        Column("shard", pa.string(), "Key of the shard in whose stored TAR it lies"),
        Column("stored_offset", pa.int64(), "First byte in the stored TAR"),
        Column("stored_size", pa.int64(), "Bytes in the stored TAR"),
        Column("stored_xxh3", pa.uint64(), "64-bit XXH3 of those bytes", nullable=True),
    ),
    ("split", "id"),
)
IMAGE_CATALOG = Table(
    "metadata/image_catalog.parquet",
    "one row per member of any ingested shard of train, index and test",
    (
        Column("split", pa.string(), "train, index or test"),
        Column("shard", pa.string(), "Key of the shard, which is its partition"),
        *_MEMBER_COLUMNS,
    ),
    ("split", "shard", "source_path", "source_offset", "member"),
    parts=("split", "shard"),
)
