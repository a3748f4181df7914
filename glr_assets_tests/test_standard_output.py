"""A standard output that cannot be written: one line that says so, whatever was written and whoever wrote it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glr_assets_tests.integration.conftest import GLR, Glr

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.is_char_device(), reason="this system has no /dev/full")
TOLD = "cannot write the output: no space left on device; "
SOLUTION = "id,landmarks,Usage\na,1,Public\nb,,Public\n"
SCORE = ("score", "recognition", "--submission", "answers.csv", "--solution", "solution.csv")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "answers.csv").write_text("id,landmarks\na,1 0.5\n")
    (tmp_path / "solution.csv").write_text(SOLUTION)
    return tmp_path


@needs_full
@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("why", "--help"), SCORE])
def test_a_full_disk_is_one_line(arguments: tuple[str, ...], files: Path) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [GLR, *arguments], cwd=files, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"error: {TOLD}make room there, or write it elsewhere"]


@needs_full
def test_scores_into_a_full_file_are_one_line(files: Path) -> None:
    done = Glr(files)(*SCORE, "--json", str(FULL))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"error: --json /dev/full: {TOLD}name another file"]
    assert "1.000000" in done.stdout  # they were computed, and told


def in_a_process(code: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    start = "import os, sys\nfrom glr_assets.standard_output import OutputError, telling_output_errors\n"
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", start + code],
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
        **options,
    )


@needs_full
@pytest.mark.parametrize("size", [1, 10**6])
def test_what_is_only_buffered_is_told_at_the_end(size: int) -> None:
    code = (
        "try:\n"
        f"    with telling_output_errors(): sys.stdout.write('x' * {size})\n"
        "except OutputError as error: sys.stderr.write(str(error.errno))\n"
    )
    with FULL.open("w") as full:
        done = in_a_process(code, stdout=full)
    assert (done.returncode, done.stderr) == (0, b"28")  # ENOSPC; nothing is tried again at the interpreter's end


def test_errors_of_other_files_pass_as_they_are() -> None:
    code = (
        "with telling_output_errors():\n"
        "    try: open('/nowhere')\n"
        "    except OutputError: print('wrong')\n"
        "    except OSError: print('right')\n"
        "print('after')\n"
    )
    assert in_a_process(code, stdout=subprocess.PIPE).stdout == b"right\nafter\n"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-8", b"K\xc3\xb6ln \\udcff"), ("latin-1", b"K\xf6ln \\udcff"), ("ascii", b"K\\xf6ln")],
)
def test_letters_that_the_encoding_lacks_are_written_by_number(encoding: str, expected: bytes) -> None:
    done = in_a_process(
        "with telling_output_errors(): print('K\\xf6ln \\udcff')",
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONIOENCODING": f"{encoding}:strict"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(expected)


@pytest.mark.parametrize("closed", ["sys.stdout = None", "import io; sys.stdout = io.StringIO()"])
def test_an_output_that_is_no_file_is_left_alone(closed: str) -> None:
    done = in_a_process(f"{closed}\nbefore = sys.stdout\nwith telling_output_errors(): assert sys.stdout is before")
    assert done.returncode == 0, done.stderr


def test_nobody_reads_the_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([GLR, "--version"], stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
