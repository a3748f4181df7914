"""Versions of the embedder beside each other: in what they differ, their scores, and what is left of earlier ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glr_assets.errors import MissingInputError
from glr_assets.evaluation.comparison import (
    REPORT,
    TOLD,
    compared,
    differences,
    evaluated_folder,
    make_model_comparison,
    versions_of,
    write_scores,
)
from glr_assets.evaluation.schemas import MODEL_COMPARISON
from glr_assets.receipts import Receipt, Summary, Writer, Written, make
from glr_assets.recipes import Retrieval
from glr_assets.store import Store
from glr_assets.tables import read_table, stored_problems
from glr_assets.training.record import RECORD_NAME, ModelRecord, Rights

RECORD = ModelRecord(
    model="embedder",
    version="a",
    origin="trained",
    code_version="2",
    seed=0,
    recipe={"embedder": {"backbone": "resnet-18", "epochs": 10}, "training": {"validation": 0.1}},
    data_versions={"train_manifest": "1" * 64, "image_catalog": "2" * 64},
    libraries={"torch": "2.13.0"},
    parameters=11,
    image_size=32,
    outputs=8,
    landmarks=3,
    training_images=20,
    outsiders=0,
    held_out=4,
    epochs=10,
    loss=0.5,
    validation_top1=0.75,
    by_class_size=(),
    files={},
    script="embedder.pt",
    rights=Rights(licences={}, authors=0, unknown=20),
)
SCORES = {
    "gap": 0.5,
    "gap_landmarks_only": 0.6,
    "top1": 0.7,
    "map100": 0.4,
    "queries": 9,
    "queries_digest": "5" * 64,
    "more": "left out",
}


def version(store: Store, name: str, scores: dict[str, Any] | None = None, **changes: Any) -> Receipt:
    """A finished version that is the current one, evaluated where scores are given."""
    folder = f"models/embedder/{name}"
    record = RECORD.model_copy(update={"version": name, **changes})

    def build(writer: Writer) -> Summary:
        writer.write(f"{folder}/embedder.pt", name.encode())
        record_of = record.model_copy(update={"files": {"embedder.pt": writer.outputs[f"{folder}/embedder.pt"]}})
        writer.json(f"{folder}/{RECORD_NAME}", record_of.model_dump(mode="json"))
        return {"folder": folder}

    def evaluate(writer: Writer) -> Summary:
        writer.write("reports/evaluation.json", name.encode())
        if scores is not None:
            write_scores(writer, folder, SCORES | scores, Retrieval())
        return {}

    empty: dict[str, Any] = {"inputs": {}, "parameters": {"of": name}, "code_version": "1"}
    receipt = make(store, "embedder", **empty, build=build, keep_earlier=True).receipt
    make(store, "evaluation", **empty, build=evaluate, keep_earlier="models/embedder")
    return receipt


def test_only_what_differs_is_told() -> None:
    other = RECORD.model_copy(
        update={
            "seed": 3,
            "recipe": {
                "embedder": {"backbone": "resnet-18", "epochs": 20, "clip": 1.0},
                "training": {"validation": 0.1},
            },
            "data_versions": {"train_manifest": "9" * 64, "image_catalog": "2" * 64},
        }
    )
    assert differences([RECORD, other]) == [
        {"seed": 0, "embedder.epochs": 10, "data.train_manifest": "1" * 12},
        {"seed": 3, "embedder.epochs": 20, "embedder.clip": 1.0, "data.train_manifest": "9" * 12},
    ]
    assert differences([RECORD, RECORD]) == [{}, {}]
    assert differences([RECORD]) == [{}]
    assert differences([]) == []


def test_a_value_that_is_true_is_not_one() -> None:
    of = [RECORD.model_copy(update={"recipe": {"embedder": {"key": value}}}) for value in (True, 1)]
    assert differences(of) == [{"embedder.key": True}, {"embedder.key": 1}]


def test_versions_are_kept_with_their_scores_and_the_best_stands_first(store: Store) -> None:
    version(store, "a", {"gap": 0.5})
    version(store, "b", {"gap": 0.8, "map100": None}, seed=1)
    version(store, "c", validation_top1=0.9)
    version(store, "d", validation_top1=None, loss=None, origin="brought in", epochs=0)
    found = versions_of(store)
    assert [v.record.version for v in found] == ["b", "a", "c", "d"]
    assert [v.current for v in found] == [False, False, False, True]
    assert [v.scores and v.scores.gap for v in found] == [0.8, 0.5, None, None]
    made = make_model_comparison(store)
    assert make_model_comparison(store).reused
    assert stored_problems(store, MODEL_COMPARISON) == []
    rows = {row["version"]: row for row in read_table(store, MODEL_COMPARISON).to_pylist()}
    assert [row["version"] for row in store.read_json(REPORT)] == ["b", "a", "c", "d"]
    assert (rows["b"]["gap"], rows["b"]["map100"], rows["b"]["queries_digest"]) == (0.8, None, "5" * 64)
    assert (rows["c"]["gap"], rows["c"]["validation_top1"], rows["c"]["differences"]) == (None, 0.9, '{"seed": 0}')
    assert json.loads(rows["b"]["differences"]) == {"seed": 1}
    assert made.receipt.summary["best"] == "b"
    assert made.receipt.summary["evaluated"] == 2
    told = store.read(TOLD).decode().splitlines()
    assert told[2] == "| b | 0.750 | 0.800 | 0.700 |  | 55555555 | 0.500 | 10 | 20 | 1 |"
    assert told[5].startswith("| d \\* |  |  |")
    # Scores that change, and versions that come, are compared anew.
    version(store, "e")
    assert not make_model_comparison(store).reused


def test_versions_scored_by_other_queries_do_not_come_first(store: Store) -> None:
    version(store, "a", {"gap": 0.9, "queries_digest": "6" * 64})
    version(store, "b", {"gap": 0.5})
    version(store, "c", {"gap": 0.6})
    assert [found.record.version for found in versions_of(store)] == ["c", "b", "a"]
    summary = make_model_comparison(store).receipt.summary
    assert (summary["best"], summary["query_sets"]) == ("c", 2)


def test_scores_without_the_queries_that_they_are_of_do_not_count(store: Store) -> None:
    version(store, "a", {"gap": 0.9})
    folder = "models/embedder/a"
    earlier = store.read_json(f"{folder}/evaluation.json")
    earlier["solution"] = earlier.pop("queries_digest")
    store.write(f"{folder}/evaluation.json", json.dumps(earlier).encode())
    assert [found.scores for found in versions_of(store)] == [None]


def test_what_is_unfinished_or_damaged_is_not_compared(store: Store) -> None:
    version(store, "b")
    version(store, "a")
    store.write("models/embedder/c/checkpoint.ckpt", b"state")
    store.write("models/embedder/d/metrics.json", b"{}")
    store.write("models/embedder/b/embedder.pt", b"cut short")
    assert [v.record.version for v in versions_of(store)] == ["a"]
    assert len(compared(versions_of(store))) == 1


def test_a_comparison_of_nothing_says_what_to_make(store: Store) -> None:
    with pytest.raises(MissingInputError, match="embedder has not been made"):
        make_model_comparison(store)


def test_scores_are_those_of_the_embedder_that_answered(store: Store) -> None:
    embedder = version(store, "a")

    def written(name: str, inputs: dict[str, str]) -> str:
        def build(writer: Writer) -> Summary:
            writer.write(f"{name}.bin", name.encode())
            return {}

        return make(store, name, inputs=inputs, parameters={}, code_version="1", build=build).receipt.digest

    shard = written("test_embeddings/000", {"embedder": embedder.digest})
    written("submission", {"test_embeddings/000": shard, "faiss_index": "x"})
    assert evaluated_folder(store) == "models/embedder/a"
    version(store, "b")
    with pytest.raises(MissingInputError, match=r"another embedder than the current one: materialise test_embeddings"):
        evaluated_folder(store)


def test_a_record_of_files_that_are_there_is_read(store: Store) -> None:
    version(store, "a")
    (found,) = versions_of(store)
    assert found.record.files == {"embedder.pt": Written(size=1, sha256=found.record.files["embedder.pt"].sha256)}
