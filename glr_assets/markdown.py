"""Markdown for people, as the UI and code forges show it: tables, and text from outside that stays text.

Names, titles, licences and messages of errors come from files of strangers. In Markdown they could draw pictures from
elsewhere, lead away, or be HTML. CommonMark 0.31 says how a character is taken literally (sections 2.4 and 2.5),
GitHub's extension what else becomes a link or a cell (GFM 0.29, sections 4.10 and 6.9).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

#: `_` inside a word is no emphasis (CommonMark 6.2): identifiers stay readable in the source.
_SPECIAL: Final = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
#: GFM links these wherever they stand, backslashes or not: an invisible character in between keeps them text.
_LINKS: Final = re.compile(r"((?:https?|ftp):(?=//)|www(?=\.)|(?=@))", re.IGNORECASE)
_WORD_JOINER: Final = "\u2060"
#: Control characters, and those that turn the direction of what follows (UAX 9).
_UNSEEN: Final = re.compile("[\0-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Markup(str):
    """Markdown, which `table` takes as it is; any other string is text, which it escapes."""

    __slots__ = ()


def escape(text: str) -> Markup:
    """Markdown that shows a text, on one line, for use within a line of Markdown or a cell.

    Control characters are left out. Web and mail addresses get U+2060 WORD JOINER, which nobody sees, so that they are
    not turned into links.
    """
    escaped = _SPECIAL.sub(r"\\\g<0>", _line(text))
    escaped = "".join(_ENTITIES.get(letter, letter) for letter in escaped)
    return Markup(_LINKS.sub(rf"\1{_WORD_JOINER}", escaped))


def code(text: str) -> Markup:
    """A text in a code span; one that could end the span or a cell is escaped instead."""
    line = _line(text)
    return Markup(f"`{line}`") if line and not re.search(r"[`|\\]", line) else escape(text)


def _line(text: str) -> str:
    return " ".join(_UNSEEN.sub("", " ".join(text.split())).split())


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table of as many cells a row as the header has; cells that are `Markup` are Markdown, all others text."""

    def line(cells: Iterable[object]) -> str:
        return "| " + " | ".join(cell if isinstance(cell, Markup) else escape(str(cell)) for cell in cells) + " |"

    return "\n".join([line(header), line("---" for _ in header), *(line(row) for row in rows)])
