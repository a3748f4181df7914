"""Real files that are damaged, hostile or odd, against what a person says of each.

`nasty_statuses.csv` was written by looking at all 311: whether each is to be stored, the kind of reason if not, the
size upright, and the mean colors of 4 x 4 cells as ImageMagick 6.9.11, OpenCV 5.0 or libvips 8.14 decode it, over
white, turned by EXIF, converted to sRGB by its color profile.
"""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, features

from glr_assets.images.pixels import PIXELS_VERSION, stored_size
from glr_assets.images.reader import ImageReader
from glr_assets.images.schemas import IMAGE_INDEX
from glr_assets.recipes import Recipe
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets_tests.images.handmade import Bucket, ingest, make_tables, photo, tar_of

GOLDEN = Path(__file__).with_name("nasty_statuses.csv")
RECIPE = Recipe(name="nasty").overridden({"execution": {"workers": 2}})
pytestmark = [
    pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


@dataclass(frozen=True)
class Golden:
    """What is expected of a file; `cells` are RGB bytes, row by row, and `within` how far each may be off."""

    path: str
    status: str
    reason: str
    size: tuple[int, int] | None
    within: int
    cells: bytes

    @property
    def image_id(self) -> str:
        return hashlib.sha256(self.path.encode()).hexdigest()[:16]


def read_golden() -> list[Golden]:
    with GOLDEN.open(newline="") as file:
        return [
            Golden(
                row["path"],
                row["status"],
                row["reason"],
                (int(row["width"]), int(row["height"])) if row["width"] else None,
                int(row["within"] or 0),
                bytes.fromhex(row["cells"]),
            )
            for row in csv.DictReader(file)
        ]


def cells_of(data: bytes) -> npt.NDArray[np.int16]:
    with Image.open(io.BytesIO(data)) as image:
        whole = np.asarray(image.convert("RGB"))
    return cv2.resize(whole, (4, 4), interpolation=cv2.INTER_AREA).astype(np.int16)


@pytest.fixture(scope="module")
def ingested(shared_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[dict]]:
    """One shard of all the files, ingested; its index by row."""
    folder = tmp_path_factory.mktemp("nasty")
    golden = read_golden()
    shard = tar_of(photo(file.image_id, (shared_photos / "nasty" / file.path).read_bytes()) for file in golden)
    ids = {file.image_id: number for number, file in enumerate(golden)}
    bucket = Bucket(train=ids, competition=ids, shards={"train": {"000": shard}})
    source, store = BucketSource(bucket.write(folder / "bucket"), {}), Store(str(folder / "store"))
    make_tables(source, store, RECIPE)
    ingest(source, store, RECIPE, "train", "000", workers=2)
    return store, read_table(store, IMAGE_INDEX, split="train", shard="000").to_pylist()


def test_the_golden_list_is_of_the_files_that_are_there(shared_photos: Path) -> None:
    files = {str(path.relative_to(shared_photos / "nasty")) for path in (shared_photos / "nasty").rglob("*.*")}
    golden = read_golden()
    assert {file.path for file in golden} == files
    assert len(golden) == len({file.image_id for file in golden}) == 311


def test_each_file_is_one_row_with_the_status_a_person_gives_it(ingested: tuple[Store, list[dict]]) -> None:
    _, rows = ingested
    golden = read_golden()
    assert sorted(row["id"] for row in rows) == sorted(file.image_id for file in golden)
    found = {row["id"]: row for row in rows}
    for file in golden:
        row = found[file.image_id]
        assert row["status"] == file.status, (file.path, row["reason"])
        if file.size is None:
            assert row["reason"].startswith(file.reason + ": "), (file.path, row["reason"])
            assert len(row["reason"]) < 300, file.path
            assert row["reason"].isprintable(), file.path
            assert row["stored_offset"] is None, file.path
        else:
            assert row["reason"] == "", file.path
            assert (row["source_width"], row["source_height"]) == file.size, file.path
            assert (row["width"], row["height"]) == stored_size(file.size, RECIPE.images), file.path
            assert set(row["pixel_path"].split("+")) <= set(PIXELS_VERSION.split(",")), file.path


def test_what_is_stored_is_what_other_decoders_show(ingested: tuple[Store, list[dict]]) -> None:
    store, _ = ingested
    reader = ImageReader.of_shard(store, "train", "000")
    compared = [file for file in read_golden() if file.cells]
    assert len(compared) == 197
    for file in compared:
        expected = np.frombuffer(file.cells, np.uint8).reshape(4, 4, 3)
        difference = np.abs(cells_of(reader.read(file.image_id)) - expected).max()
        # 8 of 255: what quality 70 and half the chroma leave; 95 in 100 are within 5.
        assert difference <= file.within, (file.path, difference)


def test_why_each_odd_jpeg_is_refused_is_told(ingested: tuple[Store, list[dict]]) -> None:
    _, rows = ingested
    reasons = {row["id"]: row["reason"] for row in rows}
    for path, told in (
        ("libjpeg_turbo/monkey12.jpg", "a JPEG of 12 bits a sample, of which no decoder is here; convert it to 8 bits"),
        ("pillow/ultrahdr.jpg", "cut: the last "),
        ("pillow/truncated_image.png", "cut: the last 17% of its rows are missing"),
        ("pillow/invalid_header_length.jp2", "JPEG2000 with a damaged header"),
    ):
        assert told in reasons[hashlib.sha256(path.encode()).hexdigest()[:16]], path
