"""Commands of the documentation, run as written where they are safe."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from glr_assets.recipes import load_recipe

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_the_launchpad_of_the_tour_is_a_valid_override() -> None:
    (text,) = blocks("tour.md", "yaml")
    ops = yaml.safe_load(text)["ops"]
    for op in ops.values():
        for name in ("small", "full"):
            assert load_recipe(name).overridden(op["config"])


@pytest.fixture
def run(tmp_path: Path, photos: Path, non_landmarks: Path):  # type: ignore[no-untyped-def]
    """Runs a line in a folder with `photos` and `others`, as a shell with the environment's programs on its path."""
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(non_landmarks, tmp_path / "others")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GLR_", "DAGSTER_"))}
    kept |= {"PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "OMP_NUM_THREADS": "1"}

    def line(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euc", text], cwd=tmp_path, env=kept, capture_output=True, text=True, check=False, timeout=600
        )

    return line


def commands(page: str) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.splitlines() if line and not line.startswith("#")]


def test_packing_as_the_page_says(run) -> None:  # type: ignore[no-untyped-def]
    lines = [line for line in commands("own_photographs.md") if line.startswith("glr pack ")]
    assert len(lines) == 3
    for line in lines:
        done = run(line)
        assert done.returncode == 0, (line, done.stderr)


@pytest.mark.slow
def test_the_year_as_the_page_says(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    lines = [line for line in commands("own_photographs.md") if not line.startswith(("glr dev", "glr serve"))]
    for number, line in enumerate(lines):
        if number == 4:  # before the second pack: a wrong label corrected, photographs added, one removed
            landmark, other = sorted((tmp_path / "photos").iterdir())[:2]
            (landmark / "01.jpg").rename(other / "from_elsewhere.jpg")
            shutil.copy(landmark / "02.jpg", landmark / "added.jpg")
            (landmark / "03.jpg").unlink()
        done = run(line)
        assert done.returncode == 0, (line, done.stderr)
    gone = run("glr why photos/never.jpg --store my-store")
    assert gone.returncode == 1
    assert run("glr why from_elsewhere.jpg --store my-store").returncode == 0
    assert run(f"glr why '{landmark.name}/03.jpg' --store my-store").returncode == 1
