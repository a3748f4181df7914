"""A Kaggle competition's folder: `train.csv`, `train/a/b/c/<id>.jpg`, `test/…`, `sample_submission.csv`.

Its shards are the folders of the first two characters, `00` to `ff`: 256 of a competition of 1.58 million images, each
about as large as a shard of GLDv2. What lies elsewhere below a split's folder (`train/x.jpg`, `train/0/x.jpg`, all
below a folder whose name is not one character) is the shard `loose`, which is there only where a name among it may be
a photograph's: every photograph is in exactly one shard. Every train image is of the competition set.

Symbolic links to files and folders are followed where they lead inside the competition's folder, or inside what
`train` or `test` itself is a link to. Others are named in the index and not followed: an unpacked archive of
strangers could name any file of the machine.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import IO, Final, Self

from glr_assets.errors import SourceError
from glr_assets.locations import local_path
from glr_assets.ranges import LOCAL_READERS, Place, in_batches
from glr_assets.source.base import UNREADABLE, Member, Split, TableName
from glr_assets.source.file_names import may_be_photograph
from glr_assets.source.layout import SPLITS

LOOSE: Final = "loose"

_TABLE_FILES: dict[TableName, str] = {"train": "train.csv", "test": "sample_submission.csv"}
_CHARACTER = re.compile(r"[0-9A-Za-z_-]")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class KaggleSource:
    """Reads a competition folder of this machine."""

    def __init__(self, folder: str) -> None:
        self.folder = local_path(folder)
        self.url = f"kaggle://{self.folder}"
        # Resolved: what links may lead to.
        self._roots = [os.path.realpath(self.folder), *(os.path.realpath(self.folder / split) for split in SPLITS)]
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
        return [*sorted(keys), *([LOOSE] if self._holds_photographs(loose) else [])]

    def shard_digest(self, split: Split, shard: str, *, require_md5: bool) -> str:
        """SHA-256 over names, sizes and times of the shard's files: the layout publishes no MD5."""
        listing = []
        for name in self._names(split, shard):
            try:
                status = self._status(name)
            except FileNotFoundError:
                continue  # gone since the folder was listed
            listing.append((name, status.st_size, status.st_mtime_ns))
        return hashlib.sha256(repr(listing).encode()).hexdigest()

    def shard_stamps(self, split: Split) -> dict[str, str]:
        """Times of the folders of each shard: what is added or removed shows, a file rewritten in place does not."""
        pairs, loose = self._divided(split)
        stamps = {key: self._folder_times([top]) for key, top in sorted(pairs.items())}
        if self._holds_photographs(loose):
            stamps[LOOSE] = self._folder_times(loose)
        return stamps

    def shard_stamp(self, split: Split, shard: str) -> str:
        """The same of one shard."""
        pairs, loose = self._divided(split)
        self._refuse_unknown(split, shard, pairs, loose)
        return self._folder_times([pairs[shard]] if shard in pairs else loose)

    def shard_sizes(self, split: Split) -> dict[str, int]:
        """Nothing: each of a shard's files would have to be looked at."""
        return {}

    def table_stamps(self) -> dict[TableName, str]:
        """Time and size of each CSV."""
        stamps: dict[TableName, str] = {}
        for name in _TABLE_FILES:
            path = Path(self.table_url(name))
            if path.is_file():
                stamps[name] = f"{path.stat().st_mtime_ns}:{path.stat().st_size}"
        return stamps

    def members(self, split: Split, shard: str, *, require_md5: bool, max_member_bytes: int) -> Iterator[Member]:
        """The shard's files, sorted by name, read ahead."""

        def read(batch: list[Member]) -> list[Member]:
            with _Reader(self.folder, self._roots) as reader:
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
            with _Reader(self.folder, self._roots) as reader:
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
                status = self._status(name)
            except OSError:
                found.append(Member(name, UNREADABLE, name, 0, 0, None))
                continue
            kind = _kind(status.st_mode)
            if kind == "link":
                kind = "outward link" if (self.folder / name).exists() else "broken link"
            size = status.st_size if kind == "file" else 0
            found.append(Member(name, kind, name, 0, size, None))
        return found

    def _status(self, name: str) -> os.stat_result:
        """What the file system says of an entry; of a link that is followed, of what it leads to."""
        path = self.folder / name
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode) and _leads_inside(path, self._roots):
            return path.stat()
        return status

    def _divided(self, split: Split) -> tuple[dict[str, Path], list[Path]]:
        """The folder of each pair of characters, and the entries that are neither one nor on the way to one."""
        root = self.folder / split
        pairs: dict[str, Path] = {}
        loose: list[Path] = []
        for first in _entries(root) if root.is_dir() else []:
            if not self._is_character(first):
                loose.append(Path(first.path))
                continue
            for second in _entries(first.path):
                if self._is_character(second):
                    pairs[first.name + second.name] = Path(second.path)
                else:
                    loose.append(Path(second.path))
        return pairs, loose

    def _names(self, split: Split, shard: str) -> list[str]:
        """Names of all of a shard's entries but folders, below the competition's folder, sorted."""
        pairs, loose = self._divided(split)
        self._refuse_unknown(split, shard, pairs, loose)
        found = [path for top in ([pairs[shard]] if shard in pairs else loose) for path in self._files(top)]
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def _refuse_unknown(self, split: Split, shard: str, pairs: Collection[str], loose: Iterable[Path]) -> None:
        """Raise where a split has no such shard."""
        has_loose = shard not in pairs and self._holds_photographs(loose)
        if shard not in pairs and (shard != LOOSE or not has_loose):
            known = [*sorted(pairs), *([LOOSE] if has_loose else [])]
            raise SourceError(
                f"{self.folder / split}: no shard {shard}: the source has {len(known)} {split} shards"
                + (f", {known[0]} to {known[-1]}; choose one of these" if known else "; check GLR_SOURCE")
            )

    def _is_character(self, entry: os.DirEntry[str]) -> bool:
        return bool(_CHARACTER.fullmatch(entry.name)) and self._is_folder(Path(entry.path), entry.is_symlink())

    def _is_folder(self, path: Path, is_link: bool) -> bool:
        """Whether it is a folder, or a link that is followed to one."""
        return path.is_dir() and (not is_link or _leads_inside(path, self._roots))

    def _holds_photographs(self, loose: Iterable[Path]) -> bool:
        found = (path.relative_to(self.folder).as_posix() for top in loose for path in self._files(top))
        return any(map(may_be_photograph, found))

    def _files(self, top: Path) -> Iterator[Path]:
        """All entries at and below `top` but folders; links that are not followed are entries."""
        if not self._is_folder(top, top.is_symlink()):
            yield top
            return
        for folder, _, names in self._walked(top):
            yield from (folder / name for name in names)

    def _walked(self, top: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
        """As `os.walk`, through the links that are followed; a link to a folder on its own path counts as a file.

        Raises:
            SourceError: a folder cannot be listed.
        """
        waiting: list[tuple[Path, tuple[Path, ...]]] = [(top, (top, *top.parents))]
        while waiting:
            folder, above = waiting.pop()
            folders: list[str] = []
            names: list[str] = []
            for entry in _entries(folder):
                goes_on = self._is_folder(Path(entry.path), is_link=True) if entry.is_symlink() else entry.is_dir()
                if goes_on and entry.is_symlink():
                    goes_on = os.path.realpath(entry.path) not in {os.path.realpath(path) for path in above}
                (folders if goes_on else names).append(entry.name)
            yield folder, folders, names
            waiting += [(folder / name, (*above, folder / name)) for name in folders]

    def _folder_times(self, tops: Iterable[Path]) -> str:
        """SHA-256 over the folders at and below `tops` with their times, and over other entries among `tops`."""
        times: list[tuple[str, int]] = []
        for top in tops:
            times.append((top.name, top.lstat().st_mtime_ns))
            if self._is_folder(top, top.is_symlink()):
                times += [
                    (name, (folder / name).stat().st_mtime_ns)
                    for folder, folders, _ in self._walked(top)
                    for name in folders
                ]
        return hashlib.sha256(repr(sorted(times)).encode()).hexdigest()


class _Reader:
    """Reads files below a competition folder, and none outside it. One thread's, for files in order.

    The split's own folder may be a link, as where images are on another disk. Below it a link is resolved first, and
    what it leads to is opened under one of `roots` without following any: a link that changes meanwhile leads nowhere.
    """

    def __init__(self, root: Path, roots: Sequence[str]) -> None:
        self._root = root
        self._roots = roots
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
        try:
            self._enter(folder, self._root / split, parts)
            return _contents(last, self._descriptor, offset, size)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
        found = os.path.realpath(self._root / name)
        for root in self._roots:
            if found.startswith(f"{root}/"):
                *parts, last = found.removeprefix(f"{root}/").split("/")
                self._enter(found.rpartition("/")[0], Path(root), parts)
                return _contents(last, self._descriptor, offset, size)
        raise ValueError("a link leads out of the folder")

    def _enter(self, folder: str, root: Path, parts: Iterable[str]) -> None:
        """Open a folder by steps from `root`, none of them a link; nothing is done where it is open already."""
        if folder == self._folder:
            return
        self._leave()
        self._descriptor = os.open(root, _FOLDER)
        for part in parts:
            outer = self._descriptor
            self._descriptor = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=outer)
            os.close(outer)
        self._folder = folder

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
        return replace(member, kind=UNREADABLE)
    return replace(member, size=len(data), data=data if len(data) <= max_member_bytes else None)


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise _unlisted(error) from error


def _contents(name: str, folder: int, offset: int, size: int) -> bytes:
    """What is there of a range of a regular file in an open folder."""
    descriptor = os.open(name, _FILE, dir_fd=folder)
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


def _leads_inside(path: Path, roots: Sequence[str]) -> bool:
    """Whether what a link leads to is there and lies below one of `roots`, which are resolved."""
    found = os.path.realpath(path)
    return Path(found).exists() and any(found.startswith(f"{root}/") for root in roots)


def _unlisted(error: OSError) -> SourceError:
    return SourceError(f"{error.filename}: cannot be listed: {error.strerror}; mend it and run again")


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    # A folder is an entry only where a link leads to it from below itself.
    return "link" if stat.S_ISLNK(mode) else "circular link" if stat.S_ISDIR(mode) else "device"
