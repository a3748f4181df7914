"""The process that decodes uploads, one at a time, under limits of time and memory that the kernel holds.

`DecoderPool` starts it as `python -P -m glr_assets.serving.decoder`. It loads and compiles all that decodes, and then
forks a worker for each socket that it is sent, so that the successor of a worker that was ended is there at once.
Frames are a JSON header and bytes, each preceded by its length: nothing is unpickled.

Only what is in a file decides how it is decoded, so limits hold whatever decoders do: time is that of interval timers
whose signals end a process, memory is that of its address space.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import io
import json
import os
import re
import resource
import select
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from glr_assets.codecs.decode import share_large
from glr_assets.codecs.jpeg_header import without_metadata
from glr_assets.images.pixels import KEPT, StoredImage
from glr_assets.recipes import Images
from glr_assets.serving.limits import Limits, RefusedError, photograph

FORK: Final = b"F"
KILL: Final = b"K"
#: A command is one of these letters and the process id that is meant, or 0.
COMMAND: Final = struct.Struct("!cI")
READY: Final = struct.Struct("!I")
WALL_FACTOR: Final = 3.0
"""The clock's seconds for each CPU second of the limit: other processes want the cores too."""
#: Lengths of a frame's header and of its bytes.
_LENGTHS: Final = struct.Struct("!II")
_MOST_HEADER: Final = 64 * 2**10
#: A picture that ingest stores byte for byte may hold megabytes of metadata. One of more bytes is stored without.
_MOST_KEPT: Final = 2**20
#: Images of more pixels are decoded one at a time: several beside the largest would take twice its memory.
_LARGE_PIXELS: Final = 2**22
#: A worker whose memory has grown by so much is replaced.
_GROWTH: Final = 96 * 2**20
_OPEN_FILES: Final = 64
#: Words of decoders that were given no more memory, and of Python's own error.
_OF_MEMORY: Final = re.compile("memory|alloc", re.IGNORECASE)


class ClosedError(Exception):
    """The other end of a socket is closed."""


def send_frame(connection: socket.socket, header: Mapping[str, Any], size: int) -> None:
    """Send a header; `size` bytes are to follow."""
    text = json.dumps(header).encode()
    connection.sendall(_LENGTHS.pack(len(text), size) + text)


def receive_frame(connection: socket.socket, most: int) -> tuple[dict[str, Any], bytearray]:
    """The header and the bytes of a frame.

    Raises:
        ClosedError: the other end is closed.
        ValueError: it is longer than `most` bytes, or no frame.
    """
    lengths = receive_bytes(connection, _LENGTHS.size)
    of_header, size = _LENGTHS.unpack(lengths)
    if of_header > _MOST_HEADER or size > most:
        raise ValueError(f"a frame of {of_header} and {size} bytes")
    header = json.loads(receive_bytes(connection, of_header))
    if not isinstance(header, dict):
        raise ValueError("a frame without a header")
    return header, receive_bytes(connection, size)


def receive_bytes(connection: socket.socket, size: int) -> bytearray:
    """So many bytes.

    Raises:
        ClosedError: fewer come.
    """
    found = bytearray(size)
    view = memoryview(found)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise ClosedError
        view = view[count:]
    return found


def main() -> None:
    """Load, and fork a worker for each socket that comes, until the service is gone."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _load()
    _silence()
    with tempfile.TemporaryFile() as lock:
        gc.collect()
        gc.freeze()  # pages of what is loaded stay shared with the workers
        _fork_workers(control, lock.fileno())


def _fork_workers(control: socket.socket, lock: int) -> None:
    children: set[int] = set()
    control.sendall(READY.pack(os.getpid()))
    while True:
        readable, _, _ = select.select([control], [], [], 1.0)
        _reap(children)
        if not readable:
            continue
        command, sockets, _, _ = socket.recv_fds(control, COMMAND.size, 1)
        if not command:
            for child in children:
                os.kill(child, signal.SIGKILL)
            return
        letter, child = COMMAND.unpack(command)
        if letter == KILL and child in children:
            os.kill(child, signal.SIGKILL)
        for one in sockets:
            child = os.fork()
            if child == 0:
                control.close()
                _work(socket.socket(fileno=one), lock)
            os.close(one)
            children.add(child)
            control.sendall(READY.pack(child))


def _reap(children: set[int]) -> None:
    while children:
        child, _ = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        children.discard(child)


def _work(connection: socket.socket, lock: int) -> None:
    """Decode what comes until the socket is closed; it never returns."""
    try:
        _bound_process()
        baseline = _address_space()
        ends = False
        while not ends:
            header, data = receive_frame(connection, 2**32 - 1)
            order = Order.of(header)
            _bound_memory(baseline, order.limits.decode_memory // 2)
            share_large(_Alone(lock, baseline, order.limits.decode_memory), _LARGE_PIXELS)
            _set_timers(order.limits.decode_seconds)
            found, answer = _answer(data, order)
            _set_timers(0)
            ends = _address_space() > baseline + _GROWTH
            send_frame(connection, answer | {"ends": ends}, len(found))
            connection.sendall(found)
            del data, found
    except BaseException:  # noqa: BLE001 - the service sees a closed socket
        os._exit(1)
    os._exit(0)


@dataclass(frozen=True)
class Order:
    """How an upload is to be decoded: the recipe of the stored images, and limits."""

    recipe: Images
    limits: Limits

    def header(self) -> dict[str, Any]:
        """What `of` reads."""
        bounds = self.limits.model_dump(include={"max_bytes", "max_pixels", "decode_seconds", "decode_memory"})
        return {"recipe": self.recipe.model_dump(mode="json"), "limits": bounds}

    @classmethod
    def of(cls, header: Mapping[str, Any]) -> Order:
        """The order of a frame's header."""
        return cls(Images.model_validate(header["recipe"]), Limits.model_validate(header["limits"]))


def _answer(data: bytearray, order: Order) -> tuple[bytes, dict[str, Any]]:
    """The bytes to store and what was measured of them, or a refusal."""
    whole = bytes(data)
    data.clear()  # megabytes that would be held twice
    try:
        stored = _decoded(whole, order)
    except RefusedError as error:
        refused = too_much_memory(order.limits) if _OF_MEMORY.search(error.reason) else error
        return b"", {"refused": [refused.status, refused.code, refused.reason]}
    except MemoryError:
        refused = too_much_memory(order.limits)
        return b"", {"refused": [refused.status, refused.code, refused.reason]}
    return stored.jpeg, {"stored": {name: value for name, value in asdict(stored).items() if name != "jpeg"}}


def too_much_memory(limits: Limits) -> RefusedError:
    """The refusal of a photograph over the limit of memory."""
    most = limits.decode_memory // 2**20
    return RefusedError(422, "too_costly", f"too costly: decoding takes more than {most} MiB of memory")


def stored_image(header: Mapping[str, Any], jpeg: bytes) -> StoredImage:
    """What a worker's answer says is stored.

    Raises:
        KeyError, TypeError, ValueError: it is no such answer.
    """
    values = dict(header["stored"])
    for name in ("size", "source_size"):
        width, height = values[name]
        values[name] = (int(width), int(height))
    return StoredImage(jpeg=jpeg, **values)


def _decoded(data: bytes, order: Order) -> StoredImage:
    """A photograph as ingest stores it, checked to be decoded by all that decode it later.

    Raises:
        RefusedError: it is refused, or is kept and later decoders find fault with it.
    """
    stored = photograph(data, order.recipe, order.limits)
    if not stored.pixel_path.startswith(KEPT):
        return stored
    import cv2
    import numpy as np

    jpeg = stored.jpeg if len(stored.jpeg) <= _MOST_KEPT else without_metadata(stored.jpeg)
    if len(jpeg) > 4 * _MOST_KEPT:
        width, height = stored.size
        raise RefusedError(413, "too_large", f"too large: {len(jpeg)} bytes for {width}x{height} pixels")
    try:
        if cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB) is None:
            raise ValueError
        with Image.open(io.BytesIO(jpeg)) as image:
            image.load()
    except (ValueError, OSError, SyntaxError) as error:
        raise RefusedError(422, "undecodable", "undecodable: a JPEG that not all decoders read") from error
    return StoredImage(**{**asdict(stored), "jpeg": jpeg})


def _bound_process() -> None:
    """No core files, no files written, few opened, and signals that end it."""
    for which, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, _OPEN_FILES)):
        resource.setrlimit(which, (most, most))
    for one in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(one, signal.SIG_DFL)


def _set_timers(cpu_seconds: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, cpu_seconds * WALL_FACTOR)


def _address_space() -> int:
    """Bytes of this process' address space; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _bound_memory(baseline: int, most: int) -> None:
    if baseline:  # macOS neither tells nor limits it
        resource.setrlimit(resource.RLIMIT_AS, (baseline + most, resource.RLIM_INFINITY))


class _Alone:
    """Held by one worker while it decodes a large image, with the memory for it; the kernel frees it at its end."""

    def __init__(self, lock: int, baseline: int, memory: int) -> None:
        self._lock, self._baseline, self._memory = lock, baseline, memory

    def __enter__(self) -> None:
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        _bound_memory(self._baseline, self._memory)

    def __exit__(self, *_: object) -> None:
        _bound_memory(self._baseline, self._memory // 2)
        fcntl.lockf(self._lock, fcntl.LOCK_UN)


def _silence() -> None:
    """Decoders write warnings of damaged files, which strangers send, on the standard streams."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)


def _load() -> None:
    """Load and compile what decodes, by decoding a picture of each way."""
    import cv2

    cv2.setNumThreads(0)
    recipe, limits = Images(), Limits()
    large, small = (2 * recipe.min_side, 2 * recipe.min_side), (64, 48)
    for kind, mode, size in (
        ("JPEG", "RGB", large),
        ("JPEG", "L", large),
        ("JPEG", "RGB", small),
        ("PNG", "RGB", large),
        ("PNG", "RGBA", small),
        ("WEBP", "RGB", small),
    ):
        file = io.BytesIO()
        Image.new(mode, size, "grey").save(file, kind)
        _decoded(file.getvalue(), Order(recipe, limits))
    with contextlib.suppress(ImportError):
        import pillow_heif  # noqa: F401


if __name__ == "__main__":
    main()
