"""The verification's assets in Dagster: shards and buckets, one by one and as ranges, and DeLF from end to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from glr_assets.defs.platform import Platform
from glr_assets.defs.shards import BUCKETS, sync_counted_parts
from glr_assets.tables import read_table
from glr_assets.verification.plan import bucket_keys
from glr_assets.verification.schemas import CLEANED_MANIFEST, LOCAL_FEATURES, VERIFIED_IMAGES
from glr_assets_tests.assets.conftest import Runner
from glr_assets_tests.lineage import digests

FOLDERS = ("features", "verification", "manifests")


def reason(result: dg.ExecuteInProcessResult) -> str:
    (failed,) = (event for event in result.all_node_events if event.is_step_failure)
    data = failed.step_failure_data
    return data.user_failure_data.description if data.user_failure_data else str(data.error)


@pytest.mark.parametrize("workers", [1, 2])
def test_ranges_and_single_partitions_leave_the_same_bytes(
    run: Runner, platform: Platform, instance: dg.DagsterInstance, workers: int
) -> None:
    run.verified()
    store = Path(platform.open_store().path(""))
    whole = digests(store, *FOLDERS)
    for receipt in store.glob("receipts/**/*.json"):
        if receipt.parent.name in {"local_features", "verified_pairs"} or "verif" in receipt.name:
            receipt.unlink()
    config: dict[str, object] = {"execution": {"workers": workers}}
    for shard in reversed(instance.get_dynamic_partitions("train_shards")):
        assert run("local_features", shard=shard, config=config).success
    assert run("verification_calibration", config=config).success
    for bucket in reversed(instance.get_dynamic_partitions("class_buckets")):
        assert run("verified_pairs", shard=bucket, config=config).success
    assert run("cleaned_manifest").success
    assert digests(store, *FOLDERS) == whole


def test_each_bucket_of_a_range_has_figures_of_its_own(
    run: Runner, platform: Platform, instance: dg.DagsterInstance
) -> None:
    run.verified()
    buckets = instance.get_dynamic_partitions("class_buckets")
    assert run("verified_pairs", shards=(buckets[0], buckets[-1])).success
    told = {}
    for bucket in buckets:
        asked = dg.AssetRecordsFilter(dg.AssetKey("verified_pairs"), asset_partitions=[bucket])
        record = instance.fetch_materializations(asked, limit=1).records[0]
        told[bucket] = record.asset_materialization.metadata["images"].value
    rows = {key: read_table(platform.open_store(), VERIFIED_IMAGES, bucket=key).num_rows for key in told}
    assert told == rows
    assert sum(rows.values()) > 0


def test_buckets_are_those_of_the_recipe(platform: Platform) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for buckets in (4, 12, 2, 2):
            sync_counted_parts(instance, platform.load_recipe().overridden({"verification": {"buckets": buckets}}))
            assert list(instance.get_dynamic_partitions(str(BUCKETS.name))) == bucket_keys(buckets)


def test_a_bucket_of_another_recipe_says_what_to_do(run: Runner) -> None:
    run.curated()
    assert run("local_features", shards=run.range_of("train")).success
    assert run("verification_calibration").success
    failed = run("verified_pairs", shard="03", config={"verification": {"buckets": 2}})
    assert not failed.success
    assert "there is no bucket 03 of 2" in reason(failed)


def test_delf_goes_from_its_module_to_the_cleaned_set(
    run: Runner, platform: Platform, save_delf: Callable[..., Path]
) -> None:
    run.curated()
    extracts = {"extractor": "delf", "module": str(save_delf()), "max_features": 100}
    assert run("local_features", shards=run.range_of("train"), config={"verification": extracts}).success
    config: dict[str, object] = {"verification": extracts | {"min_inliers": 6}}
    store = platform.open_store()
    shards = run.instance.get_dynamic_partitions("train_shards")
    rows = [row for shard in shards for row in read_table(store, LOCAL_FEATURES, shard=shard).to_pylist()]
    assert sum(row["features"] for row in rows) > 0
    assert all(row["size"] == row["features"] * (6 + 40) for row in rows)
    assert run("verification_calibration", config=config).success
    keys = run.instance.get_dynamic_partitions("class_buckets")
    assert run("verified_pairs", shards=(keys[0], keys[-1]), config=config).success
    assert run("cleaned_manifest").success
    cleaned = read_table(store, CLEANED_MANIFEST)
    assert cleaned.num_rows == len(rows)
    assert set(cleaned["decision"].to_pylist()) <= {"kept", "dropped"}


def test_a_module_that_is_missing_fails_the_shard_by_name(run: Runner) -> None:
    run.curated()
    shard = run.instance.get_dynamic_partitions("train_shards")[0]
    failed = run("local_features", shard=shard, config={"verification": {"extractor": "delf", "module": "no/such"}})
    assert not failed.success
    assert "no/such" in reason(failed)


def test_features_of_another_extractor_are_refused(run: Runner, save_delf: Callable[..., Path]) -> None:
    run.curated()
    assert run("local_features", shards=run.range_of("train")).success
    config: dict[str, object] = {"verification": {"extractor": "delf", "module": str(save_delf())}}
    failed = run("verification_calibration", config=config)
    assert not failed.success
    assert "local_features are of rootsift" in reason(failed)
