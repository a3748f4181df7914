"""What is said of a place that cannot be reached: each cause by its own name, from answers as real servers give."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from glr_assets.errors import SourceError, StoreError
from glr_assets.ranges import Place, Retry, read_ranges
from glr_assets.source import open_source
from glr_assets.store import Store

#: Codes and texts as of Amazon S3's API reference.
S3_ERRORS = {
    "NoSuchBucket": (404, "The specified bucket does not exist", "there is no bucket of that name"),
    "AccessDenied": (403, "Access Denied", "access denied"),
    "ExpiredToken": (400, "The provided token has expired.", "the credentials have expired"),
    "InvalidAccessKeyId": (403, "The AWS Access Key Id you provided does not exist", "access key is not known"),
    "SignatureDoesNotMatch": (403, "The request signature we calculated does not match", "secret key does not belong"),
    "RequestTimeTooSkewed": (403, "The difference between the request time", "clock differs"),
    "PermanentRedirect": (301, "must be addressed using the specified endpoint.", "in the region eu-west-1"),
    "AuthorizationHeaderMalformed": (400, "the region 'x' is wrong; expecting 'eu-west-1'", "in the region eu-west-1"),
    "InternalError": (500, "We encountered an internal error.", "the server failed"),
    "KMS.DisabledException": (400, "The key is disabled", "S3 answers KMS.DisabledException (The key is disabled)"),
}


@dataclass
class Answering:
    """A server that gives one answer to whatever it is asked."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    port: int = 0

    def s3(self, code: str) -> None:
        self.status, message, _ = S3_ERRORS[code]
        self.body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.headers = {"Content-Type": "application/xml"}
        if code == "PermanentRedirect":
            self.headers["x-amz-bucket-region"] = "eu-west-1"

    def page(self, status: int) -> None:
        self.status, self.body = status, b"<!DOCTYPE html><html><body>a page</body></html>"
        self.headers = {"Content-Type": "text/html"}


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    answering = Answering()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answering.status)
            for name, value in (answering.headers | {"Content-Length": str(len(answering.body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answering.body)

        do_HEAD = do_PUT = do_GET  # noqa: N815 - names of the standard library

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        answering.port = listening.server_port
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield answering
        listening.shutdown()


ONE_TRY = {"retries": {"total_max_attempts": 1}, "connect_timeout": 2}


def s3(port: int, scheme: str = "http") -> Store:
    options = {"endpoint_url": f"{scheme}://127.0.0.1:{port}", "config_kwargs": ONE_TRY, "anon": True}
    return Store("s3://bucket/x", options | {"skip_instance_cache": True})


def uses(store: Store) -> list[Callable[[], object]]:
    return [
        lambda: store.exists("metadata/train.csv"),
        lambda: store.names("train"),
        lambda: store.read("a"),
        lambda: store.read("a", 0, 5),
        lambda: store.open("a").read(),
        lambda: open_source(store.url, store.options),
    ]


def told(use: Callable[[], object]) -> str:
    with pytest.raises((StoreError, SourceError)) as error:
        use()
    text = str(error.value)
    assert "\n" not in text
    assert "no metadata/train.csv" not in text
    assert "; " in text, "a cause without its fix"
    return text


@pytest.mark.parametrize("code", S3_ERRORS)
def test_an_error_of_s3_is_told_by_its_code_whatever_was_asked(code: str, server: Answering, s3_endpoint: str) -> None:
    server.s3(code)
    store = s3(server.port)
    for use in [*uses(store), lambda: store.write("a", b"x")]:
        assert S3_ERRORS[code][2] in told(use)
    (found,) = read_ranges(store, [Place("a", 0, 5)], retry=Retry(attempts=1))
    assert isinstance(found, StoreError)
    assert S3_ERRORS[code][2] in str(found)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_web_page_is_no_s3(status: int, server: Answering, s3_endpoint: str) -> None:
    server.page(status)
    store = s3(server.port)
    for use in (lambda: store.names("train"), lambda: store.read("a")):
        assert "no S3 service" in told(use)


def test_an_endpoint_where_nobody_listens_or_that_is_not_known(free_tcp_port: int, s3_endpoint: str) -> None:
    for use in uses(s3(free_tcp_port)):
        assert f"no server listens at 127.0.0.1:{free_tcp_port}" in told(use)
    for use in uses(Store(f"http://127.0.0.1:{free_tcp_port}/bucket")):
        assert f"no server listens at 127.0.0.1:{free_tcp_port}" in told(use)
    unknown = Store("s3://bucket/x", {"endpoint_url": "http://nowhere.invalid", "config_kwargs": ONE_TRY, "anon": True})
    for use in (*uses(unknown)[:2], *uses(Store("http://nowhere.invalid/bucket"))[:2]):
        assert "the host name is not known (DNS" in told(use)


def test_tls_where_none_is_spoken(server: Answering, s3_endpoint: str) -> None:
    for store in (s3(server.port, "https"), Store(f"https://127.0.0.1:{server.port}/bucket")):
        assert "does not speak TLS" in told(lambda store=store: store.exists("a"))


@pytest.mark.parametrize(("status", "words"), [(401, "wants credentials"), (403, "access denied"), (500, "failed")])
def test_what_a_web_server_answers(status: int, words: str, server: Answering) -> None:
    server.page(status)
    for use in uses(Store(f"http://127.0.0.1:{server.port}/bucket")):
        text = told(use)
        assert words in text
        assert f"HTTP {status}" in text


def test_a_file_that_is_not_there_is_not_there(server: Answering, s3_endpoint: str) -> None:
    server.page(404)
    web = Store(f"http://127.0.0.1:{server.port}/bucket")
    assert not web.exists("a")
    with pytest.raises(FileNotFoundError):
        web.read("a")
    with pytest.raises(SourceError, match=r"no metadata/train\.csv there"):
        open_source(web.url)


def test_a_web_server_that_lists_nothing_has_no_findable_shards(server: Answering) -> None:
    server.page(200)
    source = open_source(f"http://127.0.0.1:{server.port}/bucket")
    with pytest.raises(SourceError, match="shards cannot be found over HTTP"):
        source.shards("train")


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("nosuch://store", {}, "Protocol not known"),
        ("ftp://127.0.0.1:9/x", {}, "connection refused"),
        ("gs://bucket/x", {}, "install"),
        ("s3://bucket/x", {"nonsense": 1}, "'nonsense'"),
        ("s3://bucket/x", {"client_kwargs": {"nonsense": 1}}, "'nonsense'"),
        ("s3://bucket/x", {"config_kwargs": {"nonsense": 1}}, "'nonsense'"),
        ("s3://bucket/x", {"config_kwargs": "nonsense"}, "config_kwargs"),
        ("s3://bucket/x", {"endpoint_url": "127.0.0.1"}, "Invalid endpoint"),
        ("s3://bucket/x", {"profile": "nosuch"}, "profile (nosuch) could not be found"),
        ("s3://B A D/x", {}, 'Invalid bucket name "B A D"'),
    ],
)
def test_options_and_urls_that_cannot_be_used(
    url: str, options: dict[str, object], words: str, s3_endpoint: str
) -> None:
    options = {"endpoint_url": s3_endpoint} | options if url.startswith("s3") else options
    assert words in told(lambda: Store(url, options | {"skip_instance_cache": True}).exists("a"))


def test_options_that_are_no_names_and_values() -> None:
    with pytest.raises(StoreError, match="no names and values") as error:
        Store("s3://bucket", ["key", "SECRET"])  # type: ignore[arg-type]
    assert "SECRET" not in str(error.value)
