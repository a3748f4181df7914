"""Ranges in order: of a folder, of memory, of an S3 server, and over a line that breaks."""

from __future__ import annotations

import os
import sys
import threading
import time
import tracemalloc
import uuid
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glr_assets.errors import StoreError
from glr_assets.ranges import Place, Retry, in_batches, ordered, read_ranges, stream
from glr_assets.store import Store
from glr_assets_tests.faulty_s3 import Fault, FaultyS3, Passed

QUICK = Retry(attempts=14, first_wait=0.001, longest_wait=0.01)
KINDS: tuple[Fault, ...] = ("reset", "closed", "short", "stall", "slow_down")
DATA = os.urandom(300_000)
BLOCK = 40_000


def impatient(endpoint: str) -> dict[str, object]:
    """Options of a client that tries once and gives up a silent connection soon."""
    config = {"retries": {"total_max_attempts": 1}, "connect_timeout": 2, "read_timeout": 0.25}
    return {"endpoint_url": endpoint, "config_kwargs": config}


@pytest.fixture
def faulty(proxy: FaultyS3) -> Store:
    """A store behind the proxy that holds `file`; the line is good until it is told otherwise."""
    store = Store(f"s3://ranges-{uuid.uuid4().hex}/prefix", impatient(proxy.url))
    store.fs.mkdir(store.root.partition("/")[0])
    store.write("file", DATA)
    return store


@pytest.fixture(params=["folder", "memory", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        found = request.getfixturevalue("faulty")
        assert isinstance(found, Store)
        return found
    store = Store(str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}")
    store.write("file", DATA)
    return store


def streamed(store: Store, **given: object) -> bytes:
    return b"".join(stream(store, "file", len(DATA), retry=QUICK, block=BLOCK, **given))  # type: ignore[arg-type]


def told(error: BaseException, *words: str) -> None:
    text = str(error)
    assert "\n" not in text
    assert [word for word in words if word not in text] == []


# A good line


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
@pytest.mark.parametrize("ahead", [1, 3])
def test_blocks_come_in_order(any_store: Store, size: int, ahead: int) -> None:
    blocks = list(stream(any_store, "file", size, block=BLOCK, ahead=ahead))
    assert b"".join(blocks) == DATA[:size]
    assert [len(block) for block in blocks[:-1]] == [BLOCK] * (len(blocks) - 1)
    assert all(blocks)


def test_a_block_is_asked_for_once_over_few_connections(faulty: Store, proxy: FaultyS3) -> None:
    assert streamed(faulty) == DATA
    asked = sorted(request.span for request in proxy.ranges("file") if request.span)
    assert asked == [(begin, min(begin + BLOCK, len(DATA)) - 1) for begin in range(0, len(DATA), BLOCK)]


places = st.tuples(st.integers(0, len(DATA)), st.integers(0, 9000)).map(
    lambda found: Place("file", found[0], min(found[1], len(DATA) - found[0]))
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(wanted=st.lists(places, max_size=40), ahead=st.integers(1, 20), most=st.integers(1, 30_000))
def test_any_places_in_any_order(any_store: Store, wanted: list[Place], ahead: int, most: int) -> None:
    found = list(read_ranges(any_store, iter(wanted), ahead=ahead, most_bytes=most))
    assert found == [DATA[place.offset : place.offset + place.size] for place in wanted]


def test_a_place_that_cannot_be_read_is_told_in_its_own_stead(any_store: Store) -> None:
    good = Place("file", 10, 20)
    wanted = [good, Place("absent", 0, 5), good, Place("file", len(DATA) - 5, 50), Place("file", 10**7, 1), good]
    found = list(read_ranges(any_store, wanted, retry=QUICK))
    assert [found[0], found[2], found[5]] == [DATA[10:30]] * 3
    for number, words in ((1, "no such file"), (3, str(len(DATA) - 5)), (4, "10000000")):
        error = found[number]
        assert isinstance(error, StoreError)
        told(error, any_store.full_url(wanted[number].name), words)


def test_names_that_lead_out_are_told_too(any_store: Store) -> None:
    (error, good) = read_ranges(any_store, [Place("../file", 0, 1), Place("file", 0, 1)])
    assert isinstance(error, StoreError)
    assert good == DATA[:1]


def test_a_file_that_is_not_there_or_ends_early(any_store: Store) -> None:
    with pytest.raises((StoreError, FileNotFoundError), match="absent"):
        list(stream(any_store, "absent", 10, retry=QUICK))
    with pytest.raises(StoreError) as error:
        list(stream(any_store, "file", len(DATA) + 1, block=BLOCK, retry=QUICK))
    told(error.value, any_store.full_url("file"), f"broke off at byte {len(DATA)}", "the file ends there")


# Reading ahead


def test_results_are_in_order_whenever_they_are_ready() -> None:
    def slow(number: int) -> int:
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number * number

    assert list(ordered(slow, iter(range(40)), workers=4)) == [number * number for number in range(40)]
    assert list(in_batches(lambda batch: [slow(n) for n in batch], range(40), workers=2)) == [n * n for n in range(40)]


@pytest.mark.parametrize("most_bytes", [1, 250, 10_000])
def test_no_more_is_begun_than_allowed(most_bytes: int) -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            begun.append(number)
            yield number

    for number, result in enumerate(
        ordered(lambda n: n, items(), workers=4, most_bytes=most_bytes, size=lambda _: 100)
    ):
        assert result == number
        time.sleep(0.001)
        # Those ahead, and one that was taken and waits for room.
        assert len(begun) - (number + 1) <= max(min(4, most_bytes // 100), 1) + 1
    assert len(begun) == 50


def test_what_work_raises_is_raised_in_its_turn() -> None:
    def work(number: int) -> int:
        if number == 5:
            raise StoreError("five")
        return number

    results = ordered(work, range(10), workers=3)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(StoreError, match="five"):
        next(results)


def test_who_leaves_early_begins_nothing_more(faulty: Store, proxy: FaultyS3) -> None:
    blocks = stream(faulty, "file", len(DATA), block=1000, ahead=2)
    next(blocks)
    blocks.close()
    begun = len(proxy.ranges("file"))
    time.sleep(0.1)
    assert len(proxy.ranges("file")) - begun <= 2  # those on their way
    assert begun <= 5


def test_a_wait_between_attempts_ends_with_the_reader(faulty: Store, proxy: FaultyS3) -> None:
    patient = Retry(attempts=2, first_wait=3600, longest_wait=3600)
    blocks = stream(faulty, "file", len(DATA), block=BLOCK, ahead=1, retry=patient)
    next(blocks)
    while len(proxy.ranges("file")) < 2:
        time.sleep(0.01)
    proxy.rates = {"slow_down": 1}
    next(blocks)
    while not proxy.done["slow_down"]:
        time.sleep(0.01)
    assert fetching()
    blocks.close()
    until = time.monotonic() + 30
    while fetching() and time.monotonic() < until:
        time.sleep(0.01)
    assert not fetching()


def fetching() -> bool:
    """Whether a thread is at a range, or waits to ask for it again."""
    frames = list(sys._current_frames().values())
    while frames:
        frame = frames.pop()
        if frame.f_code.co_name == "_fetched":
            return True
        frames += [frame.f_back] if frame.f_back else []
    return False


# Bytes in flight


LARGE = 2 * 2**20
SLACK = 2**18  # of lists, futures and frames


def peak_over(results: Iterator[object]) -> int:
    """The most bytes that Python held while these were taken one after another, each dropped for the next."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in results:
            time.sleep(0.0005)  # whoever reads ahead gets as far as it may
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.fixture(params=["folder", "memory"], scope="module")
def store_of_zeros(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """`zeros`, of `LARGE` bytes."""
    folder = str(tmp_path_factory.mktemp("zeros"))
    store = Store(folder if request.param == "folder" else f"memory://{uuid.uuid4().hex}")
    store.write("zeros", bytes(LARGE))
    return store


def drawn_sizes(seed: int, count: int, largest: int) -> list[int]:
    """Sizes of which as many are small as are large: lists that hypothesis draws itself are nearly all small."""
    random = np.random.default_rng(seed)
    return (random.random(count) * random.choice([0.02, 1.0], count) * largest).astype(int).tolist()


sizes_in_flight = st.builds(
    drawn_sizes, st.integers(0, 2**32), st.integers(2, 60), st.sampled_from([LARGE // 100, LARGE // 4, LARGE])
)


@settings(max_examples=20)
@given(sizes=sizes_in_flight, limit=st.sampled_from([1, LARGE // 4, LARGE, 2 * LARGE]), ahead=st.integers(1, 20))
def test_ranges_hold_the_limit_and_one_item_of_any_store(
    store_of_zeros: Store, sizes: list[int], limit: int, ahead: int
) -> None:
    places = [Place("zeros", 0, size) for size in sizes]
    peak = peak_over(read_ranges(store_of_zeros, iter(places), ahead=ahead, most_bytes=limit))
    assert peak <= max(limit, *sizes) + max(sizes) + SLACK


@settings(max_examples=20)
@given(
    sizes=sizes_in_flight,
    limit=st.sampled_from([1, LARGE // 4, 2 * LARGE]),
    workers=st.integers(1, 9),
    batches=st.booleans(),
)
def test_results_hold_the_limit_and_one_item(sizes: list[int], limit: int, workers: int, batches: bool) -> None:
    if batches:
        found = in_batches(
            lambda batch: [bytes(n) for n in batch], sizes, workers=workers, most_bytes=limit, size=lambda n: n
        )
    else:
        found = ordered(bytes, sizes, workers=workers, ahead=40, most_bytes=limit, size=lambda n: n)
    assert peak_over(found) <= max(limit, *sizes) + max(sizes) + SLACK


@pytest.mark.parametrize("limit", [30_000, 100_000])
def test_no_more_is_asked_of_a_server_than_the_limit(faulty: Store, proxy: FaultyS3, limit: int) -> None:
    sizes = [5_000, 29_000, 1, 60_000, 12_000, 12_000, 12_000, 12_000, 40_000, 300, 300, 25_000] * 3
    taken = 0
    for read in read_ranges(faulty, (Place("file", 0, size) for size in sizes), most_bytes=limit):
        assert isinstance(read, bytes)
        time.sleep(0.02)
        asked = sum(span[1] - span[0] + 1 for span in (passed.span for passed in proxy.ranges("file")) if span)
        assert asked - taken <= max(limit, *sizes) + len(read)
        taken += len(read)
    assert taken == sum(sizes)


def test_blocks_of_a_server_keep_the_limit(faulty: Store, proxy: FaultyS3) -> None:
    for number, block in enumerate(stream(faulty, "file", len(DATA), block=10_000, ahead=8, most_bytes=30_000)):
        assert len(block) == 10_000
        time.sleep(0.02)
        assert len(proxy.ranges("file")) - number <= 3 + 1


# Threads


def test_all_readers_share_the_threads_of_the_process() -> None:
    def slow(number: int) -> str:
        time.sleep(0.002)
        return threading.current_thread().name

    names: set[str] = set()
    most = 0
    for _ in range(30):
        names |= set(ordered(slow, range(8), workers=2))
        most = max(most, sum(thread.name.startswith("glr") for thread in threading.enumerate()))
    assert all(name.startswith("glr") for name in names)
    after = sum(thread.name.startswith("glr") for thread in threading.enumerate())
    list(ordered(slow, range(8), workers=2))
    assert sum(thread.name.startswith("glr") for thread in threading.enumerate()) == after == most


def test_work_that_reads_ahead_itself_is_never_starved() -> None:
    def inner(number: int) -> int:
        return sum(ordered(lambda n: n, range(number), workers=3))

    assert list(ordered(inner, range(60), workers=20)) == [n * (n - 1) // 2 for n in range(60)]


# A bad line


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_alone_is_got_over(faulty: Store, proxy: FaultyS3, kind: Fault) -> None:
    proxy.rates = {kind: 0.3}
    assert streamed(faulty) == DATA
    wanted = [Place("file", begin, 3000) for begin in range(0, len(DATA) - 3000, 12_345)]
    found = list(read_ranges(faulty, wanted, retry=QUICK))
    assert found == [DATA[place.offset : place.offset + place.size] for place in wanted]
    assert proxy.done[kind] > 0
    assert set(proxy.done) == {kind}


@pytest.mark.parametrize("seed", range(5))
def test_all_faults_at_once_are_got_over(faulty: Store, proxy: FaultyS3, seed: int) -> None:
    proxy.calm(seed)
    proxy.rates = dict.fromkeys(KINDS, 0.1)
    assert streamed(faulty, ahead=3) == DATA
    assert sum(proxy.done.values()) > 0


def chains(requests: list[Passed]) -> list[list[Passed]]:
    """The requests of each block, which end at the same byte."""
    found: dict[int, list[Passed]] = defaultdict(list)
    for request in requests:
        assert request.span is not None
        found[request.span[1]].append(request)
    return list(found.values())


@pytest.mark.parametrize("kind", ["closed", "short", "reset"])
def test_only_what_is_missing_is_asked_for_again(faulty: Store, proxy: FaultyS3, kind: Fault) -> None:
    proxy.rates = {kind: 0.6}
    assert streamed(faulty) == DATA
    resumed = 0
    for chain in chains(proxy.ranges("file")):
        for before, after in pairwise(chain):
            assert before.span is not None
            assert after.span is not None
            came = after.span[0] - before.span[0]
            # A reset may throw away what the client had not taken yet; all else goes on at the very next byte.
            assert 0 <= came <= before.sent if kind == "reset" else came == before.sent
            resumed += came > 0
    assert resumed > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_that_only_breaks_is_named_after_the_attempts(faulty: Store, proxy: FaultyS3, kind: Fault) -> None:
    proxy.rates = {kind: 1}
    retry = Retry(attempts=3, first_wait=0.001, longest_wait=0.001)
    with pytest.raises(StoreError) as error:
        list(stream(faulty, "file", len(DATA), retry=retry, ahead=1))
    told(error.value, faulty.full_url("file"), "broke off at byte ", "(3 attempts)")
    assert len(proxy.ranges("file")) == 3
    (told_of,) = read_ranges(faulty, [Place("file", 7, 3)], retry=retry)
    told(told_of, faulty.full_url("file"), "(3 attempts)")  # type: ignore[arg-type]


def test_a_body_that_is_not_what_its_checksum_says_is_thrown_away(
    faulty: Store, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    flips = iter([True, True])
    monkeypatch.setattr(proxy, "changed", lambda body: bytes([body[0] ^ 1]) + body[1:] if next(flips, False) else body)
    whole = list(stream(faulty, "file", len(DATA), retry=QUICK, ahead=1))  # of a whole file the server has one
    assert b"".join(whole) == DATA
    assert next(flips, None) is None


def test_what_is_forbidden_is_asked_for_once(faulty: Store, proxy: FaultyS3) -> None:
    proxy.rates = {"denied": 1}
    with pytest.raises(StoreError) as error:
        list(stream(faulty, "file", len(DATA), retry=QUICK))
    told(error.value, faulty.full_url("file"), "byte 0", "AccessDenied", "grant read")
    assert len(proxy.ranges("file")) == 1


def test_what_is_missing_is_asked_for_once(faulty: Store, proxy: FaultyS3) -> None:
    with pytest.raises(StoreError, match="no such file"):
        list(stream(faulty, "absent", 10, retry=QUICK))
    assert len(proxy.ranges("absent")) == 1


def test_a_file_replaced_while_it_is_read_is_no_mixture(faulty: Store) -> None:
    etag = faulty.info("file")["ETag"]
    assert streamed(faulty, etag=etag) == DATA
    blocks = stream(faulty, "file", len(DATA), etag=etag, block=BLOCK, ahead=1, retry=QUICK)
    next(blocks)
    faulty.write("file", bytes(len(DATA)))
    with pytest.raises(StoreError) as error:
        list(blocks)
    told(error.value, faulty.full_url("file"), "the file was replaced", etag, "run it again")


def test_waits_double_and_are_drawn_by_the_place() -> None:
    retry = Retry(attempts=9, first_wait=0.2, longest_wait=10)
    here, there = Place("a", 0, 5), Place("a", 5, 5)
    waits = [retry.wait(attempt, here) for attempt in range(1, 9)]
    assert waits == [retry.wait(attempt, here) for attempt in range(1, 9)]
    assert waits != [retry.wait(attempt, there) for attempt in range(1, 9)]
    for attempt, wait in enumerate(waits):
        most = min(10, 0.2 * 2**attempt)
        assert most / 2 <= wait <= most
