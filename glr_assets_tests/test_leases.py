"""Leases on an S3 server: one holder at a time, and a dead one's lease is taken over."""

from __future__ import annotations

import errno
import threading
import time
import uuid

import pytest

from glr_assets import leases
from glr_assets.leases import leased
from glr_assets.receipts import Summary, Writer, make
from glr_assets.store import Store

NAME = "runs/locks/asset/000.lock"


@pytest.fixture
def store(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(leases, "POLL", 0.02)
    store = Store(f"s3://leases-{uuid.uuid4().hex}/prefix", {"endpoint_url": s3_endpoint})
    store.fs.mkdir(store.root.partition("/")[0])
    return store


def test_an_object_is_created_once(store: Store) -> None:
    assert store.create("a", b"first")
    assert not store.create("a", b"second")
    assert store.read("a") == b"first"


def test_a_server_without_conditional_writes_lets_everyone_in(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    original = store.fs.pipe_file

    def ignorant(path: str, data: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            raise OSError(
                errno.EIO, "NotImplemented: A header you provided implies functionality that is not implemented"
            )
        original(path, data)

    monkeypatch.setattr(store.fs, "pipe_file", ignorant)
    assert store.create("a", b"first")
    assert store.create("a", b"second")
    assert store.read("a") == b"second"


def test_two_holders_are_never_inside_together_and_nothing_is_left(store: Store) -> None:
    inside: list[int] = []
    most = []

    def work(number: int) -> None:
        for _ in range(3):
            with leased(store, NAME):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.02)
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 9
    assert not store.exists(NAME)


def test_a_living_holder_keeps_its_lease_a_dead_one_does_not(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "DEAD_AFTER", 0.6)
    entered = threading.Event()

    def second() -> None:
        with leased(store, NAME):
            entered.set()

    with leased(store, NAME):
        waiting = threading.Thread(target=second)
        waiting.start()
        assert not entered.wait(1.5)
    assert entered.wait(5)
    waiting.join()

    store.write(NAME, b'{"holder": "dead", "beat": 7}')
    began = time.monotonic()
    with leased(store, NAME):
        assert 0.6 < time.monotonic() - began < 5
    assert not store.exists(NAME)


def test_work_that_two_begin_is_done_by_one(store: Store) -> None:
    built: list[str] = []

    def build(writer: Writer) -> Summary:
        built.append("once")
        time.sleep(0.2)
        writer.write("file", b"content")
        return {}

    reused: list[bool] = []

    def work() -> None:
        made = make(store, "asset/000", inputs={}, parameters={}, code_version="1", build=build)
        reused.append(made.reused)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == ["once"]
    assert sorted(reused) == [False, True]
