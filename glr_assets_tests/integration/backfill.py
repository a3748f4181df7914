"""A backfill of a split's images in a process of its own: `python -m … SOURCE STORE`; it can be killed."""

from __future__ import annotations

import sys

import dagster as dg

from glr_assets.defs.build import ASSETS
from glr_assets.defs.platform import Platform
from glr_assets.defs.shards import sync_counted_parts, sync_shards


def main(source: str, store: str) -> None:
    """Run `train_images` over all shards of the source as one range."""
    platform = Platform(source=source, store=store, recipe="small")
    with dg.DagsterInstance.ephemeral() as instance:
        sync_shards(instance, platform.open_source())
        sync_counted_parts(instance, platform.load_recipe())
        keys = instance.get_dynamic_partitions("train_shards")
        dg.materialize(
            ASSETS,
            selection=dg.AssetSelection.assets("train_images"),
            instance=instance,
            resources={"platform": platform},
            tags={"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
