"""Assets that are stale by Dagster's rules though a run would find them done: they are reported as up to date.

Dagster compares every dependency as a whole. Some assets read a part of one (`reads_part=True` of `table_asset`): the
rows of a shard, one of several manifests, or what a value of the recipe lets through. A change of the rest leaves them
stale, and a run of them would make nothing. The sensor `observe_roots` finds such assets by the versions of their
dependencies and requests the job `confirm_unchanged`. The job asks a dry run of each, and reports what is done once
more, without a run, with the data version that it has and the versions that its dependencies have now.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster_shared.record import copy
from pydantic import BaseModel, Field

from glr_assets.defs import tags
from glr_assets.defs.conventions import READS_TAG
from glr_assets.defs.dry_runs import DryPlatform, dry_verdicts
from glr_assets.defs.launchpad import BEFORE_ALL
from glr_assets.defs.provenance import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    INPUT_EVENT_TAG,
    INPUT_VERSION_TAG,
    CurrentInputs,
)
from glr_assets.receipts import LOCKS, digest_of, find_receipt
from glr_assets.store import Store

JOB: Final = "confirm_unchanged"
OP: Final = "confirm"
#: A run whose process or machine is lost is begun again so often.
_CRASH_RETRIES: Final = "2"
#: Of a digest in the sensor's cursor, which Dagster stores for every tick.
_SHORT: Final = 8
#: Marks a state of dependencies that the last tick saw for the first time.
_NEW: Final = "?"


def partial_readers(graph: BaseAssetGraph[Any]) -> list[dg.AssetKey]:
    """The assets that may be stale though a run would find them done, sorted."""
    return sorted(key for key in graph.materializable_asset_keys if graph.get(key).tags.get(READS_TAG) == "part")


class Seen(BaseModel):
    """What of the assets' dependencies was looked at.

    Attributes:
        event: the latest event of the instance when there was nothing left to look at; None where something was.
        states: by asset the digest of its dependencies' versions.
    """

    event: int | None = None
    states: dict[str, str] = Field(default_factory=dict)


def request_of_job(
    instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, seen: Seen
) -> tuple[Seen, dg.RunRequest | None]:
    """What was looked at by now, and the run that is to ask for stale assets.

    An asset is requested once for each state of the dependencies that all its partitions have in common: the assets
    without partitions and the values of the recipe. A state counts once it has lasted for a tick, and not while a run
    is under way that makes the asset or something upstream. Where there is no new event nothing is looked at.

    Args:
        instance: has the events.
        repository: the code location.
        seen: what the last tick returned; empty at first.
    """
    event = instance.event_log_storage.get_maximum_record_id()
    if event is not None and event == seen.event:
        return seen, None
    graph = repository.asset_graph
    following = Seen(event=event)
    latest: dict[dg.AssetKey, tuple[str, int | None]] = {}
    due: dict[str, Mapping[str, tuple[str, int | None]]] = {}
    busy: set[dg.AssetKey] | None = None
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    for key in partial_readers(graph):
        name = key.to_user_string()
        shared = CurrentInputs(instance, graph, key, latest).shared()
        state = digest_of({parent: version for parent, (version, _) in shared.items()})[:_SHORT]
        before = following.states[name] = seen.states.get(name, "")
        if before == state:
            continue
        following.event = None
        busy = _being_made(instance, repository) if busy is None else busy
        if busy & _with_ancestors(graph, key):
            continue
        if before != _NEW + state:
            following.states[name] = _NEW + state
            continue
        following.states[name] = state
        if _may_be_stale(instance, graph, key, shared, resolver):
            due[name] = shared
    if not due:
        return following, None
    # The events of a state never come back, so a state that comes back is requested again.
    events = {name: {parent: event for parent, (_, event) in shared.items()} for name, shared in due.items()}
    return following, dg.RunRequest(
        run_key=digest_of(events),
        run_config={"ops": {OP: {"config": {"assets": sorted(due)}}}},
        tags={tags.ASKED_BY: "sensor observe_roots", tags.MAX_RETRIES: _CRASH_RETRIES},
    )


def _being_made(instance: dg.DagsterInstance, repository: dg.RepositoryDefinition) -> set[dg.AssetKey]:
    """The assets of the runs that are not over; all that there are while the job itself runs."""
    found: set[dg.AssetKey] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES)):
        if run.job_name == JOB:
            return set(repository.asset_graph.materializable_asset_keys)
        if run.asset_selection is not None:
            found |= run.asset_selection
        elif repository.has_job(run.job_name):
            found |= repository.get_job(run.job_name).asset_layer.selected_asset_keys
    return found


def _with_ancestors(graph: BaseAssetGraph[Any], key: dg.AssetKey) -> set[dg.AssetKey]:
    found: set[dg.AssetKey] = set()
    waiting = {key}
    while waiting:
        found |= waiting
        waiting = {parent for each in waiting for parent in graph.get(each).parent_keys} - found
    return found


def _may_be_stale(
    instance: dg.DagsterInstance,
    graph: BaseAssetGraph[Any],
    key: dg.AssetKey,
    shared: Mapping[str, tuple[str, int | None]],
    resolver: CachingStaleStatusResolver,
) -> bool:
    """Whether an asset is stale; of a partitioned one whether a run of some partition began before the last change.

    Provenance is not indexed, so the events of thousands of partitions would have to be read to be sure.
    """
    partitions = graph.get(key).partitions_def
    if partitions is None:
        return resolver.get_status(key) == StaleStatus.STALE
    latest = max((event for _, event in shared.values() if event is not None), default=0)
    storage = instance.event_log_storage
    made = storage.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
    planned = storage.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    registered = partitions.get_partition_keys(dynamic_partitions_store=instance)
    return any(min(made[part], planned.get(part, made[part])) < latest for part in registered if part in made)


@dataclass(frozen=True)
class _Stale:
    """A stale asset or partition as it was before its dry run: its event, and the provenance that it would have now."""

    key: dg.AssetKey
    partition: str | None
    record: dg.EventLogRecord
    provenance: Mapping[str, str]

    @property
    def name(self) -> str:
        """As in receipts."""
        return "/".join(filter(None, (self.key.to_user_string(), self.partition)))


@dataclass(frozen=True)
class Confirmed:
    """What came of the stale assets and partitions that were asked for, by name as in receipts.

    Attributes:
        reported: a run would find them done, so they were reported again.
        due: a run would make them.
        failing: a run would fail, with its error.
        changed: another run was at them meanwhile, or Dagster has another data version than the store.
    """

    reported: list[str] = field(default_factory=list)
    due: list[str] = field(default_factory=list)
    failing: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)


def confirm_unchanged(
    platform: DryPlatform, instance: dg.DagsterInstance, graph: BaseAssetGraph[Any], names: Collection[str] = ()
) -> Confirmed:
    """Report again, as made of its dependencies of today, each stale asset and partition that a run would find done.

    The versions of dependencies are those of before the dry runs, so what changes meanwhile leaves it stale.

    Args:
        platform: source, store and recipe.
        instance: has the events and gets the reports.
        graph: of the code location's assets.
        names: of `partial_readers`; all of them where not given.

    Raises:
        GlrError: the source cannot be opened, or the store cannot be listed or written.
    """
    keys = [key for key in partial_readers(graph) if not names or key.to_user_string() in names]
    stale = {found.name: found for key in keys for found in _stale(instance, graph, key)}
    partitions: dict[str, set[str]] = {}
    for each in stale.values():
        partitions.setdefault(each.key.to_user_string(), set()).update(filter(None, [each.partition]))
    found = Confirmed()
    if not stale:
        return found
    verdicts = dry_verdicts(platform, partitions, partitions=partitions, graph=graph)
    store = platform.settings().open_store()
    for name, verdict in ((name, verdict) for of in verdicts.values() for name, verdict in of.items()):
        if verdict.error:
            found.failing[name] = verdict.error
        elif not verdict.is_done:
            found.due.append(name)
        elif _report(instance, graph, store, stale[name]):
            found.reported.append(name)
        else:
            found.changed.append(name)
    return found


def _stale(instance: dg.DagsterInstance, graph: BaseAssetGraph[Any], key: dg.AssetKey) -> list[_Stale]:
    inputs, partitions = CurrentInputs(instance, graph, key), graph.get(key).partitions_def
    if partitions is None:
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        keys: list[str | None] = [None] if resolver.get_status(key) == StaleStatus.STALE else []
    else:
        keys = list(partitions.get_partition_keys(dynamic_partitions_store=instance))
    found = []
    for part in keys:
        record = _latest(instance, key, part)
        if record is not None:
            provenance = inputs.tags(part)
            if part is None or _provenance_differs(_tags(record), provenance):
                found.append(_Stale(key, part, record, provenance))
    return found


def _provenance_differs(noted: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether a partition was made of other versions; also of values of the recipe that its run overrode."""

    def versions(found: Mapping[str, str]) -> dict[str, str]:
        return {tag: of for tag, of in found.items() if tag == CODE_VERSION_TAG or tag.startswith(INPUT_VERSION_TAG)}

    overridden = any(of == BEFORE_ALL for tag, of in noted.items() if tag.startswith(INPUT_EVENT_TAG))
    return overridden or versions(noted) != versions(now)


def _latest(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None) -> dg.EventLogRecord | None:
    return instance.get_latest_data_version_record(key, is_source=False, partition_key=partition)


def _tags(record: dg.EventLogRecord) -> Mapping[str, str]:
    event = record.asset_materialization
    return (event.tags if event is not None else None) or {}


def _report(instance: dg.DagsterInstance, graph: BaseAssetGraph[Any], store: Store, stale: _Stale) -> bool:
    """Report it again, unless a run has been or is at it since; whether that was done.

    A run logs its event after it has left the lock, and with it its receipt.
    """
    with store.locked_if_free(f"{LOCKS}/{stale.name}") as free:
        receipt, record = find_receipt(store, stale.name), _latest(instance, stale.key, stale.partition)
        version = _tags(stale.record).get(DATA_VERSION_TAG)
        if not free or receipt is None or receipt.digest != version:
            return False
        if record is None or record.storage_id != stale.record.storage_id:
            return False
        event = record.asset_materialization
        assert event is not None
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                stale.key,
                description="nothing to make: it reads nothing of what has changed",
                metadata=event.metadata,
                partition=stale.partition,
                tags={**stale.provenance, DATA_VERSION_TAG: version},
            )
        )
    _report_checks(instance, graph, stale)
    return True


def _report_checks(instance: dg.DagsterInstance, graph: BaseAssetGraph[Any], stale: _Stale) -> None:
    """Have the results of its checks be of the new event; else they would count as those of an earlier one.

    They stay results of the runs that evaluated them, so nobody is alerted again of one that failed.
    """
    now = _latest(instance, stale.key, stale.partition)
    filtered = None if stale.partition is None else PartitionKeyFilter(key=stale.partition)
    checks = sorted(graph.get_check_keys_for_assets({stale.key}))
    results = instance.event_log_storage.get_latest_asset_check_execution_by_key(checks, partition_filter=filtered)
    for result in results.values():
        evaluation = result.evaluation
        if evaluation is None or now is None or not result.run_id:
            continue
        target = evaluation.target_materialization_data
        of_event = target.storage_id if target is not None else None
        if of_event != stale.record.storage_id and result.run_id != stale.record.run_id:
            continue
        target = AssetCheckEvaluationTargetMaterializationData(
            storage_id=now.storage_id, run_id=now.run_id, timestamp=now.timestamp
        )
        event = dg.DagsterEvent(
            event_type_value=dg.DagsterEventType.ASSET_CHECK_EVALUATION.value,
            job_name=JOB,
            event_specific_data=copy(evaluation, target_materialization_data=target),
        )
        instance.report_dagster_event(event, run_id=result.run_id)
