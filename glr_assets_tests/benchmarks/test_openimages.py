"""That the benchmark of Open Images measures what it says."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from glr_assets.openimages import layout
from glr_assets.openimages.crops import Rectangle, cropped
from glr_assets.openimages.schemas import OPENIMAGES_ANNOTATIONS
from glr_assets.recipes import OpenImages
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets_tests.benchmarks import openimages
from glr_assets_tests.openimages.handmade import jpeg, pixels


def test_every_wanted_row_is_selected_and_joined(tmp_path: Path) -> None:
    openimages.write_root(tmp_path / "root", 30_000, 4_000)
    assert openimages.select(tmp_path / "root", tmp_path / "store") == 30_000
    with (tmp_path / "root" / layout.BOXES["train"][0]).open(newline="") as file:
        wanted = [row for row in csv.DictReader(file) if row["LabelName"] in {"/m/00001", "/m/00002", "/m/00003"}]
    table = read_table(Store(str(tmp_path / "store")), OPENIMAGES_ANNOTATIONS)
    assert sorted(table["image_id"].to_pylist()) == sorted(row["ImageID"] for row in wanted)
    assert 100 < len(wanted) < 200
    assert table["url"].null_count == 0
    assert set(table["status"].to_pylist()) == {"usable"}


def test_both_ways_crop_the_same() -> None:
    pytest.importorskip("skimage")
    smooth = np.asarray(np.add.outer(np.arange(300), np.arange(400)) // 3, np.uint8)
    data = jpeg(np.stack([smooth, smooth[::-1], smooth[:, ::-1]], axis=2), quality=95)
    box = Rectangle(20, 30, 380, 270)
    (ours,) = cropped(data, "RGB", [box], 0, OpenImages(size=openimages.SIDE))
    theirs = openimages.earlier_way(data, box)
    inner = slice(4, -4)
    assert np.abs(ours.astype(int) - theirs)[inner, inner].mean() < 3
    other = openimages.earlier_way(jpeg(pixels(1, (400, 300))), box)
    assert np.abs(ours.astype(int) - other).mean() > 20


def test_rates_are_of_every_crop() -> None:
    pytest.importorskip("skimage")
    rates = openimages.crop_rates([(jpeg(pixels(number, (400, 300))), (400, 300)) for number in range(2)], 2)
    assert rates.keys() == {"glr_assets", "seed 003"}
    assert rates["glr_assets"] > rates["seed 003"] > 0
