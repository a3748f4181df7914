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

from glr_assets.errors import DamagedFileError, MissingInputError, StoreError, TableError
from glr_assets.receipts import (
    LOCKS,
    Made,
    Receipt,
    Summary,
    Writer,
    Written,
    digest_of,
    distrust,
    find_receipt,
    forcing,
    is_forced,
    make,
    need_receipt,
    need_receipts,
    receipt_names,
    receipt_path,
)
from glr_assets.store import Store
from glr_assets.tables import Column, Table, read_table
from glr_assets_tests.conftest import DiskCalls

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
    assert told.pop("seal") == digest_of(told)
    assert told == {
        "format": 2,
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


@pytest.mark.parametrize("damage", ["missing", "cut", "grown", "changed", "receipt of another form"])
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
    elif damage == "changed":
        one.write_bytes(b"fiRst")
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


def every_flip(data: bytes) -> list[bytes]:
    """The document with one bit of it changed, for every byte of it; of the eight bits one after the other."""
    flips = []
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        flips.append(bytes(changed))
    return flips


def test_no_bit_of_a_receipt_changes_unnoticed(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    receipt = made(store, Builder()).receipt
    data = store.read(receipt_path("asset"))
    path = Path(store.path(receipt_path("asset")))
    blank = [place for place, byte in enumerate(data) if chr(byte).isspace()]
    for place, changed in enumerate(every_flip(data)):
        path.write_bytes(changed)
        # White space between values is no part of the document, and another sort of it changes nothing.
        if place in blank and find_receipt(store, "asset") == receipt:
            continue
        caplog.clear()
        assert find_receipt(store, "asset") is None, changed
        assert "receipts/asset.json: expected the receipt of asset, found" in caplog.text
        assert "materialise asset again; until then it counts as not made" in caplog.text
    for size in range(0, len(data) - 2, 7):
        path.write_bytes(data[:size])
        assert find_receipt(store, "asset") is None
    build = Builder()
    assert made(store, build).receipt == receipt
    assert build.calls == 1
    assert store.read(receipt_path("asset")) == data


def legacy(receipt: Receipt) -> bytes:
    """A receipt as the first release wrote it."""
    return receipt.model_dump_json(indent=2).encode() + b"\n"


def test_a_receipt_of_the_first_form_still_counts(store: Store) -> None:
    receipt = made(store, Builder()).receipt
    store.write(receipt_path("asset"), legacy(receipt))
    assert need_receipt(store, "asset") == receipt
    build = Builder()
    assert made(store, build).reused
    assert build.calls == 0


def test_a_receipt_of_a_later_release_is_refused_by_its_form(store: Store) -> None:
    made(store, Builder())
    document = {"format": 3, "name": "asset", "files": [["a/one.bin", "…"]]}
    store.write(receipt_path("asset"), json.dumps(document | {"seal": digest_of(document)}).encode())
    for use in (find_receipt, need_receipt):
        with pytest.raises(StoreError, match=r"receipts/asset.json: is of form 3, this release reads forms up to 2"):
            use(store, "asset")
    with pytest.raises(StoreError, match="is of form 3"):
        made(store, Builder())
    assert store.read("a/one.bin") == b"first"


@pytest.mark.parametrize("form", ["sealed", "first"])
@pytest.mark.parametrize("fault", ["swapped", "of nothing", "of paths outside"])
def test_a_receipt_that_is_not_its_own_counts_for_nothing_and_costs_no_other_a_file(
    store: Store, form: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    made(store, Builder({"i/0": b"0", "i/0.table": b"t0"}), name="images/000")
    other = made(store, Builder({"i/1": b"1", "i/1.table": b"t1"}), name="images/001").receipt
    before = every_file(store)
    if fault == "of nothing":
        other = other.model_copy(update={"name": "images/000", "outputs": {}})
    elif fault == "of paths outside":
        outside = {"receipts/images/001.json": Written(size=1, sha256="0" * 64)}
        other = other.model_copy(update={"name": "images/000", "outputs": outside})
    store.write(receipt_path("images/000"), other.to_bytes() if form == "sealed" else legacy(other))
    assert find_receipt(store, "images/000") is None
    expected = {"swapped": "found that of images/001", "of nothing": "names no files", "of paths outside": "no path of"}
    assert expected[fault] in caplog.text
    with pytest.raises(MissingInputError, match="images/000 has not been made"):
        need_receipt(store, "images/000")
    build = Builder({"i/0": b"0", "i/0.table": b"t0"})
    assert not made(store, build, name="images/000").reused
    assert every_file(store) == before


def test_two_receipts_that_were_swapped_cost_neither_a_file(store: Store) -> None:
    files = {f"images/{n:03d}": {f"i/{n}.tar": bytes([n]), f"i/{n}.table": b"t"} for n in range(2)}
    for name, of_shard in files.items():
        made(store, Builder(of_shard), name=name)
    before = every_file(store)
    first, second = (store.read(receipt_path(name)) for name in files)
    store.write(receipt_path("images/000"), second)
    store.write(receipt_path("images/001"), first)
    for name, of_shard in files.items():
        assert not made(store, Builder(of_shard), name=name).reused
    assert every_file(store) == before


def test_a_receipt_of_another_store_costs_no_other_asset_a_file(store: Store, tmp_path: Path) -> None:
    """Its name is right; of the first form nobody knows whether its paths are, and what others name stays."""
    there = Store(str(tmp_path / "there"))
    foreign = made(there, Builder({"index/faiss": b"x", "index/rows": b"y", "m/manifest": b"z"}), name="index").receipt
    made(store, Builder({"m/manifest": b"of another asset here"}), name="manifest")
    made(store, Builder({"index/faiss": b"here"}), name="index")
    store.write("index/rows", b"left by an earlier make")
    store.write(receipt_path("index"), legacy(foreign))
    assert not made(store, Builder({"index/faiss": b"here"}), name="index", code_version="2").reused
    assert store.read("m/manifest") == b"of another asset here"
    assert not store.exists("index/rows")
    assert need_receipt(store, "manifest").digest


def test_damage_that_a_build_meets_is_made_again_by_the_next_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a file that is too large to be hashed whenever finished work is taken over."""
    monkeypatch.setattr("glr_assets.receipts.HASHED_LOCAL", 0)
    source = Builder({"t/large.parquet": b"large and whole"})
    made(store, source, name="source")
    made(store, Builder({"t/other.parquet": b"another"}), name="other")

    def build(writer: Writer) -> Summary:
        data = store.read("t/large.parquet")
        if data != b"large and whole":
            raise DamagedFileError("t/large.parquet: not as it was written; materialise it again", "t/large.parquet")
        writer.write("answer", data.upper())
        return {}

    def answer() -> Made:
        inputs = need_receipts(store, "source", "other")
        return make(store, "answer", inputs=inputs, parameters={}, code_version="1", build=build)

    (Path(store.root) / "t/large.parquet").write_bytes(b"large and WHOLE")
    assert made(store, source, name="source").reused  # nobody has looked yet
    with pytest.raises(DamagedFileError):
        answer()
    with pytest.raises(
        MissingInputError,
        match=r"^source in .* is unfinished: it is damaged: t/large.parquet has SHA-256 \w+, expected \w+; materialise",
    ):
        answer()
    assert need_receipt(store, "other").name == "other"
    assert not made(store, source, name="source").reused
    assert not answer().reused
    assert store.read("answer") == b"LARGE AND WHOLE"
    assert distrust(store, "t/large.parquet", "t/other.parquet", "answer") == []


def test_what_a_running_job_is_at_is_not_distrusted(store: Store) -> None:
    receipt = made(store, Builder()).receipt
    (Path(store.root) / "a/one.bin").write_bytes(b"FIRST")
    with store.locked(f"{LOCKS}/asset"):
        assert distrust(store, "a/one.bin") == []
        assert find_receipt(store, "asset") == receipt
    assert distrust(store, "a/one.bin") == ["asset"]


def test_forced_work_is_done_again_and_leaves_the_same_bytes(store: Store) -> None:
    build = Builder()
    made(store, build)
    made(store, build, name="shards/000")
    made(store, build, name="other")
    before = every_file(store)
    with forcing("asset", "shards"):
        assert is_forced("asset")
        assert is_forced("shards/000")
        assert not is_forced("other")
        assert not made(store, build).reused
        assert not made(store, build, name="shards/000").reused
        assert made(store, build, name="other").reused
    assert build.calls == 5
    assert every_file(store) == before
    assert made(store, build).reused
    assert not is_forced("asset")


def test_an_asset_that_writes_nothing_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="asset: nothing was written"):
        made(store, Builder({}))
    assert every_file(store) == {}


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


@pytest.mark.parametrize("kills", [1, 2])
def test_files_of_earlier_makes_go_however_often_a_run_is_killed(store: Store, kills: int) -> None:
    """Each run has files of other names, and is killed when the first of two has its name."""
    made(store, Builder({"v0/a": b"0", "v0/b": b"0"}))
    for number in range(1, kills + 1):

        def build(writer: Writer, number: int = number) -> Summary:
            writer.write(f"v{number}/a", b"a")
            os.kill(os.getpid(), signal.SIGKILL)
            return {}

        process = PROCESSES.Process(
            target=make,
            args=(store, "asset"),
            kwargs={"inputs": {}, "parameters": {}, "code_version": str(number), "build": build},
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert store.exists(f"v{number}/a")
        assert store.exists("v0/a")
        assert find_receipt(store, "asset") is None
    made(store, Builder({"last/a": b"a"}))
    assert every_file(store).keys() == {"last/a", receipt_path("asset")}


def test_files_of_the_earlier_receipt_go_with_it(store: Store) -> None:
    made(store, Builder())
    store.write("a/of_another.bin", b"x")
    made(store, Builder({"a/two.bin": b"other", "a/three.bin": b"third"}), code_version="2")
    assert every_file(store).keys() == {"a/two.bin", "a/three.bin", "a/of_another.bin", receipt_path("asset")}


def test_files_of_earlier_versions_stay_where_asked(store: Store) -> None:
    make(store, "model", **WORK, build=Builder({"m/1": b"one"}), keep_earlier=True)
    changed = WORK | {"code_version": "2"}
    done = make(store, "model", **changed, build=Builder({"m/2": b"two"}), keep_earlier=True)
    assert done.receipt.outputs.keys() == {"m/2"}
    # A receipt of their own says what they are; the one of a version that is made once more goes.
    (archived,) = (name for name in receipt_names(store) if name.startswith("archive/"))
    earlier = find_receipt(store, archived)
    assert earlier is not None
    assert earlier.outputs.keys() == {"m/1"}
    assert (earlier.name, earlier.inputs, earlier.parameters) == ("model", WORK["inputs"], WORK["parameters"])
    assert every_file(store).keys() == {"m/1", "m/2", receipt_path("model"), receipt_path(archived)}
    make(store, "model", **WORK, build=Builder({"m/1": b"one, made again"}), keep_earlier=True)
    (second,) = (name for name in receipt_names(store) if name.startswith("archive/"))
    of_second = find_receipt(store, second)
    assert of_second is not None
    assert of_second.outputs.keys() == {"m/2"}
    assert every_file(store).keys() == {"m/1", "m/2", receipt_path("model"), receipt_path(second)}


def test_of_an_archived_version_only_what_a_new_one_writes_changes_hands(store: Store) -> None:
    make(store, "model", **WORK, build=Builder({"m/1": b"one", "m/card": b"old"}), keep_earlier=True)
    for number in (2, 3):
        changed = WORK | {"code_version": str(number)}
        make(store, "model", **changed, build=Builder({f"m/{number}": b"more"}), keep_earlier=True)
    make(store, "model", **WORK, build=Builder({"m/card": b"new"}), keep_earlier=True)
    archived = [find_receipt(store, name) for name in receipt_names(store) if name.startswith("archive/")]
    assert sorted(path for receipt in archived if receipt for path in receipt.outputs) == ["m/1", "m/2", "m/3"]
    assert need_receipt(store, "model").outputs.keys() == {"m/card"}


def test_files_of_earlier_versions_stay_below_one_folder_where_asked(store: Store) -> None:
    make(store, "model", **WORK, build=Builder({"m/1": b"one", "mm/1": b"one", "r": b"one"}), keep_earlier="m")
    changed = WORK | {"code_version": "2"}
    make(store, "model", **changed, build=Builder({"m/2": b"two"}), keep_earlier="m")
    (archived,) = (name for name in receipt_names(store) if name.startswith("archive/"))
    assert every_file(store).keys() == {"m/1", "m/2", receipt_path("model"), receipt_path(archived)}


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


def test_a_power_cut_at_any_moment_leaves_no_receipt_of_other_files(store: Store, disk_calls: DiskCalls) -> None:
    """What a disk has of the calls before any one of them is enough: files, their folders, then the receipt."""
    made(store, Builder({"a/one": b"1", "b/two": b"2"}))
    calls = [call for call in disk_calls.below(store) if call[0] != "mkdir" and not call[1].startswith("runs")]
    receipt = calls.index(("rename", "receipts/asset.json"))
    for path in ("a/one", "b/two"):
        folder, name = path.split("/")
        order = [("sync", f"{folder}/.{name}.part"), ("rename", path), ("sync", folder)]
        assert sorted(order, key=calls.index) == order
        assert calls.index(("sync", folder), calls.index(("rename", path))) < receipt
    assert calls[receipt - 1 :] == [
        ("sync", "receipts/.asset.json.part"),
        ("rename", "receipts/asset.json"),
        ("sync", "receipts"),
    ]


def test_an_earlier_receipt_is_gone_for_good_before_a_file_of_it_changes(store: Store, disk_calls: DiskCalls) -> None:
    made(store, Builder({"a/one": b"1", "a/two": b"2", "b/old": b"3"}))
    disk_calls.seen.clear()
    made(store, Builder({"a/one": b"new", "a/two": b"new", "b/new": b"new"}), code_version="2")
    marked = [("sync", "receipts/.asset.json.part"), ("rename", "receipts/asset.json"), ("sync", "receipts")]
    assert [call for call in disk_calls.below(store) if not call[1].startswith("runs")] == [
        *marked,  # the mark, which names all files of the earlier receipt
        ("sync", "a/.one.part"),
        ("rename", "a/one"),
        ("sync", "a/.two.part"),
        ("rename", "a/two"),
        *marked,  # and the file that the earlier receipt had not
        ("sync", "b/.new.part"),
        ("rename", "b/new"),
        ("remove", "b/old"),
        ("sync", "a"),
        ("sync", "b"),
        *marked,  # the receipt
    ]
