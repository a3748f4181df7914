"""Receipts: finished work is known by its content, unfinished work by the receipt that is not there."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.errors import MissingInputError, StoreError, TableError
from glr_assets.receipts import (
    Made,
    Summary,
    Writer,
    digest_of,
    find_receipt,
    make,
    need_receipt,
    need_receipts,
    receipt_path,
)
from glr_assets.store import Store
from glr_assets.tables import Column, Table, read_table

PROCESSES = multiprocessing.get_context("fork")
FILES = {"a/one.bin": b"first", "a/two.bin": b"second"}
WORK: dict[str, Any] = {"inputs": {"x": "1"}, "parameters": {"size": 3, "sides": [1, 2]}, "code_version": "1"}
TABLE = Table("t/{part}.parquet", "one row per id", (Column("id", pa.string(), "Its name"),), ("id",))


class Builder:
    """Writes the given files and counts how often it is asked to."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = FILES if files is None else files
        self.calls = 0

    def __call__(self, writer: Writer) -> Summary:
        self.calls += 1
        for path, data in self.files.items():
            writer.write(path, data)
        return {"files": len(self.files), "share": 0.5, "whole": True, "note": None}


def made(store: Store, build: Builder, name: str = "asset", **changes: Any) -> Made:
    return make(store, name, **(WORK | changes), build=build)


def every_file(store: Store) -> dict[str, bytes]:
    root = Path(store.root)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_receipt_tells_what_was_made(store: Store) -> None:
    build = Builder()
    done = made(store, build)
    assert not done.reused
    assert every_file(store).keys() == {*FILES, receipt_path("asset")}
    told = json.loads(store.read(receipt_path("asset")))
    assert told == {
        "name": "asset",
        **WORK,
        "outputs": {
            path: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in FILES.items()
        },
        "summary": {"files": 2, "share": 0.5, "whole": True, "note": None},
    }
    assert find_receipt(store, "asset") == done.receipt


def test_finished_work_is_found_not_done_again(store: Store) -> None:
    build = Builder()
    first = made(store, build)
    before = every_file(store)
    times = {path: (Path(store.root) / path).stat().st_mtime_ns for path in before}
    again = made(store, build, inputs={"x": "1"}, parameters={"sides": (1, 2), "size": 3})
    assert again.reused
    assert build.calls == 1
    assert again.receipt == first.receipt
    assert {path: (Path(store.root) / path).stat().st_mtime_ns for path in before} == times


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": {"x": "2"}},
        {"inputs": {"x": "1", "y": "1"}},
        {"inputs": {}},
        {"parameters": {"size": 4, "sides": [1, 2]}},
        {"parameters": {"size": 3, "sides": [2, 1]}},
        {"parameters": {"size": 3}},
        {"parameters": {"size": "3", "sides": [1, 2]}},
        {"code_version": "2"},
    ],
)
def test_any_change_makes_it_anew(store: Store, change: dict[str, Any]) -> None:
    build = Builder()
    made(store, build)
    assert not made(store, build, **change).reused
    assert build.calls == 2
    assert made(store, build, **change).reused
    assert not made(store, build).reused  # and back again: the earlier receipt is gone


@pytest.mark.parametrize("damage", ["missing", "cut", "grown", "receipt of another form"])
def test_damage_makes_it_anew(store: Store, damage: str) -> None:
    build = Builder()
    good = made(store, build).receipt
    one = Path(store.root) / "a/one.bin"
    if damage == "missing":
        one.unlink()
    elif damage == "cut":
        one.write_bytes(b"fir")
    elif damage == "grown":
        one.write_bytes(b"first and more")
    else:
        store.write(receipt_path("asset"), b'{"name": "asset"}')
    again = made(store, build)
    assert not again.reused
    assert again.receipt == good
    assert build.calls == 2
    assert one.read_bytes() == b"first"


def test_the_same_work_leaves_the_same_bytes_wherever_and_in_whatever_order(tmp_path: Path) -> None:
    here, there = Store(str(tmp_path / "here")), Store(f"file://{tmp_path}/somewhere/else")
    made(here, Builder())
    made(
        there,
        Builder(dict(reversed(FILES.items()))),
        parameters=dict(reversed(WORK["parameters"].items())),
    )
    assert every_file(here)["a/one.bin"] == every_file(there)["a/one.bin"]
    first, second = find_receipt(here, "asset"), find_receipt(there, "asset")
    assert first is not None
    assert second is not None
    assert first.digest == second.digest
    assert first.model_dump()["outputs"] == second.model_dump()["outputs"]
    third = Store(str(tmp_path / "third"))
    made(third, Builder())
    assert every_file(third) == every_file(here)


def test_the_digest_is_of_the_content_alone(store: Store) -> None:
    plain = made(store, Builder()).receipt.digest
    assert made(store, Builder(), code_version="2", inputs={"z": "9"}, parameters={}).receipt.digest == plain
    assert made(store, Builder(FILES | {"a/one.bin": b"First"})).receipt.digest != plain
    assert made(store, Builder({"b/one.bin": b"first", "a/two.bin": b"second"}), inputs={}).receipt.digest != plain


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def shuffled(document: Any, order: random.Random) -> Any:
    if isinstance(document, dict):
        items = list(document.items())
        order.shuffle(items)
        return {key: shuffled(value, order) for key, value in items}
    return [shuffled(value, order) for value in document] if isinstance(document, list) else document


@given(document=st.dictionaries(st.text(), documents), order=st.randoms(use_true_random=False))
def test_digest_of_knows_no_order_of_keys(document: dict[str, Any], order: random.Random) -> None:
    assert digest_of(document) == digest_of(shuffled(document, order))
    assert digest_of(document) != digest_of([document])


def test_digest_of_a_worked_example() -> None:
    assert digest_of({"b": 1, "a": "é"}) == hashlib.sha256(rb'{"a":"\u00e9","b":1}').hexdigest()


def test_need_receipt_says_what_to_do(store: Store) -> None:
    with pytest.raises(MissingInputError, match=r"^asset has not been made in .*: materialise it first$"):
        need_receipt(store, "asset")
    receipt = made(store, Builder()).receipt
    made(store, Builder({"b/three.bin": b"3"}), name="other/000")
    assert need_receipt(store, "asset") == receipt
    assert need_receipts(store, "asset", "other/000") == {
        "asset": receipt.digest,
        "other/000": digest_of({"b/three.bin": hashlib.sha256(b"3").hexdigest()}),
    }
    (Path(store.root) / "a/two.bin").write_bytes(b"sec")
    with pytest.raises(
        MissingInputError, match=r"^asset in .* is damaged: a/two.bin has 3 bytes, expected 6; materialise it again$"
    ):
        need_receipt(store, "asset")
    with pytest.raises(MissingInputError, match="asset"):
        need_receipts(store, "other/000", "asset")
    (Path(store.root) / "a/two.bin").unlink()
    with pytest.raises(MissingInputError, match=r"a/two.bin .*materialise it again"):
        need_receipt(store, "asset")


def test_a_receipt_that_is_no_json_is_named(store: Store) -> None:
    made(store, Builder())
    store.write(receipt_path("asset"), b"{")
    with pytest.raises(StoreError, match=r"receipts/asset.json: not JSON .*delete it"):
        need_receipt(store, "asset")


class BrokenError(Exception):
    pass


def test_work_that_fails_leaves_no_receipt_even_of_earlier_work(store: Store) -> None:
    made(store, Builder())

    def build(writer: Writer) -> Summary:
        writer.write("a/one.bin", b"half of it")
        raise BrokenError

    with pytest.raises(BrokenError):
        make(store, "asset", inputs={}, parameters={}, code_version="1", build=build)
    assert find_receipt(store, "asset") is None
    with pytest.raises(MissingInputError):
        need_receipt(store, "asset")
    build_again = Builder()
    assert not made(store, build_again).reused  # not even with what the earlier receipt was for
    assert build_again.calls == 1
    assert store.read("a/one.bin") == b"first"


def write_half(root: str, written: Event) -> None:
    def build(writer: Writer) -> Summary:
        writer.write("a/one.bin", b"first")
        with writer.writing("a/two.bin") as file:
            file.write(b"sec")
            written.set()
            signal.pause()
        return {}

    make(Store(root), "asset", **WORK, build=build)


def test_a_killed_run_starts_again_and_ends_as_if_nothing_had_been(store: Store, tmp_path: Path) -> None:
    written = PROCESSES.Event()
    process = PROCESSES.Process(target=write_half, args=(store.url, written))
    process.start()
    assert written.wait(30)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert store.exists("a/one.bin")
    assert not store.exists("a/two.bin")
    with pytest.raises(MissingInputError, match="asset has not been made"):
        need_receipt(store, "asset")
    assert not made(store, Builder()).reused
    undisturbed = Store(str(tmp_path / "undisturbed"))
    made(undisturbed, Builder())
    assert every_file(store) == every_file(undisturbed)


def test_files_of_the_earlier_receipt_go_with_it(store: Store) -> None:
    made(store, Builder())
    store.write("a/of_another.bin", b"x")
    made(store, Builder({"a/two.bin": b"other", "a/three.bin": b"third"}), code_version="2")
    assert every_file(store).keys() == {"a/two.bin", "a/three.bin", "a/of_another.bin", receipt_path("asset")}


def test_files_of_earlier_versions_stay_where_asked(store: Store) -> None:
    make(store, "model", **WORK, build=Builder({"m/1": b"one"}), keep_earlier=True)
    changed = WORK | {"code_version": "2"}
    done = make(store, "model", **changed, build=Builder({"m/2": b"two"}), keep_earlier=True)
    assert every_file(store).keys() == {"m/1", "m/2", receipt_path("model")}
    assert done.receipt.outputs.keys() == {"m/2"}


def test_files_of_earlier_versions_stay_below_one_folder_where_asked(store: Store) -> None:
    make(store, "model", **WORK, build=Builder({"m/1": b"one", "mm/1": b"one", "r": b"one"}), keep_earlier="m")
    changed = WORK | {"code_version": "2"}
    make(store, "model", **changed, build=Builder({"m/2": b"two"}), keep_earlier="m")
    assert every_file(store).keys() == {"m/1", "m/2", receipt_path("model")}


def test_a_file_that_lies_there_is_counted_and_the_old_receipt_goes_before_a_new_one(store: Store) -> None:
    first = make(store, "model", **WORK, build=Builder({"m/weights": b"heavy", "m/card": b"old"})).receipt

    def again(writer: Writer) -> Summary:
        writer.keep("m/weights", first.outputs["m/weights"])
        assert find_receipt(store, "model") == first
        writer.write("m/card", b"new")
        assert find_receipt(store, "model") is None
        return {}

    changed = WORK | {"code_version": "2"}
    receipt = make(store, "model", **changed, build=again).receipt
    assert every_file(store) == {
        "m/weights": b"heavy",
        "m/card": b"new",
        receipt_path("model"): store.read(receipt_path("model")),
    }
    assert receipt.outputs["m/weights"] == first.outputs["m/weights"]
    assert need_receipt(store, "model") == receipt


def test_partitions_have_receipts_of_their_own(store: Store) -> None:
    made(store, Builder({"i/0": b"0"}), name="images/000")
    made(store, Builder({"i/1": b"1"}), name="images/001", inputs={})
    assert store.names("receipts/images") == ["000.json", "001.json"]
    assert made(store, Builder({"i/0": b"0"}), name="images/000").reused


def test_the_writer_hashes_what_lies_on_disk(store: Store) -> None:
    rows = TABLE.rows([{"id": f"{number:04d}"} for number in range(5000)])

    def build(writer: Writer) -> Summary:
        writer.table(TABLE, rows, part="000")
        writer.json("r/report.json", {"b": [1, 2], "a": "é"})
        with writer.writing("raw") as file:
            for chunk in (b"abc", bytearray(b"def"), memoryview(b"ghi")):
                assert file.write(chunk) == 3
            assert file.tell() == 9
        return {}

    receipt = make(store, "asset", **WORK, build=build).receipt
    files = every_file(store)
    assert files["raw"] == b"abcdefghi"
    assert files["r/report.json"] == b'{\n  "a": "\\u00e9",\n  "b": [\n    1,\n    2\n  ]\n}\n'
    for path, written in receipt.outputs.items():
        assert written.size == len(files[path])
        assert written.sha256 == hashlib.sha256(files[path]).hexdigest()
    assert list(receipt.outputs) == sorted(receipt.outputs)
    assert read_table(store, TABLE, part="000").column("id").to_pylist() == rows.column("id").to_pylist()


def test_a_table_that_breaks_its_schema_is_not_written(store: Store) -> None:
    def build(writer: Writer) -> Summary:
        writer.table(TABLE, TABLE.rows([{"id": "same"}, {"id": "same"}]), part="000")
        return {}

    with pytest.raises(TableError, match="same"):
        make(store, "asset", **WORK, build=build)
    assert every_file(store) == {}
