"""What is broken now: every state a shard can be in, with what to do, and what is no longer of what is stored."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import pytest

from glr_assets.defs.automation.broken import MOST_ROWS, Row, as_markdown
from glr_assets.errors import SourceError
from glr_assets.source import BucketSource
from glr_assets_tests.automation.conftest import Desk
from glr_assets_tests.automation.tiny_shards import Shards

pytestmark = pytest.mark.usefixtures("without_pauses")
MakeShards = Callable[..., Shards]


def looked(desk: Desk) -> dict[str, dg.AssetCheckEvaluation]:
    """The checks by asset and name, as the job `what_is_broken` evaluates them."""
    job = desk.definitions.resolve_job_def("what_is_broken")
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    result = job.execute_in_process(instance=desk.instance, run_config=quiet)
    assert result.success
    found = result.get_asset_check_evaluations()
    return {f"{check.asset_key.to_user_string()}:{check.check_name}": check for check in found}


def told(check: dg.AssetCheckEvaluation, name: str = "problem") -> str:
    return str(check.metadata[name].value)


def states(desk: Desk) -> dict[str, str]:
    """The states of the table by what they are of."""
    table = told(looked(desk)["image_catalog:what_is_broken"], "table")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert all(len(row) == 4 and all(row) for row in rows), table
    return {row[0]: row[1] for row in rows}


def test_every_state_of_a_shard_is_named_with_its_reason_and_mend(
    desk: Desk, shards: MakeShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glr_assets.images.retry.MAX_FAILURES", 2)
    bucket = shards(6)
    bucket.drop("001", damaged=True)
    (bucket.folder / "md5sum" / "train" / "md5.images_002.txt").unlink()
    desk.to_images()
    original = BucketSource.members

    def flaky(self: BucketSource, split: str, shard: str, **more: object) -> object:
        if (split, shard) in {("train", "003"), ("train", "004")}:
            raise SourceError(f"images_{shard}.tar: timed out")
        return original(self, split, shard, **more)  # type: ignore[arg-type]

    asked = desk.tick("ingest_new_shards")
    assert states(desk)["train_images 005"] == "missing"
    with monkeypatch.context() as patch:
        patch.setattr(BucketSource, "members", flaky)
        assert desk.carry_out(asked).count(False) == 2
        tags = {f"dagster/asset_partition_range_{end}": "004" for end in ("start", "end")}
        again = [dg.RunRequest(asset_selection=[dg.AssetKey("train_images")], tags=tags)]
        desk.carry_out(again)
    found = looked(desk)["image_catalog:what_is_broken"]
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert (found.metadata["shards"].value, found.metadata["for a person"].value) == (4, 3)
    assert states(desk) == {
        "train_images 001": "permanent",
        "train_images 002": "unverifiable",
        "train_images 003": "passing",
        "train_images 004": "given up",
    }
    assert "images_001.tar: MD5 is" in told(found, "table")
    assert "timed out" in told(found, "table")

    # What is under way is not broken.
    run = desk.pretend_run("train_images", partition="003")
    assert "train_images 003" not in states(desk)
    desk.instance.report_run_canceled(run)
    for key in ("001", "002"):
        bucket.drop(key)
    assert all(desk.carry_out(desk.tick("ingest_new_shards")))
    assert all(desk.carry_out([dg.RunRequest(asset_selection=[dg.AssetKey("train_images")], tags=tags)]))
    tags = {f"dagster/asset_partition_range_{end}": "003" for end in ("start", "end")}
    assert all(desk.carry_out([dg.RunRequest(asset_selection=[dg.AssetKey("train_images")], tags=tags)]))
    assert looked(desk)["image_catalog:what_is_broken"].passed


def test_assets_that_are_no_longer_of_what_is_stored_are_named_up_to_the_root(desk: Desk, shards: MakeShards) -> None:
    bucket = shards(2)
    desk.to_images()
    assert all(desk.carry_out(desk.tick("ingest_new_shards")))
    assert all(desk.carry_out(desk.tick("refresh_manifests")))
    assert all(check.passed for check in looked(desk).values())
    assert states(desk) == {}
    bucket.drop("001", version=1)
    assert all(desk.carry_out(desk.tick("ingest_new_shards")))
    found = looked(desk)
    assert found["image_catalog:what_is_broken"].passed
    assert states(desk) == {"image_catalog": "outdated"}
    for asset in ("train_manifest", "image_ledger"):
        check = found[f"{asset}:up_to_date"]
        assert not check.passed
        assert "image_catalog: train_images/001 has changed" in told(check)
    assert all(desk.carry_out(desk.tick("refresh_manifests")))
    assert all(check.passed for check in looked(desk).values())


def test_a_long_table_is_cut_and_says_so() -> None:
    rows = [Row(f"train_images {n:03d}", "missing", "a | b", "wait") for n in range(MOST_ROWS + 3)]
    text = as_markdown(rows)
    assert text.count("train_images") == MOST_ROWS
    assert text.endswith("3 more")
    assert "a \\| b" in text
