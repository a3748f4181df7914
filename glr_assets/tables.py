"""Tables: one schema a table, which feeds its writer, its check and the columns shown in the UI.

What belongs here: what a table is. Each stage keeps the schemas of its own tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from glr_assets.errors import MissingInputError, TableError
from glr_assets.store import Store


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
    if not found and data.num_rows:
        repeated = repeated_keys(data, table.key)
        if repeated.num_rows:
            first = repeated.slice(0, 1).to_pylist()[0]
            found.append(f"{repeated.num_rows} keys stand more than once, the first {first}")
    return found


def repeated_keys(data: pa.Table, key: Sequence[str]) -> pa.Table:
    """The values of the columns `key` that more than one row has."""
    grouped = data.select(list(key)).group_by(list(key), use_threads=False).aggregate([([], "count_all")])
    return grouped.filter(pc.greater(grouped["count_all"], 1)).select(list(key))


def write_table(table: Table, data: pa.Table, file: IO[bytes]) -> None:
    """Write `data` as Parquet; the same rows give the same bytes.

    Raises:
        TableError: `data` breaks the schema.
    """
    data = data.combine_chunks()
    wrong = problems(table, data)
    if wrong:
        raise TableError(f"{table.path}: {'; '.join(wrong)}")
    pq.write_table(data.cast(table.schema), file, compression="zstd", store_schema=True)


def read_table(store: Store, table: Table, columns: Sequence[str] | None = None, **partition: str) -> pa.Table:
    """Read a table, or some columns of it.

    Raises:
        MissingInputError: it has not been made.
        TableError: the file is not Parquet, or lacks a column.
    """
    path = table.at(**partition)
    try:
        with store.open(path) as file, pq.ParquetFile(file) as parquet:
            present = parquet.schema_arrow.names
            absent = set(table.schema.names if columns is None else columns) - set(present)
            if absent:
                raise TableError(f"{store.full_url(path)}: lacks the columns {sorted(absent)}; materialise it again")
            wanted = present if columns is None else list(columns)
            data = parquet.read(wanted).select(wanted)
    except FileNotFoundError as error:
        raise MissingInputError(
            f"{store.full_url(path)} is missing: materialise the asset that writes it first"
        ) from error
    except (pa.ArrowInvalid, OSError) as error:  # Arrow says either of a damaged file
        raise TableError(
            f"{store.full_url(path)}: not a Parquet table ({' '.join(str(error).split())}); materialise it again"
        ) from error
    # A column that may not be null on disk may still be joined with others in memory.
    return data.cast(pa.schema([field.with_nullable(True) for field in data.schema]))
