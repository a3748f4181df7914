"""Whether the process of a run is alive, on the machine of the instance.

Dagster keeps nothing of such a process: where it is killed with the code server that knows it, or was started by none,
its run stands as started for ever, and whatever waits for the run with it. Here the process holds a lock on a file of
the instance's folder that has the run's id as its name. The kernel releases the lock when the process ends, whatever
ends it.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import dagster as dg

FOLDER: Final = "processes"
LOST: Final = "Its process is gone: it was killed, or its machine was."
State = Literal["held", "released", "unknown"]
#: Runs whose locks this process holds. A process can take its own locks twice, so it must not try them.
_held: set[str] = set()


@contextmanager
def run_lock(instance: dg.DagsterInstance | None, run_id: str | None) -> Iterator[None]:
    """Hold the lock of a run for the block, unless a process holds it already.

    There is none where the instance lives in memory, or in a folder whose file system has no locks.
    """
    if instance is None or run_id is None or instance.is_ephemeral or lock_state(instance, run_id) == "held":
        yield
        return
    file = _locked(_path(instance, run_id))
    if file is None:
        yield
        return
    _held.add(run_id)
    try:
        yield
    finally:
        _path(instance, run_id).unlink(missing_ok=True)
        os.close(file)
        _held.discard(run_id)


def _locked(path: Path) -> int | None:
    """A new file, open and locked, that names host and process; None where it cannot be."""
    part = path.with_name(f".{path.name}.part")
    file = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
        # A lock of the process and not of the open file: forked helpers do not inherit it.
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.write(file, f"{socket.gethostname()} {os.getpid()}".encode())
        part.rename(path)  # under its name it is never seen unlocked
    except OSError:
        if file is not None:
            os.close(file)
        return None
    return file


def lock_state(instance: dg.DagsterInstance, run_id: str) -> State:
    """Whether the process of a run holds its lock; `unknown` of runs without one on this machine."""
    if instance.is_ephemeral:
        return "unknown"
    return "held" if run_id in _held else _state(_path(instance, run_id))


def holder(instance: dg.DagsterInstance, run_id: str) -> int | None:
    """The process that holds the lock of a run; None where none does, or it is in another container."""
    if lock_state(instance, run_id) != "held":
        return None
    try:
        host, process = _path(instance, run_id).read_text().rsplit(" ", 1)
    except (OSError, ValueError):  # it ended a moment ago
        return None
    return int(process) if host == socket.gethostname() else None


def fail_lost_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark unfinished runs whose lock nobody holds as failed, and remove the locks; returns the runs' ids."""
    lost = []
    for path in (Path(instance.root_directory) / FOLDER).glob("[!.]*"):
        if lock_state(instance, path.name) != "released":
            continue
        run = instance.get_run_by_id(path.name)
        if run is not None and not run.is_finished:
            instance.report_run_failed(run, LOST)
            lost.append(run.run_id)
        path.unlink(missing_ok=True)
    return lost


def fail_lost_runs_of(home: Path) -> list[str]:
    """`fail_lost_runs` of the instance of a folder; none of one that was never used."""
    if not (home / "storage").is_dir() and not (home / FOLDER).is_dir():
        return []
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return fail_lost_runs(instance)


def _path(instance: dg.DagsterInstance, run_id: str) -> Path:
    return Path(instance.root_directory) / FOLDER / run_id


def _state(path: Path) -> State:
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return "unknown"
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return "held"
    else:
        return "released"
    finally:
        os.close(file)
