"""Self-made files of every kind that viewers show, and of kinds that are refused, by what they are.

The pixels that each must show are known from how the file was made, or are those of littlecms beside the decoder.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms, features

from glr_assets.codecs import color, formats
from glr_assets.codecs.decode import Picture, RefusedError, decode
from glr_assets.images.pixels import Refused, StoredImage, downsize
from glr_assets.recipes import Images
from glr_assets_tests.codecs.test_cost import chunk, tiff_of

PIXELS = 10**6
Array = npt.NDArray


def shown(data: bytes) -> Array:
    """What a decoded file shows, RGB, not turned."""
    return np.asarray(decode(data, PIXELS).rgb()).astype(int)


def reason(data: bytes) -> str:
    with pytest.raises(RefusedError) as raised:
        decode(data, PIXELS)
    return str(raised.value)


def smooth(size: tuple[int, int] = (48, 32)) -> Image.Image:
    """Saturated colors that change slowly, so that chroma of half the sides keeps them."""
    coarse = np.random.default_rng(5).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def profile(gamma: float, primaries: tuple[float, ...], white: tuple[float, float] = (0.3127, 0.3290)) -> bytes:
    """An ICC profile of a matrix and a gamma (ICC.1:2010, 8.3.3), its colorants adapted to D50 by Bradford's matrix."""
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

    def of_xy(x: float, y: float) -> Array:
        return np.array([x / y, 1.0, (1 - x - y) / y])

    columns = np.stack([of_xy(*primaries[n : n + 2]) for n in (0, 2, 4)], 1)
    colorants = columns * np.linalg.solve(columns, of_xy(*white))
    d50 = np.array([0.9642, 1.0, 0.8249])
    adapted = np.linalg.inv(bradford) @ np.diag(bradford @ d50 / (bradford @ of_xy(*white))) @ bradford @ colorants

    def number(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def point(values: Array) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(number, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"made\0" + bytes(78 + 1)
    tags = {b"desc": text, b"wtpt": point(d50), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    tags |= {name: point(adapted[:, n]) for n, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return _icc(b"mntrRGB XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    """An ICC profile of greys."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    return _icc(b"mntrGRAYXYZ ", {b"wtpt": white, b"kTRC": curve})


def _icc(kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    date = struct.pack(">6H", 2020, 1, 1, 0, 0, 0)
    white = struct.pack(">3i", 63190, 65536, 54061)
    header = struct.pack(">I", at + len(body)) + b"lcms" + b"\x02\x40\0\0" + kind + date + b"acsp"
    header = header + bytes(68 - len(header)) + white
    return header + bytes(128 - len(header)) + struct.pack(">I", len(tags)) + table + body


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ADOBE_RGB = profile(563 / 256, (0.64, 0.33, 0.21, 0.71, 0.15, 0.06))
DISPLAY_P3 = profile(2.2, (0.680, 0.320, 0.265, 0.690, 0.150, 0.060))
PROPHOTO = profile(1.8, (0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001), (0.3457, 0.3585))
PROFILES = {"Adobe RGB": ADOBE_RGB, "Display P3": DISPLAY_P3, "ProPhoto": PROPHOTO}


def by_definition(pixels: Array, name: str) -> Array:
    """Pixels of a space as sRGB, by matrices and curves in floats; colors outside sRGB are clipped."""
    gamma, primaries, white = {
        "Adobe RGB": (563 / 256, (0.64, 0.33, 0.21, 0.71, 0.15, 0.06), (0.3127, 0.3290)),
        "Display P3": (2.2, (0.680, 0.320, 0.265, 0.690, 0.150, 0.060), (0.3127, 0.3290)),
    }[name]

    def to_xyz(points: tuple[float, ...]) -> Array:
        columns = np.stack([[x / y, 1.0, (1 - x - y) / y] for x, y in (points[n : n + 2] for n in (0, 2, 4))], 1)
        x, y = white
        return columns * np.linalg.solve(columns, np.array([x / y, 1.0, (1 - x - y) / y]))

    matrix = np.linalg.solve(to_xyz((0.64, 0.33, 0.30, 0.60, 0.15, 0.06)), to_xyz(primaries))
    linear = np.clip((pixels / 255.0) ** gamma @ matrix.T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("name", ["Adobe RGB", "Display P3"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_profile_is_applied_as_it_is_defined(name: str, kind: str) -> None:
    image = smooth()
    options = {"lossless": True} if kind == "WEBP" else {}
    found = shown(encoded(image, kind, icc_profile=PROFILES[name], **options))
    expected = by_definition(np.asarray(image).astype(float), name)
    # Of colors outside sRGB each way clips another; the others agree to the rounding of a table of 8 bits.
    inside = ((expected > 3) & (expected < 252)).all(axis=2)
    assert inside.mean() > 0.3
    assert np.abs(found - expected)[inside].max() <= 3


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("size", [(48, 32), (900, 700)])
def test_a_jpeg_with_a_profile_is_stored_in_srgb(name: str, size: tuple[int, int]) -> None:
    """Small ones, which are kept without a profile, and large ones, converted after they are shrunk."""
    image = smooth(size)
    found = downsize(encoded(image, "JPEG", quality=95, icc_profile=PROFILES[name]), Images())
    assert isinstance(found, StoredImage)
    assert found.pixel_path == "planes-2+srgb-1"
    with Image.open(io.BytesIO(found.jpeg)) as stored:
        assert "icc_profile" not in stored.info
        pixels = np.asarray(stored.convert("RGB")).astype(float)
    transform = ImageCms.buildTransform(io.BytesIO(PROFILES[name]), io.BytesIO(SRGB), "RGB", "RGB")
    expected = ImageCms.applyTransform(image, transform).resize(found.size, Image.Resampling.LANCZOS)
    through = np.asarray(Image.open(io.BytesIO(encoded(expected, "JPEG", quality=70)))).astype(float)
    assert np.abs(pixels - through).mean() < 4
    assert np.abs(np.asarray(image.resize(found.size)) - through).mean() > 5, "the profile changes nothing"


def test_what_is_srgb_already_or_of_another_space_stays_as_it_is() -> None:
    image = smooth()
    plain = encoded(image, "JPEG", quality=90)
    for told, path in (
        (SRGB, "kept-2"),
        (b"no profile at all" * 20, "kept-2+profile-ignored"),
        (ADOBE_RGB[:300], "kept-2+profile-ignored"),
        (grey_profile(1.8), "kept-2+profile-ignored"),
    ):
        data = encoded(image, "JPEG", quality=90, icc_profile=told)
        found = downsize(data, Images())
        assert isinstance(found, StoredImage)
        assert found.pixel_path == path
        assert found.jpeg == data
        assert np.array_equal(shown(data), shown(plain))
    missing = encoded(image, "JPEG", icc_profile=bytes(100_000))  # two parts, of which the second is lost
    at = missing.rindex(b"ICC_PROFILE")
    length = int.from_bytes(missing[at - 2 : at], "big")
    lost = missing[: at - 4] + missing[at - 2 + length :]
    assert decode(lost, PIXELS).note == color.IGNORED


def test_a_profile_of_greys_is_applied() -> None:
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (40, 1)))
    for kind in ("PNG", "TIFF", "JPEG"):
        found = shown(
            encoded(ramp, kind, icc_profile=grey_profile(1.0), **({"quality": 100} if kind == "JPEG" else {}))
        )
        linear = np.arange(256) / 255
        expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        # The darkest of linear greys lie so far apart in sRGB that the rounding of its tables shows.
        assert np.abs(found[20, :, 0] - expected)[16:].max() <= 2, kind
        assert np.array_equal(found[..., 0], found[..., 2]), kind


def test_depths_are_scaled_by_their_range() -> None:
    ramp = np.linspace(0, 1, 64)[None, :].repeat(40, 0)
    expected = np.round(255 * ramp)
    words = np.round(ramp * 65535).astype(np.uint16)
    doubles = np.round(ramp * (2**32 - 1)).astype(np.uint32)
    cases = {
        "16 in PNG": encoded(Image.fromarray(words), "PNG"),
        "16 in TIFF": encoded(Image.fromarray(words), "TIFF"),
        "16 in PGM": b"P5 64 40 65535\n" + words.astype(">u2").tobytes(),
        "32 in TIFF": raw_tiff(doubles, 32, 1),
        "float in TIFF": encoded(Image.fromarray(ramp.astype(np.float32)), "TIFF"),
        "float beyond 1": encoded(Image.fromarray((ramp * 7000 - 300).astype(np.float32)), "TIFF"),
        "float in PFM": b"Pf\n64 40\n-1.0\n" + ramp.astype("<f4")[::-1].tobytes(),
    }
    for kind, data in cases.items():
        assert np.abs(shown(data)[..., 1] - expected).max() <= 1, kind


def test_colors_of_16_and_32_bits_are_scaled_too() -> None:
    pixels = np.asarray(smooth()).astype(np.uint16) * 257
    coded = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    assert np.abs(shown(coded) - pixels // 257).max() <= 1
    for kind in (np.uint16, np.float32):
        values = pixels.astype(np.float32) / 65535 if kind is np.float32 else pixels
        coded = cv2.imencode(".tiff", values[..., ::-1].astype(kind))[1].tobytes()
        assert np.abs(shown(coded) - pixels // 257).max() <= 1, kind


def raw_tiff(values: Array, bits: int, sample_format: int, *more: tuple[int, int, int, int]) -> bytes:
    """A grey TIFF of one uncompressed strip (TIFF 6.0, section 4)."""
    height, width = values.shape
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, bits),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 4096),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, values.nbytes),
        (339, 3, 1, sample_format),
        *more,
    ]
    return tiff_of(*sorted(tags)) + values.astype(values.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_a_png_is_white(bits: int) -> None:
    levels = 2 ** min(bits, 4)
    top = 2**bits - 1
    values = np.arange(levels) * (top // (levels - 1))
    key = int(values[1])
    line = "".join(f"{value:0{bits}b}" for value in values)
    line = line.ljust(-(-len(line) // 8) * 8, "0")
    row = b"\0" + int(line, 2).to_bytes(len(line) // 8, "big")
    header = struct.pack(">IIBBBBB", levels, 2, bits, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", key))
    data += chunk(b"IDAT", zlib.compress(row * 2)) + chunk(b"IEND")
    expected = np.where(values == key, 255, np.round(values * 255 / top))
    assert np.abs(shown(data)[0, :, 0] - expected).max() <= 1


def bitmap(masks: tuple[int, int, int], bits: int, pixels: Array) -> bytes:
    """A bitmap whose samples lie where masks say (BITMAPV2INFOHEADER, BI_BITFIELDS)."""
    height, width = pixels.shape
    head = struct.pack("<IiiHHIIiiII3I", 52, width, height, 1, bits, 3, 0, 0, 0, 0, 0, *masks)
    body = b"".join(line.tobytes() + bytes(-line.nbytes % 4) for line in pixels[::-1])
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(body), 0, 0, 14 + len(head)) + head + body


MASKS = [(0xFF000000, 0x00FF0000, 0x0000FF00), (0x3F, 0x1F00, 0x7F0000), (0xFF0000, 0xFF00, 0xFF)]


@pytest.mark.parametrize("masks", MASKS)
def test_the_masks_of_a_bitmap_are_heeded(masks: tuple[int, int, int]) -> None:
    tops = [mask // (mask & -mask) for mask in masks]
    samples = np.random.default_rng(1).integers(0, [top + 1 for top in tops], (5, 7, 3))
    pixels = sum(samples[..., n] * (mask & -mask) for n, mask in enumerate(masks)).astype("<u4")
    expected = np.round(samples * 255 / np.array(tops))
    assert np.abs(shown(bitmap(masks, 32, pixels)) - expected).max() <= 1


def test_other_formats_show_what_was_saved() -> None:
    image = smooth()
    kinds = ["PNG", "BMP", "TIFF", "PPM", "TGA", "ICO", "WEBP", "GIF"]
    kinds += ["JPEG2000"] * features.check("jpg_2000") + ["AVIF"] * features.check("avif")
    for kind in kinds:
        options = {"ICO": {"sizes": [image.size]}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(kind, {})
        given = image.quantize(200) if kind == "GIF" else image
        found = decode(encoded(given, kind, **options), PIXELS)
        assert found.format == kind
        assert np.abs(np.asarray(found.rgb()).astype(int) - np.asarray(given.convert("RGB"))).mean() < 2, kind


def test_the_largest_picture_of_an_icon_is_shown() -> None:
    large = smooth((128, 128))
    found = decode(encoded(large, "ICO", sizes=[(16, 16), (128, 128), (32, 32)]), PIXELS)
    assert found.image.size == (128, 128)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_the_orientation_is_told(kind: str, turn: int) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    exif = Image.Exif()
    exif[0x0112] = turn
    assert decode(encoded(smooth(), kind, exif=exif), PIXELS).orientation == turn


def test_a_motion_photo_and_a_gain_map_are_the_picture_before_them() -> None:
    image = smooth()
    plain = encoded(image, "JPEG")
    film = b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(5000)
    for data in (
        plain + film,
        plain + b"\0" * 100,
        plain + encoded(smooth((20, 20)), "JPEG"),
        plain + b"\xff\xd8\xff\xda",
    ):
        found = downsize(data, Images())
        assert isinstance(found, StoredImage)
        assert np.array_equal(shown(data), shown(plain))


def test_a_film_in_a_chunk_between_segments_does_not_cost_the_picture() -> None:
    plain = encoded(smooth(), "JPEG")
    assert np.array_equal(shown(plain[:2] + b"\xff" * 7 + plain[2:]), shown(plain))
    app15 = b"\xff\xef\x10\x00" + b"\xff\xda" * 2047
    assert np.array_equal(shown(plain[:2] + app15 + plain[2:]), shown(plain))


@pytest.mark.parametrize("lost", [1, 4, 12, 13, 20])
def test_a_png_without_its_last_bytes_is_shown(lost: int) -> None:
    image = smooth((60, 100))
    data = encoded(image, "PNG")
    found = decode(data[:-lost], PIXELS)
    assert np.array_equal(np.asarray(found.rgb())[:98], np.asarray(image)[:98])
    assert reason(data[: len(data) // 2]).startswith("undecodable: cut: the last ")


def test_a_damaged_chunk_that_is_not_needed_does_not_cost_a_png() -> None:
    image = smooth()
    data = encoded(image, "PNG")
    endless = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2_000_000)))
    for more in (endless, chunk(b"cHRM"), chunk(b"gAMA", b"\0"), chunk(b"tEXt", b"x")[:-1] + b"!"):
        assert np.array_equal(shown(data[:33] + more + data[33:]), np.asarray(image))


def test_a_profile_too_large_to_unpack_is_ignored() -> None:
    image = smooth()
    data = encoded(image, "PNG")
    large = chunk(b"iCCP", b"a\0\0" + zlib.compress(ADOBE_RGB + bytes(2_000_000)))
    found = decode(data[:33] + large + data[33:], PIXELS)
    assert found.note == color.IGNORED
    assert np.array_equal(np.asarray(found.rgb()), np.asarray(image))


def test_a_tga_of_16_bits_whose_last_is_not_used_is_opaque() -> None:
    samples = np.random.default_rng(2).integers(0, 32, (5, 7, 3))
    words = (samples[..., 0] << 10 | samples[..., 1] << 5 | samples[..., 2]).astype("<u2")
    for alpha_bits in (0, 1):
        head = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 7, 5, 16, 0x20 | alpha_bits)
        assert np.abs(shown(head + words.tobytes()) - samples * 255 / 31).max() <= 1


@pytest.mark.parametrize("kind", ["BMP", "PPM"])
def test_plain_samples_may_lack_their_last(kind: str) -> None:
    image = smooth((60, 100))
    data = encoded(image, kind)
    found = decode(data[:-30], PIXELS)
    assert found.mended
    assert (np.asarray(found.rgb()) == np.asarray(image)).mean() > 0.98
    assert reason(data[: len(data) // 2]).startswith("undecodable: ")


def cfa_tiff(make: bytes = b"NIKON CORPORATION\0", sub_photometric: int = 32803) -> bytes:
    """A thumbnail in the first directory, the sensor's samples in a directory below it, as TIFF/EP has them."""
    values = np.zeros((8, 8), np.uint8)
    data = bytearray(raw_tiff(values, 8, 1, (254, 4, 1, 1), (271, 2, len(make), 2000), (330, 4, 1, 1000)))
    data[2000 : 2000 + len(make)] = make
    below = tiff_of((254, 4, 1, 0), (256, 4, 1, 6000), (257, 4, 1, 4000), (262, 3, 1, sub_photometric), size=200)[8:]
    data[1000 : 1000 + len(below)] = below
    return bytes(data)


RAWS: dict[str, bytes] = {
    "NEF": cfa_tiff(),
    "ARW": cfa_tiff(b"SONY\0"),
    "PEF": cfa_tiff(b"PENTAX\0"),
    "TIFF/EP": cfa_tiff(b"Somebody\0", 2),
    "DNG": raw_tiff(np.zeros((8, 8), np.uint8), 8, 1, (50706, 1, 4, 1)),
    "CR2": b"II*\0\x10\0\0\0CR\2\0" + raw_tiff(np.zeros((8, 8), np.uint8), 8, 1)[12:],
    "ORF": b"IIRO\x08\0\0\0" + bytes(100),
    "RW2": b"IIU\0\x18\0\0\0" + bytes(100),
    "RAF": b"FUJIFILMCCD-RAW 0201" + bytes(100),
    "CR3": b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom" + bytes(100),
    "X3F": b"FOVb" + bytes(100),
    "MRW": b"\0MRM" + bytes(100),
    "CRW": b"II\x1a\0\0\0HEAPCCDR" + bytes(100),
}


@pytest.mark.parametrize("name", RAWS)
def test_a_cameras_raw_file_is_refused_by_name_and_never_its_thumbnail(name: str) -> None:
    assert reason(RAWS[name]) == f"unsupported format: {name}; {formats._DEVELOP}"
    found = downsize(RAWS[name], Images())
    assert isinstance(found, Refused)
    assert "export it as JPEG" in found.reason


def test_a_tiff_with_smaller_copies_below_it_is_a_picture() -> None:
    values = np.tile(np.arange(8, dtype=np.uint8) * 30, (8, 1))
    data = bytearray(raw_tiff(values, 8, 1, (330, 4, 1, 1000)))
    below = tiff_of((254, 4, 1, 1), (256, 4, 1, 4), (257, 4, 1, 4), (262, 3, 1, 1), size=200)[8:]
    data[1000 : 1000 + len(below)] = below
    assert np.array_equal(shown(bytes(data))[..., 0], values)


OTHERS = {
    "JPEG XL": b"\xff\x0a" + bytes(40),
    "JPEG-LS": b"\xff\xd8\xff\xf7" + bytes(40),
    "PDF": b"%PDF-1.7",
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "OpenEXR": b"\x76\x2f\x31\x01" + bytes(40),
    "a film": b"\0\0\0\x18ftypmp42\0\0\0\0isommp42",
    "PSB": b"8BPS\0\x02" + bytes(40),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_format_that_is_not_taken_is_refused_by_name(name: str) -> None:
    assert reason(OTHERS[name]).startswith(f"unsupported format: {name}; ")


def test_a_jpeg_of_more_bits_is_refused_by_its_bits() -> None:
    data = encoded(smooth(), "JPEG")
    frame = data.index(b"\xff\xc0")
    deep = data[: frame + 4] + b"\x0c" + data[frame + 5 :]
    assert "a JPEG of 12 bits a sample" in reason(deep)


def heic(image: Image.Image, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=95, **options)
    return file.getvalue()


def test_a_heic_is_shown_where_its_decoder_is_installed() -> None:
    found = decode(heic(smooth((64, 48))), PIXELS)
    assert found.format == "HEIF"
    assert np.abs(np.asarray(found.rgb()).astype(int) - np.asarray(smooth((64, 48)))).mean() < 4


def test_without_the_decoder_a_heic_is_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    monkeypatch.setattr(formats, "has_heif", lambda: False)
    assert reason(data) == "unsupported format: HEIF; install the extra `glr-assets[heif]`, or convert it to JPEG"


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "F", "La", "RGBa"]


@pytest.mark.parametrize("mode", MODES)
def test_any_mode_becomes_rgb(mode: str) -> None:
    made: Callable[[], Image.Image] = {
        "LAB": lambda: ImageCms.applyTransform(
            smooth(), ImageCms.buildTransform(io.BytesIO(SRGB), ImageCms.createProfile("LAB"), "RGB", "LAB")
        ),
        "I;16": lambda: Image.fromarray(np.asarray(smooth().convert("L")).astype(np.uint16) * 257),
        "La": lambda: smooth().convert("LA").convert("La"),
        "RGBa": lambda: smooth().convert("RGBA").convert("RGBa"),
    }.get(mode, lambda: smooth().convert(mode))
    found = np.asarray(Picture(made(), "TIFF", 1, None).rgb()).astype(int)
    grey = mode in {"1", "L", "LA", "La", "I;16", "F"}
    expected = np.asarray(smooth().convert("L").convert("RGB") if grey else smooth())
    within = {"1": 128, "P": 30, "CMYK": 3, "LAB": 12, "F": 40}.get(mode, 3)
    assert np.abs(found - expected).mean() <= within
