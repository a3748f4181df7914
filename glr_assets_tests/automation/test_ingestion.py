"""New and changed shards, by real ticks: registered, asked for once in ranges, and at night again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from glr_assets.defs.automation.requests import batches
from glr_assets.errors import SourceError
from glr_assets.images import versions
from glr_assets.images.retry import split_state
from glr_assets.images.shard_runs import find_run
from glr_assets.receipts import find_receipt
from glr_assets.source import BucketSource
from glr_assets_tests.automation.conftest import Desk, ranges
from glr_assets_tests.automation.tiny_shards import Shards

pytestmark = pytest.mark.usefixtures("without_pauses")
MakeShards = Callable[..., Shards]


def test_shards_are_registered_then_nothing_then_the_new_one(desk: Desk, shards: MakeShards) -> None:
    bucket = shards(3, of=18)
    assert desk.tick("observe_roots") == []
    assert list(desk.instance.get_dynamic_partitions("train_shards")) == ["000", "001", "002"]
    desk.tick("observe_roots")
    assert str(bucket.folder) in desk.skipped
    bucket.drop("017")
    desk.tick("observe_roots")
    assert list(desk.instance.get_dynamic_partitions("train_shards"))[-1] == "017"


def test_tables_come_first_and_shards_wait_for_them(desk: Desk, shards: MakeShards) -> None:
    shards(2)
    desk.tick("observe_roots")
    (tables,) = desk.tick("ingest_new_shards")
    assert {key.to_user_string() for key in tables.asset_selection or ()} >= {"train_metadata", "fill_plan"}
    run = desk.pretend_run("train_metadata", "fill_plan")
    assert desk.tick("ingest_new_shards") == []
    assert f"run {run.run_id[:8]}" in desk.skipped
    desk.instance.report_run_canceled(run)
    # They were asked for and are not there: nobody asks for ever.
    assert desk.tick("ingest_new_shards") == []
    assert "train waits for train_metadata, competition_train, fill_plan" in desk.skipped
    assert desk.carry_out([tables]) == [True]
    assert ranges(desk.tick("ingest_new_shards")) == [
        ("train_images", "000", "001"),
        ("index_images", "000", "000"),
        ("test_images", "000", "000"),
    ]


def test_each_shard_is_asked_for_once_and_a_changed_one_again(desk: Desk, shards: MakeShards) -> None:
    bucket = shards(3, of=4)
    desk.to_images()
    asked = desk.tick("ingest_new_shards")
    assert all(desk.carry_out(asked))
    assert desk.tick("ingest_new_shards") == []
    assert "nothing new" in desk.skipped
    bucket.drop("001", version=1)
    bucket.drop("003")
    desk.tick("observe_roots")
    asked = desk.tick("ingest_new_shards")
    assert ranges(asked) == [("train_images", "001", "001"), ("train_images", "003", "003")]
    # That it was asked for is remembered, whatever becomes of the run.
    assert desk.tick("ingest_new_shards") == []
    assert all(desk.carry_out(asked))
    assert find_receipt(desk.platform.open_store(), "train_images/003") is not None
    # Without its memory the sensor finds by receipts that there is nothing to do but look at the tables.
    desk.cursors.clear()
    assert desk.carry_out(desk.tick("ingest_new_shards")) == [True]
    assert desk.tick("ingest_new_shards") == []


def test_the_same_bytes_uploaded_again_are_not_ingested_again(desk: Desk, shards: MakeShards) -> None:
    bucket = shards(2)
    desk.to_images()
    assert all(desk.carry_out(desk.tick("ingest_new_shards")))
    before = BucketSource(str(bucket.folder)).shard_stamps("train")
    bucket.drop("001")
    path = bucket.folder / "train" / "images_001.tar"
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 10))
    assert BucketSource(str(bucket.folder)).shard_stamps("train") != before
    assert desk.tick("ingest_new_shards") == []


def test_another_plan_asks_for_every_shard(desk: Desk, shards: MakeShards) -> None:
    bucket = shards(3)
    desk.to_images()
    assert all(desk.carry_out(desk.tick("ingest_new_shards")))
    clean = bucket.folder / "metadata" / "train_clean.csv"
    lines = clean.read_text().splitlines()
    clean.write_text("\n".join(lines[:-1]) + "\n")
    assert desk.carry_out(desk.tick("ingest_new_shards")) == [True]
    assert ranges(desk.tick("ingest_new_shards")) == [("train_images", "000", "002")]


def test_other_code_asks_for_every_shard_and_decodes_nothing_again(
    desk: Desk, shards: MakeShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards(3)
    desk.to_images()
    assert all(desk.carry_out(desk.tick("ingest_new_shards")))
    assert desk.tick("ingest_new_shards") == []
    raised = versions.CODE_VERSION.replace(versions.INDEX, "index-99")
    monkeypatch.setattr(versions, "CODE_VERSION", raised)
    source, store = desk.platform.open_source(), desk.platform.open_store()
    state = split_state(source, store, "train")
    assert (state.outdated, state.failed, state.untried) == (("000", "001", "002"), {}, ())
    asked = desk.tick("ingest_new_shards")
    assert ranges(asked)[0] == ("train_images", "000", "002")
    assert all(desk.carry_out(asked))
    assert split_state(source, store, "train").outdated == ()
    for key in ("000", "001", "002"):
        run = find_run(store, "train", key)
        assert run is not None
        assert (run.decoded, run.carried, run.read_bytes) == (0, 2, 0)
    assert desk.tick("ingest_new_shards") == []


def test_a_shard_whose_md5_is_not_there_yet_waits_for_it(desk: Desk, shards: MakeShards) -> None:
    bucket = shards(2)
    md5 = bucket.folder / "md5sum" / "train" / "md5.images_001.txt"
    published = md5.read_bytes()
    md5.unlink()
    desk.to_images()
    assert ranges(desk.tick("ingest_new_shards"))[0] == ("train_images", "000", "000")
    assert desk.tick("ingest_new_shards") == []
    md5.write_bytes(published)
    assert ranges(desk.tick("ingest_new_shards")) == [("train_images", "001", "001")]


def test_what_is_under_way_is_not_asked_for(desk: Desk, shards: MakeShards) -> None:
    shards(8)
    desk.to_images()
    desk.pretend_run("train_images", asset_partition_range_start="000", asset_partition_range_end="002")
    desk.pretend_run("train_images", partition="004")
    desk.pretend_backfill("train_images", ["006", "007"])
    asked = [found for found in ranges(desk.tick("ingest_new_shards")) if found[0] == "train_images"]
    assert asked == [("train_images", "003", "003"), ("train_images", "005", "005")]


def test_ranges_are_contiguous_as_registered_and_no_longer_than_a_batch() -> None:
    keys = [f"{n:03d}" for n in range(60)]
    assert [(part[0], part[-1]) for part in batches(keys, keys)] == [("000", "024"), ("025", "049"), ("050", "059")]
    assert batches(["000", "017", "005", "006"], {"017", "005", "099"}) == [["017", "005"]]
    assert batches(keys[:6], {"000", "002", "003"}, most=1) == [["000"], ["002"], ["003"]]
    assert batches(keys, ()) == []


def test_a_tick_asks_for_so_many_runs_and_the_next_for_the_others(
    desk: Desk, shards: MakeShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glr_assets.defs.automation.ingestion.MOST_RUNS", 2)
    monkeypatch.setattr("glr_assets.defs.automation.ingestion.MOST_LOOKED_AT", 3)
    shards(5)
    desk.to_images()
    assert ranges(desk.tick("ingest_new_shards")) == [("train_images", "000", "002"), ("index_images", "000", "000")]
    assert ranges(desk.tick("ingest_new_shards")) == [("train_images", "003", "004"), ("test_images", "000", "000")]
    assert desk.tick("ingest_new_shards") == []


def test_a_night_tries_what_is_missing_and_what_failed_in_passing_and_only_so_often(
    lasting_desk: Desk, shards: MakeShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = lasting_desk
    bucket = shards(5)
    bucket.drop("001", damaged=True)
    desk.to_images()
    train = [run for run in desk.tick("ingest_new_shards") if ranges([run])[0][0] == "train_images"]

    passing = SourceError("images_002.tar: the line went dead")
    original = BucketSource.members

    def flaky(self: BucketSource, split: str, shard: str, **more: object) -> object:
        if (split, shard) == ("train", "002"):
            raise passing
        return original(self, split, shard, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(BucketSource, "members", flaky)
    assert desk.carry_out(train) == [False]
    source, store = desk.platform.open_source(), desk.platform.open_store()
    store.remove("receipts/train_images/004.json")  # as if its run had been killed before the shard was begun
    store.remove("runs/train_images/004.json")
    state = split_state(source, store, "train")
    assert sorted(state.failed) == ["001", "002"]
    assert (state.is_permanent("001"), state.is_permanent("002")) == (True, False)
    # The sensor leaves it to the nights, also without its memory.
    desk.cursors.clear()
    desk.carry_out(desk.tick("ingest_new_shards"))
    assert ("train_images", "001", "002") not in ranges(desk.tick("ingest_new_shards"))

    monkeypatch.setattr("glr_assets.images.retry.MAX_FAILURES", 3)
    for night in range(1, 3):
        asked = desk.night("retry_train_shards")
        wanted = [("", "002", "002")] + ([("", "004", "004")] if night == 1 else [])
        assert ranges(asked) == wanted
        desk.carry_out(asked, ["train_images"])
        run = find_run(store, "train", "002")
        assert run is not None
        assert run.failures == night + 1
    assert desk.night("retry_train_shards") == []
    assert "2 failed for good" in desk.skipped
    # A person's retry counts too, and what succeeds is forgiven.
    monkeypatch.setattr(BucketSource, "members", original)
    passing_run = [dg.RunRequest(asset_selection=[dg.AssetKey("train_images")], partition_key=None, tags=asked[0].tags)]
    assert desk.carry_out(passing_run) == [True]
    healed = find_run(store, "train", "002")
    assert healed is not None
    assert (healed.outcome, healed.failures) == ("ingested", 0)
    # A mended source is another content: the sensor asks at once.
    bucket.drop("001", version=1)
    assert ranges(desk.tick("ingest_new_shards")) == [("train_images", "001", "001")]


def test_a_killed_run_counts_as_a_failure(
    lasting_desk: Desk, shards: MakeShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = lasting_desk
    shards(1)
    desk.to_images()
    (train, *_) = desk.tick("ingest_new_shards")

    def killed(*_: object, **__: object) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BucketSource, "members", killed)
        assert desk.carry_out([train]) == [False]
    source, store = desk.platform.open_source(), desk.platform.open_store()
    state = split_state(source, store, "train")
    assert "killed or cancelled" in state.failed["000"]
    assert state.runs["000"].failures == 1
    assert state.passing == ["000"]
    for run in desk.instance.get_runs(filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        desk.instance.report_run_failed(run)
    assert desk.carry_out(desk.night("retry_train_shards"), ["train_images"]) == [True]


def test_folders_of_a_competition_tell_when_something_is_added(tmp_path: Path) -> None:
    from glr_assets.source.kaggle import KaggleSource

    for name in ("a/b/c/abc1.jpg", "a/b/d/abd1.jpg", "0/1/2/0121.jpg"):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    (tmp_path / "train.csv").write_text("id,landmark_id\n")
    source = KaggleSource(str(tmp_path))
    before = source.shard_stamps("train")
    assert sorted(before) == source.shards("train") == ["01", "ab"]
    assert source.table_stamps().keys() == {"train"}
    deep = tmp_path / "train/a/b/c"
    (deep / "abc2.jpg").write_bytes(b"y")
    os.utime(deep, ns=(1, deep.stat().st_mtime_ns + 1))
    after = source.shard_stamps("train")
    assert (after["01"], after["ab"]) != (before["01"], before["ab"])
    assert after["01"] == before["01"]
    (tmp_path / "train" / "loose.jpg").write_bytes(b"z")
    assert sorted(source.shard_stamps("train")) == source.shards("train") == ["01", "ab", "loose"]
    shutil.rmtree(tmp_path / "train" / "0")
    assert "01" not in source.shard_stamps("train")
