"""Failed runs, checks, ticks and backfills of this code location, read from the instance since a position."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.scheduler.instigation import InstigatorState, InstigatorType, TickStatus
from pydantic import BaseModel

from glr_assets.defs import tags
from glr_assets.defs.error_messages import error_message

#: Ended runs that one tick reads, of each outcome. The rest waits for the next tick.
MAX_RUNS: Final = 100
#: Failed ticks read of one sensor or schedule, and failed backfills, at a time.
MAX_READ: Final = 20
#: A tick is stored by its beginning and fails later: so many seconds before the last look are read again.
OVERLAP: Final = 600.0
_FAILED_CHECK: Final = "DagsterAssetCheckFailedError"
#: Digits and digests differ between the shards of a backfill that fail for one reason.
_VARIABLE: Final = re.compile(r"\b[0-9a-f]{8,}\b|\d+")


class Position(BaseModel):
    """How far the instance has been read.

    Attributes:
        failed: storage id of the last failure of a run.
        succeeded: storage id of the last success of a run.
        at: seconds since the epoch; ticks and backfills until then have been read.
    """

    failed: int = 0
    succeeded: int = 0
    at: float = 0.0


@dataclass(frozen=True)
class Failure:
    """One failure to alert on.

    Attributes:
        kind: run, check, tick or backfill.
        subject: what failed, as a phrase.
        message: why, in one line.
        path: its page in the UI, from the root of the webserver.
        key: equal for failures that are one alert.
        severity: error or warning.
        details: further fields of the alert, for programs.
    """

    kind: str
    subject: str
    message: str
    path: str
    key: tuple[str, ...]
    severity: str = "error"
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CodeLocation:
    """A code location and its repository by name; None of both matches every run, as in tests without a workspace."""

    location: str | None
    repository: str | None

    @classmethod
    def of(cls, context: dg.SensorEvaluationContext) -> CodeLocation:
        """The code location of the sensor."""
        origin = context.code_location_origin
        return cls(origin.location_name if origin else None, context.repository_name)

    def holds(self, origin: Any) -> bool:
        """Whether a repository's origin is this one; runs without an origin were launched by a process of their own."""
        if self.location is None or origin is None:
            return origin is None and self.location is None
        found = (origin.code_location_origin.location_name, origin.repository_name)
        return found == (self.location, self.repository)


def latest_position(instance: dg.DagsterInstance, now: float) -> Position:
    """The position behind everything that has happened."""

    def latest(kind: dg.DagsterEventType) -> int:
        records = instance.fetch_run_status_changes(kind, limit=1).records
        return records[0].storage_id if records else 0

    return Position(
        failed=latest(dg.DagsterEventType.RUN_FAILURE), succeeded=latest(dg.DagsterEventType.RUN_SUCCESS), at=now
    )


def read_failures(
    instance: dg.DagsterInstance, position: Position, now: float, home: CodeLocation
) -> tuple[list[Failure], Position]:
    """Everything of a code location that failed since a position, oldest first, and the position behind it."""
    failed_runs, failed_at = _ended(instance, dg.DagsterEventType.RUN_FAILURE, position.failed, home)
    good_runs, succeeded_at = _ended(instance, dg.DagsterEventType.RUN_SUCCESS, position.succeeded, home)
    found = [
        *_of_failed_runs(instance, failed_runs),
        *(failure for run, _ in good_runs for failure in _of_checks(run, failed_checks(instance, run.run_id))),
        *_of_ticks(instance, position.at - OVERLAP, home),
        *_of_backfills(instance, position.at),
    ]
    return found, Position(failed=failed_at, succeeded=succeeded_at, at=now)


def _ended(
    instance: dg.DagsterInstance, kind: dg.DagsterEventType, after: int, home: CodeLocation
) -> tuple[list[tuple[dg.DagsterRun, dg.DagsterEvent]], int]:
    records = instance.fetch_run_status_changes(
        dg.RunStatusChangeRecordsFilter(event_type=kind, after_storage_id=after),  # type: ignore[arg-type]
        limit=MAX_RUNS,
        ascending=True,
    ).records
    ids = sorted({record.event_log_entry.run_id for record in records})
    runs = {run.run_id: run for run in instance.get_runs(filters=dg.RunsFilter(run_ids=ids))} if ids else {}
    ended = []
    for record in records:
        run, event = runs.get(record.event_log_entry.run_id), record.event_log_entry.dagster_event
        origin = run.remote_job_origin.repository_origin if run is not None and run.remote_job_origin else None
        if run is not None and event is not None and home.holds(origin):
            ended.append((run, event))
    return ended, max((record.storage_id for record in records), default=after)


def _of_failed_runs(
    instance: dg.DagsterInstance, ended: Sequence[tuple[dg.DagsterRun, dg.DagsterEvent]]
) -> Iterator[Failure]:
    """One failure a run, and warnings of its checks; none of a run that was canceled or that Dagster begins again."""
    for run, event in ended:
        evaluations = failed_checks(instance, run.run_id)
        yield from _of_checks(run, [found for found in evaluations if found.severity == dg.AssetCheckSeverity.WARN])
        if run.tags.get(tags.WILL_RETRY) == "true" or run.status == dg.DagsterRunStatus.CANCELED:
            continue
        errors = step_errors(instance, run.run_id)
        for found in evaluations:
            if found.severity == dg.AssetCheckSeverity.ERROR:
                errors[f"{found.asset_key.to_user_string()}: check {found.check_name}"] = problem_of(found)
        yield _of_run(run, errors, str(event.message))


def _of_run(run: dg.DagsterRun, errors: Mapping[str, str], message: str) -> Failure:
    given = {name: value for name, value in run.tags.items() if not name.startswith(".")}
    # Steps have the names of their assets.
    assets = sorted(key.to_user_string() for key in run.asset_selection or ()) or sorted(errors)
    first, last = given.get(tags.RANGE_START), given.get(tags.RANGE_END)
    partitions = given.get(tags.PARTITION) or (first if first == last else f"{first} to {last}")
    told = "; ".join(f"{step}: {error}" for step, error in errors.items()) or message
    what = (", ".join(assets) or run.job_name) + (f" {partitions}" if partitions else "")
    backfill = given.get(tags.BACKFILL)
    return Failure(
        kind="run",
        subject=f"Run {run.run_id[:8]} failed: {what}",
        message=told,
        path=f"/runs/{run.run_id}",
        key=(backfill, _VARIABLE.sub("#", told))
        if backfill
        else (run.job_name, *sorted(errors), str(partitions), told),
        details={
            "run_id": run.run_id,
            "job": run.job_name,
            "assets": assets,
            "partitions": partitions,
            "backfill": backfill,
            "requested_by": tags.asked_by(given),
            "errors": dict(errors),
        },
    )


def step_errors(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    """By failed step its error in one line; a step that failed only because of a check is left to the check."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    errors: dict[str, str] = {}
    for record in records:
        event = record.event_log_entry.dagster_event
        if event is None:
            continue
        data = event.step_failure_data
        if data.error is not None and data.error.cls_name == _FAILED_CHECK:
            continue
        described = data.user_failure_data.description if data.user_failure_data is not None else None
        errors[str(event.step_key)] = described or error_message(data.error) or str(event.message)
    return errors


def failed_checks(instance: dg.DagsterInstance, run_id: str) -> list[dg.AssetCheckEvaluation]:
    """The evaluations of a run that did not pass."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    events = [event for record in records if (event := record.event_log_entry.dagster_event) is not None]
    found = [event.asset_check_evaluation_data for event in events]
    return [evaluation for evaluation in found if not evaluation.passed]


def problem_of(evaluation: dg.AssetCheckEvaluation) -> str:
    """What a check found, in one line."""
    values = [
        entry.value
        for name, entry in evaluation.metadata.items()
        if name.startswith("problem") and entry.value not in ("none", [], "")
    ]
    told = "; ".join(", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in values)
    return " ".join((told or evaluation.description or "did not pass").split())


def _of_checks(run: dg.DagsterRun, evaluations: Iterable[dg.AssetCheckEvaluation]) -> Iterator[Failure]:
    """One failure a check, whatever number of partitions it did not pass for."""
    by_check: dict[tuple[str, str], list[dg.AssetCheckEvaluation]] = {}
    for evaluation in evaluations:
        by_check.setdefault((evaluation.asset_key.to_user_string(), evaluation.check_name), []).append(evaluation)
    for (asset, check), found in by_check.items():
        problem = problem_of(found[0])
        partitions = [evaluation.partition for evaluation in found if evaluation.partition]
        where = f" of {', '.join(partitions[:5])}" if partitions else ""
        more = f" and {len(partitions) - 5} more" if len(partitions) > 5 else ""
        is_error = any(evaluation.severity == dg.AssetCheckSeverity.ERROR for evaluation in found)
        yield Failure(
            kind="check",
            subject=f"Check {check} of {asset} {'failed' if is_error else 'warns'}{where}{more}",
            message=problem,
            path=f"/assets/{'/'.join(found[0].asset_key.path)}?view=checks&checkDetail={check}",
            key=("check", asset, check, problem),
            severity="error" if is_error else "warning",
            details={"run_id": run.run_id, "assets": [asset], "check": check, "partitions": partitions},
        )


def _of_ticks(instance: dg.DagsterInstance, after: float, home: CodeLocation) -> Iterator[Failure]:
    """One failure an error, whatever number of sensors and schedules it stops."""
    by_message: dict[str, list[InstigatorState]] = {}
    for state in instance.all_instigator_state():
        origin = state.origin.repository_origin
        if home.location is not None and not home.holds(origin):
            continue
        ticks = instance.get_ticks(
            state.instigator_origin_id, state.selector_id, after=after, limit=MAX_READ, statuses=[TickStatus.FAILURE]
        )
        for message in dict.fromkeys(error_message(tick.error) or "no error was recorded" for tick in ticks):
            by_message.setdefault(message, []).append(state)
    for message, found in by_message.items():
        states = sorted(found, key=lambda state: state.instigator_name)
        names = [state.instigator_name for state in states]
        first = states[0].origin.repository_origin
        place = f"{first.repository_name}@{first.code_location_origin.location_name}"
        kind = "sensors" if states[0].instigator_type == InstigatorType.SENSOR else "schedules"
        yield Failure(
            kind="tick",
            subject=f"{'Ticks' if len(names) > 1 else 'Tick'} failed: {', '.join(names)}",
            message=message,
            path=f"/locations/{place}/{kind}/{states[0].instigator_name}",
            key=("tick", message),
            details={"instigators": names},
        )


def _of_backfills(instance: dg.DagsterInstance, after: float) -> Iterator[Failure]:
    """Backfills that the daemon gave up; failed runs of a backfill are failures of their own."""
    filters = BulkActionsFilter(statuses=[BulkActionStatus.FAILED])
    for backfill in reversed(instance.get_backfills(filters=filters, limit=MAX_READ)):
        if (backfill.backfill_end_timestamp or 0.0) > after:
            yield Failure(
                kind="backfill",
                subject=f"Backfill {backfill.backfill_id} failed",
                message=error_message(backfill.error) or "no error was recorded",
                path=f"/runs/b/{backfill.backfill_id}",
                key=("backfill", backfill.backfill_id),
                details={
                    "backfill": backfill.backfill_id,
                    "assets": [key.to_user_string() for key in backfill.asset_selection or ()],
                },
            )
