"""Whitening inside landmarks against its definition."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.training.whitening import WithinClassScatter, within_class_whitening


def clusters(seed: int) -> tuple[np.ndarray, list[int]]:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(5, 4)) * 3
    landmarks = [n % 5 for n in range(200)]
    spread = random.normal(size=(200, 4)) * [4.0, 1.0, 0.3, 0.1]
    return (centres[landmarks] + spread).astype(np.float32), landmarks


def inside_covariance(rows: np.ndarray, landmarks: list[int]) -> np.ndarray:
    """Mean over photographs of the outer product of what parts each from its landmark's mean."""
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for landmark in set(landmarks):
        members = [row for row, own in zip(rows, landmarks, strict=True) if own == landmark]
        for row in members:
            apart = row - np.mean(members, axis=0)
            total += np.outer(apart, apart)
    return total / len(rows)


def test_without_shrinkage_every_direction_spreads_alike() -> None:
    rows, landmarks = clusters(1)
    mean, matrix = within_class_whitening(rows, landmarks, shrinkage=0.0)
    np.testing.assert_allclose(mean, rows.mean(axis=0), atol=1e-5)
    after = inside_covariance((rows - mean) @ matrix, landmarks)
    np.testing.assert_allclose(after / np.trace(after), np.eye(4) / 4, atol=1e-3)


def test_full_shrinkage_leaves_directions_as_they_are() -> None:
    rows, landmarks = clusters(2)
    np.testing.assert_allclose(within_class_whitening(rows, landmarks, shrinkage=1.0)[1], np.eye(4), atol=1e-5)


def test_half_shrinkage_is_between() -> None:
    rows, landmarks = clusters(3)
    _, matrix = within_class_whitening(rows, landmarks)
    covariance = inside_covariance(rows, landmarks)
    wanted = covariance / np.trace(covariance) * 4 * 0.5 + 0.5 * np.eye(4)
    np.testing.assert_allclose(matrix @ wanted @ matrix, np.eye(4), atol=1e-3)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.lists(st.integers(0, 40), max_size=5))
def test_blocks_of_any_size_give_the_sums_of_all(landmarks: list[int], cuts: list[int]) -> None:
    landmarks = sorted(landmarks)
    rows = np.random.default_rng(len(landmarks)).normal(size=(len(landmarks), 3)).astype(np.float32)
    scatter = WithinClassScatter()
    bounds = [0, *sorted(min(cut, len(landmarks)) for cut in cuts), len(landmarks)]
    for start, end in pairwise(bounds):
        scatter.add(rows[start:end], landmarks[start:end])
    mean, matrix = scatter.whitening()
    expected_mean, expected = within_class_whitening(rows[::-1], landmarks[::-1])
    np.testing.assert_allclose(mean, expected_mean, atol=1e-6)
    np.testing.assert_allclose(matrix, expected, atol=1e-4)
    assert scatter.count == len(landmarks)


def test_landmarks_of_one_photograph_only_are_centred_alone() -> None:
    rows, _ = clusters(4)
    mean, matrix = within_class_whitening(rows, list(range(len(rows))))
    np.testing.assert_allclose(mean, rows.mean(axis=0), atol=1e-5)
    np.testing.assert_array_equal(matrix, np.eye(4))
