"""Compiled loops kept on disk: what names an entry, other processes, damage, folders that cannot be trusted."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import FunctionType

import pytest

from glr_assets import kernels
from glr_assets.kernels import fingerprint

MODULES = {
    "outer.py": """
        import numpy as np
        from glr_assets.kernels import kernel
        from inner import STEP, twice

        @kernel()
        def total(values):
            found = 0
            for value in values:
                found += twice(value) + STEP
            return found

        @kernel("i8(i8)")
        def next_of(value):
            return value + 1
    """,
    "inner.py": """
        from glr_assets.kernels import kernel

        STEP = 100

        @kernel()
        def twice(value):
            return 2 * value
    """,
    "main.py": """
        import json
        import numpy as np
        from outer import next_of, total

        floats = float(total(np.array([1.5])))
        ints = int(total(np.arange(3)))
        stats = [loop.stats for loop in (total, next_of)]
        hits, misses = (sum(sum(getattr(s, name).values()) for s in stats) for name in ("cache_hits", "cache_misses"))
        print(json.dumps([ints, floats, int(next_of(4)), hits, misses]))
    """,
}
RIGHT = [306, 103.0, 5]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    folder = tmp_path / "program"
    folder.mkdir()
    for name, text in MODULES.items():
        (folder / name).write_text(textwrap.dedent(text))
    return folder


def started(program: Path, cache: Path, **environment: str) -> subprocess.Popen[str]:
    (cache / "tmp").mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    kept |= {"XDG_CACHE_HOME": str(cache), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(cache / "tmp")} | environment
    return subprocess.Popen([sys.executable, str(program / "main.py")], stdout=subprocess.PIPE, text=True, env=kept)


def told(process: subprocess.Popen[str]) -> list[float]:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return [float(value) for value in out.strip("[]\n ").split(",")]


def files(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "glr_assets/kernels").iterdir() if path.suffix in {".nbi", ".nbc"})


def test_another_process_compiles_nothing_and_what_is_called_elsewhere_counts(program: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert told(started(program, cache)) == [*RIGHT, 0, 3]
    assert told(started(program, cache)) == [*RIGHT, 3, 0]
    # Neither place nor age of the source counts.
    moved = program.rename(tmp_path / "elsewhere")
    os.utime(moved / "outer.py", (0, 0))
    assert told(started(moved, cache)) == [*RIGHT, 3, 0]
    # The file of the loop itself is as it was.
    inner = (moved / "inner.py").read_text()
    (moved / "inner.py").write_text(inner.replace("2 * value", "3 * value"))
    assert told(started(moved, cache)) == [309, 104.5, 5, 1, 2]
    (moved / "inner.py").write_text(inner.replace("STEP = 100", "STEP = 10"))
    assert told(started(moved, cache)) == [36, 13.0, 5, 1, 2]
    # Other versions do not drive each other out.
    (moved / "inner.py").write_text(inner)
    assert told(started(moved, cache)) == [*RIGHT, 3, 0]


def test_processes_that_compile_at_once_leave_each_loop_its_own_code(program: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for process in [started(program, cache) for _ in range(4)]:
        assert told(process)[:3] == RIGHT
    assert told(started(program, cache)) == [*RIGHT, 3, 0]


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_damaged_files_are_made_again(program: Path, tmp_path: Path, suffix: str) -> None:
    cache = tmp_path / "cache"
    told(started(program, cache))
    for number, path in enumerate(path for path in files(cache) if path.suffix == suffix):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if number % 2 else b"nonsense")
    assert told(started(program, cache))[:3] == RIGHT
    told(started(program, cache))
    assert told(started(program, cache)) == [*RIGHT, 3, 0]


def test_without_a_folder_that_can_be_trusted_loops_are_compiled_as_ever(program: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    temporary = cache / f"tmp/glr_assets-{os.getuid()}"
    for folder in (cache / "glr_assets/kernels", temporary):
        folder.mkdir(parents=True)
        folder.chmod(0o777)
    for _ in range(2):
        assert told(started(program, cache)) == [*RIGHT, 0, 3]
    assert files(cache) == list(temporary.iterdir()) == []
    temporary.chmod(0o700)
    assert told(started(program, cache)) == [*RIGHT, 0, 3]
    assert told(started(program, cache)) == [*RIGHT, 3, 0]


def test_numbas_own_setting_is_obeyed(program: Path, tmp_path: Path) -> None:
    told(started(program, tmp_path / "cache", NUMBA_CACHE_DIR=str(tmp_path / "chosen")))
    assert list((tmp_path / "chosen/glr_assets").glob("*.nbc"))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tmp"]


def test_folders_of_others_and_links_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    assert kernels._usable(own)
    assert own.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(own)
    assert not kernels._usable(tmp_path / "link")
    (tmp_path / "file").touch()
    assert not kernels._usable(tmp_path / "file")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    os.chown(own, 6789, -1) if os.geteuid() == 0 else None
    assert not kernels._usable(own)


def function(text: str, **names: object) -> FunctionType:
    space: dict[str, object] = dict(names)
    exec(textwrap.dedent(text), space)
    found = space["loop"]
    assert isinstance(found, FunctionType)
    return found


def test_a_fingerprint_tells_code_constants_and_callees_apart_and_nothing_else() -> None:
    plain = "def loop(x):\n    return helper(x) + STEP"
    helper, other = function("def loop(x): return x * 2"), function("def loop(x): return x * 3")
    base = fingerprint(function(plain, helper=helper, STEP=1))
    assert fingerprint(function("\n\n" + plain + "  # a word", helper=helper, STEP=1)) == base
    different = [
        function(plain, helper=other, STEP=1),
        function(plain, helper=helper, STEP=2),
        function(plain, helper=helper, STEP=1.0),
        function("def loop(x):\n    return helper(x) - STEP", helper=helper, STEP=1),
        function("def loop(x):\n    return helper(x) + STEP + 0", helper=helper, STEP=1),
    ]
    assert len({base, *map(fingerprint, different)}) == 6
    # Loops that call each other have one too.
    recursive = function("def loop(x):\n    return other(x)")
    recursive.__globals__["other"] = recursive
    assert len(fingerprint(recursive)) == 64
