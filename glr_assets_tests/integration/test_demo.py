"""The whole lineage by the command line: what it makes, that it repeats, and that it picks up where it was."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest

from glr_assets.defs.build import ASSETS
from glr_assets.evaluation.score import score_recognition, score_retrieval
from glr_assets_tests.integration.conftest import Glr
from glr_assets_tests.lineage import digests, write_pooling_embedder, write_recipe

TREES = ("metadata", "manifests", "images", "embeddings", "index", "submissions", "reports")


def test_a_bucket_becomes_a_scored_submission(glr: Glr, bucket: str, training: str, tmp_path: Path) -> None:
    done = glr("demo", "--source", f"file://{bucket}", "--store", "store", "--recipe", training, "--json", "out.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    store = tmp_path / "store"
    assert 0 <= report["gap"] <= 1
    assert set(report["controls"]) == {"untrained embedder", "pixel neighbours", "dhash neighbours"}
    images = report["images"]
    assert images["seen"] == images["stored"] + images["corrupt"]
    assert images["train"] == images["deduped"] + images["extra"] == 24
    assert report["seconds"].keys() >= {"train_metadata", "train_images", "embedder", "faiss_index", "evaluation"}
    assert report["store"].endswith("/store")
    truth = Path(bucket) / "ground_truth"
    recognition = score_recognition(store / "submissions" / "submission.csv", truth / "recognition_solution_v2.1.csv")
    retrieval = score_retrieval(
        store / "submissions" / "retrieval_submission.csv", truth / "retrieval_solution_v2.1.csv"
    )
    assert report["gap"] == pytest.approx(recognition.gap)
    assert report["top1"] == pytest.approx(recognition.top1)
    assert report["map100"] == pytest.approx(retrieval.map100)
    with (Path(bucket) / "metadata" / "test.csv").open() as file:
        asked = [row["id"] for row in csv.DictReader(file)]
    with (store / "submissions" / "submission.csv").open() as file:
        assert sorted(row["id"] for row in csv.DictReader(file)) == sorted(asked)
    pictures = ("class_counts.png", "fill_potential.png", "evaluation_scores.png", "evaluation_answers.jpg")
    for picture in (*pictures, "landmarks_best_worst.png", "class_sizes.png", "model_comparison.png"):
        assert (store / "reports" / picture).stat().st_size > 1000
    (model,) = (store / "models" / "embedder").iterdir()
    names = {"embedder.pt", "embedder.onnx", "network.safetensors", "config.json", "curves.png", "card.md"}
    assert names <= {path.name for path in model.iterdir()}
    shown = glr("models", "--store", "store")
    assert shown.returncode == 0, shown.stderr
    assert f"{model.name[:8]} *" in shown.stdout
    (version,) = json.loads(glr("models", "--store", "store", "--json").stdout)
    assert (version["version"], version["gap"]) == (model.name, pytest.approx(recognition.gap))


def test_the_same_bytes_for_one_worker_or_two_and_a_second_run_does_nothing(
    glr: Glr, bucket: str, tmp_path: Path
) -> None:
    embedder = write_pooling_embedder(tmp_path / "grid.pt")
    for workers in (1, 2):
        recipe = write_recipe(tmp_path / f"w{workers}.toml", embedder, execution={"workers": workers})
        done = glr("demo", "--source", bucket, "--store", f"store{workers}", "--recipe", str(recipe))
        assert done.returncode == 0, done.stderr
    first = digests(tmp_path / "store1", *TREES)
    assert digests(tmp_path / "store2", *TREES) == first
    store = tmp_path / "store1"

    def times() -> dict[Path, int]:
        # Dagster keeps the histories of both runs.
        files = (path for path in store.rglob("*") if path.is_file() and ".dagster" not in path.parts)
        return {path: path.stat().st_mtime_ns for path in files}

    with dg.DagsterInstance.from_config(str(store / ".dagster")) as instance:
        runs = instance.get_runs()
    assert {run.job_name for run in runs} == {"__ASSET_JOB"}
    # Assets that follow each other and have the same partitions share a run.
    assert len(runs) < 25
    assert {run.tags["glr/asked_by"] for run in runs} == {"glr demo"}
    assert {run.tags["glr/first_run"] for run in runs} == {runs[-1].run_id}
    before = times()
    again = glr("demo", "--source", bucket, "--store", "store1", "--recipe", str(tmp_path / "w1.toml"))
    assert again.returncode == 0, again.stderr
    assert times() == before
    with dg.DagsterInstance.from_config(str(store / ".dagster")) as instance:
        assert instance.get_runs_count() == len(runs)
    assert again.stderr.strip() == f"{len(ASSETS)} assets are up to date"


def test_a_killed_demo_goes_on_and_ends_with_the_same_bytes(
    glr: Glr, bucket: str, training: str, tmp_path: Path
) -> None:
    arguments = ("demo", "--source", bucket, "--recipe", training)
    assert glr(*arguments, "--store", "undisturbed").returncode == 0
    assert glr.killed(4.0, *arguments, "--store", "disturbed")
    done = glr(*arguments, "--store", "disturbed")
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "disturbed") == digests(tmp_path / "undisturbed")
    with dg.DagsterInstance.from_config(str(tmp_path / "disturbed" / ".dagster")) as instance:
        assert [run.run_id for run in instance.get_runs() if not run.is_finished] == []


def test_a_demo_that_goes_on_fails_the_run_that_was_killed(glr: Glr, bucket: str, quick: str, tmp_path: Path) -> None:
    arguments = ("demo", "--source", bucket, "--recipe", quick, "--store", "store")
    database = tmp_path / "store" / ".dagster" / "history" / "runs.db"

    def runs() -> dict[str, str]:
        if not database.exists():
            return {}
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=0.1)) as connection:
            try:
                return dict(connection.execute("SELECT run_id, status FROM runs"))
            except sqlite3.OperationalError:  # being written
                return {}

    process = glr.begun(*arguments)
    try:
        while True:  # stopped while it is looked at, so that it does not finish meanwhile
            time.sleep(0.2)
            assert process.poll() is None
            os.killpg(process.pid, signal.SIGSTOP)
            started = [run_id for run_id, status in runs().items() if status == "STARTED"]
            if started:
                break
            os.killpg(process.pid, signal.SIGCONT)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (lost,) = started
    done = glr(*arguments)
    assert done.returncode == 0, done.stderr
    assert "marked as failed: 1 unfinished run of a killed process" in done.stderr
    after = runs()
    assert after.pop(lost) == "FAILURE"
    assert set(after.values()) == {"SUCCESS"}


def test_a_kaggle_folder_without_solutions_gives_a_submission_and_no_score(
    glr: Glr, photos: Path, quick: str, tmp_path: Path
) -> None:
    folder = tmp_path / "kaggle"
    rows = []
    landmarks = sorted(path for path in photos.iterdir() if path.is_dir())
    for number, landmark in enumerate(landmarks):
        for place, path in enumerate(sorted(landmark.glob("*.jpg"))):
            image_id = f"{number}{place:x}{number:x}0000000000000"
            split = "test" if place < 2 else "train"
            target = folder / split / image_id[0] / image_id[1] / image_id[2] / f"{image_id}.jpg"
            target.parent.mkdir(parents=True)
            target.write_bytes(path.read_bytes())
            rows.append((split, image_id, number))
    (folder / "train.csv").write_text(
        "id,landmark_id\n" + "".join(f"{i},{n}\n" for split, i, n in rows if split == "train")
    )
    (folder / "sample_submission.csv").write_text(
        "id,landmarks\n" + "".join(f"{i},0 0.0\n" for split, i, n in rows if split == "test")
    )
    done = glr("demo", "--source", f"kaggle://{folder}", "--store", "store", "--recipe", quick, "--json", "out.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["gap"] is None
    assert report["images"]["test"] == 2 * len(landmarks)
    lines = (tmp_path / "store" / "submissions" / "submission.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * len(landmarks)


@pytest.mark.slow
def test_kills_at_five_random_moments_end_with_the_bytes_of_an_undisturbed_run(
    glr: Glr, bucket: str, training: str, tmp_path: Path
) -> None:
    import random

    arguments = ("demo", "--source", bucket, "--recipe", training)
    began = time.monotonic()
    assert glr(*arguments, "--store", "undisturbed").returncode == 0
    lasted = time.monotonic() - began
    expected = digests(tmp_path / "undisturbed")
    moments = random.Random(20_261_121)
    for number in range(5):
        store = f"disturbed{number}"
        while not glr.killed(moments.uniform(0.15, 0.95) * lasted, *arguments, "--store", store):
            pass
        done = glr(*arguments, "--store", store)
        assert done.returncode == 0, done.stderr
        assert digests(tmp_path / store) == expected
