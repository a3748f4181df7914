"""No query whose label a fit used is scored; figures are compared with a separate reading of the CSVs."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glr_assets import query_labels
from glr_assets.cli import app
from glr_assets.defs.checks import CHECKS
from glr_assets.defs.platform import Platform
from glr_assets.errors import MetricError, MissingInputError
from glr_assets.evaluation.report import REPORT, make_evaluation
from glr_assets.evaluation.score import RecognitionSolution
from glr_assets.evaluation.scored import score_file, scored_recognition, unscored_reason, without_used
from glr_assets.images.catalog import make_image_catalog
from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.query_labels import QUERY_LABELS, USED_LABELS, QueryLabels, need_unused, query_labels_used
from glr_assets.receipts import Summary, Writer, digest_of, make, need_receipt
from glr_assets.retrieval.embeddings import make_embeddings, make_non_landmark_embeddings
from glr_assets.retrieval.schemas import FAISS_INDEX
from glr_assets.retrieval.submission import SUBMISSION, make_retrieval_submission, make_submission
from glr_assets.source import open_source
from glr_assets.store import Store
from glr_assets.tables import read_table, write_table
from glr_assets.training.group_calibration import held_out_images
from glr_assets.training.groups import CALIBRATION, VALIDATION, make_training_groups
from glr_assets.training.versions import open_embedder
from glr_assets_tests.images.handmade import ingest
from glr_assets_tests.lineage import index
from glr_assets_tests.retrieval.conftest import Embedded, embedded_once

__all__ = ["embedded_once"]

BOTH = ("Public", "Ignored")


def evaluated(found: Embedded, folder: Path, usage: tuple[str, ...], **retrieval: Any) -> Embedded:
    """A copy of an embedded store, fitted with non-landmarks of these Usages and evaluated."""
    own = found.copied(folder)
    values = {"non_landmark_usage": list(usage), **retrieval}
    own = replace(own, recipe=own.recipe.overridden({"retrieval": values, "evaluation": {"controls": True}}))
    make_non_landmark_embeddings(own.source, own.store, own.recipe.retrieval)
    index(own.source, own.store, own.recipe)
    make_submission(own.source, own.store, own.recipe)
    make_retrieval_submission(own.source, own.store, own.recipe.retrieval)
    make_evaluation(own.store, own.recipe, lambda: _no_vectors)
    return own


def _no_vectors(images: Any) -> Any:
    import numpy as np

    return np.tile(np.eye(1, 4, dtype=np.float32), (sum(1 for _ in images), 1))


@pytest.fixture(scope="module")
def overlapping(embedded_once: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    """Public non-landmarks are penalty references and negative samples, as recipe `full` takes them."""
    return evaluated(embedded_once, tmp_path_factory.mktemp("overlapping") / "store", BOTH)


def published(found: Embedded) -> dict[str, tuple[frozenset[int], str]]:
    """Landmarks and Usage of each test image, from the bucket's CSV."""
    path = Path(found.source.url.removeprefix("file://")) / "ground_truth" / "recognition_solution_v2.1.csv"
    with path.open(newline="") as file:
        return {
            row["id"]: (frozenset(map(int, row["landmarks"].split())), row["Usage"]) for row in csv.DictReader(file)
        }


def answers(found: Embedded) -> dict[str, tuple[int, float]]:
    """Landmark and confidence of each answered test image, from the submission's CSV."""
    rows = csv.DictReader(found.store.read(SUBMISSION).decode().splitlines())
    pairs = {row["id"]: row["landmarks"].split() for row in rows}
    return {query: (int(words[0]), float(words[1])) for query, words in pairs.items() if words}


def gap_of(found: Embedded, usages: set[str]) -> float:
    """GAP over the queries of these Usages, from its definition."""
    truth = {query: shown for query, (shown, usage) in published(found).items() if usage in usages}
    given = sorted((-sure, query, landmark) for query, (landmark, sure) in answers(found).items() if query in truth)
    right, total = 0, 0.0
    for rank, (_, query, landmark) in enumerate(given, 1):
        if landmark in truth[query]:
            right += 1
            total += right / rank
    return total / sum(bool(shown) for shown in truth.values())


def test_a_usage_whose_labels_were_used_is_in_no_figure(overlapping: Embedded) -> None:
    report = json.loads(overlapping.store.read(REPORT))
    truth = published(overlapping)
    usages = Counter(usage for _, usage in truth.values())
    assert min(usages[name] for name in ("Public", "Private", "Ignored")) >= 1
    private = {query: shown for query, (shown, usage) in truth.items() if usage == "Private"}
    assert report["scored"]
    assert report["gap"] == pytest.approx(gap_of(overlapping, {"Private"}), abs=1e-12)
    assert report["gap_public"] is None
    assert report["gap_private"] == report["gap"]
    assert report["queries"] == report["confidence"]["answers"] == len(private)
    assert report["queries_digest"] == digest_of({query: sorted(shown) for query, shown in private.items()})
    # Nor in any part of it: controls, steps, kinds, tables of mistakes.
    for control in report["controls"].values():
        assert control["queries"] == len(private)
        assert control["gap_public"] is None
    assert report["ablation"]["+ local features"]["gap"] == report["gap"]
    landmarks = sum(bool(shown) for shown in private.values())
    for kinds in (report["by_size"], report["by_supercategory"]):
        assert sum(of["queries"] for of in kinds.values()) == landmarks
    used = [query for query, (shown, usage) in truth.items() if usage == "Public" and not shown]
    assert report["left_out"] == [
        {
            "usage": "Public",
            "queries": usages["Public"],
            "labels_used": len(used),
            "fits": ["non_landmark_embeddings", "recognition_model"],
        }
    ]
    summary = need_receipt(overlapping.store, "evaluation").summary
    assert summary["queries"] == len(private)
    assert "Public is not scored" in str(summary["left_out"])


def test_every_fit_records_the_labels_it_used(overlapping: Embedded) -> None:
    store, truth = overlapping.store, published(overlapping)
    wanted = sorted(query for query, (shown, usage) in truth.items() if usage in BOTH and not shown)
    for fit in ("non_landmark_embeddings", "recognition_model"):
        recorded = read_table(store, QUERY_LABELS, fit=fit)["id"].to_pylist()
        assert recorded == wanted
        summary = need_receipt(store, fit).summary
        assert (summary["query_labels"], summary["query_labels_digest"]) == (len(wanted), digest_of(wanted))
    rows = read_table(store, USED_LABELS)
    assert sorted(set(rows["id"].to_pylist())) == wanted
    assert set(rows["fit"].to_pylist()) == {"non_landmark_embeddings", "recognition_model"}
    # Retrieval asks nothing of penalties or model.
    assert query_labels_used(store, "retrieval_submission").ids == frozenset()


def test_ignored_images_cost_no_query(embedded_once: Embedded, tmp_path: Path) -> None:
    found = evaluated(embedded_once, tmp_path / "store", ("Ignored",), rerank=0)
    report = json.loads(found.store.read(REPORT))
    assert report["left_out"] == []
    assert report["gap"] == pytest.approx(gap_of(found, {"Public", "Private"}), abs=1e-12)
    assert report["gap_public"] == pytest.approx(gap_of(found, {"Public"}), abs=1e-12)


def test_with_labels_of_every_usage_nothing_is_scored_and_the_reason_is_given(
    embedded_once: Embedded, tmp_path: Path
) -> None:
    found = evaluated(embedded_once, tmp_path / "store", ("Public", "Private"), rerank=0)
    report = json.loads(found.store.read(REPORT))
    assert not report["scored"]
    assert "gap" not in report
    assert "Private is not scored" in report["reason"]
    assert "[retrieval] non_landmark_usage" in report["reason"]
    with pytest.raises(MetricError, match="Private is not scored"):
        score_file(Path(found.store.root) / SUBMISSION, _solution_csv(found))


def test_a_fit_far_upstream_is_found(store: Store) -> None:
    def asset(name: str, inputs: dict[str, str], used: list[str] | None = None) -> str:
        def build(writer: Writer) -> Summary:
            writer.json(f"{name}.json", inputs)
            return {} if used is None else query_labels.record_query_labels(writer, name, used)

        return make(store, name, inputs=inputs, parameters={}, code_version="1", build=build).receipt.digest

    solution = asset("recognition_solution", {})
    threshold = asset("threshold", {"recognition_solution": solution}, ["b", "a"])
    shard = asset("embeddings/000", {"threshold": threshold, "file:weights.pt": "0"})
    model = asset("model", {"embeddings/000": shard})
    asset("answers", {"model": model})
    found = query_labels_used(store, "answers")
    assert found.by_fit == {"threshold": frozenset({"a", "b"})}
    assert found.fits_of(["a", "z"]) == ["threshold"]
    assert QueryLabels.from_table(found.as_table()) == found
    # What reads a solution without a record is refused.
    asset("silent", {"recognition_solution": solution})
    asset("more answers", {"model": model, "silent": "1"})
    with pytest.raises(MissingInputError, match=r"silent .* no record of the query labels"):
        query_labels_used(store, "more answers")


def test_a_usage_is_scored_whole_or_not_at_all() -> None:
    solution = RecognitionSolution(
        {"a": frozenset({1}), "b": frozenset(), "c": frozenset({2}), "d": frozenset()},
        {"a": "Public", "b": "Public", "c": "Private", "d": "Private"},
        frozenset({"e"}),
    )
    kept, (part,) = without_used(solution, QueryLabels({"penalties": frozenset({"b", "e"})}))
    # The landmark query goes too: a Usage without its non-landmarks would have a higher GAP.
    assert kept.landmarks == {"c": frozenset({2}), "d": frozenset()}
    assert kept.ignored == {"a", "b", "e"}
    assert (part.usage, part.queries, part.labels_used, part.fits) == ("Public", 2, 1, ("penalties",))
    unchanged, parts = without_used(solution, QueryLabels({"penalties": frozenset({"e"})}))
    assert (unchanged, parts) == (solution, [])
    with pytest.raises(MetricError, match="labels of 1 of its images were used"):
        need_unused(["a", "b"], {"b"}, "a figure")
    assert "no solution" in unscored_reason(RecognitionSolution({}, {}, frozenset()), [])


def test_the_command_leaves_out_what_the_record_beside_a_submission_names(
    overlapping: Embedded, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    own = Path(overlapping.store.root) / SUBMISSION
    elsewhere = tmp_path / "submission.csv"
    elsewhere.write_bytes(own.read_bytes())
    told = {}
    for name, path in (("own", own), ("elsewhere", elsewhere)):
        target = tmp_path / f"{name}.json"
        arguments = ["score", "recognition", "--submission", str(path), "--solution", str(_solution_csv(overlapping))]
        result = CliRunner().invoke(app, [*arguments, "--json", str(target)])
        assert result.exit_code == 0, result.output
        told[name] = json.loads(target.read_text())
        assert ("Public is not scored" in result.output) == (name == "own")
    assert told["own"]["gap"] == pytest.approx(gap_of(overlapping, {"Private"}), abs=1e-12)
    assert told["own"]["left_out"][0]["usage"] == "Public"
    # Of a file without a record every query counts, as the organisers score it.
    assert told["elsewhere"]["gap"] == pytest.approx(gap_of(overlapping, {"Public", "Private"}), abs=1e-12)


def test_class_sizes_are_of_the_searched_images(embedded_once: Embedded, tmp_path: Path) -> None:
    found = evaluated(embedded_once, tmp_path / "store", ("Ignored",), rerank=0, per_landmark=2)
    searched = read_table(found.store, FAISS_INDEX)
    counts = Counter(searched["landmark_id"].to_pylist())
    assert set(counts.values()) == {2}
    from glr_assets.evaluation.schemas import LANDMARK_ACCURACY

    rows = [row for row in read_table(found.store, LANDMARK_ACCURACY).to_pylist() if row["asked"] == "queries"]
    assert rows
    assert all(row["train_images"] == counts[row["landmark_id"]] for row in rows)
    assert set(json.loads(found.store.read(REPORT))["by_size"]) == {"1–2"}


def test_queries_without_a_picture_are_counted_beside_the_scores(embedded_once: Embedded, tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    shutil.copytree(embedded_once.source.url.removeprefix("file://"), bucket)
    scored = published(embedded_once)
    damaged = sorted(query for query, (shown, usage) in scored.items() if shown and usage != "Ignored")[:2]
    for tar in (bucket / "test").glob("*.tar"):
        _damage(tar, damaged)
    source = open_source(str(bucket))
    own = replace(embedded_once.copied(tmp_path / "store"), source=source)
    for shard in source.shards("test"):
        ingest(source, own.store, own.recipe, "test", shard)
        make_embeddings(own.store, "test", shard, lambda: open_embedder(own.store, own.recipe.execution))
    make_image_catalog(source, own.store)
    found = evaluated(own, tmp_path / "evaluated", ("Ignored",), rerank=0)

    report = json.loads(found.store.read(REPORT))
    told = report["without_picture"]
    assert told["examples"] == damaged
    assert (told["queries"], told["landmark_queries"], told["reasons"]) == (2, 2, {"undecodable": 2})
    # The official score counts them as wrong: they are among the landmarks that it divides by.
    counted = {"Public", "Private"}
    assert report["gap"] == pytest.approx(gap_of(found, counted), abs=1e-12)
    landmarks = sum(bool(shown) for shown, usage in scored.values() if usage in counted)
    left = report["with_picture"]
    assert left["gap"] == pytest.approx(report["gap"] * landmarks / (landmarks - 2), abs=1e-12)
    assert left["top1"] == pytest.approx(report["top1"] * landmarks / (landmarks - 2), abs=1e-12)
    assert left["queries"] == report["queries"] - 2
    summary = need_receipt(found.store, "evaluation").summary
    assert summary["queries_without_picture"] == 2
    assert "2 queries have no picture" in str(summary["unanswerable"])
    (check,) = (check for check in CHECKS if [key.name for key in check.check_keys] == ["queries_have_pictures"])
    result: Any = check(platform=Platform(store=found.store.url))
    assert not result.passed
    assert "2 undecodable" in str(result.metadata["problem"].value)


def _damage(path: Path, ids: list[str]) -> None:
    """Cut the pixels of these members of a TAR, and publish its MD5 anew."""
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        for member in tar:
            if Path(member.name).stem in ids:
                middle = member.offset_data + member.size // 3
                data[middle : member.offset_data + member.size] = bytes(member.offset_data + member.size - middle)
    path.write_bytes(data)
    md5 = path.parent.parent / "md5sum" / path.parent.name / f"md5.{path.name.replace('.tar', '.txt')}"
    md5.write_text(f"{hashlib.md5(data).hexdigest()}  {path.name}\n")


def _solution_csv(found: Embedded) -> Path:
    return Path(found.source.url.removeprefix("file://")) / "ground_truth" / "recognition_solution_v2.1.csv"


def test_the_scored_solution_needs_the_asset_that_answers(store: Store) -> None:
    with pytest.raises(MissingInputError):
        scored_recognition(store)


def test_near_duplicate_non_landmarks_are_on_one_side_of_what_groups_are_calibrated_on(
    embedded_once: Embedded, tmp_path: Path
) -> None:
    found = embedded_once.copied(tmp_path / "store")
    store, usages = found.store, ["Public", "Private", "Ignored"]
    recipe = found.recipe.overridden({"retrieval": {"non_landmark_usage": usages}})
    make_training_groups(store, recipe)

    def folds() -> dict[str, str]:
        rows = held_out_images(store, recipe).to_pylist()
        return {row["id"]: row["fold"] for row in rows if row["split"] == "test"}

    apart = folds()
    assert set(apart.values()) == {CALIBRATION, VALIDATION}
    of_calibration, of_validation = (min(n for n, of in apart.items() if of == f) for f in (CALIBRATION, VALIDATION))
    twins = {of_calibration, of_validation}
    rows = read_table(store, IMAGE_CATALOG).to_pylist()
    for row in rows:
        if row["split"] == "test" and row["id"] in twins:
            row["dhash"], row["sharpness"] = 0x0123456789ABCDEF, 90.0
    with store.writing(IMAGE_CATALOG.path) as file:
        write_table(IMAGE_CATALOG, IMAGE_CATALOG.rows(rows), file)
    together = folds()
    assert together[of_calibration] == together[of_validation] == apart[min(twins)]
    assert {n: of for n, of in together.items() if n not in twins} == {
        n: of for n, of in apart.items() if n not in twins
    }
