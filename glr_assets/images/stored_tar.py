"""The stored TAR of a shard: an ordinary archive of `<id>.jpg`, which tells where each image's bytes begin."""

from __future__ import annotations

import tarfile
from typing import IO

BLOCK = 512


class StoredTar:
    """Writes the archive as a context manager; it has its end mark when the block has ended well."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.position = 0

    def __enter__(self) -> StoredTar:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.file.write(bytes(2 * BLOCK))

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns the offset of its first byte."""
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(data), 0o644
        block = header.tobuf(tarfile.USTAR_FORMAT)
        padding = bytes(-len(data) % BLOCK)
        self.file.write(block + data + padding)
        offset = self.position + len(block)
        self.position = offset + len(data) + len(padding)
        return offset
