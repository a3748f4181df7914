"""A Kaggle competition's folder: `train.csv`, `train/a/b/c/<id>.jpg`, `test/…`, `sample_submission.csv`.

Its shards are the folders of the first two characters, `00` to `ff`: 256 of a competition of 1.58 million images, each
about as large as a shard of GLDv2. What lies elsewhere below a split's folder (`train/x.jpg`, `train/0/x.jpg`, a link
there, all below a folder whose name is not one character) is the shard `loose`, which is there only where there is such
a thing: every entry is in exactly one shard. Every train image is of the competition set.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import IO, Final, Self

from glr_assets.errors import SourceError
from glr_assets.ranges import LOCAL_READERS, Place, in_batches
from glr_assets.source.base import Member, Split, TableName
from glr_assets.source.layout import SPLITS

LOOSE: Final = "loose"

_TABLE_FILES: dict[TableName, str] = {"train": "train.csv", "test": "sample_submission.csv"}
_CHARACTER = re.compile(r"[0-9A-Za-z_-]")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class KaggleSource:
    """Reads a competition folder of this machine."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.url = f"kaggle://{folder}"
        for needed in ("train.csv", "train"):
            if not (self.folder / needed).exists():
                raise SourceError(
                    f"source {self.url}: no {needed} there; expected a Kaggle competition folder with train.csv, "
                    "train/a/b/c/<id>.jpg, test/… and sample_submission.csv; check GLR_SOURCE"
                )

    def table_url(self, name: TableName) -> str:
        """Where that CSV lies."""
        return str(self.folder / _TABLE_FILES.get(name, f"{name}.csv"))

    def open_table(self, name: TableName) -> IO[bytes] | None:
        """`train` and `test`; a competition folder has no other table."""
        if name not in _TABLE_FILES or not Path(self.table_url(name)).is_file():
            return None
        data = Path(self.table_url(name)).read_bytes()
        return io.BytesIO(data)

    def table_digest(self, name: TableName) -> str:
        """SHA-256 of the file, or `absent`."""
        file = self.open_table(name)
        return "absent" if file is None else hashlib.sha256(file.read()).hexdigest()

    def shards(self, split: Split) -> list[str]:
        """The pairs of characters that the split has folders of, and `loose` where anything lies elsewhere."""
        keys, loose = self._divided(split)
        return [*sorted(keys), *([LOOSE] if any(True for path in loose for _ in _files(path)) else [])]

    def shard_digest(self, split: Split, shard: str, *, require_md5: bool) -> str:
        """SHA-256 over names, sizes and times of the shard's files: the layout publishes no MD5."""
        listing = []
        for name in self._names(split, shard):
            try:
                status = (self.folder / name).lstat()
            except FileNotFoundError:
                continue  # gone since the folder was listed
            listing.append((name, status.st_size, status.st_mtime_ns))
        return hashlib.sha256(repr(listing).encode()).hexdigest()

    def shard_stamps(self, split: Split) -> dict[str, str]:
        """Times of the folders of each shard: what is added or removed shows, a file rewritten in place does not."""
        pairs, loose = self._divided(split)
        stamps = {key: _folder_times([top]) for key, top in sorted(pairs.items())}
        if any(True for path in loose for _ in _files(path)):
            stamps[LOOSE] = _folder_times(loose)
        return stamps

    def table_stamps(self) -> dict[TableName, str]:
        """Time and size of each CSV."""
        stamps: dict[TableName, str] = {}
        for name in _TABLE_FILES:
            path = Path(self.table_url(name))
            if path.is_file():
                stamps[name] = f"{path.stat().st_mtime_ns}:{path.stat().st_size}"
        return stamps

    def members(self, split: Split, shard: str, *, require_md5: bool, max_member_bytes: int) -> Iterator[Member]:
        """The shard's files, sorted by name, read ahead; links are named, not followed."""

        def read(batch: list[Member]) -> list[Member]:
            with _Reader(self.folder) as reader:
                return [_read(reader, member, max_member_bytes) for member in batch]

        # Sizes come first, so that no more than so many bytes are read ahead of the caller.
        listed = in_batches(self._listed, self._names(split, shard), workers=LOCAL_READERS)
        members = in_batches(read, listed, workers=LOCAL_READERS, size=lambda member: member.size)
        with closing(listed), closing(members):
            yield from members

    def read_members(self, places: Iterable[Place]) -> Iterator[bytes | SourceError]:
        """The bytes of files of the folder, several read at once; in an unreadable one's stead, why.

        No path that leads out of the folder is followed, be it by its name or by a link on its way.
        """

        def read(batch: list[Place]) -> list[bytes | SourceError]:
            with _Reader(self.folder) as reader:
                return [self._placed(reader, place) for place in batch]

        with closing(in_batches(read, places, workers=LOCAL_READERS, size=lambda place: place.size)) as found:
            yield from found

    def _placed(self, reader: _Reader, place: Place) -> bytes | SourceError:
        where = f"source {self.url}: {place.name!r}"
        try:
            data = reader.read(place.name, place.offset, place.size)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            return SourceError(f"{where} cannot be read: {why}; it was moved or replaced: run its shard again")
        if len(data) != place.size:
            return SourceError(
                f"{where}: expected {place.size} bytes at {place.offset}, found {len(data)}; "
                "the file was changed: run its shard again"
            )
        return data

    def _listed(self, names: list[str]) -> list[Member]:
        found = []
        for name in names:
            try:
                status = (self.folder / name).lstat()
            except OSError:
                found.append(Member(name, "unreadable file", name, 0, 0, None))
            else:
                size = status.st_size if stat.S_ISREG(status.st_mode) else 0
                found.append(Member(name, _kind(status.st_mode), name, 0, size, None))
        return found

    def _divided(self, split: Split) -> tuple[dict[str, Path], list[Path]]:
        """The folder of each pair of characters, and the entries that are neither one nor on the way to one."""
        root = self.folder / split
        pairs: dict[str, Path] = {}
        loose: list[Path] = []
        for first in _entries(root) if root.is_dir() else []:
            if not _is_character(first):
                loose.append(Path(first.path))
                continue
            for second in _entries(first.path):
                if _is_character(second):
                    pairs[first.name + second.name] = Path(second.path)
                else:
                    loose.append(Path(second.path))
        return pairs, loose

    def _names(self, split: Split, shard: str) -> list[str]:
        """Names of all of a shard's entries but folders, below the competition's folder, sorted."""
        pairs, loose = self._divided(split)
        found = [path for top in ([pairs[shard]] if shard in pairs else loose) for path in _files(top)]
        if shard not in pairs and (shard != LOOSE or not found):
            known = [*sorted(pairs), *([LOOSE] if found else [])]
            raise SourceError(
                f"{self.folder / split}: no shard {shard}: the source has {len(known)} {split} shards"
                + (f", {known[0]} to {known[-1]}; choose one of these" if known else "; check GLR_SOURCE")
            )
        return sorted(path.relative_to(self.folder).as_posix() for path in found)


class _Reader:
    """Reads files below a competition folder, and none outside it. One thread's, for files in order.

    The split's own folder may be a link, as where images are on another disk; below it none is followed.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder: str | None = None
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def read(self, name: str, offset: int, size: int) -> bytes:
        """What is there of a range of a regular file.

        Raises:
            OSError: it cannot be read, or a link is on its way.
            ValueError: it is no name of a regular file below a split's folder.
        """
        folder, _, last = name.rpartition("/")
        split, *parts = folder.split("/")
        if split not in SPLITS or {"", ".", ".."} & {*parts, last}:
            raise ValueError("no file below train, index or test")
        if folder != self._folder:
            self._enter(split, parts)
            self._folder = folder
        descriptor = os.open(last, _FILE, dir_fd=self._descriptor)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("no regular file")
            size = max(min(size, status.st_size - offset), 0)
            data = os.pread(descriptor, size, offset)
            while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
                data += more
            return data
        finally:
            os.close(descriptor)

    def _enter(self, split: str, parts: list[str]) -> None:
        self._leave()
        self._descriptor = os.open(self._root / split, _FOLDER)
        for part in parts:
            outer = self._descriptor
            self._descriptor = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=outer)
            os.close(outer)

    def _leave(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._folder, self._descriptor = None, -1


def _read(reader: _Reader, member: Member, max_member_bytes: int) -> Member:
    if member.kind != "file" or member.size > max_member_bytes:
        return member
    try:
        data = reader.read(member.source_path, 0, max_member_bytes + 1)
    except (OSError, ValueError):
        return replace(member, kind="unreadable file")
    return replace(member, size=len(data), data=data if len(data) <= max_member_bytes else None)


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise _unlisted(error) from error


def _is_character(entry: os.DirEntry[str]) -> bool:
    return bool(_CHARACTER.fullmatch(entry.name)) and entry.is_dir(follow_symlinks=False)


def _files(top: Path) -> Iterator[Path]:
    """All entries below `top` but folders, or `top` itself where it is none; links are entries."""
    if top.is_symlink() or not top.is_dir():
        yield top
        return

    def refuse(error: OSError) -> None:
        raise _unlisted(error) from error

    for folder, folders, names in os.walk(top, onerror=refuse, followlinks=False):
        yield from (Path(folder) / name for name in names)
        yield from (path for name in folders if (path := Path(folder) / name).is_symlink())


def _folder_times(tops: Iterable[Path]) -> str:
    """SHA-256 over the folders at and below `tops` with their times, and of the entries among `tops` that are none."""
    times: list[tuple[str, int]] = []
    for top in tops:
        times.append((top.name, top.lstat().st_mtime_ns))
        for folder, folders, _ in os.walk(top, followlinks=False):
            times += [(name, (Path(folder) / name).lstat().st_mtime_ns) for name in folders]
    return hashlib.sha256(repr(sorted(times)).encode()).hexdigest()


def _unlisted(error: OSError) -> SourceError:
    return SourceError(f"{error.filename}: cannot be listed: {error.strerror}; mend it and run again")


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    return "link" if stat.S_ISLNK(mode) else "device"
