from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from glr_assets.errors import EmbedderError, MissingInputError, StoreError
from glr_assets.retrieval.answering import evidence_of
from glr_assets.retrieval.calibration import Calibration
from glr_assets.retrieval.model import RecognitionModel
from glr_assets.retrieval.proposers import opened_faiss
from glr_assets.retrieval.scoring import (
    SCORE_DECIMALS,
    Floats,
    Gallery,
    PenalisedIndex,
    Recognition,
    nearest_rows,
    retrieve,
)

HALF = 10.0**-SCORE_DECIMALS


def unit(values: object) -> Floats:
    vectors = np.asarray(values, np.float64)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def at_cosines(*cosines: float) -> Floats:
    """Unit vectors in the plane with these cosines to (1, 0)."""
    return np.array([[c, np.sqrt(1 - c * c)] for c in cosines], np.float32)


EAST = np.array([[1, 0]], np.float32)


def photographs(rng: np.random.Generator, n: int, dimensions: int) -> Floats:
    """Random unit vectors, a third of them copies of one another, so that there are ties."""
    vectors = unit(rng.normal(size=(n, dimensions)))
    vectors[rng.random(n) < 1 / 3] = vectors[0]
    return vectors


def cosine(a: Floats, b: Floats) -> float:
    return float(np.dot(a.astype(np.float64), b.astype(np.float64)))


def names(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{i:03d}" for i in range(n)]


def penalties(
    vectors: Floats, ids: list[str], others: Floats, other_ids: list[str], top: int, block: int = 512
) -> Floats:
    return Gallery(other_ids, others).penalties(vectors, ids, top, block=block)


BY_NEIGHBOURS = RecognitionModel(penalties="fixed", calibration=Calibration(slope=1, intercept=0))


def ranked_landmarks(
    index: PenalisedIndex,
    ids: list[str],
    vectors: Floats,
    own: NDArray[np.float32],
    neighbours: int,
    *,
    leave_one_out: bool = False,
    block: int = 512,
) -> list[list[Recognition]]:
    """Every landmark among each query's best neighbours, the best first, by neighbours alone."""
    scores, rows = index.search(vectors, neighbours, ids if leave_one_out else None, block=block)
    found = []
    for query, penalty, of_query, at in zip(ids, own.tolist(), scores, rows, strict=True):
        known = at >= 0
        landmarks, own_b = index.landmark_ids[at[known]], index.penalties[at[known]].astype(np.float64)
        evidence = evidence_of(query, penalty, of_query[known], landmarks, own_b, None, neighbours)
        found.append(BY_NEIGHBOURS.ranked(evidence))
    return found


def recognise(
    index: PenalisedIndex,
    ids: list[str],
    vectors: Floats,
    own: NDArray[np.float32],
    neighbours: int,
    *,
    leave_one_out: bool = False,
) -> list[Recognition]:
    ranked = ranked_landmarks(index, ids, vectors, own, neighbours, leave_one_out=leave_one_out)
    return [answers[0] for answers in ranked if answers]


class TestPenalties:
    def test_worked_example(self) -> None:
        others = at_cosines(0.9, 0.5, 0.1, -0.3)
        found = penalties(EAST, ["q"], others, ["a", "b", "c", "d"], 2)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, [0.7], atol=HALF)

    def test_an_image_is_not_compared_with_itself(self) -> None:
        both = np.vstack([EAST, at_cosines(0.5, 0.2)])
        found = penalties(both[:1], ["q"], both, ["q", "a", "b"], 1)
        np.testing.assert_allclose(found, [0.5], atol=HALF)

    def test_fewer_others_than_top_are_all_averaged(self) -> None:
        both = np.vstack([EAST, at_cosines(0.5, 0.2)])
        found = penalties(both[:1], ["q"], both, ["q", "a", "b"], 10)
        np.testing.assert_allclose(found, [0.35], atol=HALF)

    def test_no_other_gives_zero(self) -> None:
        none = np.zeros((0, 2), np.float32)
        np.testing.assert_array_equal(penalties(EAST, ["q"], none, [], 5), [0])
        np.testing.assert_array_equal(penalties(EAST, ["q"], EAST, ["q"], 5), [0])
        assert penalties(none, [], EAST, ["q"], 5).shape == (0,)

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 60), st.integers(1, 12))
    def test_equals_brute_force_in_any_block(self, seed: int, n: int, m: int, top: int) -> None:
        rng = np.random.default_rng(seed)
        pool = photographs(rng, 80, 6)
        pool_ids = names("p", 80)
        chosen = rng.permutation(80)[:n]
        others = rng.permutation(80)[:m]
        expected = []
        for i in chosen:
            cosines = sorted((cosine(pool[i], pool[j]) for j in others if j != i), reverse=True)[:top]
            expected.append(np.mean(cosines) if cosines else 0.0)
        arguments = (pool[chosen], [pool_ids[i] for i in chosen], pool[others], [pool_ids[j] for j in others], top)
        found = penalties(*arguments)
        np.testing.assert_allclose(found, expected, atol=2 * HALF)
        np.testing.assert_array_equal(penalties(*arguments, block=3), found)


class TestPenalisedIndex:
    def index(self) -> PenalisedIndex:
        return PenalisedIndex(
            ["c", "a", "b"],
            np.array([30, 10, 20]),
            at_cosines(0.9, 0.8, 0.5),
            np.array([0.5, 0.1, 0.0], np.float32),
        )

    def test_worked_example(self) -> None:
        index = self.index()
        assert index.ids == ["a", "b", "c"]
        np.testing.assert_array_equal(index.landmark_ids, [10, 20, 30])
        assert (len(index), index.dimensions) == (3, 2)
        scores, rows = index.search(EAST, 3)
        np.testing.assert_array_equal(rows, [[0, 1, 2]])
        np.testing.assert_allclose(scores, [[0.7, 0.5, 0.4]], atol=HALF)

    def test_an_excluded_image_is_not_found(self) -> None:
        scores, rows = self.index().search(np.repeat(EAST, 3, axis=0), 2, exclude_ids=["a", "c", "none"])
        np.testing.assert_array_equal(rows, [[1, 2], [0, 1], [0, 1]])
        np.testing.assert_allclose(scores, [[0.5, 0.4], [0.7, 0.5], [0.7, 0.5]], atol=HALF)

    def test_places_beyond_the_images_are_unfilled(self) -> None:
        scores, rows = self.index().search(EAST, 5, exclude_ids=["b"])
        np.testing.assert_array_equal(rows, [[0, 2, -1, -1, -1]])
        np.testing.assert_array_equal(np.isfinite(scores), [[True, True, False, False, False]])

    def test_equal_scores_go_by_id_however_many_there_are(self) -> None:
        # Far more exact ties at the cut than the candidates that are first asked for.
        rng = np.random.default_rng(3)
        ids = [f"{i:03d}" for i in rng.permutation(700)]
        vectors = np.repeat(unit(rng.normal(size=(1, 64))), 700, axis=0)
        index = PenalisedIndex(ids, np.zeros(700, np.int64), vectors, np.zeros(700, np.float32))
        for queries in (vectors[:1], vectors[:64]):
            _, rows = index.search(queries, 4, exclude_ids=["001"] * len(queries))
            np.testing.assert_array_equal(rows, [[0, 2, 3, 4]] * len(queries))

    def test_scores_closer_than_six_decimals_are_equal_and_go_by_id(self) -> None:
        vectors = np.array([[0.5, 0.25], [0.5 + 2**-24, 0.25], [0.5 + 2**-18, 0.25]], np.float32)
        index = PenalisedIndex(["a", "b", "c"], np.zeros(3, np.int64), vectors, np.zeros(3, np.float32))
        scores, rows = index.search(EAST, 3)
        assert rows.tolist() == [[2, 0, 1]]
        assert scores.tolist() == [[0.500004, 0.5, 0.5]]

    def test_bytes_are_a_faiss_index_of_the_same_answers(self, tmp_path: Path) -> None:
        import faiss

        index = self.index()
        data = index.to_bytes()
        again = PenalisedIndex.of_flat(opened_faiss(data), index.ids, index.landmark_ids)
        for found, expected in zip(again.search(EAST, 3, ["b"]), index.search(EAST, 3, ["b"]), strict=True):
            np.testing.assert_array_equal(found, expected)
        assert again.to_bytes() == data
        (tmp_path / "index.faiss").write_bytes(data)
        plain = faiss.read_index(str(tmp_path / "index.faiss"))
        scores, rows = plain.search(np.array([[1, 0, 1]], np.float32), 3)
        np.testing.assert_array_equal(rows, [[0, 1, 2]])
        np.testing.assert_allclose(scores, [[0.7, 0.5, 0.4]], atol=HALF)

    def test_bytes_that_do_not_fit_are_refused(self) -> None:
        import faiss

        index = self.index()
        data = index.to_bytes()
        with pytest.raises(StoreError, match="cannot be read"):
            opened_faiss(data[:20])
        with pytest.raises(StoreError, match="cannot be read"):
            opened_faiss(b"")
        with pytest.raises(StoreError, match="3 rows for 2 ids"):
            PenalisedIndex.of_flat(opened_faiss(data), index.ids[:2], index.landmark_ids[:2])
        with pytest.raises(StoreError, match="not distinct and ascending"):
            PenalisedIndex.of_flat(opened_faiss(data), ["b", "a", "c"], index.landmark_ids)
        other = faiss.serialize_index(faiss.IndexFlatL2(3)).tobytes()
        with pytest.raises(StoreError, match="another kind"):
            PenalisedIndex.of_flat(opened_faiss(other), [], np.zeros(0, np.int64))

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 12))
    def test_equals_brute_force(self, seed: int, n: int, k: int) -> None:
        rng = np.random.default_rng(seed)
        vectors = photographs(rng, n, 5)
        ids = names("i", n)
        penalty = rng.choice(np.array([0.0, 0.25, 0.5], np.float32), n)
        shuffled = rng.permutation(n)
        index = PenalisedIndex(
            [ids[i] for i in shuffled], shuffled.astype(np.int64), vectors[shuffled], penalty[shuffled]
        )
        queries = np.vstack([photographs(rng, 7, 5), vectors[:1]])
        excluded = [ids[i] for i in rng.integers(0, n, 7)] + ["absent"]
        scores, rows = index.search(queries, k, excluded)
        for q in range(8):
            ranked = sorted(
                (-round(cosine(queries[q], vectors[i]) - float(penalty[i]), SCORE_DECIMALS), i)
                for i in range(n)
                if ids[i] != excluded[q]
            )[:k]
            assert rows[q].tolist() == [i for _, i in ranked] + [-1] * (k - len(ranked))
            np.testing.assert_allclose(scores[q, : len(ranked)], [-s for s, _ in ranked], atol=HALF)

    def test_faults_are_named(self) -> None:
        one = np.zeros(1, np.float32)
        label = np.zeros(1, np.int64)
        with pytest.raises(MissingInputError, match="no image"):
            PenalisedIndex([], np.zeros(0, np.int64), np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
        with pytest.raises(EmbedderError, match="id 'a' has two embeddings"):
            PenalisedIndex(["a", "a"], np.zeros(2, np.int64), at_cosines(1, 0), np.zeros(2, np.float32))
        with pytest.raises(EmbedderError, match="expected vectors"):
            PenalisedIndex(["a", "b"], np.zeros(2, np.int64), EAST, np.zeros(2, np.float32))
        with pytest.raises(EmbedderError, match="2 penalties"):
            PenalisedIndex(["a"], label, EAST, np.zeros(2, np.float32))
        with pytest.raises(EmbedderError, match="penalty is not a finite"):
            PenalisedIndex(["a"], label, EAST, np.array([np.nan], np.float32))
        with pytest.raises(EmbedderError, match="id 'a': the embedding holds NaN"):
            PenalisedIndex(["a"], label, EAST * np.float32(np.nan), one)
        with pytest.raises(EmbedderError, match="vectors of 3 dimensions, expected 2"):
            PenalisedIndex(["a"], label, EAST, one).search(np.ones((1, 3), np.float32), 1)
        with pytest.raises(EmbedderError, match="expected at least 1"):
            PenalisedIndex(["a"], label, EAST, one).search(EAST, 0)


def index_of(landmarks: list[int], cosines: list[float], penalty: float = 0.0) -> PenalisedIndex:
    n = len(landmarks)
    return PenalisedIndex(names("i", n), np.array(landmarks), at_cosines(*cosines), np.full(n, penalty, np.float32))


class TestRecognise:
    def test_scores_of_a_landmark_are_summed_less_the_querys_penalty(self) -> None:
        # The best single neighbour shows 1, the two of 2 together are surer.
        index = index_of([1, 2, 2, 3], [0.9, 0.6, 0.5, 0.4], penalty=0.1)
        assert recognise(index, ["q"], EAST, np.array([0.3], np.float32), 4) == [
            Recognition("q", 2, pytest.approx(0.6 + 0.5 - 0.2 - 0.3, abs=2 * HALF))
        ]

    def test_only_the_best_neighbours_count(self) -> None:
        index = index_of([1, 2, 2, 2], [0.9, 0.6, 0.5, 0.4])
        found = [recognise(index, ["q"], EAST, np.zeros(1, np.float32), k)[0].landmark_id for k in (1, 2, 4)]
        assert found == [1, 1, 2]

    def test_equal_sums_go_to_the_smaller_landmark(self) -> None:
        index = index_of([9, 4, 4, 9], [0.4, 0.3, 0.2, 0.1])
        assert recognise(index, ["q"], EAST, np.zeros(1, np.float32), 4)[0].landmark_id == 4

    def test_neighbours_below_their_penalty_never_lower_their_landmark(self) -> None:
        # 1 has two neighbours at -0.1, 2 one at -0.15: a sum would answer 2.
        index = index_of([1, 1, 2], [0.5, 0.5, 0.45], penalty=0.6)
        answer = recognise(index, ["q"], EAST, np.zeros(1, np.float32), 3)[0]
        assert (answer.landmark_id, answer.score) == (1, pytest.approx(-0.1, abs=HALF))
        mixed = index_of([1, 1], [0.7, 0.5], penalty=0.6)
        assert recognise(mixed, ["q"], EAST, np.zeros(1, np.float32), 2)[0].score == pytest.approx(0.1, abs=HALF)

    def test_leave_one_out_does_not_find_the_query_itself(self) -> None:
        index = index_of([1, 2], [1.0, 0.5])
        none = np.zeros(1, np.float32)
        assert recognise(index, ["i000"], EAST, none, 2)[0].landmark_id == 1
        assert recognise(index, ["i000"], EAST, none, 2, leave_one_out=True)[0].landmark_id == 2
        alone = index_of([1], [1.0])
        assert recognise(alone, ["i000"], EAST, none, 2, leave_one_out=True) == []
        assert ranked_landmarks(alone, ["i000"], EAST, none, 2, leave_one_out=True) == [[]]

    def test_all_landmarks_are_ranked(self) -> None:
        index = index_of([1, 2, 2, 3], [0.9, 0.6, 0.5, 0.4])
        ranked = ranked_landmarks(index, ["q"], EAST, np.zeros(1, np.float32), 4)[0]
        assert [answer.landmark_id for answer in ranked] == [2, 1, 3]
        assert [answer.score for answer in ranked] == pytest.approx([1.1, 0.9, 0.4], abs=2 * HALF)

    def test_no_query_gives_no_answer(self) -> None:
        assert recognise(index_of([1], [1.0]), [], np.zeros((0, 2), np.float32), np.zeros(0, np.float32), 3) == []

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.integers(1, 9))
    def test_equals_brute_force(self, seed: int, n: int, k: int) -> None:
        rng = np.random.default_rng(seed)
        vectors = photographs(rng, n, 4)
        landmarks = rng.integers(0, 6, n)
        penalty = rng.random(n).astype(np.float32) / 2
        queries = photographs(rng, 6, 4)
        c = rng.random(6).astype(np.float32)
        index = PenalisedIndex(names("i", n), landmarks, vectors, penalty)
        ranked = ranked_landmarks(index, names("q", 6), queries, c, k)
        for q in range(6):
            scores = [round(cosine(queries[q], vectors[i]) - float(penalty[i]), 6) for i in range(n)]
            best = sorted(range(n), key=lambda i: (-scores[i], i))[:k]
            expected: dict[int, float] = {}
            for landmark in {int(landmarks[i]) for i in best}:
                own = [scores[i] for i in best if landmarks[i] == landmark]
                expected[landmark] = (sum(s for s in own if s > 0) or max(own)) - float(c[q])
            assert {answer.landmark_id: answer.score for answer in ranked[q]} == pytest.approx(expected, abs=2 * HALF)
            order = [(-answer.score, answer.landmark_id) for answer in ranked[q]]
            assert order == sorted(order)


class TestBatches:
    """No answer may depend, to the last bit, on the other queries or the block."""

    @settings(max_examples=5, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def test_an_answer_is_the_same_alone_and_in_any_batch(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        # Sizes past faiss's switch from single products to BLAS at 20 queries.
        vectors = photographs(rng, 300, 128)
        non_landmarks = photographs(rng, 90, 128)
        queries = np.vstack([photographs(rng, 40, 128), vectors[:10]])
        query_ids = names("q", 50)
        b = penalties(vectors, names("i", 300), non_landmarks, names("n", 90), 5)
        index = PenalisedIndex(names("i", 300), rng.integers(0, 40, 300), vectors, b)

        def answers(rows: list[int], block: int) -> list[tuple[list[Recognition], list[str]]]:
            ids = [query_ids[r] for r in rows]
            c = penalties(queries[rows], ids, non_landmarks, names("n", 90), 10, block=block)
            ranked = ranked_landmarks(index, ids, queries[rows], c, 5, block=block)
            near = retrieve(vectors, names("i", 300), queries[rows], 20, block=block)
            return list(zip(ranked, near, strict=True))

        scores, rows = index.search(queries, 5)
        for row in range(50):
            alone = index.search(queries[row : row + 1], 5)
            np.testing.assert_array_equal(alone[0][0], scores[row])
            np.testing.assert_array_equal(alone[1][0], rows[row])
        together = answers(list(range(50)), 512)
        assert answers(list(range(50)), 7) == together
        assert [answers([row], 512)[0] for row in range(50)] == together
        backwards = answers(list(range(50))[::-1], 25)
        assert backwards[::-1] == together


class TestRetrieve:
    def test_best_cosine_first_ties_by_id(self) -> None:
        vectors = at_cosines(0.5, 0.9, 0.5, 0.1)
        assert retrieve(vectors, ["z", "y", "a", "b"], EAST, 3) == [["y", "a", "z"]]

    def test_fewer_images_than_k(self) -> None:
        assert retrieve(EAST, ["a"], EAST, 100) == [["a"]]
        assert retrieve(np.zeros((0, 2), np.float32), [], EAST, 100) == [[]]
        assert retrieve(EAST, ["a"], np.zeros((0, 2), np.float32), 100) == []

    def test_faults_are_named(self) -> None:
        with pytest.raises(EmbedderError, match="id 'a' has two embeddings"):
            retrieve(at_cosines(1, 0), ["a", "a"], EAST, 3)
        with pytest.raises(EmbedderError, match="row 0: the embedding holds NaN"):
            retrieve(EAST, ["a"], np.full((1, 2), np.inf, np.float32), 3)

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 80), st.integers(1, 30))
    def test_equals_brute_force(self, seed: int, n: int, k: int) -> None:
        rng = np.random.default_rng(seed)
        vectors = photographs(rng, n, 5)
        ids = [f"{i:03d}" for i in rng.permutation(n)]
        queries = photographs(rng, 5, 5)
        expected = [
            [
                name
                for _, name in sorted(
                    (-round(cosine(q, v), SCORE_DECIMALS), i) for v, i in zip(vectors, ids, strict=True)
                )[:k]
            ]
            for q in queries
        ]
        assert retrieve(vectors, ids, queries, k) == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 12), st.integers(1, 40), st.integers(0, 3))
def test_rows_are_searched_exactly_in_blocks_of_any_size(
    seed: int, n: int, k: int, at_once: int, excludes: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, queries = photographs(rng, n, 5), photographs(rng, 6, 5)
    excluded = rng.integers(-1, n, (6, excludes)) if excludes else None
    scores, found = nearest_rows(rows, queries, k, excluded, block=4, block_bytes=20 * at_once)
    for q, query in enumerate(queries):
        out = set() if excluded is None else set(excluded[q].tolist())
        best = sorted((-round(cosine(query, row), SCORE_DECIMALS), i) for i, row in enumerate(rows) if i not in out)[:k]
        assert found[q, : len(best)].tolist() == [i for _, i in best]
        assert scores[q, : len(best)] == pytest.approx([-score for score, _ in best], abs=HALF)
        assert (found[q, len(best) :] == -1).all()
        assert (scores[q, len(best) :] == -np.inf).all()


def test_what_is_searched_in_blocks_answers_as_what_is_indexed() -> None:
    rng = np.random.default_rng(3)
    vectors, queries = photographs(rng, 200, 6), photographs(rng, 20, 6)
    flat = PenalisedIndex(names("i", 200), rng.integers(0, 30, 200), vectors, rng.random(200).astype(np.float32) / 2)
    mapped = PenalisedIndex.of_filled(flat.rows, flat.ids, flat.landmark_ids)
    for weight in (0.0, 1.0):
        expected, found = (one.search(queries, 7, names("i", 20), penalty_weight=weight) for one in (flat, mapped))
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
    with pytest.raises(EmbedderError, match="build an index"):
        mapped.to_bytes()
    with pytest.raises(MissingInputError, match="no image"):
        PenalisedIndex.of_filled(flat.rows[:0], [], np.zeros(0, np.int64))


def test_gpus_search_where_faiss_knows_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is at hand: one that only passes on stands in, and the answers are the same."""
    import faiss

    rng = np.random.default_rng(4)
    vectors, queries = photographs(rng, 60, 6), photographs(rng, 5, 6)
    expected = retrieve(vectors, names("i", 60), queries, 7)
    searches = []

    class OnGpus:
        def __init__(self, index: faiss.IndexFlatIP) -> None:
            self.index = index

        def search(self, asked: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
            searches.append(len(asked))
            return self.index.search(asked, k)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", OnGpus)
    assert retrieve(vectors, names("i", 60), queries, 7) == expected
    assert searches
    index = PenalisedIndex(names("i", 60), np.arange(60), vectors, np.zeros(60, np.float32))
    again = PenalisedIndex.of_flat(opened_faiss(index.to_bytes()), index.ids, index.landmark_ids)
    assert (again.search(queries, 3)[1] == index.search(queries, 3)[1]).all()
