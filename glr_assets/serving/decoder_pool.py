"""Workers that decode uploads for the service, each ended where it takes too much time or memory."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

from glr_assets.images.pixels import StoredImage
from glr_assets.recipes import Images
from glr_assets.serving.decoder import (
    COMMAND,
    FORK,
    KILL,
    READY,
    WALL_FACTOR,
    ClosedError,
    Order,
    receive_bytes,
    receive_frame,
    send_frame,
    stored_image,
)
from glr_assets.serving.limits import Limits, RefusedError, check_size

ENDS: Final = ("time", "crash", "busy")
"""Why a worker was ended: over its CPU time, by a fault of a decoder, or over the clock's time."""
#: Settings and secrets stay with the service: what is passed is where programs, libraries and compiled loops lie.
_PASSED: Final = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "XDG_CACHE_HOME", "VIRTUAL_ENV"})
_PASSED_STARTS: Final = ("LD_", "DYLD_", "NUMBA_", "PYTHONHOME", "PYTHONPATH")
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
#: It loads and, the first time, compiles; a start that failed is not tried again at once.
_START_SECONDS: Final = 90.0
_PAUSE_SECONDS: Final = 5.0
_FORK_SECONDS: Final = 10.0
_CHUNK: Final = 256 * 2**10
log = logging.getLogger(__name__)


class _Worker:
    def __init__(self, pid: int, connection: socket.socket, starter: _Starter) -> None:
        self.pid, self.connection, self.starter = pid, connection, starter


class _Starter:
    """The process that forks workers."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "glr_assets.serving.decoder", str(theirs.fileno())],
                env=_environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal ends the service, and so this
            )
        self._ready = False

    def fork(self) -> _Worker:
        """A new worker.

        Raises:
            OSError, ClosedError: it cannot be had.
        """
        if not self._ready:
            self.control.settimeout(_START_SECONDS)
            receive_bytes(self.control, READY.size)
            self._ready = True
        self.control.settimeout(_FORK_SECONDS)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self.control, [COMMAND.pack(FORK, 0)], [theirs.fileno()])
                (pid,) = READY.unpack(receive_bytes(self.control, READY.size))
            except BaseException:  # whatever it is, the socket is closed and the error goes on
                ours.close()
                raise
        return _Worker(pid, ours, self)

    def kill(self, pid: int) -> None:
        """End a worker; it may have ended by itself."""
        with contextlib.suppress(OSError):
            self.control.sendall(COMMAND.pack(KILL, pid))

    def close(self) -> None:
        """End the process, and with it all its workers."""
        self.control.close()
        try:
            self.process.wait(_FORK_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class DecoderPool:
    """Decodes in worker processes, from any thread; there are as many workers as are asked at once.

    Attributes:
        ended: how many workers were ended, by reason, one of `ENDS`.
    """

    def __init__(self) -> None:
        """Nothing runs yet."""
        self.ended = Counter[str]()
        self._idle: list[_Worker] = []
        self._starter: _Starter | None = None
        self._failed_at = -_PAUSE_SECONDS
        self._lock = threading.Lock()  # of the starter: one fork at a time
        self._closed = False

    def start(self) -> None:
        """Start loading what decodes, without waiting for it."""
        with self._lock:
            self._closed = False
            if self._starter is None:
                self._starter = _Starter()

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            starter, self._starter = self._starter, None
        for worker in idle:
            worker.connection.close()
        if starter is not None:
            starter.close()

    def decode(self, file: IO[bytes], offset: int, size: int, recipe: Images, limits: Limits) -> StoredImage:
        """A photograph as ingest would store it.

        Args:
            file: has its bytes; it is read by no one else meanwhile.
            offset: where they begin.
            size: how many they are.
            recipe: of the images that are searched.
            limits: bytes, pixels, seconds and memory.

        Raises:
            RefusedError: as `limits.photograph`; 422 as well where it takes too much time or memory or a decoder fails
                on it, and 503 where that can be by the machine's load.
            OSError: the file cannot be read.
        """
        check_size(size, limits)
        with self._worker() as worker:
            began = time.monotonic()
            file.seek(offset)
            try:
                header, jpeg = _asked(worker.connection, file, size, Order(recipe, limits))
                stored = None if "refused" in header else stored_image(header, bytes(jpeg))
            except (ClosedError, ConnectionError, TimeoutError, ValueError, KeyError, TypeError) as error:
                self._end(worker)
                raise self._refusal(time.monotonic() - began, limits) from error
            if header.get("ends"):
                self._end(worker)
        if stored is None:
            status, code, reason = header["refused"]
            raise RefusedError(int(status), str(code), str(reason))
        return stored

    @contextmanager
    def _worker(self) -> Iterator[_Worker]:
        """One that nobody else uses; it is kept for the next unless it was ended."""
        worker = self._taken()
        try:
            yield worker
        except BaseException:  # nobody knows what the worker is at: it is ended, and the error goes on
            self._end(worker)
            raise
        with self._lock:
            if worker.connection.fileno() >= 0 and worker.starter is self._starter:
                self._idle.append(worker)
                return
        self._end(worker)

    def _taken(self) -> _Worker:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._closed or time.monotonic() - self._failed_at < _PAUSE_SECONDS:
                raise _not_ready()
            starter = self._starter = self._starter or _Starter()
            try:
                return starter.fork()
            except (OSError, ClosedError) as error:
                self._starter, self._failed_at = None, time.monotonic()
                starter.process.kill()
                starter.close()
                log.error("the decoder did not start, exit status %s", starter.process.returncode)
                raise _not_ready() from error

    def _end(self, worker: _Worker) -> None:
        if worker.connection.fileno() >= 0:
            worker.connection.close()
            with self._lock:
                worker.starter.kill(worker.pid)

    def _refusal(self, seconds: float, limits: Limits) -> RefusedError:
        """Why a worker has ended, by how long it took."""
        if seconds >= limits.decode_seconds * WALL_FACTOR:
            self.ended["busy"] += 1
            return RefusedError(503, "busy", "busy: decoding took too long at the moment", 5)
        if seconds >= limits.decode_seconds:
            self.ended["time"] += 1
            told = f"too costly: decoding takes more than {limits.decode_seconds:g} seconds"
            return RefusedError(422, "too_costly", told)
        self.ended["crash"] += 1
        return RefusedError(422, "undecodable", "undecodable: a decoder failed on it")


def _asked(connection: socket.socket, file: IO[bytes], size: int, order: Order) -> tuple[dict[str, Any], bytearray]:
    # The worker's own timer is to end it first; each step here has as long.
    connection.settimeout(order.limits.decode_seconds * WALL_FACTOR + _FORK_SECONDS)
    send_frame(connection, order.header(), size)
    while size:
        data = file.read(min(size, _CHUNK))
        if not data:
            raise OSError("an upload's file was cut short")
        connection.sendall(data)
        size -= len(data)
    return receive_frame(connection, order.limits.max_bytes)


def _not_ready() -> RefusedError:
    return RefusedError(503, "not_ready", "not ready: what decodes photographs is starting", retry_after=5)


def _environment() -> dict[str, str]:
    passed = {name: value for name, value in os.environ.items() if name in _PASSED or name.startswith(_PASSED_STARTS)}
    return passed | _ONE_THREAD
