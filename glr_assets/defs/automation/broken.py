"""What is broken now: one table of the shards and the assets that want a person or a run, and what to do about each."""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import dagster as dg

from glr_assets import markdown
from glr_assets.defs.automation.refresh import stored_assets
from glr_assets.defs.automation.under_way import UnderWay, under_way
from glr_assets.defs.platform import Platform
from glr_assets.images.due import due_shards
from glr_assets.images.retry import MAX_FAILURES, SplitState, split_state
from glr_assets.recipes import Recipe
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.source.layout import SPLITS
from glr_assets.staleness import NEVER_MADE, Stored
from glr_assets.store import Store

#: Assets whose users must know that they are no longer made from what is there.
UP_TO_DATE = ("train_manifest", "image_ledger", "faiss_index", "submission", "evaluation")
#: A model is trained when someone wants it: what was made by an older one is up to date until then.
_BY_DECISION = ("non_landmark_classifier", "embedder", "training_groups", "group_classifiers", "group_calibration")
_HEADER = ("what", "state", "why", "what to do")
#: Rows shown in the UI, whose event log keeps them.
MOST_ROWS = 100


@dataclass(frozen=True)
class Row:
    """One thing that is not as it should be.

    Attributes:
        what: the asset, and its partition where it has one.
        state: permanent, given up, passing, unverifiable, missing or outdated.
        why: in words.
        mend: what to do, in Markdown of our own: no text from outside is in it.
        lasting: whether nothing that runs by itself will mend it.
    """

    what: str
    state: str
    why: str
    mend: str
    lasting: bool = False


def broken_shards(source: Source, store: Store, recipe: Recipe, at: UnderWay) -> Iterator[Row]:
    """The shards of the source that are not stored, none of those that a run or a backfill is at."""
    for split in SPLITS:
        state = split_state(source, store, split)
        left = [key for key in (*state.failed, *state.untried) if key not in at.of(f"{split}_images")]
        judged = due_shards(source, store, split, left, {}, recipe.images)
        unverifiable = {key for key, verdict in judged.items() if verdict == "unverifiable"}
        for key in sorted(left):
            yield _shard_row(split, key, state, key in unverifiable)


def _shard_row(split: Split, key: str, state: SplitState, unverifiable: bool) -> Row:
    what, why = f"{split}_images {key}", state.failed.get(key, "was never begun")
    again = f"or `glr shards retry --split {split}`"
    if unverifiable:
        publish = "publish its MD5, or set [images] require_md5 = false"
        return Row(what, "unverifiable", "its MD5 is not published, or is none", publish, lasting=True)
    if state.is_permanent(key):
        return Row(what, "permanent", why, f"mend it at the source: its new content is found by itself, {again}", True)
    if state.is_given_up(key):
        tries = f"{MAX_FAILURES} runs failed in a row"
        return Row(what, "given up", f"{tries}; the last: {why}", f"remove the cause, then {again[3:]}", lasting=True)
    if key in state.failed:
        return Row(what, "passing", why, f"it is tried again at night (retry_{split}_shards), {again}")
    return Row(what, "missing", why, "ingest_new_shards or the next night asks for it, or backfill it")


def outdated_assets(stored: Stored, at: UnderWay) -> Iterator[Row]:
    """Assets that were made and are no longer of what is stored, none of those that are being made."""
    for asset in stored.partitions:
        found = {name: why for name, why in stored.outdated(asset).items() if why != NEVER_MADE}
        if found and asset not in at.by:
            name, why = next(iter(found.items()))
            more = f", and {len(found) - 1} more" if len(found) > 1 else ""
            yield Row(name.replace("/", " ") + more, "outdated", why, "refresh_manifests, refresh_index or a run of it")


def as_markdown(rows: Iterable[Row]) -> str:
    """The table for people, cut after so many rows."""
    rows = list(rows)
    shown = markdown.table(
        _HEADER, [(row.what, row.state, row.why, markdown.Markup(row.mend)) for row in rows[:MOST_ROWS]]
    )
    return shown + (f"\n\n{len(rows) - MOST_ROWS} more" if len(rows) > MOST_ROWS else "")


@dg.asset_check(
    asset="image_catalog",
    description="No shard failed or is missing; its table also names assets that are no longer of what is stored.",
)
def what_is_broken(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
    """It warns and stops nothing: the other shards go on to the manifests."""
    source, store, recipe = platform.open_source(), platform.open_store(), platform.load_recipe()
    repository = _repository()
    at = under_way(context.instance, repository, but=context.run.run_id)
    shards = list(broken_shards(source, store, recipe, at))
    old = list(outdated_assets(stored_assets(repository, source, store, recipe), at))
    return dg.AssetCheckResult(
        passed=not shards,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "problem": f"{len(shards)} shards: {', '.join(row.what for row in shards[:5])}" if shards else "none",
            "shards": len(shards),
            "for a person": sum(row.lasting for row in shards),
            "outdated assets": len(old),
            "table": dg.MetadataValue.md(as_markdown([*shards, *old])),
        },
    )


def _up_to_date(asset: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset, name="up_to_date", description="It is made from what is stored now, and so on upwards."
    )
    def up_to_date(platform: Platform) -> dg.AssetCheckResult:
        repository = _repository()
        stored = stored_assets(repository, platform.open_source(), platform.open_store(), platform.load_recipe())
        old = [f"{name}: {why}" for name, why in _outdated_above(repository, stored, asset)]
        problem = "; ".join(old[:5]) + (f"; and {len(old) - 5} more" if len(old) > 5 else "")
        severity = dg.AssetCheckSeverity.WARN
        return dg.AssetCheckResult(passed=not old, severity=severity, metadata={"problem": problem or "none"})

    return up_to_date


def _outdated_above(repository: dg.RepositoryDefinition, stored: Stored, asset: str) -> Iterator[tuple[str, str]]:
    """Outdated receipts of an asset and of all that it is made from, models excepted."""
    graph = repository.asset_graph
    seen: set[str] = set()
    waiting = [asset]
    while waiting:
        name = waiting.pop(0)
        if name in seen or name in _BY_DECISION or not graph.has(dg.AssetKey(name)):
            continue
        seen.add(name)
        yield from ((found, why) for found, why in stored.outdated(name).items() if why != NEVER_MADE)
        waiting += sorted(parent.to_user_string() for parent in graph.get(dg.AssetKey(name)).parent_keys)


@functools.cache
def _repository() -> dg.RepositoryDefinition:
    from glr_assets.defs.build import build_definitions  # it assembles these checks too

    return build_definitions().get_repository_def()


CHECKS = [what_is_broken, *(_up_to_date(asset) for asset in UP_TO_DATE)]

look_for_what_is_broken = dg.ScheduleDefinition(
    name="look_for_what_is_broken",
    cron_schedule="0 6 * * *",
    job=dg.define_asset_job(
        "what_is_broken",
        selection=dg.AssetSelection.checks(*(key for check in CHECKS for key in check.check_keys)),
        description="Looks at shards and assets as they stand, and makes nothing.",
    ),
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Every morning after the retries: the checks what_is_broken and up_to_date.",
)
