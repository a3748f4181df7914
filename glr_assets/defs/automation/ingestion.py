"""From registered shards to stored ones: what is new is asked for, and failures again."""

from __future__ import annotations

import dagster as dg
from pydantic import BaseModel, Field

from glr_assets.defs.automation.jobs import TABLES_FIRST
from glr_assets.defs.automation.requests import batches, range_run, repository_of, whole_run
from glr_assets.defs.automation.under_way import UnderWay, under_way
from glr_assets.defs.platform import Platform
from glr_assets.images import versions
from glr_assets.images.due import due_shards
from glr_assets.images.retry import split_state
from glr_assets.images.selection import selection_tables
from glr_assets.receipts import digest_of, find_receipt
from glr_assets.recipes import Recipe
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.source.layout import SPLITS
from glr_assets.store import Store

#: Shards looked at in a tick: each costs three small reads, sixteen at a time, and a tick must end within a minute.
MOST_LOOKED_AT = 2000
#: Runs asked for in a tick, of all splits together: the daemon enters about one a second.
MOST_RUNS = 20
_MARK = 12


class Seen(BaseModel):
    """The cursor of `ingest_new_shards`: a cache of what was settled, which may be reset at any time.

    Attributes:
        tables: what identified the source's CSVs when their tables were asked for.
        shards: by split and key, what identified the shard and its tables when it was found done, failed or was asked.
    """

    tables: str = ""
    shards: dict[str, dict[str, str]] = Field(default_factory=dict)


@dg.sensor(
    name="ingest_new_shards",
    asset_selection=dg.AssetSelection.assets(*TABLES_FIRST, *(f"{split}_images" for split in SPLITS)),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Asks for the tables of changed CSVs, then for new and changed shards in ranges of at most 25.",
)
def ingest_new_shards(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
    """Each content of a shard is asked for once; what does not end well is the business of the nightly schedules.

    Whether there is anything to do is told by receipts, so shards that were ingested in whatever way are not asked
    for; the cursor only spares reading those of shards whose listing has not changed.
    """
    source, store, recipe = platform.open_source(), platform.open_store(), platform.load_recipe()
    seen = Seen.model_validate_json(context.cursor or "{}")
    repository = repository_of(context)
    at = under_way(context.instance, repository)
    tables = digest_of(source.table_stamps())
    busy = sorted(set(TABLES_FIRST) & at.by.keys())
    if busy:
        return dg.SkipReason(f"waits for {busy[0]}: {at.by[busy[0]]}")
    if seen.tables != tables:
        run = whole_run(TABLES_FIRST, "ingest_new_shards", repository)
        return dg.SensorResult([run], cursor=seen.model_copy(update={"tables": tables}).model_dump_json())
    runs: list[dg.RunRequest] = []
    told: list[str] = []
    for split in SPLITS:
        registered = list(context.instance.get_dynamic_partitions(f"{split}_shards"))
        look = _Look(source, store, recipe, split, registered, at)
        asked, words = look.ask(seen.shards.setdefault(split, {}), MOST_RUNS - len(runs))
        runs += asked
        told += words
    cursor = seen.model_dump_json()
    reason = "; ".join(told) or f"nothing new in {source.url}"
    return dg.SensorResult(runs, cursor=cursor) if runs else dg.SensorResult(skip_reason=reason, cursor=cursor)


class _Look:
    """One tick's look at a split."""

    def __init__(
        self, source: Source, store: Store, recipe: Recipe, split: Split, registered: list[str], at: UnderWay
    ) -> None:
        self.source, self.store, self.recipe, self.split = source, store, recipe, split
        self.registered, self.at = registered, at

    def ask(self, seen: dict[str, str], most_runs: int) -> tuple[list[dg.RunRequest], list[str]]:
        """Runs for the shards that want one, at most so many, and what else is to be told; notes what is settled."""
        split, asset = self.split, f"{self.split}_images"
        receipts = {name: find_receipt(self.store, name) for name in selection_tables(split, self.recipe.images)}
        missing = [name for name, receipt in receipts.items() if receipt is None]
        if missing:
            return [], [f"{split} waits for {', '.join(missing)}, which failed or was never made"]
        tables = {name: receipt.digest for name, receipt in receipts.items() if receipt is not None}
        decided = [tables, versions.CODE_VERSION]
        marks = {key: digest_of([stamp, decided])[:_MARK] for key, stamp in self.source.shard_stamps(split).items()}
        for gone in seen.keys() - marks.keys():
            del seen[gone]
        known, busy = set(self.registered), self.at.of(asset)
        new = [key for key, mark in marks.items() if seen.get(key) != mark and key in known and key not in busy]
        states = due_shards(self.source, self.store, split, new[:MOST_LOOKED_AT], tables, self.recipe.images)
        wanted = [key for key, state in states.items() if state == "wanted"]
        ranges = batches(self.registered, wanted)[: max(0, most_runs)]
        asked = {key for keys in ranges for key in keys}
        seen |= {key: marks[key] for key, state in states.items() if state != "wanted" or key in asked}
        unverifiable = [key for key, state in states.items() if state == "unverifiable"]
        words = [f"{split} {', '.join(unverifiable)}: no MD5 is published yet"] if unverifiable else []
        return [range_run([asset], keys, "ingest_new_shards") for keys in ranges], words


def _retry_schedule(split: Split) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"retry_{split}_shards",
        cron_schedule="0 2 * * *",
        target=dg.AssetSelection.assets(f"{split}_images"),
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Every night: {split} shards never tried, failed for a passing reason, or ingested by other code.",
    )
    def retry(context: dg.ScheduleEvaluationContext, platform: Platform) -> list[dg.RunRequest] | dg.SkipReason:
        source = platform.open_source()
        state = split_state(source, platform.open_store(), split)
        at = under_way(context.instance, context.repository_def)
        wanted = {*state.untried, *state.passing, *state.outdated} - at.of(f"{split}_images")
        registered = list(context.instance.get_dynamic_partitions(f"{split}_shards"))
        night = context.scheduled_execution_time.isoformat()
        asked_by = f"retry_{split}_shards"
        runs = [range_run(None, keys, asked_by, f"{night} {keys[0]}") for keys in batches(registered, wanted)]
        left = len(state.failed) - len(state.passing)
        return runs or dg.SkipReason(f"no {split} shard to try again; {left} failed for good: see what_is_broken")

    return retry


RETRIES = [_retry_schedule(split) for split in SPLITS]
