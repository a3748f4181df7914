"""Provenance of the partitions of a run: the tags by which Dagster tells whether a partition is stale.

Dagster writes these tags with the output of a step, the same for all partitions. The events that a run logs for each of
its partitions need their own: the code version, and for each parent the data version and the event of it that counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Final

import dagster as dg

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


class Provenance:
    """The provenance tags of the partitions of one step.

    A parent whose partition of the same key is the only one that a partition depends on is looked up as the partition
    begins. Every other parent counts as it was before the step began, since the step reads it once, at its start.
    """

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._asset = context.asset_key
        self._instance = context.instance
        self._graph = context.job_def.asset_layer.asset_graph
        self._step = context.get_step_execution_context()
        node = self._graph.get(self._asset)
        self._code_version = node.code_version or context.run.run_id
        self._parents = sorted(node.parent_keys)
        self._common: dict[dg.AssetKey, tuple[str, int | None]] = {}

    def tags(self, partition: str) -> dict[str, str]:
        """The tags of a partition that begins now, its own data version aside."""
        found = {CODE_VERSION_TAG: self._code_version}
        for parent in self._parents:
            version, event = self._input(parent, partition)
            name = parent.to_user_string()
            found[f"{INPUT_VERSION_TAG}/{name}"] = version
            found[f"{INPUT_EVENT_TAG}/{name}"] = NO_EVENT if event is None else str(event)
        return found

    def _input(self, parent: dg.AssetKey, partition: str) -> tuple[str, int | None]:
        """Data version and storage id of the event of a parent that a partition is made from."""
        keys = self._upstream(parent, partition)
        if keys == [partition]:
            return self._latest(parent, partition)
        if parent not in self._common:
            self._common[parent] = self._before_step(parent, keys)
        return self._common[parent]

    def _upstream(self, parent: dg.AssetKey, partition: str) -> list[str]:
        """The partitions of a parent that a partition depends on; none where the parent is not partitioned."""
        if self._graph.get(parent).partitions_def is None:
            return []
        with dg.partition_loading_context(dynamic_partitions_store=self._instance):
            mapped = self._graph.get_parent_partition_keys_for_child(partition, parent, self._asset)
            return sorted(mapped.partitions_subset.get_partition_keys())

    def _latest(self, parent: dg.AssetKey, partition: str) -> tuple[str, int | None]:
        # A materialization, else an observation: in a job of few assets every other one looks like a source.
        record = self._instance.get_latest_data_version_record(parent, partition_key=partition)
        return (NEVER_OBSERVED, None) if record is None else (version_in(record), record.storage_id)

    def _before_step(self, parent: dg.AssetKey, keys: Collection[str]) -> tuple[str, int | None]:
        info = self._step.maybe_fetch_and_get_input_asset_version_info(parent)
        if info is None:
            return NEVER_OBSERVED, None
        version = info.data_version.value if info.data_version is not None else NEVER_OBSERVED
        if info.event_type == dg.DagsterEventType.ASSET_OBSERVATION and 0 < len(keys) < MANY_PARTITIONS:
            # Dagster digests the versions of materializations alone, and a source has none.
            version = digest_of_versions(self._latest(parent, key)[0] for key in keys)
        return version, info.storage_id


def version_in(record: dg.EventLogRecord) -> str:
    """The data version that a materialization or an observation tells of."""
    event = record.asset_materialization or record.asset_observation
    return ((event.tags if event is not None else None) or {}).get(DATA_VERSION_TAG, NEVER_OBSERVED)


def digest_of_versions(versions: Iterable[str]) -> str:
    """The data version by which Dagster notes a dependency on several partitions; the versions sorted by key."""
    return hashlib.sha256("".join(versions).encode()).hexdigest()
