"""Alerts on failed runs, checks, ticks and backfills: in the daemon's log, and to a webhook where one is set."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from typing import Any, Final

import dagster as dg
from pydantic import BaseModel, Field, ValidationError

from glr_assets.defs.automation.failures import CodeLocation, Failure, Position, latest_position, read_failures
from glr_assets.redaction import redact
from glr_assets.settings import AlertSettings

#: Seconds that a webhook may take; a sensor's tick must not wait for a server that is away.
TIMEOUT: Final = 5.0
#: Characters of an alert's text: chat services cut longer ones.
LONGEST: Final = 2000
#: Seconds for which an alert is not repeated.
QUIET: Final = 86_400.0
#: Alerts that are remembered; of more the oldest are repeated.
MAX_REMEMBERED: Final = 100


class Memory(BaseModel):
    """The cursor of `failure_alerts`.

    Attributes:
        position: how far the instance has been read.
        sent: by an alert's fingerprint the time in seconds since the epoch at which it was first seen.
        pending: fingerprints of alerts that are in the log and that the webhook has not taken yet.
    """

    position: Position
    sent: dict[str, int] = Field(default_factory=dict)
    pending: list[str] = Field(default_factory=list)


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="One alert for each failed run, check, tick and backfill: in this sensor's log, and to "
    "GLR_ALERT_WEBHOOK as JSON where that is set. The same failure is not repeated for a day.",
)
def failure_alerts(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Alert on what failed since the last tick; a webhook that is away fails nothing, and is tried again each tick."""
    now = time.time()
    memory = _memory(context.cursor)
    if memory is None:
        begun = Memory(position=latest_position(context.instance, now))
        return dg.SensorResult(skip_reason="alerts begin now", cursor=begun.model_dump_json())
    settings = AlertSettings()
    failures, position = read_failures(context.instance, memory.position, now, CodeLocation.of(context))
    sent = {mark: at for mark, at in memory.sent.items() if now - at < QUIET}
    pending: list[str] = []
    reached = True
    for failure in failures:
        mark = _fingerprint(failure)
        if mark in sent and mark not in memory.pending:
            continue
        alert = alert_of(failure, settings.dagster_url)
        if mark not in sent:
            log = context.log.error if failure.severity == "error" else context.log.warning
            log(alert["text"])
            sent[mark] = int(now)
        if mark in pending or settings.alert_webhook is None:
            continue
        problem = post(settings.alert_webhook, alert) if reached else "not tried"
        if problem:
            pending.append(mark)
            if reached:
                context.log.warning(f"GLR_ALERT_WEBHOOK: {problem}; the alert is sent again with the next tick")
            reached = False
    kept = dict(sorted(sent.items(), key=lambda item: item[1])[-MAX_REMEMBERED:])
    # What the webhook has not taken is read again, from where it was read.
    after = Memory(position=memory.position if pending else position, sent=kept, pending=pending)
    told = f"{len(failures)} failures read, {len(pending)} alerts are not sent yet"
    return dg.SensorResult(skip_reason=told, cursor=after.model_dump_json())


def alert_of(failure: Failure, dagster_url: str | None) -> dict[str, Any]:
    """The alert as JSON: `text` for people (the key that chat services show), `url`, and its parts for programs.

    Args:
        failure: what failed.
        dagster_url: root of the webserver; None: `url` and the link in `text` are paths below it.
    """
    url = f"{(dagster_url or '').rstrip('/')}{failure.path}"
    room = LONGEST - len(url) - 1
    text = redact(f"{failure.subject}: {failure.message}")
    details = {name: _cut(value) for name, value in failure.details.items()}
    return {
        "text": f"{_shortened(text, room)} {url}",
        "kind": failure.kind,
        "severity": failure.severity,
        "message": _shortened(redact(failure.message), LONGEST),
        "url": url,
    } | details


def post(url: str, alert: dict[str, Any]) -> str:
    """Send the alert; returns why it was not taken, empty where it was."""
    import httpx

    try:
        httpx.post(url, json=alert, timeout=TIMEOUT).raise_for_status()
    except httpx.HTTPStatusError as error:
        return f"answered {error.response.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return redact(f"cannot be reached ({type(error).__name__}: {error})")
    return ""


def _memory(cursor: str | None) -> Memory | None:
    """The memory in a cursor; None of a sensor that has not run yet, or whose cursor is of another version."""
    try:
        return Memory.model_validate_json(cursor) if cursor else None
    except ValidationError:
        return None


def _fingerprint(failure: Failure) -> str:
    return hashlib.sha256("\0".join((failure.kind, *failure.key)).encode()).hexdigest()[:12]


def _shortened(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _cut(value: Any) -> Any:
    """Texts of a detail, without secrets and not longer than a chat service shows."""
    if isinstance(value, str):
        return _shortened(redact(value), LONGEST)
    if isinstance(value, dict):
        return {name: _cut(part) for name, part in value.items()}
    return [_cut(part) for part in value] if isinstance(value, Iterable) else value
