"""The one switch at scale: seconds of its ticks at 500 and 5,000 shards, and a backfill of 500 by the daemon alone.

`python -m glr_assets_tests.benchmarks.automation [--shards 500] [--partitions 500 5000] [--no-daemon]`: the ticks are
those of the real lineage on SQLite, whose materializations are reported instead of made. The backfill is real.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from glr_assets_tests.automation.simulated import Requested, Simulated
from glr_assets_tests.benchmarks.backfill import backfill

_COLUMNS = ("shards", "tick", "requested", "wall s", "CPU s", "cursor KiB")


def ticks(shards: int) -> Iterator[tuple[object, ...]]:
    """The figures of each kind of tick."""
    with tempfile.TemporaryDirectory() as folder, dg.DagsterInstance.local_temp(folder) as instance:
        lineage = Simulated(instance, shards)

        def timed(name: str) -> tuple[tuple[object, ...], Requested]:
            wall, cpu = time.monotonic(), time.process_time()
            found = lineage.tick()
            figures = (round(time.monotonic() - wall, 2), round(time.process_time() - cpu, 2))
            return (shards, name, sum(map(len, found.values())), *figures, len(lineage.cursor or "") // 1024), found

        lineage.observe_all()
        for name in ("the first: tables", "every shard", "manifests", "features of every shard"):
            row, found = timed(name)
            yield row
            lineage.make(found)
        for _ in lineage.settle():
            pass
        yield timed("nothing has changed")[0]
        lineage.observe("source_train_shards", "2", "00001")
        row, found = timed("a changed shard")
        yield row
        lineage.make(found, "2")
        yield timed("manifests after it")[0]


def main() -> None:
    """Print a table of ticks, then the figures of the backfill as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=500)
    parser.add_argument("--partitions", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--no-daemon", action="store_true")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    print(" | ".join(_COLUMNS))
    for shards in given.partitions:
        for row in ticks(shards):
            print(" | ".join(map(str, row)), flush=True)
    if given.no_daemon:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(backfill(Path(folder), given.shards, port), indent=2))


if __name__ == "__main__":
    main()
