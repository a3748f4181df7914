"""Dagster's default launcher of runs, which also tells whether the process of a run is alive.

Dagster's run monitoring fails started runs whose process is gone, but asks only launchers that know, and the default
launcher does not. `dagster.yaml` names this one instead.
"""

from __future__ import annotations

import os
import signal
import time

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

from glr_assets.defs.process_locks import LOST, holder, lock_state

#: Seconds that the code server of a run has to answer, and how often it is asked: a busy server is no dead one.
ANSWER = 5
TRIES = 3
PAUSE = 2.0
GONE = "The code server that ran it does not answer, or was restarted and does not have it."


class MonitoredRunLauncher(DefaultRunLauncher):
    """Launches runs by the code server, and tells run monitoring whether their processes are alive.

    The lock of a run's process decides where it is on this machine. Elsewhere the code server that launched the run is
    asked.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True: run monitoring calls `check_run_worker_health`."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """FAILED where the process of a run is gone; RUNNING otherwise, also where nothing is known of it."""
        state = lock_state(self._instance, run.run_id)
        if state == "released":
            return CheckRunHealthResult(WorkerStatus.FAILED, LOST)
        if state == "held" or self._is_served(run.run_id, TRIES):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, GONE)

    def terminate(self, run_id: str) -> bool:
        """End a run by its code server; one that no server has, as of `glr demo`, by interrupting its process."""
        run = self._instance.get_run_by_id(run_id)
        process = None if run is None or run.is_finished else holder(self._instance, run_id)
        if run is None or process is None or self._is_served(run_id, 1, unknown=False):
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        self._instance.report_run_canceling(run)
        os.kill(process, signal.SIGINT)
        return True

    def _is_served(self, run_id: str, tries: int, unknown: bool = True) -> bool:
        """Whether the code server of a run answers that it has it; `unknown` where no server launched it."""
        client = self._get_grpc_client_for_termination(run_id)  # type: ignore[no-untyped-call]
        if client is None:
            return unknown
        for number in range(tries):
            time.sleep(PAUSE if number else 0)
            try:
                answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run_id), timeout=ANSWER)
            except DagsterUserCodeUnreachableError:
                continue
            return bool(deserialize_value(answer, CanCancelExecutionResult).can_cancel)
        return False
