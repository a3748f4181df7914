"""TFRecords of `tf.train.Example`, written without TensorFlow.

A record is its length (uint64, little-endian), the masked CRC of these 8 bytes, the data, and the masked CRC of the
data (tensorflow/core/lib/io/record_writer.h). The CRC is CRC-32C; to mask it, it is turned right by 15 bits and
0xa282ead8 is added, as a CRC of data that holds CRCs is weak (tensorflow/core/lib/hash/crc32c.h). An Example is a map
of names to lists of bytes or of int64, in Protocol Buffers' wire format (tensorflow/core/example/feature.proto).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import IO

from google_crc32c import value as crc32c

from glr_assets.exports.images import ExportImage

_MASK_DELTA = 0xA282EAD8


class TfRecordFile:
    """Writes one file of records, a record an image, as a context manager."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __enter__(self) -> TfRecordFile:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to do: a file of records has no end mark."""

    def add(self, image: ExportImage, jpeg: bytes) -> None:
        """Append an image."""
        self._file.write(record(example(image_features(image, jpeg))))


def image_features(image: ExportImage, jpeg: bytes) -> dict[str, bytes | int]:
    """What a record holds of an image, under the names of DeLF's TFRecords of GLDv2, and beside them its rights.

    As there, `image/class/label` counts the package's landmarks from 0; `image/class/landmark_id` is the published one.
    """
    return {
        "image/encoded": jpeg,
        "image/format": b"JPEG",
        "image/height": image.height,
        "image/width": image.width,
        "image/id": image.id.encode(),
        "image/filename": f"{image.id}.jpg".encode(),
        "image/class/label": image.label,
        "image/class/landmark_id": image.landmark_id,
        "image/class/text": image.name.encode(),
        "image/source_url": image.url.encode(),
        "image/author": image.author.encode(),
        "image/license": image.license.encode(),
        "image/title": image.title.encode(),
    }


def example(features: Mapping[str, bytes | int]) -> bytes:
    """A serialised `tf.train.Example` of one value a feature, sorted by name."""
    entries = (
        _field(1, _field(1, name.encode()) + _field(2, _feature(value))) for name, value in sorted(features.items())
    )
    return _field(1, b"".join(entries))


def _feature(value: bytes | int) -> bytes:
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise OverflowError(f"{value} is no 64-bit integer")
        return _field(3, _field(1, _varint(value % 2**64)))  # int64_list, packed
    return _field(1, _field(1, value))  # bytes_list


def _field(number: int, data: bytes) -> bytes:
    """A field of wire type 2: its tag, its length and its bytes."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """Seven bits a byte, the low ones first; the high bit says that another byte follows."""
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def record(data: bytes) -> bytes:
    """`data` framed as one record."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _masked_crc(length), data, _masked_crc(data)))


def _masked_crc(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK_DELTA) % 2**32)
