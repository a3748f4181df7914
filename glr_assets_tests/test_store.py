"""The store: whole files or none, in a folder, in memory and on an S3 server, and errors of one line."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glr_assets.errors import StoreError
from glr_assets.store import READ_BLOCK, Store
from glr_assets_tests.conftest import DiskCalls

PROCESSES = multiprocessing.get_context("fork")
LARGE = 12 * 2**20  # more than READ_BLOCK, and more than one part of an S3 upload


def one_line(error: pytest.ExceptionInfo[BaseException], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert [word for word in words if word not in text] == []


def on_s3(endpoint: str) -> Store:
    store = Store(f"s3://store-{uuid.uuid4().hex}/prefix", {"endpoint_url": endpoint})
    store.fs.mkdir(store.root.partition("/")[0])
    return store


@pytest.fixture(params=["folder", "memory", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of each kind."""
    if request.param == "folder":
        yield Store(str(tmp_path / "store"))
    elif request.param == "memory":
        yield Store(f"memory://{uuid.uuid4().hex}")
    else:
        yield on_s3(request.getfixturevalue("s3_endpoint"))


def every_file(store: Store) -> list[str]:
    """All files below the root as the file system itself lists them, hidden ones too."""
    store.fs.invalidate_cache()
    if store.is_local:
        return sorted(str(p.relative_to(store.root)) for p in Path(store.root).rglob("*") if p.is_file())
    return sorted(path.removeprefix(store.root).lstrip("/") for path in store.fs.find(store.root))


def open_uploads(store: Store) -> list[dict]:
    """Multipart uploads that nobody finished."""
    if "s3" not in store.fs.protocol:
        return []
    answer = store.fs.call_s3("list_multipart_uploads", Bucket=store.root.partition("/")[0])
    return answer.get("Uploads", [])


# Every kind of store


@pytest.mark.parametrize("size", [0, 1, 1000, LARGE])
def test_what_is_written_is_read(any_store: Store, size: int) -> None:
    data = os.urandom(size)
    any_store.write("a/b/file.bin", data)
    assert any_store.read("a/b/file.bin") == data
    assert any_store.size("a/b/file.bin") == size
    assert any_store.exists("a/b/file.bin")
    assert every_file(any_store) == ["a/b/file.bin"]
    with any_store.open("a/b/file.bin") as file:
        assert file.read() == data
    assert open_uploads(any_store) == []


def test_a_file_far_larger_than_a_block_streams_both_ways(any_store: Store) -> None:
    block = os.urandom(2**20)
    with any_store.writing("large") as file:
        for _ in range(2 * READ_BLOCK // 2**20 + 1):
            file.write(block)
    with any_store.open("large") as file:
        read = list(iter(lambda: file.read(3 * 2**20), b""))
    assert b"".join(read) == block * (2 * READ_BLOCK // 2**20 + 1)


def test_ranges(any_store: Store) -> None:
    any_store.write("file", bytes(range(200)))
    assert any_store.read("file", 10, 20) == bytes(range(10, 30))
    assert any_store.read("file", 0, 200) == bytes(range(200))
    assert any_store.read("file", 199, 1) == b"\xc7"
    assert any_store.read("file", 50, 0) == b""
    with any_store.open("file") as file:
        file.seek(150)
        assert file.read(5) == bytes(range(150, 155))
        assert file.tell() == 155
        file.seek(-3, os.SEEK_END)
        assert file.read() == bytes(range(197, 200))


def test_the_head_of_a_file(any_store: Store) -> None:
    any_store.write("file", bytes(range(200)))
    any_store.write("empty", b"")
    assert any_store.head("file", 10) == bytes(range(10))
    assert any_store.head("file", 1000) == bytes(range(200))
    assert any_store.head("empty", 10) == b""
    with pytest.raises(FileNotFoundError):
        any_store.head("absent", 10)


@pytest.mark.parametrize(("offset", "size", "found"), [(190, 20, 10), (200, 5, 0), (5000, 10, 0), (50, 2**50, 150)])
def test_a_range_beyond_the_end_says_so(any_store: Store, offset: int, size: int, found: int) -> None:
    any_store.write("file", bytes(200))
    with pytest.raises(StoreError) as error:
        any_store.read("file", offset, size)
    one_line(error, any_store.full_url("file"), f"{size} bytes at {offset}", f"found {found}", "materialise it again")


def test_what_is_absent(any_store: Store) -> None:
    any_store.write("folder/file", b"x")
    for name in ("file", "folder/other", "folder/file2"):
        assert not any_store.exists(name)
        assert any_store.size(name) is None
        for read in (any_store.open, any_store.read, any_store.info, any_store.read_json):
            with pytest.raises(FileNotFoundError):
                read(name)
    assert not any_store.exists("folder")
    assert any_store.names("nowhere") == []
    any_store.remove("nowhere/file")


def test_names_are_of_whole_files_straight_under_a_folder(any_store: Store) -> None:
    for name in ("train/b", "train/a", "train/deeper/c", "other/d"):
        any_store.write(name, b"x")
    with any_store.writing("train/unfinished"):
        assert any_store.names("train") == ["a", "b"]
    assert any_store.names("train") == ["a", "b", "unfinished"]


def test_folders_are_those_straight_under_a_folder(any_store: Store) -> None:
    assert any_store.folders("models") == []
    for name in ("models/b/x/file", "models/a/file", "models/file"):
        any_store.write(name, b"x")
    assert any_store.folders("models") == ["a", "b"]
    assert any_store.names("models") == ["file"]


def test_removed_and_written_over(any_store: Store) -> None:
    any_store.write("file", b"first, longer")
    any_store.write("file", b"second")
    assert any_store.read("file") == b"second"
    assert any_store.size("file") == 6
    any_store.remove("file")
    assert not any_store.exists("file")
    assert every_file(any_store) == []


class StopError(Exception):
    pass


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("kind", [StopError, KeyboardInterrupt, OSError, FileNotFoundError, PermissionError])
def test_a_block_that_fails_leaves_what_was_there_and_its_own_error(
    any_store: Store, kind: type[BaseException], size: int
) -> None:
    any_store.write("kept", b"as it was")
    for name in ("kept", "fresh/one"):
        with pytest.raises(kind) as error, any_store.writing(name) as file:  # noqa: PT012
            file.write(bytes(size))
            raise kind("of the caller")
        assert type(error.value) is kind
        assert error.value.args == ("of the caller",)
    assert every_file(any_store) == ["kept"]
    assert any_store.read("kept") == b"as it was"
    assert open_uploads(any_store) == []


def test_the_old_file_is_there_until_the_block_ends(any_store: Store) -> None:
    any_store.write("file", b"old")
    with any_store.writing("file") as file:
        file.write(bytes(LARGE))
        file.flush()
        assert any_store.read("file") == b"old"
    assert any_store.size("file") == LARGE


def test_parquet_goes_through(any_store: Store) -> None:
    data = pa.table({"id": [f"{n:016x}" for n in range(1000)]})
    with any_store.writing("t.parquet") as file:
        pq.write_table(data, file)
    with any_store.open("t.parquet") as file:
        assert pq.read_table(file).equals(data)


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc/passwd", "..", "a\\b", "a\0b"])
def test_names_that_lead_out_are_refused(any_store: Store, name: str) -> None:
    uses: list[Callable[[], object]] = [
        lambda: any_store.read(name),
        lambda: any_store.write(name, b"x"),
        lambda: any_store.remove(name),
        lambda: any_store.open(name),
        lambda: any_store.size(name),
        lambda: any_store.names(name),
    ]
    for use in uses:
        with pytest.raises(StoreError) as error:
            use()
        one_line(error, repr(name), any_store.url)
    assert every_file(any_store) == []


def test_json(any_store: Store) -> None:
    any_store.write("good.json", b'{"a": [1, "\xc3\xa9"]}')
    assert any_store.read_json("good.json") == {"a": [1, "é"]}
    for number, wrong in enumerate((b'{"a":', b"", b"\xff\xfe")):
        any_store.write(f"{number}.json", wrong)
        with pytest.raises(StoreError) as error:
            any_store.read_json(f"{number}.json")
        one_line(error, any_store.full_url(f"{number}.json"), "not JSON", "delete it")


# A folder, and its processes


def test_urls_of_folders(tmp_path: Path) -> None:
    for url in (str(tmp_path / "s"), f"{tmp_path}/s/", f"file://{tmp_path}/s", f"file://{tmp_path}/s//"):
        store = Store(url)
        assert store.is_local
        assert store.root == str(tmp_path / "s")
        assert not store.url.endswith("/")
        assert store.full_url("a/b") == f"{store.url}/a/b"
    assert Store("file:///").path("a") == "/a"
    assert not Store("memory://").is_local


@pytest.mark.parametrize("url", ["nosuch://bucket/x", "gs://bucket" if "gcsfs" not in sys.modules else "nosuch://b"])
def test_a_url_that_nothing_opens(url: str) -> None:
    with pytest.raises(StoreError) as error:
        Store(url)
    one_line(error, url)


def write_slowly(root: str, name: str, data: bytes, started: Event, go_on: Event) -> None:
    with Store(root).writing(name) as file:
        file.write(data)
        file.flush()
        started.set()
        go_on.wait()


def test_a_killed_writer_leaves_the_old_file_and_the_next_takes_over(store: Store) -> None:
    store.write("a/file", b"old")
    started, never = PROCESSES.Event(), PROCESSES.Event()
    process = PROCESSES.Process(target=write_slowly, args=(store.url, "a/file", bytes(5000), started, never))
    process.start()
    assert started.wait(30)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert store.read("a/file") == b"old"
    left = set(every_file(store)) - {"a/file"}
    assert len(left) == 1  # else the next lines prove nothing
    assert store.names("a") == ["file"]
    store.write("a/file", b"new")
    assert store.read("a/file") == b"new"
    assert every_file(store) == ["a/file"]


def write_often(root: str, letter: bytes, size: int, times: int) -> None:
    store = Store(root)
    for _ in range(times):
        with store.writing("shared") as file:
            for _ in range(size // 1000):
                file.write(letter * 1000)


def test_two_processes_writing_one_name_never_tear_it(store: Store) -> None:
    size = 200_000
    store.write("shared", b"z" * size)
    processes = [
        PROCESSES.Process(target=write_often, args=(store.url, letter, size, 25)) for letter in (b"a", b"b", b"c")
    ]
    for process in processes:
        process.start()
    seen = set()
    while any(process.is_alive() for process in processes):
        data = store.read("shared")
        assert len(data) == size
        assert len(set(data)) == 1
        seen.add(data[:1])
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert store.read("shared")[:1] in {b"a", b"b", b"c"}
    assert len(seen) > 1
    assert every_file(store) == ["shared"]


def test_a_second_writer_waits_and_then_writes_its_own(store: Store) -> None:
    started, go_on = PROCESSES.Event(), PROCESSES.Event()
    first = PROCESSES.Process(target=write_slowly, args=(store.url, "file", b"first" * 100, started, go_on))
    first.start()
    assert started.wait(30)
    done, free = PROCESSES.Event(), PROCESSES.Event()
    free.set()
    second = PROCESSES.Process(target=write_slowly, args=(store.url, "file", b"second", done, free))
    second.start()
    assert not done.wait(0.3)
    assert not store.exists("file")
    go_on.set()
    for process in (first, second):
        process.join(30)
        assert process.exitcode == 0
    assert store.read("file") == b"second"
    assert every_file(store) == ["file"]


def test_stamps_tell_of_another_content_by_a_listing(tmp_path: Path, s3_endpoint: str) -> None:
    for store in (Store(str(tmp_path / "store")), on_s3(s3_endpoint)):
        assert store.stamps("folder") == {}
        for name in ("b", "a", "deeper/c"):
            store.write(f"folder/{name}", b"first")
        before = store.stamps("folder")
        assert list(before) == ["a", "b"]
        assert store.stamps("folder") == before
        store.write("folder/a", b"other")
        after = store.stamps("folder")
        assert (after["a"] == before["a"], after["b"] == before["b"]) == (False, True)
    part = tmp_path / "store" / "folder" / ".d.part"
    part.write_bytes(b"half")
    assert list(Store(str(tmp_path / "store")).stamps("folder")) == ["a", "b"]


def hold_lock(root: str, held: Event, go_on: Event) -> None:
    with Store(root).locked("thing"):
        held.set()
        go_on.wait()


def test_a_lock_lets_one_process_in_and_dies_with_it(store: Store) -> None:
    first_held, second_held = PROCESSES.Event(), PROCESSES.Event()
    never, go_on = PROCESSES.Event(), PROCESSES.Event()
    first = PROCESSES.Process(target=hold_lock, args=(store.url, first_held, never))
    first.start()
    assert first_held.wait(30)
    second = PROCESSES.Process(target=hold_lock, args=(store.url, second_held, go_on))
    second.start()
    assert not second_held.wait(0.3)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert second_held.wait(30)
    go_on.set()
    second.join()
    assert second.exitcode == 0


def test_a_store_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    store = Store(str(tmp_path / "file" / "store"))
    for use in (lambda: store.write("a/b", b"x"), lambda: store.locked("a").__enter__()):
        with pytest.raises(StoreError) as error:
            use()
        one_line(error, store.full_url("a"), "cannot write", "GLR_STORE")


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="a folder that even root cannot write")
def test_a_folder_that_takes_no_files() -> None:
    store = Store("/proc/1")
    with pytest.raises(StoreError) as error:
        store.write("file", b"x")
    one_line(error, "/proc/1/file", "cannot write", "GLR_STORE")


@pytest.fixture
def at_most_a_megabyte() -> Iterator[None]:
    """Files of this process may not grow further, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("at_most_a_megabyte")
def test_what_the_disk_refuses_is_the_stores_fault(any_store: Store) -> None:
    with pytest.raises(StoreError) as error:
        any_store.write("file", bytes(2 * 2**20))
    one_line(error, any_store.full_url("file"), "cannot write", "File too large")
    assert every_file(any_store) == []


def test_a_file_where_a_folder_is_read(store: Store) -> None:
    store.write("file", b"x")
    with pytest.raises(StoreError) as error:
        store.read("file/below")
    one_line(error, store.full_url("file/below"), "cannot read")
    with pytest.raises(StoreError) as error:
        store.read("file/below", 0, 1)
    one_line(error, store.full_url("file/below"), "cannot read")
    (Path(store.root) / "folder").mkdir()
    with pytest.raises(StoreError) as error:
        store.open("folder")
    one_line(error, store.full_url("folder"), "cannot read")


# S3


def test_a_bucket_that_is_not_there(s3_endpoint: str) -> None:
    store = Store(f"s3://absent-{uuid.uuid4().hex}/x", {"endpoint_url": s3_endpoint})
    for use in (lambda: store.exists("a"), lambda: store.names("a"), lambda: store.read("a"), lambda: store.open("a")):
        with pytest.raises(StoreError) as error:
            use()
        one_line(error, store.full_url("a"), "there is no bucket of that name", "create the bucket")
    for size in (3, LARGE):
        with pytest.raises(StoreError) as error:
            store.write("a", bytes(size))
        one_line(error, store.full_url("a"), "cannot write", "there is no bucket of that name", "create the bucket")


def test_an_endpoint_where_nobody_listens(s3_endpoint: str, free_tcp_port: int) -> None:
    store = Store("s3://bucket/x", {"endpoint_url": f"http://127.0.0.1:{free_tcp_port}"})
    for use in (lambda: store.size("a"), lambda: store.write("a", b"x")):
        with pytest.raises(StoreError) as error:
            use()
        one_line(error, "s3://bucket/x/a", str(free_tcp_port), "network")


def test_the_options_given_win(s3_endpoint: str) -> None:
    store = Store("s3://bucket", {"endpoint_url": s3_endpoint})
    assert store.options == {"endpoint_url": s3_endpoint}
    assert store.fs.config_kwargs["retries"]["total_max_attempts"] <= 3
    own = {"retries": {"max_attempts": 9}, "connect_timeout": 1}
    patient = Store("s3://bucket", {"endpoint_url": s3_endpoint, "config_kwargs": own, "max_concurrency": 2})
    ours = store.fs.config_kwargs
    assert patient.fs.config_kwargs == ours | own
    assert 1 < ours["connect_timeout"] <= ours["read_timeout"] <= 60  # a stalled connection is noticed
    assert patient.fs.max_concurrency == 2


def test_an_upload_that_fails_leaves_no_part_of_it(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = on_s3(s3_endpoint)
    store.write("file", b"old")
    original = type(store.fs)._call_s3
    uploaded: list[int] = []

    async def failing(self: object, method: str, *given: object, **named: object) -> object:
        if method == "upload_part":
            uploaded.append(len(named["Body"]))  # type: ignore[arg-type]
            if len(uploaded) == 2:
                raise OSError("the line went dead")
        return await original(self, method, *given, **named)

    monkeypatch.setattr(type(store.fs), "_call_s3", failing)
    with pytest.raises(StoreError) as error:
        store.write("file", bytes(110 * 2**20))
    one_line(error, store.full_url("file"), "cannot write", "the line went dead")
    monkeypatch.undo()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    assert len(uploaded) >= 2
    assert open_uploads(store) == []
    assert store.read("file") == b"old"


def test_a_file_replaced_by_another_client_is_seen_afresh(s3_endpoint: str) -> None:
    store = on_s3(s3_endpoint)
    store.write("train/a", b"1")
    store.names("train")  # fsspec now remembers the listing
    before = store.info("train/a")
    other = Store(store.url, {"endpoint_url": s3_endpoint, "skip_instance_cache": True})
    other.write("train/a", b"22")
    other.write("train/b", b"3")
    after = store.info("train/a")
    assert after["size"] == 2
    assert after["ETag"] != before["ETag"]
    assert store.names("train") == ["a", "b"]
    assert store.read("train/a") == b"22"


def test_reading_that_breaks_off_is_one_line(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import botocore.exceptions

    store = on_s3(s3_endpoint)
    store.write("file", bytes(3 * READ_BLOCK))
    kind = type(store.fs.open(store.path("file")))
    original = kind._fetch_range

    def breaking(self: object, start: int, end: int) -> bytes:
        if start:
            raise botocore.exceptions.ReadTimeoutError(endpoint_url=s3_endpoint)
        return bytes(original(self, start, end))

    monkeypatch.setattr(kind, "_fetch_range", breaking)
    with store.open("file") as file:
        assert len(file.read(10)) == 10
        with pytest.raises(StoreError) as error:
            file.read()
    one_line(error, store.full_url("file"), "cannot read", "did not answer in time", "network")


# What survives a power cut


def test_a_file_and_the_folders_that_lead_to_it_are_synced(store: Store, disk_calls: DiskCalls) -> None:
    store.write("a/b/file", b"x")
    assert disk_calls.below(store) == [
        ("mkdir", "."),
        ("sync", ".."),
        ("mkdir", "a"),
        ("sync", "."),
        ("mkdir", "a/b"),
        ("sync", "a"),
        ("sync", "a/b/.file.part"),
        ("rename", "a/b/file"),
        ("sync", "a/b"),
    ]
    disk_calls.seen.clear()
    store.write("a/b/file", b"y")
    store.write("a/b/unsynced", b"z", sync=False)
    assert disk_calls.below(store) == [
        ("sync", "a/b/.file.part"),
        ("rename", "a/b/file"),
        ("sync", "a/b"),
        ("sync", "a/b/.unsynced.part"),
        ("rename", "a/b/unsynced"),
    ]


def test_of_many_files_each_folder_is_synced_once(store: Store, disk_calls: DiskCalls) -> None:
    store.write("a/first", b"x")
    store.write("b/first", b"x")
    disk_calls.seen.clear()
    with store.synced_at_end():
        for number in range(3):
            for folder in "ab":
                store.write(f"{folder}/{number}", b"x")
    assert [path for what, path in disk_calls.below(store) if what == "rename"] == [
        "a/0",
        "b/0",
        "a/1",
        "b/1",
        "a/2",
        "b/2",
    ]
    assert disk_calls.below(store)[-2:] == [("sync", "a"), ("sync", "b")]
    assert sum(what == "sync" and os.path.isdir(path) for what, path in disk_calls.seen) == 2  # noqa: PTH112


def test_a_file_system_that_cannot_sync_folders_is_written_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refusing(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)
    store.write("a/file", b"x")
    assert store.read("a/file") == b"x"


def test_a_folder_whose_disk_fails_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("a/file", b"x")
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StoreError) as error:
        store.write("a/file", b"y")
    one_line(error, f"{store.url}/a", "Input/output error")


# All files, and who is at work


def test_walking_gives_every_file_with_its_bytes(any_store: Store) -> None:
    assert list(any_store.walk()) == []
    files = {"top": 1, "a/one": 2, "a/b/c/two": 0, "images/train/000.tar": 5000}
    for name, size in files.items():
        any_store.write(name, bytes(size))
    assert dict(any_store.walk()) == files
    assert dict(any_store.walk("a")) == {name: size for name, size in files.items() if name.startswith("a/")}
    assert list(any_store.walk("nowhere")) == []


def test_parts_and_locks_are_no_names_but_are_walked(store: Store) -> None:
    store.write("a/whole", b"x")
    with store.locked("a/whole"), store.writing("a/new") as file:
        file.write(b"12")
        file.flush()
        assert store.names("a") == ["whole"]
        assert dict(store.walk()) == {"a/whole": 1, "a/.new.part": 2, "a/.whole.lock": 0}
    assert dict(store.walk()) == {"a/whole": 1, "a/new": 2}


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_lock_that_is_held_is_not_waited_for_where_that_is_asked(
    kind: str, store: Store, request: pytest.FixtureRequest
) -> None:
    asked = store if kind == "folder" else on_s3(request.getfixturevalue("s3_endpoint"))
    assert asked.locks("runs/locks") == {}
    with asked.locked("runs/locks/images/000"):
        assert asked.locks("runs/locks").keys() == {"runs/locks/images/000"}
        with asked.locked_if_free("runs/locks/images/000") as held:
            assert not held
        with asked.locked_if_free("runs/locks/images/001") as held:
            assert held
            assert asked.locks("runs/locks").keys() == {"runs/locks/images/000", "runs/locks/images/001"}
    assert asked.locks("runs/locks") == {}
    with asked.locked_if_free("runs/locks/images/000") as held:
        assert held
    assert list(asked.walk()) == []


def test_a_lock_of_a_killed_process_is_not_held(store: Store) -> None:
    store.write("runs/locks/.images.lock", b"")
    assert store.locks("runs/locks") == {}
    with store.locked_if_free("runs/locks/images") as held:
        assert held
