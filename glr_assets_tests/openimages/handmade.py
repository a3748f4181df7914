"""Roots of Open Images made row by row, so that each test says what is in its tables."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from glr_assets.openimages import layout
from glr_assets.openimages.annotations import make_openimages_annotations
from glr_assets.openimages.dataset import make_openimages_classifier_dataset
from glr_assets.openimages.images import make_openimages_images
from glr_assets.openimages.parts import part_keys
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.receipts import Made
from glr_assets.recipes import Execution, OpenImages
from glr_assets.store import Store

LABELS = {"/m/cat": "Cat", "/m/dog": "Dog", "/m/fox": "Fox"}
RECIPE = OpenImages(categories=("Cat", "Dog"), subsets=("train",), parts=1, size=16)
ONE = Execution(workers=1)


def pixels(seed: int, size: tuple[int, int] = (60, 40)) -> np.ndarray:
    """RGB uint8 [height, width, 3] of noise in blocks: sharp edges, another picture for each seed."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((4, 4, 1), np.uint8))[: size[1], : size[0]]


def jpeg(picture: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def across_then_down(image: Image.Image, side: int) -> Image.Image:
    """Pillow's Lanczos, first across: in which order it takes both at once is another from version to version."""
    return image.resize((side, image.height), Image.Resampling.LANCZOS).resize((side, side), Image.Resampling.LANCZOS)


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def box(image_id: str, label: str = "/m/cat", edges: Sequence[object] = (0.1, 0.5, 0.2, 0.6), **more: object) -> dict:
    """A published box row; edges are XMin, XMax, YMin, YMax."""
    row: dict[str, object] = {"ImageID": image_id, "Source": "xclick", "LabelName": label, "Confidence": 1}
    row |= dict(zip(layout.COORDINATES, edges, strict=True)) | dict.fromkeys(layout.FLAGS, 0)
    return row | more


def image_row(image_id: str, original: bytes = b"", **more: object) -> dict:
    row = dict.fromkeys(layout.IMAGE_COLUMNS, "")
    row |= {
        "ImageID": image_id,
        "Subset": "train",
        "OriginalURL": f"https://photos.example/{image_id}_o.jpg",
        "OriginalLandingURL": f"https://photos.example/{image_id}",
        "License": "https://creativecommons.org/licenses/by/2.0/",
        "Author": f"author of {image_id}",
        "Title": "a title,\nof two lines",
        "OriginalSize": str(len(original)) if original else "",
        "OriginalMD5": md5(original) if original else "",
        "Rotation": "0.0",
    }
    return row | {name: str(value) for name, value in more.items()}


def csv_of(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


@dataclass
class Root:
    """What the train subset of a root is to hold."""

    folder: Path
    boxes: list[dict] = field(default_factory=list)
    images: list[dict] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=lambda: LABELS)

    def add(
        self, image_id: str, data: bytes | None, *boxes: dict, original: bytes | None = None, **row: object
    ) -> None:
        """An image: the bytes that lie there, its boxes, and the original that its row tells of."""
        if data is not None:
            self.files[image_id] = data
        self.boxes += boxes
        published = original if original is not None else data
        self.images.append(image_row(image_id, published or b"", **row))

    def write(self) -> OpenImagesRoot:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "train").mkdir(exist_ok=True)
        for image_id, data in self.files.items():
            (self.folder / "train" / f"{image_id}.jpg").write_bytes(data)
        names = "".join(f"{label},{name}\n" for label, name in self.labels.items())
        (self.folder / layout.CLASS_DESCRIPTIONS[0]).write_text(names)
        (self.folder / layout.BOXES["train"][0]).write_bytes(csv_of(layout.BOX_COLUMNS, self.boxes))
        (self.folder / layout.IMAGES["train"][0]).write_bytes(csv_of(layout.IMAGE_COLUMNS, self.images))
        return OpenImagesRoot(str(self.folder))


def make_all(
    root: OpenImagesRoot, store: Store, recipe: OpenImages = RECIPE, execution: Execution = ONE, seed: int = 0
) -> Made:
    """Annotations, every part of the images, and the dataset, by the stages' own functions."""
    make_openimages_annotations(root, store, recipe, seed)
    for part in part_keys(recipe.parts):
        make_openimages_images(root, store, part, recipe, execution)
    return make_openimages_classifier_dataset(store, recipe, execution, seed)
