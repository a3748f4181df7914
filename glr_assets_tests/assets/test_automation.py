"""The sensor, by real ticks."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg

from glr_assets.defs.automation import new_shards
from glr_assets.defs.platform import Platform


def tick(instance: dg.DagsterInstance, platform: Platform) -> dg.SensorResult | dg.SkipReason:
    with dg.build_sensor_context(instance=instance, resources={"platform": platform}) as context:
        result = new_shards(context)
    assert isinstance(result, dg.SensorResult | dg.SkipReason)
    if isinstance(result, dg.SensorResult):
        for request in result.dynamic_partitions_requests or []:
            instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
    return result


def test_shards_are_registered_then_nothing_then_the_new_one(platform: Platform, bucket: str, tmp_path: Path) -> None:
    growing = tmp_path / "bucket"
    shutil.copytree(bucket, growing)
    platform = Platform(source=str(growing), store=platform.store, recipe=platform.recipe)
    with dg.DagsterInstance.ephemeral() as instance:
        assert isinstance(tick(instance, platform), dg.SensorResult)
        assert list(instance.get_dynamic_partitions("train_shards")) == platform.open_source().shards("train")
        skipped = tick(instance, platform)
        assert isinstance(skipped, dg.SkipReason)
        assert str(growing) in str(skipped.skip_message)
        shutil.copy(growing / "train" / "images_000.tar", growing / "train" / "images_017.tar")
        grown = tick(instance, platform)
        assert isinstance(grown, dg.SensorResult)
        assert list(instance.get_dynamic_partitions("train_shards"))[-1] == "017"
