from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.exports.images import ExportImage, Landmark
from glr_assets.exports.listings import attribution_csv, fiftyone_labels, image_path, landmarks_csv, train_csv
from glr_assets.metadata.csv_files import read_csv
from glr_assets.metadata.schemas import TRAIN_ATTRIBUTION
from glr_assets.source import BucketSource
from glr_assets_tests.exports.conftest import export_image

words = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=12)
told = st.builds(export_image, st.integers(0, 9), author=words, license=words, title=words, url=words, name=words)


def read(lines: list[bytes]) -> list[list[str]]:
    return list(csv.reader(io.StringIO(b"".join(lines).decode(), newline="")))


@given(st.lists(told, max_size=5))
def test_lists_are_csv_of_the_published_columns(images: list[ExportImage]) -> None:
    assert read([*train_csv(images)]) == [["id", "landmark_id"], *([i.id, str(i.landmark_id)] for i in images)]
    assert read([*attribution_csv(images)]) == [
        ["id", "url", "author", "license", "title"],
        *([i.id, i.url, i.author, i.license, i.title] for i in images),
    ]


def test_long_lists_lose_nothing_between_their_parts() -> None:
    images = [export_image(number) for number in range(2001)]
    parts = [*train_csv(iter(images))]
    assert len(parts) == 3
    assert [row[0] for row in read(parts)[1:]] == [image.id for image in images]


def test_the_attribution_is_a_source_s_table(tmp_path: Path) -> None:
    images = [export_image(1), export_image(2, author="two\nlines", title='a "quoted", one')]
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata/train.csv").write_bytes(b"".join(train_csv(images)))
    (tmp_path / "metadata/train_attribution.csv").write_bytes(b"".join(attribution_csv(images)))
    columns = {column.name: column.type for column in TRAIN_ATTRIBUTION.columns}
    found = read_csv(BucketSource(str(tmp_path)), "train_attribution", columns)
    assert found is not None
    assert found["author"].to_pylist() == [image.author for image in images]
    assert found["title"].to_pylist() == [image.title for image in images]


def test_labels_are_named_by_landmark() -> None:
    landmarks = [Landmark(0, 3, "Eiffel, Tower", 2), Landmark(1, 7, "", 1)]
    assert read([*landmarks_csv(landmarks)]) == [
        ["label", "landmark_id", "name", "images"],
        ["0", "3", "Eiffel, Tower", "2"],
        ["1", "7", "", "1"],
    ]


@given(st.lists(told, max_size=4, unique_by=lambda image: image.id))
def test_fiftyone_s_labels_are_json_of_its_documented_form(images: list[ExportImage]) -> None:
    landmarks = [Landmark(0, 3, "A", 2), Landmark(1, 4, "A", 1), Landmark(2, 5, "", 1)]
    document = json.loads(b"".join(fiftyone_labels(images, landmarks)))
    # Two landmarks of one name are two classes.
    assert document["classes"] == ["A (3)", "A (4)", "(5)"]
    assert set(document) == {"classes", "labels"}
    assert [*document["labels"]] == [image_path(image.id).removesuffix(".jpg") for image in images]
    for image, label in zip(images, document["labels"].values(), strict=True):
        assert label["label"] == image.label
        told = {name: getattr(image, name) for name in ("landmark_id", "url", "author", "license", "title")}
        assert label["attributes"] == {"image_id": image.id} | told
        # FiftyOne makes fields of the attributes, beside those that each of its labels has.
        assert not label["attributes"].keys() & {"id", "_id", "label", "confidence", "logits", "tags", "attributes"}


@pytest.mark.parametrize(
    ("image_id", "path"), [("0123456789abcdef", "0/1/2/0123456789abcdef.jpg"), ("ab", "a/b/ab.jpg"), ("x", "x/x.jpg")]
)
def test_the_folders_of_an_image_are_the_beginning_of_its_id(image_id: str, path: str) -> None:
    assert image_path(image_id) == path
