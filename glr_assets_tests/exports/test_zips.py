"""Zips beside Python's zipfile and beside a reader that only goes forward."""

from __future__ import annotations

import csv
import io
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.exports import zips
from glr_assets.exports.zips import ImageZip, Zip
from glr_assets_tests.exports.conftest import export_image

members = st.dictionaries(st.text("ab/0", min_size=1, max_size=12), st.binary(max_size=50), max_size=8)


def written(data: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with Zip(file) as archive:
        for name, content in data.items():
            archive.add(name, content)
    return file.getvalue()


def forward(data: bytes) -> dict[str, bytes]:
    """What a reader finds that has no directory yet: each member's own header must tell its sizes."""
    found, at = {}, 0
    while data[at : at + 4] == b"PK\3\4":
        _, flags, method, _, _, _, size, _, name, extra = struct.unpack_from("<5HIII2H", data, at + 4)
        assert (flags, method, extra) == (0, 0, 0)
        start = at + 30 + name
        found[data[at + 30 : start].decode()] = data[start : start + size]
        at = start + size
    return found


@given(members)
def test_what_zipfile_reads_is_what_was_written(data: dict[str, bytes]) -> None:
    archive = zipfile.ZipFile(io.BytesIO(written(data)))
    assert archive.testzip() is None
    assert archive.namelist() == list(data)
    assert {name: archive.read(name) for name in data} == data == forward(written(data))
    for member in archive.infolist():
        assert member.compress_type == zipfile.ZIP_STORED
        assert member.date_time == (1980, 1, 1, 0, 0, 0)
        assert member.external_attr >> 16 == 0o100644


@given(members)
def test_members_far_inside_are_found_by_zip64(data: dict[str, bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zips, "ZIP64_FROM", 40)
        found = written(data)
    archive = zipfile.ZipFile(io.BytesIO(found))
    assert archive.testzip() is None
    assert {name: archive.read(name) for name in archive.namelist()} == data
    beyond = [member for member in archive.infolist() if member.header_offset >= 40]
    assert [member.extract_version for member in beyond] == [45] * len(beyond)
    assert (b"PK\6\7" in found) == (len(found) - 22 >= 40)


def test_more_members_than_sixteen_bits_count(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    names = [f"{number:05x}" for number in range(2**16 + 3)]
    path.write_bytes(written({name: name.encode() for name in names}))
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == names
        assert archive.read(names[-1]) == names[-1].encode()


def test_others_unpack_it(tmp_path: Path) -> None:
    unzip = shutil.which("unzip")
    if unzip is None:
        pytest.skip("no unzip on this machine")
    data = {"a/b/c/abc.jpg": bytes(1000), "train.csv": b"id\n"}
    for name, limit in (("plain", 2**32 - 1), ("zip64", 10)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(zips, "ZIP64_FROM", limit)
            (tmp_path / f"{name}.zip").write_bytes(written(data))
        done = subprocess.run([unzip, "-t", str(tmp_path / f"{name}.zip")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_broken_off_archive_has_no_directory() -> None:
    file = io.BytesIO()
    with Zip(file) as archive, pytest.raises(ValueError, match="ascii"):
        archive.add("ü", b"x")
    assert zipfile.is_zipfile(io.BytesIO(file.getvalue()))
    file = io.BytesIO()

    def broken_off() -> None:
        with Zip(file) as archive:
            archive.add("a", b"x")
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        broken_off()
    assert not zipfile.is_zipfile(io.BytesIO(file.getvalue()))


@pytest.mark.parametrize("mark", ["", "-00001-of-00002"])
def test_an_image_zip_tells_of_its_images(mark: str) -> None:
    file = io.BytesIO()
    images = [export_image(0), export_image(1, id="7f", author="")]
    with ImageZip(file, mark) as writing:
        for image in images:
            writing.add(image, image.id.encode())
    archive = zipfile.ZipFile(io.BytesIO(file.getvalue()))
    first = images[0].id
    path = f"{first[0]}/{first[1]}/{first[2]}/{first}.jpg"
    assert archive.namelist() == [path, "7/f/7f.jpg", f"train{mark}.csv", f"attribution{mark}.csv"]
    assert archive.read(path) == first.encode()
    rows = list(csv.reader(io.StringIO(archive.read(f"attribution{mark}.csv").decode())))
    assert rows[0] == ["id", "url", "author", "license", "title"]
    assert [row[2] for row in rows[1:]] == [images[0].author, ""]
    assert archive.read(f"train{mark}.csv").decode().splitlines()[1] == f"{first},12345678901"
