"""A Kaggle competition's folder: its tables, its shards by first character, and files that are no files."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest

from glr_assets.errors import SourceError
from glr_assets.source import KaggleSource, Member, open_source
from glr_assets.source.layout import TABLE_PATHS

TRAIN = {"0a1b": b"one", "0a2c": b"two", "f00d": b"three"}
TEST = {"7777": b"four"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "competition"
    for split, images in (("train", TRAIN), ("test", TEST)):
        for name, data in images.items():
            path = root / split / name[0] / name[1] / name[2] / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    (root / "train.csv").write_text("id,landmark_id\n0a1b,5\n0a2c,5\nf00d,8\n")
    (root / "sample_submission.csv").write_text("id,landmarks\n7777,5 0.1\n")
    return root


def walked(source: KaggleSource, shard: str, limit: int = 1000) -> list[Member]:
    return list(source.members("train", shard, require_md5=True, max_member_bytes=limit))


def kinds(source: KaggleSource, shard: str) -> dict[str, str]:
    return {member.name.rpartition("/")[2]: member.kind for member in walked(source, shard)}


def test_the_layout(folder: Path) -> None:
    source = open_source(f"kaggle://{folder}")
    assert isinstance(source, KaggleSource)
    assert source.url == f"kaggle://{folder}"
    assert source.shards("train") == ["0", "f"]
    assert source.shards("test") == ["7"]
    assert source.shards("index") == []
    assert walked(source, "0") == [
        Member("train/0/a/1/0a1b.jpg", "file", "train/0/a/1/0a1b.jpg", 0, 3, b"one"),
        Member("train/0/a/2/0a2c.jpg", "file", "train/0/a/2/0a2c.jpg", 0, 3, b"two"),
    ]
    for member in walked(source, "f"):
        data = (folder / member.source_path).read_bytes()
        assert data[member.offset : member.offset + member.size] == member.data == b"three"
    (test,) = source.members("test", "7", require_md5=True, max_member_bytes=1000)
    assert test.data == b"four"


def test_tables(folder: Path) -> None:
    source = KaggleSource(str(folder))
    for name in TABLE_PATHS:
        file = source.open_table(name)
        own = {"train": "train.csv", "test": "sample_submission.csv"}.get(name)
        if own is None:
            assert file is None
            assert source.table_digest(name) == "absent"
        else:
            assert file is not None
            assert file.read() == (folder / own).read_bytes()
            assert source.table_url(name) == str(folder / own)
            assert source.table_digest(name) == hashlib.sha256((folder / own).read_bytes()).hexdigest()
    (folder / "sample_submission.csv").unlink()
    assert source.open_table("test") is None


@pytest.mark.parametrize("missing", ["train.csv", "train"])
def test_a_folder_of_another_layout(folder: Path, missing: str) -> None:
    (folder / missing).rename(folder / "elsewhere")
    with pytest.raises(SourceError) as error:
        open_source(f"kaggle://{folder}")
    message = str(error.value)
    assert f"source kaggle://{folder}: no {missing} there" in message
    assert "sample_submission.csv" in message
    assert "GLR_SOURCE" in message
    assert "\n" not in message


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no train\.csv there"):
        open_source(f"kaggle://{tmp_path}/nowhere")


def test_a_shard_that_is_not_there(folder: Path) -> None:
    source = KaggleSource(str(folder))
    for use in (lambda: walked(source, "9"), lambda: source.shard_digest("train", "9", require_md5=False)):
        with pytest.raises(SourceError, match=r"train/9 is missing: the source has the train shards 0, f"):
            use()


def test_links_are_named_and_not_followed(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "secret.jpg").write_bytes(b"secret")
    (folder / "train/0/a/1/0a1x.jpg").symlink_to(outside / "secret.jpg")
    (folder / "train/0/a/1/0a1y.jpg").symlink_to("nowhere")
    (folder / "train/0/a/folder").symlink_to(outside)
    (folder / "train/0/circle").symlink_to(folder / "train" / "0")
    source = KaggleSource(str(folder))
    assert kinds(source, "0") == {
        "0a1b.jpg": "file",
        "0a1x.jpg": "link",
        "0a1y.jpg": "link",
        "0a2c.jpg": "file",
        "circle": "link",
        "folder": "link",
    }
    assert [m.data for m in walked(source, "0") if m.kind == "link"] == [None] * 4
    assert b"secret" not in {m.data for m in walked(source, "0")}


def test_devices_are_named_and_not_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "train/0/a/1/pipe.jpg")  # to open it would wait for ever
    monkeypatch.chdir(folder / "train/0/a/1")  # the path of a socket may not be long
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.jpg")
        found = kinds(KaggleSource(str(folder)), "0")
    assert found["pipe.jpg"] == found["s.jpg"] == "device"


def test_files_over_the_limit_are_not_read(folder: Path) -> None:
    (folder / "train/f/large.jpg").write_bytes(bytes(1001))
    (folder / "train/f/just.jpg").write_bytes(bytes(1000))
    members = {m.name: m for m in walked(KaggleSource(str(folder)), "f")}
    large, just = members["train/f/large.jpg"], members["train/f/just.jpg"]
    assert (large.kind, large.size, large.data) == ("file", 1001, None)
    assert (just.kind, just.size, just.data) == ("file", 1000, bytes(1000))


def test_a_file_that_vanishes_on_the_way(folder: Path) -> None:
    source = KaggleSource(str(folder))
    members = source.members("train", "0", require_md5=True, max_member_bytes=1000)
    assert next(members).data == b"one"
    (folder / "train/0/a/2/0a2c.jpg").unlink()
    (gone,) = members
    assert (gone.name, gone.kind, gone.data) == ("train/0/a/2/0a2c.jpg", "unreadable file", None)


def test_a_file_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.read_bytes

    def refusing(path: Path) -> bytes:  # permissions do not stop a test that runs as root
        if path.name == "0a1b.jpg":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", refusing)
    source = KaggleSource(str(folder))
    assert [(m.kind, m.size, m.data) for m in walked(source, "0")] == [
        ("unreadable file", 3, None),
        ("file", 3, b"two"),
    ]


def test_a_folder_that_cannot_be_listed_is_no_empty_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = KaggleSource(str(folder))
    original = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("train/0/a/2"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", refusing)
    for use in (lambda: walked(source, "0"), lambda: source.shard_digest("train", "0", require_md5=False)):
        with pytest.raises(SourceError, match=r"train/0/a/2: cannot be listed: Permission denied"):
            use()


def test_the_digest_is_of_names_sizes_and_times(folder: Path) -> None:
    source = KaggleSource(str(folder))
    first = source.shard_digest("train", "0", require_md5=True)
    assert source.shard_digest("train", "0", require_md5=False) == first
    assert source.shard_digest("train", "f", require_md5=False) != first
    one = folder / "train/0/a/1/0a1b.jpg"
    os.utime(one, ns=(1, 1))
    touched = source.shard_digest("train", "0", require_md5=False)
    assert touched != first
    one.write_bytes(b"longer")
    os.utime(one, ns=(1, 1))
    assert source.shard_digest("train", "0", require_md5=False) not in {first, touched}


def test_the_digest_of_a_folder_that_changes_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = KaggleSource(str(folder))
    listed = source._entries("train", "0")
    monkeypatch.setattr(source, "_entries", lambda split, shard: listed)
    (folder / "train/0/a/2/0a2c.jpg").unlink()
    assert source.shard_digest("train", "0", require_md5=False)


def test_files_beside_the_folders_are_no_shards(folder: Path) -> None:
    (folder / "train" / "readme.txt").write_text("x")
    assert KaggleSource(str(folder)).shards("train") == ["0", "f"]
