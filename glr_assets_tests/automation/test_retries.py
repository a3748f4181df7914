"""Shards are registered, and at night those that failed for a passing reason are retried, a few times at most."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus

from glr_assets.defs.automation.retries import RETRY
from glr_assets.errors import SourceError
from glr_assets.images.retry import split_state
from glr_assets.images.shard_runs import find_run
from glr_assets.source import BucketSource
from glr_assets_tests.automation.conftest import Desk
from glr_assets_tests.automation.test_jobs import run_job, targets
from glr_assets_tests.automation.tiny_shards import Shards

pytestmark = pytest.mark.usefixtures("without_pauses")
MakeShards = Callable[..., Shards]


def retried(desk: Desk) -> dict[str, set[str]]:
    """What a night retries, by asset: the schedule's job starts a backfill, whose runs are made here."""
    if not desk.night(RETRY):
        return {}
    run_job(desk, RETRY)
    backfill = desk.instance.get_backfills(limit=1)[0]
    found = targets(desk, backfill)
    for asset, keys in found.items():
        for key in sorted(keys):
            desk.run([dg.AssetKey(asset)], backfill.tags, key)
    desk.instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))
    return found


def test_shards_are_registered_then_nothing_then_the_new_one(desk: Desk, shards: MakeShards) -> None:
    bucket = shards(3, of=18)
    assert desk.tick("observe_roots") == []
    assert list(desk.instance.get_dynamic_partitions("train_shards")) == ["000", "001", "002"]
    desk.tick("observe_roots")
    assert str(bucket.folder) in desk.skipped
    bucket.drop("017")
    desk.tick("observe_roots")
    assert list(desk.instance.get_dynamic_partitions("train_shards"))[-1] == "017"


def test_a_night_retries_what_failed_in_passing_and_only_so_often(
    lasting_desk: Desk, shards: MakeShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = lasting_desk
    bucket = shards(5)
    bucket.drop("001", damaged=True)
    asked = desk.to_images()
    original = BucketSource.members

    def flaky(self: BucketSource, split: str, shard: str, **more: object) -> object:
        if (split, shard) == ("train", "002"):
            raise SourceError("images_002.tar: the line went dead")
        return original(self, split, shard, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(BucketSource, "members", flaky)
    assert desk.carry_out(asked).count(False) == 1
    source, store = desk.platform.open_source(), desk.platform.open_store()
    state = split_state(source, store, "train")
    assert sorted(state.failed) == ["001", "002"]
    assert (state.is_permanent("001"), state.is_permanent("002")) == (True, False)
    monkeypatch.setattr("glr_assets.images.retry.MAX_FAILURES", 3)
    for night in range(1, 3):
        assert retried(desk) == {"train_images": {"002"}}
        run = find_run(store, "train", "002")
        assert run is not None
        assert run.failures == night + 1
    assert retried(desk) == {}
    assert "no failed shard" in desk.skipped
    # What succeeds is forgiven.
    monkeypatch.setattr(BucketSource, "members", original)
    assert desk.run([dg.AssetKey("train_images")], {}, "002")
    healed = find_run(store, "train", "002")
    assert healed is not None
    assert (healed.outcome, healed.failures) == ("ingested", 0)


def test_a_killed_run_counts_as_a_failure_and_is_retried_once_it_is_over(
    lasting_desk: Desk, shards: MakeShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = lasting_desk
    shards(1)
    train = desk.to_images()

    def killed(*_: object, **__: object) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BucketSource, "members", killed)
        assert False in desk.carry_out(train)
    source, store = desk.platform.open_source(), desk.platform.open_store()
    state = split_state(source, store, "train")
    assert "killed or cancelled" in state.failed["000"]
    assert state.runs["000"].failures == 1
    key = dg.AssetKey("train_images")
    job = desk.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={key})
    run = desk.instance.create_run_for_job(
        job, asset_selection=frozenset({key}), tags={"dagster/partition": "000"}, status=dg.DagsterRunStatus.STARTED
    )
    assert "train_images" not in retried(desk)
    desk.instance.report_run_failed(run)
    assert "000" in retried(desk)["train_images"]
    assert split_state(source, store, "train").failed == {}


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
