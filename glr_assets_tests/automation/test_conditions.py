"""Every rule of the switch by real ticks over the real lineage, whose materializations are reported."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.test_utils import freeze_time

from glr_assets.defs.automation.conditions import BRANCHES, automation, is_by_hand
from glr_assets.defs.lost_results import LOST
from glr_assets.defs.reconfirmation import partial_readers
from glr_assets.defs.source import REMOVED
from glr_assets_tests.automation.simulated import Requested, Simulated

TABLES = {
    "train_metadata",
    "train_attribution",
    "landmark_labels",
    "competition_train",
    "index_metadata",
    "test_metadata",
    "recognition_solution",
    "retrieval_solution",
    "class_counts",
    "fill_potential",
    "fill_plan",
}
MANIFESTS = {"image_catalog", "label_conflicts", "train_test_leaks", "deduped_manifest", "train_extra"}
BY_PERSON = {"embedder", "training_groups", "group_classifiers", "group_calibration", "non_landmark_classifier"}


def orders(found: list[Requested]) -> dict[str, list[int]]:
    """By asset the ticks that requested it."""
    names = {name for of in found for name in of}
    return {name: [number for number, of in enumerate(found) if name in of] for name in names}


@pytest.fixture
def lineage() -> Iterator[Simulated]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Simulated(instance, 6)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An instance in whose lineage everything is made, and the cursor of the switch."""
    folder = tmp_path_factory.mktemp("complete")
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        lineage = Simulated(instance, 6)
        lineage.observe_all()
        list(lineage.settle())
        lineage.make({"embedder": [None]})
        list(lineage.settle())
        assert lineage.cursor is not None
        return folder, lineage.cursor


@pytest.fixture
def complete(made: tuple[Path, str], tmp_path: Path) -> Iterator[Simulated]:
    """A lineage in which everything is made, and that ticked since."""
    folder = tmp_path / "instance"
    shutil.copytree(made[0], folder)
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        yield Simulated(instance, 6, made[1])


def test_it_is_off_and_it_is_the_only_one_that_starts_costly_work() -> None:
    assert automation.default_status == dg.DefaultSensorStatus.STOPPED


def test_all_that_was_known_before_it_was_switched_on_is_requested_once_in_order(lineage: Simulated) -> None:
    lineage.observe_all()
    found = list(lineage.settle())
    at = orders(found)
    assert all(len(ticks) == 1 for ticks in at.values()), at
    assert set(found[0]) == TABLES
    assert found[1] == {
        "train_images": lineage.keys["train_shards"],
        "index_images": lineage.keys["index_shards"],
        "test_images": lineage.keys["test_shards"],
    }
    assert set(found[2]) >= MANIFESTS
    assert min(at["local_features"][0], at["search_features"][0], at["test_features"][0]) > 2
    assert found[at["local_features"][0]]["local_features"] == lineage.keys["train_shards"]
    assert not {"train_embeddings", "faiss_index", "submission"} & at.keys()  # there is no embedder
    lineage.make({"embedder": [None]})
    later = list(lineage.settle())
    after = orders(later)
    assert all(len(ticks) == 1 for ticks in after.values()), after
    assert {"train_embeddings", "index_embeddings", "test_embeddings"} <= set(later[0])
    assert after["faiss_index"] == [1]
    assert {"recognition_model", "submission", "retrieval_submission", "evaluation"} <= after.keys()
    unused = {name for assets in BRANCHES.values() for name in assets}
    assert not ((at.keys() | after.keys()) & (unused | BY_PERSON | {"train_zip", "train_tfrecords"}))
    for _ in range(2):
        assert lineage.tick() == {}


def test_several_shards_are_one_backfill_of_their_policy_and_one_is_a_run(complete: Simulated) -> None:
    complete.observe("source_train_shards", "2", "00001", "00002", "00004")
    complete.tick()
    (request,) = complete.requests
    assert request.requires_backfill_daemon()
    assert request.tags["glr/asked_by"] == "sensor automation"
    complete.observe("source_train_shards", "3", "00003")
    complete.tick()
    (request,) = complete.requests
    assert request.partition_key == "00003"


def test_what_the_store_has_lost_is_requested_once_and_nothing_that_reads_it_before(complete: Simulated) -> None:
    assert complete.tick() == {}
    complete.make({"train_images": ["00001", "00003"], "deduped_manifest": [None], "embedder": [None]}, version=LOST)
    found = complete.tick()
    assert found["train_images"] == ["00001", "00003"]
    # A model is trained by hand, and nothing is made with the one that is gone.
    assert not {"embedder", "index_embeddings", "faiss_index"} & found.keys()
    complete.make(found)
    rest = list(complete.settle())
    assert sum("deduped_manifest" in of for of in [found, *rest]) == 1
    assert not any("train_images" in of for of in rest)
    complete.make({"embedder": [None]})
    assert "index_embeddings" in complete.tick()


def test_what_was_lost_before_it_was_switched_on_is_requested(complete: Simulated) -> None:
    complete.make({"train_images": ["00001"], "deduped_manifest": [None]}, version=LOST)
    complete.cursor = None
    assert complete.tick() == {"train_images": ["00001"], "train_embeddings": ["00001"]}


def test_a_changed_shard_is_requested_once_and_what_follows_once_each(complete: Simulated) -> None:
    complete.observe("source_train_shards", "2", "00001")
    found = complete.tick()
    assert found == {"train_images": ["00001"], "train_embeddings": ["00001"]}
    # Whatever becomes of the run: only another content is another request.
    assert complete.tick() == {}
    complete.observe("source_train_shards", "2", "00001")
    assert complete.tick() == {}
    complete.observe("source_train_shards", "3", "00001")
    assert complete.tick() == found
    complete.make(found, "3")
    later = list(complete.settle("3"))
    at = orders(later)
    assert all(len(ticks) == 1 for ticks in at.values()), at
    assert {"image_catalog", "deduped_manifest", "train_manifest", "faiss_index", "submission"} <= at.keys()


def test_the_same_data_version_made_again_is_no_news(complete: Simulated) -> None:
    complete.make({"train_images": ["00001"], "image_catalog": [None], "embedder": [None]})
    assert complete.tick() == {}


def test_what_is_confirmed_without_a_run_requests_nothing(complete: Simulated) -> None:
    confirmed: dict[str, list[str | None]] = {}
    for key in partial_readers(complete.graph):
        partitions = complete.graph.get(key).partitions_def
        name = partitions.name if isinstance(partitions, dg.DynamicPartitionsDefinition) else None
        confirmed[key.to_user_string()] = [None] if name is None else list(complete.keys[name])
    complete.make(confirmed)
    assert complete.tick() == {}
    # Confirmed before the switch sees the change: each is requested at most once, and found done.
    complete.observe("recipe_verification", "2", "cap")
    complete.make(confirmed)
    at = orders(list(complete.settle()))
    assert at.keys() <= confirmed.keys() | {"cleaned_manifest"}
    assert all(len(ticks) == 1 for ticks in at.values()), at
    # Confirmed after the request: no news.
    complete.observe("recipe_verification", "3", "cap")
    requested = complete.tick()
    assert "local_features" in requested
    complete.make(confirmed)
    assert complete.tick() == {}


def test_a_new_shard_is_requested_once_and_its_features_after_the_manifests(complete: Simulated) -> None:
    complete.instance.add_dynamic_partitions("train_shards", ["00009"])
    complete.observe("source_train_shards", "1", "00009")
    found = complete.tick()
    assert found == {"train_images": ["00009"], "train_embeddings": ["00009"]}
    assert complete.tick() == {}
    complete.make(found)
    at = orders(list(complete.settle("2")))
    assert all(len(ticks) == 1 for ticks in at.values()), at
    assert at["image_catalog"][0] < at["local_features"][0]


def test_manifests_wait_for_an_open_backfill_and_are_requested_once_when_it_ends(complete: Simulated) -> None:
    keys = complete.keys["train_shards"][:3]
    complete.observe("source_train_shards", "2", *keys)
    complete.tick()
    complete.tick()
    backfill = open_backfill(complete, "train_images", keys)
    for key in keys:
        complete.make({"train_images": [key], "train_embeddings": [key]}, "2")
        assert complete.tick() == {}, key
    complete.instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))
    found = complete.tick()
    assert found.keys() >= MANIFESTS
    complete.make(found, "2")
    assert "image_catalog" not in orders(list(complete.settle("2")))


def test_what_a_failed_backfill_made_goes_on_and_the_rest_is_tried_at_night(complete: Simulated) -> None:
    complete.observe("recipe_verification", "2", "max_features")
    found = complete.tick()
    *made, failed = found["local_features"]
    backfill = open_backfill(complete, "local_features", complete.keys["train_shards"])
    complete.make({**found, "local_features": made}, "2")
    fail(complete, "local_features", str(failed))
    assert complete.tick() == {}
    complete.instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_FAILED))
    later = orders(list(complete.settle("2")))
    assert all(len(ticks) == 1 for ticks in later.values()), later
    assert {"search_features", "recognition_model", "submission"} <= later.keys()
    assert "local_features" not in later
    night = (datetime.now(UTC) + timedelta(days=1)).replace(hour=2, minute=0, second=10)
    with freeze_time(night):
        assert complete.tick() == {"local_features": [failed]}
    with freeze_time(night + timedelta(seconds=30)):
        assert complete.tick() == {}


def test_a_shard_that_the_source_no_longer_has_is_not_requested_until_it_is_back(complete: Simulated) -> None:
    complete.observe("source_train_shards", REMOVED, "00001")
    complete.observe("source_train_shards", "2", "00002")
    complete.observe("recipe_images", "2", "min_side")
    kept = [key for key in complete.keys["train_shards"] if key != "00001"]
    assert complete.tick()["train_images"] == kept
    assert complete.tick() == {}
    complete.observe("source_train_shards", "1", "00001")
    assert complete.tick()["train_images"] == ["00001"]


def test_what_reads_every_shard_follows_what_the_store_holds_of_them(complete: Simulated) -> None:
    complete.observe("stored_shards", "1", "train_images", "local_features")
    complete.make(complete.tick(), "2")
    list(complete.settle("2"))
    complete.observe("stored_shards", "2", "train_images")  # as when a shard is removed, or a new one has failed
    found = complete.tick()
    assert "image_catalog" in found
    assert not {"train_images", "recognition_model"} & found.keys()
    complete.make(found, "2")
    assert complete.tick() == {}


def test_a_shard_that_lands_while_the_catalog_is_made_makes_it_once_more(complete: Simulated) -> None:
    complete.observe("source_train_shards", "2", "00000")
    complete.make(complete.tick(), "2")
    assert "image_catalog" in complete.tick()
    backfill = open_backfill(complete, "image_catalog", None)
    complete.make({"train_images": ["00003"]}, "2")  # by a person's run
    assert "image_catalog" not in complete.tick()
    complete.make({name: [None] for name in MANIFESTS}, "2")
    complete.instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))
    assert "image_catalog" in complete.tick()


def test_a_change_right_after_the_request_is_requested_too(complete: Simulated) -> None:
    complete.observe("source_train_shards", "2", "00001")
    assert complete.tick()["train_images"] == ["00001"]
    complete.observe("source_train_shards", "3", "00001")
    assert complete.tick()["train_images"] == ["00001"]
    assert complete.tick() == {}


def test_a_csv_makes_the_tables_then_every_shard(complete: Simulated) -> None:
    complete.observe("source_train", "2")
    found = complete.tick()
    assert {"train_metadata", "competition_train", "class_counts", "fill_plan"} <= found.keys()
    assert "image_catalog" not in found
    complete.make(found, "2")
    assert complete.tick()["train_images"] == complete.keys["train_shards"]


def test_a_value_of_the_recipe_makes_its_dependents_alone(complete: Simulated) -> None:
    complete.observe("recipe_dedupe", "2", "keep")
    found = complete.tick()
    assert "deduped_manifest" in found
    assert not {"image_catalog", "label_conflicts", "train_images"} & found.keys()
    # Its page names the dependency, and no other.
    assert complete.told["deduped_manifest"] >= {"recipe_dedupe", "a dependency has another data version"}
    assert not {"recipe_seed", "image_catalog"} & complete.told["deduped_manifest"]
    complete.make(found)
    assert complete.tick() == {}  # they came out as they were
    complete.observe("recipe_images", "2", "min_side")
    assert complete.tick()["train_images"] == complete.keys["train_shards"]


def test_a_branch_is_made_where_the_recipe_chooses_it(complete: Simulated) -> None:
    cleaned = BRANCHES["cleaned_manifest"]
    complete.choose("cleaned_manifest")
    at = orders(list(complete.settle()))
    assert cleaned <= at.keys()
    assert not (BRANCHES["non_landmark_filter"] & at.keys())
    complete.choose("train_manifest")
    list(complete.settle("2"))
    complete.make({"local_features": complete.keys["train_shards"]}, "2")
    assert not (cleaned & orders(list(complete.settle("3"))).keys())


def test_other_code_is_requested_once(complete: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    node = type(complete.graph.get(dg.AssetKey("train_manifest")))
    original = node.code_version.fget  # type: ignore[attr-defined]

    def raised(self: object) -> str | None:
        return "99" if self.key == dg.AssetKey("train_manifest") else original(self)  # type: ignore[attr-defined]

    monkeypatch.setattr(node, "code_version", property(raised))
    assert "train_manifest" in complete.tick()
    assert complete.tick() == {}


def test_what_is_made_by_hand_has_no_condition_and_holds_what_needs_it(lineage: Simulated) -> None:
    for key in lineage.graph.materializable_asset_keys:
        node = lineage.graph.get(key)
        by_hand = is_by_hand(key, node.group_name)
        assert (node.automation_condition is None) == by_hand, key


def fail(lineage: Simulated, asset: str, partition: str) -> None:
    """A run of one partition that failed."""
    key = dg.AssetKey(asset)
    job = lineage.repository.get_implicit_global_asset_job_def().get_subset(asset_selection={key})
    run = lineage.instance.create_run_for_job(
        job,
        asset_selection=frozenset({key}),
        tags={"dagster/partition": partition},
        status=dg.DagsterRunStatus.STARTED,
    )
    lineage.instance.report_run_failed(run)


def open_backfill(lineage: Simulated, asset: str, keys: list[str] | None) -> PartitionBackfill:
    """A backfill that no daemon is at."""
    backfill = PartitionBackfill.from_asset_partitions(
        asset_graph=lineage.graph,
        backfill_id="abcdefgh",
        tags={},
        backfill_timestamp=1.8e9,
        asset_selection=[dg.AssetKey(asset)],
        partition_names=keys,
        dynamic_partitions_store=lineage.instance,
        all_partitions=keys is None,
        title=None,
        description=None,
        run_config=None,
    )
    lineage.instance.add_backfill(backfill)
    return backfill
