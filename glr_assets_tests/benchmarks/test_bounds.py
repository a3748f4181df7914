"""That the benchmark of bounds runs, at a small share of its size, and tells of both trees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from glr_assets_tests.benchmarks.bounds import PARTS, ROOT, measured, tree_of


def test_every_part_gives_figures() -> None:
    found = measured(PARTS, ROOT, 0.005)
    assert list(found) == list(PARTS)
    assert all(found.values())
    assert found["s3"]["requests for images"] == 1  # twelve neighbors of one TAR
    assert found["threads"]["BLAS threads after"] == 3
    assert found["threads"]["OpenCV threads after"] == 3
    assert found["index"]["recall"] > 0.9
    assert found["long"]["longest side stored"] == 600


def test_both_trees_are_in_the_table() -> None:
    options = ("--part", "ranges", "--share", "0.01", "--before", str(ROOT))
    command = [sys.executable, "-m", "glr_assets_tests.benchmarks.bounds", *options]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    assert "0.01 of the size" in told
    row = told.splitlines()[-2].split("|")[1:-1]
    assert row[1].strip() == "peak MB"
    assert all(float(figure) >= 0 for figure in row[2:])
    assert len(row) == 4


def test_what_is_no_earlier_tree_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no folder glr_assets"), tree_of(str(tmp_path)):
        pass
    with pytest.raises(FileNotFoundError, match="no folder and no commit"), tree_of("no-such-commit"):
        pass
