"""Ctrl-C and SIGTERM of a command: raised once, seen even where a library catches them, told with its own exit status.

Dagster takes over the handlers of both signals while it executes a run and gives them one meaning. The number of the
signal is still known, since the interpreter also writes it to a pipe (`signal.set_wakeup_fd`).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_pipe: int | None = None


class Interrupted(BaseException):
    """A command was told to stop. It is no `KeyboardInterrupt`, which libraries catch.

    Attributes:
        signal: SIGINT or SIGTERM.
        exit_status: 128 and the number of the signal, as shells report it.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number
        self.exit_status = 128 + number


@contextmanager
def raising_interrupts() -> Iterator[None]:
    """Within the block both signals raise `Interrupted` in the main thread; only there is anything changed."""
    global _pipe  # noqa: PLW0603 - signals are the process's
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    earlier = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _pipe = reading
    try:
        for number in SIGNALS:
            signal.signal(number, _raise)
        yield
    finally:
        _pipe = None
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(earlier)
        os.close(reading)
        os.close(writing)


def _raise(number: int, _: FrameType | None) -> None:
    raise Interrupted(number)


def received() -> int | None:
    """The last of both signals that came since this was asked before; None where none came, or nobody listens."""
    if _pipe is None:
        return None
    try:
        found = [number for number in os.read(_pipe, 4096) if number in SIGNALS]
    except BlockingIOError:
        return None
    return found[-1] if found else None


def raise_if_interrupted(*, surely: bool = False) -> None:
    """Raise `Interrupted` where a signal came that a library has kept to itself.

    Args:
        surely: that one came is known otherwise.
    """
    number = received()
    if number is not None or surely:
        raise Interrupted(signal.SIGINT if number is None else number)
