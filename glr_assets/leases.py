"""Leases: who works at what in a store on S3, which has no locks.

A lease is a small object that only one writer can create. Its holder writes it anew from time to time; one that has
not changed for so long is taken to be a dead process's. No clock is compared with another. A holder that stands still
for longer than that (a suspended machine) loses its lease unawares, so two may work at once: what they write must be
the same, and take its name whole, as everything does that goes through `receipts`.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from glr_assets.errors import StoreError

#: Seconds without a sign of life after which a lease is taken over; a holder gives one four times as often.
DEAD_AFTER = 60.0
#: Seconds between looks at a lease that another holds.
POLL = 2.0


class Files(Protocol):
    """What a lease asks of a store."""

    def create(self, name: str, data: bytes) -> bool:
        """Write `data` where there is no such file; whether that was so."""

    def read(self, name: str) -> bytes:
        """The whole of a file; FileNotFoundError where there is none."""

    def read_json(self, name: str) -> Any:
        """The same, as JSON."""

    def write(self, name: str, data: bytes) -> None:
        """Write `data` as the whole of a file."""

    def remove(self, name: str) -> None:
        """Delete a file; no error where there is none."""


@contextmanager
def leased(store: Files, name: str) -> Iterator[None]:
    """Wait until the lease `name` is free or its holder dead, and hold it for the block.

    Raises:
        StoreError: the store cannot be read or written.
    """
    holder = uuid.uuid4().hex
    while not store.create(name, _sign(holder, 0)):
        _wait_for(store, name)
    with _held(store, name, holder):
        yield


@contextmanager
def leased_if_free(store: Files, name: str) -> Iterator[bool]:
    """As `leased`, but nobody is waited for: whether the lease was free, and is held for the block.

    Raises:
        StoreError: the store cannot be read or written.
    """
    holder = uuid.uuid4().hex
    if not store.create(name, _sign(holder, 0)):
        yield False
        return
    with _held(store, name, holder):
        yield True


@contextmanager
def _held(store: Files, name: str, holder: str) -> Iterator[None]:
    """Give signs of life for a lease that was taken, and give it back at the end."""
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(store, name, holder, done), daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        beating.join()
        with suppress(StoreError):  # it expires
            if _holder(store, name) == holder:
                store.remove(name)


def _sign(holder: str, beat: int) -> bytes:
    return json.dumps({"holder": holder, "beat": beat}).encode()


def _beat(store: Files, name: str, holder: str, done: threading.Event) -> None:
    beat = 0
    while not done.wait(DEAD_AFTER / 4):
        beat += 1
        with suppress(StoreError):  # a line that is bad for a moment costs a sign of life, not the work
            if _holder(store, name) != holder:
                return  # it was taken for dead
            store.write(name, _sign(holder, beat))


def _holder(store: Files, name: str) -> str:
    try:
        return str(store.read_json(name).get("holder"))
    except FileNotFoundError:
        return ""


def _wait_for(store: Files, name: str) -> None:
    """Until the lease is gone, or nothing was heard of its holder for so long that it is removed."""
    seen, since = b"", time.monotonic()
    while True:
        try:
            found = store.read(name)
        except FileNotFoundError:
            return
        if found != seen:
            seen, since = found, time.monotonic()
        elif time.monotonic() - since > DEAD_AFTER:
            store.remove(name)
            return
        time.sleep(POLL)
