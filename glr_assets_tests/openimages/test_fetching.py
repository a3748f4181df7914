"""Fetching from a server on loopback: what comes, what does not and why, what is tried again, what is never asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from glr_assets.openimages.fetching import Fetcher, NotFetched
from glr_assets.ranges import Retry
from glr_assets.recipes import OpenImages
from glr_assets_tests.openimages.handmade import jpeg, pixels
from glr_assets_tests.openimages.server import Site, certificate

DATA = jpeg(pixels(1))
RECIPE = OpenImages(fetch=True, fetch_hosts=("localhost",), max_bytes=20_000, fetch_seconds=0.5)
QUICK = Retry(attempts=3, first_wait=0.01)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as opened:
        yield opened


@pytest.fixture
def fetcher() -> Iterator[Fetcher]:
    with Fetcher(RECIPE, schemes=("http",), retry=QUICK) as opened:
        yield opened


def test_an_image_comes_as_it_is(site: Site, fetcher: Fetcher) -> None:
    assert fetcher.fetch(site.gives("/a.jpg", DATA)) == DATA
    assert fetcher.fetch(site.gives("/b", DATA, "application/octet-stream")) == DATA
    assert site.asked == {"/a.jpg": 1, "/b": 1}


def test_a_lost_image_is_not_asked_for_twice(site: Site, fetcher: Fetcher) -> None:
    assert fetcher.fetch(site.url("/gone.jpg")) == NotFetched("HTTP 404")
    assert site.asked["/gone.jpg"] == 1


def test_a_busy_server_is_asked_again(site: Site, fetcher: Fetcher) -> None:
    assert fetcher.fetch(site.fails("/busy.jpg", 503, 2, DATA)) == DATA
    assert fetcher.fetch(site.fails("/busier.jpg", 429, 3, DATA)) == NotFetched("HTTP 429")
    assert site.asked == {"/busy.jpg": 3, "/busier.jpg": 3}


def test_redirects_are_followed_so_far(site: Site, fetcher: Fetcher) -> None:
    site.gives("/end.jpg", DATA)
    assert fetcher.fetch(site.redirects("/moved.jpg", "/end.jpg")) == DATA
    circle = fetcher.fetch(site.redirects("/circle.jpg", "/circle.jpg"))
    assert circle == NotFetched("too many redirects: more than 5")
    assert site.asked["/circle.jpg"] == 6


@pytest.mark.parametrize("name", ["photo_unavailable.png", "photo_unavailable_l.png?v=2"])
def test_flickrs_card_is_known_by_where_it_lies(site: Site, fetcher: Fetcher, name: str) -> None:
    found = fetcher.fetch(site.redirects("/lost.jpg", f"https://s.yimg.example/pw/images/en-us/{name}"))
    assert isinstance(found, NotFetched)
    assert found.reason.startswith("placeholder: ")


def test_a_redirect_leads_to_no_other_host(site: Site, fetcher: Fetcher) -> None:
    inside = f"http://127.0.0.1:{site.server_address[1]}/secret"
    found = fetcher.fetch(site.redirects("/inside.jpg", inside))
    assert found == NotFetched("host not asked: 127.0.0.1 is not among fetch_hosts of the recipe")
    assert site.asked["/secret"] == 0


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://photos.example/a.jpg", "host not asked: photos.example"),
        ("http://evillocalhost/a.jpg", "host not asked: evillocalhost"),
        ("http://localhost@photos.example/a.jpg", "host not asked: photos.example"),
        ("file:///etc/passwd", "not http: file"),
        ("a.jpg", "not http: no URL"),
        ("http://[::1", "no URL"),
    ],
)
def test_other_hosts_and_schemes_are_never_asked(fetcher: Fetcher, url: str, reason: str) -> None:
    found = fetcher.fetch(url)
    assert isinstance(found, NotFetched)
    assert found.reason.startswith(reason)


def test_by_itself_only_https_is_asked(site: Site) -> None:
    with Fetcher(RECIPE) as fetcher:
        assert fetcher.fetch(site.gives("/a.jpg", DATA)) == NotFetched("not https: http")
    assert not site.asked


def test_https_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = certificate(tmp_path)
    with Site(paths) as site:
        url = site.gives("/a.jpg", DATA)
        with Fetcher(RECIPE, retry=QUICK) as fetcher:
            assert fetcher.fetch(url) == NotFetched("no answer: ConnectError")
        monkeypatch.setenv("SSL_CERT_FILE", str(paths[0]))
        with Fetcher(RECIPE, retry=QUICK) as fetcher:
            assert fetcher.fetch(url) == DATA


def test_too_many_bytes_are_not_taken_whether_or_not_they_are_told(site: Site, fetcher: Fetcher) -> None:
    reason = NotFetched("too large: more than 20000 bytes")
    assert fetcher.fetch(site.gives("/told.jpg", bytes(20_001))) == reason
    assert fetcher.fetch(site.streams("/untold.jpg", 2_000_000)) == reason
    assert fetcher.fetch(site.gives("/just.jpg", bytes(20_000))) == bytes(20_000)


def test_a_server_that_drips_or_is_silent_is_left(site: Site, fetcher: Fetcher) -> None:
    began = time.monotonic()
    assert fetcher.fetch(site.drips("/drips.jpg", 1000, 0.02)) == NotFetched("too slow: more than 0.5 seconds")
    site.answers["/silent.jpg"] = lambda _: time.sleep(1.5)
    assert fetcher.fetch(site.url("/silent.jpg")) == NotFetched("too slow: the server is silent")
    assert time.monotonic() - began < 8
    assert site.asked == {"/drips.jpg": 3, "/silent.jpg": 3}


def test_what_is_called_no_image_is_not_taken(site: Site, fetcher: Fetcher) -> None:
    found = fetcher.fetch(site.gives("/page.jpg", b"<html>", "text/html; charset=utf-8"))
    assert found == NotFetched("no image: the server calls it text/html")


def test_what_breaks_off_and_who_does_not_answer_are_tried_again_and_told(
    site: Site, fetcher: Fetcher, free_tcp_port: int
) -> None:
    assert fetcher.fetch(site.breaks_off("/half.jpg", DATA)) == NotFetched("no answer: RemoteProtocolError")
    assert site.asked["/half.jpg"] == 3
    assert fetcher.fetch(f"http://localhost:{free_tcp_port}/a.jpg") == NotFetched("no answer: ConnectError")
