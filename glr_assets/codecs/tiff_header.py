"""The first directories of a TIFF: dimensions, strips, and whether the file is a camera's raw file."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: First bytes of TIFF and BigTIFF in either byte order, and of the cameras' variants (Olympus, Panasonic).
STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
RAW_STARTS = {b"IIRO": "ORF", b"IIRS": "ORF", b"MMOR": "ORF", b"IIU\0": "RW2"}
#: Tags (TIFF 6.0; TIFF/EP, ISO 12234-2; DNG 1.4).
SUBFILE, WIDTH, HEIGHT, COMPRESSION, PHOTOMETRIC, MAKE = 254, 256, 257, 259, 262, 271
STRIP_OFFSETS, TILE_OFFSETS, SUB_IFDS, DNG_VERSION = 273, 324, 330, 50706
_CFA, _LINEAR_RAW = 32803, 34892
#: Compressions that only raw files have: Nikon, Sony, Samsung, Pentax.
_RAW_COMPRESSIONS = {34713, 32767, 32770, 65535}
_RAW_NAMES = (
    ("NIKON", "NEF"),
    ("SONY", "ARW"),
    ("PENTAX", "PEF"),
    ("RICOH", "PEF"),
    ("SAMSUNG", "SRW"),
    ("KODAK", "DCR"),
)
_THUMBNAIL = 1
#: Bytes of a value of each type, 1 to 18; others count nothing.
_TYPE_BYTES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8], np.int64)
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MAX_SUB_IFDS = 16


@dataclass(frozen=True)
class Directory:
    """One image file directory.

    Attributes:
        data: the whole file.
        order: `<` or `>`.
        big: BigTIFF.
        entries: tag, kind, count and where the value, or its offset, lies; structured [n].
    """

    data: memoryview
    order: str
    big: bool
    entries: npt.NDArray

    @property
    def value_bytes(self) -> int:
        """Bytes that all values take together, as they are declared."""
        kinds = np.minimum(self.entries["kind"], len(_TYPE_BYTES) - 1)
        counts = np.minimum(self.entries["count"], np.uint64(2**40)).astype(np.int64)
        return int((_TYPE_BYTES[kinds] * counts).sum())

    def count(self, tag: int) -> int:
        """How many values a tag has; 0 where it is not there."""
        found = np.flatnonzero(self.entries["tag"] == tag)
        return int(self.entries["count"][found[0]]) if len(found) else 0

    def integers(self, tag: int, most: int = _MAX_SUB_IFDS) -> list[int]:
        """The first values of a tag; none where it is not there, of another type or outside the file."""
        found = np.flatnonzero(self.entries["tag"] == tag)
        if not len(found):
            return []
        row = int(found[0])
        code = _INTEGERS.get(int(self.entries["kind"][row]))
        count = min(int(self.entries["count"][row]), most)
        if code is None or not count:
            return []
        return self._unpacked(row, f"{count}{code}")

    def integer(self, tag: int, default: int = 0) -> int:
        """The first value of a tag."""
        return next(iter(self.integers(tag, 1)), default)

    def text(self, tag: int) -> str:
        """At most 64 bytes of a tag of text."""
        found = np.flatnonzero(self.entries["tag"] == tag)
        if not len(found):
            return ""
        count = min(int(self.entries["count"][int(found[0])]), 64)
        return bytes(self._unpacked(int(found[0]), f"{count}B")).split(b"\0")[0].decode("ascii", "replace")

    def _unpacked(self, row: int, form: str) -> list[int]:
        inline, at = (8, 12) if self.big else (4, 8)
        at += int(self.entries["at"][row])
        declared = int(_TYPE_BYTES[min(int(self.entries["kind"][row]), len(_TYPE_BYTES) - 1)])
        if declared * int(self.entries["count"][row]) > inline:
            (at,) = struct.unpack_from(self.order + ("Q" if self.big else "I"), self.data, at)
        if at + struct.calcsize(self.order + form) > len(self.data):
            return []
        return list(struct.unpack_from(self.order + form, self.data, at))


def first_directory(data: bytes | memoryview) -> Directory | None:
    """The first directory of a TIFF; None where it is damaged."""
    data = memoryview(data)
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None or len(data) < 16:
        return None
    big = bytes(data[2:4]) in {b"+\0", b"\0+"}
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    return _directory(data, order, big, at)


def _directory(data: memoryview, order: str, big: bool, at: int) -> Directory | None:
    head, entry = (8, 20) if big else (2, 12)
    if at + head > len(data):
        return None
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    count = min(count, (len(data) - at - head) // entry)
    form = np.dtype(
        {
            "names": ["tag", "kind", "count"],
            "formats": [f"{order}u2", f"{order}u2", f"{order}u{8 if big else 4}"],
            "itemsize": entry,
        }
    )
    raw = np.frombuffer(data, form, count, at + head)
    entries = np.empty(count, [("tag", "i8"), ("kind", "i8"), ("count", "u8"), ("at", "i8")])
    for name in ("tag", "kind", "count"):
        entries[name] = raw[name]
    entries["at"] = at + head + entry * np.arange(count)
    return Directory(data, order, big, entries)


def raw_name(data: bytes | memoryview) -> str:
    """What raw format a file in TIFF's form is, as `NEF`; empty where its first directory is the picture.

    A raw file holds the sensor's samples, in a directory of their own, and a thumbnail before them.
    """
    start = bytes(data[:4])
    if start in RAW_STARTS:
        return RAW_STARTS[start]
    first = first_directory(data) if start in STARTS else None
    if first is None:
        return ""
    if bytes(data[8:10]) == b"CR":
        return "CR2"
    if first.count(DNG_VERSION):
        return "DNG"
    below = [_directory(first.data, first.order, first.big, at) for at in first.integers(SUB_IFDS)]
    directories = [first, *(found for found in below if found is not None)]
    sensor = any(
        found.integer(PHOTOMETRIC) in {_CFA, _LINEAR_RAW} or found.integer(COMPRESSION) in _RAW_COMPRESSIONS
        for found in directories
    )
    thumbnail = bool(first.integer(SUBFILE) & _THUMBNAIL) and any(
        found.integer(WIDTH) > first.integer(WIDTH) and not found.integer(SUBFILE) & _THUMBNAIL
        for found in directories[1:]
    )
    if not (sensor or thumbnail):
        return ""
    make = first.text(MAKE).upper()
    return next((name for maker, name in _RAW_NAMES if make.startswith(maker)), "TIFF/EP")
