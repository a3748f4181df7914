"""The recogniser in use, replaced whole when what it was made from has been made anew."""

from __future__ import annotations

import io
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from PIL import Image

from glr_assets.errors import GlrError, MissingInputError
from glr_assets.receipts import receipt_path
from glr_assets.serving.limits import Limits, photograph
from glr_assets.serving.matches import LookAlikes
from glr_assets.serving.recogniser import MADE_FROM, Recogniser, Timings
from glr_assets.store import Store

EVERY_SECONDS: Final = 5.0
FAILURES: Final = ("incomplete", "unreadable", "unexpected")
"""Why a load fails: an asset is missing or of another making; a file is damaged, or the store cannot be read; any other
exception."""

#: Seconds between attempts to load the same files.
MOST_PATIENCE: Final = 300.0
#: Reasons that differ in numbers alone, as ports and sizes, are one; so many are logged until a load succeeds.
_NUMBERS: Final = re.compile(r"\d+")
_MOST_REASONS: Final = 20
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Generation:
    """A recogniser and the look-alikes of its index."""

    recogniser: Recogniser
    look_alikes: LookAlikes


class Live:
    """Watches the receipts of a store: `current` is always whole, and the last one that could be loaded.

    An asset that is being made has no receipt, and one whose parts are of different makings is refused; in both cases
    what is loaded stays. Whoever has taken `current` goes on with it.

    Attributes:
        current: what is in use; None until a first load succeeds.
        loads: times that something was loaded and put into use.
        failures: failed attempts to load by kind, one of `FAILURES`.
        stale_since: Unix time of the first of the failures since the last success; None after a success.
        checked: Unix time of the last comparison with the store that succeeded; 0 before the first.
    """

    def __init__(self, store: Store, warn: Callable[[str], None] = log.warning) -> None:
        """Nothing is loaded yet.

        Args:
            store: what is watched.
            warn: receives a line for each new reason of a failure.
        """
        self.current: Generation | None = None
        self.loads, self.failures = 0, Counter[str]()
        self.stale_since: float | None = None
        self.checked = 0.0
        self._store, self._warn = store, warn
        self._stamps: tuple[object, ...] | None = None
        self._reasons: set[str] = set()
        self._failed_stamps: tuple[object, ...] | None = None
        self._attempts, self._retry_at = 0, 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def refresh(self, *, patient: bool = False) -> bool:
        """Load what has changed, beside what is in use; no exception leaves it.

        Args:
            patient: whether files that failed to load, and whose receipts are unchanged since, are left alone for a
                while: 5 s after the first failure, then twice as long after each, at most `MOST_PATIENCE`.

        Returns:
            Whether something new was put into use.
        """
        with self._lock:
            stamps: tuple[object, ...] | None = None
            try:
                stamps = self._looked()
                if stamps == self._stamps:
                    self._succeeded()
                    return False
                if patient and stamps == self._failed_stamps and time.monotonic() < self._retry_at:
                    return False
                generation = self._loaded()
                if self._looked() != stamps:
                    raise MissingInputError(f"{self._store.url}: made anew while it was read; it is read again")
            except BaseException as error:  # noqa: BLE001 - panics of compiled libraries are no Exceptions
                self._failed(error, stamps)
                return False
            self._stamps = stamps
            self._succeeded()
            if self.current is not None and self.current.recogniser.version == generation.recogniser.version:
                return False  # made again as it was
            self.current = generation
            self.loads += 1
            return True

    def watch(self, seconds: float = EVERY_SECONDS) -> threading.Thread:
        """Refresh at once and then every so many seconds, in a thread of its own, until `stop`."""
        stopped = self._stopped = threading.Event()

        def watching() -> None:
            prepared = False
            while True:
                if self.refresh(patient=True) and not prepared:
                    self._prepare_matching()
                    prepared = True
                if stopped.wait(seconds):
                    return

        thread = threading.Thread(target=watching, name="glr-serve-watch", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """End the watching."""
        self._stopped.set()

    def _looked(self) -> tuple[object, ...]:
        """What tells one receipt from another of the same name without reading it."""
        found: list[object] = []
        for name in MADE_FROM:
            try:
                info = self._store.info(receipt_path(name))
            except FileNotFoundError as error:
                raise MissingInputError(f"{name} is not made in {self._store.url}: materialise it") from error
            found.append((info["size"], info.get("ETag"), info.get("mtime"), info.get("ino")))
        return tuple(found)

    def _loaded(self) -> Generation:
        loaded = Recogniser.open(self._store)
        generation = Generation(loaded, LookAlikes(self._store, loaded))
        _warm(generation.recogniser)
        if loaded.witness.comparer is not None:
            _compile_matching(generation)
        return generation

    def _prepare_matching(self) -> None:
        """Compile what compares local features: it takes seconds, in which all but matches is answered."""
        try:
            if self.current is not None:
                _compile_matching(self.current)
        except BaseException as error:  # noqa: BLE001
            self._failed(error, None)

    def _succeeded(self) -> None:
        self.stale_since, self.checked = None, time.time()
        self._failed_stamps, self._attempts = None, 0
        self._reasons.clear()

    def _failed(self, error: BaseException, stamps: tuple[object, ...] | None) -> None:
        """Count a failure, and log it unless one of its kind has been since the last success."""
        kind = _kind_of(error)
        self.failures[kind] += 1
        self.stale_since = self.stale_since or time.time()
        self._attempts = self._attempts + 1 if stamps is not None and stamps == self._failed_stamps else 0
        self._failed_stamps = stamps
        self._retry_at = time.monotonic() + min(EVERY_SECONDS * 2**self._attempts, MOST_PATIENCE)
        text = str(error) if isinstance(error, GlrError) else f"{type(error).__name__}: {error}"
        reason = _NUMBERS.sub("#", text)
        if reason in self._reasons or len(self._reasons) >= _MOST_REASONS:
            return
        self._reasons.add(reason)
        self._warn(text)
        if kind == "unexpected":
            log.error("an index was not loaded", exc_info=error)


def _kind_of(error: BaseException) -> str:
    if isinstance(error, MissingInputError):
        return "incomplete"
    if isinstance(error, RecursionError):  # a RuntimeError
        return "unexpected"
    # The last three are of files that are well formed and not what they should be.
    unreadable = (GlrError, OSError, RuntimeError, ValueError, KeyError)
    return "unreadable" if isinstance(error, unreadable) else "unexpected"


def _warm(recogniser: Recogniser) -> None:
    """Answer before anyone asks: torch plans its passes and numba compiles at the first."""
    photo = photograph(_large(recogniser.images.min_side), recogniser.images, Limits())
    for _ in range(3):
        recogniser.recognise([photo], 1, Timings({}))


def _compile_matching(generation: Generation) -> None:
    """Compare an image with itself: what compares local features is compiled by the first pair."""
    reader = generation.recogniser.reader
    image_id = reader.ids[0]
    generation.look_alikes.compare(reader.read(image_id), [image_id])


def _large(min_side: int) -> bytes:
    """A JPEG that is shrunk when it is stored."""
    file = io.BytesIO()
    Image.new("RGB", (2 * min_side, 2 * min_side), "grey").save(file, "JPEG")
    return file.getvalue()
