"""Schemas of local features, of verified pairs, of the calibration and of the cleaned set."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from glr_assets.source.base import Split
from glr_assets.tables import Column, Table

FEATURES_FILE = "features/{shard}.bin"
LOCAL_FEATURES = Table(
    "features/{shard}.parquet",
    "one row per image of the shard that is compared, in the order of landmarks that buckets are made of",
    (
        Column("id", pa.string(), "Image id"),
        Column("landmark_id", pa.int64(), "Train landmark"),
        Column("status", pa.string(), "extracted or failed"),
        Column("reason", pa.string(), "Why it failed; empty where it did not"),
        Column("stored_xxh3", pa.uint64(), "64-bit XXH3 of the stored image; absent where none is", nullable=True),
        Column("width", pa.int32(), "Pixels of that image; 0 where it failed"),
        Column("height", pa.int32(), "Pixels of that image; 0 where it failed"),
        Column("features", pa.int32(), "Features kept"),
        Column("offset", pa.int64(), "First byte in the shard's file of features"),
        Column("size", pa.int64(), "Bytes there"),
        Column("xxh3", pa.uint64(), "64-bit XXH3 of those bytes"),
    ),
    ("id",),
)


@dataclass(frozen=True)
class FeatureSet:
    """Where local features of one purpose are kept.

    Attributes:
        asset: has a partition a shard.
        split: whose shards they are.
        table: what is known of each image's features.
        file: path of the features themselves, by `{shard}`.
    """

    asset: str
    split: Split
    table: Table
    file: str


COMPARED_FEATURES = FeatureSet("local_features", "train", LOCAL_FEATURES, FEATURES_FILE)
VERIFIED_PAIRS = Table(
    "verification/{bucket}.parquet",
    "one row per pair of images of a landmark that was tried",
    (
        Column("landmark_id", pa.int64(), "Train landmark of both"),
        Column("first", pa.string(), "Image id, the smaller"),
        Column("second", pa.string(), "Image id, the larger"),
        Column("putative", pa.int32(), "Features of the two that are each other's nearest and near enough"),
        Column("inliers", pa.int32(), "Features that agree with one affine model, each of the two images once"),
        Column("threshold", pa.int32(), "Inliers wanted of a pair with so many putative matches"),
        Column("accepted", pa.bool_(), "Whether the pair shows the same thing"),
        Column("refusal", pa.string(), "The trap a pair of enough inliers is refused for; empty where none"),
        Column("connecting", pa.bool_(), "Whether one is among the other's likely partners, which tell its degree"),
        Column("model", pa.list_(pa.float32(), 6), "Affine model, first to second: a b c d e f, x' = ax + by + c"),
    ),
    ("first", "second"),
)
VERIFIED_IMAGES = Table(
    "verification/{bucket}_images.parquet",
    "one row per image that is compared",
    (
        Column("id", pa.string(), "Image id"),
        Column("landmark_id", pa.int64(), "Train landmark"),
        Column("stored_xxh3", pa.uint64(), "64-bit XXH3 of the stored image whose features were compared"),
        Column("reason", pa.string(), "Why it has no features; empty where it has"),
        Column("tried", pa.int32(), "Pairs it was tried in"),
        Column("verified", pa.bool_(), "Whether one of them was accepted"),
        Column("component", pa.int32(), "Group that accepted pairs connect it with, the largest 0", nullable=True),
        Column("degree", pa.int32(), "Likely partners that verify it, where the landmark has too many", nullable=True),
        Column("chosen", pa.bool_(), "Whether it stays: verified, and within component and number as the recipe says"),
    ),
    ("id",),
)
VERIFICATION_CALIBRATION = Table(
    "verification/calibration.parquet",
    "one row per range of putative matches and range of class sizes that have one threshold",
    (
        Column("putative_from", pa.int32(), "First number of putative matches of the range"),
        Column("images_from", pa.int32(), "Fewest compared images of a landmark that the threshold is for"),
        Column("images_to", pa.int32(), "Most of them"),
        Column("threshold", pa.int32(), "Inliers wanted"),
        Column("pairs", pa.int64(), "Pairs of different landmarks compared, of that range of putative matches"),
        Column("refused", pa.int64(), "Of those, pairs that reached the threshold and were refused as traps"),
        Column("accepted", pa.int64(), "Of those, pairs accepted"),
        Column("pair_rate", pa.float64(), "How likely such a pair is accepted, by the fitted tail"),
        Column("image_rate", pa.float64(), "How likely a foreign image stays in a class of `images_to`, by pair_rate"),
        Column("image_rate_most", pa.float64(), "Upper bound of that, 95 % (bootstrap over landmarks)"),
    ),
    ("putative_from", "images_from"),
)
DIFFERENT_PAIRS = Table(
    "verification/different_pairs.parquet",
    "one row per pair of images of different landmarks that the calibration compared",
    (
        Column("first", pa.string(), "Image id, the smaller"),
        Column("second", pa.string(), "Image id, the larger"),
        Column("first_landmark", pa.int64(), "Train landmark of the first"),
        Column("second_landmark", pa.int64(), "Train landmark of the second"),
        Column("half", pa.int8(), "Half of the landmarks that both belong to; absent where they differ", nullable=True),
        Column("putative", pa.int32(), "Putative matches"),
        Column("inliers", pa.int32(), "Inliers"),
        Column("refusal", pa.string(), "The trap it is refused for; empty where none"),
        Column("overlap", pa.bool_(), "Whether a pair of the two landmarks shows the same thing beyond doubt"),
    ),
    ("first", "second"),
)
FALSE_IMAGES = Table(
    "verification/false_images.parquet",
    "one row per class size that the thresholds are judged for, on landmarks that did not choose them",
    (
        Column("images", pa.int32(), "Compared images of a landmark"),
        Column("threshold_least", pa.int32(), "Inliers wanted, of the range and half that want the fewest"),
        Column("threshold_most", pa.int32(), "Inliers wanted, of the range and half that want the most"),
        Column("landmarks", pa.int32(), "Landmarks that have pairs, in the half that has fewer"),
        Column("pairs", pa.int64(), "Pairs of different landmarks judged, each by the threshold of the other half"),
        Column("accepted", pa.int64(), "Of those, pairs accepted"),
        Column("image_rate", pa.float64(), "How likely a foreign image stays in such a class, by those pairs' tail"),
        Column("image_rate_least", pa.float64(), "Lower bound of that, 95 % (bootstrap over landmarks)"),
    ),
    ("images",),
)
CLEANED_MANIFEST = Table(
    "manifests/cleaned_manifest.parquet",
    "one row per image of the set that is cleaned",
    (
        Column("id", pa.string(), "Image id"),
        Column("landmark_id", pa.int64(), "Train landmark"),
        Column("shard", pa.string(), "Train shard it is stored in"),
        Column("decision", pa.string(), "kept, dropped or failed"),
        Column("reason", pa.string(), "Why"),
        Column("partner", pa.string(), "The image that agrees with it most, of those tried", nullable=True),
        Column("inliers", pa.int32(), "Inliers of the two", nullable=True),
        Column("degree", pa.int32(), "Likely partners that verify it, where the landmark has too many", nullable=True),
        Column("component", pa.int32(), "Group of images connected by verified pairs, the largest 0", nullable=True),
    ),
    ("id",),
)
