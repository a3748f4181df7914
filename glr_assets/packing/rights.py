"""Who took a photograph and under what terms it may be used: from lists, and from the file itself. Nothing is guessed.

A list is a CSV with a column `path` and any of `author`, `license` (or `licence`), `title` and `url`. A path names a
photograph or a folder, and holds for all below it; the nearest row wins, field by field. A file `credits.csv` in a
folder of photographs is such a list with paths relative to that folder, where an empty path or `.` is the folder.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final
from xml.etree import ElementTree

from PIL import Image

from glr_assets.csv_structure import holds_line_break, refuse_other_formats, refuse_swallowed_row, strict_rows
from glr_assets.errors import SourceError, TableError
from glr_assets.source.fingerprints import UNDECODABLE

FILE_NAME: Final = "credits.csv"
_COLUMNS = {"path", "author", "license", "title", "url"}
_EXPECTED = "path and some of author, license, title, url"
#: A path of a file as a row begins with it.
_FILE_PATH = r"[^\r\n]*\.\w{2,5}"
_UNKNOWN = {"", "unknown", "n/a", "none", "-", "?"}
# EXIF 2.32, table 4; XPAuthor is Windows's, in UTF-16.
_ARTIST, _COPYRIGHT, _XP_AUTHOR = 0x013B, 0x8298, 0x9C9D
# IPTC Information Interchange Model 4.2, record 2.
_BY_LINE, _COPYRIGHT_NOTICE = (2, 80), (2, 116)
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_DC = "{http://purl.org/dc/elements/1.1/}"
_LICENSES = (
    "{http://creativecommons.org/ns#}license",
    "{http://ns.adobe.com/xap/1.0/rights/}WebStatement",
    "{http://ns.adobe.com/xap/1.0/rights/}UsageTerms",
    f"{_DC}rights",
)
_LARGEST_XMP = 2**20


@dataclass(frozen=True)
class Credit:
    """What is known of a photograph's rights; blank where nothing is."""

    author: str = ""
    license: str = ""
    title: str = ""
    url: str = ""

    def completed(self, other: Credit) -> Credit:
        """The same with the other's values where it has none."""
        blank = {field.name for field in fields(self) if not getattr(self, field.name)}
        return replace(self, **{name: getattr(other, name) for name in blank})

    @property
    def is_known(self) -> bool:
        """Whether both the author and the terms are known."""
        return bool(self.author and self.license)


def known(value: str | None) -> str:
    """A value in one line; blank where it says that it is unknown."""
    text = " ".join((value or "").replace("\0", " ").split())
    return "" if text.casefold() in _UNKNOWN else text


def _key(path: str) -> str:
    clean = unicodedata.normalize("NFC", path.replace("\\", "/")).strip().strip("/")
    return "" if clean in {"", "."} else str(PurePosixPath(clean)).removeprefix("./")


class CreditList:
    """The rows of one list, by path; which of them named no photograph is known at the end."""

    def __init__(self, name: str, rows: Mapping[str, Credit], below: str = "") -> None:
        """Rows by their path relative to the folder `below`."""
        self.name = name
        self._rows = {_key(f"{below}/{path}"): credit for path, credit in rows.items()}
        self._unused = set(self._rows)

    def of(self, path: str) -> Credit:
        """What the list says of a photograph, by its path below the folder of landmarks."""
        found = Credit()
        place = _key(path)
        while True:
            if place in self._rows:
                self._unused.discard(place)
                found = found.completed(self._rows[place])
            if not place:
                return found
            place = place.rpartition("/")[0]

    @property
    def unused(self) -> list[str]:
        """The paths that named no photograph."""
        return sorted(self._unused)


def read_credits(path: Path, below: str = "") -> CreditList:
    """Read a list. Commas, semicolons and tabs part its columns; it is UTF-8, or else Windows-1252 as Excel writes it.

    Args:
        path: the CSV.
        below: the folder that its paths are relative to, as a path below the folder of landmarks.

    Raises:
        SourceError: it cannot be read, is empty, lacks a column, or has a path twice; the line is named.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); name a CSV of credits") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    delimiter = max(",;\t", key=re.split("[\r\n]", text, maxsplit=1)[0].count)
    rows: dict[str, Credit] = {}
    columns: list[str] = []
    try:
        refuse_other_formats(data, str(path))
        for line, row in strict_rows(io.BytesIO(text.encode()), str(path), delimiter=delimiter):
            where = f"{path}: line {line}"
            if not columns:
                columns = _columns(row, where)
            elif any(cell.strip() for cell in row):
                _check_row(row, columns, where, delimiter)
                # Spreadsheet programs may leave out the empty cells at a row's end.
                values = dict(zip(columns, row, strict=False))
                key = _key(values.get("path", ""))
                if key in rows:
                    raise SourceError(f"{where}: path {key!r} stands twice; keep one row")
                rows[key] = Credit(**{name.name: known(values.get(name.name)) for name in fields(Credit)})
    except TableError as error:
        raise SourceError(str(error)) from error
    if not columns:
        raise SourceError(f"{path}: empty; expected a header with {_EXPECTED}")
    return CreditList(str(path), rows, below)


def _columns(header: list[str], where: str) -> list[str]:
    columns = ["license" if name == "licence" else name for name in (cell.strip().casefold() for cell in header)]
    known_columns = [name for name in columns if name in _COLUMNS]
    if "path" not in known_columns or len(set(known_columns)) < 2:
        raise SourceError(f"{where} has the columns {', '.join(columns)}; expected {_EXPECTED}")
    repeated = sorted({name for name in known_columns if known_columns.count(name) > 1})
    if repeated:
        raise SourceError(f"{where} has the column {', '.join(repeated)} twice; keep one")
    return columns


def _check_row(row: list[str], columns: list[str], where: str, delimiter: str) -> None:
    """Refuse a row with values beyond its columns, or with another row in a value, as by a quote that is not closed."""
    if any(cell.strip() for cell in row[len(columns) :]):
        raise SourceError(
            f"{where}: {len(row)} values, expected at most {len(columns)} as in the header; quote values that hold "
            f"{delimiter!r}"
        )
    for place, cell in enumerate(row[: len(columns)]):
        if holds_line_break(cell):
            refuse_swallowed_row(cell, columns, place, _FILE_PATH, where, delimiter)


def credit_of(path: str, data: bytes, lists: Iterable[CreditList]) -> Credit:
    """What lists say of a photograph, the first before the next, and after them the file itself."""
    found = Credit()
    for credits in lists:
        found = found.completed(credits.of(path))
    return found.completed(embedded_credit(data))


def embedded_credit(data: bytes) -> Credit:
    """What a file's XMP, IPTC and EXIF say, in this order; blank where they say nothing or are damaged."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            found = Credit()
            for read in (_of_xmp, _of_iptc, _of_exif):
                try:
                    found = found.completed(read(image))
                except UNDECODABLE:  # a damaged block of metadata says nothing
                    continue
            return found
    except UNDECODABLE:
        return Credit()


def _of_exif(image: Image.Image) -> Credit:
    exif = image.getexif()
    author = exif.get(_ARTIST) or _utf16(exif.get(_XP_AUTHOR))
    return Credit(author=_text(author), license=_text(exif.get(_COPYRIGHT)))


def _utf16(value: Any) -> str:
    return bytes(value).decode("utf-16-le", "ignore") if isinstance(value, bytes | tuple) else ""


def _of_iptc(image: Image.Image) -> Credit:
    from PIL import IptcImagePlugin

    found = IptcImagePlugin.getiptcinfo(image) or {}  # type: ignore[arg-type]
    return Credit(author=_text(found.get(_BY_LINE)), license=_text(found.get(_COPYRIGHT_NOTICE)))


def _text(value: Any) -> str:
    """A value of EXIF or IPTC: one or several, as bytes or as text that was read as Latin-1."""
    if isinstance(value, list | tuple):
        return known("; ".join(filter(None, map(_text, value))))
    if isinstance(value, str):
        value = value.encode("latin-1", "ignore") if all(ord(letter) < 256 for letter in value) else value
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            value = value.decode("latin-1")
    return known(value if isinstance(value, str) else "")


def _of_xmp(image: Image.Image) -> Credit:
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    packet = packet.encode() if isinstance(packet, str) else bytes(packet)
    # A declaration of entities could make a small packet a huge text; no XMP needs one.
    if not packet or len(packet) > _LARGEST_XMP or re.search(rb"<!(DOCTYPE|ENTITY)", packet):
        return Credit()
    try:
        root = ElementTree.fromstring(packet.strip(b"\0 \n"))
    except ElementTree.ParseError:
        return Credit()
    values: dict[str, str] = {}
    for description in root.iter(f"{_RDF}Description"):
        values |= {name: known(value) for name, value in description.attrib.items()}
        for child in description:
            items = [known(item.text) for item in child.iter(f"{_RDF}li")] or [
                known(child.get(f"{_RDF}resource") or child.text)
            ]
            values.setdefault(child.tag, "; ".join(filter(None, items)))
    return Credit(
        author=values.get(f"{_DC}creator", ""),
        license=next((values[name] for name in _LICENSES if values.get(name)), ""),
        title=values.get(f"{_DC}title", ""),
    )
