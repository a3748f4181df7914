"""Photographs that show no landmark: streets, crowds, trees, food, signs, skies, cars, flowers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import cv2  # noqa: TID253 - the package `render` is imported only where pictures are rendered
import numpy as np

from glr_assets.source.render import surroundings
from glr_assets.source.render.camera import Camera, Light
from glr_assets.source.render.facades import Bytes
from glr_assets.source.render.photograph import (
    SCALE,
    SIZES,
    generator,
    jpeg,
    photographed,
    sensed,
    unknown_structure,
    weather,
)

Rng = np.random.Generator
Size = tuple[int, int]


def non_landmark_photo(seed: int, number: int) -> bytes:
    """The JPEG of picture `number` without a landmark; the kinds take turns."""
    rng = generator(seed, "non_landmark", number)
    kinds = tuple(KINDS.values())
    size = SIZES[int(rng.integers(0, len(SIZES)))]
    return jpeg(rng, kinds[number % len(kinds)](rng, size))


def open_place(rng: Rng, size: Size) -> tuple[Bytes, Camera, Light]:
    """Sky, hills at times and ground, seen from somewhere, in some weather."""
    light, top, low, clouds = weather(rng)
    picture = surroundings.sky(rng, size, top, low, clouds)
    horizon = size[1] * float(rng.uniform(0.4, 0.7))
    roll = float(rng.normal(0, 0.02))
    camera = Camera(SCALE * 1.5, SCALE * 0.15, 0.0, roll, size[0] * 0.9, (size[0] / 2, horizon))
    if rng.random() < 0.6:
        surroundings.hills(rng, picture, camera, light)
    surroundings.ground(rng, picture, camera, light, SCALE)
    return picture, camera, light


def _street(rng: Rng, size: Size) -> Bytes:
    picture, camera, light = open_place(rng, size)
    surroundings.neighbours(rng, picture, camera, light, SCALE, int(rng.integers(8, 16)))
    surroundings.foreground(rng, picture, light)
    return sensed(rng, picture)


def _crowd(rng: Rng, size: Size) -> Bytes:
    picture, camera, light = open_place(rng, size)
    surroundings.neighbours(rng, picture, camera, light, SCALE, int(rng.integers(0, 5)))
    width, height = size
    for share in np.sort(rng.uniform(0, 1, int(rng.integers(15, 45)))):
        tall = height * (0.15 + 0.5 * float(share))
        at = (width * float(rng.uniform(0, 1)), height * (0.68 + 0.45 * float(share)))
        surroundings.person(rng, picture, at, tall, light)
    return sensed(rng, picture)


def _trees(rng: Rng, size: Size) -> Bytes:
    picture, _, light = open_place(rng, size)
    width, height = size
    for share in np.sort(rng.uniform(0, 1, int(rng.integers(8, 22)))):
        at = (width * float(rng.uniform(0, 1)), height * (0.6 + 0.5 * float(share)))
        surroundings.tree(rng, picture, at, height * (0.3 + 0.7 * float(share)), light)
    return sensed(rng, picture)


def _view(rng: Rng, size: Size) -> Bytes:
    picture, _, _ = open_place(rng, size)
    return sensed(rng, picture)


def _building(rng: Rng, size: Size) -> Bytes:
    return photographed(rng, unknown_structure(rng))


def _cars(rng: Rng, size: Size) -> Bytes:
    picture, camera, light = open_place(rng, size)
    surroundings.neighbours(rng, picture, camera, light, SCALE, int(rng.integers(0, 8)))
    width, height = size
    for share in np.sort(rng.uniform(0, 1, int(rng.integers(1, 6)))):
        at = (width * float(rng.uniform(0.1, 0.9)), height * (0.75 + 0.25 * float(share)))
        surroundings.car(rng, picture, at, width * (0.25 + 0.6 * float(share)), light)
    return sensed(rng, picture)


def table_top(rng: Rng, size: Size) -> Bytes:
    """A table's grain, seen from above."""
    height = size[1]
    base = np.asarray(surroundings.pick(rng, surroundings.GROUNDS), np.float32)
    grain = cv2.resize(rng.uniform(0.85, 1.15, (height // 4, 6)).astype(np.float32), size)
    return np.clip(base * grain[:, :, None], 0, 255).astype(np.uint8)


def _food(rng: Rng, size: Size) -> Bytes:
    picture = table_top(rng, size)
    for _ in range(int(rng.integers(1, 4))):
        centre = rng.uniform(0.25, 0.75, 2) * size
        radius, flat = float(rng.uniform(0.2, 0.4)) * min(size), float(rng.uniform(0.6, 1.0))
        at = (round(float(centre[0])), round(float(centre[1])))
        for share, colour in ((1.0, (236, 234, 228)), (0.72, (218, 216, 210))):
            axes = (round(radius * share), round(radius * share * flat))
            cv2.ellipse(picture, at, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)
        palette = rng.uniform((60, 30, 10), (240, 190, 110), (4, 3))
        for _ in range(int(rng.integers(20, 70))):
            reach, turn = 0.6 * radius * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
            x, y = centre[0] + reach * np.cos(turn), centre[1] + flat * reach * np.sin(turn)
            colour = (palette[int(rng.integers(0, 4))] * rng.uniform(0.8, 1.1)).tolist()
            axes = (max(2, round(radius * rng.uniform(0.05, 0.16))), max(2, round(radius * rng.uniform(0.03, 0.1))))
            cv2.ellipse(
                picture, (round(float(x)), round(float(y))), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1
            )
    return sensed(rng, picture)


WORDS: Final = "MENU OPEN TICKETS PLATFORM EXIT MUSEUM NOTICE TODAY COFFEE 1887 ROUTE 12 ARRIVALS SALE HOTEL".split()  # noqa: SIM905 - shorter to read


def _sign(rng: Rng, size: Size) -> Bytes:
    width, height = size
    paper = rng.uniform(150, 245) * rng.uniform(0.85, 1.05, 3)
    picture = np.full((height, width, 3), np.clip(paper, 0, 255), np.uint8)
    ink = rng.uniform(10, 90, 3).tolist()
    y = height * 0.15
    while y < height * 0.92:
        scale = float(rng.choice(np.array([0.6, 0.9, 1.6, 2.4])))
        text = " ".join(WORDS[int(rng.integers(0, len(WORDS)))] for _ in range(int(rng.integers(2, 6))))
        font = int(rng.choice(np.array([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_TRIPLEX])))
        cv2.putText(
            picture, text, (round(width * 0.06), round(y)), font, scale, ink, max(1, round(scale * 1.5)), cv2.LINE_AA
        )
        y += 34 * scale + 8
    return sensed(rng, picture)


def _flowers(rng: Rng, size: Size) -> Bytes:
    green = np.asarray(surroundings.pick(rng, surroundings.LEAVES), np.float32)
    mottled = cv2.resize(rng.uniform(0.5, 1.3, (40, 40)).astype(np.float32), size)
    picture = np.clip(green * mottled[:, :, None], 0, 255).astype(np.uint8)
    hue = rng.uniform((120, 30, 60), (250, 220, 240))
    for _ in range(int(rng.integers(3, 26))):
        x, y = rng.uniform(0, 1, 2) * size
        radius = float(rng.uniform(0.04, 0.14)) * min(size)
        petals = int(rng.integers(5, 10))
        for petal in range(petals):
            turn = 2 * np.pi * petal / petals
            at = (round(float(x + radius * 0.6 * np.cos(turn))), round(float(y + radius * 0.6 * np.sin(turn))))
            axes = (max(2, round(radius * 0.55)), max(1, round(radius * 0.28)))
            colour = np.clip(hue * rng.uniform(0.8, 1.1), 0, 255).tolist()
            cv2.ellipse(picture, at, axes, float(np.degrees(turn)), 0, 360, colour, -1, cv2.LINE_AA)
        cv2.circle(picture, (round(float(x)), round(float(y))), max(2, round(radius * 0.3)), (222, 180, 60), -1)
    return sensed(rng, picture)


KINDS: Final[dict[str, Callable[[Rng, Size], Bytes]]] = {
    "street": _street,
    "crowd": _crowd,
    "trees": _trees,
    "food": _food,
    "building": _building,
    "sign": _sign,
    "view": _view,
    "cars": _cars,
    "flowers": _flowers,
}
