"""TARs beside tarfile, and as webdataset reads them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from glr_assets.exports.tars import WebdatasetTar
from glr_assets_tests.exports.conftest import export_image
from glr_assets_tests.images.handmade import picture

IMAGES = [(export_image(number), picture(number)) for number in range(3)]


def written() -> bytes:
    file = io.BytesIO()
    with WebdatasetTar(file) as writing:
        for image, jpeg in IMAGES:
            writing.add(image, jpeg)
    return file.getvalue()


def test_members_of_an_image_stand_together() -> None:
    with tarfile.open(fileobj=io.BytesIO(written())) as archive:
        members = archive.getmembers()
        names = [member.name for member in members]
        assert names == [f"{image.id}.{kind}" for image, _ in IMAGES for kind in ("jpg", "cls", "json")]
        assert {member.mtime for member in members} == {0}
        read = [archive.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    assert read[0::3] == [jpeg for _, jpeg in IMAGES]
    assert read[1::3] == [b"0", b"1", b"2"]
    assert [json.loads(text) for text in read[2::3]] == [image._asdict() for image, _ in IMAGES]


def test_webdataset_reads_image_label_and_rights(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed: nothing to read with")
    (tmp_path / "train-000000.tar").write_bytes(written())
    dataset = wds.WebDataset(str(tmp_path / "train-{000000..000000}.tar"), shardshuffle=False).decode("rgb8")
    found = list(dataset.to_tuple("__key__", "jpg", "cls", "json"))
    assert [one[0] for one in found] == [image.id for image, _ in IMAGES]
    assert [one[1].shape for one in found] == [(40, 60, 3)] * 3
    assert [one[2] for one in found] == [0, 1, 2]
    assert found[0][3]["author"] == 'Ann, of "there"'
    assert found[0][3]["landmark_id"] == 12345678901
