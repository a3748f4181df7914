"""Failed runs, checks, ticks and backfills are alerted on: in the log, and to a real HTTP server."""

from __future__ import annotations

import http.server
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.test_utils import create_test_daemon_workspace_context, freeze_time
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._time import get_current_datetime

from glr_assets.defs.automation import alerts as sending
from glr_assets.defs.automation.alerts import LONGEST, QUIET, Memory, failure_alerts
from glr_assets.defs.automation.failures import CodeLocation


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
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Ticks:
    """Ticks of the sensor `failure_alerts`, each with the cursor of the one before it."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None
        self.tick()

    def tick(self) -> None:
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            self.cursor = failure_alerts.evaluate_tick(context).cursor

    def later(self, seconds: float) -> None:
        """Let the memory be older, as if so much time had passed since."""
        memory = Memory.model_validate_json(str(self.cursor))
        aged = {mark: int(at - seconds) for mark, at in memory.sent.items()}
        self.cursor = memory.model_copy(update={"sent": aged}).model_dump_json()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as opened:
        yield opened


@pytest.fixture
def ticks(instance: dg.DagsterInstance, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> Ticks:
    monkeypatch.setenv("GLR_ALERT_WEBHOOK", listener.url)
    monkeypatch.setenv("GLR_DAGSTER_URL", "https://dagster.example.org/glr/")
    return Ticks(instance)


def run(
    instance: dg.DagsterInstance,
    error: str | None,
    *,
    checks: Mapping[str, dg.AssetCheckResult] | None = None,
    blocking: bool = False,
    **tags: str,
) -> dg.DagsterRun:
    """A run of `train_images` that fails with this error, or ends well, with checks of these results."""

    @dg.asset
    def train_images() -> None:
        if error is not None:
            raise dg.Failure(error)

    def check(name: str, result: dg.AssetCheckResult) -> dg.AssetChecksDefinition:
        @dg.asset_check(asset=train_images, name=name, blocking=blocking)
        def found() -> dg.AssetCheckResult:
            return result

        return found

    return dg.materialize(
        [train_images, *(check(name, result) for name, result in (checks or {}).items())],
        instance=instance,
        tags={name.replace("__", "/"): value for name, value in tags.items()},
        raise_on_error=False,
    ).dagster_run


def test_a_failed_run_is_sent_once_with_its_assets_shard_error_and_link(
    ticks: Ticks, instance: dg.DagsterInstance, listener: Listener
) -> None:
    failed = run(
        instance,
        "1 of 25 shards failed: 007: images_007.tar: MD5 is 00, expected 11",
        glr__asked_by="nightly",
        dagster__partition="007",
    )
    ticks.tick()
    ticks.tick()
    (posted,) = listener.posted
    assert posted["kind"] == "run"
    assert posted["run_id"] == failed.run_id
    assert posted["assets"] == ["train_images"]
    assert posted["partitions"] == "007"
    assert posted["requested_by"] == "nightly"
    assert "images_007.tar: MD5 is 00" in posted["errors"]["train_images"]
    assert posted["url"] == f"https://dagster.example.org/glr/runs/{failed.run_id}"
    assert posted["text"].startswith(f"Run {failed.run_id[:8]} failed: train_images 007: train_images: 1 of 25 shards")
    assert posted["text"].endswith(posted["url"])


@pytest.mark.parametrize(("last", "named"), [("007", "007"), ("009", "007 to 009")])
def test_a_range_of_one_partition_is_named_as_that_one(
    ticks: Ticks, instance: dg.DagsterInstance, listener: Listener, last: str, named: str
) -> None:
    ends = {"start": "007", "end": last}
    run(instance, "access denied", **{f"dagster__asset_partition_range_{end}": key for end, key in ends.items()})
    ticks.tick()
    (posted,) = listener.posted
    assert posted["partitions"] == named
    assert f" failed: train_images {named}: " in posted["text"]


def test_history_from_before_the_first_tick_is_not_alerted_on(
    instance: dg.DagsterInstance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLR_ALERT_WEBHOOK", listener.url)
    run(instance, "an old one")
    ticks = Ticks(instance)
    ticks.tick()
    assert listener.posted == []
    run(instance, None)
    ticks.tick()
    assert listener.posted == []


def test_runs_of_a_backfill_that_fail_for_one_reason_are_one_alert(
    ticks: Ticks, instance: dg.DagsterInstance, listener: Listener
) -> None:
    for shard in range(3):
        run(instance, f"{shard:03}: s3://bucket/images_{shard:03}.tar: access denied", dagster__backfill="abcdefgh")
    run(instance, "005: its MD5 is not published", dagster__backfill="abcdefgh")
    ticks.tick()
    run(instance, "006: s3://bucket/images_006.tar: access denied", dagster__backfill="abcdefgh")
    ticks.tick()
    assert [alert["message"].partition(": ")[2] for alert in listener.posted] == [
        "000: s3://bucket/images_000.tar: access denied",
        "005: its MD5 is not published",
    ]
    run(instance, "000: s3://bucket/images_000.tar: access denied", dagster__backfill="ijklmnop")
    ticks.tick()
    assert len(listener.posted) == 3


def test_a_failure_that_repeats_is_sent_again_after_a_day_and_when_it_changes(
    ticks: Ticks, instance: dg.DagsterInstance, listener: Listener
) -> None:
    for _ in range(3):
        run(instance, "no space left")
        ticks.tick()
    assert len(listener.posted) == 1
    run(instance, "permission denied")
    ticks.tick()
    assert len(listener.posted) == 2
    ticks.later(QUIET + 1)
    run(instance, "no space left")
    ticks.tick()
    assert len(listener.posted) == 3


def test_a_run_that_dagster_begins_again_is_not_alerted_on(
    ticks: Ticks, instance: dg.DagsterInstance, listener: Listener
) -> None:
    run(instance, "the machine was lost", dagster__will_retry="true")
    run(instance, "the machine was lost for good", dagster__will_retry="false")
    ticks.tick()
    assert [alert["errors"] for alert in listener.posted] == [{"train_images": "the machine was lost for good"}]


def test_a_canceled_run_is_no_alert(ticks: Ticks, instance: dg.DagsterInstance, listener: Listener) -> None:
    instance.report_run_canceled(run(instance, "the execution was interrupted"))
    ticks.tick()
    assert listener.posted == []


def test_failed_checks_are_alerts_of_their_severity_and_passed_ones_are_none(
    ticks: Ticks, instance: dg.DagsterInstance, listener: Listener
) -> None:
    checks = {
        "no_image_failed": dg.AssetCheckResult(
            passed=False, severity=dg.AssetCheckSeverity.WARN, metadata={"problem": "train: 2 images", "count": 2}
        ),
        "schema": dg.AssetCheckResult(passed=False, metadata={"problems": ["no column id", "no column url"]}),
        "holds": dg.AssetCheckResult(passed=True, metadata={"problem": "none"}),
    }
    run(instance, None, checks=checks)
    ticks.tick()
    run(instance, None, checks=checks)
    ticks.tick()
    by_check = {alert["check"]: alert for alert in listener.posted}
    assert len(listener.posted) == 2
    assert by_check["no_image_failed"]["severity"] == "warning"
    assert by_check["no_image_failed"]["text"].startswith(
        "Check no_image_failed of train_images warns: train: 2 images https://dagster.example.org/glr/assets/train_images"
    )
    assert by_check["schema"]["severity"] == "error"
    assert by_check["schema"]["message"] == "no column id, no column url"


def test_a_check_of_many_partitions_is_one_alert(
    ticks: Ticks, instance: dg.DagsterInstance, listener: Listener
) -> None:
    @dg.op
    def log_checks(context) -> None:  # type: ignore[no-untyped-def]
        for shard in range(8):
            context.log_event(
                dg.AssetCheckEvaluation(
                    dg.AssetKey("train_images"),
                    "counts_reconcile",
                    passed=shard == 3,
                    metadata={"problem": "seen 10, of these 9 decided"},
                    partition=f"{shard:03}",
                )
            )

    @dg.job
    def checking() -> None:
        log_checks()

    checking.execute_in_process(instance=instance)
    ticks.tick()
    (alert,) = listener.posted
    assert alert["partitions"] == [f"{shard:03}" for shard in range(8) if shard != 3]
    assert "of 000, 001, 002, 004, 005 and 2 more: seen 10" in alert["text"]


def test_a_blocking_check_that_fails_its_run_is_one_alert(
    ticks: Ticks, instance: dg.DagsterInstance, listener: Listener
) -> None:
    broken = dg.AssetCheckResult(passed=False, metadata={"problems": ["no column id"]})
    failed = run(instance, None, checks={"schema": broken}, blocking=True)
    assert failed.status == dg.DagsterRunStatus.FAILURE
    ticks.tick()
    (alert,) = listener.posted
    assert alert["kind"] == "run"
    assert alert["errors"] == {"train_images: check schema": "no column id"}


def test_a_backfill_that_the_daemon_gives_up_is_alerted_on(
    ticks: Ticks, instance: dg.DagsterInstance, listener: Listener
) -> None:
    backfill = PartitionBackfill(
        backfill_id="abcdefgh",
        status=BulkActionStatus.FAILED,
        from_failure=False,
        tags={},
        backfill_timestamp=time.time(),
        asset_selection=[dg.AssetKey("train_images")],
        backfill_end_timestamp=time.time() + 1,
    )
    instance.add_backfill(backfill)
    ticks.tick()
    (alert,) = listener.posted
    assert alert["kind"] == "backfill"
    assert alert["url"].endswith("/runs/b/abcdefgh")


def test_a_webhook_that_refuses_hangs_or_is_away_is_told_apart(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int
) -> None:
    monkeypatch.setattr(sending, "TIMEOUT", 0.3)
    listener.status = 500
    assert sending.post(listener.url, {"text": "x"}) == "answered 500"
    assert "ConnectError" in sending.post(f"http://127.0.0.1:{free_tcp_port}/hook", {"text": "x"})
    assert "cannot be reached" in sending.post("no url", {"text": "x"})
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as silent:
        assert "ReadTimeout" in sending.post(f"http://127.0.0.1:{silent.server_address[1]}/", {"text": "x"})


def test_what_a_webhook_does_not_take_is_sent_once_it_does(
    ticks: Ticks, instance: dg.DagsterInstance, listener: Listener
) -> None:
    run(instance, "no space left")
    run(instance, "permission denied")
    listener.status = 500
    ticks.tick()
    ticks.tick()
    refused = len(listener.posted)
    assert refused == 2  # one try a tick: the second alert is not tried behind a server that is away
    listener.status = 204
    ticks.tick()
    ticks.tick()
    taken = [alert["errors"]["train_images"] for alert in listener.posted[refused:]]
    assert taken == ["no space left", "permission denied"]


def test_without_a_webhook_nothing_is_sent_and_links_are_paths(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> str:
        raise AssertionError("posted")

    monkeypatch.setattr(sending, "post", refuse)
    ticks = Ticks(instance)
    failed = run(instance, "no space left")
    ticks.tick()
    logged = capfd.readouterr().err
    assert logged.count("no space left /runs/" + failed.run_id) == 1


def test_the_text_is_cut_and_the_link_is_not(ticks: Ticks, instance: dg.DagsterInstance, listener: Listener) -> None:
    failed = run(instance, "x" * 10 * LONGEST)
    ticks.tick()
    (alert,) = listener.posted
    assert len(alert["text"]) == LONGEST
    assert alert["text"].endswith(f"… https://dagster.example.org/glr/runs/{failed.run_id}")


def test_a_cursor_of_another_version_begins_anew(instance: dg.DagsterInstance) -> None:
    ticks = Ticks(instance)
    ticks.cursor = '{"record_id": 7}'
    run(instance, "no space left")
    ticks.tick()
    assert Memory.model_validate_json(str(ticks.cursor)).sent == {}


def test_runs_of_other_code_locations_are_theirs_to_alert_on() -> None:
    home = CodeLocation("glr_assets.definitions", "__repository__")
    assert not home.holds(None)
    assert CodeLocation(None, None).holds(None)


FAILING = """
import dagster as dg
from glr_assets.defs.automation.alerts import failure_alerts
from glr_assets.recipes import load_recipe

def failing(name):
    @dg.sensor(name=name, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
    def sensor():
        load_recipe({recipe!r})
        return dg.SkipReason("nothing to do")
    return sensor

defs = dg.Definitions(sensors=[failure_alerts, failing("first"), failing("second"), failing("third")])
"""


def test_sensors_that_fail_for_one_reason_are_one_alert_by_real_ticks(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GLR_ALERT_WEBHOOK", listener.url)
    recipe, code = tmp_path / "recipe.toml", tmp_path / "code.py"
    recipe.write_text('base = "small"\n[dedupe]\nkeep = -3\n')
    code.write_text(FAILING.format(recipe=str(recipe)))
    target = PythonFileTarget(str(code), attribute=None, working_directory=None, location_name="toy")
    now = get_current_datetime()
    with (
        dg.instance_for_test(temp_dir=str(tmp_path)) as instance,
        create_test_daemon_workspace_context(target, instance) as workspace,
    ):

        def iterate(seconds: int) -> None:
            with freeze_time(now + timedelta(seconds=seconds)):
                list(execute_sensor_iteration(workspace, logging.getLogger("ticks"), None, None))

        for seconds in range(0, 200, 40):
            iterate(seconds)
        (alert,) = listener.posted
        assert alert["instigators"] == ["first", "second", "third"]
        assert alert["message"] == (f"recipe {recipe}: [dedupe] keep = -3: Input should be greater than or equal to 1")
        assert alert["url"] == "/locations/__repository__@toy/sensors/first"
        recipe.write_text('base = "small"\n[dedupe]\nkeep = -4\n')
        for seconds in range(200, 320, 40):
            iterate(seconds)
        assert [alert["message"].count("keep = -4") for alert in listener.posted] == [0, 1]
