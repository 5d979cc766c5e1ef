"""Procedural surfaces of rooms and streets: tiles, planks, bricks, glass, goods on shelves, leaves.

Every function takes surface coordinates in metres and returns colours; nothing is stored, all of it follows from a seed.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.kernel import kernel

F32 = NDArray[np.float32]

_GRAIN = np.random.default_rng(20_11).random((256, 256), dtype=np.float32)


def _grain(u: F32, v: F32, scale_m: float, seed: int) -> F32:
    """Smooth noise in [0, 1] with features of scale_m, repeating after 256 of them."""
    out = np.empty(len(u), np.float32)
    _interpolate(u, v, 1.0 / scale_m, seed % 251, seed % 241, _GRAIN, out)
    return out


@kernel
def _interpolate(u, v, scale, shift_u, shift_v, grain, out):  # type: ignore[no-untyped-def]
    for n in range(len(u)):
        x, y = u[n] * scale + shift_u, v[n] * scale + shift_v
        i, j = int(np.floor(x)), int(np.floor(y))
        fx, fy = x - i, y - j
        fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
        i0, i1, j0, j1 = i & 255, (i + 1) & 255, j & 255, (j + 1) & 255
        top = grain[j0, i0] * (1 - fx) + grain[j0, i1] * fx
        out[n] = top * (1 - fy) + (grain[j1, i0] * (1 - fx) + grain[j1, i1] * fx) * fy


def _cell(i: F32, j: F32, seed: int) -> NDArray[np.int64]:
    """A fixed arbitrary number per cell of a grid."""
    a = i.astype(np.int64) * 73_856_093 ^ j.astype(np.int64) * 19_349_663 ^ seed * 83_492_791
    a = (a ^ (a >> 13)) * 1_274_126_177
    return (a ^ (a >> 16)) & 0xFFFF


def _mix(first: F32, second: F32, share: F32) -> F32:
    return first + (second - first) * share[:, None]


def _plain(u: F32, v: F32, colour: F32, other: F32, size_m: float, seed: int) -> F32:
    stain = 0.92 + 0.12 * _grain(u, v, 0.9, seed) + 0.04 * _grain(u, v, 0.07, seed)
    return colour * stain[:, None]


def _tiles(u: F32, v: F32, colour: F32, other: F32, size_m: float, seed: int) -> F32:
    i, j = np.floor(u / size_m), np.floor(v / size_m)
    value = _cell(i, j, seed)
    joint = np.minimum(u / size_m - i, v / size_m - j) * size_m < 0.012 + 0.01 * size_m
    tone = (0.93 + 0.12 * (value & 255) / 255.0).astype(np.float32) * (0.94 + 0.1 * _grain(u, v, 1.5, seed))
    chequered = ((i + j) % 2 == 0) if seed % 3 == 0 else (value & 15) == 0
    out = np.where(chequered[:, None], other, colour) * tone[:, None]
    return np.where(joint[:, None], out * 0.62, out).astype(np.float32)


def _planks(u: F32, v: F32, colour: F32, other: F32, size_m: float, seed: int) -> F32:
    row = np.floor(u / (size_m * 0.4))
    shift = (_cell(row, row, seed) & 255) / 255.0 * size_m * 4
    plank = np.floor((v + shift) / (size_m * 4))
    tone = 0.82 + 0.3 * ((_cell(row, plank, seed) & 255) / 255.0)
    fibre = 0.9 + 0.2 * _grain(u * 12, v, 0.25, seed)
    seam = (u / (size_m * 0.4) - row < 0.06) | ((v + shift) / (size_m * 4) - plank < 0.008)
    return colour * (tone * fibre * np.where(seam, 0.7, 1.0)).astype(np.float32)[:, None]


def _bricks(u: F32, v: F32, colour: F32, other: F32, size_m: float, seed: int) -> F32:
    width, height = size_m * 0.6, size_m * 0.2
    row = np.floor(v / height)
    x = u / width + 0.5 * (row % 2)
    column = np.floor(x)
    joint = (x - column < 0.05) | (v / height - row < 0.13)
    tone = 0.78 + 0.36 * ((_cell(column, row, seed) & 255) / 255.0)
    out = colour * (tone * (0.9 + 0.2 * _grain(u, v, 0.05, seed))).astype(np.float32)[:, None]
    return np.where(joint[:, None], other * 0.8, out).astype(np.float32)


def _speckle(u: F32, v: F32, colour: F32, other: F32, size_m: float, seed: int) -> F32:
    fine = _grain(u, v, 0.035, seed)
    return _mix(colour, other, np.clip(fine * 1.6 - 0.5, 0, 1)) * (0.85 + 0.3 * _grain(u, v, 2.2, seed))[:, None]


def _panels(u: F32, v: F32, colour: F32, other: F32, size_m: float, seed: int) -> F32:
    out = _plain(u, v, colour, other, size_m, seed)
    i = np.floor(u / (size_m * 1.6))
    seam = (u / (size_m * 1.6) - i) * size_m * 1.6 < 0.02
    low = v < 0.95 if seed % 2 else v < 0.12
    out = np.where(low[:, None], other * (0.95 + 0.08 * _grain(u, v, 0.6, seed))[:, None], out)
    return np.where((seam & low)[:, None], out * 0.75, out).astype(np.float32)


def _glass(u: F32, v: F32, colour: F32, other: F32, size_m: float, seed: int) -> F32:
    width, height = size_m * 1.7, size_m * 2.2
    i, j = np.floor(u / width), np.floor(v / height)
    frame = ((u / width - i) * width < 0.07) | ((v / height - j) * height < 0.08)
    lit = ((_cell(i, j, seed) & 255) / 255.0).astype(np.float32)
    mirrored = _grain(u + v * 0.4, v, 1.1, seed) * 0.5 + 0.25 * _grain(u, v, 0.3, seed)
    pane = np.array([0.32, 0.38, 0.42], np.float32) * (0.45 + 0.9 * mirrored + 0.5 * lit * lit)[:, None]
    return np.where(frame[:, None], colour, pane).astype(np.float32)


def _goods(u: F32, v: F32, colour: F32, other: F32, size_m: float, seed: int) -> F32:
    height, width = 0.38, 0.11
    row = np.floor(v / height)
    item = np.floor(u / width)
    value = _cell(item, row, seed)
    paint = np.stack([(value >> k) & 31 for k in (0, 5, 10)], axis=1).astype(np.float32) / 31 * 0.7 + 0.12
    tall = 0.5 + 0.45 * ((value >> 3) & 7) / 7.0
    x, y = u / width - item, v / height - row
    gap = (x < 0.08) | (y > tall)
    out = np.where(gap[:, None], colour * 0.25, paint * (0.75 + 0.5 * ((x * 3 % 1) * (y * 4 % 1)))[:, None])
    return np.where((y < 0.09)[:, None], colour, out).astype(np.float32)


def _poster(u: F32, v: F32, colour: F32, other: F32, size_m: float, seed: int) -> F32:
    out = _mix(colour, other, np.clip(v / (size_m * 1.4), 0, 1))
    for k in range(5):
        value = int(_cell(np.array([k], np.float32), np.array([seed % 977], np.float32), seed)[0])
        x, y = (value & 31) / 31 * size_m - size_m / 2, ((value >> 5) & 31) / 31 * size_m * 1.4 - size_m * 0.7
        half = 0.06 + 0.25 * size_m * ((value >> 10) & 7) / 7
        paint = np.array([(value >> 1) & 7, (value >> 4) & 7, (value >> 7) & 7], np.float32) / 7 * 0.85 + 0.05
        inside = (abs(u - x) < half) & (abs(v - y) < half * (0.15 if k % 2 else 0.8))
        out = np.where(inside[:, None], paint, out)
    return out.astype(np.float32)


def _leaves(u: F32, v: F32, colour: F32, other: F32, size_m: float, seed: int) -> F32:
    clump = _grain(u, v, 0.09, seed) * 0.6 + _grain(u, v, 0.03, seed + 7) * 0.6
    return _mix(colour * 0.3, other, np.clip(clump * 1.7 - 0.45, 0, 1))


def _road(u: F32, v: F32, colour: F32, other: F32, size_m: float, seed: int) -> F32:
    out = _speckle(u, v, colour, colour * 1.25, size_m, seed)
    band = np.abs(v % (size_m * 4) - 0.3)
    line = (band < 0.07) & ((u % 3.0) < 1.7)
    return np.where(
        line[:, None], np.array([0.72, 0.72, 0.68], np.float32) * (0.8 + 0.3 * _grain(u, v, 0.1, seed))[:, None], out
    )


def _body(u: F32, v: F32, colour: F32, other: F32, size_m: float, seed: int) -> F32:
    """Lacquered sheet: a machine's front with a window, a car's side."""
    out = colour * (0.9 + 0.2 * _grain(u, v, 1.3, seed))[:, None]
    pane = (np.abs(u % size_m - size_m / 2) < size_m * 0.36) & (v > 0.25) & (v < 0.25 + size_m)
    dark = _goods(u, v, other, other, size_m, seed) * 0.7 if seed % 2 else np.full_like(out, 0.13)
    return np.where(pane[:, None], dark, out).astype(np.float32)


_SURFACES: dict[str, Callable[[F32, F32, F32, F32, float, int], F32]] = {
    "plain": _plain, "tiles": _tiles, "planks": _planks, "bricks": _bricks, "speckle": _speckle, "panels": _panels,
    "glass": _glass, "goods": _goods, "poster": _poster, "leaves": _leaves, "road": _road, "body": _body,
}  # fmt: skip


def paint(
    surface: str, u: F32, v: F32, colour: NDArray[np.float64], other: NDArray[np.float64], size_m: float, seed: int
) -> F32:
    """Albedo (N, 3) in [0, 1] at surface coordinates u, v (N,) in metres; `colour` and `other` (3,) are its two colours."""
    u, v = u.astype(np.float32), v.astype(np.float32)
    return np.clip(_SURFACES[surface](u, v, colour.astype(np.float32), other.astype(np.float32), size_m, seed), 0, 1)
