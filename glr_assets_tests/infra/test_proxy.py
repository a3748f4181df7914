"""infra/proxy/nginx.conf in a real nginx, before two servers that tell who they are."""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from glr_assets_tests.infra.cluster import ROOT, Service, found, free_port, listens, wait_until

WORDS = {"operators": ("olga", "operates"), "viewers": ("vera", "looks")}


def answering(name: str) -> ThreadingHTTPServer:
    """A server that answers with its name and the password that reached it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"{name} {self.headers.get('Authorization', '')}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    nginx, openssl = found("nginx", "nginx-light"), found("openssl", "openssl")
    folder = tmp_path_factory.mktemp("proxy")
    for group, (user, word) in WORDS.items():
        told = subprocess.run([openssl, "passwd", "-apr1", word], capture_output=True, text=True, check=True)
        (folder / group).write_text(f"{user}:{told.stdout}")
    certificate = ["-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=glr.test", "-days", "1"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "certificate")]
    subprocess.run([openssl, "req", *certificate, *files], capture_output=True, check=True)
    servers = {name: answering(name) for name in ("webserver", "viewer")}
    port = free_port()
    text = (ROOT / "infra" / "proxy" / "nginx.conf").read_text()
    for was, is_ in (
        ("/tmp/", f"{folder}/"),
        ("/run/secrets", str(folder)),
        ("listen 8443", f"listen 127.0.0.1:{port}"),
        *((f"{name}:3000", f"127.0.0.1:{server.server_address[1]}") for name, server in servers.items()),
    ):
        assert was in text
        text = text.replace(was, is_)
    (folder / "nginx.conf").write_text(text)
    alone = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    service = Service("nginx", [nginx, "-c", str(folder / "nginx.conf"), "-g", alone], dict(os.environ), folder)
    service.start(supervised=False)
    wait_until(lambda: listens(port), "nginx listens", 15)
    yield f"https://127.0.0.1:{port}"
    service.stop()
    for server in servers.values():
        server.shutdown()


@pytest.mark.parametrize(
    ("host", "who", "answer"),
    [
        ("glr.test", None, 401),
        ("operate.glr.test", None, 401),
        ("glr.test", ("vera", "guesses"), 401),
        ("operate.glr.test", WORDS["viewers"], 401),
        ("glr.test", WORDS["viewers"], "viewer"),
        ("operate.glr.test", WORDS["operators"], "webserver"),
        ("other.name", WORDS["viewers"], "viewer"),
    ],
)
def test_who_reaches_what(proxy: str, host: str, who: tuple[str, str] | None, answer: int | str) -> None:
    found = httpx.get(proxy, headers={"Host": host}, auth=who, verify=False)
    if isinstance(answer, int):
        assert found.status_code == answer
    else:
        assert found.text == f"{answer} ", "the password goes no further than the proxy"
        assert found.headers["X-Frame-Options"] == "DENY"


def test_nothing_is_said_without_tls(proxy: str) -> None:
    plain = httpx.get(proxy.replace("https", "http"))
    assert plain.status_code == 400
    context = ssl.create_default_context()
    with pytest.raises(httpx.ConnectError):
        httpx.get(proxy, verify=context)
