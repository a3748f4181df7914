"""The other commands, and what the user reads when something is wrong: one line, exit status 1, nothing written."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from glr_assets_tests.integration.conftest import Glr


def refused(done: object) -> str:
    """The one line of a refusal."""
    assert done.returncode == 1  # type: ignore[attr-defined]
    lines = done.stderr.strip().splitlines()  # type: ignore[attr-defined]
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, lines
    assert "Traceback" not in done.stderr  # type: ignore[attr-defined]
    return str(errors[0])


@pytest.fixture
def broken(bucket: str, tmp_path: Path) -> Path:
    copy = tmp_path / "broken"
    shutil.copytree(bucket, copy)
    return copy


def test_the_version_is_that_of_the_package(glr: Glr) -> None:
    done = glr("--version")
    assert (done.returncode, done.stdout) == (0, f"glr {metadata.version('glr-assets')}\n")


def test_a_missing_bucket(glr: Glr, tmp_path: Path) -> None:
    line = refused(glr("demo", "--source", str(tmp_path / "nowhere"), "--store", "store"))
    assert "nowhere" in line
    assert "GLR_SOURCE" in line
    assert not (tmp_path / "store").exists()


def test_an_unknown_recipe_key_names_it_and_the_known_ones(glr: Glr, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text('base = "small"\n[dedupe]\nkeeps = 3\n')
    line = refused(glr("demo", "--source", bucket, "--store", "store", "--recipe", "wrong.toml"))
    assert "[dedupe] keeps" in line
    assert "keep, sample" in line
    assert not (tmp_path / "store").exists()


def test_a_table_that_lacks_a_column(glr: Glr, broken: Path, quick: str) -> None:
    path = broken / "metadata" / "train.csv"
    path.write_text(path.read_text().replace("landmark_id", "landmark", 1))
    line = refused(glr("demo", "--source", str(broken), "--store", "store", "--recipe", quick))
    assert "train.csv" in line
    assert "landmark_id" in line


def test_a_shard_of_the_wrong_md5(glr: Glr, broken: Path, quick: str, tmp_path: Path) -> None:
    path = broken / "train" / "images_001.tar"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    line = refused(glr("demo", "--source", str(broken), "--store", "store", "--recipe", quick))
    assert "images_001.tar" in line
    assert "MD5" in line
    assert not (tmp_path / "store" / "images" / "train" / "001.tar").exists()
    assert not list((tmp_path / "store").rglob("*.part"))
    assert (tmp_path / "store" / "images" / "train" / "002.tar").exists()


def test_a_truncated_shard(glr: Glr, broken: Path, quick: str) -> None:
    path = broken / "index" / "images_000.tar"
    path.write_bytes(path.read_bytes()[:-5000])
    line = refused(glr("demo", "--source", str(broken), "--store", "store", "--recipe", quick))
    assert "index/images_000.tar" in line


def test_a_store_that_cannot_be_written(glr: Glr, bucket: str, quick: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    line = refused(glr("demo", "--source", bucket, "--store", str(tmp_path / "file" / "store"), "--recipe", quick))
    assert "file/store" in line


def test_options_that_are_no_json(glr: Glr, bucket: str) -> None:
    line = refused(glr("demo", "--source", bucket, GLR_STORE_OPTIONS="anon=true"))
    assert "GLR_STORE_OPTIONS" in line


def test_files_that_are_no_images_are_rows_not_errors(glr: Glr, photos: Path, quick: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    landmark = sorted(path for path in folder.iterdir() if path.is_dir())[0]
    (landmark / "broken.jpg").write_bytes(b"not a photograph at all")
    packed = glr("pack", str(folder), "packed", "--test-fraction", "0.2")
    assert packed.returncode == 0, packed.stderr
    assert "broken.jpg" in packed.stderr
    assert "broken.jpg,left out" in (tmp_path / "packed" / "files.csv").read_text()
    done = glr("demo", "--source", "packed", "--store", "store", "--recipe", quick, "--json", "out.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["images"]["corrupt"] == 0


def test_pack_demo_why_and_score(glr: Glr, photos: Path, quick: str, tmp_path: Path) -> None:
    packed = glr("pack", str(photos), "packed", "--shards", "2", "--clean-fraction", "0.5")
    assert packed.returncode == 0, packed.stderr
    assert glr("demo", "--source", "packed", "--store", "store", "--recipe", quick).returncode == 0
    first = (tmp_path / "packed" / "metadata" / "train.csv").read_text().splitlines()[1].split(",")[0]
    told = glr("why", first, "--store", "store")
    assert told.returncode == 0, told.stderr
    assert "train_manifest" in told.stdout
    (story,) = json.loads(glr("why", first, "--store", "store", "--json").stdout)
    assert story["id"] == first
    told_by = [decision["asset"] for decision in story["decisions"]]
    assert told_by[-2:] == ["cleaned_manifest", "non_landmark_filter"]
    assert {"deduped_manifest", "train_extra"} & set(told_by)
    assert "no table" in refused(glr("why", "0000", "--store", "store"))
    assert "embedder has not been made" in refused(glr("models", "--store", "nowhere"))
    scored = glr(
        "score",
        "recognition",
        "--submission",
        "store/submissions/submission.csv",
        "--solution",
        "packed/ground_truth/recognition_solution_v2.1.csv",
        "--json",
        "scores.json",
    )
    assert scored.returncode == 0, scored.stderr
    assert "gap" in json.loads((tmp_path / "scores.json").read_text())
    wrong = glr("score", "retrieval", "--submission", "nowhere.csv", "--solution", "nowhere.csv")
    assert "nowhere.csv" in refused(wrong)


def test_shards_sync_registers_partitions_once(glr: Glr, bucket: str, tmp_path: Path) -> None:
    assert "DAGSTER_HOME" in refused(glr("shards", "sync", "--source", bucket, "--store", "s3://bucket/store"))
    home = tmp_path / "home"
    home.mkdir()
    first = glr("shards", "sync", "--source", bucket, DAGSTER_HOME=str(home))
    assert first.returncode == 0, first.stderr
    assert "train: 4 added, 4 registered" in first.stdout
    assert "openimages parts: 2 registered" in first.stdout
    again = glr("shards", "sync", "--source", bucket, DAGSTER_HOME=str(home))
    assert "train: 0 added, 4 registered" in again.stdout


def test_help_names_every_command(glr: Glr) -> None:
    shown = glr("--help").stdout
    assert all(command in shown for command in ("demo", "sample", "pack", "shards", "why", "models", "score"))
