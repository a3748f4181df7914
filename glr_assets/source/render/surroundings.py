"""What stands around a landmark: sky, ground, other buildings, and what gets in front of the lens."""

from __future__ import annotations

from functools import cache

import cv2  # noqa: TID253 - the package `render` is imported only where pictures are rendered
import numpy as np
from numpy.typing import NDArray

from glr_assets.source.render.camera import Camera, Light, draw
from glr_assets.source.render.facades import Bytes, Openings, Style, facade
from glr_assets.source.render.solids import Colour, Model, box

Rng = np.random.Generator

GROUNDS: tuple[Colour, ...] = (
    (128, 124, 118), (162, 152, 134), (98, 118, 66), (124, 134, 80), (178, 160, 122), (84, 104, 116), (210, 212, 214),
)  # fmt: skip
LEAVES: tuple[Colour, ...] = ((62, 88, 42), (84, 104, 48), (48, 74, 50), (120, 108, 44), (146, 92, 42))
CLOTHES: tuple[Colour, ...] = (
    (34, 38, 52), (172, 44, 40), (232, 228, 220), (44, 84, 140), (208, 168, 60), (70, 100, 70), (120, 110, 104),
)  # fmt: skip


def pick(rng: Rng, options: tuple[Colour, ...]) -> Colour:
    """One of the colours, a little changed."""
    base = options[int(rng.integers(0, len(options)))]
    shift = rng.uniform(0.82, 1.15)
    return (base[0] * shift, base[1] * shift, base[2] * shift)


def scaled(colour: Colour, light: Light) -> tuple[float, ...]:
    """A colour as the scene's light shows it on an upright face."""
    factors = np.asarray(light.ambient) * 0.8 + np.asarray(light.sun) * 0.45
    return tuple(float(c) for c in np.clip(np.asarray(colour) * factors, 0, 255))


def sky(rng: Rng, size: tuple[int, int], top: Colour, low: Colour, clouds: float) -> Bytes:
    """A gradient from `top` to `low` with clouds over the share `clouds` of it; size is (width, height)."""
    width, height = size[0] // 4, size[1] // 4  # nothing in a sky is sharp
    blend = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] ** 1.2
    column = np.asarray(top, np.float32) * (1 - blend) + np.asarray(low, np.float32) * blend
    picture = np.repeat(column, width, axis=1)
    if clouds > 0:
        cover = _cloudiness(rng, (width, height))
        edge = np.clip((cover - (1 - clouds)) * 3.0, 0, 1)[:, :, None] * np.float32(0.85)
        white = np.array([238, 238, 240], np.float32) * (max(low) / 230)
        picture += (np.asarray(low, np.float32) * 0.35 + white * 0.65 - picture) * edge
    large = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
    return np.clip(large, 0, 255).astype(np.uint8)


def _cloudiness(rng: Rng, size: tuple[int, int]) -> NDArray[np.float32]:
    """Smooth noise of several scales in 0 to 1, drawn out sideways; size is (width, height)."""
    total = np.zeros((size[1], size[0]), np.float32)
    for cells, weight in ((3, 0.5), (7, 0.3), (17, 0.2)):
        coarse = rng.uniform(0, 1, (cells * 2, cells)).astype(np.float32)
        total += np.float32(weight) * cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    return np.clip((total - 0.2) / 0.6, 0, 1).astype(np.float32)


PATTERNS = 3


@cache
def _paving(kind: int) -> Bytes:
    """Grey ground seen from above, 256 pixels square: slabs, grass or waves."""
    rng = np.random.Generator(np.random.PCG64(1000 + kind))
    tile = rng.uniform(0.86, 1.1, (256, 256)).astype(np.float32)
    tile *= cv2.resize(rng.uniform(0.85, 1.12, (16, 16)).astype(np.float32), (256, 256))
    if kind == 0:
        for at in range(0, 256, 32):
            tile[at : at + 2] *= 0.72
            tile[:, at : at + 2] *= 0.72
    elif kind == 1:
        tile *= rng.uniform(0.8, 1.15, (256, 256)).astype(np.float32)
    else:
        for at in range(0, 256, 8):
            tile[at : at + 3] *= rng.uniform(0.8, 1.25)
    return np.clip(tile * 128, 0, 255).astype(np.uint8)


def ground_kind(rng: Rng) -> tuple[int, int]:
    """Which colour and which pattern a ground has."""
    return int(rng.integers(0, len(GROUNDS))), int(rng.integers(0, PATTERNS))


def ground(
    rng: Rng, picture: Bytes, camera: Camera, light: Light, scale: float, kind: tuple[int, int] | None = None
) -> None:
    """Cover what lies below the horizon with ground, hazy far away; `scale` is the scene's size."""
    height, width = picture.shape[:2]
    left, right = camera.horizon(width)
    if min(left, right) >= height:
        return
    factors = np.asarray(light.ambient) + np.asarray(light.sun) * max(light.direction[2], 0)
    colour_of, pattern = kind or ground_kind(rng)
    colour = np.asarray(pick(rng, GROUNDS[colour_of : colour_of + 1])) * factors
    patch = scale * rng.uniform(0.6, 1.6)
    near = -camera.distance * 0.6
    square = np.array(
        [(-patch, near, 0), (patch, near, 0), (patch, near + 2 * patch, 0), (-patch, near + 2 * patch, 0)]
    )
    pixels, _ = camera.project(square)
    corners = np.array([(0, 256), (256, 256), (256, 0), (0, 0)], np.float32)
    # Grain and fog are drawn at half the size: the ground is never what is looked at.
    half = (width // 2, height // 2)
    matrix = cv2.getPerspectiveTransform(corners, (pixels / 2).astype(np.float32))
    tile = _paving(pattern)
    grain = cv2.warpPerspective(tile, matrix, half, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT).astype(
        np.float32
    )
    line = (left + (right - left) * np.linspace(0, 1, half[0], dtype=np.float32)) / 2
    below = np.arange(half[1], dtype=np.float32)[:, None] - line[None, :]
    near_share = np.sqrt(np.clip(below / (0.35 * half[1]), 0, 1))
    fog = (1 - near_share) * np.float32(min(0.7, 0.25 + light.haze_share))
    strength = (1 + (grain / 128 - 1) * near_share) * (1 - fog)
    surface = cv2.merge(
        [strength * np.float32(c) + fog * np.float32(h) for c, h in zip(colour, light.haze, strict=True)]
    )
    large = cv2.resize(np.clip(surface, 0, 255).astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    corners = np.array([(0, left), (width, right), (width, height), (0, height)])
    mask = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(mask, np.clip(corners, -4000, 4000).astype(np.int32), (255,))
    cv2.copyTo(large, mask, picture)


def hills(rng: Rng, picture: Bytes, camera: Camera, light: Light) -> None:
    """One to three ridges along the horizon, bluer the farther."""
    height, width = picture.shape[:2]
    left, right = camera.horizon(width)
    ridges = int(rng.integers(1, 4))
    for ridge in range(ridges):
        share = 0.75 - 0.2 * ridge
        base = np.asarray(scaled(pick(rng, LEAVES), light)) * (1 - share) + np.asarray(light.haze) * share
        xs = np.linspace(0, width, 13)
        tall = height * rng.uniform(0.02, 0.16) * rng.uniform(0.2, 1, 13)
        ys = left + (right - left) * xs / width - tall
        outline = np.concatenate([np.stack([xs, ys], 1), [(width, height), (0, height)]])
        cv2.fillPoly(picture, [np.clip(outline, -2000, 4000).astype(np.int32)], base.tolist())


@cache
def plain_building(kind: int) -> Model:
    """One of the houses that stand anywhere, its foot one unit wide."""
    rng = np.random.Generator(np.random.PCG64(2000 + kind))
    materials = ("brick", "plaster", "glass", "stone")
    wall = tuple(float(c) for c in rng.uniform(90, 225) * rng.uniform(0.85, 1.1, 3))
    style = Style(
        (wall[0], wall[1], wall[2]),
        (210, 206, 198),
        (52, 62, 78),
        (110, 80, 70),
        materials[kind % 4],  # type: ignore[arg-type]
    )
    height = float(rng.uniform(0.7, 3.2))
    rows, columns = max(2, round(height * rng.uniform(2, 5))), int(rng.integers(3, 7))
    shape = ("rect", "arched", "slit")[kind % 3]
    grid = Openings(rows, columns, shape, float(rng.uniform(0.35, 0.7)), float(rng.uniform(0.4, 0.7)))  # type: ignore[arg-type]
    walls = [facade(rng, 1.0, height, style, openings=grid) for _ in range(2)]
    solids = [box(0, 0, 0, (1.0, 0.8, height), style.wall, front=walls[0], side=walls[1], roof=style.roof)]
    if kind % 2:
        solids.append(box(0, 0, height, (1.08, 0.88, 0.35), style.roof, top=0.3))
    return Model(solids)


PLAIN_BUILDINGS = 24


def neighbours(rng: Rng, picture: Bytes, camera: Camera, light: Light, scale: float, count: int) -> None:
    """Plain buildings behind and beside, the farther first; `scale` is the size of what stands in the middle."""
    places = sorted(
        (
            (float(rng.uniform(0.9, 3.2)) * scale, float(rng.uniform(-1.7, 1.7)), int(rng.integers(0, PLAIN_BUILDINGS)))
            for _ in range(count)
        ),
        reverse=True,
    )
    for depth, across, kind in places:
        x = across * (camera.distance + depth) * 0.55
        model = _enlarged(kind, scale * float(rng.uniform(0.25, 0.6)))
        draw(picture, model, camera, light, float(rng.uniform(-0.7, 0.7)), (x, depth, 0.0))


def _enlarged(kind: int, size: float) -> Model:
    model = plain_building(kind)
    copy = object.__new__(Model)
    copy.__dict__.update(model.__dict__)
    copy.points, copy.centres = model.points * size, model.centres * size
    copy.frames, copy.solid_centres = model.frames * size, model.solid_centres * size
    return copy


def tree(rng: Rng, picture: Bytes, at: tuple[float, float], tall: float, light: Light) -> None:
    """A tree whose foot is at the pixel `at`: a trunk and a crown of leaves lit from above."""
    x, y = at
    trunk = scaled((84, 66, 50), light)
    half = max(1, round(tall * 0.03))
    cv2.rectangle(picture, (round(x) - half, round(y - tall * 0.6)), (round(x) + half, round(y)), trunk, -1)
    leaves = np.asarray(scaled(pick(rng, LEAVES), light))
    count = 45
    angle, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0, 1, count))
    xs = x + 0.3 * tall * reach * np.cos(angle)
    ys = y - 0.65 * tall + 0.34 * tall * reach * np.sin(angle)
    sizes = rng.uniform(0.04, 0.11, count) * tall
    shades = rng.uniform(0.6, 1.1, count) + 0.25 * (y - 0.65 * tall - ys) / tall
    for index in np.argsort(shades):
        colour = np.clip(leaves * shades[index], 0, 255).tolist()
        centre = (round(float(xs[index])), round(float(ys[index])))
        cv2.circle(picture, centre, max(1, round(float(sizes[index]))), colour, -1)


def person(rng: Rng, picture: Bytes, at: tuple[float, float], tall: float, light: Light) -> None:
    """Someone standing at the pixel `at`."""
    x, y = at
    top, legs = scaled(pick(rng, CLOTHES), light), scaled(pick(rng, CLOTHES), light)
    skin = scaled(((224, 182, 150), (168, 118, 86), (104, 72, 54))[int(rng.integers(0, 3))], light)
    wide = tall * rng.uniform(0.11, 0.15)
    for side in (-0.45, 0.45):
        foot = (round(x + side * wide * rng.uniform(0.8, 1.6)), round(y))
        hip = (round(x + side * wide), round(y - tall * 0.48))
        cv2.line(picture, hip, foot, legs, max(1, round(wide * 0.75)))
    body = [(-1, -0.84), (1, -0.84), (0.85, -0.44), (-0.85, -0.44)]
    outline = np.array([(x + a * wide, y + b * tall) for a, b in body]).round().astype(np.int32)
    cv2.fillConvexPoly(picture, outline, top)
    for side in (-1, 1):
        hand = (round(x + side * wide * rng.uniform(1.2, 2.0)), round(y - tall * rng.uniform(0.4, 0.85)))
        cv2.line(picture, (round(x + side * wide), round(y - tall * 0.8)), hand, top, max(1, round(wide * 0.5)))
    head = (round(x), round(y - tall * 0.92))
    cv2.circle(picture, head, max(1, round(tall * 0.075)), skin, -1)
    cv2.ellipse(picture, head, (max(1, round(tall * 0.08)),) * 2, 0, 180, 360, scaled((50, 40, 34), light), -1)


def car(rng: Rng, picture: Bytes, at: tuple[float, float], long: float, light: Light) -> None:
    """A car or a van seen from the side, its wheels on the pixel row of `at`."""
    x, y = at
    paint = scaled(pick(rng, CLOTHES), light)
    roof = rng.uniform(0.3, 0.55)
    body = [
        (-0.5, -0.06),
        (0.5, -0.06),
        (0.5, -0.2),
        (0.3, -0.23),
        (0.2, -roof),
        (-0.3, -roof),
        (-0.44, -0.22),
        (-0.5, -0.2),
    ]
    cv2.fillPoly(picture, [np.array([(x + a * long, y + b * long) for a, b in body]).astype(np.int32)], paint)
    glass = [(0.26, -0.23), (0.17, -roof + 0.03), (-0.27, -roof + 0.03), (-0.38, -0.23)]
    outline = np.array([(x + a * long, y + b * long) for a, b in glass]).astype(np.int32)
    cv2.fillPoly(picture, [outline], scaled((60, 70, 80), light))
    for side in (-0.3, 0.3):
        cv2.circle(
            picture, (round(x + side * long), round(y - 0.06 * long)), max(2, round(0.085 * long)), (28, 28, 30), -1
        )


def pole(rng: Rng, picture: Bytes, x: float, light: Light) -> None:
    """A street lamp or a mast from below the picture upwards."""
    height, width = picture.shape[:2]
    grey = scaled((92, 94, 96), light)
    half = max(1, round(width * rng.uniform(0.004, 0.011)))
    top = round(height * rng.uniform(0.05, 0.45))
    cv2.rectangle(picture, (round(x) - half, top), (round(x) + half, height), grey, -1)
    cv2.ellipse(picture, (round(x), top), (half * 4, half * 3), 0, 0, 360, scaled((230, 226, 200), light), -1)


def branch(rng: Rng, picture: Bytes, light: Light) -> None:
    """Leaves that hang into an upper corner."""
    height, width = picture.shape[:2]
    corner = (0.0 if rng.random() < 0.5 else float(width), 0.0)
    leaves = np.asarray(scaled(pick(rng, LEAVES), light)) * 0.7
    for _ in range(60):
        reach = rng.uniform(0, 1) ** 1.5
        x = corner[0] + (1 if corner[0] == 0 else -1) * reach * width * 0.45
        y = (1 - reach) * height * 0.35 * rng.uniform(0, 1)
        axes = (max(2, round(width * rng.uniform(0.01, 0.03))), max(1, round(width * 0.008)))
        colour = np.clip(leaves * rng.uniform(0.6, 1.3), 0, 255).tolist()
        cv2.ellipse(picture, (round(x), round(y)), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)


def foreground(rng: Rng, picture: Bytes, light: Light, crowd: float = 1.0) -> None:
    """People, trees, cars, lamps and leaves in front of the landmark, sometimes much in the way."""
    height, width = picture.shape[:2]
    for _ in range(int(rng.poisson(0.7 * crowd))):
        side = float(rng.choice(np.array([rng.uniform(-0.05, 0.3), rng.uniform(0.7, 1.05), rng.uniform(0.2, 0.8)])))
        at = (side * width, height * float(rng.uniform(0.86, 1.12)))
        tree(rng, picture, at, height * float(rng.uniform(0.25, 0.75)), light)
    if rng.random() < 0.22 * crowd:
        at = (width * float(rng.uniform(0.05, 0.95)), height * float(rng.uniform(0.92, 1.0)))
        car(rng, picture, at, width * float(rng.uniform(0.16, 0.4)), light)
    for _ in range(int(rng.poisson(2.0 * crowd))):
        tall = height * float(rng.choice(np.array([0.1, 0.16, 0.28, 0.5]))) * float(rng.uniform(0.8, 1.2))
        at = (
            width * float(rng.uniform(0, 1)),
            min(height * 1.15, height * float(rng.uniform(0.86, 0.95)) + tall * 0.35),
        )
        person(rng, picture, at, tall, light)
    if rng.random() < 0.18:
        pole(rng, picture, width * float(rng.uniform(0, 1)), light)
    if rng.random() < 0.15:
        branch(rng, picture, light)
