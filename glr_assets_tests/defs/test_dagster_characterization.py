"""What the definitions rely on in Dagster that its documentation does not promise, and limits that they work around.

A test that fails after an upgrade says that something here has changed: a workaround may be needless by then.
"""

import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._check import CheckError
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionStatus, PartitionBackfill
from dagster._core.launcher import DefaultRunLauncher, RunLauncher
from dagster._core.loader import LoadingContextForTest
from dagster._core.remote_origin import RemoteJobOrigin
from dagster._core.utils import make_new_backfill_id

from glr_assets.defs.code_location import origin_of, set_origin
from glr_assets.defs.results import no_further_event

KEYS = ["a", "b", "c"]
LETTERS = dg.StaticPartitionsDefinition(KEYS)
RANGE = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "c"}
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dg.asset(partitions_def=LETTERS)
def logs_its_events(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
    for key in context.partition_keys:
        context.log_event(dg.AssetMaterialization("logs_its_events", partition=key, metadata={"own": key}))
    yield no_further_event()


@dg.asset(partitions_def=LETTERS)
def returns_a_result() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"own": "of the last"})


@dg.asset(partitions_def=LETTERS, deps=[logs_its_events])
def downstream() -> dg.MaterializeResult:
    return dg.MaterializeResult()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def own(instance: dg.DagsterInstance, asset: str) -> list[tuple[str, object]]:
    records = instance.fetch_materializations(dg.AssetKey(asset), limit=100, ascending=True).records
    found = [record.asset_materialization for record in records]
    return sorted((str(event.partition), event.metadata["own"].value) for event in found if event is not None)


def test_a_range_run_copies_one_result_to_every_partition(instance: dg.DagsterInstance) -> None:
    assert dg.materialize([returns_a_result], instance=instance, tags=RANGE, run_config=QUIET).success
    assert own(instance, "returns_a_result") == [(key, "of the last") for key in KEYS]


def test_a_marked_result_adds_no_event_and_lets_downstream_steps_run(instance: dg.DagsterInstance) -> None:
    assert set(no_further_event().metadata or {}) == {SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION}
    assert dg.materialize([logs_its_events, downstream], instance=instance, tags=RANGE, run_config=QUIET).success
    assert own(instance, "logs_its_events") == [(key, key) for key in KEYS]
    assert instance.fetch_observations(dg.AssetKey("logs_its_events"), limit=1).records == []
    assert instance.get_materialized_partitions(dg.AssetKey("downstream")) == set(KEYS)


def test_events_that_a_step_logs_get_no_provenance(instance: dg.DagsterInstance) -> None:
    assert dg.materialize([logs_its_events], instance=instance, tags=RANGE, run_config=QUIET).success
    (record,) = instance.fetch_materializations(dg.AssetKey("logs_its_events"), limit=1).records
    assert record.asset_materialization is not None
    assert not [tag for tag in record.asset_materialization.tags or {} if tag.startswith("dagster/")]


def test_a_step_knows_its_inputs_as_they_were_before_it_began(instance: dg.DagsterInstance) -> None:
    seen = []

    @dg.asset
    def parent() -> dg.MaterializeResult:
        return dg.MaterializeResult(data_version=dg.DataVersion("old"))

    @dg.asset(deps=[parent])
    def child(context: dg.AssetExecutionContext) -> None:
        event = dg.AssetMaterialization("parent", tags={"dagster/data_version": "new"})
        context.instance.report_runless_asset_event(event)
        step = context.get_step_execution_context()
        seen.append(step.maybe_fetch_and_get_input_asset_version_info(dg.AssetKey("parent")))

    assert dg.materialize([parent], instance=instance, run_config=QUIET).success
    assert dg.materialize(
        [parent, child], selection=dg.AssetSelection.assets("child"), instance=instance, run_config=QUIET
    ).success
    (info,) = seen
    assert info is not None
    assert info.data_version == dg.DataVersion("old")


def test_dagster_digests_no_versions_of_observed_partitions(instance: dg.DagsterInstance) -> None:
    @dg.observable_source_asset(partitions_def=LETTERS)
    def source() -> dg.DataVersionsByPartition:
        return dg.DataVersionsByPartition({})

    @dg.asset(deps=[dg.AssetDep("source", partition_mapping=dg.SpecificPartitionsPartitionMapping(["a", "b"]))])
    def reader() -> None: ...

    definitions = dg.Definitions([source, reader], executor=dg.in_process_executor)
    versions = set()
    for version in ("1", "2"):
        for key in KEYS:
            event = dg.AssetObservation("source", partition=key, tags={"dagster/data_version": version})
            instance.report_runless_asset_event(event)
        job = definitions.resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(instance=instance, run_config=QUIET).success
        (record,) = instance.fetch_materializations(dg.AssetKey("reader"), limit=1).records
        assert record.asset_materialization is not None
        versions.add((record.asset_materialization.tags or {})["dagster/input_data_version/source"])
    assert len(versions) == 1


def test_the_default_launcher_does_not_know_whether_a_run_is_alive() -> None:
    # Where it does, `MonitoredRunLauncher` and the locks of runs can go.
    launcher = DefaultRunLauncher()
    assert not launcher.supports_check_run_worker_health
    with pytest.raises(NotImplementedError):
        launcher.check_run_worker_health(dg.DagsterRun(job_name="any"))
    assert issubclass(DefaultRunLauncher, RunLauncher)
    with dg.DagsterInstance.ephemeral() as instance:
        launcher.register_instance(instance)
        run = instance.add_run(dg.DagsterRun(job_name="any"))
        # A run that no code server launched has no client.
        assert launcher._get_grpc_client_for_termination(run.run_id) is None  # type: ignore[no-untyped-call]


def test_an_asset_job_cannot_hold_two_partition_sets() -> None:
    # Where it can, launchers of backfills can be asset jobs.
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a"]))
    def parent() -> None: ...

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["b"]), deps=[parent])
    def child() -> None: ...

    definitions = dg.Definitions([parent, child], jobs=[dg.define_asset_job("both", [parent, child])])
    with pytest.raises(dg.DagsterInvalidDefinitionError):
        definitions.resolve_job_def("both")


def test_a_backfill_is_added_by_its_subset_of_the_graph() -> None:
    asked = list(inspect.signature(PartitionBackfill.from_asset_graph_subset).parameters)
    assert asked == [
        "backfill_id",
        "backfill_timestamp",
        "tags",
        "dynamic_partitions_store",
        "asset_graph_subset",
        "title",
        "description",
        "run_config",
    ]
    with dg.DagsterInstance.ephemeral() as instance:
        backfill = PartitionBackfill.from_asset_graph_subset(
            backfill_id=make_new_backfill_id(),
            backfill_timestamp=0.0,
            tags={"team": "landmarks"},
            dynamic_partitions_store=instance,
            asset_graph_subset=AssetGraphSubset({}, {dg.AssetKey("one")}),  # type: ignore[call-arg]
            title="a title",
            description=None,
            run_config=None,
        )
        instance.add_backfill(backfill)
        (found,) = instance.get_backfills(limit=1)
        assert (found.status, found.tags, found.title) == (BulkActionStatus.REQUESTED, {"team": "landmarks"}, "a title")
        assert found.status not in BULK_ACTION_TERMINAL_STATUSES


def observe(instance: dg.DagsterInstance, asset: str, version: str, partition: str | None = None) -> None:
    tags = {"dagster/data_version": version}
    instance.report_runless_asset_event(dg.AssetObservation(asset, partition=partition, tags=tags))


@pytest.mark.parametrize(("count", "status"), [(99, "STALE"), (100, "FRESH")])
def test_a_dependency_on_100_partitions_is_not_compared(instance: dg.DagsterInstance, count: int, status: str) -> None:
    # What `stored_shards` is for.
    keys = [f"{number:03d}" for number in range(count)]

    @dg.observable_source_asset(partitions_def=dg.StaticPartitionsDefinition(keys))
    def shards() -> dg.DataVersionsByPartition:
        return dg.DataVersionsByPartition({})

    @dg.asset(deps=[dg.AssetDep("shards", partition_mapping=dg.AllPartitionMapping())])
    def reads_all() -> None: ...

    graph = dg.Definitions([shards, reads_all]).resolve_asset_graph()
    for key in keys:
        observe(instance, "shards", "1", key)
    assert dg.materialize([shards, reads_all], selection=[reads_all], instance=instance, run_config=QUIET).success

    def found() -> str:
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        return resolver.get_status(dg.AssetKey("reads_all")).value

    assert found() == "FRESH"
    observe(instance, "shards", "2", keys[0])
    assert found() == status


def test_an_observation_of_the_same_version_is_no_update_to_conditions(instance: dg.DagsterInstance) -> None:
    # Why a failed shard that was replaced under the same MD5 has another data version.
    @dg.observable_source_asset
    def file() -> dg.DataVersion:
        return dg.DataVersion("1")

    @dg.asset(deps=[file], automation_condition=dg.AutomationCondition.any_deps_updated())
    def table() -> None: ...

    definitions = dg.Definitions([file, table])
    cursor = None
    requested = []
    for version in ("1", "1", "2", "2"):
        observe(instance, "file", version)
        found = dg.evaluate_automation_conditions(definitions, instance, cursor=cursor)
        cursor = found.cursor
        requested.append(found.total_requested)
    # The first tick takes what is there as its beginning.
    assert requested == [0, 0, 1, 0]


def test_provenance_of_partitions_is_told_by_no_query_and_their_latest_events_by_one(
    instance: dg.DagsterInstance,
) -> None:
    for key in (*KEYS, "a"):
        tags = {"dagster/data_version": "1", "dagster/input_data_version/upstream": "1"}
        instance.report_runless_asset_event(dg.AssetMaterialization("letters", partition=key, tags=tags))
    storage, kind = instance.event_log_storage, dg.DagsterEventType.ASSET_MATERIALIZATION
    # Were it told, `observe_roots` could compare it, and would not go by which event came first.
    with pytest.raises(CheckError, match="limited set of tag keys"):
        storage.get_latest_tags_by_partition(dg.AssetKey("letters"), kind, ["dagster/input_data_version/upstream"])
    latest = storage.get_latest_storage_id_by_partition(dg.AssetKey("letters"), kind)
    assert sorted(latest, key=lambda key: latest[key]) == ["b", "c", "a"]
    assert storage.get_maximum_record_id() == latest["a"]
    planned = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    assert dg.materialize([returns_a_result], instance=instance, tags=RANGE, run_config=QUIET).success
    of_run = storage.get_latest_storage_id_by_partition(dg.AssetKey("returns_a_result"), planned)
    made = storage.get_latest_storage_id_by_partition(dg.AssetKey("returns_a_result"), kind)
    assert all(latest["a"] < of_run[key] < made[key] for key in KEYS)


def test_the_latest_data_version_of_each_partition_is_told_by_one_query(instance: dg.DagsterInstance) -> None:
    for version in ("1", "2"):
        for key in KEYS[:2]:
            observe(instance, "file", version + key, key)
    found = instance.event_log_storage.get_latest_tags_by_partition(
        dg.AssetKey("file"), dg.DagsterEventType.ASSET_OBSERVATION, ["dagster/data_version"], KEYS
    )
    assert found == {key: {"dagster/data_version": f"2{key}"} for key in KEYS[:2]}
    # Other tags are not told, so stamps are read from the observations.
    with pytest.raises(CheckError, match="Only a limited set of tag keys"):
        instance.event_log_storage.get_latest_tags_by_partition(
            dg.AssetKey("file"), dg.DagsterEventType.ASSET_OBSERVATION, ["glr/stamp"]
        )


@pytest.mark.parametrize(("retries", "told"), [("1", "true"), ("0", "false")])
def test_a_failed_run_is_tagged_with_whether_dagster_begins_it_again(retries: str, told: str, tmp_path: Path) -> None:
    @dg.asset
    def failing() -> None:
        raise dg.Failure("no space left")

    settings = {"run_retries": {"enabled": True, "max_retries": 0}}
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides=settings) as instance:
        tags = {"dagster/max_retries": retries}
        result = dg.materialize([failing], instance=instance, tags=tags, raise_on_error=False)
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        assert run.tags["dagster/will_retry"] == told


def test_a_step_stopped_by_a_blocking_check_fails_with_an_error_of_that_name() -> None:
    @dg.asset
    def checked() -> None: ...

    @dg.asset_check(asset=checked, blocking=True)
    def broken() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False)

    result = dg.materialize([checked, broken], raise_on_error=False)
    errors = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    assert [error.cls_name for error in errors if error is not None] == ["DagsterAssetCheckFailedError"]


def test_an_instance_tells_listeners_of_the_events_of_a_run_in_its_process() -> None:
    # By it `glr demo` shows its progress.
    @dg.asset
    def one() -> None: ...

    steps: list[str | None] = []

    def listen(entry: dg.EventLogEntry) -> None:
        if entry.dagster_event is not None and entry.dagster_event.is_step_start:
            steps.append(entry.step_key)

    with dg.DagsterInstance.ephemeral() as instance:
        run_id = "11111111-1111-4111-8111-111111111111"
        instance.add_event_listener(run_id, listen)
        job = dg.Definitions([one]).resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(instance=instance, run_id=run_id).success
    assert steps == ["one"]


def test_a_run_in_a_process_of_its_own_has_no_origin_until_its_storage_is_given_one(
    instance: dg.DagsterInstance,
) -> None:
    # By its origin the UI re-executes a run; `glr demo` records it as a run starts.
    @dg.asset
    def one() -> None: ...

    def origin() -> RemoteJobOrigin | None:
        run = instance.get_run_by_id(run_id)
        return run.remote_job_origin if run is not None else None

    run_id = dg.materialize([one], instance=instance, run_config=QUIET).run_id
    assert origin() is None
    set_origin(instance, run_id, origin_of("__ASSET_JOB"))
    assert origin() == origin_of("__ASSET_JOB")


def test_checks_of_partitions_are_current_by_the_materialization_that_they_target(
    instance: dg.DagsterInstance,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        spec = dg.AssetCheckSpec("sound", asset="checked", partitions_def=LETTERS)

    @dg.asset(partitions_def=LETTERS, check_specs=[spec])
    def checked(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult | dg.Output[None]]:
        for key in context.partition_keys:
            context.log_event(dg.AssetMaterialization("checked", partition=key))
            event = context.instance.get_latest_data_version_record(context.asset_key, partition_key=key)
            assert event is not None
            target = AssetCheckEvaluationTargetMaterializationData(
                storage_id=event.storage_id, run_id=event.run_id, timestamp=event.timestamp
            )
            context.log_event(
                dg.AssetCheckEvaluation(
                    asset_key=context.asset_key,
                    check_name="sound",
                    passed=key != "b",
                    partition=key,
                    # A check without a target is one of no materialization that there is.
                    target_materialization_data=None if key == "c" else target,
                )
            )
        yield no_further_event()
        yield dg.Output(None, context.job_def.asset_layer.get_op_output_name(spec.key))

    assert dg.materialize([checked], instance=instance, tags=RANGE, run_config=QUIET).success
    infos = instance.event_log_storage.get_asset_check_partition_info([spec.key])
    found = {info.partition_key: (info.latest_execution_status.value, info.is_current) for info in infos}
    assert found == {"a": ("SUCCEEDED", True), "b": ("FAILED", True), "c": ("SUCCEEDED", False)}


def test_a_step_with_a_check_owes_an_output_for_it(instance: dg.DagsterInstance) -> None:
    @dg.asset(check_specs=[dg.AssetCheckSpec("sound", asset="owes")])
    def owes(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
        context.log_event(dg.AssetCheckEvaluation(asset_key=context.asset_key, check_name="sound", passed=True))
        yield dg.MaterializeResult()

    found = dg.materialize([owes], instance=instance, run_config=QUIET, raise_on_error=False)
    assert not found.success
    assert "did not yield or return expected outputs {'owes_sound'}" in " ".join(
        entry.user_message for entry in instance.all_logs(found.run_id)
    )


def test_an_input_that_is_no_dependency_is_a_cause_by_its_name(instance: dg.DagsterInstance) -> None:
    @dg.asset(code_version="1")
    def lost() -> dg.MaterializeResult:
        return dg.MaterializeResult(data_version=dg.DataVersion("v"))

    @dg.asset(deps=[lost], code_version="1")
    def reads() -> None:
        pass

    assert dg.materialize([lost, reads], instance=instance, run_config=QUIET).success
    tags = {"dagster/data_version": "lost", "dagster/code_version": "1"}
    file = {f"dagster/{tag}/folder/file.tar": "NULL" for tag in ("input_data_version", "input_event_pointer")}
    instance.report_runless_asset_event(dg.AssetMaterialization("lost", tags=tags | file))
    graph = dg.Definitions([lost, reads]).resolve_asset_graph()
    found = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    assert [cause.reason for cause in found.get_stale_causes(lost.key)] == ["removed dependency on folder/file.tar"]
    assert found.get_status(reads.key).value == "STALE"
    instance.report_runless_asset_event(dg.AssetMaterialization("lost", tags=tags | {"dagster/data_version": "v"}))
    found = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    assert {found.get_status(key).value for key in (lost.key, reads.key)} == {"FRESH"}
