"""Published CSVs of millions of rows, a block at a time: of each row only what is asked for, and only while it counts.

All columns are read as text: nothing of the many rows that are not wanted is parsed, and of the few that are, a value
of another form is told in its row. The file's structure is checked as it passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from glr_assets.csv_structure import CheckedCsv, examine
from glr_assets.errors import TableError
from glr_assets.openimages.root import OpenImagesRoot

#: Bytes in memory at a time, of the file; smaller ones stay in a processor's cache.
_BLOCK = 2**22

_NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"


def matching_rows(
    root: OpenImagesRoot,
    name: str,
    columns: Sequence[str],
    wanted: Callable[[pa.RecordBatch], pa.Array],
    *,
    optional: Sequence[str] = (),
    newlines_in_values: bool = False,
    unterminated: list[str] | None = None,
) -> tuple[pa.Table, int]:
    """The rows of a CSV that `wanted` tells true of, in the file's order, as text; and how many rows the file has.

    Args:
        root: where the file is.
        name: its name there.
        columns: those to read; the file may have others.
        wanted: a Boolean for each row of a block.
        optional: columns that the file may lack; they are then absent in every row.
        newlines_in_values: whether quoted values may hold line breaks, which makes reading slower.
        unterminated: gains `name` where the last row has no line end: the file may be cut there.

    Raises:
        TableError: it lacks a column or has it twice, or, with the line, it is damaged (see `csv_structure`).
    """
    url = root.table_url(name)
    parts: list[pa.RecordBatch] = []
    rows = 0
    with root.open_table(name) as file:
        checked = CheckedCsv(file, url, lambda: root.open_table(name))
        checked.peek()
        checked.watches_line_breaks = True
        lacking = [column for column in columns if column not in checked.header and column not in optional]
        if lacking:
            raise TableError(f"{url}: lacks {', '.join(lacking)}; expected {', '.join(columns)}; download it again")
        here = [column for column in columns if column in checked.header]
        repeated = [column for column in here if checked.header.count(column) > 1]
        if repeated:
            raise TableError(f"{url}: line 1: the header has {', '.join(repeated)} twice; download it again")
        try:
            reader = csv.open_csv(
                checked,
                read_options=csv.ReadOptions(block_size=_BLOCK, use_threads=False),
                parse_options=csv.ParseOptions(newlines_in_values=newlines_in_values),
                convert_options=csv.ConvertOptions(
                    column_types=dict.fromkeys(here, pa.string()), include_columns=here, strings_can_be_null=False
                ),
            )
            for batch in reader:
                if checked.holds_line_breaks and not newlines_in_values:
                    examine(root.open_table(name), url)
                    raise TableError(f"{url}: a value holds a line break, which no row of it can; download it again")
                rows += batch.num_rows
                kept = batch.filter(wanted(batch))
                if kept.num_rows:
                    parts.append(kept)
        except pa.ArrowInvalid as error:
            examine(root.open_table(name), url)
            raise TableError(
                f"{url}: {' '.join(str(error).split())}; the file is cut or damaged: download it again"
            ) from error
    if checked.holds_line_breaks and not checked.is_examined:
        examine(root.open_table(name), url)
    if unterminated is not None and rows and not checked.ends_in_newline:
        unterminated.append(name)
    schema = pa.schema([(column, pa.string()) for column in here])
    data = pa.Table.from_batches(parts, schema=schema)
    return pa.table(
        {column: data[column] if column in here else pa.nulls(data.num_rows, pa.string()) for column in columns}
    ), rows


def numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of text as float64, absent where a value is no number."""
    plain = pc.match_substring_regex(column, _NUMBER)
    return pc.if_else(plain, pc.utf8_trim_whitespace(column), None).cast(pa.float64())
