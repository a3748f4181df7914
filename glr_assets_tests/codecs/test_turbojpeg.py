from __future__ import annotations

import io
import struct
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glr_assets.codecs.jpeg_header import count_scans, read_header
from glr_assets.codecs.turbojpeg import JpegPlanes, NoPlanesError, Plane, decode_planes, encode_planes, read_size
from glr_assets_tests.images.handmade import picture

#: Luma samples under one of chroma, (across, down), and OpenCV's name of it.
SUBSAMPLINGS = {
    "4:4:4": ((1, 1), cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    "4:2:2": ((2, 1), cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422),
    "4:2:0": ((2, 2), cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
    "4:4:0": ((1, 2), cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
    "4:1:1": ((4, 1), cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
}
#: Every remainder by 16 in width and in height, and the smallest.
SIZES = [(17 + n, 33 + 7 * n % 16) for n in range(16)] + [(1, 1), (1, 40), (40, 1), (2, 3), (3, 2), (16, 16)]


def coloured(width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Smooth saturated colours with some noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).astype(float)
    return np.clip(smooth + random.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def jpeg(pixels: npt.NDArray[np.uint8], subsampling: str, *options: int) -> bytes:
    chosen = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SUBSAMPLINGS[subsampling][1], *options]
    return cv2.imencode(".jpg", pixels, chosen)[1].tobytes()


def by_pillow(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def pillows_planes(data: bytes, reduction: int = 1) -> npt.NDArray[np.uint8]:
    """Y, Cb, Cr (or grey) of every pixel, as the libjpeg within Pillow decodes them and interpolates chroma."""
    with Image.open(io.BytesIO(data)) as image:
        size = tuple(-(-side // reduction) for side in image.size)
        wanted = tuple(max(1, side // reduction) for side in image.size)
        image.draft("L" if image.mode == "L" else "YCbCr", wanted)
        assert image.size == size
        return np.asarray(image)


def interpolated(plane: Plane, covers: tuple[int, int], width: int, height: int) -> npt.NDArray[np.uint8]:
    """Chroma of every pixel, a triangle filter in libjpeg's rounding ("fancy upsampling", jdsample.c)."""
    across, down = covers
    near = plane.astype(int)
    if across == 4 or (across == 2 and plane.shape[1] <= 2):  # too few to interpolate, or never
        return np.repeat(np.repeat(plane, down, axis=0), across, axis=1)[:height, :width]
    if down == 2:
        above, below = np.vstack([near[:1], near[:-1]]), np.vstack([near[1:], near[-1:]])
        rows = np.empty((2 * len(near), near.shape[1]), int)
        rows[::2], rows[1::2] = 3 * near + above, 3 * near + below
        if across == 1:
            rows[::2], rows[1::2] = rows[::2] + 1 >> 2, rows[1::2] + 2 >> 2
    else:
        rows = near
    if across == 2:
        left, right = np.hstack([rows[:, :1], rows[:, :-1]]), np.hstack([rows[:, 1:], rows[:, -1:]])
        wide = np.empty((len(rows), 2 * rows.shape[1]), int)
        bias = (8, 7, 4) if down == 2 else (1, 2, 2)
        wide[:, ::2], wide[:, 1::2] = 3 * rows + left + bias[0] >> bias[2], 3 * rows + right + bias[1] >> bias[2]
        rows = wide
    return rows[:height, :width].astype(np.uint8)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_planes_are_those_of_pillow_for_every_size(subsampling: str) -> None:
    covers = SUBSAMPLINGS[subsampling][0]
    for width, height in SIZES:
        data = jpeg(coloured(width, height), subsampling)
        planes = decode_planes(data)
        expected = pillows_planes(data)
        assert read_size(data) == planes.size == (width, height)
        assert planes.covers == covers
        assert np.array_equal(planes.luma, expected[..., 0]), (width, height)
        for found, channel in zip(planes.chroma, (1, 2), strict=True):
            assert found.shape == (-(-height // covers[1]), -(-width // covers[0]))
            wide = interpolated(found, covers, width, height)
            # A single column or row of two rounds another way: libjpeg has no neighbour to read there.
            assert np.array_equal(wide, expected[..., channel]), (width, height)


@pytest.mark.parametrize("size", SIZES)
def test_grey_is_pillows_grey(size: tuple[int, int]) -> None:
    data = by_pillow(Image.fromarray(coloured(*size)).convert("L"))
    planes = decode_planes(data)
    assert planes.chroma == ()
    assert np.array_equal(planes.luma, pillows_planes(data))


def test_grey_told_as_2x2_is_the_same_grey() -> None:
    """Some encoders write the factors of 4:2:0 for a single component, where they mean nothing (T.81, A.2.2)."""
    for size in SIZES:
        data = by_pillow(Image.fromarray(coloured(*size)).convert("L"))
        at = data.index(b"\xff\xc0") + 11
        assert data[at] == 0x11
        told = data[:at] + b"\x22" + data[at + 1 :]
        assert np.array_equal(decode_planes(told).luma, pillows_planes(told))
        assert np.array_equal(decode_planes(told).luma, decode_planes(data).luma)


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"optimize": True},
        {"restart_marker_blocks": 1},
        {"restart_marker_rows": 1, "progressive": True},
        {"quality": 1},
        {"quality": 100},
    ],
    ids=str,
)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_however_it_is_coded_the_planes_are_pillows(options: dict[str, object], subsampling: str) -> None:
    for width, height in ((97, 61), (48, 80)):
        data = by_pillow(Image.fromarray(coloured(width, height)), subsampling=subsampling, **options)
        planes, expected = decode_planes(data), pillows_planes(data)
        assert np.array_equal(planes.luma, expected[..., 0])
        for found, channel in zip(planes.chroma, (1, 2), strict=True):
            assert np.array_equal(interpolated(found, planes.covers, width, height), expected[..., channel])


def test_arithmetic_coding_is_decoded(shared_photos: Path) -> None:
    data = (shared_photos / "nasty" / "libjpeg_turbo" / "testimgari.jpg").read_bytes()
    assert b"\xff\xc9" in data[:1000]  # start of frame: extended sequential, arithmetic
    assert np.array_equal(decode_planes(data).luma, pillows_planes(data)[..., 0])


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_reduced_luma_is_pillows(subsampling: str, reduction: int) -> None:
    for width, height in [(side[0] + 30, side[1] + 30) for side in SIZES[:16]]:
        data = jpeg(coloured(width, height), subsampling)
        planes = decode_planes(data, reduction)
        assert planes.size == (width, height)
        assert planes.reduction == reduction
        assert np.array_equal(planes.luma, pillows_planes(data, reduction)[..., 0]), (width, height)


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_reduced_chroma_is_that_of_a_grey_image_of_it(subsampling: str, reduction: int) -> None:
    """Chroma that is even within a sample passes the encoder as it is; the same plane as a grey JPEG is Pillow's."""
    (across, down), tables = SUBSAMPLINGS[subsampling][0], [[7] * 64, [7] * 64]
    for width, height in [(side[0] + 30, side[1] + 30) for side in SIZES[:16]]:
        luma, blue, red = coloured(width, height).transpose(2, 0, 1)
        given = [plane[: -(-height // down), : -(-width // across)] for plane in (blue, red)]
        wide = [np.repeat(np.repeat(plane, down, 0), across, 1)[:height, :width] for plane in given]
        merged = Image.merge("YCbCr", [Image.fromarray(np.ascontiguousarray(plane)) for plane in (luma, *wide)])
        planes = decode_planes(by_pillow(merged, subsampling=subsampling, qtables=tables), reduction)
        for found, plane in zip(planes.chroma, given, strict=True):
            grey = by_pillow(Image.fromarray(np.ascontiguousarray(plane)), qtables=tables)
            assert np.array_equal(found, pillows_planes(grey, reduction)), (width, height)


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("subsampling", ["4:4:0", "4:1:1"])
def test_reduced_chroma_of_rare_subsamplings_is_the_mean_of_the_whole(subsampling: str, reduction: int) -> None:
    data = jpeg(coloured(256, 128), subsampling)
    whole, reduced = decode_planes(data), decode_planes(data, reduction)
    for found, plane in zip(reduced.chroma, whole.chroma, strict=True):
        height, width = plane.shape
        blocks = plane.reshape(height // reduction, reduction, width // reduction, reduction).astype(float)
        assert found.shape == (height // reduction, width // reduction)
        assert np.abs(found - blocks.mean(axis=(1, 3))).max() <= 2


@pytest.mark.parametrize("size", [*SIZES, (384, 577), (511, 384)])
def test_planes_are_encoded_as_pillow_encodes_them(size: tuple[int, int]) -> None:
    width, height = size
    luma, blue, red = (np.ascontiguousarray(plane) for plane in coloured(width, height).transpose(2, 0, 1))
    chroma = tuple(plane[: -(-height // 2), : -(-width // 2)] for plane in (blue, red))
    wide = [np.repeat(np.repeat(plane, 2, 0), 2, 1)[:height, :width] for plane in chroma]
    merged = Image.merge("YCbCr", [Image.fromarray(np.ascontiguousarray(plane)) for plane in (luma, *wide)])
    expected = by_pillow(merged, quality=70, subsampling="4:2:0")
    found = encode_planes(luma, chroma, 70)
    with Image.open(io.BytesIO(found)) as ours, Image.open(io.BytesIO(expected)) as theirs:
        assert ours.size == size
        assert ours.quantization == theirs.quantization
        assert [layer[1:3] for layer in ours.layer] == [(2, 2), (1, 1), (1, 1)]
        assert "progressive" not in ours.info
    assert np.array_equal(pillows_planes(found), pillows_planes(expected))


def test_what_is_encoded_decodes_to_what_was_given() -> None:
    luma, blue, red = (np.ascontiguousarray(plane) for plane in coloured(101, 75).transpose(2, 0, 1))
    chroma = (np.ascontiguousarray(blue[::2, ::2]), np.ascontiguousarray(red[::2, ::2]))
    errors = []
    for quality in (50, 75, 95, 100):
        planes = decode_planes(encode_planes(luma, chroma, quality))
        assert planes.size == (101, 75)
        pairs = zip((planes.luma, *planes.chroma), (luma, *chroma), strict=True)
        errors.append(max(np.abs(found.astype(int) - given).mean() for found, given in pairs))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5


def marked_adobe(data: bytes, transform: int) -> bytes:
    """The JPEG with an Adobe block that tells its colour transform, for the JFIF one (Adobe TN 5116)."""
    end = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2
    adobe = b"\xff\xee" + struct.pack(">H5sHHHB", 14, b"Adobe", 100, 0, 0, transform)
    return data[:2] + adobe + data[end:]


def rgb_jpegs() -> dict[str, bytes]:
    """JPEGs whose planes are no YCbCr."""
    image = Image.fromarray(coloured(64, 48))
    cmyk = by_pillow(image.convert("CMYK"))
    at = cmyk.index(b"Adobe") + 11
    return {
        "RGB": by_pillow(image, keep_rgb=True),
        "Adobe transform 0": marked_adobe(by_pillow(image), 0),
        "CMYK": cmyk,
        "YCCK": cmyk[:at] + b"\x02" + cmyk[at + 1 :],
    }


@pytest.mark.parametrize("kind", rgb_jpegs())
def test_other_colour_spaces_are_none_of_ours(kind: str) -> None:
    data = rgb_jpegs()[kind]
    for read in (read_size, decode_planes):
        with pytest.raises(NoPlanesError, match="expected YCbCr or grey"):
            read(data)


def test_an_adobe_block_that_tells_ycbcr_is_heeded() -> None:
    data = by_pillow(Image.fromarray(coloured(64, 48)))
    assert np.array_equal(decode_planes(marked_adobe(data, 1)).luma, decode_planes(data).luma)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}], ids=str)
def test_a_jpeg_cut_anywhere_has_no_planes(options: dict[str, object]) -> None:
    data = by_pillow(Image.fromarray(coloured(40, 30)), **options)
    decode_planes(data)
    for end in range(2, len(data)):
        with pytest.raises(NoPlanesError):
            decode_planes(data[:end])


def test_bytes_after_the_end_are_no_damage_and_bytes_within_are() -> None:
    data = by_pillow(Image.fromarray(coloured(40, 30)))
    assert np.array_equal(decode_planes(data + bytes(5000)).luma, decode_planes(data).luma)
    table = data.index(b"\xff\xc4")
    with pytest.raises(NoPlanesError, match="extraneous bytes"):
        decode_planes(data[:table] + bytes(9) + data[table:])


DAMAGEABLE = [
    picture(1, (70, 50)),
    by_pillow(Image.fromarray(coloured(70, 50)), progressive=True),
    by_pillow(Image.fromarray(coloured(33, 31)).convert("L"), restart_marker_blocks=2),
    jpeg(coloured(50, 40), "4:1:1"),
]


@given(
    st.sampled_from(DAMAGEABLE),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.sampled_from([1, 2, 4, 8]),
)
@settings(max_examples=400, deadline=None)
def test_damaged_bytes_are_planes_or_none(data: bytes, changes: list[tuple[float, int]], reduction: int) -> None:
    damaged = bytearray(data)
    for place, value in changes:
        damaged[int(place * (len(damaged) - 1))] = value
    try:
        width, height = read_size(bytes(damaged))
        if width * height > 10**6:
            return
        planes = decode_planes(bytes(damaged), reduction)
    except NoPlanesError:
        return
    check_shapes(planes, width, height)


def check_shapes(planes: JpegPlanes, width: int, height: int) -> None:
    wide, high = -(-width // planes.reduction), -(-height // planes.reduction)
    assert planes.luma.shape == (high, wide)
    across, down = planes.covers
    assert all(plane.shape == (-(-high // down), -(-wide // across)) for plane in planes.chroma)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_none(data: bytes) -> None:
    for start in (b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xc0\0\x11\x08"):
        with pytest.raises(NoPlanesError):
            decode_planes(start + data)


def of_scans(count: int, side: int = 64) -> bytes:
    """A progressive grey JPEG: a scan of even grey, and then so many that add nothing (T.81, annex G)."""

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    def scan(first: int, last: int, bits: int) -> bytes:
        body = bytes(bits // 8) + bytes([(1 << 8 - bits % 8) - 1] * (bits % 8 > 0))
        return segment(0xDA, bytes([1, 1, 0, first, last, 0])) + body

    blocks = (side // 8) ** 2
    codes = bytes([1] + 15 * [0])  # the code 0 alone: for DC no difference, for AC 2^14 or more blocks at an end
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, bytes([0] + 64 * [1])),
            segment(0xC2, struct.pack(">BHHBBBB", 8, side, side, 1, 1, 0x11, 0)),
            segment(0xC4, b"\x00" + codes + b"\x00"),
            segment(0xC4, b"\x10" + codes + b"\xe0"),
            scan(0, 0, blocks),
            scan(1, 63, 15 * -(-blocks // 2**14)) * count,
            b"\xff\xd9",
        ]
    )


def test_thousands_of_scans_are_none_of_ours() -> None:
    assert (decode_planes(of_scans(3, 1024)).luma == 128).all()
    assert count_scans(of_scans(3, 1024)) == 4
    with pytest.raises(NoPlanesError, match="more than 500 scans"):
        decode_planes(of_scans(3000, 1024))


def test_a_sound_image_after_a_damaged_one_is_as_before() -> None:
    data = by_pillow(Image.fromarray(coloured(97, 61)), progressive=True)
    expected = decode_planes(data).luma
    for damaged in (data[: len(data) // 2], data[:100], b"\xff\xd8nothing", rgb_jpegs()["CMYK"]):
        with pytest.raises(NoPlanesError):
            decode_planes(damaged)
        assert np.array_equal(decode_planes(data).luma, expected)


def test_threads_give_the_same_bytes() -> None:
    files = [jpeg(coloured(60 + n, 90, n), name) for n, name in enumerate(list(SUBSAMPLINGS) * 4)]

    def round_trip(data: bytes) -> bytes:
        planes = decode_planes(data)
        with pytest.raises(NoPlanesError):
            decode_planes(data[:-40])
        half = tuple(np.ascontiguousarray(planes.luma[::2, ::2]) for _ in range(2))
        return planes.luma.tobytes() + encode_planes(planes.luma, half, 80)

    alone = [round_trip(data) for data in files]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(round_trip, files * 4)) == alone * 4
    finally:
        sys.setswitchinterval(switch)


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc tells what memory a process holds")
def test_two_thousand_threads_leave_nothing_behind() -> None:
    grown = run(
        """
        import os, threading
        from pathlib import Path
        import numpy as np
        from glr_assets.codecs.turbojpeg import NoPlanesError, decode_planes, encode_planes

        plane, half = np.full((64, 64), 90, np.uint8), np.full((32, 32), 120, np.uint8)
        data = encode_planes(plane, (half, half), 80)

        def work():
            planes = decode_planes(data)
            encode_planes(planes.luma, planes.chroma, 80)
            try:
                decode_planes(data[:-9])
            except NoPlanesError:
                return
            raise AssertionError

        def threads(count):
            for _ in range(count):
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
            # Not the peak of getrusage: a child's starts at its parent's.
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        before = threads(100)
        print(threads(2000) - before)
        """
    )
    assert int(grown) < 2000 * 4000  # the three codecs that each makes hold some 13 kB


def test_a_missing_library_is_told_in_a_line_with_the_mend() -> None:
    told = run(
        """
        import ctypes, ctypes.util
        from glr_assets.errors import SettingsError

        loaded = ctypes.CDLL
        ctypes.util.find_library = lambda name: None
        ctypes.CDLL = lambda name: loaded(name.replace("turbojpeg", "no-such-turbojpeg"))
        from glr_assets.images.pixels import downsize
        from glr_assets.recipes import Images

        try:
            downsize(b"\\xff\\xd8\\xff", Images())
        except SettingsError as error:
            print(error)
        """
    )
    assert told.startswith("the library libturbojpeg is missing: libno-such-turbojpeg.so.0: cannot open shared object")
    assert told.count("\n") == 1
    assert "apt-get install libturbojpeg0" in told


def test_the_header_tells_scans_exif_and_more_pictures() -> None:
    image = Image.fromarray(coloured(40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = by_pillow(image), by_pillow(image, exif=exif)
    assert read_header(plain) == read_header(marked_adobe(plain, 1))
    for data, expected in (
        (plain, (False, False, False)),
        (turned, (True, False, False)),
        (by_pillow(image, progressive=True), (False, False, True)),
        (by_pillow(image.convert("L")), (False, False, False)),
        (plain[:20], (False, False, False)),
    ):
        header = read_header(data)
        assert (header.has_app1, header.has_more, header.has_scans) == expected
    file = io.BytesIO()
    image.save(file, "MPO", save_all=True, append_images=[image])
    assert read_header(file.getvalue()).has_more
    assert count_scans(plain) == 1
    assert count_scans(by_pillow(image, progressive=True)) > 5


def test_a_sequential_jpeg_with_a_scan_a_component_is_of_several() -> None:
    data = by_pillow(Image.fromarray(coloured(40, 30)))
    at = data.index(b"\xff\xda") + 4
    assert data[at] == 3
    assert read_header(data[:at] + b"\x01" + data[at + 1 :]).has_scans


@given(st.sampled_from(DAMAGEABLE), st.integers(0, 700), st.binary(max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_header_is_walked_to_an_end(data: bytes, at: int, put: bytes) -> None:
    header = read_header(data[:at] + put + data[at + len(put) :])
    assert header.has_more is False or b"MPF" in put
