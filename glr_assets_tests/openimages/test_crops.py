"""Crops: the pixels of a box by exact fractions, and these pixels resampled as Pillow does it, whatever the way."""

from __future__ import annotations

import io
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glr_assets.openimages.crops import GREY, Rectangle, cropped, edges_in_pixels
from glr_assets.recipes import OpenImages
from glr_assets_tests.openimages.handmade import across_then_down, jpeg, pixels

SQUEEZE = OpenImages(size=32)
PAD = OpenImages(size=32, aspect="pad")


def exactly(low: Decimal, high: Decimal, side: int, margin: Fraction) -> tuple[int, int]:
    """First pixel that is touched and the one after the last, in fractions of whole numbers."""
    first, last = Fraction(low), Fraction(high)
    more = (last - first) * margin
    first, last = max(first - more, Fraction(0)), min(last + more, Fraction(1))
    return math.floor(first * side), math.ceil(last * side)


edge = st.integers(0, 10**7).map(lambda number: Decimal(number) / 10**7)


@given(edge, edge, st.integers(1, 20_000), st.sampled_from([0, 1, 2, 5]))
def test_edges_are_those_of_exact_fractions(one: Decimal, other: Decimal, side: int, tenths: int) -> None:
    low, high = sorted((one, other))
    found = edges_in_pixels(np.array([float(low)]), np.array([float(high)]), np.array([side]), tenths / 10)
    assert (found[0][0], found[1][0]) == exactly(low, high, side, Fraction(tenths, 10))


def test_products_of_floats_would_move_edges() -> None:
    # 0.07 * 100 is 7.000000000000001 and 0.29 * 100 is 28.999999999999996: one pixel too many at either end.
    assert math.ceil(0.07 * 100) == 8
    assert math.floor(0.29 * 100) == 28
    low, high = edges_in_pixels(np.array([0.29]), np.array([0.07]), np.array([100]), 0.0)
    assert (low[0], high[0]) == (29, 7)


def test_borders_are_reached_and_not_passed() -> None:
    low, high = edges_in_pixels(np.array([0.0, 0.9]), np.array([0.1, 1.0]), np.array([7, 7]), 0.5)
    assert low.tolist() == [0, 5]
    assert high.tolist() == [2, 7]


@pytest.mark.parametrize("size", [(300, 79), (79, 300), (64, 301)])
@pytest.mark.parametrize("part", ["whole", "corner", "middle", "one pixel"])
def test_crops_are_pillows_of_the_same_rectangle(size: tuple[int, int], part: str) -> None:
    width, height = size
    data = jpeg(pixels(1, size))
    left, top, right, bottom = {
        "whole": (0, 0, width, height),
        "corner": (width - 41, height - 37, width, height),
        "middle": (13, 21, 13 + 40, 21 + 33),
        "one pixel": (5, 6, 6, 7),
    }[part]
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(across_then_down(image.crop((left, top, right, bottom)), 32))
    (found,) = cropped(data, "RGB", [Rectangle(left, top, right, bottom)], 0, SQUEEZE)
    assert found.shape == (32, 32, 3)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


def test_x_goes_with_the_width_and_y_with_the_height() -> None:
    picture = np.zeros((200, 400, 3), np.uint8)
    picture[50:100, 300:400] = (255, 0, 0)
    left, right = edges_in_pixels(np.array([0.75]), np.array([1.0]), np.array([400]), 0.0)
    top, bottom = edges_in_pixels(np.array([0.25]), np.array([0.5]), np.array([200]), 0.0)
    data = jpeg(picture, quality=100, subsampling=0)
    (crop,) = cropped(data, "RGB", [Rectangle(left[0], top[0], right[0], bottom[0])], 0, SQUEEZE)
    assert crop[..., 0].min() > 245
    assert crop[..., 1:].max() < 10
    # The earlier system scaled X by the height and Y by the width, and took X for rows.
    theirs = picture[int(0.75 * 200) : 200, int(0.25 * 400) : int(0.5 * 400)]
    assert theirs.max() == 0


def decibels(found: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((found.astype(float) - expected) ** 2), 1e-9)))


@pytest.mark.parametrize("sampling", [0, 1, 2, "grey"])
@pytest.mark.parametrize("box", [(0, 0, 403, 297), (57, 31, 391, 296), (101, 3, 302, 204)])
def test_boxes_of_reduced_planes_lie_where_pillow_has_them(sampling: int | str, box: tuple[int, int, int, int]) -> None:
    # Soft, as photographs are at their finest: of pixel noise the inverse DCT keeps other parts than Lanczos. A box
    # that lay half a sample beside its place, in luma or chroma, would be at 36 dB or less.
    soft = Image.fromarray(pixels(7, (22, 18))).resize((403, 297), Image.Resampling.BICUBIC)
    mode, options = ("L", {}) if sampling == "grey" else ("RGB", {"subsampling": sampling})
    data = jpeg(np.asarray(soft), mode, quality=97, **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(across_then_down(image.convert("RGB").crop(box), 32))
    (found,) = cropped(data, mode, [Rectangle(*box)], 0, SQUEEZE)
    assert decibels(found, expected) > 42


def test_a_reduced_decoding_is_near_a_whole_one(shared_photos) -> None:  # type: ignore[no-untyped-def]
    """On photographs: of noise the inverse DCT's average is another than Lanczos'."""
    found = []
    for path in sorted((shared_photos / "gldv2").glob("*.jpg"))[:12]:
        with Image.open(path) as image:
            upright = image.convert("RGB")
        data = jpeg(np.asarray(upright))
        box = Rectangle(3, 5, upright.width - 7, upright.height - 2)
        with Image.open(io.BytesIO(data)) as image:
            whole = image.crop((box.left, box.top, box.right, box.bottom)).resize((32, 32), Image.Resampling.LANCZOS)
        (crop,) = cropped(data, "RGB", [box], 0, SQUEEZE)
        found.append(decibels(crop, np.asarray(whole)))
    assert min(found) > 35
    assert np.mean(found) > 42


def test_one_decoding_gives_every_box_what_its_own_would() -> None:
    data = jpeg(pixels(2, (400, 300)))
    boxes = [Rectangle(0, 0, 50, 60), Rectangle(100, 20, 139, 90), Rectangle(390, 290, 400, 300)]
    together = cropped(data, "RGB", boxes, 0, SQUEEZE)
    for box, crop in zip(boxes, together, strict=True):
        assert np.array_equal(crop, cropped(data, "RGB", [box], 0, SQUEEZE)[0])


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_crops_are_turned_counterclockwise_as_published(turn: int) -> None:
    upright = pixels(3, (64, 64))
    stored = np.rot90(upright, -(turn // 90))  # clockwise
    data = jpeg(np.ascontiguousarray(stored), quality=100, subsampling=0)
    whole = Rectangle(0, 0, 64, 64)
    (crop,) = cropped(data, "RGB", [whole], turn, OpenImages(size=64))
    assert np.abs(crop.astype(int) - upright).mean() < 3
    (as_stored,) = cropped(data, "RGB", [whole], turn, OpenImages(size=64, upright=False))
    assert np.abs(as_stored.astype(int) - stored).mean() < 3


def test_exif_does_not_turn_what_boxes_are_of() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    box = Rectangle(3, 4, 40, 30)
    plain, turned = jpeg(pixels(4)), jpeg(pixels(4), exif=exif)
    assert plain != turned
    assert np.array_equal(cropped(plain, "RGB", [box], 0, SQUEEZE)[0], cropped(turned, "RGB", [box], 0, SQUEEZE)[0])


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_become_rgb(mode: str) -> None:
    data = jpeg(pixels(5), mode)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == mode
        expected = np.asarray(image.convert("RGB").crop((2, 3, 34, 35)))
    (crop,) = cropped(data, mode, [Rectangle(2, 3, 34, 35)], 0, SQUEEZE)
    assert np.array_equal(crop, expected)


@pytest.mark.parametrize(("box", "inside"), [((0, 0, 60, 30), (32, 16)), ((0, 0, 20, 40), (16, 32))])
def test_padded_crops_keep_their_shape(box: tuple[int, int, int, int], inside: tuple[int, int]) -> None:
    data = jpeg(np.full((40, 60, 3), 250, np.uint8))
    (crop,) = cropped(data, "RGB", [Rectangle(*box)], 0, PAD)
    filled = (crop != GREY).all(axis=2)
    assert (int(filled.any(axis=0).sum()), int(filled.any(axis=1).sum())) == inside
    assert filled.sum() == inside[0] * inside[1]
    top, left = ((32 - side) // 2 for side in inside[::-1])
    assert filled[top : top + inside[1], left : left + inside[0]].all()
