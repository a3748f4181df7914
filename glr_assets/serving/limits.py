"""What the service takes: bytes, types, dimensions, and how many at once; a refusal has a status and a reason."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from glr_assets.codecs.decode import FORMATS
from glr_assets.codecs.formats import format_of
from glr_assets.errors import GlrError
from glr_assets.images.pixels import Refused, StoredImage, downsize
from glr_assets.recipes import Images

#: Beside the photograph a form has boundaries, headers and small fields.
FORM_BYTES: Final = 64 * 2**10
MOST_LISTED: Final = 50
"""Landmarks and look-alikes that one answer lists at most."""

#: How ingest's reasons begin, and what they are over HTTP.
_STATUS_OF: Final = {
    "too large": (413, "too_large"),
    "no image that can be opened": (415, "wrong_type"),
    "unsupported format": (415, "wrong_type"),
}


class RefusedError(GlrError):
    """A request that is not answered: an HTTP status, a short name and a reason fit for strangers."""

    def __init__(self, status: int, code: str, reason: str, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.code, self.reason, self.retry_after = status, code, reason, retry_after


@dataclass(frozen=True)
class Limits:
    """Bounds of what is taken.

    Attributes:
        max_bytes: of one photograph.
        max_batch: photographs of a batch.
        max_batch_bytes: of all of them together.
        max_pixels: of one photograph, known from its header before it is decoded; never more than the recipe's.
        computing: photographs worked on at once.
        waiting: requests that wait for their turn; one more is told to come back.
        uploads: requests whose bodies may be arriving at once: what bounds memory, 1 MiB each, and disk.
        upload_seconds: a body has arrived after so long, or never.
        header_seconds: the same of a request's header.
    """

    max_bytes: int = 16 * 2**20
    max_batch: int = 8
    max_batch_bytes: int = 48 * 2**20
    max_pixels: int = 64_000_000
    computing: int = field(default_factory=lambda: os.cpu_count() or 1)
    waiting: int = 32
    uploads: int = 512
    upload_seconds: float = 60.0
    header_seconds: float = 10.0


class Slots:
    """So many places to hold, counted by one event loop."""

    def __init__(self, places: int, code: str, reason: str) -> None:
        self.places, self.held = places, 0
        self._code, self._reason = code, reason

    @contextmanager
    def one(self) -> Iterator[None]:
        """A place for as long as the block runs.

        Raises:
            RefusedError: none is free; 503, come back in a second.
        """
        if self.held >= self.places:
            raise RefusedError(503, self._code, self._reason, retry_after=1)
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1


def kind_of(data: bytes) -> str | None:
    """The format that a file's first bytes tell, whatever its name or declared type; None where they tell none."""
    found = format_of(data)
    return None if found is None else found.name


def photograph(data: bytes, recipe: Images, limits: Limits) -> StoredImage:
    """A photograph as ingest would store it: the same pixels, or the same refusal before its pixels are decoded.

    Args:
        data: the bytes of one upload.
        recipe: of the images that are searched.
        limits: bytes and pixels.

    Raises:
        RefusedError: 413 where it is too large, 415 where it is no photograph, 422 where it is damaged.
    """
    check_size(len(data), limits)
    if not data:
        raise RefusedError(422, "empty", "empty: zero bytes; choose a photograph")
    if kind_of(data) is None:
        raise RefusedError(415, "wrong_type", f"no photograph: expected {', '.join(FORMATS)} by its first bytes")
    bounded = recipe.model_copy(update={"max_pixels": min(recipe.max_pixels, limits.max_pixels)})
    found = downsize(data, bounded)
    if isinstance(found, Refused):
        status, code = _STATUS_OF.get(found.reason.split(":")[0], (422, "undecodable"))
        raise RefusedError(status, code, found.reason)
    return found


def check_size(size: int, limits: Limits) -> None:
    """Refuse a photograph by its bytes.

    Raises:
        RefusedError: 413.
    """
    if size > limits.max_bytes:
        raise RefusedError(413, "too_large", f"too large: more than {limits.max_bytes} bytes")


def listed(value: str | None, default: int) -> int:
    """How many landmarks and look-alikes a request asks for.

    Raises:
        RefusedError: 422, it is no whole number from 1 to `MOST_LISTED`.
    """
    if value is None or not value.strip():
        return default
    number = int(value) if value.isascii() and value.isdecimal() and len(value) < 9 else math.nan
    if not 1 <= number <= MOST_LISTED:
        raise RefusedError(422, "wrong_top", f"top: expected a whole number from 1 to {MOST_LISTED}")
    return int(number)
