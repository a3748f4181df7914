"""Reading the published CSVs: a real parser, the named columns, one line of explanation when they are not so."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from glr_assets.errors import TableError
from glr_assets.source import Source, TableName
from glr_assets.tables import repeated_keys


def read_csv(source: Source, name: TableName, columns: Mapping[str, pa.DataType]) -> pa.Table | None:
    """The columns of a published CSV with their types; None where the source has no such table.

    Raises:
        TableError: it lacks a column, or holds a value of another type.
        SourceError: it must be there and is not.
    """
    file = source.open_table(name)
    if file is None:
        return None
    with file:
        try:
            return csv.read_csv(
                file,
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    column_types=dict(columns), include_columns=list(columns), strings_can_be_null=False
                ),
            )
        except KeyError as error:
            raise TableError(
                f"{source.table_url(name)}: lacks a column ({str(error).strip(chr(34))}); expected {', '.join(columns)}"
            ) from error
        except pa.ArrowInvalid as error:
            raise TableError(f"{source.table_url(name)}: {error}; mend the file at the source") from error


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
