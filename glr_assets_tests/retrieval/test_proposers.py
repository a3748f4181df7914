"""Approximate indexes against searching all rows: recall, bytes that repeat, answers that depend on no other query."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glr_assets.errors import StoreError
from glr_assets.retrieval.index import approximate
from glr_assets.retrieval.proposers import KINDS, Kind, Proposer, bytes_of, chosen, opened_faiss, width
from glr_assets.retrieval.scoring import PenalisedIndex

APPROXIMATE: tuple[Kind, ...] = ("ivf", "hnsw", "pq")
ROWS, DIMENSIONS = 3000, 24


def clustered(count: int, dimensions: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(60, dimensions))
    rows = centres[random.integers(0, 60, count)] + 0.6 * random.normal(size=(count, dimensions))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def exact() -> PenalisedIndex:
    penalties = np.random.default_rng(9).random(ROWS).astype(np.float32) / 4
    ids = [f"{number:05d}" for number in range(ROWS)]
    return PenalisedIndex(ids, np.arange(ROWS) // 10, clustered(ROWS, DIMENSIONS, 0), penalties)


@pytest.fixture(scope="module")
def built(exact: PenalisedIndex) -> dict[Kind, tuple[PenalisedIndex, float]]:
    return {kind: approximate(exact, kind, 0.99, seed=3) for kind in APPROXIMATE}


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_the_nearest_are_found_as_often_as_it_says_by_those_never_asked(
    kind: Kind, exact: PenalisedIndex, built: dict[Kind, tuple[PenalisedIndex, float]]
) -> None:
    index, recall = built[kind]
    assert recall >= 0.98
    queries = clustered(200, DIMENSIONS, 1)
    truth, found = exact.search(queries, 5), index.search(queries, 5)
    same = [len(set(one) & set(other)) / 5 for one, other in zip(truth[1], found[1], strict=True)]
    assert np.mean(same) >= 0.97
    # What is found has its exact score, and stands in the order of it.
    for row in range(200):
        agree = np.isin(found[1][row], truth[1][row])
        np.testing.assert_array_equal(
            np.sort(found[0][row][agree]), np.sort(truth[0][row][np.isin(truth[1][row], found[1][row])])
        )
        assert (np.diff(found[0][row]) <= 0).all()


def test_the_recall_is_that_of_images_which_chose_no_effort(
    exact: PenalisedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    search = PenalisedIndex.search

    def spied(index: PenalisedIndex, queries: np.ndarray, k: int, ids: Sequence[str], **more: Any) -> Any:
        seen.append(list(ids))
        return search(index, queries, k, ids, **more)

    monkeypatch.setattr(PenalisedIndex, "search", spied)
    index, recall = approximate(exact, "ivf", 0.6, seed=3)
    monkeypatch.undo()
    *choosing, judging = seen[2:]
    assert choosing
    assert all(not set(judging) & set(names) for names in choosing)
    assert len(judging) == len(choosing[0]) == min(400, ROWS // 2)
    rows = np.array([exact.ids.index(name) for name in judging])
    vectors = exact.rows[:, :-1].astype(np.float64)
    scores = vectors[rows] @ vectors.T + exact.rows[:, -1]
    scores[np.arange(len(rows)), rows] = -np.inf
    nearest = np.argsort(-scores, axis=1)[:, :5]
    _, found = index.search(exact.rows[rows, :-1], 5, judging)
    assert recall == pytest.approx((found[:, :, None] == nearest[:, None, :]).any(axis=1).mean(), abs=2e-3)


def test_looking_no_further_than_one_list_finds_fewer(built: dict[Kind, tuple[PenalisedIndex, float]]) -> None:
    index, _ = built["ivf"]
    assert index.proposer is not None
    assert index.proposer.effort > 1
    queries = clustered(100, DIMENSIONS, 1)
    lazy = index.proposed_by(index.proposer.with_effort(1)).search(queries, 5)[1]
    assert (lazy != index.search(queries, 5)[1]).any()


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_an_answer_depends_on_no_other_query_nor_block(
    kind: Kind, built: dict[Kind, tuple[PenalisedIndex, float]]
) -> None:
    index, _ = built[kind]
    queries = clustered(60, DIMENSIONS, 2)
    scores, rows = index.search(queries, 5)
    for block in (1, 7):
        again = index.search(queries, 5, block=block)
        np.testing.assert_array_equal(again[0], scores)
        np.testing.assert_array_equal(again[1], rows)


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_no_image_finds_itself_where_it_shall_not(
    kind: Kind, exact: PenalisedIndex, built: dict[Kind, tuple[PenalisedIndex, float]]
) -> None:
    index, _ = built[kind]
    vectors, ids = exact.rows[:50, :-1], exact.ids[:50]
    assert not (index.search(vectors, 5, ids)[1] == np.arange(50)[:, None]).any()


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_the_same_rows_give_the_same_bytes_and_are_read_back(
    kind: Kind, exact: PenalisedIndex, built: dict[Kind, tuple[PenalisedIndex, float]], tmp_path: Path
) -> None:
    index, _ = built[kind]
    data = index.to_bytes()
    again, _ = approximate(exact, kind, 0.99, seed=3)
    assert again.to_bytes() == data
    assert again.proposer is not None
    (tmp_path / "index").write_bytes(data)
    queries = clustered(20, DIMENSIONS, 4)
    for source in (data, str(tmp_path / "index")):
        read = exact.proposed_by(Proposer.opened(kind, again.proposer.effort, opened_faiss(source)))
        np.testing.assert_array_equal(read.search(queries, 5)[1], index.search(queries, 5)[1])


def test_a_flat_index_is_mapped_from_its_file(exact: PenalisedIndex, tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(exact.to_bytes())
    mapped = PenalisedIndex.of_flat(opened_faiss(str(tmp_path / "index")), exact.ids, exact.landmark_ids)
    queries = clustered(20, DIMENSIONS, 4)
    np.testing.assert_array_equal(mapped.search(queries, 5)[1], exact.search(queries, 5)[1])
    assert mapped.to_bytes() == exact.to_bytes()


def test_rows_of_another_index_are_refused(
    exact: PenalisedIndex, built: dict[Kind, tuple[PenalisedIndex, float]]
) -> None:
    proposer = built["ivf"][0].proposer
    assert proposer is not None
    with pytest.raises(StoreError, match="3000 rows of 32 numbers for 10"):
        PenalisedIndex.of_rows(exact.rows[:10], exact.ids[:10], exact.landmark_ids[:10], proposer)


def test_the_choice_follows_size_and_budget() -> None:
    assert {kind: chosen(kind, 10**7, 512, 1) for kind in KINDS} == {kind: kind for kind in KINDS}
    assert chosen("auto", 1000, 512, 2**30) == "flat"
    assert chosen("auto", 400_000, 512, 2**30) == "ivf"
    assert chosen("auto", 4_000_000, 512, 2**30) == "pq"
    # Too small a budget for few rows, and for all there is.
    assert chosen("auto", 50_000, 512, 60 * 2**20) == "ivf"
    assert chosen("auto", 4_000_000, 512, 1) == "pq"


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_foretold(kind: Kind, exact: PenalisedIndex, built: dict[Kind, tuple[PenalisedIndex, float]]) -> None:
    index = exact if kind == "flat" else built[kind][0]
    foretold = bytes_of(kind, ROWS, DIMENSIONS + 1)
    # At three thousand rows tables of codes and headers weigh as much as small rows do.
    assert 0.5 * foretold < len(index.to_bytes()) < 1.5 * foretold + 50_000
    assert width(DIMENSIONS + 1) == 32
