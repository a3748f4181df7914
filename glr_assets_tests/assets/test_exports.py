"""The two packages as assets: what Dagster is told of them, and that finished work is known."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import dagster as dg
import pytest

from glr_assets.curation.schemas import TRAIN_MANIFEST
from glr_assets.defs.platform import Platform
from glr_assets.receipts import need_receipt
from glr_assets.tables import read_table
from glr_assets_tests.assets.conftest import Runner

PACKAGES = ("train_tfrecords", "train_zip")


def materialized(result: dg.ExecuteInProcessResult, asset: str) -> dg.AssetMaterialization:
    (event,) = result.asset_materializations_for_node(asset)
    return event


def test_packages_are_told_in_figures_and_known_when_they_are_done(
    run: Runner, platform: Platform, tmp_path: Path
) -> None:
    run.curated()
    first, second = run(*PACKAGES), run(*PACKAGES)
    assert first.success
    assert second.success
    store = platform.open_store()
    images = read_table(store, TRAIN_MANIFEST, ["id"]).num_rows
    for name in PACKAGES:
        event = materialized(first, name)
        metadata = event.metadata
        assert metadata["rows"].value == metadata["dagster/row_count"].value == images
        assert metadata["landmarks"].value == 4
        assert metadata["without_author_or_licence"].value == images, "packed without credits: nothing is invented"
        assert metadata["fewest_images_of_a_landmark"].value <= metadata["most_images_of_a_landmark"].value
        assert metadata["done_before"].value is False
        assert metadata["run: images_written"].value == images
        assert any(path.startswith(f"exports/{name}/train") for path in metadata["files"].value)
        assert materialized(second, name).metadata["done_before"].value is True
        assert event.tags is not None
        assert event.tags["dagster/data_version"] == need_receipt(store, name).digest
    with zipfile.ZipFile(tmp_path / "store/exports/train_zip/train.zip") as archive:
        assert len([member for member in archive.namelist() if member.endswith(".jpg")]) == images


def test_the_launchpad_overrides_the_recipe(run: Runner, platform: Platform, tmp_path: Path) -> None:
    run.curated()
    result = run("train_tfrecords", config={"exports": {"order": "balanced", "images_per_shard": 7}, "seed": 5})
    assert result.success
    index = json.loads((tmp_path / "store/exports/train_tfrecords/export.json").read_text())
    assert (index["order"], index["images_per_shard"], index["seed"]) == ("balanced", 7, 5)
    assert len(index["files"]) == -(-index["images"] // 7)
    with pytest.raises(dg.DagsterInvalidConfigError, match="not in enum type one of shuffled, balanced, id got sorted"):
        run("train_zip", config={"exports": {"order": "sorted"}})


@pytest.mark.parametrize("name", PACKAGES)
def test_damaged_images_fail_the_asset_by_name(run: Runner, platform: Platform, tmp_path: Path, name: str) -> None:
    run.curated()
    shard = tmp_path / "store/images/train/000.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    result = run(name)
    assert not result.success
    (failure,) = [event for event in result.all_node_events if event.is_step_failure]
    assert "stored images cannot be read" in str(failure.step_failure_data.error)
