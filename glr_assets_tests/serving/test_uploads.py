"""Forms as they arrive: parsed whatever their pieces, bounded in parts, bytes, seconds, memory and places."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request

from glr_assets.serving import uploads
from glr_assets.serving.limits import Limits, RefusedError
from glr_assets.serving.uploads import Arrivals, Form, read_form

Message = MutableMapping[str, Any]
PHOTO = ("image", ("a.jpg", b"\xff\xd8pixels"))


def body_of(files: list[Any], fields: dict[str, str] | None = None) -> tuple[str, bytes]:
    request = httpx.Request("POST", "http://host/", files=files, data=fields or {})
    return request.headers["content-type"], request.read()


def part(disposition: str, data: bytes = b"", *headers: str) -> bytes:
    lines = [f"Content-Disposition: {disposition}", *headers, "", ""]
    return b"--x\r\n" + "\r\n".join(lines).encode() + data + b"\r\n"


IMAGE = part('form-data; name="image"; filename="p"', b"photo")
END = b"--x--\r\n"
TYPE = "multipart/form-data; boundary=x"


def request_of(
    pieces: Iterable[bytes], content_type: str = TYPE, headers: Iterable[tuple[bytes, bytes]] = ()
) -> Request:
    """A request whose body comes in these pieces, and then nothing more."""
    left = list(pieces)

    async def receive() -> Message:
        if left:
            piece = left.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(left)}
        await asyncio.Event().wait()
        raise AssertionError

    return request_that(receive, content_type, headers)


def request_that(
    receive: Callable[[], Coroutine[Any, Any, Message]],
    content_type: str = TYPE,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> Request:
    all_headers = [(b"content-type", content_type.encode("latin-1")), *headers]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": all_headers}, receive)


async def read(request: Request, limits: Limits, most: int = 1) -> list[tuple[str, bytes]]:
    async with read_form(request, limits, Arrivals(limits), "client", most) as form:
        return contents(form)


def contents(form: Form) -> list[tuple[str, bytes]]:
    found = []
    for photo in form.photos:
        form.file.seek(photo.offset)
        found.append((photo.name, form.file.read(photo.size)))
    return found


def refusal(pieces: Iterable[bytes], content_type: str = TYPE, most: int = 1, **limits: Any) -> tuple[int, str]:
    with pytest.raises((RefusedError, HTTPException)) as caught:
        asyncio.run(read(request_of(pieces, content_type), Limits(**limits), most))
    error: Any = caught.value
    return (error.status, error.code) if isinstance(error, RefusedError) else (error.status_code, error.detail)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(min_size=1, max_size=20), st.one_of(st.binary(max_size=200), st.sampled_from([b"\r\n--", b"\r"]))
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 40),
)
def test_a_form_is_the_same_in_whatever_pieces_it_comes(files: list[tuple[str, bytes]], size: int) -> None:
    content_type, body = body_of([("image", file) for file in files], {"top": "3"})
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    found = asyncio.run(read(request_of(pieces, content_type), Limits(), 4))
    assert [data for _, data in found] == [data for _, data in files]
    whole = asyncio.run(read(request_of([body], content_type), Limits(), 4))
    assert found == whole


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ('filename="gate.jpg"', "gate.jpg"),
        ('filename="C:\\\\photos\\\\gate.jpg"', "gate.jpg"),
        ('filename="../../etc/passwd"', "passwd"),
        ('filename="a\x1b[31mb\x07.jpg"', "a[31mb.jpg"),
        ('filename="\u202egpj.exe"', "gpj.exe"),
        ('filename="d\u00f4me.jpg"', "d\u00f4me.jpg"),
        (f'filename="{"n" * 5000}"', "n" * 120),
        ("filename=plain.jpg", "plain.jpg"),
        ("filename*=UTF-8''other.jpg; filename=\"this.jpg\"", "this.jpg"),
    ],
)
def test_names_of_files_are_shown_as_text(name: str, shown: str) -> None:
    body = part(f'form-data; name="image"; {name}', b"photo") + END
    assert asyncio.run(read(request_of([body]), Limits())) == [(shown, b"photo")]


def test_what_follows_the_end_or_is_another_file_is_not_kept() -> None:
    other = part('form-data; name="other"; filename="p"', bytes(10**6))
    found = asyncio.run(read(request_of([other + IMAGE + END + bytes(1000)]), Limits()))
    assert found == [("p", b"photo")]


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (END, (422, "missing")),
        (b"", (400, "a form without its last boundary")),
        (IMAGE, (400, "a form without its last boundary")),
        (IMAGE[:-9], (400, "a form without its last boundary")),
        (b"no form", (400, "the form is damaged")),
        (b"--y" + IMAGE[3:] + END, (400, "the form is damaged")),
        (part("form-data", b"x") + END, (400, "a part without a name")),
        (part("attachment; filename=p", b"x") + END, (400, "a part without a name")),
        (b"--x\r\n\r\nphoto\r\n" + END, (400, "a part without a name")),
        (part('form-data; name="image"', b"photo") + END, (422, "missing")),
        (4 * IMAGE + END, (400, "too many parts")),
        (2 * IMAGE + END, (422, "too_many")),
        (9 * part('form-data; name="a"') + IMAGE + END, (400, "too many parts")),
        (100_000 * part('form-data; name="a"') + END, (400, "too many parts")),
        (part('form-data; name="top"', b"1" * 1025) + IMAGE + END, (400, "a field of more than 1024 bytes")),
        (part('form-data; name="image"; filename="p"', b"", *["A: b"] * 8) + END, (400, "the form is damaged")),
        (part('form-data; name="image"; filename="p"', b"", "A: " + "b" * 9000) + END, (400, "the form is damaged")),
        (part(f'form-data; name="{"n" * 9000}"') + END, (400, "the form is damaged")),
        (b"--x\r\n" + b"A" * 10**6, (400, "the form is damaged")),
        (b"--x\r\nContent-Disposition form-data\r\n\r\n" + END, (400, "the form is damaged")),
        # A form inside a part is a file of no format, or a field.
        (part('form-data; name="image"', IMAGE, "Content-Type: multipart/mixed; boundary=y") + END, None),
    ],
)
def test_a_form_has_few_and_small_parts(body: bytes, refused: tuple[int, str] | None) -> None:
    if refused is not None:
        for size in (len(body) + 1, 1000):
            pieces = [body[at : at + size] for at in range(0, max(len(body), 1), size)]
            assert refusal(pieces) == refused
    else:
        assert refusal([body])[0] in {400, 422}


@pytest.mark.parametrize(
    ("content_type", "refused"),
    [
        ("multipart/form-data", (400, "a form without a boundary")),
        ("multipart/form-data; boundary=", (400, "a form without a boundary")),
        ("multipart/form-data; boundary=" + "b" * 5000, (400, "the form is damaged")),
        ("multipart/form-data; charset=utf-7; boundary=x", (0, "")),
        ('Multipart/Form-Data; boundary="x"', (0, "")),
        ("multipart/mixed; boundary=x", (415, "wrong_type")),
        ("application/x-www-form-urlencoded", (415, "wrong_type")),
        ("", (415, "wrong_type")),
    ],
)
def test_a_form_says_where_its_parts_end(content_type: str, refused: tuple[int, str]) -> None:
    if refused[0]:
        assert refusal([IMAGE + END], content_type) == refused
    else:
        assert asyncio.run(read(request_of([IMAGE + END], content_type), Limits())) == [("p", b"photo")]


def test_bytes_are_counted_as_they_come_and_as_they_are_announced() -> None:
    limits = Limits(max_bytes=1000)
    most = 1000 + uploads.FORM_BYTES
    assert refusal([bytes(most + 1)], max_bytes=1000) == (413, "too_large")
    for length in (b"%d" % (most + 1), b"9" * 19):
        request = request_of([IMAGE + END], headers=[(b"content-length", length)])
        with pytest.raises(RefusedError) as caught:
            asyncio.run(read(request, limits))
        assert caught.value.status == 413
    # No number of this world is turned into one.
    request = request_of([IMAGE + END], headers=[(b"content-length", b"9" * 10_000)])
    assert asyncio.run(read(request, limits))


def test_an_upload_takes_little_memory_while_it_arrives_and_waits() -> None:
    async def test() -> None:
        limits = Limits()
        arrivals = Arrivals(limits)
        size = 2**20
        whole = part('form-data; name="image"; filename="p"', bytes(size)) + END
        pieces = [whole[at : at + 65536] for at in range(0, len(whole), 65536)]
        tracemalloc.start()
        try:
            forms = []
            for _ in range(50):
                manager = read_form(request_of(pieces), limits, arrivals, "client")
                forms.append((manager, await manager.__aenter__()))
            held, peak = tracemalloc.get_traced_memory()
            assert held < 50 * 100_000
            assert peak < 50 * 100_000 + 4 * size
            assert arrivals.held == 50
            assert arrivals.bytes == 50 * len(whole)
            for manager, form in forms:
                assert contents(form) == [("p", bytes(size))]
                await manager.__aexit__(None, None, None)
        finally:
            tracemalloc.stop()
        assert (arrivals.held, arrivals.bytes) == (0, 0)

    asyncio.run(test())


class Arriving:
    """Uploads that go on when they are told to."""

    def __init__(self, **limits: Any) -> None:
        self.limits = Limits(**limits)
        self.arrivals = Arrivals(self.limits)
        self.tasks: dict[str, asyncio.Task[Any]] = {}
        self._pieces: dict[str, asyncio.Queue[Message]] = {}

    async def begin(self, name: str, data: bytes = b"") -> None:
        """By the client of the name's first letter."""
        self.begins(name)
        await self.add(name, IMAGE[:-7] + data)

    def begins(self, name: str) -> None:
        """The same, when the loop comes to it."""
        pieces = self._pieces[name] = asyncio.Queue[Message]()

        async def upload() -> Any:
            request = request_that(pieces.get)
            async with read_form(request, self.limits, self.arrivals, name[0]) as form:
                return contents(form)

        self.tasks[name] = asyncio.create_task(upload())

    async def add(self, name: str, data: bytes, more: bool = True) -> None:
        self._pieces[name].put_nowait({"type": "http.request", "body": data, "more_body": more})
        for _ in range(10):
            await asyncio.sleep(0.001)

    async def end(self, name: str) -> Any:
        await self.add(name, b"\r\n" + END, more=False)
        return await self.tasks.pop(name)

    async def refusal(self, name: str) -> tuple[int, str]:
        with pytest.raises(RefusedError) as caught:
            await self.tasks.pop(name)
        return caught.value.status, caught.value.code


@asynccontextmanager
async def arriving(**limits: Any) -> AsyncIterator[Arriving]:
    found = Arriving(**limits)
    yield found
    for task in found.tasks.values():
        task.cancel()
    await asyncio.gather(*found.tasks.values(), return_exceptions=True)
    assert (found.arrivals.held, found.arrivals.bytes) == (0, 0)
    assert not found.arrivals._of_client


def test_a_newcomer_takes_the_place_of_the_slowest_of_the_client_with_most() -> None:
    async def test() -> None:
        async with arriving(uploads=4) as found:
            for name, data in (("a1", bytes(2000)), ("a2", b""), ("a3", bytes(3000)), ("b1", b"")):
                await found.begin(name, data)
            await found.begin("c1")
            assert await found.refusal("a2") == (503, "busy")
            assert found.arrivals.held == 4
            # One that is as greedy as any other is refused itself.
            await found.begin("a4")
            assert await found.refusal("a4") == (503, "busy")
            assert await found.end("c1")
            assert await found.end("a1")

    asyncio.run(test())


def test_one_whose_time_is_over_gives_up_nothing_more() -> None:
    async def test() -> None:
        async with arriving(uploads=2, upload_seconds=0.3, upload_rate=0) as found:
            await found.begin("a1")
            await found.begin("a2")
            # Their time ends while the loop is busy; others ask before they have had their turns.
            time.sleep(0.4)
            for name in ("b1", "c1"):
                asyncio.get_running_loop().call_soon(found.begins, name)
            await asyncio.sleep(0)
            assert await found.refusal("a1") == (408, "too_slow")
            assert await found.refusal("a2") == (408, "too_slow")
            assert {await found.refusal(name) for name in ("b1", "c1")} == {(503, "busy")}

    asyncio.run(test())


def test_a_client_gives_up_a_slow_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glr_assets.serving.clients._SLOW_AGE", 0.8)

    async def test() -> None:
        async with arriving(uploads_per_client=2) as found:
            await found.begin("a1")
            await found.begin("a2", bytes(10**6))
            await found.begin("a3")
            assert await found.refusal("a3") == (429, "too_many")  # the others have just begun
            await asyncio.sleep(0.8)
            await found.begin("b1")
            await found.begin("a4")
            assert await found.refusal("a1") == (503, "busy")
            assert await found.end("a4")
            assert await found.end("a2")

    asyncio.run(test())


def test_all_bodies_together_take_so_many_bytes() -> None:
    async def test() -> None:
        async with arriving(upload_bytes=10**6) as found:
            await found.begin("a1", bytes(400_000))
            await found.begin("a2", bytes(300_000))
            await found.begin("b1", bytes(250_000))
            await found.add("b1", bytes(100_000))  # the larger of the other client is given up
            assert await found.refusal("a1") == (503, "busy")
            assert found.arrivals.bytes < 10**6
            await found.add("b1", bytes(400_000))  # now it is itself the greediest
            assert await found.refusal("b1") == (503, "busy")
            assert await found.end("a2")

    asyncio.run(test())


def test_a_body_comes_in_fast_enough_after_a_while_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "GRACE_SECONDS", 0.2)

    async def test() -> None:
        async with arriving(upload_rate=10_000) as found:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await found.begin("a1")
            await found.begin("b1", bytes(5000))
            await found.begin("c1")
            while loop.time() < began + 0.4:
                await found.add("c1", bytes(1000))  # more than enough
            assert await found.refusal("a1") == (408, "too_slow")
            assert loop.time() < began + 5
            assert await found.refusal("b1") == (408, "too_slow")
            assert 0.6 < loop.time() - began < 10
            assert await found.end("c1")
        async with arriving(upload_seconds=0.3, upload_rate=0) as found:
            began = loop.time()
            await found.begin("a1")
            while not found.tasks["a1"].done():
                await found.add("a1", bytes(1000))
            assert await found.refusal("a1") == (408, "too_slow")
            assert 0.3 <= loop.time() - began < 10

    asyncio.run(test())


def test_a_full_disk_refuses_and_tells_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/tmp/secret")

    monkeypatch.setattr(uploads._Reader, "write", full)
    assert refusal([IMAGE + END]) == (503, "unavailable")


def test_who_goes_away_leaves_nothing() -> None:
    async def test() -> None:
        arrivals = Arrivals(Limits())
        left: list[Message] = [{"type": "http.request", "body": IMAGE, "more_body": True}, {"type": "http.disconnect"}]

        async def receive() -> Message:
            return left.pop(0)

        with pytest.raises(RefusedError, match="cut off"):
            async with read_form(request_that(receive), Limits(), arrivals, "a"):
                pass
        assert (arrivals.held, arrivals.bytes) == (0, 0)

    asyncio.run(test())
