"""Secrets kept out of every text: errors, logs, run configurations, events and printed lines pass through `redact`.

Three kinds are replaced by `***`: values that were registered, as those of `GLR_…_OPTIONS`; values of environment
variables that hold credentials; and what looks like credentials in a URL or a header, wherever it comes from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

MASK: Final = "***"
#: Options of file systems whose values tell nothing that must be kept: they name places and ways, never keys. Values
#: of all others are secrets.
PUBLIC_OPTIONS: Final = frozenset(
    (
        *("anon", "asynchronous", "endpoint_url", "region_name", "region", "profile", "use_ssl", "verify", "protocol"),
        *("host", "port", "hostname", "project", "account_name", "signature_version", "addressing_style", "mode"),
        *("default_block_size", "default_fill_cache", "default_cache_type", "cache_regions", "requester_pays"),
        *("max_concurrency", "connect_timeout", "read_timeout", "use_listings_cache", "skip_instance_cache"),
    )
)
#: Environment variables that hold credentials.
_VARIABLES: Final = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY"),
    *("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN", "GLR_ALERT_WEBHOOK", "GLR_SERVE_TOKEN"),
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
)
#: Shorter values are words, which texts hold for other reasons; no credential is as short.
_SHORTEST: Final = 6

#: `scheme://user:password@host`, and `scheme://token@host`. A password may hold a slash that nobody encoded, as keys
#: of AWS do; a colon before digits and a slash is a port. No scheme is as long as the bound, which keeps the search
#: linear in a text without spaces.
_USERINFO = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,40})://(?P<info>[^/?#\s@'\"]*|[^/?#\s@:'\"]+:(?!\d+/)[^\s@'\"]*)@"
)
#: Of these the part before `@` names a container or a user where it holds no password.
_NAMED_PARTS: Final = frozenset(("abfs", "abfss", "wasb", "wasbs", "adl", "hdfs", "sftp", "ssh"))
_QUERY = re.compile(
    r"(?P<name>[?&](?:x-amz-[a-z-]*|x-goog-[a-z-]*|signature|sig|token|[a-z_]*_token|api_?key|key|awsaccesskeyid"
    r"|password|secret)=)[^&\s'\"]+",
    re.IGNORECASE,
)
_HEADER = re.compile(r"\b(?P<kind>Bearer|Basic) +[A-Za-z0-9+/=._~-]{6,}")

_registered: set[str] = set()


def register(options: object) -> None:
    """Remember the values of a file system's options as secrets, but for those of `PUBLIC_OPTIONS`.

    Args:
        options: the options as decoded from JSON, nested as they are; or one secret text.
    """
    _registered.update(value for value in _secrets(options) if len(value) >= _SHORTEST)


def _secrets(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
        yield from value.splitlines()  # a key of several lines is printed line by line
    elif isinstance(value, Mapping):
        for name, part in value.items():
            if not (isinstance(part, str) and name in PUBLIC_OPTIONS):
                yield from _secrets(part)
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        for part in value:
            yield from _secrets(part)


def redact(text: str) -> str:
    """`text` with every secret replaced by `***`."""
    text = _USERINFO.sub(_without_userinfo, text)
    text = _QUERY.sub(rf"\g<name>{MASK}", text)
    text = _HEADER.sub(rf"\g<kind> {MASK}", text)
    given = (os.environ.get(name, "") for name in _VARIABLES)
    for secret in sorted({*_registered, *(v for v in given if len(v) >= _SHORTEST)}, key=len, reverse=True):
        if secret in text:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    return text


def _without_userinfo(found: re.Match[str]) -> str:
    scheme, info = found["scheme"], found["info"]
    return found[0] if _is_name(scheme, info) else f"{scheme}://{MASK}@"


def has_credentials(url: str) -> bool:
    """Whether a URL holds a password or token before its host."""
    found = _USERINFO.match(url)
    return found is not None and not _is_name(found["scheme"], found["info"])


def _is_name(scheme: str, info: str) -> bool:
    return ":" not in info and scheme.lower() in _NAMED_PARTS


def redacted(document: Any) -> Any:
    """A JSON document with every secret in its texts replaced."""
    if isinstance(document, str):
        return redact(document)
    if isinstance(document, Mapping):
        return {name: redacted(value) for name, value in document.items()}
    return [redacted(value) for value in document] if isinstance(document, list | tuple) else document


def safe_cause(error: BaseException) -> BaseException | None:
    """An error as the cause of another, or None where its text or that of one of its own causes holds a secret.

    `raise … from safe_cause(error)`: what shows an error shows its causes too.
    """
    seen: BaseException | None = error
    passed: set[int] = set()
    while seen is not None and id(seen) not in passed:
        passed.add(id(seen))
        text = f"{seen} {seen!r}"
        if redact(text) != text:
            return None
        seen = seen.__cause__ or seen.__context__
    return error
