"""The assets of Open Images in Dagster: parts one by one and as a range, after a crash, by the launchpad's values."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from glr_assets.defs.platform import Platform
from glr_assets.defs.shards import OPENIMAGES_PARTS, sync_counted_parts
from glr_assets.openimages import images
from glr_assets.openimages.schemas import OPENIMAGES_CLASSIFIER_DATASET, OPENIMAGES_IMAGES
from glr_assets.tables import read_table
from glr_assets_tests.assets.conftest import Runner
from glr_assets_tests.lineage import digests

FOLDERS = ("metadata", "openimages", "manifests", "reports", "receipts")


def test_a_range_and_single_parts_leave_the_same_bytes_and_figures_of_their_own(
    run: Runner, platform: Platform, instance: dg.DagsterInstance
) -> None:
    run.openimages()
    store = platform.open_store()
    root = Path(store.path(""))
    whole = digests(root, *FOLDERS)
    keys = list(instance.get_dynamic_partitions(str(OPENIMAGES_PARTS.name)))
    for key in keys:
        asked = dg.AssetRecordsFilter(dg.AssetKey("openimages_images"), asset_partitions=[key])
        event = instance.fetch_materializations(asked, limit=1).records[0].asset_materialization
        assert event is not None
        told = event.metadata["requested"].value
        assert told == read_table(store, OPENIMAGES_IMAGES, part=key).num_rows
        assert told == event.metadata["obtained"].value + event.metadata["missing"].value  # type: ignore[operator]
    for receipt in root.glob("receipts/openimages_*/*.json"):
        receipt.unlink()
    (root / "receipts/openimages_classifier_dataset.json").unlink()
    config: dict[str, object] = {"execution": {"workers": 3}}
    for key in reversed(keys):
        assert run("openimages_images", shard=key, config=config).success
    assert run("openimages_classifier_dataset", config=config).success
    assert digests(root, *FOLDERS) == whole


def test_a_crash_in_a_range_keeps_what_was_finished(
    run: Runner, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("openimages_annotations").success
    original = images.make_openimages_images

    def crashing(root: object, store: object, part: str, *more: object) -> object:
        if part == "01":
            raise RuntimeError("the machine is gone")
        return original(root, store, part, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(images, "make_openimages_images", crashing)
    assert not run("openimages_images", shards=("00", "01")).success
    monkeypatch.setattr(images, "make_openimages_images", original)
    assert run("openimages_images", shards=("00", "01")).success
    done = {}
    for key in ("00", "01"):
        asked = dg.AssetRecordsFilter(dg.AssetKey("openimages_images"), asset_partitions=[key])
        event = instance.fetch_materializations(asked, limit=1).records[0].asset_materialization
        assert event is not None
        done[key] = event.metadata["done_before"].value
    assert done == {"00": True, "01": False}


def test_the_page_shows_a_sheet_of_each_category(run: Runner, platform: Platform) -> None:
    run.openimages()
    asked = dg.AssetRecordsFilter(dg.AssetKey("openimages_classifier_dataset"))
    event = run.instance.fetch_materializations(asked, limit=1).records[0].asset_materialization
    assert event is not None
    shown = {name for name in event.metadata if name.startswith("picture ")}
    assert shown == {
        f"picture {name}"
        for name in ("animal", "food", "hamburger", "hot_dog", "person", "sandwich", "text", "tree", "water")
    }
    assert all("base64" in str(event.metadata[name].value) for name in shown)
    rows = read_table(platform.open_store(), OPENIMAGES_CLASSIFIER_DATASET).num_rows
    assert event.metadata["dagster/row_count"].value == rows


def test_values_of_the_launchpad_are_used_and_unknown_categories_stop(run: Runner, platform: Platform) -> None:
    categories = ["Hot dog", "Hamburger"]
    assert run("openimages_annotations", config={"openimages": {"categories": categories}}).success
    assert run("openimages_images", shards=("00", "01")).success
    wanted: dict[str, object] = {"openimages": {"categories": categories, "size": 16}}
    assert run("openimages_classifier_dataset", config=wanted).success
    data = read_table(platform.open_store(), OPENIMAGES_CLASSIFIER_DATASET)
    assert set(data["category"].to_pylist()) == {"Hot dog", "Hamburger"}
    failed = run("openimages_annotations", config={"openimages": {"categories": ["hot dog"]}})
    assert not failed.success
    assert "nearest: Hot dog" in str(failed.all_node_events)


def test_parts_are_those_of_the_recipe(platform: Platform) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for parts in (3, 12, 2):
            sync_counted_parts(instance, platform.load_recipe().overridden({"openimages": {"parts": parts}}))
            known = list(instance.get_dynamic_partitions(str(OPENIMAGES_PARTS.name)))
            assert known == [f"{number:02d}" for number in range(parts)]


def test_a_root_of_the_platform_is_read(run: Runner, platform: Platform, tmp_path: Path) -> None:
    elsewhere = Platform(
        source=platform.source, store=platform.store, openimages=str(tmp_path / "nowhere"), recipe=platform.recipe
    )
    failed = Runner(elsewhere, run.instance)("openimages_annotations")
    assert not failed.success
    assert "GLR_OPENIMAGES" in str(failed.all_node_events)
