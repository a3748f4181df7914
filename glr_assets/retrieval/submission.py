"""The answers: a Kaggle recognition submission, and one of retrieval."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any, Final

import numpy as np
import pyarrow as pa

from glr_assets.metadata.schemas import INDEX_METADATA, TEST_METADATA
from glr_assets.query_labels import USED_LABELS, query_labels_used
from glr_assets.receipts import Made, Summary, Writer, make, need_receipt, need_receipts
from glr_assets.recipes import Recipe, Retrieval
from glr_assets.retrieval.answering import Evidence
from glr_assets.retrieval.calibration import Calibration
from glr_assets.retrieval.embeddings import embedded_shards, read_embeddings
from glr_assets.retrieval.local import StoredFeatures
from glr_assets.retrieval.model import RecognitionModel
from glr_assets.retrieval.recognition_model import (
    feature_receipts,
    feature_shards,
    need_model_of,
    open_model,
    open_witness,
    shards_of_tests,
)
from glr_assets.retrieval.schemas import ANSWERS
from glr_assets.retrieval.scoring import Recognition, retrieve_rows
from glr_assets.source import Source
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets.verified import verified

CODE_VERSION = "5"
RETRIEVAL_CODE_VERSION = "3"
#: Landmarks of a query that are told.
KEPT: Final = 5
#: Queries whose evidence is in memory at once; of the others the answer is.
_BLOCK: Final = 4096
#: Queries whose nearest index images are searched together, each block of these once.
_RETRIEVED_AT_ONCE: Final = 16_384
SUBMISSION = "submissions/submission.csv"
RETRIEVAL_SUBMISSION = "submissions/retrieval_submission.csv"


def recognition_csv(query_ids: Iterable[str], answers: Sequence[Recognition], calibration: Calibration) -> bytes:
    """`id,landmarks` with `<landmark> <confidence>` for every query, blank where nothing was answered."""
    confidences = calibration.confidence([found.score for found in answers])
    words = {
        found.id: f"{found.landmark_id} {confidence:.8f}"
        for found, confidence in zip(answers, confidences, strict=True)
    }
    return _csv(("id", "landmarks"), ((query, words.get(query, "")) for query in query_ids))


def _csv(header: tuple[str, str], rows: Iterable[tuple[str, str]]) -> bytes:
    return _lines([header, *rows])


def _lines(rows: Iterable[tuple[str, str]]) -> bytes:
    """CSV without a header."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue().encode()


def make_submission(source: Source, store: Store, recipe: Recipe) -> Made:
    """`submission`: a row for every test image, blank for one that is not stored; and what spoke for its answer.

    The test images whose labels the model or the penalties used are listed beside it, so that they are not scored.

    Raises:
        MissingInputError: index, gallery, model, embeddings or features have not been made, or not of one recipe.
        DamagedFileError: a file of them is not as it was written.
    """
    test, train = embedded_shards(source, store, "test"), embedded_shards(source, store, "train")
    names = ["recognition_model", "faiss_index", "non_landmark_embeddings", "test_metadata"]
    inputs = test | train | need_receipts(store, *names)
    need_model_of(store, recipe)
    of_train, of_test = feature_shards(train), {"test_features": shards_of_tests(source, store)}
    if recipe.retrieval.rerank:
        inputs |= feature_receipts(store, of_train) | feature_receipts(store, of_test)

    def build(writer: Writer) -> Summary:
        # What is damaged is not answered from.
        checked = verified(store, [*inputs, "embedder"])
        model = open_model(checked)
        witness = open_witness(checked, of_train, recipe.retrieval, recipe.verification, recipe.execution)
        test_ids = read_table(checked, TEST_METADATA)["id"].to_pylist()
        queries = read_embeddings(checked, test, test_ids)
        photographs = None
        if witness.comparer is not None:
            photographs = StoredFeatures.of(checked, of_test).prepared
        answers, told = [], [ANSWERS.empty()]
        evidence = witness.of(queries, photographs)
        while block := list(islice(evidence, _BLOCK)):
            ranked = [model.ranked(found) for found in block]
            answers += [best for best, *_ in filter(None, ranked)]
            rows = (evidence_rows(found, mine, model) for found, mine in zip(block, ranked, strict=True))
            told.append(ANSWERS.rows(chain.from_iterable(rows)))
        writer.write(SUBMISSION, recognition_csv(test_ids, answers, model.calibration))
        writer.table(ANSWERS, pa.concat_tables(told).combine_chunks())
        labels = query_labels_used(store, *names)
        writer.table(USED_LABELS, labels.as_table())
        sure = model.calibration.probability([found.score for found in answers]) if answers else np.zeros(0)
        return {
            "rows": len(test_ids),
            "answered": len(answers),
            "more_likely_right": int((sure > 0.5).sum()),
            "query_labels_used": len(labels.ids),
        }

    return make(
        store,
        "submission",
        inputs=inputs,
        parameters=need_receipt(store, "recognition_model").parameters,
        code_version=CODE_VERSION,
        build=build,
    )


def evidence_rows(found: Evidence, ranked: Sequence[Recognition], model: RecognitionModel) -> list[dict[str, Any]]:
    """`ANSWERS` of one query: its `KEPT` likeliest landmarks, the best first, and what speaks for each."""
    row_of = {landmark: row for row, landmark in enumerate(found.landmark_ids.tolist())}
    probabilities = model.probabilities([answer.score for answer in ranked[:KEPT]])
    rows = []
    for rank, (answer, probability) in enumerate(zip(ranked, probabilities, strict=False), 1):
        row = row_of[answer.landmark_id]
        support, logit = float(found.neighbours[row]), None if found.classes is None else found.classes[row]
        rows.append(
            {
                "id": found.id,
                "rank": rank,
                "landmark_id": answer.landmark_id,
                "score": answer.score,
                "probability": probability,
                "neighbours": support if np.isfinite(support) else None,
                "best": float(found.best[row]),
                "class_logit": None if logit is None or np.isnan(logit) else float(logit),
                "penalty": found.penalty,
                "inliers": [] if found.inliers is None else found.inliers[row].tolist(),
            }
        )
    return rows


#: Of `[retrieval]`, what decides which index images are answered.
RETRIEVED_BY: Final = frozenset({"retrieved", "expansion", "expansion_power"})


def make_retrieval_submission(source: Source, store: Store, recipe: Retrieval) -> Made:
    """`retrieval_submission`: `id,images` with the index images nearest to every test image, the best first.

    Vectors are read once, to disk where they are many, and searched a block of queries and a block of rows at a time.
    """
    test_shards = embedded_shards(source, store, "test")
    index_shards = embedded_shards(source, store, "index")

    def build(writer: Writer) -> Summary:
        checked = verified(store, inputs)
        test_ids = read_table(checked, TEST_METADATA)["id"].to_pylist()
        queries = read_embeddings(checked, test_shards, test_ids)
        index = read_embeddings(checked, index_shards, read_table(checked, INDEX_METADATA, ["id"])["id"].to_pylist())
        row_of = {query: row for row, query in enumerate(queries.ids)}
        answered = 0
        with writer.writing(RETRIEVAL_SUBMISSION) as file:
            file.write(_lines([("id", "images")]))
            for start in range(0, len(test_ids), _RETRIEVED_AT_ONCE):
                block = test_ids[start : start + _RETRIEVED_AT_ONCE]
                known = [query for query in block if query in row_of]
                found = retrieve_rows(
                    index.vectors,
                    queries.vectors[[row_of[query] for query in known]],
                    recipe.retrieved,
                    expansion=recipe.expansion,
                    expansion_power=recipe.expansion_power,
                )
                images = {
                    query: " ".join(index.ids[row] for row in rows if row >= 0)
                    for query, rows in zip(known, found.tolist(), strict=True)
                }
                file.write(_lines((query, images.get(query, "")) for query in block))
                answered += sum(map(bool, images.values()))
        return {"rows": len(test_ids), "answered": answered, "index_images": len(index.ids)}

    inputs = test_shards | index_shards | need_receipts(store, "test_metadata", "index_metadata")
    return make(
        store,
        "retrieval_submission",
        inputs=inputs,
        parameters=recipe.model_dump(mode="json", include=set(RETRIEVED_BY)),
        code_version=RETRIEVAL_CODE_VERSION,
        build=build,
    )
