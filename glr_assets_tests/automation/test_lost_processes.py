"""Runs without a process, by real ticks and a real client of Dagster's servers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from glr_assets.defs.automation import lost_processes
from glr_assets.defs.automation.lost_processes import LOOKS, LOST, is_gone, lost_runs
from glr_assets.defs.process_locks import fail_lost_runs, is_lost, process_lock


def started(instance: dg.DagsterInstance, place: dict[str, object] | None) -> dg.DagsterRun:
    tags = {} if place is None else {".dagster/grpc_info": json.dumps(place)}
    return instance.add_run(dg.DagsterRun(job_name="any", status=dg.DagsterRunStatus.STARTED, tags=tags))


def look(instance: dg.DagsterInstance, cursor: str | None) -> str | None:
    with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
        return lost_runs.evaluate_tick(context).cursor


def test_a_run_whose_server_is_gone_is_failed_after_some_looks_and_others_are_left_alone(
    tmp_path: Path, free_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        killed = started(instance, {"host": "localhost", "socket": str(tmp_path / "gone")})
        elsewhere = started(instance, {"host": "127.0.0.1", "port": free_tcp_port})
        ours = started(instance, None)
        assert [is_gone(run) for run in (killed, elsewhere, ours)] == [True, True, False]
        cursor = None
        for _ in range(LOOKS - 1):
            cursor = look(instance, cursor)
            assert instance.get_run_by_id(killed.run_id).status == dg.DagsterRunStatus.STARTED  # type: ignore[union-attr]
        # A server that answers again in between is no lost one.
        with monkeypatch.context() as patch:
            patch.setattr(lost_processes, "is_gone", lambda run: run.run_id == killed.run_id)
            cursor = look(instance, cursor)
        statuses = {run.run_id: run.status for run in instance.get_runs()}
        assert statuses == {
            killed.run_id: dg.DagsterRunStatus.FAILURE,
            elsewhere.run_id: dg.DagsterRunStatus.STARTED,
            ours.run_id: dg.DagsterRunStatus.STARTED,
        }
        assert any(LOST in entry.message for entry in instance.all_logs(killed.run_id))
        assert json.loads(str(cursor)) == {}


HOLDER = """
import sys
from pathlib import Path
import dagster as dg
from glr_assets.defs.process_locks import process_lock
with dg.DagsterInstance.from_config(sys.argv[1]) as instance, process_lock(instance) as tags:
    run = dg.DagsterRun(job_name="any", status=dg.DagsterRunStatus[sys.argv[2]], tags=tags)
    print(instance.add_run(run).run_id, flush=True)
    if sys.argv[3:] == ["fork"]:
        import os
        if os.fork() == 0:  # a helper that outlives its parent
            os.setsid()
            sys.stdin.read()
    sys.stdin.read()
"""


@contextmanager
def holder(home: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process with an unfinished run, and the run's id."""
    command = [sys.executable, "-c", HOLDER, str(home), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.parametrize("arguments", [("STARTED",), ("NOT_STARTED",), ("STARTED", "fork")])
def test_the_run_of_a_killed_process_is_failed_and_that_of_a_living_one_is_not(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    with (
        dg.DagsterInstance.from_config(str(tmp_path)) as instance,
        holder(tmp_path, *arguments) as (process, run_id),
        holder(tmp_path, "STARTED") as (_, living),
    ):
        assert fail_lost_runs(instance) == []
        process.kill()
        process.wait()
        foreign = started(instance, None)
        look(instance, None)
        statuses = {run.run_id: run.status.value for run in instance.get_runs()}
        assert statuses == {run_id: "FAILURE", living: "STARTED", foreign.run_id: "STARTED"}
        assert any("was killed" in entry.message for entry in instance.all_logs(run_id))
        assert len(list((tmp_path / "processes").iterdir())) == 1
        assert fail_lost_runs(instance) == []


def test_a_process_does_not_take_its_own_runs_for_lost(tmp_path: Path) -> None:
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance, process_lock(instance) as tags:
        run = instance.add_run(dg.DagsterRun(job_name="any", status=dg.DagsterRunStatus.STARTED, tags=tags))
        assert fail_lost_runs(instance) == []
        assert not is_lost(instance, run)
    assert list((tmp_path / "processes").iterdir()) == []


def test_a_run_whose_lock_is_on_another_machine_is_left_alone(tmp_path: Path) -> None:
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        tags = {"glr/process": "0" * 32}
        instance.add_run(dg.DagsterRun(job_name="any", status=dg.DagsterRunStatus.STARTED, tags=tags))
        assert fail_lost_runs(instance) == []


def test_an_instance_in_memory_has_no_locks() -> None:
    with dg.DagsterInstance.ephemeral() as instance, process_lock(instance) as tags:
        assert tags == {}
