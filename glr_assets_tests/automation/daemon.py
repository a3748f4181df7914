"""Dagster's own processes over a store: an instance in a folder, the daemon, the webserver and what it answers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


class Home:
    """A DAGSTER_HOME with the laptop's configuration, and the settings of its processes."""

    def __init__(
        self, folder: Path, source: Path, store: Path, recipe: Path, module: str = "glr_assets.definitions"
    ) -> None:
        self.folder, self.module = folder, ("-m", module)
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "infra" / "laptop" / "dagster.yaml", folder / "dagster.yaml")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GLR_", "DAGSTER_"))}
        settings = {"GLR_SOURCE": str(source), "GLR_STORE": str(store), "GLR_RECIPE": str(recipe)}
        self.environment = kept | settings | {"DAGSTER_HOME": str(folder), "OMP_NUM_THREADS": "1"}

    def command(self, *arguments: str) -> None:
        """Run one of Dagster's commands to its end."""
        command = [str(BIN / arguments[0]), *arguments[1:], *self.module]
        subprocess.run(command, cwd=ROOT, env=self.environment, check=True, capture_output=True, timeout=120)

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """One of Dagster's servers for the block, its log beside the instance; all it started ends with it."""
        with (self.folder / f"{arguments[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(BIN / arguments[0]), *arguments[1:], *self.module],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """The instance, opened by this process too."""
        with dg.DagsterInstance.from_config(str(self.folder)) as opened:
            yield opened


def wait_until(holds: Callable[[], bool], seconds: float, every: float = 1.0) -> float:
    """Wait until something holds; returns the seconds it took.

    Raises:
        TimeoutError: it did not.
    """
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"waited {seconds:.0f} s in vain")
        time.sleep(every)
    return time.monotonic() - began


def ask(port: int, query: str, **variables: Any) -> tuple[dict[str, Any], float]:
    """What the webserver answers to a GraphQL query, and the seconds it took."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
    began = time.monotonic()
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = json.load(answer)
    assert "errors" not in found, found["errors"]
    return found["data"], time.monotonic() - began
