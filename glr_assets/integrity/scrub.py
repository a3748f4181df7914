"""`glr verify`: what lies in a store, compared with what its receipts name, by content.

Every file that a receipt names is hashed. What no receipt names is either of a kind that has none (the state of a
training that is not finished, images that were fetched for a part, records of runs, versions of models that an earlier
release left), or left over. The store may be written meanwhile: a receipt that changes is looked at again, and what no
receipt names while jobs run is not called left over.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Final

from pydantic import ValidationError

from glr_assets.errors import DamagedFileError, MissingInputError, StoreError
from glr_assets.images.shard_runs import ShardRun, run_path
from glr_assets.integrity.contents import MODELS, is_known, is_receipt, is_record, kind_without_receipt, owner_of
from glr_assets.integrity.hashing import FileState, hash_files
from glr_assets.integrity.report import Kind, Problem, Progress, Report
from glr_assets.leases import DEAD_AFTER, POLL
from glr_assets.mirror import INCOMING
from glr_assets.ranges import RANGES_AHEAD, ordered
from glr_assets.receipts import (
    LOCKS,
    RECEIPTS,
    DamagedReceiptError,
    Receipt,
    Unfinished,
    Written,
    parse_receipt,
    receipt_names,
    receipt_path,
)
from glr_assets.source.layout import SPLITS
from glr_assets.store import Store, is_lock, is_part
from glr_assets.store_settings import PATH as SETTINGS
from glr_assets.store_settings import read_store_settings
from glr_assets.training.record import ModelRecord

#: How often a receipt is looked at that changes while its files are hashed.
ATTEMPTS: Final = 3
_SHARD_RUN: Final = re.compile("|".join(run_path(split, "[^/]+") for split in SPLITS))
REMOVE: Final = "`glr verify --repair` removes it"
OTHER_RELEASE: Final = "verify it with the release that wrote it"


def verify(
    store: Store,
    names: Collection[str] = (),
    *,
    repair: bool = False,
    told: Callable[[Progress], None] = lambda _: None,
) -> Report:
    """Compare what lies in a store with what its receipts name.

    Memory is that of the names of the store's files, and of a few blocks of a few files.

    Args:
        store: the store, or a copy of one.
        names: assets, or `asset/partition`s, that alone are looked at; all where there is none. Only then is what is
            left over looked for.
        repair: remove what is damaged or left over, and have what needs it count as not made.
        told: called as files are hashed, from any thread, one call at a time.

    Raises:
        MissingInputError: there is no receipt of one of the names.
        StoreError: the store cannot be reached, or not written in a repair.
    """
    from glr_assets.integrity.repair import repaired

    began = time.monotonic()
    found = Verification(store, told)
    found.read_receipts()
    found.compare(names)
    if not names:
        found.read_records()
        found.find_left_over()
    problems = repaired(found) if repair and found.problems else found.problems
    return Report(
        store=store.url,
        whole=not problems,
        receipts=len(found.receipts) + len(found.marks),
        files=found.files,
        bytes=found.bytes,
        seconds=round(time.monotonic() - began, 3),
        problems=sorted(problems, key=lambda problem: (problem.path, problem.receipt)),
        running=sorted(found.held()),
        unfinished=sorted(found.marks),
        needed=[] if names else found.needed(),
        unchecked=dict(sorted(found.unchecked.items())),
    )


class Verification:
    """One look at a store.

    Attributes:
        receipts: those that are their own, by name.
        marks: of unfinished makes, by name.
        documents: every receipt and mark as it was read, damaged ones too.
        problems: what is not whole.
        dead: names of leases whose holder gives no sign of life.
        stamps: of files that are left over: one with another stamp is of a job that has begun since.
    """

    def __init__(self, store: Store, told: Callable[[Progress], None] = lambda _: None) -> None:
        self.store = store
        self.receipts: dict[str, Receipt] = {}
        self.marks: dict[str, Unfinished] = {}
        self.documents: dict[str, bytes] = {}
        self.problems: list[Problem] = []
        self.unchecked: Counter[str] = Counter()
        self.files = self.bytes = 0
        self.dead: set[str] = set()
        self.stamps: dict[str, str] = {}
        self._told = told
        self._states: dict[str, FileState] = {}
        self._began, self._signs = time.monotonic(), store.locks(LOCKS)

    def document(self, name: str) -> bytes | None:
        """The receipt or mark of a name as it lies there now; None where there is none."""
        with suppress(FileNotFoundError):
            return self.store.read(receipt_path(name))
        return None

    def named(self) -> set[str]:
        """Every file that a receipt names."""
        return {path for receipt in self.receipts.values() for path in receipt.outputs}

    def needed(self) -> list[str]:
        """What results were made from and what is not made, sorted; not what a running job holds."""
        made_from = {
            name
            for of, receipt in self.receipts.items()
            if of == owner_of(of)
            for name in receipt.inputs
            if is_known(name)
        }
        return sorted(made_from - self.receipts.keys() - set(self.held()))

    def kept_of_marks(self) -> dict[str, dict[str, Written]]:
        """By the name of a mark the files of models that it found: they stay, and what was known of them holds."""
        named = self.named()
        return {
            name: {
                path: written
                for path, written in (mark.earlier.outputs if mark.earlier is not None else {}).items()
                if path.startswith(MODELS) and path not in mark.paths and path not in named
            }
            for name, mark in self.marks.items()
        }

    def read_receipts(self) -> None:
        """Read every receipt and mark, and see that each is its own."""
        names = receipt_names(self.store)
        for name, data in zip(names, ordered(self.document, names, workers=RANGES_AHEAD), strict=True):
            if data is not None:
                self._read(name, data)

    def _read(self, name: str, data: bytes) -> None:
        path = receipt_path(name)
        self.documents[name] = data
        try:
            found = parse_receipt(data, name, self.store.full_url(path))
        except DamagedReceiptError as error:
            said = str(error).partition("found ")[2].rpartition("; materialise")[0]
            self._tell("receipt", path, name, said, _fix(name))
            return
        except StoreError as error:
            self._tell("receipt", path, name, str(error), OTHER_RELEASE)
            return
        if not is_known(name):
            self._tell("left over", path, name, "no asset of that name is known", REMOVE)
        if isinstance(found, Unfinished):
            self.marks[name] = found
        elif name.startswith("archive/") and not name.endswith(f"/{found.digest[:12]}"):
            self._tell("receipt", path, name, "an archived receipt of other files", REMOVE)
        else:
            self.receipts[name] = found

    # Content

    def compare(self, names: Collection[str]) -> None:
        """Hash the files of all receipts, or of those of these names, and tell what is not as it was written."""
        wanted = [name for name in self.documents if not names or owner_of(name) in names or _asset(name) in names]
        known = {part for name in wanted for part in (owner_of(name), _asset(name))}
        absent = [name for name in names if name not in known]
        if absent:
            raise MissingInputError(
                f"{absent[0]} has no receipt in {self.store.url}: give an asset, or asset/partition, that has been made"
            )
        self.problems = [problem for problem in self.problems if problem.receipt in wanted]
        pending = [name for name in wanted if name in self.receipts]
        for attempt in range(1, ATTEMPTS + 1):
            self._hash(item for name in pending for item in self.receipts[name].outputs.items())
            wrong = {name: found for name in pending if (found := self._wrong(name))}
            pending = [name for name in wrong if attempt < ATTEMPTS and self._changed(name)]
            for name, found in wrong.items():
                if name in self.receipts and name not in pending:
                    self.problems += found
        for name, files in self.kept_of_marks().items():
            if name in wanted:
                self._hash(files.items())
                of_mark = [self._compared(name, path, written) for path, written in files.items()]
                self.problems += [problem for problem in of_mark if problem is not None and problem.kind != "missing"]

    def _hash(self, files: Iterable[tuple[str, Written]]) -> None:
        """Find the states of those files that are not known yet."""
        sizes: dict[str, set[int]] = {}
        for path, written in files:
            if path not in self._states:
                sizes.setdefault(path, set()).add(written.size)
        if sizes:
            states, hashed, size = hash_files(self.store, sizes, self._told)
            self._states |= states
            self.files += hashed
            self.bytes += size

    def _wrong(self, name: str) -> list[Problem]:
        later = owner_of(name)
        changed: set[str] = set()
        if name != later:  # an archived receipt's word counts no more for what a later make has written
            changed.update(self.receipts[later].outputs if later in self.receipts else ())
            changed.update(self.marks[later].paths if later in self.marks else ())
        outputs = self.receipts[name].outputs.items()
        found = (self._compared(name, path, written) for path, written in outputs if path not in changed)
        return [problem for problem in found if problem is not None]

    def _compared(self, name: str, path: str, written: Written) -> Problem | None:
        state = self._states[path]
        if state.matches(written):
            return None
        told = Problem(kind="damaged", path=path, receipt=name, fix=_fix(name, path))
        if state.error:
            return told.model_copy(update={"kind": "unreadable", "found": state.error})
        if state.size is None:
            missing = {"kind": "missing", "expected": f"{written.size} bytes", "found": "no file"}
            return told.model_copy(update=missing)
        if state.size != written.size:
            kind = "cut" if state.size < written.size else "grown"
            sizes = {"kind": kind, "expected": f"{written.size} bytes", "found": f"{state.size} bytes"}
            return told.model_copy(update=sizes)
        digests = {"expected": f"SHA-256 {written.sha256}", "found": f"SHA-256 {state.sha256}"}
        return told.model_copy(update=digests)

    def _changed(self, name: str) -> bool:
        """Whether a receipt is another than was read; it then is read once more, and its files' states are unknown."""
        data = self.document(name)
        if data == self.documents[name]:
            return False
        self._forget(self.receipts.pop(name))
        if data is not None:
            self._read(name, data)
        if name in self.receipts:
            self._forget(self.receipts[name])
        return name in self.receipts

    def _forget(self, receipt: Receipt) -> None:
        for path in receipt.outputs:
            self._states.pop(path, None)

    # What no receipt names

    def read_records(self) -> None:
        """See that what tells of runs, and what the store remembers, can be read."""
        for path, _ in self.store.walk("runs"):
            if path.startswith((f"{LOCKS}/", f"{INCOMING}/")) or is_lock(path) or is_part(path):
                continue
            self.unchecked["records of runs"] += 1
            try:
                if path == SETTINGS:
                    read_store_settings(self.store)
                elif _SHARD_RUN.fullmatch(path):
                    ShardRun.model_validate(self.store.read_json(path))
            except FileNotFoundError:
                continue
            except ValidationError as error:
                self._tell("record", path, "", _first(error), REMOVE)
            except DamagedFileError as error:
                fix = "remove it, and give --source and --recipe once more" if path == SETTINGS else REMOVE
                self._tell("record", path, "", str(error).rpartition(";")[0], fix)
            except StoreError as error:
                self._tell("record", path, "", str(error), "remove it, and give --source and --recipe once more")

    def find_left_over(self) -> None:
        """Find files that no receipt names and that are of no kind that has none."""
        named = self.named().union(*self.kept_of_marks().values())
        unnamed = [
            path
            for path, _ in self.store.walk()
            if path not in named
            and not is_receipt(path)
            and (not path.startswith("runs/") or path.startswith(f"{INCOMING}/") or is_part(path))
        ]
        records = [path for path in unnamed if is_record(path)]
        with_record = {path.rpartition("/")[0] for path in [*records, *filter(is_record, named)]}
        candidates = []
        for path in unnamed:
            kind = kind_without_receipt(path, self.receipts, with_record)
            if is_part(path):
                kind = "being written" if self.store.is_being_written(path) else ""
            elif path.startswith((f"{INCOMING}/", f"{RECEIPTS}/")):
                kind = ""
            if kind:
                self.unchecked[kind] += 1
            else:
                candidates.append(path)
        for path in records:
            self._compare_version(path)
        if candidates:
            self._tell_left_over(candidates)

    def _compare_version(self, path: str) -> None:
        """Compare the files of a version of a model with its record, where no receipt names them."""
        folder = path.rpartition("/")[0]
        try:
            record = ModelRecord.model_validate(self.store.read_json(path))
        except FileNotFoundError:
            return
        except (ValidationError, DamagedFileError) as error:
            said = _first(error) if isinstance(error, ValidationError) else str(error)
            self._tell("record", path, "", f"no record of a version: {said}", "restore it from a backup, or remove it")
            return
        files = {f"{folder}/{name}": written for name, written in record.files.items()}
        self._hash(files.items())
        found = [self._compared("", file, written) for file, written in files.items()]
        self.problems += [
            problem.model_copy(update={"fix": f"restore it from a backup, or remove the folder {folder}"})
            for problem in found
            if problem is not None
        ]

    def _tell_left_over(self, candidates: Collection[str]) -> None:
        """Name what is left over, once it is known that it is not of work that goes on."""
        held = self.held(wait=True)
        # What was made since the receipts were read, or is being made.
        for name in receipt_names(self.store):
            data = self.document(name)
            if data is not None and data != self.documents.get(name):
                self.receipts.pop(name, None)
                self.marks.pop(name, None)
                self._read(name, data)
        named, held = self.named(), held | self.held()
        of_marks = {path: name for name, mark in self.marks.items() for path in mark.files}
        for path in candidates:
            stamp = "" if path in named else self.store.stamp(path)
            if not stamp:
                continue
            owner = of_marks.get(path, "")
            if owner in held or (held and not owner):
                # Which files a job has written that makes something for the first time, nobody knows.
                self.unchecked["of work that goes on, perhaps"] += 1
                continue
            said = f"of an earlier make of {owner}, or of one that did not end" if owner else "no receipt names it"
            self.stamps[path] = stamp
            self._tell("left over", path, owner, said, REMOVE)

    def held(self, *, wait: bool = False) -> set[str]:
        """The names that running jobs hold. A lease on S3 whose holder gives no sign of life for a minute is none.

        Args:
            wait: until it is known of every lease whether its holder lives.
        """
        while True:
            now = self.store.locks(LOCKS)
            for name, sign in now.items():
                self._signs.setdefault(name, sign)
            silent = set() if self.store.is_local else {name for name, sign in now.items() if self._signs[name] == sign}
            waited = time.monotonic() - self._began > DEAD_AFTER
            if not silent or waited or not wait:
                self.dead = {name.removeprefix(f"{LOCKS}/") for name in silent} if waited else set()
                return {name.removeprefix(f"{LOCKS}/") for name in now} - self.dead
            time.sleep(POLL)

    def _tell(self, kind: Kind, path: str, receipt: str, found: str, fix: str) -> None:
        self.problems.append(Problem(kind=kind, path=path, receipt=receipt, found=found, fix=fix))


def _asset(name: str) -> str:
    return owner_of(name).partition("/")[0]


def _first(error: ValidationError) -> str:
    """The first thing that is wrong with a document."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'document'}: {first['msg']}"


def _fix(name: str, path: str = "") -> str:
    """What to do about a receipt that is not whole, or of which a file is not."""
    of = owner_of(name)
    if name.startswith("archive/"):
        return f"restore it from a backup, or forget that version by `glr verify --repair {of}`"
    again = f"run `glr verify --repair {of}` and materialise {of} again"
    if path.startswith(MODELS):
        return f"restore it from a backup, or {again}, which trains where weights or their record are damaged"
    return again
