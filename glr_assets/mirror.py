"""A store copied to another: what receipts name, compared and copied by content, and what tells of runs.

`python -m glr_assets.mirror FROM TO [--quick]` with two root URLs; infra/backup.sh and infra/restore.sh use it. What
lies there already is hashed, and copied again where it is not as its receipt says; `--quick` trusts its size.

A store may be written meanwhile. A receipt is copied after its files, and only where it still is the one they were
read by. Files that are to replace others wait in a folder of their own until all of a receipt are there; the receipts
that name the others go before they do. So each receipt of the copy has all its files at any moment, also after a kill.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import IO

from glr_assets.errors import GlrError, MirrorError, SettingsError, StoreError
from glr_assets.ranges import ordered
from glr_assets.receipts import (
    LOCKS,
    DamagedReceiptError,
    Receipt,
    Unfinished,
    Written,
    digest_of,
    parse_receipt,
    read_receipt,
    receipt_names,
    receipt_path,
    sha256_of,
)
from glr_assets.store import Store, is_transient

RUNS = "runs"
#: Where files of the copy wait for the others of their receipt.
INCOMING = f"{RUNS}/incoming"
#: How often a receipt is read whose files change while they are copied.
ATTEMPTS = 3
#: Receipts that are copied at once; each holds a block or two of a file in memory.
WORKERS = 8
_CHUNK = 8 * 2**20
_SECONDS_APART = 10.0
_FIX = "`glr verify --repair` has it made again"


class _ChangedError(Exception):
    """A receipt is no longer the one that its files were read by."""


@dataclass
class Mirrored:
    """What a copy did.

    Attributes:
        copied: files copied.
        found: files that were there as they should be.
        being_made: receipts that were left out as their files are being changed, or were until the last look, each with
            the reason. The copy keeps what it had of them.
        left_out: receipts that were left out as they, or their files, are damaged, each with the reason. The copy keeps
            what it had of them.
    """

    copied: int = 0
    found: int = 0
    being_made: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def mirror(
    source: Store, target: Store, *, quick: bool = False, told: Callable[[int, int], None] = lambda _done, _of: None
) -> Mirrored:
    """Copy every receipt of `source` with its files, and the records of runs.

    Args:
        source: may be written meanwhile.
        target: the copy, which may hold an earlier one; nobody else may write to it.
        quick: trust what lies there by its size, without reading it.
        told: called with the receipts done and their number.

    Raises:
        StoreError: one of the stores cannot be reached.
    """
    with target.locked(f"{LOCKS}/mirror"):
        return _Mirror(source, target, quick).run(told)


class _Mirror:
    """One copy. `_turn` is held while the copy's receipts, and files that they name, change."""

    def __init__(self, source: Store, target: Store, quick: bool) -> None:
        self.source, self.target, self.quick = source, target, quick
        self.done = Mirrored()
        self._turn = threading.Lock()
        self._receipts: dict[str, Receipt] = {}
        self._naming: dict[str, set[str]] = {}
        self._holds: dict[str, str] = {}
        self._claimed: dict[str, str] = {}
        #: Files that were copied before their receipt, or whose receipt went.
        self._loose: set[str] = set()
        self._fetching: dict[tuple[str, str], Future[None]] = {}

    def run(self, told: Callable[[int, int], None]) -> Mirrored:
        self._clear_incoming()  # of a copy that was killed
        for name, receipt in self._there():
            self._named(name, receipt)
        names = receipt_names(self.source)
        for number, _ in enumerate(ordered(self._copy, names, workers=WORKERS), 1):
            told(number, len(names))
        # What was copied and had to go, as a receipt of newer files came after it, is newer itself by now.
        for name in self._lost(names):
            self._copy(name)
        for name in self._lost(names):
            self.done.left_out[name] = "another receipt names its files with other content; `glr verify` tells more"
        self._clear_incoming()
        for path in sorted(self._loose):
            if not self._naming.get(path):
                self.target.remove(path)
        self._copy_runs()
        return self.done

    def _clear_incoming(self) -> None:
        for path, _ in list(self.target.walk(INCOMING)):
            self.target.remove(path)

    def _there(self) -> Iterator[tuple[str, Receipt]]:
        """The receipts that the copy holds from before; what is damaged among them is copied over."""

        def read(name: str) -> tuple[str, Receipt | None]:
            try:
                found = read_receipt(self.target, name)
            except DamagedReceiptError:
                found = None
            return name, found if isinstance(found, Receipt) else None

        for name, receipt in ordered(read, receipt_names(self.target), workers=WORKERS):
            if receipt is not None:
                yield name, receipt

    def _named(self, name: str, receipt: Receipt) -> None:
        self._receipts[name] = receipt
        for path in receipt.outputs:
            self._naming.setdefault(path, set()).add(name)

    def _forgotten(self, name: str) -> Receipt | None:
        receipt = self._receipts.pop(name, None)
        for path in receipt.outputs if receipt is not None else ():
            self._naming[path].discard(name)
            self._loose.add(path)
        return receipt

    def _lost(self, names: Sequence[str]) -> list[str]:
        """Of the names of receipts those that neither the copy holds nor a reason was given for."""
        return [
            name
            for name in names
            if name not in self._receipts and name not in self.done.being_made and name not in self.done.left_out
        ]

    def _copy(self, name: str) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._copy_once(name)
            except _ChangedError:
                if attempt == ATTEMPTS:
                    self.done.being_made[name] = f"changed {ATTEMPTS} times while it was copied"
            except MirrorError as error:
                self.done.left_out[name] = str(error)
                return
            else:
                return

    def _copy_once(self, name: str) -> None:
        """Copy a receipt and its files, as they are now.

        Raises:
            _ChangedError: they changed meanwhile.
            MirrorError: they are damaged.
        """
        try:
            data = self.source.read(receipt_path(name))
        except FileNotFoundError:
            self.done.being_made[name] = "its receipt vanished while the store was copied"
            return
        try:
            receipt = parse_receipt(data, name, self.source.full_url(receipt_path(name)))
        except StoreError as error:
            raise MirrorError(str(error)) from error
        if isinstance(receipt, Unfinished):
            self.done.being_made[name] = receipt.reason or "its files are being changed, or were when a run was killed"
            return
        try:
            for path, written in receipt.outputs.items():
                self._provide(path, written)
        except MirrorError:
            self._need_unchanged(name, data)
            raise
        with self._turn:
            self._need_unchanged(name, data)
            self._place(name, receipt, data)

    def _need_unchanged(self, name: str, data: bytes) -> None:
        try:
            now = self.source.read(receipt_path(name))
        except FileNotFoundError as error:
            raise _ChangedError from error
        if now != data:
            raise _ChangedError

    def _provide(self, path: str, written: Written) -> None:
        """See that the copy has a file: in its place, or among those that wait."""
        with self._turn:
            if self._holds.get(path) == written.sha256:
                return
            key = (path, written.sha256)
            mine = key not in self._fetching
            future = self._fetching.setdefault(key, Future())
        if mine:
            try:
                self._fetch(path, written)
            except BaseException as error:
                with self._turn:
                    del self._fetching[key]
                future.set_exception(error)
                raise
            future.set_result(None)
        future.result()

    def _fetch(self, path: str, written: Written) -> None:
        if self._lies_there(path, written):
            with self._turn:
                self.done.found += 1
                self._holds[path] = written.sha256
            return
        with self._turn:
            # It takes its place at once where there is nothing to be replaced.
            in_place = not self._naming.get(path) and self._claimed.setdefault(path, written.sha256) == written.sha256
        self._copy_file(path, written, path if in_place else _waiting(path, written))
        with self._turn:
            self.done.copied += 1
            if in_place:
                self._holds[path] = written.sha256
                self._loose.add(path)

    def _lies_there(self, path: str, written: Written) -> bool:
        try:
            if self.target.size(path) != written.size:
                return False
            return self.quick or sha256_of(self.target, path) == written.sha256
        except (FileNotFoundError, StoreError):  # what cannot be read is written anew
            return False

    def _copy_file(self, path: str, written: Written, to_path: str) -> None:
        """Copy one file, which takes its name only where it is what the receipt says."""
        sha256, where = hashlib.sha256(), self.source.full_url(path)
        try:
            with self._opened(path) as from_, self.target.writing(to_path, sync=False) as to:
                while chunk := self._read(from_, where):
                    sha256.update(chunk)
                    to.write(chunk)
                if sha256.hexdigest() != written.sha256:
                    raise MirrorError(f"{where}: expected SHA-256 {written.sha256}, found {sha256.hexdigest()}; {_FIX}")
        except FileNotFoundError as error:
            raise MirrorError(f"{where}: is gone; {_FIX}") from error

    def _opened(self, path: str) -> IO[bytes]:
        try:
            return self.source.open(path)
        except StoreError as error:
            raise MirrorError(str(error)) from error

    def _read(self, file: IO[bytes], where: str) -> bytes:
        """The next bytes of a file of the source; a disk that cannot read them costs one receipt, not the copy."""
        try:
            return file.read(_CHUNK)
        except (StoreError, OSError) as error:
            raise MirrorError(f"{where}: cannot be read: {error}") from error

    def _place(self, name: str, receipt: Receipt, data: bytes) -> None:
        """Let a receipt and its files take the place of what the copy has of them."""
        replaced = {path: of for path, of in receipt.outputs.items() if self._holds.get(path) != of.sha256}
        absent = [path for path, of in replaced.items() if self.target.size(_waiting(path, of)) is None]
        if absent:
            raise MirrorError(f"another receipt names {absent[0]} with other content; `glr verify` tells more")
        outdated = {other for path in replaced for other in self._naming.get(path, ())}
        if self._receipts.get(name) != receipt:
            outdated.add(name)
        for other in sorted(outdated):
            if self._forgotten(other) is not None:
                self.target.remove(receipt_path(other))
                if other in self.done.being_made:
                    self.done.being_made[other] += "; the copy lost what it had of it, as its files were replaced"
        self.target.sync(receipt_path(other) for other in sorted(outdated))
        for path, of in sorted(replaced.items()):
            self.target.move(_waiting(path, of), path)
            self._holds[path] = of.sha256
        self.target.sync(receipt.outputs)
        if name not in self._receipts:
            self.target.write(receipt_path(name), data)
            self._named(name, receipt)

    def _copy_runs(self) -> None:
        """Copy what tells of runs; a record that vanishes meanwhile told of nothing that is over."""
        for path, _ in list(self.source.walk(RUNS)):
            if is_transient(path) or path.startswith((f"{LOCKS}/", f"{INCOMING}/")):
                continue
            try:
                self.target.write(path, self.source.read(path), sync=False)
            except FileNotFoundError:
                continue


def _waiting(path: str, written: Written) -> str:
    """Where a file waits for the others of its receipt."""
    return f"{INCOMING}/{digest_of([path, written.sha256])}"


def _open(url: str, variable: str) -> Store:
    try:
        return Store(url, json.loads(os.environ.get(variable) or "{}"))
    except json.JSONDecodeError as error:
        raise SettingsError(f'{variable}: expected JSON such as {{"anon": true}}, found no JSON') from error


def main(arguments: Sequence[str]) -> int:
    """Copy, tell what was done, and return the exit status: 1 where something damaged was left out."""
    parser = argparse.ArgumentParser(prog="python -m glr_assets.mirror", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("source", help="root URL of the store; its options in GLR_FROM_OPTIONS")
    parser.add_argument("target", help="root URL of the copy; its options in GLR_TO_OPTIONS")
    parser.add_argument("--quick", action="store_true", help="trust what lies there by its size, without reading it")
    given = parser.parse_args(arguments)
    last = time.monotonic()

    def told(done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_APART:
            last = time.monotonic()
            print(f"{done} of {of} receipts", file=sys.stderr, flush=True)

    try:
        source, target = _open(given.source, "GLR_FROM_OPTIONS"), _open(given.target, "GLR_TO_OPTIONS")
        done = mirror(source, target, quick=given.quick, told=told)
    except GlrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{done.copied} files copied, {done.found} were there; left out: {len(done.being_made)} receipts of work that "
        f"goes on, {len(done.left_out)} that are damaged"
    )
    for name, reason in sorted(done.being_made.items()):
        print(f"left out {name}: {reason}", file=sys.stderr)
    for name, reason in sorted(done.left_out.items()):
        print(f"left out, damaged: {name}: {reason}", file=sys.stderr)
    return 1 if done.left_out else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
