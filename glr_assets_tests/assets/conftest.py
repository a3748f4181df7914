"""A platform on a temporary store, and an instance that knows the bucket's shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import dagster as dg
import pytest

from glr_assets.defs.build import ASSET_CHECKS, ASSETS, ROOTS
from glr_assets.defs.platform import Platform
from glr_assets.defs.shards import sync_counted_parts, sync_shards
from glr_assets.settings import Settings
from glr_assets_tests.lineage import write_pooling_embedder, write_recipe


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    # So few images have too few pairs of different landmarks for a smaller share.
    rate = {"max_false_rate": 0.05}
    return write_recipe(folder / "quick.toml", write_pooling_embedder(folder / "grid.pt"), verification=rate)


@pytest.fixture
def platform(bucket: str, tmp_path: Path, recipe_file: Path) -> Platform:
    return Platform(source=bucket, store=str(tmp_path / "store"), recipe=str(recipe_file))


@pytest.fixture
def instance(platform: Platform) -> Iterator[dg.DagsterInstance]:
    with instance_of(platform) as opened:
        yield opened


@contextmanager
def instance_of(platform: Platform) -> Iterator[dg.DagsterInstance]:
    """An instance that knows the partitions of a platform, and no run."""
    with dg.DagsterInstance.ephemeral() as opened:
        sync_shards(opened, platform.open_source())
        sync_counted_parts(opened, platform.load_recipe())
        yield opened


class Templates:
    """Stores of the session's bucket and recipe that are made once and copied to each test."""

    def __init__(self, bucket: str, recipe: Path, folder: Path) -> None:
        self.bucket, self.recipe, self.folder = bucket, recipe, folder

    @cached_property
    def curated(self) -> Path:
        """Everything up to the ledger."""
        return self._made("curated", None)

    @cached_property
    def verified(self) -> Path:
        """That, the cleaned manifest, the crops of the rendered Open Images, and the filter that learns from them."""
        return self._made("verified", self.curated)

    def _made(self, name: str, earlier: Path | None) -> Path:
        store = self.folder / name
        if earlier is not None:
            shutil.copytree(earlier, store)
        platform = Platform(source=self.bucket, store=str(store), recipe=str(self.recipe))
        with instance_of(platform) as instance:
            run = Runner(platform, instance)
            if earlier is None:
                run.curate()
            else:
                run.verify()
                run.openimages()
                run.filter()
        return store


@pytest.fixture(scope="session")
def templates(bucket: str, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Templates:
    return Templates(bucket, recipe_file, tmp_path_factory.mktemp("templates"))


class Runner:
    """Materialises assets by name, over a range of shards, one shard or none."""

    def __init__(self, platform: Platform, instance: dg.DagsterInstance, templates: Templates | None = None) -> None:
        self.platform, self.instance, self.templates = platform, instance, templates

    def __call__(
        self,
        *names: str,
        shard: str | None = None,
        shards: tuple[str, str] | None = None,
        config: dict[str, object] | None = None,
    ) -> dg.ExecuteInProcessResult:
        tags = {}
        if shards is not None:
            tags = {
                "dagster/asset_partition_range_start": shards[0],
                "dagster/asset_partition_range_end": shards[1],
            }
        ops = {name: {"config": config} for name in names} if config else {}
        return dg.materialize(
            [*ASSETS, *ROOTS, *ASSET_CHECKS],
            selection=dg.AssetSelection.assets(*names),
            instance=self.instance,
            resources={"platform": self.platform},
            partition_key=shard,
            tags=tags,
            run_config={"ops": ops, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )

    def upstream_of_images(self) -> None:
        names = (
            "train_metadata",
            "train_attribution",
            "landmark_labels",
            "competition_train",
            "index_metadata",
            "test_metadata",
            "recognition_solution",
            "retrieval_solution",
            "class_counts",
            "fill_plan",
        )
        assert self(*names).success

    def images(self) -> None:
        self.upstream_of_images()
        for split in ("train", "index", "test"):
            assert self(f"{split}_images", shards=self.range_of(split)).success

    def curated(self) -> None:
        """A store with everything up to the ledger, of which the instance knows nothing."""
        assert self.templates is not None
        self._copied(self.templates.curated)

    def verified(self) -> None:
        """A store with everything up to the cleaned manifest, of which the instance knows nothing."""
        assert self.templates is not None
        self._copied(self.templates.verified)

    def _copied(self, template: Path) -> None:
        shutil.copytree(template, str(self.platform.store))

    def curate(self) -> None:
        self.images()
        names = (
            "image_catalog",
            "label_conflicts",
            "train_test_leaks",
            "deduped_manifest",
            "train_extra",
            "fill_shortfall",
            "train_manifest",
            "image_ledger",
        )
        assert self(*names).success

    def verify(self) -> None:
        assert self("verification_manifest").success
        assert self("local_features", shards=self.range_of("train")).success
        assert self("verification_calibration").success
        keys = self.instance.get_dynamic_partitions("class_buckets")
        assert self("verified_pairs", shards=(keys[0], keys[-1])).success
        assert self("cleaned_manifest", "image_ledger").success

    def openimages(self) -> None:
        assert self("openimages_annotations").success
        keys = self.instance.get_dynamic_partitions("openimages_parts")
        assert self("openimages_images", shards=(keys[0], keys[-1])).success
        assert self("openimages_classifier_dataset").success

    def filter(self) -> None:
        assert self("non_landmark_classifier").success
        assert self("non_landmark_scores", shards=self.range_of("train")).success
        assert self("filter_manifest", "non_landmark_filter", "image_ledger").success

    def range_of(self, split: str) -> tuple[str, str]:
        keys = self.instance.get_dynamic_partitions(f"{split}_shards")
        return keys[0], keys[-1]


@pytest.fixture
def run(platform: Platform, instance: dg.DagsterInstance, templates: Templates) -> Runner:
    return Runner(platform, instance, templates)


@pytest.fixture
def settings(templates: Templates, bucket: str, tmp_path: Path, recipe_file: Path) -> Settings:
    """Of a copy of the template and of the bucket, and a recipe file that a test may write."""
    shutil.copytree(templates.verified, tmp_path / "store")
    shutil.copytree(bucket, tmp_path / "bucket")
    shutil.copy(recipe_file, tmp_path / "recipe.toml")
    return Settings(
        source=str(tmp_path / "bucket"), store=str(tmp_path / "store"), recipe=str(tmp_path / "recipe.toml")
    )


def with_recipe(settings: Settings, **tables: dict[str, object]) -> Settings:
    path = Path(str(settings.recipe))
    text = path.read_text()
    for table, values in tables.items():
        lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
        text = (
            text.replace(f"[{table}]\n", f"[{table}]\n{lines}\n")
            if f"[{table}]" in text
            else (f"{text}[{table}]\n{lines}\n")
        )
    path.write_text(text)
    return settings
