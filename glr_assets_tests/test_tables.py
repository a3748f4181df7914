"""Tables: what breaks a schema is seen, the same rows are the same bytes, what is written is read."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets import tables
from glr_assets.errors import MissingInputError, TableError
from glr_assets.store import Store
from glr_assets.tables import (
    Column,
    RowWriter,
    Table,
    TableWriter,
    fixed_width,
    places,
    problems,
    read_parts,
    read_table,
    repeated_keys,
    stored_problems,
    taken,
    write_table,
)

TABLE = Table(
    "t/{split}/{shard}.parquet",
    "one row per id and side",
    (
        Column("id", pa.string(), "Its name"),
        Column("side", pa.int32(), "Pixels"),
        Column("score", pa.float32(), "Cosine", nullable=True),
        Column("words", pa.list_(pa.string()), "Several"),
        Column("hash", pa.uint64(), "64 bits", nullable=True),
        Column("good", pa.bool_(), "Whether"),
    ),
    ("id", "side"),
)
ROW: dict[str, Any] = {"id": "007", "side": 3, "score": 0.5, "words": ["a", "b"], "hash": 2**64 - 1, "good": True}


def row(**changes: Any) -> dict[str, Any]:
    return ROW | changes


def written(data: pa.Table, table: Table = TABLE) -> bytes:
    file = io.BytesIO()
    write_table(table, data, file)
    return file.getvalue()


def test_a_good_table_has_no_problems() -> None:
    good = TABLE.rows([row(), row(side=4, score=None, hash=None), row(id="8", words=[])])
    assert problems(TABLE, good) == []
    assert problems(TABLE, TABLE.empty()) == []
    assert TABLE.empty().num_rows == 0
    assert TABLE.at(split="train", shard="000") == "t/train/000.parquet"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.drop_columns(["side"]), "columns are"),
        (lambda t: t.append_column("more", pa.nulls(t.num_rows)), "more"),
        (lambda t: t.select(list(reversed(t.schema.names))), "columns are"),
        (lambda t: t.rename_columns(["ID", *t.schema.names[1:]]), "'ID'"),
        (lambda t: t.set_column(1, "side", t["side"].cast(pa.int64())), "column side is int64, expected int32"),
        (lambda t: t.set_column(0, "id", t["id"].dictionary_encode()), "column id is dictionary"),
        (lambda t: t.set_column(0, "id", pa.array([None, "b"], pa.string())), "column id has 1 absent values"),
        (lambda t: t.set_column(5, "good", pa.nulls(2, pa.bool_())), "column good has 2 absent values"),
        (lambda t: pa.concat_tables([t, t.slice(1)]), "1 keys stand more than once, the first {'id': '8', 'side': 4}"),
    ],
)
def test_each_problem_is_told_and_keeps_the_table_from_being_written(change: Any, told: str) -> None:
    wrong = change(TABLE.rows([row(), row(id="8", side=4)]))
    (problem,) = problems(TABLE, wrong)
    assert told in problem
    file = io.BytesIO()
    with pytest.raises(TableError) as error:
        write_table(TABLE, wrong, file)
    assert str(error.value) == f"{TABLE.path}: {problem}"
    assert "\n" not in str(error.value)
    assert file.getvalue() == b""


def test_several_problems_are_told_together() -> None:
    wrong = TABLE.rows([row()]).set_column(0, "id", pa.nulls(1, pa.string())).set_column(1, "side", pa.array([1]))
    assert len(problems(TABLE, wrong)) == 2


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=12))
def test_repeated_keys_are_those_counted_more_than_once(keys: list[tuple[str, int]]) -> None:
    data = pa.table(
        {"id": pa.array([k for k, _ in keys], pa.string()), "n": pa.array([n for _, n in keys], pa.int64())}
    )
    found = repeated_keys(data, ["id", "n"]).to_pylist()
    assert sorted((r["id"], r["n"]) for r in found) == sorted(k for k, times in Counter(keys).items() if times > 1)


def test_a_row_without_a_nullable_value_is_written_and_read(store: Store) -> None:
    rows = [row(), row(id="8", score=None, hash=None, words=[])]
    store.write("t/a/b.parquet", written(TABLE.rows(rows)))
    assert read_table(store, TABLE, split="a", shard="b").to_pylist() == rows


records = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
            "side": st.integers(-(2**31), 2**31 - 1),
            "score": st.none() | st.floats(width=32, allow_nan=False),
            "words": st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=3),
            "hash": st.none() | st.integers(0, 2**64 - 1),
            "good": st.booleans(),
        }
    ),
    max_size=20,
    unique_by=lambda r: (r["id"], r["side"]),
)


@settings(deadline=None)
@given(rows=records, cuts=st.lists(st.integers(0, 20), max_size=3))
def test_what_is_written_is_read_and_chunks_leave_no_trace(rows: list[dict[str, Any]], cuts: list[int]) -> None:
    data = TABLE.rows(rows)
    plain = written(data)
    store = Store("memory://tables")
    store.write("t/x/y.parquet", plain)
    read = read_table(store, TABLE, split="x", shard="y")
    assert read.to_pylist() == rows
    assert problems(TABLE, read) == []
    assert read.schema.types == TABLE.schema.types
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    pieces = [data.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    assert written(pa.concat_tables(pieces)) == plain
    assert written(read) == plain
    assert written(pa.table(data.to_pydict(), schema=data.schema.with_metadata({"pandas": "x"}))) == plain


def test_a_change_of_one_value_changes_the_bytes() -> None:
    assert written(TABLE.rows([row()])) != written(TABLE.rows([row(side=4)]))


def test_columns_can_be_chosen(store: Store) -> None:
    store.write("t/a/b.parquet", written(TABLE.rows([row()])))
    read = read_table(store, TABLE, ["side", "id"], split="a", shard="b")
    assert read.to_pylist() == [{"side": 3, "id": "007"}]
    assert read.schema.names == ["side", "id"]


def test_a_table_read_can_be_joined_and_get_nulls(store: Store) -> None:
    store.write("t/a/b.parquet", written(TABLE.rows([row()])))
    read = read_table(store, TABLE, ["id", "side"], split="a", shard="b")
    joined = pa.table({"id": ["007", "9"]}).join(read, "id").sort_by("id")
    assert joined["side"].to_pylist() == [3, None]


def test_a_table_that_was_not_made(store: Store) -> None:
    with pytest.raises(MissingInputError) as error:
        read_table(store, TABLE, split="a", shard="b")
    assert str(error.value).startswith(f"{store.url}/t/a/b.parquet is missing: materialise")


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "no head", "bytes changed"])
def test_a_file_that_is_no_whole_table(store: Store, damage: str) -> None:
    good = written(TABLE.rows([row(id=f"{n:05d}") for n in range(5000)]))
    changed = bytearray(good)
    changed[100:2100] = bytes(2000)
    wrong = {
        "text": b"id,side\n007,3\n",
        "empty": b"",
        "cut": good[: len(good) // 2],
        "no head": good[len(good) // 2 :],
        "bytes changed": bytes(changed),
    }[damage]
    store.write("t/a/b.parquet", wrong)
    with pytest.raises(TableError) as error:
        read_table(store, TABLE, split="a", shard="b")
    assert f"{store.url}/t/a/b.parquet" in str(error.value)
    assert "materialise it again" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_lacks_columns(store: Store) -> None:
    (Path(store.root) / "t/a").mkdir(parents=True)
    pq.write_table(TABLE.rows([row()]).drop_columns(["good", "hash"]), Path(store.root) / "t/a/b.parquet")
    for columns in (None, ["id", "good", "hash"]):
        with pytest.raises(TableError, match=r"t/a/b.parquet: lacks the columns \['good', 'hash'\]; materialise"):
            read_table(store, TABLE, columns, split="a", shard="b")
    assert read_table(store, TABLE, ["id"], split="a", shard="b").num_rows == 1


def test_rows_refuse_what_does_not_fit_a_column() -> None:
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError, OverflowError)):
        TABLE.rows([row(side="three")])
    assert pc.sum(TABLE.rows([row(), row(side=4)])["side"]).as_py() == 7


def by_row(rows: list[dict[str, Any]], group: int) -> bytes:
    file = io.BytesIO()
    with RowWriter(TABLE, file, group) as writer:
        for one in rows:
            writer.append(one)
    assert writer.rows == len(rows)
    return file.getvalue()


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 40), records=st.integers(1, 12), group=st.integers(1, 20), seed=st.integers(0, 9))
def test_rows_written_one_by_one_are_the_same_bytes(count: int, records: int, group: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = [None if value > 0.7 else float(value) for value in random.uniform(size=count)]
    rows = [row(id=f"{n:03d}", score=score, words=["w"] * (n % 3)) for n, score in enumerate(scores)]
    for one in rows[::4]:
        del one["hash"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_RECORDS", records)
        patch.setattr(tables, "ROWS_A_GROUP", group)
        patch.setattr(tables, "_SAMPLE", group)  # which columns repeat is read from the first row group
        assert by_row(rows, group) == written(TABLE.rows(rows))


def test_of_rows_written_one_by_one_none_breaks_the_schema() -> None:
    apart = [row(id=str(n)) for n in range(9)]
    with pytest.raises(TableError, match="1 keys stand more than once"):
        by_row([*apart[:2], apart[0]], 4)
    with pytest.raises(TableError, match=r"1 keys \(.id., .side.\) stand more"):
        by_row([*apart, apart[0]], 4)  # in another row group
    with pytest.raises(TableError, match="column good has 1 absent values"):
        by_row([*apart, row(good=None)], 4)
    assert by_row(apart, 4)


PARTED = dataclasses.replace(TABLE, key=("side", "id"), parts=("side",))


def in_parts(*parts: pa.Table) -> bytes:
    file = io.BytesIO()
    with TableWriter(PARTED, file) as writer:
        for part in parts:
            writer.append(part)
    assert writer.rows == sum(part.num_rows for part in parts)
    return file.getvalue()


def side(number: int, count: int) -> pa.Table:
    return TABLE.rows([row(id=f"{n:04d}", side=number, words=[str(n % 3)]) for n in range(count)])


def test_a_table_written_in_parts_is_their_rows_with_a_row_group_each(store: Store) -> None:
    parts = [side(3, 5), TABLE.empty(), side(1, 70_000), side(2, 1)]
    data = in_parts(*parts)
    store.write("t/a/b.parquet", data)
    assert read_table(store, TABLE, split="a", shard="b").to_pydict() == pa.concat_tables(parts).to_pydict()
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [5, 70_000, 1]
    assert in_parts(*(pa.concat_tables([part.slice(0, 2), part.slice(2)]) for part in parts)) == data
    store.write("t/a/none.parquet", in_parts())
    assert read_table(store, TABLE, split="a", shard="none").num_rows == 0
    assert pq.ParquetFile(io.BytesIO(in_parts())).schema_arrow.equals(TABLE.schema)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([side(1, 2), side(2, 2), side(1, 1)], "side 1 has been written before"),
        ([pa.concat_tables([side(1, 2), side(2, 2)])], r"a part has rows of \[\[1, 2\]\]"),
        ([side(1, 2), pa.concat_tables([side(2, 2), side(2, 1)])], "1 keys stand more than once"),
        ([side(1, 2).drop_columns(["good"])], "columns are"),
    ],
)
def test_parts_that_could_repeat_a_key_are_refused(parts: list[pa.Table], told: str) -> None:
    with pytest.raises(TableError, match=told):
        in_parts(*parts)


NAMES = Table("n.parquet", "one row a name", tuple(Column(c, pa.string(), c) for c in ("of", "name")), ("of", "name"))


def names(*rows: tuple[str, str]) -> pa.Table:
    return NAMES.rows([{"of": of, "name": name} for of, name in rows])


def test_a_table_without_parts_is_written_in_ascending_pieces(store: Store) -> None:
    pieces = [names(("a", "x"), ("a", "y")), NAMES.empty(), names(("a", "z"), ("b", "a"))]
    with store.writing(NAMES.path) as file, TableWriter(NAMES, file) as writer:
        for piece in pieces:
            writer.append(piece)
    assert read_table(store, NAMES).to_pydict() == pa.concat_tables(pieces).to_pydict()
    assert stored_problems(store, NAMES) == []


@pytest.mark.parametrize(
    "pieces",
    [
        [names(("a", "y"), ("a", "x"))],
        [names(("a", "x"), ("a", "x"))],
        [names(("a", "x")), names(("a", "x"))],
        [names(("b", "x")), names(("a", "y"))],
        [names(("a", "x"), ("b", "x")), names(("a", "y"))],
    ],
)
def test_pieces_that_do_not_ascend_are_refused(pieces: list[pa.Table]) -> None:
    with TableWriter(NAMES, io.BytesIO()) as writer:
        for piece in pieces[:-1]:
            writer.append(piece)
        with pytest.raises(TableError, match=r"do not ascend|stand more than once"):
            writer.append(pieces[-1])


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ([[3, 1], [3, 2], [1, 1]], []),
        ([[3, 1], [3, 1]], ["1 keys stand more than once, the first {'side': 3, 'id': '1'}"]),
        ([[3, 1], [1, 1], [3, 2]], ["rows of (3,) do not stand together"]),
        ([[3, 1], [None, 1]], ["column side has 1 absent values, expected none"]),
        ([], []),
    ],
)
def test_a_stored_file_is_checked_a_row_group_at_a_time(groups: list[list[int]], told: list[str], store: Store) -> None:
    loose = pa.schema([field.with_nullable(True) for field in PARTED.schema])
    with store.writing("t/a/b.parquet") as file, pq.ParquetWriter(file, loose) as writer:
        for number, image in groups:
            writer.write_table(pa.Table.from_pylist([row(side=number, id=str(image))], schema=loose))
    stored = dataclasses.replace(PARTED, path="t/a/b.parquet")
    assert stored_problems(store, stored) == told


@given(st.lists(st.binary(min_size=1, max_size=3).filter(lambda b: b"\0" not in b), unique=True), st.data())
def test_places_are_where_keys_stand(keys: list[bytes], data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.sampled_from([*keys, b"none"])))
    found = places(np.array(wanted, "S4"), np.array(keys, "S3"))
    assert found.tolist() == [keys.index(key) if key in keys else -1 for key in wanted]
    values = taken(pa.table({"n": pa.array(range(len(keys)), pa.int64())}), found)["n"].to_pylist()
    assert values == [keys.index(key) if key in keys else None for key in wanted]


def test_only_the_row_groups_that_are_asked_for_are_read(store: Store) -> None:
    names = Table(
        "n.parquet", "one row a name", (Column("of", pa.string(), "Of"), Column("n", pa.int64(), "N")), ("n",)
    )
    groups = [["a"] * 3, ["b", "a", "b"], ["c"] * 3]
    file = io.BytesIO()
    schema = pa.schema(names.schema)
    with pq.ParquetWriter(file, schema) as writer:
        for number, group in enumerate(groups):
            writer.write_table(pa.table({"of": group, "n": range(3 * number, 3 * number + 3)}, schema=schema))
    data = bytearray(file.getvalue())
    last = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(2).column(1)
    data[last.data_page_offset : last.data_page_offset + 30] = bytes(30)
    store.write("n.parquet", bytes(data))
    found = [part.to_pydict() for part in read_parts(store, names, ["n"], {"of": "a"})]
    assert found == [{"n": [0, 1, 2]}, {"n": [4]}]
    assert [part.num_rows for part in read_parts(store, names, ["n"], {"of": "d"})] == []
    assert [part.to_pydict() for part in read_parts(store, names, ["of"])] == [{"of": group} for group in groups]
    for only in ({"of": "c"}, {}):
        with pytest.raises(TableError, match=r"n\.parquet: not a Parquet table"):
            list(read_parts(store, names, ["n"], only))
    with pytest.raises(TableError, match=r"lacks the columns \['more'\]"):
        list(read_parts(store, names, ["n"], {"more": "a"}))
    store.remove("n.parquet")
    with pytest.raises(MissingInputError, match=r"n\.parquet is missing"):
        list(read_parts(store, names, ["n"]))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)), st.data())
def test_strings_of_fixed_width_are_their_bytes(values: list[str], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(values)))
    column = pa.chunked_array([values[:cut], values[cut:]], pa.string())
    found = fixed_width(column)
    expected = [value.encode() for value in values]
    assert found.tolist() == expected
    assert found.dtype.itemsize == max([1, *map(len, expected)])
    begin = data.draw(st.integers(0, len(values)))
    assert fixed_width(column.combine_chunks().slice(begin)).tolist() == expected[begin:]
    large = column.combine_chunks().cast(pa.large_string())
    assert fixed_width(large.slice(begin)).tolist() == expected[begin:]


def test_strings_of_fixed_width_are_not_absent() -> None:
    with pytest.raises(TableError, match="1 absent values"):
        fixed_width(pa.array(["a", None]))


def test_values_that_repeat_are_written_once(store: Store) -> None:
    rows = [row(id=f"{n:06d}", words=["long and always the same"]) for n in range(3000)]
    metadata = pq.ParquetFile(io.BytesIO(written(TABLE.rows(rows)))).metadata.row_group(0)
    encodings = {
        metadata.column(n).path_in_schema: metadata.column(n).has_dictionary_page for n in range(metadata.num_columns)
    }
    assert not encodings["id"]
    assert encodings["side"]
    assert encodings["words.list.element"]


@pytest.mark.parametrize("most", [2**30, 1_000])
def test_rows_are_taken_of_strings_of_any_size(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MOST_STRINGS", most)
    data = pa.concat_tables([NAMES.rows([{"of": f"{n:0100d}", "name": str(n)}]) for n in range(40)])
    rows = np.array([39, -1, 0, *range(40), -1])
    found = taken(data, rows)
    assert found.schema == data.schema
    whole = data.to_pylist()
    assert found.to_pylist() == [{"of": None, "name": None} if row < 0 else whole[row] for row in rows.tolist()]
    assert taken(data, np.zeros(0, int)).num_rows == 0


@pytest.mark.slow
def test_rows_are_taken_of_more_strings_than_32_bits_count() -> None:
    part = pa.array(["x" * 2**20] * 1_100)
    data = pa.table({"text": pa.chunked_array([part, part]), "number": pa.array(range(2_200))})
    assert data.nbytes > 2**31
    found = taken(data, np.array([5, 2_100, -1]))
    assert found["number"].to_pylist() == [5, 2_100, None]
    assert pc.utf8_length(found["text"]).to_pylist() == [2**20, 2**20, None]
