"""How the steps of a run reach other machines: as tasks of Celery's workers, or as pods of Kubernetes.

What belongs here: executors and what they are told. Where a step goes is told by its asset's tags (`conventions`);
what finds steps whose worker died is `lost_steps`. Which of these a code location has is chosen by the module that
is loaded, never by the environment: `glr_assets.definitions` has Dagster's own, `glr_assets.clusters` these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import dagster as dg

#: The environment variable with the URL of the Redis that brings tasks to workers and results back.
REDIS_VARIABLE: Final = "GLR_REDIS_URL"
#: The queue of a step whose asset names none, as dagster-celery calls it.
DEFAULT_QUEUE: Final = "dagster"

#: Redis may be away for minutes, as while it restarts: a task is sent again so often before its run fails.
_SENDING = {"max_retries": 60, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 5.0}

#: Settings of Celery (https://docs.celeryq.dev/en/stable/userguide/configuration.html), the same on both sides.
CELERY_SETTINGS: Final[Mapping[str, Any]] = {
    "task_default_queue": DEFAULT_QUEUE,
    "task_default_priority": 5,
    # A result names the worker that is at it, so that `lost_steps` knows whose died.
    "task_track_started": True,
    # A worker takes no task that it cannot begin: one that waits behind a training would wait for days.
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    # A process is left after so many steps, and what libraries keep of memory with it.
    "worker_max_tasks_per_child": 20,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # Tasks are acknowledged when they begin, so this is the time that one is on its way to a worker, not of its work.
    "broker_transport_options": {"visibility_timeout": 300, **_SENDING},
    "task_publish_retry_policy": _SENDING,
    # Whoever waits for a result waits for Redis too.
    "result_backend_always_retry": True,
    # Longer than any step: what is known of one that runs must not expire.
    "result_expires": 30 * 24 * 3600,
}


def celery() -> dg.ExecutorDefinition:
    """Each step a task in the queue that its asset's tag `dagster-celery/queue` names; needs the extra `cluster`."""
    from dagster_celery import celery_executor

    redis = {"env": REDIS_VARIABLE}
    config = {"broker": redis, "backend": redis, "config_source": dict(CELERY_SETTINGS)}
    return celery_executor.configured(config, name="celery")


def kubernetes() -> dg.ExecutorDefinition:
    """Each step a pod with what its asset's tag `dagster-k8s/config` asks for; needs the extra `cluster`."""
    from dagster_k8s import k8s_job_executor

    return k8s_job_executor.configured({"retries": {"enabled": {}}}, name="k8s")
