"""Tables: one schema a table, which feeds its writer, its check and the columns shown in the UI.

What belongs here: what a table is. Each stage keeps the schemas of its own tables.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from glr_assets.errors import DamagedTableError, MissingInputError, TableError
from glr_assets.store import READ_BLOCK, Store

#: What Arrow raises of a damaged file, whatever it stumbles over first.
_DAMAGE = (
    pa.ArrowInvalid,
    pa.ArrowNotImplementedError,
    pa.ArrowIndexError,
    pa.ArrowTypeError,
    pa.ArrowKeyError,
    OSError,
    UnicodeDecodeError,
)
#: Rows that tell which columns repeat their values.
_SAMPLE = 10_000
#: Rows of a row group at most: of a sorted table, a reader who looks for one key reads one group.
ROWS_A_GROUP = 2**17
#: Bytes of a column of strings that are joined.
_MOST_STRINGS = 2**30
#: Rows that are held as records before they are packed into columns.
_RECORDS = 2048


@dataclass(frozen=True)
class Column:
    """One column: its Arrow type, what a value means, and whether a value may be absent."""

    name: str
    type: pa.DataType
    description: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """A table in the store: where it lies, what a row is, its columns and the columns that name a row."""

    path: str
    grain: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    parts: tuple[str, ...] = ()
    """the columns of the key by which a table too large for memory is parted: rows of a part stand together"""

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema that files of this table have."""
        return pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns])

    def at(self, **partition: str) -> str:
        """The path of one file of a table whose path has places, as `images/{split}/{shard}.parquet`."""
        return self.path.format(**partition)

    def empty(self) -> pa.Table:
        """No rows, in this table's schema."""
        return self.schema.empty_table()

    def rows(self, rows: Iterable[dict]) -> pa.Table:
        """Records as this table."""
        return pa.Table.from_pylist(list(rows), schema=self.schema)


def problems(table: Table, data: pa.Table) -> list[str]:
    """What in `data` breaks `table`'s schema: columns, types, absent values, repeated keys; none is well."""
    found = []
    names = data.schema.names
    expected = [c.name for c in table.columns]
    if names != expected:
        return [f"columns are {names}, expected {expected}"]
    for column in table.columns:
        values = data[column.name]
        if values.type != column.type:
            found.append(f"column {column.name} is {values.type}, expected {column.type}")
        if not column.nullable and values.null_count:
            found.append(f"column {column.name} has {values.null_count} absent values, expected none")
    return found or (_key_problems(table, [data]) if table.key else [])


def stored_problems(store: Store, table: Table) -> list[str]:
    """What in the stored file breaks the table's schema, as `problems` tells; a row group at a time is in memory.

    Raises:
        MissingInputError: it has not been made.
        TableError: the file is not Parquet, or lacks a column.
    """
    found: dict[str, None] = {}
    keys: list[pa.Table] = []
    done: set[tuple[object, ...]] = set()
    latest: tuple[object, ...] = ()
    whole = dataclasses.replace(table, key=())
    for part in read_parts(store, table, table.schema.names):
        if not part.num_rows:
            continue
        found |= dict.fromkeys(problems(whole, part))
        name = tuple(part[column][0].as_py() for column in table.parts)
        if name != latest:
            found |= dict.fromkeys(_key_problems(table, keys))
            keys = []
            if name in done:
                found[f"rows of {name} do not stand together"] = None
            done.add(name)
            latest = name
        keys.append(part.select(list(table.key)))
    return list(found | dict.fromkeys(_key_problems(table, keys)))


def _key_problems(table: Table, rows: list[pa.Table]) -> list[str]:
    keys = pa.concat_tables(part.select(list(table.key)) for part in rows) if rows else None
    if keys is None or not keys.num_rows:
        return []
    repeated = repeated_keys(keys, table.key)
    if not repeated.num_rows:
        return []
    return [f"{repeated.num_rows} keys stand more than once, the first {repeated.slice(0, 1).to_pylist()[0]}"]


def repeated_keys(data: pa.Table, key: Sequence[str]) -> pa.Table:
    """The values of the columns `key` that more than one row has."""
    first = data[key[0]]
    rising = pc.less(first.slice(0, max(len(first) - 1, 0)), first.slice(1))
    if pc.all(rising, skip_nulls=False).as_py():  # as in a sorted table: nothing to count
        return data.select(list(key)).slice(0, 0)
    grouped = data.select(list(key)).group_by(list(key), use_threads=False).aggregate([([], "count_all")])
    return grouped.filter(pc.greater(grouped["count_all"], 1)).select(list(key))


def write_table(table: Table, data: pa.Table, file: IO[bytes]) -> None:
    """Write `data` as Parquet; the same rows give the same bytes.

    Raises:
        TableError: `data` breaks the schema.
    """
    data = _checked(table, data)
    with _parquet(data, file) as parquet:
        parquet.write_table(data, row_group_size=ROWS_A_GROUP)


class TableWriter:
    """A table written part by part, in row groups of its own, so that no more than a part is in memory.

    That keys are unique is known in one of two ways. Of a table with `parts` each part has one value of these
    columns, and no other part the same. Of another the keys, which must be strings, ascend from row to row and from
    part to part. The same parts in the same order give the same bytes. It is a context manager; the file is whole
    when the block has ended.
    """

    def __init__(self, table: Table, file: IO[bytes]) -> None:
        self.table = table
        self.rows = 0
        self._seen: set[tuple[object, ...]] = set()
        self._last: bytes | None = None
        self._file = file
        self._parquet: pq.ParquetWriter | None = None

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._parquet is None:
            self._parquet = _parquet(self.table.empty(), self._file)
        self._parquet.close()

    def append(self, data: pa.Table) -> None:
        """Write one part; a part without rows leaves nothing.

        Raises:
            TableError: it breaks the schema, is of several parts or of one that has been written, or does not ascend.
        """
        if not data.num_rows:
            return
        data = _checked(self.table, data)
        if self.table.parts:
            self._named_once(data)
        else:
            self._ascending(data)
        self._parquet = self._parquet or _parquet(data, self._file)
        self._parquet.write_table(data, row_group_size=ROWS_A_GROUP)
        self.rows += data.num_rows

    def _ascending(self, data: pa.Table) -> None:
        columns = [data[name] for name in self.table.key]
        keys = fixed_width(pc.binary_join_element_wise(*columns, "\x01") if len(columns) > 1 else columns[0])
        first, last = keys[0].item(), keys[-1].item()
        if (keys[1:] <= keys[:-1]).any() or (self._last is not None and first <= self._last):
            raise TableError(f"{self.table.path}: {self.table.key} do not ascend from row to row; sort the rows")
        self._last = last

    def _named_once(self, data: pa.Table) -> None:
        names = [pc.unique(data[column]).to_pylist() for column in self.table.parts]
        part = tuple(values[0] for values in names)
        told = ", ".join(f"{column} {value!r}" for column, value in zip(self.table.parts, part, strict=True))
        if any(len(values) > 1 for values in names):
            raise TableError(f"{self.table.path}: a part has rows of {names}, expected of one; write each by itself")
        if part in self._seen:
            raise TableError(f"{self.table.path}: {told} has been written before; write each part once")
        self._seen.add(part)


class RowWriter:
    """A table written row by row: no more than a row group is in memory, and of each further row 8 bytes.

    The file has the bytes that `write_table` leaves of all rows together, where that makes row groups as large. It is a
    context manager; the file is whole when the block has ended.

    Args:
        table: what the rows are of.
        file: where they go.
        rows_a_group: rows of a row group.
    """

    def __init__(self, table: Table, file: IO[bytes], rows_a_group: int = ROWS_A_GROUP) -> None:
        self.table = table
        self.rows = 0
        self.rows_a_group = rows_a_group
        self._file = file
        self._records: list[dict[str, Any]] = []
        self._parts: list[pa.Table] = []
        self._unwritten = 0
        self._keys: list[npt.NDArray[np.uint64]] = []
        self._parquet: pq.ParquetWriter | None = None

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._pack()
            self._flush()
            self._need_single_keys()
        if self._parquet is not None:
            self._parquet.close()

    def append(self, row: dict[str, Any]) -> None:
        """Write one row; absent values may be left out.

        Raises:
            TableError: rows up to this one break the schema. A key that stands twice may be told only at the end.
        """
        self._records.append(row)
        self.rows += 1
        if len(self._records) == _RECORDS or self._unwritten + len(self._records) == self.rows_a_group:
            self._pack()
        if self._unwritten == self.rows_a_group:
            self._flush()

    def _pack(self) -> None:
        """Turn records, of which each takes a kilobyte as a dict, into Arrow."""
        if not self._records:
            return
        part = self.table.rows(self._records)
        self._parts.append(part)
        self._unwritten += len(self._records)
        self._records = []
        columns = [part[name].cast(pa.string()).fill_null("\0") for name in self.table.key]
        if columns:
            keys = pc.binary_join_element_wise(*columns, "\x01").cast(pa.binary()).to_pylist()
            self._keys.append(np.fromiter(map(xxhash.xxh3_64_intdigest, keys), np.uint64, len(keys)))

    def _flush(self) -> None:
        """Write a row group; a table without rows has one of none."""
        if not self._parts and self._parquet is not None:
            return
        parts, self._parts, self._unwritten = [self.table.empty(), *self._parts], [], 0
        data = pa.concat_tables(parts)
        del parts
        data = _checked(self.table, data)
        self._parquet = self._parquet or _parquet(data, self._file)
        self._parquet.write_table(data, row_group_size=self.rows_a_group)

    def _need_single_keys(self) -> None:
        """Rows of one group have been compared; of several, digests of their keys tell: of 10^6 rows, two in 10^8."""
        if self.rows <= self.rows_a_group or not self._keys:
            return
        digests = np.sort(np.concatenate(self._keys))
        repeated = int((digests[1:] == digests[:-1]).sum())
        if repeated:
            raise TableError(f"{self.table.path}: {repeated} keys {self.table.key} stand more than once")


def _parquet(data: pa.Table, file: IO[bytes]) -> pq.ParquetWriter:
    """A writer of tables like `data`: with a dictionary where values repeat, which elsewhere only adds bytes."""
    first = data.slice(0, _SAMPLE)
    repeating = []
    for field in data.schema:
        if pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type):
            repeating.append(f"{field.name}.list.element")
        elif not pa.types.is_nested(field.type) and 2 * pc.count_distinct(first[field.name]).as_py() <= len(first):
            repeating.append(field.name)
    return pq.ParquetWriter(
        file,
        data.schema,
        compression="zstd",
        use_dictionary=repeating,
        store_schema=True,
        write_page_checksum=True,  # so that a damaged page is told from one that merely decodes
    )


def _checked(table: Table, data: pa.Table) -> pa.Table:
    data = data.combine_chunks()
    wrong = problems(table, data)
    if wrong:
        raise TableError(f"{table.path}: {'; '.join(wrong)}")
    return data.cast(table.schema)


def missing_ids(wanted: pa.Table, found: pa.Table, what: str, has: str) -> str:
    """What is wrong where a table should have one row for each of some ids, in words; empty where it has.

    Args:
        wanted: has a column `id`.
        found: likewise.
        what: the ids are of, as "stored images".
        has: what a row gives an id, as "a vector".
    """
    wants, have = fixed_width(wanted["id"]), fixed_width(found["id"])
    missing, strange = np.setdiff1d(wants, have), np.setdiff1d(have, wants)
    if not len(missing) and not len(strange):
        return ""
    first = (missing if len(missing) else strange)[0].decode()
    return f"{len(missing)} of {len(wants)} {what} lack {has}, {len(strange)} others have one; the first is {first}"


def read_table(store: Store, table: Table, columns: Sequence[str] | None = None, **partition: str) -> pa.Table:
    """Read a table, or some columns of it.

    Raises:
        MissingInputError: it has not been made.
        TableError: the file is not Parquet, or lacks a column.
    """
    with _opened(store, table, columns, partition) as (parquet, wanted):
        return _joinable(parquet.read(wanted).select(wanted))


def read_parts(
    store: Store,
    table: Table,
    columns: Sequence[str],
    only: Mapping[str, object] | None = None,
    among: Mapping[str, npt.NDArray[np.bytes_]] | None = None,
    *,
    block: int = READ_BLOCK,
    most_rows: int = ROWS_A_GROUP,
    **partition: str,
) -> Iterator[pa.Table]:
    """The rows of a table in order, at most a row group at a time, or those of them that have some values.

    Row groups whose statistics tell that they have none are not read.

    Args:
        store: where the table is.
        table: what it is.
        columns: what is read of it.
        only: the value that a row must have, by column.
        among: the values of which a row must have one, by column of strings: UTF-8 bytes, ascending.
        block: bytes of a remote file that are read ahead.
        most_rows: rows of a part at most; of fewer than a row group no more are decoded at a time.
        partition: names one file of a table whose path has places.

    Raises:
        MissingInputError: it has not been made.
        TableError: the file is not Parquet, or lacks a column.
    """
    only, among = only or {}, among or {}
    names = list(dict.fromkeys([*columns, *only, *among]))
    with _opened(store, table, names, partition, block) as (parquet, _):
        leaves = [parquet.schema.column(number).path for number in range(len(parquet.schema))]
        numbers = {name: leaves.index(name) for name in (*only, *among)}
        for group in range(parquet.num_row_groups):
            metadata = parquet.metadata.row_group(group)
            if not all(_may_hold(metadata.column(numbers[name]), value) for name, value in only.items()):
                continue
            if not all(_may_hold_one(metadata.column(numbers[name]), values) for name, values in among.items()):
                continue
            for data in _of_group(parquet, group, names, most_rows):
                for name, value in only.items():
                    data = data.filter(pc.equal(data[name], value))
                for name, values in among.items():
                    data = data.filter(pc.is_valid(data[name]))
                    data = data.filter(pa.array(places(fixed_width(data[name]), values) >= 0))
                yield _joinable(data.select(list(columns)))


def _of_group(parquet: pq.ParquetFile, group: int, names: list[str], most_rows: int) -> Iterator[pa.Table]:
    if parquet.metadata.row_group(group).num_rows <= most_rows:
        yield parquet.read_row_group(group, names)
        return
    for batch in parquet.iter_batches(most_rows, [group], names):
        yield pa.Table.from_batches([batch])


def _may_hold_one(column: pq.ColumnChunkMetaData, values: npt.NDArray[np.bytes_]) -> bool:
    """Whether a column of strings may hold one of these ascending values."""
    statistics = column.statistics
    if statistics is None or not statistics.has_min_max:
        return True
    least, most = str(statistics.min).encode(), str(statistics.max).encode()
    # Not by numpy's own search, which makes a copy of all values where these are longer.
    at = bisect_left(values, least)
    return at < len(values) and bool(values[at] <= most)


def _may_hold(column: pq.ColumnChunkMetaData, value: Any) -> bool:
    statistics = column.statistics
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min <= value <= statistics.max)


@contextmanager
def _opened(
    store: Store,
    table: Table,
    columns: Sequence[str] | None,
    partition: Mapping[str, str],
    block: int = READ_BLOCK,
) -> Iterator[tuple[pq.ParquetFile, list[str]]]:
    """A table's file and the columns to read of it; what is wrong with the file is told, now or while it is read."""
    path = table.at(**partition)
    with damage_explained(store, path), opened_parquet(store, path, block) as parquet:
        present = parquet.schema_arrow.names
        absent = set(table.schema.names if columns is None else columns) - set(present)
        if absent:
            raise DamagedTableError(
                f"{store.full_url(path)}: lacks the columns {sorted(absent)}; materialise it again", path
            )
        yield parquet, present if columns is None else list(columns)


@contextmanager
def opened_parquet(store: Store, path: str, block: int = READ_BLOCK) -> Iterator[pq.ParquetFile]:
    """A stored Parquet file whose pages are compared with their checksums as they are read."""
    with store.open(path, block) as file, pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        yield parquet


@contextmanager
def damage_explained(store: Store, path: str) -> Iterator[None]:
    """Turn what Arrow raises while the file `path` is read into one line that names it.

    Raises:
        MissingInputError: it has not been made.
        DamagedTableError: it is not Parquet.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise MissingInputError(
            f"{store.full_url(path)} is missing: materialise the asset that writes it first"
        ) from error
    except _DAMAGE as error:
        raise DamagedTableError(
            f"{store.full_url(path)}: not a Parquet table ({' '.join(str(error).split())}); materialise it again", path
        ) from error


def _joinable(data: pa.Table) -> pa.Table:
    """A column that may not be null on disk may still be joined with others in memory."""
    return data.cast(pa.schema([field.with_nullable(True) for field in data.schema]))


def fixed_width(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bytes_]:
    """A column of strings without absent values as UTF-8 bytes of numpy's fixed width, that of the longest.

    No Python object is made of a value. Numpy takes a NUL at a string's end for no part of it.
    """
    array = column.cast(pa.large_string())
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    count = len(array)
    if array.null_count:
        raise TableError(f"a column has {array.null_count} absent values, expected none")
    if not count:
        return np.zeros(0, "S1")
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + count + 1]
    lengths = np.diff(offsets)
    width = max(int(lengths.max()), 1)
    data = array.buffers()[2]
    filled = np.frombuffer(b"" if data is None else data, np.uint8)[offsets[0] : offsets[-1]]
    if (lengths == width).all():
        return filled.copy().view(f"S{width}")
    rows = np.zeros((count, width), np.uint8)
    rows[np.arange(width) < lengths[:, None]] = filled
    return rows.reshape(-1).view(f"S{width}")


def places(wanted: npt.NDArray[np.bytes_], keys: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
    """Where in `keys`, each there once, the wanted ones stand; -1 where they do not."""
    if not len(keys):
        return np.full(len(wanted), -1, np.int64)
    order = None if (keys[1:] >= keys[:-1]).all() else np.argsort(keys, kind="stable")
    ordered = keys if order is None else keys[order]
    at = np.minimum(np.searchsorted(ordered, wanted), len(keys) - 1)
    found = np.where(ordered[at] == wanted, at if order is None else order[at], -1)
    return found.astype(np.int64)


def taken(data: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    """These rows of `data`, with absent values where the row is -1; its columns of strings may be of any size."""
    at = pa.array(rows, mask=rows < 0)
    return pa.table([_taken(column, at) for column in data.columns], schema=data.schema)


def _taken(column: pa.ChunkedArray, at: pa.Array) -> pa.ChunkedArray:
    """Arrow joins all chunks of a column to take rows of it, which beyond 2 GiB of strings have no 32-bit offsets."""
    if not pa.types.is_string(column.type) or column.nbytes <= _MOST_STRINGS:
        return column.take(at)
    large = column.cast(pa.large_string())
    step = max(1, len(at) * _MOST_STRINGS // column.nbytes)
    parts = [large.take(at.slice(first, step)).cast(column.type) for first in range(0, len(at), step)]
    return pa.chunked_array([chunk for part in parts for chunk in part.chunks], column.type)
