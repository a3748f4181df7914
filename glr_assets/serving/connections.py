"""HTTP/1.1 connections with bounds: how many, of whom, how slow, and what is refused before it is a request."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from http import HTTPStatus
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from glr_assets.serving.answers import failure
from glr_assets.serving.clients import client_of, is_proxy, slowest_of_greediest
from glr_assets.serving.limits import Limits, RefusedError
from glr_assets.serving.security import HEADERS

#: An answer that is not read at so many bytes a second is given up, after so many seconds.
_ANSWER_RATE: Final = 16 * 2**10
_ANSWER_SECONDS: Final = 10.0
#: Bytes that are read from a connection at once.
_READ_BYTES: Final = 32 * 2**10
#: Bytes of a request's line and headers.
_HEADER_BYTES: Final = 16 * 2**10
#: Parts of a chunked body cost some microseconds each: of more than so many the mean is to have so many bytes.
_FEW_CHUNKS: Final = 1024
_CHUNK_BYTES: Final = 64
_FULL: Final = RefusedError(503, "busy", "busy: too many connections", retry_after=1)
_INVALID: Final = RefusedError(400, "bad_request", "no valid HTTP request, or a body in parts that are too small")


class Connections:
    """The open connections of one event loop.

    Where there are as many as may be, one more takes the place of the slowest of the client that holds most, of those
    that the service waits for: for a request, for a body, or for an answer to be read.
    """

    def __init__(self, limits: Limits) -> None:
        """None is open."""
        self.limits = limits
        self.most = limits.connections
        self._open: set[Connection] = set()
        self._of_client = Counter[str]()
        self._unread: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> bool:
        """Take a connection, for which another may be closed; returns whether there is room for it."""
        client = connection.client_key
        waited_for = [one for one in self._open if one.is_waited_for]
        if self._of_client[client] >= self.limits.connections_per_client and not connection.is_of_proxy:
            slow = slowest_of_greediest([one for one in waited_for if one.client_key == client], client, 0)
        elif len(self._open) >= self.most:
            slow = slowest_of_greediest(waited_for, client, self.most)
        else:
            slow = connection
        if slow is None:
            return False
        if slow is not connection:
            self.remove(slow)
            slow.abort()
        self._open.add(connection)
        self._of_client[client] += 1
        return True

    def remove(self, connection: Connection) -> None:
        """A connection is closed."""
        self._unread.discard(connection)
        if connection in self._open:
            self._open.remove(connection)
            self._of_client[connection.client_key] -= 1
            self._of_client += Counter()  # without clients of none

    def pause(self, connection: Connection) -> None:
        """An answer is not read as it is sent.

        Where too much is unread in all, the client with most of it loses its oldest connection of these.
        """
        self._unread.add(connection)
        of_client = Counter[str]()
        for one in self._unread:
            of_client[one.client_key] += one.unread
        while of_client.total() > self.limits.unread_bytes:
            client, _ = of_client.most_common(1)[0]
            first = min((one for one in self._unread if one.client_key == client), key=lambda one: one.since)
            of_client[client] -= first.unread
            self._unread.discard(first)
            first.abort()

    def resume(self, connection: Connection) -> None:
        """All of an answer is on its way."""
        self._unread.discard(connection)


class _Http(h11.Connection):
    """HTTP/1.1 without what proxies and servers have been known to understand differently, or to be kept busy by."""

    def __init__(self, most_header: int) -> None:
        super().__init__(h11.SERVER, most_header)
        self._chunked = False
        self._chunks = self._bytes = 0

    def next_event(self) -> Any:
        """As of h11.

        Raises:
            h11.RemoteProtocolError: also for a body with two lengths (RFC 9112, 6.1), or in tiny parts.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            self._chunked, self._chunks, self._bytes = b"transfer-encoding" in names, 0, 0
            if self._chunked and b"content-length" in names:
                raise h11.RemoteProtocolError("Content-Length together with Transfer-Encoding")
        elif isinstance(event, h11.Data) and self._chunked:
            self._chunks += 1
            self._bytes += len(event.data)
            if self._chunks > _FEW_CHUNKS and self._bytes < self._chunks * _CHUNK_BYTES:
                raise h11.RemoteProtocolError("a body in tiny parts")
        return event


class Connection(H11Protocol):
    """One connection of a `Service`, which uvicorn makes.

    It waits for so long for a header, for the rest of a body that was answered before it had all come, and for an
    answer to be read: whoever is still sending gets to read why it is refused, and nobody holds it for ever.

    Attributes:
        client_key: the client, by the address of the other end; a proxy is one.
        is_of_proxy: whether it is a trusted proxy's.
        since: `time.monotonic()` from when on the client is waited for.
        received: bytes that have come since.
    """

    def __init__(self, config: Any, *arguments: Any, **options: Any) -> None:
        """As uvicorn makes it."""
        super().__init__(config, *arguments, **options)
        self._connections: Connections = config.app.connections
        self._limits = self._connections.limits
        self.conn = _Http(_HEADER_BYTES)
        self.client_key, self.is_of_proxy = "", False
        self.since, self.received = time.monotonic(), 0
        self._phase: object = None
        self._timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None

    @property
    def is_waited_for(self) -> bool:
        """Whether the next step is the client's."""
        state = self.conn.their_state
        return state is h11.IDLE or state is h11.SEND_BODY or self._answer_timer is not None

    @property
    def unread(self) -> int:
        """Bytes of answers that the system has not taken to send."""
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close it at once, whatever is under way."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As of a protocol."""
        # `pause_writing` then tells of every byte that the client does not read.
        transport.set_write_buffer_limits(high=0)
        # For each read asyncio takes so many bytes of memory, of which the parts that nothing came for stay in holes.
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_BYTES
        super().connection_made(transport)
        peer = self.client[0] if self.client else None
        self.client_key = client_of(peer, (), ())
        self.is_of_proxy = is_proxy(peer, self._limits.trusted_proxies)
        if self._connections.add(self):
            self._watch()
        else:
            self._refuse(_FULL)

    def data_received(self, data: bytes) -> None:
        """As of a protocol."""
        self.received += len(data)
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """As of a protocol."""
        super().connection_lost(exc)
        self._connections.remove(self)
        for timer in (self._timer, self._answer_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._answer_timer = None

    def pause_writing(self) -> None:
        """As of a protocol."""
        super().pause_writing()
        if self._answer_timer is None:
            self.since, self.received = time.monotonic(), 0
            seconds = _ANSWER_SECONDS + self.unread / _ANSWER_RATE
            self._answer_timer = self.loop.call_later(seconds, self.abort)
        self._connections.pause(self)

    def resume_writing(self) -> None:
        """As of a protocol."""
        super().resume_writing()
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None
        self._connections.resume(self)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, in the form of all refusals."""
        started = self.cycle is not None and self.cycle.response_started
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE} and not started:
            self._refuse(_INVALID)
        else:
            self.transport.close()

    def _refuse(self, error: RefusedError) -> None:
        response = failure(error)
        headers = {name.decode(): value.decode() for name, value in response.raw_headers}
        headers |= {**HEADERS, "Cache-Control": "no-store", "Connection": "close"}
        head = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + bytes(response.body))
        self.transport.close()

    def _watch(self) -> None:
        """Begin to wait, or wait no longer."""
        phase = (self.conn.their_state, id(self.cycle))
        if phase != self._phase:
            self._phase, self.since, self.received = phase, time.monotonic(), 0
        if not self._awaits():
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:
            self._timer = self.loop.call_later(self._limits.header_seconds, self._close)

    def _awaits(self) -> bool:
        theirs = self.conn.their_state
        return theirs is h11.IDLE or (theirs is h11.SEND_BODY and self.conn.our_state is h11.DONE)

    def _close(self) -> None:
        self._timer = None
        if self._awaits():
            self.transport.close()
