"""A bad line to an S3 server: a proxy on loopback that, at random from a seed, breaks what it passes on."""

from __future__ import annotations

import http.client
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

Fault = Literal["reset", "closed", "short", "stall", "slow_down", "denied"]
"""reset: the connection is reset inside the body. closed: it is closed there. short: the answer names fewer bytes
than were asked for, and has them. stall: nothing more comes inside the body, or before it. slow_down: 503.
denied: 403."""

ANSWERS: dict[str, tuple[int, str]] = {"slow_down": (503, "SlowDown"), "denied": (403, "AccessDenied")}
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


@dataclass(frozen=True)
class Passed:
    """A request that came by: the byte range it asked for, what was done to it, and the body's bytes sent."""

    method: str
    path: str
    span: tuple[int, int] | None
    fault: Fault | None
    sent: int


class FaultyS3:
    """A proxy in front of the S3 server at `upstream`, for use in a `with` block.

    Args:
        upstream: its URL.
        rates: how often each fault happens to a GET that has a body; may be changed at any time. `short` happens to
            range requests alone: of a whole file nobody could know.
        seed: of the faults. With several requests at once, which one meets a fault depends on their order.
        stall_seconds: how long it stalls before it closes.
        delay_seconds: how long every answer takes to begin; may be changed at any time.
    """

    def __init__(
        self,
        upstream: str,
        rates: Mapping[Fault, float] | None = None,
        *,
        seed: int = 0,
        stall_seconds: float = 30,
        delay_seconds: float = 0.0,
    ) -> None:
        self.rates: dict[Fault, float] = dict(rates or {})
        self.requests: list[Passed] = []
        self._upstream = urlsplit(upstream).netloc
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._stall_seconds = stall_seconds
        self.delay_seconds = delay_seconds
        self.most_at_once = self._at_once = 0
        self._ending = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()

    def calm(self, seed: int = 0) -> None:
        """Break nothing more, forget what was, and begin the seed's chance anew."""
        with self._lock:
            self.rates = {}
            self.requests = []
            self.delay_seconds = 0.0
            self.most_at_once = 0
            self._random.seed(seed)

    @property
    def done(self) -> Counter[str]:
        """How often each fault happened so far."""
        with self._lock:
            return Counter(request.fault for request in self.requests if request.fault)

    def ranges(self, name: str) -> list[Passed]:
        """The range requests for objects whose path ends so, in their order."""
        with self._lock:
            return [r for r in self.requests if r.method == "GET" and r.span and r.path.endswith(name)]

    def changed(self, body: bytes) -> bytes:
        """What becomes of the body of a range request; here nothing."""
        return body

    def _drawn(self, ranged: bool, size: int) -> tuple[Fault | None, int]:
        """What happens to an answer of `size` bytes, and after how many of them."""
        with self._lock:
            lot, cut = self._random.random(), self._random.randrange(size)
        for fault, rate in self.rates.items():
            lot -= rate
            if lot < 0:
                return (None if fault == "short" and not ranged else fault), cut
        return None, cut

    def _passed(self, request: Passed) -> None:
        with self._lock:
            self.requests.append(request)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True  # the client went away

            def log_message(self, format: str, *_: object) -> None:
                pass

            def answer(self) -> None:
                with proxy._lock:
                    proxy._at_once += 1
                    proxy.most_at_once = max(proxy.most_at_once, proxy._at_once)
                try:
                    proxy._ending.wait(proxy.delay_seconds)
                    self.answered()
                finally:
                    with proxy._lock:
                        proxy._at_once -= 1

            def answered(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                connection = http.client.HTTPConnection(proxy._upstream)
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for key, value in self.headers.items():
                    connection.putheader(key, value)
                connection.endheaders(self.rfile.read(length) if length else None)
                response = connection.getresponse()
                body = response.read()
                connection.close()
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                span = (int(asked[1]), int(asked[2])) if asked else None
                body = proxy.changed(body) if span and response.status < 300 else body
                fault, cut = (None, 0)
                if self.command == "GET" and body and response.status < 300:
                    fault, cut = proxy._drawn(span is not None, len(body))

                def passed(sent: int) -> None:
                    proxy._passed(Passed(self.command, urlsplit(self.path).path, span, fault, sent))

                if fault in ANSWERS:
                    status, code = ANSWERS[fault]
                    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}, it says</Message></Error>"
                    passed(0)
                    self.head(status, {"Content-Type": "application/xml"}, len(text))
                    self.wfile.write(text.encode())
                    return
                if fault == "stall" and cut % 2:
                    passed(0)
                    proxy._ending.wait(proxy._stall_seconds)
                    self.close_connection = True
                    return
                length = len(body)
                if self.command == "HEAD":
                    length = int(response.headers.get("Content-Length", 0))
                self.head(response.status, dict(response.headers.items()), cut if fault == "short" else length)
                passed(cut if fault else len(body))
                self.wfile.write(body[:cut] if fault else body)
                self.wfile.flush()
                if fault in ("stall", "closed", "reset"):
                    self.close_connection = True
                    if fault == "stall":
                        proxy._ending.wait(proxy._stall_seconds)
                    if fault == "reset":
                        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        self.connection.close()

            def head(self, status: int, headers: Mapping[str, str], length: int) -> None:
                self.send_response(status)
                for key, value in headers.items():
                    if key.lower() not in _HOP:
                        self.send_header(key, value)
                self.send_header("Content-Length", str(length))
                self.end_headers()

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

        return Handler
