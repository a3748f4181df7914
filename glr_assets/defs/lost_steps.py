"""Steps that Celery lost are failed, and steps that nobody waits for any more are ended.

A worker that dies takes its step with it: with Redis as broker nobody tells the run, which would wait for ever. And a
run that is cancelled, or whose own process died, leaves its steps to their workers. This process looks at both every
few seconds: `python -m glr_assets.defs.lost_steps`, one for a deployment. A run whose step it fails is begun again by
Dagster's run retries, and what was finished is skipped there by its receipts.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import dagster as dg
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import unpack_value

PERIOD: Final = 10.0
#: Seconds for which a step must be with no worker that answers: a worker reconnects to a restarted Redis sooner.
LOST_AFTER: Final = 60.0
#: Seconds that workers have to answer; Celery waits for all of them, and for none that is dead.
ANSWER: Final = 3.0
_LOOKS: Final = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """A step that a worker is at: the task of Celery's that it is, the worker, its run."""

    task: str
    worker: str
    run: str
    keys: tuple[str, ...]

    @property
    def told(self) -> str:
        """Which step of which run, for people."""
        return f"{', '.join(self.keys)} of run {self.run[:8]}"


@dataclass
class Watch:
    """What is seen from one look to the next.

    Args:
        app: the workers' application; its result backend is Redis.
        instance: whose runs they are.
        lost_after: seconds after which a step that no worker has is failed.
    """

    app: Any
    instance: dg.DagsterInstance
    lost_after: float = LOST_AFTER
    _missing: dict[str, float] = field(default_factory=dict)
    _over_for: dict[str, int] = field(default_factory=dict)

    def look(self) -> tuple[list[str], list[Step]]:
        """Fail what is lost and end what is orphaned; returns the tasks of the first and the steps of the second.

        Raises:
            OSError, redis.RedisError, kombu.exceptions.OperationalError: Redis is away; nothing is known then.
            sqlalchemy.exc.DBAPIError, DagsterPostgresException: the instance's database is.
        """
        missing, self._missing = self._missing, {}  # a look that fails tells nothing, and the count begins anew
        # In this order: what ends meanwhile is in the first and not in the second, and is asked for once more.
        begun = dict(self._begun())
        active = list(self._active())
        now = time.monotonic()
        held = {step.task for step in active}
        self._missing = {task: missing.get(task, now) for task in begun if task not in held}
        lost = [task for task, since in self._missing.items() if now - since >= self.lost_after]
        failed = [task for task in lost if self._fail(task, begun[task])]
        # A step whose run ended a moment ago is ending too: only one that is still there at the next look is left over.
        self._over_for = {step.task: self._over_for.get(step.task, 0) + 1 for step in active if self._over(step)}
        left = [step for step in active if self._over_for.get(step.task) == _LOOKS]
        for step in left:
            self._end(step)
        return failed, left

    def _begun(self) -> Iterator[tuple[str, str]]:
        """Tasks that some worker began and none has ended, with the worker's name."""
        backend = self.app.backend
        prefix = backend.task_keyprefix
        for key in backend.client.scan_iter(match=prefix + b"*", count=1000):
            task = bytes(key).removeprefix(prefix).decode()
            worker = self._worker(task)
            if worker is not None:
                yield task, worker

    def _worker(self, task: str) -> str | None:
        """The worker that is at a task as far as its result tells; None of one that has ended or was not begun."""
        meta: Mapping[str, Any] = self.app.backend.get_task_meta(task, cache=False)
        return str(meta["result"]["hostname"]) if meta["status"] == "STARTED" else None

    def _active(self) -> Iterator[Step]:
        """What workers say that they are at; those that do not answer are not among them."""
        answers = self.app.control.inspect(timeout=ANSWER).active() or {}
        for worker, tasks in answers.items():
            for task in tasks:
                packed = task["kwargs"].get("execute_step_args_packed")
                if packed is not None:
                    step = unpack_value(packed, as_type=ExecuteStepArgs)
                    yield Step(task["id"], worker, step.run_id, tuple(step.step_keys_to_execute or ()))

    def _fail(self, task: str, worker: str) -> bool:
        from celery.exceptions import WorkerLostError

        self._missing.pop(task)
        if self._worker(task) is None:
            return False  # it ended a moment ago
        told = f"{worker} ended, or cannot be reached, while it was at this step"
        _log.error("task %s: %s: its run fails, and is begun again where retries are left", task, told)
        self.app.backend.mark_as_failure(task, WorkerLostError(told))
        return True

    def _end(self, step: Step) -> None:
        run = self.instance.get_run_by_id(step.run)
        _log.warning("%s on %s: its run is over (%s): it is ended", step.told, step.worker, run and run.status.value)
        self.app.control.revoke(step.task, terminate=True, signal=signal.SIGTERM.name)

    def _over(self, step: Step) -> bool:
        run = self.instance.get_run_by_id(step.run)
        return run is None or run.is_finished or run.status == dg.DagsterRunStatus.CANCELING


def main() -> None:
    """Look for ever; a look that cannot see Redis or the database is repeated."""
    from dagster_postgres.utils import DagsterPostgresException
    from kombu.exceptions import OperationalError
    from redis import RedisError
    from sqlalchemy.exc import DBAPIError

    from glr_assets.defs.workers import app

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    away = (RedisError, OperationalError, OSError, DBAPIError, DagsterPostgresException)
    with dg.DagsterInstance.get() as instance:
        watch = Watch(app, instance)
        while True:
            try:
                watch.look()
            except away as error:
                _log.warning("cannot look: %s", error)
            time.sleep(PERIOD)


if __name__ == "__main__":
    main()
