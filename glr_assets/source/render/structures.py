"""Built and natural landmarks as models: ten families, each with a style its landmarks share.

A landmark's identity is its structure - how many storeys, columns, arches, which windows are blind, what
ornament - so that neither colours nor the layout of a picture give it away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import cv2  # noqa: TID253 - the package `render` is imported only where pictures are rendered
import numpy as np

from glr_assets.source.render.facades import Facade, Openings, Shape, Style, facade
from glr_assets.source.render.solids import (
    Colour,
    Face,
    Model,
    Solid,
    box,
    extruded,
    gable,
    quad,
    revolved,
    strut,
)

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
    """What a family's builder draws on: its random numbers, its style, and which of its landmarks is built."""

    rng: Rng
    style: Style
    variant: int

    def wall(self, width: float, height: float, **what: Any) -> Facade:
        """A facade of this style; `what` is as `facades.facade` takes it."""
        return facade(self.rng, width, height, self.style, **what)

    def grid(
        self, rows: int, columns: int, shape: Shape | None = None, across: float = 0.5, up: float = 0.62
    ) -> Openings:
        """Windows, a sixth of them blind where chance had it: the same ones on every picture."""
        cells = [(row, column) for row in range(rows) for column in range(columns)]
        blind = frozenset(cell for cell in cells if self.rng.random() < 0.16)
        return Openings(rows, columns, shape or self.pick(SHAPES), across, up, blind)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options: successive landmarks of a family get different ones."""
        return options[self.variant % len(options)]

    def between(self, low: float, high: float) -> float:
        """A number between the two."""
        return float(self.rng.uniform(low, high))

    def emblem(self) -> int:
        """The seed of an ornament that no other landmark has."""
        return int(self.rng.integers(0, 2**31))


def darker(colour: Colour, by: float = 0.7) -> Colour:
    """The colour times `by`."""
    return (colour[0] * by, colour[1] * by, colour[2] * by)


def _tower(parts: Parts) -> list[Solid]:
    """Storeys that step back, a clock or rose under the top, and a crown."""
    style = parts.style
    solids, z = [], 0.0
    width = parts.pick((2.2, 3.0, 2.5))
    tiers = parts.pick((((4.0, 3, 2), (3.0, 2, 3), (2.0, 1, 3)), ((8.0, 7, 2),), ((3.0, 2, 4), (5.5, 5, 3))))
    for number, (height, rows, columns) in enumerate(tiers):
        last = number == len(tiers) - 1
        walls = [
            parts.wall(
                width,
                height,
                openings=parts.grid(rows, columns),
                emblem=parts.emblem() if last else None,
                emblem_at=(0.5, 0.22 if height > 3 else 0.5),
                emblem_size=0.42,
                door=0.3 if number == 0 and side == 0 else 0.0,
                cornices=(0.02, 0.98),
                pilasters=parts.pick((0, 2, 4)),
            )
            for side in range(2)
        ]
        solids.append(box(0, 0, z, (width, width, height), style.wall, front=walls[0], side=walls[1]))
        z += height
        solids.append(box(0, 0, z, (width * 1.14, width * 1.14, 0.3), style.trim))
        z += 0.3
        width *= 0.78
    crown = parts.pick(("spire", "belfry", "dome"))
    if crown == "spire":
        solids.append(box(0, 0, z, (width, width, 3.2), style.roof, top=0.02))
    elif crown == "belfry":
        for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
            at = 0.42 * width
            solids.append(box(x * at, y * at, z, (0.3, 0.3, 1.5), style.trim))
        solids.append(box(0, 0, z + 1.5, (width * 1.2, width * 1.2, 1.4), style.roof, top=0.05))
    else:
        solids.append(revolved(0, 0, _cap(width * 0.6, z, 1.3), 12, [style.roof, darker(style.roof, 0.85)]))
        solids.append(revolved(0, 0, [(0.07, z + 1.2), (0.03, z + 3)], 6, [style.trim]))
    return solids


def _cap(radius: float, z: float, height: float, bulge: float = 1.0) -> list[tuple[float, float]]:
    """The profile of a dome, onion-shaped where `bulge` is above 1."""
    turn = np.linspace(0, np.pi / 2, 7)
    swell = 1 + (bulge - 1) * np.sin(2 * turn)
    return [(float(radius * np.cos(t) * s), float(z + height * np.sin(t))) for t, s in zip(turn, swell, strict=True)]


def _dome(parts: Parts) -> list[Solid]:
    """A hall with a portal, a drum with windows, a dome, and slim towers beside."""
    style = parts.style
    width, height = parts.pick((7.0, 5.6, 8.4)), parts.pick((3.2, 4.2, 2.6))
    walls = [
        parts.wall(
            width,
            height,
            openings=parts.grid(parts.pick((2, 3, 1)), parts.pick((7, 4, 9))),
            door=parts.pick((0.2, 0.34, 0.12)) if side == 0 else 0.0,
            cornices=(0.03, 0.97),
            pilasters=parts.pick((4, 0, 6)),
        )
        for side in range(2)
    ]
    solids = [box(0, 0, 0, (width, width * 0.8, height), style.wall, front=walls[0], side=walls[1])]
    radius, drum = width * parts.pick((0.28, 0.36, 0.22)), parts.pick((1.2, 0.5, 1.8))
    solids.append(revolved(0, 0, [(radius, height), (radius, height + drum)], 16, [style.trim]))
    bands: list[Colour] = [style.roof, darker(style.roof, parts.pick((1.0, 0.75, 0.6)))]
    cap = _cap(radius, height + drum, radius * parts.pick((1.0, 1.35, 0.8)), parts.pick((1.0, 1.25, 1.0)))
    solids.append(revolved(0, 0, cap, 16, bands))
    tip = cap[-1][1]
    solids.append(revolved(0, 0, [(0.12, tip - 0.1), (0.02, tip + 1.2)], 6, [style.trim]))
    places = parts.pick((((-1, -1), (1, -1), (1, 1), (-1, 1)), ((-1, -1), (1, -1)), ((-0.55, 0.0), (0.55, 0.0))))
    tall = parts.pick((8.5, 6.5, 1.6))
    for x, y in places:
        at = (x * width * parts.pick((0.62, 0.52, 0.7)), y * width * parts.pick((0.52, 0.42, 0.0)))
        if tall > 2:
            rings = [(0.42, 0.0), (0.36, tall * 0.6), (0.55, tall * 0.62), (0.3, tall * 0.66), (0.26, tall)]
            solids.append(revolved(*at, rings, 8, [style.wall, style.trim]))
            solids.append(revolved(*at, _cap(0.36, tall, 0.8, 1.3), 8, [style.roof]))
        else:
            solids.append(revolved(*at, _cap(1.1, height, 1.4), 10, bands, nearer=0.5))
    portal = parts.wall(2.2, height, door=0.55, emblem=parts.emblem(), emblem_at=(0.5, 0.2), emblem_size=0.2)
    depth = -width * 0.4 - 0.4
    solids.append(box(0, depth, 0, (2.2, 0.8, height * 1.18), style.trim, front=portal, nearer=1.0))
    return solids


def _arch(parts: Parts) -> list[Solid]:
    """A gate with one opening or three under an attic."""
    style = parts.style
    openings = parts.pick((((0.0, 1.3, 4.2),), ((-2.6, 0.7, 2.6), (0.0, 1.1, 4.0), (2.6, 0.7, 2.6))))
    half, height = parts.pick((3.2, 4.2)), parts.pick((7.2, 6.0))
    outline = _arcade(-half, half, height, openings)
    wall = parts.wall(
        2 * half,
        height,
        emblem=parts.emblem(),
        emblem_at=(parts.pick((0.18, 0.5)), parts.pick((0.5, 0.14))),
        emblem_size=0.1,
        cornices=(0.04, 0.24, 0.5),
        pilasters=parts.pick((4, 8)),
    )
    depth = parts.pick((2.6, 1.6))
    solids = [extruded(outline, -depth / 2, depth / 2, style.wall, facade=wall, edge=darker(style.wall, 0.85))]
    attic = parts.wall(
        2 * half,
        1.6,
        openings=parts.grid(1, parts.pick((5, 9)), parts.pick(("round", "rect"))),
        emblem=parts.emblem(),
        emblem_at=(0.5, 0.5),
        emblem_size=0.36,
    )
    shelf = (2 * half + 0.6, depth + 0.6, 0.35)
    solids.append(box(0, 0, height, shelf, style.trim))
    solids.append(box(0, 0, height + 0.35, (2 * half, depth, 1.6), style.wall, front=attic, side=attic))
    for x in parts.pick(((0.0,), (-2.4, 0.0, 2.4))):
        foot = height + 1.95
        solids.append(box(x, 0, foot, (1.2, 0.9, 0.5), style.roof))
        solids.append(revolved(x, 0, [(0.3, foot + 0.5), (0.42, foot + 1.2), (0.1, foot + 1.9)], 7, [style.roof]))
    return solids


def _arcade(
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


def _bridge(parts: Parts) -> list[Solid]:
    """Many arches under a deck with towers, or a deck hung from two gates."""
    style = parts.style
    solids: list[Solid] = []
    if parts.variant % 2 == 0:
        count, span = 5, 2.6
        half = count * span / 2
        openings = [(-half + (i + 0.5) * span, 0.95, 2.6 - 0.2 * abs(i - 2)) for i in range(count)]
        wall = parts.wall(2 * half, 3.4, cornices=(0.05,), emblem=parts.emblem(), emblem_at=(0.5, 0.14))
        solids.append(
            extruded(_arcade(-half, half, 3.4, openings), -0.9, 0.9, style.wall, facade=wall, edge=style.trim)
        )
        for x, tall in ((-2.6, 3.4), (2.6, 5.0)):
            tower = parts.wall(1.5, tall, openings=parts.grid(3, 2, "arched"), cornices=(0.03,))
            solids.append(box(x, 0, 3.4, (1.5, 1.5, tall), style.wall, front=tower, side=tower, nearer=0.6))
            solids.append(box(x, 0, 3.4 + tall, (1.8, 1.8, 1.6), style.roof, top=0.05, nearer=0.6))
        return solids
    red: Colour = (172, 70, 52)
    solids.append(box(0, 0, 1.8, (18, 1.4, 0.45), darker(red, 0.85), roof=(96, 96, 98)))
    for x in (-4.6, 4.6):
        for y in (-0.75, 0.75):
            solids.append(box(x, y, 0, (0.6, 0.4, 8.0), red, nearer=0.6 if y < 0 else -0.4))
        crosses = [
            face
            for level in (3.0, 4.7, 6.4)
            for face in (
                strut((x - 0.3, -0.95, level), (x + 0.3, -0.95, level + 1.3), 0.16, style.trim),
                strut((x + 0.3, -0.95, level), (x - 0.3, -0.95, level + 1.3), 0.16, style.trim),
            )
        ]
        solids.append(Solid(crosses, nearer=1.2))
        shield = parts.wall(1.6, 1.6, emblem=parts.emblem(), emblem_at=(0.5, 0.5), emblem_size=0.46)
        solids.append(box(x, -0.95, 6.6, (1.6, 0.2, 1.6), red, front=shield, nearer=1.6))
    bars: list[Face] = []
    for y in (-0.7, 0.7):
        xs = np.linspace(-9, 9, 37)
        sag = np.where(np.abs(xs) < 4.6, 2.6 + 5.2 * (xs / 4.6) ** 2, 7.8 - 5.4 * (np.abs(xs) - 4.6) / 4.4)
        for a, b, p, q in zip(xs, xs[1:], sag, sag[1:], strict=False):
            bars.append(strut((a, y, p), (b, y, q), 0.16, red))
            bars.append(strut((a, y, 2.2), (a, y, p), 0.06, red))
    return [*solids, Solid(bars, nearer=0.2)]


def _temple(parts: Parts) -> list[Solid]:
    """Columns around a hall on steps, under a pediment or an attic."""
    style = parts.style
    front, deep = parts.pick((6, 8, 4)), parts.pick((5, 4, 6))
    pitch, tall = parts.pick((1.15, 0.9, 1.7)), parts.pick((4.0, 3.2, 5.2))
    width, depth = front * pitch, deep * pitch
    solids = []
    z = 0.0
    for step in range(parts.pick((3, 6, 2))):
        grow = 1.6 - 0.25 * step
        solids.append(box(0, 0, z, (width + grow, depth + grow, 0.28), style.trim, nearer=-3.0))
        z += 0.28
    hall = parts.wall(width, tall, door=0.16, openings=parts.grid(1, 4, "rect", 0.3, 0.3))
    solids.append(box(0, 0, z, (width - 1.7 * pitch, depth - 1.7 * pitch, tall), style.wall, front=hall, side=hall))
    radius = pitch * parts.pick((0.26, 0.3, 0.2))
    bands = [style.wall] if parts.variant != 2 else [style.wall, style.trim, style.wall, style.trim]
    heights = np.linspace(z + 0.15, z + tall - 0.2, len(bands) + 1)
    profile = [(radius * (1 - 0.12 * i / len(bands)), float(h)) for i, h in enumerate(heights)]
    for x in range(front):
        for y in range(deep):
            if x not in (0, front - 1) and y not in (0, deep - 1):
                continue
            at = ((x + 0.5) * pitch - width / 2, (y + 0.5) * pitch - depth / 2)
            faces = revolved(*at, profile, 8, bands).faces
            faces += box(*at, z + tall - 0.2, (radius * 2.5, radius * 2.5, 0.2), style.trim).faces
            solids.append(Solid(faces))
    z += tall
    frieze = parts.wall(
        width,
        0.9,
        openings=parts.grid(1, 2 * front + 1, parts.pick(("round", "rect", "cross")), 0.4, 0.6),
    )
    solids.append(box(0, 0, z, (width, depth, 0.9), style.wall, front=frieze, side=frieze, nearer=2.0))
    z += 0.9
    if parts.pick((True, False, True)):
        rise = parts.pick((1.9, 0.0, 2.8))
        solids.append(Solid(gable(0, 0, z, (width + 0.5, depth + 0.5, rise), style.roof, style.trim).faces, 2.5))
        crest = parts.wall(1.1, 1.1, emblem=parts.emblem(), emblem_at=(0.5, 0.5), emblem_size=0.48)
        face = -depth / 2 - 0.3
        corners = [(-0.55, face, z + 0.2), (0.55, face, z + 0.2), (0.55, face, z + 1.3), (-0.55, face, z + 1.3)]
        solids.append(Solid([quad(corners, style.trim, crest)], 6.0))
    else:
        attic = parts.wall(width * 0.8, 1.5, emblem=parts.emblem(), emblem_at=(0.5, 0.5), emblem_size=0.4)
        solids.append(box(0, 0, z, (width * 0.8, depth * 0.8, 1.5), style.wall, front=attic, side=attic, nearer=2.5))
    return solids


def _castle(parts: Parts) -> list[Solid]:
    """A curtain wall between towers of different heights, with a gatehouse or a keep."""
    style = parts.style
    solids: list[Solid] = []
    layout = parts.pick(
        (
            ((-4.0, -1.5, 1.1, 5.0), (4.0, -1.5, 1.1, 5.0), (-2.6, 2.4, 0.9, 6.6), (3.0, 2.4, 0.9, 7.6)),
            ((-4.4, -1.2, 1.4, 3.6), (-1.6, -1.4, 0.9, 5.8), (4.2, -1.2, 0.8, 8.4)),
            ((-3.2, -1.4, 0.9, 6.2), (0.0, -1.8, 0.8, 4.2), (3.2, -1.4, 0.9, 6.2), (0.0, 2.6, 1.6, 9.0)),
        )
    )
    height, half = parts.pick((3.2, 2.6, 2.9)), 4.2
    wall = parts.wall(
        2 * half,
        height,
        openings=parts.grid(parts.pick((1, 2, 2)), parts.pick((6, 5, 9)), parts.pick(("slit", "arched", "cross"))),
        door=parts.pick((0.16, 0.1, 0.0)),
        emblem=parts.emblem(),
        emblem_at=(parts.pick((0.5, 0.7, 0.25)), 0.22),
        emblem_size=0.16,
    )
    solids.append(box(0, 0, 0, (2 * half, 2.4, height), style.wall, front=wall, side=wall))
    merlons = parts.pick((12, 9, 15))
    for number in range(merlons):
        x = -half + (number + 0.5) * 2 * half / merlons
        solids.append(box(x, -1.1, height, (half / merlons, 0.25, 0.45), style.trim, nearer=0.3))
    keep_height = parts.pick((6.0, 4.6, 5.2))
    keep = parts.wall(3.4, keep_height, openings=parts.grid(3, parts.pick((4, 3, 5)), "arched"), cornices=(0.04, 0.5))
    solids.append(box(parts.pick((0.4, 1.4, -0.2)), 1.6, 0, (3.4, 3.0, keep_height), style.wall, front=keep, side=keep))
    cones = parts.pick((False, True, True))
    sides = parts.pick((4, 12, 8))
    for x, y, radius, tall in layout:
        rings = [(radius, 0.0), (radius * 0.94, tall), (radius * 1.2, tall + 0.3), (radius * 1.2, tall + 0.7)]
        faces = revolved(x, y, rings, sides, [style.wall, style.trim], turn=np.pi / 4).faces
        faces += _slits(x, y, radius * 1.02, tall, parts)
        solids.append(Solid(faces, nearer=1.0))
        if cones:
            cone = [(radius * 1.3, tall + 0.7), (0.0, tall + 0.7 + radius * 2.2)]
            solids.append(revolved(x, y, cone, sides, [style.roof], turn=np.pi / 4, nearer=1.0))
        else:
            for turn in np.arange(8) * np.pi / 4:
                at = (x + radius * 1.05 * np.cos(turn), y + radius * 1.05 * np.sin(turn))
                solids.append(box(*at, tall + 0.7, (0.4, 0.4, 0.5), style.trim, nearer=1.0))
    return solids


def _slits(x: float, y: float, radius: float, tall: float, parts: Parts) -> list[Face]:
    """Windows around a round tower, at heights of its own."""
    faces = []
    for level in np.sort(parts.rng.uniform(0.25, 0.9, 3)):
        for turn in np.arange(4) * np.pi / 2 - np.pi / 2 + parts.between(-0.3, 0.3):
            a, b = turn - 0.16, turn + 0.16
            foot, head = level * tall - 0.35, level * tall + 0.35
            corners = [
                (x + radius * np.cos(t), y + radius * np.sin(t), z)
                for t, z in ((a, foot), (b, foot), (b, head), (a, head))
            ]
            faces.append(quad(corners, parts.style.glass, layer=1))
    return faces


def _pagoda(parts: Parts) -> list[Solid]:
    """Storeys under wide eaves that grow smaller, and a finial."""
    style = parts.style
    storeys = parts.pick((5, 3))
    sides = parts.pick((4, 8))
    width, z = parts.pick((2.6, 3.4)), 0.0
    solids = [box(0, 0, 0, (width * 2.3, width * 2.3, 0.6), (168, 162, 150), nearer=-2.0)]
    z = 0.6
    for storey in range(storeys):
        tall = parts.pick((1.25, 2.0)) * (0.92**storey)
        if sides == 4:
            wall = parts.wall(
                width * 1.4,
                tall,
                openings=parts.grid(1, 5 - storey // 2, parts.pick(("arched", "round"))),
                emblem=parts.emblem() if storey in (1, 2) else None,
                emblem_at=(0.5, 0.5),
                emblem_size=0.42,
                cornices=(0.06,),
            )
            solids.append(box(0, 0, z, (width * 1.4, width * 1.4, tall), style.wall, front=wall, side=wall))
        else:
            rings = [(width, z), (width, z + tall)]
            faces = revolved(0, 0, rings, sides, [style.wall], turn=np.pi / 8).faces
            for side in range(sides):
                plate = parts.wall(1.2, tall, openings=parts.grid(1, 2, "cross"), emblem=parts.emblem())
                faces.append(_plate(faces[side].points, plate, style.trim))
            solids.append(Solid(faces))
        z += tall
        rise, out = parts.pick((0.55, 0.8)), width * 1.75
        eave = [(out, z + 0.12), (width * 1.25, z + rise * 0.4), (width * 0.75, z + rise)]
        spread = np.sqrt(2) if sides == 4 else 1.0
        solids.append(
            revolved(
                0,
                0,
                [(r * spread * 0.8, h) for r, h in eave],
                sides,
                [style.roof, darker(style.roof, 0.8)],
                turn=np.pi / 4 if sides == 4 else np.pi / 8,
            )
        )
        z += rise
        width *= parts.pick((0.86, 0.74))
    solids.append(revolved(0, 0, [(0.16, z), (0.2, z + 0.7), (0.1, z + 0.8), (0.02, z + 2.2)], 7, [style.trim]))
    return solids


def _plate(wall: np.ndarray, picture: Facade, colour: Colour) -> Face:
    """A facade on the wall between four corners, a little smaller than it."""
    middle = wall.mean(axis=0)
    return quad((middle + (wall - middle) * 0.9).tolist(), colour, picture, layer=1)


def _skyscraper(parts: Parts) -> list[Solid]:
    """Blocks that step back, each with a grid of windows of its own."""
    style = parts.style
    blocks = parts.pick(
        (
            ((0.0, 3.4, 6.0, 10, 6), (0.3, 2.6, 4.0, 7, 5), (0.0, 1.6, 2.4, 4, 3)),
            ((0.0, 2.9, 13.0, 14, 4),),
            ((-1.2, 2.2, 9.0, 12, 3), (1.2, 2.0, 12.0, 9, 4)),
        )
    )
    beside = parts.variant % 3 == 2
    solids, z = [], 0.0
    for number, (x, width, height, rows, columns) in enumerate(blocks):
        last = number == len(blocks) - 1
        walls = [
            parts.wall(
                width,
                height,
                openings=parts.grid(rows, columns, parts.pick(("rect", "slit", "round")), 0.66, 0.55),
                emblem=parts.emblem() if last else None,
                emblem_at=(0.5, 0.12),
                emblem_size=0.34,
                cornices=parts.pick(((0.02,), (0.25, 0.5, 0.75), (0.02, 0.6))),
                pilasters=parts.pick((0, 0, 3)),
            )
            for _ in range(2)
        ]
        solids.append(box(x, 0, z, (width, width, height), style.wall, front=walls[0], side=walls[1]))
        if not beside:
            z += height
    top = z if not beside else 12.0
    crown = parts.pick(("mast", "wedge", "bowl"))
    if crown == "mast":
        solids.append(revolved(0, 0, [(0.3, top), (0.16, top + 1.6), (0.03, top + 4)], 6, [style.trim]))
    elif crown == "wedge":
        outline = [(-1.45, top), (1.45, top), (1.45, top + 2.6)]
        solids.append(extruded(outline, -1.45, 1.45, style.roof))
    else:
        bowl = [(0.3, top), (1.1, top + 0.8), (1.2, top + 1.2), (0.4, top + 1.4)]
        solids.append(revolved(1.2, 0, bowl, 10, [style.trim, style.roof]))
    return solids


def _pyramid(parts: Parts) -> list[Solid]:
    """Steps with a stair and a temple on top, or smooth flanks with a cap and a gate."""
    style = parts.style
    solids: list[Solid] = []
    if parts.variant % 2 == 0:
        steps, width, z = 7, 11.0, 0.0
        for step in range(steps):
            wall = parts.wall(
                width,
                0.9,
                openings=parts.grid(1, 13 - step, ("rect", "cross", "round")[step % 3], 0.4, 0.5),
            )
            solids.append(box(0, 0, z, (width, width, 0.9), style.wall, front=wall, side=wall, top=0.97))
            z += 0.9
            width -= 1.25
        stair = [(-1.1, -5.9, 0.0), (1.1, -5.9, 0.0), (0.9, -1.7, z + 0.1), (-0.9, -1.7, z + 0.1)]
        treads = parts.wall(2.2, 9.0, cornices=tuple(np.linspace(0.02, 0.98, 24)))
        solids.append(Solid([quad(stair, style.trim, treads)], nearer=20.0))
        shrine = parts.wall(2.4, 1.7, openings=parts.grid(1, 3, "rect"), emblem=parts.emblem(), emblem_size=0.2)
        solids.append(box(0, 0, z, (2.4, 2.2, 1.7), style.wall, front=shrine, side=shrine))
        return solids
    flank = parts.wall(10.0, 8.0, emblem=parts.emblem(), emblem_at=(0.5, 0.82), emblem_size=0.1)
    solids.append(box(0, 0, 0, (11, 11, 6.4), style.wall, front=flank, side=flank, top=0.22))
    solids.append(box(0, 0, 6.4, (2.42, 2.42, 1.8), style.trim, top=0.01))
    gate = parts.wall(2.4, 2.0, door=0.4, openings=parts.grid(2, 5, "slit"))
    solids.append(box(0, -5.6, 0, (2.6, 1.4, 2.2), style.trim, front=gate, side=gate, nearer=6.0))
    for x in (-4.2, 4.2):
        small = parts.wall(3.0, 2.4, emblem=parts.emblem(), emblem_at=(0.5, 0.7))
        size = (3.4, 3.4, parts.between(2.0, 2.8))
        solids.append(box(x, -6.6, 0, size, style.roof, front=small, side=small, top=0.05, nearer=6.0))
    return solids


def _falls(parts: Parts) -> list[Solid]:
    """A ridge of rock with falls of water: facets of a height field, shaded by their slope."""
    rng, style = parts.rng, parts.style
    columns, rows = 22, 9
    xs, ys = np.linspace(-8, 8, columns), np.linspace(-2.4, 3.0, rows)
    peaks = [(parts.between(-6, 6), parts.between(2.5, 6.5), parts.between(0.8, 2.2)) for _ in range(5)]
    ridge = 1.6 + sum(tall * np.exp(-(((xs - at) / wide) ** 2)) for at, tall, wide in peaks)
    rise = np.clip(np.linspace(-0.15, 1.0, rows), 0, None) ** 0.6
    heights = rise[:, None] * ridge[None, :] * rng.uniform(0.82, 1.12, (rows, columns))
    rock = cv2.resize(rng.uniform(0.72, 1.15, (3, 7)), (columns, rows), interpolation=cv2.INTER_CUBIC)
    strips: list[Solid] = []
    for row in range(rows - 1):
        faces = []
        for column in range(columns - 1):
            corners = [
                (xs[c], ys[r], heights[r, c])
                for r, c in ((row, column), (row, column + 1), (row + 1, column + 1), (row + 1, column))
            ]
            green = heights[row, column] < parts.pick((1.4, 2.4)) and rng.random() < 0.7
            colour = darker(style.glass if green else style.wall, float(rock[row, column]))
            snow = heights[row + 1, column] > parts.pick((6.8, 5.2))
            a, b, c, d = (np.array(corner) for corner in corners)
            faces += [
                Face(np.array(triangle), (236, 238, 242) if snow else darker(colour, rng.uniform(0.85, 1.1)))
                for triangle in ((a, b, c), (a, c, d))
            ]
        strips.append(Solid(faces, nearer=100.0 * (rows - row)))
    for at in parts.pick(((4,), (6, 13, 15))):
        column = at if parts.variant % 2 else int(np.argmax(ridge[6:16])) + 6
        half = parts.pick((0.45, 0.25))
        water = []
        for row in range(rows - 1):
            x = xs[column]
            lower, upper = heights[row, column] + 0.12, heights[row + 1, column] + 0.12
            corners = [
                (x - half * 1.3, ys[row] - 0.05, lower),
                (x + half * 1.3, ys[row] - 0.05, lower),
                (x + half, ys[row + 1] - 0.05, upper),
                (x - half, ys[row + 1] - 0.05, upper),
            ]
            water.append(Face(np.array(corners), style.trim, two_sided=True))
        strips.append(Solid(water, nearer=2000.0))
    lodge = parts.wall(2.0, 1.2, openings=parts.grid(2, 4, "rect"), emblem=parts.emblem(), emblem_size=0.25)
    x = parts.pick((3.4, -4.6))
    strips.append(box(x, -2.8, 0, (2.0, 1.2, 1.2), style.roof, front=lodge, side=lodge, nearer=3000.0))
    strips.append(Solid(gable(x, -2.8, 1.2, (2.3, 1.5, 0.8), (120, 66, 50), style.roof).faces, 3001.0))
    return strips


BUILDERS: Final[dict[str, Callable[[Parts], list[Solid]]]] = {
    "tower": _tower,
    "dome": _dome,
    "arch": _arch,
    "bridge": _bridge,
    "temple": _temple,
    "castle": _castle,
    "pagoda": _pagoda,
    "skyscraper": _skyscraper,
    "pyramid": _pyramid,
    "falls": _falls,
}


def structure(family: str, variant: int, rng: Rng) -> Model:
    """The landmark `variant` of a family; what the variant does not settle is drawn from `rng`."""
    return Model(BUILDERS[family](Parts(rng, STYLES[family], variant)))
