from __future__ import annotations

import os
from pathlib import Path

import pytest

from glr_assets.errors import SourceError
from glr_assets.images.retry import split_state
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets_tests.images.handmade import (
    TINY,
    Bucket,
    Entry,
    identifier,
    ingest,
    make_tables,
    photo,
    picture,
    tar_of,
    write_shard,
)

IDS = [identifier(n) for n in range(8)]


def test_every_shard_is_in_one_state_and_the_members_add_up(tmp_path: Path, store: Store) -> None:
    shards = {
        "000": tar_of([photo(IDS[0], picture(0)), Entry("folder", type=b"5")]),
        "001": tar_of([photo(IDS[1], picture(1)), photo(IDS[2], b"<html>"), photo(IDS[3], b"")]),
        "002": tar_of([photo(IDS[4], picture(4))]),
        "003": tar_of([photo(IDS[5], picture(5))]),
        "004": tar_of([photo(IDS[6], picture(6))]),
        "005": tar_of([photo(IDS[7], picture(7))]),
        # Nothing of it is worth another try.
        "006": tar_of([Entry(f"/abs/{IDS[7]}.jpg", picture(7)), Entry("README.txt", b"hello")]),
    }
    folder = tmp_path / "bucket"
    Bucket(dict.fromkeys(IDS, 7), IDS, {"train": shards}).write(folder)
    source = BucketSource(str(folder))
    make_tables(source, store, TINY)
    untouched = split_state(source, store, "train")
    assert untouched.untried == tuple(shards)
    assert untouched.to_retry == []

    write_shard(folder, "train", "002", shards["002"], md5_of=b"other")
    for shard in ("000", "001", "003", "004", "006"):
        ingest(source, store, TINY, "train", shard)
    with pytest.raises(SourceError):
        ingest(source, store, TINY, "train", "002")
    # One whose files are gone, and one that was ingested and cannot be any more.
    store.remove("images/train/003.tar")
    write_shard(folder, "train", "004", shards["004"], md5_of=b"other")
    with pytest.raises(SourceError):
        ingest(source, store, TINY, "train", "004")

    state = split_state(source, store, "train")
    assert state.with_failed_images == ["001"]
    assert state.reconciled.ingested == ("000", "001", "004", "006")
    assert state.reconciled.failing == ("001", "006")
    assert sorted(state.failed) == ["002", "003", "004"]
    assert "images_002.tar: MD5 is" in state.failed["002"]
    assert "images/train/003.tar" in state.failed["003"]
    assert state.untried == ("005",)
    assert state.to_retry == ["001", "002", "003", "004"]
    of = state.reconciled
    assert (of.seen, of.stored, of.skipped, of.failed) == (8, 3, 2, 3)

    for shard in ("002", "004"):
        write_shard(folder, "train", shard, shards[shard])
    for shard in state.to_retry:
        ingest(source, store, TINY, "train", shard)
    mended = split_state(source, store, "train")
    assert mended.failed == {}
    assert mended.to_retry == ["001"]
    of = mended.reconciled
    assert of.seen == of.stored + of.skipped + of.failed == 10


def test_what_failed_by_a_file_that_was_replaced_since_is_tried_again_and_counted_anew(
    tmp_path: Path, store: Store
) -> None:
    folder = tmp_path / "bucket"
    whole = tar_of([photo(IDS[0], picture(0))])
    Bucket(dict.fromkeys(IDS, 7), IDS, {"train": {"000": whole}}).write(folder)
    source = BucketSource(str(folder))
    make_tables(source, store, TINY)
    tar = folder / "train/images_000.tar"

    def fails(data: bytes, time: float) -> None:
        tar.write_bytes(data)
        os.utime(tar, (time, time))
        with pytest.raises(SourceError):
            ingest(source, store, TINY, "train", "000")

    fails(whole[:-1024], 1.5e9)
    with pytest.raises(SourceError):
        ingest(source, store, TINY, "train", "000")
    state = split_state(source, store, "train")
    assert (state.is_permanent("000"), state.passing, state.runs["000"].failures) == (True, [], 2)

    # The same published MD5, so that nothing but the file's time and size tells of another upload.
    tar.write_bytes(whole)
    state = split_state(source, store, "train")
    assert (state.is_permanent("000"), state.passing) == (False, ["000"])
    fails(whole[:-2048], 1.6e9)
    assert split_state(source, store, "train").runs["000"].failures == 1
    tar.write_bytes(whole)
    ingest(source, store, TINY, "train", "000")
    assert split_state(source, store, "train").failed == {}
