"""The catalog at GLDv2's size: indexes of its 620 shards built, read, joined, reconciled and looked up by id.

Builds the indexes and receipts of 500 train shards of 8,266 members, 100 index shards of 7,618 and 20 test shards of
5,879 through the project's own writers (38 % of train stored, as the competition's set is of GLDv2; all of the
others; one id in 10,000 in a second shard), with invented ids and sizes and without the pixels. Then it measures
each step in a process of its own and prints a Markdown table:
`python -m glr_assets_tests.benchmarks.catalog`, or with `--shards 50` a tenth of the shards.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from glr_assets.images.catalog import make_image_catalog, reconcile, shard_receipts
from glr_assets.images.reader import ImageReader
from glr_assets.images.schemas import IMAGE_CATALOG, IMAGE_INDEX
from glr_assets.source import BucketSource
from glr_assets.source.base import Split
from glr_assets.source.layout import SPLITS, TABLE_PATHS
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets_tests.benchmarks.full_size import hexadecimal
from glr_assets_tests.benchmarks.full_store import (
    MEMBERS,
    SKIPPED,
    STORED,
    Members,
    index_rows,
    leave_shard,
    list_shard,
)

SHARDS: Mapping[Split, int] = {"train": 500, "index": 100, "test": 20}
SHARE_STORED: Mapping[Split, float] = {"train": 0.3824, "index": 1.0, "test": 1.0}


def index_of(split: Split, shard: int) -> pa.Table:
    """One shard's index, invented from its number."""
    count = MEMBERS[split]
    random = np.random.default_rng([SPLITS.index(split), shard])
    ids = random.integers(0, 2**64, count, np.uint64)
    if shard:
        # Some ids of the first shard stand in later ones again.
        first = np.random.default_rng([SPLITS.index(split), 0]).integers(0, 2**64, count, np.uint64)
        again = random.random(count) < 1e-4
        ids[again] = first[again]
    status = np.where(random.random(count) < SHARE_STORED[split], STORED, SKIPPED).astype(np.int8)
    landmarks = random.integers(0, 203_094, count) if split == "train" else None
    held = Members(split, hexadecimal(ids), landmarks, status, random.integers(0, 2**64, count, np.uint64))
    return index_rows(held, f"{shard:03d}", random)


def build_indexes(bucket: Path, store: Store, shards: Mapping[Split, int]) -> dict[str, float]:
    """A bucket that lists these shards, and a store with their indexes and receipts."""
    (bucket / TABLE_PATHS["train"]).parent.mkdir(parents=True)
    (bucket / TABLE_PATHS["train"]).write_text("id,url,landmark_id\n")
    rows = 0
    for split, count in shards.items():
        for number in range(count):
            key = f"{number:03d}"
            list_shard(bucket, split, key)
            index = index_of(split, number)
            rows += index.num_rows
            leave_shard(store, split, key, index)
    return {"rows": rows}


def read_indexes(bucket: Path, store: Store, shards: Mapping[Split, int]) -> dict[str, float]:
    """Every column of every index, one after the other."""
    rows = 0
    for split, count in shards.items():
        for number in range(count):
            rows += read_table(store, IMAGE_INDEX, split=split, shard=f"{number:03d}").num_rows
    return {"rows": rows}


def make_catalog(bucket: Path, store: Store, shards: Mapping[Split, int]) -> dict[str, float]:
    """The catalog of all of them."""
    made = make_image_catalog(BucketSource(str(bucket)), store)
    assert not made.reused
    return {"rows": int(made.receipt.summary["rows"] or 0), "file MB": (store.size(IMAGE_CATALOG.path) or 0) / 1e6}


def make_catalog_again(bucket: Path, store: Store, shards: Mapping[Split, int]) -> dict[str, float]:
    """The catalog when no shard has changed."""
    made = make_image_catalog(BucketSource(str(bucket)), store)
    assert made.reused
    return {"rows": int(made.receipt.summary["rows"] or 0)}


def reconcile_all(bucket: Path, store: Store, shards: Mapping[Split, int]) -> dict[str, float]:
    """The source's shards beside their receipts."""
    keys = {split: BucketSource(str(bucket)).shards(split) for split in SPLITS}
    reconciled = reconcile(keys, shard_receipts(store, keys))
    assert {split: len(state.ingested) for split, state in reconciled.items()} == dict(shards)
    return {"rows": sum(state.seen for state in reconciled.values())}


def open_reader(bucket: Path, store: Store, shards: Mapping[Split, int]) -> dict[str, float]:
    """A reader of the stored train images."""
    reader = ImageReader.of_split(store, "train")
    return {"rows": len(reader), "arrays MB": reader.places.nbytes / 1e6}


def nothing(bucket: Path, store: Store, shards: Mapping[Split, int]) -> dict[str, float]:
    """The imports alone."""
    return {}


PHASES: dict[str, Callable[[Path, Store, Mapping[Split, int]], dict[str, float]]] = {
    "imports alone": nothing,
    "indexes and receipts written": build_indexes,
    "indexes read": read_indexes,
    "image_catalog made": make_catalog,
    "image_catalog again, nothing to do": make_catalog_again,
    "receipts reconciled": reconcile_all,
    "ImageReader of train": open_reader,
}


def measured(phase: str, work: Path, shards: Mapping[Split, int]) -> dict[str, float]:
    """Run one phase in this process: seconds of wall and CPU, peak memory of the process in MB."""
    store = Store(str(work / "store"))
    wall, cpu = time.perf_counter(), time.process_time()
    figures = PHASES[phase](work / "bucket", store, shards)
    return {
        "wall s": time.perf_counter() - wall,
        "CPU s": time.process_time() - cpu,
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    } | figures


def in_a_process(phase: str, work: Path, shards: Mapping[Split, int]) -> dict[str, float]:
    """The same in a process of its own, so that its peak is its own."""
    module = [sys.executable, "-m", "glr_assets_tests.benchmarks.catalog"]
    arguments = ["--phase", phase, "--work", str(work), "--shards", str(shards["train"])]
    done = subprocess.run([*module, *arguments], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shards", type=int, default=SHARDS["train"], help="train shards; others in proportion")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help="folder to work in; by default one that is removed afterwards")
    arguments = parser.parse_args()
    shards = {split: -(-count * arguments.shards // SHARDS["train"]) for split, count in SHARDS.items()}
    if arguments.phase:
        print(json.dumps(measured(arguments.phase, arguments.work, shards)))
        return
    columns = ("rows", "wall s", "CPU s", "peak MB", "file MB", "arrays MB")
    print(f"Shards: {', '.join(f'{count} {split}' for split, count in shards.items())}\n")
    print("| step | " + " | ".join(columns) + " |")
    print("|---" + "|---:" * len(columns) + "|")
    with tempfile.TemporaryDirectory(prefix="glr-catalog-", dir=arguments.work) as work:
        for phase in PHASES:
            row = in_a_process(phase, Path(work), shards)
            shown = (f"{row[c]:,.2f}" if c.endswith(" s") else f"{row[c]:,.0f}" if c in row else "" for c in columns)
            print(f"| {phase} | " + " | ".join(shown) + " |", flush=True)


if __name__ == "__main__":
    main()
