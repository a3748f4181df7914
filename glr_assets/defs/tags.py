"""Tags of runs: those that Dagster documents, for partitions, ranges and retries, and this platform's own."""

from collections.abc import Mapping
from typing import Final

PARTITION: Final = "dagster/partition"
RANGE_START: Final = "dagster/asset_partition_range_start"
RANGE_END: Final = "dagster/asset_partition_range_end"
MAX_RETRIES: Final = "dagster/max_retries"
RETRY_ON_FAILED_STEPS: Final = "dagster/retry_on_asset_or_op_failure"
BACKFILL: Final = "dagster/backfill"
#: Set by Dagster on a failed run that it begins again by itself.
WILL_RETRY: Final = "dagster/will_retry"
#: Of a job that writes nothing to the store, not even the settings of its run.
READ_ONLY: Final = "glr/read_only"
SCHEDULE: Final = "dagster/schedule_name"
SENSOR: Final = "dagster/sensor_name"
USER: Final = "user"
#: Who requested a run: a schedule, a sensor, a user, `glr demo`. A launcher's backfill hands it on to its runs.
ASKED_BY: Final = "glr/asked_by"
#: The run of a launcher that started the backfill.
LAUNCHED_BY_RUN: Final = "glr/launched_by_run"
#: The job that started a backfill: its runs are those of asset jobs.
JOB: Final = "glr/job"
#: The first run of those that one command makes, as `glr demo`.
FIRST_RUN: Final = "glr/first_run"
BY_HAND: Final = "by hand"


def asked_by(run_tags: Mapping[str, str]) -> str:
    """Who requested a run, by its tags: what it says itself, else the schedule, sensor or user that launched it."""
    if ASKED_BY in run_tags:
        return run_tags[ASKED_BY]
    for kind, tag in (("schedule", SCHEDULE), ("sensor", SENSOR), ("user", USER)):
        if tag in run_tags:
            return f"{kind} {run_tags[tag]}"
    return BY_HAND
