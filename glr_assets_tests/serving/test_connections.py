"""Raw sockets: what is no request, two requests in one, clients that do not read, and too many connections."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.responses import Response

from glr_assets.serving import connections
from glr_assets.serving.app import Service
from glr_assets.serving.limits import Limits
from glr_assets.serving.live import Live
from glr_assets.serving.sockets import raise_open_files
from glr_assets_tests.serving.conftest import MakeService
from glr_assets_tests.serving.test_server import Listening, ask, chunk, connected, head, part

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def port(live: Live, make_service: MakeService, listening: Listening) -> Iterator[int]:
    with listening(make_service(live, Limits(header_seconds=1.0))) as found:
        yield found


def told(connection: socket.socket) -> bytes:
    """All that comes until the other end closes, or for a second nothing."""
    connection.settimeout(1.5)
    found = b""
    try:
        while data := connection.recv(65536):
            found += data
    except TimeoutError:
        found += b"<open>"
    except ConnectionError:
        pass
    return found


def answers(port: int, request: bytes) -> tuple[list[int], bool]:
    """Statuses of all answers to what is sent at once, and whether the connection is kept open."""
    with connected(port) as connection:
        connection.sendall(request)
        found = told(connection)
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", found)]
    return statuses, found.endswith(b"<open>")


#: A second request inside the first, for a server that reads its length otherwise.
INNER = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


def post(headers: str, body: bytes) -> bytes:
    return f"POST /health HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n".encode() + body


SMUGGLING = {
    "two lengths": post("Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n" + INNER),
    "two lengths, the other way round": post("Transfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n" + INNER),
    "a length twice": post("Content-Length: 5\r\nContent-Length: 6", b"0\r\n\r\n" + INNER),
    "a list of lengths": post("Content-Length: 5, 6", b"0\r\n\r\n" + INNER),
    "a signed length": post("Content-Length: +5", b"0\r\n\r\n" + INNER),
    "a hexadecimal length": post("Content-Length: 0x5", b"0\r\n\r\n" + INNER),
    "a length with an underscore": post("Content-Length: 1_0", b"0\r\n\r\n" + INNER),
    "a length of no end": post("Content-Length: " + "9" * 5000, b"0\r\n\r\n" + INNER),
    "a blank before the colon": post("Content-Length : 5", b"0\r\n\r\n" + INNER),
    "a blank before the name": post("X: y\r\n Content-Length: 5", b"0\r\n\r\n" + INNER)[:30] + b"\r\n",
    "an encoding that is not known": post("Transfer-Encoding: gzip, chunked", b"0\r\n\r\n" + INNER),
    "chunked that is not last": post("Transfer-Encoding: chunked, identity", b"0\r\n\r\n" + INNER),
    "chunked with a vertical tab": post("Transfer-Encoding: \x0bchunked", b"0\r\n\r\n" + INNER),
    "an encoding twice": post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"0\r\n\r\n" + INNER),
    "a name of no letters": post("Content-Length\x00: 5", b"0\r\n\r\n" + INNER),
    "a null in a value": post("X: a\x00b", INNER),
    "a return in a value": post("X: a\rb", INNER),
    "no host": b"GET /health HTTP/1.1\r\n\r\n" + INNER,
    "two hosts": b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n" + INNER,
    "a method of no letters": b"G\x00T /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + INNER,
    "a blank in the target": b"GET /hea lth HTTP/1.1\r\nHost: localhost\r\n\r\n" + INNER,
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + INNER,
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + INNER,
    "a version of no number": b"GET /health HTTP/1.x\r\nHost: localhost\r\n\r\n" + INNER,
    "a chunk of a signed size": post("Transfer-Encoding: chunked", b"+5\r\nhello\r\n0\r\n\r\n" + INNER),
    "a chunk of no size": post("Transfer-Encoding: chunked", b"x\r\n" + INNER),
    "a chunk longer than it says": post("Transfer-Encoding: chunked", b"1\r\nhello\r\n0\r\n\r\n" + INNER),
    "a chunk of a size of no end": post("Transfer-Encoding: chunked", b"f" * 40 + b"\r\n" + INNER),
}


@pytest.mark.parametrize("kind", SMUGGLING)
def test_what_others_read_otherwise_is_one_refusal_and_no_second_request(port: int, kind: str) -> None:
    statuses, kept = answers(port, SMUGGLING[kind])
    assert len(statuses) <= 1
    assert set(statuses) <= {400, 405, 501}
    assert not kept


def test_a_refusal_before_there_is_a_request_has_the_form_of_all(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"no request\r\n\r\n")
        header, _, body = told(connection).partition(b"\r\n\r\n")
    assert json.loads(body)["error"]["status"] == 400
    lines = header.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 400 Bad Request"
    names = {line.split(":")[0].lower() for line in lines[1:]}
    assert {"content-security-policy", "x-content-type-options", "content-length", "connection"} <= names
    assert f"content-length: {len(body)}" in lines


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET http://evil.example/health", 404),
        ("GET //evil.example/", 404),
        ("GET /recognize/", 404),
        ("GET /static", 404),
        ("GET /health/", 404),
        ("GET /%0d%0aLocation:%20http://evil.example", 404),
        ("OPTIONS *", 404),
        ("CONNECT evil.example:443", 404),
        ("TRACE /health", 405),
    ],
)
def test_no_answer_leads_to_where_the_request_says(port: int, request_line: str, status: int) -> None:
    with connected(port) as connection:
        connection.sendall(
            f"{request_line} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Host: evil.example\r\n\r\n".encode()
        )
        answer = told(connection).decode()
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert "evil" not in answer
    assert "location" not in answer.lower()


def test_an_upgrade_is_not_taken(port: int) -> None:
    upgrade = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert answers(port, upgrade)[0] == [200]


def test_requests_that_follow_at_once_are_answered_in_their_order(port: int) -> None:
    assert answers(port, 3 * GET + b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET)[0] == [200] * 3 + [
        404,
        200,
    ]


def test_a_body_in_tiny_parts_is_given_up(port: int, photo: bytes) -> None:
    small = b"".join(chunk(b"a") for _ in range(5000))
    # The form is given up at its first byte, the request before the last.
    for start in (part(b"")[:-9], b"no form"):
        with connected(port) as connection:
            began = time.monotonic()
            connection.sendall(head(None) + chunk(start) + small)
            assert told(connection).startswith(b"HTTP/1.1 400 ")
            assert time.monotonic() - began < 1.5
    # Some small ones are no harm.
    with connected(port) as connection:
        body = part(photo)
        pieces = [body[at : at + 100] for at in range(0, 90_000, 100)] + [body[90_000:]]
        connection.sendall(head(None) + b"".join(chunk(piece) for piece in pieces if piece) + b"0\r\n\r\n")
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 200 ")


def test_a_header_of_no_end_is_refused(port: int) -> None:
    for start in (b"GET /" + b"a" * 20_000, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000, b"\r\n" * 20_000):
        statuses, kept = answers(port, start)
        assert set(statuses) <= {400, 404, 431}
        assert not kept


def from_address(port: int, host: str) -> socket.socket:
    """A connection of another client: all of 127.0.0.0/8 is this machine."""
    return socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(host, 0))


def health(connection: socket.socket) -> bool:
    try:
        connection.sendall(GET)
        found = b""
        while not found.endswith(b'"alive"}'):
            data = connection.recv(65536)
            if not data:
                return False
            found += data
    except ConnectionError:
        return False
    return True


def closed(connection: socket.socket) -> bool:
    connection.settimeout(0.2)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def test_one_more_connection_takes_the_place_of_an_idle_one_of_the_greediest(
    live: Live, make_service: MakeService, listening: Listening
) -> None:
    service = make_service(live, Limits(connections=5, idle_seconds=60, header_seconds=60))
    with listening(service) as port:
        other = from_address(port, "127.0.0.3")
        assert health(other)
        greedy = [from_address(port, "127.0.0.2") for _ in range(4)]
        for number, one in enumerate(greedy):
            one.sendall(b"GET /" + b"a" * 1000 * number)
        time.sleep(0.2)
        with from_address(port, "127.0.0.4") as newcomer:
            assert health(newcomer)
            assert health(other)
            assert [closed(one) for one in greedy] == [True, False, False, False]
            assert len(service.connections) == 5
            # What is greediest itself is refused, or gives up one of its own that has been slow for a while.
            with from_address(port, "127.0.0.2") as one_more:
                assert told(one_more).startswith(b"HTTP/1.1 503 Service Unavailable")
            time.sleep(1)
            with from_address(port, "127.0.0.2") as one_more:
                assert health(one_more)
            assert health(other)
            assert health(newcomer)
        for one in (other, *greedy):
            one.close()


def test_a_client_may_have_so_many_connections_and_a_proxy_more(
    live: Live, make_service: MakeService, listening: Listening
) -> None:
    limits = Limits(connections_per_client=3, trusted_proxies="127.0.0.9", idle_seconds=60)
    with listening(make_service(live, limits)) as port:
        for host, expected in (("127.0.0.2", [True] * 3 + [False] * 2), ("127.0.0.9", [True] * 5)):
            opened = [from_address(port, host) for _ in range(5)]
            assert [health(one) for one in opened] == expected
            for one in opened:
                one.close()


def test_answers_that_nobody_reads_are_given_up(
    live: Live, make_service: MakeService, listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(connections, "_ANSWER_RATE", 2**30)
    service = make_service(live, Limits(header_seconds=60, idle_seconds=60, unread_bytes=60 * 10**6))
    large = bytes(2 * 10**7)

    @service.get("/large")
    def answer() -> Response:
        return Response(large)

    request = b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with listening(service) as port:
        # One that is read in time comes whole.
        with connected(port) as reading:
            reading.sendall(request)
            assert len(told(reading)) > len(large)
        # One that is not read is closed in time.
        unread = small_window(port)
        unread.sendall(request)
        wait_until(lambda: len(service.connections) == 1)
        wait_until(lambda: len(service.connections) == 0)
        unread.close()
        # Where all together are too much, the first of the client with most goes at once.
        monkeypatch.setattr(connections, "_ANSWER_SECONDS", 60.0)
        many = [small_window(port) for _ in range(4)]
        for one in many:
            one.sendall(request)
            wait_until(lambda: unread_ports(service) >= {one.getsockname()[1]})  # noqa: B023
        assert unread_ports(service) == {one.getsockname()[1] for one in many[1:]}
        for one in many:
            one.close()


def unread_ports(service: Service) -> set[int]:
    return {int(one.client[1]) for one in service.connections._unread if one.client}


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def small_window(port: int) -> socket.socket:
    """A client whose system takes only some kilobytes for it."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    found.settimeout(30)
    found.connect(("127.0.0.1", port))
    return found


def test_as_many_connections_as_files_may_be_open() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        assert raise_open_files(1024) == 1024
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 2 * 1024 + 256
        assert raise_open_files(100) == 100
        assert raise_open_files(10**6) == min(10**6, (before[1] - 256) // 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_six_hundred_slow_clients_shut_nobody_out(
    live: Live, make_service: MakeService, listening: Listening, photo: bytes
) -> None:
    """From one address and from many; each sends a part of its upload and then a byte now and again."""
    service = make_service(live, Limits(uploads=64, connections=256, connections_per_client=128))
    start = head(5 * 10**6) + part(bytes(3000))[:-9]
    with listening(service) as port:
        for hosts in (["127.0.0.2"], [f"127.0.1.{number + 1}" for number in range(200)]):
            slow: list[socket.socket] = []
            for number in range(600):
                one = from_address(port, hosts[number % len(hosts)])
                slow.append(one)
                with contextlib.suppress(ConnectionError):
                    one.sendall(start)
            with ThreadPoolExecutor(4) as pool:
                assert list(pool.map(lambda _: asked_again(port, photo), range(8))) == [200] * 8
            assert service.arriving.held <= 64
            assert len(service.connections) <= 256
            for one in slow:
                one.close()


def asked_again(port: int, photo: bytes) -> int:
    """Status of a client with several requests at once, that comes back when it is told to: nobody is slow at first."""
    for _ in range(3):
        response = ask(port, photo)
        if response.status_code != 503:
            break
        time.sleep(float(response.headers["retry-after"]))
    return response.status_code
