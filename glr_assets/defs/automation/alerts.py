"""Who is told of a failed run: the log of the daemon, and a webhook where one is set."""

from __future__ import annotations

from typing import Any

import dagster as dg

from glr_assets.defs.platform import Platform

#: Seconds that a webhook may take; a sensor's tick must not wait for a server that is away.
TIMEOUT = 5.0
#: Characters of an error that are sent: chat services cut longer ones.
LONGEST = 2000


@dg.run_failure_sensor(
    name="failed_runs",
    monitor_all_code_locations=False,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Logs each failed run with its error, and posts it to GLR_ALERT_WEBHOOK as JSON where that is set.",
)
def failed_runs(context: dg.RunFailureSensorContext, platform: Platform) -> None:
    """Tell of the run; a webhook that cannot be reached is told of in the log and fails nothing."""
    alert = alert_of(context)
    context.log.error(alert["text"])
    webhook = platform.settings().alert_webhook
    if webhook is not None:
        problem = post(webhook, alert)
        if problem:
            context.log.warning(f"GLR_ALERT_WEBHOOK: {problem}; the alert stands in this log alone")


def alert_of(context: dg.RunFailureSensorContext) -> dict[str, Any]:
    """The alert as JSON: `text` for people (the key that chat services show), and its parts for programs."""
    run = context.dagster_run
    errors = {str(event.step_key): _told(event) for event in context.get_step_failure_events()}
    # Steps have the names of their assets.
    assets = sorted(key.to_user_string() for key in run.asset_selection or ()) or sorted(errors)
    tags = {name: value for name, value in run.tags.items() if not name.startswith(".")}
    first, last = (tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end"))
    partitions = tags.get("dagster/partition") or (f"{first} to {last}" if first else None)
    what = ", ".join(assets) or run.job_name
    told = "; ".join(f"{step}: {error}" for step, error in errors.items()) or str(context.failure_event.message)
    where = f" {partitions}" if partitions else ""
    return {
        "text": f"Run {run.run_id[:8]} failed: {what}{where}: {told}"[:LONGEST],
        "run_id": run.run_id,
        "job": run.job_name,
        "assets": assets,
        "partitions": partitions,
        "asked_by": tags.get("glr/asked_by"),
        "errors": {step: error[:LONGEST] for step, error in errors.items()},
    }


def post(url: str, alert: dict[str, Any]) -> str:
    """Send the alert; returns why it was not taken, empty where it was."""
    import httpx

    try:
        httpx.post(url, json=alert, timeout=TIMEOUT).raise_for_status()
    except httpx.HTTPStatusError as error:
        return f"answered {error.response.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"cannot be reached ({type(error).__name__}: {error})"
    return ""


def _told(event: dg.DagsterEvent) -> str:
    data = event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return " ".join(error.message.split()) if error is not None else str(event.message)
