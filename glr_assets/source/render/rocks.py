"""Mountains with falls of water."""

from __future__ import annotations

import cv2  # noqa: TID253 - the package `render` is imported only where pictures are rendered
import numpy as np

from glr_assets.source.render.parts import Parts, darker
from glr_assets.source.render.solids import Face, Solid, box, gable


def falls(parts: Parts) -> list[Solid]:
    """A ridge of rock with falls of water: facets of a height field, shaded by their slope."""
    rng, style = parts.rng, parts.style
    columns, rows = 22, 9
    xs, ys = np.linspace(-8, 8, columns), np.linspace(-2.4, 3.0, rows)
    peaks = [(parts.between(-6, 6), parts.between(2.5, 6.5), parts.between(0.8, 2.2)) for _ in range(5)]
    ridge = 1.6 + np.sum([tall * np.exp(-(((xs - at) / wide) ** 2)) for at, tall, wide in peaks], axis=0)
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
