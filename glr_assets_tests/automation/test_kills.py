"""Dagster's processes killed at work: soon nothing is left started without a process, and the work ends complete.

`make kill-test` prints how long each kill took to be noticed. Processes are found by `/proc`, and whether a run has one
by the process id in its event log: by nothing that the launcher uses.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from glr_assets.defs.images import image_catalog
from glr_assets.receipts import find_receipt
from glr_assets.store import Store
from glr_assets_tests.automation.daemon import Home, wait_until
from glr_assets_tests.automation.tiny_shards import Shards

SHARDS = 40
#: Seconds within which no run may be left as started whose process is gone.
NOTICED = 120.0
#: Seconds that work may take on a busy machine of two cores.
PATIENCE = 600.0
STARTED = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
UNFINISHED = dg.RunsFilter(
    statuses=[dg.DagsterRunStatus[name] for name in ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")]
)


class Machine:
    """A machine with an instance, its daemon, and what the daemon started."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.figures: list[str] = []

    def processes(self, *words: str) -> list[int]:
        """The instance's living processes whose command line has all these words."""
        home = f"DAGSTER_HOME={self.home.folder}\0".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                if home in (folder / "environ").read_bytes() + b"\0" and all(word in command for word in words):
                    found.append(int(folder.name))
            except OSError:  # it ended, or is another user's
                continue
        return found

    def workers(self, instance: dg.DagsterInstance) -> dict[str, int | None]:
        """By started run its process; None where that is gone."""
        return {run.run_id: _living(instance, run.run_id) for run in instance.get_runs(filters=STARTED)}

    def kill(self, what: str, processes: list[int]) -> None:
        """Kill processes, then wait until every started run has one."""
        assert processes, f"there is no {what} to kill"
        for process in processes:
            os.kill(process, signal.SIGKILL)
        self.settle(what)

    def settle(self, what: str) -> None:
        """Wait until every started run has a process, and note the seconds."""
        with self.home.instance() as instance:
            seconds = wait_until(lambda: None not in self.workers(instance).values(), NOTICED, every=0.5)
        self.figures.append(f"{what}: {seconds:.0f} s")

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """The daemon for the block; what it started outlives it."""
        with self.home.running("dagster-daemon", "run"):
            yield

    def worker_at(self, step: str) -> int:
        """The process of a run that is at a step; waits for one."""
        found: list[int] = []

        def at_it() -> bool:
            for run_id, process in self.workers(instance).items():
                logs = instance.all_logs(run_id)
                steps = {entry.dagster_event_type for entry in logs if entry.step_key == step}
                at_work = dg.DagsterEventType.STEP_START in steps and dg.DagsterEventType.STEP_SUCCESS not in steps
                if process is not None and at_work:
                    found.append(process)
            return bool(found)

        with self.home.instance() as instance:
            wait_until(at_it, PATIENCE)
        return found[0]

    def stop(self) -> None:
        """Kill all that is left."""
        for process in self.processes():
            if process != os.getpid():
                os.kill(process, signal.SIGKILL)


def _living(instance: dg.DagsterInstance, run_id: str) -> int | None:
    """The process of a run by its event log, where it is one that is no zombie."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        found = re.search(r"Started process for run \(pid: (\d+)\)", entry.message or entry.user_message)
        if found:
            try:
                state = (Path("/proc") / found[1] / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                return None
            return None if state == "Z" else int(found[1])
    return None


@pytest.fixture
def machine(shards: Callable[..., Shards], tmp_path: Path, tiny_recipe: Path) -> Iterator[Machine]:
    bucket = shards(SHARDS)
    module = "glr_assets_tests.automation.slow_location"
    found = Machine(Home(tmp_path / "home", bucket.folder, tmp_path / "store", tiny_recipe, module))
    try:
        yield found
    finally:
        found.stop()
        print("\n".join(["", *found.figures]))


def _kill_in_turn(machine: Machine, job: str, step: str) -> None:
    """A run's process, the code servers, the daemon, and all of these together, each while a run is at the step."""
    # Before the daemon: two processes that open an instance for the first time spoil its SQLite files.
    machine.home.command("dagster", "job", "launch", "-j", job)
    with machine.daemon():
        # Steps share the process of their run: it is killed as a step, and as a worker.
        machine.kill("the process of a run", [machine.worker_at(step)])
        survivor = machine.worker_at(step)
        machine.kill("the code servers", machine.processes("dagster", "api", "grpc"))
        assert survivor in machine.processes(), "a run outlives its code server"
        machine.kill("the daemon", machine.processes("dagster-daemon", "run"))
    with machine.daemon():
        machine.settle("the daemon, started again")
        machine.worker_at(step)
        machine.stop()
    with machine.daemon():
        machine.settle("the whole machine, from the daemon's start")
        with machine.home.instance() as instance:
            wait_until(lambda: _is_over(instance), PATIENCE)


def _is_over(instance: dg.DagsterInstance) -> bool:
    backfills = instance.get_backfills(limit=5)
    over = all(backfill.status.value.startswith(("COMPLETED", "FAILED")) for backfill in backfills)
    return over and not instance.get_runs(filters=UNFINISHED) and _settled(instance)


def _settled(instance: dg.DagsterInstance) -> bool:
    """Whether no failed run waits for its retry."""
    runs = instance.get_runs()
    parents = {run.parent_run_id for run in runs}
    failed = [run for run in runs if run.status == dg.DagsterRunStatus.FAILURE]
    return all(run.run_id in parents for run in failed if run.tags.get("dagster/will_retry") != "false")


@pytest.mark.slow
def test_a_backfill_of_forty_shards_ends_complete_whatever_is_killed(machine: Machine, tmp_path: Path) -> None:
    home, store = machine.home, Store(str(tmp_path / "store"))
    _kill_in_turn(machine, "ingest", "train_images")
    with home.instance() as instance:
        (backfill,) = instance.get_backfills()
        assert backfill.status.value == "COMPLETED_SUCCESS"
        assert len(instance.get_materialized_partitions(dg.AssetKey("train_images"))) == SHARDS
        launcher = next(run for run in instance.get_runs() if run.job_name == "ingest")
        of_backfill = [run for run in instance.get_runs() if run.tags.get("dagster/backfill") == backfill.backfill_id]
        assert {run.tags["glr/launched_by_run"] for run in of_backfill} == {launcher.run_id}
        assert {run.tags["glr/asked_by"] for run in of_backfill} == {"by hand"}
    assert len(store.names("receipts/train_images")) == SHARDS


@pytest.mark.slow
def test_an_asset_job_ends_complete_whatever_is_killed(machine: Machine, tmp_path: Path) -> None:
    home, store = machine.home, Store(str(tmp_path / "store"))
    home.command("dagster", "job", "launch", "-j", "ingest")
    with machine.daemon(), home.instance() as instance:
        wait_until(lambda: bool(instance.get_backfills(limit=1)) and _is_over(instance), PATIENCE)
    machine.stop()
    _kill_in_turn(machine, "curate", "image_catalog")
    assert find_receipt(store, "train_manifest") is not None
    with home.instance() as instance:
        made = instance.get_latest_materialization_event(image_catalog.key)
        assert made is not None
        latest = instance.get_run_by_id(made.run_id)
        assert latest is not None
        assert latest.status == dg.DagsterRunStatus.SUCCESS
