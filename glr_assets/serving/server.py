"""`glr serve`: the service on a socket."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from glr_assets.errors import MissingInputError
from glr_assets.receipts import holds_receipts
from glr_assets.serving.app import Service, build_service
from glr_assets.serving.limits import Limits
from glr_assets.serving.live import Live
from glr_assets.serving.security import Access
from glr_assets.serving.sockets import listen, url_of
from glr_assets.store import Store

KEEP_ALIVE_SECONDS: Final = 5
SHUTDOWN_SECONDS: Final = 10
log = logging.getLogger(__name__)


def serve(store: Store, host: str, port: int, token: str | None, limits: Limits | None = None) -> None:
    """Serve until a signal ends it; a store whose index has not been made yet is waited for.

    Args:
        store: what is searched.
        host: where to listen; any other than loopback needs a token.
        port: the TCP port; 0 takes a free one.
        token: what clients must show; None for no such need.
        limits: what is taken.

    Raises:
        SettingsError: other machines would be let in without a token, or the port cannot be had.
        MissingInputError: nothing has ever been made in the store.
    """
    access = Access.at(host, token)
    if not holds_receipts(store):
        raise MissingInputError(
            f"{store.url}: nothing has been made there; check --store or GLR_STORE, or make it by `glr demo`"
        )
    # Before anything is loaded: uvicorn would bind after it, and end only when all that was started has.
    sockets = listen(host, port)
    limits = limits or Limits()
    threads_each = max(1, (os.cpu_count() or 1) // limits.computing)
    service = build_service(Live(store), limits, access, threads_each=threads_each)
    logger = logging.getLogger("glr_assets")
    logger.addHandler(_handler())
    logger.setLevel(logging.INFO)
    for one in sockets:
        log.info("listening on %s (Ctrl-C ends it)", url_of(one))
    uvicorn.Server(config(service)).run(sockets)


def config(service: Service, **options: Any) -> uvicorn.Config:
    """How uvicorn runs a service."""
    return uvicorn.Config(
        service,
        http=protocol(service.limits.header_seconds),
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        **options,
    )


def _handler() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s:     %(message)s"))
    return handler


def protocol(header_seconds: float) -> type[asyncio.Protocol]:
    """HTTP/1.1 that closes a connection whose request does not come on in time.

    It waits so long for a header, and for the rest of a body that was answered before it had all come: whoever is
    still sending gets to read why it is refused, and nobody sends for ever.
    """

    class Impatient(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._unwatch()

        def _watch(self) -> None:
            if not self._awaits():
                self._unwatch()
            elif self._timer is None:
                self._timer = self.loop.call_later(header_seconds, self._close)

        def _awaits(self) -> bool:
            theirs = self.conn.their_state
            return theirs is h11.IDLE or (theirs is h11.SEND_BODY and self.conn.our_state is h11.DONE)

        def _unwatch(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _close(self) -> None:
            self._timer = None
            if self._awaits():
                self.transport.close()

    return Impatient
