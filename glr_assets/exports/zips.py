"""Zips of `a/b/c/<id>.jpg`, stored as they are, with the landmark and the rights of each image beside them.

Python's zipfile leaves the sizes out of a member's own header where its file cannot be sought in, which some readers
refuse of stored members. Here they are known before, so they stand there (PKWARE APPNOTE 4.3 to 4.5).
"""

from __future__ import annotations

import struct
import zlib
from types import TracebackType
from typing import IO

from glr_assets.exports.images import ExportImage
from glr_assets.exports.listings import attribution_csv, image_path, train_csv

#: The first moment that a zip's clock knows, 1980-01-01 00:00: date and time.
_DATE, _TIME = 0x0021, 0
_UNIX, _REGULAR_FILE = 3, 0o100644 << 16
_VERSION, _VERSION_64 = 20, 45
_ONES_16, _ONES_32 = 2**16 - 1, 2**32 - 1
#: From here on offsets and lengths stand in zip64 records, and ones fill the fields that are too narrow for them.
ZIP64_FROM = _ONES_32


class Zip:
    """Writes an archive of stored members as a context manager, which ends it; it is a zip64 where it must be."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at = 0
        self._directory: list[bytes] = []

    def __enter__(self) -> Zip:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._write_directory()

    def add(self, name: str, data: bytes) -> None:
        """Append a member of fewer than 4 GiB."""
        if len(data) >= _ONES_32:
            raise ValueError(f"{name} has {len(data)} bytes; a member of a zip written here has fewer than 4 GiB")
        path, offset = name.encode("ascii"), self._at
        # Flags and method: none, stored. Time, CRC, sizes and the length of the name stand in both headers.
        told = struct.pack("<4HIIIH", 0, 0, _TIME, _DATE, zlib.crc32(data), len(data), len(data), len(path))
        self._write(b"PK\3\4" + struct.pack("<H", _VERSION) + told + struct.pack("<H", 0) + path + data)
        beyond = offset >= ZIP64_FROM
        extra = struct.pack("<HHQ", 1, 8, offset) if beyond else b""
        version = _VERSION_64 if beyond else _VERSION
        made = struct.pack("<BBH", version, _UNIX, version)
        place = struct.pack("<4HII", len(extra), 0, 0, 0, _REGULAR_FILE, _ONES_32 if beyond else offset)
        self._directory.append(b"PK\1\2" + made + told + place + path + extra)

    def _write_directory(self) -> None:
        members, offset, directory = len(self._directory), self._at, b"".join(self._directory)
        self._write(directory)
        beyond = members >= _ONES_16 or max(offset, len(directory)) >= ZIP64_FROM
        if beyond:
            sizes = struct.pack("<QQQQ", members, members, len(directory), offset)
            record = struct.pack("<QHHII", 44, _VERSION_64, _VERSION_64, 0, 0) + sizes
            locator = struct.pack("<IQI", 0, self._at, 1)
            self._write(b"PK\6\6" + record + b"PK\6\7" + locator)
        end = (_ONES_16, _ONES_16, _ONES_32, _ONES_32) if beyond else (members, members, len(directory), offset)
        self._write(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, *end, 0))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._at += len(data)


class ImageZip:
    """Writes one zip of a package: its images, and last `train.csv` and `attribution.csv` of these.

    `mark` sets the two apart from those of the package's other zips, so that all can be unpacked into one folder.
    """

    def __init__(self, file: IO[bytes], mark: str) -> None:
        self._zip = Zip(file)
        self._mark = mark
        self._images: list[ExportImage] = []

    def __enter__(self) -> ImageZip:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._zip.add(f"train{self._mark}.csv", b"".join(train_csv(self._images)))
            self._zip.add(f"attribution{self._mark}.csv", b"".join(attribution_csv(self._images)))
        self._zip.__exit__(kind, error, trace)

    def add(self, image: ExportImage, jpeg: bytes) -> None:
        """Append an image."""
        self._zip.add(image_path(image.id), jpeg)
        self._images.append(image)
