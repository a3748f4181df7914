"""Runs whose process is gone, as after a power cut or a restarted code server, are failed.

Dagster's own monitoring does not ask after the processes of the default launcher: such a run would stand as started for
ever, and whatever waits for it with it. The server that started a run knows whether it still runs. A failed run is
begun again by Dagster's run retries, and finds what was finished by its receipts. Of a run that no server started, as
those of `glr demo`, the lock of its process tells.
"""

from __future__ import annotations

import json

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

from glr_assets.defs.process_locks import LOST as LOST_LOCK
from glr_assets.defs.process_locks import fail_lost_runs

#: Seconds that the server of a run has to answer.
ANSWER = 5
#: Looks in a row that must find no process.
LOOKS = 3
_AT_WORK = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
LOST = "Its process is gone: the machine or the code server that ran it was restarted or killed."


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Fails runs whose process is gone, so that they are begun again and nothing waits for them.",
)
def lost_runs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Fail a run that several looks in a row found without a process: a server may be slow, and a run may just end.

    A lock that nobody holds leaves no doubt, so such a run is failed at once.
    """
    for run_id in fail_lost_runs(context.instance):
        context.log.error(f"run {run_id[:8]}: {LOST_LOCK}")
    looks: dict[str, int] = json.loads(context.cursor or "{}")
    runs = context.instance.get_runs(filters=dg.RunsFilter(statuses=_AT_WORK))
    gone = {run.run_id: looks.get(run.run_id, 0) + 1 for run in runs if is_gone(run)}
    lost = [run for run in runs if gone.get(run.run_id, 0) >= LOOKS]
    for run in lost:
        context.instance.report_run_failed(run, LOST)
        context.log.error(f"run {run.run_id[:8]}: {LOST}")
        del gone[run.run_id]
    told = f"{len(lost)} runs were failed" if lost else f"{len(gone)} of {len(runs)} runs answered for by no process"
    return dg.SensorResult(skip_reason=told, cursor=json.dumps(gone))


def is_gone(run: dg.DagsterRun) -> bool:
    """Whether the server that started a run does not answer, or does not know it any more.

    False of runs that no such server started: those of `glr demo`, of Kubernetes, of Celery.
    """
    place = json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))
    if not place:
        return False
    client = DagsterGrpcClient(
        host=place.get("host"),
        port=place.get("port"),
        socket=place.get("socket"),
        use_ssl=bool(place.get("use_ssl")),
    )
    try:
        answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id), timeout=ANSWER)
    except DagsterUserCodeUnreachableError:
        return True
    return not deserialize_value(answer, CanCancelExecutionResult).can_cancel
