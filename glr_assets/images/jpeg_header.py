"""What a JPEG says of itself before its pixels: EXIF or XMP, a second picture, several scans."""

from __future__ import annotations

from dataclasses import dataclass

START = b"\xff\xd8"
_START_OF_SCAN, _END, _APP1, _APP2 = 0xDA, 0xD9, 0xE1, 0xE2
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
#: Start of frame: all of 0xC0 to 0xCF but Huffman tables, an extension and arithmetic conditioning.
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}


@dataclass(frozen=True)
class JpegHeader:
    """What there is to heed.

    Attributes:
        has_app1: a block that can tell how the picture is turned.
        has_more: other pictures follow the first.
        has_scans: the picture comes in several scans, so that a decoder holds all of it.
    """

    has_app1: bool
    has_more: bool
    has_scans: bool


def read_header(data: bytes | memoryview) -> JpegHeader:
    """Walk the segments up to the first scan (ITU T.81, annex B); damage ends the walk, for the decoder to judge."""
    has_app1 = has_more = has_scans = False
    components = 0
    at, end = 2, len(data)
    while at + 4 <= end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == _END:
            break
        if marker == _START_OF_SCAN:
            has_scans = has_scans or data[at + 4 : at + 5] != bytes([components])
            break
        if marker in _FRAMES:
            has_scans = marker in _PROGRESSIVE
            components = data[at + 9] if at + 9 < end else 0
        has_app1 = has_app1 or marker == _APP1
        has_more = has_more or (marker == _APP2 and bytes(data[at + 4 : at + 8]) == b"MPF\0")
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return JpegHeader(has_app1, has_more, has_scans)


def count_scans(data: bytes | memoryview) -> int:
    """How many scans start in a JPEG, those of thumbnails and further pictures too; coded data holds no such bytes."""
    return bytes(data).count(b"\xff\xda")
