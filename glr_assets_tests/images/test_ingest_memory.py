"""The memory of ingest does not grow with the members of a shard: peaks over a small shard and a large one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from glr_assets_tests.images.handmade import Bucket, Entry, identifier, photo, picture, tar_of

STORED, SMALL, LARGE = identifier(0), 2_500, 25_000
#: Prints the rise of memory above what was resident before, in MB: of a whole pass, and of one by another plan.
MEASURED = """
import json, sys
import numpy as np
from glr_assets.images import ingest
from glr_assets.images.selection import Selection
from glr_assets.recipes import Images
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets_tests.benchmarks.measure import forget_peak, peak_megabytes

folder, at, listed = sys.argv[1:]
ingest.INDEX_ROWS = 1_000
source, store = BucketSource(folder), Store(at)
told = {}
for plan in ("libraries", "whole", "anew"):
    ids = np.array([listed.encode()])
    selection = Selection.of(ids, np.array([7]), np.array([True]), {"plan": plan})
    # Stored otherwise, no earlier run is of use.
    recipe = Images(jpeg_quality=60 if plan == "libraries" else 70)
    for shard in ["000", "001"][: 1 if plan == "libraries" else 2]:
        before = forget_peak()
        made = ingest.ingest_shard(source, store, "train", shard, selection, recipe, 1)
        told[f"{plan} {shard}"] = peak_megabytes() - before
        told[f"{plan} {shard} seen"] = made.receipt.summary["seen"]
        told[f"{plan} {shard} stored"] = made.receipt.summary["stored"]
        told[f"{plan} {shard} read"] = made.run["read_bytes"]
print(json.dumps(told))
"""


def test_ten_times_the_members_take_no_more_memory(tmp_path: Path) -> None:
    """A row of the index takes a kilobyte as a Python object: 25,000 rows held as such would take 32 MB more."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system cannot forget a peak")
    shards = {}
    for shard, count in (("000", SMALL), ("001", LARGE)):
        strangers = (Entry(f"0/{n:016x}.jpg", b"x") for n in range(count - 1))
        shards[shard] = tar_of([photo(STORED, picture(1)), *strangers])
    folder = Bucket({STORED: 7}, [STORED], {"train": shards}).write(tmp_path / "bucket")
    command = [sys.executable, "-c", MEASURED, folder, str(tmp_path / "store"), STORED]
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    for plan in ("whole", "anew"):
        assert told[f"{plan} 001 seen"] == LARGE
        assert told[f"{plan} 001 stored"] == 1
        assert told[f"{plan} 001"] < told[f"{plan} 000"] + 15, told
    assert told["anew 001 read"] == 0
