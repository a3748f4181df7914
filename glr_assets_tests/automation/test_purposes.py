"""Jobs by purpose, run as Dagster runs them; GPU steps: one at a time in the pool, a warning where there is no GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from glr_assets.defs.automation.purposes import TABLES_FIRST
from glr_assets.defs.automation.requests import whole_run
from glr_assets.defs.build import build_definitions
from glr_assets.defs.conventions import warn_without_gpu
from glr_assets.receipts import find_receipt
from glr_assets.recipes import Execution
from glr_assets_tests.automation.conftest import Desk
from glr_assets_tests.automation.tiny_shards import Shards

MakeShards = Callable[..., Shards]
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def run_job(desk: Desk, name: str) -> dg.ExecuteInProcessResult:
    job = desk.definitions.resolve_job_def(name)
    return job.execute_in_process(instance=desk.instance, run_config=QUIET, raise_on_error=False)


def test_ingest_and_curate_walk_their_part_and_no_other(desk: Desk, shards: MakeShards) -> None:
    shards(2)
    store = desk.platform.open_store()
    assert run_job(desk, "ingest").success
    assert find_receipt(store, "train_images/001") is not None
    assert find_receipt(store, "image_catalog") is None
    assert run_job(desk, "ingest").success
    made = desk.instance.fetch_materializations(dg.AssetKey(TABLES_FIRST[0]), limit=1).records[0]
    assert made.asset_materialization is not None
    assert made.asset_materialization.metadata["done_before"].value is True


def test_a_job_fails_by_the_name_of_the_asset_and_shard(desk: Desk, shards: MakeShards, without_pauses: None) -> None:
    shards(2).drop("001", damaged=True)
    result = run_job(desk, "ingest")
    assert not result.success
    told = str([event for event in result.all_node_events if event.is_step_failure])
    assert "train_images: 1 of 2 shards failed" in told
    assert find_receipt(desk.platform.open_store(), "train_images/000") is not None


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


def test_what_has_no_partitions_runs_in_one_process_where_steps_are_processes_of_one_machine() -> None:
    here = build_definitions().get_repository_def()
    config = whole_run(["class_counts"], "a test", here).run_config
    assert config == {"execution": {"config": {"in_process": {}}}}
    job = here.get_implicit_global_asset_job_def()
    assert dg.validate_run_config(job, config)
    elsewhere = build_definitions(executor=dg.in_process_executor).get_repository_def()
    assert whole_run(["class_counts"], "a test", elsewhere).run_config == {}
