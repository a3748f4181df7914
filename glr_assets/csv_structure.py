"""Whether a CSV file is whole, looked at as its bytes pass to a parser, and where it is not.

Parsers of many millions of rows read on where a quote was never closed: the rows up to the next quote become one value
and are gone. So the bytes are checked beside them, by counting quotes a block at a time; only a file in which something
is odd is read once more, by Python's strict parser, to tell the line and whether it is damage at all.

The grammar is RFC 4180 with line ends of any kind; a quote inside a value that does not begin with one is a letter, as
all parsers have it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import IO, Final

import numpy as np

from glr_assets.errors import TableError

UNTERMINATED: Final = "csv_files_without_last_line_end"
"""The figure of a table's receipt that names the files of which the last line may be cut."""
#: A row of GLDv2's train_clean.csv lists every image of a landmark.
LONGEST_FIELD: Final = 64 * 2**20
#: Bytes of a file's beginning that tell whether it is of another format.
_LONGEST_MARK: Final = 4096
_LONGEST_HEADER: Final = 2**16
_QUOTE, _COMMA, _NEWLINE, _RETURN = b'",\n\r'
#: What a file begins with that is no CSV, and what it is.
_OTHERS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x1f\x8b", "compressed by gzip: unpack it"),
    (b"BZh", "compressed by bzip2: unpack it"),
    (b"\xfd7zXZ\0", "compressed by xz: unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet: unpack it, or save it as CSV"),
    (b"PAR1", "a Parquet file: save it as CSV"),
    (b"\xff\xfe", "text in UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16: save it as UTF-8"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet: save it as CSV"),
)
_MARKUP = re.compile(rb"\s*<(?:!doctype|html|head|body|\?xml|error)", re.IGNORECASE)
_LINE_END = re.compile("\r\n|\r|\n")
_HEX_DIGITS = "[0-9a-f]"
_HEXADECIMAL = re.compile(rf"{_HEX_DIGITS}{{8,}}")
_MARK = "\ufeff"
_INTEGER = re.compile(r"[ \t]*-?[0-9]{1,19}[ \t]*")

Reopen = Callable[[], IO[bytes]]


class CheckedCsv(io.RawIOBase):
    """A CSV file that is checked as it is read, for a parser that takes any file object.

    Args:
        file: the bytes.
        name: its path or URL, for messages.
        reopen: opens it once more, where something odd is to be looked at.

    Attributes:
        ends_in_newline: once all has been read, whether its last row has its line end.
        header: once it is begun, the names in its first row.
        watches_line_breaks: to be set, once it is begun, where `holds_line_breaks` is wanted.
        holds_line_breaks: whether a quoted value that was read holds one.
        is_examined: whether something odd was looked at by `examine` and found to be no damage.

    Raises:
        TableError: by `read`: it is no CSV text, holds a NUL, or a quoted value is not closed.
    """

    def __init__(self, file: IO[bytes], name: str, reopen: Reopen) -> None:
        self.ends_in_newline = True
        self.header: list[str] = []
        self.holds_line_breaks = False
        self.watches_line_breaks = False
        self._file, self._name, self._reopen = file, name, reopen
        self._waiting = b""
        self._begun = False
        self._is_open = False  # inside a quoted value
        self._may_open = True  # whether a quote as the next byte opens a value
        self._must_end = False  # whether the last byte closed a value, so that the next must end it
        self.is_examined = False

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: object, /) -> int:
        """Read into a writable buffer; returns how many bytes."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def peek(self) -> bytes:
        """The file's beginning, with its header; it is read again by the next `read`."""
        self._waiting = self._waiting or self._file.read(_LONGEST_HEADER)
        if not self._begun:
            self._begin(self._waiting)
        return self._waiting

    def _begin(self, data: bytes) -> None:
        refuse_other_formats(data, self._name)
        self.header = header_of(data)
        self._begun = True

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes, which have been checked; all that are left without a size.

        Raises:
            TableError: they are damaged.
        """
        if self._waiting and size:
            end = len(self._waiting) if size is None or size < 0 else size
            data, self._waiting = self._waiting[:end], self._waiting[end:]
            if size is None or size < 0:
                data += self._file.read()
        else:
            data = self._file.read(-1 if size is None else size)
        if not self._begun:
            self._begin(data)
        if data:
            self.ends_in_newline = data[-1] in (_NEWLINE, _RETURN)
            if b"\0" in data:
                examine(self._reopen(), self._name)
            if not self.is_examined and not self._is_sound(data):
                self._look_closer()
        elif size != 0 and self._is_open and not self.is_examined:
            self._look_closer()
        return data

    def _look_closer(self) -> None:
        self.holds_line_breaks = examine(self._reopen(), self._name)
        self.is_examined = True

    def _is_sound(self, data: bytes) -> bool:
        """Whether every quote of a block opens a value at its beginning, or closes one at its end."""
        if self._must_end and data[0] not in (_QUOTE, _COMMA, _NEWLINE, _RETURN):
            return False
        if _QUOTE not in data:
            if self._is_open:
                self.holds_line_breaks |= self.watches_line_breaks and (_NEWLINE in data or _RETURN in data)
            else:
                self._may_open = data[-1] in (_COMMA, _NEWLINE, _RETURN)
            self._must_end = False
            return True
        text = np.frombuffer(data, np.uint8)
        at = np.flatnonzero(text == _QUOTE)
        opens = (np.arange(len(at)) % 2 == 0) ^ self._is_open
        before = np.where(at > 0, text[at - 1], _COMMA if self._may_open else 0)
        if self._must_end:
            before[at == 0] = _QUOTE
        after = np.where(at + 1 < len(text), text[np.minimum(at + 1, len(text) - 1)], _COMMA)
        # A doubled quote closes and opens at once.
        begins = np.isin(before, (_COMMA, _NEWLINE, _RETURN)) | ((before == _QUOTE) & (np.r_[-2, at[:-1]] + 1 == at))
        if self._must_end:
            begins |= at == 0
        ends = np.isin(after, (_COMMA, _NEWLINE, _RETURN, _QUOTE))
        if not np.where(opens, begins, ends).all():
            return False
        if self.watches_line_breaks and not self.holds_line_breaks:
            breaks = np.flatnonzero((text == _NEWLINE) | (text == _RETURN))
            self.holds_line_breaks = bool(((np.searchsorted(at, breaks) % 2 == 1) ^ self._is_open).any())
        self._is_open ^= bool(len(at) % 2)
        self._must_end = not self._is_open and int(text[-1]) == _QUOTE
        self._may_open = not self._is_open and int(text[-1]) in (_COMMA, _NEWLINE, _RETURN)
        return True


def refuse_other_formats(data: bytes, name: str) -> None:
    """Refuse what is no CSV by its first bytes.

    Raises:
        TableError: it is compressed, an archive, a page or text of another encoding.
    """
    for begin, what in _OTHERS:
        if data.startswith(begin):
            raise TableError(f"{name}: not a CSV in UTF-8 but {what}")
    if _MARKUP.match(data):
        first = " ".join(data[:80].decode("utf-8", "replace").split())
        raise TableError(
            f"{name}: not a CSV but a page or an error message ({first!r}); its URL is that of something else, or the "
            "server refused it when it was downloaded: download it again"
        )


def examine(
    file: IO[bytes],
    name: str,
    columns: Sequence[str] | None = None,
    integers: Collection[str] = (),
    filled: Collection[str] = (),
) -> bool:
    """Read a CSV by Python's strict parser, and refuse it at the first row that is damaged.

    Args:
        file: its bytes, closed at the end.
        name: its path or URL, for messages.
        columns: names that the header must have, each once; None where there may be no header.
        integers: those of them that hold integers of 64 bits.
        filled: those of them that may not be empty, nor hold a line break; nor, but for integers, begin or end with a
            blank.

    Returns:
        Whether any of its values holds a line break.

    Raises:
        TableError: with the line: a NUL, bytes that are not UTF-8, a quote that is not closed, another number of
            values than the header has, a header or a byte order mark in the middle, a row inside a value, a key with a
            line break or with a blank around it, or a value of another kind.
    """
    header: list[str] | None = None
    places: dict[str, int] = {}
    key, breaks = "", False
    with file:
        for line, row in strict_rows(file, name):
            where = f"{name}: line {line}"
            if header is None:
                header, places = row, _places(row, name, columns)
                continue
            _check_row(row, header, places, integers, filled, where)
            key = key or key_pattern(row[0])
            if row[0].startswith(_MARK):
                raise TableError(f"{where}: begins with a byte order mark, as where files were joined; remove it")
            for column, value in enumerate(row):
                if holds_line_break(value):
                    breaks = True
                    refuse_swallowed_row(value, header, column, key, where)
    if header is None and columns:
        raise TableError(f"{name}: empty; expected a header with {', '.join(columns)}; download it again")
    return breaks


def strict_rows(
    lines: Iterable[bytes], name: str, *, delimiter: str = ",", errors: str = "strict"
) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV that are not blank, each with the line where it begins, from 1.

    Args:
        lines: its bytes, as a file opened for reading gives them; blocks that end anywhere in a line will not do.
        name: its path or URL, for messages.
        delimiter: what parts the values of a row.
        errors: what becomes of bytes that are not UTF-8, as `bytes.decode` has it.

    Raises:
        TableError: it is no CSV; or, with the line: a NUL, bytes that are not UTF-8, or a quote that is not closed.
    """
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(_decoded(_of_csv(lines, name), name, errors), delimiter=delimiter, strict=True)
    begins = 1
    try:
        for row in reader:
            if row:
                yield begins, row
            begins = reader.line_num + 1
    except csv.Error as error:
        raise TableError(
            f"{name}: line {begins}: not CSV ({error}, seen at line {reader.line_num}): a quoted value of this row "
            "is not closed, or text follows its end; close the quote, and double quotes inside values"
        ) from error


def _of_csv(lines: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The same lines, of a file that begins like no other format."""
    rest = iter(lines)
    first = b""
    for block in rest:
        first += block
        if len(first) >= _LONGEST_MARK:
            break
    refuse_other_formats(first[:_LONGEST_MARK], name)
    if first:
        yield first
    yield from rest


def _decoded(lines: Iterable[bytes], name: str, errors: str) -> Iterator[str]:
    """The lines of a file by any line end."""
    number = 0
    for block in lines:
        for line in block.splitlines(keepends=True):
            number += 1
            if b"\0" in line:
                raise TableError(
                    f"{name}: line {number}: holds a NUL, as damaged files and text in UTF-16 do; download it again, "
                    "or save it as UTF-8"
                )
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8", errors)
            except UnicodeDecodeError as error:
                raise TableError(
                    f"{name}: line {number}: the byte 0x{line[error.start]:02x} is not UTF-8; save the file as UTF-8"
                ) from error


def _places(header: list[str], name: str, columns: Sequence[str] | None) -> dict[str, int]:
    for column in columns or ():
        if header.count(column) > 1:
            raise TableError(f"{name}: line 1: the header has {column!r} {header.count(column)} times; keep one")
    return {column: header.index(column) for column in columns or () if column in header}


def _check_row(
    row: list[str],
    header: list[str],
    places: dict[str, int],
    integers: Collection[str],
    filled: Collection[str],
    where: str,
) -> None:
    if len(row) != len(header):
        raise TableError(f"{where}: {len(row)} values, expected {len(header)} as in the header; correct the row")
    if row == header:
        raise TableError(f"{where}: the header stands here again, as where files were joined; remove the line")
    for column, place in places.items():
        value = row[place]
        if column in filled and not value:
            raise TableError(f"{where}: no {column}; fill it in")
        if column in filled and holds_line_break(value):
            raise TableError(
                f"{where}: {column} holds a line break: the quote before it is not closed; correct the row"
            )
        if column in filled and column not in integers and value != value.strip():
            raise TableError(f"{where}: {column} {_shown(value)} begins or ends with a blank; remove it")
        is_integer = _INTEGER.fullmatch(value) and -(2**63) <= int(value) < 2**63
        if column in integers and value and not is_integer:
            raise TableError(f"{where}: {column} is {_shown(value)}, expected an integer; correct it")


def holds_line_break(value: str) -> bool:
    """Whether a value goes over several lines, by what ends a line of a CSV; other characters of Unicode do not."""
    return "\n" in value or "\r" in value


def key_pattern(example: str) -> str:
    """A regular expression of keys like this one: hexadecimal ids, integers, or words of as many characters.

    Of an example that holds a line break, its first line counts: other rows may follow in it.
    """
    first = _LINE_END.split(example)[0]
    if _HEXADECIMAL.fullmatch(first):
        return rf"{_HEX_DIGITS}{{{len(first)}}}"
    return r"-?\d+" if _INTEGER.fullmatch(first) else rf"[0-9A-Za-z_-]{{{max(len(first), 1)}}}"


def refuse_swallowed_row(
    value: str, header: Sequence[str], column: int, key: str, where: str, delimiter: str = ","
) -> None:
    """Refuse a value that holds other rows: its quote is not closed, and one further on seems to close it.

    A line inside a value is taken for a row where it begins with a key and has as many values as a row has up to there;
    no text begins with a hexadecimal id, so that one more value is enough.

    Args:
        value: to look at.
        header: the names of the columns.
        column: the place of the value's own.
        key: a regular expression of what the table's first column holds.
        where: file and line, for messages.
        delimiter: what parts the values of a row.

    Raises:
        TableError: it holds one.
    """
    begun, *lines = _LINE_END.split(value)
    for number, line in enumerate(lines, 1):
        values = line.split(delimiter)
        least = column + 1 if number == len(lines) else len(header)
        least = min(least, 2) if key.startswith(_HEX_DIGITS) else least
        if len(values) >= least and re.fullmatch(key, values[0]):
            raise TableError(
                f"{where}: {header[column]} holds what looks like another row ({_shown(line)}): the quote before "
                f"{_shown(begun)} is not closed; correct the row"
            )


def _shown(value: str) -> str:
    return repr(value if len(value) <= 60 else f"{value[:57]}...")


def header_of(data: bytes) -> list[str]:
    """The names in the first row of a CSV, of which `data` is the beginning."""
    text = data[:_LONGEST_HEADER].decode("utf-8-sig", "replace")
    return next(csv.reader(io.StringIO(text, newline="")), [])
