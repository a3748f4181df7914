"""The orientation that EXIF or XMP tells, read without the rest of these blocks."""

from __future__ import annotations

import re
import struct

_ORIENTATION = 0x0112
#: Bytes and `struct` codes of the integer types of TIFF 6.0: BYTE, SHORT, LONG, SBYTE, SSHORT, SLONG.
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
_IN_XMP = re.compile(rb"tiff:Orientation(?:=\"|>)([0-9])")


def read_orientation(exif: bytes, xmp: bytes = b"") -> int:
    """The orientation, 1 to 8 (EXIF 2.3, 4.6.4.A): EXIF's, else XMP's; 1 where neither tells one or they are damaged.

    Args:
        exif: a TIFF structure, with or without the `Exif` prefix of JPEG.
        xmp: an XMP packet.
    """
    told = _in_exif(exif)
    if told is None:
        found = _IN_XMP.search(xmp)
        told = int(found[1]) if found else None
    return told if told is not None and 1 <= told <= 8 else 1


def _in_exif(exif: bytes) -> int | None:
    """The value of the tag in the first directory; None where there is none that can be read."""
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return None
    (at,) = struct.unpack_from(f"{order}I", exif, 4)
    if at + 2 > len(exif):
        return None
    (count,) = struct.unpack_from(f"{order}H", exif, at)
    for entry in range(at + 2, min(at + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, values = struct.unpack_from(f"{order}HHI", exif, entry)
        if tag == _ORIENTATION:
            code = _INTEGERS.get(kind)
            return None if code is None or values < 1 else int(struct.unpack_from(order + code, exif, entry + 8)[0])
    return None
