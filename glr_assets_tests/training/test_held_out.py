"""Which held-out photographs are asked, what the nearest of those that trained answers, and shares by class size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.training.held_out import (
    CLASS_SIZES,
    MOST_ASKED,
    MOST_COMPARED,
    asked_and_compared,
    by_class_size,
    held_out_answers,
    range_of_size,
)
from glr_assets.training.photographs import TrainingSet
from glr_assets.training.schemas import HELD_OUT_ANSWERS


def photographs(landmark_ids: list[int], name: str) -> TrainingSet:
    ids = tuple(f"{name}{number:03d}" for number in range(len(landmark_ids)))
    return TrainingSet(ids, tuple(landmark_ids), str.encode)


def vector_of(image: bytes) -> np.ndarray:
    random = np.random.default_rng(list(image))
    vector = random.normal(size=6)
    return vector / np.linalg.norm(vector)


def embedded(images: Iterable[bytes]) -> np.ndarray:
    return np.array([vector_of(image) for image in images], np.float32)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.lists(st.integers(0, 6), max_size=20), st.randoms())
def test_answers_are_those_of_trying_all_pairs(trained: list[int], held: list[int], random) -> None:
    training, validation = photographs(trained, "t"), photographs(held, "v")
    rows = held_out_answers(embedded, training, validation).to_pylist()
    assert [row["id"] for row in rows] == sorted(i for i, c in zip(validation.ids, held, strict=True) if c in trained)
    _, compared = asked_and_compared(training, validation)
    for row in rows:
        cosines = {
            image: round(float(np.float32(vector_of(image.encode())) @ np.float32(vector_of(row["id"].encode()))), 4)
            for image in compared.ids
        }
        landmark_of = dict(zip(compared.ids, compared.landmark_ids, strict=True))
        best = max(cosines.values())
        assert row["cosine"] == pytest.approx(best, abs=1.1e-4)
        assert cosines[row["nearest"]] == pytest.approx(best, abs=1.1e-4)
        assert row["answer"] == landmark_of[row["nearest"]]
        own = {image: cosine for image, cosine in cosines.items() if landmark_of[image] == row["landmark_id"]}
        assert row["own_cosine"] == pytest.approx(max(own.values()), abs=1.1e-4)
        assert row["own_nearest"] in own
        assert row["train_images"] == trained.count(row["landmark_id"])
    # Neither choice nor answers depend on the order in which photographs come.
    order = list(range(len(trained)))
    random.shuffle(order)
    shuffled = TrainingSet(
        tuple(training.ids[n] for n in order), tuple(training.landmark_ids[n] for n in order), str.encode
    )
    assert held_out_answers(embedded, shuffled, validation).to_pylist() == rows


def test_equal_cosines_go_to_the_smaller_id() -> None:
    def same(images: Iterable[bytes]) -> np.ndarray:
        return np.array([[1.0, 0.0] for _ in images], np.float32)

    training = TrainingSet(("b", "a", "c"), (1, 2, 1), str.encode)
    (row,) = held_out_answers(same, training, TrainingSet(("x",), (1,), str.encode)).to_pylist()
    assert (row["nearest"], row["answer"], row["own_nearest"]) == ("a", 2, "b")


def test_nothing_held_out_is_no_row_and_embeds_nothing() -> None:
    def broken(images: Iterable[bytes]) -> np.ndarray:
        raise AssertionError("embedded")

    training = photographs([1, 2], "t")
    for validation in (photographs([], "v"), photographs([9], "v")):
        found = held_out_answers(broken, training, validation)
        assert found.equals(HELD_OUT_ANSWERS.empty())


def test_what_is_compared_is_bounded_and_begins_with_the_landmarks_asked_of() -> None:
    training = photographs([n % 2500 for n in range(12_500)], "t")
    validation = photographs([n % 1000 for n in range(3000)], "v")
    asked, compared = asked_and_compared(training, validation)
    assert (len(asked), len(compared)) == (MOST_ASKED, MOST_ASKED * MOST_COMPARED)
    counts = Counter(compared.landmark_ids)
    assert all(counts[landmark] == MOST_COMPARED for landmark in asked.landmark_ids)
    assert len(counts) > len(set(asked.landmark_ids))
    few = asked_and_compared(photographs([1] * 9 + [2] * 3, "t"), photographs([1], "v"))[1]
    assert Counter(few.landmark_ids) == {1: MOST_COMPARED, 2: 3}


def test_shares_by_class_size_of_a_worked_example() -> None:
    figures = by_class_size([1, 1, 2, 3, 4, 4], [2, 2, 1, 10, 500, 500], [True, False, True, False, True, True])
    told = [(f.range, f.landmarks, f.images, f.right) for f in figures]
    assert told == [("1–2", 2, 3, pytest.approx(2 / 3)), ("6–10", 1, 1, 0.0), ("101+", 1, 2, 1.0)]
    assert by_class_size([], [], []) == ()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 300), st.booleans()), max_size=60))
def test_every_photograph_is_in_one_range_of_class_sizes(rows: list[tuple[int, int, bool]]) -> None:
    figures = by_class_size(*([list(column) for column in zip(*rows, strict=True)] or [[], [], []]))
    assert sum(figure.images for figure in figures) == len(rows)
    assert sum(figure.right * figure.images for figure in figures) == pytest.approx(sum(right for *_, right in rows))
    for figure in figures:
        inside = [size for _, size, _ in rows if figure.fewest <= size <= (figure.most or 10**9)]
        assert len(inside) == figure.images
    assert [figure.fewest for figure in figures] == sorted(figure.fewest for figure in figures)
    assert {figure.fewest for figure in figures} <= set(CLASS_SIZES)


def test_every_number_of_images_is_in_one_range() -> None:
    named = [range_of_size(images) for images in range(200)]
    assert len(set(named)) == len(CLASS_SIZES) + 1
    assert [named[images] for images in (0, 1, 2, 3, 10, 11, 50, 51, 101, 199)] == [
        "0",
        "1–2",
        "1–2",
        "3–5",
        "6–10",
        "11–20",
        "21–50",
        "51–100",
        "101+",
        "101+",
    ]
