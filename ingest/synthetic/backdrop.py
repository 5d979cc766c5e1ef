"""Places without people: floors and walls in perspective, light and shadow, and everything that stands about in them."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from ingest.synthetic.relief import TILE, Image, Rng, draw_paint, polygon, rgb, table, texture, tiles
from ingest.synthetic.things import draw_shelf, draw_sign, draw_thing, draw_window


def _floor(rng: Rng, image: Image, horizon: int) -> None:
    """Lay a textured floor that runs away to the horizon."""
    height, width = image.shape[:2]
    rows = height - horizon
    if rows == 0:
        return
    reliefs = tiles()
    tile = reliefs[rng.integers(len(reliefs))]
    turn, near, zoom = rng.uniform(-0.9, 0.9), rng.uniform(0.35, 1.5), rng.uniform(0.3, 1.5)
    depth = near * rows / (np.arange(rows, dtype=np.float32) + np.float32(rng.uniform(0.04, 0.3) * rows + 1)) / zoom
    y = (depth * 150)[:, None]
    x = (np.arange(width, dtype=np.float32) - np.float32(width * rng.uniform(0.2, 0.8)))[None] * (depth * 0.9)[:, None]
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    relief = cv2.remap(
        tile,
        (cos * x - sin * y) % (TILE - 1),
        (sin * x + cos * y) % (TILE - 1),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )
    far = max(1, rows // 3)
    relief[:far] = cv2.blur(relief[:far], (3, 3))  # far stones melt together
    floor = np.asarray(cv2.LUT(cv2.merge([relief] * 3), table(rng, None)))
    if rng.random() < 0.5:  # far floor fades
        fade = np.linspace(rng.uniform(0.6, 1.2), 1.0, rows, dtype=np.float32)
        floor = np.asarray(
            cv2.multiply(floor, cv2.merge([np.repeat(fade[:, None], width, axis=1)] * 3), dtype=cv2.CV_8U)
        )
    image[horizon:] = floor


def draw_place(rng: Rng, size_hw: tuple[int, int], horizon: float | None = None, clutter: float = 1.0) -> Image:
    """A place without people, (h, w, 3) uint8 RGB.

    Args:
        horizon: where the floor ends, as a share of the height; None draws it. At or below 0 all is floor.
        clutter: 0 is an empty room, 1 is common, 3 is a crowded market without a soul.
    """
    height, width = size_hw
    line = round(height * (float(rng.uniform(0.05, 0.6)) if horizon is None else horizon))
    line = int(np.clip(line, 0, height))
    image = np.empty((height, width, 3), np.uint8)
    if line > 0:
        image[:line] = texture(rng, (line, width))
    _floor(rng, image, line)
    if line > 0:
        _walls(rng, image, line, clutter)
    if rng.random() < 0.5:  # a carpet, a lane, a crossing
        for _ in range(int(rng.integers(1, 5))):
            a, b = rng.uniform(-0.2, 1.2, 2) * width
            far = line + rng.uniform(0, 0.5) * (height - line)
            lane = np.array(
                [
                    [a, far],
                    [a + rng.uniform(0.01, 0.2) * width, far],
                    [b + rng.uniform(0.05, 0.5) * width, height],
                    [b, height],
                ]
            )
            polygon(rng, image, lane, 0.3)
    count = int(rng.poisson(5 * clutter))
    for depth in np.sort(rng.random(count) ** 1.3):
        y = line + depth * (height - line) * 1.1 + 2
        draw_thing(
            rng, image, rng.uniform(-0.05, 1.05) * width, y, height * (0.10 + 0.75 * depth * rng.uniform(0.5, 1.2))
        )
    _light(rng, image, line)
    return image


def _walls(rng: Rng, image: Image, line: int, clutter: float) -> None:
    height, width = image.shape[:2]
    kinds: tuple[Callable[[Rng, Image, int, int, int, int], None], ...] = (
        draw_window,
        draw_shelf,
        draw_sign,
        draw_window,
        draw_sign,
    )
    if rng.random() < 0.35:  # houses or wall pieces side by side
        at = 0
        while at < width:
            wide = int(rng.uniform(0.1, 0.5) * width)
            top = int(rng.uniform(0, 0.5) * line)
            piece = texture(rng, (line - top, min(wide, width - at)))
            image[top:line, at : at + wide] = piece
            at += wide
    for _ in range(int(rng.poisson(4 * clutter))):
        wide, high = int(width * rng.uniform(0.03, 0.3)), int(line * rng.uniform(0.1, 0.9)) + 3
        x, y = int(rng.uniform(-0.1, 1.0) * width), int(rng.uniform(-0.2, 1.0) * max(1, line - high))
        kinds[rng.integers(len(kinds))](rng, image, x, y, wide, high)
    if rng.random() < 0.3:  # rows of equal windows
        step, share = int(width / rng.integers(4, 14)), rng.uniform(0.3, 0.8)
        panes = rng.uniform(30, 230) + rng.normal(0, 10, 3)
        rise = max(6, int(line / rng.integers(1, 6)))
        for y in range(2, line - rise // 2, rise):
            for x in range(step // 4, width, step):
                cv2.rectangle(
                    image, (x, y), (x + int(step * share), y + int(rise * 0.6)), rgb(panes * rng.uniform(0.7, 1.2)), -1
                )
    for _ in range(int(rng.poisson(1.2 * clutter))):  # doors and openings
        door, lintel = width * rng.uniform(0.04, 0.12), line * rng.uniform(0.05, 0.6)
        left = rng.uniform(0, 1) * width
        door_way = np.array([[left, line], [left + door, line], [left + door, lintel], [left, lintel]])
        polygon(rng, image, door_way, 0.5)
    skirting = int(rng.integers(0, max(2, height // 40)))
    if rng.random() < 0.5:
        image[max(0, line - skirting) : line] = rgb(draw_paint(rng))


def _light(rng: Rng, image: Image, line: int) -> None:
    """Shadows, patches of sun and reflections on the floor, one soft slope of light over everything."""
    height, width = image.shape[:2]
    slope = (
        np.linspace(rng.uniform(0.7, 1.1), rng.uniform(0.7, 1.1), width)[None, :]
        * np.linspace(rng.uniform(0.75, 1.1), rng.uniform(0.85, 1.1), height)[:, None]
    )
    for _ in range(int(rng.integers(0, 4))):
        corners = np.stack([rng.uniform(-0.2, 1.2, 4) * width, rng.uniform(line / height, 1.2, 4) * height], axis=1)
        mask = np.zeros((height, width), np.float32)
        cv2.fillConvexPoly(mask, cv2.convexHull(corners.astype(np.int32)), (float(rng.uniform(-0.35, 0.3)),))
        slope = slope * (1 + cv2.blur(mask, (int(rng.integers(1, 9)),) * 2))
    lit = cv2.multiply(image, cv2.merge([slope.astype(np.float32)] * 3), dtype=cv2.CV_8U)
    image[:] = lit
    if rng.random() < 0.3 and 0 < line < height - 8:  # a wet or polished floor mirrors the wall
        rows = min(line, height - line)
        mirror = cv2.GaussianBlur(image[line - rows : line][::-1], (0, 0), 2.0)
        fade = (np.linspace(1, 0, rows) * rng.uniform(0.1, 0.5))[:, None, None]
        floor = image[line : line + rows]
        floor[:] = floor * (1 - fade) + mirror * fade
