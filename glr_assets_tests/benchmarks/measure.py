"""What the benchmarks share: processes of their own, times, peaks of memory, Markdown, where the photographs are."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PHOTOS = Path(__file__).resolve().parents[2].parent / "shared" / "photos"
#: One thread a library: what is told is the CPU time of one core. Libraries read these when they are loaded.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "VIPS_CONCURRENCY"), "1"
)


def in_a_process(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """What the module prints as JSON on its last line, in a process whose peak of memory and caches are its own."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ONE_THREAD | (environment or {}),
    )
    return json.loads(done.stdout.splitlines()[-1])


def cpu_seconds() -> float:
    """CPU seconds of this process and of the processes it has started and waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def timed(work: Callable[[], int]) -> dict[str, float]:
    """Wall and CPU seconds of `work`, the rows that it tells of, and the process's peak of memory in MB."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    rows = work()
    return {
        "rows": rows,
        "wall s": time.perf_counter() - wall,
        "CPU s": cpu_seconds() - cpu,
        "peak MB": peak_megabytes(),
    }


def peak_megabytes() -> float:
    """The most memory that this process has had resident, in MB (10^6 bytes).

    Not by `getrusage` where /proc tells it: that one starts with the peak of the process that started this one.
    """
    told = _status("VmHWM")
    if told is not None:
        return told
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def forget_peak() -> float:
    """Let `peak_megabytes` begin anew; gives the MB resident now. Where the system cannot, the peak so far."""
    now = _status("VmRSS")
    if now is None:
        return peak_megabytes()
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak
    return now


def _status(name: str) -> float | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[name].split()[0]) * 1024 / 1e6


def pin(cores: int, first: int = 0) -> None:
    """Keep this process, and the threads it will have, on so many cores, from the `first` on."""
    if hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, [mine[(first + number) % len(mine)] for number in range(cores)])


def machine() -> str:
    """The processor, its cores, and how busy they are."""
    names = [platform.processor() or platform.machine()]
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{os.cpu_count()} cores of {names[0]}, Python {platform.python_version()}; load average {load} at the start."
    )


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; the first column is text, the others are figures."""
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    lines += ["| " + " | ".join(str(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def verdict(reached: float, target: float, *, at_least: bool) -> str:
    """Whether a target is met."""
    return "yes" if (reached >= target if at_least else reached <= target) else "**no**"
