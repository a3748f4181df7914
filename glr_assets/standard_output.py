"""The standard output of a command: what cannot be written to it, and letters that its encoding lacks."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class OutputError(OSError):
    """The standard output cannot be written, as on a full disk; a pipe that nobody reads is a `BrokenPipeError`."""


class _File(io.FileIO):
    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error


@contextmanager
def telling_output_errors() -> Iterator[None]:
    """Within the block what cannot be written to the standard output raises `OutputError`, whoever writes it.

    A letter that the encoding of the standard output lacks is written as a backslash and its number. At the end of the
    block all has been written, or `OutputError` is raised and nothing more is written. Nothing is changed where the
    standard output is closed, or no file of the system.
    """
    before = sys.stdout
    try:
        number = before.fileno()
    except (AttributeError, OSError):
        yield
        return
    before.flush()
    told = io.TextIOWrapper(
        io.BufferedWriter(_File(number, "wb", closefd=False)),
        encoding=before.encoding,
        errors="backslashreplace" if before.errors == "strict" else before.errors,
        line_buffering=getattr(before, "line_buffering", False),
    )
    sys.stdout = told
    try:
        yield
        told.flush()
    except OutputError:
        # What is still buffered would be tried again when the interpreter ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
        raise
    finally:
        sys.stdout = before
