from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from glr_assets.errors import MissingInputError
from glr_assets.recipes import Retrieval
from glr_assets.retrieval.embeddings import Vectors
from glr_assets.retrieval.index import build_index, calibrate, make_faiss_index, open_index, searched_images
from glr_assets.training.versions import held_out_ids
from glr_assets.verification.manifests import kept_images
from glr_assets_tests.retrieval.conftest import Embedded


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def manifest(count: int, landmarks: int) -> pa.Table:
    ids = [f"{number:04x}" for number in range(count)]
    return pa.table({"id": ids, "landmark_id": pa.array([number % landmarks for number in range(count)])})


def test_so_many_images_a_landmark_are_searched_whatever_the_order_of_rows() -> None:
    rows = manifest(50, 4)
    chosen = searched_images(rows, 3, seed=1)
    assert Counter(chosen["landmark_id"].to_pylist()) == {0: 3, 1: 3, 2: 3, 3: 3}
    shuffled = rows.take(pa.array(np.random.default_rng(0).permutation(50)))
    again = searched_images(shuffled, 3, seed=1)
    assert sorted(again["id"].to_pylist()) == sorted(chosen["id"].to_pylist())
    assert sorted(searched_images(rows, 3, seed=2)["id"].to_pylist()) != sorted(chosen["id"].to_pylist())
    assert searched_images(rows, 0, seed=1).num_rows == 50
    assert searched_images(rows, 100, seed=1).num_rows == 50


def test_an_image_without_embedding_is_named() -> None:
    rows = manifest(3, 1)
    vectors = Vectors(["0000", "0001"], np.eye(2, dtype=np.float32))
    none = Vectors([], np.zeros((0, 2), np.float32))
    with pytest.raises(MissingInputError, match="0002"):
        build_index(rows, vectors, none, Retrieval())


def test_calibration_lets_no_held_out_image_find_itself() -> None:
    rng = np.random.default_rng(0)
    rows = manifest(40, 40)  # one image a landmark: who may not find itself can only be wrong
    vectors = Vectors(rows["id"].to_pylist(), unit(rng.normal(size=(40, 8))))
    none = Vectors([], np.zeros((0, 8), np.float32))
    recipe = Retrieval()
    index, _ = build_index(rows, vectors, none, recipe)
    landmark_of = dict(zip(rows["id"].to_pylist(), rows["landmark_id"].to_pylist(), strict=True))
    found = calibrate(index, vectors, landmark_of, none, recipe)
    assert (found.samples, found.correct) == (40, 0)


def test_calibration_learns_that_near_answers_are_right_and_non_landmarks_wrong() -> None:
    rng = np.random.default_rng(1)
    centres = unit(rng.normal(size=(5, 16)))
    rows = manifest(60, 5)
    near = unit(centres[np.arange(60) % 5] + 0.05 * rng.normal(size=(60, 16)))
    vectors = Vectors(rows["id"].to_pylist(), near)
    away = Vectors([f"n{number:03d}" for number in range(30)], unit(rng.normal(size=(30, 16))))
    recipe = Retrieval()
    index, penalties = build_index(rows, vectors, away, recipe)
    assert penalties.shape == (60,)
    landmark_of = dict(zip(rows["id"].to_pylist(), rows["landmark_id"].to_pylist(), strict=True))
    found = calibrate(index, vectors.of(rows["id"].to_pylist()[:20]), landmark_of, away, recipe)
    assert found.fitted
    assert (found.samples, found.correct) == (50, 20)


def test_the_index_is_read_back_as_it_was_made(embedded: Embedded) -> None:
    recipe = embedded.recipe
    held_out = held_out_ids(embedded.store)
    made = make_faiss_index(embedded.source, embedded.store, recipe.retrieval, held_out, recipe.seed)
    index, calibration = open_index(embedded.store)
    kept = kept_images(embedded.store, "train_manifest")
    assert index.ids == kept["id"].to_pylist()
    assert made.receipt.summary["rows"] == len(index) == kept.num_rows
    assert calibration.slope == made.receipt.summary["calibration_slope"]
    assert make_faiss_index(embedded.source, embedded.store, recipe.retrieval, held_out, recipe.seed).reused
