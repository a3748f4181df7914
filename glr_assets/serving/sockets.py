"""Listening sockets of the service, bound before anything slow starts."""

from __future__ import annotations

import errno
import resource
import socket
from contextlib import ExitStack
from typing import Any, Final

from glr_assets.errors import SettingsError

BACKLOG: Final = 1024
#: Files of the index, of libraries, and connections to the store.
_OTHER_FILES: Final = 256
#: Causes that differ between the addresses of one host name: `localhost` is ::1 as well on machines without IPv6.
_NO_SUCH_ADDRESS: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_FIXES: Final = {
    errno.EADDRINUSE: "another program listens there: stop it, or choose another --port",
    errno.EACCES: "not permitted: choose a --port from 1024 on",
    errno.EADDRNOTAVAIL: "this machine has no such address: choose another --host",
}


def listen(host: str, port: int) -> list[socket.socket]:
    """Bind and listen at every address of a host.

    Args:
        host: name or address.
        port: TCP port; 0 takes a free one, the same for every address.

    Raises:
        SettingsError: the host has no address, or the port cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"--host {host!r}: no such host: expected a name or an address of this machine") from error
    listening: list[socket.socket] = []
    missing: OSError | None = None
    with ExitStack() as undo:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                one = _bound(family, kind, protocol, (address[0], port, *address[2:]))
            except OSError as error:
                if error.errno not in _NO_SUCH_ADDRESS:
                    raise _refusal(host, port, error) from error
                missing = error
                continue
            undo.callback(one.close)
            port = one.getsockname()[1]
            listening.append(one)
        undo.pop_all()
    if missing is not None and not listening:
        raise _refusal(host, port, missing) from missing
    return listening


def raise_open_files(connections: int) -> int:
    """Let the process open as many files as so many connections take, each with the file of an upload.

    Returns:
        How many connections fit, fewer where the system's hard limit is lower.
    """
    wanted = 2 * connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < wanted:
        soft = wanted if hard == unlimited else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == unlimited or soft >= wanted:
        return connections
    return max(1, (soft - _OTHER_FILES) // 2)


def url_of(listening: socket.socket) -> str:
    """URL at which a browser of this machine finds a socket's service."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if listening.family == socket.AF_INET6 else f"http://{host}:{port}"


def _bound(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    one = socket.socket(family, kind, protocol)
    try:
        # A port whose last server has just ended is free at once.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.setblocking(False)
        one.bind(address)
        one.listen(BACKLOG)
    except OSError:
        one.close()
        raise
    return one


def _refusal(host: str, port: int, error: OSError) -> SettingsError:
    why = _FIXES.get(error.errno or 0, error.strerror or str(error))
    return SettingsError(f"cannot listen at --host {host!r} --port {port}: {why}")
