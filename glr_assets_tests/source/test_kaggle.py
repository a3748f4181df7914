"""A Kaggle competition's folder: its tables, its shards by first characters, and files that are no files."""

from __future__ import annotations

import hashlib
import os
import socket
import tracemalloc
from pathlib import Path

import pytest

from glr_assets.errors import SourceError
from glr_assets.ranges import BYTES_AHEAD, Place
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
    assert source.shards("train") == ["0a", "f0"]
    assert source.shards("test") == ["77"]
    assert source.shards("index") == []
    assert walked(source, "0a") == [
        Member("train/0/a/1/0a1b.jpg", "file", "train/0/a/1/0a1b.jpg", 0, 3, b"one"),
        Member("train/0/a/2/0a2c.jpg", "file", "train/0/a/2/0a2c.jpg", 0, 3, b"two"),
    ]
    for member in walked(source, "f0"):
        data = (folder / member.source_path).read_bytes()
        assert data[member.offset : member.offset + member.size] == member.data == b"three"
    (test,) = source.members("test", "77", require_md5=True, max_member_bytes=1000)
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
    for use in (lambda: walked(source, "9z"), lambda: source.shard_digest("train", "9z", require_md5=False)):
        with pytest.raises(SourceError, match=r"no shard 9z: the source has 2 train shards, 0a to f0"):
            use()


def test_links_out_of_the_folder_are_named_and_not_followed(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "secret.jpg").write_bytes(b"secret")
    (folder / "train/0/a/1/0a1x.jpg").symlink_to(outside / "secret.jpg")
    (folder / "train/0/a/1/0a1y.jpg").symlink_to("nowhere")
    (folder / "train/0/a/1/0a1z.jpg").symlink_to("0a1z.jpg")
    (folder / "train/0/a/folder").symlink_to(outside)
    (folder / "train/0/a/circle").symlink_to(folder / "train" / "0")
    source = KaggleSource(str(folder))
    assert kinds(source, "0a") == {
        "0a1b.jpg": "file",
        "0a1x.jpg": "outward link",
        "0a1y.jpg": "broken link",
        "0a1z.jpg": "broken link",
        "0a2c.jpg": "file",
        "circle": "circular link",
        "folder": "outward link",
    }
    assert [m.data for m in walked(source, "0a") if m.kind.endswith("link")] == [None] * 5
    assert b"secret" not in {m.data for m in walked(source, "0a")}


@pytest.mark.parametrize("pool", ["pool", "train/pool", "elsewhere"])
def test_a_folder_of_links_is_read_as_if_the_files_lay_there(folder: Path, tmp_path: Path, pool: str) -> None:
    """By relative and absolute links to files and to folders; where `train` itself is a link, inside that too."""
    plain = KaggleSource(str(folder))
    expected = {key: walked(plain, key) for key in plain.shards("train")}
    if pool == "elsewhere":
        (folder / "train").rename(tmp_path / "disk")
        (folder / "train").symlink_to(tmp_path / "disk")
        pool = "train/elsewhere"
    (folder / pool).mkdir()
    for number, path in enumerate(sorted((folder / "train").glob("?/?/?/*.jpg"))):
        target = folder / pool / f"{number}.bin"
        path.rename(target)
        path.symlink_to(target if number else os.path.relpath(target.resolve(), path.parent.resolve()))
    (folder / "train/f").rename(folder / pool / "f-folder")
    (folder / "train/f").symlink_to(folder / pool / "f-folder")
    (folder / "train/0/a/2").rename(folder / pool / "deep-folder")
    (folder / "train/0/a/2").symlink_to(folder / pool / "deep-folder")
    source = KaggleSource(str(folder))
    # Photographs of folders that lie elsewhere below the split are in two places.
    assert source.shards("train") == (["0a", "f0"] if pool == "pool" else ["0a", "f0", "loose"])
    assert {key: walked(source, key) for key in ("0a", "f0")} == expected
    places = [Place(m.source_path, m.offset, m.size) for members in expected.values() for m in members]
    assert list(source.read_members(places)) == [m.data for members in expected.values() for m in members]
    before = source.shard_digest("train", "f0", require_md5=False)
    assert (folder / "train/f/0/0/f00d.jpg").write_bytes(b"other") == 5  # through the links
    assert source.shard_digest("train", "f0", require_md5=False) != before


def test_a_link_that_is_turned_outward_on_the_way_is_not_followed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "pool").mkdir()
    (folder / "pool/one").write_bytes(b"one")
    link = folder / "train/0/a/1/0a1b.jpg"
    link.unlink()
    link.symlink_to(folder / "pool/one")
    source = KaggleSource(str(folder))
    original = os.path.realpath

    def resolved(path: str | Path) -> str:
        found = original(path)
        if str(path).endswith("0a1b.jpg"):
            (folder / "pool/one").unlink(missing_ok=True)
            (folder / "pool/one").symlink_to(tmp_path / "secret")
        return found

    monkeypatch.setattr(os.path, "realpath", resolved)
    (error,) = source.read_members([Place("train/0/a/1/0a1b.jpg", 0, 6)])
    assert isinstance(error, SourceError)


def test_devices_are_named_and_not_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "train/0/a/1/pipe.jpg")  # to open it would wait for ever
    monkeypatch.chdir(folder / "train/0/a/1")  # the path of a socket may not be long
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.jpg")
        found = kinds(KaggleSource(str(folder)), "0a")
    assert found["pipe.jpg"] == found["s.jpg"] == "device"


def test_files_over_the_limit_are_not_read(folder: Path) -> None:
    (folder / "train/f/0/large.jpg").write_bytes(bytes(1001))
    (folder / "train/f/0/just.jpg").write_bytes(bytes(1000))
    members = {m.name: m for m in walked(KaggleSource(str(folder)), "f0")}
    large, just = members["train/f/0/large.jpg"], members["train/f/0/just.jpg"]
    assert (large.kind, large.size, large.data) == ("file", 1001, None)
    assert (just.kind, just.size, just.data) == ("file", 1000, bytes(1000))


def many(folder: Path, count: int, size: int = 100) -> list[str]:
    """So many more files of shard 0a, beside those it has; names of them all, sorted."""
    for number in range(count):
        (folder / f"train/0/a/1/0a1{number:05d}.jpg").write_bytes(b"%05d" % number * (size // 5))
    return sorted(str(p.relative_to(folder)) for p in (folder / "train/0/a").rglob("*.jpg"))


def test_many_files_come_in_order_read_ahead_of_the_caller(folder: Path) -> None:
    names = many(folder, 700)
    members = walked(KaggleSource(str(folder)), "0a")
    assert [m.name for m in members] == [m.source_path for m in members] == names
    assert [m.data for m in members] == [(folder / name).read_bytes() for name in names]


def test_no_more_bytes_are_read_ahead_than_the_limit(folder: Path) -> None:
    names = many(folder, 200, size=2**20)
    tracemalloc.start()
    try:
        members = KaggleSource(str(folder)).members("train", "0a", require_md5=False, max_member_bytes=2**21)
        seen = 0
        for member in members:
            seen += member.size
            del member
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen >= 200 * 2**20 - 200 * 5
    assert len(names) == 202
    assert peak < BYTES_AHEAD + 12 * 2**20


def test_a_file_that_vanishes_on_the_way(folder: Path) -> None:
    names = many(folder, 700)
    members = KaggleSource(str(folder)).members("train", "0a", require_md5=True, max_member_bytes=1000)
    assert next(members).name == names[0]
    (folder / names[-1]).unlink()  # it was listed, and is too far behind to have been read
    *others, gone = members
    assert [m.kind for m in others] == ["file"] * 700
    assert (gone.name, gone.kind, gone.data) == (names[-1], "unreadable file", None)


def test_a_file_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.open

    def refusing(path: str, *given: int, **named: int) -> int:  # permissions do not stop a test that runs as root
        if path == "0a1b.jpg":
            raise PermissionError(13, "Permission denied", path)
        return original(path, *given, **named)

    monkeypatch.setattr(os, "open", refusing)
    source = KaggleSource(str(folder))
    assert [(m.kind, m.size, m.data) for m in walked(source, "0a")] == [
        ("unreadable file", 3, None),
        ("file", 3, b"two"),
    ]
    (error,) = source.read_members([Place("train/0/a/1/0a1b.jpg", 0, 3)])
    assert isinstance(error, SourceError)
    assert "Permission denied" in str(error)


def test_a_folder_that_cannot_be_listed_is_no_empty_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = KaggleSource(str(folder))
    original = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("train/0/a/2"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", refusing)
    for use in (lambda: walked(source, "0a"), lambda: source.shard_digest("train", "0a", require_md5=False)):
        with pytest.raises(SourceError, match=r"train/0/a/2: cannot be listed: Permission denied"):
            use()


def test_the_digest_is_of_names_sizes_and_times(folder: Path) -> None:
    source = KaggleSource(str(folder))
    first = source.shard_digest("train", "0a", require_md5=True)
    assert source.shard_digest("train", "0a", require_md5=False) == first
    assert source.shard_digest("train", "f0", require_md5=False) != first
    one = folder / "train/0/a/1/0a1b.jpg"
    os.utime(one, ns=(1, 1))
    touched = source.shard_digest("train", "0a", require_md5=False)
    assert touched != first
    one.write_bytes(b"longer")
    os.utime(one, ns=(1, 1))
    assert source.shard_digest("train", "0a", require_md5=False) not in {first, touched}


def test_the_digest_of_a_folder_that_changes_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = KaggleSource(str(folder))
    listed = source._names("train", "0a")
    monkeypatch.setattr(source, "_names", lambda split, shard: listed)
    (folder / "train/0/a/2/0a2c.jpg").unlink()
    assert source.shard_digest("train", "0a", require_md5=False)


LOOSE = ("readme.jpg", "0/short.jpg", "0/ab/c/x.jpg", "extra/deep/y.jpg", "0/link", "link", "é/a/z.jpg")


def test_everything_is_in_exactly_one_shard(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.jpg").write_bytes(b"secret")
    for name in LOOSE:
        path = folder / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "link":
            path.symlink_to(tmp_path / "outside")
        else:
            path.write_bytes(name.encode())
    (folder / "train/0/a/straight.jpg").write_bytes(b"1")  # below its two characters, however deep
    (folder / "train/0/a/1/deeper/still").mkdir(parents=True)
    (folder / "train/0/a/1/deeper/still/z.jpg").write_bytes(b"2")
    (folder / "train/empty").mkdir()
    source = KaggleSource(str(folder))
    assert source.shards("train") == ["0a", "f0", "loose"]
    assert source.shards("test") == ["77"]
    found = [member for shard in source.shards("train") for member in walked(source, shard)]
    there = [p for p in (folder / "train").rglob("*") if p.is_symlink() or p.is_file()]
    assert sorted(m.name for m in found) == sorted(p.relative_to(folder).as_posix() for p in there)
    assert {m.name: m.kind for m in walked(source, "loose")} == {
        f"train/{name}": "outward link" if name.endswith("link") else "file" for name in LOOSE
    }
    assert b"secret" not in [m.data for m in found]
    assert source.shard_digest("train", "loose", require_md5=False) != source.shard_digest(
        "train", "0a", require_md5=False
    )


def test_no_loose_shard_where_nothing_is_loose(folder: Path) -> None:
    (folder / "train/empty/deep").mkdir(parents=True)
    source = KaggleSource(str(folder))
    assert source.shards("train") == ["0a", "f0"]
    with pytest.raises(SourceError, match="no shard loose"):
        walked(source, "loose")


def test_what_systems_and_people_leave_makes_no_shard(folder: Path) -> None:
    for name in (".DS_Store", "0/.DS_Store", "README.txt", "0/._x.jpg", "__MACOSX/0/a/0a1b.jpg", "f/Thumbs.db"):
        (folder / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "train" / name).write_bytes(b"x")
    source = KaggleSource(str(folder))
    assert source.shards("train") == ["0a", "f0"]
    assert list(source.shard_stamps("train")) == ["0a", "f0"]
    with pytest.raises(SourceError, match=r"2 train shards, 0a to f0"):
        walked(source, "loose")
    (folder / "train/lost.png").write_bytes(b"x")
    assert source.shards("train") == ["0a", "f0", "loose"]
    stamps = source.shard_stamps("train")
    assert list(stamps) == ["0a", "f0", "loose"]
    assert {key: source.shard_stamp("train", key) for key in stamps} == stamps
    with pytest.raises(SourceError, match="no shard zz"):
        source.shard_stamp("train", "zz")
    assert len(walked(source, "loose")) == 7


def test_the_images_may_lie_on_another_disk(folder: Path, tmp_path: Path) -> None:
    (folder / "train").rename(tmp_path / "disk")
    (folder / "train").symlink_to(tmp_path / "disk")
    source = KaggleSource(str(folder))
    assert [m.data for m in walked(source, "0a")] == [b"one", b"two"]
    assert list(source.read_members([Place("train/f/0/0/f00d.jpg", 2, 3)])) == [b"ree"]


# Single places


def test_places_come_in_their_order_and_each_fault_in_its_own_stead(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.jpg").write_bytes(b"secret")
    (folder / "train/0/a/1/link.jpg").symlink_to(tmp_path / "outside" / "secret.jpg")
    (folder / "train/0/b").symlink_to(tmp_path / "outside")
    (folder / "secret.jpg").write_bytes(b"secret")
    os.mkfifo(folder / "train/0/a/1/pipe.jpg")
    source = KaggleSource(str(folder))
    good = Place("train/0/a/1/0a1b.jpg", 1, 2)
    bad = {
        "train/0/a/1/link.jpg": "",
        "train/0/b/secret.jpg": "",
        "train/0/a/1/pipe.jpg": "no regular file",
        "train/0/a/1": "",
        "train/0/a/1/absent.jpg": "No such file",
        "train/../secret.jpg": "no file below",
        "train/0/../../secret.jpg": "no file below",
        "../outside/secret.jpg": "no file below",
        str(tmp_path / "outside/secret.jpg"): "no file below",
        "secret.jpg": "no file below",
        "train.csv": "no file below",
        "train//0/a/1/0a1b.jpg": "no file below",
        "": "no file below",
        "train/0/a/1/0a1b.jpg\0": "null",
    }
    places = [place for name in bad for place in (good, Place(name, 0, 6))]
    found = list(source.read_members([*places, Place(good.name, 2, 5), good]))
    assert found[::2] == [b"ne"] * len(bad) + [found[-2]]
    assert found[-1] == b"ne"
    for (name, words), error in zip(bad.items(), found[1:-1:2], strict=True):
        assert isinstance(error, SourceError), name
        assert repr(name) in str(error)
        assert words in str(error)
    assert isinstance(found[-2], SourceError)
    assert "expected 5 bytes at 2, found 1" in str(found[-2])


def test_places_of_members_are_their_bytes(folder: Path) -> None:
    many(folder, 300)
    source = KaggleSource(str(folder))
    members = walked(source, "0a")
    places = [Place(m.source_path, m.offset, m.size) for m in members]
    assert list(source.read_members(iter(places))) == [m.data for m in members]


def test_descriptors_are_closed(folder: Path) -> None:
    many(folder, 100)
    source = KaggleSource(str(folder))
    list(source.read_members([Place("train/0/a/1/nowhere/x.jpg", 0, 1)]))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        walked(source, "0a")
        list(source.read_members([Place("train/0/a/1/nowhere/x.jpg", 0, 1), Place("train/9/9/x.jpg", 0, 1)]))
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
