"""Reading the published CSVs: a real parser, the named columns, one line of explanation when they are not so."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from glr_assets.errors import TableError
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
        TableError: it lacks a column, or holds a value of another type.
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
                read_options=csv.ReadOptions(block_size=LONGEST_ROW),
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
    return data


def _with_absent(data: pa.Table, columns: Mapping[str, pa.DataType]) -> pa.Table:
    """`data` with those of `columns` that it lacks, without a value in any row."""
    return pa.table(
        {
            column: data[column] if column in data.schema.names else pa.nulls(data.num_rows, kind)
            for column, kind in columns.items()
        }
    )


def one_row_per_key(data: pa.Table, key: str, url: str) -> tuple[pa.Table, int]:
    """`data` with rows that stand twice word for word reduced to one, sorted by `key`; and how many went.

    Raises:
        TableError: one key has rows that differ.
    """
    names = data.schema.names
    unique = data.group_by(names, use_threads=False).aggregate([]).select(names)
    conflicting = repeated_keys(unique, [key])
    if conflicting.num_rows:
        raise TableError(
            f"{url}: {conflicting.num_rows} values of {key} have rows that contradict each other, the first "
            f"{conflicting[key][0].as_py()!r}; mend the file at the source"
        )
    return unique.sort_by(key), data.num_rows - unique.num_rows


def split_words(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Blank-separated words of each value as a list; an empty list where there is none."""
    trimmed = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar([], pa.list_(pa.string())), pc.utf8_split_whitespace(trimmed))
