"""What the UI offers of runs and backfills, by a real webserver and daemon: re-execution and cancellation."""

from __future__ import annotations

import json
import socket
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionStatus, PartitionBackfill

from glr_assets.defs.lineage import LineageError, Progress, materialise_lineage
from glr_assets.dev import WORKSPACE, dev_command
from glr_assets.settings import Settings
from glr_assets_tests.automation.daemon import Home, ask, wait_until
from glr_assets_tests.automation.tiny_shards import Shards

#: Seconds that runs may take on a busy machine.
PATIENCE = 600.0
REEXECUTE = (
    "mutation($p: ReexecutionParams!) { launchPipelineReexecution(reexecutionParams: $p) { __typename "
    "... on LaunchRunSuccess { run { id } } ... on PythonError { message } } }"
)
LAUNCH = (
    "mutation($p: ExecutionParams!) { launchPipelineExecution(executionParams: $p) { __typename "
    "... on LaunchRunSuccess { run { id } } ... on PythonError { message } } }"
)
CANCEL = "mutation($b: String!) { cancelPartitionBackfill(backfillId: $b) { __typename } }"
REEXECUTE_BACKFILL = (
    "mutation($p: ReexecutionParams!) { reexecutePartitionBackfill(reexecutionParams: $p) { __typename "
    "... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"
)
OF_SHARDS = ("train_metadata", "competition_train", "class_counts", "fill_plan", "train_images")


class Served:
    """A bucket of three tiny shards, and an instance with a daemon and a webserver."""

    def __init__(self, folder: Path, recipe: Path) -> None:
        self.shards = Shards(folder / "bucket", there=3, of=3)
        self.home = Home(folder / "home", folder / "bucket", folder / "store", recipe)
        dev_command(self.home.folder, "127.0.0.1", 0)  # the workspace that `glr dev` loads
        self.home.module = ("-w", str(self.home.folder / WORKSPACE))
        self.settings = Settings(source=str(folder / "bucket"), store=str(folder / "store"), recipe=str(recipe))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def answers(self) -> bool:
        try:
            return bool(ask(self.port, "{ version }"))
        except OSError:
            return False

    def asked(self, query: str, **variables: Any) -> dict[str, Any]:
        """The answer to a mutation."""
        try:
            data, _ = ask(self.port, query, **variables)
        except urllib.error.HTTPError as error:  # what fails has the status 500, and an answer
            data = json.load(error)["data"]
        ((_, answer),) = data.items()
        return dict(answer)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> Iterator[Served]:
    found = Served(tmp_path_factory.mktemp("served"), tiny_recipe)
    with found.home.instance():  # two processes that open an instance for the first time spoil its SQLite files
        pass
    with found.home.running("dagster-daemon", "run"), found.home.running("dagster-webserver", "-p", str(found.port)):
        wait_until(found.answers, PATIENCE)
        yield found


def run_that_ends(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    def ended() -> bool:
        run = instance.get_run_by_id(run_id)
        return run is not None and run.is_finished

    wait_until(ended, PATIENCE)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run


@pytest.mark.slow
def test_runs_of_a_demo_are_reexecuted_from_failure_and_whole(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glr_assets.images.ingest.RETRY_SECONDS", 0.0)
    served.shards.drop("001", damaged=True)
    with served.home.instance() as instance:
        progress = Progress(lambda _: None, lambda *_: None)
        with pytest.raises(LineageError, match="1 of 3 shards failed"):
            materialise_lineage(served.settings, instance, progress, OF_SHARDS, asked_by="glr demo")
        failed, tables = instance.get_runs()
        assert (failed.status, tables.status) == (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS)
        served.shards.drop("001")
        for parent, strategy in ((failed, "FROM_FAILURE"), (tables, "ALL_STEPS")):
            answer = served.asked(REEXECUTE, p={"parentRunId": parent.run_id, "strategy": strategy})
            assert answer["__typename"] == "LaunchRunSuccess", answer
            run = run_that_ends(instance, answer["run"]["id"])
            assert run.status == dg.DagsterRunStatus.SUCCESS
            assert (run.parent_run_id, run.tags["glr/asked_by"]) == (parent.run_id, "glr demo")
        assert instance.get_materialized_partitions(dg.AssetKey("train_images")) == {"000", "001", "002"}
        # The daemon begins no failed run of a demo again by itself.
        assert instance.get_runs_count(dg.RunsFilter(tags={"glr/asked_by": "glr demo"})) == 4


@pytest.mark.slow
def test_a_backfill_of_a_launcher_is_canceled_and_reexecuted_to_its_end(served: Served) -> None:
    selector = {"repositoryLocationName": "glr_assets", "repositoryName": "__repository__", "pipelineName": "ingest"}
    params = {"selector": selector, "mode": "default", "executionMetadata": {"tags": [{"key": "user", "value": "ada"}]}}
    with served.home.instance() as instance:

        def backfill(backfill_id: str) -> PartitionBackfill:
            found = instance.get_backfill(backfill_id)
            assert found is not None
            return found

        def runs_of(backfill_id: str) -> list[dg.DagsterRun]:
            return list(instance.get_runs(filters=dg.RunsFilter(tags={"dagster/backfill": backfill_id})))

        launcher = served.asked(LAUNCH, p=params)["run"]["id"]
        assert run_that_ends(instance, launcher).status == dg.DagsterRunStatus.SUCCESS
        (first,) = (found.backfill_id for found in instance.get_backfills() if found.tags["glr/job"] == "ingest")
        wait_until(lambda: bool(runs_of(first)), PATIENCE, every=0.2)
        assert served.asked(CANCEL, b=first)["__typename"] == "CancelBackfillSuccess"
        wait_until(lambda: backfill(first).status == BulkActionStatus.CANCELED, PATIENCE)
        assert all(run.is_finished for run in runs_of(first))
        assert instance.get_materialized_partitions(dg.AssetKey("index_images")) == set()

        answer = served.asked(REEXECUTE_BACKFILL, p={"parentRunId": first, "strategy": "FROM_FAILURE"})
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        second = answer["backfillId"]
        wait_until(lambda: backfill(second).status in BULK_ACTION_TERMINAL_STATUSES, PATIENCE)
        assert backfill(second).status == BulkActionStatus.COMPLETED_SUCCESS
        runs = runs_of(second)
        assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
        asked = {"glr/asked_by": "user ada", "glr/launched_by_run": launcher, "glr/job": "ingest"}
        for tags in (backfill(second).tags, *(run.tags for run in runs)):
            assert asked.items() <= tags.items()
        for split, keys in (("train", {"000", "001", "002"}), ("index", {"000"}), ("test", {"000"})):
            assert instance.get_materialized_partitions(dg.AssetKey(f"{split}_images")) == keys
