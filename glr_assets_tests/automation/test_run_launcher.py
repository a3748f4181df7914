"""Runs whose process is gone, as Dagster's own run monitoring finds them by the launcher of `dagster.yaml`."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from dagster._daemon.monitoring.run_monitoring import monitor_started_run

from glr_assets.defs import run_launcher
from glr_assets.defs.platform import Platform
from glr_assets.defs.process_locks import fail_lost_runs, holder, lock_state, run_lock
from glr_assets.defs.run_launcher import GONE
from glr_assets_tests.automation.daemon import ROOT


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with the laptop's configuration."""
    shutil.copy(ROOT / "infra" / "laptop" / "dagster.yaml", tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


def started(instance: dg.DagsterInstance, place: dict[str, object] | None) -> dg.DagsterRun:
    tags = {} if place is None else {".dagster/grpc_info": json.dumps(place)}
    return instance.add_run(dg.DagsterRun(job_name="any", status=dg.DagsterRunStatus.STARTED, tags=tags))


def monitor(instance: dg.DagsterInstance) -> None:
    """What the daemon does with started runs at each of its looks."""
    for record in instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        monitor_started_run(instance, None, record, logging.getLogger("monitoring"))  # type: ignore[arg-type]


def statuses(instance: dg.DagsterInstance) -> dict[str, str]:
    return {run.run_id: run.status.value for run in instance.get_runs()}


def test_a_run_whose_server_is_gone_is_failed_and_others_are_left_alone(
    instance: dg.DagsterInstance, tmp_path: Path, free_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_launcher, "PAUSE", 0.0)
    killed = started(instance, {"host": "localhost", "socket": str(tmp_path / "gone")})
    elsewhere = started(instance, {"host": "127.0.0.1", "port": free_tcp_port})
    ours = started(instance, None)
    monitor(instance)
    assert statuses(instance) == {killed.run_id: "FAILURE", elsewhere.run_id: "FAILURE", ours.run_id: "STARTED"}
    assert any(GONE in entry.message for entry in instance.all_logs(killed.run_id))


HOLDER = """
import sys
import signal
import dagster as dg
from glr_assets.defs.process_locks import run_lock
# A job in the background of a shell ignores Ctrl-C, and what it starts does too.
signal.signal(signal.SIGINT, signal.default_int_handler)
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    run = dg.DagsterRun(job_name="any", status=dg.DagsterRunStatus[sys.argv[2]])
    with run_lock(instance, run.run_id):
        print(instance.add_run(run).run_id, flush=True)
        if sys.argv[3:] == ["fork"]:
            import os
            if os.fork() == 0:  # a helper that outlives its parent
                os.setsid()
                sys.stdin.read()
        sys.stdin.read()
"""


@contextmanager
def holder_of(home: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process with an unfinished run, and the run's id."""
    command = [sys.executable, "-c", HOLDER, str(home), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.parametrize("arguments", [("STARTED",), ("STARTED", "fork")])
def test_the_run_of_a_killed_process_is_failed_and_that_of_a_living_one_is_not(
    instance: dg.DagsterInstance, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    with holder_of(tmp_path, *arguments) as (process, run_id), holder_of(tmp_path, "STARTED") as (_, living):
        monitor(instance)
        assert statuses(instance) == {run_id: "STARTED", living: "STARTED"}
        process.kill()
        process.wait()
        foreign = started(instance, None)
        monitor(instance)
        assert statuses(instance) == {run_id: "FAILURE", living: "STARTED", foreign.run_id: "STARTED"}
        assert any("was killed" in entry.message for entry in instance.all_logs(run_id))


@pytest.mark.parametrize("status", ["STARTED", "NOT_STARTED"])
def test_lost_runs_are_failed_without_a_daemon_too(instance: dg.DagsterInstance, tmp_path: Path, status: str) -> None:
    with holder_of(tmp_path, status) as (process, run_id):
        assert fail_lost_runs(instance) == []
        process.kill()
        process.wait()
        assert fail_lost_runs(instance) == [run_id]
        assert list((tmp_path / "processes").iterdir()) == []
        assert fail_lost_runs(instance) == []


def test_a_run_that_no_server_launched_is_terminated_by_interrupting_its_process(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    with holder_of(tmp_path, "STARTED") as (process, run_id):
        assert instance.run_launcher.terminate(run_id)
        assert process.wait(30) != 0
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status == dg.DagsterRunStatus.CANCELING
    assert holder(instance, run_id) is None


def test_a_process_does_not_take_its_own_runs_for_lost(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run = started(instance, None)
    with run_lock(instance, run.run_id), run_lock(instance, run.run_id):
        assert lock_state(instance, run.run_id) == "held"
        assert fail_lost_runs(instance) == []
        monitor(instance)
    assert statuses(instance) == {run.run_id: "STARTED"}
    assert list((tmp_path / "processes").iterdir()) == []


def test_an_instance_in_memory_has_no_locks() -> None:
    with dg.DagsterInstance.ephemeral() as instance, run_lock(instance, "a run"):
        assert lock_state(instance, "a run") == "unknown"


def test_every_run_with_the_platform_is_under_a_lock_while_it_works(tmp_path: Path) -> None:
    states: list[str] = []

    @dg.asset
    def looks(context: dg.AssetExecutionContext, platform: Platform) -> None:
        states.append(lock_state(context.instance, context.run.run_id))

    platform = Platform(source=None, store=str(tmp_path / "store"), openimages=None, recipe=None)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert dg.materialize([looks], instance=instance, resources={"platform": platform}).success
        (run,) = instance.get_runs()
        assert states == ["held"]
        assert lock_state(instance, run.run_id) == "unknown"
    assert list((tmp_path / "processes").iterdir()) == []
