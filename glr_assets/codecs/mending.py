"""Files that lack their last bytes: completed where a viewer would show nearly all of the picture.

Transfers and cards that fail leave such files. A picture that lacks no more than a fiftieth of its rows is shown with
those rows as the decoder fills them; of one that lacks more the reason says how much.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np
from PIL import Image

from glr_assets.codecs.jpeg_header import END, read_header, without_metadata

#: Share of the rows, or of the bytes of formats without a code, that may be missing.
MAX_MISSING: Final = 1 / 50
_SCAN = re.compile(rb"\xff\xda")
#: Bytes that a decoder reads as coded data and that fit no picture; without markers.
_TAIL = bytes(37 * n * n % 255 for n in range(4096))
#: Chunks of PNG that decide how its picture is shown; the others are text, times and the like.
_SHOWN = {b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"iCCP", b"eXIf"}
_PNG_START = b"\x89PNG\r\n\x1a\n"
#: Samples a pixel of PNG's color types (ISO/IEC 15948, table 11.1).
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


class CutError(Exception):
    """A file ends before its picture does; the message says how much is missing."""


def mended_jpeg(data: bytes) -> bytes:
    """A JPEG without an end mark, with one.

    Where the data ends is found by decoding it twice, once with bytes after it that no encoder wrote: what they change
    was not there.

    Raises:
        CutError: scans are missing, or more than `MAX_MISSING` of the rows.
        OSError: it cannot be decoded for another reason.
    """
    bare = without_metadata(data)
    lowest = _least_bits(bare)
    if lowest:
        raise CutError(f"cut: {lowest} of its coefficients are missing")
    # At an eighth a decoder needs the first coefficients alone, which a progressive JPEG has in its first scan.
    part = 2 if read_header(bare).has_scans else 8
    one, other = (_reduced(bare + tail + END, part) for tail in (b"", _TAIL))
    changed = np.flatnonzero((one != other).reshape(len(one), -1).any(axis=1))
    missing = (len(one) - int(changed[0])) / len(one) if len(changed) else 0.0
    # A row of blocks, of 8 or 16 lines, is the least that can be told apart.
    if missing > max(MAX_MISSING, 16 / part / len(one)):
        raise CutError(f"cut: the last {missing:.0%} of its rows are missing")
    return bare + END


def _reduced(data: bytes, part: int) -> np.ndarray:
    """The picture at 1 / `part` of its sides."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft(None, (max(1, image.width // part), max(1, image.height // part)))
        return np.asarray(image)


def _least_bits(data: bytes) -> str:
    """Which coefficients no scan brings to their last bit; empty where all are there (ITU T.81, G.1)."""
    seen: dict[int, np.ndarray] = {}
    wanted = 0
    for found in re.finditer(rb"\xff[\xc0-\xcf]", data[: 2**16]):
        if data[found.end() - 1] not in {0xC4, 0xC8, 0xCC} and found.end() + 8 <= len(data):
            wanted = data[found.end() + 7]
            break
    for found in _SCAN.finditer(data):
        at = found.end() + 2
        count = data[at] if at < len(data) else 0
        end = at + 1 + 2 * count
        if not 1 <= count <= 4 or end + 3 > len(data):
            continue
        low, high, bits = data[end], min(data[end + 1], 63), data[end + 2] & 15
        for component in data[at + 1 : end : 2]:
            left = seen.setdefault(component, np.full(64, 15))
            left[low : high + 1] = np.minimum(left[low : high + 1], bits)
    if len(seen) < wanted:
        return f"all of {wanted - len(seen)} of {wanted} components"
    share = max((float((left > 0).mean()) for left in seen.values()), default=1.0)
    return f"the last bits of {share:.0%}" if share else ""


def bare_png(data: bytes, profile: bool = True) -> bytes:
    """A PNG without the chunks that do not change how its picture is shown, and with an end.

    Args:
        data: the whole file.
        profile: whether its color profile is kept.

    Raises:
        OSError: it is no PNG.
    """
    if data[:8] != _PNG_START or data[12:16] != b"IHDR":
        raise OSError("a PNG without a header")
    shown = _SHOWN if profile else _SHOWN - {b"iCCP"}
    kept, at = [_PNG_START], 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind in shown and at + 12 + length <= len(data):
            kept.append(data[at : at + 12 + length])
        at += 12 + length
    return b"".join([*kept, _chunk(b"IEND", b"")])


def mended_png(data: bytes) -> bytes:
    """A PNG whose data ends early, or whose last chunks are missing, as a whole one.

    Raises:
        CutError: more than `MAX_MISSING` of the rows are missing, or it is interlaced.
        OSError, struct.error: it is no such PNG.
    """
    if data[:8] != _PNG_START or data[12:16] != b"IHDR":
        raise OSError("a PNG without a header")
    width, height, bits, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    if interlaced or color not in _SAMPLES:
        raise CutError("cut: of an interlaced picture")
    line = 1 + (width * bits * _SAMPLES[color] + 7) // 8
    kept, coded, at = [_PNG_START], [], 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            coded.append(data[at + 8 : at + 8 + length])
        elif kind in _SHOWN - {b"iCCP"} and not coded and at + 12 + length <= len(data):
            kept.append(data[at : at + 12 + length])
        at += 12 + length
    whole = sum(map(len, _unpacked(coded, line * height))) // line
    missing = 1 - whole / height
    if missing > max(MAX_MISSING, 1 / height):
        raise CutError(f"cut: the last {missing:.0%} of its rows are missing")
    packer = zlib.compressobj(1)
    packed = [packer.compress(piece) for piece in _unpacked(coded, whole * line)]
    packed += [packer.compress(bytes(line)) for _ in range(height - whole)]
    return b"".join([*kept, _chunk(b"IDAT", b"".join([*packed, packer.flush()])), _chunk(b"IEND", b"")])


def _unpacked(coded: list[bytes], most: int) -> Iterator[bytes]:
    """What can be unpacked of the data, at most so many bytes, piece by piece."""
    unpacker = zlib.decompressobj()
    left = most
    try:
        for piece in coded:
            for start in range(0, len(piece), 2**16):
                if left <= 0:  # which would be no limit to zlib
                    return
                found = unpacker.decompress(piece[start : start + 2**16], left)
                left -= len(found)
                yield found
    except zlib.error:
        return


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def padded(data: bytes) -> bytes:
    """A file of plain samples with zeros for what may be missing of it."""
    return data + bytes(max(64, int(len(data) * MAX_MISSING)))
