from __future__ import annotations

import csv
import io

import numpy as np

from glr_assets.metadata.schemas import TEST_METADATA
from glr_assets.retrieval.calibration import Calibration
from glr_assets.retrieval.embeddings import embedded_shards, from_table, read_embeddings
from glr_assets.retrieval.index import make_faiss_index, open_index
from glr_assets.retrieval.schemas import NON_LANDMARK_EMBEDDINGS
from glr_assets.retrieval.scoring import Recognition
from glr_assets.retrieval.submission import (
    RETRIEVAL_SUBMISSION,
    SUBMISSION,
    answer,
    make_retrieval_submission,
    make_submission,
    recognition_csv,
)
from glr_assets.tables import read_table
from glr_assets.training.versions import held_out_ids
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


def test_a_querys_answer_does_not_depend_on_the_others(embedded: Embedded) -> None:
    recipe, store = embedded.recipe, embedded.store
    make_faiss_index(embedded.source, store, recipe.retrieval, held_out_ids(store), recipe.seed)
    index, calibration = open_index(store)
    queries = read_embeddings(store, embedded_shards(embedded.source, store, "test"))
    none = from_table(read_table(store, NON_LANDMARK_EMBEDDINGS))
    together = {found.id: found for found in answer(index, queries, none, recipe.retrieval)}
    for query in queries.ids:
        (alone,) = answer(index, queries.of([query]), none, recipe.retrieval)
        assert alone == together[query]
        assert 0 < float(calibration.confidence(np.array([alone.score]))[0]) < 1


def test_submissions_answer_every_test_image(embedded: Embedded) -> None:
    recipe, store, source = embedded.recipe, embedded.store, embedded.source
    make_faiss_index(source, store, recipe.retrieval, held_out_ids(store), recipe.seed)
    make_submission(source, store, recipe.retrieval)
    make_retrieval_submission(source, store, recipe.retrieval)
    asked = read_table(store, TEST_METADATA)["id"].to_pylist()
    recognised, retrieved = rows_of(store.read(SUBMISSION)), rows_of(store.read(RETRIEVAL_SUBMISSION))
    assert [row["id"] for row in recognised] == asked == [row["id"] for row in retrieved]
    assert all(row["landmarks"] for row in recognised)
    for row in retrieved:
        found = row["images"].split()
        assert 0 < len(found) <= recipe.retrieval.retrieved
        assert len(set(found)) == len(found)
    assert make_submission(source, store, recipe.retrieval).reused
    assert make_retrieval_submission(source, store, recipe.retrieval).reused
