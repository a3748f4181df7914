"""Manifests once a backfill is complete, the index after them: by real ticks, with the runs that these ask for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from glr_assets.defs.automation import refresh
from glr_assets.defs.automation.jobs import CURATED
from glr_assets.defs.automation.refresh import CURATE, INDEX_STAGES
from glr_assets.defs.platform import Platform
from glr_assets.receipts import find_receipt, need_receipt
from glr_assets.recipes import load_recipe
from glr_assets.staleness import read_stored
from glr_assets.store import Store
from glr_assets_tests.automation.conftest import Desk, ranges
from glr_assets_tests.automation.tiny_shards import Shards

pytestmark = pytest.mark.usefixtures("without_pauses")
MakeShards = Callable[..., Shards]


def refreshed(desk: Desk) -> list[set[str]]:
    """The assets of the runs that a tick asks for, which are carried out."""
    asked = desk.tick("refresh_manifests")
    assert all(desk.carry_out(asked))
    return [{key.to_user_string() for key in request.asset_selection or ()} for request in asked]


def test_eight_shards_that_land_one_by_one_refresh_the_manifests_once_and_a_new_version_once_more(
    desk: Desk, shards: MakeShards
) -> None:
    bucket = shards(8)
    desk.to_images()
    others, train = [], []
    for request in desk.tick("ingest_new_shards"):
        (train if "train" in ranges([request])[0][0] else others).append(request)
    assert all(desk.carry_out(others))
    for number in range(8):
        assert refreshed(desk) == [], number
        assert f"{8 - number} train shards were never tried" in desk.skipped
        key = f"{number:03d}"
        tags = {f"dagster/asset_partition_range_{end}": key for end in ("start", "end")}
        assert desk.carry_out([dg.RunRequest(asset_selection=[dg.AssetKey("train_images")], tags=tags)]) == [True]
    assert refreshed(desk) == [set(CURATED)]
    store = desk.platform.open_store()
    assert need_receipt(store, "train_manifest").summary["rows"]
    for _ in range(2):
        assert refreshed(desk) == []
    assert "nothing has changed" in desk.skipped

    # The same bytes made again are no news.
    store.remove("receipts/train_images/003.json")
    again = dg.RunRequest(
        asset_selection=[dg.AssetKey("train_images")],
        tags={f"dagster/asset_partition_range_{end}": "003" for end in ("start", "end")},
    )
    assert desk.carry_out([again]) == [True]
    assert refreshed(desk) == []
    assert "all is made from what is stored" in desk.skipped

    bucket.drop("003", version=1)
    asked = desk.tick("ingest_new_shards")
    assert ranges(asked) == [("train_images", "003", "003")]
    assert desk.carry_out(asked) == [True]
    assert refreshed(desk) == [set(CURATED)]
    assert refreshed(desk) == []


def test_a_backfill_under_way_holds_the_manifests_up_and_a_failed_shard_does_not(
    desk: Desk, shards: MakeShards
) -> None:
    bucket = shards(3)
    bucket.drop("001", damaged=True)
    (bucket.folder / "md5sum" / "train" / "md5.images_002.txt").unlink()
    desk.to_images()
    ended = desk.carry_out(desk.tick("ingest_new_shards"))
    assert ended.count(False) == 1
    backfill = desk.pretend_backfill("train_images", ["000"])
    assert refreshed(desk) == []
    assert "train_images is being made by backfill abcdefgh" in desk.skipped
    from dagster._core.execution.backfill import BulkActionStatus

    desk.instance.update_backfill(backfill.with_status(BulkActionStatus.CANCELED))
    assert refreshed(desk) == [set(CURATED)]
    assert refreshed(desk) == []


def test_other_code_makes_the_manifests_anew_once(
    desk: Desk, shards: MakeShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards(2)
    desk.to_images()
    assert all(desk.carry_out(desk.tick("ingest_new_shards")))
    assert refreshed(desk) == [set(CURATED)]
    assert refreshed(desk) == []
    of_today = refresh.code_versions(desk.definitions.get_repository_def())
    receipts = {name: find_receipt(desk.platform.open_store(), name) for name in (*of_today, "train_images/000")}
    made = {name.partition("/")[0]: found.code_version for name, found in receipts.items() if found is not None}
    assert len(made) > len(CURATED)
    assert made == {name: of_today[name] for name in made}
    monkeypatch.setattr(refresh, "code_versions", lambda _: of_today | {"train_manifest": "another"})
    (asked,) = desk.tick("refresh_manifests")
    assert dg.AssetKey("train_manifest") in (asked.asset_selection or ())
    # It is not made by that code here, and nobody asks for ever.
    assert refreshed(desk) == []
    assert "train_manifest: the code of train_manifest has changed" in desk.skipped


def test_what_failed_is_not_asked_for_again_until_something_is_new(desk: Desk, shards: MakeShards) -> None:
    bucket = shards(2)
    desk.to_images()
    assert all(desk.carry_out(desk.tick("ingest_new_shards")))
    assert len(desk.tick("refresh_manifests")) == 1
    for _ in range(3):  # its run was lost
        assert desk.tick("refresh_manifests") == []
    desk.cursors["refresh_manifests"] = None
    assert len(desk.tick("refresh_manifests")) == 1
    bucket.drop("000", version=1)
    assert all(desk.carry_out(desk.tick("ingest_new_shards")))
    assert len(desk.tick("refresh_manifests")) == 1


def test_cleaning_and_filtering_belong_to_the_index_where_the_recipe_wants_them() -> None:
    small = load_recipe("small").overridden({"training": {"manifest": "train_manifest"}})
    cleaning, filtering = {"calibration", "pairs", "clean"}, {"non-landmark scores", "filter"}
    wanted = {
        ("train_manifest", "train_manifest"): set(),
        ("cleaned_manifest", "train_manifest"): cleaning,
        ("non_landmark_filter", "train_manifest"): filtering,
        ("non_landmark_filter", "cleaned_manifest"): cleaning | filtering,
    }
    for (searched, filtered), names in wanted.items():
        recipe = small.overridden({"retrieval": {"manifest": searched}, "filter": {"manifest": filtered}})
        skipped = {stage.name for stage in INDEX_STAGES if not stage.when(recipe)}
        assert skipped == (cleaning | filtering) - names


def test_stages_stand_in_the_order_of_the_lineage(desk: Desk) -> None:
    graph = desk.definitions.resolve_asset_graph()
    for stage in (CURATE, *INDEX_STAGES):
        partitions = {graph.get(dg.AssetKey(name)).partitions_def for name in stage.assets}
        assert len(partitions) == 1, stage.name
        for place, name in enumerate(stage.assets):
            parents = {parent.to_user_string() for parent in graph.get(dg.AssetKey(name)).parent_keys}
            assert not parents & set(stage.assets[place:]), name
    before: set[str] = set()
    for stage in INDEX_STAGES:
        for name in stage.assets:
            parents = {parent.to_user_string() for parent in graph.get(dg.AssetKey(name)).parent_keys}
            later = {other for found in INDEX_STAGES for other in found.assets} - before - set(stage.assets)
            assert not parents & later, name
        before |= set(stage.assets)


def test_a_dropped_shard_reaches_the_manifest_and_the_index(
    bucket: str, recipe_with_grid: Path, tmp_path: Path
) -> None:
    growing, held = tmp_path / "bucket", tmp_path / "held.tar"
    shutil.copytree(bucket, growing)
    last = sorted((growing / "train").glob("*.tar"))[-1]
    shutil.move(last, held)
    platform = Platform(source=str(growing), store=str(tmp_path / "store"), recipe=str(recipe_with_grid))
    with dg.DagsterInstance.ephemeral() as instance:
        desk = Desk(platform, instance)
        desk.to_images()
        sensors = ("observe_roots", "ingest_new_shards", "refresh_manifests", "refresh_index")

        def settle() -> list[tuple[str, ...]]:
            done: list[tuple[str, ...]] = []
            while True:
                asked = [request for name in sensors for request in desk.tick(name)]
                if not asked:
                    return done
                done += ranges(asked)
                assert all(desk.carry_out(asked)), ranges(asked)

        settle()
        assert "no embedder yet" in desk.skipped
        assert desk.carry_out([dg.RunRequest(asset_selection=[dg.AssetKey("embedder")])]) == [True]
        desk.cursors["refresh_index"] = None
        first = [found[0] for found in settle()]
        assert first.count("train_embeddings") == 1
        assert sum("faiss_index" in found for found in first) == 1
        assert settle() == []
        store = platform.open_store()
        before = need_receipt(store, "faiss_index")
        rows = need_receipt(store, "train_manifest").summary["rows"]

        shutil.move(held, last)
        again = settle()
        key = last.stem.removeprefix("images_")
        assert ("train_images", key, key) in again
        assert ("train_embeddings", key, key) in again
        assert sum("train_manifest" in found[0] for found in again) == 1
        assert sum("faiss_index" in found[0] for found in again) == 1
        after = need_receipt(store, "faiss_index")
        assert f"train_embeddings/{key}" not in before.inputs
        assert f"train_embeddings/{key}" in after.inputs
        assert int(need_receipt(store, "train_manifest").summary["rows"] or 0) > int(rows or 0)
        assert find_receipt(store, f"local_features/{key}") is not None
        assert settle() == []


def test_receipts_tell_what_is_outdated_and_why(store: Store) -> None:
    from glr_assets.receipts import make, need_receipts

    def write(name: str, content: str, **inputs: str) -> None:
        make(
            store,
            name,
            inputs=inputs or {"source": content},
            parameters={},
            code_version="1",
            build=lambda writer: writer.write(f"files/{name}", content.encode()) or {},
        )

    partitions = {"parts": ["0", "1"], "each": ["0", "1"], "whole": None, "last": None}

    def outdated() -> dict[str, str]:
        stored = read_stored(store, partitions)
        return {name: why for asset in partitions for name, why in stored.outdated(asset).items()}

    assert outdated() == dict.fromkeys(["parts/0", "parts/1", "each/0", "each/1", "whole", "last"], "was never made")
    for key in ("0", "1"):
        write(f"parts/{key}", f"part {key}")
        write(f"each/{key}", f"each {key}", **need_receipts(store, f"parts/{key}"))
    write("whole", "whole", **need_receipts(store, "parts/0", "parts/1"))
    write("last", "last", **need_receipts(store, "whole"), unknown="?")
    assert outdated() == {}
    write("parts/1", "another")
    assert outdated() == {"each/1": "parts/1 has changed", "whole": "parts/1 has changed"}
    partitions["parts"] = ["0"]
    partitions["each"] = ["0"]
    assert outdated() == {"whole": "parts/1 is gone"}
    partitions["parts"] = ["0", "1", "2", "3"]
    for key in ("2", "3"):
        write(f"parts/{key}", key)
    write("whole", "again", **need_receipts(store, "parts/0", "parts/1"))
    assert outdated() == {"whole": "parts/2 is new, and 1 more", "last": "whole has changed"}
    stored = read_stored(store, partitions, {"parts": "2", "each": "1", "whole": "1"})
    assert stored.outdated("parts") == {f"parts/{key}": "the code of parts has changed" for key in "0123"}
    assert stored.outdated("each") == {}
