"""Damage of CSV files is found as they are read, and what any careful program writes is left alone."""

from __future__ import annotations

import csv
import io
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from glr_assets.csv_structure import CheckedCsv, examine, strict_rows
from glr_assets.errors import TableError


def read(data: bytes, sizes: Sequence[int] = (), *, watching: bool = False) -> tuple[bytes, CheckedCsv]:
    """What a checked file gives when it is read in pieces of these sizes, and then of the last one."""
    checked = CheckedCsv(io.BytesIO(data), "x.csv", lambda: io.BytesIO(data))
    checked.peek()
    checked.watches_line_breaks = watching
    found = b""
    turn = iter(sizes)
    size = 2**20
    while piece := checked.read(size := next(turn, size)):
        found += piece
    return found, checked


def parsed(data: bytes) -> list[list[str]] | None:
    """The rows by Python's strict parser; None where it refuses them."""
    try:
        return [row for row in csv.reader(io.StringIO(data.decode(), newline=""), strict=True) if row]
    except csv.Error:
        return None


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=12)
texts = st.text(st.sampled_from('a1 ",;\n\r\té東'), max_size=10)


@given(
    st.lists(st.tuples(texts, texts), min_size=1, max_size=6),
    # Python's writer quotes a line end of another kind than its own only where it quotes everything.
    st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), *((csv.QUOTE_ALL, end) for end in ("\n", "\r\n", "\r"))]),
    st.booleans(),
    sizes,
)
def test_what_pythons_csv_writes_passes_in_pieces_of_any_size(
    written: list[tuple[str, str]], dialect: tuple[int, str], is_marked: bool, pieces: list[int]
) -> None:
    file = io.StringIO(newline="")
    quoting, end = dialect
    rows = [("id", "a", "b"), *((f"{number:016x}", *row) for number, row in enumerate(written))]
    csv.writer(file, quoting=quoting, lineterminator=end).writerows(rows)  # type: ignore[arg-type]
    data = (b"\xef\xbb\xbf" if is_marked else b"") + file.getvalue().encode()
    found, checked = read(data, pieces, watching=True)
    assert found == data
    assert checked.header == ["id", "a", "b"]
    assert checked.ends_in_newline
    assert checked.holds_line_breaks == any("\n" in v or "\r" in v for row in written for v in row)


@given(st.text(st.sampled_from('a1",\n'), max_size=40), sizes)
@example('a,b\n1,"x\n2,y\n', [3])
@example('a,b\n"1"x,y\n', [7])
@example('a,b\n1,""\n2,"""\n', [1])
def test_quotes_are_refused_where_pythons_strict_parser_refuses_them(text: str, pieces: list[int]) -> None:
    data = text.encode()
    expected = parsed(data)
    try:
        found, _ = read(data, pieces)
    except TableError:
        if expected is not None:  # refused for its rows, which are looked at only where a quote is odd
            wide = {len(row) for row in expected}
            assert len(wide) > 1 or expected[0] in expected[1:] or any("\n" in v for row in expected for v in row)
        return
    assert found == data
    assert expected is not None


HEADER = "id,url,author,license,title\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEADER + '1,u,a,l,"t\n2,u,a,l,t\n', "line 2: not CSV"),
        (HEADER + '1,u,a,l,t\n2,u,"a,l,t\n3,u,"a",l,t\n', "line 3: not CSV"),
        (HEADER + '1,u,a,l,t\n2,u,"a\nb",l,t\n3,u,"x"y,l,t\n', "line 5: not CSV"),
        (
            HEADER + '1,u,"a\n2,u,a,l,t\n3,u,b",l,t\n4,"u",a,l,t\n5,u"v"w,a,l,t\n',
            "line 2: author holds what looks like",
        ),
        (HEADER + "1,u,a,l,t\n2,u,a\0,l,t\n", "line 3: holds a NUL"),
        (HEADER + '1,u,a,l,t\n2,u,a"b"c,l\n', "line 3: 4 values, expected 5"),
        (HEADER + '1,u,a"b"c,l,t\n' + HEADER + "2,u,a,l,t\n", "line 3: the header stands here again"),
        (HEADER + '1,u,a"b"c,l,t\n\ufeff2,u,a,l,t\n', "line 3: begins with a byte order mark"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 2**20])
def test_damage_is_named_with_its_line(text: str, told: str, size: int) -> None:
    with pytest.raises(TableError, match=told):
        read(text.encode(), [size])


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (HEADER.encode("utf-16"), "UTF-16"),
        (HEADER.encode("utf-16-le"), "line 1: holds a NUL, as damaged files and text in UTF-16"),
        (b"\x1f\x8b\x08\0\0", "gzip"),
        (b"PK\x03\x04\x14\0", "zip archive or a spreadsheet"),
        (b"PAR1\x15\x04", "Parquet"),
        (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "AccessDenied"),
    ],
)
def test_other_formats_are_named(data: bytes, told: str) -> None:
    with pytest.raises(TableError, match=told):
        read(data)
    with pytest.raises(TableError, match=told):
        list(strict_rows(io.BytesIO(data), "x.csv"))


def test_a_last_row_without_its_line_end_is_known() -> None:
    assert not read(b"id,n\n1,2")[1].ends_in_newline
    assert not read(b'id,n\n1,"2"', [1])[1].ends_in_newline
    assert read(b"id,n\n1,2\r\n", [3])[1].ends_in_newline


def test_values_are_looked_at_by_kind() -> None:
    data = b"id,n\n1,2\n,3\n"
    with pytest.raises(TableError, match="line 3: no id"):
        examine(io.BytesIO(data), "x.csv", ["id", "n"], ["n"], {"id"})
    with pytest.raises(TableError, match="line 2: n is 'two', expected an integer"):
        examine(io.BytesIO(b"id,n\n1,two\n"), "x.csv", ["id", "n"], ["n"])
    with pytest.raises(TableError, match="line 1: the header has 'n' 2 times"):
        examine(io.BytesIO(b"id,n,n\n1,2,3\n"), "x.csv", ["id", "n"])
    with pytest.raises(TableError, match="line 2: id holds a line break"):
        examine(io.BytesIO(b'id\n"a\nb"\n'), "x.csv", ["id"], filled={"id"})


def test_lines_count_from_where_a_row_begins() -> None:
    text = b'a,b\r\n"x\r\ny",1\r\n\r\nz,2\r\n'
    assert list(strict_rows(io.BytesIO(text), "x.csv")) == [(1, ["a", "b"]), (2, ["x\r\ny", "1"]), (5, ["z", "2"])]


def test_an_odd_file_is_examined_a_row_at_a_time() -> None:
    lines = b"".join(b'%016x,he said "no",%b\n' % (number, b"l" * 200) for number in range(20_000))
    data = b"id,a,b\n" + lines
    tracemalloc.start()
    checked = CheckedCsv(io.BytesIO(data), "x.csv", lambda: io.BytesIO(data))
    while checked.read(2**16):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert checked.is_examined
    assert peak < 2 * 2**20 < len(data)
