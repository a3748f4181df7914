"""A Kaggle competition's folder: `train.csv`, `train/a/b/c/<id>.jpg`, `test/…`, `sample_submission.csv`.

Its shards are the folders of the first character, `0` to `f`; every train image is of the competition set.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from glr_assets.errors import SourceError
from glr_assets.source.base import Member, Split, TableName

_TABLE_FILES: dict[TableName, str] = {"train": "train.csv", "test": "sample_submission.csv"}


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
        """The folders of the first character that the split has."""
        root = self.folder / split
        return sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []

    def shard_digest(self, split: Split, shard: str, *, require_md5: bool) -> str:
        """SHA-256 over names, sizes and times of the shard's files: the layout publishes no MD5."""
        listing = []
        for path in self._entries(split, shard):
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue  # gone since the folder was listed
            listing.append((path.relative_to(self.folder).as_posix(), status.st_size, status.st_mtime_ns))
        return hashlib.sha256(repr(listing).encode()).hexdigest()

    def members(self, split: Split, shard: str, *, require_md5: bool, max_member_bytes: int) -> Iterator[Member]:
        """The files below the shard's folder, sorted by name; links are named, not followed."""
        for path in self._entries(split, shard):
            name = path.relative_to(self.folder).as_posix()
            kind, size, data = "unreadable file", 0, None
            try:
                status = path.lstat()
                size = status.st_size
                if stat.S_ISREG(status.st_mode) and size <= max_member_bytes:
                    data = path.read_bytes()
                    size = len(data)
                kind = _kind(status.st_mode)
            except OSError:
                pass  # the kind says so
            yield Member(name, kind, name, 0, size, data)

    def _entries(self, split: Split, shard: str) -> list[Path]:
        root = self.folder / split / shard
        if not root.is_dir():
            raise SourceError(f"{root} is missing: the source has the {split} shards {', '.join(self.shards(split))}")

        def unlisted(error: OSError) -> None:
            raise SourceError(f"{error.filename}: cannot be listed: {error.strerror}; mend it and run again") from error

        found = []
        for folder, folders, names in os.walk(root, onerror=unlisted, followlinks=False):
            entries = [Path(folder) / name for name in (*folders, *names)]
            found += [path for path in entries if path.is_symlink() or not path.is_dir()]
        return sorted(found)


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    return "link" if stat.S_ISLNK(mode) else "device"
