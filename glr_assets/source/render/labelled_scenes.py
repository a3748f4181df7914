"""Pictures of everyday things with the box of each: people, trees, animals, food, water, writing.

A box is what drawing the thing has changed, so it is exact, whatever the thing looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import cv2  # noqa: TID253 - the package `render` is imported only where pictures are rendered
import numpy as np

from glr_assets.source.render import surroundings
from glr_assets.source.render.camera import Light
from glr_assets.source.render.facades import Bytes
from glr_assets.source.render.non_landmarks import WORDS, open_place, table_top
from glr_assets.source.render.photograph import generator, sensed

Rng = np.random.Generator
Size = tuple[int, int]
#: Width and height in pixels; none is square.
SIZES: Final[tuple[Size, ...]] = ((320, 240), (240, 320), (300, 200), (256, 192), (208, 304))


@dataclass(frozen=True)
class Thing:
    """Something in a picture: its category, and the pixels `left <= x < right`, `top <= y < bottom` that it covers."""

    category: str
    left: int
    top: int
    right: int
    bottom: int

    def overlaps(self, other: Thing) -> bool:
        """Whether the two boxes have pixels in common."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, RGB uint8 [H, W, 3], and what is in it, the farther first."""

    picture: Bytes
    things: tuple[Thing, ...]


def labelled_scene(seed: int, number: int) -> Scene:
    """Scene `number`; the kinds take turns. The same arguments give the same pixels."""
    rng = generator(seed, "labelled_scene", number)
    size = SIZES[int(rng.integers(0, len(SIZES)))]
    return SCENES[number % len(SCENES)](rng, size)


class _Canvas:
    """A picture to which things are added one by one."""

    def __init__(self, picture: Bytes) -> None:
        self.picture = picture
        self.things: list[Thing] = []

    def add(self, category: str, draw: Callable[..., None], rng: Rng, *how: object) -> None:
        """Draw a thing by `draw(rng, picture, *how)`; what lies wholly outside the picture is not counted."""
        before = self.picture.copy()
        draw(rng, self.picture, *how)
        changed = (before != self.picture).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        if len(rows):
            box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
            self.things.append(Thing(category, *box))

    def scene(self, rng: Rng) -> Scene:
        """The picture as a camera takes it."""
        return Scene(sensed(rng, self.picture), tuple(self.things))


def _at(rng: Rng, size: Size, share: float) -> tuple[float, float]:
    return size[0] * float(rng.uniform(0.02, 0.98)), size[1] * (0.66 + 0.36 * share)


def _people(rng: Rng, size: Size) -> Scene:
    picture, _, light = open_place(rng, size)
    canvas = _Canvas(picture)
    for share in np.sort(rng.uniform(0, 1, int(rng.integers(1, 5)))).tolist():
        at = _at(rng, size, share)
        if rng.random() < 0.3:
            tall = size[1] * (0.3 + 0.5 * share)
            canvas.add("Tree", surroundings.tree, rng, at, tall, light)
        tall = size[1] * (0.25 + 0.5 * share)
        canvas.add("Person", surroundings.person, rng, at, tall, light)
    return canvas.scene(rng)


def _park(rng: Rng, size: Size) -> Scene:
    picture, _, light = open_place(rng, size)
    canvas = _Canvas(picture)
    for share in np.sort(rng.uniform(0, 1, int(rng.integers(2, 5)))).tolist():
        at, tall = _at(rng, size, share), size[1] * (0.35 + 0.6 * share)
        canvas.add("Tree", surroundings.tree, rng, at, tall, light)
    for share in np.sort(rng.uniform(0.2, 1, int(rng.integers(1, 3)))).tolist():
        at, long = _at(rng, size, share), size[0] * (0.15 + 0.2 * share)
        canvas.add("Animal", _animal, rng, at, long, light)
    return canvas.scene(rng)


def _animal(rng: Rng, picture: Bytes, at: tuple[float, float], long: float, light: Light) -> None:
    """Something on four legs, its feet on the pixel row of `at`."""
    fur = surroundings.scaled(((150, 104, 66), (206, 196, 180), (58, 52, 48))[int(rng.integers(0, 3))], light)
    x, y = at
    facing = 1 if rng.random() < 0.5 else -1
    body = (round(x), round(y - 0.42 * long))
    for leg in (-0.34, -0.22, 0.22, 0.34):
        foot = (round(x + leg * long), round(y))
        cv2.line(picture, (foot[0], body[1]), foot, fur, max(2, round(0.07 * long)))
    cv2.ellipse(picture, body, (round(0.46 * long), round(0.17 * long)), 0, 0, 360, fur, -1, cv2.LINE_AA)
    head = (round(x + facing * 0.5 * long), round(y - 0.62 * long))
    cv2.circle(picture, head, max(2, round(0.14 * long)), fur, -1, cv2.LINE_AA)
    tail = (round(x - facing * 0.62 * long), round(y - 0.62 * long))
    cv2.line(picture, (round(x - facing * 0.42 * long), body[1]), tail, fur, max(2, round(0.05 * long)))


def _lake(rng: Rng, size: Size) -> Scene:
    picture, _, light = open_place(rng, size)
    canvas = _Canvas(picture)
    canvas.add("Water", _water, rng, light)
    if rng.random() < 0.6:
        at, tall = _at(rng, size, 0.9), size[1] * float(rng.uniform(0.5, 0.9))
        canvas.add("Tree", surroundings.tree, rng, at, tall, light)
    if rng.random() < 0.5:
        where, high = _at(rng, size, 1.0), size[1] * float(rng.uniform(0.3, 0.6))
        canvas.add("Person", surroundings.person, rng, where, high, light)
    return canvas.scene(rng)


def _water(rng: Rng, picture: Bytes, light: Light) -> None:
    height, width = picture.shape[:2]
    top = round(height * float(rng.uniform(0.55, 0.75)))
    left = round(width * float(rng.uniform(-0.2, 0.3)))
    right = round(width * float(rng.uniform(0.7, 1.2)))
    blue = surroundings.scaled((70, 118, 158), light)
    cv2.rectangle(picture, (left, top), (right, height), blue, -1)
    for _ in range(40):
        x, y = rng.uniform(left, right), rng.uniform(top + 2, height)
        long = float(rng.uniform(4, 22))
        cv2.line(
            picture,
            (max(left, round(x)), round(y)),
            (min(right, round(x + long)), round(y)),
            [c * 1.25 for c in blue],
            1,
        )


def _meal(rng: Rng, size: Size) -> Scene:
    canvas = _Canvas(table_top(rng, size))
    count = int(rng.integers(1, 4))
    kinds = list(DISHES)
    first = int(rng.integers(0, len(kinds)))
    for number in range(count):
        kind = kinds[(first + number) % len(kinds)]
        at = (size[0] * (number + 0.5 + float(rng.uniform(-0.2, 0.2))) / count, size[1] * float(rng.uniform(0.3, 0.75)))
        long = min(size[0] / count, size[1]) * float(rng.uniform(0.6, 0.95))
        canvas.add(kind, DISHES[kind], rng, at, long)
    return canvas.scene(rng)


def _blob(picture: Bytes, at: tuple[float, float], sides: tuple[float, float], colour: object) -> None:
    axes = max(1, round(sides[0] / 2)), max(1, round(sides[1] / 2))
    cv2.ellipse(picture, (round(at[0]), round(at[1])), axes, 0, 0, 360, colour, -1, cv2.LINE_AA)  # type: ignore[call-overload]


def _hamburger(rng: Rng, picture: Bytes, at: tuple[float, float], long: float) -> None:
    layers = ((0.2, (196, 130, 62)), (0.06, (92, 168, 70)), (-0.02, (96, 52, 34)), (-0.1, (232, 188, 70)))
    for down, colour in layers:
        shade = [c * float(rng.uniform(0.9, 1.05)) for c in colour]
        _blob(picture, (at[0], at[1] + down * long), (0.9 * long, 0.26 * long), shade)
    _blob(picture, (at[0], at[1] - 0.26 * long), (0.86 * long, 0.44 * long), (204, 138, 70))
    for x, y in rng.uniform(-0.3, 0.3, (12, 2)):
        _blob(picture, (at[0] + x * long, at[1] + (0.4 * y - 0.3) * long), (4, 3), (246, 226, 178))


def _hot_dog(rng: Rng, picture: Bytes, at: tuple[float, float], long: float) -> None:
    _blob(picture, at, (long, 0.4 * long), (216, 160, 92))
    _blob(picture, at, (1.06 * long, 0.2 * long), [c * float(rng.uniform(0.9, 1.1)) for c in (166, 62, 42)])
    xs = np.linspace(-0.42, 0.42, 24)
    points = np.stack([at[0] + xs * long, at[1] + 0.05 * long * np.sin(26 * xs)], axis=1).round().astype(np.int32)
    cv2.polylines(picture, [points], False, (238, 204, 40), max(1, round(0.03 * long)), cv2.LINE_AA)


def _sandwich(rng: Rng, picture: Bytes, at: tuple[float, float], long: float) -> None:
    fillings = ((238, 222, 186), (214, 66, 52), (120, 180, 80), (240, 206, 96), (238, 222, 186))
    for number, colour in enumerate(fillings):
        down = (number - 2) * 0.11 * long
        corners = [(-0.5, 0.1), (0.5, -0.06), (0.5, 0.1), (-0.5, 0.24)]
        shape = np.array([(at[0] + x * long, at[1] + y * long + down) for x, y in corners])
        shade = [c * float(rng.uniform(0.92, 1.04)) for c in colour]
        cv2.fillConvexPoly(picture, shape.round().astype(np.int32), shade, cv2.LINE_AA)


def _plate(rng: Rng, picture: Bytes, at: tuple[float, float], long: float) -> None:
    _blob(picture, at, (long, 0.7 * long), (236, 234, 228))
    _blob(picture, at, (0.74 * long, 0.5 * long), (218, 216, 210))
    palette = rng.uniform((60, 30, 10), (240, 190, 110), (4, 3))
    for _ in range(35):
        reach, turn = 0.3 * long * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
        where = (at[0] + reach * np.cos(turn), at[1] + 0.65 * reach * np.sin(turn))
        colour = (palette[int(rng.integers(0, 4))] * rng.uniform(0.8, 1.1)).tolist()
        _blob(picture, where, (long * rng.uniform(0.05, 0.16), long * rng.uniform(0.04, 0.1)), colour)


DISHES: Final[dict[str, Callable[[Rng, Bytes, tuple[float, float], float], None]]] = {
    "Food": _plate,
    "Hamburger": _hamburger,
    "Hot dog": _hot_dog,
    "Sandwich": _sandwich,
}


def _writing(rng: Rng, size: Size) -> Scene:
    width, height = size
    paper = np.clip(rng.uniform(150, 245) * rng.uniform(0.85, 1.05, 3), 0, 255)
    canvas = _Canvas(np.full((height, width, 3), paper, np.uint8))
    ink = rng.uniform(10, 90, 3).tolist()
    y = height * 0.2
    while y < height * 0.95:
        scale = float(rng.choice(np.array([0.5, 0.8, 1.3])))
        text = " ".join(WORDS[int(rng.integers(0, len(WORDS)))] for _ in range(int(rng.integers(1, 4))))
        at = (round(width * 0.06), round(y))
        canvas.add("Text", _line_of_text, rng, text, at, scale, ink)
        y += 50 * scale + 16
    return canvas.scene(rng)


def _line_of_text(_: Rng, picture: Bytes, text: str, at: tuple[int, int], scale: float, ink: Sequence[float]) -> None:
    thick = max(1, round(scale * 1.6))
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thick, cv2.LINE_AA)


SCENES: Final[tuple[Callable[[Rng, Size], Scene], ...]] = (_people, _meal, _park, _writing, _lake, _meal)
"""Meals twice: they are shared by four categories."""
