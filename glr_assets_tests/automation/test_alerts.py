"""Failed runs are told of: in the log, and to a real HTTP server."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from glr_assets.defs.automation import alerts
from glr_assets.defs.automation.alerts import failed_runs
from glr_assets.defs.platform import Platform


class Listener(http.server.ThreadingHTTPServer):
    """Keeps what is posted to it, and answers as told."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.status = 204
        listener = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/json"
                listener.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(listener.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@dg.asset
def train_images() -> None:
    raise dg.Failure("1 of 25 shards failed: 007: images_007.tar: MD5 is 00, expected 11")


@dg.asset
def other() -> None:
    pass


def told(instance: dg.DagsterInstance) -> dg.RunFailureSensorContext:
    tags = {"glr/asked_by": "ingest_new_shards", ".dagster/repository": "hidden", "dagster/partition": "007"}
    failing = dg.AssetSelection.assets("train_images")
    result = dg.materialize(
        [train_images, other], selection=failing, instance=instance, tags=tags, raise_on_error=False
    )
    (event,) = (found for found in result.all_events if found.event_type_value == "PIPELINE_FAILURE")
    return dg.build_run_status_sensor_context(
        sensor_name="failed_runs", dagster_instance=instance, dagster_run=result.dagster_run, dagster_event=event
    ).for_run_failure()


def test_a_failed_run_is_posted_with_its_assets_shard_and_error(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLR_ALERT_WEBHOOK", listener.url)
    with dg.DagsterInstance.ephemeral() as instance:
        context = told(instance)
        failed_runs(context, platform=Platform(source=None, store=None, recipe=None))
        run_id = context.dagster_run.run_id
    (posted,) = listener.posted
    assert posted["run_id"] == run_id
    assert posted["assets"] == ["train_images"]
    assert posted["partitions"] == "007"
    assert posted["asked_by"] == "ingest_new_shards"
    assert "images_007.tar: MD5 is 00" in posted["errors"]["train_images"]
    assert posted["text"].startswith(f"Run {run_id[:8]} failed: train_images 007: train_images: 1 of 25 shards failed")


def test_a_webhook_that_refuses_hangs_or_is_away_fails_no_tick(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int
) -> None:
    monkeypatch.setattr(alerts, "TIMEOUT", 0.3)
    away = f"http://127.0.0.1:{free_tcp_port}/hook"
    listener.status = 500
    assert alerts.post(listener.url, {"text": "x"}) == "answered 500"
    assert "ConnectError" in alerts.post(away, {"text": "x"})
    assert "cannot be reached" in alerts.post("no url", {"text": "x"})
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as silent:
        assert "ReadTimeout" in alerts.post(f"http://127.0.0.1:{silent.server_address[1]}/", {"text": "x"})
    monkeypatch.setenv("GLR_ALERT_WEBHOOK", away)
    with dg.DagsterInstance.ephemeral() as instance:
        failed_runs(told(instance), platform=Platform(source=None, store=None, recipe=None))


def test_without_a_webhook_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise AssertionError("posted")

    monkeypatch.setattr(alerts, "post", refuse)
    with dg.DagsterInstance.ephemeral() as instance:
        failed_runs(told(instance), platform=Platform(source=None, store=None, recipe=None))


def test_a_run_without_steps_is_told_of_by_its_event() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.DagsterRun(job_name="everything", status=dg.DagsterRunStatus.STARTED)
        instance.add_run(run)
        event = instance.report_run_failed(run, "the process was lost")
        context = dg.build_run_status_sensor_context(
            sensor_name="failed_runs", dagster_instance=instance, dagster_run=run, dagster_event=event
        ).for_run_failure()
        alert = alerts.alert_of(context)
    assert "everything" in alert["text"]
    assert "the process was lost" in alert["text"]
    assert alert["errors"] == {}
