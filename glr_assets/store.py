"""Files under a root URL, local or remote, written whole or not at all.

What belongs here: paths, bytes and atomicity over fsspec. What the bytes mean belongs to `tables` and
`receipts`. Names are relative POSIX paths; a reader never sees half a file.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import posixpath
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from glr_assets.causes import explanation, hides_cause, is_bare, is_beyond_end, one_line
from glr_assets.errors import DamagedFileError, GlrError, StoreError
from glr_assets.leases import leased, leased_if_free
from glr_assets.locations import location
from glr_assets.redaction import has_credentials, register, safe_cause

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

READ_BLOCK = 8 * 2**20
_PART, _LOCK = ".part", ".lock"
#: A folder whose time is older than this has no change that its time does not show: file systems keep times to 2 s.
_SETTLED_NS = 3 * 10**9

_S3_CONFIG: dict[str, Any] = {
    "retries": {"mode": "standard", "total_max_attempts": 3},
    "connect_timeout": 5,
    "read_timeout": 15,
    "max_pool_connections": 32,
}
"""Botocore's newer way of trying again: an endpoint that nobody listens at is named within seconds. A connection
that brings nothing for `read_timeout` seconds has stalled. Connections for all that `ranges` reads at once."""


def stamp_of(info: Mapping[str, Any]) -> str:
    """ETag, or time, and size of a file as fsspec tells of it."""
    return f"{info.get('ETag') or info.get('mtime') or ''}:{info['size']}"


class Store:
    """A tree of files under `url` (a folder or any fsspec URL, with that file system's `options`)."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        register(options)
        if not isinstance(options or {}, Mapping):
            raise StoreError(f'{url}: its options are no names and values; expected such as {{"anon": true}}')
        self.options = dict(options or {})
        if has_credentials(url):
            raise StoreError(f"{url}: holds a user name or password, which messages would show; give it as options")
        given = location(url)
        stripped = given.rstrip("/")
        self.url = given if stripped.endswith(":") else stripped or given
        fs, root = _file_system(self.url, self.options)
        self.fs: fsspec.AbstractFileSystem = fs
        self.root: str = root.rstrip("/")
        self._synced_later: list[str] | None = None

    @property
    def is_local(self) -> bool:
        """Whether the files lie in a folder of this machine."""
        return isinstance(self.fs, LocalFileSystem)

    @property
    def is_s3(self) -> bool:
        """Whether s3fs reads and writes them."""
        return "s3" in self.fs.protocol and not self.is_local

    @property
    def is_http(self) -> bool:
        """Whether a web server has them, which lists files only as a page of links."""
        return not self.is_local and bool({"http", "https"} & {self.fs.protocol, *self.fs.protocol})

    @property
    def is_mappable(self) -> bool:
        """Whether files can be mapped into memory, by `mappable`."""
        return self.is_local

    @contextmanager
    def mappable(self, name: str) -> Iterator[str]:
        """The path on this machine of a file to be mapped within the block; the mapping may be used after it.

        Raises:
            StoreError: the store is remote.
        """
        if not self.is_mappable:
            raise StoreError(f"{self.full_url(name)}: a remote file cannot be mapped")
        yield self.path(name)

    def path(self, name: str) -> str:
        """The file system's own path of `name`; names that would leave the root are refused."""
        clean = posixpath.normpath(name)
        if clean.startswith(("/", "..")) or "\\" in name or "\0" in name:
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
        try:
            info = self.info(name)
        except FileNotFoundError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def info(self, name: str) -> dict[str, Any]:
        """Fsspec's record of the file `name`, looked up afresh: at least `size`, and `ETag` or `mtime` where known.

        Raises:
            FileNotFoundError: there is no such file.
        """
        path = self.path(name)
        self.fs.invalidate_cache(posixpath.dirname(path))
        with self.explained("read", name):
            return dict(self.fs.info(path))

    def names(self, folder: str) -> list[str]:
        """Names of the whole files straight under `folder`, sorted; empty where there is no such folder."""
        return [name for name in self._listed(folder, "file") if not is_transient(name)]

    def stamps(self, folder: str) -> dict[str, str]:
        """The whole files straight under `folder`, each with its ETag, or its time, and size, by one listing."""
        found = {posixpath.basename(entry["name"]): entry for entry in self._entries(folder) if entry["type"] == "file"}
        return {name: stamp_of(entry) for name, entry in sorted(found.items()) if not is_transient(name)}

    def folder_stamp(self, folder: str) -> str:
        """What tells whether a file straight under `folder` was added, replaced or removed; empty where there is none.

        Files of a store take their names by renaming, which changes the time of a local folder: one look at the folder
        suffices. Times are coarse, so of a folder that changed just now, and of a remote one, the files are listed.
        """
        if self.is_local:
            try:
                changed = Path(self.path(folder)).stat().st_mtime_ns
            except (FileNotFoundError, NotADirectoryError):
                return ""
            if time.time_ns() - changed > _SETTLED_NS:
                return str(changed)
        found = self.stamps(folder)
        return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest() if found else ""

    def sizes(self, folder: str) -> dict[str, int]:
        """The files straight under `folder`, transient ones too, each with its bytes, by one listing."""
        found = (entry for entry in self._entries(folder) if entry["type"] == "file")
        return {posixpath.basename(entry["name"]): int(entry["size"]) for entry in found}

    def stamp(self, name: str) -> str:
        """What tells the file `name` from another of that name, without reading it; empty where there is none."""
        try:
            info = self.info(name)
        except FileNotFoundError:
            return ""
        return f"{info.get('ETag') or info.get('mtime') or ''}:{info.get('ino', '')}:{info['size']}"

    def folders(self, folder: str) -> list[str]:
        """Names of the folders straight under `folder`, sorted; empty where there is no such folder."""
        return self._listed(folder, "directory")

    def walk(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """Every file below `folder`, by default of the whole store, with its bytes; hidden ones too, in no order.

        A file that is written or removed meanwhile may be among them or not.
        """
        below = []
        for entry in self._entries(folder):
            name = posixpath.join(folder, posixpath.basename(entry["name"].rstrip("/")))
            if entry["type"] == "file":
                yield name, int(entry["size"])
            elif entry["type"] == "directory":
                below.append(name)
        for name in below:
            yield from self.walk(name)

    def _listed(self, folder: str, kind: str) -> list[str]:
        found = self._entries(folder)
        return sorted(posixpath.basename(entry["name"].rstrip("/")) for entry in found if entry["type"] == kind)

    def _entries(self, folder: str) -> list[dict[str, Any]]:
        path = self.path(folder) if folder else self.root
        self.fs.invalidate_cache(path)
        with self.explained("list", folder):
            try:
                return list(self.fs.ls(path, detail=True))
            except FileNotFoundError as error:
                if hides_cause(error):
                    raise
                return []

    def open(self, name: str, block: int = READ_BLOCK) -> IO[bytes]:
        """The file `name` for reading, seekable, a block of it in memory.

        Args:
            name: the file.
            block: bytes that are read ahead, of a remote file.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: it cannot be reached, now or when it is read.
        """
        with self.explained("read", name):
            if self.is_local:
                return Path(self.path(name)).open("rb")
            file = self.fs.open(self.path(name), "rb", block_size=block, cache_type="readahead")
        return io.BufferedReader(_RemoteFile(file, partial(self.explained, "read", name)))

    def read(self, name: str, offset: int | None = None, size: int | None = None) -> bytes:
        """All bytes of `name`, or the `size` bytes from `offset`.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: it cannot be reached, or is shorter than offset + size.
        """
        if self.is_local:
            data = self._read_local(name, offset, size)
        elif offset is None or size is None:
            with self.explained("read", name):
                return cast(bytes, self.fs.cat_file(self.path(name)))
        else:
            data = self._range(name, offset, size)
        if offset is None or size is None:
            return data
        if len(data) != size:
            raise DamagedFileError(
                f"{self.full_url(name)}: expected {size} bytes at {offset}, found {len(data)}; "
                "the file was cut: materialise it again",
                name,
            )
        return data

    def head(self, name: str, size: int) -> bytes:
        """The first `size` bytes of `name`, or all it has.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: it cannot be reached.
        """
        return self._read_local(name, 0, size) if self.is_local else self._range(name, 0, size)

    def _read_local(self, name: str, offset: int | None, size: int | None) -> bytes:
        """What is there of a range of a local file, or the whole: without fsspec, which takes ten times as long."""
        path = self.path(name)
        try:
            with io.FileIO(path) as file:
                if offset is None or size is None:
                    return file.readall()
                if size > READ_BLOCK:
                    # Memory for a size that a damaged table names is not asked for.
                    size = min(size, max(0, os.fstat(file.fileno()).st_size - offset))
                data = os.pread(file.fileno(), size, offset)
                while len(data) < size and (more := os.pread(file.fileno(), size - len(data), offset + len(data))):
                    data += more  # one call reads 2 GiB at most
                return data
        except OSError as error:
            with self.explained("read", name):
                raise error

    def _range(self, name: str, offset: int, size: int) -> bytes:
        """What is there of a range of a remote file, by one request."""
        path = self.path(name)
        with self.explained("read", name):
            try:
                # A range of no bytes is to S3 the whole file.
                return cast(bytes, self.fs.cat_file(path, start=offset, end=offset + max(size, 1)))[:size]
            except OSError as error:
                if not is_beyond_end(error):
                    raise
                return b""

    @contextmanager
    def writing(self, name: str, *, sync: bool = True) -> Iterator[IO[bytes]]:
        """A file that takes its name when the block ends well, and leaves nothing when it does not.

        Args:
            name: the file.
            sync: make its name survive a power cut, as its bytes do. Without it `sync` is to be called for it later,
                once for many files, or its loss costs nothing.

        Raises:
            StoreError: it cannot be written; what the block itself raises passes as it is.
        """
        explained = partial(self.explained, "write", name)
        if self.is_local:
            with _writing_local(Path(self.path(name)), explained) as file:
                yield file
            if sync and self._synced_later is not None:
                self._synced_later.append(name)
            elif sync:
                self.sync([name])
            return
        path = self.path(name)
        # Without a name the file is gone with its process; the upload then is one step of the file system,
        # which a slow or failing block never holds half done.
        with explained(), tempfile.TemporaryFile() as unnamed:
            raw = _WrittenFile(os.dup(unnamed.fileno()), explained)
        with io.BufferedRandom(raw) as file:
            yield file
            file.flush()
            with explained():
                if file.seek(0, os.SEEK_END) <= READ_BLOCK:
                    file.seek(0)
                    self.fs.pipe_file(path, file.read())
                else:
                    file.seek(0)
                    self.fs.put_file(f"/dev/fd/{file.fileno()}", path)
        self.fs.invalidate_cache(posixpath.dirname(path))

    def sync(self, names: Iterable[str]) -> None:
        """Make what happened to these names (written, replaced, removed) survive a power cut.

        Of a local store each folder that they lie in is synced once; a remote one answers when that is so already.

        Raises:
            StoreError: a folder cannot be synced.
        """
        if not self.is_local:
            return
        for folder in sorted({posixpath.dirname(self.path(name)) for name in names}):
            with self.explained("write", posixpath.relpath(folder, self.root)), suppress(FileNotFoundError):
                _sync_folder(Path(folder))

    @contextmanager
    def synced_at_end(self) -> Iterator[None]:
        """What is written within the block survives a power cut when the block has ended: a folder is synced once."""
        before, self._synced_later = self._synced_later, []
        try:
            yield
        finally:
            names, self._synced_later = self._synced_later, before
            self.sync(names)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """One process at a time is inside, for the same `name` of a local store or one on S3.

        On S3 it is a lease (`leases.py`): good for sparing work that another does, not for what must never happen
        twice. Other remote stores have no locks.

        Raises:
            StoreError: the store cannot be written.
        """
        if self.is_s3:
            with leased(self, f"{name}.lock"):
                yield
            return
        if not self.is_local:
            yield
            return
        with self.explained("write", name):
            lock = self._lock(name)
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = _locked_file(lock, lambda: lock.open("ab"))
        with file:
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)

    @contextmanager
    def locked_if_free(self, name: str) -> Iterator[bool]:
        """As `locked`, but nobody is waited for: whether the lock was free, and is held for the block.

        Where the store has no locks it is always free. A lease on S3 whose holder died counts as held until somebody
        waits for it.

        Raises:
            StoreError: the store cannot be written.
        """
        if self.is_s3:
            with leased_if_free(self, f"{name}.lock") as held:
                yield held
            return
        if not self.is_local:
            yield True
            return
        with self.explained("write", name):
            lock = self._lock(name)
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                file = _locked_file(lock, lambda: lock.open("ab"), wait=False)
            except BlockingIOError:
                file = None
        if file is None:
            yield False
            return
        with file:
            try:
                yield True
            finally:
                lock.unlink(missing_ok=True)

    def locks(self, folder: str) -> dict[str, str]:
        """The names below `folder` whose locks are held now, each with what tells one sign of life from another.

        Of a local store the lock itself is tried. On S3 a lease may be a dead process's: its sign does not change for
        `leases.DEAD_AFTER` seconds.
        """
        held: dict[str, str] = {}
        for name, _ in self.walk(folder):
            place, base = posixpath.split(name)
            if self.is_s3 and base.endswith(_LOCK):
                with suppress(FileNotFoundError):  # given back a moment ago
                    held[name.removesuffix(_LOCK)] = self.read(name).decode("utf-8", "replace")
            elif self.is_local and base.startswith(".") and base.endswith(_LOCK):
                locked = posixpath.join(place, base[1:].removesuffix(_LOCK))
                if _is_locked(self._lock(locked)):
                    held[locked] = ""
        return held

    def is_being_written(self, part: str) -> bool:
        """Whether a writer of a local store is at `part`, which is a file for which `is_part` holds."""
        return _is_locked(Path(self.path(part)))

    def _lock(self, name: str) -> Path:
        """The file that is locked for `name` of a local store."""
        return Path(self.path(name)).with_name(f".{posixpath.basename(name)}{_LOCK}")

    def write(self, name: str, data: bytes, *, sync: bool = True) -> None:
        """Write `data` as the whole of `name`; arguments as `writing`'s."""
        with self.writing(name, sync=sync) as file:
            file.write(data)

    def create(self, name: str, data: bytes) -> bool:
        """Write `data` as `name` where there is no such file; whether that was so. Only for S3.

        A server without conditional writes overwrites what is there.

        Raises:
            StoreError: it cannot be written.
        """
        path = self.path(name)
        with self.explained("write", name):
            try:
                self.fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                # Another writer of the same name is at it this moment (409), or has been there first (412).
                if "PreconditionFailed" in str(error) or "ConditionalRequestConflict" in str(error):
                    return False
                if "NotImplemented" not in str(error):
                    raise
                self.fs.pipe_file(path, data)
        return True

    def read_json(self, name: str) -> Any:
        """The JSON document `name`; raises FileNotFoundError where there is none.

        Raises:
            DamagedFileError: it is no JSON.
        """
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise DamagedFileError(
                f"{self.full_url(name)}: not JSON ({error}); delete it and run again", name
            ) from error

    def remove(self, name: str) -> None:
        """Delete the file `name`; no error where there is none."""
        with self.explained("delete", name):
            try:
                self.fs.rm_file(self.path(name))
            except FileNotFoundError:
                return

    def move(self, name: str, to: str) -> None:
        """Give the file `name` another name, in place of what has it; `sync` is to be called for both.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: it cannot be written.
        """
        source, target = self.path(name), self.path(to)
        if self.is_local:
            with self.explained("write", to):
                _make_folder(Path(target).parent)
            with self.explained("move", name):
                os.replace(source, target)  # noqa: PTH105
            return
        with self.explained("move", name):
            self.fs.cp_file(source, target)
            self.fs.rm_file(source)
        self.fs.invalidate_cache(posixpath.dirname(target))

    @contextmanager
    def explained(self, verb: str, name: str) -> Iterator[None]:
        """Turn what a file system raises into one line that names the file and the mend."""
        try:
            yield
        except FileNotFoundError as error:
            if hides_cause(error):
                raise self._failed(verb, name, error) from safe_cause(error)
            if verb != "write":
                raise
            raise StoreError(
                f"{self.full_url(name)}: cannot write: {first_line(error)}; make the bucket or folder, "
                "or set another GLR_STORE"
            ) from safe_cause(error)
        except GlrError:
            raise
        except Exception as error:
            if self.is_local and not isinstance(error, OSError):
                raise
            raise self._failed(verb, name, error) from safe_cause(error)

    def _failed(self, verb: str, name: str, error: BaseException) -> StoreError:
        if self.is_s3 and is_bare(error):
            error = self._told_by_listing() or error
        said, fix = explanation(error, is_local=self.is_local)
        return StoreError(f"{self.full_url(name)}: cannot {verb}: {said}; {fix}")

    def _told_by_listing(self) -> BaseException | None:
        """Why the bucket cannot be listed: an answer to HEAD has no body, so it has no error code of S3."""
        try:
            self.fs.call_s3("list_objects_v2", Bucket=self.root.split("/")[0], MaxKeys=1)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is asked for
            return error
        return None


Explained = Callable[[], AbstractContextManager[None]]


@contextmanager
def _writing_local(target: Path, explained: Explained) -> Iterator[IO[bytes]]:
    """Write beside `target` under a fixed, locked name, then rename.

    The name is fixed so that a rerun takes over what a killed run left; the lock keeps a second
    writer of the same file waiting, and a dead writer's lock is gone with it.
    """
    part = target.with_name(f".{target.name}{_PART}")
    with explained():
        _make_folder(target.parent)
        raw = _locked_file(part, lambda: _WrittenFile(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), explained))
        raw.truncate(0)
    in_place = False
    with io.BufferedRandom(raw) as file:
        try:
            yield file
            file.flush()
            with explained():
                os.fsync(file.fileno())
                part.replace(target)
                in_place = True
        finally:
            if not in_place:  # whatever stopped it, an interrupt too, leaves no part file
                part.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it that are not there, so that each survives a power cut."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:  # another writer was faster, or it is a file, which opening below it tells
        return
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Write a folder's names to its disk. Some network file systems cannot, and say so: theirs is another promise."""
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


_File = TypeVar("_File", bound=io.IOBase)


def _locked_file(path: Path, opened: Callable[[], _File], *, wait: bool = True) -> _File:
    """The file at `path`, made where it is not, locked for this process alone; waits for who has it.

    Raises:
        BlockingIOError: another process has it, and it is not waited for.
    """
    while True:
        file = opened()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            raise
        try:
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        except FileNotFoundError:
            pass  # whoever held the lock has moved or removed its file: start afresh
        file.close()


class _WrittenFile(io.FileIO):
    """A file being written: what its disk refuses is explained, what its writer raises is left alone."""

    def __init__(self, descriptor: int, explained: Explained) -> None:
        super().__init__(descriptor, "r+")
        self._explained = explained

    def write(self, data: ReadableBuffer, /) -> int:
        with self._explained():
            return super().write(data)


class _RemoteFile(io.RawIOBase):
    """A remote file being read, with an explanation where reading breaks off."""

    def __init__(self, file: IO[bytes], explained: Explained) -> None:
        self._file = file
        self._explained = explained

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        with self._explained():
            data = self._file.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _is_locked(path: Path) -> bool:
    """Whether a process holds the lock on a file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def is_part(name: str) -> bool:
    """Whether a file is one that is being written to a local store, or was when its writer was killed."""
    base = posixpath.basename(name)
    return base.startswith(".") and base.endswith(_PART)


def is_lock(name: str) -> bool:
    """Whether a file of a local store is there to be locked alone."""
    base = posixpath.basename(name)
    return base.startswith(".") and base.endswith(_LOCK)


def is_transient(name: str) -> bool:
    """Whether a file of a local store is there while somebody is at work, and no part of what is stored."""
    return is_part(name) or is_lock(name)


def _file_system(url: str, options: Mapping[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL and the root's path on it.

    Raises:
        StoreError: no such protocol, options that it does not take, or no connection.
    """
    try:
        found, root = fsspec.core.url_to_fs(url, **_with_retries(url, options))
    except Exception as error:  # noqa: BLE001 - what fsspec's many file systems raise is of no common kind
        said, fix = explanation(error, is_local=False)
        raise StoreError(f"{url}: not a URL that can be opened: {said}; {fix}") from safe_cause(error)
    return found, root


def _with_retries(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as given, on S3 with how botocore tries and waits and how many parts are in memory at once."""
    if not url.startswith(("s3://", "s3a://")):
        return dict(options)
    config = options.get("config_kwargs", {})
    if not isinstance(config, Mapping):
        raise TypeError("config_kwargs must hold names and values")
    return {"max_concurrency": 4} | dict(options) | {"config_kwargs": _S3_CONFIG | dict(config)}


first_line = one_line


def remote_errors() -> tuple[type[Exception], ...]:
    """What clients of remote file systems raise besides OSError; none of a client that is not loaded."""
    names = {
        "botocore.exceptions": ("BotoCoreError", "ClientError"),
        "botocore.parsers": ("ResponseParserError",),
        "aiohttp": ("ClientError",),
    }
    return tuple(
        getattr(sys.modules[module], name) for module, found in names.items() if module in sys.modules for name in found
    )
