"""Receipts: what an asset was made from and what it wrote, so that finished work is known by content.

An asset's files are written first and its receipt last. A later run whose inputs, parameters and code
version are the same finds the receipt and has nothing to do; a killed run left none and starts again.
A receipt holds no time and no place, so the same work leaves the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from glr_assets.errors import MissingInputError, StoreError
from glr_assets.store import Store
from glr_assets.tables import Table, write_table

Summary = dict[str, int | float | str | bool | None]
#: Where receipts lie: a store without this folder holds nothing that was made.
RECEIPTS = "receipts"
#: Where it is told who is at which work; what lies there belongs to runs and not to what they make.
LOCKS = "runs/locks"


class Written(BaseModel):
    """One file of an asset: bytes and SHA-256."""

    model_config = ConfigDict(frozen=True)

    size: int
    sha256: str


class Receipt(BaseModel):
    """What was made: the digests of its inputs, its parameters, its files and a summary in figures."""

    model_config = ConfigDict(frozen=True)

    name: str
    code_version: str
    inputs: dict[str, str]
    parameters: dict[str, Any]
    outputs: dict[str, Written]
    summary: Summary

    @property
    def digest(self) -> str:
        """SHA-256 over the outputs' paths and bytes: the version of this asset's content."""
        return digest_of({path: written.sha256 for path, written in self.outputs.items()})


@dataclass(frozen=True)
class Made:
    """An asset's receipt, whether the work had been done before, and figures of this run alone, which nothing holds."""

    receipt: Receipt
    reused: bool
    run: Summary = field(default_factory=dict)


class Writer:
    """Writes an asset's files and keeps their sizes and digests for the receipt.

    `before_first` is called before the first file takes its name.
    """

    def __init__(self, store: Store, before_first: Callable[[], None] = lambda: None) -> None:
        self.store = store
        self.outputs: dict[str, Written] = {}
        self._before_first = before_first
        self._begun = False

    @contextmanager
    def writing(self, path: str) -> Iterator[IO[bytes]]:
        """A file written whole or not at all; its digest is taken as the bytes pass."""
        with self.store.writing(path) as file:
            hashing = _HashingFile(file)
            yield hashing  # type: ignore[misc]
            if not self._begun:
                self._before_first()
                self._begun = True
        self.outputs[path] = Written(size=hashing.size, sha256=hashing.sha256.hexdigest())

    def keep(self, path: str, written: Written) -> None:
        """Count a file that lies there already, whole, as this asset's."""
        self.outputs[path] = written

    def write(self, path: str, data: bytes) -> None:
        """Write `data` as the whole of `path`."""
        with self.writing(path) as file:
            file.write(data)

    def json(self, path: str, document: Any) -> None:
        """Write a JSON document with sorted keys."""
        self.write(path, json.dumps(document, indent=2, sort_keys=True).encode() + b"\n")

    def table(self, table: Table, data: pa.Table, **partition: str) -> None:
        """Write `data` as `table`, checked against its schema."""
        with self.writing(table.at(**partition)) as file:
            write_table(table, data, file)


class _HashingFile:
    """The part of a file that writers of a stream need, hashing what passes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(memoryview(data).cast("B"))
        self.file.write(data)
        return len(data)

    def tell(self) -> int:
        return self.size

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        """Nothing to do: the file is flushed when it takes its name."""

    def close(self) -> None:
        """Nothing to do: whoever opened the file closes it."""


def digest_of(document: Any) -> str:
    """SHA-256 of a JSON document, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def receipt_path(name: str) -> str:
    """Where the receipt of an asset, or of one partition of it as `asset/partition`, lies."""
    return f"{RECEIPTS}/{name}.json"


def holds_receipts(store: Store) -> bool:
    """Whether anything has been made in the store."""
    return bool(store.folders(RECEIPTS) or store.names(RECEIPTS))


def find_receipt(store: Store, name: str) -> Receipt | None:
    """The receipt of `name`, or None where it has not been made or the receipt is of another form."""
    try:
        return Receipt.model_validate(store.read_json(receipt_path(name)))
    except (FileNotFoundError, ValidationError):
        return None


def need_receipt(store: Store, name: str) -> Receipt:
    """The receipt of `name`, whose files are all there with the sizes it names.

    Raises:
        MissingInputError: it has not been made, or a file of it is gone or cut.
    """
    receipt = find_receipt(store, name)
    if receipt is None:
        raise MissingInputError(f"{name} has not been made in {store.url}: materialise it first")
    wrong = damage(store, receipt)
    if wrong:
        raise MissingInputError(f"{name} in {store.url} is damaged: {wrong}; materialise it again")
    return receipt


def need_receipts(store: Store, *names: str) -> dict[str, str]:
    """The digests of what has been made under these names, as `inputs` of what is made from them."""
    return {name: need_receipt(store, name).digest for name in names}


def make(
    store: Store,
    name: str,
    *,
    inputs: Mapping[str, str],
    parameters: Mapping[str, Any],
    code_version: str,
    build: Callable[[Writer], Summary],
    keep_earlier: bool | str = False,
    again: bool = False,
) -> Made:
    """Make `name` by `build`, or find that the same work has been done.

    Args:
        store: where its files and its receipt are written.
        name: the asset, or `asset/partition`.
        inputs: digest of each thing it is made from; a change makes it anew.
        parameters: the values of the recipe that decide the result, as JSON.
        code_version: raised by hand when the code gives another result.
        build: writes the files and returns the figures that describe them.
        keep_earlier: leave the files of an earlier receipt that this one has not, as other versions; all of them, or
            those under this folder.
        again: make it whether or not the same work has been done.
    """
    wanted_inputs, wanted_parameters = dict(inputs), json.loads(json.dumps(parameters))

    def done_before() -> Receipt | None:
        found = find_receipt(store, name)
        same = found is not None and (found.inputs, found.parameters, found.code_version) == (
            wanted_inputs,
            wanted_parameters,
            code_version,
        )
        return found if found is not None and same and not damage(store, found) else None

    if not again and (done := done_before()) is not None:
        return Made(done, reused=True)
    # Whoever is at the same work is waited for, and its work taken.
    with store.locked(f"{LOCKS}/{name}"):
        if not again and (done := done_before()) is not None:
            return Made(done, reused=True)
        return _made(store, name, wanted_inputs, wanted_parameters, code_version, build, keep_earlier)


def _made(
    store: Store,
    name: str,
    inputs: dict[str, str],
    parameters: dict[str, Any],
    code_version: str,
    build: Callable[[Writer], Summary],
    keep_earlier: bool | str,
) -> Made:
    earlier = find_receipt(store, name)
    # The old receipt goes before the first new file takes its name: files that change under it must not pass for
    # its own. A build that fails before leaves what was there, and may read it.
    writer = Writer(store, before_first=lambda: store.remove(receipt_path(name)))
    summary = build(writer)
    receipt = Receipt(
        name=name,
        code_version=code_version,
        inputs=inputs,
        parameters=parameters,
        outputs=dict(sorted(writer.outputs.items())),
        summary=summary,
    )
    if earlier is not None and keep_earlier is not True:
        for path in set(earlier.outputs) - set(receipt.outputs):
            if not (keep_earlier and path.startswith(f"{keep_earlier}/")):
                store.remove(path)
    store.write(receipt_path(name), receipt.model_dump_json(indent=2).encode() + b"\n")
    return Made(receipt, reused=False)


def damage(store: Store, receipt: Receipt) -> str:
    """The first file of a receipt that is gone or of another size, in words; empty where all is well."""
    for path, written in receipt.outputs.items():
        try:
            size = store.size(path)
        except StoreError as error:
            return str(error)
        if size != written.size:
            return f"{path} has {size} bytes, expected {written.size}"
    return ""
