"""Rays against boxes, upright cylinders and ellipsoids: what the standing parts of a scene are made of."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ingest.synthetic.kernel import kernel

F64 = NDArray[np.float64]

BOX, CYLINDER, BALL = 0, 1, 2
FAR_M = 1e6
"""Distance of a ray that hits nothing."""


def rows(kinds: Sequence[int], centres: ArrayLike, halves: ArrayLike, yaws: ArrayLike) -> F64:
    """Solids as the compiled functions take them, (K, 10): kind, centre, half sizes, cos and sin of the yaw, radius of the ball round it."""
    half, yaw = np.asarray(halves, np.float64), np.asarray(yaws, np.float64)
    ball = np.linalg.norm(half, axis=1)
    return np.column_stack([np.asarray(kinds), np.asarray(centres), half, np.cos(yaw), np.sin(yaw), ball])


@kernel
def _hit(solid, ox, oy, oz, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Distance along one ray to one solid and the normal there, in the solid's own frame; FAR_M where it misses."""
    c, s = solid[7], solid[8]
    px, py, pz = ox - solid[1], oy - solid[2], oz - solid[3]
    px, py = c * px + s * py, c * py - s * px
    dx, dy = c * dx + s * dy, c * dy - s * dx
    if solid[0] == 0:  # a box: three slabs
        near, far, axis, sign = -FAR_M, FAR_M, 0, 1.0
        for k in range(3):
            p = px if k == 0 else (py if k == 1 else pz)
            d = dx if k == 0 else (dy if k == 1 else dz)
            half = solid[4 + k]
            if abs(d) < 1e-12:
                if abs(p) > half:
                    return FAR_M, 0.0, 0.0, 1.0
                continue
            a, b = (-half - p) / d, (half - p) / d
            if a > b:
                a, b = b, a
            if a > near:
                near, axis, sign = a, k, (-1.0 if d > 0 else 1.0)
            far = min(far, b)
        if near > far or near < 1e-6:
            return FAR_M, 0.0, 0.0, 1.0
        return near, sign * (axis == 0), sign * (axis == 1), sign * (axis == 2)
    rx, ry, rz = solid[4], solid[5], solid[6]
    px, py, dx, dy = px / rx, py / ry, dx / rx, dy / ry
    if solid[0] == 1:  # an upright cylinder: its side, then its lid
        a, b, q = dx * dx + dy * dy, px * dx + py * dy, px * px + py * py - 1
        disc = b * b - a * q
        if disc > 0 and a > 1e-15:
            t = (-b - math.sqrt(disc)) / a
            z = pz + t * dz
            if t > 1e-6 and abs(z) <= rz:
                return t, px + t * dx, py + t * dy, 0.0
        if dz < -1e-12:
            t = (rz - pz) / dz
            x, y = px + t * dx, py + t * dy
            if t > 1e-6 and x * x + y * y <= 1:
                return t, 0.0, 0.0, 1.0
        return FAR_M, 0.0, 0.0, 1.0
    pz, dz = pz / rz, dz / rz
    a, b, q = dx * dx + dy * dy + dz * dz, px * dx + py * dy + pz * dz, px * px + py * py + pz * pz - 1
    disc = b * b - a * q
    if disc <= 0:
        return FAR_M, 0.0, 0.0, 1.0
    t = (-b - math.sqrt(disc)) / a
    if t < 1e-6:
        return FAR_M, 0.0, 0.0, 1.0
    nx, ny, nz = (px + t * dx) / rx, (py + t * dy) / ry, (pz + t * dz) / rz
    length = math.sqrt(nx * nx + ny * ny + nz * nz)
    return t, nx / length, ny / length, nz / length


@kernel
def trace(origin, rays, solids, windows, distance, solid_of, normal):  # type: ignore[no-untyped-def]
    """First hit of every ray: fills distance (H, W), solid_of (H, W) int, -1 for none, and normal (H, W, 3) in the solid's frame.

    origin (3,), rays (H, W, 3) of any length (distance counts in lengths of the ray), solids as `rows` makes them,
    windows (K, 4) int: the columns and rows that may see each solid, first and behind last (x1, y1, x2, y2).
    """
    distance[:] = FAR_M
    solid_of[:] = -1
    for k in range(solids.shape[0]):
        for y in range(windows[k, 1], windows[k, 3]):
            for x in range(windows[k, 0], windows[k, 2]):
                ray = rays[y, x]
                t, nx, ny, nz = _hit(solids[k], origin[0], origin[1], origin[2], ray[0], ray[1], ray[2])
                if t < distance[y, x]:
                    distance[y, x], solid_of[y, x] = t, k
                    normal[y, x, 0], normal[y, x, 1], normal[y, x, 2] = nx, ny, nz


@kernel
def openness(points, normals, directions, reach_m, solids, out):  # type: ignore[no-untyped-def]
    """Share of short rays from each point that leave freely: dark corners, and the dark under a table.

    points, normals (N, 3) in world frame, directions (N, R, 3) unit; fills out (N,) in [0, 1].
    """
    near = np.empty(solids.shape[0], np.int64)
    for i in range(points.shape[0]):
        free, count = 0, 0
        for k in range(solids.shape[0]):
            gap = 0.0
            for j in range(3):
                gap += (solids[k, 1 + j] - points[i, j]) ** 2
            if gap < (solids[k, 9] + reach_m) ** 2:
                near[count] = k
                count += 1
        for r in range(directions.shape[1]):
            dx, dy, dz = directions[i, r, 0], directions[i, r, 1], directions[i, r, 2]
            facing = dx * normals[i, 0] + dy * normals[i, 1] + dz * normals[i, 2]
            if facing < 0:
                dx, dy, dz = -dx, -dy, -dz
            x = points[i, 0] + 1e-3 * normals[i, 0]
            y = points[i, 1] + 1e-3 * normals[i, 1]
            z = points[i, 2] + 1e-3 * normals[i, 2]
            blocked = False
            for n in range(count):
                if _hit(solids[near[n]], x, y, z, dx, dy, dz)[0] < reach_m:
                    blocked = True
                    break
            free += not blocked
        out[i] = free / directions.shape[1]
