"""Files that are compared with their receipts as they are opened, and copies that nobody else can cut."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from glr_assets import verified as verified_module
from glr_assets.errors import DamagedFileError, MissingInputError, StoreError
from glr_assets.receipts import Summary, Writer, make
from glr_assets.store import Store
from glr_assets.verified import verified

FILES = {"a/small": b"0123456789", "a/large": bytes(range(256)) * 100, "b/other": b"of another"}


def made(store: Store, name: str, paths: list[str]) -> None:
    def build(writer: Writer) -> Summary:
        for path in paths:
            writer.write(path, FILES[path])
        return {}

    make(store, name, inputs={}, parameters={}, code_version="1", build=build)


@pytest.fixture(params=["folder", "s3"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        store = Store(str(tmp_path / "store"))
    else:
        bucket = f"verified-{tmp_path.name.lower().replace('_', '-')}"[:60].strip("-")
        store = Store(f"s3://{bucket}/store", {"endpoint_url": request.getfixturevalue("s3_endpoint")})
        store.fs.mkdir(bucket)
    made(store, "index", ["a/small", "a/large"])
    made(store, "other", ["b/other"])
    return store


def test_whole_files_are_read_as_they_are(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified_module, "WHOLE", 1000)
    checked = verified(filled, ["index"])
    for path in ("a/small", "a/large", "b/other"):
        assert checked.read(path) == FILES[path]
        assert checked.head(path, 4) == FILES[path][:4]
        with checked.open(path) as file:
            assert file.read() == FILES[path]
            file.seek(3)
            assert file.read(4) == FILES[path][3:7]
    assert pickle.loads(pickle.dumps(checked)).read("a/small") == FILES["a/small"]


@pytest.mark.parametrize("path", ["a/small", "a/large"])
def test_a_file_that_was_changed_is_refused_with_what_was_expected_and_found(
    filled: Store, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified_module, "WHOLE", 1000)
    changed = b"X" + FILES[path][1:]
    filled.write(path, changed)
    checked = verified(filled, ["index"])
    expected, found = (hashlib.sha256(data).hexdigest() for data in (FILES[path], changed))
    told = (
        f"{filled.full_url(path)}: expected SHA-256 {expected} by the receipt of index, found SHA-256 {found}; restore "
        "it from a backup, or run `glr verify --repair index` and materialise index again"
    )
    for read in (checked.read, checked.open):
        with pytest.raises(DamagedFileError) as error:
            read(path)
        assert str(error.value) == told
        assert error.value.paths == (path,)
    for copies in (False, True):
        mapping = verified(filled, ["index"], maps_copies=copies)
        if mapping.is_mappable:
            with pytest.raises(DamagedFileError), mapping.mappable(path):
                pass
    with pytest.raises(DamagedFileError):
        checked.head(path, 4)
    # A part of it, which has a digest of its own elsewhere, and what belongs to others are no matter.
    assert checked.read(path, 1, 4) == FILES[path][1:5]
    assert checked.read("b/other") == FILES["b/other"]


def test_a_large_file_is_read_through_once_while_it_is_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified_module, "WHOLE", 1000)
    made(store, "index", ["a/small", "a/large"])
    checked, times = verified(store, ["index"]), []
    stream = verified_module.stream
    monkeypatch.setattr(verified_module, "stream", lambda *more: [*map(bytes, stream(*more)), times.append(1)][:-1])
    for _ in range(3):
        checked.open("a/large").close()
    assert times == [1]
    path = Path(store.path("a/large"))
    path.write_bytes(b"Y" + FILES["a/large"][1:])
    os.utime(path, (1, 1))
    with pytest.raises(DamagedFileError):
        checked.open("a/large")


def test_what_has_not_been_made_is_named(filled: Store) -> None:
    with pytest.raises(MissingInputError, match="nothing has not been made"):
        verified(filled, ["index", "nothing"])
    mapping = verified(filled, ["index"], maps_copies=True)
    with (
        pytest.raises(MissingInputError, match="a/absent: no receipt names it; materialise"),
        mapping.mappable("a/absent"),
    ):
        pass


def test_a_copy_is_of_its_own_and_leaves_no_name(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    with verified(filled, ["index"], maps_copies=True).mappable("a/large") as path:
        filled.write("a/large", b"cut")
        assert Path(path).read_bytes() == FILES["a/large"]
        assert Path(path).stat().st_mode & 0o077 == 0
    assert set(tmp_path.iterdir()) == before


def test_no_room_for_a_copy_says_where(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made(store, "index", ["a/small", "a/large"])

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match=r"no room for a copy of a/large .* set TMPDIR"):
        verified_module._written(Full(), b"x", "a/large")  # type: ignore[arg-type]


MAPPED = """
import os, sys
import numpy as np
from glr_assets.store import Store
from glr_assets.verified import verified

store, how = Store(sys.argv[1]), sys.argv[2]
if how == "copy":
    store = verified(store, ["index"], maps_copies=True)
with store.mappable("index/rows.npy") as path:
    rows = np.load(path, mmap_mode="r")
os.truncate(store.path("index/rows.npy"), 4096)
print(int(rows.sum()))
"""


@pytest.mark.parametrize(("how", "status"), [("copy", 0), ("itself", -7)])
def test_a_mapped_file_that_is_cut_ends_a_process_and_a_copy_of_it_does_not(
    store: Store, how: str, status: int, tmp_path: Path
) -> None:
    import numpy as np

    def build(writer: Writer) -> Summary:
        with writer.writing("index/rows.npy") as file:
            np.save(file, np.ones(2**20, np.float32))
        return {}

    make(store, "index", inputs={}, parameters={}, code_version="1", build=build)
    done = subprocess.run([sys.executable, "-c", MAPPED, store.url, how], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert done.stdout.strip() == ("1048576" if how == "copy" else "")
