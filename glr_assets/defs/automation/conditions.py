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
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import dagster as dg

from glr_assets.defs import tags
from glr_assets.defs.shards import SHARDS

if TYPE_CHECKING:
    from dagster._core.asset_graph_view.asset_graph_view import AssetGraphView
    from dagster._core.asset_graph_view.entity_subset import EntitySubset

    Subset = EntitySubset[dg.AssetKey]

#: The root whose partitions stand for all shards of an asset: the edge to that asset itself is what triggers.
STORED_SHARDS = dg.AssetKey("stored_shards")
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
    "non_landmark_filter": frozenset(
        {
            "openimages_annotations",
            "openimages_images",
            "openimages_classifier_dataset",
            "non_landmark_classifier",
            "non_landmark_scores",
            "filter_manifest",
            "non_landmark_filter",
        }
    ),
}
_BRANCHED = {asset: manifest for manifest, assets in BRANCHES.items() for asset in assets}
_CHOOSERS = ("training", "retrieval")

C = dg.AutomationCondition
Condition = dg.AutomationCondition[Any]
Context = dg.AutomationContext[dg.AssetKey]


class UsedByRecipe(dg.AutomationCondition[dg.AssetKey]):
    """True of assets that the recipe uses: of a branch where `manifest`, as last observed, chooses what it leads to."""

    name = "used_by_recipe"
    requires_cursor = False

    def evaluate(self, context: Context) -> dg.AutomationResult[dg.AssetKey]:
        """The candidates, or none of them."""
        used = used_by_recipe(context.asset_graph_view, context.key)
        return dg.AutomationResult(context, context.candidate_subset if used else context.get_empty_subset())


def used_by_recipe(view: AssetGraphView, key: dg.AssetKey) -> bool:
    """Whether the recipe, as last observed, uses an asset."""
    branch = _BRANCHED.get(key.to_user_string())
    if branch is None:
        return True
    if view not in _CHOSEN:
        _CHOSEN[view] = chosen_manifests(view.instance)
    return branch in _CHOSEN[view]


#: By the view of a tick what the recipe chooses, so that it is read once a tick.
_CHOSEN: WeakKeyDictionary[object, set[str]] = WeakKeyDictionary()


def chosen_manifests(instance: dg.DagsterInstance) -> set[str]:
    """The manifests that train, are searched, or are filtered to become these, as the recipe was last observed."""
    chosen = {_observed(instance, f"recipe_{table}", "manifest") for table in _CHOOSERS}
    if "non_landmark_filter" in chosen:
        chosen.add(_observed(instance, "recipe_filter", "manifest"))
    return chosen


def _observed(instance: dg.DagsterInstance, root: str, key: str) -> str:
    latest = instance.fetch_observations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(root), asset_partitions=[key]), limit=1
    ).records
    observation = latest[0].asset_observation if latest else None
    return str(observation.metadata["value"].value) if observation is not None else ""


async def _changed(context: Context, key: dg.AssetKey) -> Subset:
    """Those of another data version than at the last tick."""
    view, previous = context.asset_graph_view, context.previous_temporal_context
    if previous is None:
        return view.get_empty_subset(key=key)
    return await view.compute_data_version_changed_since_temporal_context_subset(key=key, temporal_context=previous)


async def _requested(context: Context, key: dg.AssetKey) -> Subset:
    """Those that this tick requests."""
    return context.request_subsets_by_key.get(key) or context.asset_graph_view.get_empty_subset(key=key)


async def _lacking(context: Context, key: dg.AssetKey) -> Subset:
    """Those that are missing and not requested this tick; none of an asset that the recipe does not use."""
    view = context.asset_graph_view
    if not used_by_recipe(view, key):
        return view.get_empty_subset(key=key)
    missing = await view.compute_missing_subset(key=key, from_subset=view.get_full_subset(key=key))
    return missing.compute_difference(await _requested(context, key))


async def _not_begun(context: Context, key: dg.AssetKey) -> Subset:
    """Those that are missing and did not fail, where no partition of the asset was made yet."""
    view = context.asset_graph_view
    full = view.get_full_subset(key=key)
    if not (await view.compute_materialized_asset_subset(key)).is_empty:
        return view.get_empty_subset(key=key)
    return full.compute_difference(await view.compute_execution_failed_subset(key=key, from_subset=full))


@dataclass(frozen=True, eq=False)
class OfDependency(dg.AutomationCondition[dg.AssetKey]):
    """True of some partitions of a dependency.

    Attributes:
        partitions: gives them, of all partitions of an asset.
    """

    partitions: Callable[[Context, dg.AssetKey], Awaitable[Subset]]
    requires_cursor = False

    @property
    def name(self) -> str:
        """That of the function."""
        return self.partitions.__name__.strip("_")

    async def evaluate(self, context: Context) -> dg.AutomationResult[dg.AssetKey]:  # type: ignore[override]
        """Those of the candidates."""
        found = await self.partitions(context, context.key)
        return dg.AutomationResult(context, context.candidate_subset.compute_intersection(found))


@dataclass(frozen=True, eq=False)
class AnyDependency(dg.AutomationCondition[dg.AssetKey]):
    """True of what depends on a partition of these assets of which a condition is true.

    Dagster's `any_deps_match` is true, of an asset without partitions, for any partition of a dependency, also for one
    that its partition mapping leaves out. And it evaluates two nodes for each dependency, though nothing of it is true.

    Attributes:
        label: what it says of the asset.
        assets: the dependencies.
        condition: of their partitions.
    """

    label: str
    assets: tuple[dg.AssetKey, ...]
    condition: OfDependency
    requires_cursor = False

    @property
    def name(self) -> str:
        """The label, which is what the UI shows."""
        return self.label

    async def evaluate(self, context: Context) -> dg.AutomationResult[dg.AssetKey]:  # type: ignore[override]
        """Those of the candidates, with a node for each dependency that something is true of."""
        true, results = context.get_empty_subset(), []
        for key in self.assets if not context.candidate_subset.is_empty else ():
            if not (await self.condition.partitions(context, key)).is_empty:
                node = C.asset_matches(key, self.condition)
                results.append(
                    await context.for_child_condition(node, [None], context.candidate_subset).evaluate_async()
                )
                true = true.compute_union(results[-1].true_subset)
        true = context.candidate_subset.compute_intersection(true)
        return dg.AutomationResult(context, true, child_results=results)


@dataclass(frozen=True, eq=False)
class UpstreamBusy(dg.AutomationCondition[dg.AssetKey]):
    """True while any partition of these assets is being made, is held by an open backfill, or was requested this tick.

    Dagster's `any_deps_in_progress` looks at direct dependencies, and its `will_be_requested` only at those that can
    share a run.

    Attributes:
        assets: upstream of the asset, and not to be made in one run with it.
    """

    assets: tuple[dg.AssetKey, ...]
    name = "upstream_busy"
    requires_cursor = False

    async def evaluate(self, context: Context) -> dg.AutomationResult[dg.AssetKey]:  # type: ignore[override]
        """All candidates, or none."""
        view = context.asset_graph_view
        for key in self.assets:
            full = view.get_full_subset(key=key)
            requested = context.request_subsets_by_key.get(key)
            if (
                (requested is not None and not requested.is_empty)
                or not (await view.compute_run_in_progress_subset(key=key, from_subset=full)).is_empty
                or not (await view.compute_backfill_in_progress_subset(key=key, from_subset=full)).is_empty
            ):
                return dg.AutomationResult(context, context.candidate_subset)
        return dg.AutomationResult(context, context.get_empty_subset())


@dataclass(frozen=True)
class _Node:
    """What of an asset decides its condition."""

    key: dg.AssetKey
    parents: frozenset[dg.AssetKey]
    partitions: dg.PartitionsDefinition[Any] | None
    by_hand: bool
    retried: bool


def is_by_hand(key: dg.AssetKey, group: str | None) -> bool:
    """Whether an asset is made by schedule or by hand alone."""
    return key in BY_HAND or (group in BY_HAND_GROUPS and key not in NOT_BY_HAND)


def with_conditions(assets: Sequence[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """The same assets, each that is not made by hand with its condition."""
    nodes = {
        spec.key: _Node(
            spec.key,
            frozenset(dep.asset_key for dep in spec.deps),
            found.partitions_def,
            is_by_hand(spec.key, spec.group_name),
            spec.key not in RETRIED_BY_SCHEDULE,
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
    parents = [nodes[parent] for parent in node.parents if parent in nodes]
    roots = node.parents - nodes.keys()
    # Parents of other partitions are made in other runs, and one partition of theirs that is missing is no obstacle.
    elsewhere = {parent.key for parent in parents if parent.partitions != node.partitions}
    sharded = sorted(parent for parent in elsewhere if nodes[parent].partitions is not None)
    handled = C.newly_requested() | C.newly_updated()
    changed = _any("a dependency has another data version", _changed, node.parents - {STORED_SHARDS})
    triggers = C.newly_missing() | changed | C.code_version_changed()
    others = waits_for(key, nodes)
    together = {parent.key for parent in parents if not parent.by_hand} - elsewhere - others
    if together:
        triggers = triggers | _any("a dependency is made in the same run", _requested, together)
    if node.retried:
        triggers = triggers | (C.cron_tick_passed(NIGHT) & C.execution_failed()).with_label(
            "failed, tried once a night"
        )
    due = triggers.since(handled).with_label("changed since it was requested or made")
    foreign = (elsewhere | roots) - {STORED_SHARDS}
    if foreign:
        changes = _any("a dependency made elsewhere has another data version", _changed, foreign)
        meanwhile = changes & (C.in_progress() | handled)
        # A change is later than a request that the same tick sees, so the request does not cover it.
        lasting = meanwhile.since(C.newly_requested() & ~changes)
        due = due | lasting.with_label("a dependency changed while it was being made")
    ready = ~C.in_progress() & ~UpstreamBusy(tuple(sorted(others)))
    if key.to_user_string() in _BRANCHED:
        ready = ready & UsedByRecipe()
    needed = node.parents - roots - set(sharded)
    if needed:
        ready = ready & ~_any("a dependency is missing", _lacking, needed)
    if sharded:
        ready = ready & ~_any("no partition of a dependency was made yet", _not_begun, sharded)
    return due & ready


def _any(
    label: str, partitions: Callable[[Context, dg.AssetKey], Awaitable[Subset]], assets: Iterable[dg.AssetKey]
) -> AnyDependency:
    return AnyDependency(label, tuple(sorted(assets)), OfDependency(partitions))


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


def _switch() -> dg.AutomationConditionSensorDefinition:
    with warnings.catch_warnings():
        # Conditions of our own are evaluated by the code server, which is in beta; tests characterize it.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.AutomationConditionSensorDefinition(
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


#: The one switch for all costly work.
automation = _switch()
