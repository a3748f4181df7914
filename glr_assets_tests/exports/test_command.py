"""`glr export` in a process of its own, as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from glr_assets.store import Store
from glr_assets_tests.exports.conftest import IDS
from glr_assets_tests.integration.conftest import Glr
from glr_assets_tests.lineage import digests


@pytest.fixture
def glr(tmp_path: Path) -> Glr:
    return Glr(tmp_path)


def test_a_package_to_a_folder_and_once_more(glr: Glr, packed: Store, tmp_path: Path) -> None:
    arguments = ("export", "zip", "--to", "mine", "--order", "balanced", "--images-per-shard", "5")
    done = glr(*arguments, "--store", packed.url)
    assert done.returncode == 0, done.stderr
    told = {line[:15].strip(): line[17:] for line in done.stdout.splitlines()}
    assert told["package"] == "train_zip"
    assert told["images"] == "16"
    assert told["landmarks"] == "4, of 1 to 6 images, half of at most 4"
    assert told["files"].startswith("4, ")
    assert told["no rights known"] == "1"
    assert told["this run"].startswith("4 files of 16 images written in ")
    assert told["lies in"] == "mine"
    assert "Traceback" not in done.stderr
    found = set()
    for number in range(4):
        with zipfile.ZipFile(tmp_path / f"mine/train-{number:05d}-of-00004.zip") as archive:
            found |= {Path(name).stem for name in archive.namelist() if name.endswith(".jpg")}
    assert found == set(IDS)
    again = glr(*arguments, GLR_STORE=packed.url)
    assert "done before, nothing to do" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("tfrecord", "--manifest", "nothing"), "no manifest nothing: name one of "),
        (("zip", "--images-per-shard", "0"), "[exports] images_per_shard = 0: "),
        (("webdataset", "--recipe", "nowhere.toml"), "recipe nowhere.toml"),
        (("zip", "--to", "STORE"), "is the store itself"),
    ],
)
def test_what_cannot_be_is_one_line(glr: Glr, packed: Store, arguments: tuple[str, ...], told: str) -> None:
    given = [packed.url if word == "STORE" else word for word in arguments]
    done = glr("export", *given, "--store", packed.url)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert told in line
    assert packed.names("exports") == []


def test_another_kind_names_those_there_are(glr: Glr) -> None:
    done = glr("export", "parquet")
    assert done.returncode == 2
    assert all(kind in done.stderr for kind in ("tfrecord", "webdataset", "zip"))


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no process groups")
def test_a_killed_export_is_gone_on_with(packed: Store, tmp_path: Path) -> None:
    """SIGKILL once the first file is there: what it was at is left nowhere, and the rest is as if never killed."""
    glr = Glr(tmp_path)
    assert glr("export", "tfrecord", "--images-per-shard", "1", "--store", packed.url, "--to", "whole").returncode == 0
    code = (
        "import sys, time\n"
        "from glr_assets.exports.export import Progress, make_export\n"
        "from glr_assets.recipes import Exports\n"
        "from glr_assets.store import Store\n"
        "slow = Progress(through=lambda _: time.sleep(0.2))\n"
        "make_export(Store(sys.argv[1]), 'tfrecord', Exports(images_per_shard=1), 0, to='mine', progress=slow)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, packed.url], cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "mine").glob("train-*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "mine").glob("train-*")}
    finished = len(list((tmp_path / "mine/receipts/train_tfrecords").glob("*.json")))
    assert 0 < len(before) < len(IDS)
    done = glr("export", "tfrecord", "--images-per-shard", "1", "--store", packed.url, "--to", "mine")
    assert done.returncode == 0, done.stderr
    assert f"{len(IDS) - finished} files of {len(IDS) - finished} images written" in done.stdout
    assert f"{finished} done before" in done.stdout
    assert digests(tmp_path / "mine") == digests(tmp_path / "whole")
    kept = [name for name, then in before.items() if (tmp_path / "mine" / name).stat().st_mtime_ns == then]
    assert len(kept) == finished


def test_help_tells_the_kinds_and_the_options(glr: Glr) -> None:
    shown = glr("export", "--help").stdout
    assert all(word in shown for word in ("tfrecord", "webdataset", "zip", "--manifest", "--to", "--order"))
