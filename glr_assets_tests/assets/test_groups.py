"""The groups as assets: one partition, a range, an empty group, a run that goes on, and the calibration behind them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from glr_assets.defs.platform import Platform
from glr_assets.defs.shards import GROUPS, counted_parts, sync_counted_parts
from glr_assets.errors import MissingInputError
from glr_assets.images.reader import ImageReader
from glr_assets.receipts import need_receipt
from glr_assets.recipes import load_recipe
from glr_assets.store import Store
from glr_assets.tables import read_table, stored_problems
from glr_assets.training.group_calibration import open_groups
from glr_assets.training.kept import StoredCheckpoint
from glr_assets.training.schemas import GROUP_CALIBRATION, TRAINING_GROUPS
from glr_assets_tests.assets.conftest import Runner
from glr_assets_tests.assets.test_shards import latest, materialized
from glr_assets_tests.lineage import digests, write_pooling_embedder, write_recipe

KEYS = ("00", "01", "02")


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four landmarks of five or six images: the first group is empty, the others have two each."""
    folder = tmp_path_factory.mktemp("recipe")
    values = {"count": 3, "smallest": 2, "first": 2, "image_size": 32, "epochs": 2, "batch_size": 4}
    embedder = write_pooling_embedder(folder / "grid.pt")
    return write_recipe(folder / "quick.toml", embedder, execution={"device": "cpu"}, groups=values)


def test_partitions_are_those_that_the_recipe_counts(platform: Platform) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        recipe = platform.load_recipe()
        assert sync_counted_parts(instance, recipe) == {"class_buckets": 4, "training_groups": 3, "openimages_parts": 2}
        assert list(instance.get_dynamic_partitions(str(GROUPS.name))) == list(KEYS)
        fewer = recipe.overridden({"groups": {"count": 2}})
        sync_counted_parts(instance, fewer)
        assert list(instance.get_dynamic_partitions(str(GROUPS.name))) == ["00", "01"]
        assert dict(counted_parts(load_recipe("full")))[GROUPS] == [f"{n:02d}" for n in range(11)]


def test_groups_are_trained_one_or_all_calibrated_and_answer(
    run: Runner, platform: Platform, instance: dg.DagsterInstance
) -> None:
    run.curated()
    store = platform.open_store()
    early = run("group_classifiers", shard="01")
    assert "training_groups has not been made" in str(early.all_node_events)
    assert run("training_groups").success
    assert stored_problems(store, TRAINING_GROUPS) == []

    assert run("group_classifiers", shard="01").success
    assert materialized(instance, "group_classifiers") == {"01"}
    event = latest(instance, "group_classifiers", "01")
    assert event.metadata["landmarks"].value == 2
    assert "picture curves" in event.metadata
    assert str(event.metadata["text card"].value).startswith("# Landmark classifier of group 01")
    (seen,) = instance.fetch_observations(
        dg.AssetRecordsFilter(dg.AssetKey("group_classifiers"), asset_partitions=["01"]), limit=9
    ).records
    assert seen.asset_observation is not None
    assert seen.asset_observation.metadata["epoch"].value == 1
    assert (event.tags or {})["dagster/data_version"] == need_receipt(store, "group_classifiers/01").digest
    unfinished = run("group_calibration")
    assert "group_classifiers/00 has not been made" in str(unfinished.all_node_events)

    assert run("group_classifiers", shards=(KEYS[0], KEYS[-1])).success
    assert materialized(instance, "group_classifiers") == set(KEYS)
    told = {key: latest(instance, "group_classifiers", key).metadata for key in KEYS}
    assert [told[key]["done_before"].value for key in KEYS] == [False, True, False]
    assert (told["00"]["trained"].value, told["00"]["reason"].value) == (False, "the group is empty")
    assert told["02"]["trained"].value is True
    assert "picture curves" in told["02"]

    assert run("group_calibration").success
    assert stored_problems(store, GROUP_CALIBRATION) == []
    _calibrated(store, platform)

    # Other groups make what was trained on these out of date.
    assert run("training_groups", config={"seed": 5}).success
    stale = run("group_calibration")
    assert "group_classifiers/00 in" in str(stale.all_node_events)
    assert "is of earlier training_groups" in str(stale.all_node_events)


def _calibrated(store: Store, platform: Platform) -> None:
    """The table, its report and the recogniser tell the same."""
    rows = read_table(store, GROUP_CALIBRATION).to_pylist()
    groups = {row["id"]: row for row in read_table(store, TRAINING_GROUPS).to_pylist()}
    held = {image_id for image_id, row in groups.items() if row["fold"] in {"calibration", "validation"}}
    assert {row["id"] for row in rows if row["landmark_id"] is not None} == held
    assert all(row["fold"] == groups[row["id"]]["fold"] for row in rows if row["id"] in groups)
    strangers = [row for row in rows if row["landmark_id"] is None]
    assert strangers
    report = json.loads(store.read("reports/group_calibration.json"))
    judged = [row for row in rows if row["fold"] == "validation"]
    assert report["images"] == len(judged)
    landmarks = [row for row in judged if row["landmark_id"] is not None]
    for way, answer in (("calibrated", "answer"), ("raw", "raw_answer")):
        right = sum(row[answer] == row["landmark_id"] for row in landmarks)
        assert report[way]["top1"] == pytest.approx(right / len(landmarks))
    assert report["reject"]["accepted"] == sum(row["probability"] >= 0.5 for row in judged)

    reader = ImageReader.of_split(store, "train")
    asked = landmarks[:3]
    calibrated, raw = open_groups(store, platform.load_recipe())(reader.read(row["id"]) for row in asked)
    assert calibrated.landmark_ids.tolist() == [row["answer"] for row in asked]
    np.testing.assert_allclose(calibrated.probability, [row["probability"] for row in asked], atol=1e-5)
    assert raw.landmark_ids.tolist() == [row["raw_answer"] for row in asked]


def test_a_run_that_was_cut_goes_on_from_its_checkpoint(
    run: Runner, platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run.curated()
    assert run("training_groups").success
    store = Path(str(platform.store))
    shutil.copytree(store, tmp_path / "undisturbed")
    kept = StoredCheckpoint.save

    def crashing(self: StoredCheckpoint, path: Path) -> None:
        kept(self, path)
        raise MemoryError("out of memory")

    with monkeypatch.context() as crash:
        crash.setattr(StoredCheckpoint, "save", crashing)
        assert not run("group_classifiers", shard="02").success
    (checkpoint,) = (store / "models" / "group_classifiers" / "02").glob("*/*")
    saves: list[Path] = []
    monkeypatch.setattr(StoredCheckpoint, "save", lambda self, path: (saves.append(path), kept(self, path)))
    assert run("group_classifiers", shard="02").success
    assert len(saves) == 1
    assert not checkpoint.exists()
    undisturbed = Platform(source=platform.source, store=str(tmp_path / "undisturbed"), recipe=platform.recipe)
    assert Runner(undisturbed, run.instance)("group_classifiers", shard="02").success
    trees = ("models", "receipts/group_classifiers")
    assert digests(store, *trees) == digests(tmp_path / "undisturbed", *trees)


def test_a_store_of_small_landmarks_alone_is_finished_and_says_so(run: Runner, platform: Platform) -> None:
    run.curated()
    small = {"groups": {"smallest": 90, "first": 90}}
    assert run("training_groups", config=small).success
    assert run("group_classifiers", shards=(KEYS[0], KEYS[-1])).success
    assert run("group_calibration").success
    store = platform.open_store()
    assert need_receipt(store, "group_calibration").summary["reason"] == "no group has a classifier"
    assert read_table(store, GROUP_CALIBRATION).num_rows == 0
    with pytest.raises(MissingInputError, match="calibrated nothing: no group has a classifier"):
        open_groups(store, platform.load_recipe())
