"""The workers' own application with two more tasks: `celery -A glr_assets_tests.infra.waiting_steps worker`."""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

from glr_assets.defs.workers import app


@app.task(name="wait")
def wait(seconds: float, execute_step_args_packed: Any) -> str:
    """A step that takes its time; by its arguments it is a step of a run, as dagster-celery sends it."""
    time.sleep(seconds)
    return "done"


@app.task(name="share")
def share() -> int:
    """What a process returns that a step starts."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return int(pool.apply(sum, ([20, 22],)))
