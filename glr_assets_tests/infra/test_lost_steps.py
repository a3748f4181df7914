"""Steps of real workers that are killed, that hold on, and whose run is over."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from glr_assets_tests.infra.cluster import BIN, ROOT, Service, found, free_port, listens, wait_until

pytest.importorskip("dagster_celery")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    command = [found("redis-server", "redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    service = Service("redis", command, dict(os.environ), folder).start()
    wait_until(lambda: listens(port), "Redis listens")
    yield f"redis://127.0.0.1:{port}/0"
    service.stop()


@pytest.fixture(scope="module")
def app(redis: str) -> Any:
    """The client's side, with the settings of the executor."""
    from dagster_celery.executor import CeleryExecutor
    from dagster_celery.make_app import make_app

    from glr_assets.defs.executors import CELERY_SETTINGS

    executor = CeleryExecutor.for_cli(broker=redis, backend=redis, config_source=dict(CELERY_SETTINGS))
    return make_app(executor.app_args())


@pytest.fixture(scope="module")
def worker(redis: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    environment = dict(os.environ) | {"GLR_REDIS_URL": redis, "PYTHONPATH": str(ROOT)}
    command = [str(BIN / "celery"), "-A", "glr_assets_tests.infra.waiting_steps", "worker"]
    command += ["-Q", "dagster", "-n", "cpu@%h", "-c", "2"]
    service = Service("worker", command, environment, tmp_path_factory.mktemp("worker")).start()
    yield service
    service.stop(5)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture
def send(app: Any, instance: dg.DagsterInstance, worker: Service) -> Callable[..., Any]:
    """Sends a step of a run to the worker, and waits until it is at it."""
    from dagster._core.code_pointer import ModuleCodePointer
    from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
    from dagster._grpc.types import ExecuteStepArgs
    from dagster._serdes import pack_value

    def started(run: dg.DagsterRun, seconds: float) -> Any:
        repository = RepositoryPythonOrigin("python", ModuleCodePointer("glr_assets.clusters", "celery", None))
        step = ExecuteStepArgs(JobPythonOrigin("a", repository), run.run_id, ["train_images"])
        arguments = {"seconds": seconds, "execute_step_args_packed": pack_value(step)}
        result = app.send_task("wait", kwargs=arguments, queue="dagster")
        wait_until(lambda: result.state == "STARTED", f"a worker is at the step; it told {worker.told()[-2000:]}", 30)
        return result

    return started


@pytest.fixture
def watch(app: Any, instance: dg.DagsterInstance) -> Any:
    from glr_assets.defs.lost_steps import Watch

    return Watch(app, instance, lost_after=1.0)


def running(instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    return create_run_for_test(instance, status=status)


def test_a_step_that_a_worker_is_at_is_left_alone(
    watch: Any, send: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    result = send(running(instance, dg.DagsterRunStatus.STARTED), 8)
    for _ in range(2):
        assert watch.look() == ([], [])
        time.sleep(0.6)
    assert result.get(timeout=30) == "done"
    assert watch.look() == ([], [])


def test_a_step_whose_worker_was_killed_fails_by_name(
    watch: Any, send: Callable[..., Any], instance: dg.DagsterInstance, worker: Service
) -> None:
    from celery.exceptions import WorkerLostError

    result = send(running(instance, dg.DagsterRunStatus.STARTED), 600)
    worker.kill()
    assert watch.look() == ([], [])  # a worker may be away for a moment
    time.sleep(1.2)
    assert watch.look() == ([result.id], [])
    with pytest.raises(WorkerLostError, match=r"^cpu@.* ended, or cannot be reached"):
        result.get(timeout=5)
    assert watch.look() == ([], [])
    wait_until(lambda: worker.starts == 2, "its supervisor begins it again")


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.FAILURE])
def test_a_step_that_nobody_waits_for_is_ended(
    status: dg.DagsterRunStatus, watch: Any, send: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    result = send(running(instance, status), 600)
    assert watch.look() == ([], [])  # it may be ending by itself
    lost, ended = watch.look()
    assert (lost, [step.task for step in ended]) == ([], [result.id])
    wait_until(result.ready, "the step has ended", 30)
    assert watch.look() == ([], [])


def test_a_look_that_cannot_see_redis_counts_for_nothing(watch: Any, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from redis import RedisError

    app.backend.store_result("lost", {"pid": 1, "hostname": "cpu@gone"}, "STARTED")
    assert watch.look() == ([], [])
    with monkeypatch.context() as patched:
        patched.setattr(app.backend.client, "scan_iter", lambda **_: (_ for _ in ()).throw(RedisError("away")))
        with pytest.raises(RedisError):
            watch.look()
    time.sleep(1.2)
    assert watch.look() == ([], [])  # the count begins anew
    time.sleep(1.2)
    assert watch.look() == (["lost"], [])


def test_a_step_may_start_processes(app: Any, worker: Service) -> None:
    assert app.send_task("share", queue="dagster").get(timeout=60) == 42, worker.told()[-2000:]
