"""Reading the published CSVs: a real parser, the named columns, one line of explanation when they are not so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from glr_assets.csv_structure import (
    UNTERMINATED,
    CheckedCsv,
    Reopen,
    examine,
    key_pattern,
    refuse_swallowed_row,
    strict_rows,
)
from glr_assets.errors import SourceError, TableError
from glr_assets.metadata.sorting import sorted_rows
from glr_assets.receipts import Summary
from glr_assets.source import Source, TableName
from glr_assets.tables import repeated_keys

_STRING = pa.string()
LONGEST_ROW = 16 * 2**20
"""Bytes; a row of train_clean.csv lists every image of a landmark, 17 bytes each."""


def read_csv(
    source: Source,
    name: TableName,
    columns: Mapping[str, pa.DataType],
    optional: Collection[str] = (),
    figures: Summary | None = None,
) -> pa.Table | None:
    """The columns of a published CSV with their types; None where the source has no such table.

    An `optional` column that the file lacks is absent in every row; no other value may be.

    Args:
        source: which publishes it.
        name: of the table.
        columns: names and types of the columns to read.
        optional: those that the file may lack.
        figures: `UNTERMINATED` gains the table's name where its last row has no line end: the file may be cut there.

    Raises:
        TableError: with the line: it is damaged (see `csv_structure`), lacks a column or has it twice, holds a value
            of another type, or an id with a blank before or after it.
        SourceError: it must be there and is not.
    """
    url = source.table_url(name)
    file = source.open_table(name)
    if file is None:
        return None

    def examined(found: Mapping[str, pa.DataType]) -> None:
        """Raise what is wrong with the file, with its line."""
        integers = [column for column, kind in found.items() if pa.types.is_integer(kind)]
        examine(_reopened(source, name), url, list(found), integers, filled={"id", *integers})

    with file:
        checked = CheckedCsv(file, url, lambda: _reopened(source, name))
        present = dict(columns)
        try:
            head = checked.peek()
            for column in [column for column in optional if column not in checked.header]:
                del present[column]
            lacking = [column for column in present if column not in checked.header]
            if lacking and head:
                raise TableError(
                    f"{url}: line 1: lacks the column {lacking[0]!r}; expected a header with {', '.join(columns)}, "
                    f"found {_shortened(','.join(checked.header))}; correct the file at the source"
                )
            checked.watches_line_breaks = len(present) < len(checked.header)
            # Arrow's parser takes 0x10 for the integer 16; no publisher means that.
            as_read = {name: _STRING if pa.types.is_integer(kind) else kind for name, kind in present.items()}
            data = csv.read_csv(
                checked,
                # The border of a block is a row's end only after the rows before it are parsed: threads wait for
                # each other, and take half as much processor time again.
                read_options=csv.ReadOptions(block_size=LONGEST_ROW, use_threads=False),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    column_types=as_read, include_columns=list(present), strings_can_be_null=False
                ),
            )
            for place, (column, kind) in enumerate(present.items()):
                if pa.types.is_integer(kind):
                    data = data.set_column(place, column, integers_of(data[column]).cast(kind))
        except pa.ArrowInvalid as error:
            examined(present)
            raise TableError(f"{url}: {' '.join(str(error).split())}; correct the file at the source") from error
    repeated = [column for column in present if checked.header.count(column) > 1]
    lacking = [column for column in present if _lacks_values(data[column], or_empty=column == "id")]
    odd = repeated or lacking or _repeats_header(data) or ("id" in present and _is_broken(data["id"]))
    blank = "id" in present and _first_with_blank(data["id"])
    odd = odd or bool(blank)
    if odd or (checked.watches_line_breaks and checked.holds_line_breaks):
        examined(present)
    _refuse_swallowed_rows(data, checked.header, lambda: _reopened(source, name), url)
    for column in lacking:
        raise TableError(f"{url}: a row has no {column}; correct the file at the source")
    if blank:
        raise TableError(f"{url}: the id {blank!r} begins or ends with a blank; correct the file at the source")
    if figures is not None and not checked.ends_in_newline and data.num_rows:
        figures[UNTERMINATED] = ", ".join(filter(None, [str(figures.get(UNTERMINATED) or ""), name]))
    return _with_absent(data, columns) if len(present) < len(columns) else data


def _reopened(source: Source, name: TableName) -> IO[bytes]:
    file = source.open_table(name)
    if file is None:
        raise SourceError(f"{source.table_url(name)} is gone since it was begun to be read; run it again")
    return file


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:97]}...")


def _lacks_values(column: pa.ChunkedArray, *, or_empty: bool) -> bool:
    return bool(column.null_count or (or_empty and pc.any(pc.equal(column, "")).as_py()))


def _first_with_blank(ids: pa.ChunkedArray) -> str:
    """The first id that begins or ends with a blank of any kind, also a no-break space; empty where none does."""
    for chunk in ids.chunks:
        found = chunk.filter(pc.not_equal(chunk, pc.utf8_trim_whitespace(chunk)))
        if len(found):
            return str(found[0].as_py())
    return ""


def integers_of(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Strings of decimal digits, with a minus and blanks around them or not, as int64.

    Raises:
        pyarrow.ArrowInvalid: one is something else, as a number in hexadecimal digits, which Arrow would read.
    """
    hexadecimal = values.filter(pc.match_substring(values, "x", ignore_case=True))
    if len(hexadecimal):
        raise pa.ArrowInvalid(f"{hexadecimal[0].as_py()!r} is not an integer in decimal digits")
    return pc.utf8_trim(values, " \t").cast(pa.int64())


def line_where(source: Source, name: TableName, column: str, is_wrong: Callable[[str], bool]) -> str:
    """`line 5: ` of the first row whose value in a column is wrong; empty where no row's is."""
    header: list[str] | None = None
    with _reopened(source, name) as file:
        for line, row in strict_rows(file, source.table_url(name)):
            if header is None:
                header = row
            elif is_wrong(row[header.index(column)]):
                return f"line {line}: "
    return ""


def _is_broken(ids: pa.ChunkedArray) -> bool:
    """Whether an id holds a line break, or begins with a byte order mark as where files were joined."""
    return any(pc.any(pc.match_substring(ids, sign)).as_py() for sign in ("\n", "\r", "\ufeff"))


def _repeats_header(data: pa.Table) -> bool:
    """Whether a row of strings has the names of the columns as its values, as where files were joined."""
    masks = [pc.equal(data[name], name) for name in data.schema.names if pa.types.is_string(data[name].type)]
    found: pa.ChunkedArray | None = None
    for mask in masks:
        found = mask if found is None else pc.and_(found, mask)
    return found is not None and bool(pc.any(found).as_py())


def _refuse_swallowed_rows(data: pa.Table, header: Sequence[str], reopen: Reopen, url: str) -> None:
    """Refuse values that hold other rows; see `refuse_swallowed_row`."""
    if header[0] not in data.schema.names or not data.num_rows:
        return
    key = key_pattern(str(data[header[0]][0].as_py()))
    for column in data.schema.names:
        if not pa.types.is_string(data[column].type):
            continue
        for row in np.flatnonzero(pc.match_substring_regex(data[column], "[\r\n]").to_numpy()):
            place = header.index(column)
            try:
                refuse_swallowed_row(data[column][int(row)].as_py(), header, place, key, url)
            except TableError:
                examine(reopen(), url)
                raise


def _with_absent(data: pa.Table, columns: Mapping[str, pa.DataType]) -> pa.Table:
    """`data` with those of `columns` that it lacks, without a value in any row."""
    return pa.table(
        {
            column: data[column] if column in data.schema.names else pa.nulls(data.num_rows, kind)
            for column, kind in columns.items()
        }
    )


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
            f"{conflicting[key][0].as_py()!r}; correct the file at the source"
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
