from __future__ import annotations

from pathlib import Path

import pytest

from glr_assets.errors import MissingInputError
from glr_assets.images.catalog import REPEATED, joined, make_image_catalog
from glr_assets.images.reader import ImageReader
from glr_assets.images.schemas import IMAGE_CATALOG, IMAGE_INDEX
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets.tables import problems, read_table
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
)

RECIPE = TINY.overridden({"images": {"min_side": 384}})  # small JPEGs are kept byte for byte
IDS = [identifier(n) for n in range(5)]


@pytest.fixture
def source(tmp_path: Path) -> BucketSource:
    shards = {
        "000": tar_of([photo(IDS[0], b"corrupt"), photo(IDS[1], picture(1)), Entry("README", b"")]),
        "001": tar_of([photo(IDS[0], picture(10)), photo(IDS[1], picture(11)), photo(IDS[2], picture(12))]),
        "002": tar_of([photo(IDS[0], picture(20)), photo(identifier(9), picture(9))]),
    }
    # The index has an id of the train images: ids are of a split.
    of_index = {"000": tar_of([photo(IDS[1], picture(31))])}
    bucket = Bucket(
        dict.fromkeys(IDS[:3], 1),
        IDS[:3],
        {"train": shards, "index": of_index, "test": {"000": tar_of([])}},
        {IDS[1]: 5},
    )
    return BucketSource(bucket.write(tmp_path / "bucket"))


def ingest_in_order(source: BucketSource, store: Store, order: list[str]) -> None:
    make_tables(source, store, RECIPE)
    for key in order:
        ingest(source, store, RECIPE, "train", key)
    ingest(source, store, RECIPE, "index", "000")


def test_catalog_has_a_row_for_every_member_and_one_stored_row_an_id(source: BucketSource, store: Store) -> None:
    ingest_in_order(source, store, ["000", "001", "002"])
    made = make_image_catalog(source, store)
    catalog = read_table(store, IMAGE_CATALOG)
    assert problems(IMAGE_CATALOG, catalog) == []
    found = [
        (row["split"], row["shard"], row["id"], row["status"], row["reason"])
        for row in catalog.select(["split", "shard", "id", "status", "reason"]).to_pylist()
    ]
    unreadable = "no image that can be opened: starts with 63 6f 72 72 75 70 74"
    assert found == [
        ("train", "000", IDS[0], "failed", unreadable),
        ("train", "000", IDS[1], "stored", ""),
        ("train", "000", None, "failed", "no image id in the name: expected <id>.jpg"),
        ("train", "001", IDS[0], "stored", ""),
        ("train", "001", IDS[1], "skipped", REPEATED),
        ("train", "001", IDS[2], "stored", ""),
        ("train", "002", IDS[0], "skipped", REPEATED),
        ("train", "002", identifier(9), "skipped", "unknown id: not in the split's table"),
        ("index", "000", IDS[1], "stored", ""),
    ]
    assert made.receipt.summary == {
        "rows": 9,
        **{"train_stored": 3, "train_skipped": 3, "train_failed": 2},
        **{"index_stored": 1, "index_skipped": 0, "index_failed": 0},
        **{"test_stored": 0, "test_skipped": 0, "test_failed": 0},
        **{"train_shards_missing": 0, "index_shards_missing": 0, "test_shards_missing": 1},
    }


def test_reader_takes_each_split_from_its_own_shards(source: BucketSource, store: Store) -> None:
    ingest_in_order(source, store, ["000", "001", "002"])
    make_image_catalog(source, store)
    train, index = (ImageReader.of_split(store, split) for split in ("train", "index"))
    assert train.ids == sorted(IDS[:3])
    assert train.read(IDS[0]) == picture(10)
    assert train.read(IDS[1]) == picture(1)
    assert index.read(IDS[1]) == picture(31)
    some = ImageReader.of_split(store, "train", [IDS[2], identifier(9), "nobody"])
    assert some.ids == [IDS[2]]
    assert len(some) == 1
    assert IDS[2] in some
    assert IDS[1] not in some
    with pytest.raises(MissingInputError, match=f"glr why {IDS[1]}"):
        some.read(IDS[1])


def test_shards_ingested_in_any_order_give_the_same_bytes(source: BucketSource, store: Store, tmp_path: Path) -> None:
    other = Store(str(tmp_path / "other"))
    ingest_in_order(source, store, ["000", "001", "002"])
    ingest_in_order(source, other, ["002", "000", "001"])
    first, second = (make_image_catalog(source, place) for place in (store, other))
    assert first.receipt == second.receipt
    assert store.read(IMAGE_CATALOG.path) == other.read(IMAGE_CATALOG.path)


def test_shards_to_come_are_counted_and_taken_up_when_they_are_there(source: BucketSource, store: Store) -> None:
    ingest_in_order(source, store, ["001"])
    made = make_image_catalog(source, store)
    assert made.receipt.summary["train_shards_missing"] == 2
    assert made.receipt.summary["rows"] == 4
    assert make_image_catalog(source, store).reused
    ingest(source, store, RECIPE, "train", "000")
    made = make_image_catalog(source, store)
    assert not made.reused
    assert made.receipt.summary["train_shards_missing"] == 1
    # The earlier shard, once it is there, is the one an id is stored from.
    assert ImageReader.of_split(store, "train").read(IDS[1]) == picture(1)


def test_a_damaged_shard_is_named(source: BucketSource, store: Store) -> None:
    ingest_in_order(source, store, ["000", "001"])
    store.remove(IMAGE_INDEX.at(split="train", shard="001"))
    with pytest.raises(MissingInputError, match=r"train_images/001 .* is damaged"):
        make_image_catalog(source, store)


def test_before_any_shard_the_catalog_is_empty(source: BucketSource, store: Store) -> None:
    made = make_image_catalog(source, store)
    assert made.receipt.summary["rows"] == 0
    assert made.receipt.summary["train_shards_missing"] == 3
    assert joined(store, {}).num_rows == 0
    assert ImageReader.of_split(store, "train").ids == []
