"""What runs by itself: new shards of the source become partitions."""

from __future__ import annotations

import dagster as dg

from glr_assets.defs.platform import Platform
from glr_assets.defs.shards import SHARDS, counted_parts
from glr_assets.source.layout import SPLITS


@dg.sensor(
    name="new_shards",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Registers as partitions the shards that appear in the source, and the recipe's buckets and groups.",
)
def new_shards(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
    """Look at the source's listing and add the keys that the instance does not know; materialise nothing."""
    source = platform.open_source()
    requests: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
    for partitions, keys in counted_parts(platform.load_recipe()):
        registered = list(context.instance.get_dynamic_partitions(str(partitions.name)))
        if registered != keys:
            requests += [partitions.build_delete_request(registered)] if registered else []
            requests.append(partitions.build_add_request(keys))
    for split in SPLITS:
        known = set(context.instance.get_dynamic_partitions(f"{split}_shards"))
        added = [key for key in source.shards(split) if key not in known]
        if added:
            requests.append(SHARDS[split].build_add_request(added))
    if not requests:
        return dg.SkipReason(f"no new shard in {source.url}")
    return dg.SensorResult(dynamic_partitions_requests=requests)


SENSORS = [new_shards]
