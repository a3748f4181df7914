"""Runs without a process, by real ticks and a real client of Dagster's servers."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from glr_assets.defs.automation import lost_processes
from glr_assets.defs.automation.lost_processes import LOOKS, LOST, is_gone, lost_runs


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
