from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.recipes import Retrieval
from glr_assets.retrieval.answering import Evidence, Witness, clipped, evidence_of
from glr_assets.retrieval.embeddings import NonLandmarks, Vectors
from glr_assets.retrieval.index import build_index
from glr_assets.retrieval.scoring import SCORE_DECIMALS, Floats, PenalisedIndex, support
from glr_assets.training.centres import ClassCentres
from glr_assets_tests.retrieval.test_scoring import names, photographs

NOBODY = np.zeros((0, 6), np.float32)


def witness(vectors: Floats, landmarks: np.ndarray, of_images: np.ndarray, **recipe: object) -> Witness:
    index = PenalisedIndex(names("i", len(vectors)), landmarks, vectors, of_images.astype(np.float32))
    values = {"rerank": 0, "penalties": "fixed", **recipe}
    return Witness(index, NonLandmarks(Vectors([], NOBODY)), Retrieval(**values))  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.integers(1, 6))
def test_class_logits_are_those_of_the_candidates_landmarks(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, queries, landmarks = photographs(rng, n, 6), photographs(rng, 4, 6), rng.integers(0, 9, n)
    centres = ClassCentres(np.arange(1, 8), photographs(rng, 14, 6).reshape(7, 2, 6))
    asker = witness(vectors, landmarks, np.zeros(n), neighbours=k)
    asked = Vectors(names("q", 4), queries)
    assert all(found.classes is None for found in asker.of(asked))
    asker = replace(asker, centres=centres)
    together = list(asker.of(asked))
    for row, (query, found) in enumerate(zip(queries, together, strict=True)):
        (alone,) = asker.of(asked.rows([row]))
        assert found.classes is not None
        assert alone.classes is not None
        # Whoever else is asked of, the numbers are the same to the last bit.
        np.testing.assert_array_equal(found.classes, alone.classes)
        for landmark, logit in zip(found.landmark_ids.tolist(), found.classes.tolist(), strict=True):
            own = centres.vectors[landmark - 1] if 1 <= landmark <= 7 else None
            expected = np.nan if own is None else float((own.astype(np.float64) @ query.astype(np.float64)).max())
            assert logit == pytest.approx(expected, abs=1e-6, nan_ok=True)


def by_landmark(found: Evidence) -> dict[int, float]:
    return dict(zip(found.landmark_ids.tolist(), found.neighbours.tolist(), strict=True))


def test_the_best_of_a_landmark_alone_are_summed() -> None:
    scores, landmarks = np.array([0.9, 0.8, 0.7, 0.2]), np.array([1, 2, 2, 2])
    nothing = np.zeros(4)
    for most, expected in ((0, 1.7), (1, 0.8), (2, 1.5), (9, 1.7)):
        found = evidence_of("q", 0.0, scores, landmarks, nothing, None, 4, most)
        assert by_landmark(found) == {1: pytest.approx(0.9), 2: pytest.approx(expected)}
    assert support([-0.3, -0.1], 1) == -0.1


def test_cosines_under_0_are_clipped_and_the_order_follows() -> None:
    # Cosines -.3, -.6 and .9 with B of -.2, -.5 and .1.
    scores, rows = np.array([[0.8, -0.1, -0.1, -np.inf]]), np.array([[2, 0, 1, -1]])
    of_images = np.array([[0.1, -0.2, -0.5, 0.7]], np.float32)
    found, order, penalties = clipped(scores, rows, of_images, 1.0)
    assert order.tolist() == [[2, 1, 0, -1]]
    np.testing.assert_allclose(penalties[:, :3], [[0.1, -0.5, -0.2]])
    np.testing.assert_allclose(found, [[0.8, 0.5, 0.2, -np.inf]], atol=10.0**-SCORE_DECIMALS)
    # Where B does not count, the scores are the cosines themselves.
    found, order, penalties = clipped(np.array([[0.9, -0.3, -0.6, -np.inf]]), rows, of_images, 0.0)
    assert order.tolist() == [[2, 0, 1, -1]]
    np.testing.assert_allclose(found, [[0.9, 0.0, 0.0, -np.inf]], atol=10.0**-SCORE_DECIMALS)
    np.testing.assert_allclose(penalties, of_images)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 25),
    st.integers(1, 6),
    st.integers(0, 3),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from(["fixed", "learned", "off"]),
)
def test_evidence_equals_brute_force(seed: int, n: int, k: int, top: int, expansion: int, clip: bool, how: str) -> None:
    rng = np.random.default_rng(seed)
    vectors, queries = photographs(rng, n, 6), photographs(rng, 4, 6)
    landmarks, penalties = rng.integers(0, 5, n), rng.uniform(-0.3, 0.3, n).round(3).astype(np.float32)
    given = penalties
    values = {"neighbours": k, "top_per_landmark": top, "expansion": expansion, "clip": clip, "penalties": how}
    asker = witness(vectors, landmarks, penalties, **values)
    if how != "fixed":
        penalties = np.zeros_like(penalties)
    wide = vectors.astype(np.float64)
    for own, (query, found) in enumerate(zip(queries, asker.of(Vectors(names("q", 4), queries)), strict=True)):
        asked = query.astype(np.float64)
        if expansion:
            order = sorted(range(n), key=lambda i: (-round(float(asked @ wide[i]) - penalties[i], 6), i))[:expansion]
            near = [max(float(asked @ wide[i]), 0.0) for i in order]
            asked = asked + sum(cosine**3 * wide[i] for cosine, i in zip(near, order, strict=True))
            asked /= np.linalg.norm(asked)
        cosines = wide @ asked
        first = sorted(range(n), key=lambda i: (-round(float(cosines[i] - penalties[i]), 6), i))[:k]
        scores: dict[int, list[float]] = {}
        for i in first:
            cosine = min(max(float(cosines[i]), 0.0), 1.0) if clip else float(cosines[i])
            scores.setdefault(int(landmarks[i]), []).append(cosine - float(penalties[i]))
        expected = {}
        for landmark, of in scores.items():
            best = sorted(of, reverse=True)[: top or None]
            expected[landmark] = sum(score for score in best if score > 0) if best[0] > 0 else best[0]
        got = by_landmark(found)
        assert got.keys() == expected.keys(), own
        for landmark, score in expected.items():
            assert got[landmark] == pytest.approx(score, abs=k * 1e-5)
        # B of the best image is told whether or not it has changed the order.
        for landmark, best, own_b in zip(found.landmark_ids.tolist(), found.best, found.best_penalty, strict=True):
            assert best == pytest.approx(max(scores[landmark]), abs=1e-5)
            assert any(own_b == pytest.approx(float(given[i])) for i in first if landmarks[i] == landmark)


def test_an_expanded_query_does_not_find_itself_either() -> None:
    vectors = photographs(np.random.default_rng(3), 8, 6)
    asker = witness(vectors, np.arange(8), np.zeros(8), neighbours=3, expansion=2)
    others = witness(np.delete(vectors, 5, axis=0), np.delete(np.arange(8), 5), np.zeros(7), neighbours=3, expansion=2)
    (alone,) = asker.of(Vectors(["i005"], vectors[5:6]), leave_out={})
    (expected,) = others.of(Vectors(["another"], vectors[5:6]))
    assert by_landmark(alone) == by_landmark(expected)


def of_gallery(vectors: Floats, ids: list[str], landmarks: np.ndarray, gallery: Vectors, recipe: Retrieval) -> Witness:
    """A witness whose penalties are those of a gallery."""
    images = pa.table({"id": ids, "landmark_id": landmarks})
    index, _ = build_index(images, Vectors(ids, vectors), NonLandmarks(gallery), recipe)
    return Witness(index, NonLandmarks(gallery), recipe)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(6, 25),
    st.integers(1, 8),
    st.integers(0, 3),
    st.sampled_from(["fixed", "learned", "off"]),
    st.booleans(),
    st.booleans(),
)
def test_a_sample_gets_the_evidence_of_a_store_that_lacks_it_and_its_near_duplicates(
    seed: int, n: int, k: int, others: int, how: str, clip: bool, hide: bool
) -> None:
    rng = np.random.default_rng(seed)
    vectors, away = photographs(rng, n, 6), photographs(rng, 12, 6)
    ids, none, landmarks = names("i", n), names("n", 12), rng.integers(0, 4, n)
    recipe = Retrieval(rerank=0, neighbours=k, penalties=how, clip=clip)  # type: ignore[arg-type]
    gallery = Vectors(none, away)
    whole = of_gallery(vectors, ids, landmarks, gallery, recipe)
    for known, asked in ((ids, Vectors(ids, vectors)), (none, gallery)):
        row = int(rng.integers(len(known)))
        name = known[row]
        away_too = tuple(rng.choice([one for one in known if one != name], others, replace=False).tolist())
        hidden = {name: int(landmarks[row])} if hide and known is ids else None
        (found,) = whole.of(asked.of([name]), leave_out={name: away_too}, hidden=hidden)
        stays = [
            one
            for one, landmark in zip(ids, landmarks.tolist(), strict=True)
            if one not in {name, *away_too} and (hidden is None or landmark != hidden[name])
        ]
        if not stays:
            assert not len(found.landmark_ids)
            continue
        at = [ids.index(one) for one in stays]
        left = gallery.of([one for one in none if one not in {name, *away_too}])
        lacking = of_gallery(vectors[at], stays, landmarks[at], left, recipe)
        (expected,) = lacking.of(asked.of([name]))
        assert found.landmark_ids.tolist() == expected.landmark_ids.tolist()
        assert found.penalty == pytest.approx(expected.penalty, abs=2e-6)
        for told in ("neighbours", "best", "best_penalty"):
            np.testing.assert_allclose(getattr(found, told), getattr(expected, told), atol=k * 2e-6, err_msg=told)
