from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from glr_assets.errors import MissingInputError
from glr_assets.manifests import kept_images
from glr_assets.recipes import Retrieval
from glr_assets.retrieval.embeddings import NonLandmarks, Vectors
from glr_assets.retrieval.index import build_index, make_faiss_index, open_index, searched_images
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
    none = NonLandmarks(Vectors([], np.zeros((0, 2), np.float32)))
    with pytest.raises(MissingInputError, match="0002"):
        build_index(rows, vectors, none, Retrieval())


def test_the_index_is_read_back_as_it_was_made(embedded: Embedded) -> None:
    recipe = embedded.recipe
    made = make_faiss_index(embedded.source, embedded.store, recipe.retrieval, recipe.seed)
    index = open_index(embedded.store)
    kept = kept_images(embedded.store, "train_manifest")
    assert index.ids == kept["id"].to_pylist()
    assert made.receipt.summary["rows"] == len(index) == kept.num_rows
    assert make_faiss_index(embedded.source, embedded.store, recipe.retrieval, recipe.seed).reused
