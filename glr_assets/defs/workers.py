"""The application of Celery's workers: `celery -A glr_assets.defs.workers worker -Q dagster`, or `-Q gpu`.

It is dagster-celery's own, with the settings that the executor has, and the broker of the environment.
"""

from __future__ import annotations

import os
from multiprocessing import process
from typing import Any

from celery.signals import worker_process_init
from dagster_celery.app import app

from glr_assets.defs.executors import CELERY_SETTINGS, REDIS_VARIABLE
from glr_assets.errors import SettingsError

if not os.environ.get(REDIS_VARIABLE):
    raise SettingsError(
        f"{REDIS_VARIABLE} is not set: a worker takes its work from there, e.g. redis://127.0.0.1:6379/0"
    )
app.conf.update(CELERY_SETTINGS, broker_url=os.environ[REDIS_VARIABLE], result_backend=os.environ[REDIS_VARIABLE])

__all__ = ["app"]
_MAIN = process.current_process()


@worker_process_init.connect
def _may_have_children(**_: Any) -> None:
    """Let steps start processes, as a training does that is shared by several.

    Celery's own fork of multiprocessing makes its processes known to the standard library as daemons, which may start
    none, with keys that the standard library refuses to hand on. To it this one is made a main process again.
    """
    process._current_process = _MAIN  # type: ignore[attr-defined]
