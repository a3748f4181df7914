"""Text from outside stays text, as an independent parser of CommonMark and of GitHub's tables reads it."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from glr_assets.defs.automation.health_checks import Row, as_markdown
from glr_assets.evaluation import confusion
from glr_assets.markdown import Markup, code, escape, table
from glr_assets.training.card import card
from glr_assets_tests.evaluation.test_confusion import EXAMPLE
from glr_assets_tests.training.test_card import RECORD

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
#: What becomes a link in text whose backslashes and entities are resolved already: as mdast-util-gfm-autolink-literal
#: has it, which Dagster's UI uses, and of cmark-gfm's schemes ftp; mailto and xmpp have the @ of an address.
AUTOLINKS = re.compile(r"(?:https?|ftp)://[-.\w]|www\.[-.\w]|[-.\w+]@[-\w]+\.[-\w]", re.IGNORECASE)
HOSTILE = (
    "![tower](https://evil.example/seen.png)",
    "[click](javascript:alert(1))",
    "[click][1] [1]: https://evil.example",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "&lt;b&gt; &#60;b&#62; &amp;",
    "<https://evil.example>",
    "https://evil.example/ HTTP://EVIL.example www.evil.example a@evil.example mailto:a@evil.example",
    "**bold** *it* __bold__ _it_ ~~gone~~ `code` ``code`` $math$",
    "a | b \\| c \\",
    "\\",
    "\\<b>",
    "\\![x](y)",
    "\\\\![x](y)",
    "`<b>` `",
    "one\n\n# two\n\n- three\r\n> four\u2028five\x0bsix",
    "\x1b[31mred\x07 \u202egnp.exe \0",
    "snake_case __init__ _a_b_ St._Mary's",
    "# no heading",
    "--- | ---",
    "🏛️ क्ष می‌خواهم",
)


def inlines(text: str) -> list[Token]:
    """Every piece of text of a document, with what it is made of."""
    return [token for token in PARSER.parse(text) if token.type == "inline"]


def cells(text: str) -> list[list[Token]]:
    """The cells of all tables of a document, row by row."""
    rows: list[list[Token]] = []
    tokens = PARSER.parse(text)
    for before, token in pairwise(tokens):
        if before.type == "tr_open":
            rows.append([])
        if before.type in {"th_open", "td_open"}:
            rows[-1].append(token)
    return rows


def shown(token: Token) -> str:
    """The text of one that is nothing but text, without the joiners that nobody sees."""
    children = token.children or []
    kinds = {child.type for child in children}
    assert kinds <= {"text", "text_special"}, kinds
    whole = "".join(child.content for child in children)
    assert not AUTOLINKS.search(whole), whole
    return whole.replace("\u2060", "")


def plain(text: str) -> str:
    """What is left of a text: one line without control characters."""
    return " ".join(re.sub("[\0-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "", " ".join(text.split())).split())


def texts() -> st.SearchStrategy[str]:
    pieces = st.one_of(
        st.sampled_from(HOSTILE), st.text(max_size=4), st.text("\\`*_[]()<>&!|~$#:@/.w-\n ", max_size=12)
    )
    return st.lists(pieces, max_size=4).map("".join).map(lambda text: text.replace("\u2060", ""))


def several(test):  # type: ignore[no-untyped-def]
    for text in HOSTILE:
        test = example(text)(test)
    return test


@several
@given(texts())
def test_a_cell_shows_its_text_and_nothing_else(text: str) -> None:
    found = cells(table(("a", text), [(text, 1), ("x", text)]))
    assert [[shown(cell).strip() for cell in row] for row in found] == [
        ["a", plain(text).strip()],
        [plain(text).strip(), "1"],
        ["x", plain(text).strip()],
    ]


@several
@given(texts())
def test_a_line_shows_its_text_and_nothing_else(text: str) -> None:
    (line,) = inlines(f"- It says: {escape(text)}.")
    assert shown(line) == f"It says: {plain(text)}."
    tokens = inlines(f"This is {code(text)}.")
    assert len(tokens) == 1
    kinds = [child.type for child in tokens[0].children or []]
    if "code_inline" in kinds:
        assert kinds == ["text", "code_inline", "text"]
        assert (tokens[0].children or [])[1].content in {plain(text), plain(text).strip()}
    else:
        assert shown(tokens[0]) == f"This is {plain(text)}."


def test_text_without_anything_special_is_as_it_was() -> None:
    told = table(("a", "b"), [("x|y", 1), ("two\nlines", None), (Markup("`as it is`"), "CC BY-SA 4.0, train_manifest")])
    assert told == (
        "| a | b |\n| --- | --- |\n| x\\|y | 1 |\n| two lines | None |\n| `as it is` | CC BY-SA 4.0, train_manifest |"
    )
    assert code("abc_def") == "`abc_def`"


@pytest.mark.parametrize("text", HOSTILE)
def test_names_licences_and_errors_are_text_wherever_they_are_shown(text: str) -> None:
    record = RECORD.model_copy(
        update={
            "rights": RECORD.rights.model_copy(update={"licences": {text: 5}}),
            "without_onnx": text,
            "libraries": {text: text},
            "data_versions": {text: "f" * 64},
            "recipe": RECORD.recipe | {"embedder": RECORD.recipe["embedder"] | {"weights": text}},
        }
    )
    documents = {
        "card": card(record),
        "broken": as_markdown([Row(f"train_images {text}", "permanent", text, "`glr shards retry`")]),
        "errors": confusion._markdown({confusion.QUERIES: EXAMPLE}, lambda _: text),
    }
    for name, document in documents.items():
        assert "html_block" not in {token.type for token in PARSER.parse(document)}, name
        for token in inlines(document):
            kinds = {child.type for child in token.children or []}
            assert kinds <= {"text", "text_special", "code_inline", "softbreak"}, (name, token.content)
            # Addresses of our own in no document: all that would be a link is from outside.
            words = "".join(child.content for child in token.children or [] if child.type != "code_inline")
            assert not AUTOLINKS.search(words), (name, words)
        assert all(len(row) == len(rows[0]) for rows in [cells(document)[:1]] for row in rows)
    found = [shown(row[0]) for row in cells(documents["card"]) if len(row) == 2]
    assert plain(text).strip() in {one.strip() for one in found}
