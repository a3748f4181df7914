"""Who may ask, and what a browser may do with an answer: hosts, tokens, origins and headers."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glr_assets.errors import SettingsError
from glr_assets.serving.answers import failure
from glr_assets.serving.limits import RefusedError

TOKEN_SETTING: Final = "GLR_SERVE_TOKEN"
#: Probes tell nothing that needs hiding.
_OPEN: Final = frozenset({"/health", "/ready"})
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Headers of every answer."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True)
class Access:
    """Who is let in.

    Attributes:
        token: what every request but a probe must show; None where nobody but this machine reaches the service.
        any_host: whether requests may name any host. Else they must name this machine, which keeps pages from elsewhere
            out whose names are made to point here (DNS rebinding).
    """

    token: str | None = None
    any_host: bool = False

    @classmethod
    def at(cls, host: str, token: str | None) -> Access:
        """The access that listening at `host` asks for.

        Raises:
            SettingsError: others than this machine reach it, and there is no token.
        """
        token = (token or "").strip() or None
        if not is_loopback(host) and token is None:
            raise SettingsError(
                f"--host {host} lets other machines in, and {TOKEN_SETTING} is not set: set it to a long random word "
                "that clients send as `Authorization: Bearer …`, or listen at 127.0.0.1"
            )
        return cls(token, any_host=token is not None)

    def check(self, scope: Scope) -> None:
        """Let a request pass or not.

        Raises:
            RefusedError: 400 for a strange host, 403 for another site's form, 401 without the token.
        """
        headers = Headers(scope=scope)
        if not self.any_host and not is_loopback(_host_of(headers.get("host", ""))):
            raise RefusedError(400, "wrong_host", "Host: expected this machine, as 127.0.0.1 or localhost")
        if scope["method"] not in {"GET", "HEAD"} and headers.get("sec-fetch-site", "none") == "cross-site":
            raise RefusedError(403, "other_site", "forms of other sites are not taken")
        if self.token is not None and scope["path"] not in _OPEN and not self._shown(headers.get("authorization", "")):
            raise RefusedError(401, "no_token", "expected the header Authorization: Bearer with the service's token")

    def _shown(self, authorization: str) -> bool:
        """Whether the header holds the token, as a client or, by its own dialogue, a browser sends it."""
        scheme, _, given = authorization.partition(" ")
        given = given.strip()
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[2]
            except (binascii.Error, ValueError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return secrets.compare_digest(given.encode(), (self.token or "").encode())


def _host_of(header: str) -> str:
    """The host without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


class Guard:
    """Checks access before a request is read, and gives every answer its headers."""

    def __init__(self, access: Access) -> None:
        self.access = access

    async def __call__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through to `app`, or refuse it."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            self.access.check(scope)
        except RefusedError as error:
            response = failure(error)
            if error.status == 401:
                response.headers.append("WWW-Authenticate", "Bearer")
                response.headers.append("WWW-Authenticate", 'Basic realm="glr, the token as password", charset="UTF-8"')
            await response(scope, receive, with_headers)
            return
        await app(scope, receive, with_headers)
