from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from glr_assets.plots import Thumbnail, bars, class_histogram, confusion, curves, fill_curves, gallery, shares
from glr_assets_tests.images.handmade import picture

NONE = np.zeros(0, np.int64)
THRESHOLDS = np.arange(101)
SIZES = np.random.default_rng(0).geometric(0.05, 81_313)
COUNTS = np.array([[3, 1, 0], [0, 0, 2]])
ROWS = [
    [
        Thumbnail(picture(10 * row + n, (200, 150)), f"{row:08x}{n:08x}\n{0.9:.3f}", (None, True, False)[n % 3])
        for n in range(7)
    ]
    for row in range(3)
]

PICTURES: dict[str, Callable[[], bytes]] = {
    "histogram": lambda: class_histogram({"full train set": SIZES, "competition": SIZES[:5000]}),
    "histogram of one class": lambda: class_histogram({"one": np.array([1])}),
    "histogram of the largest class": lambda: class_histogram({"one": np.array([10_247])}),
    "histogram of no classes": lambda: class_histogram({"train": NONE, "competition": NONE}),
    "histogram of no sets": lambda: class_histogram({}),
    "fill curves": lambda: fill_curves(THRESHOLDS, THRESHOLDS**2, THRESHOLDS, marked=20),
    "fill curves of nothing": lambda: fill_curves(THRESHOLDS, 0 * THRESHOLDS, 0 * THRESHOLDS, marked=0),
    "fill curves without thresholds": lambda: fill_curves(NONE, NONE, NONE, marked=20),
    "curves": lambda: curves({"loss": [3.0, 2.0, 1.5], "validation": [3.1, 2.5, 2.4]}, "epoch", "loss"),
    "curves of NaN": lambda: curves({"loss": [math.nan] * 3}, "epoch", "loss"),
    "curves with infinity": lambda: curves({"loss": [1.0, math.inf, 2.0]}, "epoch", "loss"),
    "curves of no epochs": lambda: curves({"loss": []}, "epoch", "loss"),
    "no curves": lambda: curves({}, "epoch", "loss"),
    "curves and shares": lambda: curves({"loss": [3.0, 2.0]}, "epoch", "loss", {"right": [math.nan, 0.5]}, "share"),
    "curves and shares of nothing": lambda: curves({"loss": [3.0]}, "epoch", "loss", {"right": [math.nan]}),
    "confusion": lambda: confusion(COUNTS, ["Bell Gate", "é" * 50], ["Bell Gate", "é" * 50, "no answer"]),
    "confusion of none": lambda: confusion(np.zeros((0, 2), np.int64), [], ["another", "no answer"]),
    "shares": lambda: shares([("Bell Gate", 1.0, "3 of 3"), ("é" * 50, 0.0, "0 of 9")], "told right"),
    "shares of none": lambda: shares([], "told right"),
    "bars": lambda: bars({"GAP": {"ours": 0.8, "control": 0.1}, "mAP@100": {"ours": 0.7}}, "score"),
    "bars of NaN": lambda: bars({"GAP": {"ours": math.nan}}, "score"),
    "empty group": lambda: bars({"GAP": {}}, "score"),
    "no bars": lambda: bars({}, "score"),
    "gallery": lambda: gallery(ROWS),
    "gallery of uneven rows": lambda: gallery([ROWS[0][:2], [], ROWS[1]]),
    "gallery of empty rows": lambda: gallery([[], []]),
    "gallery of no rows": lambda: gallery([]),
    "gallery of long captions": lambda: gallery([[Thumbnail(picture(1), "é" * 500 + "\n日本\nthird line\n")]]),
    "gallery of thin images": lambda: gallery(
        [[Thumbnail(picture(1, (1, 300)), ""), Thumbnail(picture(1, (2, 1)), "x")]]
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_whole_small_and_the_same_each_time(name: str) -> None:
    data = PICTURES[name]()
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == ("JPEG" if "gallery" in name else "PNG")
        image.load()
        assert min(image.size) > 0
    assert len(data) < 100_000
    assert PICTURES[name]() == data


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_what_is_drawn_depends_on_what_is_given() -> None:
    assert PICTURES["histogram"]() != PICTURES["histogram of one class"]()
    assert PICTURES["fill curves"]() != fill_curves(THRESHOLDS, THRESHOLDS**2, THRESHOLDS, marked=21)
    assert PICTURES["curves"]() != curves({"loss": [3.0, 2.0, 1.4], "validation": [3.1, 2.5, 2.4]}, "epoch", "loss")
    assert PICTURES["bars"]() != bars({"GAP": {"ours": 0.8, "control": 0.2}, "mAP@100": {"ours": 0.7}}, "score")


def test_points_that_stand_alone_are_seen() -> None:
    sparse = [0.5 if number % 8 == 0 else math.nan for number in range(40)]
    blank = pixels(curves({"loss": [1.0] * 40}, "epoch", "loss", {"right": [math.nan] * 40}, "share"))
    drawn = pixels(curves({"loss": [1.0] * 40}, "epoch", "loss", {"right": sparse}, "share"))
    orange = np.array([214, 96, 77])
    near = [int((np.abs(picture - orange).max(axis=2) < 12).sum()) for picture in (blank, drawn)]
    assert near[0] == 0
    assert near[1] > 200


def test_right_and_wrong_answers_are_of_different_colours() -> None:
    names = ["a", "b"]
    right = pixels(confusion(np.array([[5, 0], [0, 5]]), names, names))
    wrong = pixels(confusion(np.array([[0, 5], [5, 0]]), names, names))

    def share(picture: np.ndarray, more: int, less: int) -> float:
        return float((picture[..., more] - picture[..., less] > 60).mean())

    assert share(right, 1, 0) > 0.1
    assert share(right, 0, 1) == 0
    assert share(wrong, 0, 1) > 0.1
    assert share(wrong, 1, 0) == 0


def test_a_bar_that_is_not_there_has_no_number() -> None:
    lacking = pixels(bars({"a": {"x": 0.5, "y": 0.2}, "b": {"x": 0.5}}, "score"))
    zero = pixels(bars({"a": {"x": 0.5, "y": 0.2}, "b": {"x": 0.5, "y": 0.0}}, "score"))
    assert (np.abs(lacking - zero).max(axis=2) > 60).sum() > 20


def test_a_gallery_shows_each_image_in_its_place_with_its_frame() -> None:
    red, blue = (io.BytesIO(), io.BytesIO())
    Image.new("RGB", (300, 200), "red").save(red, "PNG")
    Image.new("RGB", (200, 300), "blue").save(blue, "PNG")
    sheet = pixels(
        gallery(
            [[Thumbnail(red.getvalue(), "r"), Thumbnail(blue.getvalue(), "b", True)], [Thumbnail(blue.getvalue(), "")]]
        )
    )
    side, caption, gap = 96, 24, 4
    assert sheet.shape == (2 * (side + caption + gap) + gap, 2 * (side + gap) + gap, 3)
    centre, second = gap + side // 2, gap + side + gap
    below = gap + side + caption + gap + side // 2
    assert np.abs(sheet[centre, centre] - [255, 0, 0]).max() < 20
    assert np.abs(sheet[centre, second + side // 2] - [0, 0, 255]).max() < 20
    assert np.abs(sheet[below, centre] - [0, 0, 255]).max() < 20
    assert (sheet[below, second + side // 2] > 235).all()
    # The frame of a right answer is green, that of a wrong one red.
    wrong = pixels(gallery([[Thumbnail(red.getvalue(), "r"), Thumbnail(blue.getvalue(), "b", False)]]))
    red_of, green_of, _ = wrong[centre, second + 1] - sheet[centre, second + 1]
    assert red_of > 60
    assert green_of < -30
    with pytest.raises(OSError, match="cannot identify"):
        gallery([[Thumbnail(b"no image", "x")]])
