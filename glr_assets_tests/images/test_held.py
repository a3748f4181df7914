"""Wanted images that no shard holds, and what stands behind the end mark of a shard's TAR, are counted and named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glr_assets.images.catalog import absent_problem, make_image_catalog
from glr_assets.images.held import absent_images
from glr_assets.images.ingest import BEHIND, REPEATED, ingest_shard
from glr_assets.images.reader import ImageReader
from glr_assets.images.retry import split_state
from glr_assets.images.schemas import IMAGE_CATALOG, IMAGE_INDEX
from glr_assets.images.selection import selection_for
from glr_assets.ledger.image_ledger import ABSENT_REASON
from glr_assets.ledger.why import why
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets_tests.images.handmade import (
    TINY,
    Bucket,
    Entry,
    identifier,
    ingest,
    make_curated,
    make_tables,
    photo,
    picture,
    tar_of,
)

IDS = [identifier(n) for n in range(9)]
TEST_IDS = [identifier(n) for n in range(20, 23)]


def photos(numbers: range) -> bytes:
    return tar_of([photo(IDS[number], picture(number)) for number in numbers])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine train images, three of them behind an end mark and two in a shard that can be taken away."""
    shards = {
        "000": photos(range(4)) + photos(range(4, 7)),
        "001": photos(range(7, 9)),
    }
    path = tmp_path / "bucket"
    queries = [photo(TEST_IDS[0], picture(20)), photo(TEST_IDS[1], picture(21))]
    Bucket(dict.fromkeys(IDS, 7), IDS, {"train": shards, "test": {"000": tar_of(queries)}}, test=TEST_IDS).write(path)
    return path


def rows_of(store: Store, shard: str) -> dict[str, tuple[str, str]]:
    rows = read_table(store, IMAGE_INDEX, split="train", shard=shard).to_pylist()
    return {row["id"]: (row["status"], row["reason"]) for row in rows}


def test_images_behind_an_end_mark_are_named_and_nothing_of_them_is_stored(folder: Path, store: Store) -> None:
    source = BucketSource(str(folder))
    make_tables(source, store, TINY)
    made = ingest(source, store, TINY, "train", "000")
    assert made.receipt.summary["behind_end_mark"] == 3
    assert made.receipt.summary["failed: behind the end mark"] == 3
    assert rows_of(store, "000") == {
        **dict.fromkeys(IDS[:4], ("stored", "")),
        **dict.fromkeys(IDS[4:7], ("failed", BEHIND)),
    }
    assert ImageReader.of_shard(store, "train", "000").ids == sorted(IDS[:4])
    state = split_state(source, store, "train")
    assert state.reconciled.behind_end_mark == {"000": 3}
    assert state.to_retry == []
    # A run that carries over says the same, as does one of images alone.
    index = store.read(IMAGE_INDEX.at(split="train", shard="000"))
    recipe = TINY.images.model_copy(update={"max_pixels": TINY.images.max_pixels - 1})
    again = ingest_shard(source, store, "train", "000", selection_for(store, "train", recipe), recipe, 1)
    assert again.run["carried"] == 4
    assert store.read(IMAGE_INDEX.at(split="train", shard="000")) == index


def test_an_older_version_behind_an_end_mark_is_a_repeat_and_other_bytes_are_told(tmp_path: Path, store: Store) -> None:
    stale = tar_of([photo(IDS[0], picture(99)), Entry("README.txt", b"x"), photo(identifier(50), picture(1))])
    shard = photos(range(1)) + stale + b"rubbish" * 100
    bucket = Bucket({IDS[0]: 7}, IDS[:1], {"train": {"000": shard}})
    source = BucketSource(bucket.write(tmp_path / "bucket"))
    make_tables(source, store, TINY)
    summary = ingest(source, store, TINY, "train", "000").receipt.summary
    assert (summary["stored"], summary["failed"], summary["behind_end_mark"]) == (1, 0, 4)
    rows = read_table(store, IMAGE_INDEX, split="train", shard="000").to_pylist()
    assert [(row["kind"], row["reason"]) for row in rows[1:]] == [
        ("file behind the end mark", REPEATED),
        ("file behind the end mark", "no image file: its suffix is of no image format"),
        ("file behind the end mark", "unknown id: not in the split's table"),
        ("bytes behind the end mark", "behind the end mark: 700 bytes that are no TAR"),
    ]


def test_wanted_images_of_a_partial_mirror_are_counted_wherever_people_look(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = BucketSource(str(folder))
    shutil.move(folder / "train" / "images_001.tar", folder / "away.tar")
    made = make_curated(source, store, TINY)
    absent = absent_images(store, "train", ["000"], TINY.images)
    assert absent is not None
    assert (absent.wanted, absent.count, sorted(absent.examples)) == (9, 2, sorted(IDS[7:9]))
    summary = made["image_catalog"].receipt.summary
    assert summary["train_wanted_in_no_shard"] == 2
    assert summary["test_wanted_in_no_shard"] == 1
    assert summary["index_wanted_in_no_shard"] == 0
    assert summary["behind_end_mark"] == 3
    assert absent_problem(summary) == (
        f"train: 2 wanted images are in no shard of the source, as {', '.join(sorted(IDS[7:9]))}; "
        f"test: 1 wanted images are in no shard of the source, as {TEST_IDS[2]}"
    )
    assert made["image_ledger"].receipt.summary["train_wanted_in_no_shard"] == 2
    assert [(d.decision, d.reason) for d in why(store, IDS[7])[0].decisions][1] == ("missing", ABSENT_REASON)
    assert [(d.decision, d.reason) for d in why(store, IDS[4])[0].decisions][1] == ("failed", BEHIND)
    shown = shards_retry(folder, store)
    assert "  2 of 9 wanted images are in no shard: " + ", ".join(sorted(IDS[7:9])) in shown
    assert "  shard 000: 3 members or other bytes behind its end mark, not stored" in shown
    assert f"  1 of 3 wanted images are in no shard: {TEST_IDS[2]}" in shown

    # Before the shard that came is ingested nothing is said, and then it is all there.
    shutil.move(folder / "away.tar", folder / "train" / "images_001.tar")
    summary = make_image_catalog(source, store, TINY.images).receipt.summary
    assert "train_wanted_in_no_shard" not in summary
    assert "in no shard" not in shards_retry(folder, store).split("index:")[0]
    ingest(source, store, TINY, "train", "001")
    assert make_image_catalog(source, store, TINY.images).receipt.summary["train_wanted_in_no_shard"] == 0


def test_a_split_without_any_shard_lacks_all_its_images(folder: Path, store: Store) -> None:
    source = BucketSource(str(folder))
    shutil.rmtree(folder / "test")
    made = make_curated(source, store, TINY)["image_catalog"]
    assert made.receipt.summary["test_wanted_in_no_shard"] == 3
    assert set(read_table(store, IMAGE_CATALOG, ["split"])["split"].to_pylist()) == {"train"}
    # What is wanted is decided by the recipe.
    everything = TINY.images.model_copy(update={"keep": "all"})
    assert not make_image_catalog(source, store, everything).reused


def test_without_its_tables_nothing_is_said_of_a_split(folder: Path, store: Store) -> None:
    assert absent_images(store, "train", [], TINY.images) is None
    summary = make_image_catalog(BucketSource(str(folder)), store, TINY.images).receipt.summary
    assert not [name for name in summary if "no_shard" in name]


def shards_retry(folder: Path, store: Store) -> str:
    from glr_assets.cli import app

    arguments = ["shards", "retry", "--dry-run", "--source", str(folder), "--store", store.url, "--recipe", "small"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.output
