"""The check of each partitioned asset: evaluated for each partition, seen passing and failing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glr_assets.defs import shards
from glr_assets.defs.build import build_definitions
from glr_assets.defs.platform import Platform
from glr_assets.defs.shard_checks import SHARD_CHECKS, Found
from glr_assets.images.checks import unverified
from glr_assets.images.schemas import IMAGE_INDEX
from glr_assets.openimages.schemas import NON_LANDMARK_SCORES
from glr_assets.receipts import find_receipt, need_receipt
from glr_assets.retrieval.checks import misanswered
from glr_assets.retrieval.schemas import EMBEDDING_VECTORS, EMBEDDINGS
from glr_assets.store import Store
from glr_assets.tables import Table, read_table
from glr_assets.training.checks import guessing
from glr_assets.verification.schemas import LOCAL_FEATURES, VERIFIED_PAIRS
from glr_assets_tests.assets.conftest import Runner
from glr_assets_tests.lineage import rewritten


def evaluations(instance: dg.DagsterInstance, asset: str) -> list[tuple[str | None, bool]]:
    """Partition and result of each evaluation of a partitioned asset's check, the latest first."""
    records = instance.event_log_storage.get_asset_check_execution_history(
        SHARD_CHECKS[asset].key(dg.AssetKey(asset)), limit=100
    )
    logged = [record.event.dagster_event for record in records if record.event is not None]
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    found = [event for event in logged if event is not None and event.event_type == kind]
    return [(event.asset_check_evaluation_data.partition, event.asset_check_evaluation_data.passed) for event in found]


def look(platform: Platform, asset: str, key: str) -> dg.AssetCheckEvaluation:
    store = platform.open_store()
    receipt = find_receipt(store, f"{asset}/{key}")
    assert receipt is not None
    return SHARD_CHECKS[asset].evaluate(dg.AssetKey(asset), store, receipt, key)


def rewrite(store: Store, table: Table, change: Callable[[pa.Table], pa.Table], **partition: str) -> None:
    """Change a table behind the back of its writer."""
    data = change(read_table(store, table, **partition))
    with store.writing(table.at(**partition)) as file:
        pq.write_table(data, file)


def replaced(data: pa.Table, name: str, values: list[object]) -> pa.Table:
    position = data.schema.get_field_index(name)
    return data.set_column(position, data.schema.field(name), pa.array(values, data.schema.field(name).type))


def test_every_partitioned_asset_is_checked_by_partition() -> None:
    graph = build_definitions().resolve_asset_graph()
    partitioned = {key for key in graph.materializable_asset_keys if graph.get(key).partitions_def is not None}
    checked = {check.asset_key for check in graph.asset_check_keys}
    assert partitioned <= checked
    assert {key.to_user_string() for key in partitioned} - {"openimages_images"} == set(SHARD_CHECKS)
    for asset, check in SHARD_CHECKS.items():
        key = dg.AssetKey(asset)
        assert graph.get(check.key(key)).partitions_def == graph.get(key).partitions_def


def test_a_range_run_logs_one_evaluation_of_each_partition_that_was_made(
    run: Runner, platform: Platform, instance: dg.DagsterInstance
) -> None:
    run.curated()
    keys = platform.open_source().shards("test")
    assert run("test_images", shards=(keys[0], keys[-1])).success
    assert Counter(evaluations(instance, "test_images")) == {(shard, True): 1 for shard in keys}
    assert run("test_images", shard=keys[0]).success
    assert Counter(evaluations(instance, "test_images")) == {(shard, True): 1 + (shard == keys[0]) for shard in keys}
    key = SHARD_CHECKS["test_images"].key(dg.AssetKey("test_images"))
    # Dagster takes a check of an earlier materialization for none.
    assert all(info.is_current for info in instance.event_log_storage.get_asset_check_partition_info([key]))


def test_a_shard_that_does_not_reconcile_fails(run: Runner, platform: Platform) -> None:
    run.curated()
    store = platform.open_store()
    assert look(platform, "train_images", "000").passed
    place = {"split": "train", "shard": "000"}
    sound = read_table(store, IMAGE_INDEX, **place)

    def found(change: Callable[[pa.Table], pa.Table]) -> str:
        rewrite(store, IMAGE_INDEX, lambda _: change(sound), **place)
        result = look(platform, "train_images", "000")
        assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
        return str(result.metadata["problem"].value)

    assert f"the index has {sound.num_rows - 1} members" in found(lambda data: data.slice(1))
    stored = sound["status"].to_pylist().index("stored")
    statuses = sound["status"].to_pylist()
    statuses[stored] = "skipped"
    told = found(lambda data: replaced(data, "status", statuses))
    assert "skipped members, the receipt counts" in told
    assert "1 members that are not stored have no reason" in told
    offsets = [None if value is None else value + 10**9 for value in sound["stored_offset"].to_pylist()]
    assert "outside the stored TAR" in found(lambda data: replaced(data, "stored_offset", offsets))


def test_a_shard_of_which_many_images_failed_warns(run: Runner, platform: Platform) -> None:
    run.curated()
    store = platform.open_store()
    place = {"split": "train", "shard": "000"}
    statuses = read_table(store, IMAGE_INDEX, **place)["status"].to_pylist()
    broken = [row for row, status in enumerate(statuses) if status == "stored"][:2]
    reasons = read_table(store, IMAGE_INDEX, **place)["reason"].to_pylist()
    for row in broken:
        statuses[row], reasons[row] = "failed", "undecodable: cut"
    rewrite(store, IMAGE_INDEX, lambda data: replaced(replaced(data, "status", statuses), "reason", reasons), **place)
    counts = Counter(statuses)
    receipt = find_receipt(store, "train_images/000")
    assert receipt is not None
    summary = receipt.summary | {
        "stored": counts["stored"],
        "failed": 2,
        "failed: undecodable": 2,
    }
    rewritten(store, "train_images/000", summary=summary)
    result = look(platform, "train_images", "000")
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)
    wanted = counts["stored"] + 2
    assert result.metadata["problem"].value == f"2 of {wanted} images failed: undecodable 2"


def test_images_without_vectors_scores_or_features_fail(run: Runner, platform: Platform) -> None:
    run.verified()
    store = platform.open_store()
    assert run("embedder").success
    assert run("train_embeddings", shard="000").success
    cases: tuple[tuple[str, Table, dict[str, str], str], ...] = (
        ("train_embeddings", EMBEDDINGS, {"split": "train", "shard": "000"}, "the file beside it"),
        ("non_landmark_scores", NON_LANDMARK_SCORES, {"shard": "000"}, "1 of "),
        ("local_features", LOCAL_FEATURES, {"shard": "000"}, "bytes of features, the file"),
    )
    for asset, table, place, told in cases:
        assert look(platform, asset, "000").passed, asset
        rewrite(store, table, lambda data: data.slice(1), **place)
        result = look(platform, asset, "000")
        assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR), asset
        assert told in str(result.metadata["problem"].value)
    vectors = np.load(store.path(EMBEDDING_VECTORS.format(split="train", shard="000")))[1:]
    with store.writing(EMBEDDING_VECTORS.format(split="train", shard="000")) as file:
        np.save(file, vectors)
    assert "lack a vector" in str(look(platform, "train_embeddings", "000").metadata["problem"].value)


def test_pairs_accepted_against_their_evidence_fail(run: Runner, platform: Platform) -> None:
    run.verified()
    store = platform.open_store()
    bucket = next(
        key
        for key in run.instance.get_dynamic_partitions("class_buckets")
        if read_table(store, VERIFIED_PAIRS, ["first"], bucket=key).num_rows
    )
    assert look(platform, "verified_pairs", bucket).passed
    rewrite(
        store,
        VERIFIED_PAIRS,
        lambda data: replaced(data, "accepted", [not value for value in data["accepted"].to_pylist()]),
        bucket=bucket,
    )
    result = look(platform, "verified_pairs", bucket)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)


def test_a_damaged_table_fails_by_name_and_counts_as_not_made(run: Runner, platform: Platform) -> None:
    run.curated()
    store = platform.open_store()
    receipt = need_receipt(store, "train_images/000")
    store.write(IMAGE_INDEX.at(split="train", shard="000"), b"nothing of a table")
    check = SHARD_CHECKS["train_images"]
    result = check.evaluate(dg.AssetKey("train_images"), store, receipt, "000")
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "train_images/000 counts as not made from now on" in str(result.metadata["problem"].value)


def test_a_check_that_cannot_look_fails_and_stops_no_partition(
    run: Runner, platform: Platform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.curated()

    def look(*_: object) -> Found:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(shards, "SHARD_CHECKS", {"test_images": replace(SHARD_CHECKS["test_images"], look=look)})
    keys = platform.open_source().shards("test")
    assert run("test_images", shards=(keys[0], keys[-1])).success
    assert Counter(evaluations(instance, "test_images")) == {(key, False): 1 for key in keys}


@pytest.mark.parametrize(
    ("right", "landmarks", "images", "passes"),
    [(0.9, 10, 40, True), (0.1, 10, 40, False), (0.3, 10, 40, True), (0.5, 2, 3, True), (0.0, 1000, 500, False)],
)
def test_a_classifier_that_guesses_warns(right: float, landmarks: int, images: int, passes: bool) -> None:
    # Ten landmarks, forty photographs: guessing is .1 with a standard deviation of sqrt(.1 x .9 / 40) = .047.
    summary = {"trained": True, "landmarks": landmarks, "validation_images": images, "validation_top1": right}
    assert (guessing(summary) == "") == passes
    assert guessing(summary | {"trained": False}) == ""
    assert guessing(summary | {"validation_top1": None}) == ""


def test_md5_of_a_source_is_told_from_other_digests() -> None:
    assert unverified({"source:train/000": "9b2231a32a395cc0bc5c2326dcca346b", "train_metadata": "x"}) == ""
    assert unverified({"source:train/000": "an-etag:12345"}) == "no MD5 of it is published"


def test_a_shard_without_a_published_md5_passes_with_a_note(run: Runner, platform: Platform) -> None:
    run.curated()
    store = platform.open_store()
    receipt = need_receipt(store, "train_images/000")
    assert look(platform, "train_images", "000").metadata == {}
    rewritten(store, "train_images/000", inputs=receipt.inputs | {"source:train/000": "an-etag:12345"})
    result = look(platform, "train_images", "000")
    assert result.passed
    assert result.metadata["note"].value == "no MD5 of it is published"


def test_a_retrieval_submission_that_breaks_its_rules_fails() -> None:
    sound = ["id,images\n", "q1,a b\n", "q2,\n"]

    def found(*lines: str, queries: tuple[str, ...] = ("q1", "q2"), most: int = 2) -> str:
        return misanswered(lines, queries, ["a", "b", "c"], most)

    assert found(*sound) == ""
    assert found("id,image\n", *sound[1:]) == "the header is id,image, expected id,images"
    assert found(*sound[:2]) == "row 2: query q2 has no row"
    assert found(*sound, "q3,a\n") == "row 3: q3,a where no further row is expected"
    assert found(*sound, queries=("q1", "q3")) == "row 2: q2, where q3 is expected"
    assert found(*sound, most=1) == "row 1: 2 images, at most 1 are wanted"
    assert found("id,images\n", "q1,a a\n", "q2,\n") == "row 1: an image is given twice"
    assert found("id,images\n", "q1,a z\n", "q2,\n") == "row 1: z is no image of the index"
