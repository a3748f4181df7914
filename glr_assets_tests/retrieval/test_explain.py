"""The story of an image, from its CSV row to the Kaggle file: as records, as a page and as the job `explain_images`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from glr_assets.cli import app
from glr_assets.defs.explain import MAX_IMAGES, explain_images
from glr_assets.defs.platform import Platform
from glr_assets.explain.pages import explanation_page, landmark_page
from glr_assets.explain.stories import (
    LISTED,
    Explanation,
    explain,
    explanation_lines,
    summarize_landmarks,
    with_nearest,
)
from glr_assets.images.reader import ImageReader
from glr_assets.ledger.schemas import IMAGE_LEDGER
from glr_assets.packing.left_out import reason_left_out
from glr_assets.retrieval.submission import make_submission
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets.verification.calibration import make_verification_calibration
from glr_assets.verification.local_features import Wanted
from glr_assets.verification.plan import bucket_keys
from glr_assets.verification.verified_pairs import make_verified_pairs
from glr_assets_tests.lineage import digests
from glr_assets_tests.retrieval.conftest import Embedded


@pytest.fixture(scope="module")
def answered(indexed_once: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    """An indexed store with verified pairs and a submission."""
    found = indexed_once.copied(tmp_path_factory.mktemp("answered") / "store")
    recipe, wanted = found.recipe, Wanted.of(found.store, found.recipe.verification, found.recipe.seed)
    make_verification_calibration(found.store, wanted, recipe.verification, recipe.execution, recipe.seed)
    for key in bucket_keys(recipe.verification.buckets):
        make_verified_pairs(found.store, key, wanted, recipe.verification, recipe.execution)
    make_submission(found.source, found.store, recipe)
    return found


def ids(store: Store, **values: object) -> list[str]:
    rows = read_table(store, IMAGE_LEDGER).to_pylist()
    return [row["id"] for row in rows if all(row[name] == value for name, value in values.items())]


def one(store: Store, image: str) -> Explanation:
    (found,) = explain(store, image)
    return found


def csv_rows(path: Path) -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in csv.DictReader(io.StringIO(path.read_text()))}


def test_an_answered_test_image_has_the_row_of_the_kaggle_file_and_the_published_answer(answered: Embedded) -> None:
    root = Path(answered.store.root)
    submitted = csv_rows(root / "submissions" / "submission.csv")
    (solution,) = Path(answered.source.url).rglob("recognition_solution*.csv")
    published = csv_rows(solution)
    verdicts = set()
    for image, row in submitted.items():
        found = one(answered.store, image)
        wanted = {int(part) for part in published[image]["landmarks"].split()} if image in published else None
        assert (found.published is None) == (wanted is None)
        assert set(found.published or ()) == (wanted or set())
        best = found.answers[0] if found.answers else None
        assert str(best.landmark_id if best else "") == row["landmarks"].partition(" ")[0]
        for answer in found.answers:
            assert answer.correct == (None if wanted is None else answer.landmark_id in wanted)
        verdicts.add(best.correct if best else None)
        lines = explanation_lines(found)
        assert (f"answer  {best.landmark_id}" if best else "answer  none") in lines
    assert True in verdicts


def test_a_test_image_before_the_submission_says_so(indexed_once: Embedded) -> None:
    image = ids(indexed_once.store, split="test", status="stored")[0]
    assert "answer  submission has not been made" in explanation_lines(one(indexed_once.store, image))


def test_a_kept_image_names_those_that_were_dropped_for_it(answered: Embedded) -> None:
    table = pq.read_table(Path(answered.store.root) / "manifests" / "deduped_manifest.parquet").to_pylist()
    dropped: dict[str, set[str]] = {}
    for row in table:
        if row["partner"] is not None:
            dropped.setdefault(row["partner"], set()).add(row["id"])
    for image in (row["id"] for row in table):
        listed = [duplicate.id for duplicate in one(answered.store, image).duplicates]
        assert set(listed) <= dropped.get(image, set())
        assert len(listed) == min(LISTED, len(dropped.get(image, set())))


def test_compared_pairs_are_those_of_the_verification_on_either_side(answered: Embedded) -> None:
    root = Path(answered.store.root) / "verification"
    pairs = [
        row
        for path in sorted(root.glob("[0-9]*.parquet"))
        for row in pq.read_table(path).to_pylist()
        if "first" in row and "accepted" in row
    ]
    assert pairs
    of_image: dict[str, dict[str, dict[str, Any]]] = {}
    for row in pairs:
        of_image.setdefault(row["first"], {})[row["second"]] = row
        of_image.setdefault(row["second"], {})[row["first"]] = row
    for image, partners in of_image.items():
        found = one(answered.store, image).pairs
        assert len(found) == min(LISTED, len(partners))
        for pair in found:
            assert pair.inliers == partners[pair.id]["inliers"]
            assert pair.accepted == partners[pair.id]["accepted"]
        accepted = sum(row["accepted"] for row in partners.values())
        assert sum(pair.accepted for pair in found) == min(LISTED, accepted)


def test_nearest_images_are_those_of_a_search_of_all_vectors(answered: Embedded) -> None:
    root = Path(answered.store.root) / "embeddings"

    def vectors(split: str) -> dict[str, np.ndarray]:
        found = {}
        for path in sorted((root / split).glob("*.npy")):
            table = pq.read_table(path.with_suffix(".parquet")).to_pydict()
            rows = np.load(path)
            found |= {image: rows[row] for image, row in zip(table["id"], table["row"], strict=True)}
        return found

    everything = {split: vectors(split) for split in ("train", "index", "test")}
    queries = [(split, image) for split in everything for image in list(everything[split])[:3]]
    explained = with_nearest(answered.store, [one(answered.store, image) for _, image in queries])
    for (split, image), found in zip(queries, explained, strict=True):
        for of in ("train", "index"):
            others = {other: float(v @ everything[split][image]) for other, v in everything[of].items()}
            if of == split:
                del others[image]
            expected = sorted(others.values(), reverse=True)[:LISTED]
            nearest = [near for near in found.nearest if near.split == of]
            assert [near.cosine for near in nearest] == pytest.approx(expected, abs=1e-6)
            assert all(others[near.id] == pytest.approx(near.cosine, abs=1e-6) for near in nearest)


def test_a_page_shows_the_picture_and_stays_small_and_text_from_outside_stays_text(answered: Embedded) -> None:
    image = ids(answered.store, split="train", in_train=True)[0]
    (found,) = with_nearest(answered.store, [one(answered.store, image)])
    hostile = found.model_copy(update={"story": found.story.model_copy(update={"title": "![x](http://evil/x.png)"})})
    page = explanation_page(answered.store, hostile)
    assert page.startswith(f"![`{image}`](data:image/jpeg;base64,")
    assert len(page) < 100_000
    assert "| title | !\\[x\\](" in page
    assert "nearest by embedding" in page


def test_an_image_that_could_not_be_stored_has_a_page_without_picture(answered: Embedded) -> None:
    stored = set(ImageReader.of_split(answered.store, "train").ids)
    image = ids(answered.store, split="train", in_train=True)[0]
    assert image in stored
    found = one(answered.store, image)
    lost = found.model_copy(update={"story": found.story.model_copy(update={"id": "0" * 16}), "pairs": []})
    assert "No picture of it is stored." in explanation_page(answered.store, lost)


def test_a_landmark_is_counted_by_what_became_of_its_images(answered: Embedded) -> None:
    rows = read_table(answered.store, IMAGE_LEDGER).to_pylist()
    landmark = next(row["landmark_id"] for row in rows if row["in_train"])
    of_it = [row for row in rows if row["landmark_id"] == landmark]
    known, unknown = summarize_landmarks(answered.store, [landmark, 10**9], 3)
    assert sum(count for _, count in known.counts) == len(of_it)
    assert dict(known.counts)["trains"] == sum(row["in_train"] for row in of_it)
    assert len(known.images) == 3
    assert set(known.images) <= {row["id"] for row in of_it}
    assert unknown.counts == []
    assert "no train image" in landmark_page(unknown)


def explained(platform: Platform, instance: dg.DagsterInstance, **config: object) -> dict[str, tuple[str, str]]:
    """Title and page of each output of the job, by mapping key."""
    result = explain_images.execute_in_process(
        run_config={
            "ops": {"explain_requested": {"config": config}},
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
        resources={"platform": platform},
        instance=instance,
        raise_on_error=False,
    )
    assert result.success, result.all_events
    outputs = [event.step_output_data for event in result.all_events if event.is_successful_output]
    assert all(len(str(output.metadata)) < 100_000 for output in outputs)
    return {
        str(output.step_output_handle.mapping_key): (
            str(output.metadata["title"].value),
            str(output.metadata["page"].value),
        )
        for output in outputs
    }


@pytest.fixture
def platform(answered: Embedded, tmp_path: Path) -> Platform:
    (tmp_path / "recipe.toml").write_text('base = "small"\n')
    return Platform(source=answered.source.url, store=answered.store.root, recipe=str(tmp_path / "recipe.toml"))


def test_the_job_shows_images_landmarks_and_unknown_names_and_makes_nothing(
    answered: Embedded, platform: Platform
) -> None:
    image, query = ids(answered.store, in_train=True)[0], ids(answered.store, split="test", status="stored")[0]
    landmark = one(answered.store, image).story.landmark_id
    before = digests(Path(answered.store.root)) | runs_of(answered.store)
    with dg.DagsterInstance.ephemeral() as instance:
        pages = explained(
            platform, instance, images=[image, "nobody", query], landmarks=[landmark, -7], images_per_landmark=1
        )
    assert digests(Path(answered.store.root)) | runs_of(answered.store) == before
    assert pages["image_0"][0] == image
    assert f"landmark {landmark}" in pages[f"landmark_{landmark}"][1]
    assert "no train image" in pages["landmark_minus_7"][1]
    summary = pages["summary"][1]
    assert f"| {image} | {image} | train |" in summary
    assert f"| {query} | {query} | test |" in summary
    unknown = next(line for line in summary.splitlines() if line.startswith("| nobody |"))
    assert "no table and no ingested shard" in unknown
    assert "| landmark -7 |" in summary


def runs_of(store: Store) -> dict[str, str]:
    root = Path(store.root)
    return {str(path): path.read_text() for path in sorted((root / "runs").rglob("*.json"))}


def test_names_that_are_not_found_are_listed_up_to_a_bound_and_counted(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glr_assets.defs.explain.MAX_PROBLEMS", 2)
    with dg.DagsterInstance.ephemeral() as instance:
        title, summary = explained(platform, instance, images=["a", "b", "c", "d"])["summary"]
    assert title == "0 images, 4 problems"
    assert [line.split("|")[1].strip() for line in summary.splitlines()[2:]] == ["a", "b", "…"]
    assert "and 2 more" in summary


def test_the_job_explains_a_bounded_number_of_images(
    answered: Embedded, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glr_assets.defs.explain.MAX_IMAGES", 2)
    some: Sequence[str] = ids(answered.store, split="train", status="stored")[:4]
    with dg.DagsterInstance.ephemeral() as instance:
        pages = explained(platform, instance, images=list(some))
    assert {key for key in pages if key.startswith("image_")} == {"image_0", "image_1"}
    assert pages["summary"][1].count("left out: one run explains 2 images") == 2
    assert MAX_IMAGES * 100_000 <= 5_000_000


def test_the_job_before_the_ledger_names_what_is_missing(platform: Platform, tmp_path: Path) -> None:
    empty = Platform(source=platform.source, store=str(tmp_path / "empty"), recipe=platform.recipe)
    with dg.DagsterInstance.ephemeral() as instance:
        result = explain_images.execute_in_process(
            run_config={"ops": {"explain_requested": {"config": {"images": ["x"]}}}},
            resources={"platform": empty},
            instance=instance,
            raise_on_error=False,
        )
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    assert "image_ledger" in str(failure.step_failure_data.user_failure_data.description)


def test_the_command_prints_the_same_story(answered: Embedded) -> None:
    query = ids(answered.store, split="test", status="stored")[0]
    done = CliRunner().invoke(app, ["why", query, "--store", answered.store.root, "--json"])
    assert done.exit_code == 0, done.output
    (document,) = json.loads(done.stdout)
    assert document["id"] == query
    assert [answer["rank"] for answer in document["answers"]] == list(range(1, len(document["answers"]) + 1))
    assert document["answers"]


def test_a_file_that_pack_left_out_is_explained_by_its_reason(tmp_path: Path, answered: Embedded) -> None:
    bucket = Store(str(tmp_path / "bucket"))
    bucket.write(
        "files.csv", b"path,outcome,landmark,split,sha256,reason,detail\nGate/a.txt,left out,,,,no image,text\n"
    )
    assert reason_left_out(bucket, "A.TXT") == "Gate/a.txt was left out by `glr pack`: no image (text)"
    assert reason_left_out(bucket, "b.txt") is None
    assert reason_left_out(None, "A.TXT") is None
    arguments = ["why", "Gate/a.txt", "--store", answered.store.root]
    done = CliRunner().invoke(app, arguments, env={"GLR_SOURCE": bucket.root})
    assert done.exit_code != 0
    assert "left out by `glr pack`: no image" in str(done.exception) + done.output
    # A source that cannot be opened does not hide that no table names the image.
    done = CliRunner().invoke(app, arguments, env={"GLR_SOURCE": "unknown://bucket"})
    assert "no table" in str(done.exception) + done.output
