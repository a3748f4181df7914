"""Reading the published CSVs: a real parser, the named columns, one line of explanation when they are not so."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from glr_assets.errors import TableError
from glr_assets.metadata.sorting import sorted_rows
from glr_assets.source import Source, TableName
from glr_assets.tables import repeated_keys

LONGEST_ROW = 16 * 2**20
"""Bytes; a row of train_clean.csv lists every image of a landmark, 17 bytes each."""


def read_csv(
    source: Source, name: TableName, columns: Mapping[str, pa.DataType], optional: Collection[str] = ()
) -> pa.Table | None:
    """The columns of a published CSV with their types; None where the source has no such table.

    An `optional` column that the file lacks is absent in every row; no other value may be.

    Raises:
        TableError: it lacks a column, holds a value of another type, or an id with a NUL in it.
        SourceError: it must be there and is not.
    """
    url = source.table_url(name)
    file = source.open_table(name)
    if file is None:
        return None
    with file:
        try:
            data = csv.read_csv(
                file,
                # The border of a block is a row's end only after the rows before it are parsed: threads wait for
                # each other, and take half as much processor time again.
                read_options=csv.ReadOptions(block_size=LONGEST_ROW, use_threads=False),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    column_types=dict(columns), include_columns=list(columns), strings_can_be_null=False
                ),
            )
        except KeyError as error:
            if optional:
                needed = {column: kind for column, kind in columns.items() if column not in optional}
                found = read_csv(source, name, needed)
                return None if found is None else _with_absent(found, columns)
            raise TableError(
                f"{url}: lacks a column ({str(error).strip(chr(34))}); expected {', '.join(columns)}; "
                "mend the file at the source"
            ) from error
        except pa.ArrowInvalid as error:
            raise TableError(f"{url}: {' '.join(str(error).split())}; mend the file at the source") from error
    for column in data.schema.names:
        if data[column].null_count:
            row = pc.index(data[column].is_null(), True).as_py()
            raise TableError(f"{url}: row {row + 1} has no {column}; mend the file at the source")
    if "id" in data.schema.names and _holds_nul(data["id"]):
        row = pc.index(pc.match_substring(data["id"], "\0"), True).as_py()
        raise TableError(
            f"{url}: row {row + 1} has the id {data['id'][row].as_py()!r}, which no file can be named by; "
            "mend the file at the source"
        )
    return data


def _with_absent(data: pa.Table, columns: Mapping[str, pa.DataType]) -> pa.Table:
    """`data` with those of `columns` that it lacks, without a value in any row."""
    return pa.table(
        {
            column: data[column] if column in data.schema.names else pa.nulls(data.num_rows, kind)
            for column, kind in columns.items()
        }
    )


def _holds_nul(column: pa.ChunkedArray) -> bool:
    """Whether a value of a column of strings without absent values has a NUL in it."""
    for chunk in column.chunks:
        _, offsets, data = chunk.buffers()
        if len(chunk) and data is not None:
            ends = np.frombuffer(offsets, np.int32)
            used = slice(ends[chunk.offset], ends[chunk.offset + len(chunk)])
            if not np.frombuffer(data, np.uint8)[used].all():
                return True
    return False


def rows_by_key(data: pa.Table, key: str, url: str) -> npt.NDArray[np.int64]:
    """The rows of `data` sorted by `key`, of those that stand several times word for word one: int64 [distinct rows].

    Raises:
        TableError: one key has rows that differ.
    """
    return distinct_rows(data, key, *sorted_rows(data[key]), url)


def distinct_rows(
    data: pa.Table, key: str, order: npt.NDArray[np.int64], repeats: npt.NDArray[np.bool_], url: str
) -> npt.NDArray[np.int64]:
    """`rows_by_key` of a table whose key has been sorted: its rows in that order, and which repeat the key before.

    Raises:
        TableError: one key has rows that differ.
    """
    if not repeats.any():
        return order
    # Only rows that share a key are compared.
    shared = data.take(pa.array(order[repeats | np.r_[repeats[1:], False]]))
    names = data.schema.names
    conflicting = repeated_keys(shared.group_by(names, use_threads=False).aggregate([]).select(names), [key])
    if conflicting.num_rows:
        raise TableError(
            f"{url}: {conflicting.num_rows} values of {key} have rows that contradict each other, the first "
            f"{conflicting[key][0].as_py()!r}; mend the file at the source"
        )
    return order[~repeats]


def one_row_per_key(data: pa.Table, key: str, url: str) -> tuple[pa.Table, int]:
    """`data` with rows that stand twice word for word reduced to one, sorted by `key`; and how many went.

    Raises:
        TableError: one key has rows that differ.
    """
    rows = rows_by_key(data, key, url)
    return data.take(pa.array(rows)), data.num_rows - len(rows)


def split_words(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Blank-separated words of each value as a list; an empty list where there is none."""
    trimmed = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar([], pa.list_(pa.string())), pc.utf8_split_whitespace(trimmed))
