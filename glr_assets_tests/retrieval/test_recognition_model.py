"""The recognition model as an asset: who its samples are, whom they meet, and that it repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from glr_assets.errors import MissingInputError
from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.metadata.schemas import RECOGNITION_SOLUTION
from glr_assets.receipts import receipt_path
from glr_assets.recipes import Retrieval
from glr_assets.retrieval.answering import Evidence, Witness
from glr_assets.retrieval.embeddings import NonLandmarks, Vectors, embedded_shards, read_embeddings, read_non_landmarks
from glr_assets.retrieval.index import build_index, open_index
from glr_assets.retrieval.model import RecognitionModel, fit_neighbours
from glr_assets.retrieval.recognition_model import (
    Samples,
    cross_validated,
    drawn_samples,
    evidence_of_samples,
    make_recognition_model,
    open_model,
    open_witness,
    sample_queries,
    stand_ins,
)
from glr_assets.retrieval.schemas import FAISS_INDEX, MODEL_FILE, RECOGNITION_SAMPLES
from glr_assets.tables import read_table, write_table
from glr_assets.training.versions import held_out_ids
from glr_assets_tests.lineage import embed, index
from glr_assets_tests.retrieval.conftest import Embedded
from glr_assets_tests.retrieval.test_scoring import names


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
    model = fit_neighbours(list(witness.of(images, leave_out={})), list(range(40)))
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
    evidence = [*witness.of(asked, leave_out={}), *witness.of(away)]
    model = fit_neighbours(evidence, [number % 5 for number in range(20)] + [None] * 30)
    assert model.calibration.fitted
    assert (model.calibration.samples, model.calibration.correct) == (50, 20)
    shown = [number % 5 for number in range(20)] + [None] * 30
    groups = [one.id for one in evidence]
    told = cross_validated(
        Samples(["train"] * 20 + ["test"] * 30, evidence, shown, [False] * 50, groups), fit_neighbours, 0
    )
    assert told.num_rows == 50
    probability, right = told["probability"].to_numpy(), told["right"].to_numpy(zero_copy_only=False)
    assert probability[right].min() > probability[~right].max()


def test_near_duplicates_and_both_samples_of_a_photograph_are_in_one_fold() -> None:
    nothing = np.zeros(0)
    evidence = [Evidence(f"{n % 30:04x}", 0.0, nothing.astype(np.int64), nothing, nothing, nothing) for n in range(60)]
    groups = [f"{n % 30 // 3:04x}" for n in range(60)]
    group_of = dict(zip([id(one) for one in evidence], groups, strict=True))
    taught: list[set[str]] = []

    def fit(shown: Sequence[Evidence], landmarks: Sequence[int | None]) -> RecognitionModel:
        taught.append({group_of[id(one)] for one in shown})
        assert all(
            (landmark is None) == (landmark_of[id(one)] is None) for one, landmark in zip(shown, landmarks, strict=True)
        )
        return fit_neighbours(shown, landmarks)

    landmark_of = {id(one): 7 if number < 30 else None for number, one in enumerate(evidence)}
    told = cross_validated(Samples(["train"] * 60, evidence, [7] * 60, [False] * 30 + [True] * 30, groups), fit, 0)
    # Each group is wholly in all fits but one.
    assert sum(len(set(groups) - fold) for fold in taught) == len(set(groups))
    assert told["hidden"].to_pylist() == [False, True] * 30


def test_without_known_non_landmarks_confidence_comes_of_training_photographs_alone(
    embedded: Embedded, tmp_path: Path
) -> None:
    more = {"retrieval": {"rerank": 0}, "training": {"validation": 0.3}}
    evaluated = replace(embedded, recipe=embedded.recipe.overridden(more))
    copy = embedded.copied(tmp_path / "service")
    found = replace(copy, recipe=evaluated.recipe.overridden({"retrieval": {"non_landmark_usage": []}}))
    for store in (evaluated, found):
        embed(store.source, store.store, store.recipe)
        index(store.source, store.store, store.recipe)
    assert read_table(evaluated.store, RECOGNITION_SAMPLES)["split"].to_pylist().count("test") > 0
    rows = read_table(found.store, RECOGNITION_SAMPLES).to_pylist()
    shown, hidden = ({row["id"]: row for row in rows if row["hidden"] == of} for of in (False, True))
    assert shown.keys() == hidden.keys() == set(held_out_ids(found.store))
    assert all(row["landmark_id"] == shown[name]["landmark_id"] for name, row in hidden.items())
    assert not any(row["right"] for row in hidden.values())
    # Photographs of landmarks are as sure as where photographs of no landmark are known, and these as unsure.
    right, sure, unsure = (np.array(values) for values in zip(confidence(evaluated), confidence(found), strict=True))
    assert right[1] == right[0] > 0.8
    assert sure[1] > sure[0] - 0.05
    assert unsure[1] < 0.3
    assert found.store.read_json(MODEL_FILE)["calibration"]["samples"] == 2 * len(shown)


def confidence(found: Embedded) -> tuple[float, float, float]:
    """Of queries that show a landmark the share answered rightly and their mean probability; that of the others."""
    witness = open_witness(found.store, {}, found.recipe.retrieval, found.recipe.verification, found.recipe.execution)
    shows = {row["id"]: row["landmark_ids"] for row in read_table(found.store, RECOGNITION_SOLUTION).to_pylist()}
    queries = read_embeddings(found.store, embedded_shards(found.source, found.store, "test"), shows)
    model, right, sure, unsure = open_model(found.store), [], [], []
    for evidence in witness.of(queries):
        best = model.ranked(evidence)[0]
        (probability,) = model.probabilities([best.score])
        if shows[evidence.id]:
            right.append(best.landmark_id in shows[evidence.id])
            sure.append(probability)
        else:
            unsure.append(probability)
    return float(np.mean(right)), float(np.mean(sure)), float(np.mean(unsure))


def test_as_many_landmarks_are_left_out_as_non_landmarks_are_fewer_than_held_out_images() -> None:
    ids = names("i", 10)
    assert [len(stand_ins(ids, others, 0)) for others in (0, 4, 9, 10, 200)] == [10, 6, 1, 0, 0]
    assert stand_ins(ids[::-1], 4, 0) == stand_ins(ids, 4, 0)
    assert set(stand_ins(ids, 5, 0)) < set(stand_ins(ids, 4, 0))
    assert stand_ins(ids, 4, 1) != stand_ins(ids, 4, 0)


def test_no_sample_meets_a_near_duplicate(indexed: Embedded) -> None:
    store = indexed.store
    index_rows = read_table(store, FAISS_INDEX).to_pylist()
    held_out = sorted(held_out_ids(store))
    landmark_of = {row["id"]: row["landmark_id"] for row in index_rows}
    asked = held_out[0]
    mates = [name for name, of in landmark_of.items() if of == landmark_of[asked] and name != asked][:2]
    witness = open_witness(store, {}, Retrieval(rerank=0), indexed.recipe.verification, indexed.recipe.execution)
    away = witness.non_landmarks.images.ids[:2]
    # Now they have one hash.
    rows = read_table(store, IMAGE_CATALOG).to_pylist()
    for row in rows:
        if (row["split"] == "train" and row["id"] in {asked, *mates}) or (row["split"] == "test" and row["id"] in away):
            row["dhash"], row["sharpness"] = 0x0123456789ABCDEF, 90.0
    with store.writing(IMAGE_CATALOG.path) as file:
        write_table(IMAGE_CATALOG, IMAGE_CATALOG.rows(rows), file)
    names_of = embedded_shards(indexed.source, store, "train")
    known = {name: landmark_of[name] for name in held_out}
    shown, hidden, others = sample_queries(store, names_of, witness, known, away, held_out[:1])
    for kind in (shown, hidden):
        assert set(kind.leave_out[asked]) >= set(mates)
        assert kind.group_of[asked] == min(asked, *mates)
    assert (hidden.hidden, hidden.vectors.ids) == (True, [asked])
    assert others.leave_out == {away[0]: (away[1],), away[1]: (away[0],)}
    (found,) = evidence_of_samples(witness, [hidden]).evidence
    assert landmark_of[asked] not in found.landmark_ids.tolist()


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
