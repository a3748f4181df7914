"""What is taken for what, against examples worked by hand and against counting one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.evaluation import confusion
from glr_assets.evaluation.confusion import (
    HELD_OUT,
    NO_ANSWER,
    QUERIES,
    Judged,
    LandmarkFigure,
    best_and_worst,
    by_landmark,
    confused_pairs,
    confusion_matrix,
    embeddings_of,
    judged_held_out,
    judged_queries,
    landmark_names,
    mistakes_of_queries,
    surest_mistakes,
    write_errors,
)
from glr_assets.evaluation.metrics import Prediction
from glr_assets.evaluation.schemas import CONFUSED_LANDMARKS, LANDMARK_ACCURACY
from glr_assets.metadata.schemas import LANDMARK_LABELS
from glr_assets.receipts import Summary, Writer, find_receipt, make, need_receipts
from glr_assets.retrieval.embeddings import Vectors, write_embeddings
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets.training.schemas import HELD_OUT_ANSWERS
from glr_assets_tests.images.handmade import picture


def judged(pairs: list[tuple[int, int]], sureness: list[float] | None = None) -> Judged:
    """Photographs by (shown, answered)."""
    shown, answers = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    ids = tuple(f"{number:03d}" for number in range(len(pairs)))
    return Judged(QUERIES, ids, shown, answers, np.array(sureness or [0.5] * len(pairs)), {})


# Landmark 1 is told right once and taken for 2 twice and for 9 once; 2 for 1 once; 3 is right; 4 gets no answer.
EXAMPLE = judged([(1, 1), (1, 2), (1, 2), (1, 9), (2, 1), (2, 2), (3, 3), (4, NO_ANSWER)])


def test_the_worked_example() -> None:
    pairs = [(pair.landmark_id, pair.answer, pair.images, pair.share) for pair in confused_pairs(EXAMPLE)]
    assert pairs == [(1, 2, 2, 0.5), (2, 1, 1, 0.5), (1, 9, 1, 0.25)]
    assert by_landmark(EXAMPLE) == [
        LandmarkFigure(1, 4, 1),
        LandmarkFigure(2, 2, 1),
        LandmarkFigure(3, 1, 1),
        LandmarkFigure(4, 1, 0),
    ]
    counts, landmarks = confusion_matrix(EXAMPLE)
    # Most errors first, of as many the smaller share right; the last columns are another landmark and no answer.
    assert landmarks == (1, 4, 2)
    assert counts.tolist() == [[1, 0, 2, 1, 0], [0, 0, 0, 0, 1], [1, 0, 1, 0, 0]]
    best, worst = best_and_worst(EXAMPLE, 2)
    assert ([f.landmark_id for f in best], [f.landmark_id for f in worst]) == ([3, 2], [4, 1])


def test_a_matrix_of_few_landmarks_puts_the_rest_together() -> None:
    counts, landmarks = confusion_matrix(EXAMPLE, 1)
    assert landmarks == (1,)
    assert counts.tolist() == [[1, 3, 0]]
    counts, landmarks = confusion_matrix(judged([(1, 1)]))
    assert (counts.shape, landmarks) == ((0, 2), ())


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-1, 6)), min_size=1, max_size=60))
def test_every_photograph_is_counted_once(pairs: list[tuple[int, int]]) -> None:
    found = judged(pairs)
    figures = by_landmark(found)
    assert {f.landmark_id: f.images for f in figures} == Counter(shown for shown, _ in pairs)
    wrong = [(shown, answer) for shown, answer in pairs if answer not in {shown, NO_ANSWER}]
    assert {(p.landmark_id, p.answer): p.images for p in confused_pairs(found)} == Counter(wrong)
    unanswered = sum(answer == NO_ANSWER for _, answer in pairs)
    assert sum(f.right for f in figures) + len(wrong) + unanswered == len(pairs)
    counts, landmarks = confusion_matrix(found, 100)
    assert counts.sum() == sum(shown in landmarks for shown, _ in pairs)
    assert set(landmarks) == {f.landmark_id for f in figures if f.right < f.images}
    best, worst = best_and_worst(found, 3)
    assert not {f.landmark_id for f in best} & {f.landmark_id for f in worst}
    if best:
        assert min(f.share for f in best) >= max(f.share for f in worst)


def test_the_surest_mistakes_are_one_of_each_pair_of_landmarks() -> None:
    found = judged([(1, 2), (1, 2), (2, 1), (3, 3), (4, NO_ANSWER), (5, 1)], [0.6, 0.9, 0.9, 1.0, 1.0, 0.2])
    assert surest_mistakes(found).tolist() == [1, 2, 5]
    assert surest_mistakes(found, 2).tolist() == [1, 2]


def test_queries_of_several_landmarks_of_none_and_without_an_answer() -> None:
    predictions = [
        Prediction("a", 2, 0.9),
        Prediction("b", 7, 0.8),
        Prediction("none", 1, 0.7),
        Prediction("c", 3, 0.1),
    ]
    solution = {
        "c": frozenset({3}),
        "a": frozenset({1, 2}),
        "b": frozenset({5, 4}),
        "d": frozenset({6}),
        "none": frozenset(),
    }
    found = judged_queries(predictions, solution, {2: 10})
    assert found.ids == ("a", "b", "c", "d")
    assert found.shown.tolist() == [2, 4, 3, 6]
    assert found.answers.tolist() == [2, 7, 3, NO_ANSWER]
    assert found.right.tolist() == [True, False, True, False]
    assert found.sureness.tolist() == [0.9, 0.8, 0.1, -np.inf]


def test_held_out_answers_are_judged_as_they_stand() -> None:
    row = {"nearest": "t", "own_nearest": "t", "own_cosine": 0.1}
    rows = HELD_OUT_ANSWERS.rows(
        [
            row | {"id": "x", "landmark_id": 1, "train_images": 4, "answer": 2, "cosine": 0.5},
            row | {"id": "y", "landmark_id": 3, "train_images": 9, "answer": 3, "cosine": 0.25},
        ]
    )
    found = judged_held_out(rows)
    assert (found.asked, found.ids) == (HELD_OUT, ("x", "y"))
    assert found.right.tolist() == [False, True]
    assert found.sureness.tolist() == [0.5, 0.25]
    assert found.train_images == {1: 4, 3: 9}


@pytest.mark.parametrize(("landmark", "name"), [(1, "Bell Gate"), (2, "Twin 2"), (3, "Twin 3"), (4, "4"), (5, "Alone")])
def test_landmarks_are_told_by_names_that_name_one(landmark: int, name: str, store: Store) -> None:
    rows = [(1, "Bell Gate"), (2, "Twin"), (3, "Twin"), (5, "Alone"), (6, "Alone")]
    labels = [{"landmark_id": i, "name": told, "category": "c"} for i, told in rows]
    Writer(store).table(LANDMARK_LABELS, LANDMARK_LABELS.rows(labels))
    # Of two landmarks that share a name only one is spoken of.
    assert landmark_names(store, {1, 2, 3, 4, 5})(landmark) == name


# In a store


VECTORS = {
    ("train", "000"): {"t1": (1.0, 0.0), "t2": (0.8, 0.6), "t9": (0.0, -1.0)},
    ("train", "001"): {"t3": (0.0, 1.0), "t4": (0.6, 0.8), "t5": (-1.0, 0.0)},
    ("test", "000"): {"q1": (0.96, 0.28), "q2": (0.0, 1.0)},
}
SEARCHED = pa.table({"id": ["t1", "t2", "t3", "t4", "t5"], "landmark_id": [1, 1, 2, 2, 3]})


@pytest.fixture
def embedded(store: Store) -> Store:
    """Embeddings in shards, a submission and an index that were made from them, names of landmarks."""
    for (split, shard), vectors in VECTORS.items():
        images = Vectors(list(vectors), np.array(list(vectors.values()), np.float32))

        def build(writer: Writer, split=split, shard=shard, images=images) -> Summary:
            write_embeddings(writer, split, shard, images)
            return {}

        name = f"{split}_embeddings/{shard}"
        made = make(store, name, inputs={}, parameters={}, code_version="1", build=build).receipt.digest
        asset = "submission" if split == "test" else "faiss_index"
        earlier = find_receipt(store, asset)
        inputs = (earlier.inputs if earlier else {"other": "x"}) | {name: made}

        def of_asset(writer: Writer, asset=asset) -> Summary:
            writer.write(f"{asset}.bin", b"x")
            return {}

        make(store, asset, inputs=inputs, parameters={}, code_version="1", build=of_asset)
    labels = [{"landmark_id": n, "name": f"L{n}", "category": "c"} for n in (1, 2, 3)]
    Writer(store).table(LANDMARK_LABELS, LANDMARK_LABELS.rows(labels))
    return store


def test_embeddings_are_those_that_the_submission_was_made_from(embedded: Store) -> None:
    found = embeddings_of(embedded)
    assert found == need_receipts(embedded, "test_embeddings/000", "train_embeddings/000", "train_embeddings/001")


def test_a_mistake_stands_beside_the_nearest_of_both_landmarks(embedded: Store) -> None:
    predictions = [Prediction("q1", 2, 0.9), Prediction("q2", 3, 0.8), Prediction("q3", 1, 0.7)]
    solution = {"q1": frozenset({1}), "q2": frozenset({2}), "q3": frozenset({9})}
    found = judged_queries(predictions, solution, {})
    mistakes = mistakes_of_queries(embedded, found, SEARCHED, embeddings_of(embedded))
    # q1 · t1 = .96 and q1 · t2 = .936; of landmark 2, q1 · t3 = .28 and q1 · t4 = .8. q3 has no embedding.
    assert [(m.id, m.shown, m.answer, m.answered_image, m.own_image) for m in mistakes] == [
        ("q1", 1, 2, "t4", "t1"),
        ("q2", 2, 3, "t5", "t3"),
        ("q3", 9, 1, None, None),
    ]


def test_everything_of_the_errors_is_written_and_the_same_each_time(
    embedded: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Photographs:
        """All but t5, which is not stored."""

        @classmethod
        def of_split(cls, store: Store, split: str, ids: list[str]) -> Photographs:
            return cls()

        def __contains__(self, image_id: str) -> bool:
            return image_id != "t5"

        def read(self, image_id: str) -> bytes:
            return picture(sum(image_id.encode()), (60, 40))

    monkeypatch.setattr(confusion, "ImageReader", Photographs)
    held_out = [
        {"id": "h1", "landmark_id": 1, "train_images": 2, "answer": 3, "nearest": "t5", "own_nearest": "t1"},
        {"id": "h2", "landmark_id": 2, "train_images": 7, "answer": 2, "nearest": "t3", "own_nearest": "t3"},
    ]
    rows = HELD_OUT_ANSWERS.rows([row | {"cosine": 0.5, "own_cosine": 0.25} for row in held_out])
    Writer(embedded).table(HELD_OUT_ANSWERS, rows, version="v1")
    predictions = [Prediction("q1", 2, 0.9), Prediction("q2", 2, 0.8)]
    solution = {"q1": frozenset({1}), "q2": frozenset({2}), "none": frozenset()}

    def written() -> tuple[Summary, Writer]:
        writer = Writer(embedded)
        given = (predictions, solution, SEARCHED, embeddings_of(embedded), "models/embedder/v1")
        return write_errors(embedded, writer, *given), writer

    (figures, first), (_, second) = written(), written()
    assert first.outputs == second.outputs
    assert set(first.outputs) == {
        f"reports/{name}"
        for name in (
            "confused_landmarks.parquet",
            "landmark_accuracy.parquet",
            "confusion_queries.png",
            "confusion_held_out.png",
            "landmarks_best_worst.png",
            "class_sizes.png",
            "errors_queries.jpg",
            "errors_held_out.jpg",
            "errors.md",
        )
    }
    assert figures == {"landmarks_never_told_right": 1, "confused_pairs": 1, "most_confused": "L1 → L2"}
    pairs = read_table(embedded, CONFUSED_LANDMARKS).to_pylist()
    assert [(p["asked"], p["name"], p["answer_name"], p["images"], p["share"]) for p in pairs] == [
        (QUERIES, "L1", "L2", 1, 1.0),
        (HELD_OUT, "L1", "L3", 1, 1.0),
    ]
    accuracy = read_table(embedded, LANDMARK_ACCURACY).to_pylist()
    assert [(a["asked"], a["name"], a["train_images"], a["images"], a["right"]) for a in accuracy] == [
        (QUERIES, "L1", 2, 1, 0),
        (QUERIES, "L2", 2, 1, 1),
        (HELD_OUT, "L1", 2, 1, 0),
        (HELD_OUT, "L2", 7, 1, 1),
    ]
    told = embedded.read("reports/errors.md").decode()
    assert "### queries: 1 of 2 told right" in told
    assert "| L1 | L2 | 1 | 100% |" in told
