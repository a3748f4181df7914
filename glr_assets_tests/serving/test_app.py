from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import features
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from glr_assets.errors import SettingsError
from glr_assets.images.reader import ImageReader
from glr_assets.receipts import receipt_path
from glr_assets.serving.limits import Limits
from glr_assets.serving.live import Live
from glr_assets.serving.page import licence_name, link, percent
from glr_assets.serving.schemas import Answer, BatchAnswer, Failure
from glr_assets.serving.security import Access, is_loopback
from glr_assets_tests.images.test_nasty import read_golden
from glr_assets_tests.serving.conftest import Build, Served, encoded

TOKEN = "a long random word"
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def ask(client: httpx.Client, data: bytes, path: str = "/recognize", **fields: str) -> httpx.Response:
    return client.post(path, files={"image": ("photo.jpg", data)}, data=fields)


def problem(response: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, in the one form that all have."""
    found = Failure.model_validate_json(response.content, strict=True).error
    assert found.status == response.status_code
    assert found.reason
    assert not re.search(r"Traceback|/[a-z]+/|site-packages|0x[0-9a-f]{6}", found.reason), found.reason
    return found.status, found.code


def indexed(client: TestClient) -> ImageReader:
    """The photographs that are searched."""
    service: Any = client.app
    reader: ImageReader = service.live.current.recogniser.reader
    return reader


def test_an_answer_has_all_that_the_contract_names(client: TestClient, photo: bytes) -> None:
    response = ask(client, photo, top="3")
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {"is_landmark", "landmarks", "similar", "matches", "timings"}
    assert {"landmark_id", "name", "probability"} <= set(answer["landmarks"][0])
    assert {"id", "landmark_id", "score", "licence", "author"} <= set(answer["similar"][0])
    assert {like["author"] for like in answer["similar"]} == {None}  # what is not known is told as such
    assert len(answer["similar"]) == 3
    assert set(answer["timings"]) == {"decode", "embed", "search", "total"}
    assert sum(landmark["probability"] for landmark in answer["landmarks"]) <= 1
    Answer.model_validate(answer)


def test_a_photograph_of_the_index_finds_itself_and_its_landmark(client: TestClient) -> None:
    reader = indexed(client)
    for image_id in reader.ids[:5]:
        answer = ask(client, reader.read(image_id)).json()
        assert answer["similar"][0]["id"] == image_id
        assert answer["is_landmark"]
        assert answer["landmarks"][0]["landmark_id"] == answer["similar"][0]["landmark_id"]


def test_matches_are_drawn_where_it_is_asked_for(client: TestClient) -> None:
    reader = indexed(client)
    own = reader.ids[0]
    answer = ask(client, reader.read(own), matches="true").json()
    assert answer["matches"]["id"] == own
    assert answer["matches"]["inliers"] == answer["similar"][0]["inliers"] >= 11
    assert base64.b64decode(answer["matches"]["picture"].partition(",")[2]).startswith(b"\xff\xd8")
    none = ask(client, encoded("PNG", (400, 400)), matches="true").json()
    assert none["matches"] is None
    drawn = ask(client, reader.read(own), "/matches", id=own)
    assert drawn.headers["content-type"] == "image/jpeg"
    assert drawn.content.startswith(b"\xff\xd8")
    assert problem(ask(client, reader.read(own), "/matches", id="../../etc/passwd")) == (404, "unknown_image")


def test_a_bad_photograph_of_a_batch_costs_the_others_nothing(client: TestClient, photo: bytes) -> None:
    files = [("image", ("a/../gate.jpg", photo)), ("image", ("x", b"none")), ("image", ("b", photo[: len(photo) // 2]))]
    response = client.post("/recognize/batch", files=files, data={"top": "1"})
    assert response.status_code == 200
    good, wrong, cut = BatchAnswer.model_validate_json(response.content).answers
    assert (good.file, wrong.file) == ("gate.jpg", "x")
    assert good.answer is not None
    alone = Answer.model_validate_json(ask(client, photo, top="1").content)
    assert good.answer.landmarks == alone.landmarks
    assert wrong.error is not None
    assert wrong.error.status == 415
    assert cut.error is not None
    assert cut.error.status == 422


def test_what_cannot_be_asked_is_refused_in_one_form(build: Build, photo: bytes) -> None:
    client = build(Limits(max_bytes=10**6, max_batch=2))
    photos = [("image", ("p", photo))]
    cases: list[tuple[tuple[int, str], httpx.Response]] = [
        ((422, "missing"), client.post("/recognize", files={"other": ("p", photo)})),
        ((422, "missing"), client.post("/recognize", files={"image": (None, "text")})),
        ((415, "wrong_type"), client.post("/recognize", content=photo, headers={"Content-Type": "image/jpeg"})),
        ((415, "wrong_type"), client.post("/recognize", data={"image": "x"})),
        ((415, "wrong_type"), client.post("/recognize")),
        ((422, "empty"), ask(client, b"")),
        ((422, "wrong_top"), ask(client, photo, top="0")),
        ((422, "wrong_top"), ask(client, photo, top="all")),
        ((422, "wrong_matches"), ask(client, photo, matches="perhaps")),
        ((422, "too_many"), client.post("/recognize", files=2 * photos)),
        ((422, "too_many"), client.post("/recognize/batch", files=3 * photos)),
        ((400, "bad_request"), client.post("/recognize/batch", files=9 * photos)),
        ((413, "too_large"), ask(client, bytes(10**6 + 1))),
        ((413, "too_large"), ask(client, bytes(2 * 10**6))),
        ((413, "too_large"), client.post("/recognize", headers=form_of("x") | {"Content-Length": "99999999"})),
        ((400, "bad_request"), client.post("/recognize", headers=form_of("x"), content=b"no form at all")),
        ((400, "bad_request"), client.post("/recognize", headers={"Content-Type": "multipart/form-data"}, content=b"")),
        ((404, "not_found"), client.get("/nothing/here")),
        ((404, "not_found"), client.get("/static/../app.py")),
        ((404, "not_found"), client.get("/static/%2e%2e/app.py")),
        ((405, "method_not_allowed"), client.get("/recognize")),
        ((405, "method_not_allowed"), client.delete("/ready")),
    ]
    for number, (expected, response) in enumerate(cases):
        assert problem(response) == expected, number


def form_of(boundary: str) -> dict[str, str]:
    return {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def test_nasty_files_are_answered_by_a_refusal_or_as_what_they_show(
    client: TestClient, shared_photos: Path, photo: bytes
) -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    expected = {"too large": {413}, "no image that can be opened": {415}, "undecodable": {415, 422}}
    answered = 0
    for file in read_golden():
        data = (shared_photos / "nasty" / file.path).read_bytes()
        response = ask(client, data, top="1")
        if len(data) > Limits().max_bytes:
            assert problem(response) == (413, "too_large"), file.path
        elif file.status == "stored":
            assert response.status_code == 200, (file.path, response.text)
            answered += 1
        else:
            assert problem(response)[0] in expected[file.reason], (file.path, response.text)
    assert answered > 150
    assert ask(client, photo).status_code == 200


def test_pictures_are_of_the_index_alone(client: TestClient, served_once: Served, photo: bytes) -> None:
    like = ask(client, photo).json()["similar"][0]
    response = client.get(like["image"])
    assert response.headers["content-type"] == "image/jpeg"
    assert response.content == ImageReader.of_split(served_once.store, "train").read(like["id"])
    again = client.get(like["image"], headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    of_test = ImageReader.of_split(served_once.store, "test").ids[0]
    for path in (
        f"/image/test/{of_test}",
        f"/image/train/{of_test}",
        "/image/train/..%2f..%2fmetadata%2ftrain_metadata.parquet",
        f"/image/../{like['id']}",
        f"/image/train/{like['id']}%00.jpg",
        "/image/train/" + "a" * 5000,
    ):
        assert problem(client.get(path))[0] == 404, path


def test_an_image_that_the_store_has_lost_is_told_without_its_path(served: Served, build: Build) -> None:
    live = Live(served.store, lambda _: None)
    assert live.refresh()
    client = build(of=live)
    assert live.current is not None
    reader = live.current.recogniser.reader
    for path in Path(served.store.root, "images", "train").glob("*.tar"):
        path.unlink()
    response = client.get(f"/image/train/{reader.ids[0]}")
    assert problem(response) == (503, "unavailable")
    assert response.headers["retry-after"]


@pytest.mark.parametrize("size", [2**33, 2**50, 2**62])
def test_an_image_of_a_size_that_no_memory_holds_is_told_and_costs_no_other(
    served: Served, build: Build, photo: bytes, size: int
) -> None:
    live = Live(served.store, lambda _: None)
    assert live.refresh()
    client = build(of=live)
    reader = indexed(client)
    reader.places.places["size"][reader.row(reader.ids[0])] = size
    response = client.get(f"/image/train/{reader.ids[0]}")
    assert problem(response) == (503, "unavailable")
    assert response.headers["retry-after"]
    assert client.get(f"/image/train/{reader.ids[1]}").status_code == ask(client, photo).status_code == 200


def test_without_an_index_the_service_lives_and_is_not_ready(served: Served, build: Build, photo: bytes) -> None:
    served.store.remove(receipt_path("faiss_index"))
    live = Live(served.store, lambda _: None)
    live.refresh()
    client = build(of=live)
    assert client.get("/health").json() == {"status": "alive"}
    for response in (client.get("/ready"), ask(client, photo), client.get("/image/train/x")):
        assert problem(response) == (503, "not_ready")
        assert int(response.headers["retry-after"]) > 0
    served.index_again()
    live.refresh()
    ready = client.get("/ready").json()
    assert (ready["status"], ready["landmarks"], ready["stale"]) == ("ready", 4, False)
    assert ask(client, photo).status_code == 200
    # What cannot be loaded later leaves it ready, and is told.
    served.store.remove(receipt_path("faiss_index"))
    live.refresh()
    assert client.get("/ready").json() == ready | {"stale": True}
    assert ask(client, photo).status_code == 200
    metrics = client.get("/metrics").text
    assert "\nglr_index_stale 1.0\n" in metrics
    assert '\nglr_index_load_failures_total{kind="incomplete"} 2.0\n' in metrics


def test_where_no_place_is_left_the_answer_says_when_to_come_back(build: Build, photo: bytes) -> None:
    client = build(Limits(uploads=1))
    service: Any = client.app
    with service.arriving.one("192.0.2.7"):
        for path in ("/recognize", "/recognize/batch", "/matches", "/"):
            response = ask(client, photo, path)
            assert (response.status_code, response.headers["retry-after"]) == (503, "1"), path
        assert client.get("/health").status_code == client.get("/ready").status_code == 200
    assert ask(client, photo).status_code == 200


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("127.8.9.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("example.org", False),
        ("127.0.0.1.example.org", False),
    ],
)
def test_only_loopback_may_do_without_a_token(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
    assert Access.at(host, TOKEN) == Access(TOKEN, any_host=True)
    if loopback:
        assert Access.at(host, None) == Access.at(host, " ") == Access()
        return
    for none in (None, "", "  "):
        with pytest.raises(SettingsError, match="GLR_SERVE_TOKEN"):
            Access.at(host, none)


def test_with_a_token_nothing_but_probes_is_answered_without_it(build: Build, photo: bytes) -> None:
    client = build(access=Access.at("0.0.0.0", TOKEN))
    basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    good = [{"Authorization": shown} for shown in (f"Bearer {TOKEN}", f"bearer  {TOKEN}", f"Basic {basic}")]
    bad = [
        {},
        {"Authorization": TOKEN},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic %%%"},
        {"Authorization": "Basic " + base64.b64encode(TOKEN.encode()).decode()},
        {"Authorization": b"Bearer \xff\xfe"},
    ]
    for headers in bad:
        for response in (
            client.get("/", headers=headers),
            client.get("/metrics", headers=headers),
            client.get("/openapi.json", headers=headers),
            client.post("/recognize", files={"image": ("p", photo)}, headers=headers),
        ):
            assert problem(response) == (401, "no_token")
            assert response.headers.get_list("www-authenticate")[0] == "Bearer"
    for headers in good:
        assert client.post("/recognize", files={"image": ("p", photo)}, headers=headers).status_code == 200
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    # Other machines name it as they please.
    assert client.get("/health", headers={"Host": "glr.example.org"}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "10.0.0.1:8000"])
def test_a_request_that_names_another_host_is_refused_on_loopback(client: TestClient, host: str) -> None:
    assert problem(client.get("/health", headers={"Host": host})) == (400, "wrong_host")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000"])
def test_a_request_that_names_this_machine_is_answered(client: TestClient, host: str) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == 200


def test_forms_of_other_sites_are_refused_and_none_may_read_answers(client: TestClient, photo: bytes) -> None:
    files = {"image": ("p", photo)}
    other = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert problem(client.post("/", files=files, headers=other)) == (403, "other_site")
    response = client.post("/recognize", files=files, headers={"Origin": "https://evil.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]
    preflight = client.options(
        "/recognize", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_every_answer_has_its_headers(client: TestClient, photo: bytes) -> None:
    responses = [
        client.get("/"),
        client.get("/static/page.js"),
        client.get("/nothing"),
        ask(client, photo),
        ask(client, b"no"),
        client.get("/health", headers={"Host": "evil.example"}),
        client.get("/metrics"),
    ]
    for response in responses:
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cache-control"]


def test_an_unforeseen_error_shows_nothing_of_itself(build: Build) -> None:
    client = build()
    service: Any = client.app

    @service.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError("/secret/path")

    response = client.get("/broken")
    assert problem(response) == (500, "internal")
    assert "secret" not in response.text
    assert "content-security-policy" in response.headers


def test_metrics_count_what_was_asked(client: TestClient, photo: bytes) -> None:
    ask(client, photo)
    ask(client, photo)
    ask(client, b"no photograph")
    client.get("/some/path/nobody/has")
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert found["glr_requests_total", "/recognize", "200", "POST"] == 2
    assert found["glr_requests_total", "/recognize", "415", "POST"] == 1
    assert found["glr_requests_total", "404", "GET", "other"] == 1
    assert found["glr_refused_total", "wrong_type"] == 1
    assert found["glr_step_seconds_count", "embed"] == 2
    assert found["glr_request_seconds_count", "/recognize"] == 3
    assert found[("glr_index_images",)] > 0
    assert found[("glr_busy",)] == found[("glr_arriving",)] == 0
    assert [name for name in found if name[0] == "glr_index_info"] == [("glr_index_info", live_version(client))]


def live_version(client: TestClient) -> str:
    version: str = client.get("/ready").json()["version"]
    return version


class Page(HTMLParser):
    """What a browser without JavaScript sees of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_the_page_is_a_form_that_needs_nothing_from_elsewhere(client: TestClient) -> None:
    response = client.get("/")
    page = Page(response.text)
    (form,) = page.all("form")
    assert (form["method"], form["action"], form["enctype"]) == ("post", "/", "multipart/form-data")
    inputs = page.all("input")
    assert [field["name"] for field in inputs] == ["image", "image"]
    assert inputs[1]["capture"] == "environment"
    assert page.all("button")[0]["type"] == "submit"
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("meta")[1]["name"] == "viewport"
    linked = [tag.get("src") or tag.get("href") for tag in page.all("script") + page.all("link") + page.all("img")]
    assert linked == ["/static/page.js", "data:,", "/static/page.css"]
    for path in ("/static/page.js", "/static/page.css"):
        assert client.get(path).status_code == 200
    assert "style=" not in response.text
    assert not re.search(r"\son[a-z]+=", response.text)


def test_the_form_alone_gives_a_page_with_the_answer(client: TestClient) -> None:
    reader = indexed(client)
    own = reader.ids[0]
    # As a browser sends it: the input that was left empty is there too.
    files = [("image", ("gate.jpg", reader.read(own))), ("image", ("", b""))]
    response = client.post("/", files=files)
    assert response.status_code == 200
    answer = Answer.model_validate_json(ask(client, reader.read(own), matches="true").content)
    page = Page(response.text)
    assert len(page.all("form")) == 1
    assert answer.landmarks[0].name in page.words
    meters = page.all("meter")
    assert [float(str(meter["value"])) for meter in meters] == pytest.approx(
        [landmark.probability for landmark in answer.landmarks], abs=1e-6
    )
    assert all(meter["aria-label"] for meter in meters)
    images = page.all("img")
    assert all(image["alt"] for image in images)
    sources = [str(image["src"]) for image in images]
    assert sources[0].startswith("data:image/jpeg")
    assert sources[1].startswith("data:image/jpeg")  # what agrees
    assert sources[2:] == [like.image for like in answer.similar]
    assert "details agree" in page.words
    assert page.words.count("licence") >= len(answer.similar)


def test_a_photograph_of_nothing_known_gets_a_plain_no(client: TestClient) -> None:
    data = encoded("PNG", (400, 400), seed=5)
    assert not ask(client, data).json()["is_landmark"]
    page = Page(ask(client, data, "/").text)
    assert "No landmark here" in page.words


def test_a_refusal_is_a_page_too_and_for_the_script_a_part_of_it(client: TestClient) -> None:
    whole = ask(client, b"<script>alert(1)</script>", "/")
    assert whole.status_code == 415
    assert "This cannot be looked at" in Page(whole.text).words
    part = client.post("/", files={"image": ("p", b"no")}, headers={"X-Requested-With": "fetch"})
    assert part.status_code == 415
    assert part.text.lstrip().startswith('<section id="answer"')
    assert "<form" not in part.text


def test_names_are_shown_as_text_and_links_are_of_the_web(build: Build, served: Served, photo: bytes) -> None:
    live = Live(served.store, lambda _: None)
    live.refresh()
    assert live.current is not None
    evil = '<img src=x onerror="alert(1)">'
    recogniser = live.current.recogniser
    labels: Any = recogniser._labels
    for label in labels.values():
        label["name"], label["category"] = evil, "javascript:alert(1)"
    page = ask(build(of=live), photo, "/").text
    assert evil not in page
    assert "&lt;img src=x" in page
    assert "javascript:" not in page


def test_words_of_the_page() -> None:
    assert [percent(p) for p in (0.0, 0.004, 0.25, 0.994, 1.0)] == ["0 %", "under 1 %", "25 %", "over 99 %", "100 %"]
    assert licence_name("http://creativecommons.org/licenses/by-sa/3.0/") == "CC BY-SA 3.0"
    assert licence_name("https://creativecommons.org/licenses/by-sa/3.0/de/deed.en") == "CC BY-SA 3.0"
    assert licence_name("https://creativecommons.org/publicdomain/zero/1.0/") == "CC0"
    assert licence_name("unknown") == "unknown"
    assert link("https://x.org/a") == "https://x.org/a"
    for no_link in ("javascript:alert(1)", "x.org", "data:text/html,x", None, "https://x.org/a b"):
        assert link(no_link) is None


def test_the_description_has_every_route_with_its_refusals(client: TestClient) -> None:
    found = client.get("/openapi.json").json()
    assert set(found["paths"]) == {
        "/recognize",
        "/recognize/batch",
        "/matches",
        "/image/{split}/{image_id}",
        "/health",
        "/ready",
        "/metrics",
    }
    asked = found["paths"]["/recognize"]["post"]
    assert {"200", "401", "408", "413", "415", "422", "503"} <= set(asked["responses"])
    assert found["components"]["schemas"]["Landmark"]["properties"]["name"]["examples"]
    # No page of the framework's, which would load scripts from elsewhere.
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def test_the_script_and_the_styles_are_the_packages_own() -> None:
    folder = Path(__file__).resolve().parents[2] / "glr_assets" / "serving" / "static"
    for path in folder.iterdir():
        text = path.read_text()
        assert not re.search(r"https?:|//[a-z]+\.|innerHTML|eval\(", text), path
