"""The lists that lie beside a package's images: what each shows and whose it is, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence

from glr_assets.exports.images import ExportImage, Landmark
from glr_assets.source.layout import TABLE_COLUMNS


def train_csv(images: Iterable[ExportImage]) -> Iterator[bytes]:
    """`id,landmark_id`, as Kaggle publishes a competition's train set."""
    return _csv(("id", "landmark_id"), ((image.id, image.landmark_id) for image in images))


def attribution_csv(images: Iterable[ExportImage]) -> Iterator[bytes]:
    """`id,url,author,license,title`, as GLDv2 publishes them."""
    columns = TABLE_COLUMNS["train_attribution"]
    return _csv(columns, ([getattr(image, column) for column in columns] for image in images))


def landmarks_csv(landmarks: Iterable[Landmark]) -> Iterator[bytes]:
    """`label,landmark_id,name,images`: what the labels of a package mean."""
    return _csv(Landmark._fields, landmarks)


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[bytes]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for number, row in enumerate(rows, 1):
        writer.writerow(row)
        if number % 1000 == 0:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()


def image_path(image_id: str) -> str:
    """`a/b/c/<id>.jpg`: the folders are the id's first characters, three of them where it has so many."""
    return f"{'/'.join(image_id[:3])}/{image_id}.jpg"


def fiftyone_labels(images: Iterable[ExportImage], landmarks: Iterable[Landmark]) -> Iterator[bytes]:
    """The `labels.json` of a FiftyOneImageClassificationDataset whose `data/` holds the images under `image_path`.

    `classes` are `<name> (<landmark_id>)`, by label; FiftyOne tells classes apart by their text alone. An image's key
    is its path without the ending. `id` would be FiftyOne's own attribute, so the image's is `image_id`.
    """
    classes = [f"{landmark.name} ({landmark.landmark_id})".strip() for landmark in landmarks]
    yield f'{{"classes": {json.dumps(classes, ensure_ascii=False)},\n"labels": {{'.encode()
    for number, image in enumerate(images):
        attributes = {name: getattr(image, name) for name in ("landmark_id", "url", "author", "license", "title")}
        label = {"label": image.label, "attributes": {"image_id": image.id} | attributes}
        key = image_path(image.id).removesuffix(".jpg")
        entry = f"{json.dumps(key)}: {json.dumps(label, ensure_ascii=False)}"
        yield f"{',' if number else ''}\n{entry}".encode()
    yield b"\n}}\n"
