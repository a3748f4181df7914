"""Copies of a store: whole work alone, verified, and nothing copied twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from glr_assets.errors import StoreError
from glr_assets.mirror import ATTEMPTS, INCOMING, _Mirror, main, mirror
from glr_assets.receipts import (
    LOCKS,
    Unfinished,
    Writer,
    find_receipt,
    make,
    need_receipt,
    read_receipt,
    receipt_names,
    receipt_path,
    sha256_of,
)
from glr_assets.store import Store
from glr_assets_tests.lineage import digests


def made(store: Store, name: str, text: str, path: str | None = None) -> None:
    """An asset of one file."""

    def build(writer: Writer) -> dict[str, str | int | float | None]:
        writer.write(path or f"manifests/{name}", text.encode())
        return {}

    make(store, name, inputs={}, parameters={"text": text}, code_version="1", build=build)


@pytest.fixture
def copy(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "copy"))


def test_a_copy_is_the_store_less_what_no_receipt_names(store: Store, copy: Store, tmp_path: Path) -> None:
    made(store, "train_manifest", "a")
    made(store, "train_images/000", "b", "images/train/000.tar")
    store.write("runs/train_images/000.json", b"{}")
    store.write("models/embedder/half/state.ckpt", b"an epoch")
    done = mirror(store, copy)
    assert (done.copied, done.found, done.left_out) == (2, 0, {})
    expected = digests(tmp_path / "store")
    assert expected.pop("models/embedder/half/state.ckpt")
    assert digests(tmp_path / "copy") == expected
    assert copy.read("runs/train_images/000.json") == b"{}"
    assert need_receipt(copy, "train_images/000") == need_receipt(store, "train_images/000")


def test_what_is_there_is_not_copied_again(store: Store, copy: Store) -> None:
    for name in ("a", "b", "c"):
        made(store, name, name)
    mirror(store, copy)
    made(store, "b", "of the same size".replace("of the same size", "x"))
    copy.remove("manifests/c")
    done = mirror(store, copy)
    assert (done.copied, done.found, done.left_out) == (2, 1, {})
    assert (copy.read("manifests/b"), copy.read("manifests/c")) == (b"x", b"c")


def test_a_file_that_is_not_what_its_receipt_says_is_left_out_by_name(store: Store, copy: Store) -> None:
    made(store, "good", "good")
    made(store, "flipped", "flipped")
    made(store, "gone", "gone")
    mirror(store, copy)
    made(store, "flipped", "FLIPPED")
    made(store, "gone", "GONE")
    store.write("manifests/flipped", b"FLIPPEd")
    store.remove("manifests/gone")
    left_out = mirror(store, copy).left_out
    assert left_out.keys() == {"flipped", "gone"}
    assert "expected SHA-256" in left_out["flipped"]
    assert "is gone" in left_out["gone"]
    # What the copy had of them is whole still.
    for name in ("flipped", "gone"):
        assert need_receipt(copy, name).digest
        assert copy.read(f"manifests/{name}") == name.encode()


def test_a_receipt_that_changes_while_it_is_copied_is_read_again(
    store: Store, copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store, "manifest", "one")
    times = []
    really = _Mirror._copy_file

    def changing(*arguments: object) -> None:
        really(*arguments)  # type: ignore[arg-type]
        if not times:
            made(store, "manifest", "two")
        times.append(1)

    monkeypatch.setattr(_Mirror, "_copy_file", changing)
    assert mirror(store, copy).left_out == {}
    assert len(times) == 2
    assert copy.read("manifests/manifest") == b"two"
    assert need_receipt(copy, "manifest") == need_receipt(store, "manifest")


def test_one_that_never_stands_still_is_left_out(store: Store, copy: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made(store, "manifest", "0")
    really, times = _Mirror._copy_file, []

    def changing(*arguments: object) -> None:
        really(*arguments)  # type: ignore[arg-type]
        times.append(1)
        made(store, "manifest", str(len(times)))

    monkeypatch.setattr(_Mirror, "_copy_file", changing)
    done = mirror(store, copy)
    assert done.left_out == {}
    assert done.being_made == {"manifest": "changed 3 times while it was copied"}
    assert len(times) == ATTEMPTS
    assert find_receipt(copy, "manifest") is None


def test_a_copy_to_s3_and_back(store: Store, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(store, "train_images/000", "x" * 1000, "images/train/000.tar")
    options = {"endpoint_url": s3_endpoint}
    remote = Store("s3://mirrored/backup", options)
    remote.fs.mkdir("mirrored")
    monkeypatch.setenv("GLR_TO_OPTIONS", json.dumps(options))
    assert main([store.url, remote.url]) == 0
    monkeypatch.setenv("GLR_FROM_OPTIONS", json.dumps(options))
    monkeypatch.delenv("GLR_TO_OPTIONS")
    assert main([remote.url, str(tmp_path / "back")]) == 0
    assert digests(tmp_path / "back") == digests(tmp_path / "store")


def test_the_command_says_what_it_left_out(
    store: Store, copy: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store, "gone", "gone")
    store.remove("manifests/gone")
    assert main([store.url, copy.url]) == 1
    told = capsys.readouterr()
    assert "left out: 0 receipts of work that goes on, 1 that are damaged" in told.out
    assert "left out, damaged: gone: " in told.err
    monkeypatch.setenv("GLR_TO_OPTIONS", "{")
    assert main([store.url, copy.url]) == 1
    assert "GLR_TO_OPTIONS" in capsys.readouterr().err


# Damage


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != "runs"
    }


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "receipt flipped", "receipt gone"])
def test_a_copy_mends_what_is_damaged_in_it(store: Store, copy: Store, tmp_path: Path, damage: str) -> None:
    """As a restore over a damaged store does."""
    for name in ("a", "b"):
        made(store, name, f"the text of {name}")
    mirror(store, copy)
    good = files(tmp_path / "copy")
    path = tmp_path / "copy" / (receipt_path("b") if "receipt" in damage else "manifests/b")
    data = bytearray(path.read_bytes())
    if "flipped" in damage:
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
    done = mirror(store, copy)
    assert (done.copied, done.found) == ((0, 2) if "receipt" in damage else (1, 1))
    assert files(tmp_path / "copy") == good


def test_the_quick_way_trusts_sizes(store: Store, copy: Store, tmp_path: Path) -> None:
    made(store, "a", "text")
    mirror(store, copy)
    (tmp_path / "copy/manifests/a").write_bytes(b"TEXT")
    assert mirror(store, copy, quick=True).found == 1
    assert copy.read("manifests/a") == b"TEXT"
    assert mirror(store, copy).copied == 1
    assert copy.read("manifests/a") == b"text"


def test_a_file_that_its_disk_cannot_read_costs_its_receipt_alone(
    store: Store, copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad", "good"):
        made(store, name, name)
    opened = Store.open

    def failing(self: Store, name: str, *more: object) -> object:
        if name == "manifests/bad":
            raise StoreError(f"{self.full_url(name)}: cannot read: Input/output error; mend the folder or its disk")
        return opened(self, name, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "open", failing)
    done = mirror(store, copy)
    assert done.left_out.keys() == {"bad"}
    assert "Input/output error" in done.left_out["bad"]
    assert need_receipt(copy, "good").digest


# Work that goes on


def test_locks_parts_and_what_waits_are_not_copied(store: Store, copy: Store, tmp_path: Path) -> None:
    made(store, "train_images/000", "b", "images/train/000.tar")
    store.write("runs/train_images/000.json", b"{}")
    store.write(f"{INCOMING}/abc", b"of an earlier copy that was made into this store")
    with store.locked(f"{LOCKS}/train_images/001"), store.writing("images/train/001.tar") as file:
        file.write(b"half")
        file.flush()
        mirror(store, copy)
    assert {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*") if path.is_file()} == {
        "images/train/000.tar",
        "receipts/train_images/000.json",
        "runs/train_images/000.json",
    }


def test_what_is_being_made_is_left_out_and_the_copy_keeps_what_it_had(store: Store, copy: Store) -> None:
    made(store, "manifest", "one")
    mirror(store, copy)
    receipt = need_receipt(store, "manifest")
    mark = Unfinished(name="manifest", earlier=receipt, paths=())
    store.write(receipt_path("manifest"), mark.to_bytes())
    store.write("manifests/manifest", b"of a run that goes on")
    done = mirror(store, copy)
    assert done.left_out == {}
    assert done.being_made.keys() == {"manifest"}
    assert copy.read("manifests/manifest") == b"one"
    assert need_receipt(copy, "manifest") == receipt
    assert main([store.url, copy.url]) == 0


def test_earlier_versions_of_a_model_are_copied(store: Store, copy: Store) -> None:
    for version in ("1", "2"):

        def build(writer: Writer, version: str = version) -> dict[str, str | int | float | None]:
            writer.write(f"models/embedder/{version}/embedder.pt", version.encode())
            return {}

        make(store, "embedder", inputs={}, parameters={}, code_version=version, build=build, keep_earlier=True)
    mirror(store, copy)
    assert [copy.read(f"models/embedder/{version}/embedder.pt") for version in ("1", "2")] == [b"1", b"2"]
    assert not_whole(copy) == []


def test_a_file_that_two_receipts_name_is_replaced_with_both(store: Store, copy: Store, tmp_path: Path) -> None:
    """As those of a package, and of each of its files."""

    def package(text: str) -> None:
        def build(writer: Writer) -> dict[str, str | int | float | None]:
            made(store, "zip/0", text, "exports/0.zip")
            writer.outputs |= need_receipt(store, "zip/0").outputs
            writer.write("exports/list", text.encode())
            return {}

        make(store, "zip", inputs={}, parameters={"text": text}, code_version="1", build=build)

    for text in ("first", "second"):
        package(text)
        assert mirror(store, copy).left_out == {}
        assert files(tmp_path / "copy") == files(tmp_path / "store")


def test_two_receipts_of_one_file_that_disagree_are_told(store: Store, copy: Store) -> None:
    made(store, "one", "x", "shared")
    made(store, "two", "y", "shared")
    done = mirror(store, copy)
    assert done.left_out.keys() == {"one"}
    assert copy.read("shared") == b"y"
    assert not_whole(copy) == []


def not_whole(store: Store) -> list[str]:
    """Every file of every receipt that is not there with the digest that the receipt names."""
    wrong = []
    for name in receipt_names(store):
        receipt = read_receipt(store, name)
        if isinstance(receipt, Unfinished) or receipt is None:
            wrong.append(name)
            continue
        for path, written in receipt.outputs.items():
            if not store.exists(path) or sha256_of(store, path) != written.sha256:
                wrong.append(f"{name}: {path}")
    return wrong


@contextmanager
def work_going_on(store: Store, processes: int = 2) -> Iterator[None]:
    """Processes that make assets of the store again and again."""
    running = [
        subprocess.Popen([sys.executable, "-m", "glr_assets_tests.working", store.url, str(seed)])
        for seed in range(processes)
    ]
    try:
        while len(receipt_names(store)) < 6:
            time.sleep(0.05)
        yield
        assert [process.poll() for process in running] == [None] * processes
    finally:
        for process in running:
            process.kill()
            process.wait()


@pytest.mark.parametrize("backups", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_backups_while_work_goes_on_are_whole_every_one(backups: int, store: Store, copy: Store) -> None:
    copied = left_out = 0
    with work_going_on(store):
        for _ in range(backups):
            done = mirror(store, copy)
            assert done.left_out == {}
            copied += done.copied
            left_out += len(done.being_made)
            assert not_whole(copy) == []
            assert [path for path, _ in copy.walk() if "lock" in path or path.startswith(INCOMING)] == []
    print(f"{backups} backups whole, {copied} files copied, {left_out} receipts left out as work went on at them")
    assert copied > backups
    mirror(store, copy)
    named = {path for name in receipt_names(copy) for path in (find_receipt(copy, name) or pytest.fail(name)).outputs}
    there = {path for path, _ in copy.walk() if not path.startswith(("runs/", "receipts/"))}
    assert there == named  # and nothing of earlier copies is left


def test_a_copy_that_is_killed_is_whole_and_goes_on(store: Store, copy: Store) -> None:
    chance = random.Random(5)
    for number in range(6):
        made(store, f"asset/{number}", chance.randbytes(200_000).hex())
    mirror(store, copy)
    processes = multiprocessing.get_context("fork")
    for moment in (0.0, 0.01, 0.03, 0.06):
        for number in range(6):
            made(store, f"asset/{number}", chance.randbytes(200_000).hex())
        process = processes.Process(target=mirror, args=(store, copy))
        process.start()
        time.sleep(moment)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert not_whole(copy) == []
    assert mirror(store, copy).left_out == {}
    assert not_whole(copy) == []
    assert [path for path, _ in copy.walk() if path.startswith(INCOMING)] == []


def test_what_lies_on_s3_is_replaced_whole(store: Store, s3_endpoint: str) -> None:
    remote = Store("s3://replaced/backup", {"endpoint_url": s3_endpoint})
    remote.fs.mkdir("replaced")
    for text in ("one", "two"):
        made(store, "train_images/000", text, "images/train/000.tar")
        assert mirror(store, remote).copied == 1
        assert remote.read("images/train/000.tar") == text.encode()
        assert not_whole(remote) == []
    remote.write("images/train/000.tar", b"TWO")
    assert mirror(store, remote).copied == 1
    assert not_whole(remote) == []
    assert [path for path, _ in remote.walk(INCOMING)] == []
