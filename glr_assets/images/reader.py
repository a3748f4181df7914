"""Any stored image, or any member of the source, by its id: one range read through the index.

At GLDv2's size a reader knows millions of ids. It keeps them as sorted arrays, about 45 bytes an image, which
pass to other processes as they are.
"""

from __future__ import annotations

import os
import pickle
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from glr_assets.errors import DamagedFileError, GlrError, MissingInputError, SourceError, StoreError, about
from glr_assets.images.schemas import IMAGE_CATALOG, IMAGE_INDEX, IMAGE_LOCATIONS, STORED_TAR
from glr_assets.ranges import Place, read_ranges
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.store import READ_BLOCK, Store
from glr_assets.tables import fixed_width, read_parts, read_table

_STORED = ["id", "status", "stored_offset", "stored_size", "stored_xxh3"]
_LOCATED = ["id", "shard", "stored_offset", "stored_size", "stored_xxh3"]
#: So many images are looked up by reads of single row groups of some hundred kilobytes.
_FEW, _LOOKUP_BLOCK = 256, 2**18
_SOURCE = ["id", "status", "kind", "source_path", "source_offset", "source_size", "source_xxh3"]

#: Why bytes of a member cannot be read, by number; 0 is none.
_OBSTACLES = ("", "is not a file", "was not read: it is over the size limit")

Rows = npt.NDArray[np.int64]
Opened = TypeVar("Opened", Store, Source)


#: What is known of an image beside its id. `file` is a row of `Places.paths`, `obstacle` of `_OBSTACLES`; `xxh3` is of
#: the bytes, where `digested` says that it is known.
_PLACE = np.dtype(
    [
        ("file", np.int32),
        ("offset", np.int64),
        ("size", np.int64),
        ("xxh3", np.uint64),
        ("digested", np.bool_),
        ("obstacle", np.uint8),
    ]
)


@dataclass(frozen=True, eq=False)
class Places:
    """Where the bytes of images lie: one row an image, sorted by id, each id once.

    Attributes:
        ids: [n] UTF-8 bytes of numpy's fixed width.
        places: [n] records of `_PLACE`.
        paths: the files they lie in.
    """

    ids: npt.NDArray[np.bytes_]
    places: npt.NDArray[np.void]
    paths: pa.StringArray

    @classmethod
    def of(cls, parts: Iterable[pa.Table]) -> Places:
        """Places from tables of `id, path, offset, size, xxh3, obstacle, stored`.

        Of a repeated id the row that is stored counts, else the first without an obstacle, else the first.
        """
        ids, places, ranks, paths = [np.zeros(0, "S1")], [np.zeros(0, _PLACE)], [np.zeros(0, np.uint8)], []
        files = 0
        for part in parts:
            path = part["path"].combine_chunks().dictionary_encode()
            place = np.zeros(part.num_rows, _PLACE)
            place["file"] = path.indices.to_numpy() + files
            place["offset"], place["size"] = part["offset"].to_numpy(), part["size"].to_numpy()
            place["xxh3"] = pc.fill_null(part["xxh3"], pa.scalar(0, pa.uint64())).to_numpy()
            place["digested"] = part["xxh3"].is_valid().to_numpy()
            place["obstacle"] = part["obstacle"].to_numpy()
            ids.append(fixed_width(part["id"]))
            places.append(place)
            ranks.append(np.where(part["stored"].to_numpy(), 0, 1 + (place["obstacle"] > 0)).astype(np.uint8))
            paths.append(path.dictionary)
            files += len(path.dictionary)
        # Arrays that are as large as the result go as soon as they can.
        names, records = np.concatenate(ids), np.concatenate(places)
        ids.clear()
        places.clear()
        order, names = _by_id(names, np.concatenate(ranks))
        for field in records.dtype.names or ():
            records[field][: len(order)] = records[field][order]
        return cls(names, records[: len(order)], pa.concat_arrays([pa.array([], pa.string()), *paths]))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.ids.nbytes + self.places.nbytes + int(self.paths.nbytes)

    def row(self, image_id: str) -> int | None:
        """The row of an id, or None where it is not there."""
        key = image_id.encode()
        if len(key) > self.ids.itemsize:  # for which numpy would widen every id
            return None
        row = int(self.ids.searchsorted(np.bytes_(key)))
        return row if row < len(self.ids) and self.ids[row] == key else None

    def rows(self, ids: Sequence[str] | pa.ChunkedArray) -> Rows:
        """The rows of many ids, in their order; -1 where one is not there."""
        keys = fixed_width(ids if isinstance(ids, pa.ChunkedArray) else pa.array(ids, pa.string()))
        found = np.full(len(keys), -1, np.int64)
        if len(self.ids):
            rows = np.minimum(self.ids.searchsorted(keys), len(self.ids) - 1)
            here = self.ids[rows] == keys
            found[here] = rows[here]
        return found

    def in_file_order(self) -> Rows:
        """All rows in the order in which their bytes lie, file by file."""
        return np.lexsort((self.places["offset"], self.places["file"]))

    def name(self, row: int) -> str:
        """The id of a row."""
        return bytes(self.ids[row]).decode()

    def place(self, row: int) -> Place:
        """File and range of a row."""
        file, offset, size, *_ = self.places[row].item()
        return Place(self.paths[file].as_py(), offset, size)

    def xxh3(self, row: int) -> int | None:
        """XXH3 of a row's bytes, or None where it is not known."""
        place = self.places[row]
        return int(place["xxh3"]) if place["digested"] else None

    def obstacle(self, row: int) -> str:
        """Why the bytes of a row cannot be read; empty where they can."""
        return _OBSTACLES[self.places[row]["obstacle"]]


def _by_id(
    ids: npt.NDArray[np.bytes_], ranks: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bytes_]]:
    """The ids in their order, each once, and where they stood; of a repeated one the first of the lowest rank."""
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    first = np.ones(len(ids), bool)
    first[1:] = ids[1:] != ids[:-1]
    if first.all():
        return order, ids
    group = np.empty(len(ids), np.int64)
    group[order] = np.cumsum(first)
    return np.lexsort((ranks, group))[first], ids[first]


class _Reader(ABC, Generic[Opened]):
    """Bytes by id from what is opened: the store, or the source."""

    def __init__(self, opened: Opened, places: Places) -> None:
        self.places = places
        self._opened: Opened = opened
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, image_id: str) -> bool:
        return self.places.row(image_id) is not None

    @property
    def ids(self) -> list[str]:
        """The ids that can be read, sorted."""
        return [image_id.decode() for image_id in self.places.ids.tolist()]

    def read(self, image_id: str) -> bytes:
        """The bytes of an image, verified by the index where it has their digest.

        Raises:
            MissingInputError: there is none of that id, or it has no bytes that can be read.
            StoreError, SourceError: they cannot be read, or are not what the index says.
        """
        return self.read_row(self.row(image_id))

    def read_row(self, row: int) -> bytes:
        """The same of a row of `places`, as `row` and `rows` give it."""
        return self._verified(row, self._read(self.places.place(row)))

    def read_many(self, ids: Iterable[str]) -> Iterator[bytes]:
        """The bytes of these images in their order; of a remote store several ranges are in flight.

        Raises:
            As `read`.
        """
        return self.read_rows(self.row(image_id) for image_id in ids)

    def read_rows(self, rows: Iterable[int]) -> Iterator[bytes]:
        """The same of rows of `places`."""
        for found in self.try_rows(rows):
            if isinstance(found, GlrError):
                raise found
            yield found

    def try_rows(self, rows: Iterable[int]) -> Iterator[bytes | GlrError]:
        """As `read_rows`, with the error in the place of an image that cannot be read; those after it come.

        Rows must be of images that are there, as `row` and `rows` give them.
        """
        asked: deque[int] = deque()

        def places() -> Iterator[Place]:
            for row in rows:
                asked.append(row)
                yield self.places.place(row)

        for data in self._read_many(places()):
            try:
                found: bytes | GlrError = self._verified(asked.popleft(), data)
            except GlrError as error:
                found = error
            yield found

    def row(self, image_id: str) -> int:
        """The row of an image in `places`.

        Raises:
            MissingInputError: there is none of that id, or it has no bytes that can be read.
        """
        row = self.places.row(image_id)
        if row is None:
            raise self._absent(image_id)
        obstacle = self.places.obstacle(row)
        if obstacle:
            raise MissingInputError(
                f"image {image_id}: its member in {self.places.place(row).name} of {self._here.url} {obstacle}; "
                f"see `glr why {image_id}`"
            )
        return row

    def rows(self, ids: Sequence[str] | pa.ChunkedArray) -> Rows:
        """The rows of many images in `places`, found together.

        Raises:
            MissingInputError: as `row`, for the first that cannot be read.
        """
        rows = self.places.rows(ids)
        wrong = rows < 0
        wrong[~wrong] = self.places.places["obstacle"][rows[~wrong]] > 0
        if wrong.any():
            self.row(str(ids[int(wrong.argmax())]))
        return rows

    @property
    def _here(self) -> Opened:
        """What is opened, opened anew in a process that was forked: connections and loops do not pass over."""
        if self._process != os.getpid():
            self._opened, self._process = pickle.loads(pickle.dumps(self._opened)), os.getpid()
        return self._opened

    def _verified(self, row: int, data: bytes | GlrError) -> bytes:
        places = self.places
        if isinstance(data, GlrError):
            raise about(f"image {places.name(row)}", data) from data
        expected = places.xxh3(row)
        if expected is not None and xxhash.xxh3_64_intdigest(data) != expected:
            place = places.place(row)
            raise self._changed(
                f"image {places.name(row)}: {self._here.url}/{place.name}, {place.size} bytes at {place.offset}: "
                f"XXH3 is {xxhash.xxh3_64_hexdigest(data)}, expected {expected:016x} by the index",
                place.name,
            )
        return data

    @abstractmethod
    def _read(self, place: Place) -> bytes | GlrError: ...

    @abstractmethod
    def _read_many(self, places: Iterable[Place]) -> Iterator[bytes | GlrError]: ...

    @abstractmethod
    def _absent(self, image_id: str) -> GlrError: ...

    @abstractmethod
    def _changed(self, what: str, path: str) -> GlrError: ...


class ImageReader(_Reader[Store]):
    """JPEG bytes of stored images by id; usable from several threads, and in processes that are forked or spawned."""

    @classmethod
    def of_split(cls, store: Store, split: Split, ids: Sequence[str] | None = None) -> ImageReader:
        """A reader of a split's stored images, or of these ids among them, through the catalog's locations.

        Memory and reads are those of the images asked for: of a few, a few row groups are read.
        """
        return cls(store, Places.of(_locations(store, split, ids)))

    @classmethod
    def of_shard(cls, store: Store, split: Split, shard: str) -> ImageReader:
        """A reader of one shard's stored images, through the shard's own index."""
        index = read_table(store, IMAGE_INDEX, _STORED, split=split, shard=shard)
        return cls(store, Places.of([_stored(index, split, pa.repeat(shard, index.num_rows))]))

    @property
    def store(self) -> Store:
        """Where the images lie."""
        return self._here

    @property
    def read_ahead(self) -> Callable[[Iterable[str]], Iterator[bytes]] | None:
        """`read_many` of a remote store, whose requests must overlap; None of a local one, read where it is needed."""
        return None if self._here.is_local else self.read_many

    def _read(self, place: Place) -> bytes | GlrError:
        if not self._here.is_local:
            return next(read_ranges(self._here, [place]))
        try:
            return self._here.read(place.name, place.offset, place.size)
        except FileNotFoundError:
            return StoreError(f"{self._here.full_url(place.name)}: there is no such file; ingest its shard again")
        except StoreError as error:
            return error

    def _read_many(self, places: Iterable[Place]) -> Iterator[bytes | GlrError]:
        # A local read is shorter than handing it to a thread.
        return map(self._read, places) if self._here.is_local else read_ranges(self._here, places)

    def _absent(self, image_id: str) -> GlrError:
        return MissingInputError(f"image {image_id} is not stored in {self._here.url}: see `glr why {image_id}`")

    def _changed(self, what: str, path: str) -> GlrError:
        return DamagedFileError(
            f"{what}; if the shard was ingested again, materialise image_catalog, else ingest it again", path
        )


class SourceReader(_Reader[Source]):
    """Bytes of the source's members by id, wanted or not; usable as `ImageReader` is.

    Of a repeated id it is the member that was stored, else the first that has bytes.
    """

    @classmethod
    def of_split(cls, store: Store, source: Source, split: Split, ids: Sequence[str] | None = None) -> SourceReader:
        """A reader of the members of a split's ingested shards, or of these ids among them, through the catalog."""
        parts = read_parts(store, IMAGE_CATALOG, _SOURCE, {"split": split}, _among(ids))
        return cls(source, Places.of(_members(part) for part in parts))

    @classmethod
    def of_shard(cls, store: Store, source: Source, split: Split, shard: str) -> SourceReader:
        """A reader of the members of one ingested shard, through the shard's own index."""
        index = read_table(store, IMAGE_INDEX, _SOURCE, split=split, shard=shard)
        return cls(source, Places.of([_members(index)]))

    @property
    def source(self) -> Source:
        """Where the members lie."""
        return self._here

    def _read(self, place: Place) -> bytes | GlrError:
        return next(self._here.read_members([place]))

    def _read_many(self, places: Iterable[Place]) -> Iterator[bytes | GlrError]:
        return self._here.read_members(places)

    def _absent(self, image_id: str) -> GlrError:
        return MissingInputError(
            f"image {image_id} is a member of no ingested shard of {self._here.url}: see `glr why {image_id}`"
        )

    def _changed(self, what: str, path: str) -> GlrError:
        return SourceError(
            f"{what}; the source has changed or was damaged since it was indexed: fix it, or ingest it again "
            "with [execution] force"
        )


def _among(ids: Sequence[str] | pa.ChunkedArray | None) -> dict[str, npt.NDArray[np.bytes_]]:
    """Of `read_parts`: these ids, or all where there are none."""
    if ids is None:
        return {}
    return {"id": np.unique(fixed_width(ids if isinstance(ids, pa.ChunkedArray) else pa.array(ids, pa.string())))}


def _locations(store: Store, split: Split, ids: Sequence[str] | pa.ChunkedArray | None) -> Iterator[pa.Table]:
    """Where stored images lie, of the catalog's locations, a row group at a time."""
    # Whoever asks for a few images reads a few groups, far apart; who asks for all, one after another.
    few = ids is not None and len(ids) < _FEW
    block = _LOOKUP_BLOCK if few else READ_BLOCK
    for part in read_parts(store, IMAGE_LOCATIONS, _LOCATED, {"split": split}, _among(ids), block=block):
        yield _stored_places(part, split, part["shard"])


def _stored(rows: pa.Table, split: Split, shard: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Where stored images lie, of rows of an index and their shards."""
    rows = rows.append_column("shard", shard)
    stored = rows.filter(pc.equal(rows["status"], "stored"))
    return _stored_places(stored, split, stored["shard"])


def _stored_places(stored: pa.Table, split: Split, shard: pa.ChunkedArray) -> pa.Table:
    """The same of rows that are all of stored images."""
    before, after = STORED_TAR.format(split=split, shard="\0").split("\0")
    return pa.table(
        {
            "id": stored["id"],
            "path": pc.binary_join_element_wise(before, shard, after, ""),
            "offset": stored["stored_offset"],
            "size": stored["stored_size"],
            "xxh3": stored["stored_xxh3"],
            "obstacle": pa.repeat(0, stored.num_rows),
            "stored": pa.repeat(True, stored.num_rows),
        }
    )


def _members(rows: pa.Table) -> pa.Table:
    """Where members of the source lie, of rows of an index, and why some cannot be read."""
    named = rows.filter(pc.is_valid(rows["id"]))
    # Ingest takes the digest of every file that it reads.
    unread = pc.if_else(pc.is_null(named["source_xxh3"]), 2, 0)
    return pa.table(
        {
            "id": named["id"],
            "path": named["source_path"],
            "offset": named["source_offset"],
            "size": named["source_size"],
            "xxh3": named["source_xxh3"],
            "obstacle": pc.if_else(pc.equal(named["kind"], "file"), unread, 1),
            "stored": pc.equal(named["status"], "stored"),
        }
    )
