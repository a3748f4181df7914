"""Byte ranges of a store's files in order, several of them on their way at once, in bounded memory.

What belongs here: reading ahead, trying again and going on where a connection broke off. What the bytes mean
belongs to those who read them.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, Final, TypeVar

from glr_assets.causes import explanation, hides_cause, is_beyond_end
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

_CHUNK = 2**20
_BATCH, _BATCH_BYTES = 16, 4 * 2**20
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
) -> Generator[bytes | memoryview]:
    """The first `size` bytes of a file in order, as blocks that may be kept: no block's memory is used again.

    A local file is read by the caller's thread, a remote one by `ahead` threads that are at most `ahead` blocks
    further than the one given out.

    Args:
        store: where the file is.
        name: its name there.
        size: its bytes, as `Store.info` tells.
        etag: what the server must call its content, on S3: answers of another content are refused.
        retry: how often each block is asked for.
        block: bytes of a block; 8 MiB of a remote file, 1 MiB of a local one where not given.
        ahead: blocks on their way at once.

    Raises:
        StoreError: a block cannot be had; the text names file, byte and cause.
    """
    if store.is_local:
        yield from _local_blocks(store, name, size, block or LOCAL_BLOCK)
        return
    step = block or BLOCK
    places = (Place(name, offset, min(step, size - offset)) for offset in range(0, size, step))
    stop = threading.Event()
    try:
        for data in ordered(lambda place: _fetched(store, place, retry, stop, etag), places, workers=ahead):
            yield memoryview(data).toreadonly()
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
    as it is needed.

    Args:
        store: where the files are.
        places: what to read.
        retry: how often each place is asked for.
        ahead: places on their way at once.
        most_bytes: bytes on their way or waiting to be taken; one place may be larger.
    """
    if store.is_local:
        local = in_batches(lambda batch: [_read_local(store, place) for place in batch], places, workers=LOCAL_READERS)
        yield from local
        return
    stop = threading.Event()

    def read(place: Place) -> bytes | StoreError:
        try:
            return bytes(_fetched(store, place, retry, stop, None))
        except StoreError as error:
            return error

    try:
        yield from ordered(read, places, workers=ahead, most_bytes=most_bytes, size=lambda place: place.size)
    finally:
        stop.set()


def ordered(
    work: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int,
    ahead: int | None = None,
    most_bytes: int = BYTES_AHEAD,
    size: Callable[[T], int] = lambda _: 0,
    quick: Callable[[T], bool] = lambda _: False,
) -> Generator[R]:
    """What `work` makes of each item, in the order of the items, made by several threads that read ahead.

    Args:
        work: called once an item, from any thread; what it raises is raised when its turn comes.
        items: taken one by one as they are needed, by the caller's thread.
        workers: threads.
        ahead: results at most that are ahead of the one given out; as many as threads where not given. More keep all
            threads at work where items take longer or shorter.
        most_bytes: no further item is begun while those begun and not given out are together larger.
        size: the bytes of an item's result.
        quick: whether an item is less work than handing it to a thread; its turn come, the caller's thread does it.
    """
    items = iter(items)
    first = list(islice(items, 2))
    if len(first) < 2:  # a thread for one item alone would cost more than a short read
        yield from map(work, first)
        return
    queue: deque[tuple[Callable[[], R], int]] = deque()
    weight = 0
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ranges")
    try:
        for item in chain(first, items):
            own = size(item)
            while queue and weight + own > most_bytes:
                result, taken = queue.popleft()
                weight -= taken
                yield result()
            queue.append((partial(work, item) if quick(item) else pool.submit(work, item).result, own))
            weight += own
            if len(queue) > (ahead or workers):
                result, taken = queue.popleft()
                weight -= taken
                yield result()
        while queue:
            yield queue.popleft()[0]()
    finally:
        # Who leaves early does not wait for answers of a server that stalls.
        pool.shutdown(wait=False, cancel_futures=True)


def in_batches(
    work: Callable[[list[T]], list[R]], items: Iterable[T], *, workers: int, size: Callable[[T], int] = lambda _: 0
) -> Generator[R]:
    """As `ordered`, with lists of items for tasks: where one item is less work than handing a task to a thread."""

    def weight(batch: list[T]) -> int:
        return sum(map(size, batch))

    with closing(ordered(work, _batches(items, size), workers=workers, size=weight)) as done:
        for results in done:
            results.reverse()
            while results:
                yield results.pop()  # and hold it no longer


def _batches(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    batch: list[T] = []
    weight = 0
    for item in items:
        if batch and (len(batch) == _BATCH or weight + size(item) > _BATCH_BYTES):
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


def _fetched(store: Store, place: Place, retry: Retry, stop: threading.Event, etag: str | None) -> bytearray:
    """The bytes of a place of a remote store; each request asks for what the earlier ones did not bring."""
    if place.size == 0:
        return bytearray()
    data = bytearray(place.size)
    got = 0
    for attempt in range(1, retry.attempts + 1):
        rest = Place(place.name, place.offset + got, place.size - got)
        with memoryview(data)[got:] as target:
            brought, cause = _arrived(store, rest, target, etag)
        got += brought
        if got == place.size:
            return data
        if not _worth_again(cause):
            raise _broken(store, place, got, *_explained(cause)) from safe_cause(cause)
        if attempt == retry.attempts or stop.wait(retry.wait(attempt, place)):
            break
    said, fix = _explained(cause)
    raise _broken(store, place, got, f"{said} ({attempt} attempts)", fix) from safe_cause(cause)


def _arrived(store: Store, place: Place, target: memoryview, etag: str | None) -> tuple[int, Exception]:
    """One request: how many bytes it brought into `target` [size], and what ended it before it was full."""
    path = store.path(place.name)
    if store.is_s3:
        from fsspec.asyn import sync

        arrival: tuple[int, Exception] = sync(store.fs.loop, _from_s3, store.fs, path, place.offset, target, etag)
        return arrival
    try:
        data = store.fs.cat_file(path, start=place.offset, end=place.offset + place.size)
    except _failures() as error:
        return 0, error
    target[: len(data)] = data
    return len(data), _CutError("the file ends there") if not data else ConnectionError("the answer was cut")


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
