"""Names, authors, licences and links of strangers on the page, as a parser of HTML reads it."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.serving.limits import Limits
from glr_assets.serving.page import Shown, fragment, whole
from glr_assets.serving.schemas import Answer, Landmark, Matches, Problem, Similar

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</section></main><form action=https://evil.example>",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    'https://evil.example/" onclick="alert(1)',
    "https://evil.example/\njavascript:alert(1)",
    " javascript:alert(1)",
    "//evil.example/",
    "&lt;script&gt;",
    "{{ 7 * 7 }}{% raw %}",
)
#: What refers to elsewhere.
REFERENCES = {"src", "href", "action", "formaction", "srcset", "poster", "background"}


class Parsed(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, frozenset[str]]] = []
        self.references: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, frozenset(name for name, _ in attrs)))
        self.references += [(tag, value or "") for name, value in attrs if name in REFERENCES]

    def handle_data(self, data: str) -> None:
        self.text += data


def answer(text: str, link: str) -> Answer:
    similar: dict[str, Any] = {"id": "0a", "landmark_id": 1, "score": 0.5, "image": "/image/train/0a", "inliers": 9}
    return Answer(
        is_landmark=True,
        landmarks=[Landmark(landmark_id=1, name=text, category=link, kind=f"kind {text}", probability=0.9)],
        similar=[
            Similar(name=text, licence=text, author=text, title=text, source=link, **similar),
            Similar(name=text, licence=link, author=text, title=text, source=None, **similar),
        ],
        matches=Matches(id="0a", inliers=9, picture="data:image/jpeg;base64,AA=="),
        timings={"total": 0.1, "decode": 0.1},
    )


def page_of(text: str, link: str) -> Parsed:
    return Parsed(fragment(Shown(answer(text, link), "data:image/jpeg;base64,AA==")))


def check(text: str) -> None:
    # With links that are not shown as such, and with those that are.
    for link, plain in (
        (text, page_of("a name", "no link")),
        ("https://x.org/a", page_of("a name", "https://x.org/a")),
    ):
        found = page_of(text, link)
        if link == text and text.startswith(("http://", "https://")):
            found.elements = [one for one in found.elements if one[0] != "a"]
        assert found.elements == plain.elements
        for tag, reference in found.references:
            allowed = ("http://", "https://") if tag == "a" else ("/image/train/0a", "data:image/jpeg;base64,AA==")
            assert reference.startswith(allowed)
        assert text.strip() in found.text


@pytest.mark.parametrize("text", HOSTILE)
def test_what_strangers_wrote_is_text_and_links_lead_to_the_web_alone(text: str) -> None:
    check(text)
    problem = Problem(code="undecodable", reason=f"undecodable: {text}", status=422)
    found = Parsed(whole(Limits(), Shown(problem=problem)))
    assert (
        found.elements
        == Parsed(whole(Limits(), Shown(problem=problem.model_copy(update={"reason": "damaged"})))).elements
    )
    assert text in found.text


@given(st.text("<>\"'&=/ :;ax\n{}%#", max_size=30))
def test_whatever_strangers_write_is_text(text: str) -> None:
    check(text)
