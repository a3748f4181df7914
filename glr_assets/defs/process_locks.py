"""Whether the process of a run still lives, for runs that materialize in the process that made them.

Dagster keeps nothing of such a process: where it is killed, its run stands as started for ever, and whatever waits for
the run with it. Here the process holds a lock on a file of the instance, and each of its runs is tagged with the file's
name. The kernel releases the lock when the process ends, whatever ends it.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import dagster as dg

TAG: Final = "glr/process"
FOLDER: Final = "processes"
LOST: Final = "Its process is gone: it was killed, or its machine was."
UNFINISHED: Final = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
#: Locks of this process. A process can take its own locks twice, so it must not try them.
_held: set[str] = set()


@contextmanager
def process_lock(instance: dg.DagsterInstance) -> Iterator[dict[str, str]]:
    """Hold a lock for the block; gives the tags of the runs made in it.

    There are none where the instance lives in memory, or in a folder whose file system has no locks.
    """
    name = uuid.uuid4().hex
    file = None if instance.is_ephemeral else _locked(_folder(instance) / name)
    if file is None:
        yield {}
        return
    _held.add(name)
    try:
        yield {TAG: name}
    finally:
        (_folder(instance) / name).unlink(missing_ok=True)
        os.close(file)
        _held.discard(name)


def _locked(path: Path) -> int | None:
    """A new file, open and locked; None where it cannot be."""
    part = path.with_name(f".{path.name}.part")
    file = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
        # A lock of the process and not of the open file: forked helpers do not inherit it.
        fcntl.lockf(file, fcntl.LOCK_EX)
        part.rename(path)  # under its name it is never seen unlocked
    except OSError:
        if file is not None:
            os.close(file)
        return None
    return file


def is_lost(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run was made under a lock that nobody holds any more; False of runs without one on this machine."""
    name = run.tags.get(TAG)
    return name is not None and name not in _held and _is_free(_folder(instance) / name)


def fail_lost_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark unfinished runs whose lock nobody holds as failed; returns their ids."""
    lost = [run for run in instance.get_runs(filters=dg.RunsFilter(statuses=UNFINISHED)) if is_lost(instance, run)]
    for run in lost:
        instance.report_run_failed(run, LOST)
    # A lock is removed after its runs: without it they would be taken for those of another machine.
    for path in _folder(instance).glob("[!.]*"):
        if path.name not in _held and _is_free(path):
            path.unlink(missing_ok=True)
    return [run.run_id for run in lost]


def fail_lost_runs_of(home: Path) -> list[str]:
    """`fail_lost_runs` of the instance of a folder; none of one that was never used."""
    if not (home / "storage").is_dir() and not (home / FOLDER).is_dir():
        return []
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return fail_lost_runs(instance)


def _folder(instance: dg.DagsterInstance) -> Path:
    return Path(instance.root_directory) / FOLDER


def _is_free(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(file)
