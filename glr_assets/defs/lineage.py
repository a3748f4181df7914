"""The whole lineage materialised in this process, asset after asset: what `glr demo` runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from glr_assets import errors
from glr_assets.defs import tags
from glr_assets.defs.automation.roots import sync_roots
from glr_assets.defs.build import ASSET_CHECKS, ASSETS, ROOTS, build_definitions
from glr_assets.defs.platform import platform_of
from glr_assets.defs.process_locks import process_lock
from glr_assets.defs.shards import SHARDS, contiguous, counted_parts
from glr_assets.errors import GlrError, SettingsError, describe
from glr_assets.interrupts import Interrupted, raise_if_interrupted
from glr_assets.redaction import safe_cause
from glr_assets.settings import Settings
from glr_assets.source.base import Split

#: The in-process runs report through `Progress`; Dagster's own console log would tear the progress bar.
_MENDABLE = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, GlrError)}
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
    """What is called as the work goes on."""

    begins: Callable[[Step], None]
    ends: Callable[[Step, float, list[str]], None]


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
) -> dict[str, float]:
    """Materialise every asset, or these alone, in the order of the lineage, all shards of the source included.

    Args:
        settings: source, store and recipe.
        instance: takes the runs.
        progress: told of the work.
        assets: by name; all where not given.
        force: of these the assets that are made again though they are done.

    Returns:
        Seconds each asset took.

    Raises:
        LineageError: an asset failed, or a check of severity ERROR did; later assets were not begun; or there is no
            asset of a name in `force`.
    """
    source, recipe = settings.open_source(), settings.load_recipe()
    sync_roots(settings, instance)
    platform = platform_of(settings)
    definitions = build_definitions(platform)
    graph = definitions.resolve_asset_graph()
    keys = [key for level in graph.toposorted_asset_keys_by_level for key in sorted(level, key=_name)]
    keys = [key for key in keys if graph.get(key).is_materializable and (assets is None or _name(key) in assets)]
    unknown = set(force) - {_name(key) for key in keys}
    if unknown:
        raise LineageError(f"{min(unknown)}: there is no such asset to force; assets are {', '.join(map(_name, keys))}")
    shards = {f"{split}_shards": source.shards(split) for split in SHARDS}
    shards |= {str(partitions.name): keys for partitions, keys in counted_parts(recipe)}
    seconds: dict[str, float] = {}
    for number, key in enumerate(keys, 1):
        partitioned = graph.get(key).partitions_def
        step = Step(_name(key), number, len(keys), 0)
        runs: list[tuple[str, str] | None] = [None]
        if isinstance(partitioned, dg.DynamicPartitionsDefinition):
            # The instance may know shards of another source, which this lineage is not about.
            mine = shards[str(partitioned.name)]
            step = Step(step.asset, number, len(keys), len(mine))
            runs = [*contiguous(instance.get_dynamic_partitions(str(partitioned.name)), mine)]
        progress.begins(step)
        began = time.monotonic()
        config = _asking({"force": True}, step.asset) if step.asset in force else None
        with process_lock(instance) as held:
            warnings = [w for run in runs for w in _materialise(definitions, key, run, instance, held, config)]
        seconds[step.asset] = round(time.monotonic() - began, 3)
        progress.ends(step, seconds[step.asset], warnings)
    return seconds


def retry_shards(settings: Settings, instance: dg.DagsterInstance, split: Split, shards: Collection[str]) -> list[str]:
    """Materialise these shards' images once more, and of those that were ingested only the images that failed.

    Returns:
        What went wrong, a text for each run of neighbouring shards that did not end well.
    """
    settings.open_source()  # one that is out of reach is told of here
    sync_roots(settings, instance)
    platform = platform_of(settings)
    definitions = build_definitions(platform)
    key = dg.AssetKey(f"{split}_images")
    config = _asking({"retry_failed": True}, _name(key))
    wrong = []
    for run in contiguous(instance.get_dynamic_partitions(f"{split}_shards"), shards):
        try:
            with process_lock(instance) as held:
                _materialise(definitions, key, run, instance, held, config)
        except LineageError as error:
            wrong.append(str(error))
    return wrong


def _asking(execution: Mapping[str, object], asset: str) -> dict[str, object]:
    """The run config in which an asset is run in that way."""
    return {"ops": {asset: {"config": {"execution": dict(execution)}}}}


def _name(key: dg.AssetKey) -> str:
    return key.to_user_string()


def _materialise(
    definitions: dg.Definitions,
    key: dg.AssetKey,
    shards: tuple[str, str] | None,
    instance: dg.DagsterInstance,
    held: Mapping[str, str],
    config: Mapping[str, object] | None = None,
) -> list[str]:
    """Run one asset, or a range of its shards, with its checks; returns the checks that warn.

    `held` are the tags of this process's lock.
    """
    asked = dict(held)
    if shards is not None:
        # A range run: one process and one event stream for all shards, 0.02 s of Dagster's time each.
        asked |= {tags.RANGE_START: shards[0], tags.RANGE_END: shards[1]}
    result = dg.materialize(
        [*ASSETS, *ROOTS, *ASSET_CHECKS],
        selection=dg.AssetSelection.assets(key),
        instance=instance,
        resources=definitions.resources,
        run_config=_QUIET | dict(config or {}),
        tags=asked,
        raise_on_error=False,
    )
    raise_if_interrupted(surely=_was_interrupted(result))
    if not result.success:
        raise LineageError(f"{_name(key)}: {_reason(result)}")
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    told = [f"check {check.check_name}: {_told(check)}" for check in failed]
    if any(check.severity == dg.AssetCheckSeverity.ERROR for check in failed):
        raise LineageError(f"{_name(key)}: {'; '.join(told)}")
    return told


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
            chain = [data.error] if data.error is not None else []
            while chain and chain[-1].cause is not None:
                chain.append(chain[-1].cause)
            # Ours is meant for the user, whatever caused it; of another chain the innermost says most.
            ours = [error for error in chain if error.cls_name in _MENDABLE]
            if chain:
                error = ours[0] if ours else chain[-1]
                message = " ".join(error.message.split())
                return message.split(f"{error.cls_name}: ", 1)[-1] if ours else message
    return "the run failed without an event that says why; see its log in the Dagster UI"
