"""Byte ranges of a store's files in order, several of them on their way at once, in bounded memory.

What belongs here: reading ahead, trying again and going on where a connection broke off. What the bytes mean
belongs to those who read them.
"""

from __future__ import annotations

import errno
import io
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, Final, TypeVar

from glr_assets.causes import explanation, hides_cause, is_beyond_end
from glr_assets.concurrency import ByteBudget, Lane
from glr_assets.errors import StoreError
from glr_assets.redaction import safe_cause
from glr_assets.seeded import drawn
from glr_assets.store import Store, first_line, remote_errors

BLOCK: Final = 8 * 2**20
BLOCKS_AHEAD: Final = 4
"""Requests for blocks of one file on their way at once: about what fills a fast line to S3."""
LOCAL_BLOCK: Final = 2**20
"""Larger blocks are no faster from a disk, and the memory of smaller ones is used again while a cache holds it."""
RANGES_AHEAD: Final = 16
"""Requests for single ranges on their way at once: small ones wait for the server, not for the line."""
LOCAL_READERS: Final = 8
"""Threads that read files of this machine: they wait for a network file system, and stand in each other's way else."""
BYTES_AHEAD: Final = 64 * 2**20
"""Most bytes that one reader requests or holds ahead of its consumer, of a local and of a remote store alike."""

_CHUNK = 2**20
_BATCH, _BATCH_BYTES = 16, 4 * 2**20
#: A batch is at most this share of the limit, so that all threads have one.
_BATCH_SHARE = 1 / (2 * LOCAL_READERS)
#: Places of a remote file are read by one request where no more than this lies between them, and so much in all.
_GAP, _TOGETHER, _MOST_TOGETHER = 16 * 2**10, 2 * 2**20, 1024
_NOT_WORTH_AGAIN = {errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR}

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Place:
    """Some bytes of a store's file: `size` of them from `offset`."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Retry:
    """How often a range is asked for, and how long between.

    An attempt is one request of the client, which itself asks again where the server is busy or cannot be reached
    (botocore, three times in all); what came before a connection broke off is kept, and only the rest asked for.

    Attributes:
        attempts: requests for a range, the first one counted.
        first_wait: seconds before the second; each further wait is twice as long.
        longest_wait: seconds, at most.
    """

    attempts: int = 8
    first_wait: float = 0.2
    longest_wait: float = 10.0

    def wait(self, attempt: int, place: Place) -> float:
        """Seconds to wait after the failed `attempt` (from 1): down to half of it, drawn by the place.

        Drawn, so that requests that were refused together do not all come again together.
        """
        most: float = min(self.longest_wait, self.first_wait * 2 ** (attempt - 1))
        return most * (1 + drawn(0, place.name, place.offset, attempt)) / 2


DEFAULT_RETRY: Final = Retry()


def stream(
    store: Store,
    name: str,
    size: int,
    *,
    etag: str | None = None,
    retry: Retry = DEFAULT_RETRY,
    block: int | None = None,
    ahead: int = BLOCKS_AHEAD,
    most_bytes: int = BYTES_AHEAD,
) -> Generator[bytes]:
    """The first `size` bytes of a file in order, as blocks that may be kept: no block's memory is used again.

    A local file is read by the caller's thread, a block at a time. A remote one is read by `ahead` threads that are at
    most `ahead` blocks and `most_bytes` further than the block given out.

    Args:
        store: where the file is.
        name: its name there.
        size: its bytes, as `Store.info` tells.
        etag: what the server must call its content, on S3: answers of another content are refused.
        retry: how often each block is asked for.
        block: bytes of a block; 8 MiB of a remote file, 1 MiB of a local one where not given.
        ahead: blocks on their way at once.
        most_bytes: bytes on their way or waiting to be taken; one block may be larger.

    Raises:
        StoreError: a block cannot be had; the text names file, byte and cause.
    """
    if store.is_local:
        yield from _local_blocks(store, name, size, block or LOCAL_BLOCK)
        return
    step = block or BLOCK
    places = (Place(name, offset, min(step, size - offset)) for offset in range(0, size, step))
    stop = threading.Event()

    def read(place: Place) -> bytes:
        return _fetched(store, place, retry, stop, etag)

    try:
        yield from ordered(read, places, workers=ahead, most_bytes=most_bytes, size=_size_of)
    finally:
        stop.set()


def read_ranges(
    store: Store,
    places: Iterable[Place],
    *,
    retry: Retry = DEFAULT_RETRY,
    ahead: int = RANGES_AHEAD,
    most_bytes: int = BYTES_AHEAD,
) -> Generator[bytes | StoreError]:
    """The bytes of many places in their order, `ahead` of them on their way at once.

    In the stead of a place's bytes stands the StoreError that says why they cannot be had (no such file, cut, all
    attempts in vain); it is not raised, and the places after it come. `places` may be as long as it likes: it is read
    as it is needed. Neighboring places of a remote file are fetched by one request.

    Args:
        store: where the files are.
        places: what to read.
        retry: how often each place of a remote store is requested.
        ahead: places of a remote store on their way at once; a local one is read by `LOCAL_READERS` threads.
        most_bytes: bytes on their way or waiting to be taken; one place may be larger.
    """
    if store.is_local:
        yield from in_batches(
            lambda batch: [_read_local(store, place) for place in batch],
            places,
            workers=LOCAL_READERS,
            most_bytes=most_bytes,
            size=_size_of,
        )
        return
    stop = threading.Event()

    def fetched(place: Place) -> bytes | StoreError:
        try:
            return _fetched(store, place, retry, stop, None)
        except StoreError as error:
            return error

    def read(group: _Neighbors) -> list[bytes | StoreError] | bytes:
        if len(group.places) > 1:
            together = fetched(group.span)
            if not isinstance(together, StoreError):
                return together
        # What is wrong with one of several is found out of each by itself.
        return [fetched(place) for place in group.places]

    groups = _neighbors(places, most_bytes)
    waiting: deque[_Neighbors] = deque()

    def noted() -> Iterator[_Neighbors]:
        for group in groups:
            waiting.append(group)
            yield group

    def size(group: _Neighbors) -> int:
        return group.span.size

    try:
        with closing(ordered(read, noted(), workers=ahead, most_bytes=most_bytes, size=size)) as done:
            for found in done:
                yield from waiting.popleft().given_out(found)
                del found
    finally:
        stop.set()


def _size_of(place: Place) -> int:
    return place.size


@dataclass(frozen=True)
class _Neighbors:
    """Places that follow each other in one file, and the range that holds them all, read by one request."""

    span: Place
    places: list[Place]

    def given_out(self, found: list[bytes | StoreError] | bytes) -> Iterator[bytes | StoreError]:
        """The bytes of each place, of what was read of them together or one by one."""
        if isinstance(found, list):
            found.reverse()
            while found:
                yield found.pop()
            return
        for place in self.places:
            start = place.offset - self.span.offset
            yield found[start : start + place.size]


def _neighbors(places: Iterable[Place], most_bytes: int) -> Iterator[_Neighbors]:
    """Places in their order, those together that one request brings faster than several.

    Of a file whose images are read in order that is some sixty images a request: a request takes as long as some
    megabytes on the line, and costs the client as much work.
    """
    limit = min(_TOGETHER, int(most_bytes * _BATCH_SHARE))
    group: list[Place] = []
    end = 0
    for place in places:
        follows = (
            group
            and place.name == group[0].name
            and place.size
            and end <= place.offset <= end + _GAP
            and place.offset + place.size - group[0].offset <= limit
            and len(group) < _MOST_TOGETHER
        )
        if group and not follows:
            yield _Neighbors(Place(group[0].name, group[0].offset, end - group[0].offset), group)
            group = []
        group.append(place)
        end = place.offset + place.size
    if group:
        yield _Neighbors(Place(group[0].name, group[0].offset, end - group[0].offset), group)


def ordered(
    work: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int,
    ahead: int | None = None,
    most_bytes: int = BYTES_AHEAD,
    size: Callable[[T], int] = lambda _: 0,
    quick: Callable[[T], bool] = lambda _: False,
    lane: Lane | None = None,
) -> Generator[R]:
    """What `work` makes of each item, in the order of the items, made by several threads that read ahead.

    At most `most_bytes` of results, by `size`, are begun or wait to be taken, beside the one that was given out last.

    Args:
        work: called once an item, from any thread; what it raises is raised when its turn comes.
        items: taken one by one as they are needed, by the caller's thread.
        workers: threads.
        ahead: results at most that are ahead of the one given out; as many as threads where not given. More keep all
            threads at work where items take longer or shorter.
        most_bytes: no further item is begun while those begun and not given out are together larger. One item may be.
        size: the bytes of an item's result.
        quick: whether an item is less work than handing it to a thread; its turn come, the caller's thread does it.
        lane: where the threads work; one that several callers share holds them together to its number of threads.
    """
    items = iter(items)
    first = list(islice(items, 2))
    if len(first) < 2:  # a thread for one item alone would cost more than a short read
        yield from map(work, first)
        return
    queue: deque[tuple[Future[R] | Callable[[], R], int]] = deque()
    budget = ByteBudget(most_bytes)
    lane = lane or Lane(workers)

    def next_result() -> R:
        found, taken = queue.popleft()
        result = found.result() if isinstance(found, Future) else found()
        budget.release(taken)
        return result

    try:
        for item in chain(first, items):
            own = size(item)
            while not budget.fits(own):
                yield next_result()
            queue.append((partial(work, item) if quick(item) else lane.submit(partial(work, item)), own))
            budget.take(own)
            if len(queue) > (ahead or workers):
                yield next_result()
        while queue:
            yield next_result()
    finally:
        # Who leaves early does not wait for answers of a server that stalls.
        for found, _ in queue:
            if isinstance(found, Future):
                found.cancel()


def in_batches(
    work: Callable[[list[T]], list[R]],
    items: Iterable[T],
    *,
    workers: int,
    most_bytes: int = BYTES_AHEAD,
    size: Callable[[T], int] = lambda _: 0,
    lane: Lane | None = None,
) -> Generator[R]:
    """As `ordered`, with lists of items for tasks: where one item is less work than handing a task to a thread.

    Of a batch that is being given out the rest counts with what is ahead: no other is begun before its last item has
    been taken.
    """

    def weight(batch: list[T]) -> int:
        return sum(map(size, batch))

    batches = _batches(items, size, min(_BATCH_BYTES, int(most_bytes * _BATCH_SHARE)))
    with closing(ordered(work, batches, workers=workers, most_bytes=most_bytes, size=weight, lane=lane)) as done:
        for results in done:
            results.reverse()
            while results:
                yield results.pop()  # and hold it no longer


def _batches(items: Iterable[T], size: Callable[[T], int], most_bytes: int) -> Iterator[list[T]]:
    """Items in lists of `_BATCH`, and of no more bytes than that unless of a single item."""
    batch: list[T] = []
    weight = 0
    for item in items:
        if batch and (len(batch) == _BATCH or weight + size(item) > most_bytes):
            yield batch
            batch, weight = [], 0
        batch.append(item)
        weight += size(item)
    if batch:
        yield batch


def _read_local(store: Store, place: Place) -> bytes | StoreError:
    try:
        return store.read(place.name, place.offset, place.size)
    except FileNotFoundError:
        return StoreError(f"{store.full_url(place.name)}: there is no such file")
    except StoreError as error:
        return error


def _local_blocks(store: Store, name: str, size: int, block: int) -> Iterator[bytes]:
    with store.explained("read", name):
        descriptor = os.open(store.path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        done = 0
        while done < size:
            try:
                data = os.read(descriptor, min(block, size - done))
            except OSError as error:
                raise _broken(
                    store, Place(name, 0, size), done, first_line(error), "mend the folder or its disk"
                ) from error
            if not data:
                raise _broken(store, Place(name, 0, size), done, "the file ends there", "it was cut while it was read")
            done += len(data)
            yield data
    finally:
        os.close(descriptor)


def _fetched(store: Store, place: Place, retry: Retry, stop: threading.Event, etag: str | None) -> bytes:
    """The bytes of a place of a remote store; each request asks for what the earlier ones did not bring.

    They are in memory once: what comes in one piece is given out as it is, and a BytesIO that is filled to its end
    gives out its own bytes.
    """
    if place.size == 0:
        return b""
    data: io.BytesIO | None = None
    got = 0
    for attempt in range(1, retry.attempts + 1):
        rest = Place(place.name, place.offset + got, place.size - got)
        if store.is_s3:
            data = data or io.BytesIO(bytes(place.size))
            with data.getbuffer() as whole, whole[got:] as target:
                brought, cause = _streamed_answer(store, rest, target, etag)
        else:
            piece, cause = _whole_answer(store, rest)
            if len(piece) == place.size:
                return piece
            data = data or io.BytesIO(bytes(place.size))
            with data.getbuffer() as whole:
                whole[got : got + len(piece)] = piece
            brought = len(piece)
        got += brought
        if got == place.size:
            return data.getvalue()
        if not _worth_again(cause):
            raise _broken(store, place, got, *_explained(cause)) from safe_cause(cause)
        if attempt == retry.attempts or stop.wait(retry.wait(attempt, place)):
            break
    said, fix = _explained(cause)
    raise _broken(store, place, got, f"{said} ({attempt} attempts)", fix) from safe_cause(cause)


def _streamed_answer(store: Store, place: Place, target: memoryview, etag: str | None) -> tuple[int, Exception]:
    """One request of S3: how many bytes it brought into `target` [size], and what ended it before it was full."""
    from fsspec.asyn import sync

    path = store.path(place.name)
    arrival: tuple[int, Exception] = sync(store.fs.loop, _from_s3, store.fs, path, place.offset, target, etag)
    return arrival


def _whole_answer(store: Store, place: Place) -> tuple[bytes, Exception]:
    """One request of another remote store: at most the bytes of `place`, and what is wrong where they are fewer."""
    try:
        data = store.fs.cat_file(store.path(place.name), start=place.offset, end=place.offset + place.size)
    except _failures() as error:
        return b"", error
    return bytes(data), _CutError("the file ends there") if not data else ConnectionError("the answer was cut")


class _CutError(Exception):
    """The file has fewer bytes than were asked for, or others."""


async def _from_s3(fs: Any, path: str, offset: int, target: memoryview, etag: str | None) -> tuple[int, Exception]:
    """One GET by Range through the client of s3fs.

    Not by its `cat_file`: that throws away what came before a break, takes a short answer for a whole one, and
    tries five times around botocore's three.
    """
    from botocore.exceptions import ClientError, FlexibleChecksumError
    from s3fs.errors import translate_boto_error

    got, size = 0, len(target)
    try:
        await fs.set_session()
        bucket, key, _ = fs.split_path(path)
        client = await fs.get_s3(bucket)
        asked = {"Bucket": bucket, "Key": key, "Range": f"bytes={offset}-{offset + size - 1}"}
        answer = await client.get_object(**fs._get_s3_method_kwargs(client.get_object, **asked))
        body = answer["Body"]
        try:
            _check(answer, offset, etag)
            while got < size and (chunk := await body.read(min(_CHUNK, size - got))):
                target[got : got + len(chunk)] = chunk
                got += len(chunk)
            await body.read(1)  # past the end the client compares checksums, where the server sent one
        finally:
            body.close()
    except ClientError as error:
        return got, translate_boto_error(error)
    except FlexibleChecksumError as error:
        return 0, ConnectionError(first_line(error))
    except _failures() as error:
        return got, error
    return got, ConnectionError(f"the answer had {got} bytes of {size}")


def _check(answer: Mapping[str, Any], offset: int, etag: str | None) -> None:
    """Refuse an answer of another content, or of other bytes, than was asked for."""
    if etag is not None and answer.get("ETag", etag) != etag:
        raise _CutError(f"the file was replaced: its ETag was {etag}, now it is {answer['ETag']}")
    begins = answer.get("ContentRange", "bytes 0-" if offset == 0 else "none")
    if not begins.startswith(f"bytes {offset}-"):
        raise _CutError(f"the server answered with other bytes: Content-Range {begins}")


def _failures() -> tuple[type[Exception], ...]:
    return (OSError, _CutError, *remote_errors())


def _worth_again(error: Exception) -> bool:
    """Whether the same request may succeed later: not where it is missing, forbidden, or refused as it is."""
    if isinstance(error, OSError):
        return error.errno not in _NOT_WORTH_AGAIN and not isinstance(error, (FileNotFoundError, PermissionError))
    if isinstance(error, _CutError):
        return False
    import botocore.exceptions as botocore

    refused = (botocore.HTTPClientError, botocore.ConnectionError, botocore.IncompleteReadError)
    return not isinstance(error, botocore.BotoCoreError) or isinstance(error, refused)


def _explained(error: Exception) -> tuple[str, str]:
    """What broke a request off, and the fix."""
    if is_beyond_end(error) or isinstance(error, _CutError):
        said = first_line(error) if isinstance(error, _CutError) else "the file ends there"
        return said, "it was cut or replaced: run it again"
    if isinstance(error, FileNotFoundError) and not hides_cause(error):
        return "there is no such file", "check the URL and its options"
    return explanation(error, is_local=False)


def _broken(store: Store, place: Place, got: int, said: str, mend: str) -> StoreError:
    return StoreError(
        f"{store.full_url(place.name)}: reading broke off at byte {place.offset + got}, expected {place.size} bytes "
        f"from {place.offset}: {said}; {mend}"
    )
