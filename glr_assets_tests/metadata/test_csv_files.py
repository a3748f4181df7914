"""Reading CSVs as users and publishers write them: quotes, byte order marks, ids like numbers, and what is wrong."""

from __future__ import annotations

import csv
import io
import random
import re
from pathlib import Path
from typing import IO

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.csv_structure import UNTERMINATED
from glr_assets.errors import TableError
from glr_assets.metadata.csv_files import one_row_per_key, read_csv, split_words
from glr_assets.receipts import Summary
from glr_assets.source import BucketSource, TableName

TRAIN = {"id": pa.string(), "url": pa.string(), "landmark_id": pa.int64()}


class OneTable(BucketSource):
    """A source whose every table is the same bytes."""

    def __init__(self, data: bytes | None) -> None:
        self.data = data

    def table_url(self, name: TableName) -> str:
        return f"s3://bucket/metadata/{name}.csv"

    def open_table(self, name: TableName) -> IO[bytes] | None:
        return None if self.data is None else io.BytesIO(self.data)


def rows(data: bytes, **options: object) -> list[dict[str, object]]:
    table = read_csv(OneTable(data), "train", TRAIN, **options)  # type: ignore[arg-type]
    assert table is not None
    assert table.schema.names == list(TRAIN)
    assert table.schema.types == list(TRAIN.values())
    return table.to_pylist()


def refused(data: bytes, **options: object) -> str:
    with pytest.raises(TableError) as error:
        read_csv(OneTable(data), "train", TRAIN, **options)  # type: ignore[arg-type]
    message = str(error.value)
    assert message.startswith("s3://bucket/metadata/train.csv: ")
    assert re.search(r"[;:] (correct|close|download|save|fill|keep|remove|unpack) ", message), message
    assert "\n" not in message
    return message


WORKED = (
    "id,url,landmark_id\n"
    "1e5,http://a/b,7\n"
    "007,,0\n"
    '0123456789012345,"http://a/b,c",-3\n'
    'null,"he said ""no""",203093\n'
    'NA,"two\nlines",5\n'
    "nan,Ýrsa — 東京,005\n"
)
EXPECTED = [
    {"id": "1e5", "url": "http://a/b", "landmark_id": 7},
    {"id": "007", "url": "", "landmark_id": 0},
    {"id": "0123456789012345", "url": "http://a/b,c", "landmark_id": -3},
    {"id": "null", "url": 'he said "no"', "landmark_id": 203093},
    {"id": "NA", "url": "two\nlines", "landmark_id": 5},
    {"id": "nan", "url": "Ýrsa — 東京", "landmark_id": 5},
]


def test_a_worked_example() -> None:
    assert rows(WORKED.encode()) == EXPECTED


def test_a_byte_order_mark_and_windows_line_ends() -> None:
    windows = WORKED.replace("\n", "\r\n").encode()
    expected = [row | {"url": str(row["url"]).replace("\n", "\r\n")} for row in EXPECTED]
    for mark in (b"", b"\xef\xbb\xbf"):
        assert rows(mark + windows) == expected
        assert rows(mark + WORKED.encode()) == EXPECTED
        assert rows(mark + b'"id","url","landmark_id"\r\n"7","u","5"\r\n')[0] == {
            "id": "7",
            "url": "u",
            "landmark_id": 5,
        }


def test_columns_come_by_name_whatever_stands_beside_them() -> None:
    data = b"landmark_id,more,id,url\n5,x,007,u\n"
    assert rows(data) == [{"id": "007", "url": "u", "landmark_id": 5}]


def test_blanks_around_an_integer_are_none_of_it() -> None:
    assert [row["landmark_id"] for row in rows(b"id,url,landmark_id\n1,u, 5\n2,u,6 \n3,u,\t7\n")] == [5, 6, 7]


def test_no_last_line_end_and_blank_lines() -> None:
    assert len(rows(b"id,url,landmark_id\n\n1,u,5\n\n2,u,6")) == 2
    assert rows(b"id,url,landmark_id\n") == []
    assert "Empty CSV" in refused(b"id,url,landmark_id")


def test_a_source_without_the_table() -> None:
    assert read_csv(OneTable(None), "train", TRAIN) is None


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty; expected a header"),
        (b"id;url;landmark_id\n1;u;5\n", "'id'"),
        (b"id,url\n1,u\n", "'landmark_id'"),
        (b"ID,url,landmark_id\n1,u,5\n", "'id'"),
        (b"id,url,landmark_id\n1,u,x\n", "'x'"),
        (b"id,url,landmark_id\n1,u,5.0\n", "'5.0'"),
        (b"id,url,landmark_id\n1,u,99999999999999999999\n", "99999999999999999999"),
        (b"id,url,landmark_id\n1,u,5\n2,u,\n3,u,7\n", "line 3: no landmark_id"),
        (b"id,url,landmark_id\n1,u,NA\n", "line 2: landmark_id is 'NA'"),
        (b"id,url,landmark_id\n1,u,5\n2,u,0x16CE9\n", "line 3: landmark_id is '0x16CE9', expected an integer"),
        (b"id,url,landmark_id\n1,u,0X1\n", "line 2: landmark_id is '0X1'"),
        (b"id,url,landmark_id\n1,u,+5\n", "line 2: landmark_id is '+5'"),
        ("id,url,landmark_id\n1,u,5\u00a0\n".encode(), "line 2: landmark_id is '5\\xa0'"),
        (b"id,url,landmark_id\n1,u,5\n2 ,u,5\n", "line 3: id '2 ' begins or ends with a blank"),
        (b"id,url,landmark_id\n1,u,5\n\t2,u,5\n", "line 3: id '\\t2' begins"),
        (b"id,url,landmark_id\n ,u,5\n", "line 2: id ' ' begins"),
        ("id,url,landmark_id\n1,u,5\n2\u00a0,u,5\n".encode(), "line 3: id '2\\xa0' begins or ends with a blank"),
        (b"id,url,landmark_id\n1,u,5\n2,u\n", "line 3: 2 values, expected 3"),
        (b'id,url,landmark_id\n1,u,5,"x\ny"\n', "line 2: 4 values, expected 3"),
        (b"id,url,landmark_id\n1,\xff\xfe,5\n", "line 2: the byte 0xff is not UTF-8"),
        (b"<html>\n<body>gone</body>\n</html>\n", "not a CSV but a page"),
    ],
)
def test_each_defect_is_one_line(data: bytes, told: str) -> None:
    assert told in refused(data)


def test_a_column_that_may_be_absent() -> None:
    assert rows(b"id,landmark_id\n007,5\n", optional=["url"]) == [{"id": "007", "url": None, "landmark_id": 5}]
    assert rows(b"id,url,landmark_id\n007,u,5\n", optional=["url"])[0]["url"] == "u"
    assert "'landmark_id'" in refused(b"id,url\n007,u\n", optional=["url"])
    assert "line 2: the byte 0xff is not UTF-8" in refused(b"id,url,landmark_id\n1,\xff\xfe,5\n", optional=["url"])


def test_a_row_of_a_very_large_class() -> None:
    ids = [f"{number:016x}" for number in range(200_000)]  # 3.4 MB in one row
    data = f"id,url,landmark_id\n1,{' '.join(ids)},5\n2,u,6\n".encode()
    first, second = rows(data)
    assert str(first["url"]).split() == ids
    assert second["landmark_id"] == 6


def test_a_quoted_field_over_the_border_of_blocks() -> None:
    lines = ["id,url,landmark_id\n", *(f'{n:07d},"line\nand, ""line""",{n}\n' for n in range(60_000))]
    found = rows("".join(lines).encode())
    assert len(found) == 60_000
    assert {row["url"] for row in found} == {'line\nand, "line"'}
    assert [row["landmark_id"] for row in found] == list(range(60_000))


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)
ids = texts.filter(lambda text: bool(text) and text == text.strip() and not set(text) & {"\n", "\ufeff"})


@settings(deadline=None)
@given(st.lists(st.tuples(ids, texts, st.integers(-(2**63), 2**63 - 1)), max_size=12))
def test_what_pythons_csv_writes_is_read(written: list[tuple[str, str, int]]) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(TRAIN)
    writer.writerows(written)
    assert [tuple(row.values()) for row in rows(file.getvalue().encode())] == written


# Rows that repeat


def table(*pairs: tuple[str, int]) -> pa.Table:
    return pa.table({"id": [i for i, _ in pairs], "n": pa.array([n for _, n in pairs], pa.int64())})


def test_rows_that_repeat_word_for_word_become_one() -> None:
    unique, repeated = one_row_per_key(table(("b", 2), ("a", 1), ("b", 2), ("b", 2)), "id", "x.csv")
    assert unique.to_pylist() == [{"id": "a", "n": 1}, {"id": "b", "n": 2}]
    assert repeated == 2


def test_rows_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(TableError) as error:
        one_row_per_key(table(("b", 2), ("a", 1), ("b", 3)), "id", "s3://b/x.csv")
    assert str(error.value) == (
        "s3://b/x.csv: 1 values of id have rows that contradict each other, the first 'b'; "
        "correct the file at the source"
    )


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 1)), max_size=10), st.randoms(use_true_random=False))
def test_repeats_against_sets_in_any_order(pairs: list[tuple[str, int]], order: random.Random) -> None:
    order.shuffle(pairs)
    distinct = set(pairs)
    if len({key for key, _ in distinct}) < len(distinct):
        with pytest.raises(TableError):
            one_row_per_key(table(*pairs), "id", "x")
        return
    unique, repeated = one_row_per_key(table(*pairs), "id", "x")
    assert [tuple(row.values()) for row in unique.to_pylist()] == sorted(distinct)
    assert repeated == len(pairs) - len(distinct)


@given(st.lists(st.text(st.sampled_from("ab1 \t\n"), max_size=12), max_size=8))
def test_words_are_what_python_splits(values: list[str]) -> None:
    assert split_words(pa.chunked_array([values], pa.string())).to_pylist() == [value.split() for value in values]


def test_a_real_file_is_closed_after_reading(bucket: str) -> None:
    source = BucketSource(bucket)
    opened: list[IO[bytes]] = []
    original = source.open_table

    def keeping(name: TableName) -> IO[bytes] | None:
        file = original(name)
        assert file is not None
        opened.append(file)
        return file

    source.open_table = keeping  # type: ignore[method-assign]
    found = read_csv(source, "train", TRAIN)
    assert found is not None
    with (Path(bucket) / "metadata/train.csv").open(newline="") as file:
        assert found["id"].to_pylist() == [row["id"] for row in csv.DictReader(file)]
    assert all(file.closed for file in opened)


# Damage: no row is swallowed in silence


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'id,url,landmark_id\n1,"u,5\n2,u,6\n3,u,7\n', "line 2: not CSV"),
        (b'id,url,landmark_id\n1,u,5\n2,"u,6\n3,"u",7\n', "line 3: not CSV"),
        (b'id,url,landmark_id\n1,"u,5\n2,u",6\n3,u,7\n', "line 2: url holds what looks like another row"),
        (b'id,url,landmark_id,title\n1,u,5,"t\n2,u,6,t\n3,u,7,t"\n', "line 2: title holds what looks like another row"),
        (b'id,url,landmark_id\n"1\n2",u,5\n', "line 2: id holds a line break"),
        (b"id,url,landmark_id\n1,u,5\n\xef\xbb\xbf2,u,6\n", "line 3: begins with a byte order mark"),
        (b"id,url,landmark_id\n1,u,5\nid,url,landmark_id\n2,u,6\n", "line 3: the header stands here again"),
        (b"id,url,landmark_id,id\n1,u,5,6\n", "line 1: the header has 'id' 2 times"),
        (b"id,url,landmark_id\n1,u,5\n2;u;6\n", "line 3: 1 values, expected 3"),
        ("id,url,landmark_id\n1,u,5\n".encode("utf-16"), "UTF-16"),
        (b"\x1f\x8b\x08\0", "gzip"),
    ],
)
def test_damaged_quotes_and_joined_files_are_refused_with_their_line(data: bytes, told: str) -> None:
    assert told in refused(data)


def test_a_table_of_ids_alone_swallows_none() -> None:
    columns = {"id": pa.string()}
    for data in (b'id\n"a\nb\nc"\n', b'id\na\n"b\nc\n', b'id\n"a\nb\n"c"\n', b"id\na\nid\nb\n"):
        with pytest.raises(TableError, match=": line "):
            read_csv(OneTable(data), "index", columns)


TITLES = st.text(st.sampled_from('ab ",\n'), max_size=8)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(TITLES, TITLES), min_size=2, max_size=5), st.booleans(), st.data())
def test_a_quote_too_many_or_too_few_loses_no_row(
    values: list[tuple[str, str]], is_read: bool, data: st.DataObject
) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["id", "url", "landmark_id", "title"])
    writer.writerows((f"{number:016x}", url, number, title) for number, (url, title) in enumerate(values))
    text = file.getvalue()
    at = data.draw(st.integers(len("id,url,landmark_id,title\n"), len(text) - 1))
    text = text[:at] + (text[at + 1 :] if text[at] == '"' else '"' + text[at:])
    columns = TRAIN | ({"title": pa.string()} if is_read else {})
    try:
        found = read_csv(OneTable(text.encode()), "train", columns)
    except TableError:
        return
    # What is accepted is read as Python's strict parser has it, and has all rows.
    rows_of_csv = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row][1:]
    assert found is not None
    assert [tuple(map(str, row.values())) for row in found.to_pylist()] == [
        tuple(row if is_read else row[:3]) for row in rows_of_csv
    ]
    assert len(rows_of_csv) == len(values)


def test_a_file_that_may_be_cut_is_a_figure() -> None:
    for data, expected in (
        (b"id,url,landmark_id\n1,u,5", {UNTERMINATED: "train"}),
        (b"id,url,landmark_id\n1,u,5\n", {}),
    ):
        figures: Summary = {}
        read_csv(OneTable(data), "train", TRAIN, figures=figures)
        assert figures == expected
