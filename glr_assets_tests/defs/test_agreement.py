"""Dagster's staleness and what runs would make agree after any changes of source, recipe, code and store.

What Dagster calls stale is what a run would make, for every asset and partition, once the sensor `observe_roots` has
ticked and the job that it requests has run.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from glr_assets.curation import dedupe, leaks, train_manifest
from glr_assets.defs.build import ASSETS, ROOTS
from glr_assets.images import catalog
from glr_assets.source.layout import TABLE_PATHS, md5_path, shard_path
from glr_assets.training import versions
from glr_assets_tests.automation.tiny_shards import Shards
from glr_assets_tests.defs.agreement import Agreement
from glr_assets_tests.lineage import write_pooling_embedder, write_recipe

#: Values of the recipe that can be changed, one by one; the base has none of them.
VALUES: tuple[tuple[str, str, Any], ...] = (
    ("dedupe", "keep", 30),
    ("dedupe", "near_duplicate_bits", 5),
    ("fill", "threshold", 10),
    ("images", "jpeg_quality", 80),
    ("images", "keep", "all"),
    ("verification", "manifest", "deduped_manifest"),
    ("verification", "min_inliers", 12),
    ("verification", "min_class", 2),
    ("verification", "max_features", 400),
    ("training", "manifest", "deduped_manifest"),
    ("training", "validation", 0.2),
    ("embedder", "flip", True),
    ("retrieval", "manifest", "deduped_manifest"),
    ("retrieval", "per_landmark", 7),
    ("retrieval", "retrieved", 50),
    ("retrieval", "rerank", 0),
    ("groups", "count", 2),
    ("exports", "order", "id"),
    ("execution", "workers", 1),
)
#: Modules whose code can be given another version, and the assets that are made by it.
CODE = {
    leaks: ("label_conflicts", "train_test_leaks"),
    dedupe: ("deduped_manifest",),
    train_manifest: ("train_manifest",),
    catalog: ("image_catalog",),
    versions: ("embedder",),
}


class Changes(Agreement):
    """The changes that can happen to it, each of which may be made again and again."""

    def __init__(self, folder: Path, recipe: Path | None = None) -> None:
        super().__init__(folder, recipe)
        self.count = 0
        self.values: dict[tuple[str, str], Any] = {}
        self.text = self.recipe.read_text()

    def value(self, number: int) -> None:
        """Set a value of the recipe, or take it back."""
        table, key, value = VALUES[number]
        if self.values.pop((table, key), None) is None:
            self.values[table, key] = value
        text = self.text
        for (table, key), value in self.values.items():
            line = f"{key} = {json.dumps(value)}\n"
            text = (
                text.replace(f"[{table}]\n", f"[{table}]\n{line}")
                if f"[{table}]\n" in text
                else (f"{text}[{table}]\n{line}")
            )
        self.recipe.write_text(text)

    def csv(self, number: int) -> None:
        """Add an empty line to a CSV of the source."""
        path = self.bucket / list(TABLE_PATHS.values())[number]
        if path.is_file():
            path.write_bytes(path.read_bytes() + b"\n")

    def shard(self, key: str) -> None:
        """Put other images into a train shard, or into a new one."""
        self.count += 1
        shards = Shards.__new__(Shards)
        shards.__dict__ = Shards(self.folder / f"once{self.count}", 0, of=4).__dict__ | {"folder": self.bucket}
        shards.drop(key, version=self.count)

    def removed(self, key: str) -> None:
        """Remove a train shard from the source."""
        (self.bucket / shard_path("train", key)).unlink(missing_ok=True)
        (self.bucket / md5_path("train", key)).unlink(missing_ok=True)

    def remade(self, _: int = 0) -> None:
        """Make everything as it is to be now."""
        self.tick()
        self.make_all()


CHANGES = st.one_of(
    st.tuples(st.just("value"), st.integers(0, len(VALUES) - 1)),
    st.tuples(st.just("csv"), st.integers(0, len(TABLE_PATHS) - 1)),
    st.tuples(st.just("shard"), st.sampled_from(["000", "002", "003"])),
    st.tuples(st.just("removed"), st.sampled_from(["001", "002"])),
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all is made, observed and fresh."""
    folder = tmp_path_factory.mktemp("agreement")
    recipe = write_recipe(
        folder / "tiny.toml",
        write_pooling_embedder(folder / "grid.pt"),
        images={"min_side": 32},
        verification={"max_false_rate": 0.05},
    )
    (folder / "scene").mkdir()
    found = Changes(folder / "scene", recipe)
    with found.instance:
        found.remade()
        found.tick()
        assert len({name.partition("/")[0] for name in found.materialized()}) >= 30
        stale = found.stale()
        assert not any(found.disagreements(stale).values())
        assert stale == {}
    return folder / "scene"


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    """Without the log of hundreds of runs."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@contextmanager
def copied(template: Path) -> Iterator[Changes]:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(template, Path(folder) / "scene")
        found = Changes(Path(folder) / "scene")
        with found.instance:
            yield found


def check(scene: Changes) -> set[str]:
    """Both agree after ticks, for every asset and partition; returns what is stale."""
    scene.tick()
    stale = scene.stale()
    found = scene.disagreements(stale)
    assert not any(found.values()), found
    return set(stale)


@settings(
    max_examples=4,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=st.lists(CHANGES, min_size=1, max_size=4))
def test_after_any_changes_both_agree(template: Path, changes: list[tuple[str, Any]]) -> None:
    with copied(template) as scene:
        for name, argument in changes:
            getattr(scene, name)(argument)
        check(scene)


def test_what_is_made_again_is_fresh_and_what_follows_of_it_is_not(template: Path) -> None:
    with copied(template) as scene:
        scene.value(0)
        scene.shard("001")
        check(scene)
        scene.make(["train_images"], ["001"])
        assert "image_catalog" in check(scene)
        scene.make(["image_catalog", "label_conflicts", "train_test_leaks", "deduped_manifest"], [])
        assert {"train_manifest", "train_extra"} & check(scene)


def test_a_value_that_is_taken_back_leaves_everything_fresh(template: Path) -> None:
    with copied(template) as scene:
        for number in (0, 5, 13):
            scene.value(number)
        scene.tick()
        assert scene.stale("deduped_manifest", "index_embeddings/000").keys() == {"deduped_manifest"}
        for number in (0, 5, 13):
            scene.value(number)
        scene.tick()
        assert scene.stale() == {}


def test_other_versions_of_the_code(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {name for names in CODE.values() for name in names}

    def spec(found: dg.AssetSpec) -> dg.AssetSpec:
        return found.replace_attributes(code_version="next") if found.key.to_user_string() in changed else found

    for module in CODE:
        monkeypatch.setattr(module, "CODE_VERSION", "next")
    with copied(template) as scene:
        assets = [asset.map_asset_specs(spec) for asset in ASSETS]
        resources = {"platform": scene.platform}
        scene.graph = dg.Definitions(assets=[*assets, *ROOTS], resources=resources).resolve_asset_graph()
        assert check(scene) == changed


def test_another_number_of_groups_and_buckets_is_registered_by_one_tick(template: Path) -> None:
    with copied(template) as scene:
        for number in (2, 4):
            recipe = f"{scene.text.replace('[groups]', f'[groups]{chr(10)}count = {number}')}"
            scene.recipe.write_text(recipe)
            scene.desk.tick("observe_roots")
            scene.desk.tick("observe_roots")
            assert list(scene.instance.get_dynamic_partitions("training_groups")) == [f"{n:02d}" for n in range(number)]


def test_what_the_store_has_lost_is_stale_until_it_is_back_or_made_again(template: Path) -> None:
    lost = {
        "deduped_manifest": "manifests/deduped_manifest.parquet",
        "train_images/001": "images/train/001.tar",
        "index_embeddings/000": "receipts/index_embeddings/000.json",
    }
    with copied(template) as scene:
        table, shard, receipt = (scene.folder / "store" / path for path in lost.values())
        held = {path: path.read_bytes() for path in (table, receipt)}
        shard.write_bytes(shard.read_bytes()[:-512])
        for path in held:
            path.unlink()
        check(scene)
        found = scene.stale()
        assert {name: found[name] for name in lost} == {
            name: [f"removed dependency on {path} {path}"] for name, path in lost.items()
        }
        assert {"train_manifest", "train_embeddings/001"} <= found.keys()
        for path, data in held.items():
            path.write_bytes(data)
        check(scene)
        assert not {"deduped_manifest", "index_embeddings/000"} & scene.stale().keys()
        scene.make(["train_images"], ["001"])
        scene.tick()
        assert scene.stale() == {}


def test_a_store_without_anything_is_an_outage_that_is_told_and_changes_nothing(template: Path) -> None:
    with copied(template) as scene:
        store = scene.folder / "store"
        shutil.move(store, scene.folder / "away")
        store.mkdir()
        with pytest.raises(dg.Failure, match=r"holds nothing of the \d+ assets that this instance has materialized"):
            scene.tick()
        shutil.rmtree(store)
        shutil.move(scene.folder / "away", store)
        scene.tick()
        assert scene.stale() == {}
