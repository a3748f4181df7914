"""That the tables of full size are what they say: the published counts, and files that Python's csv reads."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from glr_assets.source.layout import TABLE_COLUMNS, TABLE_PATHS
from glr_assets_tests.benchmarks import full_size, tables
from glr_assets_tests.benchmarks.full_size import GLDV2

SMALL = GLDV2.scaled(0.005)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full_size")
    written = full_size.write_bucket(folder, SMALL)
    assert written == {name: (folder / path).stat().st_size for name, path in TABLE_PATHS.items()}
    return folder


def rows(bucket: Path, name: str) -> list[dict[str, str]]:
    with (bucket / TABLE_PATHS[name]).open(newline="") as file:  # type: ignore[index]
        reader = csv.DictReader(file, strict=True)
        assert tuple(reader.fieldnames or ()) == TABLE_COLUMNS[name]  # type: ignore[index]
        return list(reader)


def test_the_counts_of_the_full_size_are_the_published() -> None:
    # METHODS, section 1, whose figures are those of the dataset's own page and paper.
    classes = full_size.landmark_classes(GLDV2)
    assert (len(classes.images), classes.images.sum()) == (203_094, 4_132_914)
    assert (classes.images.min(), classes.images.max()) == (1, 10_247)
    assert np.mean(classes.images <= 10) == pytest.approx(0.57, abs=0.001)
    assert np.mean(classes.images) == pytest.approx(20.35, abs=0.005)
    assert (np.count_nonzero(classes.competition), classes.competition.sum()) == (81_313, 1_580_470)
    assert (classes.competition <= classes.images).all()
    assert len(np.unique(classes.landmark_ids)) == 203_094 < classes.landmark_ids.max()
    need = np.where(classes.competition > 0, np.maximum(20 - classes.competition, 0), 0)
    assert 400_000 < np.minimum(need, classes.images - classes.competition).sum() < 430_000


def test_the_train_tables_are_those_of_the_arrays(bucket: Path) -> None:
    train = full_size.train_images(SMALL)
    landmark_of = dict(zip(train.ids.to_pylist(), train.landmark_ids.tolist(), strict=True))
    listed = rows(bucket, "train")
    assert [(row["id"], int(row["landmark_id"])) for row in listed] == list(landmark_of.items())
    sizes = Counter(landmark_of.values())
    assert sorted(sizes.values()) == sorted(train.classes.images.tolist())
    clean = {int(row["landmark_id"]): row["images"].split() for row in rows(bucket, "train_clean")}
    kept = {i for i, inside in zip(train.ids.to_pylist(), train.competition.tolist(), strict=True) if inside}
    assert Counter(i for ids in clean.values() for i in ids) == Counter(kept)
    assert all(landmark_of[i] == landmark for landmark, ids in clean.items() for i in ids)
    assert len(kept) == SMALL.competition
    assert [row["id"] for row in rows(bucket, "train_attribution")] == list(landmark_of)
    assert {int(row["landmark_id"]) for row in rows(bucket, "train_label_to_hierarchical")} == set(sizes)


def test_ids_are_unlike_and_some_are_like_numbers(bucket: Path) -> None:
    ids = [row["id"] for name in ("train", "index", "test") for row in rows(bucket, name)]
    assert len(ids) == len(set(ids)) == SMALL.train + SMALL.index + SMALL.test
    assert all(re.fullmatch("[0-9a-f]{16}", image_id) for image_id in ids)
    assert any(image_id.isdigit() for image_id in ids)
    assert any(re.fullmatch(r"\d+e\d+", image_id) for image_id in ids)
    assert [row["id"] for row in rows(bucket, "index_image_to_landmark")] == [
        row["id"] for row in rows(bucket, "index")
    ]
    for name in ("recognition_solution", "retrieval_solution"):
        assert [row["id"] for row in rows(bucket, name)] == [row["id"] for row in rows(bucket, "test")]


def test_some_fields_hold_commas_quotes_and_other_letters(bucket: Path) -> None:
    for column in ("url", "title"):
        values = [row[column] for row in rows(bucket, "train_attribution")]
        for special in (",", '"', "é"):
            assert 0 < sum(special in value for value in values) < len(values)
    plain = (bucket / TABLE_PATHS["train"]).read_text().splitlines()[1:]
    assert 0 < sum('"' not in line for line in plain) < len(plain)


def test_the_same_size_is_the_same_bytes(bucket: Path, tmp_path: Path) -> None:
    full_size.write_bucket(tmp_path, SMALL)
    for path in TABLE_PATHS.values():
        assert (
            hashlib.sha256((tmp_path / path).read_bytes()).digest()
            == hashlib.sha256((bucket / path).read_bytes()).digest()
        )


def test_every_way_of_planning_finds_the_same_number_of_extras(tmp_path: Path) -> None:
    tables.write_inputs(tmp_path, 0.002)
    measured = {step: way(tmp_path) for step, way in tables.steps().items()}
    extras = {step: found["extras"] for step, found in measured.items() if "extras" in found}
    assert len(extras) >= 3
    assert len(set(extras.values())) == 1
    assert min(extras.values()) > 0
    assert measured["pandas: train.csv to Parquet"]["rows"] == measured["train_metadata"]["rows"] == 8_266
    assert "| fill plan from Parquet, wall s |" in tables.report(measured)
