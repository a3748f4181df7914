"""Painted walls: material, windows, doors and ornaments as a flat picture, to be laid over faces of solids."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import cv2  # noqa: TID253 - the package `render` is imported only where pictures are rendered
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Colour = tuple[float, float, float]
Material = Literal["stone", "brick", "plaster", "glass", "wood"]
Shape = Literal["rect", "arched", "round", "slit", "cross", "none"]

LONGEST = 256
"""Pixels of a facade's longer side."""


@dataclass(frozen=True)
class Style:
    """The colours and the material that the landmarks of a family have in common."""

    wall: Colour
    trim: Colour
    glass: Colour
    roof: Colour
    material: Material


@dataclass(frozen=True)
class Facade:
    """RGB pictures of one wall, each half as large as the one before, and where windows are.

    `windows` holds 0 beside windows and a number of its own, 1 to 255, in each window: which are lit at night.
    """

    pictures: list[Bytes]
    windows: list[Bytes]


@dataclass(frozen=True)
class Openings:
    """A grid of windows: how many, of what shape, how much of a cell they fill, and which cells have none."""

    rows: int
    columns: int
    shape: Shape
    across: float = 0.5
    up: float = 0.6
    blind: frozenset[tuple[int, int]] = frozenset()


@dataclass
class _Canvas:
    picture: Bytes
    windows: Bytes
    rng: np.random.Generator
    style: Style
    count: int = field(default=0)


def facade(
    rng: np.random.Generator,
    width: float,
    height: float,
    style: Style,
    *,
    openings: Openings | None = None,
    emblem: int | None = None,
    emblem_at: tuple[float, float] = (0.5, 0.3),
    emblem_size: float = 0.2,
    door: float = 0.0,
    cornices: tuple[float, ...] = (),
    pilasters: int = 0,
) -> Facade:
    """Paint a wall of `width` by `height` units; positions are shares of it, from the top left.

    `emblem` seeds an ornament of its own; `door` is the share of the width that a portal takes;
    `cornices` are heights of ledges; `pilasters` upright ribs.
    """
    scale = LONGEST / max(width, height)
    columns, rows = max(16, round(width * scale)), max(16, round(height * scale))
    picture = _material(rng, columns, rows, style)
    canvas = _Canvas(picture, np.zeros((rows, columns), np.uint8), rng, style)
    for number in range(pilasters + 1 if pilasters else 0):
        at = round(number * (columns - 1) / pilasters)
        _ledge(canvas, at - 3, 0, at + 3, rows)
    if openings is not None and openings.shape != "none":
        _windows(canvas, openings)
    for share in cornices:
        at = round(share * rows)
        _ledge(canvas, 0, at - 4, columns, at + 4)
    if door > 0:
        _door(canvas, door)
    if emblem is not None:
        radius = emblem_size * min(columns, rows)
        _emblem(canvas, (emblem_at[0] * columns, emblem_at[1] * rows), radius, emblem)
    return _with_halves(canvas.picture, canvas.windows)


def _with_halves(picture: Bytes, windows: Bytes) -> Facade:
    pictures, masks = [picture], [windows]
    while min(pictures[-1].shape[:2]) >= 24:
        rows, columns = pictures[-1].shape[:2]
        size = (columns // 2, rows // 2)
        pictures.append(_bytes(cv2.resize(pictures[-1], size, interpolation=cv2.INTER_AREA)))
        masks.append(_bytes(cv2.resize(masks[-1], size, interpolation=cv2.INTER_NEAREST)))
    return Facade(pictures, masks)


def _bytes(values: NDArray[np.generic]) -> Bytes:
    return np.clip(values, 0, 255).astype(np.uint8)


def _material(rng: np.random.Generator, columns: int, rows: int, style: Style) -> Bytes:
    shade = np.ones((rows, columns), np.float32)
    if style.material in ("stone", "brick"):
        course = {"stone": 14, "brick": 7}[style.material]
        contrast = {"stone": 0.16, "brick": 0.12}[style.material]
        for row, top in enumerate(range(0, rows, course)):
            left = -int(rng.integers(0, course * 2)) if row % 2 else 0
            while left < columns:
                length = int(course * rng.uniform(1.4, 3.0))
                block = slice(max(left, 0), left + length)
                shade[top : top + course, block] *= 1 + contrast * rng.uniform(-1, 1)
                shade[top : top + course, max(left, 0) : max(left, 0) + 1] *= 0.8
                left += length
            shade[top : top + 1] *= 0.8
    elif style.material == "wood":
        for left in range(0, columns, 9):
            shade[:, left : left + 9] *= 1 + 0.15 * rng.uniform(-1, 1)
            shade[:, left : left + 1] *= 0.7
    elif style.material == "glass":
        for top in range(0, rows, 12):
            for left in range(0, columns, 12):
                shade[top : top + 12, left : left + 12] *= 1 + 0.12 * rng.uniform(-1, 1)
    coarse = rng.uniform(0.82, 1.12, (max(2, rows // 32), max(2, columns // 32))).astype(np.float32)
    shade *= cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
    shade *= rng.uniform(0.94, 1.06, (rows, columns)).astype(np.float32)
    return _bytes(shade[:, :, None] * np.asarray(style.wall, np.float32))


def _ledge(canvas: _Canvas, left: int, top: int, right: int, foot: int) -> None:
    cv2.rectangle(canvas.picture, (left, top), (right, foot), canvas.style.trim, -1)
    dark = tuple(0.55 * c for c in canvas.style.trim)
    if right - left > foot - top:
        cv2.line(canvas.picture, (left, foot), (right, foot), dark, 2)
    else:
        cv2.line(canvas.picture, (right, top), (right, foot), dark, 2)


def _windows(canvas: _Canvas, grid: Openings) -> None:
    rows, columns = canvas.picture.shape[:2]
    tall, wide = rows / grid.rows, columns / grid.columns
    for row in range(grid.rows):
        for column in range(grid.columns):
            if (row, column) in grid.blind:
                continue
            centre = ((column + 0.5) * wide, (row + 0.5) * tall)
            _window(canvas, centre, wide * grid.across / 2, tall * grid.up / 2, grid.shape)


def _window(canvas: _Canvas, centre: tuple[float, float], half: float, up: float, shape: Shape) -> None:
    canvas.count += 1
    number = 1 + int(canvas.rng.integers(0, 255))
    glass = tuple(float(c) * canvas.rng.uniform(0.6, 1.2) for c in canvas.style.glass)
    frame = max(1.0, 0.16 * min(half, up))
    outer = _outline(centre, half + frame, up + frame, shape)
    inner = _outline(centre, half, up, shape)
    cv2.fillPoly(canvas.picture, outer, canvas.style.trim)
    cv2.fillPoly(canvas.picture, inner, glass)
    cv2.fillPoly(canvas.windows, inner, (number,))
    if shape in ("rect", "arched") and half > 4:
        at = round(centre[0])
        ends = (round(centre[1] - up), round(centre[1] + up))
        cv2.line(canvas.picture, (at, ends[0]), (at, ends[1]), canvas.style.trim, 1)


def _outline(centre: tuple[float, float], half: float, up: float, shape: Shape) -> list[NDArray[np.int32]]:
    x, y = centre
    if shape == "round":
        radius = min(half, up)
        turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        return [np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], 1).round().astype(np.int32)]
    if shape == "arched":
        turn = np.linspace(0, np.pi, 10)
        spring = y - up + half
        arch = np.stack([x + half * np.cos(turn), spring - half * np.sin(turn)], 1)
        return [np.concatenate([[(x + half, y + up)], arch, [(x - half, y + up)]]).round().astype(np.int32)]
    if shape == "cross":
        return [*_outline(centre, half * 0.35, up, "rect"), *_outline(centre, half, up * 0.35, "rect")]
    if shape == "slit":
        half *= 0.35
    corners = [(x - half, y - up), (x + half, y - up), (x + half, y + up), (x - half, y + up)]
    return [np.array(corners).round().astype(np.int32)]


def _door(canvas: _Canvas, share: float) -> None:
    rows, columns = canvas.picture.shape[:2]
    half = share * columns / 2
    up = min(half * 1.5, rows * 0.42)
    centre = (columns / 2, rows - up)
    cv2.fillPoly(canvas.picture, _outline(centre, half * 1.2, up * 1.1, "arched"), canvas.style.trim)
    dark = tuple(0.25 * c for c in canvas.style.wall)
    cv2.fillPoly(canvas.picture, _outline(centre, half, up, "arched"), dark)


def _emblem(canvas: _Canvas, centre: tuple[float, float], radius: float, seed: int) -> None:
    """A disc with rings, rays and a star whose numbers are drawn from `seed` alone."""
    rng = np.random.Generator(np.random.PCG64(seed))
    at = (round(centre[0]), round(centre[1]))
    palette = [tuple(float(c) for c in rng.uniform(20, 245, 3)) for _ in range(3)]
    cv2.circle(canvas.picture, at, round(radius), canvas.style.trim, -1, cv2.LINE_AA)
    cv2.circle(canvas.picture, at, round(radius * 0.88), palette[0], -1, cv2.LINE_AA)
    rays = int(rng.integers(4, 13))
    inner = float(rng.uniform(0.3, 0.6))
    turn = float(rng.uniform(0, np.pi)) + np.arange(2 * rays) * np.pi / rays
    reach = radius * 0.82 * np.where(np.arange(2 * rays) % 2, inner, 1.0)
    star = np.stack([centre[0] + reach * np.cos(turn), centre[1] + reach * np.sin(turn)], 1)
    cv2.fillPoly(canvas.picture, [star.round().astype(np.int32)], palette[1], cv2.LINE_AA)
    cv2.circle(canvas.picture, at, max(1, round(radius * inner * 0.6)), palette[2], -1, cv2.LINE_AA)
    cv2.circle(canvas.picture, at, max(1, round(radius * inner * 0.25)), palette[0], -1, cv2.LINE_AA)
