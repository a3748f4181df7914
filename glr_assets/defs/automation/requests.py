"""Runs that automation asks for: assets as one run, or shards of them in contiguous ranges of the backfill policy."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import dagster as dg

from glr_assets.defs import tags
from glr_assets.defs.shards import SHARD_BACKFILL, contiguous

#: A run whose process or machine is lost is begun again so often, by Dagster's own run retries where they are enabled.
CRASH_RETRIES = "2"
BATCH = SHARD_BACKFILL.max_partitions_per_run or 1


def repository_of(context: dg.SensorEvaluationContext) -> dg.RepositoryDefinition:
    """What a sensor belongs to, which a tick of the daemon always has.

    Raises:
        dg.DagsterInvariantViolationError: the context was made without definitions.
    """
    if context.repository_def is None:
        raise dg.DagsterInvariantViolationError("a tick needs the definitions: give them to build_sensor_context")
    return context.repository_def


def whole_run(assets: Collection[str], asked_by: str, repository: dg.RepositoryDefinition) -> dg.RunRequest:
    """A run of assets without partitions, all in one process where steps would be processes of one machine.

    Each asset and each of its checks is a step, and a process of its own costs two seconds to start.
    """
    executor = repository.get_implicit_global_asset_job_def().executor_def
    by_processes = executor.name == dg.multi_or_in_process_executor.name
    return dg.RunRequest(
        asset_selection=[dg.AssetKey(name) for name in sorted(assets)],
        run_config={"execution": {"config": {"in_process": {}}}} if by_processes else {},
        tags={tags.ASKED_BY: asked_by, tags.MAX_RETRIES: CRASH_RETRIES},
    )


def range_run(
    assets: Collection[str] | None, keys: Sequence[str], asked_by: str, run_key: str | None = None
) -> dg.RunRequest:
    """A run over neighbouring partitions; one of them that fails is no reason to begin the run again.

    Args:
        assets: what is made; None: what the schedule's own job makes.
        keys: the partitions, in the order of their registration.
        asked_by: the sensor or schedule.
        run_key: under which a schedule asks for a run once.
    """
    return dg.RunRequest(
        run_key=run_key,
        asset_selection=None if assets is None else [dg.AssetKey(name) for name in sorted(assets)],
        tags={
            tags.RANGE_START: keys[0],
            tags.RANGE_END: keys[-1],
            tags.ASKED_BY: asked_by,
            tags.MAX_RETRIES: CRASH_RETRIES,
            tags.RETRY_ON_FAILED_STEPS: "false",
        },
    )


def batches(registered: Sequence[str], wanted: Collection[str], most: int = BATCH) -> list[list[str]]:
    """The wanted keys that are registered, as runs of neighbours in the order of registration, at most `most` each."""
    places = {key: place for place, key in enumerate(registered)}
    found: list[list[str]] = []
    for first, last in contiguous(registered, wanted):
        keys = registered[places[first] : places[last] + 1]
        found += [list(keys[start : start + most]) for start in range(0, len(keys), most)]
    return found
