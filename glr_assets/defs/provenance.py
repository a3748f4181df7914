"""Provenance of the partitions of a run: the tags by which Dagster tells whether a partition is stale.

Dagster writes these tags with the output of a step, the same for all partitions. The events that a run logs for each of
its partitions need their own: the code version, and for each parent the data version and the event of it that counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Any, Final

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

CODE_VERSION_TAG: Final = "dagster/code_version"
DATA_VERSION_TAG: Final = "dagster/data_version"
INPUT_VERSION_TAG: Final = "dagster/input_data_version"
INPUT_EVENT_TAG: Final = "dagster/input_event_pointer"
#: The data version of a source that has never been observed, and the event of a parent that has none, as Dagster
#: writes them.
NEVER_OBSERVED: Final = "INITIAL"
NO_EVENT: Final = "NULL"
#: Dagster tells no staleness by a parent of which a partition has so many partitions, and digests no versions of them.
MANY_PARTITIONS: Final = 100


class CurrentInputs:
    """Data versions and events of an asset's dependencies as an instance has them now, and their provenance tags.

    What all partitions depend on is looked up once; a dependency on the partition of the same key each time.

    Args:
        instance: has the events.
        graph: of the code location's assets.
        asset: whose dependencies they are.
        latest: latest version and event of assets, shared by several of these; what is looked up is added.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        graph: BaseAssetGraph[Any],
        asset: dg.AssetKey,
        latest: dict[dg.AssetKey, tuple[str, int | None]] | None = None,
    ) -> None:
        self._asset, self._instance, self._graph = asset, instance, graph
        self._latest_of = {} if latest is None else latest
        self._node = graph.get(asset)
        self._code_version = self._node.code_version or ""
        self._parents = sorted(self._node.parent_keys)
        self._common: dict[dg.AssetKey, tuple[str, int | None]] = {}

    def tags(self, partition: str | None) -> dict[str, str]:
        """The tags of a partition, or of an asset without partitions, its own data version aside."""
        found = {CODE_VERSION_TAG: self._code_version}
        for parent in self._parents:
            version, event = self._input(parent, partition)
            name = parent.to_user_string()
            found[f"{INPUT_VERSION_TAG}/{name}"] = version
            found[f"{INPUT_EVENT_TAG}/{name}"] = NO_EVENT if event is None else str(event)
        return found

    def shared(self) -> dict[str, tuple[str, int | None]]:
        """Version and storage id of the event of the dependencies that are the same for all partitions, by name.

        These are the ones without partitions and the ones on named partitions, as on keys of the recipe.
        """
        return {
            parent.to_user_string(): self._input(parent, None)
            for parent in self._parents
            if self._graph.get(parent).partitions_def is None or self._named(parent)
        }

    def _input(self, parent: dg.AssetKey, partition: str | None) -> tuple[str, int | None]:
        """Data version and storage id of the event of a parent that a partition is made from."""
        if partition is not None and parent not in self._common:
            keys = self._upstream(parent, partition)
            if keys == [partition]:
                return self._latest(parent, partition)
        if parent not in self._common:
            self._common[parent] = self._of_all(parent, self._upstream(parent, partition))
        return self._common[parent]

    def _named(self, parent: dg.AssetKey) -> list[str]:
        """The partitions that a dependency names."""
        mapping = self._node.partition_mappings.get(parent)
        return sorted(mapping.partition_keys) if isinstance(mapping, dg.SpecificPartitionsPartitionMapping) else []

    def _upstream(self, parent: dg.AssetKey, partition: str | None) -> list[str]:
        """The partitions of a parent that a partition depends on; none where the parent is not partitioned."""
        if self._graph.get(parent).partitions_def is None:
            return []
        if named := self._named(parent):
            return named
        with dg.partition_loading_context(dynamic_partitions_store=self._instance):
            mapped = self._graph.get_parent_partition_keys_for_child(partition, parent, self._asset)
            return sorted(mapped.partitions_subset.get_partition_keys())

    def _is_source(self, parent: dg.AssetKey) -> bool | None:
        """Whether an asset is observed; None where the graph cannot tell."""
        return not self._graph.get(parent).is_materializable

    def _latest(self, parent: dg.AssetKey, partition: str | None = None) -> tuple[str, int | None]:
        record = self._instance.get_latest_data_version_record(parent, self._is_source(parent), partition)
        return (NEVER_OBSERVED, None) if record is None else (version_in(record), record.storage_id)

    def _of_all(self, parent: dg.AssetKey, keys: Collection[str]) -> tuple[str, int | None]:
        """The version of a parent, or of several partitions of it, and the latest event of it."""
        if parent not in self._latest_of:
            self._latest_of[parent] = self._latest(parent)
        version, event = self._latest_of[parent]
        if event is None or not 0 < len(keys) < MANY_PARTITIONS:
            return version, event
        return self._digest(parent, keys, event, observed=bool(self._is_source(parent))), event

    def _digest(self, parent: dg.AssetKey, keys: Collection[str], event: int, *, observed: bool) -> str:
        """The version by which a dependency on several partitions is noted, as of an event."""
        kind = dg.DagsterEventType.ASSET_OBSERVATION if observed else dg.DagsterEventType.ASSET_MATERIALIZATION
        tags = self._instance.event_log_storage.get_latest_tags_by_partition(
            parent, kind, [DATA_VERSION_TAG], sorted(keys), before_cursor=event + 1
        )
        return digest_of_versions(of[DATA_VERSION_TAG] for _, of in sorted(tags.items()))


class Provenance(CurrentInputs):
    """The provenance tags of the partitions of one step.

    A parent whose partition of the same key is the only one that a partition depends on is looked up as the partition
    begins. Every other parent counts as it was before the step began, since the step reads it once, at its start.
    """

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        super().__init__(context.instance, context.job_def.asset_layer.asset_graph, context.asset_key)
        self._step = context.get_step_execution_context()
        self._code_version = self._code_version or context.run.run_id

    def _is_source(self, parent: dg.AssetKey) -> bool | None:
        return None  # in a job of few assets every other one looks like a source

    def _of_all(self, parent: dg.AssetKey, keys: Collection[str]) -> tuple[str, int | None]:
        info = self._step.maybe_fetch_and_get_input_asset_version_info(parent)
        if info is None:
            return NEVER_OBSERVED, None
        version = info.data_version.value if info.data_version is not None else NEVER_OBSERVED
        if info.event_type == dg.DagsterEventType.ASSET_OBSERVATION and 0 < len(keys) < MANY_PARTITIONS:
            # Dagster digests the versions of materializations alone, and a source has none.
            version = self._digest(parent, keys, info.storage_id, observed=True)
        return version, info.storage_id


def version_in(record: dg.EventLogRecord) -> str:
    """The data version that a materialization or an observation tells of."""
    event = record.asset_materialization or record.asset_observation
    return ((event.tags if event is not None else None) or {}).get(DATA_VERSION_TAG, NEVER_OBSERVED)


def digest_of_versions(versions: Iterable[str]) -> str:
    """The data version by which Dagster notes a dependency on several partitions; the versions sorted by key."""
    return hashlib.sha256("".join(versions).encode()).hexdigest()
