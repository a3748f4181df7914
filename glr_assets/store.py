"""Files under a root URL, local or remote, written whole or not at all.

What belongs here: paths, bytes and atomicity over fsspec. What the bytes mean belongs to `tables` and
`receipts`. Names are relative POSIX paths; a reader never sees half a file.
"""

from __future__ import annotations

import fcntl
import json
import os
import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from glr_assets.errors import StoreError

READ_BLOCK = 8 * 2**20


class Store:
    """A tree of files under `url` (a folder or any fsspec URL, with that file system's `options`)."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url = url.rstrip("/") or url
        self.options = dict(options or {})
        try:
            fs, root = fsspec.core.url_to_fs(self.url, **self.options)
        except (ValueError, ImportError, TypeError) as error:
            raise StoreError(f"{url}: not a URL that can be opened: {error}") from error
        self.fs: fsspec.AbstractFileSystem = fs
        self.root: str = root.rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether the files lie in a folder of this machine."""
        return isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        """The file system's own path of `name`; names that would leave the root are refused."""
        clean = posixpath.normpath(name)
        if clean.startswith(("/", "..")) or "\\" in name:
            raise StoreError(f"{name!r}: not a path inside the store {self.url}")
        return f"{self.root}/{clean}"

    def full_url(self, name: str) -> str:
        """The URL under which a user finds `name`."""
        return f"{self.url}/{name}"

    def exists(self, name: str) -> bool:
        """Whether a file of that name is there, looked up afresh."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Bytes of the file `name`, or None where there is none."""
        path = self.path(name)
        self.fs.invalidate_cache(posixpath.dirname(path))
        with self._explained("read", name):
            try:
                info = self.fs.info(path)
            except FileNotFoundError:
                return None
        return int(info["size"]) if info["type"] == "file" else None

    def info(self, name: str) -> dict[str, Any]:
        """Fsspec's record of the file `name`: at least `size`, and `ETag` or `mtime` where known.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self._explained("read", name):
            return dict(self.fs.info(self.path(name)))

    def names(self, folder: str) -> list[str]:
        """Names of the files straight under `folder`, sorted; empty where there is no such folder."""
        path = self.path(folder)
        self.fs.invalidate_cache(path)
        with self._explained("list", folder):
            try:
                found = self.fs.ls(path, detail=True)
            except FileNotFoundError:
                return []
        return sorted(posixpath.basename(entry["name"]) for entry in found if entry["type"] == "file")

    def open(self, name: str) -> IO[bytes]:
        """The file `name` for reading, seekable, a block of it in memory.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: it cannot be reached.
        """
        with self._explained("read", name):
            if self.is_local:
                return Path(self.path(name)).open("rb")
            return cast(
                IO[bytes],
                self.fs.open(self.path(name), "rb", block_size=READ_BLOCK, cache_type="readahead"),
            )

    def read(self, name: str, offset: int | None = None, size: int | None = None) -> bytes:
        """All bytes of `name`, or the `size` bytes from `offset`.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: it cannot be reached, or is shorter than offset + size.
        """
        with self._explained("read", name):
            if offset is None or size is None:
                return cast(bytes, self.fs.cat_file(self.path(name)))
            data = cast(bytes, self.fs.cat_file(self.path(name), start=offset, end=offset + size))
        if len(data) != size:
            raise StoreError(
                f"{self.full_url(name)}: expected {size} bytes at {offset}, found {len(data)}; "
                "the file was cut: materialise it again"
            )
        return data

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file that takes its name when the block ends well, and leaves nothing when it does not."""
        with self._explained("write", name):
            if self.is_local:
                with self._writing_local(Path(self.path(name))) as file:
                    yield file
                return
            file = self.fs.open(self.path(name), "wb", autocommit=False)
            try:
                yield file
                file.close()
            except BaseException:
                file.discard()
                raise
            file.commit()
            self.fs.invalidate_cache(posixpath.dirname(self.path(name)))

    @contextmanager
    def _writing_local(self, target: Path) -> Iterator[IO[bytes]]:
        """Write beside `target` under a fixed, locked name, then rename.

        The name is fixed so that a rerun takes over what a killed run left; the lock keeps a second
        writer of the same file waiting, and a dead writer's lock is gone with it.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        while True:
            file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                if os.fstat(file.fileno()).st_ino == part.stat().st_ino:
                    break
            except FileNotFoundError:
                pass  # whoever held the lock has moved its file into place: start afresh
            file.close()
        with file:
            file.truncate(0)
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                part.replace(target)
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def write(self, name: str, data: bytes) -> None:
        """Write `data` as the whole of `name`."""
        with self.writing(name) as file:
            file.write(data)

    def read_json(self, name: str) -> Any:
        """The JSON document `name`; raises FileNotFoundError where there is none."""
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise StoreError(f"{self.full_url(name)}: not JSON ({error}); delete it and run again") from error

    def remove(self, name: str) -> None:
        """Delete the file `name`; no error where there is none."""
        with self._explained("delete", name):
            try:
                self.fs.rm_file(self.path(name))
            except FileNotFoundError:
                return

    @contextmanager
    def _explained(self, verb: str, name: str) -> Iterator[None]:
        """Turn what a file system raises into one line that names the file and the mend."""
        try:
            yield
        except FileNotFoundError:
            raise
        except PermissionError as error:
            raise StoreError(
                f"{self.full_url(name)}: cannot {verb}: permission denied; "
                "grant access to it, or set another GLR_STORE or GLR_SOURCE"
            ) from error
        except Exception as error:
            if not isinstance(error, (OSError, *_remote_errors())):
                raise
            raise StoreError(
                f"{self.full_url(name)}: cannot {verb}: {_first_line(error)}; "
                "check the URL, its options and the network"
            ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _remote_errors() -> tuple[type[Exception], ...]:
    """What botocore raises besides OSError (a missing endpoint, no credentials); none without it."""
    import sys

    exceptions = sys.modules.get("botocore.exceptions")
    return () if exceptions is None else (exceptions.BotoCoreError, exceptions.ClientError)
