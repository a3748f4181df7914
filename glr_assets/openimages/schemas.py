"""Schemas of the Open Images tables."""

from __future__ import annotations

import pyarrow as pa

from glr_assets.tables import Column, Table

FLAGS = ("is_occluded", "is_truncated", "is_group_of", "is_depiction", "is_inside")
_IMAGE_ID = Column("image_id", pa.string(), "ImageID as published")
_BOX = Column("box", pa.int32(), "Number of the box among those of its image, from 0")
_LABEL = Column("label", pa.string(), "LabelName as published, as /m/01g317")
_CATEGORY = Column("category", pa.string(), "Display name of the label")
_SUBSET = Column("subset", pa.string(), "train, validation or test, as published")
_RIGHTS = (
    Column("url", pa.string(), "Where the original was published", nullable=True),
    Column("landing_url", pa.string(), "Page of the photograph", nullable=True),
    Column("author", pa.string(), "Who took it", nullable=True),
    Column("license", pa.string(), "Licence it may be used under", nullable=True),
    Column("title", pa.string(), "Title of the photograph", nullable=True),
)
_ROTATION = Column(
    "rotation", pa.int16(), "Degrees counterclockwise by which image and boxes are upright", nullable=True
)
_PUBLISHED = (
    Column("original_md5", pa.string(), "MD5 of the original as published, in base64", nullable=True),
    Column("original_size", pa.int64(), "Bytes of the original as published", nullable=True),
    _ROTATION,
)

OPENIMAGES_ANNOTATIONS = Table(
    "metadata/openimages_annotations.parquet",
    "one row per box of the wanted categories, usable or not",
    (
        _IMAGE_ID,
        _BOX,
        _LABEL,
        _CATEGORY,
        _SUBSET,
        Column("source", pa.string(), "How the box was drawn, as xclick"),
        Column("confidence", pa.float64(), "As published; 1 of boxes drawn by people", nullable=True),
        Column("xmin", pa.float64(), "Left edge, as a share of the width", nullable=True),
        Column("xmax", pa.float64(), "Right edge, as a share of the width", nullable=True),
        Column("ymin", pa.float64(), "Upper edge, as a share of the height", nullable=True),
        Column("ymax", pa.float64(), "Lower edge, as a share of the height", nullable=True),
        *(Column(flag, pa.int8(), "1, 0, or -1 where nobody told", nullable=True) for flag in FLAGS),
        Column("copies", pa.int32(), "How often the published row stands word for word"),
        Column("status", pa.string(), "usable, skipped (beyond most_boxes) or refused"),
        Column("reason", pa.string(), "Why it is skipped or refused; empty where it is usable"),
        *_RIGHTS,
        *_PUBLISHED,
    ),
    ("image_id", "box"),
)
STORED_IMAGES = "openimages/images/{part}.tar"
OPENIMAGES_IMAGES = Table(
    "openimages/images/{part}.parquet",
    "one row per image of the part that has a usable box, obtained or missing",
    (
        _IMAGE_ID,
        _SUBSET,
        Column("status", pa.string(), "obtained or missing"),
        Column("reason", pa.string(), "Why it is missing; empty where it is obtained"),
        Column("origin", pa.string(), "root or fetched; empty where nothing was found"),
        Column("md5", pa.string(), "MD5 of the bytes found, in base64", nullable=True),
        Column("md5_check", pa.string(), "What the published MD5 says of these bytes", nullable=True),
        Column("size", pa.int64(), "Bytes that were read of it", nullable=True),
        Column("mode", pa.string(), "How its pixels are told, as RGB, L or CMYK", nullable=True),
        Column("width", pa.int32(), "Pixels as stored, not turned", nullable=True),
        Column("height", pa.int32(), "Pixels as stored, not turned", nullable=True),
        Column("stored_offset", pa.int64(), "First byte in the stored TAR", nullable=True),
        Column("stored_size", pa.int64(), "Bytes in the stored TAR", nullable=True),
        Column("stored_xxh3", pa.uint64(), "64-bit XXH3 of those bytes", nullable=True),
        *_RIGHTS,
        *_PUBLISHED,
    ),
    ("image_id",),
)
OPENIMAGES_CLASSIFIER_DATASET = Table(
    "manifests/openimages_classifier_dataset.parquet",
    "one row per box of the annotations: where its crop lies, or why there is none",
    (
        _IMAGE_ID,
        _BOX,
        _LABEL,
        _CATEGORY,
        _SUBSET,
        Column("class", pa.int32(), "Place of the category among those of the recipe, from 0"),
        Column("split", pa.string(), "train or held_out; one for all boxes of an image", nullable=True),
        Column("decision", pa.string(), "kept or dropped"),
        Column("reason", pa.string(), "Why it is dropped; empty where it is kept"),
        Column("file", pa.string(), "File of the crop, less its ending", nullable=True),
        Column("row", pa.int32(), "Row of the crop in that file", nullable=True),
        Column("left", pa.int32(), "First column of the crop, in pixels of the stored image", nullable=True),
        Column("top", pa.int32(), "First row of the crop", nullable=True),
        Column("right", pa.int32(), "Column after its last", nullable=True),
        Column("bottom", pa.int32(), "Row after its last", nullable=True),
        _ROTATION,
        *(Column(flag, pa.bool_(), f"{flag} as published", nullable=True) for flag in FLAGS),
    ),
    ("image_id", "box"),
)


def crops_table(size: int) -> Table:
    """A file of crops of `size` pixels: one row per kept box, with its pixels."""
    return Table(
        "openimages/classifier_dataset/{file}.parquet",
        "one row per kept box",
        (
            _IMAGE_ID,
            _BOX,
            _LABEL,
            _CATEGORY,
            Column("class", pa.int32(), "Place of the category among those of the recipe, from 0"),
            *(Column(flag, pa.bool_(), f"{flag} as published") for flag in FLAGS),
            Column("author", pa.string(), "Who took the photograph", nullable=True),
            Column("license", pa.string(), "Licence it may be used under", nullable=True),
            Column("image", pa.fixed_shape_tensor(pa.uint8(), (size, size, 3)), "RGB, rows from the top"),
        ),
        ("image_id", "box"),
    )


NON_LANDMARK_VALIDATION = Table(
    "openimages/non_landmark_validation.parquet",
    "one row per held-out picture that the classifier of non-landmarks was shown",
    (
        Column("picture", pa.string(), "crop ImageID and box, or photograph and id"),
        Column("shown", pa.string(), "Its class: a category, or a landmark"),
        Column("verified", pa.bool_(), "Whether geometry verified the photograph"),
        Column("category", pa.string(), "The likeliest category, whatever it shows"),
        Column("score", pa.float64(), "Share of all classes but `a landmark`"),
    ),
    ("picture",),
)
NON_LANDMARK_SCORES = Table(
    "openimages/non_landmark_scores/{shard}.parquet",
    "one row per stored image of a train shard",
    (
        Column("id", pa.string(), "Image id"),
        Column("score", pa.float64(), "How likely it shows no landmark; absent where it cannot be read", nullable=True),
        Column("category", pa.string(), "What it shows likeliest, if no landmark", nullable=True),
        Column("reason", pa.string(), "Why it has no score; empty where it has"),
    ),
    ("id",),
)
NON_LANDMARK_FILTER = Table(
    "manifests/non_landmark_filter.parquet",
    "one row per image of the set that is filtered",
    (
        Column("id", pa.string(), "Image id"),
        Column("landmark_id", pa.int64(), "Train landmark"),
        Column("shard", pa.string(), "Train shard it is stored in"),
        Column("decision", pa.string(), "kept, dropped or failed"),
        Column("reason", pa.string(), "Why"),
        Column("score", pa.float64(), "How likely it shows no landmark", nullable=True),
        Column("category", pa.string(), "What it shows likeliest, if no landmark", nullable=True),
        Column("verified", pa.bool_(), "Whether geometry verified it against others of its landmark"),
    ),
    ("id",),
)
