"""Failed shards are tried again at night: those that failed for a passing reason, a few nights at most.

Automation conditions cannot do this, because Dagster does not know why a partition failed, nor how often in a row.
"""

import dagster as dg
from dagster._core.storage.partition_status_cache import AssetPartitionStatus

from glr_assets.defs import tags
from glr_assets.defs.automation.jobs import open_backfill, start_backfill
from glr_assets.defs.platform import Platform
from glr_assets.defs.shards import SHARDS
from glr_assets.images.retry import split_state
from glr_assets.source.base import Split

RETRY = "retry_failed_shards"


def running_shards(instance: dg.DagsterInstance, split: Split) -> set[str]:
    """The shards of a split that a queued or started run is to make."""
    registered = instance.get_dynamic_partitions(str(SHARDS[split].name))
    states = instance.get_status_by_partition(dg.AssetKey(f"{split}_images"), list(registered), SHARDS[split]) or {}
    return {key for key, state in states.items() if state == AssetPartitionStatus.IN_PROGRESS}


def shards_to_retry(instance: dg.DagsterInstance, platform: Platform) -> dict[Split, list[str]]:
    """By split the registered shards that failed, may do better, and that no run is at; only splits that have any."""
    source, store = platform.open_source(), platform.open_store()
    found: dict[Split, list[str]] = {}
    for split, partitions in SHARDS.items():
        failed = split_state(source, store, split).passing
        registered = set(instance.get_dynamic_partitions(str(partitions.name)))
        keys = sorted({*failed} & registered - running_shards(instance, split)) if failed else []
        if keys:
            found[split] = keys
    return found


@dg.op(name=f"launch_{RETRY}", out=dg.Out(dg.Nothing))
def _launch(context: dg.OpExecutionContext, platform: Platform) -> None:
    shards = shards_to_retry(context.instance, platform)
    under_way = open_backfill(context.instance, RETRY)
    if not shards or under_way is not None:
        context.log.info(f"backfill {under_way} is not over" if under_way else "no failed shard that may do better")
        return
    backfill = start_backfill(
        context.instance,
        context.repository_def.asset_graph,
        dg.AssetSelection.assets(*(f"{split}_images" for split in shards)),
        {str(SHARDS[split].name): keys for split, keys in shards.items()},
        {tags.ASKED_BY: tags.asked_by(context.run.tags), tags.LAUNCHED_BY_RUN: context.run_id, tags.JOB: RETRY},
        title=RETRY,
    )
    context.log.info(f"started backfill {backfill}: /runs/b/{backfill}")
    context.add_output_metadata({f"{split} shards": ", ".join(keys) for split, keys in shards.items()})


@dg.job(
    name=RETRY,
    description="Starts a backfill over the shards that failed for a passing reason.",
    tags={tags.JOB: RETRY},
    executor_def=dg.in_process_executor,
)
def retry_job() -> None:
    """Launch the backfill."""
    _launch()


@dg.schedule(
    name=RETRY,
    job=retry_job,
    cron_schedule="0 2 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every night: shards that failed for a passing reason, five runs in a row at most.",
)
def retry_failed_shards(context: dg.ScheduleEvaluationContext, platform: Platform) -> dg.RunRequest | dg.SkipReason:
    """One run of the job, where there is a shard to retry."""
    if not shards_to_retry(context.instance, platform):
        return dg.SkipReason("no failed shard that may do better")
    return dg.RunRequest(tags={tags.ASKED_BY: f"schedule {RETRY}"})
