"""Loops compiled by numba, kept on disk so that the next process need not compile them.

numba has a cache of its own, which this uses for reading and writing code. Three things differ:

- An entry is named by all that decides its code: bytecode and constants of the loop and of every loop it calls, in
  whatever file they stand, and the versions of numba, llvmlite, numpy and Python. numba itself looks at the loop's own
  file alone. Entries of other versions stay beside it, so installations may share a folder.
- Processes write one after another, under a lock: numba numbers its files by what it read before, and two writers
  could give one number to two loops.
- Whatever is wrong with the folder, or with a file in it, the loop is compiled as if there were none.

The folder is `NUMBA_CACHE_DIR` where that is set, else `glr_assets` in the user's cache folder (`XDG_CACHE_HOME`,
`~/.cache`), else one of the user's own among temporary files. As code is loaded from it, it must belong to the user or
to root, and nobody else may be able to write there. A folder that this process cannot write is read.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

_LOCK: Final = ".lock"


def kernel(signature: str | None = None) -> Callable[[Any], Any]:
    """Compile the decorated loop to machine code that runs without Python's lock.

    Args:
        signature: of its arguments and result, as numba writes it; it is then compiled, or loaded, at once. Without it
            that happens at the first call, for the types it is called with.
    """

    def decorated(loop: Any) -> Any:
        import numba

        dispatcher = numba.njit(nogil=True)(loop)
        if not hasattr(dispatcher, "compile"):  # numba is told not to compile anything
            return dispatcher
        dispatcher._cache = _Cache(loop)
        if signature is not None:
            dispatcher.compile(signature)
            dispatcher.disable_compile()
        return dispatcher

    return decorated


def fingerprint(loop: Any) -> str:
    """SHA-256 of all in the source of a loop, and of the loops it calls, that decides its code; not where it stands."""
    digest = hashlib.sha256()
    seen: set[Any] = set()
    waiting = [loop]
    while waiting:
        function = getattr(waiting[-1], "py_func", waiting[-1])
        waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        digest.update(repr(function.__qualname__).encode())
        names = _read_code(function.__code__, digest.update)
        for name in names:
            value = function.__globals__.get(name, _ABSENT)
            if value is _ABSENT:
                continue
            if hasattr(value, "py_func") or hasattr(value, "__code__"):
                waiting.append(value)
                continue
            told = value.__name__ if isinstance(value, ModuleType) else f"{type(value).__name__} {value!r}"
            digest.update(f"{name} = {told}\n".encode())
    return digest.hexdigest()


_ABSENT: Final = object()


def _read_code(code: CodeType, update: Callable[[bytes], None]) -> list[str]:
    """Feed a function's code to a digest; returns the names it uses, in their order."""
    update(code.co_code)
    update(repr((code.co_names, code.co_varnames, code.co_argcount)).encode())
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names += _read_code(constant, update)
        else:
            told = sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)
            update(f"{type(constant).__name__} {told}\n".encode())
    return names


class _Cache:
    """What numba asks for a loop's code, and gives it to: its own cache, in our folder and never in the way."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    @functools.cached_property
    def _numbas(self) -> Any:
        """The cache of numba for this loop; None where there is no folder for it.

        Made at the first compilation, when all that the loop calls has been defined.
        """
        folder = cache_folder()
        try:
            return None if folder is None else _numba_cache(self._loop, folder)
        except Exception:  # noqa: BLE001 - of another numba than is known here: it is done without
            return None

    @property
    def cache_path(self) -> str | None:
        """Where the code lies."""
        return None if self._numbas is None else str(self._numbas.cache_path)

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The code for these types; None where there is none, or it cannot be read."""
        if self._numbas is None:
            return None
        try:
            return self._numbas.load_overload(signature, context)
        except Exception:  # noqa: BLE001 - a damaged file is compiled again, and written over
            self._forget()
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep the code for these types, if that is possible."""
        if self._numbas is None:
            return
        try:
            with _locked(Path(self._numbas.cache_path)):
                self._numbas.save_overload(signature, compiled)
        except Exception:  # noqa: BLE001 - a full disk, a folder that has become read-only, a damaged index
            self._forget()

    def _forget(self) -> None:
        """Begin the loop's index anew, so that a damaged one is not met again and again."""
        try:
            with _locked(Path(self._numbas.cache_path)):
                self._numbas.flush()
        except Exception:  # noqa: BLE001 - then it is compiled each time
            return

    def enable(self) -> None:
        """Of numba's interface."""

    def disable(self) -> None:
        """Of numba's interface."""

    def flush(self) -> None:
        """Forget the code."""
        if self._numbas is not None:
            self._forget()


def _numba_cache(loop: Any, folder: Path) -> Any:
    import llvmlite
    import numba
    import numpy
    from numba.core.caching import CompileResultCacheImpl, FunctionCache

    settings = {name: getattr(numba.config, name, None) for name in ("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT")}
    versions = (numba.__version__, llvmlite.__version__, numpy.__version__, sys.version_info[:3], settings)
    name = hashlib.sha256(f"{fingerprint(loop)} {versions}".encode()).hexdigest()[:24]

    class Locator:
        """Where the code of the loop lies, as numba asks for it."""

        @classmethod
        def from_function(cls, *_: Any) -> Locator:
            return cls()

        def ensure_cache_path(self) -> None:
            """The folder has been looked at."""

        def get_cache_path(self) -> str:
            return str(folder)

        def get_source_stamp(self) -> str:
            return name

        def get_disambiguator(self) -> str:
            return name

    class Implementation(CompileResultCacheImpl):
        _locator_classes = [Locator]  # noqa: RUF012 - numba's own

        def get_filename_base(self, fullname: str, abiflags: str) -> str:
            # Not by the number of its line, which is none of its content.
            return f"{loop.__name__}-{name}"

    class Cache(FunctionCache):
        _impl_class = Implementation

    return Cache(loop)


@functools.cache
def cache_folder() -> Path | None:
    """The folder where compiled loops are kept; None where none can be used."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    candidates = [Path(chosen) / "glr_assets"] if chosen else [Path(home) / "glr_assets" / "kernels"]
    candidates.append(Path(tempfile.gettempdir()) / f"glr_assets-{os.getuid()}")
    return next((folder for folder in candidates if _usable(folder)), None)


def _usable(folder: Path) -> bool:
    """Whether a folder can be trusted, and has something to load or takes something to keep."""
    try:
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.getuid(), 0) or found.st_mode & 0o022:
            return False
        return os.access(folder, os.W_OK | os.X_OK) or any(folder.glob("*.nbi"))
    except OSError:
        return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / _LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
