"""Every state of a shard that is not stored, with the reason and the fix."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import pytest

from glr_assets.defs.automation.health_checks import MOST_ROWS, Row, as_markdown
from glr_assets.errors import SourceError
from glr_assets.source import BucketSource
from glr_assets_tests.automation.conftest import Desk
from glr_assets_tests.automation.tiny_shards import Shards

pytestmark = pytest.mark.usefixtures("without_pauses")
MakeShards = Callable[..., Shards]


def looked(desk: Desk) -> dict[str, dg.AssetCheckEvaluation]:
    """The checks by asset, as the job `health_checks` evaluates them."""
    job = desk.definitions.resolve_job_def("health_checks")
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    result = job.execute_in_process(instance=desk.instance, run_config=quiet)
    assert result.success
    return {check.asset_key.to_user_string(): check for check in result.get_asset_check_evaluations()}


def told(check: dg.AssetCheckEvaluation, name: str) -> str:
    return str(check.metadata[name].value)


def states(desk: Desk) -> dict[str, str]:
    """The states of the train shards in the table."""
    table = told(looked(desk)["train_images"], "shards")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert all(len(row) == 4 and all(row) for row in rows), table
    return {row[0]: row[1] for row in rows}


def test_every_state_of_a_shard_is_named_with_its_reason_and_fix(
    desk: Desk, shards: MakeShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glr_assets.images.retry.MAX_FAILURES", 2)
    bucket = shards(6)
    bucket.drop("001", damaged=True)
    (bucket.folder / "md5sum" / "train" / "md5.images_002.txt").unlink()
    original = BucketSource.members

    def flaky(self: BucketSource, split: str, shard: str, **more: object) -> object:
        if (split, shard) in {("train", "003"), ("train", "004")}:
            raise SourceError(f"images_{shard}.tar: timed out")
        return original(self, split, shard, **more)  # type: ignore[arg-type]

    asked = desk.to_images()
    assert states(desk) == {f"00{number}": "missing" for number in range(6)} | {"002": "unverifiable"}
    assert looked(desk)["train_images"].passed  # nothing has failed
    with monkeypatch.context() as patch:
        patch.setattr(BucketSource, "members", flaky)
        assert desk.carry_out(asked).count(False) == 1
        desk.run([dg.AssetKey("train_images")], {}, "004")
    found = looked(desk)["train_images"]
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert (found.metadata["failed"].value, found.metadata["for a person"].value) == (3, 3)
    assert states(desk) == {"001": "permanent", "002": "unverifiable", "003": "passing", "004": "given up"}
    assert "images_001.tar: MD5 is" in told(found, "shards")
    assert "timed out" in told(found, "shards")
    assert looked(desk)["index_images"].passed

    # What is being made has not failed.
    key = dg.AssetKey("train_images")
    job = desk.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={key})
    run = desk.instance.create_run_for_job(
        job, asset_selection=frozenset({key}), tags={"dagster/partition": "003"}, status=dg.DagsterRunStatus.STARTED
    )
    assert "003" not in states(desk)
    desk.instance.report_run_canceled(run)
    for key in ("001", "002"):
        bucket.drop(key)
    done = desk.switched_on()
    assert done[0].get("train_images") == ["001", "002"], done
    for key in ("003", "004"):
        assert desk.run([dg.AssetKey("train_images")], {}, key)
    assert all(check.passed for check in looked(desk).values())
    assert states(desk) == {}


def test_a_long_table_is_cut_and_says_so() -> None:
    rows = [Row(f"{n:03d}", "missing", "a | b", "wait") for n in range(MOST_ROWS + 3)]
    text = as_markdown(rows)
    assert text.count("missing") == MOST_ROWS
    assert text.endswith("3 more")
    assert "a \\| b" in text
