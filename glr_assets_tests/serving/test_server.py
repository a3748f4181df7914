"""The service on a socket: slow and greedy clients, many at once, an index that changes under them, its own client."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from glr_assets.errors import SettingsError
from glr_assets.serving.client import Client
from glr_assets.serving.limits import Limits, RefusedError
from glr_assets.serving.live import Live
from glr_assets.serving.security import Access
from glr_assets.serving.sockets import listen, url_of
from glr_assets_tests.serving.conftest import MakeService, Served

Listening = Callable[..., Any]
BOUNDARY = "x"


def head(length: int | None, path: str = "/recognize") -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{size}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    ).encode()


def part(data: bytes) -> bytes:
    start = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="p"\r\n\r\n'
    return start.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def send_for_ever(connection: socket.socket) -> None:
    while True:
        connection.sendall(chunk(bytes(2**16)))


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def status(connection: socket.socket) -> int:
    """Of the response that comes; 0 where the connection is closed without one."""
    line = connection.makefile("rb").readline()
    return int(line.split()[1]) if line else 0


def ask(port: int, photo: bytes) -> httpx.Response:
    return httpx.post(f"http://127.0.0.1:{port}/recognize", files={"image": photo}, timeout=60)


def test_a_body_is_refused_while_it_arrives_and_not_after(
    live: Live, make_service: MakeService, listening: Listening, photo: bytes
) -> None:
    limits = Limits(max_bytes=10**6, header_seconds=1.0)
    with listening(make_service(live, limits)) as port:
        # They never end: were they read to their ends there would be no answer.
        for start, expected in ((part(b"")[:-9], 413), (b"no form", 400)):
            with connected(port) as endless:
                endless.sendall(head(None) + chunk(start))
                answered = threading.Thread(target=lambda: found.append(status(endless)))  # noqa: B023
                found: list[int] = []
                answered.start()
                with pytest.raises(OSError, match=r"reset|pipe"):
                    send_for_ever(endless)
                answered.join()
                assert found == [expected]
        # What is announced too large is refused before a byte of it has come.
        with connected(port) as announced:
            announced.sendall(head(10**10))
            announced.shutdown(socket.SHUT_WR)
            assert status(announced) == 413
        # Whoever sends it all gets to read why.
        assert ask(port, bytes(5 * 10**6)).status_code == 413
        assert ask(port, photo).status_code == 200


def test_slow_clients_hold_no_place_and_are_cut_off(
    live: Live, make_service: MakeService, listening: Listening, photo: bytes
) -> None:
    service = make_service(live, Limits(computing=1, waiting=0, upload_seconds=1.5, header_seconds=1.5))
    body = part(photo)
    with listening(service) as port:
        slow = [connected(port) for _ in range(8)]
        for number, connection in enumerate(slow):
            connection.sendall((head(len(body)) + body[:1000]) if number % 2 else b"POST /recognize HTT")
        while service.arriving.held < 4:
            time.sleep(0.01)
        assert service.computing.held == 0
        assert ask(port, photo).status_code == 200
        assert [status(connection) for connection in slow] == [0, 408] * 4
        for connection in slow:
            connection.close()
        # A connection that was used once does not wait for ever either.
        with connected(port) as again:
            again.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while not again.recv(65536).endswith(b'{"status":"alive"}'):
                pass
            again.sendall(b"GET /hea")
            assert again.recv(1) == b""
        assert service.arriving.held == service.computing.held == 0


def test_a_client_that_goes_away_leaves_nothing_behind(
    live: Live, make_service: MakeService, listening: Listening, photo: bytes
) -> None:
    service = make_service(live, Limits(computing=1, waiting=0))
    body = part(photo)
    with listening(service) as port:
        for _ in range(5):
            with connected(port) as gone:
                gone.sendall(head(len(body)) + body[:-100])
        while service.arriving.held:
            time.sleep(0.01)
        assert ask(port, photo).status_code == 200


def test_many_at_once_are_answered_or_told_to_come_back(
    live: Live, make_service: MakeService, listening: Listening, photo: bytes
) -> None:
    service = make_service(live, Limits(computing=1, waiting=2))
    with listening(service) as port, ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda _: ask(port, photo), range(64)))
        counts = Counter(response.status_code for response in responses)
        assert set(counts) <= {200, 503}
        assert counts[200] >= 3
        for response in responses:
            assert response.status_code == 200 or response.headers["retry-after"] == "1"
        assert ask(port, photo).status_code == 200


def test_a_new_index_is_taken_up_under_load_and_no_answer_is_of_half_of_it(
    served: Served, make_service: MakeService, listening: Listening, photo: bytes
) -> None:
    live = Live(served.store)
    live.refresh()
    answers: list[tuple[int, Any]] = []
    done = threading.Event()

    def hammer(port: int) -> None:
        while not done.is_set():
            response = ask(port, photo)
            answers.append((response.status_code, response.json()))

    def version(port: int) -> str:
        return str(httpx.get(f"http://127.0.0.1:{port}/ready").json()["version"])

    def known(found: Any) -> tuple[Any, ...]:
        return tuple(like["id"] for like in found["similar"]), tuple(mark["probability"] for mark in found["landmarks"])

    with listening(make_service(live, Limits(waiting=64), every_seconds=0.05)) as port:
        expected = {known(ask(port, photo).json())}
        threads = [threading.Thread(target=hammer, args=(port,), daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for images in (1, 2):
            before = version(port)
            served.index_again(per_landmark=images)
            deadline = time.monotonic() + 60
            while version(port) == before:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            expected.add(known(ask(port, photo).json()))
        done.set()
        for thread in threads:
            thread.join()
    assert {code for code, _ in answers} == {200}
    assert len(expected) == 3
    assert {known(found) for _, found in answers} <= expected


def test_a_photograph_of_almost_as_many_bytes_as_there_may_be_arrives(
    live: Live, make_service: MakeService, listening: Listening, photo: bytes
) -> None:
    with listening(make_service(live)) as port:
        padded = photo + bytes(Limits().max_bytes - len(photo))
        assert ask(port, padded).status_code == 200
        assert ask(port, padded + b"0").status_code == 413


def test_the_client_speaks_for_a_program(
    live: Live, make_service: MakeService, listening: Listening, photo: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "gate.jpg"
    path.write_bytes(photo)
    with (
        listening(make_service(live, access=Access("secret", any_host=True))) as port,
        Client(f"http://127.0.0.1:{port}", token="secret") as glr,
    ):
        assert glr.ready().landmarks == 4
        answer = glr.recognize(path, top=2)
        assert len(answer.similar) == 2
        assert answer.landmarks == glr.recognize(photo, top=2).landmarks
        one, wrong = glr.recognize_many([str(path), b"none"]).answers
        assert one.answer is not None
        assert wrong.error is not None
        assert glr.matches(photo, answer.similar[0].id).startswith(b"\xff\xd8")
        with pytest.raises(RefusedError) as caught:
            glr.recognize(b"none")
        assert (caught.value.status, caught.value.code) == (415, "wrong_type")
        with Client(f"http://127.0.0.1:{port}") as stranger, pytest.raises(RefusedError) as caught:
            stranger.recognize(photo)
        assert caught.value.status == 401


def glr(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("glr")), "serve", *arguments]
    return subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_the_command_refuses_others_without_a_token() -> None:
    process = glr("--host", "0.0.0.0", "--port", "0")
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert told.count("\n") == 1
    assert "GLR_SERVE_TOKEN" in told


def test_the_command_refuses_a_store_that_was_never_made(tmp_path: Path) -> None:
    process = glr("--store", str(tmp_path / "nowhere"), "--port", "0")
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert told.count("\n") == 1
    assert f"{tmp_path}/nowhere: nothing has been made there" in told
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_command_ends_at_once_where_the_port_is_taken(served_once: Served, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        process = glr("--host", host, "--port", str(other.getsockname()[1]), "--store", served_once.store.url)
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert told.count("\n") == 1
    assert told.startswith("error: cannot listen")
    assert "another program listens there" in told


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("192.0.2.1", "no such address"),
        ("nowhere.invalid", "no such host"),
        ("a" * 300, "no such host"),
        ("x\x1b[2J", "no such host"),
        ("", "no such host"),
    ],
)
def test_where_it_cannot_listen_is_told(host: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why) as caught:
        listen(host, 0)
    assert str(caught.value).isprintable()


def test_a_port_without_permission_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refused)
    with pytest.raises(SettingsError, match="choose a --port from 1024 on"):
        listen("127.0.0.1", 80)


def test_every_address_of_a_host_is_listened_at_on_one_port() -> None:
    found = listen("localhost", 0)
    ports = {one.getsockname()[1] for one in found}
    assert len(ports) == 1
    assert all(url_of(one).startswith(("http://127.0.0.1:", "http://[::1]:")) for one in found)
    for one in found:
        one.close()


def test_the_command_serves_a_store_and_ends_when_told(served_once: Served, free_tcp_port: int, photo: bytes) -> None:
    process = glr("--port", str(free_tcp_port), "--store", served_once.store.url, GLR_SERVE_TOKEN="secret")
    try:
        with Client(f"http://127.0.0.1:{free_tcp_port}", token="secret") as client:
            while True:
                assert process.poll() is None
                try:
                    client.ready()
                    break
                except (httpx.TransportError, RefusedError):
                    time.sleep(0.1)
            assert client.recognize(photo).landmarks
    finally:
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=60)
    assert "Traceback" not in told
    assert "secret" not in told
    assert told.splitlines()[-1] == "stopped by SIGTERM"
    assert "resume" not in told
    assert process.returncode == 143
