"""Reading what is served or submitted from: each file is compared with its receipt, once, when it is opened.

Damage of the same size would otherwise change answers without a line. Images and local features, which are read by byte
ranges, have digests of their own in their tables.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Final

from glr_assets.errors import DamagedFileError, MissingInputError, StoreError
from glr_assets.ranges import RANGES_AHEAD, ordered, stream
from glr_assets.receipts import Written, need_receipt
from glr_assets.store import READ_BLOCK, Store

#: Files up to so many bytes are read whole and compared, so that the very bytes that were compared are used. Larger
#: ones are read through once before they are opened.
WHOLE: Final = 64 * 2**20


class VerifiedStore(Store):
    """A store whose files are compared with what receipts say of them as they are read whole or opened.

    Raises from `read`, `head`, `open` and `mappable`, beside what `Store` raises:
        DamagedFileError: a file is not as its receipt says; it names file, expected, found and fix.
    """

    def __init__(self, store: Store, expected: Mapping[str, tuple[str, Written]], *, maps_copies: bool = False) -> None:
        """Compare with `expected`.

        Args:
            store: where the files are.
            expected: by path the name of the receipt and what it says.
            maps_copies: have private copies mapped (`private_copy`), of a remote store's files too.
        """
        super().__init__(store.url, store.options)
        self._expected = dict(expected)
        self._maps_copies = maps_copies
        self._compared: dict[str, str] = {}

    @property
    def is_mappable(self) -> bool:
        """As `Store.is_mappable`; copies can be mapped whatever the store."""
        return self._maps_copies or super().is_mappable

    @contextmanager
    def mappable(self, name: str) -> Iterator[str]:
        """As `Store.mappable`, once the file is compared."""
        if self._maps_copies:
            with private_copy(self, name, self._expected.get(name)) as path:
                yield path
            return
        self._compare_stored(name)
        with super().mappable(name) as path:
            yield path

    def head(self, name: str, size: int) -> bytes:
        """As `Store.head`, once the file is compared."""
        self._compare_stored(name)
        return super().head(name, size)

    def read(self, name: str, offset: int | None = None, size: int | None = None) -> bytes:
        """As `Store.read`; a whole file is compared."""
        data = super().read(name, offset, size)
        if name in self._expected and (offset is None or size is None):
            self._compare(name, len(data), hashlib.sha256(data).hexdigest())
        return data

    def open(self, name: str, block: int = READ_BLOCK) -> IO[bytes]:
        """As `Store.open`, once the file is compared."""
        if name in self._expected and self._expected[name][1].size <= WHOLE:
            return io.BytesIO(self.read(name))
        self._compare_stored(name)
        return super().open(name, block)

    def _compare_stored(self, name: str) -> None:
        """Read a file through and compare it, where that has not been done since it was written."""
        if name not in self._expected:
            return
        stamp = self.stamp(name)
        if self._compared.get(name) != stamp:
            digest, size = hashlib.sha256(), 0
            for part in stream(self, name, self.size(name) or 0):
                digest.update(part)
                size += len(part)
            self._compare(name, size, digest.hexdigest())
            self._compared[name] = stamp

    def _compare(self, name: str, size: int, sha256: str) -> None:
        need_same(self, name, *self._expected[name], size, sha256)


def verified(store: Store, names: Iterable[str], *, maps_copies: bool = False) -> VerifiedStore:
    """A store whose files are compared with the receipts of these names; `maps_copies` as `VerifiedStore`'s.

    Raises:
        MissingInputError: one of them has not been made, or a file of it is gone or cut.
    """
    receipts = ordered(lambda name: need_receipt(store, name), names, workers=RANGES_AHEAD)
    expected = {path: (receipt.name, written) for receipt in receipts for path, written in receipt.outputs.items()}
    return VerifiedStore(store, expected, maps_copies=maps_copies)


def need_same(store: Store, path: str, receipt: str, written: Written, size: int, sha256: str) -> None:
    """Refuse a file that is not as its receipt says.

    Raises:
        DamagedFileError: it is not.
    """
    expected, found = f"SHA-256 {written.sha256}", f"SHA-256 {sha256}"
    if size != written.size:
        expected, found = f"{written.size} bytes", f"{size} bytes"
    if expected != found:
        raise DamagedFileError(
            f"{store.full_url(path)}: expected {expected} by the receipt of {receipt}, found {found}; restore it from "
            f"a backup, or run `glr verify --repair {receipt}` and materialise {receipt} again",
            path,
        )


@contextmanager
def private_copy(store: Store, path: str, expected: tuple[str, Written] | None) -> Iterator[str]:
    """The path of a copy of a stored file that nobody else can change, compared with its receipt as it is copied.

    What is mapped from it within the block may be used after it: the file goes when the last mapping does. Of a file
    that others may write, a mapping is a trap: where it is cut in place, the kernel ends the process that looks beyond
    its end (SIGBUS). The copy lies in the folder for temporary files (TMPDIR).

    Args:
        store: where the file is.
        path: the file.
        expected: the name of the receipt that names it, and what that says.

    Raises:
        MissingInputError: it has not been made, as no receipt names it.
        DamagedFileError: it is not as its receipt says.
        StoreError: it cannot be read, or there is no room for the copy.
    """
    if expected is None:
        raise MissingInputError(f"{store.full_url(path)}: no receipt names it; materialise the asset that writes it")
    receipt, written = expected
    descriptor, name = tempfile.mkstemp(prefix="glr-", suffix=f"-{os.path.basename(path)}")  # noqa: PTH119 - of a store
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            digest, size = hashlib.sha256(), 0
            for part in stream(store, path, written.size):
                digest.update(part)
                size += _written(file, part, path)
        need_same(store, path, receipt, written, size, digest.hexdigest())
        yield name
    finally:
        os.unlink(name)  # noqa: PTH108


def _written(file: IO[bytes], part: bytes | memoryview, path: str) -> int:
    try:
        return file.write(part)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreError(
            f"{tempfile.gettempdir()}: no room for a copy of {path} that can be mapped; free some, or set TMPDIR to a "
            "folder with room"
        ) from error
