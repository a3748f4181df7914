"""Images by the URL they were published under: few at a time, tried again where that may help, bounded in every way."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from glr_assets.openimages.photographs import PLACEHOLDER
from glr_assets.ranges import Place, Retry
from glr_assets.recipes import OpenImages

if TYPE_CHECKING:
    import httpx

#: Requests on their way at once: what a browser has open to one host.
CONNECTIONS: Final = 4
#: Botocore and browsers wait about as long for a host that says nothing.
_SILENT_SECONDS: Final = 15.0
_MOST_REDIRECTS: Final = 5
_LONGEST_PAUSE: Final = 30.0
#: Statuses by which a server asks to come again (RFC 9110, RFC 6585).
_AGAIN: Final = {408, 425, 429, 500, 502, 503, 504}
#: What Flickr's redirect for a lost photograph leads to: photo_unavailable.png, photo_unavailable_l.png and so on.
_LOST: Final = "photo_unavailable"
#: What servers call bytes that they know nothing of.
_BYTES: Final = {"application/octet-stream", "binary/octet-stream"}
_AGENT: Final = "glr-assets (Open Images by OriginalURL)"
RETRY: Final = Retry(attempts=4, first_wait=1.0)


@dataclass(frozen=True)
class NotFetched:
    """Why there are no bytes of an image."""

    reason: str


class _AnswerError(Exception):
    """What came in the stead of an image; `passing` where another attempt may bring one, after `pause` seconds."""

    def __init__(self, reason: str, *, passing: bool = False, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.passing, self.pause = passing, pause


class Fetcher:
    """Asks servers for images, as a context manager; usable from several threads.

    Args:
        recipe: hosts, bytes and seconds at most.
        schemes: of URLs that are asked for.
        retry: how often, and how long between.
    """

    def __init__(self, recipe: OpenImages, *, schemes: Collection[str] = ("https",), retry: Retry = RETRY) -> None:
        self.recipe, self.schemes, self.retry = recipe, frozenset(schemes), retry
        self._client: httpx.Client | None = None

    def __enter__(self) -> Fetcher:
        import httpx

        self._client = httpx.Client(
            headers={"User-Agent": _AGENT, "Accept": "image/jpeg,image/*;q=0.5"},
            timeout=min(_SILENT_SECONDS, self.recipe.fetch_seconds),
            limits=httpx.Limits(max_connections=CONNECTIONS),
            follow_redirects=False,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()

    def fetch(self, url: str) -> bytes | NotFetched:
        """The bytes under a URL, or why there are none; redirects are followed to hosts of the recipe alone."""
        attempt = 1
        while True:
            try:
                return self._followed(url)
            except _AnswerError as error:
                if not error.passing or attempt == self.retry.attempts:
                    return NotFetched(str(error))
                pause = max(self.retry.wait(attempt, Place(url, 0, 0)), min(error.pause, _LONGEST_PAUSE))
            time.sleep(pause)
            attempt += 1

    def _followed(self, url: str) -> bytes:
        ends = time.monotonic() + self.recipe.fetch_seconds
        for _ in range(_MOST_REDIRECTS + 1):
            self._check(url)
            found = self._asked(url, ends)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
            if urlsplit(url).path.rpartition("/")[2].startswith(_LOST):
                raise _AnswerError(f"{PLACEHOLDER}: the server leads to its card for lost photographs")
        raise _AnswerError(f"too many redirects: more than {_MOST_REDIRECTS}")

    def _check(self, url: str) -> None:
        """Refuse URLs of other schemes and hosts: what tables or servers name is asked for nowhere else."""
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").lower()
        except ValueError as error:
            raise _AnswerError("no URL") from error
        if parts.scheme not in self.schemes:
            raise _AnswerError(f"not {' or '.join(sorted(self.schemes))}: {parts.scheme or 'no URL'}")
        if not any(host == known or host.endswith(f".{known}") for known in self.recipe.fetch_hosts):
            raise _AnswerError(f"host not asked: {host} is not among fetch_hosts of the recipe")

    def _asked(self, url: str, ends: float) -> bytes | str:
        """One request: the bytes, or where a redirect leads."""
        import httpx

        if self._client is None:
            raise RuntimeError("a fetcher is opened by `with`")
        try:
            with self._client.stream("GET", url) as response:
                if response.has_redirect_location:
                    return str(response.headers["location"])
                status = response.status_code
                if status != httpx.codes.OK:
                    raise _AnswerError(f"HTTP {status}", passing=status in _AGAIN, pause=_asked_pause(response))
                kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                if kind and not kind.startswith("image/") and kind not in _BYTES:
                    raise _AnswerError(f"no image: the server calls it {kind}")
                return self._read(response, ends)
        except httpx.TimeoutException as error:
            raise _AnswerError("too slow: the server is silent", passing=True) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            passing = isinstance(error, httpx.TransportError)
            raise _AnswerError(f"no answer: {type(error).__name__}", passing=passing) from error

    def _read(self, response: httpx.Response, ends: float) -> bytes:
        most = self.recipe.max_bytes
        told = response.headers.get("content-length", "")
        if told.isdecimal() and int(told) > most:
            raise _AnswerError(f"too large: more than {most} bytes")
        data = bytearray()
        for block in response.iter_bytes():
            data += block
            if len(data) > most:
                raise _AnswerError(f"too large: more than {most} bytes")
            if time.monotonic() > ends:
                raise _AnswerError(f"too slow: more than {self.recipe.fetch_seconds:g} seconds", passing=True)
        return bytes(data)


def _asked_pause(response: httpx.Response) -> float:
    """Seconds of a Retry-After header that tells seconds; 0 where there is none."""
    try:
        return max(float(response.headers.get("retry-after", 0)), 0.0)
    except ValueError:
        return 0.0
