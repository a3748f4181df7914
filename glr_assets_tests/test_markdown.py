from __future__ import annotations

from glr_assets.markdown import table


def test_cells_stay_in_their_places_whatever_they_hold() -> None:
    told = table(("a", "b"), [("x|y", 1), ("two\nlines", None)])
    assert told == "| a | b |\n| --- | --- |\n| x\\|y | 1 |\n| two lines | None |"
