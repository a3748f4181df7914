"""The real definitions over an instance whose materializations and observations are reported instead of made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from glr_assets.defs.automation.conditions import automation
from glr_assets.defs.build import build_definitions

DATA_VERSION = "dagster/data_version"
CODE_VERSION = "dagster/code_version"
#: What a tick requested: by asset its partition keys, sorted; `[None]` of an asset without partitions.
Requested = dict[str, list[str | None]]


def requested_by(requests: Sequence[dg.RunRequest]) -> Requested:
    """The assets and partitions of run requests, those of backfills included."""
    found: dict[str, set[str | None]] = {}
    for request in requests:
        if request.requires_backfill_daemon():
            subset = request.asset_graph_subset
            assert subset is not None
            for key in subset.asset_keys:
                of = subset.get_asset_subset(key)
                assert of is not None
                keys = of.subset_value.get_partition_keys() if of.is_partitioned else [None]
                found.setdefault(key.to_user_string(), set()).update(keys)
        else:
            for key in request.asset_selection or ():
                found.setdefault(key.to_user_string(), set()).add(request.partition_key)
    return {name: sorted(keys, key=str) for name, keys in sorted(found.items())}


class Simulated:
    """Ticks of the switch over the real lineage.

    Attributes:
        requests: the run requests of the last tick.
        told: by asset the names in what the last tick tells of it, those of dependencies included.
        keys: by partition set its keys.
    """

    def __init__(self, instance: dg.DagsterInstance, shards: int, cursor: str | None = None) -> None:
        self.instance = instance
        self.repository = build_definitions().get_repository_def()
        self.graph = self.repository.asset_graph
        self.cursor = cursor
        self.requests: list[dg.RunRequest] = []
        self.told: dict[str, set[str | None]] = {}
        self.keys = {
            "train_shards": [f"{number:05}" for number in range(shards)],
            "index_shards": [f"{number:05}" for number in range(max(1, shards // 5))],
            "test_shards": [f"{number:05}" for number in range(max(1, shards // 25))],
            "class_buckets": ["00", "01"],
            "training_groups": ["00", "01"],
            "openimages_parts": ["00", "01"],
        }
        for name, keys in self.keys.items():
            instance.add_dynamic_partitions(name, keys)

    def observe(self, root: str, version: str, *keys: str, value: str = "") -> None:
        """Report a data version of a root, or of partitions of it; a value as the recipe's roots have it."""
        for key in keys or (None,):
            self.instance.report_runless_asset_event(
                dg.AssetObservation(root, partition=key, tags={DATA_VERSION: version}, metadata={"value": value})
            )

    def observe_all(self, manifest: str = "train_manifest") -> None:
        """Report version 1 of every root there is, and that the recipe chooses a manifest."""
        for key in sorted(self.graph.external_asset_keys):
            node, name = self.graph.get(key), key.to_user_string()
            if name == "stored_shards":
                continue
            keys = (
                []
                if node.partitions_def is None
                else node.partitions_def.get_partition_keys(dynamic_partitions_store=self.instance)
            )
            self.observe(name, "1", *(found for found in keys if found != "manifest"))
            if "manifest" in keys:
                self.observe(name, "1", "manifest", value=manifest if "filter" not in name else "train_manifest")

    def choose(self, manifest: str) -> None:
        """Report that the recipe trains on a manifest, and searches it."""
        for root in ("recipe_training", "recipe_retrieval"):
            self.observe(root, manifest, "manifest", value=manifest)

    def make(self, requested: Mapping[str, Sequence[str | None]], version: str = "1") -> None:
        """Report a materialization of each of these, in the order of the lineage."""
        for level in self.graph.toposorted_asset_keys_by_level:
            for name in sorted(key.to_user_string() for key in level):
                for key in requested.get(name, ()):
                    code = self.graph.get(dg.AssetKey(name)).code_version
                    self.instance.report_runless_asset_event(
                        dg.AssetMaterialization(
                            name, partition=key, tags={DATA_VERSION: version, CODE_VERSION: str(code)}
                        )
                    )

    def tick(self) -> Requested:
        """One tick of the switch."""
        with dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, repository_def=self.repository
        ) as context:
            result = automation.evaluate_tick(context)
        self.cursor = result.cursor
        self.requests = list(result.run_requests or [])
        self.told = {
            evaluation.key.to_user_string(): {node.condition_snapshot.name for node in evaluation.iter_nodes()}
            for evaluation in result.automation_condition_evaluations
        }
        return requested_by(self.requests)

    def settle(self, version: str = "1") -> Iterator[Requested]:
        """Ticks whose requests are made at once, until one requests nothing."""
        for _ in range(20):
            found = self.tick()
            if not found:
                return
            self.make(found, version)
            yield found
        raise AssertionError("20 ticks in a row requested something")
