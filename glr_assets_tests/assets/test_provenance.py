"""One event a partition: its own metadata, versions and inputs, and what Dagster concludes from them."""

from collections import Counter
from collections.abc import Callable, Iterator

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from glr_assets.defs.shards import RUN_ENDS, each_shard
from glr_assets.receipts import Made, Receipt, Written

SHARDS = dg.DynamicPartitionsDefinition(name="toy_shards")
BUCKETS = dg.StaticPartitionsDefinition(["0", "1"])
VALUES = dg.StaticPartitionsDefinition(["bits", "keep", "sample"])
KEYS = ["000", "001", "002"]
#: What is made of each partition, the partitions that fail, and what happens while one is made.
content: Counter[str] = Counter()
failing: set[str] = set()
meanwhile: dict[str, Callable[[], None]] = {}


@dg.observable_source_asset(name="recipe", partitions_def=VALUES)
def recipe() -> dg.DataVersionsByPartition:
    return dg.DataVersionsByPartition({})


@dg.observable_source_asset(name="source_shards", partitions_def=SHARDS)
def source_shards() -> dg.DataVersionsByPartition:
    return dg.DataVersionsByPartition({})


@dg.observable_source_asset(name="source_table")
def source_table() -> dg.DataVersion:
    return dg.DataVersion("")


def read(*values: str) -> dg.AssetDep:
    return dg.AssetDep("recipe", partition_mapping=dg.SpecificPartitionsPartitionMapping(values))


@dg.asset(code_version="1", deps=[source_table])
def plan() -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion(f"plan {content['plan']}"))


def receipt_of(asset: str, key: str) -> Receipt:
    path = f"{asset}/{key}"
    outputs = {path: Written(size=1, sha256=f"{content[path]:064}")}
    return Receipt(name=path, code_version="1", inputs={}, parameters={}, outputs=outputs, summary={"rows": int(key)})


def shards_of(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
    """What the sharded assets do, without files."""

    def make(key: str) -> Made:
        if key in failing:
            raise ValueError(f"{key} is broken")
        meanwhile.get(key, lambda: None)()
        return Made(receipt_of(context.asset_key.to_user_string(), key), False)

    yield from each_shard(context, make)


@dg.asset(partitions_def=SHARDS, deps=[source_shards, read("bits"), plan, source_table], code_version="1")
def images(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
    yield from shards_of(context)


@dg.asset(partitions_def=SHARDS, deps=[images, read("keep", "sample")], code_version="1")
def vectors(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
    yield from shards_of(context)


@dg.asset(
    partitions_def=BUCKETS,
    deps=[dg.AssetDep("vectors", partition_mapping=dg.AllPartitionMapping())],
    code_version="1",
)
def pairs(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
    yield from shards_of(context)


DEFINITIONS = dg.Definitions(
    assets=[recipe, source_shards, source_table, plan, images, vectors, pairs], executor=dg.in_process_executor
)
PARTITIONS = {"images": KEYS, "vectors": KEYS, "pairs": ["0", "1"]}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    content.clear()
    failing.clear()
    meanwhile.clear()
    with dg.DagsterInstance.ephemeral() as opened:
        opened.add_dynamic_partitions("toy_shards", KEYS)
        for value in VALUES.get_partition_keys():
            observe(opened, "recipe", "1", value)
        for key in KEYS:
            observe(opened, "source_shards", f"md5 of {key}", key)
        observe(opened, "source_table", "etag")
        run(opened, "plan")
        yield opened


def observe(instance: dg.DagsterInstance, asset: str, version: str, partition: str | None = None) -> None:
    event = dg.AssetObservation(asset, partition=partition, tags={"dagster/data_version": version})
    instance.report_runless_asset_event(event)


def run(instance: dg.DagsterInstance, *assets: str, keys: list[str] | None = None) -> dg.ExecuteInProcessResult:
    tags = {} if keys is None else dict(zip(RANGE, (keys[0], keys[-1]), strict=True))
    return DEFINITIONS.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(asset) for asset in assets],
        tags=tags,
        partition_key=None,
        run_config=QUIET,
        raise_on_error=False,
    )


RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def in_one_run(instance: dg.DagsterInstance) -> None:
    assert run(instance, "images", "vectors", keys=KEYS).success
    assert run(instance, "pairs", keys=["0", "1"]).success


def by_assets(instance: dg.DagsterInstance) -> None:
    for asset, keys in PARTITIONS.items():
        assert run(instance, asset, keys=keys).success


def by_partitions(instance: dg.DagsterInstance) -> None:
    job = DEFINITIONS.resolve_implicit_global_asset_job_def()
    for asset, keys in PARTITIONS.items():
        for key in keys:
            selection = [dg.AssetKey(asset)]
            assert job.execute_in_process(
                instance=instance, asset_selection=selection, partition_key=key, run_config=QUIET
            ).success


WAYS = pytest.mark.parametrize("made", [in_one_run, by_assets, by_partitions])


def events(instance: dg.DagsterInstance, asset: str) -> list[dg.AssetMaterialization]:
    """Of an asset, the latest first."""
    records = instance.fetch_materializations(dg.AssetKey(asset), limit=100).records
    return [record.asset_materialization for record in records if record.asset_materialization is not None]


def stale(instance: dg.DagsterInstance) -> dict[tuple[str, str], list[tuple[str, str | None]]]:
    """By asset and partition that Dagster finds stale, the parents that are the cause and their partitions."""
    graph = DEFINITIONS.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    found: dict[tuple[str, str], list[tuple[str, str | None]]] = {}
    for asset, keys in PARTITIONS.items():
        for key in keys:
            causes = [cause.dependency for cause in resolver.get_stale_causes(dg.AssetKey(asset), key)]
            if resolver.get_status(dg.AssetKey(asset), key).value == "STALE":
                found[asset, key] = [(by.asset_key.to_user_string(), by.partition_key) for by in causes if by]
    return found


@WAYS
def test_each_partition_has_one_event_of_its_own(
    made: Callable[[dg.DagsterInstance], None], instance: dg.DagsterInstance
) -> None:
    content["images/001"] = 7
    made(instance)
    pointers = {
        record.partition_key: str(record.storage_id)
        for record in instance.fetch_observations(dg.AssetKey("source_shards"), limit=10).records
    }
    assert Counter(event.partition for event in events(instance, "images")) == dict.fromkeys(KEYS, 1)
    for event in events(instance, "images"):
        assert event.partition is not None
        assert event.metadata["rows"].value == int(event.partition)
        tags = event.tags or {}
        assert tags["dagster/data_version"] == receipt_of("images", event.partition).digest
        assert tags["dagster/code_version"] == "1"
        assert tags["dagster/input_data_version/source_shards"] == f"md5 of {event.partition}"
        assert tags["dagster/input_event_pointer/source_shards"] == pointers[event.partition]
        assert tags["dagster/input_data_version/plan"] == "plan 0"
        assert tags["dagster/input_data_version/source_table"] == "etag"
        assert tags["dagster/input_data_version/recipe"]
    images_of = {event.partition: (event.tags or {})["dagster/data_version"] for event in events(instance, "images")}
    assert len(images_of) == len(KEYS)
    for event in events(instance, "vectors"):
        assert (event.tags or {})["dagster/input_data_version/images"] == images_of[event.partition]
    # Nothing stray: the observations are those of the sources.
    for asset in PARTITIONS:
        assert instance.fetch_observations(dg.AssetKey(asset), limit=1).records == []


@WAYS
def test_partitions_are_fresh_after_the_run_and_stale_by_exactly_what_changed(
    made: Callable[[dg.DagsterInstance], None], instance: dg.DagsterInstance
) -> None:
    made(instance)
    for asset, keys in PARTITIONS.items():
        assert instance.get_materialized_partitions(dg.AssetKey(asset)) == set(keys)
    assert stale(instance) == {}
    observe(instance, "source_shards", "another md5", "001")
    assert stale(instance) == {("images", "001"): [("source_shards", "001")]}
    observe(instance, "source_shards", "md5 of 001", "001")
    assert stale(instance) == {}
    observe(instance, "recipe", "2", "keep")
    assert stale(instance) == {("vectors", key): [("recipe", "keep")] for key in KEYS}
    observe(instance, "recipe", "1", "keep")
    observe(instance, "recipe", "2", "bits")
    assert stale(instance) == {("images", key): [("recipe", "bits")] for key in KEYS}
    assert run(instance, "images", keys=KEYS[:2]).success
    assert stale(instance) == {("images", "002"): [("recipe", "bits")]}
    observe(instance, "recipe", "1", "bits")
    assert run(instance, "images", keys=KEYS[:2]).success
    content["images/002"] += 1
    assert run(instance, "images", keys=["002", "002"]).success
    assert stale(instance) == {("vectors", "002"): [("images", "002")]}
    content["plan"] += 1
    assert run(instance, "plan").success
    assert run(instance, "vectors", keys=["002", "002"]).success
    assert stale(instance) == {("images", key): [("plan", None)] for key in KEYS}


def test_the_inputs_of_a_failed_partition_s_siblings_are_kept(instance: dg.DagsterInstance) -> None:
    failing.add("001")
    result = run(instance, "images", "vectors", keys=KEYS)
    assert not result.success
    assert [event.step_key for event in result.all_node_events if event.is_step_failure] == ["images"]
    assert instance.get_materialized_partitions(dg.AssetKey("images")) == {"000", "002"}
    status = instance.get_status_by_partition(dg.AssetKey("images"), KEYS, SHARDS)
    assert status is not None
    assert {key: found.value for key, found in status.items() if found is not None} == {
        "000": "MATERIALIZED",
        "001": "FAILED",
        "002": "MATERIALIZED",
    }
    assert len(events(instance, "images")) == 2
    assert stale(instance) == {}
    observe(instance, "source_shards", "another md5", "002")
    assert stale(instance) == {("images", "002"): [("source_shards", "002")]}
    failing.clear()
    assert run(instance, "images", keys=["001", "001"]).success
    assert instance.get_materialized_partitions(dg.AssetKey("images")) == set(KEYS)


def test_a_partition_s_own_input_counts_as_of_its_begin_and_every_other_as_of_the_step_s(
    instance: dg.DagsterInstance,
) -> None:
    def change() -> None:
        for key in KEYS:
            observe(instance, "source_shards", f"another md5 of {key}", key)

    meanwhile["001"] = change
    assert run(instance, "images", keys=KEYS).success
    assert stale(instance) == {("images", key): [("source_shards", key)] for key in ("000", "001")}
    meanwhile["001"] = lambda: observe(instance, "recipe", "2", "bits")
    assert run(instance, "images", keys=KEYS).success
    assert stale(instance) == {("images", key): [("recipe", "bits")] for key in KEYS}


def test_run_ends_are_told_of_each_run_also_where_partitions_failed(instance: dg.DagsterInstance) -> None:
    told: list[tuple[str, list[str]]] = []

    def note(context: dg.AssetExecutionContext) -> None:
        told.append((context.asset_key.to_user_string(), list(context.partition_keys)))

    RUN_ENDS.append(note)
    try:
        failing.add("001")
        assert not run(instance, "images", keys=KEYS).success
        failing.clear()
        assert run(instance, "images", keys=["001", "001"]).success
    finally:
        RUN_ENDS.remove(note)
    assert told == [("images", KEYS), ("images", ["001"])]


def test_a_source_that_was_never_observed_is_noted_as_dagster_notes_it() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("toy_shards", KEYS)
        content.clear()
        assert run(instance, "plan").success
        assert run(instance, "images", keys=KEYS).success
        (event, *_) = events(instance, "images")
        tags = event.tags or {}
        for source in ("source_shards", "recipe", "source_table"):
            assert tags[f"dagster/input_data_version/{source}"] == "INITIAL"
            assert tags[f"dagster/input_event_pointer/{source}"] == "NULL"
