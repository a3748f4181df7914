"""A camera, a light, and the drawing of a model as they show it: nearer faces over farther ones."""

from __future__ import annotations

from dataclasses import dataclass

import cv2  # noqa: TID253 - the package `render` is imported only where pictures are rendered
import numpy as np
from numpy.typing import NDArray

from glr_assets.source.render.facades import Bytes, Facade
from glr_assets.source.render.solids import Floats, Model

_SUBPIXEL = 4
"""Bits of a pixel's fraction in cv2's polygon coordinates."""
_RAMP = np.arange(256, dtype=np.float64)[:, None]


@dataclass(frozen=True)
class Light:
    """What falls on the scene: factors a channel, and the unit direction towards the sun.

    `haze` is what distance mixes into colours, by the share `haze_share`; windows whose number (1 to 255)
    is below `lit` shine.
    """

    sun: tuple[float, float, float]
    direction: tuple[float, float, float]
    ambient: tuple[float, float, float]
    haze: tuple[float, float, float]
    haze_share: float = 0.0
    lit: int = 0


@dataclass(frozen=True)
class Camera:
    """A pinhole at (0, -distance, height), pitched up and rolled (radians); focal length and centre in pixels."""

    distance: float
    height: float
    pitch: float
    roll: float
    focal: float
    centre: tuple[float, float]

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """Pixels (n, 2) and depths (n,) of points (n, 3); what lies behind is held just before the lens."""
        x, y, z = points[:, 0], points[:, 1] + self.distance, points[:, 2] - self.height
        cos, sin = np.cos(self.pitch), np.sin(self.pitch)
        depth = np.maximum(y * cos + z * sin, 0.05 * self.distance)
        across, up = x / depth, (z * cos - y * sin) / depth
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        u = self.centre[0] + self.focal * (across * cos + up * sin)
        v = self.centre[1] - self.focal * (up * cos - across * sin)
        return np.stack([u, v], axis=1), depth

    def horizon(self, width: int) -> tuple[float, float]:
        """The rows at which the horizon meets the left and right edge of a picture."""
        level = self.centre[1] + self.focal * np.tan(self.pitch) / np.cos(self.roll)
        slope = np.tan(self.roll)
        left = level - self.centre[0] * slope
        right = level + (width - self.centre[0]) * slope
        return float(left), float(right)


def turned(points: Floats, yaw: float) -> Floats:
    """Points turned about the vertical through the origin by `yaw` radians."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return points @ np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def draw(
    picture: Bytes,
    model: Model,
    camera: Camera,
    light: Light,
    yaw: float,
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> None:
    """Draw `model`, turned by `yaw` and then moved by `offset`, onto `picture` in place."""
    move = np.asarray(offset)
    normals = turned(model.normals, yaw)
    centres = turned(model.centres, yaw) + move
    eye = np.array([0.0, -camera.distance, camera.height])
    facing = np.einsum("ij,ij->i", normals, centres - eye)
    normals = np.where((model.two_sided & (facing > 0))[:, None], -normals, normals)
    pixels, _ = camera.project(turned(model.points, yaw) + move)
    frames, _ = camera.project(turned(model.frames.reshape(-1, 3), yaw) + move)
    frames = frames.reshape(-1, 4, 2)
    shades = _shades(normals, light)
    far = np.linalg.norm(centres - eye, axis=1)
    solids = np.linalg.norm(turned(model.solid_centres, yaw) + move - eye, axis=1) - model.nearer
    order = np.lexsort((-far, model.layers, model.solid, -solids[model.solid]))
    fixed = np.round(np.clip(pixels, -4000, 4000) * 2**_SUBPIXEL).astype(np.int32)
    haze, keep = np.asarray(light.haze) * light.haze_share, 1 - light.haze_share
    for index in order[(facing < 0)[order] | model.two_sided[order]]:
        face = model.faces[index]
        corners = fixed[model.starts[index] : model.starts[index + 1]]
        if face.facade is not None:
            polygon = None if face.convex else corners
            table = np.clip(_RAMP * shades[index] * keep + haze, 0, 255).astype(np.uint8)
            _lay(picture, face.facade, frames[index], table, light.lit, polygon)
            continue
        colour = np.clip(np.asarray(face.colour) * shades[index] * keep + haze, 0, 255)
        if face.convex:
            cv2.fillConvexPoly(picture, corners, colour.tolist(), cv2.LINE_8, _SUBPIXEL)
        else:
            cv2.fillPoly(picture, [corners], colour.tolist(), cv2.LINE_8, _SUBPIXEL)


def _shades(normals: Floats, light: Light) -> Floats:
    """Factors (n, 3): the sun by Lambert's cosine law, the sky by how much of it a face sees."""
    direct = np.clip(normals @ np.asarray(light.direction), 0, None)[:, None] * np.asarray(light.sun)
    return direct + (0.75 + 0.25 * normals[:, 2:3]) * np.asarray(light.ambient)


def _lay(
    picture: Bytes,
    facade: Facade,
    frame: Floats,
    table: Bytes,
    lit: int,
    polygon: NDArray[np.int32] | None,
) -> None:
    """Warp a facade onto the four pixels `frame`, its colours by `table`, within `polygon` if any."""
    rows, columns = picture.shape[:2]
    left, top = np.floor(frame.min(axis=0)).astype(int) - 1
    right, foot = np.ceil(frame.max(axis=0)).astype(int) + 2
    left, top, right, foot = max(left, 0), max(top, 0), min(right, columns), min(foot, rows)
    if right - left < 2 or foot - top < 2:
        return
    area = abs(float(cv2.contourArea(frame.astype(np.float32))))
    level = 0
    while level + 1 < len(facade.pictures) and facade.pictures[level].shape[0] * facade.pictures[level].shape[
        1
    ] > 2.5 * max(area, 1.0):
        level += 1
    shaded = cv2.LUT(facade.pictures[level], table.reshape(1, 256, 3))
    if lit:
        windows = facade.windows[level]
        shaded[(windows > 0) & (windows < lit)] = (255, 214, 140)
    height, width = shaded.shape[:2]
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32) - 0.5
    matrix = cv2.getPerspectiveTransform(corners, (frame - (left, top)).astype(np.float32))
    size = (int(right - left), int(foot - top))
    region = picture[top:foot, left:right]
    if polygon is None:
        cv2.warpPerspective(shaded, matrix, size, region, cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT)
        return
    warped = cv2.warpPerspective(shaded, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mask = np.zeros((size[1], size[0]), np.uint8)
    shifted = polygon - np.array([left, top], np.int32) * 2**_SUBPIXEL
    cv2.fillPoly(mask, [shifted], (255,), cv2.LINE_8, _SUBPIXEL)
    cv2.copyTo(warped, mask, region)
