"""Jobs: asset jobs where one run can hold the selection, launchers of asset backfills where it cannot.

A run has one partition set, and most parts of the lineage have several: shards of three splits, buckets, groups. The
job of such a part is a launcher. Its run registers the partitions, starts one asset backfill over the part, and ends.
The backfill runs the assets in the order of their dependencies; it is canceled and re-executed on its own page.
"""

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, PartitionBackfill
from dagster._core.utils import make_new_backfill_id
from dagster._time import get_current_timestamp

from glr_assets.defs import tags
from glr_assets.defs.automation.roots import sync_roots
from glr_assets.defs.platform import Platform
from glr_assets.defs.shards import counted_parts
from glr_assets.errors import DamagedSourceError
from glr_assets.images.retry import split_state
from glr_assets.recipes import Recipe
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.source.layout import SPLITS
from glr_assets.store import Store

FULL_PIPELINE = "full_pipeline"
_CATALOG, _EMBEDDER = dg.AssetSelection.assets("image_catalog"), dg.AssetSelection.assets("embedder")
#: By launcher the assets of its backfill.
LAUNCHED: Mapping[str, dg.AssetSelection] = {
    "ingest": dg.AssetSelection.groups("metadata", "planning", "images") - _CATALOG,
    "clean": dg.AssetSelection.groups("verification"),
    "train_groups": dg.AssetSelection.groups("training") - _EMBEDDER,
    "evaluate": dg.AssetSelection.groups("retrieval", "evaluation"),
    FULL_PIPELINE: dg.AssetSelection.all().materializable(),
}
_DESCRIPTIONS = {
    "ingest": "the source's tables, what to fetch, and every shard of its images.",
    "clean": "local features of the train shards, geometric verification and `cleaned_manifest`.",
    "train_groups": "the classifiers of landmark groups and their calibration, on the manifests as they are.",
    "evaluate": "embeddings, the index, the submissions and their scores, with the embedder as it is.",
    FULL_PIPELINE: "the whole lineage, every shard of the source included.",
}
Job: TypeAlias = dg.JobDefinition | UnresolvedAssetJobDefinition

#: Open backfills that are looked at before another one is started.
_BACKFILLS = 100

CURATE = dg.define_asset_job(
    "curate",
    _CATALOG | dg.AssetSelection.groups("curation", "ledger"),
    description="The catalog, the manifests and the ledger, of the shards that are stored.",
)
TRAIN = dg.define_asset_job(
    "train",
    _EMBEDDER | dg.AssetSelection.assets("training_manifest"),
    description="The embedder, on the set that the recipe names. Training on an unchanged manifest finds its version.",
)


def start_backfill(
    instance: dg.DagsterInstance,
    graph: BaseAssetGraph[Any],
    assets: dg.AssetSelection,
    partitions: Mapping[str, Collection[str]],
    run_tags: Mapping[str, str],
    title: str,
) -> str:
    """Add an asset backfill to the instance, as the UI's *Materialize* does; the daemon runs it.

    Args:
        instance: takes the backfill.
        graph: of the code location's assets.
        assets: what is materialized.
        partitions: by the name of a dynamic partition set the registered keys that are materialized.
        run_tags: tags of the backfill and of each of its runs.
        title: on the page *Backfills*.

    Returns:
        The backfill's id.
    """
    subsets = {}
    unpartitioned = set()
    for key in sorted(assets.resolve(graph)):
        partitioned = graph.get(key).partitions_def
        if partitioned is None:
            unpartitioned.add(key)
        elif isinstance(partitioned, dg.DynamicPartitionsDefinition):
            subsets[key] = partitioned.subset_with_partition_keys(partitions[str(partitioned.name)])
        else:
            subsets[key] = partitioned.subset_with_all_partitions()
    subset = AssetGraphSubset(subsets, unpartitioned)  # type: ignore[call-arg] # mypy takes it for another class
    backfill = PartitionBackfill.from_asset_graph_subset(
        backfill_id=make_new_backfill_id(),
        backfill_timestamp=get_current_timestamp(),
        tags=run_tags,
        dynamic_partitions_store=instance,
        asset_graph_subset=subset,
        title=title,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    return backfill.backfill_id


def open_backfill(instance: dg.DagsterInstance, job: str) -> str | None:
    """The id of a backfill that a launcher started and that is not over; None where there is none."""
    for backfill in instance.get_backfills(limit=_BACKFILLS):
        if backfill.tags.get(tags.JOB) == job and backfill.status not in BULK_ACTION_TERMINAL_STATUSES:
            return str(backfill.backfill_id)
    return None


def left_out(source: Source, store: Store, split: Split, require_md5: bool) -> dict[str, str]:
    """Shards that no launcher tries again, with the reason: their present content failed for good.

    A run of one would fail again, and a backfill runs nothing downstream of a failed partition.
    """
    state = split_state(source, store, split)
    found = {}
    for shard, run in state.runs.items():
        if not (state.is_permanent(shard) or state.is_given_up(shard)):
            continue
        try:
            same = source.shard_digest(split, shard, require_md5=require_md5) == run.source
        except DamagedSourceError:
            same = True
        if same:
            found[shard] = state.failed[shard]
    return found


def _partitions(source: Source, recipe: Recipe, failed: Mapping[Split, Collection[str]]) -> dict[str, list[str]]:
    """By partition set the keys of the source and the recipe, without the failed shards."""
    keys = {f"{split}_shards": [key for key in source.shards(split) if key not in failed[split]] for split in SPLITS}
    return keys | {str(partitions.name): parts for partitions, parts in counted_parts(recipe)}


def _launcher(name: str) -> dg.JobDefinition:
    @dg.op(name=f"launch_{name}", out=dg.Out(dg.Nothing), description=f"Starts a backfill over {_DESCRIPTIONS[name]}")
    def launch(context: dg.OpExecutionContext, platform: Platform) -> None:
        under_way = open_backfill(context.instance, name)
        if under_way is not None:
            context.log.warning(f"backfill {under_way} of {name} is not over: no other one is started")
            context.add_output_metadata({"backfill": _link(under_way), "started": False})
            return
        source, store, recipe = platform.open_source(), platform.open_store(), platform.load_recipe()
        for problem in sync_roots(platform.settings(), context.instance).problems:
            context.log.warning(problem)
        failed = {split: left_out(source, store, split, recipe.images.require_md5) for split in SPLITS}
        for split, shards in failed.items():
            for shard, reason in shards.items():
                context.log.warning(f"{split} shard {shard} is left out: {reason}")
        partitions = _partitions(source, recipe, failed)
        asked_by = tags.asked_by(context.run.tags)
        backfill = start_backfill(
            context.instance,
            context.repository_def.asset_graph,
            LAUNCHED[name],
            partitions,
            {tags.ASKED_BY: asked_by, tags.LAUNCHED_BY_RUN: context.run_id, tags.JOB: name},
            title=f"{name} ({asked_by})",
        )
        context.log.info(f"started backfill {backfill}: /runs/b/{backfill}")
        context.add_output_metadata(
            {
                "backfill": _link(backfill),
                "started": True,
                "asked by": asked_by,
                **{name: len(keys) for name, keys in partitions.items()},
                "shards left out": sum(map(len, failed.values())),
            }
        )

    @dg.job(
        name=name,
        description=f"Starts a backfill over {_DESCRIPTIONS[name]} Cancel and re-execute it on its page.",
        tags={tags.JOB: name},
        executor_def=dg.in_process_executor,
    )
    def launcher() -> None:
        launch()

    return launcher


def _link(backfill: str) -> dg.UrlMetadataValue:
    """The page of a backfill, as a path on the server that shows it."""
    return dg.MetadataValue.url(f"/runs/b/{backfill}")


LAUNCHERS = {name: _launcher(name) for name in LAUNCHED}
JOBS: list[Job] = [CURATE, TRAIN, *LAUNCHERS.values()]


def _weekly(name: str, job: Job) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=name,
        cron_schedule="0 4 * * 6",
        job=job,
        tags={tags.ASKED_BY: f"schedule {name}"},
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Every Saturday: the job `{job.name}`. What trains on unchanged manifests finds its version.",
    )


WEEKLY = [_weekly("weekly_training", TRAIN), _weekly("weekly_group_training", LAUNCHERS["train_groups"])]
