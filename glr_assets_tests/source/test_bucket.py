"""A GLDv2-shaped bucket in a folder and on S3: what is there, what is whole, and what each defect is called."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glr_assets.errors import SourceError
from glr_assets.ranges import Place, Retry
from glr_assets.source import BucketSource, Member, open_source
from glr_assets.source.base import Split
from glr_assets.source.layout import SPLITS, TABLE_PATHS, md5_path
from glr_assets.store import Store
from glr_assets_tests.faulty_s3 import FaultyS3

BLOCK = 512
SMALL = 2**20


@pytest.fixture
def copied(bucket: str, tmp_path: Path) -> Path:
    """The bucket, to be changed."""
    return Path(shutil.copytree(bucket, tmp_path / "copy"))


@pytest.fixture
def s3_bucket(bucket: str, s3_endpoint: str) -> BucketSource:
    """The same bucket on the S3 server, below a prefix."""
    name = f"source-{uuid.uuid4().hex}"
    target = Store(f"s3://{name}/gldv2", {"endpoint_url": s3_endpoint})
    target.fs.mkdir(name)
    for path in Path(bucket).rglob("*"):
        if path.is_file():
            target.write(str(path.relative_to(bucket)), path.read_bytes())
    return BucketSource(target.url, target.options)


@pytest.fixture(params=["folder", "file://", "s3"])
def source(request: pytest.FixtureRequest, bucket: str) -> BucketSource:
    """The bucket by each way there."""
    if request.param == "s3":
        found = request.getfixturevalue("s3_bucket")
        assert isinstance(found, BucketSource)
        return found
    return BucketSource(bucket if request.param == "folder" else f"file://{bucket}/")


def walked(source: BucketSource, shard: str = "000", *, md5: bool = True, limit: int = SMALL) -> list[Member]:
    return list(source.members("train", shard, require_md5=md5, max_member_bytes=limit))


def told(error: pytest.ExceptionInfo[BaseException], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert [word for word in words if word not in text] == []


# What is there


def test_tables_and_shards_are_found(source: BucketSource, bucket: str) -> None:
    for name, path in TABLE_PATHS.items():
        file = source.open_table(name)
        assert file is not None
        with file:
            assert file.read() == (Path(bucket) / path).read_bytes()
        assert source.table_url(name) == f"{source.url}/{path}"
    assert source.shards("train") == source.shards("index") == ["000", "001", "002", "003"]


def test_every_member_is_where_it_says(source: BucketSource, bucket: str) -> None:
    splits: tuple[Split, ...] = ("train", "index", "test")
    for split in splits:
        for shard in source.shards(split):
            members = list(source.members(split, shard, require_md5=True, max_member_bytes=SMALL))
            with tarfile.open(Path(bucket) / split / f"images_{shard}.tar") as tar:
                expected = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
            assert {member.name: member.data for member in members} == expected
            assert len(members) == len(expected) > 0
            for member in members:
                assert member.kind == "file"
                assert source.files.read(member.source_path, member.offset, member.size) == member.data


def test_shards_are_sorted_and_of_their_form_only(copied: Path) -> None:
    shard = copied / "train" / "images_000.tar"
    for name in ("images_010.tar", "images_9.tar", "images_100.tar"):
        shutil.copy(shard, copied / "train" / name)
    for name in ("images_011.tar.part", ".images_012.tar.part", "README", "images_.tar", "images_0-1.tar"):
        (copied / "train" / name).write_bytes(b"x")
    (copied / "train" / "images_013.tar").mkdir()
    assert BucketSource(str(copied)).shards("train") == ["000", "001", "002", "003", "010", "100", "9"]
    shutil.rmtree(copied / "index")
    assert BucketSource(str(copied)).shards("index") == []


def test_digests_are_of_content(copied: Path) -> None:
    source = BucketSource(str(copied))
    table = source.table_digest("train")
    assert table == hashlib.sha256((copied / TABLE_PATHS["train"]).read_bytes()).hexdigest()
    shard = source.shard_digest("train", "000", require_md5=True)
    assert shard == hashlib.md5((copied / "train" / "images_000.tar").read_bytes()).hexdigest()
    (copied / TABLE_PATHS["train"]).touch()
    assert source.table_digest("train") == table
    (copied / TABLE_PATHS["train"]).write_text("id,url,landmark_id\n")
    assert source.table_digest("train") != table
    (copied / TABLE_PATHS["index"]).unlink()
    assert source.table_digest("index") == "absent"


def test_digests_on_s3_change_with_the_object(s3_bucket: BucketSource) -> None:
    before = s3_bucket.table_digest("test")
    assert s3_bucket.table_digest("test") == before
    s3_bucket.files.write(TABLE_PATHS["test"], b"id\n")
    assert s3_bucket.table_digest("test") != before
    s3_bucket.files.remove("md5sum/train/md5.images_000.txt")
    shard = s3_bucket.shard_digest("train", "000", require_md5=False)
    s3_bucket.files.write("train/images_000.tar", bytes(10240))
    assert s3_bucket.shard_digest("train", "000", require_md5=False) != shard


# What is absent


def test_the_stamp_of_one_shard_is_that_of_the_listing(source: BucketSource) -> None:
    for split in SPLITS:
        stamps = source.shard_stamps(split)
        assert stamps
        assert {key: source.shard_stamp(split, key) for key in stamps} == stamps


def test_the_stamp_of_a_shard_without_md5_says_so(copied: Path) -> None:
    (copied / md5_path("train", "000")).unlink()
    source = BucketSource(str(copied))
    assert source.shard_stamp("train", "000") == source.shard_stamps("train")["000"]
    assert source.shard_stamp("train", "000").endswith("no md5")


def test_absent_tables_are_none_or_named(copied: Path) -> None:
    source = BucketSource(str(copied))
    for path in TABLE_PATHS.values():
        (copied / path).unlink()
    for name in TABLE_PATHS:
        if name in {"train", "train_clean"}:
            with pytest.raises(SourceError) as error:
                source.open_table(name)
            told(error, f"{source.url}/{TABLE_PATHS[name]} is missing", "GLR_SOURCE")
        else:
            assert source.open_table(name) is None
        assert source.table_digest(name) == "absent"


def test_a_place_without_train_csv(tmp_path: Path, s3_endpoint: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    Store("s3://empty-source", {"endpoint_url": s3_endpoint}).fs.mkdir("empty-source")
    options = {"endpoint_url": s3_endpoint}
    for url in (str(tmp_path / "empty"), f"file://{tmp_path}/nowhere", "s3://empty-source"):
        with pytest.raises(SourceError) as error:
            open_source(url, options if url.startswith("s3") else None)
        told(error, url, "no metadata/train.csv", "glr pack", "GLR_SOURCE")
    with pytest.raises(SourceError) as error:
        open_source(str(tmp_path / "file"))
    told(error, str(tmp_path / "file"), "GLR_SOURCE")
    with pytest.raises(SourceError) as error:
        open_source("s3://no-such-bucket/x", options)
    told(error, "s3://no-such-bucket/x", "there is no bucket of that name")
    with pytest.raises(SourceError, match="nor a folder of that name"):
        open_source(str(tmp_path / "nowhere"))
    (tmp_path / "empty/train.csv").write_text("id,landmark_id\n")
    with pytest.raises(SourceError, match="give kaggle://"):
        open_source(str(tmp_path / "empty"))


def test_an_endpoint_where_nobody_listens(free_tcp_port: int, s3_endpoint: str) -> None:
    options = {"endpoint_url": f"http://127.0.0.1:{free_tcp_port}"}
    with pytest.raises(SourceError) as error:
        open_source("s3://google/x", options)
    told(error, "s3://google/x/metadata/train.csv", str(free_tcp_port), "network")


def test_what_becomes_unreachable_later_is_the_sources_fault(
    s3_bucket: BucketSource, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int
) -> None:
    dead = Store(s3_bucket.url, {"endpoint_url": f"http://127.0.0.1:{free_tcp_port}"})
    dead.fs.config_kwargs["retries"] = {"total_max_attempts": 1}
    monkeypatch.setattr(s3_bucket, "files", dead)
    uses: list[Callable[[], object]] = [
        lambda: s3_bucket.open_table("index"),
        lambda: s3_bucket.table_digest("train"),
        lambda: s3_bucket.shards("train"),
        lambda: s3_bucket.shard_digest("train", "000", require_md5=True),
        lambda: walked(s3_bucket),
        lambda: walked(s3_bucket, md5=False),
    ]
    for use in uses:
        with pytest.raises(SourceError) as error:
            use()
        told(error, s3_bucket.url, str(free_tcp_port), "network")


# Over a line that breaks


@pytest.fixture
def behind(s3_bucket: BucketSource, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> BucketSource:
    """The bucket on S3 behind the proxy, read in blocks far smaller than its shards."""
    monkeypatch.setattr("glr_assets.ranges.BLOCK", 20_000)
    config = {"retries": {"total_max_attempts": 1}, "connect_timeout": 2, "read_timeout": 0.25}
    retry = Retry(attempts=14, first_wait=0.001, longest_wait=0.01)
    return BucketSource(s3_bucket.url, {"endpoint_url": proxy.url, "config_kwargs": config}, retry=retry)


@pytest.mark.parametrize("seed", range(3))
def test_over_a_line_that_breaks_every_member_is_the_same(
    behind: BucketSource, proxy: FaultyS3, bucket: str, seed: int
) -> None:
    expected = [(m.name, m.offset, m.data) for m in walked(BucketSource(bucket))]
    proxy.calm(seed)
    proxy.rates = {"reset": 0.1, "closed": 0.1, "short": 0.1, "stall": 0.05, "slow_down": 0.1}
    members = walked(behind)
    assert [(m.name, m.offset, m.data) for m in members] == expected
    places = [Place(m.source_path, m.offset, m.size) for m in members]
    assert list(behind.read_members(places)) == [m.data for m in members]
    assert sum(proxy.done.values()) > 0


def test_a_shard_takes_no_more_requests_than_it_has_blocks(behind: BucketSource, proxy: FaultyS3, bucket: str) -> None:
    proxy.requests.clear()
    walked(behind)
    size = (Path(bucket) / "train/images_000.tar").stat().st_size
    kinds = Counter((r.method, r.path.rpartition("/")[2]) for r in proxy.requests)
    assert kinds == {
        ("GET", "md5.images_000.txt"): 1,
        ("HEAD", "images_000.tar"): 1,
        ("GET", "images_000.tar"): -(-size // 20_000),
    }


def test_reading_that_breaks_off_says_where(behind: BucketSource, proxy: FaultyS3) -> None:
    members = behind.members("train", "000", require_md5=True, max_member_bytes=SMALL)
    next(members)
    proxy.rates = {"closed": 1}
    with pytest.raises(SourceError) as error:
        list(members)
    told(error, f"{behind.url}/train/images_000.tar", "broke off at byte", "(14 attempts)", "network")


def test_a_shard_replaced_while_it_is_read_is_the_sources_fault(behind: BucketSource, bucket: str) -> None:
    members = behind.members("train", "000", require_md5=False, max_member_bytes=SMALL)
    next(members)
    behind.files.write("train/images_000.tar", (Path(bucket) / "train/images_001.tar").read_bytes())
    with pytest.raises(SourceError) as error:
        list(members)
    told(error, f"{behind.url}/train/images_000.tar", "replaced", "run it again")


def test_places_are_read_and_each_fault_is_told_in_its_own_stead(source: BucketSource) -> None:
    members = walked(source)
    good = [Place(m.source_path, m.offset, m.size) for m in members]
    found = list(source.read_members([*good, Place("train/images_999.tar", 0, 5), Place("../x", 0, 5), good[0]]))
    assert found[: len(good)] == [m.data for m in members]
    assert found[-1] == members[0].data
    for error in found[len(good) : -1]:
        assert isinstance(error, SourceError)
        assert str(error).startswith("source ")


@pytest.mark.parametrize("shard", ["004", "0000", "abc"])
def test_a_shard_that_is_not_there(bucket: str, shard: str) -> None:
    source = BucketSource(bucket)
    uses: list[Callable[[], object]] = [
        lambda: source.shard_digest("train", shard, require_md5=False),
        lambda: walked(source, shard, md5=False),
    ]
    for use in uses:
        with pytest.raises(SourceError) as error:
            use()
        told(error, f"{source.url}/train/images_{shard}.tar is missing", "4 train shards, 000 to 003")


# MD5


def md5_file(root: Path) -> Path:
    return root / "md5sum" / "train" / "md5.images_000.txt"


def test_a_missing_md5_is_refused_unless_it_is_not_required(copied: Path) -> None:
    md5_file(copied).unlink()
    source = BucketSource(str(copied))
    uses: list[Callable[[], object]] = [
        lambda: source.shard_digest("train", "000", require_md5=True),
        lambda: walked(source),
    ]
    for use in uses:
        with pytest.raises(SourceError) as error:
            use()
        told(error, "md5sum/train/md5.images_000.txt is missing", "require_md5 = false")
    assert walked(source, md5=False)
    digest = source.shard_digest("train", "000", require_md5=False)
    shard = copied / "train" / "images_000.tar"
    shard.write_bytes(shard.read_bytes() + bytes(BLOCK))
    assert source.shard_digest("train", "000", require_md5=False) != digest


@pytest.mark.parametrize(
    "text", ["", "\n", "images_000.tar", "0123", "0" * 31 + "g  images_000.tar", "<html>gone</html>", "0" * 33]
)
def test_a_malformed_md5_file(copied: Path, text: str) -> None:
    md5_file(copied).write_text(text)
    for required in (True, False):
        with pytest.raises(SourceError) as error:
            walked(BucketSource(str(copied)), md5=required)
        told(error, "md5sum/train/md5.images_000.txt", "expected `<md5>  images_000.tar`", "correct")


def test_a_malformed_md5_file_of_bytes(copied: Path) -> None:
    md5_file(copied).write_bytes(b"\xff\xfe\n\x00" * 50)
    with pytest.raises(SourceError) as error:
        walked(BucketSource(str(copied)))
    told(error, "md5sum/train/md5.images_000.txt", "expected `<md5>  images_000.tar`")


@pytest.mark.parametrize("form", ["{}", "{}\n", "{}  images_000.tar", "{} *images_000.tar\r\n", "  {}\n"])
def test_forms_of_an_md5_file(copied: Path, form: str) -> None:
    digest = hashlib.md5((copied / "train" / "images_000.tar").read_bytes()).hexdigest()
    for written in (digest, digest.upper()):
        md5_file(copied).write_text(form.format(written))
        assert walked(BucketSource(str(copied)))
        assert BucketSource(str(copied)).shard_digest("train", "000", require_md5=True) == digest


@pytest.mark.parametrize("required", [True, False])
def test_a_wrong_md5_is_found_after_the_last_member(copied: Path, required: bool) -> None:
    whole = len(walked(BucketSource(str(copied))))
    md5_file(copied).write_text("0" * 32 + "  images_000.tar\n")
    seen = []
    with pytest.raises(SourceError) as error:  # noqa: PT012
        for member in BucketSource(str(copied)).members("train", "000", require_md5=required, max_member_bytes=SMALL):
            seen.append(member)
    actual = hashlib.md5((copied / "train" / "images_000.tar").read_bytes()).hexdigest()
    told(error, "train/images_000.tar", f"MD5 is {actual}", f"expected {'0' * 32}", "download it again")
    assert len(seen) == whole


def test_one_changed_byte_of_a_picture_is_found(copied: Path) -> None:
    shard = copied / "train" / "images_000.tar"
    data = bytearray(shard.read_bytes())
    data[3 * BLOCK] ^= 1
    shard.write_bytes(data)
    with pytest.raises(SourceError, match="MD5 is"):
        walked(BucketSource(str(copied)))


def test_bytes_after_the_end_of_the_archive_are_hashed_too(copied: Path) -> None:
    shard = copied / "train" / "images_000.tar"
    shard.write_bytes(shard.read_bytes() + b"not part of the archive" * 1_000_000)
    with pytest.raises(SourceError, match="MD5 is"):
        walked(BucketSource(str(copied)))
    md5_file(copied).write_text(hashlib.md5(shard.read_bytes()).hexdigest())
    *members, rest = walked(BucketSource(str(copied)))
    assert len(members) == 6
    assert (rest.kind, rest.size) == ("bytes behind the end mark", len(b"not part of the archive") * 1_000_000)


# What a TAR can be


@pytest.fixture
def handmade(tmp_path: Path) -> Callable[[bytes], BucketSource]:
    """A bucket whose only shard is the given bytes; its MD5 is not published."""
    (tmp_path / "made" / "metadata").mkdir(parents=True)
    (tmp_path / "made" / "train").mkdir()
    (tmp_path / "made" / "metadata" / "train.csv").write_text("id,url,landmark_id\n")

    def made(data: bytes) -> BucketSource:
        (tmp_path / "made" / "train" / "images_000.tar").write_bytes(data)
        return BucketSource(str(tmp_path / "made"))

    return made


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    header = tarfile.TarInfo(name)
    header.type, header.linkname, header.size = kind, link, len(data)
    return header, data


def archive(*entries: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for header, data in entries:
            tar.addfile(header, io.BytesIO(data))
    return file.getvalue()


THREE = archive(entry("a/one.jpg", b"1" * 700), entry("b/two.jpg", b"2" * 512), entry("c/three.jpg", b"3" * 100))
"""Headers at 0, 1536 and 2560, data at 512, 2048 and 3072, the end mark from 3584 on."""


def test_the_handmade_archive_is_as_its_comment_says(handmade: Callable[[bytes], BucketSource]) -> None:
    members = walked(handmade(THREE), md5=False)
    assert [(member.offset, member.size) for member in members] == [(512, 700), (2048, 512), (3072, 100)]
    assert not any(THREE[3584:])


@pytest.mark.parametrize(
    "length",
    [
        *(1, 100, 511),  # in the first header
        *(512, 513, 1000, 1211, 1212, 1300, 1535),  # in its data and their padding
        *(1536, 1700, 2047, 2048, 2049, 2559),  # the second, which fills its block
        *(2560, 2561, 3071, 3072, 3100, 3172, 3583),  # the third
        3584,  # before the end mark
    ],
)
def test_a_cut_archive_is_found_without_any_md5(handmade: Callable[[bytes], BucketSource], length: int) -> None:
    source = handmade(THREE[:length])
    with pytest.raises(SourceError) as error:
        walked(source, md5=False)
    told(error, f"{source.url}/train/images_000.tar: not a whole TAR", "byte", "cut or damaged")


def test_where_the_md5_is_published_it_tells_of_a_cut_and_the_end_mark_may_be_missing(
    handmade: Callable[[bytes], BucketSource], tmp_path: Path
) -> None:
    without_end, cut = THREE[:3584], THREE[:2560]
    source = handmade(without_end)
    published = tmp_path / "made" / "md5sum" / "train" / "md5.images_000.txt"
    published.parent.mkdir(parents=True)
    published.write_text(f"{hashlib.md5(without_end).hexdigest()}  images_000.tar\n")
    assert len(walked(source)) == 3
    source = handmade(cut)
    with pytest.raises(SourceError, match="MD5 is"):
        walked(source)


@pytest.mark.parametrize("length", [4096, 4608, len(THREE)])
def test_an_archive_with_an_end_mark_is_whole(handmade: Callable[[bytes], BucketSource], length: int) -> None:
    assert len(walked(handmade(THREE[:length]), md5=False)) == 3


@pytest.mark.parametrize(
    "data", [b"", b"x", b"<html>not found</html>" * 100, bytes(range(256)) * 40, b"\x1f\x8b\x08" + bytes(2000)]
)
def test_what_is_no_archive_at_all(handmade: Callable[[bytes], BucketSource], data: bytes) -> None:
    source = handmade(data)
    with pytest.raises(SourceError) as error:
        walked(source, md5=False)
    told(error, f"{source.url}/train/images_000.tar: not a whole TAR")


def test_an_archive_of_nothing_has_no_members(handmade: Callable[[bytes], BucketSource]) -> None:
    assert walked(handmade(archive()), md5=False) == []


def test_a_damaged_header_in_the_middle_is_no_end(handmade: Callable[[bytes], BucketSource]) -> None:
    data = bytearray(THREE)
    data[1536 + 20] ^= 0xFF
    with pytest.raises(SourceError, match="not a whole TAR"):
        walked(handmade(bytes(data)), md5=False)


def test_members_over_the_limit_are_named_and_not_read(handmade: Callable[[bytes], BucketSource]) -> None:
    members = walked(handmade(THREE), md5=False, limit=512)
    assert [(m.name, m.size, m.data is None) for m in members] == [
        ("a/one.jpg", 700, True),
        ("b/two.jpg", 512, False),
        ("c/three.jpg", 100, False),
    ]
    assert [m.kind for m in members] == ["file"] * 3


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_is_no_file_is_named_and_has_no_bytes(handmade: Callable[[bytes], BucketSource], form: int) -> None:
    data = archive(
        entry("folder", kind=tarfile.DIRTYPE),
        entry("hard.jpg", kind=tarfile.LNKTYPE, link="a/one.jpg"),
        entry("soft.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        entry("char.jpg", kind=tarfile.CHRTYPE),
        entry("block.jpg", kind=tarfile.BLKTYPE),
        entry("pipe.jpg", kind=tarfile.FIFOTYPE),
        entry("odd.jpg", b"12", kind=b"Z"),
        entry("old.jpg", b"12", kind=tarfile.AREGTYPE),
        entry("good.jpg", b"34"),
        form=form,
    )
    members = walked(handmade(data), md5=False)
    assert [(m.name, m.kind, m.data) for m in members] == [
        ("folder", "directory", None),
        ("hard.jpg", "link", None),
        ("soft.jpg", "link", None),
        ("char.jpg", "device", None),
        ("block.jpg", "device", None),
        ("pipe.jpg", "device", None),
        ("odd.jpg", "unknown kind", None),
        ("old.jpg", "file", b"12"),
        ("good.jpg", "file", b"34"),
    ]


def test_sparse_files_are_named_and_not_read(handmade: Callable[[bytes], BucketSource]) -> None:
    header, _ = entry("holes.jpg", kind=tarfile.GNUTYPE_SPARSE)
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"%011o\0%011o\0" % (100_000, 3)  # one piece of 3 bytes at 100000
    block[124:136] = b"%011o\0" % 3
    block[483:495] = b"%011o\0" % 100_003
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    data = bytes(block) + b"abc" + bytes(BLOCK - 3) + archive(entry("good.jpg", b"34"))
    members = walked(handmade(data), md5=False)
    assert [(m.name, m.kind, m.data) for m in members] == [
        ("holes.jpg", "sparse file", None),
        ("good.jpg", "file", b"34"),
    ]


LONG = "deep/" * 60 + "a.jpg"
HOSTILE = ["../../etc/passwd", "/etc/passwd", "a/../../b.jpg", "~/x.jpg", "C:\\x.jpg", "a\nb.jpg", "é\u202e.jpg", " "]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_come_as_the_archive_has_them(handmade: Callable[[bytes], BucketSource], form: int) -> None:
    names = [LONG, *HOSTILE]
    data = archive(*(entry(name, name.encode()) for name in names), form=form)
    source = handmade(data)
    members = walked(source, md5=False)
    assert [m.name for m in members] == names
    for member in members:
        assert member.data == member.name.encode()
        assert source.files.read(member.source_path, member.offset, member.size) == member.data
    assert {m.source_path for m in members} == {"train/images_000.tar"}


def test_names_that_are_no_utf_8_come_through(handmade: Callable[[bytes], BucketSource]) -> None:
    header, data = entry("\udcff\udcfe.jpg", b"12")
    (member,) = walked(handmade(archive((header, data), form=tarfile.GNU_FORMAT)), md5=False)
    assert member.name.encode("utf-8", "surrogateescape") == b"\xff\xfe.jpg"


def test_the_same_name_twice_is_two_members(handmade: Callable[[bytes], BucketSource]) -> None:
    members = walked(handmade(archive(entry("a.jpg", b"1"), entry("a.jpg", b"2"))), md5=False)
    assert [(m.name, m.data) for m in members] == [("a.jpg", b"1"), ("a.jpg", b"2")]
    assert members[0].offset != members[1].offset


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_long_name_cut_from_its_member(handmade: Callable[[bytes], BucketSource], form: int) -> None:
    data = archive(entry(LONG, b"12"), form=form)
    for blocks in (1, 2):  # its header and the name; the member's own header would be the third
        with pytest.raises(SourceError, match="not a whole TAR"):
            walked(handmade(data[: blocks * BLOCK]), md5=False)
        with pytest.raises(SourceError, match="not a whole TAR"):
            walked(handmade(data[: blocks * BLOCK] + bytes(1024)), md5=False)


MIXED = archive(
    entry("a.jpg", b"1" * 600),
    entry(LONG, b"2" * 10),
    entry("s", kind=tarfile.SYMTYPE, link="a"),
    form=tarfile.PAX_FORMAT,
) + archive(entry(LONG, b"3"), entry("z.jpg", b"4"), form=tarfile.GNU_FORMAT)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(MIXED) - 1), st.integers(0, 255)), max_size=6),
    length=st.integers(0, len(MIXED)) | st.just(len(MIXED)),
    repair=st.booleans(),
)
def test_whatever_the_bytes_are_the_members_are_in_the_file_or_the_source_is_named(
    handmade: Callable[[bytes], BucketSource], changes: list[tuple[int, int]], length: int, repair: bool
) -> None:
    data = bytearray(MIXED[:length])
    for at, value in changes:
        if at < len(data):
            data[at] = value
            block = at // BLOCK * BLOCK
            if repair and len(data) >= block + BLOCK:  # so that the damage gets past the header's checksum
                total = tarfile.calc_chksums(bytes(data[block : block + BLOCK]))[0]
                data[block + 148 : block + 156] = b"%06o\0 " % total
    source = handmade(bytes(data))
    try:
        members = walked(source, md5=False)
    except SourceError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    for member in members:
        if member.data is not None:
            assert data[member.offset : member.offset + member.size] == member.data
