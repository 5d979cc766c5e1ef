"""Surfaces of places: reliefs of plaster, boards, bricks and leaves, the colours they take, and filled outlines."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ingest.synthetic import colours

Image = NDArray[np.uint8]
Rng = np.random.Generator
TILE = 192


def rgb(colour: NDArray[np.float64]) -> tuple[int, int, int]:
    """A colour as OpenCV wants it."""
    red, green, blue = (int(np.clip(c, 0, 255)) for c in colour)
    return red, green, blue


def draw_paint(rng: Rng) -> NDArray[np.float64]:
    """A colour of walls, floors and things: mostly greys and earths, some as loud as clothes."""
    kind = rng.random()
    if kind < 0.55:
        return np.clip(rng.uniform(25, 225) + rng.normal(0, 9, 3), 5, 250)
    if kind < 0.8:
        return np.clip(np.array([150, 122, 92]) * rng.uniform(0.35, 1.5) + rng.normal(0, 10, 3), 5, 250)
    return colours.draw_top_colour(rng) if kind < 0.95 else rng.uniform(10, 245, 3)


@lru_cache(maxsize=1)
def tiles() -> list[Image]:
    """Reliefs (192, 192) uint8 around 116: plaster, gravel, boards, bricks, tiles, foliage, cloth. The same everywhere."""
    rng = np.random.default_rng(31)
    made: list[Image] = []
    for index in range(56):
        sheet = np.ones((TILE, TILE), np.float32)
        for octave in range(6):
            small = rng.standard_normal((3 * 2**octave, 3 * 2**octave)).astype(np.float32)
            sheet += cv2.resize(small, (TILE, TILE), interpolation=cv2.INTER_CUBIC) * rng.uniform(0.0, 0.12)
        y, x = np.mgrid[0:TILE, 0:TILE]
        kind = index % 14
        step = int(rng.choice([8, 12, 16, 24, 32, 48]))
        if kind in (0, 1):  # boards
            board = rng.uniform(0.75, 1.2, TILE // step + 1)[x // step]
            sheet = (
                sheet
                * board
                * np.where(x % step < 1, 0.6, 1.0)
                * (1 + 0.06 * np.sin(y * rng.uniform(0.1, 0.6) + 9 * board))
            )
        elif kind in (2, 3):  # bricks, tiles
            shifted = x + (y // (step // 2)) % 2 * (step // 2) if kind == 2 else x
            high = step // 2 if kind == 2 else step
            tone = rng.uniform(0.75, 1.2, (TILE, TILE))[y // high, (shifted // step) % TILE]
            sheet = sheet * tone * np.where((y % high < 1) | (shifted % step < 1), rng.uniform(0.55, 1.4), 1.0)
        elif kind == 4:  # chequered
            sheet = sheet * np.where((x // step + y // step) % 2 == 0, rng.uniform(0.4, 0.8), rng.uniform(1.0, 1.4))
        elif kind in (5, 6):  # leaves
            for _ in range(700):
                centre = (int(rng.integers(TILE)), int(rng.integers(TILE)))
                axes = (int(rng.integers(2, 11)), int(rng.integers(1, 6)))
                cv2.ellipse(sheet, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(0.3, 1.6)), -1)
        elif kind == 7:  # stripes, curtains
            sheet = sheet * (1 + rng.uniform(0.1, 0.4) * np.sin(2 * np.pi * (x + 3 * np.sin(y / 30)) / step))
        elif kind == 8:  # gravel
            sheet = sheet * np.exp(rng.normal(0, 0.3, (TILE, TILE)))
        elif kind == 9:  # blocks of all sizes
            for _ in range(90):
                a, b = rng.integers(0, TILE, 2)
                wide, high = rng.integers(4, 40, 2)
                sheet[b : b + high, a : a + wide] *= rng.uniform(0.5, 1.6)
        elif kind == 10:  # strokes in all directions
            for _ in range(220):
                a = rng.integers(0, TILE, 2)
                b = a + rng.integers(-50, 50, 2)
                cv2.line(
                    sheet,
                    (int(a[0]), int(a[1])),
                    (int(b[0]), int(b[1])),
                    float(rng.uniform(0.4, 1.6)),
                    int(rng.integers(1, 4)),
                )
        made.append(np.clip((sheet - 1) * 116 + 116, 0, 255).astype(np.uint8))
    return made


def table(rng: Rng, colour: NDArray[np.float64] | None) -> Image:
    """(1, 256, 3) uint8: the colours that the heights of a relief take."""
    contrast = rng.uniform(0.25, 1.1)
    base = draw_paint(rng) if colour is None else colour
    other = base * rng.uniform(0.6, 1.4) + rng.normal(0, 12, 3) if rng.random() < 0.8 else draw_paint(rng)
    share = np.linspace(-1, 1.2, 256)[:, None] * contrast
    return np.clip(base + (other - base) * np.clip(share, 0, 1) + base * np.clip(share, -1, 1) * 0.9, 0, 255).astype(
        np.uint8
    )[None]


def texture(rng: Rng, size_hw: tuple[int, int], colour: NDArray[np.float64] | None = None) -> Image:
    """A textured surface (h, w, 3) uint8 in one or two colours."""
    reliefs = tiles()
    tile = reliefs[rng.integers(len(reliefs))]
    zoom = float(np.exp(rng.uniform(-0.7, 1.1)))
    x0, y0 = rng.integers(0, TILE, 2)
    columns = ((np.arange(size_hw[1]) / zoom).astype(np.int64) + x0) % TILE
    rows = ((np.arange(size_hw[0]) / zoom).astype(np.int64) + y0) % TILE
    return np.asarray(
        cv2.LUT(cv2.merge([np.ascontiguousarray(tile[rows][:, columns])] * 3), table(rng, colour)), np.uint8
    )


def polygon(rng: Rng, image: Image, points: NDArray[np.float64], textured: float = 0.5) -> None:
    """Fill an outline (n, 2) with a colour or, as often as `textured`, a texture; lit from one side."""
    whole = np.round(points).astype(np.int32)
    low, high = np.maximum(whole.min(0), 0), np.minimum(whole.max(0) + 1, [image.shape[1], image.shape[0]])
    if (high - low < 2).any():
        return
    if rng.random() > textured:
        cv2.fillPoly(image, [whole], rgb(draw_paint(rng)))
        return
    area = image[low[1] : high[1], low[0] : high[0]]
    mask = np.zeros(area.shape[:2], np.uint8)
    cv2.fillPoly(mask, [whole - low.astype(np.int32)], (255,))
    sheet = texture(rng, (area.shape[0], area.shape[1]), colours.draw_top_colour(rng) if rng.random() < 0.5 else None)
    shade = np.linspace(rng.uniform(0.6, 1.2), rng.uniform(0.6, 1.2), area.shape[1] * 3, dtype=np.float32)
    shaded = cv2.multiply(sheet.reshape(len(sheet), -1), np.repeat(shade[None], len(sheet), axis=0), dtype=cv2.CV_8U)
    cv2.copyTo(shaded.reshape(sheet.shape), mask, area)


def outline(rng: Rng, x: float, y: float, wide: float, high: float, corners: int, rough: float) -> NDArray[np.float64]:
    """A rough closed outline round a middle."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    size = 1 + rough * rng.standard_normal(corners)
    return np.stack([x + np.cos(turn) * wide * size, y + np.sin(turn) * high * size], axis=1)


def leaves(rng: Rng, image: Image, points: NDArray[np.float64], green: NDArray[np.float64]) -> None:
    """Fill an outline with leaves of a green, gaps between them (in place)."""
    whole = np.round(points).astype(np.int32)
    low, high = np.maximum(whole.min(0), 0), np.minimum(whole.max(0) + 1, [image.shape[1], image.shape[0]])
    if (high - low < 2).any():
        return
    area = image[low[1] : high[1], low[0] : high[0]]
    tile = tiles()[int(rng.choice([5, 6, 19, 20, 33, 34, 47, 48]))]
    y0, x0 = rng.integers(0, TILE // 2, 2)
    zoom = rng.uniform(0.5, 1.4)
    rows = ((np.arange(area.shape[0]) / zoom).astype(np.int64) + y0) % TILE
    columns = ((np.arange(area.shape[1]) / zoom).astype(np.int64) + x0) % TILE
    relief = tile[rows][:, columns]
    mask = np.zeros(area.shape[:2], np.uint8)
    cv2.fillPoly(mask, [whole - low.astype(np.int32)], (255,))
    mask[relief < rng.uniform(35, 95)] = 0
    shades = np.clip(np.arange(256)[:, None] / 116 * green, 0, 255).astype(np.uint8)[None]
    cv2.copyTo(cv2.LUT(cv2.merge([np.ascontiguousarray(relief)] * 3), shades), mask, area)
