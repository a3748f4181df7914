"""Size and SHA-256 of stored files, several at once, a block of each in memory."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from glr_assets.errors import StoreError
from glr_assets.integrity.report import Progress
from glr_assets.ranges import RANGES_AHEAD, stream
from glr_assets.receipts import Written
from glr_assets.store import Store

#: Threads that hash local files at most: two a core, as some wait for the disk while others compute (hashlib lets other
#: threads run while it hashes a block).
THREADS: Final = 8
#: Bytes that a thread reads of a local file at once, and of a remote one, which has two blocks on their way beside.
BLOCK: Final = 2**20
REMOTE_BLOCK: Final = 4 * 2**20


@dataclass(frozen=True)
class FileState:
    """What is known of a file.

    Attributes:
        size: its bytes; None where there is no such file.
        sha256: empty where it was not hashed, as its size is none that anybody expects.
        error: why it cannot be read; empty where it can.
    """

    size: int | None = None
    sha256: str = ""
    error: str = ""

    def matches(self, written: Written) -> bool:
        """Whether it is the file that was written."""
        return (self.size, self.sha256) == (written.size, written.sha256)


def hash_files(
    store: Store, files: Mapping[str, set[int]], told: Callable[[Progress], None]
) -> tuple[dict[str, FileState], int, int]:
    """Find the state of files.

    Args:
        store: where they are.
        files: by path the sizes that a file may have; one of another size is not read.
        told: called as it goes on, from any thread, one call at a time.

    Returns:
        The states by path, how many files were hashed, and how many bytes.
    """
    counted = _Counted(len(files), sum(map(max, files.values())), told)

    def hashed(path: str) -> FileState:
        return _hashed(store, path, files[path], counted)

    # A disk that serves one reader at a time is read in the order of folders.
    paths = sorted(files)
    workers = min(THREADS, 2 * (os.cpu_count() or 1)) if store.is_local else RANGES_AHEAD
    with ThreadPoolExecutor(workers, thread_name_prefix="hashing") as pool:
        states = dict(zip(paths, pool.map(hashed, paths), strict=True))
    return states, counted.files, counted.bytes


def _hashed(store: Store, path: str, sizes: set[int], counted: _Counted) -> FileState:
    digest = hashlib.sha256()
    try:
        size = store.size(path)
        if size not in sizes:
            counted.skip(max(sizes))
            return FileState(size)
        for block in _blocks(store, path, size):
            digest.update(block)
            counted.add(len(block))
    except FileNotFoundError:
        counted.skip(max(sizes))
        return FileState()
    except StoreError as error:
        counted.skip(0)
        return FileState(error=str(error))
    counted.end()
    return FileState(size, digest.hexdigest())


def _blocks(store: Store, path: str, size: int) -> Generator[bytes | memoryview]:
    if store.is_local:
        return stream(store, path, size, block=BLOCK)
    return stream(store, path, size, block=REMOTE_BLOCK, ahead=1)


class _Counted:
    """Counts what is hashed, and tells of it, one call at a time."""

    def __init__(self, of_files: int, of_bytes: int, told: Callable[[Progress], None]) -> None:
        self.files = self.bytes = 0
        self._done = self._skipped = 0
        self._of_files, self._of_bytes, self._told = of_files, of_bytes, told
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        """So many bytes of a file were hashed."""
        with self._lock:
            self.bytes += size
            self._tell()

    def end(self) -> None:
        """A file was hashed whole."""
        with self._lock:
            self.files += 1
            self._done += 1
            self._tell()

    def skip(self, size: int) -> None:
        """A file that should have so many bytes more was not hashed to its end."""
        with self._lock:
            self._done += 1
            self._skipped += size
            self._tell()

    def _tell(self) -> None:
        self._told(Progress(self._done, self._of_files, self.bytes + self._skipped, self._of_bytes))
