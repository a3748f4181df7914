"""Photographs: who is held out, what a network sees, how pictures vary and in what order they come."""

from __future__ import annotations

import io
import random
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glr_assets.errors import EmbedderError
from glr_assets.recipes import Learning
from glr_assets.training.photographs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    EpochBatches,
    Pictures,
    TrainingSet,
    augmented,
    decode,
    hold_out,
    in_threads,
    normalised,
    square,
    squares,
)
from glr_assets.training.samplers import shuffled

NO_CHANGE = Augmentation(area=1, aspect=1, perspective=0, degrees=0, colour=0, grey=0, erase=0)


def picture(seed: int, width: int = 40, height: int = 30) -> np.ndarray:
    """Smooth random colours, so that JPEG and resizing change little."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def prepared(image: bytes | np.ndarray | Image.Image, size: int) -> np.ndarray:
    """A picture as a network takes it: float32 [3, size, size]."""
    (batch,) = squares([image], size, batch_size=1, workers=0)
    return normalised(batch)[0].numpy()


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    share=st.floats(0, 0.5),
    seed=st.integers(0, 100),
    shuffle=st.randoms(use_true_random=False),
)
def test_hold_out_parts_every_landmark_and_knows_no_order(
    sizes: list[int], share: float, seed: int, shuffle: random.Random
) -> None:
    pairs = [(f"{landmark}-{n}", landmark) for landmark, size in enumerate(sizes) for n in range(size)]
    train, held = hold_out([i for i, _ in pairs], [c for _, c in pairs], share, seed)
    assert sorted(train + held) == sorted(i for i, _ in pairs)
    for landmark, size in enumerate(sizes):
        out = sum(i.startswith(f"{landmark}-") for i in held)
        assert abs(out - share * size) < 1
        assert size - out >= 1
    shuffled = list(pairs)
    shuffle.shuffle(shuffled)
    again = hold_out([i for i, _ in shuffled], [c for _, c in shuffled], share, seed)
    assert (set(again[0]), set(again[1])) == (set(train), set(held))


@given(
    sizes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=6), min_size=1, max_size=5),
    share=st.floats(0, 0.5),
    seed=st.integers(0, 100),
    shuffle=st.randoms(use_true_random=False),
)
def test_hold_out_never_parts_a_group(sizes: list[list[int]], share: float, seed: int, shuffle: random.Random) -> None:
    rows = [
        (f"{landmark}-{group}-{n}", landmark, f"{landmark}-{group}-0")
        for landmark, of_landmark in enumerate(sizes)
        for group, size in enumerate(of_landmark)
        for n in range(size)
    ]

    def held_out(rows: list[tuple[str, int, str]]) -> set[str]:
        ids = [name for name, _, _ in rows]
        groups = [ids.index(first) for _, _, first in rows]
        train, held = hold_out(ids, [landmark for _, landmark, _ in rows], share, seed, groups)
        assert sorted(train + held) == sorted(ids)
        return set(held)

    held = held_out(rows)
    for landmark, of_landmark in enumerate(sizes):
        out = [name for name, of, _ in rows if of == landmark and name in held]
        assert abs(len(out) - share * sum(of_landmark)) < 1 + max(of_landmark)
        assert len(out) < sum(of_landmark)
    for _, _, first in rows:
        assert len({name in held for name, _, of in rows if of == first}) == 1
    shuffle.shuffle(rows)
    assert held_out(rows) == held
    # Without near-duplicates the groups change nothing.
    alone = [(name, landmark, name) for name, landmark, _ in rows]
    assert held_out(alone) == set(hold_out([r[0] for r in rows], [r[1] for r in rows], share, seed)[1])


def test_hold_out_of_pairs_keeps_its_share() -> None:
    ids = [f"{n}" for n in range(3000)]
    held = hold_out(ids, [n // 6 for n in range(3000)], 0.1, 7, [n - n % 2 for n in range(3000)])[1]
    assert 240 < len(held) < 360


def test_hold_out_keeps_its_share_over_many_small_landmarks() -> None:
    ids = [f"{n}" for n in range(3000)]
    landmarks = [n // 3 for n in range(3000)]
    held = hold_out(ids, landmarks, 0.1, 7)[1]
    assert 250 < len(held) < 350
    assert held != hold_out(ids, landmarks, 0.1, 8)[1]


def test_prepare_normalises_rgb_by_imagenets_statistics() -> None:
    pixels = picture(1, 32, 32)
    got = prepared(encoded(pixels), 32)
    expected = (pixels.astype(np.float64) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    assert got.dtype == np.float32
    assert got.shape == (3, 32, 32)
    np.testing.assert_allclose(got, expected.transpose(2, 0, 1), atol=2e-6)


@pytest.mark.parametrize("size", [16, 64])
def test_prepare_squeezes_the_whole_picture(size: int) -> None:
    pixels = picture(2, 60, 30)
    pixels[:, :4] = (255, 0, 0)
    got = square(pixels, size)
    assert got[:, 0, 0].min() > 240  # the left edge is still in sight
    expected = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    assert np.abs(got.astype(int) - expected.astype(int)).mean() < 6


def test_prepare_is_the_same_for_bytes_arrays_and_pillow() -> None:
    pixels = picture(3)
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(prepared(encoded(pixels), 24), prepared(pixels, 24))
    np.testing.assert_array_equal(prepared(image, 24), prepared(pixels, 24))


def test_pictures_are_turned_upright_by_their_exif() -> None:
    pixels = picture(4)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter clockwise
    data = encoded(pixels, "JPEG", quality=95, exif=exif)
    upright = np.rot90(pixels, -1)
    assert decode(data).shape == upright.shape
    assert np.abs(decode(data).astype(int) - upright.astype(int)).mean() < 4
    from_pillow = square(Image.open(io.BytesIO(data)), 20)
    assert np.abs(from_pillow.astype(int) - square(data, 20).astype(int)).mean() < 3


@pytest.mark.parametrize("data", [b"", b"no image", encoded(picture(5), "JPEG")[:40]])
def test_what_is_no_image_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(EmbedderError, match=r"^image abc: its \d+ bytes cannot be decoded") as caught:
        decode(data, "image abc")
    assert "\n" not in str(caught.value)


def test_augmentation_without_range_shows_the_picture_or_its_mirror() -> None:
    pixels = picture(6, 32, 32)
    seen = set()
    for seed in range(12):
        got = augmented(pixels, 32, np.random.default_rng(seed), NO_CHANGE)
        mirrored = not np.array_equal(got, pixels)
        np.testing.assert_array_equal(got, pixels[:, ::-1] if mirrored else pixels)
        seen.add(mirrored)
    assert seen == {True, False}


def test_augmentation_repeats_from_its_generator_and_varies_with_it() -> None:
    pixels = picture(7)
    first, same, other = (augmented(pixels, 32, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_colours_change_as_brightness_contrast_and_saturation_say() -> None:
    pixels = picture(8, 32, 32)
    grey = Augmentation(area=1, aspect=1, perspective=0, degrees=0, colour=0, grey=1, erase=0)
    got = augmented(pixels, 32, np.random.default_rng(0), grey).astype(int)
    luma = np.asarray(Image.fromarray(pixels).convert("L")).astype(int)
    assert min(np.abs(got - m[..., None]).max() for m in (luma, luma[:, ::-1])) <= 1


def test_erasing_blanks_a_rectangle_with_the_mean_colour() -> None:
    white = np.full((32, 32, 3), 255, np.uint8)
    erase = Augmentation(area=1, aspect=1, perspective=0, degrees=0, colour=0, grey=0, erase=1)
    got = augmented(white, 32, np.random.default_rng(3), erase)
    blank = (got == np.round(255 * np.array(IMAGENET_MEAN))).all(axis=2)
    rows, columns = np.flatnonzero(blank.any(axis=1)), np.flatnonzero(blank.any(axis=0))
    assert 4 <= len(rows) <= 16
    assert 4 <= len(columns) <= 16
    assert blank.sum() == len(rows) * len(columns)
    assert (got[~blank] == 255).all()


def epoch(ids: list[str], classes: list[int], **changes: Any) -> list[tuple[np.ndarray, list[int]]]:
    store = {i: encoded(picture(n)) for n, i in enumerate(sorted(ids))}
    values = {"seed": 5, "epoch": 2} | {key: changes.pop(key) for key in ("seed", "epoch") if key in changes}
    course = Learning(batch_size=changes.pop("batch_size", 4))
    wanted = {"size": 24, "workers": 0, "augmentation": Augmentation()} | values | changes
    batches = EpochBatches(shuffled(ids, classes, course, **values), Pictures(store.__getitem__, 24), **wanted)
    got = [(pixels.numpy(), targets.tolist()) for pixels, targets in batches]
    assert len(got) == len(batches)
    return got


def test_an_epoch_depends_on_neither_workers_nor_the_order_of_ids() -> None:
    ids, classes = [f"p{n}" for n in range(10)], [n % 3 for n in range(10)]
    plain = epoch(ids, classes)
    assert [len(targets) for _, targets in plain] == [4, 4]
    for other in (epoch(ids, classes, workers=3), epoch(ids[::-1], classes[::-1])):
        for (a, b), (c, d) in zip(plain, other, strict=True):
            np.testing.assert_array_equal(a, c)
            assert b == d
    next_epoch = epoch(ids, classes, epoch=3)
    assert not np.array_equal(plain[0][0], next_epoch[0][0])


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    assert [targets for _, targets in epoch(["a", "b"], [0, 1], batch_size=64)] in ([[0, 1]], [[1, 0]])


def test_parts_of_a_batch_are_the_batch_dealt_out_and_counted_by_their_share() -> None:
    ids, classes = [f"p{n}" for n in range(10)], list(range(10))
    whole = epoch(ids, classes, batch_size=5)
    parts = [epoch(ids, classes, batch_size=5, part=(number, 2)) for number in range(2)]
    for (pixels, targets), (first, odd), (second, even) in zip(whole, *parts, strict=True):
        assert (targets[0::2], targets[1::2]) == (odd, even)
        np.testing.assert_array_equal(pixels[0::2], first)
        np.testing.assert_array_equal(pixels[1::2], second)
    # Means of 3 and of 2 photographs, so weighted, have the mean of the 5 for their mean.
    course = Learning(batch_size=5)
    drawn = shuffled(ids, classes, course, seed=5, epoch=2)
    weights = [
        EpochBatches(drawn, len, size=8, seed=5, epoch=2, workers=0, augmentation=NO_CHANGE, part=(number, 2)).weights[
            0
        ]
        for number in range(2)
    ]
    assert weights == [pytest.approx(2 * 3 / 5), pytest.approx(2 * 2 / 5)]


def test_views_are_variations_of_the_same_photographs_the_first_as_without() -> None:
    ids, classes = [f"p{n}" for n in range(8)], list(range(8))
    for (one, targets), (two, again) in zip(epoch(ids, classes), epoch(ids, classes, views=2), strict=True):
        assert targets == again
        np.testing.assert_array_equal(two[:4], one)
        assert not any(np.array_equal(a, b) for a, b in zip(two[:4], two[4:], strict=True))


def test_pictures_beyond_the_memory_limit_are_the_same_pixels() -> None:
    store = {f"p{n}": encoded(picture(n, 80, 60)) for n in range(6)}
    reads: list[str] = []

    def read(image_id: str) -> bytes:
        reads.append(image_id)
        return store[image_id]

    one = Pictures(read, 20)("p0").nbytes
    kept, limited = Pictures(read, 20), Pictures(read, 20, cache_bytes=2 * one)
    reads.clear()
    for _ in range(2):
        for image_id in store:
            np.testing.assert_array_equal(kept(image_id), limited(image_id))
    assert limited.held_bytes <= 2 * one
    assert len(reads) == 6 + (2 + 2 * 4)
    assert min(kept("p0").shape[:2]) == 23


@given(st.lists(st.integers()), st.integers(0, 4))
def test_threads_keep_the_order(items: list[int], workers: int) -> None:
    assert list(in_threads(lambda n: n * 2, items, workers)) == [n * 2 for n in items]


def test_overlapping_readers_leave_opencv_its_threads() -> None:
    usual = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        one, other = (in_threads(lambda n: n, range(9), 2) for _ in range(2))
        next(one)
        next(other)
        assert cv2.getNumThreads() == 1
        list(one)
        assert cv2.getNumThreads() == 1
        list(other)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(usual)


def test_what_fails_in_a_thread_fails_in_the_reader() -> None:
    with pytest.raises(EmbedderError, match="image number 1"):
        list(squares([encoded(picture(1)), b"broken"], 16, 8, workers=2))


def test_a_training_set_has_one_landmark_an_id() -> None:
    with pytest.raises(EmbedderError, match="2 ids but 1 landmark ids"):
        TrainingSet(("a", "b"), (1,), lambda _: b"")
