"""What the builders of landmarks have in common: a style a family, choices, and forms met in several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np

from glr_assets.source.render.facades import Facade, Openings, Shape, Style, facade
from glr_assets.source.render.solids import Colour

Rng = np.random.Generator

STYLES: Final[dict[str, Style]] = {
    "tower": Style((186, 150, 118), (226, 208, 180), (48, 56, 74), (92, 104, 98), "brick"),
    "dome": Style((216, 206, 186), (240, 232, 214), (58, 62, 80), (104, 148, 142), "plaster"),
    "arch": Style((204, 188, 158), (228, 216, 190), (60, 54, 50), (150, 138, 116), "stone"),
    "bridge": Style((160, 142, 124), (196, 180, 158), (54, 54, 58), (126, 66, 54), "stone"),
    "temple": Style((214, 200, 172), (236, 226, 204), (52, 48, 46), (168, 120, 92), "stone"),
    "castle": Style((150, 146, 138), (186, 182, 172), (34, 34, 40), (104, 70, 60), "stone"),
    "pagoda": Style((168, 62, 48), (226, 196, 140), (56, 36, 30), (66, 74, 72), "wood"),
    "skyscraper": Style((132, 150, 168), (196, 204, 210), (44, 66, 92), (92, 96, 104), "glass"),
    "pyramid": Style((200, 174, 126), (178, 150, 104), (44, 36, 28), (206, 182, 138), "stone"),
    "falls": Style((124, 112, 100), (232, 240, 244), (92, 116, 72), (138, 126, 112), "stone"),
}
SHAPES: Final[tuple[Shape, ...]] = ("rect", "arched", "round", "slit", "cross")

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """What a family's builder draws on: its random numbers, its style, and which of its landmarks is built.

    A `mixed` one takes each feature from any of the family's landmarks, and so is none of them.
    """

    rng: Rng
    style: Style
    variant: int
    mixed: bool = False

    def wall(self, width: float, height: float, **what: Any) -> Facade:
        """A facade of this style; `what` is as `facades.facade` takes it."""
        return facade(self.rng, width, height, self.style, **what)

    def grid(
        self, rows: int, columns: int, shape: Shape | None = None, across: float = 0.5, up: float = 0.62
    ) -> Openings:
        """Windows, a sixth of them blind where chance had it: the same ones on every picture."""
        cells = [(row, column) for row in range(rows) for column in range(columns)]
        blind = frozenset(cell for cell in cells if self.rng.random() < 0.16)
        chosen = self.pick(SHAPES) if shape is None else shape
        return Openings(rows, columns, chosen, across, up, blind)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options: successive landmarks of a family get different ones."""
        number = int(self.rng.integers(0, len(options))) if self.mixed else self.variant
        return options[number % len(options)]

    def between(self, low: float, high: float) -> float:
        """A number between the two."""
        return float(self.rng.uniform(low, high))

    def emblem(self) -> int:
        """The seed of an ornament that no other landmark has."""
        return int(self.rng.integers(0, 2**31))


def darker(colour: Colour, by: float = 0.7) -> Colour:
    """The colour times `by`."""
    return (colour[0] * by, colour[1] * by, colour[2] * by)


def cap(radius: float, z: float, height: float, bulge: float = 1.0) -> list[tuple[float, float]]:
    """The profile of a dome, onion-shaped where `bulge` is above 1."""
    turn = np.linspace(0, np.pi / 2, 7)
    swell = 1 + (bulge - 1) * np.sin(2 * turn)
    return [(float(radius * np.cos(t) * s), float(z + height * np.sin(t))) for t, s in zip(turn, swell, strict=True)]


def arcade(
    left: float, right: float, height: float, openings: Sequence[tuple[float, float, float]]
) -> list[tuple[float, float]]:
    """The outline of a wall on the ground with arched openings: (middle, half width, height to the crown)."""
    outline = [(left, 0.0)]
    for middle, half, crown in openings:
        turn = np.linspace(np.pi, 0, 9)
        spring = crown - half
        outline.append((middle - half, 0.0))
        outline += [(float(middle + half * np.cos(t)), float(spring + half * np.sin(t))) for t in turn]
        outline.append((middle + half, 0.0))
    return [*outline, (right, 0.0), (right, height), (left, height)]
