"""Groups of near-duplicates, and splits that keep them whole: plain searches, imagehash, and real photographs."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path
from random import Random

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter, ImageOps

from glr_assets.grouped_split import (
    BURST_BITS,
    BURST_SECONDS,
    CERTAIN_BITS,
    NEAR_BITS,
    SMALL_GROUP,
    ImageTraits,
    half_turned,
    held_out_groups,
    mirrored,
    near_duplicate_groups,
)
from glr_assets.source.fingerprints import fingerprint, traits_of

#: The same photograph to the eye, in the file names of the shared folder.
SAME_PHOTOGRAPH = (
    ("chichen_itza/0f9711dc5b.jpg", "chichen_itza/6fa24f8dc9.jpg"),
    ("christ_the_reedemer/3b93d7cbed.jpg", "christ_the_reedemer/6817e8faae.jpg"),
    ("statue_of_liberty/45edf2da4a.jpg", "statue_of_liberty/9bd5d54851.jpg"),
)


def scene(seed: int) -> Image.Image:
    """A smooth picture unlike those of other seeds."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16), dtype=np.uint8)
    return Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(3))


def dhash(image: Image.Image) -> int:
    """By imagehash."""
    return int(str(imagehash.dhash(image)), 16)


def traits(hashes: list[int], seconds: list[float] | None = None, cameras: list[str] | None = None) -> ImageTraits:
    return ImageTraits(
        np.array(hashes, np.uint64),
        np.ones(len(hashes), bool),
        None if seconds is None else np.array(seconds, np.float64),
        cameras or [""] * len(hashes),
    )


@pytest.mark.parametrize("seed", range(5))
def test_hashes_of_mirrored_and_turned_pictures_follow_from_the_hash(seed: int) -> None:
    picture = scene(seed)
    own = np.array([dhash(picture)], np.uint64)
    for found, turned in ((mirrored(own), ImageOps.mirror(picture)), (half_turned(own), picture.rotate(180))):
        assert int(np.bitwise_count(found ^ np.uint64(dhash(turned)))[0]) <= 1
    assert mirrored(mirrored(own)).tolist() == half_turned(half_turned(own)).tolist() == own.tolist()


def flipped(value: int, *, rows: bool) -> int:
    """A hash read bit by bit: each difference in its new place and with its new sign."""
    bits = [[value >> (63 - 8 * row - column) & 1 for column in range(8)] for row in range(8)]
    if rows:
        bits = bits[::-1]
    return sum((1 - bits[row][7 - column]) << (63 - 8 * row - column) for row in range(8) for column in range(8))


def groups_by_hand(classes: list[int], hashes: list[int], seconds: list[float], cameras: list[str]) -> set[frozenset]:
    """Connected components, breadth first."""
    near: dict[int, set[int]] = {row: set() for row in range(len(classes))}
    for one, other in combinations(range(len(classes)), 2):
        forms = [hashes[other], flipped(hashes[other], rows=False), flipped(hashes[other], rows=True)]
        alike = min((hashes[one] ^ form).bit_count() for form in forms) <= NEAR_BITS
        burst = cameras[one] == cameras[other] and abs(seconds[one] - seconds[other]) <= BURST_SECONDS
        burst = burst and (hashes[one] ^ hashes[other]).bit_count() <= BURST_BITS
        if classes[one] == classes[other] and (alike or burst):
            near[one].add(other)
            near[other].add(one)
    found, left = set(), set(near)
    while left:
        group, front = set(), [min(left)]
        while front:
            group |= set(front)
            front = [other for row in front for other in near[row] if other not in group]
        found.add(frozenset(group))
        left -= group
    return found


def as_sets(groups: np.ndarray) -> set[frozenset]:
    return {frozenset(np.flatnonzero(groups == first).tolist()) for first in np.unique(groups)}


@st.composite
def images(draw: st.DrawFn) -> tuple[list[int], list[int], list[float], list[str]]:
    """Up to 18 images of two classes, some variations of others by a few bits or a turn, some taken together."""
    random = Random(draw(st.integers(0, 2**32)))
    classes, hashes, seconds, cameras = [], [], [], []
    for row in range(draw(st.integers(0, 18))):
        value = random.getrandbits(64)
        if row and random.random() < 0.6:
            value = hashes[random.randrange(row)]
            value = random.choice([value, value, flipped(value, rows=False), flipped(value, rows=True)])
            for bit in random.sample(range(64), random.choice([0, 2, 8, 9, 20, 25])):
                value ^= 1 << bit
        classes.append(random.randrange(2))
        hashes.append(value)
        seconds.append(random.choice([float("nan"), *(5.0 * random.randrange(12),) * 3]))
        cameras.append(random.choice(["a", "b"]))
    return classes, hashes, seconds, cameras


@given(images(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_groups_are_those_of_a_search_breadth_first_in_any_order(
    drawn: tuple[list[int], list[int], list[float], list[str]], random: Random
) -> None:
    classes, hashes, seconds, cameras = drawn
    found = near_duplicate_groups(np.array(classes, np.int64), traits(hashes, seconds, cameras))
    assert found.dtype == np.int64
    assert as_sets(found) == groups_by_hand(*drawn)
    assert all(first == min(np.flatnonzero(found == first)) for first in found.tolist())
    order = random.sample(range(len(classes)), len(classes))
    again = near_duplicate_groups(
        np.array([classes[row] for row in order], np.int64),
        traits(*([column[row] for row in order] for column in (hashes, seconds, cameras))),
    )
    assert {frozenset(order[row] for row in group) for group in as_sets(again)} == as_sets(found)


def test_what_has_no_hash_is_alone_and_neither_time_nor_blank_pictures_change_that() -> None:
    of = ImageTraits(np.zeros(3, np.uint64), np.zeros(3, bool), np.zeros(3), ["a"] * 3)
    assert near_duplicate_groups(np.zeros(3, np.int64), of).tolist() == [0, 1, 2]


def chain(length: int, step: int) -> list[int]:
    """Hashes, each `step` bits from the one before it and further from all others."""
    values, random = [Random(step).getrandbits(64)], Random(length)
    while len(values) < length:
        value = values[-1]
        for bit in random.sample(range(64), step):
            value ^= 1 << bit
        apart = [(value ^ other).bit_count() for other in values[:-1]]
        if all(bits > NEAR_BITS for bits in apart):
            values.append(value)
    return values


def test_a_chain_of_small_steps_that_swallows_a_class_is_cut_but_not_where_links_are_certain() -> None:
    swallowed = 2 * SMALL_GROUP + 10
    loose = near_duplicate_groups(np.zeros(swallowed, np.int64), traits(chain(swallowed, NEAR_BITS)))
    assert np.unique(loose, return_counts=True)[1].max() == 1
    # Few images, or few of the class, are not cut.
    few = near_duplicate_groups(np.zeros(SMALL_GROUP, np.int64), traits(chain(SMALL_GROUP, NEAR_BITS)))
    assert set(few.tolist()) == {0}
    others = [Random(row).getrandbits(64) for row in range(1000, 1000 + swallowed + 1)]
    part = near_duplicate_groups(np.zeros(2 * swallowed + 1, np.int64), traits(chain(swallowed, NEAR_BITS) + others))
    assert set(part[:swallowed].tolist()) == {0}
    # Pairs within the certain bits stay together in a chain of pairs.
    doubled = [value ^ twin for value in chain(swallowed, NEAR_BITS) for twin in (0, 0b111)]
    pairs = near_duplicate_groups(np.zeros(2 * swallowed, np.int64), traits(doubled))
    assert (pairs[::2] == pairs[1::2]).all()
    assert CERTAIN_BITS == 3
    certain = near_duplicate_groups(np.zeros(swallowed, np.int64), traits([7] * swallowed))
    assert set(certain.tolist()) == {0}


@given(st.lists(st.integers(1, 6), max_size=12), st.integers(0, 40))
def test_held_out_groups_are_whole_about_as_many_as_wanted_and_never_all(sizes: list[int], wanted: int) -> None:
    total = sum(sizes)
    bounded = max(0, min(wanted, total - 1))
    counts = []
    for heads in range(60):
        places = held_out_groups(sizes, wanted, lambda heads=heads: heads / 60)
        assert places == sorted(set(places))
        counts.append(sum(sizes[place] for place in places))
        assert not sizes or counts[-1] < total
    # 60 is a multiple of every size, so the mean over the coin is the expected number, or less where none fits.
    assert sum(counts) <= 60 * bounded
    if set(sizes) <= {1}:
        assert counts == [bounded] * 60
        assert held_out_groups(sizes, wanted, lambda: 0.0) == list(range(bounded))
    elif sum(counts) < 60 * bounded:
        fitted = held_out_groups(sizes, wanted, lambda: 1.0)
        held = sum(sizes[place] for place in fitted)
        assert all(held + size >= total for place, size in enumerate(sizes) if place not in fitted)


def test_a_group_that_is_too_large_is_held_out_as_often_as_makes_the_number_right() -> None:
    # One wanted of three pairs: the first pair every second time.
    assert held_out_groups([2, 2, 2], 1, lambda: 0.49) == [0]
    assert held_out_groups([2, 2, 2], 1, lambda: 0.5) == []
    # What fits goes first; a group that holds all that is left is never taken.
    assert held_out_groups([3, 1, 5], 2, lambda: 0.0) == [0, 1]
    assert held_out_groups([6], 3, lambda: 0.0) == []


@pytest.mark.parametrize("name", ["plain", "mirrored", "cropped", "saved again"])
def test_files_of_one_photograph_are_found(name: str, tmp_path: Path) -> None:
    made = {
        "plain": lambda picture: picture,
        "mirrored": ImageOps.mirror,
        "cropped": lambda picture: picture.crop((5, 3, 316, 238)),
        "saved again": lambda picture: picture.resize((160, 120)),
    }[name]
    for number in range(6):
        scene(number).save(tmp_path / f"{number}a.jpg", quality=95)
        made(scene(number)).save(tmp_path / f"{number}b.jpg", quality=60)
    paths = sorted(tmp_path.iterdir())
    groups = near_duplicate_groups(np.zeros(12, np.int64), traits_of([fingerprint(path) for path in paths]))
    assert groups.tolist() == [row - row % 2 for row in range(12)]


def photographs(shared_photos: Path) -> tuple[list[str], list[str], list[int], np.ndarray]:
    """Names, what each was made from, its class, and its group."""
    paths = sorted(
        path
        for folder in ("landmarks", "near_duplicates")
        for path in (shared_photos / folder).rglob("*")
        if path.is_file() and fingerprint(path).dhash is not None
    )
    names = [str(path.relative_to(shared_photos)) for path in paths]
    made_from = []
    for name in names:
        match = re.search(r"skyscraper_aug/.*/(IMG_\d+)|landmarks/[a-z_]*/(IMG_\d+)\.jpg|(ukbench\d+)", name)
        made_from.append(next(filter(None, match.groups())) if match else name)
        if "alpha_channel_image" in name:
            made_from[-1] = "ukbench00120"
    folders = [name.split("/")[1] if name.startswith("landmarks") else "near_duplicates" for name in names]
    # A photograph and what was made of it belong to one class; of the others their landmark is known.
    of = dict(zip(made_from, folders, strict=True)) | {
        original: folder for original, folder in zip(made_from, folders, strict=True) if folder != "near_duplicates"
    }
    numbers = {folder: number for number, folder in enumerate(sorted(set(of.values())))}
    classes = [numbers[of[original]] for original in made_from]
    groups = near_duplicate_groups(np.array(classes), traits_of([fingerprint(path) for path in paths]))
    return names, made_from, classes, groups


def test_real_near_duplicates_are_found_and_no_others(shared_photos: Path) -> None:
    names, made_from, _, groups = photographs(shared_photos)
    true, grouped, right = 0, 0, 0
    for one, other in combinations(range(len(names)), 2):
        same = made_from[one] == made_from[other]
        same |= any(names[one].endswith(a) and names[other].endswith(b) for a, b in SAME_PHOTOGRAPH)
        together = bool(groups[one] == groups[other])
        true, grouped, right = true + same, grouped + together, right + (same and together)
        # The frames of a walk, a few steps apart, are near-duplicates of a kind that the names do not tell.
        assert same or not together or "lund" in names[one], (names[one], names[other])
    assert true == 132
    assert right / true >= 0.84
    assert right / grouped >= 0.97


def test_groups_that_share_a_chain_end_are_named_by_their_first_row() -> None:
    values = chain(5, 6)
    found = near_duplicate_groups(np.array([1, 1, 0, 1, 1]), traits(values))
    assert found.tolist() == [0, 0, 2, 3, 3]
    assert all((a ^ b).bit_count() == 6 for a, b in pairwise(values))
