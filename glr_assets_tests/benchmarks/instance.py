"""What a run of a range of shards leaves in Dagster's instance, beside the way that logged three events a shard.

`python -m glr_assets_tests.benchmarks.instance [--shards 100]`: the asset `train_images` is materialized in ranges of
25 tiny shards on an instance of SQLite files, once by its own code and once with the loop of the earlier way in its
place: an event as a shard ends, one more from the result of the step, and one after it, each of the first and the last
with the table's columns and their lineage. It prints bytes, events and CPU seconds a shard of each as JSON.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg

from glr_assets.defs import images, tags
from glr_assets.defs.build import ASSETS
from glr_assets.defs.column_lineage import column_lineage
from glr_assets.defs.platform import Platform
from glr_assets.defs.results import columns_of, metadata_of
from glr_assets.defs.shards import SHARD_BACKFILL, sync_shards
from glr_assets.images.schemas import IMAGE_INDEX
from glr_assets.receipts import Made
from glr_assets_tests.automation.tiny_shards import Shards
from glr_assets_tests.images.handmade import make_tables
from glr_assets_tests.lineage import write_recipe

UPSTREAM = ("train_metadata", "competition_train", "class_counts", "fill_plan")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
DATA_VERSION = "dagster/data_version"


def three_events(context: dg.AssetExecutionContext, make: Callable[[str], Made]) -> Iterator[Any]:
    """The loop over the shards of a run as it was before each had one event."""
    made = {}
    for key in context.partition_keys:
        made[key] = make(key)
        context.log.info(f"shard {key}: made")
        context.log_event(_event(context, made[key], key, {}))
    yield dg.MaterializeResult()
    for key, done in made.items():
        (latest,) = context.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=[key]), limit=1
        ).records
        assert latest.asset_materialization is not None
        context.log_event(_event(context, done, key, dict(latest.asset_materialization.tags or {})))
    yield dg.Output(None, "train_images_members_reconcile")


def _event(context: dg.AssetExecutionContext, made: Made, key: str, tags: dict[str, str]) -> dg.AssetMaterialization:
    same = {
        "dagster/column_schema": columns_of(IMAGE_INDEX),
        "dagster/column_lineage": column_lineage("train_images"),
    }
    return dg.AssetMaterialization(
        context.asset_key,
        partition=key,
        metadata=metadata_of(made) | same,
        tags=tags | {DATA_VERSION: made.receipt.digest},
    )


def measure(folder: Path, bucket: Path, recipe: Path, count: int) -> dict[str, Any]:
    """Bytes, events and CPU seconds a shard of `train_images` on a fresh instance and store."""
    home = folder / "home"
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    platform = Platform(source=str(bucket), store=str(folder / "store"), openimages=None, recipe=str(recipe))
    make_tables(platform.open_source(), platform.open_store(), platform.load_recipe())
    step = SHARD_BACKFILL.max_partitions_per_run or count
    events: Counter[str] = Counter()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        keys = sync_shards(instance, platform.open_source())["train"]

        def run(asset: str, marks: dict[str, str]) -> None:
            selection = dg.AssetSelection.assets(asset)
            found = dg.materialize(
                ASSETS, selection=selection, instance=instance, resources={"platform": platform}, tags=marks,
                run_config=QUIET,
            )  # fmt: skip
            for entry in instance.all_logs(found.run_id) if marks else []:
                events[entry.dagster_event.event_type_value if entry.dagster_event is not None else "log line"] += 1

        for asset in UPSTREAM:
            run(asset, {})
        before = _bytes(home)
        began, wall = time.process_time(), time.monotonic()
        for first in range(0, count, step):
            run("train_images", {tags.RANGE_START: keys[first], tags.RANGE_END: keys[min(first + step, count) - 1]})
        cpu, wall = time.process_time() - began, time.monotonic() - wall
    return {
        "bytes a shard": round((_bytes(home) - before) / count),
        "CPU seconds a shard, its ingest included": round(cpu / count, 4),
        "wall seconds a shard": round(wall / count, 4),
        # Each run leaves a few more.
        "events a shard": {name: number // count for name, number in sorted(events.items()) if number >= count},
    }


def _bytes(home: Path) -> int:
    """Bytes of an instance's files, what databases have freed left aside."""
    for path in home.rglob("*.db"):
        connection = sqlite3.connect(path)
        connection.execute("VACUUM")
        connection.close()
    return sum(path.stat().st_size for path in home.rglob("*") if path.is_file())


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=100)
    count = parser.parse_args().shards
    with tempfile.TemporaryDirectory() as folder:
        bucket = Shards(Path(folder) / "bucket", count, count)
        recipe = write_recipe(Path(folder) / "tiny.toml", images={"min_side": 32}, execution={"workers": 1})
        with mock.patch.object(images, "each_shard", three_events):
            before = measure(Path(folder) / "before", bucket.folder, recipe, count)
        now = measure(Path(folder) / "now", bucket.folder, recipe, count)
    share = now["bytes a shard"] / before["bytes a shard"]
    figures = {"shards": count, "three events a shard": before, "one event and one check a shard": now}
    print(json.dumps(figures | {"share of the bytes": round(share, 2)}, indent=2))


if __name__ == "__main__":
    main()
