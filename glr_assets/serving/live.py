"""The recogniser in use, replaced whole when what it was made from has been made anew."""

from __future__ import annotations

import io
import logging
import threading
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
    """

    def __init__(self, store: Store, told: Callable[[str], None] = log.warning) -> None:
        """Nothing is loaded yet.

        Args:
            store: what is watched.
            told: given a line when something stands in the way, and not again for the same.
        """
        self.current: Generation | None = None
        self.loads = self.failures = 0
        self._store, self._told = store, told
        self._stamps: tuple[object, ...] | None = None
        self._obstacle = ""
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def refresh(self) -> bool:
        """Load what has changed, beside what is in use; returns whether it took its place."""
        with self._lock:
            try:
                stamps = self._looked()
                if stamps == self._stamps:
                    return False
                loaded = Recogniser.open(self._store)
                generation = Generation(loaded, LookAlikes(self._store, loaded))
                _warm(generation.recogniser)
                if loaded.witness.comparer is not None:
                    _compile_matching(generation)
                if self._looked() != stamps:
                    raise MissingInputError(f"{self._store.url}: made anew while it was read; it is read again")
            except (GlrError, OSError, RuntimeError, ValueError, KeyError) as error:
                # The last three are of files that are well formed and not what they should be.
                self._stumbled(str(error))
                return False
            self._stamps, self._obstacle = stamps, ""
            if self.current is not None and self.current.recogniser.version == loaded.version:
                return False  # made again as it was
            self.current = generation
            self.loads += 1
            return True

    def prepare_matching(self) -> None:
        """Compile what compares local features: it takes seconds, in which all but matches is answered."""
        current = self.current
        if current is None:
            return
        try:
            _compile_matching(current)
        except GlrError as error:
            self._stumbled(str(error))

    def watch(self, seconds: float = EVERY_SECONDS) -> threading.Thread:
        """Refresh at once and then every so many seconds, in a thread of its own, until `stop`."""
        stopped = self._stopped = threading.Event()

        def watching() -> None:
            prepared = False
            while True:
                if self.refresh() and not prepared:
                    self.prepare_matching()
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

    def _stumbled(self, obstacle: str) -> None:
        if obstacle != self._obstacle:
            self.failures += 1
            self._told(obstacle)
        self._obstacle = obstacle


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
