"""The answers: a Kaggle recognition submission, and one of retrieval."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np

from glr_assets.metadata.schemas import INDEX_METADATA, TEST_METADATA
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.recipes import Retrieval
from glr_assets.retrieval.calibration import Calibration
from glr_assets.retrieval.embeddings import Vectors, embedded_shards, from_table, read_embeddings
from glr_assets.retrieval.index import open_index
from glr_assets.retrieval.schemas import NON_LANDMARK_EMBEDDINGS
from glr_assets.retrieval.scoring import PenalisedIndex, Recognition, penalties, recognise, retrieve
from glr_assets.source import Source
from glr_assets.store import Store
from glr_assets.tables import read_table

CODE_VERSION = "1"
SUBMISSION = "submissions/submission.csv"
RETRIEVAL_SUBMISSION = "submissions/retrieval_submission.csv"


def answer(index: PenalisedIndex, queries: Vectors, non_landmarks: Vectors, recipe: Retrieval) -> list[Recognition]:
    """The best landmark of each query with its raw score, penalty C taken off; no query is its own non-landmark."""
    own = penalties(queries.vectors, queries.ids, non_landmarks.vectors, non_landmarks.ids, recipe.query_penalty_top)
    return recognise(index, queries.ids, queries.vectors, own, recipe.neighbours)


def recognition_csv(query_ids: Iterable[str], answers: Sequence[Recognition], calibration: Calibration) -> bytes:
    """`id,landmarks` with `<landmark> <confidence>` for every query, blank where nothing was answered."""
    confidences = calibration.confidence([found.score for found in answers])
    words = {
        found.id: f"{found.landmark_id} {confidence:.8f}"
        for found, confidence in zip(answers, confidences, strict=True)
    }
    return _csv(("id", "landmarks"), ((query, words.get(query, "")) for query in query_ids))


def retrieval_csv(query_ids: Iterable[str], retrieved: dict[str, list[str]]) -> bytes:
    """`id,images` with the index ids of each query, the best first."""
    return _csv(("id", "images"), ((query, " ".join(retrieved.get(query, ()))) for query in query_ids))


def _csv(header: tuple[str, str], rows: Iterable[tuple[str, str]]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue().encode()


def make_submission(source: Source, store: Store, recipe: Retrieval) -> Made:
    """`submission`: a row for every test image, blank for one that is not stored."""
    shards = embedded_shards(source, store, "test")

    def build(writer: Writer) -> Summary:
        index, calibration = open_index(store)
        test_ids = read_table(store, TEST_METADATA)["id"].to_pylist()
        queries = read_embeddings(store, shards).of(test_ids)
        non_landmarks = _or_none(from_table(read_table(store, NON_LANDMARK_EMBEDDINGS)), index.dimensions)
        answers = answer(index, queries, non_landmarks, recipe) if queries.ids else []
        writer.write(SUBMISSION, recognition_csv(test_ids, answers, calibration))
        sure = calibration.probability([found.score for found in answers]) if answers else np.zeros(0)
        return {"rows": len(test_ids), "answered": len(answers), "more_likely_right": int((sure > 0.5).sum())}

    parameters = {"neighbours": recipe.neighbours, "query_penalty_top": recipe.query_penalty_top}
    inputs = shards | need_receipts(store, "faiss_index", "non_landmark_embeddings", "test_metadata")
    return make(store, "submission", inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build)


def make_retrieval_submission(source: Source, store: Store, recipe: Retrieval) -> Made:
    """`retrieval_submission`: for every test image the index images nearest to it."""
    test_shards = embedded_shards(source, store, "test")
    index_shards = embedded_shards(source, store, "index")

    def build(writer: Writer) -> Summary:
        test_ids = read_table(store, TEST_METADATA)["id"].to_pylist()
        queries = read_embeddings(store, test_shards).of(test_ids)
        index = read_embeddings(store, index_shards).of(read_table(store, INDEX_METADATA, ["id"])["id"].to_pylist())
        found = retrieve(index.vectors, index.ids, queries.vectors, recipe.retrieved) if index.ids else []
        retrieved = dict(zip(queries.ids, found, strict=False))
        writer.write(RETRIEVAL_SUBMISSION, retrieval_csv(test_ids, retrieved))
        return {"rows": len(test_ids), "answered": len(retrieved), "index_images": len(index.ids)}

    inputs = test_shards | index_shards | need_receipts(store, "test_metadata", "index_metadata")
    return make(
        store,
        "retrieval_submission",
        inputs=inputs,
        parameters={"retrieved": recipe.retrieved},
        code_version=CODE_VERSION,
        build=build,
    )


def _or_none(vectors: Vectors, dimensions: int) -> Vectors:
    """Vectors of the index's dimensions also where there is none."""
    return vectors if vectors.ids else Vectors([], np.zeros((0, dimensions), np.float32))
