"""The `glr` command in a process of its own, as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glr_assets_tests.lineage import write_pooling_embedder, write_recipe

GLR = str(Path(sys.executable).with_name("glr"))


class Glr:
    """Runs `glr` in `folder` without any setting of the caller's environment but those given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.patience = 600  # seconds that a command may take
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GLR_", "DAGSTER_"))}
        self.environment = kept | {"OMP_NUM_THREADS": "1"}

    def __call__(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [GLR, *arguments],
            cwd=self.folder,
            env=self.environment | settings,
            capture_output=True,
            text=True,
            check=False,
            timeout=self.patience,
        )

    def begun(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Run in a process group of its own, without waiting."""
        return subprocess.Popen(
            [GLR, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def killed(self, after: float, *arguments: str) -> bool:
        """Run and kill the whole process group by SIGKILL after so many seconds; whether it was still running."""
        process = self.begun(*arguments)
        time.sleep(after)
        running = process.poll() is None
        if running:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return running

    def signalled(self, number: signal.Signals, after: str, *arguments: str) -> tuple[int, str]:
        """Run, send a signal when the command has told of so much, and give its exit status and what it told."""
        with subprocess.Popen(
            [GLR, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            told = ""
            for line in process.stderr:
                told += line
                if after in line:
                    process.send_signal(number)
                    break
            told += process.stderr.read()
            return process.wait(), told


@pytest.fixture
def glr(tmp_path: Path) -> Glr:
    return Glr(tmp_path)


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A recipe whose embedder is brought in: the lineage without the minutes of training."""
    folder = tmp_path_factory.mktemp("quick")
    return str(write_recipe(folder / "quick.toml", write_pooling_embedder(folder / "grid.pt")))


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A recipe that trains a tiny network for two epochs."""
    return str(write_recipe(tmp_path_factory.mktemp("training") / "training.toml"))
