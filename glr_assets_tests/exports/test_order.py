from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.exports.order import export_order, file_borders
from glr_assets.recipes import ExportOrder
from glr_assets_tests.images.handmade import identifier

ORDERS: tuple[ExportOrder, ...] = ("shuffled", "balanced", "id")
orders = st.sampled_from(ORDERS)
classes = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def images(sizes: list[int]) -> tuple[list[str], np.ndarray]:
    """Ids of so many landmarks of these sizes, and the landmark of each."""
    landmarks = np.repeat(np.arange(len(sizes)) * 1000 + 7, sizes)
    return [identifier(number) for number in range(len(landmarks))], landmarks


def ordered(ids: list[str], landmarks: np.ndarray, order: ExportOrder, seed: int = 0) -> list[int]:
    return export_order(pa.array(ids, pa.string()), landmarks, order, seed).tolist()


@given(classes, orders, st.integers(0, 3), st.randoms(use_true_random=False))
def test_every_image_has_one_place_whatever_order_the_rows_come_in(
    sizes: list[int], order: ExportOrder, seed: int, random: np.random.Generator
) -> None:
    ids, landmarks = images(sizes)
    found = ordered(ids, landmarks, order, seed)
    assert sorted(found) == list(range(len(ids)))
    rows = list(range(len(ids)))
    random.shuffle(rows)
    again = ordered([ids[row] for row in rows], landmarks[rows], order, seed)
    assert [ids[rows[row]] for row in again] == [ids[row] for row in found]


def test_by_id_is_by_id_and_the_others_are_by_seed() -> None:
    ids, landmarks = images([20, 20])
    assert [ids[row] for row in ordered(ids, landmarks, "id")] == sorted(ids)
    found = [tuple(ordered(ids, landmarks, order, seed)) for order in ORDERS[:2] for seed in (0, 1)]
    assert len({*found, tuple(ordered(ids, landmarks, "id"))}) == 5


@pytest.mark.parametrize("order", ORDERS)
def test_no_image_is_an_order_too(order: ExportOrder) -> None:
    assert ordered([], np.zeros(0, np.int64), order) == []


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 3))
def test_landmarks_of_one_size_take_turns(landmarks: int, size: int, seed: int) -> None:
    ids, of = images([size] * landmarks)
    found = of[ordered(ids, of, "balanced", seed)]
    for turn in range(size):
        assert len(set(found[turn * landmarks : (turn + 1) * landmarks])) == landmarks


def test_turns_are_each_in_an_order_of_their_own() -> None:
    ids, of = images([30] * 10)
    found = of[ordered(ids, of, "balanced")].reshape(30, 10)
    assert len({tuple(turn) for turn in found}) == 30


@given(classes, st.integers(0, 3))
def test_any_beginning_of_a_balanced_order_holds_of_each_landmark_its_share(sizes: list[int], seed: int) -> None:
    ids, of = images(sizes)
    found = of[ordered(ids, of, "balanced", seed)]
    names, total = np.unique(of, return_counts=True)
    for length in range(1, len(found) + 1):
        held = np.array([(found[:length] == name).sum() for name in names])
        # There is a share of the whole of which each landmark holds its part, give or take one image.
        assert ((held - 1) / total).max() <= ((held + 1) / total).min() + 1e-9


def test_a_shuffled_order_is_not_so() -> None:
    ids, of = images([30] * 10)
    found = of[ordered(ids, of, "shuffled")].reshape(30, 10)
    assert min(len(set(turn)) for turn in found) < 10


@given(st.integers(1, 500), st.integers(1, 100))
def test_files_are_as_few_and_as_even_as_can_be(images: int, most: int) -> None:
    borders = file_borders(images, most)
    assert [number for first, end in borders for number in range(first, end)] == list(range(images))
    sizes = [end - first for first, end in borders]
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    assert len(borders) == -(-images // most)
