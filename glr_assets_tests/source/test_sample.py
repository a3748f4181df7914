"""The embedded sample: the same bytes for the same seed, its size, and what it promises to hold."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glr_assets.source import layout
from glr_assets.source.base import TableName
from glr_assets.source.sample import LANDMARKS, TRAP_IDS, SampleLandmark, write_sample
from glr_assets.store import Store

FEW = (
    SampleLandmark("Clock, Tower", "tower", 0, 9, 6, 2, 2),
    SampleLandmark("Falls", "falls", 1, 4, 3, 1, 2),
)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def images(bucket: Path, split: str) -> dict[str, bytes]:
    found = {}
    for path in sorted((bucket / split).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found[Path(member.name).stem] = file.read()
    return found


def table(bucket: Path, name: TableName) -> list[dict[str, str]]:
    with (bucket / layout.TABLE_PATHS[name]).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bucket = tmp_path_factory.mktemp("sample") / "bucket"
    write_sample(Store(str(bucket)))
    return bucket


def test_same_seed_same_bytes_also_in_another_process(tmp_path: Path) -> None:
    write_sample(Store(str(tmp_path / "here")), landmarks=FEW, non_landmarks=9)
    program = (
        "from glr_assets.source.sample import SampleLandmark, write_sample\n"
        "from glr_assets.store import Store\n"
        f"write_sample(Store({str(tmp_path / 'there')!r}), landmarks={FEW!r}, non_landmarks=9)\n"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {"PYTHONPATH": str(root), "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert files(tmp_path / "here") == files(tmp_path / "there")


def test_another_seed_gives_other_photographs_of_other_ids(tmp_path: Path) -> None:
    buckets = [tmp_path / str(seed) for seed in (0, 1)]
    for seed, bucket in enumerate(buckets):
        write_sample(Store(str(bucket)), seed=seed, landmarks=FEW, non_landmarks=9)
        assert Store(str(bucket)).exists("metadata/train.csv")
    for split in layout.SPLITS:
        first, second = (images(bucket, split) for bucket in buckets)
        assert set(first) & set(second) <= set(TRAP_IDS)
        assert all(len(content) < 100 for content in set(first.values()) & set(second.values()))


def test_size_and_counts(whole: Path) -> None:
    assert sum(len(content) for content in files(whole).values()) < 25e6
    count = {split: len(images(whole, split)) for split in layout.SPLITS}
    train = Counter(row["landmark_id"] for row in table(whole, "train"))
    assert len(train) == len(LANDMARKS) == 24
    assert count["train"] == train.total() == sum(landmark.train for landmark in LANDMARKS) + 3
    assert (min(train.values()), max(train.values())) == (6, 48)
    clean = {row["landmark_id"]: len(row["images"].split(" ")) for row in table(whole, "train_clean")}
    assert sum(images >= 26 for images in clean.values()) >= 4
    fillable = [landmark for landmark, images in clean.items() if images < 20 and train[landmark] > images]
    assert len(fillable) >= 12
    assert len(table(whole, "train_label_to_hierarchical")) == 24


def test_splits_and_ground_truth(whole: Path) -> None:
    train = {row["id"]: row["landmark_id"] for row in table(whole, "train")}
    index = {row["id"]: row["landmark_id"] for row in table(whole, "index_image_to_landmark")}
    test = {row["id"] for row in table(whole, "test")}
    for split, ids in (("train", set(train)), ("index", set(index)), ("test", test)):
        assert set(images(whole, split)) == ids
    assert len(set(train) | set(index) | test) == len(train) + len(index) + len(test)
    assert set(TRAP_IDS) <= set(train)
    clean = [i for row in table(whole, "train_clean") for i in row["images"].split(" ")]
    assert len(set(clean)) == len(clean)
    assert set(clean) < set(train)
    recognition = {row["id"]: row for row in table(whole, "recognition_solution")}
    retrieval = {row["id"]: row for row in table(whole, "retrieval_solution")}
    assert set(recognition) == set(retrieval) == test
    pairs = set()
    for i, row in recognition.items():
        if row["landmarks"]:
            (other,) = {index[relevant] for relevant in retrieval[i]["images"].split(" ")}
            relevant = set(retrieval[i]["images"].split(" "))
            assert relevant == {j for j, landmark in index.items() if landmark == other}
            pairs.add((row["landmarks"], other))
        else:
            assert (retrieval[i]["images"], retrieval[i]["Usage"]) == ("None", "Ignored")
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 24
    usage = Counter((row["Usage"], row["landmarks"] == "") for row in recognition.values())
    assert usage[("Ignored", True)] == 24
    assert usage[("Ignored", False)] == 0
    scored = usage.total() - 24
    assert 0.2 < (usage[("Public", True)] + usage[("Public", False)]) / scored < 0.47


def test_pictures_and_planted_defects(whole: Path) -> None:
    pictures, broken = [], 0
    for split in layout.SPLITS:
        for content in images(whole, split).values():
            try:
                with Image.open(io.BytesIO(content)) as image:
                    image.load()
                    pictures.append((image.size, image.mode, image.getexif().get(0x0112, 1)))
            except OSError:
                broken += 1
    assert broken == 3
    smaller = np.array([min(size) for size, _, _ in pictures])
    assert np.mean(smaller > 384) > 0.6
    assert np.mean(smaller < 384) > 0.02
    assert smaller.min() > 280
    assert {mode for _, mode, _ in pictures} == {"RGB", "L", "CMYK"}
    assert {turn for _, _, turn in pictures} == {1, 6}


def test_near_duplicates_are_nearer_than_other_photographs(tmp_path: Path) -> None:
    write_sample(Store(str(tmp_path)), landmarks=(SampleLandmark("T", "temple", 1, 16, 16, 1, 1),), non_landmarks=1)
    small = []
    for content in images(tmp_path, "train").values():
        try:
            with Image.open(io.BytesIO(content)) as image:
                small.append(np.asarray(image.convert("L").resize((16, 16)), dtype=float))
        except OSError:
            continue
    pixels = np.array(small).reshape(len(small), -1)
    far = np.abs(pixels[:, None] - pixels[None]).mean(axis=2) + 1e9 * np.eye(len(pixels))
    assert len(pixels) == 16
    # One duplicate of one original: a pair far below the rest, and only one such pair.
    nearest = np.sort(far[np.triu_indices(len(pixels), 1)])
    assert nearest[0] < 9
    assert nearest[1] > 1.5 * nearest[0]
