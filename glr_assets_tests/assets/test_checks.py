"""Each asset check, seen passing and failing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from glr_assets.csv_structure import UNTERMINATED
from glr_assets.curation.schemas import TRAIN_EXTRA, TRAIN_MANIFEST, TRAIN_TEST_LEAKS
from glr_assets.defs.build import TABLES, build_definitions
from glr_assets.defs.checks import CHECKS, few_images_failed, schema_check
from glr_assets.defs.platform import Platform
from glr_assets.defs.shards import counted_parts
from glr_assets.images.checks import many_failed
from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.ledger.schemas import IMAGE_LEDGER
from glr_assets.metadata.schemas import (
    COMPETITION_TRAIN,
    INDEX_METADATA,
    RECOGNITION_SOLUTION,
    RETRIEVAL_SOLUTION,
    TEST_METADATA,
    TRAIN_METADATA,
)
from glr_assets.metadata.tables import UNKNOWN_LABELLED
from glr_assets.openimages.schemas import OPENIMAGES_ANNOTATIONS, OPENIMAGES_CLASSIFIER_DATASET, OPENIMAGES_IMAGES
from glr_assets.receipts import Summary, find_receipt, need_receipt
from glr_assets.source.layout import SPLITS
from glr_assets.tables import Table, read_table
from glr_assets.verification.schemas import CLEANED_MANIFEST, FALSE_IMAGES
from glr_assets_tests.assets.conftest import Runner
from glr_assets_tests.lineage import rewritten

BY_NAME = {
    key.name: definition for definition in CHECKS for key in definition.check_keys if key.name != "keeps_its_rows"
}

EXPORTED = ("train_tfrecords_is_complete", "train_zip_is_complete")


def evaluated(check: dg.AssetChecksDefinition, platform: Platform) -> dg.AssetCheckResult:
    result = check(platform=platform)
    assert isinstance(result, dg.AssetCheckResult)
    return result


def rewrite(platform: Platform, table: Table, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a table behind the back of its writer."""
    store = platform.open_store()
    with store.writing(table.path) as file:
        pq.write_table(change(read_table(store, table)), file)


def with_column(data: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return data.set_column(data.schema.get_field_index(name), name, values)


@pytest.fixture
def curated(run: Runner, platform: Platform) -> Platform:
    run.curated()
    return platform


@pytest.fixture
def verified(run: Runner, platform: Platform) -> Platform:
    run.verified()
    return platform


def test_every_check_passes_on_a_whole_lineage(verified: Platform) -> None:
    for name, check in BY_NAME.items():
        if name in {"embedder_image_size", "queries_have_pictures", "every_query_has_a_row"} or name in EXPORTED:
            continue  # No embedder is trained here, nothing answered or exported.
        result = evaluated(check, verified)
        assert result.passed, name
        if name == "seldom_wrong":
            assert "landmarks, expected 10 or more" in str(result.metadata)  # There are few here.
    for asset, table in TABLES.items():
        made = table.path.startswith(("metadata/", "manifests/", "verification/"))
        if made and asset not in {"fill_potential", "training_groups", "group_calibration"}:
            assert evaluated(schema_check(asset, table), verified).passed, asset


def test_receipts_have_the_code_versions_of_their_assets(verified: Platform) -> None:
    graph = build_definitions(verified).resolve_asset_graph()
    store = verified.open_store()
    parts = {str(of.name): keys for of, keys in counted_parts(verified.load_recipe())}
    parts |= {f"{split}_shards": verified.open_source().shards(split) for split in SPLITS}
    names = [
        f"{key.to_user_string()}/{part}" if part else key.to_user_string()
        for key in graph.materializable_asset_keys
        for part in parts.get(getattr(graph.get(key).partitions_def, "name", ""), [""])
    ]
    receipts = {name: found for name in names if (found := find_receipt(store, name)) is not None}
    assert len(receipts) > 40
    for name, receipt in receipts.items():
        assert receipt.code_version == graph.get(dg.AssetKey(name.partition("/")[0])).code_version, name


def test_a_cleaned_set_that_breaks_its_rules_fails(verified: Platform) -> None:
    sound = read_table(verified.open_store(), CLEANED_MANIFEST)
    kept = with_column(sound, "decision", pa.array(["kept"] * sound.num_rows))
    rewrite(verified, CLEANED_MANIFEST, lambda data: data.slice(1))
    assert not evaluated(BY_NAME["all_decided"], verified).passed
    strange = pa.array([f"stranger{number}" for number in range(sound.num_rows)])
    rewrite(verified, CLEANED_MANIFEST, lambda _: with_column(sound, "id", strange))
    assert not evaluated(BY_NAME["all_decided"], verified).passed
    rewrite(verified, CLEANED_MANIFEST, lambda _: with_column(kept, "inliers", pa.nulls(sound.num_rows, pa.int32())))
    assert not evaluated(BY_NAME["kept_have_partners"], verified).passed
    enough = pa.array([10**6] * sound.num_rows, pa.int32())
    rewrite(verified, CLEANED_MANIFEST, lambda _: with_column(kept, "inliers", enough))
    assert evaluated(BY_NAME["kept_have_partners"], verified).passed


def test_crops_and_images_that_break_their_rules_fail(verified: Platform) -> None:
    store = verified.open_store()
    sound = read_table(store, OPENIMAGES_CLASSIFIER_DATASET)
    twice = pa.concat_tables([sound, sound.filter(pc.equal(sound["decision"], "kept")).slice(0, 1)])
    rewrite(verified, OPENIMAGES_CLASSIFIER_DATASET, lambda _: twice)
    assert not evaluated(BY_NAME["no_crop_twice"], verified).passed
    mixed = pa.array(["train", "held_out"] * sound.num_rows)[: sound.num_rows]
    rewrite(verified, OPENIMAGES_CLASSIFIER_DATASET, lambda _: with_column(sound, "split", mixed))
    assert not evaluated(BY_NAME["no_image_in_both_splits"], verified).passed
    with store.writing(OPENIMAGES_IMAGES.at(part="01")) as file:
        pq.write_table(read_table(store, OPENIMAGES_IMAGES, part="01").slice(1), file)
    failed = evaluated(BY_NAME["requested_are_accounted_for"], verified)
    assert not failed.passed
    assert "part 01" in str(failed.metadata)
    data = read_table(store, OPENIMAGES_ANNOTATIONS)
    rewrite(verified, OPENIMAGES_ANNOTATIONS, lambda _: data.slice(data.num_rows // 2))
    # Parts of other annotations are not wrong, but to be made anew.
    assert evaluated(BY_NAME["requested_are_accounted_for"], verified).passed


def test_a_csv_without_its_last_line_end_warns(verified: Platform) -> None:
    store = verified.open_store()
    rewritten(store, "train_metadata", summary=need_receipt(store, "train_metadata").summary | {UNTERMINATED: "train"})
    result = evaluated(BY_NAME["train_metadata_ends_in_newline"], verified)
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert "train" in str(result.metadata)


METADATA = {
    "train_metadata": TRAIN_METADATA,
    "index_metadata": INDEX_METADATA,
    "test_metadata": TEST_METADATA,
    "recognition_solution": RECOGNITION_SOLUTION,
    "retrieval_solution": RETRIEVAL_SOLUTION,
}


def first_becomes(data: pa.Table, value: str) -> pa.Table:
    return with_column(data, "id", pa.array([value, *data["id"].to_pylist()[1:]]))


@pytest.mark.parametrize(
    ("asset", "other"),
    [
        ("train_metadata", "test_metadata"),
        ("train_metadata", "index_metadata"),
        ("index_metadata", "test_metadata"),
    ],
)
def test_an_image_of_two_splits_warns(run: Runner, platform: Platform, asset: str, other: str) -> None:
    assert run(*METADATA).success
    shared = read_table(platform.open_store(), METADATA[asset], ["id"])["id"][0].as_py()
    rewrite(platform, METADATA[other], lambda data: first_becomes(data, shared))
    for looked_at in (asset, other):
        result = evaluated(BY_NAME[f"{looked_at}_shares_no_image"], platform)
        assert not result.passed
        assert result.severity == dg.AssetCheckSeverity.WARN
        assert f"1 images are also in {other if looked_at == asset else asset}, the first '{shared}'" in str(
            result.metadata
        )


@pytest.mark.parametrize("solution", ["recognition_solution", "retrieval_solution"])
def test_published_answers_of_no_test_image_warn(run: Runner, platform: Platform, solution: str) -> None:
    assert run("test_metadata", solution).success
    count = read_table(platform.open_store(), METADATA[solution]).num_rows
    names = ("test_metadata_queries_are_test_images", f"{solution}_queries_are_test_images")
    assert count > 1
    assert all(evaluated(BY_NAME[name], platform).passed for name in names)
    rewrite(platform, METADATA[solution], lambda data: first_becomes(data, "stranger"))
    told = [evaluated(BY_NAME[name], platform) for name in names]
    assert all(f"1 queries of {solution} are not in test_metadata" in str(result.metadata) for result in told)
    rewrite(platform, TEST_METADATA, lambda data: data.slice(0, 0))
    told += [evaluated(BY_NAME[name], platform) for name in names]
    assert all(f"{count} queries of {solution} are not" in str(result.metadata) for result in told[2:])
    assert {(result.passed, result.severity) for result in told} == {(False, dg.AssetCheckSeverity.WARN)}


def test_relevant_images_that_the_index_lacks_warn(run: Runner, platform: Platform) -> None:
    assert run("index_metadata", "retrieval_solution").success
    names = ("index_metadata_relevant_images_are_listed", "retrieval_solution_relevant_images_are_listed")
    assert all(evaluated(BY_NAME[name], platform).passed for name in names)
    rewrite(platform, INDEX_METADATA, lambda data: data.slice(0, 0))
    for result in (evaluated(BY_NAME[name], platform) for name in names):
        assert not result.passed
        assert result.severity == dg.AssetCheckSeverity.WARN
        assert "relevant images are not in index_metadata" in str(result.metadata)


def test_landmarks_of_images_that_the_index_lacks_warn(run: Runner, platform: Platform) -> None:
    assert run("index_metadata").success
    store = platform.open_store()
    assert evaluated(BY_NAME["index_landmarks_are_of_index_images"], platform).passed
    summary = need_receipt(store, "index_metadata").summary
    rewritten(store, "index_metadata", summary=summary | {UNKNOWN_LABELLED: 3})
    result = evaluated(BY_NAME["index_landmarks_are_of_index_images"], platform)
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert "3 images of index_image_to_landmark.csv" in str(result.metadata)


def test_checks_across_tables_run_after_both_and_pass_where_one_is_not_made(run: Runner) -> None:
    alone = run("test_metadata")
    assert alone.success
    assert all(found.passed for found in alone.get_asset_check_evaluations())
    both = {
        (found.asset_key.to_user_string(), found.check_name) for found in run(*METADATA).get_asset_check_evaluations()
    }
    assert {
        (asset, f"{asset}_shares_no_image") for asset in ("train_metadata", "index_metadata", "test_metadata")
    } < both


def test_a_network_at_another_size_than_its_file_declares_warns(verified: Platform) -> None:
    store = verified.open_store()
    warned = {"image_size_warning": "recipe: image_size = 64, but the file declares 96"}
    summary = need_receipt(store, "non_landmark_classifier").summary | warned
    rewritten(store, "non_landmark_classifier", summary=summary)
    result = evaluated(BY_NAME["non_landmark_classifier_image_size"], verified)
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert "declares 96" in str(result.metadata)


def test_a_category_without_boxes_warns(run: Runner, platform: Platform) -> None:
    config: dict[str, object] = {"openimages": {"categories": ["Person", "Lighthouse"]}}
    assert run("openimages_annotations", config=config).success
    result = evaluated(BY_NAME["categories_have_boxes"], platform)
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert "Lighthouse" in str(result.metadata)


def test_a_calibration_that_is_wrong_too_often_or_tells_too_little_warns(verified: Platform) -> None:
    data = read_table(verified.open_store(), FALSE_IMAGES)
    sound = with_column(data, "landmarks", pa.array([30] * data.num_rows, pa.int32()))
    asset = "verification_calibration"
    counts = need_receipt(verified.open_store(), asset).summary | {"exceeding": 100, "same_thing": 0}

    def result_of(table: pa.Table, summary: Summary) -> dg.AssetCheckResult:
        rewrite(verified, FALSE_IMAGES, lambda _: table)
        rewritten(verified.open_store(), asset, summary=summary)
        return evaluated(BY_NAME["seldom_wrong"], verified)

    sure = result_of(sound, counts)
    assert sure.passed
    assert "note" not in (sure.metadata or {})
    few = with_column(sound, "landmarks", pa.array([3] * sound.num_rows, pa.int32()))
    notes = {
        "pairs of 3 landmarks": result_of(few, counts),
        "3 pairs of different landmarks": result_of(sound, counts | {"exceeding": 3}),
    }
    for text, result in notes.items():  # Too few to judge, which is no fault.
        assert result.passed
        assert text in str((result.metadata or {})["note"])
    rates = pa.array([0.2] * sound.num_rows, FALSE_IMAGES.schema.field("image_rate_least").type)
    found = {"at least 20.00%": result_of(with_column(sound, "image_rate_least", rates), counts)}
    found["agree beyond doubt"] = result_of(sound, counts | {"same_thing": 100})
    found["no pair can be accepted"] = result_of(sound, counts | {"threshold_least": 10_000})
    for text, result in found.items():
        assert not result.passed, text
        assert result.severity == dg.AssetCheckSeverity.WARN
        assert text in str(result.metadata)


def test_schema_fails_on_a_repeated_id_and_on_a_lost_column(curated: Platform) -> None:
    check = schema_check("train_manifest", TRAIN_MANIFEST)
    rewrite(curated, TRAIN_MANIFEST, lambda data: pa.concat_tables([data, data.slice(0, 1)]))
    failed = evaluated(check, curated)
    assert not failed.passed
    assert "more than once" in str(failed.metadata)


def test_failed_images_are_counted_and_named_and_many_of_them_warn(curated: Platform) -> None:
    sound = read_table(curated.open_store(), IMAGE_CATALOG)
    statuses, reasons = sound["status"].to_pylist(), sound["reason"].to_pylist()
    rows = [row for row, split in enumerate(sound["split"].to_pylist()) if split == "test"]

    def failing(count: int) -> dg.AssetCheckResult:
        for row in rows[:count]:
            statuses[row], reasons[row] = "failed", f"cut at byte {row}"
        rewrite(
            curated,
            IMAGE_CATALOG,
            lambda _: with_column(with_column(sound, "status", pa.array(statuses)), "reason", pa.array(reasons)),
        )
        return evaluated(few_images_failed, curated)

    none, one, two, many = (failing(count) for count in (0, 1, 2, 12))
    assert [result.passed for result in (none, one, two, many)] == [True, True, False, False]
    assert [result.metadata["failed"].value for result in (none, one, two, many)] == [0, 1, 2, 12]
    assert "first failed images" not in none.metadata
    named = str(one.metadata["first failed images"].value)
    assert sound["id"][rows[0]].as_py() in named
    assert f"cut at byte {rows[0]}" in named
    assert two.severity == dg.AssetCheckSeverity.WARN
    assert two.metadata["problem"].value == f"test: 2 of {len(rows)} images failed"
    assert str(many.metadata["first failed images"].value).count("cut at byte") == 10


@pytest.mark.parametrize(
    ("failed", "stored", "warns"),
    [
        *((0, 0, False), (0, 9, False), (1, 9, False), (1, 99, False), (1, 299, False), (2, 198, False)),
        *((1, 0, True), (3, 0, True), (2, 8, True), (2, 197, True), (3, 296, True), (3, 297, False)),
    ],
)
def test_a_single_broken_file_is_no_warning_and_more_than_a_hundredth_are(
    failed: int, stored: int, warns: bool
) -> None:
    assert bool(many_failed({"failed": failed, "stored": stored})) == warns


def test_landmarks_of_nobody_fail(curated: Platform) -> None:
    rewrite(curated, TRAIN_MANIFEST, lambda data: with_column(data, "landmark_id", pc.add(data["landmark_id"], 10**9)))
    assert not evaluated(BY_NAME["classes_of_the_competition"], curated).passed


def test_a_class_beyond_what_dedupe_keeps_fails(curated: Platform) -> None:
    def crowd(data: pa.Table) -> pa.Table:
        row = data.slice(0, 1)
        copies = pa.concat_tables([row] * 30)
        ids = pa.array([f"copy{number}" for number in range(30)])
        return pa.concat_tables([data, with_column(copies, "id", ids)])

    rewrite(curated, TRAIN_MANIFEST, crowd)
    assert not evaluated(BY_NAME["class_sizes"], curated).passed


@pytest.mark.parametrize(
    "change",
    [
        lambda data: with_column(data, "decision", pa.nulls(data.num_rows, pa.string())),
        lambda data: with_column(data, "in_train", pa.array([False] * data.num_rows)),
    ],
    ids=["undecided", "kept but not training"],
)
def test_a_ledger_that_does_not_add_up_fails(curated: Platform, change: Callable[[pa.Table], pa.Table]) -> None:
    rewrite(curated, IMAGE_LEDGER, change)
    assert not evaluated(BY_NAME["adds_up"], curated).passed


def test_a_stored_image_without_a_hash_fails(curated: Platform) -> None:
    rewrite(curated, IMAGE_CATALOG, lambda data: with_column(data, "stored_xxh3", pa.nulls(data.num_rows, pa.uint64())))
    assert not evaluated(BY_NAME["hashes_present"], curated).passed


def test_an_image_of_both_sets_fails(curated: Platform) -> None:
    stranger = read_table(curated.open_store(), COMPETITION_TRAIN, ["id"])["id"][0].as_py()

    def planted(data: pa.Table) -> pa.Table:
        return with_column(data, "id", pa.array([stranger, *data["id"].to_pylist()[1:]]))

    rewrite(curated, TRAIN_EXTRA, planted)
    result = evaluated(BY_NAME["no_image_in_both_sets"], curated)
    assert not result.passed
    assert stranger in str(result.metadata)


def test_a_class_filled_beyond_the_threshold_fails(curated: Platform) -> None:
    def filled(data: pa.Table) -> pa.Table:
        data = with_column(data, "landmark_id", pa.array([1] * data.num_rows, pa.int64()))
        return with_column(data, "origin", pa.array(["extra"] * data.num_rows))

    rewrite(curated, TRAIN_MANIFEST, filled)
    assert not evaluated(BY_NAME["filled_to_threshold"], curated).passed


def test_a_csv_that_lost_rows_warns_once(
    run: Runner, platform: Platform, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    shutil.copytree(str(platform.source), tmp_path / "bucket")
    platform = Platform(source=str(tmp_path / "bucket"), store=platform.store, recipe=platform.recipe)
    run = Runner(platform, instance)
    table = tmp_path / "bucket" / "metadata" / "test.csv"
    lines = table.read_text().splitlines(keepends=True)

    def rows() -> dg.AssetCheckEvaluation:
        result = run("test_metadata")
        assert result.success
        return next(found for found in result.get_asset_check_evaluations() if found.check_name == "keeps_its_rows")

    assert rows().passed
    table.write_text("".join(lines[: len(lines) // 2]))
    failed = rows()
    assert not failed.passed
    assert failed.severity == dg.AssetCheckSeverity.WARN
    assert f"{len(lines) - 1} rows before, {len(lines) // 2 - 1} now" in str(failed.metadata["problem"].value)
    assert rows().passed  # materialized again: the loss is accepted
    table.write_text("".join(lines))
    assert rows().passed


def test_schema_checks_block_what_stands_downstream() -> None:
    for asset, table in TABLES.items():
        assert all(spec.blocking for spec in schema_check(asset, table).check_specs)


def test_leaks_that_train_warn(curated: Platform) -> None:
    assert evaluated(BY_NAME["no_leak"], curated).passed
    trains = read_table(curated.open_store(), TRAIN_MANIFEST, ["id"])["id"][0].as_py()
    row = {"id": trains, "landmark_id": 1, "split": "test", "partner": "query", "distance": 0, "same_file": True}
    found = pa.Table.from_pylist([row | {"near": 1}]).select(TRAIN_TEST_LEAKS.schema.names)
    rewrite(curated, TRAIN_TEST_LEAKS, lambda _: found.cast(TRAIN_TEST_LEAKS.schema))
    failed = evaluated(BY_NAME["no_leak"], curated)
    assert not failed.passed
    assert failed.severity == dg.AssetCheckSeverity.WARN
    assert trains in str(failed.metadata)
    rewrite(curated, TRAIN_TEST_LEAKS, lambda data: with_column(data, "id", pa.array(["dropped"])))
    assert evaluated(BY_NAME["no_leak"], curated).passed
