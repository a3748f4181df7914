"""The members of a TAR as its bytes stream by: names, places and data, without a copy that is not needed.

What belongs here: the format, as POSIX, GNU tar and Python's tarfile know it. Damage is an error and never an end: only
a block of zeros ends an archive. What stands behind that is named: a second archive, where files were joined, or other
bytes. Whatever the archive says, memory holds a block of the stream, one header of at
most 1 MiB and one member of at most the size asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from glr_assets.source.base import BEHIND_END_MARK, BYTES_BEHIND_END_MARK, Member

RECORD: Final = 512
"""TARs are made of records of this many bytes (POSIX calls them blocks)."""
MAX_HEADER_BYTES: Final = 2**20
"""A long name or a pax header over this is an error: no file system has such names, and none can hold a size back."""

BYTES_BEHIND_NAME: Final = "(bytes behind the end mark)"

_END = bytes(RECORD)
_KINDS: Final[dict[bytes, str]] = {
    b"\0": "file",
    b"0": "file",
    b"7": "file",  # contiguous
    b"S": "sparse file",
    b"1": "link",
    b"2": "link",
    b"3": "device",
    b"4": "device",
    b"5": "directory",
    b"6": "device",
}
_WITHOUT_DATA = {"link", "device", "directory"}
"""Whatever size their headers name: what follows them is the next header."""
_PAX_RECORD = re.compile(rb"(\d{1,20}) ([^=]+)=")
_DIGITS = re.compile(r"[0-9]{1,20}")


class DamagedTarError(Exception):
    """What stands in a TAR is no TAR."""

    def __init__(self, what: str, byte: int) -> None:
        super().__init__(f"{what}, at byte {byte}")


def walk(
    blocks: Iterable[bytes | memoryview], path: str, *, max_member_bytes: int, end_mark: bool = True
) -> Iterator[Member]:
    """The members of a TAR in its order.

    A member is given out when all of it has passed, so its place lies inside the file. Members of archives behind the
    end mark follow without their data, of kinds that end in `BEHIND_END_MARK`; other bytes there are one member
    `BYTES_BEHIND_NAME` of kind `BYTES_BEHIND_END_MARK`, up to the end of the file. Names are
    decoded as UTF-8, other bytes as surrogates. A sparse file's size is what it takes in the TAR.

    Args:
        blocks: the bytes of the TAR, in pieces of any sizes; data of a member inside one is a view of it.
        path: the `source_path` of the members.
        max_member_bytes: files over this pass by without their data.
        end_mark: whether an archive must end with its mark; without, it may also end after a member.

    Raises:
        DamagedTarError: a header is damaged, or the archive is cut.
    """
    stream = _Stream(blocks)
    common: dict[str, str] = {}  # of global pax headers
    while (entry := _entry(stream, common, end_mark)) is not None:
        name, kind, size = entry
        offset = stream.position
        data: bytes | memoryview | None = None
        if kind == "file" and size <= max_member_bytes:
            data = stream.take(size)
            passed = len(data)
        else:
            passed = stream.skip(size)
        if passed < size:
            raise DamagedTarError(f"{name!r} has {passed} bytes, its header says {size}", stream.position)
        if stream.skip(-size % RECORD) < -size % RECORD:
            raise DamagedTarError(f"the archive is cut after the data of {name!r}", stream.position)
        yield Member(name, kind, path, offset, size, data)
    yield from _behind(stream, path)


def _behind(stream: _Stream, path: str) -> Iterator[Member]:
    """What stands behind the end mark: members by their headers, and from the first damage on the bytes that are left.

    Zeros are padding.
    """
    while header := stream.take(RECORD):
        if not bytes(header).strip(b"\0"):
            continue
        stream.put_back(header)
        at = stream.position
        whole = None
        try:
            entry = _entry(stream, {}, end_mark=False)
            if entry is not None:
                name, kind, size = entry
                offset = stream.position
                if stream.skip(size) == size and stream.skip(-size % RECORD) == -size % RECORD:
                    whole = Member(name, f"{kind}{BEHIND_END_MARK}", path, offset, size, None)
        except DamagedTarError:
            pass
        if whole is None:
            stream.skip_all()
            yield Member(BYTES_BEHIND_NAME, BYTES_BEHIND_END_MARK, path, at, stream.position - at, None)
            return
        yield whole


class _Stream:
    """Blocks of any sizes, read as if they were one file."""

    def __init__(self, blocks: Iterable[bytes | memoryview]) -> None:
        self._blocks = iter(blocks)
        self._block = memoryview(b"")
        self._at = 0
        self._passed = 0

    @property
    def position(self) -> int:
        """Bytes taken or skipped so far."""
        return self._passed + self._at

    def take(self, size: int) -> bytes | memoryview:
        """The next `size` bytes, or as many as there are; a view where they lie in one block."""
        end = self._at + size
        if end <= len(self._block):
            taken = self._block[self._at : end]
            self._at = end
            return taken
        parts = []
        while size:
            if self._at == len(self._block) and not self._next():
                break
            part = self._block[self._at : self._at + size]
            parts.append(part)
            self._at += len(part)
            size -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> int:
        """Pass over `size` bytes, or as many as there are; returns how many."""
        left = size
        while left > len(self._block) - self._at:
            left -= len(self._block) - self._at
            self._at = len(self._block)
            if not self._next():
                return size - left
        self._at += left
        return size

    def skip_all(self) -> None:
        """Pass over all that is left."""
        self._at = len(self._block)
        while self._next():
            self._at = len(self._block)

    def put_back(self, taken: bytes | memoryview) -> None:
        """Give back what was taken last."""
        if len(taken) <= self._at:
            self._at -= len(taken)
            return
        # It began in a block before this one, of which nothing is left.
        self._passed = self.position - len(taken)
        self._block, self._at = memoryview(b"".join([taken, self._block[self._at :]])), 0

    def _next(self) -> bool:
        for block in self._blocks:
            self._passed += len(self._block)
            self._block, self._at = memoryview(block), 0
            return True
        return False


def _entry(stream: _Stream, common: dict[str, str], end_mark: bool) -> tuple[str, str, int] | None:
    """Name, kind and bytes of data of the next member, the stream then being at its data; None at the end.

    Headers that only extend the next one are read on the way. Where several say the same thing the first one holds.
    """
    own: dict[str, str] = {}
    extends = 0  # headers read that only extend the next one
    while True:
        at = stream.position
        header = bytes(stream.take(RECORD))
        if header == _END:
            if extends:
                raise DamagedTarError("the end mark stands where a member's own header was expected", at)
            return None
        if len(header) < RECORD:
            if not header and at and not extends and not end_mark:
                return None
            found = "a truncated header" if header else "the end of the file"
            raise DamagedTarError(f"{found}, expected a member or the end mark", at)
        kind, size = header[156:157], _checked_size(header, at)
        if kind == b"L":
            own.setdefault("path", _text(bytes(_payload(stream, size, at))))
        elif kind == b"K":
            _passed_over(stream, size, at)
        elif kind in (b"x", b"X"):
            for key, value in _pax(bytes(_payload(stream, size, at)), at):
                own.setdefault(key, value)
        elif kind == b"g":
            common.update(_pax(bytes(_payload(stream, size, at)), at))
            if common.keys() - {"path"}:
                raise DamagedTarError("a global pax header sets what only a member's own may set", at)
        else:
            return _named(stream, header, kind, size, own, common, at)
        extends += 1


def _named(
    stream: _Stream, header: bytes, kind: bytes, size: int, own: dict[str, str], common: dict[str, str], at: int
) -> tuple[str, str, int]:
    """What a member's own header says, and what others said before it, which goes first."""
    name, prefix = _text(header[:100]), _text(header[345:500])
    told = _KINDS.get(kind, "unknown kind")
    if kind == b"\0" and name.endswith("/") and "path" not in own:
        told = "directory"  # as TARs older than POSIX have them; a long name may be cut at a slash here
    if kind == b"S":
        more = header[482]
        while more:
            block = stream.take(RECORD)
            if len(block) < RECORD:
                raise DamagedTarError("the map of a sparse file is cut", stream.position)
            more = block[504]
    elif prefix:
        name = f"{prefix}/{name}"
    name = own.get("GNU.sparse.name", own.get("path", common.get("path", name)))
    if told == "directory":
        name = name.rstrip("/")
    if told == "file" and own.keys() & {"GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.major"}:
        told = "sparse file"
    if "size" in own:
        if not _DIGITS.fullmatch(own["size"]):
            raise DamagedTarError(f"a pax header gives {name!r} the size {own['size']!r}", at)
        size = int(own["size"])
    return name, told, 0 if told in _WITHOUT_DATA else size


def _checked_size(header: bytes, at: int) -> int:
    """The size a header names, after its checksum: of unsigned bytes or, as some old tars took it, signed ones."""
    told = _number(header[148:156], "checksum", at)
    found = 256 + sum(header) - sum(header[148:156])
    if told != found:
        negative = sum(byte > 127 for byte in header[:148] + header[156:])
        if told != found - 256 * negative:
            raise DamagedTarError("bad checksum, expected a member or the end mark", at)
    return _number(header[124:136], "size", at)


def _number(field: bytes, what: str, at: int) -> int:
    """A number in octal digits, or of base 256 behind a byte of 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise DamagedTarError(f"{what} {field!r} is no number", at)
    return int(digits or b"0", 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _payload(stream: _Stream, size: int, at: int) -> bytes | memoryview:
    """The text of a header that extends the next one, without its padding."""
    if size > MAX_HEADER_BYTES:
        raise DamagedTarError(f"a name or pax header of {size} bytes, at most {MAX_HEADER_BYTES} are read", at)
    padded = size + -size % RECORD
    text = stream.take(padded)
    if len(text) < padded:
        raise DamagedTarError("a name or pax header is cut", stream.position)
    return text[:size]


def _passed_over(stream: _Stream, size: int, at: int) -> None:
    padded = size + -size % RECORD
    if stream.skip(padded) < padded:
        raise DamagedTarError(f"the long link name that begins at byte {at} is cut", stream.position)


def _pax(text: bytes, at: int) -> Iterator[tuple[str, str]]:
    """The records of a pax header that say where a member is and what it is called; of equal ones the last."""
    found: dict[str, str] = {}
    position = 0
    while position < len(text) and text[position]:
        record = _PAX_RECORD.match(text, position)
        end = position + int(record.group(1)) if record else 0
        if record is None or not record.end() < end <= len(text) or text[end - 1 : end] != b"\n":
            raise DamagedTarError(f"a pax header is damaged at its byte {position}", at)
        key = record.group(2).decode("utf-8", "surrogateescape")
        if key == "path":
            found[key] = _decoded(text[record.end() : end - 1]).rstrip("/")
        elif key == "size" or key in ("GNU.sparse.name", "GNU.sparse.size", "GNU.sparse.major"):
            found[key] = _decoded(text[record.end() : end - 1])
        elif key == "GNU.sparse.map":
            found[key] = ""  # that it has one is enough
        position = end
    yield from found.items()


def _decoded(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
