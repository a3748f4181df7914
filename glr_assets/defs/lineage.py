"""The whole lineage materialised in this process, asset after asset: what `glr demo` runs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

from glr_assets.defs import tags
from glr_assets.defs.automation.roots import sync_roots
from glr_assets.defs.build import build_definitions
from glr_assets.defs.code_location import label_tags, origin_of, set_origin
from glr_assets.defs.error_messages import error_message
from glr_assets.defs.platform import platform_of
from glr_assets.defs.process_locks import run_lock
from glr_assets.defs.shards import SHARDS, contiguous, counted_parts
from glr_assets.defs.up_to_date import UpToDate
from glr_assets.errors import GlrError, SettingsError, describe
from glr_assets.interrupts import Interrupted, raise_if_interrupted
from glr_assets.receipts import force as make_again
from glr_assets.redaction import safe_cause
from glr_assets.settings import Settings
from glr_assets.source.base import Split

#: The in-process runs report through `Progress`; Dagster's own console log would tear the progress bar.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class LineageError(GlrError):
    """An asset could not be materialised, or a check that must hold does not."""


@dataclass(frozen=True)
class Step:
    """One asset of the lineage about to be materialised: its place, its partitions."""

    asset: str
    number: int
    of: int
    partitions: int


@dataclass(frozen=True)
class Progress:
    """What is called as the work goes on.

    Attributes:
        begins: before an asset is materialized.
        ends: after it, with its seconds and the checks that warn.
        skipped: once at the end, with the names of the assets that were up to date, if there are any.
    """

    begins: Callable[[Step], None]
    ends: Callable[[Step, float, list[str]], None]
    skipped: Callable[[list[str]], None] = lambda _: None


@contextmanager
def open_instance(home: Path | None = None) -> Iterator[dg.DagsterInstance]:
    """The instance of DAGSTER_HOME, else that of the folder `home`, else one that lives in memory.

    Raises:
        SettingsError: it cannot be opened.
    """
    given = os.environ.get("DAGSTER_HOME")
    try:
        if given:
            instance = dg.DagsterInstance.get()
        elif home is not None:
            instance = dg.DagsterInstance.from_config(str(home))
        else:
            instance = dg.DagsterInstance.ephemeral()
    except (dg.DagsterError, OSError) as error:
        raise SettingsError(
            f"{f'DAGSTER_HOME = {given}' if given else home}: no instance of Dagster can be opened there: "
            f"{describe(error)}; set DAGSTER_HOME to the absolute path of a folder with a dagster.yaml"
        ) from safe_cause(error)
    with instance:
        yield instance


def materialise_lineage(
    settings: Settings,
    instance: dg.DagsterInstance,
    progress: Progress,
    assets: Collection[str] | None = None,
    force: Collection[str] = (),
    asked_by: str = "a program",
) -> dict[str, float]:
    """Materialise every asset, or these alone, in the order of the lineage, all shards of the source included.

    Assets that follow each other and have the same partitions share a run of the code location's asset job. All runs
    are tagged with the first one's id and with who asked. Assets and shards that are up to date (`UpToDate`) are
    skipped: there is no run of them.

    Args:
        settings: source, store and recipe.
        instance: takes the runs.
        progress: told of the work.
        assets: by name; all where not given.
        force: of these the assets that are made again though they are done.
        asked_by: for the runs' tags.

    Returns:
        Seconds each asset that was run took, its checks included.

    Raises:
        LineageError: an asset failed, or a check of severity ERROR did; what depends on it, and later runs, were not
            begun; or there is no asset of a name in `force`.
    """
    source, recipe = settings.open_source(), settings.load_recipe()
    sync_roots(settings, instance)
    walk = _Walk(settings, instance, progress, asked_by)
    keys = [key for level in walk.graph.toposorted_asset_keys_by_level for key in sorted(level, key=_name)]
    keys = [key for key in keys if walk.graph.get(key).is_materializable and (assets is None or _name(key) in assets)]
    unknown = set(force) - {_name(key) for key in keys}
    if unknown:
        raise LineageError(f"{min(unknown)}: there is no such asset to force; assets are {', '.join(map(_name, keys))}")
    shards = {f"{split}_shards": source.shards(split) for split in SHARDS}
    shards |= {str(partitions.name): keys for partitions, keys in counted_parts(recipe)}
    walk.total = len(keys)
    up_to_date = UpToDate(settings, instance, walk.graph)
    for group in groups_of(walk.graph, keys):
        partitioned = walk.graph.get(group[0]).partitions_def
        # The instance may know shards of another source, which this lineage is not about.
        partitions = None
        if isinstance(partitioned, dg.DynamicPartitionsDefinition):
            partitions = shards[str(partitioned.name)]
        pending = up_to_date.pending(group, partitions, [key for key in group if _name(key) in force])
        left = [key for key in group if pending[key] or partitions == []]
        walk.skip([key for key in group if key not in left])
        if left:
            needed = {part for key in left for part in pending[key]}
            forced = {_name(key) for key in left} & set(force)
            walk.run(left, None if partitions is None else [part for part in partitions if part in needed], forced)
            up_to_date.forget()
    if walk.skipped:
        progress.skipped(walk.skipped)
    return walk.seconds


def groups_of(graph: BaseAssetGraph[Any], keys: Sequence[dg.AssetKey]) -> list[list[dg.AssetKey]]:
    """Assets as runs can take them: of one partition set each, parents in the same or an earlier group, few groups.

    Args:
        graph: has the assets' partitions and parents.
        keys: in the order of the lineage.
    """
    left = list(keys)
    groups = []
    while left:
        largest: list[dg.AssetKey] = []
        for partitions in dict.fromkeys(graph.get(key).partitions_def for key in left):
            found: list[dg.AssetKey] = []
            for key in left:
                ready = all(parent in found or parent not in left for parent in graph.get(key).parent_keys)
                if ready and graph.get(key).partitions_def == partitions:
                    found.append(key)
            largest = max(largest, found, key=len)
        groups.append(largest)
        left = [key for key in left if key not in largest]
    return groups


def retry_shards(settings: Settings, instance: dg.DagsterInstance, split: Split, shards: Collection[str]) -> list[str]:
    """Materialise these shards' images once more, and of those that were ingested only the images that failed.

    Returns:
        What went wrong, a text for each run of neighbouring shards that did not end well.
    """
    sync_roots(settings, instance)
    walk = _Walk(settings, instance, Progress(lambda step: None, lambda *_: None), "glr shards retry")
    key = dg.AssetKey(f"{split}_images")
    config = _asking({"retry_failed": True}, [_name(key)])
    wrong = []
    for first, last in contiguous(instance.get_dynamic_partitions(f"{split}_shards"), shards):
        try:
            walk.execute([key], config, {tags.RANGE_START: first, tags.RANGE_END: last})
        except LineageError as error:
            wrong.append(str(error))
    return wrong


def _asking(execution: Mapping[str, object], assets: Collection[str]) -> dict[str, object]:
    """The run config in which assets are run in that way."""
    ops = {asset: {"config": {"execution": dict(execution)}} for asset in assets}
    return {"ops": ops} if ops else {}


def _name(key: dg.AssetKey) -> str:
    return key.to_user_string()


class _Walk:
    """Runs of the code location's asset job in this process, and what is told of them."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, progress: Progress, asked_by: str) -> None:
        definitions = build_definitions(platform_of(settings))
        self.instance, self.progress = instance, progress
        self.graph = definitions.resolve_asset_graph()
        self.job = definitions.resolve_implicit_global_asset_job_def()
        self.seconds: dict[str, float] = {}
        self.skipped: list[str] = []
        self.total = 0
        self._origin = origin_of(self.job.name)
        # A run that was killed is not begun again by the daemon: whoever began it is there to do so.
        self._tags = {tags.ASKED_BY: asked_by, tags.MAX_RETRIES: "0"} | label_tags(self._origin)
        # Steps have the names of their assets, those of checks with the check's behind it.
        self._asset_of = {_name(key): _name(key) for key in self.graph.get_all_asset_keys()}
        self._asset_of |= {f"{_name(key.asset_key)}_{key.name}": _name(key.asset_key) for key in self._checks}
        self._begun: dict[str, Step] = {}
        self._partitions = 0

    @property
    def _checks(self) -> AbstractSet[dg.AssetCheckKey]:
        return self.graph.asset_check_keys

    def skip(self, group: Sequence[dg.AssetKey]) -> None:
        """Leave out assets that are up to date."""
        self.skipped += map(_name, group)

    def run(self, group: Sequence[dg.AssetKey], partitions: Sequence[str] | None, forced: Collection[str]) -> None:
        """Materialize a group of assets, over these registered partitions, or none where they have none.

        Raises:
            LineageError: an asset or a check failed.
        """
        ranges: list[dict[str, str]] = [{}]
        if partitions is not None:
            partitioned = self.graph.get(group[0]).partitions_def
            registered = self.instance.get_dynamic_partitions(str(getattr(partitioned, "name", "")))
            # A range run: one event stream for all shards, 0.02 s of Dagster's time each.
            found = contiguous(registered, partitions)
            ranges = [{tags.RANGE_START: first, tags.RANGE_END: last} for first, last in found]
        self._partitions = len(partitions or ())
        warnings: dict[str, list[str]] = {}
        for partition_range in ranges:
            for name, told in self.execute(group, _asking({"force": True}, forced), partition_range).items():
                warnings.setdefault(name, []).extend(told)
        for name in map(_name, group):
            self._begin(name)  # where there is no partition nothing has begun
            self.progress.ends(self._begun[name], round(self.seconds[name], 3), warnings.get(name, []))

    def execute(
        self, group: Sequence[dg.AssetKey], config: Mapping[str, object], partition_range: Mapping[str, str]
    ) -> dict[str, list[str]]:
        """One run; returns by asset the checks that warn.

        Raises:
            LineageError: an asset or a check failed.
        """
        run_id = str(uuid.uuid4())
        self._tags.setdefault(tags.FIRST_RUN, run_id)
        self.instance.add_event_listener(run_id, self._listen)
        with run_lock(self.instance, run_id):
            result = self.job.execute_in_process(
                run_config=_QUIET | dict(config),
                instance=self.instance,
                asset_selection=list(group),
                raise_on_error=False,
                run_id=run_id,
                tags=self._tags | dict(partition_range),
            )
        make_again()  # nothing any more: what this run forced is done
        try:
            raise_if_interrupted(surely=_was_interrupted(result))
        except Interrupted as interrupted:
            # Dagster calls a run failed that nobody has canceled in the UI.
            self.instance.report_run_canceled(result.dagster_run, message=f"Canceled by {interrupted}.")
            raise
        if not result.success:
            step = next((event.step_key for event in result.all_node_events if event.is_step_failure), None)
            raise LineageError(f"{self._asset_of.get(str(step), step or _name(group[0]))}: {_reason(result)}")
        told: dict[str, list[str]] = {}
        failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
        for check in failed:
            told.setdefault(_name(check.asset_key), []).append(f"check {check.check_name}: {_told(check)}")
        for name in (_name(check.asset_key) for check in failed if check.severity == dg.AssetCheckSeverity.ERROR):
            raise LineageError(f"{name}: {'; '.join(told[name])}")
        return told

    def _listen(self, entry: dg.EventLogEntry) -> None:
        """Record the origin of a run as it starts; tell of it as its steps begin and end."""
        event = entry.dagster_event
        if event is not None and event.event_type == dg.DagsterEventType.RUN_START:
            set_origin(self.instance, entry.run_id, self._origin)
        name = self._asset_of.get(str(event.step_key)) if event is not None else None
        if event is None or name is None:
            return
        if event.event_type == dg.DagsterEventType.STEP_START:
            self._begin(name)
        elif event.is_step_success:
            self.seconds[name] += event.step_success_data.duration_ms / 1000

    def _begin(self, name: str) -> None:
        if name not in self._begun:
            self._begun[name] = Step(name, len(self._begun) + len(self.skipped) + 1, self.total, self._partitions)
            self.seconds.setdefault(name, 0.0)
            self.progress.begins(self._begun[name])


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    failures = [event.step_failure_data for event in result.all_node_events if event.is_step_failure]
    errors = [failure.error.cls_name for failure in failures if failure.error is not None]
    return bool({dg.DagsterExecutionInterruptedError.__name__, Interrupted.__name__} & {*errors})


def _told(check: dg.AssetCheckEvaluation) -> str:
    return ", ".join(str(value.value) for value in check.metadata.values())


def _reason(result: dg.ExecuteInProcessResult) -> str:
    """The error of the first step that failed, in one line."""
    for event in result.all_node_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data is not None and data.user_failure_data.description:
                return data.user_failure_data.description
            if data.error is not None:
                return error_message(data.error)
    return "the run failed without an event that says why; see its log in the Dagster UI"
