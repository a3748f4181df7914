"""The codec: what is kept of places and descriptors, how much rounding loses, and that products of codes are exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.verification.extractors.rootsift import RootSift
from glr_assets.verification.features import (
    MAX_DIMENSIONS,
    MAX_FEATURES,
    Features,
    bytes_each,
    code_scale,
    decoded,
    encoded,
)
from glr_assets_tests.benchmarks.features import nearest_of_each_other, rgb

SIDES = st.integers(1, 20_000)


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def some(count: int, dimensions: int, signed: bool, seed: int, width: int = 512, height: int = 384) -> Features:
    random = np.random.default_rng(seed)
    places = np.stack(
        [
            random.uniform(0, width, count),
            random.uniform(0, height, count),
            2 ** random.uniform(-1, 12, count),
            random.uniform(0, 2 * np.pi, count),
        ],
        axis=1,
    ).astype(np.float32)
    values = random.normal(size=(count, dimensions))
    return Features(places, unit(values if signed else np.abs(values)), width, height)


@given(st.integers(0, 40), st.integers(1, MAX_DIMENSIONS), st.booleans(), st.integers(0, 99), SIDES, SIDES)
def test_what_is_kept_comes_back_within_the_rounding(
    count: int, dimensions: int, signed: bool, seed: int, width: int, height: int
) -> None:
    features = some(count, dimensions, signed, seed, width, height)
    data = encoded(features, signed)
    assert len(data) == count * bytes_each(dimensions)
    kept = decoded(data, count, dimensions, signed, width, height)
    assert (kept.width, kept.height) == (width, height)
    assert kept.places.dtype == kept.codes.dtype == np.float32
    step = 1 / 16
    while max(width, height) >= 65536 * step:
        step *= 2
    # float32 itself is a thousandth of a pixel wide at twenty thousand.
    assert np.abs(kept.places[:, :2] - features.places[:, :2]).max(initial=0) <= step / 2 + 2e-3
    doublings = np.log2(kept.places[:, 2] / features.places[:, 2])
    assert np.abs(doublings).max(initial=0) <= 0.5 / 16 + 1e-5
    turns = np.abs(kept.places[:, 3] - features.places[:, 3]) / (2 * np.pi)
    assert np.minimum(turns, 1 - turns).max(initial=0) <= 0.5 / 256 + 1e-6
    assert ((kept.places[:, 3] >= 0) & (kept.places[:, 3] < 2 * np.pi)).all()
    scale, most = code_scale(dimensions, signed), 127 if signed else 255
    exact = np.clip(features.descriptors.astype(np.float64) * scale, -most, most)
    assert np.abs(kept.codes - exact).max(initial=0) <= 0.5 + 1e-4
    assert (kept.codes == np.rint(kept.codes)).all()


@given(st.integers(1, MAX_DIMENSIONS), st.booleans(), st.integers(0, 99))
def test_keeping_what_was_kept_changes_nothing(dimensions: int, signed: bool, seed: int) -> None:
    features = some(20, dimensions, signed, seed)
    data = encoded(features, signed)
    kept = decoded(data, 20, dimensions, signed, 512, 384)
    again = Features(kept.places, kept.codes / np.float32(code_scale(dimensions, signed)), 512, 384)
    assert encoded(again, signed) == data


def test_the_layout_is_six_bytes_a_place_and_then_the_codes() -> None:
    places = np.array([[1.5, 2.0, 1.0, 0.0], [511.96, 383.98, 2.0, np.pi]], np.float32)
    descriptors = np.array([[0.6, 0.8], [1.0, 0.0]], np.float32)
    data = encoded(Features(places, descriptors, 512, 384), signed=False)
    expected = [24, 0, 32, 0, 16, 0, *(8191).to_bytes(2, "little"), *(6144).to_bytes(2, "little"), 32, 128]
    assert list(data[:12]) == expected
    assert list(data[12:]) == [255, 255, 255, 0]  # .6 · 512 is clipped
    signed = encoded(Features(places, np.array([[0.6, -0.8], [0.0, -1.0]], np.float32), 512, 384), signed=True)
    scale = 127 * np.sqrt(2) / 4
    assert np.frombuffer(signed[12:], np.int8).tolist() == [round(0.6 * scale), round(-0.8 * scale), 0, round(-scale)]


def test_places_of_a_panorama_are_kept_more_coarsely() -> None:
    places = np.array([[9_999.75, 100.25, 1, 0]], np.float32)
    for width, each in ((4_095, 16), (4_096, 8), (8_191, 8), (10_000, 4)):
        data = encoded(Features(places, np.ones((1, 1), np.float32), width, 384), signed=False)
        assert np.frombuffer(data[:4], "<u2").tolist() == [round(min(9_999.75, width) * each), 100.25 * each]


def test_places_outside_the_image_move_to_its_edge() -> None:
    places = np.array([[-3, 400, 0.1, 0], [600, -1, 1e9, 2 * np.pi - 1e-4]], np.float32)
    kept = decoded(encoded(Features(places, np.eye(2, dtype=np.float32), 512, 384), False), 2, 2, False, 512, 384)
    assert kept.places[:, :2].tolist() == [[0, 384], [512, 0]]
    assert kept.places[0, 2] == 0.5
    assert kept.places[1, 3] == 0.0


@given(st.integers(1, MAX_DIMENSIONS), st.booleans(), st.integers(0, 99))
def test_products_of_codes_are_exact_in_float32(dimensions: int, signed: bool, seed: int) -> None:
    most = 127 if signed else 255
    random = np.random.default_rng(seed)
    worst = np.full((1, dimensions), most)
    codes = np.concatenate([worst, random.integers(-most if signed else 0, most + 1, (30, dimensions))])
    exact = codes.astype(np.int64) @ codes.T.astype(np.int64)
    assert exact.max() < 2**24
    floats = codes.astype(np.float32)
    assert (floats @ floats.T == exact).all()
    shuffled = random.permutation(dimensions)
    assert (floats[:, shuffled] @ floats[:, shuffled].T == exact).all()


def test_the_bound_is_the_tightest() -> None:
    assert 255**2 * MAX_DIMENSIONS < 2**24 < 255**2 * (MAX_DIMENSIONS + 3)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (some(MAX_FEATURES + 1, 2, True, 0), "2049 features"),
        (some(2, MAX_DIMENSIONS + 1, True, 0), "257 dimensions"),
        (Features(np.full((1, 4), np.nan, np.float32), np.ones((1, 1), np.float32), 9, 9), "not finite"),
        (Features(np.ones((1, 4), np.float32), np.full((1, 1), np.inf, np.float32), 9, 9), "not finite"),
    ],
)
def test_what_cannot_be_kept_is_refused(features: Features, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        encoded(features, signed=True)


def test_bytes_of_another_length_are_refused() -> None:
    data = encoded(some(3, 8, True, 0), signed=True)
    with pytest.raises(ValueError, match="41 bytes for 3 features of 8 dimensions, expected 42"):
        decoded(data[:-1], 3, 8, True, 512, 384)


def test_rounding_keeps_the_matches_of_photographs(shared_photos: Path) -> None:
    photographs = sorted((shared_photos / "landmarks").glob("*/*.jpg"))[:2]
    found = RootSift(500).extract([rgb(path.read_bytes()) for path in photographs])
    kept = [decoded(encoded(f, False), len(f.places), 128, False, f.width, f.height) for f in found]
    floats = nearest_of_each_other(*(f.descriptors for f in found))
    codes = nearest_of_each_other(*(k.codes for k in kept))
    assert len(floats) > 50
    assert len(floats & codes) / len(floats | codes) > 0.9
    cosines = [np.einsum("nd,nd->n", f.descriptors, unit(k.codes)) for f, k in zip(found, kept, strict=True)]
    assert np.concatenate(cosines).min() > 0.995
