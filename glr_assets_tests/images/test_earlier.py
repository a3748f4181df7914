"""A later run over a shard that was ingested before: the same bytes as a whole pass, and only what is new is read."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glr_assets.errors import SourceError
from glr_assets.images import earlier, pixels, versions
from glr_assets.images import ingest as ingest_module
from glr_assets.images.ingest import ingest_shard
from glr_assets.images.schemas import IMAGE_INDEX
from glr_assets.images.selection import Selection, selection_for
from glr_assets.images.shard_runs import find_run
from glr_assets.ranges import Place
from glr_assets.receipts import Made, find_receipt
from glr_assets.recipes import Recipe
from glr_assets.source import BucketSource, Member
from glr_assets.store import Store
from glr_assets.tables import Column, read_table
from glr_assets_tests.images.handmade import (
    TINY,
    Bucket,
    Entry,
    identifier,
    make_tables,
    photo,
    picture,
    tar_of,
    write_shard,
)

IDS = [identifier(n) for n in range(12)]
TWICE, CORRUPT, CORRUPT_FIRST, LARGE, LONG = IDS[2], IDS[4], IDS[5], IDS[6], IDS[7]
ENTRIES = [
    *(photo(IDS[n], picture(n)) for n in range(4)),
    Entry(f"again/{TWICE}.jpg", picture(20)),
    photo(CORRUPT, picture(4)[:300]),
    photo(CORRUPT_FIRST, b"<html>"),
    Entry(f"again/{CORRUPT_FIRST}.jpg", picture(5)),
    photo(LARGE, picture(6, (120, 100))),
    photo(LONG, picture(7) + bytes(30_000)),
    *(photo(IDS[n], picture(n)) for n in range(8, 12)),
    Entry(f"../{IDS[0]}.jpg", picture(8)),
    photo(identifier(99), picture(9)),
    Entry("notes.txt", b"hello"),
]
RECIPE = TINY.overridden({"images": {"max_member_bytes": 20_000, "max_pixels": 10_000}})
LOOSE = RECIPE.overridden({"images": {"max_pixels": 20_000}})


class Counting(BucketSource):
    """A source that keeps what is read of its shards: whole passes, and ranges."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.passes = 0
        self.places: list[Place] = []

    def members(self, *arguments: object, **named: object) -> Iterator[Member]:
        self.passes += 1
        yield from super().members(*arguments, **named)  # type: ignore[arg-type]

    def read_members(self, places: Iterable[Place]) -> Iterator[bytes | SourceError]:
        def counted() -> Iterator[Place]:
            for place in places:
                self.places.append(place)
                yield place

        yield from super().read_members(counted())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Bucket(dict.fromkeys(IDS, 7), IDS, {"train": {"000": tar_of(ENTRIES)}}).write(tmp_path / "bucket")
    return tmp_path / "bucket"


def planned(store: Store, wanted: Iterable[str]) -> Selection:
    """The split's selection with other wanted ids, and digests of its own."""
    whole = selection_for(store, "train", RECIPE.images)
    keep = {image_id.encode() for image_id in wanted}
    mask = [bytes(key) in keep for key in whole.ids]
    return Selection.of(whole.ids, whole.landmark_ids, whole.wanted & mask, {"fill_plan": repr(sorted(keep))})


def ingest(
    source: BucketSource, store: Store, wanted: Iterable[str], recipe: Recipe = RECIPE, *, retry: bool = False
) -> Made:
    selection = planned(store, wanted)
    return ingest_shard(source, store, "train", "000", selection, recipe.images, 2, retry_failed=retry)


def left(store: Store) -> dict[str, object]:
    """The images' files and the receipt."""
    root = Path(store.url) / "images"
    files: dict[str, object] = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return files | {"receipt": find_receipt(store, "train_images/000")}


def fresh(folder: Path, at: Path, wanted: Iterable[str], recipe: Recipe = RECIPE) -> dict[str, object]:
    """What a whole pass leaves in an empty store."""
    store = Store(str(at))
    source = BucketSource(str(folder))
    make_tables(source, store, RECIPE)
    ingest(source, store, wanted, recipe)
    return left(store)


@pytest.fixture
def tables(folder: Path, store: Store) -> None:
    make_tables(BucketSource(str(folder)), store, RECIPE)


def test_a_larger_plan_reads_only_the_images_that_are_new(
    folder: Path, store: Store, tmp_path: Path, tables: None
) -> None:
    source = Counting(str(folder))
    ingest(source, store, IDS[:8])
    made = ingest(source, store, IDS)
    assert source.passes == 1
    data = (folder / "train" / "images_000.tar").read_bytes()
    read = [data[place.offset : place.offset + place.size] for place in source.places]
    assert read == [picture(n) for n in range(8, 12)]
    assert made.run["read_bytes"] == sum(map(len, read))
    assert made.run["spared_bytes"] == sum(len(entry.data) for entry in ENTRIES) - sum(map(len, read))
    assert (made.run["decoded"], made.run["carried"]) == (4, 5)
    assert left(store) == fresh(folder, tmp_path / "fresh", IDS)


def test_a_smaller_plan_reads_nothing(folder: Path, store: Store, tmp_path: Path, tables: None) -> None:
    source = Counting(str(folder))
    ingest(source, store, IDS)
    made = ingest(source, store, IDS[1:4])
    assert (source.passes, source.places) == (1, [])
    assert (made.run["decoded"], made.run["carried"], made.run["read_bytes"]) == (0, 3, 0)
    assert left(store) == fresh(folder, tmp_path / "fresh", IDS[1:4])


@given(plans=st.lists(st.sets(st.sampled_from(IDS)), min_size=2, max_size=4), loose=st.lists(st.booleans(), min_size=4))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_plans_before_the_bytes_are_those_of_a_whole_pass(
    plans: list[set[str]], loose: list[bool], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = Counting(str(folder))
    store = Store(str(tmp_path_factory.mktemp("store")))
    make_tables(source, store, RECIPE)
    for number, plan in enumerate(plans):
        recipe = LOOSE if loose[number] else RECIPE
        ingest(source, store, plan, recipe)
        assert left(store) == fresh(folder, tmp_path_factory.mktemp("fresh"), plan, recipe)
    assert source.passes == 1


def test_wider_limits_read_what_they_refused_and_narrower_ones_refuse_what_was_stored(
    folder: Path, store: Store, tmp_path: Path, tables: None
) -> None:
    source = Counting(str(folder))
    first = ingest(source, store, IDS)
    assert first.receipt.summary["failed: too large"] == 2
    wide = ingest(source, store, IDS, LOOSE)
    assert wide.receipt.summary["failed: too large"] == 1
    # The one over the limit, those that failed otherwise, and the one of which another member had been stored.
    assert len(source.places) == 1 + 2 + 1
    assert left(store) == fresh(folder, tmp_path / "wide", IDS, LOOSE)
    ingest(source, store, IDS, RECIPE)
    assert source.passes == 1
    assert left(store) == fresh(folder, tmp_path / "narrow", IDS)


def test_limits_of_what_is_stored_read_only_the_images_that_they_change(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    """One of the pictures is long: of other limits on length it is another, and all others are as they were."""
    entries = [*ENTRIES[:4], photo(IDS[5], picture(5, (40, 2000)))]
    write_shard(folder, "train", "000", tar_of(entries))
    source = Counting(str(folder))
    make_tables(source, store, RECIPE)
    recipe = LOOSE.overridden({"images": {"max_pixels": 100_000}})
    shorter = recipe.overridden({"images": {"max_side": 500}})
    ingest(source, store, IDS, recipe)
    made = ingest(source, store, IDS, shorter)
    assert [place.size for place in source.places] == [len(picture(5, (40, 2000)))]
    assert made.run["decoded"] == 1
    assert left(store) == fresh(folder, tmp_path / "fresh", IDS, shorter)


@pytest.mark.parametrize("change", ["quality", "side", "bytes", "source", "code", "members"])
def test_other_pixels_or_other_bytes_need_a_whole_pass(
    change: str, folder: Path, store: Store, tables: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Counting(str(folder))
    ingest(source, store, IDS)
    recipe = RECIPE
    if change == "quality":
        recipe = RECIPE.overridden({"images": {"jpeg_quality": 80}})
    elif change == "side":
        recipe = RECIPE.overridden({"images": {"min_side": 33}})
    elif change == "bytes":  # digests are of members that may be read
        recipe = RECIPE.overridden({"images": {"max_member_bytes": 40_000}})
    elif change == "source":
        write_shard(folder, "train", "000", tar_of([*ENTRIES, photo(identifier(50), picture(1))]))
    elif change == "members":
        raise_version(monkeypatch, versions.MEMBERS, "members-99")
    else:
        monkeypatch.setattr(versions, "CODE_VERSION", "other")
    ingest(source, store, IDS, recipe)
    assert (source.passes, source.places) == (2, [])


def raise_version(monkeypatch: pytest.MonkeyPatch, part: str, raised: str) -> None:
    """Let the code be of another version of one part."""
    assert versions.CODE_VERSION.count(part) == 1
    monkeypatch.setattr(versions, "CODE_VERSION", versions.CODE_VERSION.replace(part, raised))


def test_another_version_of_the_index_decodes_nothing_and_a_new_column_is_filled(
    folder: Path, store: Store, tmp_path: Path, tables: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Counting(str(folder))
    first = ingest(source, store, IDS)
    raise_version(monkeypatch, versions.INDEX, "index-99")
    column = Column("source_megapixels", pa.float64(), "Of the source image", nullable=True)
    table = dataclasses.replace(IMAGE_INDEX, columns=(*IMAGE_INDEX.columns, column))
    usual = ingest_module._row

    def with_column(*arguments: Any) -> dict[str, Any]:
        row = usual(*arguments)
        size = row.get("source_width"), row.get("source_height")
        return row | {"source_megapixels": size[0] * size[1] / 1e6 if size[0] and size[1] else None}

    monkeypatch.setattr(ingest_module, "_row", with_column)
    for module in (ingest_module, earlier):
        monkeypatch.setattr(module, "IMAGE_INDEX", table)
    made = ingest(source, store, IDS)
    stored = first.receipt.summary["stored"]
    assert not made.reused
    assert (source.passes, source.places) == (1, [])
    assert (made.run["decoded"], made.run["carried"], made.run["read_bytes"]) == (0, stored, 0)
    rows = read_table(store, table, split="train", shard="000").to_pylist()
    assert {row["source_megapixels"] for row in rows if row["status"] == "stored"} == {60 * 40 / 1e6}
    assert left(store) == fresh(folder, tmp_path / "fresh", IDS)
    assert ingest(source, store, IDS).reused


def test_another_way_of_making_pixels_reads_the_images_that_were_made_so(
    folder: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images are kept as they are, and one cannot be decoded."""
    small = [picture(n, (40, 30)) for n in (8, 9)]
    broken = photo(CORRUPT, picture(4)[:300])
    write_shard(folder, "train", "000", tar_of([*ENTRIES[:4], broken, *map(photo, IDS[8:10], small)]))
    source = Counting(str(folder))
    make_tables(source, store, RECIPE)
    assert ingest(source, store, IDS).receipt.summary["stored"] == 6
    raise_version(monkeypatch, pixels.PLANES, "planes-99")
    monkeypatch.setattr(pixels, "PLANES", "planes-99")
    made = ingest(source, store, IDS)
    assert source.passes == 1
    assert sorted(place.size for place in source.places) == sorted([300, *(len(picture(n)) for n in range(4))])
    assert (made.run["decoded"], made.run["carried"]) == (5, 2)
    ways = [row["pixel_path"] for row in read_table(store, IMAGE_INDEX, split="train", shard="000").to_pylist()]
    assert ways == [*["planes-99"] * 4, None, *[pixels.KEPT] * 2]
    assert left(store) == fresh(folder, tmp_path / "planes", IDS)
    # Another hash is of the pixels before they are encoded, so all are decoded once more.
    source.places.clear()
    raise_version(monkeypatch, pixels.LUMA_HASH, "luma-99")
    monkeypatch.setattr(pixels.StoredImage.__init__, "__defaults__", ("luma-99",))
    made = ingest(source, store, IDS)
    assert (source.passes, len(source.places), made.run["carried"]) == (1, 7, 0)
    assert left(store) == fresh(folder, tmp_path / "hash", IDS)


@pytest.mark.parametrize("text", ["2:planes-2,pillow-2", "", "a;b", "a;b;c;d"])
def test_code_versions_of_another_form_are_not_relied_on(text: str) -> None:
    assert versions.Versions.of(text) is None


def test_the_parts_of_a_code_version_say_what_holds() -> None:
    of = versions.Versions.of(versions.CODE_VERSION)
    assert of is not None
    assert (of.members, of.index) == (versions.MEMBERS, versions.INDEX)
    assert of.makes(f"{pixels.PLANES}+{pixels.CONVERTED}", pixels.LUMA_HASH)
    assert not of.makes(f"{pixels.PLANES}+srgb-0", pixels.LUMA_HASH)
    assert not of.makes(pixels.KEPT, "luma-0")


def test_failed_images_alone_are_tried_again(folder: Path, store: Store, tmp_path: Path, tables: None) -> None:
    source = Counting(str(folder))
    ingest(source, store, IDS)
    made = ingest(source, store, IDS, retry=True)
    assert not made.reused
    read = {(place.offset, place.size) for place in source.places}
    assert sorted(size for _, size in read) == sorted(map(len, (picture(4)[:300], b"<html>")))
    assert left(store) == fresh(folder, tmp_path / "fresh", IDS)
    clean = Counting(str(folder))
    ingest(clean, store, IDS[:2])
    assert ingest(clean, store, IDS[:2], retry=True).reused  # a hostile name is not tried again
    assert clean.places == []


def test_an_image_that_decodes_now_is_stored_by_a_retry(
    folder: Path, store: Store, tmp_path: Path, tables: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a run that had not the memory for it, or with a decoder that has learnt its format."""
    source = Counting(str(folder))
    well = ingest_module.downsize
    failing = picture(3)
    with monkeypatch.context() as patch:
        patch.setattr(
            ingest_module,
            "downsize",
            lambda data, recipe: (
                ingest_module.Refused("undecodable: MemoryError") if data == failing else well(data, recipe)
            ),
        )
        first = ingest(source, store, IDS)
    assert ingest(source, store, IDS).reused
    again = ingest(source, store, IDS, retry=True)
    assert again.receipt.summary["stored"] == int(first.receipt.summary["stored"] or 0) + 1
    assert left(store) == fresh(folder, tmp_path / "fresh", IDS)


@pytest.mark.parametrize("damage", ["stored bytes", "source bytes", "no TAR", "no index", "index"])
def test_what_does_not_hold_is_read_anew(damage: str, folder: Path, store: Store, tmp_path: Path, tables: None) -> None:
    source = Counting(str(folder))
    ingest(source, store, IDS[:8])
    tar, index = (Path(store.url) / "images" / "train" / f"000.{kind}" for kind in ("tar", "parquet"))
    shard = folder / "train" / "images_000.tar"
    whole = shard.read_bytes()
    if damage == "stored bytes":
        data = bytearray(tar.read_bytes())
        data[700] ^= 1
        tar.write_bytes(data)
    elif damage == "source bytes":
        # The published MD5 stays: the damage is on the way of one read, as from a bad disk.
        data = bytearray(whole)
        data[whole.index(picture(9)) + 100] ^= 1
        shard.write_bytes(data)
    elif damage == "no TAR":
        tar.unlink()
    elif damage == "no index":
        index.unlink()
    else:
        index.write_bytes(random.Random(0).randbytes(index.stat().st_size))
    if damage == "source bytes":
        with pytest.raises(SourceError, match="MD5"):
            ingest(source, store, IDS)
        run = find_run(store, "train", "000")
        assert run is not None
        assert run.outcome == "failed"
        shard.write_bytes(whole)
    ingest(source, store, IDS)
    assert left(store) == fresh(folder, tmp_path / "fresh", IDS)


def test_the_run_is_told_beside_the_shard_and_in_no_receipt(folder: Path, store: Store, tables: None) -> None:
    made = ingest(BucketSource(str(folder)), store, IDS)
    run = find_run(store, "train", "000")
    assert run is not None
    assert run.outcome == "ingested"
    assert run.members == made.receipt.summary
    assert run.members["seen"] == sum(int(run.members[name] or 0) for name in ("stored", "skipped", "failed"))
    failures = sum(int(count or 0) for name, count in run.members.items() if name.startswith("failed: "))
    assert failures == run.members["failed"]
    assert made.run["seconds"] == run.seconds
    assert "seconds" not in made.receipt.model_dump_json()
    reused = ingest(BucketSource(str(folder)), store, IDS)
    assert (reused.reused, reused.run) == (True, {})
    assert find_run(store, "train", "000") == run
