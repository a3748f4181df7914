"""A store and an instance in which most of the lineage is made of tiny shards, and a comparison of their staleness."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from glr_assets.defs.dry_runs import DryPlatform, dry_verdicts
from glr_assets.defs.platform import Platform
from glr_assets_tests.automation.conftest import Desk
from glr_assets_tests.automation.tiny_shards import Shards

KEYS = ("000", "001", "002")
#: What takes long to make, and what is made of it; its declared dependencies are tested with the recipe's roots.
NOT_MADE = frozenset(
    {
        *("openimages_annotations", "openimages_images", "openimages_classifier_dataset"),
        *("non_landmark_classifier", "non_landmark_scores", "non_landmark_filter"),
        *("group_classifiers", "group_calibration"),
        *("recognition_model", "submission", "evaluation", "model_comparison"),
    }
)


def runs_of(graph: Any, instance: dg.DagsterInstance) -> list[tuple[list[str], list[str]]]:
    """Runs that make the lineage: assets in their order, and the partitions of the run; few runs of many assets."""
    waiting = {key: set(graph.get(key).parent_keys) for key in graph.materializable_asset_keys}
    waiting = {
        key: parents & waiting.keys() for key, parents in waiting.items() if key.to_user_string() not in NOT_MADE
    }
    waiting = {key: parents & waiting.keys() for key, parents in waiting.items()}
    runs: list[tuple[list[str], list[str]]] = []
    made: set[dg.AssetKey] = set()
    while waiting.keys() - made:
        ready = sorted(key for key in waiting.keys() - made if waiting[key] <= made)
        partitions = graph.get(ready[0]).partitions_def
        batch: list[dg.AssetKey] = []
        while found := [
            key
            for key in sorted(waiting.keys() - made)
            if graph.get(key).partitions_def == partitions and waiting[key] <= made
        ]:
            batch += found
            made |= set(found)
        keys = [] if partitions is None else list(instance.get_dynamic_partitions(partitions.name))
        runs.append(([key.to_user_string() for key in batch], keys))
    return runs


class Agreement:
    """A bucket, a store, a recipe file and an instance on disk."""

    def __init__(self, folder: Path, recipe: Path | None = None) -> None:
        self.folder = folder
        self.bucket, self.recipe = folder / "bucket", folder / "recipe.toml"
        if recipe is not None:
            (folder / "instance").mkdir()
            self.recipe.write_text(recipe.read_text())
            Shards(self.bucket, len(KEYS), of=4)
        self.platform = Platform(source=str(self.bucket), store=str(folder / "store"), recipe=str(self.recipe))
        self.instance = dg.DagsterInstance.local_temp(str(folder / "instance"))
        self.desk = Desk(self.platform, self.instance)
        self.graph = self.desk.definitions.resolve_asset_graph()

    def make(self, assets: list[str], keys: list[str]) -> None:
        """One run of assets, over neighbouring partitions; it must end well."""
        ends = zip(("start", "end"), (keys[0], keys[-1]) if keys else (), strict=False)
        tags = {f"dagster/asset_partition_range_{end}": key for end, key in ends}
        request = dg.RunRequest(asset_selection=[dg.AssetKey(name) for name in assets], tags=tags)
        assert self.desk.carry_out([request]) == [True], assets

    def make_all(self) -> None:
        """Every asset of the lineage that is made here, finished work skipped."""
        for assets, keys in runs_of(self.graph, self.instance):
            if keys or all(self.graph.get(dg.AssetKey(name)).partitions_def is None for name in assets):
                self.make(assets, keys)

    def tick(self) -> None:
        """Ticks of `observe_roots` that report changes, see that they last, and request a job, which is carried out."""
        for _ in range(3):
            for request in self.desk.tick("observe_roots"):
                self.desk.run_job(request)

    def shards(self) -> list[str]:
        """The train shards that the source has."""
        return self.platform.open_source().shards("train")

    def stale(self, *names: str) -> dict[str, list[str]]:
        """What is materialized, of these or of all, and stale by Dagster, with the causes; by name of the receipt."""
        resolver = CachingStaleStatusResolver(self.instance, self.graph, LoadingContextForTest(self.instance))
        found = {}
        for name in names or self.materialized():
            asset, _, key = name.partition("/")
            if resolver.get_status(dg.AssetKey(asset), key or None) == StaleStatus.STALE:
                causes = resolver.get_stale_causes(dg.AssetKey(asset), key or None)
                found[name] = [
                    f"{cause.reason} {cause.dependency.asset_key.to_user_string() if cause.dependency else ''}"
                    f"{'/' + cause.dependency_partition_key if cause.dependency_partition_key else ''}"
                    for cause in causes
                ]
        return found

    def materialized(self) -> list[str]:
        """Names of what has a materialization in the instance."""
        names = []
        keys = sorted(self.graph.materializable_asset_keys)
        entries = (record.asset_entry for record in self.instance.get_asset_records(keys))
        for key in (entry.asset_key for entry in entries if entry.last_materialization_record is not None):
            asset = key.to_user_string()
            if self.graph.get(key).partitions_def is None:
                names.append(asset)
            else:
                names += [f"{asset}/{part}" for part in sorted(self.instance.get_materialized_partitions(key))]
        return sorted(names)

    def made_again(self) -> dict[str, list[str]]:
        """What is materialized and would not be found done by a run, with the reasons."""
        there = set(self.materialized())
        found = dry_verdicts(DryPlatform.of(self.platform.settings()))
        return {
            name: [change.text for change in verdict.changes] + ([verdict.error] if verdict.error else [])
            for verdicts in found.values()
            for name, verdict in verdicts.items()
            if name in there and not verdict.is_done
        }

    def disagreements(self, dagster: Mapping[str, list[str]]) -> dict[str, Mapping[str, list[str]]]:
        """What one calls stale and the other does not, each with its reasons.

        Args:
            dagster: what `stale` gave.
        """
        ours = self.made_again()
        gone = {f"train_images/{key}" for key in KEYS} - {f"train_images/{key}" for key in self.shards()}
        dagster = {name: why for name, why in dagster.items() if name not in gone}
        return {
            "stale by Dagster alone": {name: why for name, why in dagster.items() if name not in ours},
            "made again by a run alone": {name: why for name, why in ours.items() if name not in dagster},
        }
