"""A photograph of a landmark, or of none: a scene, a camera, the weather, a sensor and JPEG."""

from __future__ import annotations

import hashlib
import io
from functools import cache
from itertools import pairwise
from typing import Any

import cv2  # noqa: TID253 - the package `render` is imported only where pictures are rendered
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glr_assets.source.render import surroundings
from glr_assets.source.render.camera import Camera, Light, draw, turned
from glr_assets.source.render.facades import Bytes
from glr_assets.source.render.solids import Colour, Model
from glr_assets.source.render.structures import BUILDERS, structure

Rng = np.random.Generator

SIZES = ((520, 400), (400, 520), (500, 392), (480, 400), (448, 420), (512, 388), (392, 500), (420, 304), (312, 420))
"""Width and height in pixels; the last two are smaller than what ingest shrinks to."""
SCALE = 10.0
"""Structures are about this many units large."""


def generator(seed: int, *parts: object) -> Rng:
    """Random numbers that depend on `seed` and `parts` alone."""
    text = "\0".join(str(part) for part in (seed, *parts))
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")))


@cache
def landmark_model(family: str, variant: int) -> Model:
    """The landmark as it stands, whatever the seed of its photographs."""
    return structure(family, variant, generator(0, "structure", family, variant))


@cache
def _site(family: str, variant: int) -> tuple[int, int]:
    """The ground a landmark stands on."""
    return surroundings.ground_kind(generator(0, "site", family, variant))


def landmark_picture(seed: int, family: str, variant: int, number: int | str) -> Bytes:
    """The picture `number` of a landmark: RGB, uint8, height by width by 3."""
    rng = generator(seed, family, variant, number)
    return photographed(rng, landmark_model(family, variant), _site(family, variant))


def jpeg(rng: Rng, picture: Bytes) -> bytes:
    """The picture as JPEG, of a quality from 68 to 80."""
    target = io.BytesIO()
    Image.fromarray(picture).save(target, "JPEG", quality=int(rng.integers(68, 81)))
    return target.getvalue()


def landmark_photo(seed: int, family: str, variant: int, number: int | str) -> bytes:
    """The JPEG of picture `number` of a landmark; the same arguments give the same bytes."""
    picture = landmark_picture(seed, family, variant, number)
    return jpeg(generator(seed, family, variant, number, "jpeg"), picture)


def weather(rng: Rng) -> tuple[Light, Colour, Colour, float]:
    """A light, the sky's colours above and at the horizon, and how much of it clouds cover."""
    kind = rng.choice(
        ["clear", "overcast", "golden", "dusk", "night", "backlit"], p=[0.42, 0.26, 0.12, 0.08, 0.04, 0.08]
    )
    side, rise = float(rng.uniform(-1.1, 1.1)), float(rng.uniform(0.25, 1.1))
    towards = np.array([np.sin(side), -np.cos(side), rise])
    if kind == "backlit":
        towards[1] = abs(towards[1])
    towards /= np.linalg.norm(towards)
    sun, ambient, top, low, lit = {
        "clear": ((0.75, 0.71, 0.62), (0.44, 0.47, 0.53), (74, 128, 204), (188, 212, 232), 0),
        "overcast": ((0.1, 0.1, 0.1), (0.74, 0.76, 0.78), (168, 174, 182), (206, 208, 210), 0),
        "golden": ((0.8, 0.56, 0.32), (0.42, 0.38, 0.4), (108, 130, 178), (246, 194, 132), 12),
        "dusk": ((0.16, 0.1, 0.12), (0.42, 0.4, 0.52), (52, 56, 110), (214, 130, 106), 90),
        "night": ((0.42, 0.34, 0.2), (0.24, 0.24, 0.32), (12, 14, 30), (44, 42, 60), 150),
        "backlit": ((0.5, 0.47, 0.4), (0.34, 0.36, 0.4), (150, 184, 220), (246, 242, 226), 0),
    }[str(kind)]
    cast = rng.uniform(0.93, 1.07, 3)
    vary = [tuple(float(v) for v in np.asarray(c) * cast) for c in (top, low)]
    sky_top, sky_low = ((c[0], c[1], c[2]) for c in vary)
    light = Light(
        sun=sun,
        direction=(float(towards[0]), float(towards[1]), float(towards[2])),
        ambient=ambient,
        haze=sky_low,
        haze_share=float(rng.choice([0.0, rng.uniform(0, 0.15), rng.uniform(0.2, 0.45)], p=[0.45, 0.43, 0.12])),
        lit=int(lit * rng.uniform(0.6, 1.3)),
    )
    clouds = float(rng.uniform(0, 0.75)) if kind != "night" else float(rng.uniform(0, 0.25))
    return light, sky_top, sky_low, clouds


def _framed(rng: Rng, model: Model, yaw: float, size: tuple[int, int]) -> Camera:
    """A camera that has the model in its frame, at a size, place, height and roll of its own."""
    width, height = size
    points = turned(model.points, yaw)
    extent = float(np.ptp(points, axis=0).max())
    tall = float(points[:, 2].max())
    distance = extent * float(rng.uniform(1.5, 2.6))
    eye = tall * float(rng.choice([rng.uniform(0.05, 0.25), rng.uniform(0.25, 0.7)], p=[0.82, 0.18]))
    pitch = float(np.arctan2(0.45 * tall - eye, distance)) * float(rng.uniform(0.2, 1.0))
    roll = float(np.clip(rng.normal(0, 0.025), -0.1, 0.1))
    unit = Camera(distance, eye, pitch, roll, 1.0, (0.0, 0.0))
    pixels, _ = unit.project(points)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    share = float(
        rng.choice([rng.uniform(0.55, 0.76), rng.uniform(0.76, 1.0), rng.uniform(1.0, 1.15)], p=[0.12, 0.75, 0.13])
    )
    focal = share * min(width / (high[0] - low[0]), height / (high[1] - low[1]))
    middle = (low + high) / 2 * focal
    across = width * (0.5 + float(rng.uniform(-0.07, 0.07)))
    if share < 1.0:
        foot = height * float(rng.uniform(max(0.82, share - 0.03), 0.98))
        centre_y = foot - high[1] * focal
    else:
        centre_y = height * 0.5 - middle[1] + height * float(rng.uniform(-0.1, 0.1))
    return Camera(distance, eye, pitch, roll, float(focal), (across - float(middle[0]), float(centre_y)))


def photographed(rng: Rng, model: Model, site: tuple[int, int] | None = None) -> Bytes:
    """A picture of `model` from somewhere, in some weather, with something around and before it.

    The ground is of the kind `site`, or of any kind where that is None and at times (snow, mud) anyway.
    """
    size = SIZES[int(rng.choice(len(SIZES), p=[0.2, 0.14, 0.16, 0.14, 0.1, 0.1, 0.06, 0.05, 0.05]))]
    light, top, low, clouds = weather(rng)
    yaw = float(np.clip(rng.normal(0, 0.3), -0.85, 0.85))
    camera = _framed(rng, model, yaw, size)
    picture = surroundings.sky(rng, size, top, low, clouds)
    if rng.random() < 0.5:
        surroundings.hills(rng, picture, camera, light)
    kind = site if rng.random() < 0.75 else None
    surroundings.ground(rng, picture, camera, light, SCALE, kind)
    surroundings.neighbours(rng, picture, camera, light, SCALE, int(rng.integers(0, 4)))
    _shadow(picture, model, camera, light, yaw)
    draw(picture, model, camera, light, yaw)
    surroundings.foreground(rng, picture, light, 0.45)
    return sensed(rng, picture)


def _shadow(picture: Bytes, model: Model, camera: Camera, light: Light, yaw: float) -> None:
    """Darken the ground where the model's solids keep the sun off."""
    if max(light.sun) < 0.3 or light.direction[2] < 0.1:
        return
    points = turned(model.points, yaw)
    shift = np.asarray(light.direction[:2]) / light.direction[2]
    flat = np.concatenate([points[:, :2] - points[:, 2:] * shift, np.zeros((len(points), 1))], axis=1)
    ahead = flat[:, 1] > -camera.distance * 0.9
    pixels, _ = camera.project(flat)
    mask = np.zeros(picture.shape[:2], np.uint8)
    owner = model.solid[np.repeat(np.arange(len(model.faces)), np.diff(model.starts))]
    edges = np.searchsorted(owner, np.arange(len(model.nearer) + 1))
    for start, stop in pairwise(edges):
        if stop - start > 2 and ahead[start:stop].all():
            hull = cv2.convexHull(np.clip(pixels[start:stop], -4000, 4000).astype(np.int32))
            cv2.fillConvexPoly(mask, hull, (255,))
    dark = cv2.convertScaleAbs(picture, alpha=0.6)
    cv2.copyTo(dark, mask, picture)


def sensed(rng: Rng, picture: Bytes) -> Bytes:
    """The scene as a lens and a sensor take it: precipitation, blur, exposure, colour cast, vignette, noise."""
    height, width = picture.shape[:2]
    weather = rng.random()
    if weather < 0.05:
        slant = float(rng.uniform(-4, 4))
        for x, y in rng.uniform(0, 1, (160, 2)):
            start = (round(x * width), round(y * height))
            cv2.line(picture, start, (round(x * width + slant), round(y * height + 13)), (196, 200, 206), 1)
    elif weather < 0.09:
        for x, y, r in rng.uniform(0, 1, (220, 3)):
            cv2.circle(picture, (round(x * width), round(y * height)), 1 + round(2 * r), (238, 240, 244), -1)
    blur = float(rng.choice([0.55, 0.8, 1.3, 2.0], p=[0.5, 0.32, 0.13, 0.05]))
    taken: NDArray[Any] = cv2.GaussianBlur(picture, (0, 0), blur)
    exposure, gamma = float(rng.uniform(0.78, 1.25)), float(rng.uniform(0.85, 1.2))
    cast = np.array([rng.uniform(0.92, 1.08), 1.0, rng.uniform(0.92, 1.08)])
    ramp = np.linspace(0, 1, 256)[:, None]
    table = np.clip(255 * (ramp * exposure * cast) ** gamma, 0, 255).astype(np.uint8)
    taken = cv2.LUT(taken, table.reshape(1, 256, 3))
    strength = float(rng.uniform(0, 0.35))
    across, down = np.linspace(-1, 1, width) ** 2, np.linspace(-1, 1, height) ** 2
    shade = (255 * (1 - strength * (down[:, None] + across[None, :]) / 2)).astype(np.uint8)
    taken = cv2.multiply(taken, cv2.merge([shade, shade, shade]), scale=1 / 255)
    grain = int(rng.choice([1, 3, 6], p=[0.5, 0.35, 0.15]))
    noise = rng.integers(0, 2 * grain + 1, (height, width), dtype=np.uint8)
    taken = cv2.add(taken, cv2.merge([noise, noise, noise]))
    taken = cv2.subtract(taken, np.full_like(taken, grain))
    if rng.random() < 0.03:
        grey = cv2.cvtColor(taken, cv2.COLOR_RGB2GRAY)
        taken = cv2.merge([grey, grey, grey])
    return np.asarray(taken, dtype=np.uint8)


def unknown_structure(rng: Rng) -> Model:
    """A building of one of the families that is none of the landmarks."""
    family = sorted(BUILDERS)[int(rng.integers(0, len(BUILDERS)))]
    return structure(family, int(rng.integers(0, 6)), rng, mixed=True)
