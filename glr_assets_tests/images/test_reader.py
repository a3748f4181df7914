"""Images by id: beside tarfile's own reading, brute force over names, damage, other processes and S3."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import tarfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.errors import GlrError, MissingInputError, SourceError, StoreError
from glr_assets.images.catalog import make_image_catalog
from glr_assets.images.members import image_id
from glr_assets.images.reader import ImageReader, Places, SourceReader
from glr_assets.images.schemas import IMAGE_INDEX, STORED_TAR
from glr_assets.source import BucketSource, KaggleSource, Source
from glr_assets.source.layout import shard_path
from glr_assets.store import Store
from glr_assets.tables import read_table, write_table
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

IDS = [identifier(n) for n in range(14)]
WANTED, UNWANTED, LINK, LARGE, TWICE = IDS[:8], IDS[8:10], IDS[10], IDS[11], IDS[12]
RECIPE = TINY.overridden({"images": {"max_member_bytes": 20_000}, "fill": {"threshold": 1}})
FIRST = [
    Entry("a", type=tarfile.DIRTYPE),
    *(photo(i, picture(n)) for n, i in enumerate(WANTED[:5])),
    Entry(photo(LINK, b"").name, type=tarfile.SYMTYPE, linkname="elsewhere"),
    photo(LARGE, bytes(20_001)),
    photo(TWICE, b"first"),
    photo(UNWANTED[0], picture(8)),
]
SECOND = [
    *(photo(i, picture(n)) for n, i in enumerate(WANTED[5:], 5)),
    photo(UNWANTED[1], picture(9)),
    photo(TWICE, b"second"),
    photo(WANTED[0], picture(50)),
]


@pytest.fixture
def source(tmp_path: Path) -> BucketSource:
    shards = {"000": tar_of(FIRST), "001": tar_of(SECOND)}
    bucket = Bucket(dict.fromkeys(IDS, 1), [*WANTED, LINK, LARGE], {"train": shards})
    return BucketSource(bucket.write(tmp_path / "bucket"))


@pytest.fixture
def ingested(source: BucketSource, store: Store) -> Store:
    make_tables(source, store, RECIPE)
    for shard in source.shards("train"):
        ingest(source, store, RECIPE, "train", shard)
    make_image_catalog(source, store)
    return store


def on_s3(folder: str, endpoint: str) -> Store:
    """The files of a folder in a bucket of their own."""
    bucket = f"reader-{uuid.uuid4().hex}"
    store = Store(f"s3://{bucket}/below", {"endpoint_url": endpoint})
    store.fs.mkdir(bucket)
    store.fs.put(f"{folder}/", f"{bucket}/below/", recursive=True)
    return store


def members(tar: bytes) -> dict[str, bytes]:
    """What tarfile reads of an archive: the first file of each id that has bytes within the limit."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for entry in archive:
            known = image_id(entry.name)
            file = archive.extractfile(entry) if entry.isreg() and entry.size <= 20_000 else None
            if known and file:
                found.setdefault(known, file.read())
    return found


def stored_images(store: Store) -> dict[str, bytes]:
    """What tarfile reads of both stored shards; of an id in both, the first's."""
    first, second = (members(store.read(STORED_TAR.format(split="train", shard=shard))) for shard in ("000", "001"))
    assert WANTED[0] in first.keys() & second.keys()
    return {**second, **first}


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_stored_images_are_what_tarfile_reads(ingested: Store, where: str, request: pytest.FixtureRequest) -> None:
    expected = stored_images(ingested)
    assert sorted(expected) == sorted(WANTED)
    store = ingested if where == "folder" else on_s3(ingested.root, request.getfixturevalue("s3_endpoint"))
    reader = ImageReader.of_split(store, "train")
    assert reader.ids == sorted(WANTED)
    assert len(reader) == len(WANTED)
    assert {i: reader.read(i) for i in WANTED} == expected
    order = [WANTED[3], WANTED[7], WANTED[3], *reversed(WANTED)]
    assert list(reader.read_many(iter(order))) == [expected[i] for i in order]
    assert list(reader.read_many([])) == []
    of_shard = ImageReader.of_shard(store, "train", "001")
    assert of_shard.ids == sorted([*WANTED[5:], WANTED[0]])
    assert of_shard.read(WANTED[0]) != expected[WANTED[0]]
    assert of_shard.read(WANTED[6]) == expected[WANTED[6]]


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_members_of_the_source_are_what_tarfile_reads_wanted_or_not(
    ingested: Store, source: BucketSource, where: str, request: pytest.FixtureRequest
) -> None:
    shards = [source.files.read(shard_path("train", shard)) for shard in ("000", "001")]
    first, second = (members(tar) for tar in shards)
    expected = {**second, **first}
    assert sorted(expected) == sorted([*WANTED, *UNWANTED, TWICE])
    if where == "s3":
        endpoint = request.getfixturevalue("s3_endpoint")
        source = BucketSource(on_s3(source.files.root, endpoint).url, {"endpoint_url": endpoint})
    reader = SourceReader.of_split(ingested, source, "train")
    assert reader.ids == sorted([*expected, LINK, LARGE])
    assert {i: reader.read(i) for i in expected} == expected
    assert list(reader.read_many(expected)) == list(expected.values())
    of_shard = SourceReader.of_shard(ingested, source, "train", "001")
    assert {i: of_shard.read(i) for i in of_shard.ids} == second


def test_of_a_repeated_id_the_member_that_was_stored_is_read(tmp_path: Path, store: Store) -> None:
    entries = [photo(IDS[0], b"corrupt"), photo(IDS[0], picture(1)), photo(IDS[0], picture(2))]
    bucket = Bucket({IDS[0]: 1}, [IDS[0]], {"train": {"000": tar_of(entries)}})
    source = BucketSource(bucket.write(tmp_path / "bucket"))
    make_tables(source, store, RECIPE)
    ingest(source, store, RECIPE, "train", "000")
    assert SourceReader.of_shard(store, source, "train", "000").read(IDS[0]) == picture(1)


@pytest.mark.parametrize(("member", "told"), [(LINK, "is not a file"), (LARGE, "over the size limit")])
def test_members_without_bytes_are_refused_by_name(
    ingested: Store, source: BucketSource, member: str, told: str
) -> None:
    reader = SourceReader.of_split(ingested, source, "train")
    for read in (reader.read, lambda i: list(reader.read_many([i])), lambda i: reader.rows([WANTED[0], i])):
        with pytest.raises(MissingInputError, match=rf"image {member}: .*000\.tar .*{told}.*glr why {member}"):
            read(member)


def test_an_id_that_is_nowhere_is_named(ingested: Store, source: BucketSource) -> None:
    stored, members = ImageReader.of_split(ingested, "train"), SourceReader.of_split(ingested, source, "train")
    for reader in (stored, members):
        for name in ("nobody", "x" * 80, "", IDS[0] + "\0", "é"):
            assert name not in reader
            with pytest.raises(MissingInputError, match=f"image {name} is "):
                reader.read(name)
    with pytest.raises(MissingInputError, match=f"image {UNWANTED[0]} is not stored"):
        stored.rows([WANTED[0], UNWANTED[0]])


def test_a_kaggle_folder_is_read_by_id(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "competition"
    for n, name in enumerate(WANTED):
        path = folder / "train" / name[0] / name[1] / name[2] / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(n))
    (folder / "train.csv").write_text("id,landmark_id\n" + "".join(f"{i},1\n" for i in WANTED))
    source = KaggleSource(str(folder))
    make_tables(source, store, RECIPE)
    for shard in source.shards("train"):
        ingest(source, store, RECIPE, "train", shard)
    make_image_catalog(source, store)
    reader = SourceReader.of_split(store, source, "train")
    assert list(reader.read_many(WANTED)) == [picture(n) for n in range(len(WANTED))]


def flipped(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def readers(store: Store, source: Source) -> Iterator[tuple[ImageReader | SourceReader, Path, type[GlrError]]]:
    yield ImageReader.of_split(store, "train"), Path(store.root) / "images/train/000.tar", StoreError
    folder = Path(source.files.root)  # type: ignore[attr-defined]
    yield SourceReader.of_split(store, source, "train"), folder / "train/images_000.tar", SourceError


def test_a_changed_byte_is_told_with_file_place_and_mend(ingested: Store, source: BucketSource) -> None:
    for reader, path, kind in readers(ingested, source):
        place = reader.places.place(reader.row(WANTED[2]))
        assert reader.read(WANTED[2])
        flipped(path, place.offset + place.size - 1)
        told = rf"image {WANTED[2]}: .*{place.name}, {place.size} bytes at {place.offset}: XXH3 is .* ingest it again"
        for read in (reader.read, lambda i, reader=reader: list(reader.read_many([WANTED[1], i]))):
            with pytest.raises(kind, match=told) as error:
                read(WANTED[2])
            assert "\n" not in str(error.value)
        assert reader.read(WANTED[1])


def test_a_file_that_is_cut_or_gone_is_told_with_the_image(ingested: Store, source: BucketSource) -> None:
    last = WANTED[4]
    for reader, path, kind in readers(ingested, source):
        place = reader.places.place(reader.row(last))
        with path.open("rb+") as file:
            file.truncate(place.offset + 1)
        for break_off in (lambda: None, path.unlink):
            break_off()
            for read in (reader.read, lambda i, reader=reader: list(reader.read_many([i]))):
                with pytest.raises(kind, match=rf"image {last}: .*{place.name}"):
                    read(last)


def test_bytes_without_a_digest_are_given_as_they_are(ingested: Store) -> None:
    index = read_table(ingested, IMAGE_INDEX, split="train", shard="000")
    field = index.schema.get_field_index("stored_xxh3")
    blank = index.set_column(field, "stored_xxh3", pa.nulls(index.num_rows, pa.uint64()))
    reader = ImageReader.of_shard(ingested, "train", "000")
    with ingested.writing(IMAGE_INDEX.at(split="train", shard="000")) as file:
        write_table(IMAGE_INDEX, blank, file)
    place = reader.places.place(reader.row(WANTED[2]))
    flipped(Path(ingested.root) / place.name, place.offset)
    with pytest.raises(StoreError, match="XXH3"):
        reader.read(WANTED[2])
    assert len(ImageReader.of_shard(ingested, "train", "000").read(WANTED[2])) == place.size


def _read_there(reader: ImageReader | SourceReader, names: list[str]) -> list[bytes]:
    return [reader.read(names[0]), *reader.read_many(names[1:])]


@pytest.mark.parametrize(("where", "start"), [("folder", "fork"), ("s3", "fork"), ("s3", "spawn")])
def test_readers_work_in_other_processes(
    ingested: Store, source: BucketSource, where: str, start: str, request: pytest.FixtureRequest
) -> None:
    store = ingested
    if where == "s3":
        endpoint = request.getfixturevalue("s3_endpoint")
        store = on_s3(ingested.root, endpoint)
        source = BucketSource(on_s3(source.files.root, endpoint).url, {"endpoint_url": endpoint})
    for reader in (ImageReader.of_split(store, "train"), SourceReader.of_split(store, source, "train")):
        expected = _read_there(reader, WANTED)  # its connections are open when the others begin
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(start)) as pool:
            there = [pool.submit(_read_there, reader, WANTED) for _ in range(2)]
            assert [future.result(timeout=60) for future in there] == [expected, expected]


_INHERITED: list[ImageReader] = []


def _read_inherited() -> list[bytes]:
    return _read_there(_INHERITED[0], WANTED)


def test_a_reader_of_s3_that_a_fork_inherits_opens_its_own_connections(ingested: Store, s3_endpoint: str) -> None:
    _INHERITED[:] = [ImageReader.of_split(on_s3(ingested.root, s3_endpoint), "train")]
    expected = _read_inherited()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        assert pool.submit(_read_inherited).result(timeout=60) == expected
    assert _read_inherited() == expected


def test_one_reader_serves_several_threads(ingested: Store) -> None:
    reader, expected = ImageReader.of_split(ingested, "train"), stored_images(ingested)
    order = [WANTED[int(n)] for n in np.random.default_rng(0).integers(0, len(WANTED), 400)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(reader.read, order)) == [expected[i] for i in order]


def part(rows: list[tuple[str, str, int, int | None, int, bool]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [[]] * 6
    name, path, offset, xxh3, obstacle, stored = (list(column) for column in columns)
    return pa.table(
        {
            "id": pa.chunked_array([name], pa.string()),
            "path": pa.chunked_array([path], pa.string()),
            "offset": pa.array(offset, pa.int64()),
            "size": pa.array([7] * len(rows), pa.int64()),
            "xxh3": pa.array(xxh3, pa.uint64()),
            "obstacle": pa.array(obstacle, pa.int64()),
            "stored": pa.array(stored, pa.bool_()),
        }
    )


names = st.text("ab-0", min_size=1, max_size=5)
rows = st.tuples(
    names,
    st.sampled_from(["x/0", "x/1", "y"]),
    st.integers(0, 2**40),
    st.none() | st.integers(0, 2**64 - 1),
    st.integers(0, 2),
    st.booleans(),
)


def rank(row: tuple[Any, ...]) -> int:
    """0 of the member that was stored, 1 of one with bytes, else 2."""
    return 0 if row[5] else 1 + (row[4] > 0)


@given(parts=st.lists(st.lists(rows, max_size=6), max_size=4), asked=st.lists(names | st.text(max_size=7), max_size=8))
def test_places_are_those_of_a_search_through_all_rows(parts: list[list[Any]], asked: list[str]) -> None:
    places = Places.of(part(rows) for rows in parts)
    best: dict[str, Any] = {}
    for row in (row for rows in parts for row in rows):
        if row[0] not in best or rank(row) < rank(best[row[0]]):
            best[row[0]] = row
    assert [i.decode() for i in places.ids.tolist()] == sorted(best)
    for name in [*best, *asked]:
        row = places.row(name)
        assert (row is None) == (name not in best)
        if row is not None:
            place = places.place(row)
            assert places.name(row) == name
            assert (name, place.name, place.offset, places.xxh3(row)) == best[name][:4]
            assert (places.obstacle(row) == "") == (best[name][4] == 0)
    whole = [name for name in [*best, *asked] if not name.endswith("\0")]
    assert places.rows(whole).tolist() == [sorted(best).index(name) if name in best else -1 for name in whole]


def test_places_take_at_most_64_bytes_an_image_also_on_their_way_to_a_process() -> None:
    many = [(identifier(n), "images/train/000.tar", n, n, 0, True) for n in range(5000)]
    places = Places.of([part(many[:2500]), part(many[2500:])])
    assert places.nbytes <= 64 * len(places)
    assert len(pickle.dumps(places)) <= 64 * len(places)


def test_the_digest_is_xxh3_of_64_bits(ingested: Store) -> None:
    reader = ImageReader.of_split(ingested, "train")
    digests = [reader.places.xxh3(reader.row(i)) for i in WANTED]
    assert digests == [xxhash.xxh3_64_intdigest(data) for data in reader.read_many(WANTED)]
