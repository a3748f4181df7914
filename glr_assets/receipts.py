"""Receipts: what an asset was made from and what it wrote, so that finished work is known by content.

An asset's files are written first and its receipt last. A later run whose inputs, parameters and code version are the
same finds the receipt and has nothing to do; a killed run left none and starts again. A receipt holds no time and no
place, so the same work leaves the same bytes.

A receipt is believed where it is its own: its seal is the SHA-256 of the rest of it, its name is that of its path, and
it names files. Anything else counts as not made, with a warning; a receipt of a later release is refused by name.

While files of an earlier make change, a mark stands in the receipt's place. It names every file that may be left of
earlier makes, so that whoever makes the asset next removes what is not of the new make, however often it was killed.
Files of earlier makes that are to stay, such as versions of a model, keep a receipt in the archive.
"""

from __future__ import annotations

import hashlib
import json
import logging
import posixpath
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any, Final

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from glr_assets import dry_run
from glr_assets.dry_run import Answer, Change, Verdict, changes_between
from glr_assets.errors import DamagedFileError, GlrError, MissingInputError, StoreError
from glr_assets.ranges import RANGES_AHEAD, ordered
from glr_assets.snapshot import REQUESTS as SNAPSHOT_REQUESTS
from glr_assets.snapshot import SnapshotStore
from glr_assets.store import Store
from glr_assets.tables import Table, write_table

log = logging.getLogger(__name__)

Summary = dict[str, int | float | str | bool | None]
#: Where receipts lie: a store without this folder holds nothing that was made.
RECEIPTS = "receipts"
#: Receipts of files that later makes of the same name left where they are.
ARCHIVE = f"{RECEIPTS}/archive"
#: Where it is told who is at which work; what lies there belongs to runs and not to what they make.
LOCKS = "runs/locks"
#: The form of receipts that this release writes. The first form had neither a form nor a seal; it is still read.
FORMAT: Final = 2
#: Files up to so many bytes are hashed before finished work is taken over: some 50 ms of a disk, and of a remote store
#: no more requests than asking for their sizes.
HASHED_LOCAL: Final = 64 * 2**20
HASHED_REMOTE: Final = 2**20


class Written(BaseModel):
    """One file of an asset: bytes and SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str


class Receipt(BaseModel):
    """What was made: the digests of its inputs, its parameters, its files and a summary in figures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    code_version: str
    inputs: dict[str, str]
    parameters: dict[str, Any]
    outputs: dict[str, Written]
    summary: Summary

    @field_validator("outputs")
    @classmethod
    def _inside(cls, outputs: dict[str, Written]) -> dict[str, Written]:
        for path in outputs:
            if posixpath.normpath(path) != path or path.startswith(("/", "..", f"{RECEIPTS}/", "runs/")):
                raise ValueError(f"{path!r} is no path of an asset's file")
        return outputs

    @property
    def digest(self) -> str:
        """SHA-256 over the outputs' paths and bytes: the version of this asset's content."""
        return digest_of({path: written.sha256 for path, written in self.outputs.items()})

    def to_bytes(self) -> bytes:
        """The receipt as it is stored: a sealed JSON document."""
        return _sealed(json.loads(self.model_dump_json()))


class Unfinished(BaseModel):
    """The mark in a receipt's place: files of the asset are being changed, or a run that changed them was killed.

    Attributes:
        name: of the receipt.
        earlier: the last receipt there was; absent where it could not be read.
        paths: files that runs since then have written.
        reason: why the files do not count, where that is not a run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    earlier: Receipt | None
    paths: tuple[str, ...]
    reason: str = ""

    @property
    def files(self) -> set[str]:
        """Every file that earlier makes may have left."""
        return {*self.paths, *(self.earlier.outputs if self.earlier is not None else ())}

    def to_bytes(self) -> bytes:
        """The mark as it is stored."""
        return _sealed({"unfinished": json.loads(self.model_dump_json())})


class DamagedReceiptError(StoreError):
    """A receipt is not what was written under its name, so what it tells of counts as not made."""


@dataclass(frozen=True)
class Made:
    """An asset's receipt, whether the work had been done before, and figures of this run alone, which nothing holds."""

    receipt: Receipt
    reused: bool
    run: Summary = field(default_factory=dict)


class Writer:
    """Writes an asset's files and keeps their sizes and digests for the receipt.

    `announce` is called with each path before a file takes that name, and with none by `begin`.
    """

    def __init__(self, store: Store, announce: Callable[[str | None], None] = lambda _: None) -> None:
        self.store = store
        self.outputs: dict[str, Written] = {}
        self._announce = announce

    def begin(self) -> None:
        """Files of the asset will change from here on, also such as are written by others: no earlier receipt holds."""
        self._announce(None)

    @contextmanager
    def writing(self, path: str) -> Iterator[IO[bytes]]:
        """A file written whole or not at all; its digest is taken as the bytes pass."""
        with self.store.writing(path, sync=False) as file:
            hashing = _HashingFile(file)
            yield hashing  # type: ignore[misc]
            file.flush()  # a disk that is full leaves what was there
            self._announce(path)
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


def _sealed(document: dict[str, Any]) -> bytes:
    document = {"format": FORMAT, **document}
    return json.dumps(document | {"seal": digest_of(document)}, indent=2).encode() + b"\n"


def receipt_path(name: str) -> str:
    """Where the receipt of an asset, or of one partition of it as `asset/partition`, lies."""
    return f"{RECEIPTS}/{name}.json"


def holds_receipts(store: Store) -> bool:
    """Whether anything has been made in the store."""
    return bool(store.folders(RECEIPTS) or store.names(RECEIPTS))


def receipt_names(store: Store) -> list[str]:
    """The names of all receipts and marks that lie in the store, archived ones as `archive/<name>/<digest>`; sorted."""
    paths = (path for path, _ in store.walk(RECEIPTS) if path.endswith(".json") and "/." not in path)
    return sorted(path.removeprefix(f"{RECEIPTS}/").removesuffix(".json") for path in paths)


def read_receipt(store: Store, name: str) -> Receipt | Unfinished | None:
    """What lies under the name of a receipt: one, the mark of unfinished work, or None where there is neither.

    Raises:
        DamagedReceiptError: it is cut or changed, of another name, or names no files.
        StoreError: it is of a later release, or the store cannot be read.
    """
    if not isinstance(store, SnapshotStore):
        return _read_receipt(store, name)
    if store.size(receipt_path(name)) is None:  # which costs no request
        return None
    return store.kept(("receipt", name), lambda: _read_receipt(store, name))


def fetch_receipts(store: SnapshotStore) -> None:
    """Read all receipts there are, of a remote store several at once; damaged ones are told of when they are asked for.

    Raises:
        StoreError: the store cannot be read.
    """

    def fetched(name: str) -> None:
        with suppress(StoreError):
            read_receipt(store, name)

    names = [name for name in receipt_names(store) if not name.startswith("archive/")]
    for _ in ordered(fetched, names, workers=SNAPSHOT_REQUESTS):
        pass


def _read_receipt(store: Store, name: str) -> Receipt | Unfinished | None:
    path = receipt_path(name)
    try:
        data = store.read(path)
    except FileNotFoundError:
        return None
    return parse_receipt(data, name, store.full_url(path))


def parse_receipt(data: bytes, name: str, where: str) -> Receipt | Unfinished:
    """A receipt, or the mark of unfinished work, from its document.

    Args:
        data: the document.
        name: what it must be called.
        where: how to name it.

    Raises:
        DamagedReceiptError: it is cut or changed, of another name, or names no files.
        StoreError: it is of a later release.
    """

    def damaged(found: str) -> DamagedReceiptError:
        return DamagedReceiptError(f"{where}: expected the receipt of {name}, found {found}; materialise {name} again")

    try:
        document = json.loads(data)
    except ValueError as error:
        raise damaged("no JSON") from error
    if not isinstance(document, dict):
        raise damaged("no JSON object")
    form = document.pop("format", 1)
    if form != 1:
        seal = document.pop("seal", None)
        if seal != digest_of({"format": form, **document}):
            raise damaged("a document that was changed after it was written: its seal is not that of its content")
        if form != FORMAT:
            raise StoreError(
                f"{where}: is of form {form}, this release reads forms up to {FORMAT}; use the release that wrote it, "
                f"or remove the file to make {name} again"
            )
    try:
        found: Receipt | Unfinished = (
            Unfinished.model_validate(document["unfinished"])
            if document.keys() == {"unfinished"}
            else Receipt.model_validate(document)
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise damaged(f"{'.'.join(map(str, first['loc'])) or 'document'}: {first['msg']}") from error
    if found.name != _named_in(name):
        raise damaged(f"that of {found.name}")
    if isinstance(found, Receipt) and not found.outputs:
        raise damaged("one that names no files")
    return found


def _named_in(name: str) -> str:
    """The name that stands in a receipt: of an archived one that of the asset."""
    return posixpath.dirname(name.removeprefix("archive/")) if name.startswith("archive/") else name


def find_receipt(store: Store, name: str) -> Receipt | None:
    """The receipt of `name`; None where it has not been made, is being made, or its receipt is damaged.

    A damaged receipt is warned of in the log.

    Raises:
        StoreError: it is of a later release, or the store cannot be read.
    """
    found = _found(store, name)
    return found if isinstance(found, Receipt) else None


def _found(store: Store, name: str) -> Receipt | Unfinished | None:
    try:
        return read_receipt(store, name)
    except DamagedReceiptError as error:
        log.warning("%s; until then it counts as not made", error)
        return None


def need_receipt(store: Store, name: str) -> Receipt:
    """The receipt of `name`, whose files are all there with the sizes it names.

    Raises:
        MissingInputError: it has not been made, or a file of it is gone or cut.
        StoreError: the receipt is of a later release, or the store cannot be read.
    """
    found = _found(store, name)
    if isinstance(found, Unfinished):
        raise MissingInputError(
            f"{name} in {store.url} is unfinished: {found.reason or 'a run of it goes on, was killed or failed'}; "
            "materialise it again"
        )
    if found is None:
        raise MissingInputError(f"{name} has not been made in {store.url}: materialise it first")
    wrong = damage(store, found)
    if wrong:
        raise MissingInputError(f"{name} in {store.url} is damaged: {wrong}; materialise it again")
    return found


def need_receipts(store: Store, *names: str) -> dict[str, str]:
    """The digests of what has been made under these names, as `inputs` of what is made from them."""
    return {name: need_receipt(store, name).digest for name in names}


_forced: frozenset[str] = frozenset()


def force(*assets: str) -> None:
    """From now on this process makes these assets, and their partitions, again though they are done; no others."""
    global _forced  # noqa: PLW0603 - of the run that the process is at
    _forced = frozenset(assets)


@contextmanager
def forcing(*assets: str) -> Iterator[None]:
    """Within the block this process makes these assets, and their partitions, again though they are done."""
    before = _forced
    force(*before, *assets)
    try:
        yield
    finally:
        force(*before)


def forget(store: Store, name: str, keep: Collection[str] = ()) -> None:
    """Remove the receipt of `name`, or the mark in its place, and every file that it tells of but those to keep.

    Raises:
        StoreError: the receipt is of a later release, or the store cannot be read or written.
    """
    found = _found(store, name)
    if isinstance(found, Receipt):
        found = Unfinished(name=name, earlier=found, paths=())
    for path in sorted(found.files if found is not None else ()):
        if path not in keep:
            store.remove(path)
    store.remove(receipt_path(name))


def is_forced(name: str) -> bool:
    """Whether `name`, an asset or `asset/partition`, is to be made again, without what an earlier make has found."""
    return not _forced.isdisjoint((name, name.partition("/")[0]))


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

    Work counts as done where the files are there with their sizes, and small ones with their digests. Where `build`
    meets a file that is not as it was written, whatever that file belongs to counts as not made from then on.

    Within `dry_run.dry_run` nothing is made, written or locked: it raises an `Answer` with what a run would find.

    Args:
        store: where its files and its receipt are written.
        name: the asset, or `asset/partition`.
        inputs: digest of each thing it is made from; a change makes it anew.
        parameters: the values of the recipe that decide the result, as JSON.
        code_version: raised by hand when the code gives another result.
        build: writes the files, one at least, and returns the figures that describe them.
        keep_earlier: leave the files of an earlier receipt that this one has not, as other versions; all of them, or
            those under this folder. A receipt in the archive names them.
        again: make it whether or not the same work has been done, as within `forcing`.
    """
    wanted = _Wanted(name, dict(inputs), json.loads(json.dumps(parameters)), code_version)
    again = again or is_forced(name)
    dry = dry_run.current()
    if dry is not None:
        changes = tuple(wanted.changes(store, forced=again, check_bytes=dry.check_bytes))
        raise Answer(Verdict(name, changes, inputs=tuple(sorted(inputs))))
    if not again and (done := wanted.done(store)) is not None:
        return Made(done, reused=True)
    # Whoever is at the same work is waited for, and its work taken.
    with store.locked(f"{LOCKS}/{name}"):
        if not again and (done := wanted.done(store)) is not None:
            return Made(done, reused=True)
        return _made(store, wanted, build, keep_earlier)


@dataclass(frozen=True)
class _Wanted:
    """What a receipt has to say for work to count as done."""

    name: str
    inputs: dict[str, str]
    parameters: dict[str, Any]
    code_version: str

    def done(self, store: Store) -> Receipt | None:
        """The receipt of the same work, whose files are there; None where it is to be made. Damage is warned of."""
        found = find_receipt(store, self.name)
        if found is None or not self._is_of(found):
            return None
        wrong = self._damage(store, found)
        if wrong:
            log.warning("%s in %s is damaged: %s; it is made again", self.name, store.url, wrong)
        return None if wrong else found

    def changes(self, store: Store, *, forced: bool, check_bytes: bool) -> Iterator[Change]:
        """Why it is not done; nothing where it is. Of files the sizes are compared, or as `done` does."""
        found = _found(store, self.name)
        if not isinstance(found, Receipt):
            reason = "" if found is None else found.reason or "a run of it goes on, was killed or failed"
            yield Change("never made") if found is None else Change("unfinished", detail=reason)
            return
        if not self._is_of(found):
            yield from changes_between(found.inputs, self.inputs, "input")
            yield from changes_between(found.parameters, self.parameters, "parameter")
            if found.code_version != self.code_version:
                yield Change("code", old=found.code_version, new=self.code_version)
        elif wrong := self._damage(store, found) if check_bytes else damage(store, found):
            yield Change("files", detail=wrong)
        elif forced:
            yield Change("forced")

    def _is_of(self, found: Receipt) -> bool:
        """Whether a receipt tells of this very work."""
        told = (found.inputs, found.parameters, found.code_version)
        return told == (self.inputs, self.parameters, self.code_version)

    def _damage(self, store: Store, found: Receipt) -> str:
        return damage(store, found, hashed=HASHED_LOCAL if store.is_local else HASHED_REMOTE)


def _made(store: Store, wanted: _Wanted, build: Callable[[Writer], Summary], keep_earlier: bool | str) -> Made:
    name = wanted.name
    # The old receipt goes before the first new file takes its name: files that change under it must not pass for
    # its own. A build that fails before leaves what was there, and may read it.
    changes = _Changes.of(store, name)
    writer = Writer(store, changes.announce)
    try:
        summary = build(writer)
    except DamagedFileError as error:
        _distrusted(store, error)
        raise
    if not writer.outputs:
        raise StoreError(f"{name}: nothing was written, so no receipt can tell of it; report this as a fault")
    receipt = Receipt(
        name=name,
        code_version=wanted.code_version,
        inputs=wanted.inputs,
        parameters=wanted.parameters,
        outputs=dict(sorted(writer.outputs.items())),
        summary=summary,
    )
    _cleared(store, receipt, changes, keep_earlier)
    store.write(receipt_path(name), receipt.to_bytes())
    return Made(receipt, reused=False)


class _Changes:
    """The files that earlier makes of a name may have left, and the mark that names them while they change."""

    def __init__(self, store: Store, name: str, mark: Unfinished | None, *, sealed: bool = True) -> None:
        self._store, self._name = store, name
        self.mark = mark
        self.sealed = sealed
        self.written = False

    @classmethod
    def of(cls, store: Store, name: str) -> _Changes:
        """What lies there: nothing, a receipt, or a mark; of a damaged receipt it is known that it was there."""
        try:
            data = store.read(receipt_path(name))
            found = parse_receipt(data, name, store.full_url(receipt_path(name)))
        except FileNotFoundError:
            return cls(store, name, None)
        except DamagedReceiptError:
            return cls(store, name, Unfinished(name=name, earlier=None, paths=()))
        if isinstance(found, Receipt):
            found = Unfinished(name=name, earlier=found, paths=())
        return cls(store, name, found, sealed=b'"seal"' in data)

    def announce(self, path: str | None) -> None:
        """Have the mark in the receipt's place, with that path in it, before the file takes its name."""
        if self.mark is None or (self.written and (path is None or path in self.mark.files)):
            return
        added = () if path is None or path in self.mark.files else (path,)
        self.mark = Unfinished(name=self._name, earlier=self.mark.earlier, paths=(*self.mark.paths, *added))
        self._store.write(receipt_path(self._name), self.mark.to_bytes())
        self.written = True


def _cleared(store: Store, receipt: Receipt, changes: _Changes, keep_earlier: bool | str) -> None:
    """Remove what earlier makes left beside the files of a new receipt, and make all this survive a power cut.

    The paths are those that receipts and marks of this very name held. Of a receipt without a seal, as earlier releases
    left them, nobody knows whether its paths were changed: what another receipt names is not removed then. What is to
    stay goes into the archive.
    """
    mark = changes.mark

    def stays(path: str) -> bool:
        return keep_earlier is True or bool(keep_earlier and path.startswith(f"{keep_earlier}/"))

    stale: set[str] = set()
    if mark is not None:
        stale = {path for path in mark.files - receipt.outputs.keys() if not stays(path)}
        if stale and not changes.sealed:
            stale -= _named_by_others(store, receipt.name)
        if not changes.written and stale:  # nothing but what was kept: the removal is a change all the same
            changes.announce(None)
        for path in stale:
            store.remove(path)
        if mark.earlier is not None and keep_earlier:
            _archive(
                store, mark.earlier, {path for path in mark.earlier.outputs if stays(path)} - receipt.outputs.keys()
            )
    store.sync([*receipt.outputs, *stale])
    if keep_earlier:
        for name in _archived(store, receipt.name):
            of_earlier = find_receipt(store, name)
            if of_earlier is not None and of_earlier.outputs.keys() & receipt.outputs.keys():
                _archive(store, of_earlier, of_earlier.outputs.keys() - receipt.outputs.keys())
                store.remove(receipt_path(name))


def _named_by_others(store: Store, name: str) -> set[str]:
    """The files that any receipt but that of `name` names."""
    receipts = (_readable(store, other) for other in receipt_names(store) if other != name)
    return {path for receipt in receipts if receipt is not None for path in receipt.outputs}


def _archived(store: Store, name: str) -> list[str]:
    """The names of the archived receipts of `name`."""
    return [f"archive/{name}/{file.removesuffix('.json')}" for file in store.names(f"{ARCHIVE}/{name}")]


def _archive(store: Store, receipt: Receipt, paths: Collection[str]) -> None:
    """Keep a receipt of these files of an earlier one; they stay where they are."""
    if paths:
        outputs = {path: written for path, written in receipt.outputs.items() if path in paths}
        kept = receipt.model_copy(update={"outputs": outputs})
        store.write(receipt_path(f"archive/{receipt.name}/{kept.digest[:12]}"), kept.to_bytes())


def damage(store: Store, receipt: Receipt, hashed: int = -1) -> str:
    """The first file of a receipt that is gone or not as it was written, in words; empty where all is well.

    Args:
        store: where the files are.
        receipt: of an asset.
        hashed: files of so many bytes at most are read and their digests compared, of others their sizes alone.
    """

    def wrong(item: tuple[str, Written]) -> str:
        path, written = item
        try:
            if written.size <= hashed:
                return file_damage(path, written, store.head(path, written.size + 1))
            size = store.size(path)
        except FileNotFoundError:
            size = None
        except StoreError as error:
            return str(error)
        if size is None:
            return f"{path} is gone"
        return "" if size == written.size else f"{path} has {size} bytes, expected {written.size}"

    items = receipt.outputs.items()
    found = map(wrong, items) if store.is_local else ordered(wrong, items, workers=RANGES_AHEAD)
    return next(filter(None, found), "")


def file_damage(path: str, written: Written, data: bytes) -> str:
    """What is wrong with the bytes of a file, in words; empty where nothing is."""
    if len(data) != written.size:
        more = "more than " if len(data) > written.size else ""
        return f"{path} has {more}{min(len(data), written.size)} bytes, expected {written.size}"
    found = hashlib.sha256(data).hexdigest()
    return "" if found == written.sha256 else f"{path} has SHA-256 {found}, expected {written.sha256}"


def sha256_of(store: Store, path: str) -> str:
    """SHA-256 of a stored file, of which a block is in memory.

    Raises:
        FileNotFoundError: there is no such file.
        StoreError: it cannot be read.
    """
    digest = hashlib.sha256()
    with store.open(path) as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def distrust(store: Store, *paths: str) -> list[str]:
    """Have what names one of these files, where it is not as it was written, count as not made; returns the names.

    It is warned of in the log. What a running job is at is left to it.

    Raises:
        StoreError: the store cannot be read or written.
    """
    found = []
    for name in receipt_names(store):
        receipt = None if name.startswith("archive/") else _readable(store, name)
        named = [path for path in paths if receipt is not None and path in receipt.outputs]
        wrong = next((wrong for path in named if (wrong := _wrong(store, path, receipt))), "")
        if not wrong:
            continue
        with store.locked_if_free(f"{LOCKS}/{name}") as free:
            if free and _readable(store, name) == receipt:
                mark = Unfinished(name=name, earlier=receipt, paths=(), reason=f"it is damaged: {wrong}")
                store.write(receipt_path(name), mark.to_bytes())
                log.warning("%s in %s counts as not made from now on: %s", name, store.url, wrong)
                found.append(name)
    return found


def _readable(store: Store, name: str) -> Receipt | None:
    """The receipt of a name; None where there is none that this release can read."""
    try:
        found = read_receipt(store, name)
    except StoreError:
        return None
    return found if isinstance(found, Receipt) else None


def _wrong(store: Store, path: str, receipt: Receipt | None) -> str:
    """What is wrong with a file that a receipt names, by its digest, in words; empty where nothing is."""
    if receipt is None:
        return ""
    try:
        found = sha256_of(store, path)
    except FileNotFoundError:
        return f"{path} is gone"
    expected = receipt.outputs[path].sha256
    return "" if found == expected else f"{path} has SHA-256 {found}, expected {expected}"


def _distrusted(store: Store, error: DamagedFileError) -> None:
    """Distrust what a build stumbled over; that it fails is told by the build's own error."""
    with suppress(GlrError):
        distrust(store, *error.paths)
