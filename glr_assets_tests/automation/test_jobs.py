"""Asset jobs and launchers of backfills; GPU steps: one at a time in the pool, a warning where there is no GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.execution.execute_in_process import core_execute_in_process

from glr_assets.defs.automation.jobs import LAUNCHED
from glr_assets.defs.build import ASSETS, build_definitions
from glr_assets.defs.conventions import warn_without_gpu
from glr_assets.recipes import Execution
from glr_assets_tests.automation.conftest import Desk
from glr_assets_tests.automation.tiny_shards import Shards

MakeShards = Callable[..., Shards]
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class ServedJob(InMemoryJob):
    """A job in its repository, as a code server loads it; `execute_in_process` gives a run no repository."""

    def __init__(self, repository: dg.RepositoryDefinition, name: str) -> None:
        super().__init__(repository.get_job(name))
        self.repository = repository

    def get_repository_definition(self) -> dg.RepositoryDefinition:
        return self.repository


def run_job(desk: Desk, name: str, tags: dict[str, str] | None = None) -> dg.ExecuteInProcessResult:
    return core_execute_in_process(
        run_config=QUIET,
        job=ServedJob(desk.definitions.get_repository_def(), name),
        instance=desk.instance,
        output_capturing_enabled=True,
        raise_on_error=True,
        run_tags=tags,
    )


def targets(desk: Desk, backfill: PartitionBackfill) -> dict[str, set[str]]:
    """By asset the partitions that a backfill will materialize; none of an asset without partitions."""
    subset = backfill.get_asset_backfill_data(desk.definitions.resolve_asset_graph()).target_subset
    found: dict[str, set[str]] = {key.to_user_string(): set() for key in subset.asset_keys}
    for asset, partition in subset.iterate_asset_partitions():
        found[asset.to_user_string()] |= {partition} if partition is not None else set()
    return found


def told(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    """What the launcher's run shows."""
    (event,) = (event for event in result.all_events if event.is_successful_output)
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def test_the_launcher_starts_one_backfill_over_all_assets_and_all_partitions_of_the_source(
    desk: Desk, shards: MakeShards
) -> None:
    shards(3)
    desk.instance.add_dynamic_partitions("train_shards", ["of another source"])
    result = run_job(desk, "full_pipeline", {"dagster/schedule_name": "nightly"})
    assert result.success
    (backfill,) = desk.instance.get_backfills()
    assert backfill.tags == {
        "glr/asked_by": "schedule nightly",
        "glr/launched_by_run": result.run_id,
        "glr/job": "full_pipeline",
    }
    found = targets(desk, backfill)
    assert found.keys() == {asset.key.to_user_string() for asset in ASSETS}
    assert found["train_images"] == found["train_embeddings"] == {"000", "001", "002"}
    assert found["index_images"] == {"000"}
    recipe = desk.platform.load_recipe()
    assert len(found["verified_pairs"]) == recipe.verification.buckets
    assert found["image_catalog"] == set()
    assert (told(result)["backfill"], told(result)["train_shards"]) == (f"/runs/b/{backfill.backfill_id}", 3)


def test_a_launcher_starts_no_second_backfill_while_its_first_is_not_over(desk: Desk, shards: MakeShards) -> None:
    shards(2)
    assert run_job(desk, "ingest").success
    (first,) = desk.instance.get_backfills()
    again = run_job(desk, "ingest")
    assert told(again) == {"backfill": f"/runs/b/{first.backfill_id}", "started": False}
    assert run_job(desk, "evaluate").success
    desk.instance.update_backfill(first.with_status(BulkActionStatus.CANCELED))
    assert told(run_job(desk, "ingest"))["started"]
    by_job = sorted(backfill.tags["glr/job"] for backfill in desk.instance.get_backfills())
    assert by_job == ["evaluate", "ingest", "ingest"]
    assert {backfill.tags["glr/asked_by"] for backfill in desk.instance.get_backfills()} == {"by hand"}


def test_a_shard_that_failed_for_good_is_left_out_until_its_content_changes(
    desk: Desk, shards: MakeShards, without_pauses: None
) -> None:
    bucket = shards(3)
    bucket.drop("001", damaged=True)
    assert sorted(desk.carry_out(desk.to_images())) == [False, True, True]
    result = run_job(desk, "ingest")
    (first,) = desk.instance.get_backfills()
    assert targets(desk, first)["train_images"] == {"000", "002"}
    assert told(result)["shards left out"] == 1
    desk.instance.update_backfill(first.with_status(BulkActionStatus.COMPLETED_FAILED))
    bucket.drop("001")
    assert told(run_job(desk, "ingest"))["shards left out"] == 0


#: What each job materializes, by name: a job selects groups, and another asset of a group is another asset of the job.
MATERIALIZED = {
    "ingest": {
        *("train_metadata", "train_attribution", "landmark_labels", "competition_train", "index_metadata"),
        *("test_metadata", "recognition_solution", "retrieval_solution"),
        *("class_counts", "fill_potential", "fill_plan", "train_images", "index_images", "test_images"),
    },
    "curate": {
        *("image_catalog", "label_conflicts", "train_test_leaks", "deduped_manifest", "train_extra"),
        *("fill_shortfall", "train_manifest", "image_ledger"),
    },
    "clean": {
        *("verification_manifest", "local_features", "verification_calibration", "verified_pairs"),
        "cleaned_manifest",
    },
    "train": {"training_manifest", "embedder"},
    "train_groups": {"training_manifest", "training_groups", "group_classifiers", "group_calibration"},
    "evaluate": {
        *("train_embeddings", "index_embeddings", "test_embeddings", "non_landmark_embeddings", "gallery_manifest"),
        *("faiss_index", "search_features", "test_features", "recognition_model", "submission"),
        *("retrieval_submission", "evaluation", "model_comparison"),
    },
}


def test_jobs_materialize_these_assets() -> None:
    definitions = build_definitions()
    graph = definitions.resolve_asset_graph()
    found = {name: {key.to_user_string() for key in selection.resolve(graph)} for name, selection in LAUNCHED.items()}
    assert found.pop("full_pipeline") == {asset.key.to_user_string() for asset in ASSETS}
    for name in ("curate", "train"):
        job = definitions.resolve_job_def(name)
        assert job.partitions_def is None
        found[name] = {key.to_user_string() for key in job.asset_layer.executable_asset_keys}
    assert found == MATERIALIZED


class Log:
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.log = self

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize(("device", "gpu", "warned"), [("auto", False, 1), ("auto", True, 0), ("cpu", False, 0)])
def test_a_run_without_a_gpu_says_that_it_is_on_the_cpu(
    device: str, gpu: bool, warned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    log = Log()
    warn_without_gpu(log, Execution(device=device))  # type: ignore[arg-type]
    assert len(log.warnings) == warned
    assert all("runs on the CPU" in text for text in log.warnings)


def test_two_gpu_steps_of_two_runs_are_never_at_it_together(tmp_path: Path) -> None:
    import threading
    import time

    inside: list[str] = []
    most: list[int] = []

    def step(name: str) -> dg.AssetsDefinition:
        @dg.asset(name=name, pool="gpu")
        def gpu_step() -> None:
            inside.append(name)
            most.append(len(inside))
            time.sleep(0.3)
            inside.remove(name)

        return gpu_step

    def run(asset: dg.AssetsDefinition) -> None:
        dg.materialize([asset], instance=instance, run_config=QUIET)

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        instance.event_log_storage.set_concurrency_slots("gpu", 1)
        threads = [threading.Thread(target=run, args=(step(name),)) for name in ("first", "second")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert most == [1, 1]


def test_definitions_load_within_two_seconds_of_cpu() -> None:
    import subprocess

    code = (
        "import time; began = time.process_time()\n"
        "from glr_assets.definitions import defs\n"
        "defs().resolve_asset_graph()\n"
        "print(time.process_time() - began)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2.0


def test_the_steps_of_a_run_share_its_process_unless_an_executor_is_given() -> None:
    job = build_definitions().get_repository_def().get_implicit_global_asset_job_def()
    assert job.executor_def.name == dg.in_process_executor.name
    given = build_definitions(executor=dg.multiprocess_executor).get_repository_def()
    assert given.get_implicit_global_asset_job_def().executor_def.name == dg.multiprocess_executor.name
    assert given.get_job("full_pipeline").executor_def.name == dg.in_process_executor.name
