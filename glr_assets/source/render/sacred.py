"""Domed halls, temples, pagodas and pyramids."""

from __future__ import annotations

import numpy as np

from glr_assets.source.render.facades import Facade
from glr_assets.source.render.parts import Parts, cap, darker
from glr_assets.source.render.solids import Colour, Face, Solid, box, gable, quad, revolved


def dome(parts: Parts) -> list[Solid]:
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
    bowl = cap(radius, height + drum, radius * parts.pick((1.0, 1.35, 0.8)), parts.pick((1.0, 1.25, 1.0)))
    solids.append(revolved(0, 0, bowl, 16, bands))
    tip = bowl[-1][1]
    solids.append(revolved(0, 0, [(0.12, tip - 0.1), (0.02, tip + 1.2)], 6, [style.trim]))
    places = parts.pick((((-1, -1), (1, -1), (1, 1), (-1, 1)), ((-1, -1), (1, -1)), ((-0.55, 0.0), (0.55, 0.0))))
    tall = parts.pick((8.5, 6.5, 1.6))
    for x, y in places:
        at = (x * width * parts.pick((0.62, 0.52, 0.7)), y * width * parts.pick((0.52, 0.42, 0.0)))
        if tall > 2:
            rings = [(0.42, 0.0), (0.36, tall * 0.6), (0.55, tall * 0.62), (0.3, tall * 0.66), (0.26, tall)]
            solids.append(revolved(*at, rings, 8, [style.wall, style.trim]))
            solids.append(revolved(*at, cap(0.36, tall, 0.8, 1.3), 8, [style.roof]))
        else:
            solids.append(revolved(*at, cap(1.1, height, 1.4), 10, bands, nearer=0.5))
    portal = parts.wall(2.2, height, door=0.55, emblem=parts.emblem(), emblem_at=(0.5, 0.2), emblem_size=0.2)
    depth = -width * 0.4 - 0.4
    solids.append(box(0, depth, 0, (2.2, 0.8, height * 1.18), style.trim, front=portal, nearer=1.0))
    return solids


def temple(parts: Parts) -> list[Solid]:
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
        rise = parts.pick((1.9, 1.4, 2.8))
        solids.append(Solid(gable(0, 0, z, (width + 0.5, depth + 0.5, rise), style.roof, style.trim).faces, 2.5))
        crest = parts.wall(1.1, 1.1, emblem=parts.emblem(), emblem_at=(0.5, 0.5), emblem_size=0.48)
        face = -depth / 2 - 0.3
        corners = [(-0.55, face, z + 0.2), (0.55, face, z + 0.2), (0.55, face, z + 1.3), (-0.55, face, z + 1.3)]
        solids.append(Solid([quad(corners, style.trim, crest)], 6.0))
    else:
        attic = parts.wall(width * 0.8, 1.5, emblem=parts.emblem(), emblem_at=(0.5, 0.5), emblem_size=0.4)
        solids.append(box(0, 0, z, (width * 0.8, depth * 0.8, 1.5), style.wall, front=attic, side=attic, nearer=2.5))
    return solids


def pagoda(parts: Parts) -> list[Solid]:
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


def pyramid(parts: Parts) -> list[Solid]:
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
