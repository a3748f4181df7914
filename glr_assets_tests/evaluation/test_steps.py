"""The figures of steps, confidence and kinds, on a small store and by worked examples."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from glr_assets.evaluation.metrics import Prediction
from glr_assets.evaluation.score import read_recognition_submission
from glr_assets.evaluation.scored import scored_recognition
from glr_assets.evaluation.steps import (
    ABLATION,
    ABLATION_TABLE,
    KINDS_TABLE,
    WITHHELD_UNDER,
    Confidence,
    by_kind,
    figures_of,
    write_steps,
)
from glr_assets.metadata.schemas import LANDMARK_LABELS
from glr_assets.receipts import Writer
from glr_assets.retrieval.embeddings import embedded_shards
from glr_assets.retrieval.index import open_index
from glr_assets.retrieval.submission import SUBMISSION, make_submission
from glr_assets.tables import read_table
from glr_assets.training.held_out import range_of_size
from glr_assets_tests.lineage import index
from glr_assets_tests.retrieval.conftest import Embedded, embedded_once, headed, headed_once, indexed, indexed_once

__all__ = ["embedded_once", "headed", "headed_once", "indexed", "indexed_once"]


def confidence() -> Confidence:
    return Confidence(
        np.array([0.99, 0.92, 0.75, 0.6, 0.3, 0.8]),
        np.array([True, True, False, True, True, False]),
        np.array([True, True, True, True, True, False]),
    )


def test_withholding_a_worked_example() -> None:
    rows = confidence().withheld()
    assert [row["bound"] for row in rows] == list(WITHHELD_UNDER)
    by_bound = {row["bound"]: row for row in rows}
    assert by_bound[0.0] == {
        "bound": 0.0,
        "answered": 1.0,
        "right_of_answered": pytest.approx(4 / 6),
        "non_landmarks_answered": 1.0,
    }
    assert by_bound[0.7]["answered"] == pytest.approx(3 / 5)
    assert by_bound[0.7]["right_of_answered"] == pytest.approx(2 / 4)
    assert by_bound[0.9]["non_landmarks_answered"] == 0
    assert by_bound[0.95]["right_of_answered"] == 1


def test_nothing_withheld_of_nothing() -> None:
    none = np.zeros(0)
    rows = Confidence(none, none.astype(bool), none.astype(bool)).withheld()
    assert all(row["answered"] is None and row["right_of_answered"] is None for row in rows)


def test_figures_are_of_the_queries_asked_alone() -> None:
    predictions = [Prediction("a", 1, 0.9), Prediction("b", 2, 0.8), Prediction("c", 3, 0.7)]
    figures = figures_of(predictions, {"a": frozenset({1}), "c": frozenset({4})})
    assert figures == {"gap": 0.5, "gap_landmarks_only": 0.5, "top1": 0.5}


def test_the_last_step_is_the_submission(indexed: Embedded) -> None:
    store, recipe = indexed.store, indexed.recipe
    make_submission(indexed.source, store, recipe)
    solution, _ = scored_recognition(store)
    predictions = read_recognition_submission(store_file(indexed), solution)
    tests = list(embedded_shards(indexed.source, store, "test"))
    writer = Writer(store)
    told, summary = write_steps(store, writer, tests, recipe.retrieval, predictions, solution)
    steps = told["ablation"]
    assert list(steps) == ["neighbours", "+ penalties", "+ local features"]
    assert steps["+ local features"] == figures_of(predictions, solution.landmarks)
    assert summary["gap by + local features"] == steps["+ local features"]["gap"]
    assert json.loads(store.read(ABLATION)) == steps
    assert "+ penalties" in store.read(ABLATION_TABLE).decode()
    assert "supercategory" in store.read(KINDS_TABLE).decode()
    found = told["confidence"]
    assert found["answers"] == len(solution.landmarks)
    assert 0 <= found["ece"] <= 1
    assert found["mean_probability"] == pytest.approx(np.mean(Confidence.of(store, solution.landmarks).probability))


def test_class_logits_are_a_step_of_their_own(headed: Embedded) -> None:
    store, source = headed.store, headed.source
    for rerank, last in ((100, "+ local features"), (0, "+ class logits")):
        recipe = headed.recipe.overridden({"retrieval": {"rerank": rerank}})
        index(source, store, recipe)
        make_submission(source, store, recipe)
        solution, _ = scored_recognition(store)
        predictions = read_recognition_submission(store_file(headed), solution)
        tests = list(embedded_shards(source, store, "test"))
        told, _ = write_steps(store, Writer(store), tests, recipe.retrieval, predictions, solution)
        steps = told["ablation"]
        assert list(steps) == ["neighbours", "+ penalties", "+ class logits", "+ local features"][: 3 + bool(rerank)]
        assert steps[last] == figures_of(predictions, solution.landmarks)


def test_without_reranking_penalties_are_the_last_step(indexed: Embedded) -> None:
    store, recipe = indexed.store, indexed.recipe
    make_submission(indexed.source, store, recipe)
    solution, _ = scored_recognition(store)
    predictions = read_recognition_submission(store_file(indexed), solution)
    tests = list(embedded_shards(indexed.source, store, "test"))
    plain = recipe.retrieval.model_copy(update={"rerank": 0})
    told, _ = write_steps(store, Writer(store), tests, plain, predictions, solution)
    assert list(told["ablation"]) == ["neighbours", "+ penalties"]


def test_kinds_part_the_queries_that_show_a_landmark(indexed: Embedded) -> None:
    store = indexed.store
    make_submission(indexed.source, store, indexed.recipe)
    solution, _ = scored_recognition(store)
    predictions = read_recognition_submission(store_file(indexed), solution)
    kinds = by_kind(store, predictions, solution.landmarks)
    shown = {query: landmarks for query, landmarks in solution.landmarks.items() if landmarks}
    right = sum(found.landmark_id in shown.get(found.id, ()) for found in predictions)
    for groups in kinds.values():
        assert sum(of["queries"] for of in groups.values()) == len(shown)
        assert sum(of["queries"] * of["top1"] for of in groups.values()) == pytest.approx(right)
    counts = np.bincount(np.unique(open_index(store).landmark_ids, return_inverse=True)[1])
    assert set(kinds["by_size"]) <= {range_of_size(int(count)) for count in counts} | {"0"}
    categories = {row["supercategory"] or "unknown" for row in read_table(store, LANDMARK_LABELS).to_pylist()}
    assert set(kinds["by_supercategory"]) <= categories
    assert all(not math.isnan(of["gap"]) for groups in kinds.values() for of in groups.values())


def store_file(indexed: Embedded):  # type: ignore[no-untyped-def]
    import io

    return io.BytesIO(indexed.store.read(SUBMISSION))
