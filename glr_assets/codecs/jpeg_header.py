"""The marker segments of a JPEG before its first scan: frame, orientation blocks, color profile, second picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

START = b"\xff\xd8"
END = b"\xff\xd9"
#: Segments that are read before the first scan. A profile or an extended XMP block takes up to 255 of 64 KiB; each
#: segment costs a decoder some microseconds, and millions of empty ones fit into an upload.
MAX_SEGMENTS = 4096
_START_OF_SCAN, _END = 0xDA, 0xD9
_APP1, _APP2, _APP14 = 0xE1, 0xE2, 0xEE
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
#: Start of frame: all of 0xC0 to 0xCF but Huffman tables, an extension and arithmetic conditioning.
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
#: Application segments and comments that no decoder needs; JFIF's and Adobe's tell the color space.
_METADATA = {*range(0xE1, 0xF0), 0xFE} - {_APP14}
_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
#: A marker in coded data: neither a stuffed byte nor a restart.
_IN_SCANS = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_PROFILE, _EXIF, _XMP = b"ICC_PROFILE\0", b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(frozen=True)
class JpegHeader:
    """The properties of a JPEG that decide how it is decoded.

    Attributes:
        has_app1: an APP1 block is there, which can hold EXIF or XMP.
        has_more: other pictures follow the first (CIPA DC-007, MPF).
        has_scans: the picture comes in several scans, so that a decoder holds all of its coefficients.
        has_profile: an ICC profile is there.
        frame: the marker of the start of frame, as 0xC0; 0 where none was found before the first scan.
        precision: bits a sample.
        size: (width, height) in pixels; (0, 0) without a frame.
        components: color planes.
        segments: marker segments before the first scan; one more than `MAX_SEGMENTS` where the walk was given up.
    """

    has_app1: bool = False
    has_more: bool = False
    has_scans: bool = False
    has_profile: bool = False
    frame: int = 0
    precision: int = 0
    size: tuple[int, int] = (0, 0)
    components: int = 0
    segments: int = 0

    @property
    def is_lossless(self) -> bool:
        """Whether the samples are predicted and not transformed (ITU T.81, annex H)."""
        return self.frame in _LOSSLESS


def segments(data: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """Marker, first byte and end of the payload of each segment up to the first scan's header, that one included.

    Bytes between segments are skipped, as libjpeg does (jdmarker.c, next_marker). The walk ends at the end of image, at
    damage, or after `MAX_SEGMENTS` + 1 segments (ITU T.81, annex B).
    """
    at, end, count = 2, len(data), 0
    while at + 4 <= end and count <= MAX_SEGMENTS:
        marker = data[at + 1]
        if data[at] != 0xFF or marker in {0x00, 0xFF}:
            found = _MARKER.search(data, at)
            if found is None:
                return
            at = found.start()
            continue
        count += 1
        if marker in _WITHOUT_LENGTH:
            yield marker, at + 2, at + 2
            at += 2
            continue
        if marker == _END:
            return
        stop = at + 2 + (data[at + 2] << 8 | data[at + 3])
        yield marker, at + 4, stop
        if marker == _START_OF_SCAN:
            return
        at = max(stop, at + 2)


def read_header(data: bytes | memoryview) -> JpegHeader:
    """Read the properties of a JPEG from its segments before the first scan; damage is left to its decoder."""
    has_app1 = has_more = has_scans = has_profile = False
    frame = precision = components = count = 0
    size = (0, 0)
    for marker, start, _ in segments(data):
        count += 1
        if marker in _FRAMES and start + 6 <= len(data):
            frame, precision = marker, data[start]
            has_scans = marker in _PROGRESSIVE
            size = (data[start + 3] << 8 | data[start + 4], data[start + 1] << 8 | data[start + 2])
            components = data[start + 5]
        elif marker == _APP1:
            has_app1 = True
        elif marker == _APP2:
            has_more = has_more or bytes(data[start : start + 4]) == b"MPF\0"
            has_profile = has_profile or bytes(data[start : start + len(_PROFILE)]) == _PROFILE
        elif marker == _START_OF_SCAN:
            has_scans = has_scans or data[start : start + 1] != bytes([components])
    return JpegHeader(has_app1, has_more, has_scans, has_profile, frame, precision, size, components, count)


def starts_well(data: bytes | memoryview) -> bool:
    """Whether a marker follows the start of image at once, or after fill bytes.

    Of files whose first segment is damaged decoders show noise.
    """
    marker, start, _ = next(segments(data), (0, 0, 0))
    before = start - (2 if marker in _WITHOUT_LENGTH else 4)
    return marker not in {0, 0xDC} and not bytes(data[2:before]).strip(b"\xff")


def read_app1(data: bytes | memoryview) -> tuple[bytes, bytes]:
    """The EXIF block, a TIFF structure, and the XMP packet of a JPEG; empty where there is none.

    An EXIF block over several segments is joined, as Pillow does.
    """
    exif: list[bytes] = []
    xmp = b""
    for marker, start, stop in segments(data):
        if marker != _APP1:
            continue
        head = bytes(data[start : start + len(_XMP)])
        if head.startswith(_EXIF):
            exif.append(bytes(data[start + len(_EXIF) : stop]))
        elif head == _XMP and not xmp:
            xmp = bytes(data[start + len(_XMP) : stop])
    return b"".join(exif), xmp


def read_profile(data: bytes | memoryview) -> bytes:
    """The ICC profile of a JPEG, its parts joined by their numbers; empty where one is missing (ICC.1:2010, B.4)."""
    parts: dict[int, bytes] = {}
    total = 0
    for marker, start, stop in segments(data):
        if marker == _APP2 and stop - start > len(_PROFILE) + 2 and data[start : start + len(_PROFILE)] == _PROFILE:
            number, total = data[start + len(_PROFILE)], data[start + len(_PROFILE) + 1]
            parts.setdefault(number, bytes(data[start + len(_PROFILE) + 2 : stop]))
    if not parts or sorted(parts) != list(range(1, total + 1)):
        return b""
    return b"".join(parts[number] for number in sorted(parts))


def without_metadata(data: bytes | memoryview) -> bytes:
    """The same picture without application segments, comments and bytes between segments, but JFIF's and Adobe's.

    What parses them is spared damaged or hostile ones.
    """
    pieces = [START]
    at = len(data)
    for marker, start, stop in segments(data):
        if marker == _START_OF_SCAN:
            at = start - 4
        elif marker not in _METADATA and marker not in _WITHOUT_LENGTH:
            pieces.append(bytes(data[start - 4 : stop]))
    return b"".join([*pieces, bytes(data[at:])])


def count_scans(data: bytes | memoryview) -> int:
    """The scans of the first picture of a JPEG, without those of later pictures and of metadata.

    The walk ends after `MAX_SEGMENTS` segments more; a file of that many counts as one of as many scans.
    """
    at, scans, steps = 0, 0, 0
    for marker, start, _ in segments(data):
        if marker == _START_OF_SCAN:
            at, scans = start, 1
    while at and (found := _IN_SCANS.search(data, at)):
        steps += 1
        marker, at = data[found.start() + 1], found.end()
        if steps > MAX_SEGMENTS:
            return MAX_SEGMENTS
        if marker == _END:
            break
        scans += marker == _START_OF_SCAN
        if marker not in _WITHOUT_LENGTH and at + 2 <= len(data):
            at += data[at] << 8 | data[at + 1]
    return scans
