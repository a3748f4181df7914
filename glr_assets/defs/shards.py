"""Partitions: shards, one dynamic set a split, and the parts that a recipe counts; backfill policies, one loop.

Shards are dynamic because the same definitions serve the four shards of the sample, the 500 of GLDv2 and
the shard that appears next month. Ranges follow the order of registration, so keys are always added sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import dagster as dg

from glr_assets.defs.results import materialization, result_of
from glr_assets.errors import describe, trace
from glr_assets.openimages.parts import part_keys
from glr_assets.receipts import Made
from glr_assets.recipes import Recipe
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.source.layout import SPLITS
from glr_assets.store import Store
from glr_assets.tables import Table
from glr_assets.training.groups import group_keys
from glr_assets.verification.plan import bucket_keys

SHARDS: Mapping[Split, dg.DynamicPartitionsDefinition] = {
    split: dg.DynamicPartitionsDefinition(name=f"{split}_shards") for split in SPLITS
}
BUCKETS = dg.DynamicPartitionsDefinition(name="class_buckets")
GROUPS = dg.DynamicPartitionsDefinition(name="training_groups")
OPENIMAGES_PARTS = dg.DynamicPartitionsDefinition(name="openimages_parts")
#: 25 shards a run: launching a run costs about 2.5 s and a daemon tick 30 s, so 500 shards cost 20 launches
#: instead of 500, and a failure or a lost machine costs one run of 25, not the whole backfill.
SHARD_BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=25)
#: A group trains for a day: each is a run of its own, so that as many train at once as there are GPUs.
GROUP_BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=1)


def sync_shards(instance: dg.DagsterInstance, source: Source) -> dict[Split, list[str]]:
    """Register the source's shards that the instance does not know yet, sorted; returns those added."""
    added: dict[Split, list[str]] = {}
    for split in SPLITS:
        name = f"{split}_shards"
        known = set(instance.get_dynamic_partitions(name))
        added[split] = [key for key in sorted(source.shards(split)) if key not in known]
        if added[split]:
            instance.add_dynamic_partitions(name, added[split])
    return added


def counted_parts(recipe: Recipe) -> list[tuple[dg.DynamicPartitionsDefinition, list[str]]]:
    """The partitions that a recipe counts, and their keys: class buckets, training groups, parts of Open Images."""
    return [
        (BUCKETS, bucket_keys(recipe.verification.buckets)),
        (GROUPS, group_keys(recipe.groups)),
        (OPENIMAGES_PARTS, part_keys(recipe.openimages.parts)),
    ]


def sync_counted_parts(instance: dg.DagsterInstance, recipe: Recipe) -> dict[str, int]:
    """Register the partitions that a recipe counts, and none but these; returns how many there are of each.

    In another number their keys mean other landmarks or images, so all go where one is wrong.
    """
    for partitions, keys in counted_parts(recipe):
        name = str(partitions.name)
        known = list(instance.get_dynamic_partitions(name))
        for key in known if known != keys else []:
            instance.delete_dynamic_partition(name, key)
        if known != keys:
            instance.add_dynamic_partitions(name, keys)
    return {str(partitions.name): len(keys) for partitions, keys in counted_parts(recipe)}


def contiguous(registered: Sequence[str], wanted: Collection[str]) -> list[tuple[str, str]]:
    """The fewest ranges of registered keys, as (first, last), that hold the wanted ones and no other."""
    ranges: list[tuple[str, str]] = []
    going = False
    for key in registered:
        if key in wanted:
            ranges.append((ranges.pop()[0], key) if going else (key, key))
        going = key in wanted
    return ranges


def each_shard(
    context: dg.AssetExecutionContext,
    table: Table | None,
    make: Callable[[str], Made],
    unit: str = "shard",
    store: Store | None = None,
) -> Iterator[dg.MaterializeResult]:
    """Make every shard of the run, one after the other; one that fails, by whatever error, does not stop the others.

    `unit` is what a partition is called where it is no shard; pictures are shown where the store of them is given.

    In a run of several shards each is logged when it is done, so that a crash keeps what was finished, and
    once more after the run's own result, whose metadata Dagster would copy to all of them.

    Raises:
        dg.Failure: some shards failed; it names each with its error. The run's log holds the tracebacks of errors that
            nobody foresaw.
    """
    made: dict[str, Made] = {}
    failures: dict[str, str] = {}
    several = len(context.partition_keys) > 1
    for key in context.partition_keys:
        try:
            made[key] = make(key)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other partitions are made
            failures[key] = describe(error)
            unforeseen = trace(error)
            context.log.error(f"{unit} {key}: {failures[key]}" + (f"\n{unforeseen}" if unforeseen else ""))
            continue
        context.log.info(f"{unit} {key}: {'done before, nothing to do' if made[key].reused else 'made'}")
        if several:
            context.log_event(materialization(context.asset_key, made[key], table, key, store=store))
    if failures:
        raise dg.Failure(
            f"{len(failures)} of {len(context.partition_keys)} {unit}s failed: "
            + "; ".join(f"{key}: {reason}" for key, reason in failures.items()),
            metadata={f"{unit} {key}": reason for key, reason in failures.items()},
            allow_retries=False,
        )
    yield dg.MaterializeResult() if several else result_of(next(iter(made.values())), table, store)
    if several:
        for key, done in made.items():
            provenance = _provenance(context, key)
            context.log_event(materialization(context.asset_key, done, table, key, provenance, store))


def _provenance(context: dg.AssetExecutionContext, key: str) -> dict[str, str]:
    """What Dagster noted of code and inputs with the run's result: without it nothing can become stale."""
    latest = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=[key]), limit=1
    ).records
    materialized = latest[0].asset_materialization if latest else None
    return dict(materialized.tags or {}) if materialized is not None else {}
