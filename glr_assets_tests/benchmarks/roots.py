"""Ticks of `observe_roots` over a simulated source of many shards, beside the listing of its shards alone.

`python -m glr_assets_tests.benchmarks.roots [--shards 500 5000]`: TARs of a byte with a published MD5 each, receipts of
five assets with a partition a shard, an instance of SQLite files. Then ticks after a value of the recipe has changed on
which the local features of all shards depend.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from glr_assets.defs.automation.roots import observe_roots
from glr_assets.defs.build import build_definitions
from glr_assets.defs.platform import Platform
from glr_assets.defs.provenance import DATA_VERSION_TAG, CurrentInputs
from glr_assets.defs.shards import SHARDED, SHARDS, carry_out, new_shards
from glr_assets.receipts import Receipt, Written, receipt_path
from glr_assets.source.layout import SPLITS, md5_path, shard_path
from glr_assets.store import Store
from glr_assets_tests.automation.tiny_shards import Shards

#: Seconds after which a folder's time alone tells of changes.
SETTLES = 4


def simulate(folder: Path, count: int) -> None:
    """A bucket of so many train shards, and a store that has receipts of all."""
    Shards(folder / "bucket", 0, of=1)
    for number in range(count):
        key = f"{number:05d}"
        put(folder / "bucket", key, b"x")
    store = Store(str(folder / "store"))
    for asset, partitions in SHARDED.items():
        for number in range(count if partitions == SHARDS["train"] else 0):
            put_receipt(store, f"{asset}/{number:05d}", "0" * 64)


def put(bucket: Path, key: str, data: bytes) -> None:
    """A TAR of these bytes and its MD5."""
    tar, md5 = bucket / shard_path("train", key), bucket / md5_path("train", key)
    for path in (tar, md5):
        path.parent.mkdir(parents=True, exist_ok=True)
    tar.write_bytes(data)
    md5.write_text(f"{hashlib.md5(data, usedforsecurity=False).hexdigest()}  {tar.name}\n")


def put_receipt(store: Store, name: str, digest: str) -> None:
    """A receipt of one file of that digest, and a file."""
    receipt = Receipt(
        name=name,
        code_version="1",
        inputs={f"source:train/{name}": "0" * 32},
        parameters={},
        outputs={f"files/{name}.parquet": Written(size=1, sha256=digest)},
        summary={"seen": 8000, "stored": 8000, "skipped": 0, "failed": 0},
    )
    store.write(next(iter(receipt.outputs)), b"0", sync=False)
    store.write(receipt_path(name), receipt.to_bytes(), sync=False)


def timed(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Seconds of the clock and of the processor."""
    began, used = time.perf_counter(), time.process_time()
    found = work()
    return {"s": round(time.perf_counter() - began, 3), "cpu_s": round(time.process_time() - used, 3)}, found


def ticks(folder: Path, count: int) -> dict[str, Any]:
    """The ticks of a source from its first to a quiet one, and after single changes."""
    simulate(folder, count)
    (folder / "instance").mkdir()
    platform = Platform(source=str(folder / "bucket"), store=str(folder / "store"), recipe="small")
    definitions = build_definitions(platform)
    figures: dict[str, Any] = {}
    with dg.DagsterInstance.local_temp(str(folder / "instance")) as instance:
        cursor: str | None = None

        def evaluated() -> Any:
            with dg.build_sensor_context(
                instance=instance, cursor=cursor, definitions=definitions, resources={"platform": platform}
            ) as context:
                return observe_roots.evaluate_tick(context)

        def reported(found: Any) -> None:
            for event in found.asset_events:
                instance.report_runless_asset_event(event)
            carry_out(instance, found.dynamic_partitions_requests or [])

        def tick(name: str) -> int:
            nonlocal cursor
            of_tick, found = timed(evaluated)
            of_reports, _ = timed(lambda: reported(found))
            cursor = found.cursor
            events, runs = len(found.asset_events), len(found.run_requests or [])
            figures[name] = {"tick": of_tick, "events": events, "reports": of_reports, "cursor_bytes": len(cursor)}
            figures[name] |= {"runs": runs} if runs else {}
            return events

        first = 0
        while tick(f"tick {first}"):
            first += 1
        # Folders whose time is recent are listed; it is past by now, or one look later.
        time.sleep(SETTLES)
        tick("settling")
        tick("nothing changed")
        put(folder / "bucket", "00001", b"y")
        tick("one shard changed")
        tick("nothing changed again")
        put(folder / "bucket", f"{count:05d}", b"z")
        tick("one shard new")
        put_receipt(Store(str(folder / "store")), "train_images/00001", "1" * 64)
        tick("one receipt changed")
        graph = definitions.resolve_asset_graph()
        for asset in ("local_features", "search_features"):
            inputs = CurrentInputs(instance, graph, dg.AssetKey(asset))
            for number in range(count):
                key = f"{number:05d}"
                tags = {**inputs.tags(key), DATA_VERSION_TAG: "0"}
                instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key, tags=tags))
        for name in ("features made", "features looked at", "nothing changed since"):
            tick(name)
        cap = platform.load_recipe().verification.cap + 1
        (folder / "other.toml").write_text(f'base = "small"\n[verification]\ncap = {cap}\n')
        platform = Platform(source=platform.source, store=platform.store, recipe=str(folder / "other.toml"))
        for name in ("value changed", "value lasts", "job requested"):
            tick(name)
        source = platform.open_source()
        figures["listing of shards alone"], _ = timed(
            lambda: new_shards(instance, {split: source.shards(split) for split in SPLITS})
        )
        figures["instance_bytes"] = sum(
            path.stat().st_size for path in (folder / "instance").rglob("*") if path.is_file()
        )
    return figures


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[500, 5000])
    for count in parser.parse_args().shards:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps({"shards": count, **ticks(Path(folder), count)}, indent=1))


if __name__ == "__main__":
    main()
