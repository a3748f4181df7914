"""Threads, bytes in flight and library thread limits, each shared by everything that runs in this process.

- `Lane`: at most so many tasks of one kind at once, on threads that all lanes share. No pool is made per call.
- `ByteBudget`: the most bytes that a pipeline requests or holds ahead of its consumer.
- `single_threaded`: keeps OpenCV or BLAS from starting threads inside ours. Overlapping callers share one limit.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeVar

Result = TypeVar("Result")
Library = Literal["blas", "opencv"]

#: A thread is started only when no other is idle, so this is a limit and not a size. It lies far above the sum of
#: all lanes of a process, so a task that waits for a task of another lane always gets a thread.
_MOST_THREADS: Final = 4096


class ByteBudget:
    """Bytes that are requested, or finished and not yet handed to the consumer; used by one thread.

    The bytes held never exceed `limit`, except that a single item may be larger when nothing else is held.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def fits(self, size: int) -> bool:
        """Whether an item of `size` bytes may be begun now."""
        return self.held == 0 or self.held + size <= self.limit

    def take(self, size: int) -> None:
        """Count an item that is begun."""
        self.held += size

    def release(self, size: int) -> None:
        """Forget an item that is handed to the consumer."""
        self.held -= size


class Lane:
    """Runs at most `workers` of its tasks at the same time, first in, first out; usable from several threads.

    Its threads are those of the process: a lane costs no thread of its own, and one that is dropped leaves none.
    """

    def __init__(self, workers: int) -> None:
        self.workers = max(1, workers)
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._active = 0

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Run `work` as soon as a place in the lane is free; a future that is cancelled before that never runs."""
        future: Future[Result] = Future()
        with self._lock:
            self._waiting.append((future, work))
            starts = self._active < self.workers
            self._active += starts
        if starts:
            try:
                _pool().submit(self._run)
            except BaseException:  # whatever it is, the place is given back and the error goes on
                with self._lock:
                    self._active -= 1
                raise
        return future

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._active -= 1
                    return
                future, work = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 - raised again where the result is taken
                    future.set_exception(error)
            # Neither a task nor its result outlives its turn in this thread.
            del future, work


_pool_lock = threading.Lock()
_shared_pool: ThreadPoolExecutor | None = None


def _pool() -> ThreadPoolExecutor:
    global _shared_pool  # noqa: PLW0603 - one for the process
    with _pool_lock:
        if _shared_pool is None:
            _shared_pool = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="glr")
        return _shared_pool


def _after_fork() -> None:
    """Threads and locks do not survive a fork. A library that is limited at that moment stays so in the child."""
    global _pool_lock, _shared_pool
    _pool_lock, _shared_pool = threading.Lock(), None
    for limit in _LIMITS.values():
        limit.reset()


class _SharedLimit:
    """A thread limit of a library that is set by the first user and lifted by the last, whatever their order."""

    def __init__(self, limit: Callable[[], Callable[[], None]]) -> None:
        self._limit = limit
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._lift: Callable[[], None] | None = None

    def enter(self) -> None:
        with self._lock:
            if self._users == 0:
                self._lift = self._limit()
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= bool(self._users)  # none are counted where a block was entered before a fork
            if self._users == 0 and self._lift is not None:
                self._lift()
                self._lift = None


def _limit_blas() -> Callable[[], None]:
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api="blas").restore_original_limits


def _limit_opencv() -> Callable[[], None]:
    import cv2

    usual = cv2.getNumThreads()
    cv2.setNumThreads(1)
    return lambda: cv2.setNumThreads(usual)


_LIMITS: Final[dict[Library, _SharedLimit]] = {
    "blas": _SharedLimit(_limit_blas),
    "opencv": _SharedLimit(_limit_opencv),
}
os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def single_threaded(*libraries: Library) -> Iterator[None]:
    """Let these libraries use one thread a call while the block runs, for the whole process.

    Blocks may overlap in any order, in several threads: the first one sets the limit, the last one restores what was
    set before. A service enters it once and holds it, so its requests change nothing.

    Args:
        libraries: "blas" is every BLAS that is loaded when the limit is set, "opencv" is OpenCV.
    """
    entered: list[_SharedLimit] = []
    try:
        for library in libraries:
            _LIMITS[library].enter()
            entered.append(_LIMITS[library])
        yield
    finally:
        for limit in reversed(entered):
            limit.leave()
