"""The rendered sample: the same bytes for the same seed, the published shape, and what it promises to hold."""

from __future__ import annotations

import base64
import csv
import hashlib
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from glr_assets.cli import app
from glr_assets.openimages import layout
from glr_assets.openimages import sample as rendered
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.settings import Settings
from glr_assets.source import sample as landmarks
from glr_assets.source.render.labelled_scenes import labelled_scene
from glr_assets.store import Store
from glr_assets_tests.lineage import digests


def rows_of(root: OpenImagesRoot, name: str) -> list[dict[str, str]]:
    with Path(root.files.root, name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_same_seed_leaves_the_same_bytes_in_another_process(sample: OpenImagesRoot, tmp_path: Path) -> None:
    code = (
        "from glr_assets.openimages.sample import write_openimages_sample\nfrom glr_assets.store import Store\n"
        f"write_openimages_sample(Store({str(tmp_path)!r}))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert digests(tmp_path) == digests(Path(sample.files.root))


def test_tables_have_the_published_columns(sample: OpenImagesRoot) -> None:
    for subset in layout.SUBSETS:
        columns = list(rows_of(sample, layout.BOXES[subset][0])[0])
        clicks = list(layout.CLICK_COLUMNS) if subset == "train" else []
        assert columns == [*layout.BOX_COLUMNS, *clicks]
        assert list(rows_of(sample, layout.IMAGES[subset][0])[0]) == list(layout.IMAGE_COLUMNS)
    first = Path(sample.files.root, layout.CLASS_DESCRIPTIONS[0]).read_text().splitlines()[0]
    assert first == "/m/01g317,Person"  # no header


def test_originals_are_as_the_tables_tell_but_for_the_planted(sample: OpenImagesRoot) -> None:
    fates: Counter[str] = Counter()
    for subset in layout.SUBSETS:
        for row in rows_of(sample, layout.IMAGES[subset][0]):
            path = Path(sample.files.root, layout.image_path(subset, row["ImageID"]))
            if not path.exists():
                fates["missing"] += 1
                continue
            data = path.read_bytes()
            published = base64.b64decode(row["OriginalMD5"]) == hashlib.md5(data, usedforsecurity=False).digest()
            fates["as published" if published else "another"] += 1
            fates["rotated"] += row["Rotation"] in {"90.0", "180.0", "270.0"}
    assert fates == {"as published": 93, "another": 6, "missing": 1, "rotated": 3}


def test_every_category_has_boxes_but_the_last(sample: OpenImagesRoot) -> None:
    rows = [row for subset in layout.SUBSETS for row in rows_of(sample, layout.BOXES[subset][0])]
    counts = Counter(row["LabelName"] for row in rows)
    labels = list(rendered.LABELS)
    assert min(counts[label] for label in labels[:-1]) >= 10
    assert counts[labels[-1]] == 0
    edges = [float(row[name]) for row in rows for name in layout.COORDINATES]
    assert edges.count(0.0) > 5
    assert edges.count(1.0) > 5


def test_boxes_hold_what_drawing_changed_and_nothing_more() -> None:
    """A plate lies on a table of one colour scheme: outside every box of a meal no pixel is as bright as its rim."""
    scene = labelled_scene(0, 1)
    height, width = scene.picture.shape[:2]
    assert {thing.category for thing in scene.things} <= {"Food", "Hamburger", "Hot dog", "Sandwich"}
    for thing in scene.things:
        assert 0 <= thing.left < thing.right <= width
        assert 0 <= thing.top < thing.bottom <= height
    inside = np.zeros((height, width), bool)
    for thing in scene.things:
        inside[max(thing.top - 4, 0) : thing.bottom + 4, max(thing.left - 4, 0) : thing.right + 4] = True
    colourful = np.ptp(scene.picture.astype(int), axis=2)
    assert colourful[inside].max() > 2 * colourful[~inside].max()


def test_unset_the_root_is_the_sample_in_the_store_written_once(store: Store) -> None:
    settings = Settings.from_environment(store=store.url)
    root = settings.open_openimages()
    assert root.url == f"{store.url}/sample/openimages"
    path = Path(root.files.root, layout.CLASS_DESCRIPTIONS[0])
    written = path.stat().st_mtime_ns
    settings.open_openimages()
    assert path.stat().st_mtime_ns == written
    whole = digests(Path(root.files.root))
    path.unlink()  # as a killed writer leaves it
    Path(root.files.root, layout.BOXES["train"][0]).unlink()
    settings.open_openimages()
    assert digests(Path(root.files.root)) == whole


def test_a_root_of_the_environment_is_opened(sample: OpenImagesRoot, store: Store) -> None:
    settings = Settings.from_environment(store=store.url, openimages=sample.url)
    assert settings.open_openimages().url == sample.url
    assert not Path(store.root).exists()


def test_grey_and_cmyk_are_among_them(sample: OpenImagesRoot) -> None:
    modes: Counter[str] = Counter()
    for path in Path(sample.files.root).glob("*/*.jpg"):
        with Image.open(path) as image:
            modes[f"{image.format} {image.mode}"] += 1
    assert modes["JPEG L"] == 4
    assert modes["JPEG CMYK"] == 1
    assert modes["PNG P"] == 1


def test_glr_sample_writes_it_beside_the_landmarks(
    sample: OpenImagesRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The landmarks are few here: what they are is tested elsewhere."""
    few = partial(landmarks.write_sample, landmarks=landmarks.LANDMARKS[-1:], non_landmarks=1)
    monkeypatch.setattr(landmarks, "write_sample", few)
    alone = tmp_path / "alone"
    few(Store(str(alone)), seed=0)
    for _ in range(2):  # once more over itself
        done = CliRunner().invoke(app, ["sample", str(tmp_path / "bucket")])
        assert done.exit_code == 0, done.output
    whole = digests(tmp_path / "bucket")
    beside = {
        name.removeprefix("openimages/"): value for name, value in whole.items() if name.startswith("openimages/")
    }
    assert beside == digests(Path(sample.files.root))
    assert {name: value for name, value in whole.items() if not name.startswith("openimages/")} == digests(alone)
