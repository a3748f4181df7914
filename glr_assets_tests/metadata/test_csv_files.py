"""Reading CSVs as users and publishers write them: quotes, byte order marks, ids like numbers, and what is wrong."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path
from typing import IO

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.errors import TableError
from glr_assets.metadata.csv_files import one_row_per_key, read_csv, split_words
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
    assert message.endswith("mend the file at the source")
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


def test_no_last_line_end_and_blank_lines() -> None:
    assert len(rows(b"id,url,landmark_id\n\n1,u,5\n\n2,u,6")) == 2
    assert rows(b"id,url,landmark_id\n") == []
    assert "Empty CSV" in refused(b"id,url,landmark_id")


def test_a_source_without_the_table() -> None:
    assert read_csv(OneTable(None), "train", TRAIN) is None


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "Empty CSV"),
        (b"id;url;landmark_id\n1;u;5\n", "'id'"),
        (b"id,url\n1,u\n", "'landmark_id'"),
        (b"ID,url,landmark_id\n1,u,5\n", "'id'"),
        (b"id,url,landmark_id\n1,u,x\n", "'x'"),
        (b"id,url,landmark_id\n1,u,5.0\n", "'5.0'"),
        (b"id,url,landmark_id\n1,u,99999999999999999999\n", "99999999999999999999"),
        (b"id,url,landmark_id\n1,u,5\n2,u,\n3,u,7\n", "row 2 has no landmark_id"),
        (b"id,url,landmark_id\n1,u,NA\n", "row 1 has no landmark_id"),
        (b"id,url,landmark_id\n1,u,5\n2,u\n", "Expected 3 columns, got 2"),
        (b'id,url,landmark_id\n1,u,5,"x\ny"\n', "Expected 3 columns, got 4"),
        (b"id,url,landmark_id\n1,\xff\xfe,5\n", "UTF8"),
        (b"<html>\n<body>gone</body>\n</html>\n", "'id'"),
    ],
)
def test_each_defect_is_one_line(data: bytes, told: str) -> None:
    assert told in refused(data)


def test_a_column_that_may_be_absent() -> None:
    assert rows(b"id,landmark_id\n007,5\n", optional=["url"]) == [{"id": "007", "url": None, "landmark_id": 5}]
    assert rows(b"id,url,landmark_id\n007,u,5\n", optional=["url"])[0]["url"] == "u"
    assert "'landmark_id'" in refused(b"id,url\n007,u\n", optional=["url"])
    assert "UTF8" in refused(b"id,url,landmark_id\n1,\xff\xfe,5\n", optional=["url"])


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


@settings(deadline=None)
@given(st.lists(st.tuples(texts.filter(str.strip), texts, st.integers(-(2**63), 2**63 - 1)), max_size=12))
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
        "s3://b/x.csv: 1 values of id have rows that contradict each other, the first 'b'; mend the file at the source"
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
