"""Who a request is counted for: an address, or the network of one, that limits a client share by share."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, TypeVar

from glr_assets.serving.limits import Network, RefusedError

#: A customer of an IPv6 provider has at least so large a network (RFC 6177), and any address in it.
_IPV6_PREFIX: Final = 64
#: A holder is slow that after so many seconds comes in at fewer bytes a second.
_SLOW_AGE: Final = 1.0
_SLOW_RATE: Final = 16 * 2**10
#: A client with at most one of so many places, or with so many at all, holds few: a browser opens six connections.
_SHARE: Final = 16
_FEW: Final = 8
_MOST_BUCKETS: Final = 10_000
_LOCAL: Final = "local"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def client_of(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The client of a connection or request: an IPv4 address or an IPv6 network of 64 bits.

    Args:
        peer: address of the other end; None for a local socket.
        forwarded: values of the `X-Forwarded-For` headers in their order; each proxy adds its peer at the right.
        trusted: proxies whose word is taken. Of a peer that is none of them the header is ignored.
    """
    found = _address(peer or "")
    if found is None:
        return _LOCAL
    hops = [hop for value in forwarded for hop in value.split(",")]
    while hops and _is_trusted(found, trusted):
        named = _address(_without_port(hops.pop()))
        if named is None:
            break
        found = named
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, _IPV6_PREFIX), strict=False))
    return str(found)


def is_proxy(peer: str | None, trusted: Sequence[Network]) -> bool:
    """Whether the other end of a connection is one of the proxies whose word is taken."""
    found = _address(peer or "")
    return found is not None and _is_trusted(found, trusted)


def _is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address in network for network in trusted)


def _address(text: str) -> Address | None:
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def _without_port(hop: str) -> str:
    """An address of `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`, quoted or not."""
    hop = hop.strip().strip('"')
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


class Holder(Protocol):
    """A connection or an upload that holds a place.

    Attributes:
        client_key: whose it is.
        since: `time.monotonic()` from when on the client is waited for.
        received: bytes that have come since.
    """

    client_key: str
    since: float
    received: int


H = TypeVar("H", bound=Holder)


def slowest_of_greediest(holders: Iterable[H], newcomer: str, places: int) -> H | None:
    """The holder that makes room for one more of client `newcomer` where all places are held.

    It is the slowest, in bytes a second, of the client that holds most, or of those that hold as many. A client that
    holds most itself gives up a slow one of its own; one that holds few may take the place of any slow one, so that
    many clients of one place each shut nobody out. Else there is none, and the newcomer is refused.

    Args:
        holders: those that may be given up.
        newcomer: the client of one more.
        places: how many there are in all.
    """
    of_client: dict[str, list[H]] = {}
    for holder in holders:
        of_client.setdefault(holder.client_key, []).append(holder)
    most, now = max(map(len, of_client.values()), default=0), time.monotonic()

    def rate(holder: H) -> float:
        return holder.received / (now - holder.since + 1)

    def slow(held: Iterable[H]) -> list[H]:
        return [one for one in held if now - one.since >= _SLOW_AGE and rate(one) < _SLOW_RATE]

    own = of_client.get(newcomer, [])
    if len(own) < most:
        found = [one for held in of_client.values() if len(held) == most for one in held]
    else:
        found = slow(own)
        if not found and len(own) < max(_FEW, places // _SHARE):
            found = slow(one for held in of_client.values() for one in held)
    return min(found, key=rate, default=None)


class Rate:
    """Requests a minute that each client may make, by a token bucket that holds ten seconds' worth, at least one."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        """No client has asked yet; of the `_MOST_BUCKETS` last ones it is known what they asked.

        Args:
            per_minute: 0 for no limit.
            clock: seconds.
        """
        self._per_second, self._clock = per_minute / 60, clock
        self._size = max(1.0, 10 * self._per_second)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, client: str) -> None:
        """Count a request.

        Raises:
            RefusedError: 429, it is one too many; it says when to come back.
        """
        if self._per_second <= 0:
            return
        now = self._clock()
        tokens, before = self._buckets.pop(client, (self._size, now))
        tokens = min(self._size, tokens + (now - before) * self._per_second)
        while len(self._buckets) >= _MOST_BUCKETS:
            self._buckets.popitem(last=False)
        if tokens < 1:
            self._buckets[client] = (tokens, now)
            after = math.ceil((1 - tokens) / self._per_second)
            reason = f"too many requests: at most {60 * self._per_second:g} a minute"
            raise RefusedError(429, "too_often", reason, after)
        self._buckets[client] = (tokens - 1, now)
