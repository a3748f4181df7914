"""When assets are made by themselves: one automation condition an asset, composed from its place in the lineage.

An asset is requested where it is missing, where its code has another version, or where a dependency has another data
version; once for each such change. It waits while anything upstream is being made, so that the tables that read every
shard are made once after a backfill and not once a shard. A shard that failed holds nothing up.

Models are trained by schedule or by hand, and packages for others are exported by hand: `BY_HAND_GROUPS`, `BY_HAND`.
"""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dagster as dg
from dagster._core.storage.event_log.base import AssetRecord

from glr_assets.defs import tags
from glr_assets.defs.lost_results import LOST
from glr_assets.defs.provenance import DATA_VERSION_TAG, version_in
from glr_assets.defs.shards import SHARDS
from glr_assets.defs.source import REMOVED, shards_node

#: The roots that stand for the shards of the source.
SOURCE_SHARDS = frozenset(dg.AssetKey(shards_node(split)) for split in SHARDS)
BY_HAND_GROUPS = frozenset({"training", "exports"})
BY_HAND = frozenset({dg.AssetKey("non_landmark_classifier")})
#: Of these groups, what costs nothing and other groups read.
NOT_BY_HAND = frozenset({dg.AssetKey("training_manifest")})
#: A run whose process or machine is lost is begun again so often, by Dagster's own run retries where they are enabled.
CRASH_RETRIES = "2"
#: When what failed is tried again, in UTC.
NIGHT = "0 2 * * *"
#: Their failures are retried by a schedule, which knows which shards failed for good.
RETRIED_BY_SCHEDULE = frozenset(dg.AssetKey(f"{split}_images") for split in SHARDS)
#: Assets that are made only where the recipe chooses the manifest that they lead to.
BRANCHES: Mapping[str, frozenset[str]] = {
    "cleaned_manifest": frozenset({"verification_calibration", "verified_pairs", "cleaned_manifest"}),
    "non_landmark_filter": frozenset({"openimages_annotations", "openimages_images", "openimages_classifier_dataset"})
    | {"non_landmark_classifier", "non_landmark_scores", "filter_manifest", "non_landmark_filter"},
}
_BRANCHED = {asset: manifest for manifest, assets in BRANCHES.items() for asset in assets}

C = dg.AutomationCondition
Condition = dg.AutomationCondition[Any]
Context = dg.AutomationContext[dg.AssetKey]
#: A subset of an asset's partitions, as Dagster's conditions have it.
Subset = Any
Partitions = Callable[[Context, dg.AssetKey], Awaitable[Subset]]


@dataclass(frozen=True, eq=False)
class Where(dg.AutomationCondition[dg.AssetKey]):
    """True of partitions that a function gives, or of what depends on such partitions of other assets.

    Dagster's `any_deps_match` is true, of an asset without partitions, for any partition of a dependency, also for one
    that its partition mapping leaves out; and it evaluates two nodes for each dependency, though nothing is true of it.

    Attributes:
        text: what it says of the asset in the UI.
        partitions: gives, of all partitions of an asset, those of which it is true.
        dependencies: the assets whose partitions count; None: those of the asset itself.
    """

    text: str
    partitions: Partitions
    dependencies: tuple[dg.AssetKey, ...] | None = None
    requires_cursor = False

    @property
    def name(self) -> str:
        """The text."""
        return self.text

    async def evaluate(self, context: Context) -> dg.AutomationResult[dg.AssetKey]:  # type: ignore[override]
        """Those of the candidates, with a node for each dependency that has such partitions."""
        found, nodes = context.get_empty_subset(), []
        if not context.candidate_subset.is_empty:
            for key in [context.key] if self.dependencies is None else self.dependencies:
                those = await self.partitions(context, key)
                if self.dependencies is not None and not those.is_empty:
                    node = C.asset_matches(key, Where(self.text, self.partitions))
                    of_key = context.for_child_condition(node, [None], context.candidate_subset)
                    nodes.append(await of_key.evaluate_async())
                    those = nodes[-1].true_subset
                found = found if those.is_empty else found.compute_union(those)
        found = context.candidate_subset.compute_intersection(found)
        return dg.AutomationResult(context, found, child_results=nodes)


async def changed(context: Context, key: dg.AssetKey) -> Subset:
    """Those of another data version than at the last tick."""
    view, previous = context.asset_graph_view, context.previous_temporal_context
    is_root = not view.asset_graph.get(key).is_materializable
    if previous is None or (is_root and key not in _observed_roots(view, previous.last_event_id)):
        return view.get_empty_subset(key=key)
    return await view.compute_data_version_changed_since_temporal_context_subset(key=key, temporal_context=previous)


@lru_cache(maxsize=1)
def _observed_roots(view: Any, after: int | None) -> set[dg.AssetKey | None]:
    """The roots observed after an event, by one query a tick: asked of each, Dagster takes four."""
    log, observed = view.instance.event_log_storage, dg.DagsterEventType.ASSET_OBSERVATION
    events = log.get_logs_for_all_runs_by_log_id(-1 if after is None else after, observed)
    return {event.get_dagster_event().asset_key for event in events.values()}


async def requested(context: Context, key: dg.AssetKey) -> Subset:
    """Those that this tick requests."""
    return context.request_subsets_by_key.get(key) or context.asset_graph_view.get_empty_subset(key=key)


async def lost(context: Context, key: dg.AssetKey) -> Subset:
    """Those that were reported as gone from the store since the last tick; at the first tick, ever."""
    view, is_first = context.asset_graph_view, context.previous_temporal_context is None
    news = view.get_full_subset(key=key) if is_first else await changed(context, key)
    return news if news.is_empty else news.compute_intersection(_lost(view, key))


@lru_cache(maxsize=64)
def _lost(view: Any, key: dg.AssetKey) -> Subset:
    """Those whose latest materialization tells that they are gone from the store, looked up once a tick."""
    full, log = view.get_full_subset(key=key), view.instance.event_log_storage
    if view.asset_graph.get(key).partitions_def is None:
        record = AssetRecord.blocking_get(view, key)
        latest = None if record is None else record.asset_entry.last_materialization_record
        return full if latest is not None and version_in(latest) == LOST else view.get_empty_subset(key=key)
    tags_of = log.get_latest_tags_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG])
    keys = {partition for partition, of in tags_of.items() if of == {DATA_VERSION_TAG: LOST}}
    return full.compute_intersection_with_partition_keys(keys)


async def lacking(context: Context, key: dg.AssetKey) -> Subset:
    """Those that are missing or lost and not requested this tick; none of an asset that the recipe does not use."""
    view, there = context.asset_graph_view, await used(context, key)
    missing = await view.compute_missing_subset(key=key, from_subset=there)
    missing = missing.compute_union(there.compute_intersection(_lost(view, key)))
    return missing.compute_difference(await requested(context, key))


async def not_begun(context: Context, key: dg.AssetKey) -> Subset:
    """Those that did not fail, where no partition of the asset was made yet."""
    view = context.asset_graph_view
    if not (await view.compute_materialized_asset_subset(key)).is_empty:
        return view.get_empty_subset(key=key)
    full = view.get_full_subset(key=key)
    return full.compute_difference(await view.compute_execution_failed_subset(key=key, from_subset=full))


async def gone(context: Context, key: dg.AssetKey) -> Subset:
    """Those that were last observed as removed, of a root of source shards."""
    view, removed = context.asset_graph_view, {DATA_VERSION_TAG: REMOVED}
    observed = view.instance.event_log_storage.get_latest_tags_by_partition(
        key, dg.DagsterEventType.ASSET_OBSERVATION, [*removed]
    )
    keys = {partition for partition, of in observed.items() if of == removed}
    return view.get_full_subset(key=key).compute_intersection_with_partition_keys(keys)


async def in_progress(context: Context, key: dg.AssetKey) -> Subset:
    """Those that a run or an open backfill is to make."""
    view, full = context.asset_graph_view, context.asset_graph_view.get_full_subset(key=key)
    running = await view.compute_run_in_progress_subset(key=key, from_subset=full)
    return running.compute_union(await view.compute_backfill_in_progress_subset(key=key, from_subset=full))


async def used(context: Context, key: dg.AssetKey) -> Subset:
    """All, or none of an asset of a branch that the recipe, as last observed, does not choose."""
    view, branch = context.asset_graph_view, _BRANCHED.get(key.to_user_string())
    if branch is not None and branch not in chosen_manifests(view):
        return view.get_empty_subset(key=key)
    return view.get_full_subset(key=key)


@lru_cache(maxsize=1)
def chosen_manifests(view: Any) -> set[str]:
    """The manifests that train, are searched, or are filtered to become these, as observed before a tick."""
    chosen = {_observed(view.instance, "recipe_training"), _observed(view.instance, "recipe_retrieval")}
    return chosen | ({_observed(view.instance, "recipe_filter")} if "non_landmark_filter" in chosen else set())


def _observed(instance: dg.DagsterInstance, root: str) -> str:
    asked = dg.AssetRecordsFilter(asset_key=dg.AssetKey(root), asset_partitions=["manifest"])
    latest = instance.fetch_observations(asked, limit=1).records
    observation = latest[0].asset_observation if latest else None
    return str(observation.metadata["value"].value) if observation is not None else ""


def under_way(upstream: Iterable[dg.AssetKey]) -> Partitions:
    """Those in progress; all, while anything upstream is in progress or is requested this tick.

    Dagster's `any_deps_in_progress` looks at direct dependencies, and its `will_be_requested` only at those that can
    share a run.

    Args:
        upstream: assets upstream of one, and not to be made in one run with it.
    """

    async def busy(context: Context, key: dg.AssetKey) -> Subset:
        for above in upstream:
            if not ((await requested(context, above)).is_empty and (await in_progress(context, above)).is_empty):
                return context.asset_graph_view.get_full_subset(key=key)
        return await in_progress(context, key)

    return busy


@dataclass(frozen=True)
class _Node:
    """What of an asset decides its condition."""

    parents: frozenset[dg.AssetKey]
    partitions: dg.PartitionsDefinition[Any] | None
    by_hand: bool


def is_by_hand(key: dg.AssetKey, group: str | None) -> bool:
    """Whether an asset is made by schedule or by hand alone."""
    return key in BY_HAND or (group in BY_HAND_GROUPS and key not in NOT_BY_HAND)


def with_conditions(assets: Sequence[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """The same assets, each that is not made by hand with its condition."""
    nodes = {
        spec.key: _Node(
            frozenset(dep.asset_key for dep in spec.deps),
            found.partitions_def,
            is_by_hand(spec.key, spec.group_name),
        )
        for found in assets
        for spec in found.specs
    }

    def conditioned(spec: dg.AssetSpec) -> dg.AssetSpec:
        if nodes[spec.key].by_hand:
            return spec
        return spec.replace_attributes(automation_condition=condition_of(spec.key, nodes))

    return [found.map_asset_specs(conditioned) for found in assets]


def condition_of(key: dg.AssetKey, nodes: Mapping[dg.AssetKey, _Node]) -> Condition:
    """The condition of one asset of a lineage."""
    node = nodes[key]
    parents, roots = node.parents & nodes.keys(), node.parents - nodes.keys()
    # Parents of other partitions are made in other runs, and one partition of theirs that is missing is no obstacle.
    elsewhere = {parent for parent in parents if nodes[parent].partitions != node.partitions}
    sharded = {parent for parent in elsewhere if nodes[parent].partitions is not None}
    gone_lately = Where("gone from the store", lost)
    # What is reported as gone is no update.
    handled = C.newly_requested() | (C.newly_updated() & ~gone_lately)
    news = _any("a dependency has another data version", changed, node.parents)
    triggers = C.newly_missing() | gone_lately | news | C.code_version_changed()
    others = waits_for(key, nodes)
    together = {parent for parent in parents if not nodes[parent].by_hand} - elsewhere - others
    if together:
        triggers = triggers | _any("a dependency is made in the same run", requested, together)
    if key not in RETRIED_BY_SCHEDULE:
        failed = (C.cron_tick_passed(NIGHT) & C.execution_failed()).with_label("failed, tried once a night")
        triggers = triggers | failed
    due: Condition = triggers.since(handled).with_label("changed since it was requested or made")
    foreign = elsewhere | roots
    if foreign:
        later = _any("a dependency made elsewhere has another data version", changed, foreign)
        # A change is later than a request that the same tick sees, so the request does not cover it.
        lasting = (later & (Where("it is being made", in_progress) | handled)).since(C.newly_requested() & ~later)
        due = due | lasting.with_label("a dependency changed while it was being made")
    # Each asks of what the ones before it left, so what costs a query of an asset comes last.
    ready = due & Where("the recipe uses it", used) if key.to_user_string() in _BRANCHED else due
    if needed := node.parents - roots - sharded:
        ready = ready & ~_any("a dependency is missing", lacking, needed)
    if sharded:
        ready = ready & ~_any("no partition of a dependency was made yet", not_begun, sharded)
    if shards := roots & SOURCE_SHARDS:
        ready = ready & ~_any("the source no longer has the shard", gone, shards)
    return ready & ~Where("it, or something upstream, is being made", under_way(sorted(others)))


def _any(text: str, partitions: Partitions, dependencies: Iterable[dg.AssetKey]) -> Where:
    return Where(text, partitions, tuple(sorted(dependencies)))


def waits_for(key: dg.AssetKey, nodes: Mapping[dg.AssetKey, _Node]) -> set[dg.AssetKey]:
    """What upstream of an asset must not be under way when it is requested.

    That is all there is up to what is made by hand, but for the assets that the same run makes before it: those of the
    same partitions, unless something of other partitions stands between.
    """
    upstream = _upstream(key, nodes)
    lane = {found for found in upstream if nodes[found].partitions == nodes[key].partitions}
    between = {above for found in upstream - lane if not nodes[found].by_hand for above in _upstream(found, nodes)}
    return (upstream - lane) | (lane & between)


def _upstream(key: dg.AssetKey, nodes: Mapping[dg.AssetKey, _Node]) -> set[dg.AssetKey]:
    found: set[dg.AssetKey] = set()
    waiting: list[dg.AssetKey] = [key]
    while waiting:
        for parent in nodes[waiting.pop()].parents & nodes.keys():
            if parent not in found:
                found.add(parent)
                waiting += [] if nodes[parent].by_hand else [parent]
    return found


with warnings.catch_warnings():
    # Conditions of our own are evaluated by the code server, which is in beta; tests characterize it.
    warnings.simplefilter("ignore", dg.BetaWarning)
    #: The one switch for all costly work.
    automation = dg.AutomationConditionSensorDefinition(
        "automation",
        target=dg.AssetSelection.all(),
        use_user_code_server=True,
        default_status=dg.DefaultSensorStatus.STOPPED,
        minimum_interval_seconds=30,
        # A run whose process is lost is begun again; one with a failed step is not: the night tries that again.
        run_tags={
            tags.ASKED_BY: "sensor automation",
            tags.MAX_RETRIES: CRASH_RETRIES,
            tags.RETRY_ON_FAILED_STEPS: "false",
        },
        description="Requests what is missing or stale, from the tables to the submissions. Trains no model.",
    )
