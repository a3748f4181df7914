"""Whose request is computed next: a queue of requests that is fair between clients."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from glr_assets.serving.limits import Limits, RefusedError


class Turns:
    """So many requests are computed at once and so many wait; of one event loop.

    A turn goes to the client with the fewest requests under way, of those to the one that was served longest ago, and
    to its first request. Where no more may wait, one more takes the place of the last of the client with most
    waiting, unless it is of that client itself.
    """

    def __init__(self, limits: Limits) -> None:
        """Nothing is computed."""
        self._limits = limits
        self._computing = Counter[str]()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def held(self) -> int:
        """Requests that are computed or wait for it."""
        return self._computing.total() + self._queued

    @property
    def _queued(self) -> int:
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def one(self, client: str, gone: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
        """A turn, for as long as the block runs.

        Args:
            client: whose request it is.
            gone: returns when the client no longer waits for an answer.

        Raises:
            RefusedError: 503, no more may wait, or it waited too long; or the client is gone, and nobody reads it.
        """
        if self._computing.total() < self._limits.computing and not self._queued:
            self._computing[client] += 1
        else:
            await self._wait(client, gone)
        try:
            yield
        finally:
            self._computing[client] -= 1
            self._computing += Counter()  # without those of none
            self._next()

    async def _wait(self, client: str, gone: Callable[[], Awaitable[object]]) -> None:
        self._make_room(client)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        leaving = asyncio.ensure_future(gone())
        try:
            timeout = self._limits.wait_seconds
            either: set[asyncio.Future[Any]] = {turn, leaving}
            await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if turn.done():
                turn.result()
                return
            raise RefusedError(400, "cut_off", "the client has gone away") if leaving.done() else _busy()
        except BaseException:
            self._leave(client, turn)
            raise
        finally:
            leaving.cancel()
            await asyncio.wait({leaving})

    def _leave(self, client: str, turn: asyncio.Future[None]) -> None:
        """Wait no longer; a turn that was just given goes to the next."""
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self._computing[client] -= 1
            self._computing += Counter()
            self._next()
            return
        queue = self._waiting.get(client, deque())
        if turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[client]

    def _make_room(self, client: str) -> None:
        """Let one more wait.

        Raises:
            RefusedError: 503, none may.
        """
        if self._queued < self._limits.waiting:
            return
        greediest = max(self._waiting, key=lambda one: len(self._waiting[one]), default=client)
        if len(self._waiting.get(greediest, ())) <= len(self._waiting.get(client, ())) + 1:
            raise _busy()
        self._waiting[greediest].pop().set_exception(_busy())

    def _next(self) -> None:
        while self._waiting and self._computing.total() < self._limits.computing:
            # Clients lie in the order in which they were last served or began to wait.
            client = min(self._waiting, key=lambda one: self._computing[one])
            queue = self._waiting.pop(client)
            turn = queue.popleft()
            if queue:
                self._waiting[client] = queue
            self._computing[client] += 1
            turn.set_result(None)


def _busy() -> RefusedError:
    return RefusedError(503, "busy", "busy: as many photographs as can be are being looked at", retry_after=1)
