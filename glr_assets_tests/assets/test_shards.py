"""Range runs and single partitions: what Dagster knows of each shard afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from glr_assets.defs.lineage import retry_shards
from glr_assets.defs.platform import Platform
from glr_assets.defs.shards import SHARDS, sync_shards
from glr_assets.errors import describe
from glr_assets.images import ingest
from glr_assets.images.retry import split_state
from glr_assets.images.shard_runs import find_run
from glr_assets.receipts import find_receipt, need_receipt
from glr_assets.settings import Settings
from glr_assets_tests.assets.conftest import Runner
from glr_assets_tests.lineage import digests


def latest(instance: dg.DagsterInstance, asset: str, shard: str) -> dg.AssetMaterialization:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[shard]), limit=1
    ).records
    found = records[0].asset_materialization
    assert found is not None
    return found


def materialized(instance: dg.DagsterInstance, asset: str) -> set[str]:
    return set(instance.get_materialized_partitions(dg.AssetKey(asset)))


def test_a_range_run_leaves_each_shard_its_own_figures_version_and_provenance(
    run: Runner, platform: Platform, instance: dg.DagsterInstance
) -> None:
    run.upstream_of_images()
    assert run("train_images", shards=run.range_of("train")).success
    store = platform.open_store()
    shards = platform.open_source().shards("train")
    assert materialized(instance, "train_images") == set(shards)
    versions = set()
    for shard in shards:
        receipt = need_receipt(store, f"train_images/{shard}")
        event = latest(instance, "train_images", shard)
        assert event.metadata["seen"].value == receipt.summary["seen"]
        assert event.metadata["dagster/row_count"].value == receipt.summary["seen"]
        tags = dict(event.tags or {})
        assert tags["dagster/data_version"] == receipt.digest
        assert tags["dagster/code_version"]
        assert any(tag.startswith("dagster/input_data_version/") for tag in tags)
        versions.add(receipt.digest)
    assert len(versions) == len(shards)


def test_shards_one_by_one_in_another_order_leave_the_same_bytes_as_a_range(
    run: Runner, platform: Platform, tmp_path: Path
) -> None:
    curated = ("image_catalog", "deduped_manifest", "train_extra", "train_manifest", "image_ledger")
    trees = ("images", "metadata", "manifests", "receipts")
    run.curated()
    by_range = digests(tmp_path / "store", *trees)
    for tree in ("images", "receipts/train_images", "receipts/index_images", "receipts/test_images"):
        shutil.rmtree(tmp_path / "store" / tree)
    for split in ("test", "train", "index"):
        for shard in reversed(platform.open_source().shards(split)):
            assert run(f"{split}_images", shard=shard).success
    for name in curated:
        (tmp_path / "store" / "receipts" / f"{name}.json").unlink()
    assert run(*curated).success
    assert digests(tmp_path / "store", *trees) == by_range


def test_finished_shards_are_not_made_again(run: Runner, instance: dg.DagsterInstance) -> None:
    run.upstream_of_images()
    first, last = run.range_of("test")
    assert run("test_images", shards=(first, last)).success
    assert latest(instance, "test_images", first).metadata["done_before"].value is False
    assert run("test_images", shards=(first, last)).success
    assert latest(instance, "test_images", first).metadata["done_before"].value is True


def test_one_bad_shard_fails_by_name_and_does_not_stop_the_others(
    run: Runner, platform: Platform, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    broken = tmp_path / "bucket"
    shutil.copytree(str(platform.source), broken)
    shards = platform.open_source().shards("test")
    path = broken / "test" / f"images_{shards[1]}.tar"
    path.write_bytes(path.read_bytes()[:-20_000])
    platform = Platform(source=str(broken), store=platform.store, recipe=platform.recipe)
    run = Runner(platform, instance)
    assert run("test_metadata").success
    result = run("test_images", shards=(shards[0], shards[-1]))
    assert not result.success
    failure = result.all_node_events[-1] if result.all_node_events[-1].is_step_failure else None
    failure = failure or next(event for event in result.all_node_events if event.is_step_failure)
    told = failure.step_failure_data.user_failure_data
    assert told is not None
    assert f"1 of {len(shards)} shards failed" in str(told.description)
    assert f"images_{shards[1]}.tar" in str(told.description)
    assert materialized(instance, "test_images") == set(shards) - {shards[1]}
    assert find_receipt(platform.open_store(), f"test_images/{shards[1]}") is None
    assert not (tmp_path / "store" / "images" / "test" / f"{shards[1]}.tar").exists()


@pytest.mark.parametrize("error", [pa.ArrowInvalid("offsets overflow"), MemoryError(), ZeroDivisionError("by zero")])
def test_an_unforeseen_error_of_a_shard_does_not_stop_the_others(
    error: Exception, run: Runner, platform: Platform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = platform.open_source().shards("test")
    assert run("test_metadata").success
    well = ingest._written

    def written(job: ingest._Shard, *given: object) -> object:
        if job.key == shards[1]:
            raise error
        return well(job, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(ingest, "_written", written)
    result = run("test_images", shards=(shards[0], shards[-1]))
    assert not result.success
    assert materialized(instance, "test_images") == set(shards) - {shards[1]}
    failure = next(event for event in result.all_node_events if event.is_step_failure).step_failure_data
    assert failure.user_failure_data is not None
    assert f"1 of {len(shards)} shards failed: {shards[1]}: {type(error).__name__}" in str(
        failure.user_failure_data.description
    )
    told = find_run(platform.open_store(), "test", shards[1])
    assert told is not None
    assert (told.outcome, told.permanent, told.failures) == ("failed", False, 1)
    assert told.error == describe(error)
    assert "in written\n" in told.trace
    logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any(f"shard {shards[1]}: {type(error).__name__}" in text and "in written\n" in text for text in logged)

    monkeypatch.setattr(ingest, "_written", well)
    assert run("test_images", shards=(shards[0], shards[-1])).success
    told = find_run(platform.open_store(), "test", shards[1])
    assert told is not None
    assert (told.outcome, told.trace) == ("ingested", "")


def test_failed_shards_and_images_alone_are_tried_again(
    run: Runner, platform: Platform, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    broken = tmp_path / "bucket"
    shutil.copytree(str(platform.source), broken)
    shards = platform.open_source().shards("test")
    path = broken / "test" / f"images_{shards[1]}.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20_000])
    settings = Settings(source=str(broken), store=str(platform.store), recipe=str(platform.recipe))
    platform = Platform(source=str(broken), store=platform.store, recipe=platform.recipe)
    run = Runner(platform, instance)
    assert run("test_metadata").success
    assert not run("test_images", shards=(shards[0], shards[-1])).success
    source, store = platform.open_source(), platform.open_store()
    state = split_state(source, store, "test")
    assert state.to_retry == [shards[1]]

    wrong = retry_shards(settings, instance, "test", state.to_retry)
    assert len(wrong) == 1
    assert f"images_{shards[1]}.tar" in wrong[0]
    path.write_bytes(whole)
    before = {shard: find_run(store, "test", shard) for shard in shards}
    assert retry_shards(settings, instance, "test", state.to_retry) == []
    assert split_state(source, store, "test").to_retry == []
    assert materialized(instance, "test_images") == set(shards)
    for shard in shards:
        assert (find_run(store, "test", shard) == before[shard]) == (shard != shards[1])
    event = latest(instance, "test_images", shards[1])
    assert event.metadata["run: attempts"].value == 1
    assert event.metadata["run: read_bytes"].value > 0


def test_a_new_plan_tells_in_the_ui_what_it_was_spared(
    run: Runner, platform: Platform, instance: dg.DagsterInstance
) -> None:
    run.images()
    keys = run.range_of("train")
    assert run("train_images", shards=keys, config={"images": {"keep": "all"}}).success
    for shard in platform.open_source().shards("train"):
        event = latest(instance, "train_images", shard)
        read, spared = (int(event.metadata[f"run: {name}"].value) for name in ("read_bytes", "spared_bytes"))
        assert read + spared == event.metadata["source_bytes"].value
        assert spared > read


def test_a_crash_in_the_middle_of_a_range_keeps_the_finished_shards(
    run: Runner, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glr_assets.images import ingest

    run.upstream_of_images()
    original, seen = ingest.ingest_shard, []

    def crashing(*args: object, **more: object) -> object:
        if len(seen) == 2:
            raise MemoryError("out of memory")
        seen.append(args[3])
        return original(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ingest, "ingest_shard", crashing)
    assert not run("train_images", shards=run.range_of("train")).success
    assert materialized(instance, "train_images") == set(seen)
    assert len(seen) == 2


def test_shards_are_registered_sorted_once_and_new_ones_later(platform: Platform) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        source = platform.open_source()
        first = sync_shards(instance, source)
        assert first["train"] == source.shards("train")
        assert sync_shards(instance, source) == {split: [] for split in SHARDS}
        assert list(instance.get_dynamic_partitions("train_shards")) == sorted(source.shards("train"))


def test_embeddings_of_a_range_need_their_images(run: Runner) -> None:
    run.curated()
    assert run("embedder").success
    assert run("train_embeddings", shards=run.range_of("train")).success
    assert run("local_features", shards=run.range_of("train")).success
    assert run("search_features", shards=run.range_of("train")).success
    for name in ("test_embeddings", "test_features"):
        assert run(name, shards=run.range_of("test")).success
    assert run("non_landmark_embeddings", "faiss_index", "recognition_model", "submission").success


def test_a_value_of_the_launchpad_overrides_the_recipe_and_is_checked(run: Runner, platform: Platform) -> None:
    run.curated()
    store = platform.open_store()
    assert run("deduped_manifest", config={"dedupe": {"keep": 20}}).success
    assert need_receipt(store, "deduped_manifest").parameters["keep"] == 20
    assert run("deduped_manifest").success
    assert need_receipt(store, "deduped_manifest").parameters["keep"] == 25
    with pytest.raises(dg.DagsterInvalidConfigError, match=r"\[dedupe\] keep = 0: Input should be greater than"):
        run("deduped_manifest", config={"dedupe": {"keep": 0}})
