"""Centres of the head: cosines against a loop, and what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.errors import EmbedderError, MissingInputError
from glr_assets.store import Store
from glr_assets.training.centres import CENTRES_NAME, ClassCentres, read_centres


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def drawn(random: np.random.Generator, classes: int, several: int) -> ClassCentres:
    names = np.sort(random.choice(50, classes, replace=False)).astype(np.int64)
    return ClassCentres(names, unit(random.normal(size=(classes, several, 6))))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(1, 3), st.integers(0, 8))
def test_a_landmarks_cosine_is_that_of_its_nearest_centre(seed: int, classes: int, several: int, asked: int) -> None:
    random = np.random.default_rng(seed)
    centres, queries = drawn(random, classes, several), unit(random.normal(size=(4, 6)))
    landmarks = random.integers(0, 60, asked)
    found = centres.cosines(queries, landmarks)
    assert found.shape == (4, asked)
    known = {int(landmark): of for landmark, of in zip(centres.landmark_ids, centres.vectors, strict=True)}
    for query, row in zip(queries, found, strict=True):
        for landmark, cosine in zip(landmarks.tolist(), row, strict=True):
            expected = max((float(query @ one) for one in known.get(landmark, ())), default=np.nan)
            assert cosine == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_centres_are_kept_as_they_are_and_with_the_same_bytes(tmp_path: Path) -> None:
    store, centres = Store(str(tmp_path)), drawn(np.random.default_rng(0), 5, 2)
    with pytest.raises(MissingInputError, match="materialise embedder"):
        read_centres(store, "models/embedder/x")
    store.write(f"models/embedder/x/{CENTRES_NAME}", centres.to_bytes())
    again = read_centres(store, "models/embedder/x")
    np.testing.assert_array_equal(again.landmark_ids, centres.landmark_ids)
    np.testing.assert_array_equal(again.vectors, centres.vectors)
    assert again.to_bytes() == centres.to_bytes()


@pytest.mark.parametrize("data", [b"", b"not tensors at all", ClassCentres(*map(np.zeros, (1, 1))).to_bytes()[:-4]])
def test_damaged_centres_are_told(data: bytes, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write(f"x/{CENTRES_NAME}", data)
    with pytest.raises(EmbedderError, match="materialise embedder again"):
        read_centres(store, "x")
