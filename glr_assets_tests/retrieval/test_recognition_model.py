"""The recognition model as an asset: who its samples are, whom they meet, and that it repeats."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from glr_assets.errors import MissingInputError
from glr_assets.receipts import receipt_path
from glr_assets.recipes import Retrieval
from glr_assets.retrieval.answering import Witness
from glr_assets.retrieval.embeddings import NonLandmarks, Vectors, read_non_landmarks
from glr_assets.retrieval.index import build_index, open_index
from glr_assets.retrieval.model import fit_neighbours
from glr_assets.retrieval.recognition_model import (
    Samples,
    cross_validated,
    drawn_samples,
    make_recognition_model,
    open_model,
)
from glr_assets.retrieval.schemas import MODEL_FILE, RECOGNITION_SAMPLES
from glr_assets.tables import read_table
from glr_assets.training.versions import held_out_ids
from glr_assets_tests.retrieval.conftest import Embedded


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def plain(landmarks: np.ndarray, vectors: np.ndarray, away: Vectors) -> tuple[Witness, Vectors]:
    ids = [f"{number:04x}" for number in range(len(landmarks))]
    images = Vectors(ids, vectors)
    recipe, gallery = Retrieval(rerank=0), NonLandmarks(away)
    index, penalties = build_index(pa.table({"id": ids, "landmark_id": landmarks}), images, gallery, recipe)
    assert penalties.shape == (len(ids),)
    return Witness(index, gallery, recipe), images


def test_no_sample_finds_itself() -> None:
    random = np.random.default_rng(0)
    # One image a landmark: who may not find itself can only be wrong.
    witness, images = plain(np.arange(40), unit(random.normal(size=(40, 8))), Vectors([], np.zeros((0, 8), np.float32)))
    model = fit_neighbours(list(witness.of(images, leave_one_out=True)), list(range(40)))
    assert (model.calibration.samples, model.calibration.correct) == (40, 0)
    itself = fit_neighbours(list(witness.of(images)), list(range(40)))
    assert itself.calibration.correct == 40


def test_near_answers_are_learnt_to_be_right_and_non_landmarks_wrong() -> None:
    random = np.random.default_rng(1)
    centres = unit(random.normal(size=(5, 16)))
    near = unit(centres[np.arange(60) % 5] + 0.05 * random.normal(size=(60, 16)))
    away = Vectors([f"n{number:03d}" for number in range(30)], unit(random.normal(size=(30, 16))))
    witness, images = plain(np.arange(60) % 5, near, away)
    asked = images.of(images.ids[:20])
    evidence = [*witness.of(asked, leave_one_out=True), *witness.of(away)]
    model = fit_neighbours(evidence, [number % 5 for number in range(20)] + [None] * 30)
    assert model.calibration.fitted
    assert (model.calibration.samples, model.calibration.correct) == (50, 20)
    told = cross_validated(
        Samples(["train"] * 20 + ["test"] * 30, evidence, [n % 5 for n in range(20)] + [None] * 30), fit_neighbours, 0
    )
    assert told.num_rows == 50
    probability, right = told["probability"].to_numpy(), told["right"].to_numpy(zero_copy_only=False)
    assert probability[right].min() > probability[~right].max()


def test_samples_are_the_held_out_images_and_the_gallery(indexed: Embedded) -> None:
    store, recipe = indexed.store, indexed.recipe
    rows = read_table(store, RECOGNITION_SAMPLES).to_pylist()
    held_out = held_out_ids(store)
    gallery = read_non_landmarks(store, open_index(store).dimensions).images.ids
    assert {row["id"] for row in rows if row["split"] == "train"} == set(held_out)
    assert {row["id"] for row in rows if row["split"] == "test"} == set(gallery)
    assert all((row["landmark_id"] is None) == (row["split"] == "test") for row in rows)
    assert all(row["right"] == (row["answer"] == row["landmark_id"]) for row in rows)
    model = open_model(store)
    assert model.weights
    assert model.calibration.samples == len(rows)
    before = store.read(MODEL_FILE)
    assert make_recognition_model(indexed.source, store, recipe, held_out).reused
    store.remove(receipt_path("recognition_model"))
    changed = recipe.overridden({"execution": {"workers": 3}})
    assert not make_recognition_model(indexed.source, store, changed, held_out).reused
    assert store.read(MODEL_FILE) == before


def test_no_more_samples_are_drawn_than_the_recipe_says(indexed: Embedded) -> None:
    recipe = indexed.recipe.overridden({"retrieval": {"calibrating": 3}})
    ids = [f"{number:04x}" for number in range(50)]
    drawn = drawn_samples(ids, recipe)
    assert len(drawn) == 3
    assert drawn_samples(ids[::-1], recipe) == drawn
    assert set(drawn_samples(ids, recipe.overridden({}, seed=5))) != set(drawn)
    assert sorted(drawn_samples(ids, recipe.overridden({"retrieval": {"calibrating": 100}}))) == ids


@pytest.mark.parametrize("name", ["faiss_index", "non_landmark_embeddings"])
def test_what_has_not_been_made_is_named(indexed: Embedded, name: str) -> None:
    indexed.store.remove(receipt_path(name))
    with pytest.raises(MissingInputError, match=name):
        make_recognition_model(indexed.source, indexed.store, indexed.recipe, held_out_ids(indexed.store))


def test_no_image_of_the_gallery_meets_itself_or_its_twin() -> None:
    vectors = unit(np.random.default_rng(2).normal(size=(4, 6)))
    digests = np.array([11, 12, 13, 14], np.uint64)
    gallery = NonLandmarks(Vectors(["a", "b", "c", "d"], vectors, digests))
    # A query of other id and the same bytes, one of its own id, and one that nobody knows.
    asked = Vectors(["q", "b", "s"], vectors[:3], np.array([11, 12, 0], np.uint64))
    assert gallery.known_as(asked) == ["a", "b", "s"]
    found = gallery.penalties(asked, 1)
    others = [max(float(vectors[row] @ vectors[other]) for other in range(4) if other != row) for row in (0, 1)]
    np.testing.assert_allclose(found, [*others, 1.0], atol=2e-6)
