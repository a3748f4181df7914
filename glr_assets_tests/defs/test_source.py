"""A changed source as the UI shows it: ticks of `observe_roots`, and what Dagster calls stale and why."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.definitions.observe import observe
from dagster._core.loader import LoadingContextForTest

from glr_assets.defs import observations
from glr_assets.defs.automation.roots import LOOKS, sync_roots
from glr_assets.defs.platform import Platform
from glr_assets.defs.shards import SHARDED
from glr_assets.defs.source import NODES, openimages_tables
from glr_assets.source.layout import TABLE_PATHS, md5_path, shard_path
from glr_assets.store import Store
from glr_assets_tests.automation.conftest import Desk
from glr_assets_tests.automation.tiny_shards import Shards
from glr_assets_tests.lineage import write_pooling_embedder, write_recipe

TABLES = (
    *("train_metadata", "train_attribution", "landmark_labels", "competition_train", "index_metadata", "test_metadata"),
    *("class_counts", "fill_plan"),
)
KEYS = ["000", "001", "002"]


class Scene:
    """A bucket, a store and an instance on disk, in which tables, shards and the catalog are made."""

    def __init__(self, folder: Path, recipe: Path) -> None:
        self.bucket = folder / "bucket"
        self.platform = Platform(source=str(self.bucket), store=str(folder / "store"), recipe=str(recipe))
        self.instance = dg.DagsterInstance.local_temp(str(folder / "instance"))
        self.desk = Desk(self.platform, self.instance)

    def tick(self) -> set[tuple[str, str | None]]:
        """One tick of the sensor; what it reported but for the recipe: assets and partitions."""
        self.desk.tick("observe_roots")
        events = [event for event in self.desk.events if not event.asset_key.to_user_string().startswith("recipe_")]
        return {(event.asset_key.to_user_string(), event.partition) for event in events}

    def observe(self, name: str) -> None:
        """What *Observe* on the page of a root does."""
        (root,) = (node for node in NODES if node.key.to_user_string() == name)
        assert observe([root], instance=self.instance, resources={"platform": self.platform}).success, name

    def make(self, *assets: str, keys: Sequence[str] = ()) -> bool:
        """One run of assets, over neighbouring partitions."""
        ends = zip(("start", "end"), (keys[0], keys[-1]) if keys else (), strict=False)
        tags = {f"dagster/asset_partition_range_{end}": key for end, key in ends}
        request = dg.RunRequest(asset_selection=[dg.AssetKey(name) for name in assets], tags=tags)
        return self.desk.carry_out([request])[0]

    def status(self, asset: str, key: str | None = None) -> tuple[str, list[str]]:
        """What Dagster calls an asset, and by what: `asset` or `asset/partition`, sorted."""
        resolver = CachingStaleStatusResolver(
            self.instance, self.desk.definitions.resolve_asset_graph(), LoadingContextForTest(self.instance)
        )
        causes = [
            "/".join(filter(None, (cause.dependency.asset_key.to_user_string(), cause.dependency_partition_key)))
            for cause in resolver.get_stale_causes(dg.AssetKey(asset), key)
            if cause.dependency is not None
        ]
        return resolver.get_status(dg.AssetKey(asset), key).value, sorted(causes)

    def unsynced(self) -> dict[str, list[str]]:
        """All that is made here and no longer fresh, with its causes."""
        registered = self.instance.get_dynamic_partitions("train_shards")
        names: list[tuple[str, str | None]] = [(name, None) for name in (*TABLES, "image_catalog")]
        names += [("train_images", key) for key in registered] + [("index_images", "000"), ("test_images", "000")]
        found = {"/".join(filter(None, name)): self.status(*name) for name in names}
        return {name: causes or [status] for name, (status, causes) in found.items() if status != "FRESH"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    return write_recipe(folder / "tiny.toml", write_pooling_embedder(folder / "grid.pt"), images={"min_side": 32})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Path:
    """Three train shards of four, all made and observed."""
    folder = tmp_path_factory.mktemp("scene")
    Shards(folder / "bucket", 3, of=4)
    (folder / "instance").mkdir()
    scene = Scene(folder, recipe)
    with scene.instance:
        scene.tick()
        assert scene.make(*TABLES)
        assert scene.make("train_images", keys=KEYS)
        assert scene.make("index_images", keys=["000"])
        assert scene.make("test_images", keys=["000"])
        assert scene.make("image_catalog")
    return folder


@pytest.fixture
def scene(template: Path, tmp_path: Path, recipe: Path) -> Iterator[Scene]:
    shutil.copytree(template, tmp_path / "scene")
    found = Scene(tmp_path / "scene", recipe)
    with found.instance:
        yield found


def shards_of(scene: Scene) -> Shards:
    """The bucket's shards, to be dropped into it; the bucket as it stands is left."""
    shards = Shards.__new__(Shards)
    made = Shards(scene.bucket.parent / "again", 0, of=4)
    shards.__dict__ = made.__dict__ | {"folder": scene.bucket}
    return shards


def test_what_was_made_of_observed_files_is_fresh_at_once_and_after_ticks(scene: Scene) -> None:
    assert scene.unsynced() == {}
    assert scene.tick() == set()
    assert scene.tick() == set()
    assert "nothing has changed" in scene.desk.skipped
    assert scene.unsynced() == {}


def test_a_new_shard_is_missing_and_outdates_the_catalog_that_counts_it(scene: Scene) -> None:
    shards_of(scene).drop("003")
    assert scene.tick() == {("source_train_shards", "003"), ("stored_shards", "train_images")}
    assert scene.unsynced() == {"train_images/003": ["MISSING"], "image_catalog": ["stored_shards/train_images"]}
    assert scene.make("train_images", keys=["003"])
    assert scene.make("image_catalog")
    assert scene.unsynced() == {}
    assert scene.tick() == set()
    assert scene.unsynced() == {}


def test_a_changed_shard_is_stale_alone_until_it_is_made(scene: Scene) -> None:
    shards_of(scene).drop("001", version=1)
    assert scene.tick() == {("source_train_shards", "001")}
    assert scene.unsynced() == {"train_images/001": ["source_train_shards/001"]}
    assert scene.make("train_images", keys=["001"])
    assert scene.unsynced() == {"image_catalog": ["stored_shards/train_images", "train_images/001"]}
    assert scene.tick() == set()


def test_a_touched_shard_is_reported_once_and_outdates_nothing(scene: Scene) -> None:
    os.utime(scene.bucket / shard_path("train", "001"), (1.5e9, 1.5e9))
    assert scene.tick() == {("source_train_shards", "001")}
    published = (scene.bucket / md5_path("train", "001")).read_text().split()[0]
    assert said_of(scene, "001") == f"MD5 {published} as before; its file or MD5 file was written again"
    assert scene.unsynced() == {}
    assert scene.tick() == set()


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_failed_shard_that_is_fixed_under_its_md5_has_another_version_until_it_is_made(
    scene: Scene, by_hand: bool
) -> None:
    shards = shards_of(scene)
    shards.drop("003")
    tar = scene.bucket / shard_path("train", "003")
    whole = tar.read_bytes()
    tar.write_bytes(b"x" * len(whole))
    os.utime(tar, (1.5e9, 1.5e9))
    scene.tick()
    assert not scene.make("train_images", keys=["003"])
    published = (scene.bucket / md5_path("train", "003")).read_text().split()[0]
    assert version_of(scene, "source_train_shards", "003") == published
    assert said_of(scene, "003") == f"MD5 {published}"
    tar.write_bytes(whole)
    if by_hand:
        scene.observe("source_train_shards")
    else:
        assert ("source_train_shards", "003") in scene.tick()
    fixed = version_of(scene, "source_train_shards", "003")
    assert fixed.startswith(f"{published}+")
    assert "its last run failed, so it is tried once more" in said_of(scene, "003")
    assert scene.make("train_images", keys=["003"])
    assert scene.make("image_catalog")
    scene.observe("source_train_shards")
    assert scene.tick() == set()
    assert version_of(scene, "source_train_shards", "003") == fixed
    assert scene.unsynced() == {}


def test_another_file_in_the_place_of_one_that_the_recipe_names_is_another_value(scene: Scene, recipe: Path) -> None:
    scene.tick()
    module = recipe.parent / "grid.pt"
    before = module.read_bytes()
    try:
        module.write_bytes(before + b"\n")
        scene.desk.tick("observe_roots")
    finally:
        module.write_bytes(before)
    named = {(event.asset_key.to_user_string(), event.partition) for event in scene.desk.events}
    assert named == {("recipe_embedder", "torchscript"), ("recipe_filter", "torchscript")}


def test_a_shard_is_registered_and_reported_once_its_md5_is_published(scene: Scene) -> None:
    shards_of(scene).drop("003")
    md5 = scene.bucket / md5_path("train", "003")
    text = md5.read_text()
    md5.unlink()
    for _ in range(3):
        assert ("source_train_shards", "003") not in scene.tick()
        assert "train 003: no MD5 is published yet" in scene.desk.skipped
    assert scene.instance.get_dynamic_partitions("train_shards") == KEYS
    md5.write_text(text)
    assert ("source_train_shards", "003") in scene.tick()
    assert scene.instance.get_dynamic_partitions("train_shards") == [*KEYS, "003"]
    md5.write_text("no MD5")
    scene.tick()
    assert version_of(scene, "source_train_shards", "003") == "unverifiable"


def test_a_removed_shard_is_stale_then_its_partition_goes_and_the_catalog_is_stale(scene: Scene) -> None:
    (scene.bucket / shard_path("train", "002")).unlink()
    assert scene.tick() == {("source_train_shards", "002"), ("stored_shards", "train_images")}
    assert version_of(scene, "source_train_shards", "002") == "removed"
    assert said_of(scene, "002") == "removed from the source"
    stale = {"train_images/002": ["source_train_shards/002"], "image_catalog": ["stored_shards/train_images"]}
    assert scene.unsynced() == stale
    for _ in range(LOOKS - 2):
        assert scene.tick() == set()
        assert scene.instance.get_dynamic_partitions("train_shards") == KEYS
    scene.tick()
    assert scene.instance.get_dynamic_partitions("train_shards") == KEYS[:2]
    assert scene.unsynced() == {"image_catalog": ["stored_shards/train_images"]}
    assert scene.make("image_catalog")
    assert scene.tick() == set()
    assert scene.unsynced() == {}


def test_a_removed_shard_that_comes_back_is_fresh_again(scene: Scene) -> None:
    tar = scene.bucket / shard_path("train", "002")
    kept = tar.read_bytes()
    tar.unlink()
    scene.tick()
    assert scene.unsynced()
    tar.write_bytes(kept)
    scene.tick()
    assert scene.unsynced() == {}


def test_queries_of_a_removed_test_shard_are_counted(scene: Scene) -> None:
    added = scene.bucket / shard_path("test", "001")
    added.write_bytes((scene.bucket / shard_path("test", "000")).read_bytes())
    shutil.copy(scene.bucket / md5_path("test", "000"), scene.bucket / md5_path("test", "001"))
    scene.tick()
    assert scene.make("test_images", keys=["001"])
    (scene.bucket / shard_path("test", "000")).unlink()
    added.write_bytes(b"\0" * 10240)
    (scene.bucket / md5_path("test", "001")).write_text("1276481102f218c981e0324180bafd9f  images_001.tar\n")
    scene.tick()
    assert scene.make("test_images", keys=["001"])
    assert scene.make("image_catalog")
    record = scene.instance.fetch_materializations(dg.AssetKey("image_catalog"), limit=1).records[0]
    assert record.asset_materialization is not None
    assert record.asset_materialization.metadata["test_wanted_in_no_shard"].value == 1


def test_an_outage_changes_nothing_and_says_why(scene: Scene) -> None:
    away = scene.bucket.rename(scene.bucket.with_name("away"))
    with pytest.raises(dg.Failure, match=r"no metadata/train\.csv there"):
        scene.tick()
    assert scene.unsynced() == {}
    away.rename(scene.bucket)
    assert scene.tick() == set()


def test_an_empty_listing_is_an_outage(scene: Scene) -> None:
    (scene.bucket / "train").rename(scene.bucket / "elsewhere")
    for _ in range(LOOKS + 1):
        with pytest.raises(dg.Failure, match="lists no train shard, though 3 are registered"):
            scene.tick()
    assert scene.instance.get_dynamic_partitions("train_shards") == KEYS
    assert scene.unsynced() == {}


def test_an_edited_csv_outdates_the_table_that_is_made_of_it(scene: Scene) -> None:
    csv = scene.bucket / "metadata/test.csv"
    csv.write_text(csv.read_text() + "fedcba9876543210\n")
    assert scene.tick() == {("source_test", None)}
    assert scene.unsynced() == {"test_metadata": ["source_test"]}
    assert scene.make("test_metadata")
    assert set(scene.unsynced()) == {"test_images/000", "image_catalog"}


def test_a_changed_value_of_the_recipe_is_reported_by_the_same_sensor(scene: Scene, tmp_path: Path) -> None:
    text = Path(str(scene.platform.recipe)).read_text()
    (tmp_path / "other.toml").write_text(text.replace("min_side = 32", "min_side = 33"))
    scene.desk.platform = Platform(
        source=scene.platform.source, store=scene.platform.store, recipe=str(tmp_path / "other.toml")
    )
    scene.desk.tick("observe_roots")
    assert [(event.asset_key.to_user_string(), event.partition) for event in scene.desk.events] == [
        ("recipe_images", "min_side")
    ]
    assert scene.unsynced() == {
        f"{split}_images/{key}": ["recipe_images/min_side"]
        for split, keys in {"train": KEYS, "index": ["000"], "test": ["000"]}.items()
        for key in keys
    }


def test_more_changes_than_a_tick_takes_are_reported_by_the_next(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glr_assets.defs.automation.roots.MAX_EVENTS", 2)
    for key in KEYS:
        os.utime(scene.bucket / shard_path("train", key), (1.5e9, 1.5e9))
    assert [len(scene.tick()) for _ in range(3)] == [2, 1, 0]


def test_a_partition_that_was_deleted_by_hand_is_registered_again(scene: Scene) -> None:
    scene.tick()
    scene.instance.delete_dynamic_partition("train_shards", "001")
    scene.tick()
    assert set(scene.instance.get_dynamic_partitions("train_shards")) == set(KEYS)


def test_a_lost_cursor_reports_nothing_twice(scene: Scene) -> None:
    scene.tick()
    scene.desk.cursors.clear()
    assert scene.tick() == set()
    scene.desk.cursors["observe_roots"] = "not JSON"
    assert scene.tick() == set()


def test_wiped_observations_are_reported_again_by_the_process_that_read_them(scene: Scene) -> None:
    node = dg.AssetKey("source_train_shards")
    assert scene.tick() == set()
    scene.instance.wipe_assets([node])
    scene.desk.cursors.clear()
    assert scene.tick() == {(node.to_user_string(), key) for key in KEYS}
    shutil.rmtree(scene.bucket.parent / "instance")
    (scene.bucket.parent / "instance").mkdir()
    with dg.DagsterInstance.local_temp(str(scene.bucket.parent / "instance")) as another:
        scene.desk.instance = another
        scene.desk.cursors.clear()
        assert {(node.to_user_string(), key) for key in KEYS} < scene.tick()


def test_later_looks_read_no_earlier_observation(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.tick()
    read: list[int] = []
    fetch = dg.DagsterInstance.fetch_observations

    def counted(*arguments: Any, **options: Any) -> Any:
        found = fetch(*arguments, **options)
        read.append(len(found.records))
        return found

    monkeypatch.setattr(dg.DagsterInstance, "fetch_observations", counted)
    monkeypatch.setattr(observations, "_PAGE", 1)
    shards_of(scene).drop("001", version=2)
    assert scene.tick() == {("source_train_shards", "001")}
    assert max(read) == 1  # of all roots that have no partitions, and of each split the newest
    assert sum(read) <= len(TABLE_PATHS) + len(openimages_tables()) + 3


def test_syncing_by_hand_reports_what_a_tick_would(scene: Scene) -> None:
    shards_of(scene).drop("003")
    synced = sync_roots(scene.platform.settings(), scene.instance)
    assert synced.added == {"train": ["003"], "index": [], "test": []}
    assert (synced.observations, synced.problems) == (2, [])
    assert scene.tick() == set()


def test_the_sharded_assets_are_those_of_the_graph_and_fan_ins_depend_on_all_their_shards(scene: Scene) -> None:
    graph = scene.desk.definitions.resolve_asset_graph()
    sharded = {
        node.key.to_user_string(): node.partitions_def
        for node in graph.asset_nodes
        if node.is_materializable and node.is_partitioned
    }
    assert sharded == SHARDED
    for node in graph.asset_nodes:
        if not node.is_materializable:
            continue
        parents = {key.to_user_string() for key in node.parent_keys}
        whole = {name for name in parents & sharded.keys() if sharded[name] != node.partitions_def}
        assert ("stored_shards" in parents) == bool(whole), node.key
        if whole:
            mapping = node.partition_mappings[dg.AssetKey("stored_shards")]
            assert isinstance(mapping, dg.SpecificPartitionsPartitionMapping)
            assert set(mapping.partition_keys) == whole, node.key


def said_of(scene: Scene, shard: str) -> str:
    """The description of the last observation of a train shard, as the UI shows it."""
    key = dg.AssetKey("source_train_shards")
    records = scene.instance.fetch_observations(
        dg.AssetRecordsFilter(asset_key=key, asset_partitions=[shard]), limit=1
    ).records
    observation = records[0].asset_observation
    assert observation is not None
    return str(observation.description)


def version_of(scene: Scene, asset: str, key: str | None) -> str:
    """The last reported data version."""
    record = scene.instance.get_latest_data_version_record(dg.AssetKey(asset), is_source=True, partition_key=key)
    assert record is not None
    assert record.asset_observation is not None
    return (record.asset_observation.tags or {})["dagster/data_version"]


def test_observing_a_root_by_hand_reports_what_a_tick_would(scene: Scene) -> None:
    shards_of(scene).drop("003")
    with (scene.bucket / "metadata/test.csv").open("a") as csv:
        csv.write("fedcba9876543210\n")
    scene.instance.add_dynamic_partitions("train_shards", ["003"])
    for name in ("source_test", "source_train_shards", "stored_shards", "source_openimages_test_boxes"):
        scene.observe(name)
    assert scene.tick() == set()
    assert scene.unsynced() == {
        "train_images/003": ["MISSING"],
        "image_catalog": ["stored_shards/train_images"],
        "test_metadata": ["source_test"],
    }


def test_the_same_is_seen_in_s3(
    template: Path, tmp_path: Path, recipe: Path, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"endpoint_url": s3_endpoint}
    for kind in ("SOURCE", "STORE"):
        monkeypatch.setenv(f"GLR_{kind}_OPTIONS", json.dumps(options))
    root = f"roots-{uuid.uuid4().hex}"
    bucket = Store(f"s3://{root}/source", options)
    bucket.fs.mkdir(root)
    for file in sorted(path for path in (template / "bucket").rglob("*") if path.is_file()):
        bucket.write(file.relative_to(template / "bucket").as_posix(), file.read_bytes())
    (tmp_path / "instance").mkdir()
    scene = Scene(tmp_path, recipe)
    platform = Platform(source=bucket.url, store=f"s3://{root}/store", recipe=str(recipe))
    scene.desk.platform = platform
    with scene.instance:
        assert ("source_train_shards", "002") in scene.tick()
        etag = version_of(scene, "source_test", None)
        assert (scene.tick(), scene.desk.skipped.split(" in ")[0]) == (set(), "nothing has changed")
        bucket.write("metadata/test.csv", b"id\nfedcba9876543210\n")
        bucket.remove(shard_path("train", "001"))
        assert scene.tick() == {
            ("source_test", None),
            ("source_train_shards", "001"),
            ("stored_shards", "train_images"),
        }
        assert version_of(scene, "source_test", None) != etag
        assert version_of(scene, "source_test", None) == platform.open_source().table_digest("test")
        assert version_of(scene, "source_train_shards", "001") == "removed"
