"""The names under a root of Open Images, as published (https://storage.googleapis.com/openimages/web/download_v7.html).

What belongs here: what each file may be called and what its columns are. Reading and writing belong elsewhere.
"""

from __future__ import annotations

from typing import Final, Literal

Subset = Literal["train", "validation", "test"]
SUBSETS: Final[tuple[Subset, ...]] = ("train", "validation", "test")

#: Names of the 600 categories that have boxes; then those of all categories, for roots that hold no other list.
CLASS_DESCRIPTIONS: Final = (
    "class-descriptions-boxable.csv",
    "oidv7-class-descriptions-boxable.csv",
    "oidv7-class-descriptions.csv",
    "oidv6-class-descriptions.csv",
    "class-descriptions.csv",
)
#: Which categories lie below which.
HIERARCHY: Final = ("bbox_labels_600_hierarchy.json",)
#: Boxes, the newest version first.
BOXES: Final[dict[Subset, tuple[str, ...]]] = {
    "train": ("oidv6-train-annotations-bbox.csv", "train-annotations-bbox.csv"),
    "validation": ("validation-annotations-bbox.csv",),
    "test": ("test-annotations-bbox.csv",),
}
#: Images, those with their rotation first.
IMAGES: Final[dict[Subset, tuple[str, ...]]] = {
    "train": (
        "train-images-boxable-with-rotation.csv",
        "train-images-boxable.csv",
        "oidv6-train-images-with-labels-with-rotation.csv",
    ),
    "validation": ("validation-images-with-rotation.csv", "validation-images.csv"),
    "test": ("test-images-with-rotation.csv", "test-images.csv"),
}

CLASS_COLUMNS: Final = ("LabelName", "DisplayName")
"""The file of the boxable categories has no header; later lists begin with these names."""
FLAGS: Final = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")
"""1, 0, or -1 where nobody told."""
COORDINATES: Final = ("XMin", "XMax", "YMin", "YMax")
BOX_COLUMNS: Final = ("ImageID", "Source", "LabelName", "Confidence", *COORDINATES, *FLAGS)
CLICK_COLUMNS: Final = tuple(f"XClick{number}{axis}" for axis in "XY" for number in range(1, 5))
"""Of the train boxes from version 6 on: the four points that a box was drawn by; they are not read."""
IMAGE_COLUMNS: Final = (
    "ImageID",
    "Subset",
    "OriginalURL",
    "OriginalLandingURL",
    "License",
    "AuthorProfileURL",
    "Author",
    "Title",
    "OriginalSize",
    "OriginalMD5",
    "Thumbnail300KURL",
    "Rotation",
)


def image_path(subset: str, image_id: str) -> str:
    """Where an image lies under the root: `train/0000048549557964.jpg`."""
    return f"{subset}/{image_id}.jpg"
