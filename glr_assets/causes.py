"""True causes of failed access: what a file system's client raised, as one phrase with its fix.

Clients wrap causes: s3fs turns an S3 error code into an `OSError`, and fsspec's HTTP client turns whatever failed into
"no such file". So the whole chain of an error is looked through, innermost facts first: name resolution, connection,
TLS, HTTP status, S3 error code, credentials, options.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final

from glr_assets.redaction import redact

_DENIED: Final = (
    "grant read and list rights to these credentials (and write rights for a store); S3 says the same of a missing "
    "file where the bucket may not be listed"
)
_CREDENTIALS: Final = "check the key and secret of the options, of AWS_… variables or of ~/.aws"
#: S3 error codes (Amazon S3 API Reference, "Error responses"): what they say, and the fix.
_S3_CODES: Final[Mapping[str, tuple[str, str]]] = {
    "NoSuchBucket": ("there is no bucket of that name", "correct the URL, or create the bucket"),
    "AccessDenied": ("access denied", _DENIED),
    "AllAccessDisabled": ("the bucket's owner has disabled all access", "ask its owner"),
    "ExpiredToken": ("the credentials have expired", "renew them (`aws sso login`, or new temporary keys)"),
    "TokenRefreshRequired": ("the credentials must be renewed", "renew them (`aws sso login`, or new temporary keys)"),
    "InvalidToken": ("the session token is not valid", _CREDENTIALS),
    "InvalidAccessKeyId": ("the access key is not known there", _CREDENTIALS),
    "SignatureDoesNotMatch": ("the secret key does not belong to the access key", _CREDENTIALS),
    "RequestTimeTooSkewed": ("this machine's clock differs from the server's", "set the clock"),
    "SlowDown": ("the server asks to slow down", "run it again later, or with fewer workers"),
    "ServiceUnavailable": ("the server is not available now", "run it again later"),
    "InternalError": ("the server failed", "run it again later"),
    "InvalidObjectState": ("the file is archived (Glacier)", "restore it first"),
    "NotImplemented": ("the server does not know this request", "use a server with the whole S3 API"),
}
_OTHER_REGION: Final = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
#: HTTP status of answers without a body of their own, as to HEAD.
_STATUS: Final[Mapping[int, tuple[str, str]]] = {
    301: ("the bucket is at another endpoint or in another region", "correct endpoint_url or region_name"),
    307: ("the bucket is at another endpoint or in another region", "correct endpoint_url or region_name"),
    400: ("the server takes the request for malformed", "check the credentials (expired?) and the region"),
    401: ("the server wants credentials", "give them in the options"),
    403: ("access denied", _DENIED),
    407: ("the proxy wants credentials", "set https_proxy to what it takes"),
    429: ("the server asks to slow down", "run it again later, or with fewer workers"),
    503: ("the server is not available now", "run it again later"),
}
_NO_S3: Final = ("what answers there is no S3 service", "correct endpoint_url: it may be that of a web page or console")


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error, its cause, and so on inwards."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def hides_cause(error: FileNotFoundError) -> bool:
    """Whether "no such file" is said of something else: a missing bucket, or a server that was not reached."""
    for inner in list(chain(error))[1:]:
        if s3_code(inner) == "NoSuchBucket" or isinstance(inner, socket.gaierror | ssl.SSLError):
            return True
        status = _http_status(inner)
        if (status is not None and status not in (404, 410)) or type(inner).__module__.startswith("aiohttp"):
            return status not in (404, 410)
    return False


def explanation(error: BaseException, *, is_local: bool) -> tuple[str, str]:
    """What kept a file from being reached, and the fix: two phrases of one line without secrets.

    Args:
        error: what the client of the file system raised.
        is_local: whether it is a folder of this machine.
    """
    if is_local:
        fix = "repair the folder or its disk, or set another GLR_STORE or GLR_SOURCE"
        if isinstance(error, PermissionError):
            return "permission denied", "grant access to it, or set another GLR_STORE or GLR_SOURCE"
        return one_line(error), fix
    found = list(chain(error))
    for inner in reversed(found):
        told = _of_network(inner) or _of_s3(inner) or _of_http(inner) or _of_options(inner)
        if told is not None:
            return redact(told[0]), told[1]
    if any(isinstance(inner, PermissionError) for inner in found):
        return "access denied", _DENIED
    return one_line(error), "check the URL, its options and the network"


def one_line(error: BaseException) -> str:
    """What an error says, as one line without secrets."""
    return redact((str(error).strip() or type(error).__name__).splitlines()[0])


def s3_code(error: BaseException) -> str:
    """The error code of S3 that a botocore error carries; empty where it carries none."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, Mapping) else ""


def is_bare(error: BaseException) -> bool:
    """Whether an error of S3 carries an HTTP status alone, as after HEAD, whose answers have no body."""
    return any(code.isdecimal() and code != "404" for code in map(s3_code, chain(error)) if code)


def is_beyond_end(error: BaseException) -> bool:
    """Whether S3 refuses a range of bytes because it begins beyond the file's end."""
    return any(s3_code(inner) in ("InvalidRange", "416") for inner in chain(error))


def _of_network(error: BaseException) -> tuple[str, str] | None:
    if isinstance(error, ssl.SSLError):
        return _of_tls(error)
    told: tuple[str, str] | None = None
    if isinstance(error, socket.gaierror):
        told = f"the host name is not known (DNS: {error.strerror})", "check its spelling in the URL, and the network"
    elif isinstance(error, ConnectionRefusedError):
        told = (
            f"no server listens{_host(error)} (connection refused)",
            "start it, correct host and port, or check the network",
        )
    elif isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        told = f"the network does not reach it ({error.strerror})", "check the network, VPN and proxy"
    elif isinstance(error, TimeoutError) or type(error).__name__ in ("ConnectTimeoutError", "ReadTimeoutError"):
        told = "the server did not answer in time", "check host, port and network, and run it again"
    return told


def _of_tls(error: ssl.SSLError) -> tuple[str, str]:
    if isinstance(error, ssl.SSLCertVerificationError):
        said = f"the server's certificate is not trusted ({error.verify_message})"
        return said, "add its authority (SSL_CERT_FILE or AWS_CA_BUNDLE), or correct the host name"
    if "WRONG_VERSION_NUMBER" in str(error) or "RECORD_LAYER" in str(error):
        return "the server does not speak TLS", "write http:// in place of https://, or the port that speaks it"
    return f"TLS failed ({one_line(error)})", "check the scheme, the port and the certificate"


def _host(error: BaseException) -> str:
    found = re.search(r"\('([^']+)', (\d+)", str(error))
    return f" at {found[1]}:{found[2]}" if found else ""


def _of_s3(error: BaseException) -> tuple[str, str] | None:
    response = getattr(error, "response", None)
    if not isinstance(response, Mapping) or "Error" not in response:
        return None
    code, metadata = s3_code(error), response.get("ResponseMetadata", {})
    region = _region(response)
    if code in _OTHER_REGION or (code in ("301", "307", "400") and region and "ExpiredToken" not in str(error)):
        where = f"in the region {region}" if region else "in another region"
        return f"the bucket is {where}", f'set {{"client_kwargs": {{"region_name": "{region or "…"}"}}}} in the options'
    if code in _S3_CODES:
        said, fix = _S3_CODES[code]
        return f"{said} ({code})", fix
    if code.isdecimal():
        return _of_status(int(code))
    if not code:
        return _NO_S3
    status = metadata.get("HTTPStatusCode")
    message = str(response["Error"].get("Message", "")).strip()
    return f"S3 answers {code}{f' ({message})' if message else ''}", _of_status(int(status or 0))[1]


def _region(response: Mapping[str, Any]) -> str:
    """The region that S3 names as the bucket's, by header or in its message."""
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    told = headers.get("x-amz-bucket-region") or response["Error"].get("Region", "")
    expecting = re.search(r"expecting '([a-z0-9-]+)'", str(response["Error"].get("Message", "")))
    return str(told or (expecting[1] if expecting else ""))


def _of_http(error: BaseException) -> tuple[str, str] | None:
    status = _http_status(error)
    return None if status is None else _of_status(status)


def _http_status(error: BaseException) -> int | None:
    status = getattr(error, "status", None)
    return status if isinstance(status, int) and type(error).__module__.startswith("aiohttp") else None


def _of_status(status: int) -> tuple[str, str]:
    said, fix = _STATUS.get(status, ("", "check the URL and its options"))
    if status >= 500 and not said:
        said, fix = "the server failed", "run it again later"
    return (f"{said} (HTTP {status})" if said else f"the server answers HTTP {status}"), fix


#: By the names of classes, for the clients that raise them are not loaded with this module.
_OPTIONS: Final[Mapping[str, tuple[str, str]]] = dict.fromkeys(
    ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
    ("no credentials were found", 'set AWS_… variables, or {"anon": true} in the options for a public bucket'),
)


def _of_options(error: BaseException) -> tuple[str, str] | None:
    name = type(error).__name__
    told = _OPTIONS.get(name)
    if name == "ProfileNotFound":
        told = one_line(error), "correct the profile in the options or AWS_PROFILE"
    elif isinstance(error, ImportError):
        told = one_line(error), "install the package that it names"
    elif isinstance(error, TypeError):
        told = f"an option is not one that its file system takes ({one_line(error)})", "correct the options"
    elif name == "ParamValidationError":
        said = " ".join(str(error).split()).removeprefix("Parameter validation failed: ")
        told = said.split(":")[0], "correct the URL or the options"
    elif isinstance(error, ValueError):
        told = one_line(error), "correct the URL or the options"
    return told
