"""A store copied to another: what receipts name, each file verified by its digest, and what tells of runs.

`python -m glr_assets.mirror FROM TO` with two root URLs; infra/backup.sh and infra/restore.sh use it. What lies there
already is not copied again. A store may be written meanwhile: a receipt is copied after its files, and only where it
still is the one they were read by, so that the copy holds whole work alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import ValidationError

from glr_assets.errors import GlrError, MirrorError, SettingsError
from glr_assets.receipts import Receipt, Written
from glr_assets.store import Store

RECEIPTS = "receipts"
RUNS = "runs"
#: How often a receipt is read whose files change while they are copied.
ATTEMPTS = 3
_CHUNK = 8 * 2**20


@dataclass
class Mirrored:
    """What a copy did: files copied and found there, and by receipt why it was left out."""

    copied: int = 0
    found: int = 0
    left_out: dict[str, str] = field(default_factory=dict)


def mirror(source: Store, target: Store) -> Mirrored:
    """Copy every receipt of `source` with its files, and the records of runs.

    A receipt whose files are damaged, or change as often as they are read, is left out with the reason; what `target`
    has of it from before stays.

    Raises:
        StoreError: one of the stores cannot be reached.
    """
    done = Mirrored()
    for name in sorted(_below(source, RECEIPTS)):
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _copy_receipt(source, target, name, done)
            except MirrorError as error:
                if attempt == ATTEMPTS:
                    done.left_out[name] = str(error)
            else:
                break
    for name in _below(source, RUNS):
        target.write(name, source.read(name))
    return done


def _below(store: Store, folder: str) -> Iterator[str]:
    """Every whole file below a folder, by its name."""
    for name in store.names(folder):
        yield f"{folder}/{name}"
    for name in store.folders(folder):
        yield from _below(store, f"{folder}/{name}")


def _copy_receipt(source: Store, target: Store, name: str, done: Mirrored) -> None:
    data = source.read(name)
    receipt = _parsed(source, name, data)
    earlier = _earlier(target, name)
    for path, written in receipt.outputs.items():
        if earlier.get(path) == written and target.size(path) == written.size:
            done.found += 1
            continue
        _copy_file(source, target, path, written)
        done.copied += 1
    if source.read(name) != data:
        raise MirrorError(f"{source.full_url(name)}: made anew while it was copied")
    target.write(name, data)


def _parsed(store: Store, name: str, data: bytes) -> Receipt:
    try:
        return Receipt.model_validate_json(data)
    except ValidationError as error:
        raise MirrorError(f"{store.full_url(name)}: no receipt of this version; materialise it again") from error


def _earlier(target: Store, name: str) -> dict[str, Written]:
    """The files that an earlier copy of a receipt names; they are trusted where their size is right."""
    try:
        return dict(_parsed(target, name, target.read(name)).outputs)
    except (FileNotFoundError, MirrorError):
        return {}


def _copy_file(source: Store, target: Store, path: str, written: Written) -> None:
    """Copy one file, which takes its name only where it is what the receipt says."""
    sha256 = hashlib.sha256()
    try:
        with source.open(path) as from_, target.writing(path) as to:
            while chunk := from_.read(_CHUNK):
                sha256.update(chunk)
                to.write(chunk)
            if sha256.hexdigest() != written.sha256:
                raise MirrorError(
                    f"{source.full_url(path)}: expected SHA-256 {written.sha256}, found {sha256.hexdigest()}; "
                    "materialise it again"
                )
    except FileNotFoundError as error:
        raise MirrorError(f"{source.full_url(path)}: is gone; materialise it again") from error


def _open(url: str, variable: str) -> Store:
    try:
        return Store(url, json.loads(os.environ.get(variable) or "{}"))
    except json.JSONDecodeError as error:
        raise SettingsError(f'{variable}: expected JSON such as {{"anon": true}}, found no JSON') from error


def main(source: str, target: str) -> int:
    """Copy, tell what was done, and return the exit status: 1 where something was left out."""
    try:
        done = mirror(_open(source, "GLR_FROM_OPTIONS"), _open(target, "GLR_TO_OPTIONS"))
    except GlrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{done.copied} files copied, {done.found} were there, {len(done.left_out)} receipts left out")
    for name, reason in done.left_out.items():
        print(f"left out {name}: {reason}", file=sys.stderr)
    return 1 if done.left_out else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
