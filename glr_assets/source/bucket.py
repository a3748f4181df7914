"""A bucket laid out as GLDv2's: CSV tables, TAR shards and an MD5 file for each."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, Self, cast

from glr_assets.errors import SourceError, StoreError
from glr_assets.source import layout
from glr_assets.source.base import Member, Split, TableName
from glr_assets.store import READ_BLOCK, Store

REQUIRED_TABLES: frozenset[TableName] = frozenset({"train", "train_clean"})
_SHARD_FILE = re.compile(r"images_(\w+)\.tar")
_MD5 = re.compile(r"[0-9a-f]{32}")


class BucketSource:
    """Reads a GLDv2-shaped bucket through fsspec (`s3://`, `file://`, …)."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        with _as_source_error():
            self.files = Store(url, options)
            found = self.files.exists(layout.TABLE_PATHS["train"])
        self.url = self.files.url
        if not found:
            raise SourceError(
                f"source {self.url}: no {layout.TABLE_PATHS['train']} there; expected a GLDv2-shaped bucket "
                "(make one of your photographs with `glr pack`) or kaggle:///FOLDER; check GLR_SOURCE"
            )

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
            matches = [_SHARD_FILE.fullmatch(name) for name in self.files.names(split)]
        return sorted(match.group(1) for match in matches if match)

    def shard_digest(self, split: Split, shard: str, *, require_md5: bool) -> str:
        """The published MD5 of the shard, or ETag (or time) and size where none is published nor required."""
        published = self._published_md5(split, shard, require_md5=require_md5)
        if published is not None:
            return published
        info = self._shard_info(split, shard)
        return f"{info.get('ETag') or info.get('mtime') or ''}:{info['size']}"

    def members(self, split: Split, shard: str, *, require_md5: bool, max_member_bytes: int) -> Iterator[Member]:
        """Stream the TAR once; its MD5 is taken as it passes and compared after the last member."""
        published = self._published_md5(split, shard, require_md5=require_md5)
        self._shard_info(split, shard)
        path = layout.shard_path(split, shard)
        with _as_source_error():
            raw = self.files.open(path)
        with raw:
            hashing = _Md5File(raw)
            try:
                header = _Header if published is None else _VerifiedHeader
                yield from _walk(hashing, path, max_member_bytes, header)
                hashing.drain()
            except tarfile.TarError as error:
                raise SourceError(
                    f"{self.files.full_url(path)}: not a whole TAR: {error}, at byte {hashing.bytes_read}; "
                    "the file is cut or damaged at the source or on its way"
                ) from error
            except (OSError, StoreError) as error:
                raise SourceError(
                    f"{self.files.full_url(path)}: reading broke off at byte {hashing.bytes_read}: {error}; "
                    "run it again"
                ) from error
        actual = hashing.md5.hexdigest()
        if published is not None and actual != published:
            raise SourceError(
                f"{self.files.full_url(path)}: MD5 is {actual}, expected {published} by "
                f"{layout.md5_path(split, shard)}; download it again or mend the bucket"
            )

    def _shard_info(self, split: Split, shard: str) -> dict[str, Any]:
        path = layout.shard_path(split, shard)
        try:
            with _as_source_error():
                return self.files.info(path)
        except FileNotFoundError:
            known = self.shards(split)
            raise SourceError(
                f"{self.files.full_url(path)} is missing: the source has {len(known)} {split} shards"
                + (f", {known[0]} to {known[-1]}; choose one of these" if known else "; check GLR_SOURCE")
            ) from None

    def _published_md5(self, split: Split, shard: str, *, require_md5: bool) -> str | None:
        path = layout.md5_path(split, shard)
        try:
            with _as_source_error():
                text = self.files.read(path).decode("ascii", errors="replace").split()
        except FileNotFoundError:
            if require_md5:
                raise SourceError(
                    f"{self.files.full_url(path)} is missing: the shard cannot be verified; publish it, "
                    "or set [images] require_md5 = false in the recipe"
                ) from None
            return None
        if not text or not _MD5.fullmatch(text[0].lower()):
            raise SourceError(
                f"{self.files.full_url(path)}: expected `<md5>  images_{shard}.tar`, found {' '.join(text)[:60]!r}; "
                "mend the file at the source"
            )
        return text[0].lower()


class _Md5File:
    """A stream that hashes what is read from it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.bytes_read = 0

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.md5.update(data)
        self.bytes_read += len(data)
        return data

    def drain(self) -> None:
        """Read what stands after the last member, so that the hash covers the whole file."""
        while self.read(READ_BLOCK):
            pass


def _walk(file: _Md5File, path: str, max_member_bytes: int, header: type[_Header]) -> Iterator[Member]:
    with tarfile.open(fileobj=cast(Any, file), mode="r|", bufsize=READ_BLOCK, tarinfo=header) as tar:
        for entry in tar:
            data = None
            if entry.isreg() and not entry.issparse() and entry.size <= max_member_bytes:
                extracted = tar.extractfile(entry)
                data = extracted.read() if extracted is not None else None
                if data is not None and len(data) != entry.size:
                    raise tarfile.ReadError(f"{entry.name!r} has {len(data)} bytes, its header says {entry.size}")
            yield Member(entry.name, _kind(entry), path, entry.offset_data, entry.size, data)
            cast(Any, tar).members.clear()  # tarfile keeps every header it has seen


class _Header(tarfile.TarInfo):
    """A member's header; only blocks of zeros end an archive, where tarfile also lets damage and a cut end it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            raise tarfile.ReadError(f"{error}, expected a member or the end mark") from error


class _VerifiedHeader(_Header):
    """The same where the whole file's MD5 is known: that tells of a cut, so a missing end mark is no fault."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        return super().frombuf(buf, encoding, errors) if buf else tarfile.TarInfo.frombuf(buf, encoding, errors)  # type: ignore[return-value]


@contextmanager
def _as_source_error() -> Iterator[None]:
    """What keeps the bucket from being read is the source's fault, not the store's."""
    try:
        yield
    except StoreError as error:
        raise SourceError(f"source {error}") from error


def _kind(entry: tarfile.TarInfo) -> str:
    if entry.issparse():
        return "sparse file"
    if entry.isreg():
        return "file"
    if entry.isdir():
        return "directory"
    if entry.issym() or entry.islnk():
        return "link"
    return "device" if entry.isdev() else "unknown kind"
