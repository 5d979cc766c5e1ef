"""The picture of an area without people, and its depth: drawn once per camera."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.camera import Pinhole
from ingest.synthetic.furniture import Solid
from ingest.synthetic.raycast import BALL, CYLINDER, openness, trace
from ingest.synthetic.surfaces import paint
from ingest.synthetic.world import Area

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

SAMPLES = 2
"""Colour samples per pixel and axis: with 1, tiles far away flicker into patterns."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands still before a camera."""

    rgb: NDArray[np.uint8]
    """(H, W, 3), before the camera's own colours."""
    depth: F32
    """(H, W) metres along the camera's axis."""


def draw_standing(area: Area, pinhole: Pinhole, seed: int) -> Standing:
    """Trace the area's solids through the camera."""
    camera = _Local(area, pinhole)
    solids = area.rows()
    height, width = pinhole.size_hw

    colour = cv2.resize(_colours(area, camera, solids, seed), (width, height), interpolation=cv2.INTER_AREA)

    rays = camera.rays(1)
    depth, owner, normal = _first_hits(camera, rays, solids, 1)
    points = camera.position + rays * depth[..., None]
    light = _lighting(area, points.reshape(-1, 3), _outward(solids, owner, normal).reshape(-1, 3), solids, seed)
    light = _smooth(light.reshape(height, width, 3), owner == 0)
    glow = np.array([s.glow for s in area.solids], np.float32)[owner][..., None]
    rgb = colour * np.where(owner[..., None] < 0, 1.0, np.maximum(light, glow))
    return Standing((np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8), depth.astype(np.float32))


class _Local:
    """The camera in the area's own axes."""

    def __init__(self, area: Area, pinhole: Pinhole) -> None:
        cos, sin = math.cos(area.turn), math.sin(area.turn)
        to_plan = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        self.pinhole = pinhole
        self.rotation = pinhole.rotation @ to_plan
        self.position = area.to_own(pinhole.position)

    def rays(self, samples: int) -> F64:
        """(H * samples, W * samples, 3), of depth 1 along the camera's axis, so that distances along them are depths."""
        height, width = self.pinhole.size_hw
        x = (np.arange(width * samples) + 0.5) / samples - 0.5 - self.pinhole.principal_point[0]
        y = (np.arange(height * samples) + 0.5) / samples - 0.5 - self.pinhole.principal_point[1]
        across, down = np.meshgrid(x / self.pinhole.focal, y / self.pinhole.focal)
        return np.ascontiguousarray(np.stack([across, down, np.ones_like(across)], axis=-1) @ self.rotation)

    def windows(self, solids: F64, samples: int) -> NDArray[np.int64]:
        """(K, 4): the part of the picture that may show each solid; all of it for one that reaches behind the camera."""
        height, width = self.pinhole.size_hw
        corner = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * solids[:, None, 4:7]
        cos, sin = solids[:, 7, None], solids[:, 8, None]
        x, y = cos * corner[..., 0] - sin * corner[..., 1], sin * corner[..., 0] + cos * corner[..., 1]
        seen = (np.stack([x, y, corner[..., 2]], axis=-1) + solids[:, None, 1:4] - self.position) @ self.rotation.T
        in_front = seen[..., 2].min(axis=1) > 0.05
        pixel = self.pinhole.focal * seen[..., :2] / np.maximum(seen[..., 2:], 0.05) + self.pinhole.principal_point
        low, high = np.floor(pixel.min(axis=1)), np.ceil(pixel.max(axis=1)) + 1
        windows = np.where(in_front[:, None], np.concatenate([low, high], axis=1), [0, 0, width, height])
        return (np.clip(windows, 0, [width, height, width, height]) * samples).astype(np.int64)


def _first_hits(camera: _Local, rays: F64, solids: F64, samples: int) -> tuple[F64, NDArray[np.int64], F64]:
    shape = rays.shape[:2]
    distance, owner, normal = np.empty(shape), np.empty(shape, np.int64), np.zeros((*shape, 3))
    trace(camera.position, rays, solids, camera.windows(solids, samples), distance, owner, normal)
    return distance, owner, normal


def _colours(area: Area, camera: _Local, solids: F64, seed: int) -> F32:
    """(H * SAMPLES, W * SAMPLES, 3) colours without light."""
    rays = camera.rays(SAMPLES)
    hits = _first_hits(camera, rays, solids, SAMPLES)
    distance, owner, normal = hits[0].ravel(), hits[1].ravel(), hits[2].reshape(-1, 3)
    shape, rays = rays.shape, rays.reshape(-1, 3)
    down = -rays[:, 2] / np.sqrt((rays * rays).sum(axis=1))
    away = np.array([0.75, 0.82, 0.9], np.float32) if area.style == "street" else np.array([0.2, 0.2, 0.2], np.float32)
    colour = away * (0.9 + 0.25 * down).astype(np.float32)[:, None]
    order = np.argsort(owner.astype(np.int16), kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(len(solids) + 1))
    for k, solid in enumerate(area.solids):
        mine = order[bounds[k] : bounds[k + 1]]
        if len(mine):
            u, v = _surface_uv(solid, camera.position + rays[mine] * distance[mine, None], normal[mine])
            colour[mine] = paint(solid.surface, u, v, solid.colour, solid.other, solid.size_m, seed * 31 + k)
    return np.asarray(colour.reshape(shape), np.float32)


def _surface_uv(solid: Solid, points: F64, normal: F64) -> tuple[F32, F32]:
    """Metres along the surface; v is the height above the floor on upright faces, above the middle on posters."""
    offset = points - np.array(solid.centre)
    cos, sin = math.cos(solid.yaw), math.sin(solid.yaw)
    x, y = cos * offset[:, 0] + sin * offset[:, 1], cos * offset[:, 1] - sin * offset[:, 0]
    z = offset[:, 2] if solid.surface == "poster" else points[:, 2]
    if solid.kind in (CYLINDER, BALL):
        upright = np.arctan2(y, x) * solid.half[0], z
    else:
        upright = np.where(np.abs(normal[:, 0]) > 0.5, y, x), z
    level = np.abs(normal[:, 2]) > (0.5 if solid.kind != BALL else 2.0)
    y = y - 100.0 if solid.surface == "body" else y  # no windows in its roof
    return np.where(level, x, upright[0]).astype(np.float32), np.where(level, y, upright[1]).astype(np.float32)


def _outward(solids: F64, owner: NDArray[np.int64], normal: F64) -> F64:
    """Normals in the area's axes."""
    cos, sin = solids[:, 7][owner], solids[:, 8][owner]
    x, y = normal[..., 0], normal[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y, normal[..., 2]], axis=-1)


def _lighting(area: Area, points: F64, normals: F64, solids: F64, seed: int) -> F32:
    """(N, 3): ambient light dimmed in corners plus one direct light with soft shadows."""
    rng = np.random.default_rng([seed, 77])
    height, street = len(points), area.style == "street"
    turn = -area.turn
    d = area.light.direction
    towards = np.array(
        [math.cos(turn) * d[0] - math.sin(turn) * d[1], math.sin(turn) * d[0] + math.cos(turn) * d[1], d[2]]
    )

    every_way = rng.normal(size=(64, 6, 3))
    every_way /= np.linalg.norm(every_way, axis=2, keepdims=True)
    blurred = rng.normal(0, 0.035 if street else 0.2, (64, 3, 3)) + towards
    blurred /= np.linalg.norm(blurred, axis=2, keepdims=True)
    which = rng.integers(0, 64, height)
    free, lit = np.empty(height), np.empty(height)
    openness(points, normals, every_way[which], 1.0, solids, free)
    openness(points, normals, blurred[which], 30.0 if street else 1.5, solids, lit)
    facing = np.clip(normals @ towards, 0, 1)
    ambient = area.light.ambient * (0.45 + 0.55 * free) * (0.85 + 0.15 * normals[:, 2])
    direct = area.light.strength * facing * lit * 1.3
    return np.asarray(ambient[:, None] + direct[:, None] * area.light.tint, np.float32)


def _smooth(light: F32, ground: NDArray[np.bool_]) -> F32:
    """Few rays per pixel leave grain: averaged away on the ground and on the rest apart, so that contacts stay sharp."""
    out = np.empty_like(light)
    for part in (ground, ~ground):
        weight = part.astype(np.float32)
        total = cv2.blur(light * weight[..., None], (7, 7))
        out[part] = (total / np.maximum(cv2.blur(weight, (7, 7)), 1e-6)[..., None])[part]
    return out
