from __future__ import annotations

import contextlib
import io
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagehash
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageFilter, ImageOps, features

from glr_assets.codecs import decode as codec
from glr_assets.codecs.turbojpeg import Plane
from glr_assets.images import pixels
from glr_assets.images.pixels import KEPT, PILLOW, PLANES, Refused, StoredImage, downsize, stored_size
from glr_assets.recipes import Images
from glr_assets_tests.codecs.test_turbojpeg import of_scans, rgb_jpegs
from glr_assets_tests.images.handmade import picture

FULL = Images()
SMALL = Images(min_side=32)
pytestmark = [  # what Pillow warns of in damaged files: pytest puts its own filters over the module's
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]
Encoded = Callable[[bytes, Images], npt.NDArray[np.int16]]
Planes = tuple[Plane, Plane, Plane]
PlanesEncoded = Callable[[bytes, Images], tuple[StoredImage, Planes]]


def stored(data: bytes, recipe: Images = FULL) -> StoredImage:
    found = downsize(data, recipe)
    assert isinstance(found, StoredImage), found
    return found


def refused(data: bytes, recipe: Images = FULL) -> str:
    found = downsize(data, recipe)
    assert isinstance(found, Refused), found
    return found.reason


def decoded(data: bytes) -> npt.NDArray[np.int16]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(np.int16)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def before_encoding(monkeypatch: pytest.MonkeyPatch) -> Encoded:
    """Stores an image and gives the pixels that were handed to the encoder, in RGB; a kept one's as they are."""
    seen: list[Image.Image] = []
    of_planes, of_pillow = pixels.encode_planes, pixels._encoded
    monkeypatch.setattr(pixels, "encode_planes", lambda y, c, q: seen.append(in_rgb(y, c)) or of_planes(y, c, q))
    monkeypatch.setattr(pixels, "_encoded", lambda image, recipe: seen.append(image) or of_pillow(image, recipe))

    def pixels_of(data: bytes, recipe: Images) -> npt.NDArray[np.int16]:
        found = stored(data, recipe)
        return decoded(found.jpeg) if found.pixel_path == KEPT else np.asarray(seen[-1]).astype(np.int16)

    return pixels_of


@pytest.fixture
def planes_before_encoding(monkeypatch: pytest.MonkeyPatch) -> PlanesEncoded:
    """Stores a JPEG and gives the planes that were handed to the encoder, luma first."""
    seen: list[Planes] = []
    of_planes = pixels.encode_planes
    monkeypatch.setattr(pixels, "encode_planes", lambda y, c, q: seen.append((y, *c)) or of_planes(y, c, q))

    def planes_of(data: bytes, recipe: Images) -> tuple[StoredImage, Planes]:
        found = stored(data, recipe)
        assert found.pixel_path == PLANES
        return found, seen[-1]

    return planes_of


def in_rgb(luma: Plane, chroma: tuple[Plane, Plane]) -> Image.Image:
    """Planes as a viewer shows them: chroma, which lies between the pixels, is interpolated."""
    height, width = luma.shape
    bicubic = Image.Resampling.BICUBIC
    wide = [Image.fromarray(plane).resize((2 * plane.shape[1], 2 * plane.shape[0]), bicubic) for plane in chroma]
    planes = [Image.fromarray(luma), *(plane.crop((0, 0, width, height)) for plane in wide)]
    return Image.merge("YCbCr", planes).convert("RGB")


def shrunk_by_pillow(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Pillow's Lanczos, across and then down: in one call Pillow 13 resamples tall images down first."""
    lanczos = Image.Resampling.LANCZOS
    return image.resize((size[0], image.height), lanczos).resize(size, lanczos)


def luma_of(data: bytes) -> Image.Image:
    """Y as the libjpeg within Pillow decodes it."""
    image = Image.open(io.BytesIO(data))
    image.draft("L", image.size)
    assert image.mode == "L"
    return image


def psnr(found: npt.NDArray, expected: npt.NDArray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((found.astype(float) - expected) ** 2), 1e-9)))


def some_photographs(folder: Path) -> list[Path]:
    """About thirty photographs of every kind of folder."""
    return [
        path
        for kind, every in (("landmarks", 40), ("gldv2", 20), ("non_landmarks", 30))
        for path in sorted((folder / kind).rglob("*.jp*g"))[::every]
    ]


def lanczos3(image: npt.NDArray[np.float64], size: int, axis: int) -> npt.NDArray[np.float64]:
    """Lanczos with a = 3, stretched by the scale when shrinking, along one axis (the definition, in floats)."""
    length = image.shape[axis]
    scale = max(length / size, 1.0)
    centres = (np.arange(size) + 0.5) * length / size
    x = (np.arange(length)[None, :] + 0.5 - centres[:, None]) / scale
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis)


def test_photographs_keep_their_shape(shared_photos: Path) -> None:
    for path in some_photographs(shared_photos):
        found = stored(path.read_bytes())
        with Image.open(path) as image:
            width, height = ImageOps.exif_transpose(image).size
        assert found.source_size == (width, height), path
        smaller = min(width, height)
        assert min(found.size) == min(384, smaller), path
        scale = min(found.size) / smaller
        assert abs(found.size[0] - width * scale) <= 1, path
        assert abs(found.size[1] - height * scale) <= 1, path
        assert decoded(found.jpeg).shape == (found.size[1], found.size[0], 3), path


def test_photographs_have_the_hash_of_their_stored_luma_close_to_their_own(
    shared_photos: Path, planes_before_encoding: PlanesEncoded
) -> None:
    distances = []
    paths = {*some_photographs(shared_photos), *sorted((shared_photos / "gldv2").glob("*.jpg"))[::2]}
    for path in sorted(paths):
        data = path.read_bytes()
        found = stored(data)
        if found.pixel_path == PLANES:
            found, (luma, _, _) = planes_before_encoding(data, FULL)
            lines = Image.fromarray(luma).resize((9, luma.shape[0]), Image.Resampling.LANCZOS)
            assert found.dhash == int(str(imagehash.dhash(lines)), 16), path
        with Image.open(path) as image:
            original = int(str(imagehash.dhash(ImageOps.exif_transpose(image).convert("RGB"))), 16)
        distances.append((found.dhash ^ original).bit_count())
    assert len(distances) > 90
    # From one photograph to another it is 20 and more; twice shrunk, only columns of the same grey change places.
    assert max(distances) <= 3
    assert np.mean(distances) <= 0.3


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["plain", "progressive"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(500, 400), (401, 733), (1001, 385), (800, 600)])
def test_luma_is_bit_for_bit_pillows_lanczos_of_the_luma_of_the_jpeg(
    size: tuple[int, int], mode: str, options: dict[str, object], planes_before_encoding: PlanesEncoded
) -> None:
    data = encoded(Image.open(io.BytesIO(picture(2, size))).convert(mode), "JPEG", **options)
    found, (luma, blue, red) = planes_before_encoding(data, FULL)
    assert np.array_equal(luma, np.asarray(shrunk_by_pillow(luma_of(data), found.size)))
    assert blue.shape == red.shape == (-(-luma.shape[0] // 2), -(-luma.shape[1] // 2))
    if mode == "L":
        assert (blue == 128).all()
        assert (red == 128).all()


def test_photographs_are_before_encoding_what_pillow_shows(
    shared_photos: Path, before_encoding: Encoded, planes_before_encoding: PlanesEncoded
) -> None:
    """PSNR in RGB against Pillow's own decoding and Lanczos; luma to the bit.

    In RGB it is chroma of half the sides that costs, and colours beyond RGB's, which Pillow clips before it
    shrinks. Pillow's own pixels, brought to 4:2:0, are on average farther from themselves.
    """
    found: dict[str, list[float]] = {"gldv2": [], "large": []}
    paths = [("gldv2", path) for path in sorted((shared_photos / "gldv2").glob("*.jpg"))[::4]]
    for path in sorted((shared_photos / "landmarks").rglob("*.jpg")):
        with Image.open(path) as image:
            paths += [("large", path)] * (max(image.size) >= 1300)
    for kind, path in paths:
        data = path.read_bytes()
        image = stored(data)
        if image.pixel_path != PLANES:
            continue
        assert min(image.size) == 384
        with Image.open(path) as whole:
            turned = whole.getexif().get(0x0112, 1) != 1
            upright = ImageOps.exif_transpose(whole).convert("RGB")
        shown = np.asarray(upright.resize(image.size, Image.Resampling.LANCZOS))
        found[kind].append(psnr(before_encoding(data, FULL), shown))
        if turned:
            continue
        _, (luma, _, _) = planes_before_encoding(data, FULL)
        expected = np.asarray(shrunk_by_pillow(luma_of(data), image.size))
        if min(upright.size) < 2 * pixels.SPARE * 384:
            assert np.array_equal(luma, expected), path
        else:  # the inverse DCT shrank it first, which loses less than the encoding then does
            assert psnr(luma, expected) > psnr(np.asarray(luma_of(image.jpeg)), luma), path
    assert len(found["gldv2"]) >= 30
    assert len(found["large"]) >= 30
    assert np.mean(found["gldv2"]) >= 48
    assert min(found["gldv2"]) >= 40
    assert np.mean(found["large"]) >= 41


#: OpenCV's numbers: the factors of Y, Cb and Cr as digits.
SUBSAMPLINGS = {"4:4:4": 0x111111, "4:2:2": 0x211111, "4:2:0": 0x221111, "4:4:0": 0x121111, "4:1:1": 0x411111}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_every_turn_and_subsampling_is_what_pillow_shows(
    orientation: int, subsampling: str, planes_before_encoding: PlanesEncoded
) -> None:
    """Odd sizes, shrunk by the inverse DCT by 1, 2 and 4 first; chroma half a stored pixel off would be seen."""
    coarse = np.random.default_rng(5).integers(30, 226, (7, 9, 3)).astype(np.uint8)
    for size in ((173, 131), (333, 251), (701, 533)):
        upright = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        data = turned_jpeg(as_seen(upright, orientation), orientation, SUBSAMPLINGS[subsampling])
        found, (luma, *chroma) = planes_before_encoding(data, Images(min_side=64))
        assert found.source_size == size
        with Image.open(io.BytesIO(data)) as image:
            shown = ImageOps.exif_transpose(image).convert("RGB").resize(found.size, Image.Resampling.LANCZOS)
        expected = np.asarray(shown)
        # Of 4:1:1 libjpeg repeats chroma four times, which at a small reduction is to be seen.
        assert psnr(np.asarray(in_rgb(luma, chroma)), expected) >= (40 if subsampling == "4:1:1" else 45), size
        for across, down in ((0.25, 0), (-0.25, 0), (0, 0.25), (0, -0.25)):
            shifted = [moved(plane, across, down) for plane in chroma]
            assert psnr(np.asarray(in_rgb(luma, shifted)), expected) < 36, size


def turned_jpeg(seen: Image.Image, orientation: int, subsampling: int) -> bytes:
    """A JPEG of these factors that tells this orientation."""
    import cv2

    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, subsampling, cv2.IMWRITE_JPEG_QUALITY, 95]
    data = cv2.imencode(".jpg", np.asarray(seen)[..., ::-1], options)[1].tobytes()
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = exif.tobytes()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]


def moved(plane: Plane, across: float, down: float) -> Plane:
    matrix = (1, 0, across, 0, 1, down)
    image = Image.fromarray(plane)
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC))


def test_photographs_are_shrunk_as_lanczos_is_defined(shared_photos: Path, before_encoding: Encoded) -> None:
    large = [path for path in some_photographs(shared_photos) if min(Image.open(path).size) > 384][:4]
    assert len(large) == 4
    for path in large:
        found = before_encoding(path.read_bytes(), FULL)
        height, width, _ = found.shape
        source = decoded(path.read_bytes()).astype(np.float64)
        # It is rounded to 8 bits between the two passes and has less chroma, so this agrees but not to the bit.
        expected = np.clip(lanczos3(lanczos3(source, width, 1), height, 0), 0, 255)
        assert psnr(found, expected) >= 40, path


def test_stored_jpegs_look_like_the_pixels_before_encoding(shared_photos: Path, before_encoding: Encoded) -> None:
    for path in some_photographs(shared_photos)[::6]:
        recipe = Images(min_side=256)
        before = before_encoding(path.read_bytes(), recipe)
        after = decoded(stored(path.read_bytes(), recipe).jpeg)
        assert psnr(before, after) > 27, path


def test_shrinking_does_not_alias(before_encoding: Encoded) -> None:
    board = (np.indices((512, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)
    found = before_encoding(encoded(Image.fromarray(board), "PNG"), Images(min_side=128))
    assert np.abs(found[8:-8, 8:-8] - 127.5).max() < 3  # a filter of fixed support leaves 0 or 255


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}], ids=["plain", "progressive", "low"])
def test_a_small_jpeg_is_kept_byte_for_byte(mode: str, options: dict[str, object]) -> None:
    for size in ((50, 30), (384, 400), (2, 1), (384, 384)):
        data = encoded(Image.open(io.BytesIO(picture(1, size))).convert(mode), "JPEG", **options)
        found = stored(data)
        assert found.jpeg == data
        assert found.size == found.source_size == size
        assert found.pixel_path == KEPT
        assert found.dhash == int(str(imagehash.dhash(luma_of(data))), 16)


def test_a_jpeg_one_pixel_too_large_is_shrunk_to_the_side() -> None:
    found = stored(picture(1, (385, 770)))
    assert found.size == (384, 768)
    assert found.source_size == (385, 770)
    assert found.source_format == "JPEG"


def as_seen(upright: Image.Image, orientation: int) -> Image.Image:
    """How a camera writes `upright` when it tells this orientation (EXIF 2.3, 4.6.4.A: where row 0, column 0 are)."""
    a = np.asarray(upright)
    swapped = a.swapaxes(0, 1)
    written = {
        1: a,  # top, left
        2: a[:, ::-1],  # top, right
        3: a[::-1, ::-1],  # bottom, right
        4: a[::-1],  # bottom, left
        5: swapped,  # left, top
        6: swapped[::-1],  # right, top
        7: swapped[::-1, ::-1],  # right, bottom
        8: swapped[:, ::-1],  # left, bottom
    }[orientation]
    return Image.fromarray(np.ascontiguousarray(written))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_an_image_is_turned_upright(orientation: int, kind: str, before_encoding: Encoded) -> None:
    upright = Image.open(io.BytesIO(picture(3, (64, 48))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = encoded(as_seen(upright, orientation), kind, exif=exif, **lossless)
    found = before_encoding(data, SMALL.model_copy(update={"min_side": 384}))
    assert found.shape == (48, 64, 3)
    assert np.abs(found - np.asarray(upright)).max() <= (0 if kind != "JPEG" else 6)
    if kind == "JPEG":
        assert (stored(data).jpeg == data) == (orientation == 1)
    kept = stored(data)
    assert kept.source_size == kept.size == (64, 48)


def test_photographs_of_every_orientation_end_up_alike(shared_photos: Path) -> None:
    folder = shared_photos / "nasty" / "exif_orientation"
    found = {number: stored((folder / f"Landscape_{number}.jpg").read_bytes()) for number in range(9)}
    assert {image.size for image in found.values()} == {found[1].size}
    small = {number: np.asarray(Image.open(io.BytesIO(image.jpeg)).resize((64, 48))) for number, image in found.items()}
    for number, image in small.items():
        # The file tells its number in the picture; the rest is the same photograph.
        assert np.median(np.abs(image.astype(int) - small[1].astype(int))) <= 4, number
        assert (found[number].dhash ^ found[1].dhash).bit_count() <= 6, number
    for turned in (small[1][::-1], small[1][:, ::-1], small[1][::-1, ::-1]):
        assert np.median(np.abs(turned.astype(int) - small[1].astype(int))) > 10


def test_a_damaged_exif_block_does_not_cost_the_photograph() -> None:
    # With a resolution in its JFIF header, Pillow does not look at EXIF while it opens the file.
    whole = encoded(Image.open(io.BytesIO(picture(4))), "JPEG", dpi=(72, 72))
    block = b"Exif\0\0MM\x13*\0\0\0\x08" + bytes(20)
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    jfif = whole.index(b"\xff\xe0")
    end = jfif + 2 + int.from_bytes(whole[jfif + 2 : jfif + 4], "big")
    data = whole[:end] + segment + whole[end:]
    with pytest.raises(SyntaxError, match="not a TIFF file"):
        Image.open(io.BytesIO(data)).getexif()
    assert np.array_equal(decoded(stored(data, SMALL).jpeg), decoded(stored(whole, SMALL).jpeg))
    assert stored(data).jpeg == data


def test_grey_and_cmyk_become_their_colours() -> None:
    upright = Image.open(io.BytesIO(picture(5, (64, 48))))
    grey = decoded(stored(encoded(upright.convert("L"), "PNG")).jpeg)
    assert np.ptp(grey, axis=2).max() <= 2
    assert np.abs(grey[..., 0] - np.asarray(upright.convert("L")).astype(int)).mean() < 4
    data = encoded(upright.convert("CMYK"), "JPEG", quality=95)
    cmyk = stored(data)
    assert cmyk.jpeg != data
    assert Image.open(io.BytesIO(cmyk.jpeg)).mode == "RGB"
    assert np.abs(decoded(cmyk.jpeg) - np.asarray(upright)).mean() < 5


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P in GIF", "P in PNG", "RGB key", "L key"])
def test_what_is_transparent_lies_over_white(kind: str, before_encoding: Encoded) -> None:
    """A black image, its left half transparent."""
    clear = np.zeros((40, 60, 4), np.uint8)
    clear[:, 30:, 3] = 255
    image = Image.fromarray(clear)
    if kind in {"LA", "RGBA"}:
        data = encoded(image.convert(kind), "PNG")
    elif kind in {"P in GIF", "P in PNG"}:
        flat = Image.new("P", (60, 40), 0)
        flat.putpalette([255, 0, 0, 0, 0, 0])
        flat.paste(1, (30, 0, 60, 40))
        data = encoded(flat, kind[-3:], transparency=0)
    elif kind == "RGB key":
        flat = Image.new("RGB", (60, 40), (10, 20, 30))
        flat.paste(0, (30, 0, 60, 40))
        data = encoded(flat, "PNG", transparency=(10, 20, 30))
    else:
        flat = Image.new("L", (60, 40), 77)
        flat.paste(0, (30, 0, 60, 40))
        data = encoded(flat, "PNG", transparency=77)
    found = before_encoding(data, FULL)
    assert (found[:, :30] == 255).all()
    assert (found[:, 30:] == 0).all()


def test_half_transparent_red_over_white_is_pink(before_encoding: Encoded) -> None:
    data = encoded(Image.new("RGBA", (40, 40), (255, 0, 0, 128)), "PNG")
    assert np.abs(before_encoding(data, FULL) - [255, 127, 127]).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF big-endian", "PPM"])
def test_a_16_bit_grey_is_scaled_and_not_blown_out(kind: str, before_encoding: Encoded) -> None:
    ramp = np.linspace(0, 65535, 60).astype(np.uint16)[None, :].repeat(40, axis=0)
    if kind == "PPM":
        data = b"P5 60 40 65535\n" + ramp.astype(">u2").tobytes()
    elif kind == "TIFF big-endian":
        data = big_endian_tiff(ramp)
    else:
        data = encoded(Image.fromarray(ramp), kind)
    found = before_encoding(data, FULL)
    assert np.abs(found - (ramp // 256)[..., None].astype(int)).max() <= 1


def big_endian_tiff(ramp: npt.NDArray[np.uint16]) -> bytes:
    """An uncompressed 16-bit grey TIFF in Motorola byte order (TIFF 6.0, section 3)."""
    height, width = ramp.shape
    tags = [(256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8 + 2 + 8 * 12 + 4)]
    tags += [(278, 3, height), (279, 4, ramp.size * 2)]
    directory = b"".join(
        struct.pack(">HHIHH", tag, kind, 1, value, 0) if kind == 3 else struct.pack(">HHII", tag, kind, 1, value)
        for tag, kind, value in tags
    )
    return b"MM\0*" + struct.pack(">IH", 8, len(tags)) + directory + bytes(4) + ramp.astype(">u2").tobytes()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_stored(kind: str) -> None:
    red, blue = (Image.new("RGB", (60, 40), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    found = stored(encoded(red, kind, save_all=True, append_images=[blue, blue], duration=100, **options))
    assert found.source_format == kind
    assert np.abs(decoded(found.jpeg) - [255, 0, 0]).max() <= 4


def test_of_a_multi_picture_jpeg_the_first_picture_is_stored() -> None:
    first, second = (Image.open(io.BytesIO(picture(seed, (80, 60)))) for seed in (1, 2))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    found = stored(data)
    assert found.source_format == "MPO"
    assert Image.open(io.BytesIO(found.jpeg)).format == "JPEG"
    assert np.abs(decoded(found.jpeg) - np.asarray(first)).mean() < 5


def test_every_format_that_is_told_apart_is_stored() -> None:
    image = Image.open(io.BytesIO(picture(6)))
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO"):
        assert stored(encoded(image, kind)).source_format == kind


def test_images_that_are_none_are_refused_by_what_they_start_with() -> None:
    assert refused(b"") == "empty: zero bytes"
    assert refused(b"<!DOCTYPE html><title>404</title>") == (
        "no image that can be opened: starts with 3c 21 44 4f 43 54 59 50"
    )
    assert refused(b"\0") == "no image that can be opened: starts with 00"


CODINGS = [{}, {"progressive": True}, {"keep_rgb": True}]


@pytest.mark.parametrize("options", CODINGS, ids=["plain", "progressive", "RGB"])
def test_a_cut_jpeg_is_refused_by_what_is_missing(options: dict[str, object]) -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    data = encoded(Image.open(io.BytesIO(picture(7, (600, 1500)))), "JPEG", **options)
    for share in (0.3, 0.6, 0.9, 0.97):
        reason = refused(data[: int(len(data) * share)])
        assert reason.startswith("undecodable: cut: "), share
        if not options:
            missing = int(reason.removeprefix("undecodable: cut: the last ").split("%")[0]) / 100
            assert abs(missing - (1 - share)) < 0.15, share


@pytest.mark.parametrize("lost", [0, 1, 2, 3, 20, 60])
@pytest.mark.parametrize("options", CODINGS, ids=["plain", "progressive", "RGB"])
def test_a_jpeg_without_its_last_bytes_is_what_viewers_show(
    options: dict[str, object], lost: int, before_encoding: Encoded
) -> None:
    """Its end mark and some bytes of its last row of blocks."""
    image = Image.open(io.BytesIO(picture(7, (600, 1500))))
    whole = encoded(image, "JPEG", **options)
    found = stored(whole[: -2 - lost], SMALL)
    assert found.pixel_path == f"{PILLOW}+mended-1"
    assert found.source_size == (600, 1500)
    shown = np.asarray(shrunk_by_pillow(image.convert("RGB"), found.size)).astype(int)
    rows = shown.shape[0] * 49 // 50 - 1
    assert np.abs(before_encoding(whole[: -2 - lost], SMALL) - shown)[:rows].mean() < 2


def test_a_small_jpeg_without_an_end_mark_is_stored_with_one() -> None:
    data = picture(7, (60, 40))
    found = stored(data[:-2])
    assert found.pixel_path == f"{PILLOW}+mended-1"
    assert found.jpeg.endswith(b"\xff\xd9")
    assert psnr(decoded(found.jpeg), decoded(data)) > 28


def png_header(width: int, height: int) -> bytes:
    """A PNG that tells its size and holds almost nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(100_000, 100_000), (15_000, 10_000), (2**31 - 1, 2**31 - 1), (12_001, 10_000)])
def test_a_decompression_bomb_is_refused_before_decoding(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoding(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoding)
    assert refused(png_header(*size)).startswith("too large: ")


def test_as_many_pixels_as_the_recipe_allows_are_decoded() -> None:
    data = encoded(Image.new("L", (100, 50)), "PNG")
    assert stored(data, Images(max_pixels=5000)).size == (100, 50)
    assert refused(data, Images(max_pixels=4999)) == "too large: 100x50 pixels, at most 4999 are decoded"


LONG_SIZES = [
    (384, 65_500),
    (65_500, 384),
    (100, 30_000),
    (1, 65_535),
    (5000, 400),
    (3000, 384),
    (2800, 400),
    (384, 4000),
]


@pytest.mark.parametrize("size", LONG_SIZES, ids=str)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_long_picture_is_stored_within_the_recipes_limits(size: tuple[int, int], kind: str) -> None:
    if kind == "JPEG" and max(size) > 65_500:
        pytest.skip("a JPEG has at most 65500 a side")
    found = stored(encoded(Image.linear_gradient("L").resize(size), kind))
    width, height = found.size
    assert max(found.size) <= FULL.max_side
    assert width * height <= FULL.max_stored_pixels
    assert found.source_size == size
    # As large as the limits allow, in the shape it has.
    closest = max(width * height / FULL.max_stored_pixels, max(found.size) / FULL.max_side, min(found.size) / 384)
    assert closest > 0.99
    scale = max(size) / max(found.size)
    assert abs(min(size) / scale - min(found.size)) <= 1


@given(
    width=st.integers(1, 70_000),
    height=st.integers(1, 70_000),
    min_side=st.integers(32, 1000),
    max_side=st.integers(2000, 65_500),
    most=st.integers(2_000_000, 10_000_000),
)
def test_a_size_is_the_recipes_or_within_its_limits(
    width: int, height: int, min_side: int, max_side: int, most: int
) -> None:
    recipe = Images(min_side=min_side, max_side=max_side, max_stored_pixels=most)
    size = (width, height)
    found = stored_size(size, recipe)
    assert max(found) <= max_side
    assert found[0] * found[1] <= most * (1 + 1 / min_side)
    assert min(found) >= 1
    assert max(found) <= max(size)
    if max(size) <= 2 * min(size):  # an ordinary picture
        assert min(found) == min(min_side, *size)


JPEG_KINDS = rgb_jpegs()


@pytest.mark.parametrize("kind", JPEG_KINDS)
def test_a_jpeg_of_other_colours_is_what_pillow_shows(kind: str, before_encoding: Encoded) -> None:
    data = JPEG_KINDS[kind]
    shown = Image.open(io.BytesIO(data)).convert("RGB")
    for min_side in (384, 32):
        found = stored(data, Images(min_side=min_side))
        assert found.pixel_path == (KEPT if min_side == 384 and kind in {"RGB", "Adobe transform 0"} else PILLOW)
        expected = shrunk_by_pillow(shown, found.size)
        assert np.array_equal(before_encoding(data, Images(min_side=min_side)), np.asarray(expected))


@pytest.mark.parametrize("size", [(900, 700), (41, 700), (700, 41)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_other_formats_are_shrunk_as_pillow_shrinks_what_it_shows(
    orientation: int, size: tuple[int, int], before_encoding: Encoded
) -> None:
    upright = Image.open(io.BytesIO(picture(11, size)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = as_seen(upright, orientation)
    data = encoded(lying, "PNG", exif=exif)
    found = before_encoding(data, SMALL)
    across_and_down = slice(None, None, -1 if orientation >= 5 else 1)
    expected = shrunk_by_pillow(lying, found.shape[1::-1][across_and_down])
    expected.getexif()[0x0112] = orientation
    difference = np.abs(found - np.asarray(ImageOps.exif_transpose(expected)))
    # Mirrored, a sample's distance to the centre is another float, and so rarely another step of 2^-22.
    assert difference.max() <= (0 if orientation in {1, 5} else 1)
    assert (difference > 0).mean() < 0.001
    assert stored(data, SMALL).pixel_path == PILLOW


def test_a_jpeg_that_no_decoder_here_takes_is_refused_by_what_it_is() -> None:
    data = picture(12)
    frame = data.index(b"\xff\xc0")
    deep = data[: frame + 4] + b"\x0c" + data[frame + 5 :]
    assert refused(deep).endswith("; as a JPEG: Unsupported JPEG data precision 12")
    lossless = data[: frame + 1] + b"\xc3" + data[frame + 2 :]
    assert refused(lossless).endswith("; as a JPEG: Unsupported JPEG process: SOF type 0xc3")


def test_a_jpeg_of_a_hundred_scans_is_decoded_and_of_more_refused() -> None:
    assert stored(of_scans(99)).size == (64, 64)
    assert refused(of_scans(100)) == "undecodable: a JPEG of more than 100 scans"
    assert refused(of_scans(5000)) == "undecodable: a JPEG of more than 100 scans"
    damaged = of_scans(5000).replace(b"\xff\xdb", b"\xff\xdb\0\0\xff\xdb", 1)
    assert refused(damaged) == "undecodable: a JPEG of more than 100 scans"


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_an_avif_is_stored_upright() -> None:
    upright = Image.open(io.BytesIO(picture(13, (64, 48))))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = stored(encoded(as_seen(upright, 6), "AVIF", exif=exif, quality=95))
    assert (found.source_format, found.source_size) == ("AVIF", (64, 48))
    assert psnr(decoded(found.jpeg), np.asarray(upright)) > 28


@pytest.mark.parametrize("kind", ["progressive", "thin", "PNG"])
def test_large_images_are_worked_on_one_at_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an image that is not large, or that the inverse DCT makes small, several at once."""
    size = (330, 3300) if kind == "thin" else (1000, 1000)
    data = picture(14, size)
    if kind == "progressive":
        data = encoded(Image.open(io.BytesIO(data)), "JPEG", progressive=True)
    elif kind == "PNG":
        data = encoded(Image.open(io.BytesIO(data)), "PNG")
    recipe = Images(min_side=320 if kind == "thin" else 32)
    expected = stored(data, recipe)
    monkeypatch.setattr(codec._Large, "pixels", 10**6 - 1)
    assert at_once(data, recipe, expected, 0.3, monkeypatch) == 1
    monkeypatch.setattr(codec._Large, "pixels", 2 * 10**6)
    assert at_once(data, recipe, expected, 30, monkeypatch) == 4
    small = picture(14, (1000, 1000))  # baseline: 125 x 125 come out of the inverse DCT
    monkeypatch.setattr(codec._Large, "pixels", 125 * 125)
    assert at_once(small, SMALL, stored(small, SMALL), 30, monkeypatch) == 4
    monkeypatch.setattr(codec, "PIXELS_AT_ONCE", 2 * 125 * 125)
    assert at_once(small, SMALL, stored(small, SMALL), 0.3, monkeypatch) == 2


def at_once(
    data: bytes, recipe: Images, expected: StoredImage, patience: float, monkeypatch: pytest.MonkeyPatch
) -> int:
    """How many of four threads resample at the same time; the first waits for the others so many seconds."""
    meeting, inside, most = threading.Barrier(4), [], []
    originals = {name: getattr(pixels, name) for name in ("_shrunk", "_shrunk_rgb")}

    def watched(name: str) -> Callable[..., object]:
        def shrunk(*arguments: object) -> object:
            inside.append(name)
            with contextlib.suppress(threading.BrokenBarrierError):
                meeting.wait(patience)
            most.append(len(inside))
            found = originals[name](*arguments)
            inside.pop()
            return found

        return shrunk

    with monkeypatch.context() as patch, ThreadPoolExecutor(4) as pool:
        for name in originals:
            patch.setattr(pixels, name, watched(name))
        assert all(found == expected for found in pool.map(lambda _: downsize(data, recipe), range(4)))
    return max(most)


def test_threads_store_the_same_bytes(shared_photos: Path) -> None:
    files = [path.read_bytes() for path in sorted((shared_photos / "gldv2").glob("*.jpg"))[::12]]
    files += [picture(1), encoded(Image.open(io.BytesIO(picture(15, (500, 600)))), "PNG"), JPEG_KINDS["CMYK"]]
    alone = [downsize(data, FULL) for data in files]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda data: downsize(data, FULL), files * 3)) == alone * 3


SEEDS = [
    picture(8, (70, 50)),
    encoded(Image.open(io.BytesIO(picture(8))), "JPEG", progressive=True),
    *(encoded(Image.open(io.BytesIO(picture(9, (20, 15)))), kind) for kind in ("PNG", "WEBP", "GIF", "BMP", "TIFF")),
]


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_refused_or_stored(data: bytes) -> None:
    for start in (
        b"",
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"II*\0",
        b"RIFF\0\0\0\0WEBP",
        b"BM",
        b"P6 ",
    ):
        assert isinstance(downsize(start + data, Images(max_pixels=10**6)), Refused | StoredImage)


@given(
    st.sampled_from(SEEDS), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), min_size=1, max_size=9), st.data()
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.data_too_large])
def test_images_with_flipped_bits_are_refused_or_stored(
    seed: bytes, flips: list[tuple[float, int]], data: st.DataObject
) -> None:
    damaged = bytearray(seed)
    for place, bit in flips:
        # More of the flips fall on the header, where the sizes are.
        at = int(place**2 * (len(damaged) - 1))
        damaged[at] ^= 1 << bit
    cut = data.draw(st.just(len(damaged)) | st.integers(1, len(damaged)))
    found = downsize(bytes(damaged[:cut]), Images(max_pixels=10**6))
    assert isinstance(found, Refused | StoredImage)
    if isinstance(found, StoredImage):
        assert decoded(found.jpeg).shape == (found.size[1], found.size[0], 3)


def test_threads_leave_the_warning_filters_of_the_process_as_they_were() -> None:
    filters = list(warnings.filters)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: downsize(picture(n % 5), SMALL), range(200)))
    finally:
        sys.setswitchinterval(switch)
    assert list(warnings.filters) == filters


def test_sharpness_is_the_variance_of_the_laplacian_and_falls_with_blur() -> None:
    """Pech-Pacheco et al. (2000); the 3 x 3 kernel, borders mirrored without their last sample."""
    image = Image.open(io.BytesIO(picture(2, (300, 200)))).convert("L")
    noisy = Image.fromarray(
        (np.asarray(image) // 2 + np.random.default_rng(0).integers(0, 128, (200, 300))).astype("u1")
    )
    measured = []
    for radius in (0, 1, 3):
        blurred = noisy.filter(ImageFilter.GaussianBlur(radius)) if radius else noisy
        found = stored(encoded(blurred, "PNG")).sharpness
        padded = np.pad(np.asarray(blurred).astype(np.int64), 1, mode="reflect")
        laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * padded[1:-1, 1:-1]
        assert found == pytest.approx(laplacian.var(), rel=1e-9)
        measured.append(found)
    assert measured == sorted(measured, reverse=True)
