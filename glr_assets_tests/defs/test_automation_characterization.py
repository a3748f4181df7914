"""Limits of Dagster's automation conditions that conditions of our own work around, and what these rely on.

A test that fails after an upgrade says that something here has changed: a workaround may be needless by then.
"""

from collections.abc import Iterator, Mapping

import dagster as dg
import pytest
from dagster._core.storage.event_log.base import AssetRecord

C = dg.AutomationCondition
VERSION = "dagster/data_version"
SHARDS = dg.DynamicPartitionsDefinition(name="shards")
KEYS = dg.StaticPartitionsDefinition(["keep", "bits"])
POLICY = dg.BackfillPolicy.multi_run(25)


@dg.observable_source_asset(name="recipe", partitions_def=KEYS)
def recipe() -> dg.DataVersionsByPartition:
    return dg.DataVersionsByPartition({})


@dg.observable_source_asset(name="source", partitions_def=SHARDS)
def source() -> dg.DataVersionsByPartition:
    return dg.DataVersionsByPartition({})


def only(*keys: str) -> dg.AssetDep:
    return dg.AssetDep("recipe", partition_mapping=dg.SpecificPartitionsPartitionMapping(list(keys)))


def asset(
    name: str, condition: dg.AutomationCondition | None, *deps: str | dg.AssetDep, shards: bool = False
) -> dg.AssetsDefinition:
    @dg.asset(
        name=name,
        deps=list(deps),
        automation_condition=condition,
        partitions_def=SHARDS if shards else None,
        backfill_policy=POLICY if shards else None,
    )
    def made() -> None:
        return None

    return made


class Ticks:
    """Ticks over assets in an instance of their own."""

    def __init__(self, instance: dg.DagsterInstance, *assets: dg.AssetsDefinition) -> None:
        self.instance, self.assets = instance, list(assets)
        self.cursor: object = None
        instance.add_dynamic_partitions("shards", ["0", "1"])

    def observe(self, root: str, version: str, key: str) -> None:
        self.instance.report_runless_asset_event(dg.AssetObservation(root, partition=key, tags={VERSION: version}))

    def make(self, name: str, version: str, key: str | None = None) -> None:
        self.instance.report_runless_asset_event(dg.AssetMaterialization(name, partition=key, tags={VERSION: version}))

    def tick(self) -> Mapping[str, int]:
        result = dg.evaluate_automation_conditions(self.assets, self.instance, cursor=self.cursor)  # type: ignore[arg-type]
        self.cursor = result.cursor
        keys = [made.key for made in self.assets]
        return {key.to_user_string(): found for key in keys if (found := result.get_num_requested(key))}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def test_any_deps_match_ignores_the_partitions_that_an_unpartitioned_asset_depends_on(
    instance: dg.DagsterInstance,
) -> None:
    """Hence the condition `Where`, which keeps to the candidates."""
    changed = C.any_deps_match(C.data_version_changed())
    ticks = Ticks(instance, recipe, asset("table", changed, only("keep")))
    ticks.tick()
    ticks.observe("recipe", "1", "bits")
    assert ticks.tick() == {"table": 1}  # it does not depend on `bits`


def test_newly_updated_is_not_true_of_a_root_observed_with_the_same_version(instance: dg.DagsterInstance) -> None:
    """Hence a failed shard whose file was uploaded again under the same MD5 has another data version."""
    ticks = Ticks(instance, source, asset("images", C.any_deps_match(C.newly_updated()), "source", shards=True))
    ticks.observe("source", "1", "0")
    ticks.tick()
    ticks.observe("source", "1", "0")
    assert ticks.tick() == {}
    ticks.observe("source", "2", "0")
    assert ticks.tick() == {"images": 1}


def test_will_be_requested_is_not_true_of_dependencies_of_other_partitions(instance: dg.DagsterInstance) -> None:
    """Hence the question `under_way`: without it a fan-in would be requested in the tick of its shards."""
    images = asset("images", C.missing().newly_true(), shards=True)
    waits = C.missing() & ~C.any_deps_match(C.will_be_requested()) & ~C.any_deps_in_progress()
    ticks = Ticks(instance, images, asset("catalog", waits, "images"))
    assert ticks.tick() == {"images": 2, "catalog": 1}


def test_a_reset_wins_over_a_trigger_of_the_same_tick(instance: dg.DagsterInstance) -> None:
    """Hence a change right after a request is kept apart: `since` alone loses it."""
    changed = C.any_deps_match(C.data_version_changed())
    images = asset("images", changed.since(C.newly_requested()), "source", shards=True)
    ticks = Ticks(instance, source, images)
    ticks.tick()
    ticks.observe("source", "1", "0")
    assert ticks.tick() == {"images": 1}
    ticks.observe("source", "2", "0")
    assert ticks.tick() == {}


def test_what_was_stale_before_the_first_tick_is_not_seen(instance: dg.DagsterInstance) -> None:
    """Only what is missing then is: changes are compared with the tick before."""
    condition = (C.newly_missing() | C.any_deps_match(C.data_version_changed())).since(C.newly_requested())
    images = asset("images", condition, "source", shards=True)
    ticks = Ticks(instance, source, images)
    ticks.observe("source", "1", "0")
    ticks.make("images", "1", "0")
    ticks.observe("source", "2", "0")
    assert ticks.tick() == {"images": 1}  # the missing one
    assert ticks.tick() == {}


def test_an_asset_job_cannot_hold_assets_of_two_partition_sets() -> None:
    """Hence one launcher of backfills for the retries of three splits, and no schedule of runs."""
    other = dg.DynamicPartitionsDefinition(name="other")

    @dg.asset(partitions_def=other)
    def elsewhere() -> None:
        return None

    job = dg.define_asset_job("both", dg.AssetSelection.assets("images", "elsewhere"))
    definitions = dg.Definitions(assets=[asset("images", None, shards=True), elsewhere], jobs=[job])
    with pytest.raises(dg.DagsterInvalidDefinitionError):
        definitions.resolve_job_def("both")


def test_conditions_of_our_own_need_the_code_server() -> None:
    """And read of the context what its documentation does not name."""

    class Custom(dg.AutomationCondition[dg.AssetKey]):
        async def evaluate(  # type: ignore[override]
            self, context: dg.AutomationContext[dg.AssetKey]
        ) -> dg.AutomationResult[dg.AssetKey]:
            view = context.asset_graph_view
            assert view.last_event_id is None or view.last_event_id >= 0
            assert AssetRecord.blocking_get(view, dg.AssetKey("table")) is None
            assert context.request_subsets_by_key is not None
            assert context.previous_temporal_context is None or context.previous_temporal_context.last_event_id
            for name in (
                "compute_run_in_progress_subset",
                "compute_backfill_in_progress_subset",
                "compute_execution_failed_subset",
                "compute_materialized_asset_subset",
                "compute_missing_subset",
                "compute_data_version_changed_since_temporal_context_subset",
            ):
                assert callable(getattr(view, name))
            # A child that is no part of the condition's tree is shown all the same.
            child = context.for_child_condition(
                C.asset_matches(dg.AssetKey("images"), C.missing()), [None], context.candidate_subset
            )
            result = await child.evaluate_async()
            keys = view.get_full_subset(key=dg.AssetKey("images")).compute_intersection_with_partition_keys({"1", "x"})
            assert not keys.is_empty
            assert not view.get_empty_subset(key=context.key).compute_union(result.true_subset).is_empty
            return dg.AutomationResult(context, result.true_subset, child_results=[result])

    assert not Custom().is_serializable
    with dg.DagsterInstance.ephemeral() as instance:
        ticks = Ticks(instance, asset("images", None, shards=True), asset("table", Custom(), "images"))
        assert ticks.tick() == {"table": 1}


def test_the_event_log_tells_of_all_observations_since_an_event_at_once(instance: dg.DagsterInstance) -> None:
    """Hence one query a tick for all roots: of each, Dagster's own condition takes four."""
    ticks = Ticks(instance, recipe, source)
    ticks.observe("recipe", "1", "keep")
    log, observed = instance.event_log_storage, dg.DagsterEventType.ASSET_OBSERVATION
    (before,) = log.get_logs_for_all_runs_by_log_id(-1, observed)
    ticks.make("table", "1")
    ticks.observe("source", "1", "0")
    (event,) = log.get_logs_for_all_runs_by_log_id(before, observed).values()
    assert event.get_dagster_event().asset_key == dg.AssetKey("source")


def test_an_and_asks_each_condition_of_what_is_left(instance: dg.DagsterInstance) -> None:
    """Hence what costs a query of each asset comes last."""
    asked = []

    class Custom(dg.AutomationCondition[dg.AssetKey]):
        def evaluate(self, context: dg.AutomationContext[dg.AssetKey]) -> dg.AutomationResult[dg.AssetKey]:
            asked.append(context.candidate_subset.is_empty)
            return dg.AutomationResult(context, context.candidate_subset)

    Ticks(instance, asset("table", C.newly_requested() & Custom())).tick()
    Ticks(instance, asset("table", C.missing() & Custom())).tick()
    assert asked == [True, False]
