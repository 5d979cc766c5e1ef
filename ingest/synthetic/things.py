"""What stands about in places, meant to be taken for people by a model that only looks at texture, colour or outline:
coat stands, plants, parked things, posts of human height, shop windows, posters.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from ingest.synthetic.relief import Image, Rng, draw_paint, leaves, outline, polygon, rgb, texture


def draw_window(rng: Rng, image: Image, x: int, y: int, wide: int, high: int) -> None:
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
    frame = rgb(draw_paint(rng))
    thick = max(1, wide // 20)
    cv2.rectangle(image, (x, y), (x + wide, y + high), frame, thick)
    for part in range(1, int(rng.integers(1, 5))):
        at = x + part * wide // 4
        cv2.line(image, (at, y), (at, y + high), frame, thick)
    if rng.random() < 0.4:
        cv2.line(image, (x, y + high // 2), (x + wide, y + high // 2), frame, thick)


def draw_shelf(rng: Rng, image: Image, x: int, y: int, wide: int, high: int) -> None:
    """Boards full of things."""
    cv2.rectangle(image, (x, y), (x + wide, y + high), rgb(draw_paint(rng) * 0.5), -1)
    boards = int(rng.integers(2, 7))
    step = max(4, high // boards)
    for top in range(y, y + high - step + 1, step):
        at = x
        while at < x + wide - 2:
            size = int(rng.integers(2, max(4, wide // 5) + 1))
            tall = int(step * rng.uniform(0.3, 0.92))
            cv2.rectangle(
                image, (at, top + step - tall), (min(at + size, x + wide), top + step - 1), rgb(draw_paint(rng)), -1
            )
            at += size + int(rng.integers(0, 3))
        cv2.line(image, (x, top + step), (x + wide, top + step), rgb(draw_paint(rng)), 1)


def draw_sign(rng: Rng, image: Image, x: int, y: int, wide: int, high: int) -> None:
    """A board with letters, or a poster in blocks of colour."""
    cv2.rectangle(image, (x, y), (x + wide, y + high), rgb(draw_paint(rng)), -1)
    if rng.random() < 0.6:
        letters = "".join(chr(int(c)) for c in rng.integers(65, 91, int(rng.integers(2, 9))))
        scale = max(0.25, high / 40 * rng.uniform(0.4, 1.0))
        for line in range(int(rng.integers(1, 4))):
            place = (x + 2, y + int(high * (0.35 + 0.3 * line)))
            cv2.putText(
                image, letters, place, int(rng.integers(0, 8)), scale, rgb(draw_paint(rng)), max(1, int(scale * 2))
            )
    else:
        for _ in range(int(rng.integers(2, 7))):
            a = x + int(rng.integers(0, max(1, wide))), y + int(rng.integers(0, max(1, high)))
            b = (
                min(x + wide, a[0] + int(rng.integers(1, max(2, wide)))),
                min(y + high, a[1] + int(rng.integers(1, max(2, high)))),
            )
            cv2.rectangle(image, a, b, rgb(draw_paint(rng)), -1)


# Things that stand on the floor at (x, y), a person there being `tall` pixels high.


def _tree(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    top = tall * rng.uniform(0.9, 2.6)
    cv2.line(
        image,
        (int(x), int(y)),
        (int(x + rng.normal(0, 0.05) * tall), int(y - top)),
        rgb(draw_paint(rng) * 0.5),
        max(1, int(tall * rng.uniform(0.03, 0.14))),
    )
    green = np.array([60, 95, 45]) * rng.uniform(0.4, 1.6) + rng.normal(0, 12, 3)
    for _ in range(int(rng.integers(2, 6))):
        wide, high = tall * rng.uniform(0.15, 0.6, 2)
        middle = x + rng.normal(0, 0.3) * tall, y - top + rng.normal(0, 0.25) * tall
        points = outline(rng, *middle, wide, high, 18, 0.2)
        leaves(rng, image, points, green)


def _plant(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    pot = tall * rng.uniform(0.08, 0.2)
    polygon(
        rng,
        image,
        np.array([[x - pot, y - 1.8 * pot], [x + pot, y - 1.8 * pot], [x + 0.7 * pot, y], [x - 0.7 * pot, y]]),
        0.2,
    )
    green = np.array([55, 100, 50]) * rng.uniform(0.4, 1.5) + rng.normal(0, 12, 3)
    high = tall * rng.uniform(0.2, 0.5)
    leaves(rng, image, outline(rng, x, y - 1.8 * pot - high * 0.8, tall * rng.uniform(0.12, 0.3), high, 14, 0.3), green)
    for _ in range(int(rng.integers(0, 10))):
        end = (int(x + rng.normal(0, 0.2) * tall), int(y - 1.8 * pot - high * rng.uniform(0.8, 2.0)))
        cv2.line(image, (int(x), int(y - 1.8 * pot)), end, rgb(green * rng.uniform(0.6, 1.3)), max(1, int(tall * 0.02)))


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
    paint = draw_paint(rng)
    cv2.fillPoly(image, [np.round(body).astype(np.int32)], rgb(paint))
    lower = np.array([[-0.5, -0.12], [-0.5, -0.34], [0.5, -0.34], [0.5, -0.12]]) * [length, high] + [x, y]
    cv2.fillPoly(image, [np.round(lower).astype(np.int32)], rgb(paint * 0.75))
    for a, b in ((-0.18, -0.01), (0.02, 0.19)):
        pane = np.array([[a - 0.08 * (a < 0), -0.56], [a, -0.88], [b, -0.9], [b + 0.09 * (b > 0.1), -0.56]]) * [
            side * length,
            high,
        ] + [x, y]
        cv2.fillPoly(image, [np.round(pane).astype(np.int32)], rgb(rng.uniform(20, 160) + np.array([0.0, 5.0, 10.0])))
    for a in (-0.3, 0.3):
        centre = (int(x + a * length), int(y - 0.12 * high))
        cv2.circle(image, centre, max(1, int(0.17 * high)), (20, 20, 22), -1)
        cv2.circle(image, centre, max(1, int(0.09 * high)), rgb(np.full(3, rng.uniform(60, 190))), -1)


def _bicycle(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    radius, dark = tall * 0.19, rgb(draw_paint(rng) * 0.6)
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
    paint, wide, seat = rgb(draw_paint(rng)), tall * rng.uniform(0.12, 0.16), tall * 0.27
    thick = max(1, int(tall * 0.02))
    for dx in (-1.0, -0.6, 0.6, 1.0):
        cv2.line(
            image,
            (int(x + dx * wide), int(y - (0.05 * tall if abs(dx) < 1 else 0))),
            (int(x + dx * wide * 0.9), int(y - seat)),
            paint,
            thick,
        )
    polygon(
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
    polygon(rng, image, back, 0.5)


def _desk(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    wide, high = tall * rng.uniform(0.3, 0.8), tall * rng.uniform(0.38, 0.6)
    deep, thick = tall * rng.uniform(0.05, 0.2), max(1, int(tall * 0.03))
    paint = rgb(draw_paint(rng) * 0.7)
    for dx, dy in ((-1, 0), (1, 0), (-0.85, deep), (0.85, deep)):
        cv2.line(image, (int(x + dx * wide), int(y - dy)), (int(x + dx * wide), int(y - dy - high)), paint, thick)
    polygon(
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
        polygon(
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
    polygon(rng, image, np.array([[x - wide, y], [x + wide, y], [x + wide, y - high], [x - wide, y - high]]), 0.7)
    edge = wide if deep > 0 else -wide
    polygon(
        rng,
        image,
        np.array(
            [[x + edge, y], [x + edge + deep, y - rise], [x + edge + deep, y - high - rise], [x + edge, y - high]]
        ),
        0.3,
    )
    polygon(
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
        draw_sign(rng, image, int(x - 0.7 * wide), int(y - 0.9 * high), int(1.4 * wide), int(0.4 * high))


def _post(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    """A pole, pillar, lamp, bollard or parking meter."""
    high, wide = (
        tall * rng.choice([0.5, 0.8, 1.2, 2.5]) * rng.uniform(0.8, 1.2),
        tall * rng.choice([0.02, 0.05, 0.1, 0.18]),
    )
    paint = draw_paint(rng)
    for part in range(4):
        shade = (0.75, 1.1, 0.95, 0.65)[part]
        left, right = x - wide + part * wide / 2, x - wide + (part + 1) * wide / 2
        cv2.rectangle(image, (int(left), int(y - high)), (int(right), int(y)), rgb(paint * shade), -1)
    top = rng.random()
    if top < 0.25:
        cv2.circle(
            image, (int(x), int(y - high)), max(1, int(tall * rng.uniform(0.05, 0.13))), rgb(draw_paint(rng)), -1
        )
    elif top < 0.45:
        size = int(tall * rng.uniform(0.1, 0.3))
        draw_sign(rng, image, int(x) - size, int(y - high) - size // 2, 2 * size, size)


def _coat_stand(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    """Clothes without anybody in them: a pole with a coat and perhaps a hat on the peg beside it."""
    high = tall * rng.uniform(0.85, 1.1)
    cv2.line(image, (int(x), int(y)), (int(x), int(y - high)), rgb(draw_paint(rng) * 0.5), max(1, int(tall * 0.025)))
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
        polygon(rng, image, coat * [wide, long] * (1 + 0.05 * rng.standard_normal((8, 2))) + [middle, top], 0.7)


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
        polygon(
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
        polygon(
            rng,
            image,
            outline(rng, x + rng.normal(0, 0.08) * tall, middle, wide, high, int(rng.integers(4, 12)), 0.15),
            0.7,
        )


def _parasol(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    high, wide = tall * rng.uniform(1.0, 1.4), tall * rng.uniform(0.4, 0.9)
    cv2.line(image, (int(x), int(y)), (int(x), int(y - high)), (90, 90, 90), max(1, int(tall * 0.03)))
    for part in range(6):
        a, b = -1 + part / 3, -1 + (part + 1) / 3
        wedge = np.array([[x, y - high * 1.1], [x + a * wide, y - high * 0.85], [x + b * wide, y - high * 0.85]])
        cv2.fillPoly(image, [np.round(wedge).astype(np.int32)], rgb(draw_paint(rng)))


Thing = Callable[[Rng, Image, float, float, float], None]
_THINGS: tuple[Thing, ...] = (
    _tree, _plant, _car, _bicycle, _chair, _desk, _crate, _crate, _post, _post, _coat_stand, _rack, _lump, _parasol,
)  # fmt: skip


def draw_thing(rng: Rng, image: Image, x: float, y: float, tall: float) -> None:
    """Put a random thing on the floor at pixel (x, y), where a person would be `tall` pixels high (in place)."""
    _THINGS[rng.integers(len(_THINGS))](rng, image, x, y, tall)
