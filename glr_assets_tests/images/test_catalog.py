from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.errors import MissingInputError, TableError
from glr_assets.images import catalog as catalogs
from glr_assets.images.catalog import REPEATED, catalog_parts, later_repeats, make_image_catalog, reconcile
from glr_assets.images.reader import ImageReader
from glr_assets.images.schemas import IMAGE_CATALOG, IMAGE_INDEX, IMAGE_LOCATIONS
from glr_assets.receipts import Receipt, find_receipt, receipt_path
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets.tables import problems, read_table, write_table
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
        ("train", "000", None, "skipped", "no image file: its suffix is of no image format"),
        ("train", "001", IDS[0], "stored", ""),
        ("train", "001", IDS[1], "skipped", REPEATED),
        ("train", "001", IDS[2], "stored", ""),
        ("train", "002", IDS[0], "skipped", REPEATED),
        ("train", "002", identifier(9), "skipped", "unknown id: not in the split's table"),
        ("index", "000", IDS[1], "stored", ""),
    ]
    assert made.receipt.summary == {
        "rows": 9,
        **{"train_stored": 3, "train_skipped": 4, "train_failed": 1},
        **{"index_stored": 1, "index_skipped": 0, "index_failed": 0},
        **{"test_stored": 0, "test_skipped": 0, "test_failed": 0},
        **{"train_shards_missing": 0, "index_shards_missing": 0, "test_shards_missing": 1},
        **{"train_wanted_in_no_shard": 0, "index_wanted_in_no_shard": 0},
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
    assert ImageReader.of_split(store, "train").ids == []


def test_each_shard_is_a_row_group(source: BucketSource, store: Store) -> None:
    ingest_in_order(source, store, ["000", "001", "002"])
    make_image_catalog(source, store)
    with store.open(IMAGE_CATALOG.path) as file:
        metadata = pq.ParquetFile(file).metadata
        assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [3, 3, 2, 1]


def test_locations_are_those_of_the_stored_rows_by_id(
    source: BucketSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogs, "LOCATIONS_A_GROUP", 2)
    ingest_in_order(source, store, ["000", "001", "002"])
    make_image_catalog(source, store)
    rows = read_table(store, IMAGE_CATALOG)
    stored = rows.filter(pc.equal(rows["status"], "stored")).select(IMAGE_LOCATIONS.schema.names)
    found = read_table(store, IMAGE_LOCATIONS)
    assert problems(IMAGE_LOCATIONS, found) == []
    assert found.to_pylist() == stored.sort_by([("split", "ascending"), ("id", "ascending")]).to_pylist()
    with store.open(IMAGE_LOCATIONS.path) as file:
        metadata = pq.ParquetFile(file).metadata
        assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [1, 2, 1]


def test_a_few_images_are_found_in_a_few_row_groups(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    count, group = 60_000, 500
    ids = np.array([f"{number * 71_633 % 2**32:016x}" for number in range(count)])
    of_split = catalogs.SplitLocations("train")
    for shard in range(3):
        mine = ids[shard::3]
        columns: dict[str, object] = {"id": mine, "status": ["stored"] * len(mine)}
        columns |= {name: pa.array(np.arange(len(mine))) for name in ("stored_offset", "stored_size")}
        of_split.add(f"{shard:03d}", pa.table(columns | {"stored_xxh3": pa.nulls(len(mine), pa.uint64())}))
    monkeypatch.setattr(catalogs, "LOCATIONS_A_GROUP", group)
    with store.writing(IMAGE_LOCATIONS.path) as file:
        catalogs.write_locations({"train": of_split}, file)
    read: list[int] = []
    usual = pq.ParquetFile.read_row_group

    def counted(file: pq.ParquetFile, number: int, *arguments: object) -> pa.Table:
        read.append(number)
        return usual(file, number, *arguments)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    wanted = [str(ids[number]) for number in (5, 17, 30_001, 59_999)]
    tracemalloc.start()
    try:
        reader = ImageReader.of_split(store, "train", [*wanted, "nobody", "zzz"])
        few = tracemalloc.get_traced_memory()[1]
        assert reader.ids == sorted(wanted)
        assert len(read) <= len(wanted)
        for name, number in zip(wanted, (5, 17, 30_001, 59_999), strict=True):
            place = reader.places.place(reader.row(name))
            assert (place.name, place.offset) == (f"images/train/{number % 3:03d}.tar", number // 3)
        assert len(ImageReader.of_split(store, "train")) == count
        assert few < tracemalloc.get_traced_memory()[1] / 10
    finally:
        tracemalloc.stop()
    assert ImageReader.of_split(store, "test", wanted).ids == []


class CountingStore(Store):
    """A store that counts what is read of it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads: Counter[str] = Counter()

    def read(self, name: str, offset: int | None = None, size: int | None = None) -> bytes:
        self.reads[name] += 1
        return super().read(name, offset, size)

    def open(self, name: str) -> Any:
        self.reads[name] += 1
        return super().open(name)


def test_a_rerun_reads_each_receipt_once_and_no_index(source: BucketSource, store: Store) -> None:
    ingest_in_order(source, store, ["000", "001", "002"])
    made = make_image_catalog(source, store)
    counting = CountingStore(store.url)
    assert make_image_catalog(source, counting).receipt == made.receipt
    shards = [f"train_images/{key}" for key in ("000", "001", "002")] + ["index_images/000", "test_images/000"]
    tables = ["train_metadata", "competition_train", "fill_plan", "index_metadata", "test_metadata"]
    assert counting.reads == {receipt_path(name): 1 for name in [*shards, *tables, "image_catalog"]}


def receipt(name: str, **summary: int) -> Receipt:
    return Receipt(name=name, code_version="1", inputs={}, parameters={}, outputs={}, summary=dict(summary))


def test_what_is_there_is_reconciled_with_what_there_should_be() -> None:
    receipts = [
        receipt("train_images/000", seen=7, stored=4, skipped=3, failed=0),
        receipt("train_images/002", seen=5, stored=1, skipped=2, failed=2),
        receipt("index_images/001", seen=9, stored=9, skipped=0, failed=0),
        receipt("train_images/gone", seen=1, stored=1, skipped=0, failed=0),
    ]
    shards = {"train": ["002", "000", "001"], "index": ["001"], "test": []}
    found = reconcile(shards, {r.name: r for r in receipts})  # type: ignore[arg-type]
    train = found["train"]
    assert (train.shards, train.ingested, train.missing) == (("000", "001", "002"), ("000", "002"), ("001",))
    assert train.failing == ("002",)
    assert (train.seen, train.stored, train.skipped, train.failed) == (12, 5, 5, 2)
    assert (found["index"].seen, found["index"].stored, found["index"].missing) == (9, 9, ())
    assert (found["test"].shards, found["test"].seen) == ((), 0)


def test_members_that_are_not_accounted_for_are_told() -> None:
    lost = receipt("train_images/003", seen=10, stored=4, skipped=3, failed=2)
    with pytest.raises(TableError, match=r"train_images/003: .* 10 members but of 9 stored, skipped or failed"):
        reconcile({"train": ["003"]}, {lost.name: lost})


def test_an_index_that_is_not_what_its_receipt_tells_of_is_named(source: BucketSource, store: Store) -> None:
    ingest_in_order(source, store, ["000", "001"])
    name, path = "train_images/001", IMAGE_INDEX.at(split="train", shard="001")
    changed = find_receipt(store, name)
    assert changed is not None
    with store.writing(path) as file:
        write_table(IMAGE_INDEX, read_table(store, IMAGE_INDEX, split="train", shard="001").slice(1), file)
    outputs = {
        output: written if output != path else written.model_copy(update={"size": store.size(path)})
        for output, written in changed.outputs.items()
    }
    store.write(receipt_path(name), changed.model_copy(update={"outputs": outputs}).model_dump_json().encode())
    with pytest.raises(TableError, match=r"train_images/001: its index has \{'stored': 2, .* tells of \{'stored': 3"):
        make_image_catalog(source, store)
    assert not store.exists(IMAGE_CATALOG.path)


@given(st.lists(st.sampled_from(["a", "b", "bb", "c", "dddd"]), max_size=12))
def test_later_repeats_are_all_but_the_first(ids: list[str]) -> None:
    found = later_repeats(np.array([i.encode() for i in ids], "S4") if ids else np.zeros(0, "S1"))
    assert found.tolist() == [place for place, name in enumerate(ids) if name in ids[:place]]


@given(st.data())
def test_of_ids_in_many_shards_the_first_stored_one_counts(data: st.DataObject) -> None:
    """Beside a walk through all rows with a set."""
    store = Store(f"memory://catalog-{data.draw(st.uuids())}")
    statuses = st.sampled_from(["stored", "skipped", "failed"])
    names = ["a1", "b2", "c3", "longer-than-those"]
    shards = {}
    for number in range(data.draw(st.integers(1, 4))):
        members = data.draw(st.lists(st.tuples(st.sampled_from(names), statuses), max_size=5))
        once = {name for name, status in members if status == "stored"}
        kept = []
        for name, status in members:
            again = status == "stored" and name not in once
            kept.append((name, "skipped" if again else status))
            once -= {name} if status == "stored" else set()
        shards[f"{number:03d}"] = kept
    for key, members in shards.items():
        rows = [
            {
                **dict.fromkeys(IMAGE_INDEX.schema.names),
                **{"id": name, "status": status, "reason": "" if status == "stored" else "why", "member": str(at)},
                **{"kind": "file", "source_path": f"train/{key}", "source_offset": at, "source_size": 1},
            }
            for at, (name, status) in enumerate(members)
        ]
        with store.writing(IMAGE_INDEX.at(split="train", shard=key)) as file:
            write_table(IMAGE_INDEX, IMAGE_INDEX.rows(rows), file)
    seen: set[str] = set()
    expected = []
    for key, members in shards.items():
        for name, status in members:
            again = status == "stored" and name in seen
            seen |= {name} if status == "stored" else set()
            reason = REPEATED if again else "" if status == "stored" else "why"
            expected.append(("train", key, name, "skipped" if again else status, reason))
    parts = list(catalog_parts(store, "train", list(reversed(shards))))
    assert [key for key, _, _ in parts] == list(shards)
    catalog = pa.concat_tables([rows for _, rows, _ in parts]).select(["split", "shard", "id", "status", "reason"])
    assert [tuple(row.values()) for row in catalog.to_pylist()] == expected
    assert sum(repeated for _, _, repeated in parts) == sum(reason == REPEATED for *_, reason in expected)
