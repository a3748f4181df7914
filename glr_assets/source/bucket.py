"""A bucket laid out as GLDv2's: CSV tables, TAR shards and an MD5 file for each."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, cast

from glr_assets.errors import DamagedSourceError, SourceError, StoreError
from glr_assets.ranges import DEFAULT_RETRY, Place, Retry, read_ranges, stream
from glr_assets.source import layout
from glr_assets.source.base import Member, Split, TableName
from glr_assets.source.md5_overrides import FILE, Md5Override, actual_md5, packaged_overrides
from glr_assets.source.tar_walk import DamagedTarError, walk
from glr_assets.store import Store, stamp_of

REQUIRED_TABLES: frozenset[TableName] = frozenset({"train", "train_clean"})
_SHARD_FILE = re.compile(r"images_(\w+)\.tar")
_MD5 = re.compile(r"[0-9a-f]{32}")
_NO_MD5 = "no md5"
_MD5_FILE_BYTES = 4096
"""What is read of the file that publishes an MD5, whatever its size."""


class BucketSource:
    """Reads a GLDv2-shaped bucket through fsspec (`s3://`, `file://`, …).

    Args:
        url: the bucket's root.
        options: of its file system.
        overrides: published MD5 sums known to be wrong; the project's own list where not given.
        retry: how often a range of a shard is asked for.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any] | None = None,
        *,
        overrides: Sequence[Md5Override] | None = None,
        retry: Retry = DEFAULT_RETRY,
    ) -> None:
        self.overrides = packaged_overrides() if overrides is None else tuple(overrides)
        self.retry = retry
        with _as_source_error():
            self.files = Store(url, options)
            found = self.files.exists(layout.TABLE_PATHS["train"])
        self.url = self.files.url
        if not found:
            raise SourceError(
                f"source {self.url}: no {layout.TABLE_PATHS['train']} there{self._seen_instead()}; "
                "expected a GLDv2-shaped bucket (make one of your photographs with `glr pack`) or kaggle:///FOLDER; "
                "check GLR_SOURCE"
            )

    def _seen_instead(self) -> str:
        """What is at the root instead of a bucket, where that can be told."""
        if self.files.is_local and not Path(self.files.root or "/").exists():
            return ", nor a folder of that name"
        with _as_source_error():
            is_kaggle = self.files.exists("train.csv")
        return ", but a train.csv as Kaggle's folders have it: give kaggle://… with its path" if is_kaggle else ""

    def table_url(self, name: TableName) -> str:
        """Where that CSV lies."""
        return self.files.full_url(layout.TABLE_PATHS[name])

    def open_table(self, name: TableName) -> IO[bytes] | None:
        """The CSV of that name; None where it is optional and absent."""
        try:
            with _as_source_error():
                return self.files.open(layout.TABLE_PATHS[name])
        except FileNotFoundError:
            if name in REQUIRED_TABLES:
                raise SourceError(
                    f"{self.table_url(name)} is missing: a GLDv2-shaped bucket must have it; "
                    "put it there, or check GLR_SOURCE"
                ) from None
            return None

    def table_digest(self, name: TableName) -> str:
        """The server's ETag, or SHA-256 of the file where files have none."""
        with _as_source_error():
            try:
                info = self.files.info(layout.TABLE_PATHS[name])
                if "ETag" in info:
                    return f"{info['ETag']}:{info['size']}"
                with self.files.open(layout.TABLE_PATHS[name]) as file:
                    return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
            except FileNotFoundError:
                return "absent"

    def shards(self, split: Split) -> list[str]:
        """Keys of the TARs under the split's folder: `000` for `images_000.tar`."""
        with _as_source_error():
            names = self.files.names(split)
            tables = posixpath.dirname(layout.TABLE_PATHS["train"])
            if not names and self.files.is_http and not self.files.names(tables):
                raise SourceError(
                    f"source {self.url}: the server lists no files of its folders, so shards cannot be found over "
                    'HTTP; give the bucket by its own protocol, as s3://NAME with the options {"anon": true}'
                )
        matches = [_SHARD_FILE.fullmatch(name) for name in names]
        return sorted(match.group(1) for match in matches if match)

    def shard_stamps(self, split: Split) -> dict[str, str]:
        """ETag (or time) and size of each TAR and of the file with its MD5, of two listings."""
        with _as_source_error():
            tars, sums = self.files.stamps(split), self.files.stamps(posixpath.dirname(layout.md5_path(split, "")))
        matches = [_SHARD_FILE.fullmatch(name) for name in sorted(tars)]
        return {
            match[1]: f"{tars[match[0]]} {sums.get(posixpath.basename(layout.md5_path(split, match[1])), _NO_MD5)}"
            for match in matches
            if match
        }

    def shard_stamp(self, split: Split, shard: str) -> str:
        """As `shard_stamps` has it, of two looks at single files."""
        tar = stamp_of(self._shard_info(split, shard))
        try:
            with _as_source_error():
                return f"{tar} {stamp_of(self.files.info(layout.md5_path(split, shard)))}"
        except FileNotFoundError:
            return f"{tar} {_NO_MD5}"

    def shard_sizes(self, split: Split) -> dict[str, int]:
        """Bytes of each TAR, by one listing."""
        with _as_source_error():
            sizes = self.files.sizes(split)
        matches = [_SHARD_FILE.fullmatch(name) for name in sorted(sizes)]
        return {match[1]: sizes[match[0]] for match in matches if match}

    def table_stamps(self) -> dict[TableName, str]:
        """ETag (or time) and size of each CSV."""
        with _as_source_error():
            folders = {posixpath.dirname(path) for path in layout.TABLE_PATHS.values()}
            found = {folder: self.files.stamps(folder) for folder in sorted(folders)}
        places = {name: posixpath.split(path) for name, path in layout.TABLE_PATHS.items()}
        return {name: found[folder][file] for name, (folder, file) in places.items() if file in found[folder]}

    def shard_digest(self, split: Split, shard: str, *, require_md5: bool) -> str:
        """The shard's MD5, published or corrected; ETag (or time) and size where none is published nor required."""
        expected = self._expected_md5(split, shard, require_md5=require_md5)
        if expected is not None:
            return expected
        return stamp_of(self._shard_info(split, shard))

    def members(self, split: Split, shard: str, *, require_md5: bool, max_member_bytes: int) -> Iterator[Member]:
        """Stream the TAR once; its MD5 is taken as it passes and compared after the last member.

        On S3 every block must have the ETag the shard had at first, so blocks of two versions never mix.
        """
        expected = self._expected_md5(split, shard, require_md5=require_md5)
        info = self._shard_info(split, shard)
        path = layout.shard_path(split, shard)
        md5 = hashlib.md5(usedforsecurity=False)

        def hashed(blocks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
            with _as_source_error():
                for block in blocks:
                    md5.update(block)
                    yield block

        etag = str(info["ETag"]) if self.files.is_s3 and info.get("ETag") else None
        with closing(stream(self.files, path, int(info["size"]), etag=etag, retry=self.retry)) as blocks:
            passing = hashed(blocks)
            try:
                yield from walk(passing, path, max_member_bytes=max_member_bytes, end_mark=expected is None)
            except DamagedTarError as error:
                raise DamagedSourceError(
                    f"{self.files.full_url(path)}: not a whole TAR: {error}; "
                    "the file is cut or damaged at the source or on its way"
                ) from error
        if expected is not None and md5.hexdigest() != expected:
            raise DamagedSourceError(
                f"{self.files.full_url(path)}: MD5 is {md5.hexdigest()}, expected {expected} by "
                f"{layout.md5_path(split, shard)} (or its correction in {FILE}); download it again or repair the bucket"
            )

    def read_members(self, places: Iterable[Place]) -> Iterator[bytes | SourceError]:
        """Each place by one range read, many at once; in an unreadable one's stead, why."""
        with closing(read_ranges(self.files, places, retry=self.retry)) as found:
            for data in found:
                yield SourceError(f"source {data}") if isinstance(data, StoreError) else data

    def _shard_info(self, split: Split, shard: str) -> dict[str, Any]:
        path = layout.shard_path(split, shard)
        try:
            with _as_source_error():
                return self.files.info(path)
        except FileNotFoundError:
            known = self.shards(split)
            raise DamagedSourceError(
                f"{self.files.full_url(path)} is missing: the source has {len(known)} {split} shards"
                + (f", {known[0]} to {known[-1]}; choose one of these" if known else "; check GLR_SOURCE")
            ) from None

    def _expected_md5(self, split: Split, shard: str, *, require_md5: bool) -> str | None:
        """The published MD5, or the right one where that is known to be wrong; None where none is published."""
        path = layout.md5_path(split, shard)
        try:
            with _as_source_error():
                text = self.files.head(path, _MD5_FILE_BYTES).decode("ascii", errors="replace").split()
        except FileNotFoundError:
            if require_md5:
                raise DamagedSourceError(
                    f"{self.files.full_url(path)} is missing: the shard cannot be verified; publish it, "
                    "or set [images] require_md5 = false in the recipe"
                ) from None
            return None
        if not text or not _MD5.fullmatch(text[0].lower()):
            raise DamagedSourceError(
                f"{self.files.full_url(path)}: expected `<md5>  images_{shard}.tar`, found {' '.join(text)[:60]!r}; "
                "correct the file at the source"
            )
        return actual_md5(self.overrides, split, shard, text[0].lower())


@contextmanager
def _as_source_error() -> Iterator[None]:
    """What keeps the bucket from being read is the source's fault, not the store's."""
    try:
        yield
    except StoreError as error:
        raise SourceError(f"source {error}") from error
