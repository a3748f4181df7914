"""That the benchmark of the instance counts what the asset itself leaves there."""

from __future__ import annotations

from pathlib import Path

from glr_assets_tests.automation.tiny_shards import Shards
from glr_assets_tests.benchmarks.instance import measure
from glr_assets_tests.lineage import write_recipe


def test_a_run_of_a_range_leaves_one_event_and_one_check_a_shard(tmp_path: Path) -> None:
    # More shards than events that a run leaves once.
    bucket = Shards(tmp_path / "bucket", 5, 5)
    recipe = write_recipe(tmp_path / "tiny.toml", images={"min_side": 32}, execution={"workers": 1})
    found = measure(tmp_path / "now", bucket.folder, recipe, 5)
    assert found["events a shard"] == {
        "ASSET_CHECK_EVALUATION": 1,
        "ASSET_MATERIALIZATION": 1,
        "ASSET_MATERIALIZATION_PLANNED": 1,
    }
    assert 0 < found["bytes a shard"] < 100_000
