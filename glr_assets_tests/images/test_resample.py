from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagehash
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from glr_assets.codecs.turbojpeg import Plane
from glr_assets.images.resample import Axis, dhash, resampled, resampled_strips, resized

sides = st.integers(1, 200)
seeds = st.integers(0, 2**32 - 1)


def plane(seed: int, width: int, height: int) -> Plane:
    """Noise, smooth or rough, that touches 0 and 255: Lanczos overshoots there, and must be held."""
    random = np.random.default_rng(seed)
    if seed % 3 == 0:
        return random.integers(0, 256, (height, width)).astype(np.uint8)
    if seed % 3 == 1:
        return (random.integers(0, 2, (height, width)) * 255).astype(np.uint8)
    slope = np.linspace(-40, 300, width)[None, :] + np.linspace(-40, 40, height)[:, None]
    return np.clip(slope + random.normal(0, 9, (height, width)), 0, 255).astype(np.uint8)


def by_pillow(given_plane: Plane, size: tuple[int, int], extent: tuple[float, float] | None = None) -> Plane:
    """Pillow's resize, across and then down: in one call Pillow 13 resamples tall images down first."""
    height, width = given_plane.shape
    lanczos, wide = Image.Resampling.LANCZOS, size[0]
    covered_width, covered_height = extent or (width, height)
    lines = Image.fromarray(given_plane).resize((wide, height), lanczos, box=(0, 0, covered_width, height))
    return np.asarray(lines.resize(size, lanczos, box=(0, 0, wide, covered_height)))


def in_one_call(given_plane: Plane, size: tuple[int, int]) -> Plane:
    return np.asarray(Image.fromarray(given_plane).resize(size, Image.Resampling.LANCZOS))


@given(seeds, sides, sides, sides, sides)
@example(0, 1, 1, 1, 1)
@example(1, 200, 1, 1, 200)
@example(1, 1, 200, 200, 1)
@example(0, 199, 3, 200, 2)
@example(0, 16, 16, 16, 16)
@settings(max_examples=400, deadline=None)
def test_every_size_to_every_size_is_bit_for_bit_pillows(seed: int, w: int, h: int, wide: int, high: int) -> None:
    image = plane(seed, w, h)
    found = resized(image, (wide, high))
    assert found.dtype == np.uint8
    assert np.array_equal(found, by_pillow(image, (wide, high)))


@pytest.mark.parametrize("size", [(800, 533), (533, 800), (1600, 1067), (3001, 17), (17, 3001), (5000, 400)])
@pytest.mark.parametrize("wanted", [(576, 384), (384, 385), (9, 8), (1, 1), (700, 3)])
def test_photographs_sizes_are_bit_for_bit_pillows(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    image = plane(sum(size) * 3, *size)
    assert np.array_equal(resized(image, wanted), by_pillow(image, wanted))


def test_real_luma_is_bit_for_bit_pillows_in_one_call(shared_photos: Path) -> None:
    for path in sorted((shared_photos / "gldv2").glob("*.jpg"))[::10]:
        with Image.open(path) as photo:
            luma = np.asarray(photo.convert("L"))
        height, width = luma.shape
        scale = 384 / min(luma.shape)
        size = (round(width * scale), round(height * scale))
        assert np.array_equal(resized(luma, size), by_pillow(luma, size)), path
        if max(luma.shape) < 1.5 * min(luma.shape):
            assert np.array_equal(resized(luma, size), in_one_call(luma, size)), path


@given(seeds, sides, sides, sides, sides, st.integers(0, 31), st.integers(0, 31))
@settings(max_examples=300, deadline=None)
def test_an_image_that_ends_within_its_last_samples_is_pillows_box(
    seed: int, w: int, h: int, wide: int, high: int, less_across: int, less_down: int
) -> None:
    image, extent = plane(seed, w, h), (w - less_across / 32, h - less_down / 32)  # Pillow's box is in 32 bits
    found = resampled(
        image,
        Axis(w, wide, extent[0] / wide, extent=extent[0]),
        Axis(h, high, extent[1] / high, extent=extent[1]),
    )
    # The box is where the image ends; Pillow lets the filter reach beyond it, to the plane's end, and so does this.
    assert np.array_equal(found, by_pillow(image, (wide, high), extent))


@given(seeds, sides, sides, sides, sides, st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_mirrored_axes_are_the_flipped_image(
    seed: int, w: int, h: int, wide: int, high: int, across: bool, down: bool
) -> None:
    image = plane(seed, w, h)
    found = resampled(
        image,
        Axis(w, wide, w / wide, across, float(w)),
        Axis(h, high, h / high, down, float(h)),
    )
    flipped = np.ascontiguousarray(image[:: -1 if down else 1, :: -1 if across else 1])
    expected = by_pillow(flipped, (wide, high)).astype(int)
    # A weight may end 2^-22 from Pillow's, where its distance to the centre is another float: rarely, by one.
    difference = np.abs(found - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.01 or difference.sum() <= 2
    if not (across or down):
        assert not difference.any()


def test_mirrored_axes_of_a_plane_that_ends_within_its_last_sample_start_there() -> None:
    """401 samples that cover 400.5: mirrored, the image starts with the half of the last one."""
    ramp = np.repeat(np.arange(401)[None, :] // 2, 8, axis=0).astype(np.uint8)
    down = Axis(8, 8, 1.0)
    plain = resampled(ramp, Axis(401, 89, 400.5 / 89, extent=400.5), down)
    mirrored = resampled(ramp, Axis(401, 89, 400.5 / 89, True, 400.5), down)
    assert np.abs(mirrored[:, ::-1].astype(int) - plain).max() <= 1
    shifted = resampled(ramp, Axis(401, 89, 400.5 / 89, True, 403.0), down)
    assert np.abs(shifted[:, ::-1].astype(int) - plain).max() > 1


def test_what_begins_within_a_sample_is_what_pillow_takes_from_there() -> None:
    ramp = np.random.default_rng(0).integers(0, 256, (8, 300), np.uint8)
    found = resampled(ramp, Axis(300, 40, 199.5 / 40, offset=50.25), Axis(8, 8, 1.0))
    image = Image.fromarray(ramp)
    expected = np.asarray(image.resize((40, 8), Image.Resampling.LANCZOS, box=(50.25, 0, 249.75, 8)))
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert np.abs(resampled(ramp, Axis(300, 40, 199.5 / 40), Axis(8, 8, 1.0)).astype(int) - expected).max() > 20


@given(seeds, sides, sides)
@example(0, 9, 8)
@example(0, 1, 1)
@settings(max_examples=300, deadline=None)
def test_the_hash_is_imagehashs(seed: int, w: int, h: int) -> None:
    image = plane(seed, w, h)
    # What is left to imagehash is to resample down, so that it cannot choose the order.
    lines = Image.fromarray(image).resize((9, h), Image.Resampling.LANCZOS)
    assert dhash(image) == int(str(imagehash.dhash(lines)), 16)


@pytest.mark.parametrize("size", [(384, 576), (512, 384), (1200, 384), (384, 384), (65_000, 2)])
def test_the_hash_of_stored_sizes_is_imagehashs_as_it_is_called(size: tuple[int, int]) -> None:
    for seed in range(6):
        image = plane(seed, *size)
        assert dhash(image) == int(str(imagehash.dhash(Image.fromarray(image))), 16)


def test_the_hash_has_its_first_bit_highest() -> None:
    image = np.zeros((8, 9), np.uint8)
    image[0, 1:] = 255  # brighter than its left neighbour in the first row, first column only
    assert dhash(image) == 1 << 63
    image = np.zeros((8, 9), np.uint8)
    image[7, 8] = 255
    assert dhash(image) == 1


def test_planes_need_not_be_contiguous() -> None:
    image = plane(3, 120, 90)
    for view in (image[:80, :100], image[::2, ::3], image.T, image[::-1]):
        size = (31, 17)
        assert np.array_equal(resized(view, size), by_pillow(np.ascontiguousarray(view), size))


def test_strips_give_what_the_whole_gives() -> None:
    image = plane(1, 70, 300)
    across, down = Axis(70, 33, 70 / 33), Axis(300, 41, 300 / 41)
    for rows in (1, 7, 128, 300):
        strips = ([image[top : top + rows], 255 - image[top : top + rows]] for top in range(0, 300, rows))
        plain, inverse = resampled_strips(strips, across, down)
        assert np.array_equal(plain, by_pillow(image, (33, 41)))
        assert np.array_equal(inverse, by_pillow(255 - image, (33, 41)))


def test_planes_longer_than_a_strip_are_bit_for_bit_pillows() -> None:
    image = plane(3, 40, 2500)
    assert np.array_equal(resized(image, (30, 2400)), by_pillow(image, (30, 2400)))
    assert np.array_equal(resized(image.T, (2400, 30)), by_pillow(np.ascontiguousarray(image.T), (2400, 30)))


def test_threads_give_the_same_bytes() -> None:
    jobs = [(plane(seed, 90 + seed % 7, 60), (50 + seed % 5, 33)) for seed in range(60)]
    alone = [resized(*job) for job in jobs]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda job: resized(*job), jobs * 5))
    finally:
        sys.setswitchinterval(switch)
    assert all(np.array_equal(a, b) for a, b in zip(alone * 5, together, strict=True))
