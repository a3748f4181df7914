"""`glr serve`: the service on a socket."""

from __future__ import annotations

import logging
import os
from typing import Any, Final

import uvicorn

from glr_assets.errors import MissingInputError
from glr_assets.receipts import holds_receipts
from glr_assets.serving.app import Service, build_service
from glr_assets.serving.connections import Connection
from glr_assets.serving.limits import Limits
from glr_assets.serving.live import Live
from glr_assets.serving.security import Access
from glr_assets.serving.sockets import listen, raise_open_files, url_of
from glr_assets.store import Store

SHUTDOWN_SECONDS: Final = 10
log = logging.getLogger(__name__)


def serve(store: Store, host: str, port: int, token: str | None, limits: Limits | None = None) -> None:
    """Serve until a signal ends it; a store whose index has not been made yet is waited for.

    Args:
        store: what is searched.
        host: where to listen; any other than loopback needs a token.
        port: the TCP port; 0 takes a free one.
        token: what clients must show; None for no such need.
        limits: what is taken; by default as the environment sets it.

    Raises:
        SettingsError: other machines would be let in without a token, the port cannot be had, or a setting is wrong.
        MissingInputError: nothing has ever been made in the store.
    """
    access = Access.at(host, token)
    limits = limits or Limits.from_environment()
    if not holds_receipts(store):
        raise MissingInputError(
            f"{store.url}: nothing has been made there; check --store or GLR_STORE, or make it by `glr demo`"
        )
    # Before anything is loaded: uvicorn would bind after it, and end only when all that was started has.
    sockets = listen(host, port)
    threads_each = max(1, (os.cpu_count() or 1) // limits.computing)
    service = build_service(Live(store), limits, access, threads_each=threads_each)
    service.connections.most = raise_open_files(limits.connections)
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
        http=Connection,
        ws="none",
        loop="asyncio",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=service.limits.idle_seconds,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        **options,
    )


def _handler() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s:     %(message)s"))
    return handler
