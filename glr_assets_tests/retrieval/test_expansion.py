from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.retrieval import expansion
from glr_assets.retrieval.expansion import expanded
from glr_assets.retrieval.scoring import Floats, retrieve
from glr_assets_tests.retrieval.test_scoring import EAST, at_cosines, photographs


def by_hand(query: Floats, found: Floats, power: float) -> Floats:
    """Alpha query expansion as its paper writes it, image by image."""
    total = query.astype(np.float64)
    for image in found.astype(np.float64):
        cosine = float(query.astype(np.float64) @ image)
        if cosine > 0:
            total = total + cosine**power * image
    return (total / np.linalg.norm(total)).astype(np.float32)


def test_a_worked_example() -> None:
    # cosines .8 and .6 to the query, both to its left: weights .64 and .36 of power 2.
    stored = at_cosines(0.8, 0.6)
    x, y = 1 + 0.64 * 0.8 + 0.36 * 0.6, 0.64 * 0.6 + 0.36 * 0.8
    found = expanded(EAST, stored, np.array([[0, 1]]), 2.0)
    np.testing.assert_allclose(found, np.array([[x, y]]) / np.hypot(x, y), atol=1e-6)


def test_power_0_is_the_mean_of_what_is_on_the_querys_side() -> None:
    stored = at_cosines(0.0, 0.5, -0.5)
    found = expanded(EAST, stored, np.array([[0, 1, 2]]), 0.0)
    np.testing.assert_allclose(found, by_hand(EAST[0], stored[1:2], 0.0)[np.newaxis], atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(0, 5), st.floats(0, 6))
def test_equals_the_formula_and_no_query_changes_another(seed: int, n: int, k: int, power: float) -> None:
    rng = np.random.default_rng(seed)
    stored, queries = photographs(rng, n, 6), photographs(rng, 7, 6)
    rows = rng.integers(-1, n, (7, k))
    found = expanded(queries, stored, rows, power)
    for query, near, got in zip(queries, rows, found, strict=True):
        np.testing.assert_allclose(got, by_hand(query, stored[near[near >= 0]], power), atol=2e-6)
    for part in (slice(0, 1), slice(3, 7)):
        assert (expanded(queries[part], stored, rows[part], power) == found[part]).all()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    stored, queries, rows = photographs(rng, 20, 6), photographs(rng, 9, 6), rng.integers(0, 20, (9, 3))
    whole = expanded(queries, stored, rows, 3.0)
    monkeypatch.setattr(expansion, "_AT_ONCE", 40)
    assert (expanded(queries, stored, rows, 3.0) == whole).all()


def test_retrieval_asks_again_with_what_it_found() -> None:
    # The chain 0°, 20°, 40°, and one at -35°: nearer to the query than 40°, farther from where the chain goes.
    angles = np.radians([20, 40, -35])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert retrieve(vectors, ["a", "b", "c"], EAST, 3) == [["a", "c", "b"]]
    assert retrieve(vectors, ["a", "b", "c"], EAST, 3, expansion=1, expansion_power=1.0) == [["a", "b", "c"]]
