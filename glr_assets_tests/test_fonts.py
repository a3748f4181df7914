"""Text in pictures: no two letters look the same, whatever their script, and none is lost."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from glr_assets import fonts
from glr_assets.fonts import Lettering, chart_text, forget_fonts, in_runs
from glr_assets.plots import Thumbnail, confusion, gallery, shares
from glr_assets_tests.images.handmade import picture

#: Of Latin with accents, Greek, Cyrillic, Vietnamese, Armenian, Georgian, Hebrew, Arabic.
LETTERS = "éüłőžýØΩЖồԵთשق"


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine without fonts of its own; the folder where some may be put."""
    folder = tmp_path / "fonts"
    folder.mkdir()
    monkeypatch.setattr(fonts, "font_folders", lambda: [folder])
    forget_fonts()
    yield folder
    monkeypatch.undo()
    forget_fonts()


def install(folder: Path, letters: str) -> None:
    """A font in which each of these letters is a black square of its own width."""
    names = [".notdef", *(f"u{ord(letter):04X}" for letter in letters)]
    widths = {name: 400 + 100 * number for number, name in enumerate(names)}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):04X}" for letter in letters})
    glyphs = {}
    for name, width in widths.items():
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0))
        for corner in ((0, 800), (width - 50, 800), (width - 50, 0)):
            pen.lineTo(corner)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics({name: (width, 0) for name, width in widths.items()})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(folder / "Squares.ttf")
    forget_fonts()


def captioned(caption: str) -> bytes:
    sheet = Image.open(io.BytesIO(gallery([[Thumbnail(picture(1), caption)]], quality=95)))
    return np.asarray(sheet.convert("L"))[100:].tobytes()


def test_every_letter_of_a_caption_looks_otherwise() -> None:
    assert len({captioned(letter) for letter in LETTERS}) == len(LETTERS)


def test_letters_on_their_bodies_and_beside_marks_look_the_same() -> None:
    assert captioned("Château") == captioned("Cha\u0302teau")
    assert captioned("Château") != captioned("Chateau")


def test_what_no_font_has_is_transliterated_and_never_a_box() -> None:
    # By the table of Unicode's own Unihan readings: U+6545 gù, U+5BAB gōng.
    assert captioned("故宫, Peking") == captioned("GuGong, Peking")
    assert chart_text("故宫")[0] == "GuGong"
    assert captioned("\ue000") == captioned("\\ue000")


def test_a_font_of_the_machine_is_used_for_letters_that_it_alone_has(bare: Path) -> None:
    install(bare, "故宫")
    assert [(run.text, run.font.name) for run in in_runs("Palace 故宫!")] == [
        ("Palace ", "DejaVuSans.ttf"),
        ("故宫", "Squares.ttf"),
        ("!", "DejaVuSans.ttf"),
    ]
    assert captioned("故") != captioned("宫")
    assert chart_text("故宫 A") == ("故宫 A", ["DejaVu Sans", "Squares"])


@pytest.mark.parametrize("name", ["junk.ttf", "Broken.otf", "Empty.ttc"])
def test_files_that_are_no_fonts_are_passed_over(bare: Path, name: str) -> None:
    (bare / name).write_bytes(b"" if name.startswith("Empty") else b"no font")
    forget_fonts()
    assert captioned("故宫") == captioned("GuGong")


def test_joined_scripts_are_transliterated_where_they_cannot_be_laid_out() -> None:
    assert [run.text for run in in_runs("قصر", shaped=True)] == ["قصر"]
    assert all(run.text.isascii() for run in in_runs("Schloss قصر", shaped=False))


def test_control_characters_draw_nothing_of_their_own() -> None:
    assert captioned("a\u202eb\x00c") == captioned("ab c")


@pytest.mark.parametrize("text", ["", "é" * 500, "故" * 300, "plain"])
def test_a_line_is_cut_to_its_width(text: str) -> None:
    lettering = Lettering(9)
    fitted = lettering.fitted(text, 96)
    assert lettering.width(fitted) <= 96
    assert fitted == text or (fitted.endswith("…") and lettering.width(text) > 96)


def test_names_on_charts_are_text_whatever_they_hold() -> None:
    names = ["Fontaine de l'Éléphant", "$100 \\frac{1}{2}$", "Zażółć_{x}^2", "\ud800 lone", "故宫", "קודש"]
    counts = np.eye(len(names), dtype=np.int64)
    assert Image.open(io.BytesIO(confusion(counts, names, names))).format == "PNG"
    one = {shares([(name, 0.5, "1 of 2")], "right") for name in names}
    assert len(one) == len(names)
    assert chart_text("$x$")[0] == r"\$x\$"
