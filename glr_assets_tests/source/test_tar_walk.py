"""Our walk through a TAR beside Python's tarfile and GNU tar: every format and kind, any blocks, damage and cuts."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from glr_assets.source.base import BEHIND_END_MARK, BYTES_BEHIND_END_MARK, Member
from glr_assets.source.tar_walk import BYTES_BEHIND_NAME, MAX_HEADER_BYTES, DamagedTarError, walk

RECORD = 512
LARGE = 2**26
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
KINDS = [
    *(tarfile.REGTYPE, tarfile.REGTYPE, tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE),
    *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"),
]


def cut_up(data: bytes, block: int) -> Iterator[bytes]:
    return (data[at : at + block] for at in range(0, len(data), block))


def ours(data: bytes, block: int = 2**20, limit: int = LARGE, end_mark: bool = True) -> list[Member]:
    return list(walk(cut_up(data, block), "x.tar", max_member_bytes=limit, end_mark=end_mark))


class _Strict(tarfile.TarInfo):
    """A header of which only blocks of zeros end an archive, where tarfile also lets damage and a cut end it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == RECORD and not any(buf):
                raise
            raise tarfile.ReadError(str(error)) from error


def theirs(data: bytes) -> list[tuple[str, str, int, bytes | None]]:
    """Name, kind, offset and data of each member as tarfile has them."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", tarinfo=_Strict) as tar:
        for entry in tar:
            content = None
            if entry.isreg() and not entry.issparse():
                file = tar.extractfile(entry)
                assert file is not None
                content = file.read()
                if len(content) != entry.size:
                    raise tarfile.ReadError("cut")
            found.append(
                (entry.name.rstrip("/") if entry.isdir() else entry.name, _kind(entry), entry.offset_data, content)
            )
    return found


def _kind(entry: tarfile.TarInfo) -> str:
    if entry.issparse():
        return "sparse file"
    if entry.isreg():
        return "file"
    if entry.isdir():
        return "directory"
    if entry.issym() or entry.islnk():
        return "link"
    return "device" if entry.isdev() else "unknown kind"


def plain(members: list[Member]) -> list[tuple[str, str, int, bytes | None]]:
    return [(m.name, m.kind, m.offset, None if m.data is None else bytes(m.data)) for m in members]


name_parts = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
names = st.one_of(
    st.lists(name_parts, min_size=1, max_size=5).map("/".join),
    st.text("ab/é.", min_size=1, max_size=300).map(lambda text: f"/{text}x".replace("//", "/a/")),
    st.sampled_from(["../../etc/passwd", "/etc/passwd", "a" * 100, "b" * 99 + "é", "c/" * 120 + "d", "e" * 101, " "]),
)
entries = st.tuples(names, st.binary(max_size=1600), st.sampled_from(KINDS), names, st.dictionaries(
    st.sampled_from(["comment", "SCHILY.xattr.user.x", "mtime", "GNU.volume"]), st.just("1.5"), max_size=2
))  # fmt: skip


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Archives of any members, of one format or of several put together."""
    parts = []
    for _ in range(draw(st.integers(1, 2))):
        form = draw(st.sampled_from(sorted(FORMATS.values())))
        common = {"comment": "of all"} if form == tarfile.PAX_FORMAT and draw(st.booleans()) else None
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form, pax_headers=common) as tar:
            for name, data, kind, link, pax in draw(st.lists(entries, min_size=1 if common else 0, max_size=6)):
                if kind == tarfile.AREGTYPE and name.encode()[:100].endswith(b"/"):
                    kind = tarfile.REGTYPE  # tarfile takes it for a directory whose data is the next header
                header = tarfile.TarInfo(name)
                header.type, header.linkname = kind, link if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE) else ""
                header.uid = draw(st.sampled_from([0, 1000, 0o7777777, 2**40 if form != tarfile.USTAR_FORMAT else 5]))
                header.pax_headers = pax if form == tarfile.PAX_FORMAT else {}
                with_data = header.isreg() or kind == b"Z"
                header.size = len(data) if with_data else 0
                try:
                    tar.addfile(header, io.BytesIO(data) if with_data else None)
                except ValueError:
                    continue  # too long a name for this format
            written = tar.offset
        parts.append(file.getvalue()[:written])
    return b"".join(parts) + bytes(2 * RECORD)


@settings(max_examples=250)
@given(data=archives(), block=st.sampled_from([1, 7, 511, 512, 513, 4096, 2**20]))
def test_any_archive_in_any_blocks_is_as_tarfile_reads_it(data: bytes, block: int) -> None:
    members = ours(data, block)
    assert plain(members) == theirs(data)
    for member in members:
        assert member.offset + member.size <= len(data)
        if member.data is not None:
            assert data[member.offset : member.offset + member.size] == member.data
    # Those over the limit are the same members without their data.
    for member, small in zip(members, ours(data, block, limit=700), strict=True):
        assert (member.name, member.kind, member.offset, member.size) == (
            small.name,
            small.kind,
            small.offset,
            small.size,
        )
        assert small.data == (None if member.size > 700 else member.data)


@settings(max_examples=250)
@given(data=archives(), at=st.integers(0, 10**6), block=st.sampled_from([100, 512, 2**20]))
def test_an_archive_cut_anywhere_before_its_end_mark_is_an_error(data: bytes, at: int, block: int) -> None:
    members = ours(data)
    end = len(data) - 2 * RECORD
    cut = at % (end + 1)
    with pytest.raises(DamagedTarError, match=r"byte \d+"):
        ours(data[:cut], block)
    assert plain(ours(data[: end + RECORD], block)) == plain(members)
    # Where the end mark may be missing, an archive may end after any member and nowhere else.
    try:
        found = ours(data[:cut], block, end_mark=False)
    except DamagedTarError:
        return
    assert plain(found) == plain(members)[: len(found)]
    assert cut % RECORD == 0
    assert cut > 0


def test_an_archive_cut_at_each_of_its_bytes_is_an_error() -> None:
    data = written(("a.jpg", b"1" * 700), ("deep/" * 30 + "b.jpg", b"2" * 512), ("c.jpg", b""))
    end = len(data) - len(data.rstrip(b"\0")) and data.rindex(b"c.jpg") + RECORD
    for cut in range(end + 1):
        with pytest.raises(DamagedTarError):
            ours(data[:cut])
    ends = [cut for cut in range(end + 1) if complete(data[:cut])]
    assert len(ends) == 3


def complete(data: bytes) -> bool:
    try:
        ours(data, end_mark=False)
    except DamagedTarError:
        return False
    return True


@settings(max_examples=600)
@given(
    data=archives(),
    changes=st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 511), st.integers(0, 255)), min_size=1, max_size=4
    ),
    repair=st.booleans(),
)
def test_where_both_make_sense_of_damage_they_make_the_same(
    data: bytes, changes: list[tuple[int, int, int]], repair: bool
) -> None:
    assume(len(data) > 2 * RECORD)
    damaged = bytearray(data)
    for block, at, value in changes:
        start = block % (len(data) // RECORD) * RECORD
        if 124 <= at < 136 and data[start + 156] in b"xgX":
            continue  # tarfile reads the text of a pax header beyond the size that is said
        damaged[start + at] = value
        if repair:  # so that the damage gets past the header's checksum
            total = tarfile.calc_chksums(bytes(damaged[start : start + RECORD]))[0]
            damaged[start + 148 : start + 156] = b"%06o\0 " % total
    try:
        members = ours(bytes(damaged))
    except DamagedTarError as error:
        assert "byte" in str(error)  # noqa: PT017
        return
    for member in members:
        assert member.offset + member.size <= len(damaged)
    try:
        expected = theirs(bytes(damaged))
    except (tarfile.TarError, ValueError, RecursionError):
        return
    assert plain(before_the_mark(members)) == expected


def before_the_mark(members: list[Member]) -> list[Member]:
    return [member for member in members if not member.kind.endswith(BEHIND_END_MARK)]


@settings(max_examples=150)
@given(
    st.lists(archives(), min_size=1, max_size=3),
    st.lists(st.integers(0, 25), min_size=3, max_size=3),
    st.sampled_from([1, 100, 512, 513, 2**20]),
)
def test_archives_behind_the_end_mark_are_named_as_tarfile_reads_them(
    joined: list[bytes], padding: list[int], block: int
) -> None:
    data = b"".join(archive + bytes(RECORD * more) for archive, more in zip(joined, padding, strict=False))
    members = ours(data, block)
    first = theirs(joined[0])
    assert plain(members[: len(first)]) == first
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", ignore_zeros=True) as tar:
        expected = [
            (entry.name.rstrip("/") if entry.isdir() else entry.name, _kind(entry), entry.offset_data) for entry in tar
        ]
    found = [(member.name, member.kind.removesuffix(BEHIND_END_MARK), member.offset) for member in members]
    assert found == expected
    assert len(before_the_mark(members)) == len(first)
    assert all(member.data is None for member in members[len(first) :])


# By hand


def written(*files: tuple[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as tar:
        for name, data in files:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return target.getvalue()


def raw(name: bytes = b"a.jpg", kind: bytes = b"0", size: bytes = b"00000000003\0", data: bytes = b"abc") -> bytes:
    """A record with these very bytes in its fields, a checksum that is right, and its data."""
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    block[:100], block[124:136], block[156:157] = name.ljust(100, b"\0"), size.ljust(12, b"\0"), kind
    return checked(block) + data + bytes(-len(data) % RECORD)


def checked(block: bytearray, signed: bool = False) -> bytes:
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[int(signed)]
    return bytes(block)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    text = b""
    for key, value in records:
        length = len(key) + len(value) + 3
        length += len(str(length + len(str(length))))
        text += b"%d %s=%s\n" % (length, key, value)
    return raw(b"pax", kind, b"%011o\0" % len(text), text)


END = bytes(2 * RECORD)


def test_data_within_a_block_is_not_copied() -> None:
    data = written(("a.jpg", b"1" * 700), ("b.jpg", b"2" * 700))
    (whole, _) = ours(data)
    assert isinstance(whole.data, memoryview)
    assert whole.data.readonly
    assert whole.data.obj == data
    halves = list(walk(cut_up(data, 800), "x", max_member_bytes=LARGE))
    assert [type(member.data) for member in halves] == [bytes, bytes]
    assert plain(halves) == plain(ours(data))


@pytest.mark.parametrize(
    "size", [b"\x80" + (3).to_bytes(11, "big"), b"3\0\0\0\0\0\0\0\0\0\0\0", b"          3 ", b"000000000003"]
)
def test_forms_of_a_number(size: bytes) -> None:
    data = raw(size=size) + END
    assert plain(ours(data)) == theirs(data) == [("a.jpg", "file", RECORD, b"abc")]


@pytest.mark.parametrize(
    "size", [b"\xff" * 12, b"-0000000003\0", b"0x000000003\0", b"0000000000z\0", b"1_7\0" * 3, b"9" * 12]
)
def test_what_is_no_number(size: bytes) -> None:
    with pytest.raises(DamagedTarError, match="is no number, at byte 0"):
        ours(raw(size=size) + END)


def test_a_size_beyond_all_files_is_a_cut_and_no_member() -> None:
    size = b"\x80" + b"\x7f" * 11
    seen = []
    with pytest.raises(DamagedTarError, match="its header says"):  # noqa: PT012
        for member in walk(cut_up(raw(b"good") + raw(size=size) + END, 512), "x", max_member_bytes=LARGE):
            seen.append(member.name)
    assert seen == ["good"]


def test_checksums_of_signed_bytes() -> None:
    block = bytearray(raw(b"\xc3\xa9\xff.jpg")[:RECORD])
    data = checked(block, signed=True) + b"abc" + bytes(RECORD - 3) + END
    assert tarfile.calc_chksums(bytes(block))[0] != tarfile.calc_chksums(bytes(block))[1]
    assert plain(ours(data)) == theirs(data) == [("é\udcff.jpg", "file", RECORD, b"abc")]


def test_pax_headers_go_before_the_members_own() -> None:
    long = "ü/" * 200 + "x.jpg"
    data = (
        pax((b"path", b"of all"), (b"comment", b"x"), kind=b"g")
        + raw(b"one.jpg")
        + pax((b"size", b"3"), (b"path", long.encode()), (b"path", b"last holds/"))
        + raw(b"two.jpg", size=b"77777777777\0")
        + pax((b"linkpath", b"/etc/passwd"), (b"path", b"link"))
        + raw(kind=b"2", size=b"00000000700\0", data=b"")
        + raw(b"three.jpg")
        + END
    )
    members = ours(data)
    assert plain(members) == theirs(data)
    assert [(m.name, m.size) for m in members] == [("of all", 3), ("last holds", 3), ("link", 0), ("of all", 3)]


@pytest.mark.parametrize(
    "records",
    [b"8 path=a\n", b"11 path=abc\n", b"x", b"5 a=b", b"0 path=\n", b"99999999999999999999 path=a\n", b"8path=a\n"],
)
def test_a_damaged_pax_header(records: bytes) -> None:
    header = raw(b"pax", b"x", b"%011o\0" % len(records), records)
    with pytest.raises(DamagedTarError, match="a pax header is damaged"):
        ours(header + raw() + END)


@pytest.mark.parametrize("value", [b"-3", b"", b"3.0", b"0x3", b"1e3", "٣".encode(), b" 3"])
def test_a_pax_size_that_is_none(value: bytes) -> None:
    with pytest.raises(DamagedTarError, match=r"gives 'a\.jpg' the size"):
        ours(pax((b"size", value)) + raw() + END)


@pytest.mark.parametrize("key", [b"size", b"GNU.sparse.name", b"GNU.sparse.map"])
def test_what_a_global_header_may_not_say(key: bytes) -> None:
    with pytest.raises(DamagedTarError, match="a global pax header"):
        ours(pax((key, b"3"), kind=b"g") + raw() + END)


@pytest.mark.parametrize(
    "header", [pax((b"path", b"n")), pax((b"comment", b"n"), kind=b"g"), raw(kind=b"L"), raw(kind=b"K")]
)
@pytest.mark.parametrize("end_mark", [True, False])
def test_a_header_that_extends_nothing(header: bytes, end_mark: bool) -> None:
    for rest in (END, b"", raw()[:100]):
        with pytest.raises(DamagedTarError):
            ours(header + rest, end_mark=end_mark)
    assert len(ours(header + raw() + END, end_mark=end_mark)) == 1


@pytest.mark.parametrize("block", [1, 511, 512, 5000, 2**20])
def test_other_bytes_behind_the_end_mark_are_one_member(block: int) -> None:
    one, two = written(("a.jpg", b"1")), written(("b.jpg", b"22"), ("c.jpg", b"3" * 600))
    for rest in (b"more" * 1000, b"x", bytes(512) + b"x"):
        *members, last = ours(one + rest, block)
        assert [member.name for member in members] == ["a.jpg"]
        begin = len(one) + len(rest) - len(rest.lstrip(b"\0"))
        assert (last.kind, last.offset, last.size) == (BYTES_BEHIND_END_MARK, begin, len(one) + len(rest) - begin)
    # A second archive that is cut within a member, or whose second header is damaged.
    cut = one + two[:1800]
    damaged = one + two[:1024] + b"?" + two[1025:]
    for data in (cut, damaged):
        names = [(member.name, member.kind, member.offset, member.size) for member in ours(data, block)]
        assert names == [
            ("a.jpg", "file", 512, 1),
            ("b.jpg", f"file{BEHIND_END_MARK}", len(one) + 512, 2),
            (BYTES_BEHIND_NAME, BYTES_BEHIND_END_MARK, len(one) + 1024, len(data) - len(one) - 1024),
        ]
    assert len(ours(one + bytes(100_000), block)) == 1


# Sparse files, as GNU tar makes them


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar command here")
@pytest.mark.parametrize("pieces", [1, 4, 5, 26, 60])
@pytest.mark.parametrize("form", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_files_pass_by_and_the_next_member_is_right(tmp_path: Path, pieces: int, form: str) -> None:
    long = "n" * 120 + ".jpg"
    for name in ("holes.jpg", long):
        with (tmp_path / name).open("wb") as file:
            for piece in range(pieces):
                file.seek(200_000 * piece + 100_000)
                file.write(b"%d" % piece * 3000)
            file.truncate(200_000 * pieces + 123_456)
    for name in ("after.jpg", "last.jpg"):
        (tmp_path / name).write_bytes(b"after" * 300)
    format_options = ["--format=gnu"] if form == "gnu" else ["--format=pax", f"--sparse-version={form}"]
    files = ["holes.jpg", "after.jpg", long, "last.jpg"]
    command = ["tar", "-S", "--hole-detection=raw", *format_options, "-cf", "x.tar", *files]
    subprocess.run(command, cwd=tmp_path, check=True)
    data = (tmp_path / "x.tar").read_bytes()
    assert len(data) < 200_000 * pieces  # else it was not stored as a sparse file
    for block in (100, 2**20):
        members = ours(data, block)
        assert [(m.name, m.kind) for m in members] == [
            ("holes.jpg", "sparse file"),
            ("after.jpg", "file"),
            (long, "sparse file"),
            ("last.jpg", "file"),
        ]
        assert [kind for _, kind, *_ in theirs(data)] == [m.kind for m in members]
        for member in members:
            assert member.offset + member.size <= len(data)
            assert (member.data == b"after" * 300) if member.kind == "file" else (member.data is None)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_long_name_cut_at_a_slash_is_no_directory(form: int) -> None:
    header = tarfile.TarInfo("c/" * 120 + "d.jpg")
    header.type, header.size = tarfile.AREGTYPE, 5
    data = (
        header.tobuf(form) + b"12345" + bytes(RECORD - 5) + raw() + raw(b"old/", kind=b"\0", size=b"0", data=b"") + END
    )
    assert [(m.name, m.kind, m.data) for m in ours(data)] == [
        ("c/" * 120 + "d.jpg", "file", b"12345"),
        ("a.jpg", "file", b"abc"),
        ("old", "directory", None),
    ]


def test_the_map_of_a_sparse_file_may_be_cut() -> None:
    block = bytearray(raw(kind=b"S")[:RECORD])
    block[482] = 1
    for rest in (b"", bytes(100), b"\1" * RECORD):
        with pytest.raises(DamagedTarError, match="map of a sparse file is cut"):
            ours(checked(block) + rest)


# Memory


def peak_of(blocks: Iterator[bytes], limit: int = 2**20) -> tuple[int, int]:
    """Members, and the most memory that was held at once while they passed."""
    tracemalloc.start()
    try:
        count = sum(1 for _ in walk(blocks, "x", max_member_bytes=limit))
        return count, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_member_over_the_limit_is_never_held() -> None:
    block = bytes(2**16)

    def blocks() -> Iterator[bytes]:
        yield raw(size=b"%011o\0" % 2**29, data=b"")
        for _ in range(2**29 // len(block)):
            yield block
        yield raw() + END

    count, peak = peak_of(blocks())
    assert count == 2
    assert peak < 2**20


@pytest.mark.parametrize("kind", [b"L", b"x", b"g"])
def test_a_header_of_any_size_is_not_held(kind: bytes) -> None:
    with pytest.raises(DamagedTarError, match=f"at most {MAX_HEADER_BYTES} are read, at byte 512"):
        ours(raw(size=b"0", data=b"") + raw(kind=kind, size=b"\x80" + (10 * 2**30).to_bytes(11, "big"), data=b""))
    size = b"%011o\0" % MAX_HEADER_BYTES
    fill = bytes(MAX_HEADER_BYTES) if kind != b"L" else b"n" * MAX_HEADER_BYTES
    (member,) = ours(raw(kind=kind, size=size, data=fill) + raw() + END)
    assert member.data == b"abc"
    assert len(member.name) == (MAX_HEADER_BYTES if kind == b"L" else 5)


def test_a_long_link_name_of_any_size_passes_by() -> None:
    def blocks() -> Iterator[bytes]:
        yield raw(kind=b"K", size=b"%011o\0" % 2**25, data=b"")
        for _ in range(2**25 // 2**16):
            yield bytes(2**16)
        yield raw(kind=b"2", data=b"", size=b"0") + END

    count, peak = peak_of(blocks())
    assert count == 1
    assert peak < 2**20


@pytest.mark.parametrize("kind", [b"L", b"x", b"g"])
def test_memory_does_not_grow_with_the_headers(kind: bytes) -> None:
    def chained(length: int) -> Iterator[bytes]:
        for number in range(length):
            yield (
                raw(kind=kind, data=b"n%d" % number, size=b"%011o\0" % len(b"n%d" % number))
                if kind == b"L"
                else pax((b"key%d" % number, b"v" * 300), kind=kind)
            )
        yield raw() + END

    peaks = [peak_of(chained(length)) for length in (50, 4000)]
    assert [count for count, _ in peaks] == [1, 1]
    assert peaks[1][1] < peaks[0][1] + 20_000


def test_members_without_end_leave_nothing_behind() -> None:
    def endless(count: int) -> Iterator[bytes]:
        for number in range(count):
            yield raw(b"%d.jpg" % number)
        yield END

    peaks = [peak_of(endless(count))[1] for count in (100, 4_000)]
    assert peaks[1] < peaks[0] + 20_000


def test_random_bytes_are_no_archive() -> None:
    generator = random.Random(0)
    for _ in range(200):
        data = generator.randbytes(generator.randrange(1, 3000))
        with pytest.raises(DamagedTarError):
            ours(data, generator.choice([1, 100, 5000]))
