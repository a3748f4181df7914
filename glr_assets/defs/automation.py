"""What runs by itself: new shards of the source become partitions."""

from __future__ import annotations

import dagster as dg

from glr_assets.defs.platform import Platform
from glr_assets.defs.shards import SHARDS
from glr_assets.source.layout import SPLITS


@dg.sensor(
    name="new_shards",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Registers shards that appear in the source as partitions, sorted; materialises nothing.",
)
def new_shards(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
    """Look at the source's listing and add the keys that the instance does not know."""
    source = platform.open_source()
    requests = []
    for split in SPLITS:
        known = set(context.instance.get_dynamic_partitions(f"{split}_shards"))
        added = [key for key in source.shards(split) if key not in known]
        if added:
            requests.append(SHARDS[split].build_add_request(added))
    if not requests:
        return dg.SkipReason(f"no new shard in {source.url}")
    return dg.SensorResult(dynamic_partitions_requests=requests)


SENSORS = [new_shards]
