from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from glr_assets.errors import SourceError, StoreError
from glr_assets.images import ingest as ingest_module
from glr_assets.images.ingest import ingest_shard
from glr_assets.images.reader import ImageReader
from glr_assets.images.schemas import IMAGE_INDEX, STORED_TAR
from glr_assets.images.selection import selection_for
from glr_assets.images.shard_runs import find_run
from glr_assets.images.stored_tar import StoredTar
from glr_assets.receipts import find_receipt
from glr_assets.recipes import Recipe
from glr_assets.source import BucketSource, KaggleSource, Member
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
    write_shard,
)
from glr_assets_tests.images.test_pixels import png_header

GOOD, TWICE, CORRUPT_FIRST, UNWANTED, HTML, EMPTY, LONG, HUGE, LINK, DEVICE = map(identifier, range(10))
STRANGER, PNG, WEBP = identifier(99), identifier(10), identifier(11)
RECIPE = TINY.overridden({"images": {"max_member_bytes": 20_000, "max_pixels": 10_000}})


def converted(seed: int, image_format: str) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(picture(seed))).save(file, image_format)
    return file.getvalue()


ENTRIES = [
    Entry("0", type=tarfile.DIRTYPE),
    Entry("../up", type=tarfile.DIRTYPE),
    photo(GOOD, picture(1)),
    photo(UNWANTED, picture(2)),
    photo(STRANGER, picture(3)),
    photo(TWICE, picture(4)),
    Entry(f"elsewhere/{TWICE}.JPG", picture(5)),
    photo(CORRUPT_FIRST, picture(6)[:200]),
    Entry(f"again/{CORRUPT_FIRST}.jpg", picture(6)),
    photo(HTML, b"<!DOCTYPE html>"),
    photo(EMPTY, b""),
    photo(LONG, bytes(20_001)),
    photo(HUGE, png_header(200, 51)),
    Entry(f"l/{LINK}.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    Entry(f"h/{LINK}.jpg", type=tarfile.LNKTYPE, linkname=photo(GOOD, b"").name),
    Entry(f"d/{DEVICE}.jpg", type=tarfile.CHRTYPE),
    Entry(f"f/{DEVICE}.jpg", type=tarfile.FIFOTYPE),
    Entry(f"/abs/{GOOD}.jpg", picture(7)),
    Entry(f"../../{GOOD}.jpg", picture(7)),
    Entry(f"a\\b\\{GOOD}.jpg", picture(7)),
    Entry(f"C:/{GOOD}.jpg", picture(7)),
    Entry(f"new\nline/{GOOD}.jpg", picture(7)),
    Entry(f"latin-\udce9/{GOOD}.jpg", picture(7)),
    Entry("n" * 300 + ".jpg", picture(7)),
    Entry("日本/写真.jpg", picture(7)),
    Entry("README.txt", b"hello"),
    Entry(f"0/._{GOOD}.jpg", b"\x00\x05\x16\x07"),
    Entry(f"__MACOSX/{GOOD}.jpg", b"\x00\x05\x16\x07"),
    Entry(f"PaxHeaders.17/{GOOD}.jpg", b"30 mtime=1700000000.000000000\n"),
    Entry(f"0/{GOOD}.json", b"{}"),
    Entry(".DS_Store", b"Bud1"),
    Entry(f"p/{PNG}.PNG", converted(11, "PNG")),
    Entry(f"w/{WEBP}.webp", converted(12, "WEBP")),
]
OUTCOMES: list[tuple[str | None, str, str]] = [
    (None, "skipped", "a directory"),
    (None, "skipped", "a directory"),
    (GOOD, "stored", ""),
    (UNWANTED, "skipped", "not wanted by the plan"),
    (STRANGER, "skipped", "unknown id: not in the split's table"),
    (TWICE, "stored", ""),
    (TWICE, "skipped", "repeated id: stored from an earlier member"),
    (CORRUPT_FIRST, "failed", "undecodable: "),
    (CORRUPT_FIRST, "stored", ""),
    (HTML, "failed", "no image that can be opened: starts with 3c 21 44 4f 43 54 59 50"),
    (EMPTY, "failed", "empty: zero bytes"),
    (LONG, "failed", "too large: 20001 bytes, at most 20000 are read"),
    (HUGE, "failed", "too large: 200x51 pixels, at most 10000 are decoded"),
    (LINK, "failed", "not a file: link"),
    (LINK, "failed", "not a file: link"),
    (DEVICE, "failed", "not a file: device"),
    (DEVICE, "failed", "not a file: device"),
    (None, "failed", "hostile name: absolute path"),
    (None, "failed", "hostile name: leads out of the shard"),
    (None, "failed", "hostile name: control characters or backslashes"),
    (None, "failed", "hostile name: absolute path"),
    (None, "failed", "hostile name: control characters or backslashes"),
    (None, "failed", "hostile name: control characters or backslashes"),
    (None, "skipped", "no image id in the name: expected letters, digits, _ and -"),
    (None, "skipped", "no image id in the name: expected letters, digits, _ and -"),
    (None, "skipped", "no image file: its suffix is of no image format"),
    (None, "skipped", "no image file: AppleDouble metadata"),
    (None, "skipped", "no image file: below __MACOSX, a folder of the operating system"),
    (None, "skipped", "no image file: a pax header that was unpacked as a file"),
    (None, "skipped", "no image file: its suffix is of no image format"),
    (None, "skipped", "no image file: a hidden or system file"),
    (PNG, "stored", ""),
    (WEBP, "stored", ""),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bucket with the hand-made shard 000 and the empty shard 001; of its images one is not wanted."""
    train = {identifier(n): 7 for n in range(12)}
    wanted = [image_id for image_id in train if image_id != UNWANTED]
    shards = {"000": tar_of(ENTRIES), "001": tar_of([])}
    Bucket(train, wanted, {"train": shards}).write(tmp_path / "bucket")
    return tmp_path / "bucket"


@pytest.fixture
def source(folder: Path, store: Store) -> BucketSource:
    source = BucketSource(str(folder))
    # Without filling, only the competition's set is wanted.
    make_tables(source, store, RECIPE.overridden({"fill": {"threshold": 0}}))
    return source


def index_of(store: Store, shard: str = "000") -> list[dict[str, Any]]:
    table = read_table(store, IMAGE_INDEX, split="train", shard=shard)
    assert problems(IMAGE_INDEX, table) == []
    return table.to_pylist()


def files_of(store: Store) -> dict[str, bytes]:
    root = Path(store.url) / "images"
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_every_member_has_a_row_with_what_became_of_it(source: BucketSource, store: Store) -> None:
    made = ingest(source, store, RECIPE, "train", "000")
    rows = index_of(store)
    assert len(rows) == len(ENTRIES)
    for row, entry, (image_id, status, reason) in zip(rows, ENTRIES, OUTCOMES, strict=True):
        assert (row["id"], row["status"]) == (image_id, status), entry.name
        assert row["reason"].startswith(reason), entry.name
        assert bool(row["reason"]) == (status != "stored"), entry.name
        assert row["landmark_id"] == (7 if image_id not in {None, STRANGER} else None), entry.name
        assert row["member"] == entry.name.replace("\udce9", "\\udce9")
        assert (row["stored_offset"] is None) == (status != "stored")
    summary = made.receipt.summary
    assert summary["seen"] == len(ENTRIES)
    assert (summary["stored"], summary["skipped"], summary["failed"]) == (5, 13, 15)
    assert summary["source_bytes"] == sum(len(entry.data) for entry in ENTRIES)


def test_source_ranges_give_the_members_own_bytes(source: BucketSource, store: Store, folder: Path) -> None:
    ingest(source, store, RECIPE, "train", "000")
    for row, entry in zip(index_of(store), ENTRIES, strict=True):
        assert row["source_path"] == "train/images_000.tar"
        data = (folder / row["source_path"]).read_bytes()
        assert data[row["source_offset"] : row["source_offset"] + row["source_size"]] == entry.data, entry.name


def test_stored_bytes_are_the_same_by_index_by_reader_and_by_tarfile(source: BucketSource, store: Store) -> None:
    made = ingest(source, store, RECIPE, "train", "000")
    data = store.read(STORED_TAR.format(split="train", shard="000"))
    reader = ImageReader.of_shard(store, "train", "000")
    stored = {row["id"]: row for row in index_of(store) if row["status"] == "stored"}
    assert reader.ids == sorted(stored)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        assert [member.name for member in tar] == [f"{image_id}.jpg" for image_id in stored]
        assert all(member.isreg() for member in tar)
        for image_id, row in stored.items():
            file = tar.extractfile(f"{image_id}.jpg")
            assert file is not None
            jpeg = file.read()
            assert jpeg == reader.read(image_id)
            assert jpeg == data[row["stored_offset"] : row["stored_offset"] + row["stored_size"]]
            with Image.open(io.BytesIO(jpeg)) as image:
                image.load()
                assert image.format == "JPEG"
                assert image.size == (row["width"], row["height"])
            assert (row["source_width"], row["source_height"]) == (60, 40)
            assert row["source_format"] == {PNG: "PNG", WEBP: "WEBP"}.get(image_id, "JPEG")
    assert made.receipt.summary["stored_bytes"] == sum(row["stored_size"] for row in stored.values())
    assert data[-1024:] == bytes(1024)


def test_of_a_repeated_id_the_first_good_image_is_stored(source: BucketSource, store: Store) -> None:
    recipe = RECIPE.overridden({"images": {"min_side": 384}})  # small JPEGs are kept byte for byte
    ingest(source, store, recipe, "train", "000")
    reader = ImageReader.of_shard(store, "train", "000")
    assert reader.read(TWICE) == picture(4)
    assert reader.read(CORRUPT_FIRST) == picture(6)


@pytest.mark.parametrize("workers", [2, 5])
def test_any_number_of_workers_leaves_the_same_bytes(
    workers: int, source: BucketSource, store: Store, tmp_path: Path
) -> None:
    ingest(source, store, RECIPE, "train", "000", workers=1)
    other = Store(str(tmp_path / "other"))
    make_tables(source, other, RECIPE.overridden({"fill": {"threshold": 0}}))
    ingest(source, other, RECIPE, "train", "000", workers=workers)
    assert files_of(other) == files_of(store)
    names = [find_receipt(place, "train_images/000") for place in (store, other)]
    assert names[0] == names[1]


class Sealed(BucketSource):
    """A source that tells of its shards but must not be read."""

    def members(self, *_: object, **__: object) -> Iterator[Member]:
        raise AssertionError("read again")


def test_finished_work_is_not_read_again(source: BucketSource, store: Store, folder: Path) -> None:
    first = ingest(source, store, RECIPE, "train", "000")
    again = ingest(Sealed(str(folder)), store, RECIPE, "train", "000", workers=5)
    assert not first.reused
    assert again.reused
    assert again.receipt == first.receipt


def test_an_image_that_fails_in_an_unforeseen_way_costs_no_other(
    source: BucketSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    well = ingest_module.downsize

    def failing(data: bytes, recipe: Any) -> Any:
        if data == picture(1):
            raise RecursionError("too deep")
        return well(data, recipe)

    monkeypatch.setattr(ingest_module, "downsize", failing)
    made = ingest(source, store, RECIPE, "train", "000")
    assert made.receipt.summary["stored"] == 4
    (row,) = [row for row in index_of(store) if row["id"] == GOOD and row["status"] == "failed"]
    assert row["reason"] == "undecodable: unforeseen RecursionError: too deep"


@pytest.mark.parametrize("change", ["plan", "recipe", "shard", "lost file"])
def test_what_decides_the_result_makes_it_anew(change: str, source: BucketSource, store: Store, folder: Path) -> None:
    ingest(source, store, RECIPE, "train", "000")
    recipe = RECIPE
    if change == "plan":
        make_tables(source, store, RECIPE.overridden({"fill": {"threshold": 20}}))
    elif change == "recipe":
        recipe = RECIPE.overridden({"images": {"jpeg_quality": 80}})
    elif change == "shard":
        write_shard(folder, "train", "000", tar_of([*ENTRIES, photo(UNWANTED, picture(2))]))
    else:
        store.remove("images/train/000.tar")
    made = ingest(source, store, recipe, "train", "000")
    assert not made.reused
    assert made.receipt.summary["stored"] == (6 if change == "plan" else 5)


def test_keeping_all_stores_what_no_plan_wants(source: BucketSource, store: Store) -> None:
    recipe = RECIPE.overridden({"images": {"keep": "all"}})
    assert ingest(source, store, recipe, "train", "000").receipt.summary["stored"] == 6


def test_an_empty_shard_is_an_empty_tar_and_an_empty_index(source: BucketSource, store: Store) -> None:
    made = ingest(source, store, RECIPE, "train", "001")
    assert made.receipt.summary == dict.fromkeys(
        ("seen", "stored", "skipped", "failed", "source_bytes", "stored_bytes"), 0
    )
    assert index_of(store, "001") == []
    with tarfile.open(fileobj=io.BytesIO(store.read("images/train/001.tar"))) as tar:
        assert tar.getnames() == []
    assert len(ImageReader.of_shard(store, "train", "001")) == 0


@pytest.mark.parametrize("damage", ["other bytes", "cut", "cut in the header", "no bytes", "not a TAR"])
def test_a_damaged_shard_leaves_nothing(damage: str, source: BucketSource, store: Store, folder: Path) -> None:
    whole = tar_of(ENTRIES)
    damaged = {
        "other bytes": whole[:-1] + b"x",
        "cut": whole[: len(whole) // 2],
        "cut in the header": whole[: 3 * 512 + 100],
        "no bytes": b"",
        "not a TAR": b"<html>" * 1000,
    }[damage]
    write_shard(folder, "train", "000", damaged, md5_of=whole)
    with pytest.raises(SourceError, match=r"images_000\.tar"):
        ingest(source, store, RECIPE, "train", "000")
    assert files_of(store) == {}
    assert find_receipt(store, "train_images/000") is None


def test_a_shard_that_went_bad_leaves_what_was_stored_of_the_good_one(
    source: BucketSource, store: Store, folder: Path
) -> None:
    good = ingest(source, store, RECIPE, "train", "000")
    files = files_of(store)
    write_shard(folder, "train", "000", tar_of(ENTRIES)[:-600], md5_of=b"of another shard")
    for _ in range(2):
        with pytest.raises(SourceError, match=r"images_000\.tar"):
            ingest(source, store, RECIPE, "train", "000")
        assert find_receipt(store, "train_images/000") == good.receipt
        assert files_of(store) == files
        run = find_run(store, "train", "000")
        assert run is not None
        assert (run.outcome, run.attempts) == ("failed", 3)
        assert "images_000.tar" in run.error


class Flaky(BucketSource):
    """A source whose first reads of a shard are bad."""

    bad_reads = 1
    reads = 0

    def members(self, split: Any, shard: str, **limits: Any) -> Iterator[Member]:
        self.reads += 1
        if self.reads > self.bad_reads:
            yield from super().members(split, shard, **limits)
            return
        for member in super().members(split, shard, **limits):
            yield Member(member.name, member.kind, member.source_path, member.offset, member.size, b"spoilt")
        raise SourceError("MD5 is wrong")


@pytest.mark.parametrize("bad_reads", [1, 2, 3])
def test_a_bad_read_is_tried_twice_more(bad_reads: int, source: BucketSource, store: Store, folder: Path) -> None:
    flaky = Flaky(str(folder))
    flaky.bad_reads = bad_reads
    if bad_reads == 3:
        with pytest.raises(SourceError, match="MD5 is wrong"):
            ingest(flaky, store, RECIPE, "train", "000")
        assert files_of(store) == {}
        assert flaky.reads == 3
        return
    made = ingest(flaky, store, RECIPE, "train", "000")
    assert flaky.reads == bad_reads + 1
    assert made.receipt.summary["stored"] == 5
    assert ImageReader.of_shard(store, "train", "000").ids == sorted([GOOD, TWICE, CORRUPT_FIRST, PNG, WEBP])


def test_a_shard_without_md5_is_refused_or_taken_as_the_recipe_says(
    source: BucketSource, store: Store, folder: Path
) -> None:
    (folder / "md5sum" / "train" / "md5.images_000.txt").unlink()
    with pytest.raises(SourceError, match="require_md5 = false"):
        ingest(source, store, RECIPE, "train", "000")
    recipe = RECIPE.overridden({"images": {"require_md5": False}})
    assert ingest(source, store, recipe, "train", "000").receipt.summary["stored"] == 5


def test_a_shard_that_is_not_there_is_named(source: BucketSource, store: Store) -> None:
    with pytest.raises(SourceError, match=r"images_077"):
        ingest(source, store, RECIPE, "train", "077")


@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 10**6),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_tar_is_refused_whatever_the_damage(
    changes: list[tuple[int, int]], cut: int, source: BucketSource, store: Store, folder: Path
) -> None:
    whole = tar_of(ENTRIES[:8])
    damaged = bytearray(whole)
    for at, value in changes:
        damaged[at % len(whole)] = value
    data = bytes(damaged[: cut % len(whole)]) if cut % 2 else bytes(damaged)
    write_shard(folder, "train", "000", data, md5_of=whole)
    if data == whole:
        return
    with pytest.raises(SourceError):
        ingest(source, store, RECIPE, "train", "000")
    assert files_of(store) == {}


def test_index_and_test_shards_store_what_their_tables_list(tmp_path: Path, store: Store) -> None:
    ids = [identifier(n) for n in range(4)]
    shards = {"000": tar_of([photo(image_id, picture(n)) for n, image_id in enumerate(ids)])}
    bucket = Bucket({ids[0]: 1}, ids[:1], {"index": shards, "test": shards}, {ids[1]: 900}, [ids[2], ids[3]])
    source = BucketSource(bucket.write(tmp_path / "bucket"))
    make_tables(source, store, TINY)
    for split, wanted in (("index", ids[1:2]), ("test", ids[2:])):
        made = ingest(source, store, TINY, split, "000")  # type: ignore[arg-type]
        assert made.receipt.summary["stored"] == len(wanted)
        assert ImageReader.of_shard(store, split, "000").ids == sorted(wanted)  # type: ignore[arg-type]
        rows = read_table(store, IMAGE_INDEX, split=split, shard="000")
        assert rows["landmark_id"].null_count == rows.num_rows


def kaggle_folder(folder: Path, recipe: Recipe, store: Store) -> KaggleSource:
    files = {entry.name: entry.data for entry in (photo(GOOD, picture(1)), photo(HTML, b"<html>"), photo(EMPTY, b""))}
    files |= {photo(STRANGER, b"").name: picture(2), photo(LONG, b"").name: bytes(20_001)}
    for name, data in files.items():
        path = folder / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    lines = [f"{image_id},7" for image_id in (GOOD, HTML, EMPTY, LONG)]
    (folder / "train.csv").write_text("\n".join(["id,landmark_id", *lines]) + "\n")
    source = KaggleSource(str(folder))
    make_tables(source, store, recipe)
    return source


def test_a_kaggle_folder_is_ingested_file_by_file(tmp_path: Path, store: Store) -> None:
    source = kaggle_folder(tmp_path / "kaggle", RECIPE, store)
    found: dict[str, dict[str, Any]] = {}
    for shard in source.shards("train"):
        ingest(source, store, RECIPE, "train", shard)
        found |= {row["id"]: row for row in index_of(store, shard)}
    assert {image_id: row["status"] for image_id, row in found.items()} == {
        GOOD: "stored",
        HTML: "failed",
        EMPTY: "failed",
        STRANGER: "skipped",
        LONG: "failed",
    }
    row = found[GOOD]
    data = (tmp_path / "kaggle" / row["source_path"]).read_bytes()
    assert data[row["source_offset"] :][: row["source_size"]] == picture(1)


def test_names_of_a_kaggle_folder_that_are_not_utf8_stay_apart(tmp_path: Path, store: Store) -> None:
    source = kaggle_folder(tmp_path / "kaggle", RECIPE, store)
    place = tmp_path / "kaggle" / "train" / GOOD[0] / GOOD[1]
    for letter in (b"\xe9", b"\xe8"):
        try:
            Path(os.fsdecode(os.fsencode(place / "x") + letter + b".jpg")).write_bytes(picture(1))
        except OSError:
            pytest.skip("this file system allows UTF-8 names only")
    made = ingest(source, store, RECIPE, "train", GOOD[:2])
    rows = [row for row in index_of(store, GOOD[:2]) if row["status"] == "failed" and row["id"] is None]
    assert made.receipt.summary["seen"] == len(index_of(store, GOOD[:2]))
    assert len({row["member"] for row in rows}) == 2
    assert {row["reason"] for row in rows} == {"hostile name: control characters or backslashes"}


def test_a_store_that_cannot_be_written_is_told_once(
    source: BucketSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = selection_for(store, "train", RECIPE.images)

    def full(*_: object) -> bytes:
        raise StoreError("no space left")

    monkeypatch.setattr(StoredTar, "add", full)
    with pytest.raises(StoreError, match="no space left"):
        ingest_shard(source, store, "train", "000", selection, RECIPE.images, workers=2)
    assert files_of(store) == {}
