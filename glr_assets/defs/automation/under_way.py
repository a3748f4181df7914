"""What runs and backfills are at, whoever started them, so that nothing is asked for twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import dagster as dg

from glr_assets.defs import tags

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_OPEN_BACKFILLS = {"REQUESTED", "CANCELING", "FAILING"}
#: The latest backfills that are looked at: those of more are not open at once.
_BACKFILLS = 100


@dataclass(frozen=True)
class UnderWay:
    """The partitions of each asset that unfinished runs and open backfills will make.

    Attributes:
        keys: by asset its partition keys; none of an asset that has no partitions.
        by: by asset the run or the backfill that is at it, for people.
    """

    keys: Mapping[str, frozenset[str]]
    by: Mapping[str, str]

    def of(self, asset: str) -> frozenset[str]:
        """The partitions of an asset that are being made."""
        return self.keys.get(asset, frozenset())


def under_way(instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, but: str | None = None) -> UnderWay:
    """Look at the instance's unfinished runs and open backfills.

    Args:
        instance: whose.
        repository: of the code location's assets.
        but: the run that asks.
    """
    graph = repository.asset_graph
    keys: dict[str, set[str]] = {}
    by: dict[str, str] = {}

    def add(asset: dg.AssetKey, found: Iterator[str], who: str) -> None:
        name = asset.to_user_string()
        keys.setdefault(name, set()).update(found)
        by.setdefault(name, who)

    for run in instance.get_runs(filters=dg.RunsFilter(statuses=UNFINISHED)):
        for asset in run.asset_selection or _planned(instance, run):
            if graph.has(asset) and run.run_id != but:
                add(asset, _keys_of_run(instance, repository, asset, run), f"run {run.run_id[:8]}")
    for backfill in instance.get_backfills(limit=_BACKFILLS):
        if backfill.status.value not in _OPEN_BACKFILLS or not backfill.is_asset_backfill:
            continue
        data = backfill.get_asset_backfill_data(graph)
        left = data.target_subset - (data.materialized_subset | data.failed_and_downstream_subset)
        for asset in left.asset_keys:
            partitioned = graph.has(asset) and graph.get(asset).is_partitioned
            found = left.get_partitions_subset(asset).get_partition_keys() if partitioned else ()
            add(asset, iter(found), f"backfill {backfill.backfill_id}")
    return UnderWay({name: frozenset(found) for name, found in keys.items()}, by)


def _planned(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[dg.AssetKey]:
    """The assets of a run that selects none: those that its steps have the names of."""
    if run.execution_plan_snapshot_id is None:
        return set()
    names = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id).step_keys_to_execute
    return {dg.AssetKey(name) for name in names}


def _keys_of_run(
    instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, asset: dg.AssetKey, run: dg.DagsterRun
) -> Iterator[str]:
    """The partitions that a run makes of an asset: one, a range as they were registered, or all."""
    partitions = repository.asset_graph.get(asset).partitions_def
    if partitions is None:
        return
    if tags.PARTITION in run.tags:
        yield run.tags[tags.PARTITION]
        return
    registered = list(partitions.get_partition_keys(dynamic_partitions_store=instance))
    first, last = (run.tags.get(tag) for tag in (tags.RANGE_START, tags.RANGE_END))
    if first in registered and last in registered:
        yield from registered[registered.index(first) : registered.index(last) + 1]
    else:
        yield from registered
