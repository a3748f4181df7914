"""Photographs out of a request's body, with bounds on parts, bytes, seconds and places while it arrives."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from glr_assets.serving.clients import slowest_of_greediest
from glr_assets.serving.limits import Limits, RefusedError

FIELD: Final = "image"
#: Beside the photograph a form has boundaries, headers and small fields.
FORM_BYTES: Final = 64 * 2**10
GRACE_SECONDS: Final = 10.0
"""A body may come in slower than the limit for so long."""
#: Bytes of an upload in memory; more go to a file.
_SPOOLED: Final = 16 * 2**10
_MOST_FIELDS: Final = 8
_FIELD_BYTES: Final = 1024
_NAME_LENGTH: Final = 120
#: Headers of a part, and bytes of each: browsers send two or three of some hundred bytes.
_MOST_HEADERS: Final = 8
_HEADER_BYTES: Final = 8192
_BUSY: Final = "busy: too many photographs are arriving"


@dataclass(frozen=True)
class Upload:
    """One file of a form: its name, of no meaning, and where its bytes lie in the form's file."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Form:
    """A form's photographs in their order, the file that has the bytes of all, and the other fields."""

    photos: tuple[Upload, ...]
    file: IO[bytes]
    fields: Mapping[str, str]


@dataclass(eq=False)
class _Arrival:
    """A request with a body: it holds a place and bytes until it is answered.

    Attributes:
        client_key: who sends it.
        since: when it began.
        received: bytes that have come.
        deadline: of the body; None once it has all come.
        given_up: whether its place was taken by another.
    """

    client_key: str
    deadline: asyncio.Timeout | None = None
    since: float = field(default_factory=time.monotonic)
    received: int = 0
    given_up: bool = False


class Arrivals:
    """Requests with bodies: so many at once, in all and of a client, and so many bytes in all; of one event loop.

    Where all places are held, one more takes the place of the slowest body of the client that holds most.
    """

    def __init__(self, limits: Limits) -> None:
        """Nothing is arriving."""
        self._limits = limits
        self._all: set[_Arrival] = set()
        self._of_client = Counter[str]()
        self.bytes = 0

    @property
    def held(self) -> int:
        """How many hold a place."""
        return len(self._all)

    @contextmanager
    def one(self, client: str) -> Iterator[_Arrival]:
        """A place for as long as the block runs.

        Raises:
            RefusedError: 503, there is none; 429, the client has as many as one may.
        """
        if self._of_client[client] >= self._limits.uploads_per_client:
            own = (one for one in self._arriving() if one.client_key == client)
            slow = slowest_of_greediest(own, client, 0)
            if slow is None:
                raise RefusedError(429, "too_many", "too many photographs of yours are arriving", retry_after=1)
            _give_up(slow)
        elif len(self._all) >= self._limits.uploads:
            slow = slowest_of_greediest(self._arriving(), client, self._limits.uploads)
            if slow is None:
                raise RefusedError(503, "busy", _BUSY, retry_after=1)
            _give_up(slow)
        arrival = _Arrival(client)
        self._all.add(arrival)
        self._of_client[client] += 1
        try:
            yield arrival
        finally:
            self._all.discard(arrival)
            self.bytes -= arrival.received
            self._of_client[client] -= 1
            self._of_client += Counter()  # without those of none

    def add(self, arrival: _Arrival, size: int) -> None:
        """Count bytes that have come.

        Raises:
            RefusedError: 503, they are too many of all together.
        """
        arrival.received += size
        self.bytes += size
        if self.bytes <= self._limits.upload_bytes:
            return
        of_client = Counter[str]()
        for one in self._all:
            of_client[one.client_key] += one.received
        greediest, most = max(of_client.items(), key=lambda item: item[1])
        others = [one for one in self._arriving() if one.client_key == greediest and not one.given_up]
        if of_client[arrival.client_key] == most or not others:
            raise RefusedError(503, "busy", _BUSY, retry_after=1)
        _give_up(max(others, key=lambda one: one.received))

    def _arriving(self) -> Iterator[_Arrival]:
        return (
            one
            for one in self._all
            # One whose time is over has been told to end, and will when its turn in the loop comes.
            if one.deadline is not None and not one.given_up and not one.deadline.expired()
        )


def _give_up(arrival: _Arrival) -> None:
    assert arrival.deadline is not None
    arrival.given_up = True
    arrival.deadline.reschedule(asyncio.get_running_loop().time())


@asynccontextmanager
async def read_form(
    request: Request, limits: Limits, arrivals: Arrivals, client: str, most: int = 1
) -> AsyncIterator[Form]:
    """The photographs of a request, at least one; their bytes are kept for as long as the block runs.

    Args:
        request: `multipart/form-data` with files in the field `image`.
        limits: bytes and seconds.
        arrivals: bodies that are read at once.
        client: who sends it.
        most: photographs.

    Raises:
        RefusedError: no such form, no or too many photographs, more bytes than there may be, too slow, or no place.
        HTTPException: 400, the form is damaged.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.split(";")[0].strip().lower() != "multipart/form-data":
        raise RefusedError(415, "wrong_type", f"expected multipart/form-data with a photograph in the field {FIELD}")
    most_bytes = FORM_BYTES + (limits.max_bytes if most == 1 else limits.max_batch_bytes)
    with arrivals.one(client) as arrival, tempfile.SpooledTemporaryFile(_SPOOLED) as file:
        length = request.headers.get("content-length", "")
        _check(int(length) if length.isdecimal() and len(length) < 20 else 0, most_bytes)
        try:
            form = _Reader(content_type, file, most)
            await _read(request, form, arrivals, arrival, most_bytes)
        except TimeoutError as error:
            if arrival.given_up:
                raise RefusedError(503, "busy", _BUSY, retry_after=1) from error
            reason = "too slow: the photograph did not arrive in time"
            raise RefusedError(408, "too_slow", reason) from error
        except ClientDisconnect as error:
            raise RefusedError(400, "cut_off", "the photograph was cut off on its way") from error
        except FormParserError as error:
            raise HTTPException(400, "the form is damaged") from error
        except OSError as error:
            raise RefusedError(503, "unavailable", "photographs cannot be taken at the moment", 5) from error
        yield form.result()


async def _read(request: Request, form: _Reader, arrivals: Arrivals, arrival: _Arrival, most_bytes: int) -> None:
    """Read the body to its end.

    Raises:
        TimeoutError: it is too slow, or gives its place to another.
    """
    limits, loop = arrivals._limits, asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(None) as deadline:
        arrival.deadline = deadline
        try:
            while True:
                due = began + limits.upload_seconds
                if limits.upload_rate:
                    due = min(due, began + GRACE_SECONDS + arrival.received / limits.upload_rate)
                if not arrival.given_up and not deadline.expired():
                    deadline.reschedule(due)
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                body = message.get("body", b"")
                _check(arrival.received + len(body), most_bytes)
                arrivals.add(arrival, len(body))
                if body:
                    # A file on a slow disk is not waited for by all.
                    await (asyncio.to_thread(form.write, body) if form.is_on_disk else _at_once(form, body))
                if not message.get("more_body", False):
                    break
            form.finish()
        finally:
            arrival.deadline = None


async def _at_once(form: _Reader, body: bytes) -> None:
    form.write(body)


def _check(size: int, most: int) -> None:
    """Refuse a body of so many bytes."""
    if size > most:
        raise RefusedError(413, "too_large", f"too large: a body of more than {most} bytes")


class _Reader:
    """A form while it is read: files go one after the other into one file, fields into memory."""

    def __init__(self, content_type: str, file: IO[bytes], most: int) -> None:
        """Nothing has been read.

        Raises:
            HTTPException: 400, there is no boundary.
            FormParserError: it is too long.
        """
        _, parameters = parse_options_header(content_type)
        boundary = parameters.get(b"boundary")
        if not boundary:
            raise HTTPException(400, "a form without a boundary")
        self._most, self._file = most, file
        self._photos: list[Upload] = []
        self._fields: dict[str, str] = {}
        self._of_files = self._of_fields = 0
        self._header, self._value, self._disposition = bytearray(), bytearray(), b""
        self._name, self._filename, self._text = "", "", bytearray()
        self._is_file = self._has_ended = False
        self._offset = self._size = 0
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add,
            "on_part_end": self._end,
            "on_end": self._finish,
        }
        self._parser = MultipartParser(
            boundary, callbacks, max_header_count=_MOST_HEADERS, max_header_size=_HEADER_BYTES
        )

    @property
    def is_on_disk(self) -> bool:
        """Whether bytes that come now go to a file."""
        return self._size > _SPOOLED

    def write(self, data: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            FormParserError, HTTPException: it is no form, or has too many parts.
            OSError: a file cannot be written.
        """
        self._parser.write(data)

    def finish(self) -> None:
        """The body has come to its end.

        Raises:
            HTTPException: 400, the form has not.
        """
        if not self._has_ended:
            raise HTTPException(400, "a form without its last boundary")

    def result(self) -> Form:
        """The form.

        Raises:
            RefusedError: no photograph, or too many.
        """
        if FIELD in self._fields and not self._photos:
            raise RefusedError(422, "missing", f"{FIELD}: expected a file, found text")
        if not self._photos:
            raise RefusedError(422, "missing", f"no photograph: expected a file in the field {FIELD}")
        if len(self._photos) > self._most:
            raise RefusedError(
                422, "too_many", f"{len(self._photos)} photographs, at most {self._most} are taken at once"
            )
        return Form(tuple(self._photos), self._file, self._fields)

    def _begin(self) -> None:
        self._disposition = b""
        self._text.clear()

    def _end_header(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise HTTPException(400, "a part without a name")
        self._name = _text(options[b"name"])
        self._is_file, self._offset = b"filename" in options, self._size
        if self._is_file:
            self._filename = _text(options[b"filename"])
            self._of_files += 1
        else:
            self._of_fields += 1
        # A browser sends an input for files that was left empty as one without name and bytes.
        if self._of_files > self._most + 2 or self._of_fields > _MOST_FIELDS:
            raise HTTPException(400, "too many parts")

    def _add(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            if len(self._text) + end - start > _FIELD_BYTES:
                raise HTTPException(400, f"a field of more than {_FIELD_BYTES} bytes")
            self._text += data[start:end]
        elif self._name == FIELD:
            self._file.write(data[start:end])
            self._size += end - start

    def _end(self) -> None:
        if not self._is_file:
            self._fields[self._name] = _text(bytes(self._text))
        elif self._name == FIELD and (self._filename or self._size > self._offset):
            self._photos.append(Upload(_shown(self._filename), self._offset, self._size - self._offset))

    def _finish(self) -> None:
        self._has_ended = True


def _text(data: bytes) -> str:
    """UTF-8, as browsers and `httpx` send it (RFC 7578, 5.1), or what can be made of it."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _shown(name: str) -> str:
    """A file's name for its sender alone: its last part, printable."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(letter for letter in last if letter.isprintable())[:_NAME_LENGTH]
