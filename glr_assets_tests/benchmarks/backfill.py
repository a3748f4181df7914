"""What Dagster costs over a backfill of many tiny shards by the daemon alone, and how its UI answers meanwhile.

`python -m glr_assets_tests.benchmarks.backfill [--shards 500] [--partitions 5000]`: the daemon finds the shards, asks
for one backfill, and makes the manifests; a webserver is asked what the UI's pages ask. Then as many partitions as
wanted are registered, and the same questions are timed over these.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import dagster as dg

from glr_assets.defs.automation.roots import sync_roots
from glr_assets.defs.platform import Platform
from glr_assets.images.shard_runs import find_run
from glr_assets.receipts import find_receipt
from glr_assets.store import Store
from glr_assets_tests.automation.daemon import Home, ask, wait_until
from glr_assets_tests.automation.tiny_shards import Shards
from glr_assets_tests.lineage import write_recipe

#: What the pages of the UI ask that grow with partitions and runs.
QUESTIONS = {
    "partitions of an asset": """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
        partitionStats { numMaterialized numPartitions numFailed numMaterializing }
        assetPartitionStatuses { ... on DefaultPartitionStatuses {
            materializedPartitions failedPartitions unmaterializedPartitions materializingPartitions } } } } }""",
    "events of an asset": """query($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {
        assetMaterializations(limit: 100) { partition timestamp metadataEntries { label } } } } }""",
    "runs": """query { runsOrError(limit: 25) { ... on Runs { results { id status startTime endTime stats {
        ... on RunStatsSnapshot { stepsSucceeded stepsFailed } } } } } }""",
    "lineage": """query { assetNodes { id assetKey { path } groupName staleStatus dependencyKeys { path }
        partitionStats { numMaterialized numPartitions } } }""",
    "sensors": """query { sensorsOrError(repositorySelector: {repositoryName: "__repository__",
        repositoryLocationName: "glr_assets.definitions"}) { ... on Sensors { results { name sensorState {
        status ticks(limit: 5) { status skipReason } } } } } }""",
}


def _asked(port: int, found: dict[str, list[float]], done: threading.Event) -> None:
    while not done.is_set():
        for name, query in QUESTIONS.items():
            variables = {"key": {"path": ["train_images"]}} if "$key" in query else {}
            found.setdefault(name, []).append(ask(port, query, **variables)[1])
        done.wait(2)


def _answers(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    return {
        name: {"median": round(statistics.median(values), 3), "most": round(max(values), 3), "asked": len(values)}
        for name, values in times.items()
    }


def _until_it_answers(port: int) -> None:
    def answers() -> bool:
        try:
            ask(port, "query { version }")
        except OSError:
            return False
        return True

    wait_until(answers, 120)


def backfill(folder: Path, count: int, port: int) -> dict[str, Any]:
    """A source of so many shards from an empty instance to its manifests."""
    bucket = Shards(folder / "bucket", count, count)
    recipe = write_recipe(folder / "tiny.toml", images={"min_side": 32}, execution={"workers": 1})
    home = Home(folder / "home", bucket.folder, folder / "store", recipe)
    store = Store(str(folder / "store"))
    home.command("dagster", "sensor", "start", "automation")
    times: dict[str, list[float]] = {}
    done = threading.Event()
    began = time.time()
    with home.running("dagster-webserver", "-p", str(port)), home.running("dagster-daemon", "run"):
        _until_it_answers(port)
        asking = threading.Thread(target=_asked, args=(port, times, done))
        asking.start()
        try:
            wait_until(lambda: find_receipt(store, "image_ledger") is not None, 600 + 4 * count)
        finally:
            done.set()
            asking.join()
    whole = time.time() - began
    runs = [find_run(store, "train", key) for key in bucket.ids]
    work = sum(run.seconds for run in runs if run is not None)
    with home.instance() as instance:
        records = [
            record
            for record in instance.get_run_records()
            if record.dagster_run.asset_selection == frozenset({dg.AssetKey("train_images")})
        ]
        made = len(instance.get_materialized_partitions(dg.AssetKey("train_images")))
    spans = [(record.start_time, record.end_time) for record in records if record.start_time and record.end_time]
    created = min(record.create_timestamp.timestamp() for record in records)
    wall = max(end for _, end in spans) - created
    inside = sum(end - start for start, end in spans)
    return {
        "shards": count,
        "materialised": made,
        "runs": len(records),
        "seconds from an empty instance to the ledger": round(whole, 1),
        "wall seconds of the backfill": round(wall, 1),
        "wall seconds a shard": round(wall / count, 3),
        "ingest's own seconds a shard": round(work / count, 4),
        "Dagster's seconds a shard inside runs": round((inside - work) / count, 3),
        "UI": _answers(times),
    }


def many_partitions(folder: Path, count: int, port: int) -> dict[str, Any]:
    """A source of so many shards, half of them materialised: how long the pages take."""
    bucket = Shards(folder / "bucket", count, count)
    recipe = write_recipe(folder / "tiny.toml", images={"min_side": 32})
    home = Home(folder / "home", bucket.folder, folder / "store", recipe)
    platform = Platform(source=str(bucket.folder), store=str(folder / "store"), openimages=None, recipe=str(recipe))
    told: dict[str, Any] = {"partitions": count}
    with home.instance() as instance:
        began = time.monotonic()
        sync_roots(platform.settings(), instance)
        told["seconds to register and observe"] = round(time.monotonic() - began, 2)
        for key in platform.open_source().shards("train")[: count // 2]:
            instance.report_runless_asset_event(dg.AssetMaterialization("train_images", partition=key))
    times: dict[str, list[float]] = {}
    with home.running("dagster-webserver", "-p", str(port)):
        _until_it_answers(port)
        for _ in range(5):
            for name, query in QUESTIONS.items():
                variables = {"key": {"path": ["train_images"]}} if "$key" in query else {}
                times.setdefault(name, []).append(ask(port, query, **variables)[1])
    return told | {"UI": _answers(times)}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=500)
    parser.add_argument("--partitions", type=int, default=5000)
    given = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(backfill(Path(folder) / "backfill", given.shards, port), indent=2))
        print(json.dumps(many_partitions(Path(folder) / "partitions", given.partitions, port), indent=2))


if __name__ == "__main__":
    main()
