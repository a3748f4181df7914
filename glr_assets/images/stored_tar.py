"""The stored TAR of a shard: an ordinary archive of `<id>.jpg`, which tells where each image's bytes begin."""

from __future__ import annotations

import tarfile
from typing import IO

BLOCK = 512
_NAME, _SIZE, _SUM = slice(0, 100), slice(124, 136), slice(148, 156)


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
        block = _header(name.encode(), len(data))
        padding = bytes(-len(data) % BLOCK)
        self.file.write(block + data + padding)
        offset = self.position + len(block)
        self.position = offset + len(data) + len(padding)
        return offset


def _template() -> tuple[bytes, int]:
    """The header of a plain file of mode 644 without name, size and sum, and the sum of its bytes."""
    header = tarfile.TarInfo("")
    header.mode = 0o644
    block = bytearray(header.tobuf(tarfile.USTAR_FORMAT))
    block[_SIZE] = bytes(12)
    block[_SUM] = b" " * 8
    return bytes(block), sum(block)


_BLANK, _BLANK_SUM = _template()


def _header(name: bytes, size: int) -> bytes:
    """A USTAR header, as tarfile makes it (POSIX.1-1988): a tenth of the time, of which a shard has thousands.

    Raises:
        ValueError: a name of more than 100 bytes or a size of 8 GiB: neither is of a stored image.
    """
    told = b"%011o\0" % size
    if len(name) > 100 or len(told) > 12:
        raise ValueError(f"{name!r} of {size} bytes does not fit into a USTAR header")
    total = b"%06o\0 " % (_BLANK_SUM + sum(name) + sum(told))
    return b"".join(
        (
            name.ljust(100, b"\0"),
            _BLANK[_NAME.stop : _SIZE.start],
            told,
            _BLANK[_SIZE.stop : _SUM.start],
            total,
            _BLANK[_SUM.stop :],
        )
    )
