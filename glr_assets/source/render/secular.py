"""Towers, gates, bridges, castles and skyscrapers."""

from __future__ import annotations

import numpy as np

from glr_assets.source.render.parts import Parts, arcade, cap, darker
from glr_assets.source.render.solids import Colour, Face, Solid, box, extruded, quad, revolved, strut


def tower(parts: Parts) -> list[Solid]:
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
        solids.append(revolved(0, 0, cap(width * 0.6, z, 1.3), 12, [style.roof, darker(style.roof, 0.85)]))
        solids.append(revolved(0, 0, [(0.07, z + 1.2), (0.03, z + 3)], 6, [style.trim]))
    return solids


def arch(parts: Parts) -> list[Solid]:
    """A gate with one opening or three under an attic."""
    style = parts.style
    openings = parts.pick((((0.0, 1.3, 4.2),), ((-2.6, 0.7, 2.6), (0.0, 1.1, 4.0), (2.6, 0.7, 2.6))))
    half, height = parts.pick((3.2, 4.2)), parts.pick((7.2, 6.0))
    outline = arcade(-half, half, height, openings)
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


def bridge(parts: Parts) -> list[Solid]:
    """Many arches under a deck with towers, or a deck hung from two gates."""
    style = parts.style
    solids: list[Solid] = []
    if parts.variant % 2 == 0:
        count, span = 5, 2.6
        half = count * span / 2
        openings = [(-half + (i + 0.5) * span, 0.95, 2.6 - 0.2 * abs(i - 2)) for i in range(count)]
        wall = parts.wall(2 * half, 3.4, cornices=(0.05,), emblem=parts.emblem(), emblem_at=(0.5, 0.14))
        solids.append(extruded(arcade(-half, half, 3.4, openings), -0.9, 0.9, style.wall, facade=wall, edge=style.trim))
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


def castle(parts: Parts) -> list[Solid]:
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


def skyscraper(parts: Parts) -> list[Solid]:
    """Blocks that step back, each with a grid of windows of its own."""
    style = parts.style
    blocks = parts.pick(
        (
            ((0.0, 3.4, 6.0, 10, 6), (0.3, 2.6, 4.0, 7, 5), (0.0, 1.6, 2.4, 4, 3)),
            ((0.0, 2.9, 13.0, 14, 4),),
            ((-1.2, 2.2, 9.0, 12, 3), (1.2, 2.0, 12.0, 9, 4)),
        )
    )
    beside = len(blocks) == 2
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
