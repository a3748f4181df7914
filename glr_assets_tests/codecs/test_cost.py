from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, features

from glr_assets.codecs.cost import MAX_PARTS, MAX_SCANS, measure
from glr_assets.codecs.jpeg_header import MAX_SEGMENTS, count_scans
from glr_assets_tests.codecs.test_turbojpeg import of_scans
from glr_assets_tests.images.handmade import picture

UPLOAD = 16 * 2**20
PIXELS = 64_000_000


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunks + chunk(b"IDAT", zlib.compress(bytes(20))) + chunk(b"IEND")


def tiff_of(*entries: tuple[int, int, int, int], size: int = 4096) -> bytes:
    """A TIFF of one directory: tag, type, count and value or offset of each entry."""
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (b"II*\0\x08\0\0\0" + body + bytes(4)).ljust(size, b"\0")


GIF = b"GIF89a\x40\0\x40\0\0\0\0"
PSD = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 64, 64, 8, 3) + struct.pack(">II", 0, UPLOAD)
FRAME = b"\xff\xc2\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00"
SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
PROFILES = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**6)))
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "JPEG of empty segments": (lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * (UPLOAD // 4), "segments before its picture"),
    "JPEG of restarts": (lambda: b"\xff\xd8" + b"\xff\xd0" * (UPLOAD // 2), "segments before its picture"),
    "JPEG of segments after a scan": (
        lambda: b"\xff\xd8" + FRAME + SCAN + b"\xff\xfe\0\2" * (UPLOAD // 4),
        "more than 100 scans",
    ),
    "JPEG of a hundred scans": (lambda: of_scans(MAX_SCANS), "more than 100 scans"),
    "JPEG of large scans": (lambda: of_scans(90, 4096), "a JPEG of 91 scans of 4096x4096 pixels"),
    "PNG of empty chunks": (lambda: png_of(chunk(b"tEXt") * (UPLOAD // 12)), "more than 65536 chunks"),
    "PNG of profiles": (lambda: png_of(PROFILES * (UPLOAD // len(PROFILES))), "color profiles"),
    "GIF of comments": (lambda: GIF + b"\x21\xfe\1a\0" * (UPLOAD // 5), "blocks before its picture"),
    "GIF of a comment of short blocks": (
        lambda: GIF + b"\x21\xfe" + b"\1a" * (UPLOAD // 2),
        "blocks before its picture",
    ),
    "GIF of zeros": (lambda: GIF + bytes(UPLOAD), "blocks before its picture"),
    "WebP of empty chunks": (
        lambda: b"RIFF\xff\xff\xff\0WEBPVP8X\x0a\0\0\0" + bytes(10) + b"junk\0\0\0\0" * (UPLOAD // 8),
        "chunks",
    ),
    "TIFF of strips": (lambda: tiff_of((256, 4, 1, 64), (257, 4, 1, 64), (273, 4, 4_000_000, 8)), "strips or tiles"),
    "TIFF of tags that overlap": (
        lambda: tiff_of(
            (256, 4, 1, 64), (257, 4, 1, 64), *((n, 1, UPLOAD, 8) for n in range(1000, 50_000)), size=UPLOAD
        ),
        "whose tags take",
    ),
    "PSD of resources": (lambda: PSD + b"8BIM\0\1\0\0\0\0\0\0" * (UPLOAD // 12), "resources"),
    "PPM of a comment": (lambda: b"P6\n#" + b"a" * UPLOAD, "without dimensions"),
    "PPM as text": (lambda: b"P2\n2000 2000\n255\n" + b"1 " * (UPLOAD // 2), "as text of more than"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_would_hold_a_core_is_refused_by_its_structure(kind: str) -> None:
    make, told = HOSTILE[kind]
    cost = measure(make())
    assert told in cost.refusal(PIXELS)
    assert cost.refusal(PIXELS).startswith("undecodable: ")
    assert cost.parts <= MAX_PARTS + 1


NOT_COSTLY: dict[str, bytes] = {
    "fill bytes": b"\xff\xd8" + b"\xff" * UPLOAD,
    "stuffed bytes": b"\xff\xd8" + b"\xff\0" * (UPLOAD // 2),
    "no markers": b"\xff\xd8" + b"a" * UPLOAD,
    "spaces": b" " * UPLOAD,
}


def test_every_walk_is_linear_in_the_file() -> None:
    """CPU seconds of a file and of half of it; one whose walk was quadratic would take four times as long."""
    for kind, data in NOT_COSTLY.items():
        seconds = []
        for part in (data[: UPLOAD // 2], data):
            began = time.process_time()
            for _ in range(3):
                measure(part)
            seconds.append(time.process_time() - began)
        assert seconds[1] < 3 * seconds[0] + 0.1, kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000", "ICO", "AVIF"])
def test_dimensions_are_those_that_pillow_reads(kind: str) -> None:
    if not features.check({"JPEG2000": "jpg_2000", "AVIF": "avif"}.get(kind, "zlib")):
        pytest.skip(f"this Pillow was built without {kind}")
    for size in ((60, 40), (33, 150)):
        file = io.BytesIO()
        image = Image.open(io.BytesIO(picture(1, size)))
        image.save(file, kind, **({"sizes": [size]} if kind == "ICO" else {}))
        cost = measure(file.getvalue())
        assert cost.format is not None
        assert cost.format.name == kind
        assert cost.size == size
        assert cost.refusal(PIXELS) == ""
        assert cost.refusal(60 * 40 - 1).startswith(f"too large: {size[0]}x{size[1]} pixels")


@pytest.mark.parametrize(("kind", "counted"), [("PNG", 3), ("WEBP", 3), ("MPO", 2)])
def test_frames_are_counted(kind: str, counted: int) -> None:
    frames = [Image.fromarray(np.full((30, 40, 3), 60 * n, np.uint8)) for n in range(3)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    assert measure(file.getvalue()).frames == counted


def test_scans_of_later_pictures_and_of_metadata_are_not_counted() -> None:
    file, thumbnail = io.BytesIO(), io.BytesIO()
    image = Image.open(io.BytesIO(picture(1, (400, 300))))
    image.save(thumbnail, "JPEG", progressive=True)
    image.save(file, "JPEG", progressive=True, comment=b"\xff\xda" * 200)
    plain = file.getvalue()
    assert count_scans(plain) == 10
    assert count_scans(plain + thumbnail.getvalue() * 20) == 10
    assert measure(plain).excess == ""


def test_as_many_segments_as_are_allowed_are_decoded() -> None:
    data = picture(1)
    most = MAX_SEGMENTS - measure(data).parts
    assert measure(data[:2] + b"\xff\xfe\0\2" * most + data[2:]).excess == ""
    assert measure(data[:2] + b"\xff\xfe\0\2" * (most + 1) + data[2:]).excess != ""


def test_damaged_headers_are_left_to_the_decoder() -> None:
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000", "ICO"):
        file = io.BytesIO()
        Image.open(io.BytesIO(picture(1))).save(file, kind)
        for size in range(0, min(len(file.getvalue()), 120), 3):
            cost = measure(file.getvalue()[:size])
            assert cost.refusal(PIXELS) == "" or cost.excess, (kind, size)
