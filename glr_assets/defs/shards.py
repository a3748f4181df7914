"""Partitions: shards, one dynamic set a split, and the parts that a recipe counts; backfill policies, one loop.

Shards are dynamic because the same definitions serve the four shards of the sample, the 500 of GLDv2 and
the shard that appears next month. Ranges follow the order of registration, so keys are always added sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import dagster as dg

from glr_assets import dry_run
from glr_assets.defs.launchpad import override_tags
from glr_assets.defs.provenance import Provenance
from glr_assets.defs.results import materialization, no_further_event
from glr_assets.defs.shard_checks import SHARD_CHECKS
from glr_assets.errors import describe, trace
from glr_assets.openimages.parts import part_keys
from glr_assets.receipts import Made
from glr_assets.recipes import Recipe
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.source.layout import SPLITS
from glr_assets.store import Store
from glr_assets.training.groups import group_keys
from glr_assets.verification.plan import bucket_keys

SHARDS: Mapping[Split, dg.DynamicPartitionsDefinition] = {
    split: dg.DynamicPartitionsDefinition(name=f"{split}_shards") for split in SPLITS
}
BUCKETS = dg.DynamicPartitionsDefinition(name="class_buckets")
GROUPS = dg.DynamicPartitionsDefinition(name="training_groups")
OPENIMAGES_PARTS = dg.DynamicPartitionsDefinition(name="openimages_parts")
#: The assets that have a partition a shard or a part, each with its partitions.
SHARDED: Mapping[str, dg.DynamicPartitionsDefinition] = {
    **{f"{split}_{kind}": partitions for kind in ("images", "embeddings") for split, partitions in SHARDS.items()},
    "local_features": SHARDS["train"],
    "non_landmark_scores": SHARDS["train"],
    "search_features": SHARDS["train"],
    "test_features": SHARDS["test"],
    "verified_pairs": BUCKETS,
    "group_classifiers": GROUPS,
    "openimages_images": OPENIMAGES_PARTS,
}
#: 25 shards a run: launching a run costs about 2.5 s and a daemon tick 30 s, so 500 shards cost 20 launches
#: instead of 500, and a failure or a lost machine costs one run of 25, not the whole backfill.
SHARD_BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=25)
#: A group trains for a day: each is a run of its own, so that as many train at once as there are GPUs.
GROUP_BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=1)


PartitionsRequest = dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest


def new_shards(instance: dg.DagsterInstance, shards: Mapping[Split, Iterable[str]]) -> dict[Split, list[str]]:
    """The shards of a source that the instance does not know yet, by split, sorted."""
    known = {split: set(instance.get_dynamic_partitions(str(SHARDS[split].name))) for split in shards}
    return {split: sorted(set(keys) - known[split]) for split, keys in shards.items()}


def partitions_requests(
    instance: dg.DagsterInstance, shards: Mapping[Split, Iterable[str]], recipe: Recipe
) -> list[PartitionsRequest]:
    """What is to be registered: shards that the instance does not know, and the parts that a recipe counts.

    No key is deleted and added at once, which Dagster refuses. Ranges follow the order of registration: parts that were
    registered in another order all go, and are added by the next look.
    """
    added = new_shards(instance, shards).items()
    requests: list[PartitionsRequest] = [SHARDS[split].build_add_request(keys) for split, keys in added if keys]
    for partitions, keys in counted_parts(recipe):
        known = list(instance.get_dynamic_partitions(str(partitions.name)))
        kept = [key for key in known if key in keys]
        in_order = kept == keys[: len(kept)]
        surplus = [key for key in known if key not in keys] if in_order else known
        missing = keys[len(kept) :] if in_order else []
        requests += [partitions.build_delete_request(surplus)] if surplus else []
        requests += [partitions.build_add_request(missing)] if missing else []
    return requests


def carry_out(instance: dg.DagsterInstance, requests: Iterable[PartitionsRequest]) -> None:
    """Add and delete partitions in an instance, as its daemon does for a sensor."""
    for request in requests:
        if isinstance(request, dg.AddDynamicPartitionsRequest):
            instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        else:
            for key in request.partition_keys:
                instance.delete_dynamic_partition(request.partitions_def_name, key)


def counted_parts(recipe: Recipe) -> list[tuple[dg.DynamicPartitionsDefinition, list[str]]]:
    """The partitions that a recipe counts, and their keys: class buckets, training groups, parts of Open Images."""
    return [
        (BUCKETS, bucket_keys(recipe.verification.buckets)),
        (GROUPS, group_keys(recipe.groups)),
        (OPENIMAGES_PARTS, part_keys(recipe.openimages.parts)),
    ]


def sync_shards(instance: dg.DagsterInstance, source: Source) -> dict[Split, list[str]]:
    """Register the source's shards that the instance does not know yet, sorted; returns those added."""
    added = new_shards(instance, {split: source.shards(split) for split in SPLITS})
    carry_out(instance, [SHARDS[split].build_add_request(keys) for split, keys in added.items() if keys])
    return added


def sync_counted_parts(instance: dg.DagsterInstance, recipe: Recipe) -> dict[str, int]:
    """Register the partitions that a recipe counts, and none but these; returns how many there are of each."""
    for _ in range(2):  # the second adds what the first deleted
        carry_out(instance, partitions_requests(instance, {}, recipe))
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


#: Called at the end of each run of a partitioned asset, also where partitions of it failed.
RUN_ENDS: list[Callable[[dg.AssetExecutionContext], None]] = []


def each_shard(
    context: dg.AssetExecutionContext, make: Callable[[str], Made], unit: str = "shard", store: Store | None = None
) -> Iterator[Any]:
    """Make every partition of the run, one after the other; one that fails does not stop the others.

    Each is logged as it ends, with its own metadata, data version, code version and inputs, so that a crash keeps what
    was finished. Its inputs are those of the moment when it was begun. Its check is evaluated right after it.

    In a dry run each partition answers with its verdict instead, and nothing is logged.

    Args:
        context: of the step.
        make: makes a partition.
        unit: what a partition is called where it is no shard.
        store: given where the pictures and texts among a partition's files are to be shown.

    Yields:
        The result of the step, and the output of its check.

    Raises:
        dg.Failure: some partitions failed; it names each with its error. The run's log holds the tracebacks of errors
            that nobody foresaw.
    """
    dry = dry_run.current()
    if dry is not None:
        asset = context.asset_key.to_user_string()
        dry.ask_each({f"{asset}/{key}": partial(make, key) for key in context.partition_keys})
        return
    provenance, overridden = Provenance(context), override_tags()
    check = SHARD_CHECKS.get(context.asset_key.to_user_string())
    checked = (
        None if check is None else partial(check.evaluate, context.asset_key, context.resources.platform.open_store())
    )
    failures: dict[str, str] = {}
    for key in context.partition_keys:
        inputs = provenance.tags(key) | overridden
        try:
            made = make(key)
            event = materialization(context.asset_key, made, key, inputs, store)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other partitions are made
            failures[key] = describe(error)
            unforeseen = trace(error)
            context.log.error(f"{unit} {key}: {failures[key]}" + (f"\n{unforeseen}" if unforeseen else ""))
            continue
        context.log_event(event)
        if checked is not None:
            logged = context.instance.get_latest_data_version_record(context.asset_key, partition_key=key)
            context.log_event(checked(made.receipt, key, logged))
    for run_ends in RUN_ENDS:
        run_ends(context)
    if failures:
        raise dg.Failure(
            f"{len(failures)} of {len(context.partition_keys)} {unit}s failed: "
            + "; ".join(f"{key}: {reason}" for key, reason in failures.items()),
            metadata={f"{unit} {key}": reason for key, reason in failures.items()},
            allow_retries=False,
        )
    yield no_further_event()
    if check is not None:
        # Its evaluations are logged; a step still owes the output by which other steps of the run wait for the check.
        yield dg.Output(None, context.job_def.asset_layer.get_op_output_name(check.key(context.asset_key)))
