"""Which shards of the source are not stored, why, and what to do about each: a check of the images of each split.

What is stale is shown by Dagster itself, with the cause: the roots of the lineage are observed.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import dagster as dg

from glr_assets import markdown
from glr_assets.defs.automation.retries import RETRY, running_shards
from glr_assets.defs.platform import Platform
from glr_assets.defs.shards import SHARDS
from glr_assets.images.retry import MAX_FAILURES, SplitState, split_state
from glr_assets.source.base import Split

_HEADER = ("shard", "state", "reason", "fix")
#: Rows shown in the UI, whose event log keeps them.
MOST_ROWS = 100


@dataclass(frozen=True)
class Row:
    """One shard that is not stored as the source has it.

    Attributes:
        shard: its key.
        state: permanent, unverifiable, given up, passing or missing.
        reason: the error of its last run.
        fix: what to do, in Markdown of our own: no text from outside is in it.
        lasting: whether no run that starts by itself will fix it.
    """

    shard: str
    state: str
    reason: str
    fix: str
    lasting: bool = False


def unstored_shards(
    split: Split, state: SplitState, registered: Collection[str], running: Iterable[str] = ()
) -> list[Row]:
    """A row for each shard that failed or was never begun, sorted; none for those that a run is at."""
    left = {*state.failed, *state.untried} - {*running}
    return [_row(split, key, state, registered) for key in sorted(left)]


def _row(split: Split, key: str, state: SplitState, registered: Collection[str]) -> Row:
    reason = state.failed.get(key, "was never begun")
    retry = f"`glr shards retry --split {split}`"
    publish = "publish its MD5, or set `[images] require_md5 = false`"
    if state.is_permanent(key) and not state.runs[key].source:
        return Row(key, "unverifiable", reason, publish, lasting=True)
    if key not in registered:
        return Row(key, "unverifiable", "not registered: its MD5 is not published yet", publish, lasting=True)
    if state.is_permanent(key):
        return Row(key, "permanent", reason, f"fix it at the source: a new upload is tried by itself, or {retry}", True)
    if state.is_given_up(key):
        return Row(key, "given up", f"{MAX_FAILURES} runs failed in a row; the last: {reason}", retry, lasting=True)
    if key in state.failed:
        return Row(key, "passing", reason, f"the schedule `{RETRY}` tries it again at night, or {retry}")
    return Row(key, "missing", reason, "the sensor `automation` requests it, or backfill it")


def as_markdown(rows: Iterable[Row]) -> str:
    """The table for people, cut after so many rows."""
    rows = list(rows)
    shown = markdown.table(
        _HEADER, [(row.shard, row.state, row.reason, markdown.Markup(row.fix)) for row in rows[:MOST_ROWS]]
    )
    return shown + (f"\n\n{len(rows) - MOST_ROWS} more" if len(rows) > MOST_ROWS else "")


def _shards_ingested(split: Split) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=f"{split}_images",
        name="shards_ingested",
        description=f"No {split} shard failed. The table names failed and missing shards, the reason and the fix.",
    )
    def shards_ingested(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
        """It warns and stops nothing: the manifests are made of the other shards."""
        state = split_state(platform.open_source(), platform.open_store(), split)
        registered = context.instance.get_dynamic_partitions(f"{split}_shards")
        rows = unstored_shards(split, state, registered, running_shards(context.instance, split))
        failed = [row.shard for row in rows if row.shard in state.failed]
        return dg.AssetCheckResult(
            passed=not failed,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "problem": f"{len(failed)} shards failed: {', '.join(failed[:5])}" if failed else "none",
                "failed": len(failed),
                "missing": len(rows) - len(failed),
                "for a person": sum(row.lasting for row in rows),
                "shards": dg.MetadataValue.md(as_markdown(rows)),
            },
        )

    return shards_ingested


CHECKS = [_shards_ingested(split) for split in SHARDS]

daily_health_checks = dg.ScheduleDefinition(
    name="daily_health_checks",
    cron_schedule="0 6 * * *",
    job=dg.define_asset_job(
        "health_checks",
        selection=dg.AssetSelection.checks(*(key for check in CHECKS for key in check.check_keys)),
        description="Evaluates `shards_ingested` of every split; makes nothing.",
    ),
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every morning after the retries: which shards failed, why, and what to do.",
)
