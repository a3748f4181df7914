from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from glr_assets.errors import DamagedFileError, MissingInputError
from glr_assets.manifests import kept_images
from glr_assets.recipes import Retrieval
from glr_assets.retrieval.embeddings import NonLandmarks, Vectors
from glr_assets.retrieval.index import build_index, make_faiss_index, open_index, searched_images
from glr_assets.retrieval.schemas import INDEX_FILE, INDEX_INFO
from glr_assets.verified import verified
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


#: Opens the index of a store, lets others damage the store's own files in place, and searches.
SEARCHES = """
import os, sys
import numpy as np
from glr_assets.retrieval.index import open_index
from glr_assets.retrieval.schemas import INDEX_FILE, ROWS_FILE
from glr_assets.store import Store
from glr_assets.verified import verified

store = Store(sys.argv[1])
index = open_index(verified(store, ["faiss_index"], maps_copies=True))
before = index.search(index.vectors[:3], 5)
for name in (INDEX_FILE, ROWS_FILE):
    if store.exists(name):
        os.truncate(store.path(name), 0)
        os.truncate(store.path(name), 4096)
        os.truncate(store.path(name), 0)
after = index.search(index.vectors[:3], 5)
assert all((one == other).all() for one, other in zip(before, after))
print(len(index), np.isfinite(index.vectors).all())
"""


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_an_index_in_use_outlives_damage_to_its_file(embedded: Embedded, kind: str) -> None:
    """A mapped file of the store that is cut would end the process by SIGBUS; a service maps copies."""
    recipe = embedded.recipe.retrieval.model_copy(update={"index": kind})
    rows = make_faiss_index(embedded.source, embedded.store, recipe, embedded.recipe.seed).receipt.summary["rows"]
    done = subprocess.run(
        [sys.executable, "-c", SEARCHES, embedded.store.url], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(rows), "True"]


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("name", [INDEX_FILE, INDEX_INFO])
def test_a_damaged_file_of_the_index_is_refused(embedded: Embedded, name: str, copies: bool) -> None:
    store = embedded.store
    make_faiss_index(embedded.source, store, embedded.recipe.retrieval, embedded.recipe.seed)
    data = bytearray(store.read(name))
    data[len(data) // 2] ^= 1
    store.write(name, bytes(data))
    opened = verified(store, ["faiss_index"], maps_copies=copies)
    with pytest.raises(DamagedFileError, match=f"{name}: expected SHA-256 .* by the receipt of faiss_index, found"):
        open_index(opened)
