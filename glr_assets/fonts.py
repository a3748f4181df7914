"""Text of any script in pictures: a font for every letter, and Latin letters where no font of this machine has one.

DejaVu Sans, which comes with matplotlib, has Latin with all accents, Greek, Cyrillic, Armenian, Georgian, Hebrew and
Arabic. Other scripts are drawn by the fonts that the machine has. What is not found there is transliterated.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import ImageDraw, ImageFont, features

#: Fonts that have a sign for every character, none of it readable, or that have pictures in one size alone.
_UNFIT = ("lastresort", "adobeblank", "notdef", "tofu", "color", "emoji")
#: Of the styles of a family the plain one is preferred.
_STYLED = ("bold", "italic", "oblique", "light", "thin", "black", "mono", "condensed", "serif")


def font_folders() -> list[Path]:
    """Where this machine keeps fonts: XDG's folders, macOS's and Windows's."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is none
    if sys.platform == "darwin":
        return [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    if sys.platform == "win32":
        return [Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"]
    data = os.environ.get("XDG_DATA_HOME") or home / ".local/share"
    return [Path(data) / "fonts", home / ".fonts", Path("/usr/local/share/fonts"), Path("/usr/share/fonts")]


@cache
def _dejavu() -> Path:
    spec = find_spec("matplotlib")  # found without importing it
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"


@cache
def _machine_fonts() -> tuple[Path, ...]:
    """The fonts of this machine, in one order on every call: plain styles first, then by name."""
    found = {
        path
        for folder in font_folders()
        for path in _files_below(folder)
        if path.suffix.lower() in {".ttf", ".otf", ".ttc"} and not any(word in path.name.lower() for word in _UNFIT)
    }
    return tuple(sorted(found, key=lambda path: (any(w in path.name.lower() for w in _STYLED), path.name, str(path))))


def _files_below(folder: Path) -> list[Path]:
    return [Path(at) / name for at, _, names in os.walk(folder) for name in names]


@cache
def _letters(font: Path) -> frozenset[int]:
    """The code points that a font has a sign for; none of a file that is no font."""
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(font, fontNumber=0, lazy=True) as opened:
            found = frozenset(opened.getBestCmap() or ())
        ImageFont.truetype(font, 10)
    except (OSError, TTLibError, KeyError, ValueError, AssertionError):
        return frozenset()
    return found


@cache
def _font_of(letter: str) -> Path | None:
    """The first font that has a letter."""
    if ord(letter) in _letters(_dejavu()):
        return _dejavu()
    return next((font for font in _machine_fonts() if ord(letter) in _letters(font)), None)


def forget_fonts() -> None:
    """Look for fonts anew, after some were installed."""
    for cached in (_machine_fonts, _letters, _font_of):
        cached.cache_clear()


@dataclass(frozen=True)
class Run:
    """Letters that follow each other and are drawn by one font."""

    text: str
    font: Path


def in_runs(text: str, shaped: bool | None = None) -> list[Run]:
    r"""A text as it can be drawn here.

    Control and formatting characters are left out. A letter that no font has, and, where `shaped` is false, one that
    joins its neighbors or runs from right to left, is transliterated; what has no transliteration stands as `\u1234`.

    Args:
        text: any text.
        shaped: whether what draws it lays out such scripts; unset: whether Pillow does here.
    """
    shaped = features.check("raqm") and features.check("fribidi") if shaped is None else shaped
    marked: list[tuple[Path | None, str]] = []
    for letter in unicodedata.normalize("NFC", text):
        kind = unicodedata.category(letter)
        if kind in {"Cc", "Zl", "Zp"}:
            letter = " "
        elif kind in {"Cf", "Cs"} and letter not in "\u200c\u200d":
            continue
        if kind.startswith("M") and marked and marked[-1][0] and ord(letter) in _letters(marked[-1][0]):
            font: Path | None = marked[-1][0]  # a mark is drawn with the letter it stands on
        else:
            font = _font_of(letter) if shaped or not _needs_shaping(letter) else None
        marked.append((font, letter))
    runs: list[Run] = []
    for font, group in groupby(marked, key=lambda pair: pair[0]):
        letters = "".join(letter for _, letter in group)
        runs.append(Run(letters, font) if font else Run(_transliterated(letters), _dejavu()))
    return [
        Run("".join(run.text for run in same), font) for font, same in _grouped(runs) if any(run.text for run in same)
    ]


def _grouped(runs: Sequence[Run]) -> list[tuple[Path, list[Run]]]:
    return [(font, list(same)) for font, same in groupby(runs, key=lambda run: run.font)]


def _needs_shaping(letter: str) -> bool:
    """Whether a letter runs from right to left, or is of a script of South or Southeast Asia, whose letters join."""
    return unicodedata.bidirectional(letter) in {"R", "AL"} or 0x0900 <= ord(letter) <= 0x109F


def _transliterated(letters: str) -> str:
    from anyascii import anyascii

    return "".join(anyascii(letter) or f"\\u{ord(letter):04x}" for letter in letters)


@dataclass(frozen=True)
class Lettering:
    """Draws lines of text of one size, in pixels, into Pillow's images."""

    size: int

    @cached_property
    def _ascent(self) -> int:
        return int(_opened(_dejavu(), self.size).getmetrics()[0])

    def width(self, text: str) -> float:
        """Pixels that a line takes."""
        return sum(_opened(run.font, self.size).getlength(run.text) for run in in_runs(text))

    def fitted(self, text: str, width: float) -> str:
        """`text`, cut to a width in pixels."""
        if self.width(text) <= width:
            return text
        shortest, longest = 0, len(text)
        while shortest < longest:  # the most letters that fit beside the dots
            middle = (shortest + longest + 1) // 2
            if self.width(text[:middle] + "…") <= width:
                shortest = middle
            else:
                longest = middle - 1
        return text[:shortest] + "…"

    def draw(self, on: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, color: str) -> None:
        """Draw a line whose left upper corner is `corner`; fonts of other heights stand on the same baseline."""
        left, top = corner
        for run in in_runs(text):
            font = _opened(run.font, self.size)
            on.text((left, top + self._ascent), run.text, color, font=font, anchor="ls")
            left += font.getlength(run.text)


@cache
def _opened(font: Path, size: int) -> Any:
    return ImageFont.truetype(font, size)


def chart_text(text: str) -> tuple[str, list[str]]:
    """A text for matplotlib as it can be drawn here, without mathematics, and the families that draw it."""
    import matplotlib
    from matplotlib import font_manager

    # From this release on it lays out joined scripts, and those from right to left.
    shaped = tuple(int(part) for part in matplotlib.__version__.split(".")[:2]) >= (3, 11)
    families = ["DejaVu Sans"]
    runs = in_runs(text, shaped)
    for run in runs:
        family = font_manager.FontProperties(fname=str(run.font)).get_name() if run.font != _dejavu() else families[0]
        if family not in families:
            font_manager.fontManager.addfont(str(run.font))
            families.append(family)
    return "".join(run.text for run in runs).replace("$", r"\$"), families
