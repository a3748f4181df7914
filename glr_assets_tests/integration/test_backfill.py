"""Backfills of shards that are killed, and that read over a bad line."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from glr_assets.errors import SourceError
from glr_assets.images import ingest as ingest_module
from glr_assets.images.ingest import ingest_shard
from glr_assets.images.selection import selection_for
from glr_assets.images.shard_runs import find_run, run_path
from glr_assets.ranges import Retry
from glr_assets.receipts import find_receipt
from glr_assets.recipes import load_recipe
from glr_assets.source import BucketSource, open_source
from glr_assets.store import Store
from glr_assets_tests.faulty_s3 import FaultyS3
from glr_assets_tests.images.handmade import TINY, Bucket, identifier, make_tables, photo, picture, tar_of
from glr_assets_tests.lineage import digests

TREES = ("images", "receipts")
MOMENTS = 20


def start(source: str, store: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "glr_assets_tests.integration.backfill", source, store],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def finished(store: Path) -> dict[str, bytes]:
    """What tells of the last run of each shard that has a receipt."""
    receipts = sorted((store / "receipts" / "train_images").glob("*.json"))
    told = {path.stem: store / run_path("train", path.stem) for path in receipts}
    return {
        shard: path.read_bytes()
        for shard, path in told.items()
        if path.exists() and b'"begun"' not in path.read_bytes()
    }


@pytest.mark.slow
def test_a_backfill_killed_at_any_moment_ends_as_an_undisturbed_one(shared_photos: Path, tmp_path: Path) -> None:
    photos = [path.read_bytes() for path in sorted((shared_photos / "gldv2").glob("*.jpg"))]
    photos += [path.read_bytes() for path in sorted((shared_photos / "landmarks").rglob("*.jp*g"))[::2]]
    ids = [identifier(n) for n in range(4 * len(photos))]
    members = [photo(image_id, data) for image_id, data in zip(ids, itertools.cycle(photos))]
    shards = {f"{n:03d}": tar_of(members[n::4]) for n in range(4)}
    bucket = Bucket(dict.fromkeys(ids, 7), ids, {"train": shards}).write(tmp_path / "bucket")
    recipe = load_recipe("small")

    def prepared(name: str) -> Path:
        make_tables(BucketSource(bucket), Store(str(tmp_path / name)), recipe)
        return tmp_path / name

    undisturbed = prepared("undisturbed")
    began = time.monotonic()
    assert start(bucket, str(undisturbed)).wait() == 0
    whole = time.monotonic() - began
    expected = digests(undisturbed, *TREES)
    assert len(finished(undisturbed)) == 4

    chance = random.Random(3)
    kept = 0
    for number in range(MOMENTS):
        store = prepared(f"killed-{number}")
        process = start(bucket, str(store))
        time.sleep(chance.uniform(0.2, 1.0) * whole)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        done = finished(store)
        kept += len(done)
        assert start(bucket, str(store)).wait() == 0
        assert digests(store, *TREES) == expected
        # A shard that is read again tells of another run: its seconds are its own.
        assert {shard: told for shard, told in finished(store).items() if shard in done} == done
    assert 0 < kept < 4 * MOMENTS


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_two_backfills_that_overlap_read_each_shard_once(
    kind: str, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glr_assets.leases.POLL", 0.05)
    ids = [identifier(n) for n in range(12)]
    shards = {f"{n:03d}": tar_of([photo(ids[2 * n], picture(n)), photo(ids[2 * n + 1], picture(n))]) for n in range(6)}
    source = BucketSource(Bucket(dict.fromkeys(ids, 7), ids, {"train": shards}).write(tmp_path / "bucket"))
    store = Store(str(tmp_path / "store"))
    if kind == "s3":
        store = Store(f"s3://overlap-{uuid.uuid4().hex}/store", {"endpoint_url": s3_endpoint})
        store.fs.mkdir(store.root.partition("/")[0])
    make_tables(source, store, TINY)
    selection = selection_for(store, "train", TINY.images)
    read: list[str] = []
    original = BucketSource.members

    def counted(self: BucketSource, split: str, shard: str, **more: object) -> object:
        read.append(shard)
        time.sleep(0.1)  # so that the other comes to the same shard meanwhile
        return original(self, split, shard, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(BucketSource, "members", counted)
    made: list[bool] = []

    def backfill(keys: list[str]) -> None:
        for key in keys:
            made.append(ingest_shard(source, store, "train", key, selection, TINY.images, 1).reused)

    keys = list(shards)
    threads = [threading.Thread(target=backfill, args=(part,)) for part in (keys[:5], keys[1:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read) == keys
    assert (len(made), made.count(False)) == (10, 6)


@pytest.fixture
def shards_on_s3(s3_endpoint: str, tmp_path: Path) -> dict[str, bytes]:
    """Four shards of 60 photographs in a bucket of the S3 server."""
    ids = [identifier(n) for n in range(240)]
    members = [photo(image_id, picture(n, (300, 200), 95)) for n, image_id in enumerate(ids)]
    shards = {f"{n:03d}": tar_of(members[n::4]) for n in range(4)}
    local = Path(Bucket(dict.fromkeys(ids, 7), ids, {"train": shards}).write(tmp_path / "bucket"))
    target = Store("s3://photographs", {"endpoint_url": s3_endpoint})
    if not target.fs.exists("photographs"):
        target.fs.mkdir("photographs")
    for path in sorted(local.rglob("*")):
        if path.is_file():
            target.write(str(path.relative_to(local)), path.read_bytes())
    return shards


def over(line: FaultyS3) -> BucketSource:
    config = {"read_timeout": 0.5, "connect_timeout": 2}
    source = open_source("s3://photographs", {"endpoint_url": line.url, "config_kwargs": config})
    assert isinstance(source, BucketSource)
    return source


@pytest.mark.parametrize("rate", [0.05, 0.25])
def test_over_a_bad_line_every_shard_is_stored_whole_or_fails_by_name(
    rate: float,
    shards_on_s3: dict[str, bytes],
    s3_endpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ingest_module, "RETRY_SECONDS", 0.0)
    good = Store(str(tmp_path / "good"))
    source = open_source("s3://photographs", {"endpoint_url": s3_endpoint})
    make_tables(source, good, TINY)
    selection = selection_for(good, "train", TINY.images)
    for shard in shards_on_s3:
        ingest_shard(source, good, "train", shard, selection, TINY.images, 2)
    expected = digests(tmp_path / "good", "images", "receipts/train_images")

    # Small blocks, so that a shard is many requests and each of the faults is met.
    monkeypatch.setattr("glr_assets.ranges.BLOCK", 64 * 1024)
    bad = Store(str(tmp_path / "bad"))
    make_tables(source, bad, TINY)
    with FaultyS3(s3_endpoint, stall_seconds=2) as line:
        flawed = over(line)
        line.rates = dict.fromkeys(("reset", "closed", "short", "stall", "slow_down"), rate / 5)
        failed: dict[str, str] = {}
        for shard in shards_on_s3:
            try:
                ingest_shard(flawed, bad, "train", shard, selection, TINY.images, 2)
            except SourceError as error:
                failed[shard] = str(error)
        assert all(f"images_{shard}." in told for shard, told in failed.items()), failed
        assert line.done
        seen = digests(tmp_path / "bad", "images", "receipts/train_images")
        assert seen == {path: digest for path, digest in expected.items() if Path(path).stem not in failed}
        for shard in shards_on_s3:
            run = find_run(bad, "train", shard)
            assert run is not None
            assert (
                (run.outcome == "failed") == (shard in failed) == (find_receipt(bad, f"train_images/{shard}") is None)
            )

        line.rates = {}
        for shard in shards_on_s3:
            ingest_shard(flawed, bad, "train", shard, selection, TINY.images, 2)
    assert digests(tmp_path / "bad", "images", "receipts/train_images") == expected


def test_a_line_that_gives_nothing_fails_each_shard_and_leaves_nothing(
    shards_on_s3: dict[str, bytes], s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(Retry, "wait", lambda *_: 0.0)
    store = Store(str(tmp_path / "store"))
    make_tables(open_source("s3://photographs", {"endpoint_url": s3_endpoint}), store, TINY)
    selection = selection_for(store, "train", TINY.images)
    with FaultyS3(s3_endpoint) as line:
        source = over(line)
        line.rates = {"closed": 1.0}
        for shard in shards_on_s3:
            with pytest.raises(SourceError, match=rf"images_{shard}"):
                ingest_shard(source, store, "train", shard, selection, TINY.images, 2)
    assert digests(tmp_path / "store", "images", "receipts/train_images") == {}
