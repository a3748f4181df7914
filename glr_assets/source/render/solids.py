"""Solids of flat faces, and a model of several of them ready to be projected.

Space has x to the right, y away from the viewer and z up; the ground is z = 0. Colours are RGB, 0 to 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from glr_assets.source.render.facades import Facade

Floats = NDArray[np.float64]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Face:
    """A flat polygon, its corners counter-clockwise seen from outside.

    `facade` is painted over the rectangle `frame` (top left, top right, bottom right, bottom left) and shows
    inside the polygon. Faces of a higher `layer` lie on those of a lower one: windows on a wall.
    """

    points: Floats
    colour: Colour
    facade: Facade | None = None
    frame: Floats | None = None
    layer: int = 0
    two_sided: bool = False
    convex: bool = True


@dataclass(frozen=True)
class Solid:
    """Faces that are drawn together, nearest last; `nearer` moves the solid forward in the order of drawing."""

    faces: list[Face]
    nearer: float = 0.0


def quad(
    corners: Sequence[Sequence[float]],
    colour: Colour,
    facade: Facade | None = None,
    layer: int = 0,
    two_sided: bool = False,
) -> Face:
    """A four-sided face: bottom left, bottom right, top right, top left, seen from outside."""
    points = np.asarray(corners, dtype=np.float64)
    return Face(points, colour, facade, points[[3, 2, 1, 0]] if facade else None, layer, two_sided)


def box(
    x: float,
    y: float,
    z: float,
    size: tuple[float, float, float],
    colour: Colour,
    *,
    front: Facade | None = None,
    side: Facade | None = None,
    top: float = 1.0,
    roof: Colour | None = None,
    nearer: float = 0.0,
) -> Solid:
    """A block whose base is centred on (x, y, z); its upper end is `top` times as wide as its foot."""
    half_x, half_y, height = size[0] / 2, size[1] / 2, size[2]
    low, high = (
        [(x + sx * half_x * k, y + sy * half_y * k, level) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        for k, level in ((1.0, z), (top, z + height))
    )
    faces = [
        quad((low[a], low[b], high[b], high[a]), colour, facade)
        for a, b, facade in ((0, 1, front), (1, 2, side), (2, 3, front), (3, 0, side))
    ]
    if top > 0:
        faces.append(quad(high, roof or colour))
    return Solid(faces, nearer)


def revolved(
    x: float,
    y: float,
    profile: Sequence[tuple[float, float]],
    sides: int,
    colours: Sequence[Colour],
    *,
    turn: float = 0.0,
    nearer: float = 0.0,
) -> Solid:
    """A body turned about the vertical through (x, y): (radius, z) from the foot up, a colour for each band."""
    angles = turn + np.arange(sides + 1) * (2 * np.pi / sides)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    faces = []
    for band, ((r0, z0), (r1, z1)) in enumerate(pairwise(profile)):
        colour = colours[band % len(colours)]
        for a, b in pairwise(ring):
            corners = [(x + r0 * a[0], y + r0 * a[1], z0), (x + r0 * b[0], y + r0 * b[1], z0)]
            if r1 > 0:
                corners.append((x + r1 * b[0], y + r1 * b[1], z1))
            corners.append((x + r1 * a[0], y + r1 * a[1], z1))
            faces.append(Face(np.asarray(corners), colour))
    radius, z = profile[-1]
    if radius > 0:
        cap = [(x + radius * c, y + radius * s, z) for c, s in ring[:-1]]
        faces.append(Face(np.asarray(cap), colours[(len(profile) - 2) % len(colours)]))
    return Solid(faces, nearer)


def extruded(
    outline: Sequence[tuple[float, float]],
    y0: float,
    y1: float,
    colour: Colour,
    *,
    facade: Facade | None = None,
    edge: Colour | None = None,
    nearer: float = 0.0,
) -> Solid:
    """A slab from depth y0 to y1 whose (x, z) outline, counter-clockwise seen from the front, may be concave."""
    flat = np.asarray(outline, dtype=np.float64)
    front = np.stack([flat[:, 0], np.full(len(flat), y0), flat[:, 1]], axis=1)
    back = np.stack([flat[:, 0], np.full(len(flat), y1), flat[:, 1]], axis=1)
    (left, foot), (right, head) = flat.min(axis=0), flat.max(axis=0)
    frame = np.array([(left, y0, head), (right, y0, head), (right, y0, foot), (left, y0, foot)])
    behind = frame[[1, 0, 3, 2]] + np.array([0.0, y1 - y0, 0.0])
    faces = [
        Face(front, colour, facade, frame if facade else None, convex=False, layer=1),
        Face(back[::-1], colour, facade, behind if facade else None, convex=False, layer=1),
    ]
    for p, q, r, s in zip(front, back, np.roll(back, -1, axis=0), np.roll(front, -1, axis=0), strict=True):
        faces.append(Face(np.array([p, q, r, s]), edge or colour))
    return Solid(faces, nearer)


def gable(x: float, y: float, z: float, size: tuple[float, float, float], roof: Colour, wall: Colour) -> Solid:
    """A saddle roof with its ridge from front to back over a rectangle centred on (x, y, z)."""
    hx, hy, top = size[0] / 2, size[1] / 2, z + size[2]
    a, b, c, d = (x - hx, y - hy, z), (x + hx, y - hy, z), (x + hx, y + hy, z), (x - hx, y + hy, z)
    e, f = (x, y - hy, top), (x, y + hy, top)
    return Solid(
        [
            Face(np.array([a, b, e]), wall),
            Face(np.array([c, d, f]), wall),
            Face(np.array([b, c, f, e]), roof),
            Face(np.array([d, a, e, f]), roof),
        ]
    )


def strut(start: tuple[float, float, float], end: tuple[float, float, float], width: float, colour: Colour) -> Face:
    """A flat bar in the plane of the front, seen from both sides."""
    a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    along = b - a
    across = np.array([-along[2], 0.0, along[0]])
    across *= width / 2 / max(float(np.linalg.norm(across)), 1e-9)
    return Face(np.array([a - across, b - across, b + across, a + across]), colour, two_sided=True)


class Model:
    """Solids as arrays: every corner once more, and for each face what drawing asks of it."""

    def __init__(self, solids: Sequence[Solid]) -> None:
        self.faces = [face for solid in solids for face in solid.faces]
        counts = [len(face.points) for face in self.faces]
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self.points: Floats = np.concatenate([face.points for face in self.faces])
        self.normals: Floats = np.array([_normal(face.points) for face in self.faces])
        self.centres: Floats = np.array([face.points.mean(axis=0) for face in self.faces])
        self.layers = np.array([face.layer for face in self.faces])
        self.two_sided = np.array([face.two_sided for face in self.faces])
        self.solid = np.repeat(np.arange(len(solids)), [len(solid.faces) for solid in solids])
        self.nearer = np.array([solid.nearer for solid in solids])
        self.frames: Floats = np.array([np.zeros((4, 3)) if face.frame is None else face.frame for face in self.faces])
        self.solid_centres: Floats = np.array(
            [np.concatenate([face.points for face in solid.faces]).mean(axis=0) for solid in solids]
        )


def _normal(points: Floats) -> Floats:
    """The unit normal of a polygon (Newell's method, which bears concave and degenerate corners)."""
    after = np.roll(points, -1, axis=0)
    normal = np.array(
        [
            np.sum((points[:, 1] - after[:, 1]) * (points[:, 2] + after[:, 2])),
            np.sum((points[:, 2] - after[:, 2]) * (points[:, 0] + after[:, 0])),
            np.sum((points[:, 0] - after[:, 0]) * (points[:, 1] + after[:, 1])),
        ]
    )
    return normal / max(float(np.linalg.norm(normal)), 1e-12)
