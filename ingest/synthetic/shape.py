"""The shapes of bodies and clothes at rest: grids of rings, each with a width, a depth to the front and one to the back.

Arguments are shares of the person's height unless said otherwise; the grids are in metres.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ingest.synthetic.build import CHIN, ELBOW, KNEE, WRIST, Build

Points = NDArray[np.float64]


def rings(
    z: ArrayLike,
    width: ArrayLike,
    front: ArrayLike,
    back: ArrayLike,
    *,
    rows: int,
    columns: int,
    x: ArrayLike = 0.0,
    y: ArrayLike = 0.0,
    square: float = 2.0,
    cap_top: bool = False,
    cap_bottom: bool = False,
) -> Points:
    """A grid (rows, columns + 1, 3) through rings given from top to bottom; column 0 and the last are the back's seam.

    Args:
        square: exponent of the rings' outline: 2 is an ellipse, 4 nearly a box.
        cap_top, cap_bottom: close that end with one more row.
    """
    z = np.asarray(z, np.float64)
    profile = np.stack([np.broadcast_to(np.asarray(v, np.float64), z.shape) for v in (z, width, front, back, x, y)])
    length = np.concatenate([[0], np.cumsum(np.hypot(np.diff(z), 0.3 * np.diff(profile[1])) + 1e-9)])
    inner = rows - int(cap_top) - int(cap_bottom)
    at = np.linspace(0, length[-1], inner)
    profile = np.stack([np.interp(at, length, line) for line in profile])
    pinch = np.array([[1.0], [0.05], [0.05], [0.05], [1.0], [1.0]])
    if cap_top:
        profile = np.concatenate([profile[:, :1] * pinch, profile], axis=1)
    if cap_bottom:
        profile = np.concatenate([profile, profile[:, -1:] * pinch], axis=1)
    turn = 2 * np.pi * np.arange(columns + 1) / columns
    sin, cos = np.sin(turn), -np.cos(turn)
    side = np.sign(sin) * np.abs(sin) ** (2 / square)
    depth = np.sign(cos) * np.abs(cos) ** (2 / square)
    height, wide, fore, aft, cx, cy = (line[:, None] for line in profile)
    grid = np.empty((rows, columns + 1, 3))
    grid[..., 0] = cx + wide * side
    grid[..., 1] = cy + np.where(depth > 0, fore, aft) * depth
    grid[..., 2] = height
    return grid


def torso(
    build: Build,
    top: float,
    bottom: float,
    ease: float,
    *,
    rows: int,
    columns: int,
    flare: float = 0.0,
    boxy: float = 0.0,
) -> Points:
    """The trunk, or cloth that lies on it: from the neck or below (`top`) down to `bottom`, which may be a hem on the legs.

    Args:
        ease: how far the cloth stands off the skin.
        flare: how much wider the hem is than the body there.
        boxy: 0 follows the waist, 1 hangs straight over it.
    """
    g = 0.35 + 0.65 * build.girth
    z = np.array(
        [0.856, 0.845, 0.832, 0.822, 0.812, 0.798, 0.778, 0.745, 0.71, 0.67, 0.62, 0.575, 0.53, 0.49, 0.44, 0.3, 0.1]
    )
    width = np.array(
        [
            0.031,
            0.036,
            0.055,
            0.074,
            0.089,
            0.099,
            0.103,
            0.101,
            0.097,
            0.091,
            0.086,
            0.091,
            0.098,
            0.097,
            0.092,
            0.085,
            0.08,
        ]
    )
    front = np.array(
        [
            0.030,
            0.031,
            0.033,
            0.038,
            0.043,
            0.048,
            0.053,
            0.059,
            0.061,
            0.058,
            0.055,
            0.055,
            0.055,
            0.054,
            0.052,
            0.05,
            0.05,
        ]
    )
    back = np.array(
        [
            0.034,
            0.038,
            0.043,
            0.049,
            0.054,
            0.059,
            0.063,
            0.064,
            0.060,
            0.053,
            0.050,
            0.055,
            0.065,
            0.064,
            0.055,
            0.05,
            0.05,
        ]
    )
    up = np.clip((z - 0.6) / 0.2, 0, 1)
    wide = np.where(z > 0.66, build.shoulder * up + build.waist * (1 - up), build.waist)
    hips = np.clip((0.62 - z) / 0.07, 0, 1)
    wide = wide * (1 - hips) + build.hip * hips
    wide = np.where(z > 0.835, 1.0, wide)
    body = np.where(z > 0.825, 0.6 + 0.4 * g, g)
    width, front, back = width * wide * body, front * body, back * body
    front = (
        front + build.bust * np.exp(-(((z - 0.735) / 0.03) ** 2)) + build.belly * np.exp(-(((z - 0.60) / 0.06) ** 2))
    )
    width = width + 0.5 * build.belly * np.exp(-(((z - 0.60) / 0.06) ** 2))
    if boxy > 0:
        below = z < 0.78
        for line in (width, front, back):
            straight = np.maximum.accumulate(np.where(below, line, 0))
            line[below] += boxy * (straight - line)[below]
    down = np.clip((0.62 - z) / (0.62 - min(bottom, 0.6)), 0, 1)
    ease_here = ease * np.clip((0.87 - z) / 0.05, 0.25, 1)
    width, front, back = (line + ease_here + flare * down for line in (width, front, back))
    keep = (z < top) & (z > bottom)
    zs = np.concatenate([[top], z[keep], [bottom]])
    lines = [np.interp(-zs, -z, line) for line in (width, front, back)]
    middle = np.interp(-zs, -z, np.where(z > 0.8, -0.008, -0.004))
    h = build.height_m
    return rings(
        zs * h,
        lines[0] * h,
        lines[1] * h,
        lines[2] * h,
        rows=rows,
        columns=columns,
        y=middle * h,
        square=2.35,
        cap_top=True,
        cap_bottom=True,
    )


def arm(
    build: Build, side: int, top: float, bottom: float, ease: float, *, rows: int, columns: int, flare: float = 0.0
) -> Points:
    """One arm or sleeve hanging down, from the shoulder's cap (`top` 0.82) to `bottom`."""
    g = 0.4 + 0.6 * build.girth
    z = np.array([0.822, 0.816, 0.803, 0.785, 0.75, 0.70, 0.65, ELBOW, 0.60, 0.56, 0.51, WRIST, 0.44])
    r = np.array([0.006, 0.018, 0.027, 0.031, 0.030, 0.0275, 0.0235, 0.0225, 0.0235, 0.022, 0.0175, 0.0145, 0.014]) * g
    down = np.clip((0.79 - z) / max(0.79 - bottom, 0.02), 0, 1)
    r = r + ease * np.clip((0.83 - z) / 0.05, 0.2, 1) + flare * down
    keep = (z < top) & (z > bottom)
    zs = np.concatenate([[top], z[keep], [bottom]])
    radius = np.interp(-zs, -z, r) * build.height_m
    inward = np.interp(-zs, -z, np.where(z > 0.80, -0.010, 0.0))
    x = (build.shoulder_x + inward) * build.height_m * (-1 if side else 1)
    return rings(
        zs * build.height_m,
        radius,
        radius * 1.08,
        radius * 1.08,
        rows=rows,
        columns=columns,
        x=x,
        y=-0.004 * build.height_m,
        cap_bottom=True,
    )


def hand(build: Build, side: int, *, rows: int, columns: int) -> Points:
    """A loosely closed hand."""
    z = np.array([WRIST + 0.006, WRIST - 0.008, 0.452, 0.430, 0.405, 0.392]) * build.height_m
    wide = np.array([0.012, 0.013, 0.015, 0.015, 0.012, 0.003]) * build.height_m * (0.7 + 0.3 * build.girth)
    deep = np.array([0.014, 0.018, 0.025, 0.026, 0.019, 0.006]) * build.height_m
    x = build.shoulder_x * build.height_m * (-1 if side else 1)
    return rings(z, wide, deep, deep, rows=rows, columns=columns, x=x, y=0.0, cap_bottom=True)


def leg(
    build: Build, side: int, top: float, bottom: float, ease: float, *, rows: int, columns: int, flare: float = 0.0
) -> Points:
    """One leg, trouser leg or stocking, from inside the pelvis (`top` 0.53) to `bottom`."""
    g = 0.35 + 0.65 * build.girth
    z = np.array([0.53, 0.50, 0.47, 0.42, 0.36, 0.31, KNEE, 0.255, 0.21, 0.16, 0.10, 0.06, 0.03, 0.012])
    wide = (
        np.array([0.045, 0.048, 0.0475, 0.044, 0.0385, 0.034, 0.0325, 0.031, 0.032, 0.029, 0.0215, 0.019, 0.021, 0.023])
        * g
    )
    front = (
        np.array([0.045, 0.050, 0.049, 0.046, 0.041, 0.036, 0.0345, 0.031, 0.028, 0.025, 0.0205, 0.020, 0.026, 0.03])
        * g
    )
    back = (
        np.array([0.050, 0.054, 0.050, 0.044, 0.037, 0.032, 0.030, 0.034, 0.038, 0.035, 0.025, 0.023, 0.024, 0.026]) * g
    )
    down = np.clip((0.48 - z) / max(0.48 - bottom, 0.02), 0, 1)
    wide, front, back = (
        line + ease * (0.3 + 0.7 * np.clip((0.53 - z) / 0.1, 0, 1)) + flare * down**2 for line in (wide, front, back)
    )
    keep = (z < top) & (z > bottom)
    zs = np.concatenate([[top], z[keep], [bottom]])
    w, f, b = (np.interp(-zs, -z, line) * build.height_m for line in (wide, front, back))
    x = build.hip_x * build.height_m * (-1 if side else 1) * np.interp(zs, [0.0, 0.3, 0.55], [0.88, 0.95, 1.0])
    y = np.interp(-zs, -z, np.where(z < 0.26, -0.006, 0.0)) * build.height_m
    return rings(zs * build.height_m, w, f, b, rows=rows, columns=columns, x=x, y=y, square=2.1, cap_bottom=True)


def shoe(build: Build, side: int, *, rows: int, columns: int, sole: float, ankle: float) -> Points:
    """A shoe or boot: rings from the leg's opening down to the sole, drawn out to the toes."""
    z = np.array([ankle, max(0.046, ankle * 0.8), 0.038, 0.026, 0.012, 0.004, 0.0])
    wide = np.array([0.022, 0.022, 0.024, 0.027, 0.0285, 0.0285, 0.026]) + sole
    front = np.array([0.024, 0.028, 0.050, 0.085, 0.104, 0.106, 0.100]) + sole
    back = np.array([0.026, 0.027, 0.030, 0.034, 0.037, 0.037, 0.034]) + sole
    h = build.height_m
    x = build.hip_x * h * (-1 if side else 1) * 0.9
    return rings(
        z * h,
        wide * h,
        front * h,
        back * h,
        rows=rows,
        columns=columns,
        x=x,
        y=-0.006 * h,
        square=2.5,
        cap_top=True,
        cap_bottom=True,
    )


def head(build: Build, *, rows: int, columns: int) -> Points:
    """Neck, jaw, face and skull with nose and ears."""
    k = build.head
    t = np.array([-0.052, -0.035, -0.012, 0.000, 0.010, 0.025, 0.045, 0.062, 0.080, 0.098, 0.112, 0.122, 0.128])
    wide = np.array([0.034, 0.030, 0.029, 0.030, 0.0345, 0.0385, 0.0415, 0.0430, 0.0435, 0.0405, 0.033, 0.021, 0.003])
    front = np.array([0.028, 0.026, 0.030, 0.049, 0.055, 0.056, 0.0565, 0.056, 0.0545, 0.049, 0.039, 0.024, 0.003])
    back = np.array([0.034, 0.032, 0.032, 0.033, 0.037, 0.046, 0.054, 0.058, 0.0585, 0.053, 0.042, 0.026, 0.003])
    z = CHIN + t * k
    neck = np.where(t < -0.005, 0.5 + 0.5 * build.girth, k * (0.85 + 0.15 * build.girth))
    h = build.height_m
    y = np.where(t < -0.005, -0.010, -0.002)
    grid = rings(
        z[::-1] * h,
        (wide * neck)[::-1] * h,
        (front * neck)[::-1] * h,
        (back * neck)[::-1] * h,
        rows=rows,
        columns=columns,
        y=y[::-1] * h,
        square=2.15,
    )
    turn = np.arange(columns + 1) / columns
    level = (grid[..., 2] / h - CHIN) / k
    nose = np.exp(-(((level - 0.054) / 0.011) ** 2)) * np.exp(-(((turn[None] - 0.5) / 0.035) ** 2))
    ears = np.exp(-(((level - 0.062) / 0.013) ** 2)) * (
        np.exp(-(((turn[None] - 0.24) / 0.025) ** 2)) - np.exp(-(((turn[None] - 0.76) / 0.025) ** 2))
    )
    grid[..., 1] += 0.012 * k * h * nose
    grid[..., 0] += 0.009 * k * h * ears
    return grid


def on_head(
    build: Build,
    edge_front: float,
    edge_side: float,
    edge_back: float,
    lift: float,
    top_lift: float,
    *,
    rows: int,
    columns: int,
    drop: float = 0.0,
) -> Points:
    """What covers the skull (hair, cap, hood) from the crown down to an edge that differs round the head.

    Args:
        edge_front, edge_side, edge_back: heights of the edge above the chin, shares of the head's unit; negative hangs below.
        lift, top_lift: how far it stands off the skin at the sides and on the crown.
        drop: how far what hangs below the jaw is pushed to the back.
    """
    k, h = build.head, build.height_m
    t = np.array([-0.30, -0.1, -0.03, 0.0, 0.03, 0.062, 0.080, 0.098, 0.112, 0.122, 0.128])
    wide = np.array([0.050, 0.047, 0.042, 0.040, 0.041, 0.0430, 0.0435, 0.0405, 0.033, 0.021, 0.002])
    front = np.array([0.050, 0.052, 0.054, 0.0555, 0.0565, 0.056, 0.0545, 0.049, 0.039, 0.024, 0.002])
    back = np.array([0.060, 0.052, 0.044, 0.044, 0.050, 0.058, 0.0585, 0.053, 0.042, 0.026, 0.002])
    turn = 2 * np.pi * np.arange(columns + 1) / columns
    sin, cos = np.sin(turn), -np.cos(turn)
    front_edge = edge_front + (edge_side - edge_front) * np.clip((1 - cos) / 0.75, 0, 1) ** 2.2
    back_edge = edge_side + (edge_back - edge_side) * np.clip(-cos * 1.4, 0, 1)
    edge = np.where(cos > 0, front_edge, back_edge)
    part = np.linspace(0, 1, rows)[:, None] ** 0.85
    level = 0.128 + part * (edge[None] - 0.128)
    w, f, b = (np.interp(level, t, line) for line in (wide, front, back))
    off = lift + (top_lift - lift) * np.clip((level - 0.07) / 0.058, 0, 1)
    flat = np.where(part == 0, 0.0, 1.0)
    grid = np.empty((rows, columns + 1, 3))
    grid[..., 0] = (w * k + off * flat) * np.sign(sin) * np.abs(sin) ** 0.93
    depth = np.sign(cos) * np.abs(cos) ** 0.93
    grid[..., 1] = -0.002 + (np.where(cos > 0, f, b) * k + off * flat) * depth - drop * np.clip(-level / 0.1, 0, 1)
    grid[..., 2] = CHIN + level * k + np.clip((level - 0.09) / 0.038, 0, 1) * top_lift
    return grid * h


def box(
    middle: Sequence[float], half: Sequence[float], *, rows: int, columns: int, square: float = 5.0, tilt: float = 0.0
) -> Points:
    """A rounded box such as a bag: middle and half sizes (x, y, z) in metres."""
    z = np.array([1.0, 0.93, 0.75, 0.0, -0.75, -0.95, -1.0])
    size = np.array([0.82, 0.95, 1.0, 1.0 + tilt, 1.0 + 1.5 * tilt, 0.96 + tilt, 0.85 + tilt])
    return rings(
        middle[2] + z * half[2], size * half[0], size * half[1], size * half[1],
        rows=rows, columns=columns, x=middle[0], y=middle[1], square=square, cap_top=True, cap_bottom=True,
    )  # fmt: skip


def ring(middle: Sequence[float], radius: tuple[float, float], thick: float, *, rows: int, columns: int) -> Points:
    """A thick ring that lies flat (scarf, collar, hat's brim): middle, half width and half depth of its circle, metres."""
    turn = np.pi * np.linspace(0.5, -1.5, rows)  # from the top outwards, under and back inside
    out, up = np.cos(turn) * thick, np.sin(turn) * thick
    return rings(
        middle[2] + up, radius[0] + out, radius[1] + out, radius[1] + out,
        rows=rows, columns=columns, x=middle[0], y=middle[1],
    )  # fmt: skip
