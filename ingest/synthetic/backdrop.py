"""Places without people: floors and walls in perspective, and everything that stands about in them.

What stands about is meant to be taken for people by a model that only looks at texture, colour or outline: coat stands,
plants, parked things, posts of human height, shop windows, posters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from . import colours

Image = NDArray[np.uint8]
Rng = np.random.Generator
_TILE = 192


def _rgb(colour: NDArray[np.float64]) -> tuple[int, int, int]:
    red, green, blue = (int(np.clip(c, 0, 255)) for c in colour)
    return red, green, blue


def _paint(rng: Rng) -> NDArray[np.float64]:
    """A colour of walls, floors and things: mostly greys and earths, some as loud as clothes."""
    kind = rng.random()
    if kind < 0.55:
        return np.clip(rng.uniform(25, 225) + rng.normal(0, 9, 3), 5, 250)
    if kind < 0.8:
        return np.clip(np.array([150, 122, 92]) * rng.uniform(0.35, 1.5) + rng.normal(0, 10, 3), 5, 250)
    return colours.draw_top_colour(rng) if kind < 0.95 else rng.uniform(10, 245, 3)


@lru_cache(maxsize=1)
def _tiles() -> list[Image]:
    """Reliefs (192, 192) uint8 around 116: plaster, gravel, boards, bricks, tiles, foliage, cloth. The same everywhere."""
    rng = np.random.default_rng(31)
    tiles = []
    for index in range(56):
        sheet = np.ones((_TILE, _TILE), np.float32)
        for octave in range(6):
            small = rng.standard_normal((3 * 2**octave, 3 * 2**octave)).astype(np.float32)
            sheet += cv2.resize(small, (_TILE, _TILE), interpolation=cv2.INTER_CUBIC) * rng.uniform(0.0, 0.12)
        y, x = np.mgrid[0:_TILE, 0:_TILE]
        kind = index % 14
        step = int(rng.choice([8, 12, 16, 24, 32, 48]))
        if kind in (0, 1):  # boards
            board = rng.uniform(0.75, 1.2, _TILE // step + 1)[x // step]
            sheet = (
                sheet
                * board
                * np.where(x % step < 1, 0.6, 1.0)
                * (1 + 0.06 * np.sin(y * rng.uniform(0.1, 0.6) + 9 * board))
            )
        elif kind in (2, 3):  # bricks, tiles
            shifted = x + (y // (step // 2)) % 2 * (step // 2) if kind == 2 else x
            high = step // 2 if kind == 2 else step
            tone = rng.uniform(0.75, 1.2, (_TILE, _TILE))[y // high, (shifted // step) % _TILE]
            sheet = sheet * tone * np.where((y % high < 1) | (shifted % step < 1), rng.uniform(0.55, 1.4), 1.0)
        elif kind == 4:  # chequered
            sheet = sheet * np.where((x // step + y // step) % 2 == 0, rng.uniform(0.4, 0.8), rng.uniform(1.0, 1.4))
        elif kind in (5, 6):  # leaves
            for _ in range(700):
                centre = (int(rng.integers(_TILE)), int(rng.integers(_TILE)))
                axes = (int(rng.integers(2, 11)), int(rng.integers(1, 6)))
                cv2.ellipse(sheet, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(0.3, 1.6)), -1)
        elif kind == 7:  # stripes, curtains
            sheet = sheet * (1 + rng.uniform(0.1, 0.4) * np.sin(2 * np.pi * (x + 3 * np.sin(y / 30)) / step))
        elif kind == 8:  # gravel
            sheet = sheet * np.exp(rng.normal(0, 0.3, (_TILE, _TILE)))
        elif kind == 9:  # blocks of all sizes
            for _ in range(90):
                a, b = rng.integers(0, _TILE, 2)
                wide, high = rng.integers(4, 40, 2)
                sheet[b : b + high, a : a + wide] *= rng.uniform(0.5, 1.6)
        elif kind == 10:  # strokes in all directions
            for _ in range(220):
                a = rng.integers(0, _TILE, 2)
                b = a + rng.integers(-50, 50, 2)
                cv2.line(
                    sheet,
                    (int(a[0]), int(a[1])),
                    (int(b[0]), int(b[1])),
                    float(rng.uniform(0.4, 1.6)),
                    int(rng.integers(1, 4)),
                )
        tiles.append(np.clip((sheet - 1) * 116 + 116, 0, 255).astype(np.uint8))
    return tiles


def _table(rng: Rng, colour: NDArray[np.float64] | None) -> Image:
    """(1, 256, 3) uint8: the colours that the heights of a relief take."""
    contrast = rng.uniform(0.25, 1.1)
    base = _paint(rng) if colour is None else colour
    other = base * rng.uniform(0.6, 1.4) + rng.normal(0, 12, 3) if rng.random() < 0.8 else _paint(rng)
    share = np.linspace(-1, 1.2, 256)[:, None] * contrast
    return np.clip(base + (other - base) * np.clip(share, 0, 1) + base * np.clip(share, -1, 1) * 0.9, 0, 255).astype(
        np.uint8
    )[None]


def texture(rng: Rng, size_hw: tuple[int, int], colour: NDArray[np.float64] | None = None) -> Image:
    """A textured surface (h, w, 3) uint8 in one or two colours."""
    tiles = _tiles()
    tile = tiles[rng.integers(len(tiles))]
    zoom = float(np.exp(rng.uniform(-0.7, 1.1)))
    x0, y0 = rng.integers(0, _TILE, 2)
    columns = ((np.arange(size_hw[1]) / zoom).astype(np.int64) + x0) % _TILE
    rows = ((np.arange(size_hw[0]) / zoom).astype(np.int64) + y0) % _TILE
    return np.asarray(
        cv2.LUT(cv2.merge([np.ascontiguousarray(tile[rows][:, columns])] * 3), _table(rng, colour)), np.uint8
    )


def _floor(rng: Rng, image: Image, horizon: int) -> None:
    """Lay a textured floor that runs away to the horizon."""
    height, width = image.shape[:2]
    rows = height - horizon
    if rows < 4:
        return
    tiles = _tiles()
    tile = tiles[rng.integers(len(tiles))]
    turn, near, zoom = rng.uniform(-0.9, 0.9), rng.uniform(0.35, 1.5), rng.uniform(0.3, 1.5)
    depth = near * rows / (np.arange(rows, dtype=np.float32) + np.float32(rng.uniform(0.04, 0.3) * rows + 1)) / zoom
    y = (depth * 150)[:, None]
    x = (np.arange(width, dtype=np.float32) - np.float32(width * rng.uniform(0.2, 0.8)))[None] * (depth * 0.9)[:, None]
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    relief = cv2.remap(
        tile,
        (cos * x - sin * y) % (_TILE - 1),
        (sin * x + cos * y) % (_TILE - 1),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )
    far = rows // 3
    relief[:far] = cv2.blur(relief[:far], (3, 3))  # far stones melt together
    floor = np.asarray(cv2.LUT(cv2.merge([relief] * 3), _table(rng, None)))
    if rng.random() < 0.5:  # far floor fades
        fade = np.linspace(rng.uniform(0.6, 1.2), 1.0, rows, dtype=np.float32)
        floor = np.asarray(
            cv2.multiply(floor, cv2.merge([np.repeat(fade[:, None], width, axis=1)] * 3), dtype=cv2.CV_8U)
        )
    image[horizon:] = floor


def _window(rng: Rng, image: Image, x: int, y: int, wide: int, high: int) -> None:
    """Panes in a frame: sky, a dark room, or a mirror image of the place."""
    area = image[max(y, 0) : y + high, max(x, 0) : x + wide]
    if area.size == 0:
        return
    kind = rng.random()
    if kind < 0.35:
        glass = np.linspace(1.0, rng.uniform(0.5, 0.9), area.shape[0])[:, None, None] * (
            rng.uniform(120, 245) + np.array([-15, 0, 15])
        )
        area[:] = np.clip(glass, 0, 255)
    elif kind < 0.7:
        area[:] = np.clip(texture(rng, area.shape[:2]) * rng.uniform(0.2, 0.7), 0, 255)
    else:
        back = cv2.resize(image[:, ::-1], (area.shape[1], area.shape[0]), interpolation=cv2.INTER_AREA)
        area[:] = np.clip(0.5 * back + rng.uniform(10, 80), 0, 255)
    frame = _rgb(_paint(rng))
    thick = max(1, wide // 20)
    cv2.rectangle(image, (x, y), (x + wide, y + high), frame, thick)
    for part in range(1, int(rng.integers(1, 5))):
        at = x + part * wide // 4
        cv2.line(image, (at, y), (at, y + high), frame, thick)
    if rng.random() < 0.4:
        cv2.line(image, (x, y + high // 2), (x + wide, y + high // 2), frame, thick)


def _shelf(rng: Rng, image: Image, x: int, y: int, wide: int, high: int) -> None:
    """Boards full of things."""
    cv2.rectangle(image, (x, y), (x + wide, y + high), _rgb(_paint(rng) * 0.5), -1)
    boards = int(rng.integers(2, 7))
    step = max(4, high // boards)
    for top in range(y, y + high - step + 1, step):
        at = x
        while at < x + wide - 2:
            size = int(rng.integers(2, max(4, wide // 5) + 1))
            tall = int(step * rng.uniform(0.3, 0.92))
            cv2.rectangle(
                image, (at, top + step - tall), (min(at + size, x + wide), top + step - 1), _rgb(_paint(rng)), -1
            )
            at += size + int(rng.integers(0, 3))
        cv2.line(image, (x, top + step), (x + wide, top + step), _rgb(_paint(rng)), 1)


def _sign(rng: Rng, image: Image, x: int, y: int, wide: int, high: int) -> None:
    """A board with letters, or a poster in blocks of colour."""
    cv2.rectangle(image, (x, y), (x + wide, y + high), _rgb(_paint(rng)), -1)
    if rng.random() < 0.6:
        letters = "".join(chr(int(c)) for c in rng.integers(65, 91, int(rng.integers(2, 9))))
        scale = max(0.25, high / 40 * rng.uniform(0.4, 1.0))
        for line in range(int(rng.integers(1, 4))):
            place = (x + 2, y + int(high * (0.35 + 0.3 * line)))
            cv2.putText(
                image, letters, place, int(rng.integers(0, 8)), scale, _rgb(_paint(rng)), max(1, int(scale * 2))
            )
    else:
        for _ in range(int(rng.integers(2, 7))):
            a = x + int(rng.integers(0, max(1, wide))), y + int(rng.integers(0, max(1, high)))
            b = (
                min(x + wide, a[0] + int(rng.integers(1, max(2, wide)))),
                min(y + high, a[1] + int(rng.integers(1, max(2, high)))),
            )
            cv2.rectangle(image, a, b, _rgb(_paint(rng)), -1)


def _polygon(rng: Rng, image: Image, points: NDArray[np.float64], textured: float = 0.5) -> None:
    """Fill an outline (n, 2) with a colour or, as often as `textured`, a texture; lit from one side."""
    whole = np.round(points).astype(np.int32)
    low, high = np.maximum(whole.min(0), 0), np.minimum(whole.max(0) + 1, [image.shape[1], image.shape[0]])
    if (high - low < 2).any():
        return
    if rng.random() > textured:
        cv2.fillPoly(image, [whole], _rgb(_paint(rng)))
        return
    area = image[low[1] : high[1], low[0] : high[0]]
    mask = np.zeros(area.shape[:2], np.uint8)
    cv2.fillPoly(mask, [whole - low.astype(np.int32)], (255,))
    sheet = texture(rng, (area.shape[0], area.shape[1]), colours.draw_top_colour(rng) if rng.random() < 0.5 else None)
    shade = np.linspace(rng.uniform(0.6, 1.2), rng.uniform(0.6, 1.2), area.shape[1] * 3, dtype=np.float32)
    shaded = cv2.multiply(sheet.reshape(len(sheet), -1), np.repeat(shade[None], len(sheet), axis=0), dtype=cv2.CV_8U)
    cv2.copyTo(shaded.reshape(sheet.shape), mask, area)


def _around(rng: Rng, x: float, y: float, wide: float, high: float, corners: int, rough: float) -> NDArray[np.float64]:
    """A rough closed outline round a middle."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    size = 1 + rough * rng.standard_normal(corners)
    return np.stack([x + np.cos(turn) * wide * size, y + np.sin(turn) * high * size], axis=1)


# Things that stand on the floor at (x, y), a person there being `tall` pixels high.


def _tree(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    top = tall * rng.uniform(0.9, 2.6)
    cv2.line(
        image,
        (int(x), int(y)),
        (int(x + rng.normal(0, 0.05) * tall), int(y - top)),
        _rgb(_paint(rng) * 0.5),
        max(1, int(tall * rng.uniform(0.03, 0.14))),
    )
    green = np.array([60, 95, 45]) * rng.uniform(0.4, 1.6) + rng.normal(0, 12, 3)
    for _ in range(int(rng.integers(2, 6))):
        wide, high = tall * rng.uniform(0.15, 0.6, 2)
        middle = x + rng.normal(0, 0.3) * tall, y - top + rng.normal(0, 0.25) * tall
        points = _around(rng, *middle, wide, high, 18, 0.2)
        _leaves(rng, image, points, green)


def _leaves(rng: Rng, image: Image, points: NDArray[np.float64], green: NDArray[np.float64]) -> None:
    whole = np.round(points).astype(np.int32)
    low, high = np.maximum(whole.min(0), 0), np.minimum(whole.max(0) + 1, [image.shape[1], image.shape[0]])
    if (high - low < 2).any():
        return
    area = image[low[1] : high[1], low[0] : high[0]]
    tile = _tiles()[int(rng.choice([5, 6, 19, 20, 33, 34, 47, 48]))]
    y0, x0 = rng.integers(0, _TILE // 2, 2)
    zoom = rng.uniform(0.5, 1.4)
    rows = ((np.arange(area.shape[0]) / zoom).astype(np.int64) + y0) % _TILE
    columns = ((np.arange(area.shape[1]) / zoom).astype(np.int64) + x0) % _TILE
    relief = tile[rows][:, columns]
    mask = np.zeros(area.shape[:2], np.uint8)
    cv2.fillPoly(mask, [whole - low.astype(np.int32)], (255,))
    mask[relief < rng.uniform(35, 95)] = 0
    shades = np.clip(np.arange(256)[:, None] / 116 * green, 0, 255).astype(np.uint8)[None]
    cv2.copyTo(cv2.LUT(cv2.merge([np.ascontiguousarray(relief)] * 3), shades), mask, area)


def _plant(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    pot = tall * rng.uniform(0.08, 0.2)
    _polygon(
        rng,
        image,
        np.array([[x - pot, y - 1.8 * pot], [x + pot, y - 1.8 * pot], [x + 0.7 * pot, y], [x - 0.7 * pot, y]]),
        0.2,
    )
    green = np.array([55, 100, 50]) * rng.uniform(0.4, 1.5) + rng.normal(0, 12, 3)
    high = tall * rng.uniform(0.2, 0.5)
    _leaves(
        rng, image, _around(rng, x, y - 1.8 * pot - high * 0.8, tall * rng.uniform(0.12, 0.3), high, 14, 0.3), green
    )
    for _ in range(int(rng.integers(0, 10))):
        end = (int(x + rng.normal(0, 0.2) * tall), int(y - 1.8 * pot - high * rng.uniform(0.8, 2.0)))
        cv2.line(
            image, (int(x), int(y - 1.8 * pot)), end, _rgb(green * rng.uniform(0.6, 1.3)), max(1, int(tall * 0.02))
        )


def _car(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    length, high = tall * rng.uniform(1.6, 2.8), tall * rng.uniform(0.7, 1.3)
    side = rng.choice([-1, 1])
    body = np.array(
        [
            [-0.5, -0.12],
            [-0.5, -0.5],
            [-0.36, -0.55],
            [-0.2, -0.95],
            [0.2, -1.0],
            [0.36, -0.58],
            [0.5, -0.5],
            [0.5, -0.12],
        ]
    )
    body = body * [side * length, high] + [x, y]
    paint = _paint(rng)
    cv2.fillPoly(image, [np.round(body).astype(np.int32)], _rgb(paint))
    lower = np.array([[-0.5, -0.12], [-0.5, -0.34], [0.5, -0.34], [0.5, -0.12]]) * [length, high] + [x, y]
    cv2.fillPoly(image, [np.round(lower).astype(np.int32)], _rgb(paint * 0.75))
    for a, b in ((-0.18, -0.01), (0.02, 0.19)):
        pane = np.array([[a - 0.08 * (a < 0), -0.56], [a, -0.88], [b, -0.9], [b + 0.09 * (b > 0.1), -0.56]]) * [
            side * length,
            high,
        ] + [x, y]
        cv2.fillPoly(image, [np.round(pane).astype(np.int32)], _rgb(np.full(3, rng.uniform(20, 160)) + [0, 5, 10]))
    for a in (-0.3, 0.3):
        centre = (int(x + a * length), int(y - 0.12 * high))
        cv2.circle(image, centre, max(1, int(0.17 * high)), (20, 20, 22), -1)
        cv2.circle(image, centre, max(1, int(0.09 * high)), _rgb(np.full(3, rng.uniform(60, 190))), -1)


def _bicycle(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    radius, dark = tall * 0.19, _rgb(_paint(rng) * 0.6)
    thick = max(1, int(tall * 0.018))
    left, right = (int(x - 0.3 * tall), int(y - radius)), (int(x + 0.3 * tall), int(y - radius))
    for hub in (left, right):
        cv2.circle(image, hub, max(2, int(radius)), (25, 25, 25), thick)
    crank, seat, bar = (
        (int(x - 0.03 * tall), int(y - radius)),
        (int(x - 0.12 * tall), int(y - 0.52 * tall)),
        (int(x + 0.22 * tall), int(y - 0.56 * tall)),
    )
    for a, b in ((left, seat), (left, crank), (crank, seat), (crank, bar), (seat, bar), (bar, right)):
        cv2.line(image, a, b, dark, thick + 1)
    cv2.line(image, (bar[0] - int(0.08 * tall), bar[1] - thick), bar, (20, 20, 20), thick + 1)
    cv2.ellipse(image, seat, (max(1, int(0.08 * tall)), thick + 1), 0, 0, 360, (20, 20, 20), -1)


def _chair(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    paint, wide, seat = _rgb(_paint(rng)), tall * rng.uniform(0.12, 0.16), tall * 0.27
    thick = max(1, int(tall * 0.02))
    for dx in (-1.0, -0.6, 0.6, 1.0):
        cv2.line(
            image,
            (int(x + dx * wide), int(y - (0.05 * tall if abs(dx) < 1 else 0))),
            (int(x + dx * wide * 0.9), int(y - seat)),
            paint,
            thick,
        )
    _polygon(
        rng,
        image,
        np.array(
            [
                [x - wide, y - seat],
                [x + wide, y - seat],
                [x + 0.8 * wide, y - seat - 0.06 * tall],
                [x - 0.8 * wide, y - seat - 0.06 * tall],
            ]
        ),
        0.3,
    )
    back = np.array(
        [
            [x - 0.85 * wide, y - seat],
            [x + 0.85 * wide, y - seat],
            [x + 0.8 * wide, y - 0.52 * tall],
            [x - 0.8 * wide, y - 0.52 * tall],
        ]
    )
    _polygon(rng, image, back, 0.5)


def _desk(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    wide, high = tall * rng.uniform(0.3, 0.8), tall * rng.uniform(0.38, 0.6)
    deep, thick = tall * rng.uniform(0.05, 0.2), max(1, int(tall * 0.03))
    paint = _rgb(_paint(rng) * 0.7)
    for dx, dy in ((-1, 0), (1, 0), (-0.85, deep), (0.85, deep)):
        cv2.line(image, (int(x + dx * wide), int(y - dy)), (int(x + dx * wide), int(y - dy - high)), paint, thick)
    _polygon(
        rng,
        image,
        np.array(
            [
                [x - 1.05 * wide, y - high],
                [x + 1.05 * wide, y - high],
                [x + 0.9 * wide, y - high - deep],
                [x - 0.9 * wide, y - high - deep],
            ]
        ),
        0.5,
    )
    for _ in range(int(rng.integers(0, 5))):
        a, size = x + rng.uniform(-0.9, 0.9) * wide, tall * rng.uniform(0.03, 0.12)
        _polygon(
            rng,
            image,
            np.array(
                [[a, y - high], [a + size, y - high], [a + size, y - high - 1.5 * size], [a, y - high - 1.5 * size]]
            ),
            0.2,
        )


def _crate(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    """A box, cupboard, machine or suitcase with a lit top and a side."""
    wide, high = tall * rng.uniform(0.08, 0.45), tall * rng.uniform(0.15, 1.15)
    deep, rise = tall * rng.uniform(-0.2, 0.2), tall * rng.uniform(0.02, 0.12)
    _polygon(rng, image, np.array([[x - wide, y], [x + wide, y], [x + wide, y - high], [x - wide, y - high]]), 0.7)
    edge = wide if deep > 0 else -wide
    _polygon(
        rng,
        image,
        np.array(
            [[x + edge, y], [x + edge + deep, y - rise], [x + edge + deep, y - high - rise], [x + edge, y - high]]
        ),
        0.3,
    )
    _polygon(
        rng,
        image,
        np.array(
            [
                [x - wide, y - high],
                [x + wide, y - high],
                [x + wide + deep, y - high - rise],
                [x - wide + deep, y - high - rise],
            ]
        ),
        0.2,
    )
    if rng.random() < 0.4:
        _sign(rng, image, int(x - 0.7 * wide), int(y - 0.9 * high), int(1.4 * wide), int(0.4 * high))


def _post(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    """A pole, pillar, lamp, bollard or parking meter."""
    high, wide = (
        tall * rng.choice([0.5, 0.8, 1.2, 2.5]) * rng.uniform(0.8, 1.2),
        tall * rng.choice([0.02, 0.05, 0.1, 0.18]),
    )
    paint = _paint(rng)
    for part in range(4):
        shade = (0.75, 1.1, 0.95, 0.65)[part]
        left, right = x - wide + part * wide / 2, x - wide + (part + 1) * wide / 2
        cv2.rectangle(image, (int(left), int(y - high)), (int(right), int(y)), _rgb(paint * shade), -1)
    top = rng.random()
    if top < 0.25:
        cv2.circle(image, (int(x), int(y - high)), max(1, int(tall * rng.uniform(0.05, 0.13))), _rgb(_paint(rng)), -1)
    elif top < 0.45:
        size = int(tall * rng.uniform(0.1, 0.3))
        _sign(rng, image, int(x) - size, int(y - high) - size // 2, 2 * size, size)


def _coat_stand(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    """Clothes without anybody in them: a pole with a coat and perhaps a hat on the peg beside it."""
    high = tall * rng.uniform(0.85, 1.1)
    cv2.line(image, (int(x), int(y)), (int(x), int(y - high)), _rgb(_paint(rng) * 0.5), max(1, int(tall * 0.025)))
    for side in (-1, 1):
        cv2.line(
            image,
            (int(x), int(y)),
            (int(x + side * 0.14 * tall), int(y + 0.02 * tall)),
            (40, 35, 30),
            max(1, int(tall * 0.02)),
        )
        cv2.line(
            image,
            (int(x), int(y - 0.93 * high)),
            (int(x + side * 0.12 * tall), int(y - high)),
            (40, 35, 30),
            max(1, int(tall * 0.015)),
        )
    for side in rng.choice([-1.0, 1.0, 0.0], int(rng.integers(1, 4)), replace=True):
        wide, long = tall * rng.uniform(0.06, 0.13), tall * rng.uniform(0.3, 0.6)
        middle, top = x + side * 0.09 * tall, y - 0.93 * high
        coat = np.array(
            [[-0.25, 0], [0.25, 0], [0.8, 0.12], [1.0, 0.7], [0.9, 1.0], [-0.9, 1.0], [-1.0, 0.65], [-0.8, 0.12]]
        )
        _polygon(rng, image, coat * [wide, long] * (1 + 0.05 * rng.standard_normal((8, 2))) + [middle, top], 0.7)


def _rack(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    """A rail of clothes in a shop."""
    wide, high = tall * rng.uniform(0.4, 1.0), tall * rng.uniform(0.7, 0.95)
    for dx in (-1, 1):
        cv2.line(
            image,
            (int(x + dx * wide), int(y)),
            (int(x + dx * wide), int(y - high)),
            (120, 120, 125),
            max(1, int(tall * 0.02)),
        )
    cv2.line(
        image, (int(x - wide), int(y - high)), (int(x + wide), int(y - high)), (130, 130, 135), max(1, int(tall * 0.02))
    )
    at = x - 0.95 * wide
    while at < x + 0.9 * wide:
        step, long = tall * rng.uniform(0.04, 0.16), tall * rng.uniform(0.35, 0.65)
        _polygon(
            rng,
            image,
            np.array(
                [
                    [at + 0.2 * step, y - high],
                    [at + 0.8 * step, y - high],
                    [at + step, y - high + long],
                    [at, y - high + long],
                ]
            ),
            0.5,
        )
        at += step * rng.uniform(0.7, 1.1)


def _lump(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    """Something of human size and colour but of no human shape: sacks, statues, sheeted things, stacked bags."""
    for _ in range(int(rng.integers(1, 5))):
        wide, high = tall * rng.uniform(0.06, 0.22), tall * rng.uniform(0.06, 0.4)
        middle = y - high - rng.uniform(0, 0.6) * tall * (rng.random() < 0.5)
        _polygon(
            rng,
            image,
            _around(rng, x + rng.normal(0, 0.08) * tall, middle, wide, high, int(rng.integers(4, 12)), 0.15),
            0.7,
        )


def _parasol(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    high, wide = tall * rng.uniform(1.0, 1.4), tall * rng.uniform(0.4, 0.9)
    cv2.line(image, (int(x), int(y)), (int(x), int(y - high)), (90, 90, 90), max(1, int(tall * 0.03)))
    for part in range(6):
        a, b = -1 + part / 3, -1 + (part + 1) / 3
        wedge = np.array([[x, y - high * 1.1], [x + a * wide, y - high * 0.85], [x + b * wide, y - high * 0.85]])
        cv2.fillPoly(image, [np.round(wedge).astype(np.int32)], _rgb(_paint(rng)))


Thing = Callable[[Rng, Image, float, float, float], None]
_THINGS: tuple[Thing, ...] = (
    _tree, _plant, _car, _bicycle, _chair, _desk, _crate, _crate, _post, _post, _coat_stand, _rack, _lump, _parasol,
)  # fmt: skip


def draw_thing(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    """Put a random thing on the floor at pixel (x, y), where a person would be `tall` pixels high (in place)."""
    _THINGS[rng.integers(len(_THINGS))](rng, image, x, y, tall)


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
        _walls(rng, image, line, clutter)
    _floor(rng, image, line)
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
            _polygon(rng, image, lane, 0.3)
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
    kinds: tuple[Callable[[Rng, Image, int, int, int, int], None], ...] = (_window, _shelf, _sign, _window, _sign)
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
        step, wide = int(width / rng.integers(4, 14)), rng.uniform(0.3, 0.8)
        panes = rng.uniform(30, 230) + rng.normal(0, 10, 3)
        rise = max(6, int(line / rng.integers(1, 6)))
        for y in range(2, line - rise // 2, rise):
            for x in range(step // 4, width, step):
                cv2.rectangle(
                    image, (x, y), (x + int(step * wide), y + int(rise * 0.6)), _rgb(panes * rng.uniform(0.7, 1.2)), -1
                )
    for _ in range(int(rng.poisson(1.2 * clutter))):  # doors and openings
        wide, high = width * rng.uniform(0.04, 0.12), line * rng.uniform(0.4, 0.95)
        x = rng.uniform(0, 1) * width
        _polygon(rng, image, np.array([[x, line], [x + wide, line], [x + wide, line - high], [x, line - high]]), 0.5)
    skirting = int(rng.integers(0, max(2, height // 40)))
    if rng.random() < 0.5:
        image[max(0, line - skirting) : line] = _rgb(_paint(rng))


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
