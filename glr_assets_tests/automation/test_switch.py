"""The one switch over a real source and a real store: real ticks, and the runs and backfills that these request."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from glr_assets.defs.automation.roots import LOOKS
from glr_assets.defs.platform import Platform
from glr_assets.receipts import find_receipt, need_receipt
from glr_assets_tests.automation.conftest import Desk
from glr_assets_tests.automation.simulated import requested_by
from glr_assets_tests.automation.tiny_shards import Shards

pytestmark = pytest.mark.usefixtures("without_pauses")
MakeShards = Callable[..., Shards]
#: Assets whose runs are told apart in these tests.
MANIFESTS = {"image_catalog", "deduped_manifest", "train_manifest", "image_ledger"}


def test_shards_of_a_source_reach_the_manifests_once_and_each_later_change_what_it_concerns(
    desk: Desk, shards: MakeShards
) -> None:
    bucket = shards(4, of=6)
    bucket.drop("001", damaged=True)
    asked = desk.to_images()
    assert requested_by(asked) == {
        "index_images": ["000"],
        "test_images": ["000"],
        "train_images": ["000", "001", "002", "003"],
    }
    assert desk.carry_out(asked).count(False) == 1
    done = desk.switched_on()
    # The shard that failed holds nothing up, and nothing asks for it again.
    assert sum("image_catalog" in of for of in done) == 1
    assert not any("train_images" in of for of in done)
    assert {name for of in done for name in of} >= MANIFESTS
    store = desk.platform.open_store()
    assert "train_images/001" not in need_receipt(store, "image_catalog").inputs
    assert desk.switched_on() == []

    # The same bytes uploaded again are no news.
    path = bucket.folder / "train" / "images_002.tar"
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 10))
    assert desk.switched_on() == []

    # The broken one is fixed under the MD5 that was published for it, one is changed, one is new.
    md5 = bucket.folder / "md5sum" / "train" / "md5.images_001.txt"
    bucket.drop("001")
    bucket.drop("003", version=1)
    bucket.drop("004")
    assert md5.exists()
    done = desk.switched_on()
    assert done[0]["train_images"] == ["001", "003", "004"]
    assert sum("train_images" in of for of in done) == 1
    assert sum("image_catalog" in of for of in done) == 1
    assert {f"train_images/00{n}" for n in range(5)} <= need_receipt(store, "image_catalog").inputs.keys()
    assert desk.switched_on() == []

    # Another list of what trains concerns every shard.
    clean = bucket.folder / "metadata" / "train_clean.csv"
    lines = clean.read_text().splitlines()
    clean.write_text("\n".join(lines[:-1]) + "\n")
    done = desk.switched_on()
    assert "competition_train" in done[0]
    assert done[1]["train_images"] == ["000", "001", "002", "003", "004"]
    assert desk.switched_on() == []

    # A removed one is not requested; what reads all shards is made without it.
    (bucket.folder / "train" / "images_004.tar").unlink()
    done = desk.switched_on()
    assert not any("train_images" in of for of in done)
    assert sum("image_catalog" in of for of in done) == 1
    assert all(desk.ended)
    assert "train_images/004" not in need_receipt(store, "image_catalog").inputs
    for _ in range(LOOKS):
        desk.tick("observe_roots")
    assert "004" not in desk.instance.get_dynamic_partitions("train_shards")
    assert desk.switched_on() == []


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
        assert "train_embeddings" not in {name for of in desk.switched_on() for name in of}
        assert desk.run([dg.AssetKey("embedder")], {})
        first = desk.switched_on()
        assert all(desk.ended)
        assert sum("train_embeddings" in of for of in first) == 1
        assert sum("faiss_index" in of for of in first) == 1
        assert desk.switched_on() == []
        store = platform.open_store()
        before = need_receipt(store, "faiss_index")
        rows = need_receipt(store, "train_manifest").summary["rows"]

        shutil.move(held, last)
        again = desk.switched_on()
        key = last.stem.removeprefix("images_")
        assert again[0] == {"train_embeddings": [key], "train_images": [key]}
        assert sum("train_manifest" in of for of in again) == 1
        assert sum("faiss_index" in of for of in again) == 1
        after = need_receipt(store, "faiss_index")
        assert f"train_embeddings/{key}" not in before.inputs
        assert f"train_embeddings/{key}" in after.inputs
        assert int(need_receipt(store, "train_manifest").summary["rows"] or 0) > int(rows or 0)
        assert find_receipt(store, f"local_features/{key}") is not None
        assert desk.switched_on() == []
