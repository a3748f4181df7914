from __future__ import annotations

import csv
import io

import pytest
from safetensors.numpy import load

from glr_assets.errors import DamagedFileError, MissingInputError
from glr_assets.metadata.schemas import TEST_METADATA
from glr_assets.receipts import Unfinished, need_receipt, read_receipt, receipt_names, receipt_path
from glr_assets.retrieval import answering
from glr_assets.retrieval.calibration import Calibration
from glr_assets.retrieval.embeddings import embedded_shards, read_embeddings, read_non_landmarks
from glr_assets.retrieval.index import make_faiss_index, open_index
from glr_assets.retrieval.recognition_model import open_model
from glr_assets.retrieval.schemas import ANSWERS
from glr_assets.retrieval.scoring import Recognition
from glr_assets.retrieval.submission import (
    RETRIEVAL_SUBMISSION,
    SUBMISSION,
    make_retrieval_submission,
    make_submission,
    recognition_csv,
)
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets.training.versions import embedder_folder
from glr_assets_tests.lineage import index
from glr_assets_tests.retrieval.conftest import Embedded

CALIBRATION = Calibration(slope=2.0, intercept=-1.0)


def rows_of(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode())))


def test_a_row_for_every_query_in_kaggles_format_blank_where_nothing_was_answered() -> None:
    answers = [Recognition("b", 17, 0.5), Recognition("a", 3, -0.25)]
    data = recognition_csv(["a", "b", "c"], answers, CALIBRATION)
    lines = data.decode().splitlines()
    assert lines[0] == "id,landmarks"
    assert lines[1].startswith("a,3 0.")
    assert lines[2] == "b,17 0.50000000"  # odds of 2 * 0.5 - 1 = 0
    assert lines[3] == "c,"
    assert len(lines[1].split()[1].split(".")[1]) == 8


def test_submissions_answer_every_test_image(indexed: Embedded) -> None:
    recipe, store, source = indexed.recipe, indexed.store, indexed.source
    made = make_submission(source, store, recipe)
    make_retrieval_submission(source, store, recipe.retrieval)
    asked = read_table(store, TEST_METADATA)["id"].to_pylist()
    recognised, retrieved = rows_of(store.read(SUBMISSION)), rows_of(store.read(RETRIEVAL_SUBMISSION))
    assert [row["id"] for row in recognised] == asked == [row["id"] for row in retrieved]
    assert all(row["landmarks"] for row in recognised)
    assert made.receipt.summary["answered"] == len(asked)
    for row in retrieved:
        found = row["images"].split()
        assert 0 < len(found) <= recipe.retrieval.retrieved
        assert len(set(found)) == len(found)
    assert make_submission(source, store, recipe).reused
    assert make_retrieval_submission(source, store, recipe.retrieval).reused


def test_what_spoke_for_an_answer_stands_beside_it(indexed: Embedded) -> None:
    recipe, store, source = indexed.recipe, indexed.store, indexed.source
    make_submission(source, store, recipe)
    told = read_table(store, ANSWERS).to_pylist()
    first = {row["id"]: row for row in told if row["rank"] == 1}
    for row in rows_of(store.read(SUBMISSION)):
        landmark, confidence = row["landmarks"].split()
        answer = first[row["id"]]
        assert int(landmark) == answer["landmark_id"]
        # The confidence is the odds on another scale: 1/2 is 1/2, and the order is the same.
        assert (float(confidence) > 0.5) == (answer["probability"] > 0.5)
        assert len(answer["inliers"]) == 3
    for image_id in first:
        mine = [row for row in told if row["id"] == image_id]
        assert [row["rank"] for row in mine] == list(range(1, len(mine) + 1))
        assert sum(row["probability"] for row in mine) <= 1 + 1e-9
        scores = [row["score"] for row in mine]
        assert scores == sorted(scores, reverse=True)


def test_an_answer_is_the_same_in_any_block_by_any_number_of_threads(
    indexed: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, store, source = indexed.recipe, indexed.store, indexed.source
    make_submission(source, store, recipe)
    expected = store.read(SUBMISSION), store.read(ANSWERS.path)
    for block, workers in ((1, 1), (5, 3)):
        monkeypatch.setattr(answering, "QUERIES_AT_ONCE", block)
        store.remove(receipt_path("submission"))
        changed = recipe.overridden({"execution": {"workers": workers}})
        assert not make_submission(source, store, changed).reused
        assert (store.read(SUBMISSION), store.read(ANSWERS.path)) == expected


def test_without_reranking_neighbours_alone_answer(indexed: Embedded) -> None:
    source, store = indexed.source, indexed.store
    recipe = indexed.recipe.overridden({"retrieval": {"rerank": 0, "penalties": "fixed"}})
    with pytest.raises(MissingInputError, match="is of penalties = 'learned', the recipe says 'fixed'"):
        make_submission(source, store, recipe)
    with pytest.raises(MissingInputError, match="is of rerank = 100, the recipe says 0"):
        make_submission(source, store, indexed.recipe.overridden({"retrieval": {"rerank": 0}}))
    index(source, store, recipe)
    make_submission(source, store, recipe)
    answers = {row["id"]: row for row in read_table(store, ANSWERS).to_pylist() if row["rank"] == 1}
    searched = open_index(store)
    gallery = read_non_landmarks(store, searched.dimensions)
    queries = read_embeddings(store, embedded_shards(source, store, "test"), answers)
    own = gallery.penalties(queries, recipe.retrieval.query_penalty_top)
    scores, rows = searched.search(queries.vectors, recipe.retrieval.neighbours)
    for query, penalty, of_query, at in zip(queries.ids, own, scores, rows, strict=True):
        by_landmark: dict[int, float] = {}
        for score, row in zip(of_query, at, strict=True):
            if score > 0:
                landmark = int(searched.landmark_ids[row])
                by_landmark[landmark] = by_landmark.get(landmark, 0.0) + score
        best = max(by_landmark, key=lambda landmark: (by_landmark[landmark], -landmark))
        assert answers[query]["landmark_id"] == best
        assert answers[query]["score"] == pytest.approx(by_landmark[best] - penalty, abs=2e-6)
        assert answers[query]["inliers"] == []


@pytest.mark.parametrize("rerank", [0, 100])
def test_class_logits_are_of_the_head_that_the_embedder_was_trained_under(headed: Embedded, rerank: int) -> None:
    source, store = headed.source, headed.store
    recipe = headed.recipe.overridden({"retrieval": {"rerank": rerank}})
    index(source, store, recipe)
    make_submission(source, store, recipe)
    assert "classes" in open_model(store).weights
    answers = read_table(store, ANSWERS).to_pylist()
    queries = read_embeddings(store, embedded_shards(source, store, "test"), {row["id"] for row in answers})
    asked = dict(zip(queries.ids, queries.vectors, strict=True))
    head = load(store.read(f"{embedder_folder(store)}/centres.safetensors"))
    rows = {landmark: row for row, landmark in enumerate(head["landmark_ids"].tolist())}
    for answer in answers:
        centres = head["centres"][rows[answer["landmark_id"]]]
        assert answer["class_logit"] == pytest.approx(float((centres @ asked[answer["id"]]).max()), abs=1e-5)
    without = recipe.overridden({"retrieval": {"class_logits": False}})
    with pytest.raises(MissingInputError, match="is of class_logits = True, the recipe says False"):
        make_submission(source, store, without)
    index(source, store, without)
    assert "classes" not in open_model(store).weights
    make_submission(source, store, without)
    assert set(read_table(store, ANSWERS)["class_logit"].to_pylist()) == {None}


def test_an_embedder_that_was_brought_in_has_no_class_logits(indexed: Embedded) -> None:
    assert indexed.recipe.retrieval.class_logits
    assert "classes" not in open_model(indexed.store).weights
    make_submission(indexed.source, indexed.store, indexed.recipe)
    assert set(read_table(indexed.store, ANSWERS)["class_logit"].to_pylist()) == {None}


def test_a_model_of_another_index_is_refused(indexed: Embedded) -> None:
    make_faiss_index(indexed.source, indexed.store, indexed.recipe.retrieval.model_copy(update={"per_landmark": 2}), 0)
    with pytest.raises(MissingInputError, match="of another faiss_index"):
        make_submission(indexed.source, indexed.store, indexed.recipe)


@pytest.mark.parametrize(
    "path",
    [
        "index/faiss_index.faiss",
        "index/faiss_index.parquet",
        "index/recognition_model.json",
        "embeddings/non_landmark_embeddings.parquet",
        "embeddings/non_landmark_embeddings.npy",
        "embeddings/test/000.parquet",
        "embeddings/test/000.npy",
        "metadata/test_metadata.parquet",
        "features/000.parquet",
        "features/test/000.bin",
    ],
)
def test_nothing_is_submitted_from_a_damaged_file(indexed: Embedded, path: str) -> None:
    """It is named, what it belongs to counts as not made, and once that is made again the answers are as before."""
    source, store, recipe = indexed.source, indexed.store, indexed.recipe
    data = bytearray(store.read(path))
    data[len(data) // 2 :][:8] = bytes(8)
    data[len(data) // 2] ^= 1
    store.write(path, bytes(data))
    with pytest.raises(DamagedFileError, match=path):
        make_submission(source, store, recipe)
    assert not store.exists(SUBMISSION)
    owner = next(name for name in receipt_names(store) if path in receipt_files(store, name))
    with pytest.raises(MissingInputError, match=rf"{owner} in .* is unfinished: it is damaged: {path}"):
        need_receipt(store, owner)


def receipt_files(store: Store, name: str) -> set[str]:
    found = read_receipt(store, name)
    if isinstance(found, Unfinished):
        return found.files
    return set(found.outputs) if found is not None else set()


@pytest.mark.parametrize(
    "path", ["embeddings/index/000.parquet", "embeddings/index/000.npy", "metadata/index_metadata.parquet"]
)
def test_nothing_is_retrieved_from_a_damaged_file(indexed: Embedded, path: str) -> None:
    store = indexed.store
    data = bytearray(store.read(path))
    data[len(data) // 2] ^= 1
    store.write(path, bytes(data))
    with pytest.raises(DamagedFileError, match=path):
        make_retrieval_submission(indexed.source, store, indexed.recipe.retrieval)
