"""Random cluttered scenes with boxes, for training a person detector that is to work in places it never saw."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.appearance import draw_appearance
from ingest.synthetic.backdrop import draw_place
from ingest.synthetic.body import HANDS, Appearance, pose
from ingest.synthetic.camera import Pinhole, look_at
from ingest.synthetic.effects import draw_effects
from ingest.synthetic.raster import Canvas, draw_figure, draw_light, draw_shadow
from ingest.synthetic.things import draw_thing

Image = NDArray[np.uint8]
Rng = np.random.Generator

POOL = 480
"""How many people are drawn for the scenes; each appears in ever new colours."""

MAX_PEOPLE = 12


def draw_scene(
    rng: Rng, size_hw: tuple[int, int] = (256, 416)
) -> tuple[Image, NDArray[np.float32], NDArray[np.float32]]:
    """A filmed scene with 0 to 12 people.

    Returns:
        image: (h, w, 3) uint8 RGB.
        xyxy: (N, 4) float32 pixels, boxes of whole bodies (hidden parts too), cut at the picture's edge; bags are left out.
        visible: (N,) float32, share of the body inside the picture and not hidden, above 0 to 1. People seen less than
            4 % are not listed.
    """
    height, width = size_hw
    camera, horizon = _draw_camera(rng, size_hw)
    crowd = rng.random()
    clutter = float(rng.choice([0.3, 1.0, 2.0, 3.5], p=[0.2, 0.4, 0.28, 0.12]))
    canvas = Canvas(height, width)
    canvas.reset(draw_place(rng, size_hw, horizon, clutter))
    light = draw_light(rng)
    count = 0 if crowd < 0.15 else int(np.clip(rng.geometric(0.22), 1, MAX_PEOPLE))
    spots = _spots(rng, camera, count)
    figures = []
    for spot, heading in spots:
        appearance = _person(int(rng.integers(POOL)))
        appearance = replace(appearance, tints=_tints(rng, len(appearance.tints)))
        stride = 0.0 if rng.random() < 0.35 else float(rng.uniform(0.6, 1.5))
        seated = bool(rng.random() < 0.05)
        figures.append(
            (
                pose(
                    appearance,
                    rng.random(),
                    stride,
                    HANDS[rng.integers(len(HANDS))] if rng.random() < 0.4 else "swing",
                    seated,
                    float(rng.normal(0, 0.3)),
                ),
                heading,
                spot,
            )
        )
    strength = float(rng.uniform(0.1, 0.6))
    for figure, heading, spot in figures:
        draw_shadow(canvas, figure, heading, spot, camera, light, strength)
    drawn = [
        draw_figure(canvas, figure, heading, spot, camera, light, 1 + index)
        for index, (figure, heading, spot) in enumerate(figures)
    ]
    _foreground(rng, canvas, clutter)
    seen = np.bincount(canvas.owner.ravel(), minlength=len(figures) + 1)
    boxes, shares = [], []
    for index, result in enumerate(drawn):
        if result is None:
            continue
        box = np.clip(result.xyxy, 0, [width, height, width, height])
        whole = float(np.prod(result.xyxy[2:] - result.xyxy[:2]))
        inside = float(np.prod(np.maximum(box[2:] - box[:2], 0))) / max(whole, 1e-6)
        share = inside * float(seen[index + 1]) / max(result.pixels, 1)
        if share < 0.04 or seen[index + 1] < 12:
            continue
        boxes.append(box)
        shares.append(min(1.0, share))
    image = draw_effects(rng).apply(canvas.colour, rng)
    return image, np.array(boxes, np.float32).reshape(-1, 4), np.array(shares, np.float32)


@lru_cache(maxsize=POOL)
def _person(number: int) -> Appearance:
    return draw_appearance(np.random.default_rng([41, number]))


def _tints(rng: Rng, count: int) -> NDArray[np.float32]:
    """Other colours for the same clothes; skin and hair stay near their own."""
    common = np.exp(rng.normal(0, 0.15))
    tints = common * np.exp(rng.normal(0, 0.22, (count, 1)) + rng.normal(0, 0.14, (count, 3)))
    tints[0] = common
    return np.asarray(tints, np.float32)


def _draw_camera(rng: Rng, size_hw: tuple[int, int]) -> tuple[Pinhole, float]:
    """A camera from eye level to a high ceiling, and where its horizon lies as a share of the height."""
    height, width = size_hw
    focal = width * float(np.exp(rng.uniform(np.log(0.55), np.log(1.8))))
    tall = float(rng.choice([1.5, 2.6, 4.5], p=[0.35, 0.4, 0.25]) * rng.uniform(0.75, 1.3))
    down = float(rng.uniform(-0.08, 0.3) if tall < 2 else rng.uniform(0.05, 0.65))
    camera = look_at(
        (0, 0, tall), (0, np.cos(down), tall - np.sin(down)), focal, size_hw, roll=float(rng.normal(0, 0.03))
    )
    horizon = (camera.principal_point[1] - focal * np.tan(down)) / height
    return camera, float(np.clip(horizon, -0.1, 0.9))


def _spots(rng: Rng, camera: Pinhole, count: int) -> list[tuple[tuple[float, float], float]]:
    """Places on the floor and headings: 16 to 400 pixels tall and larger than the picture, alone, in pairs and in groups."""
    height, width = camera.size_hw
    spots: list[tuple[tuple[float, float], float]] = []
    groups = rng.random() < 0.5
    for _ in range(6 * count):
        if len(spots) == count:
            break
        tall = float(np.exp(rng.uniform(np.log(16), np.log(400 if rng.random() < 0.85 else 700)))) * height / 256
        depth = camera.focal * 1.7 / tall
        if groups and spots and rng.random() < 0.65:  # beside somebody, often half hidden
            (x, y), heading = spots[rng.integers(len(spots))]
            spot = (x + float(rng.normal(0, 0.45)), y + float(rng.normal(0, 0.5)))
            turn = heading + float(rng.normal(0, 0.3)) if rng.random() < 0.6 else float(rng.uniform(0, 2 * np.pi))
        else:
            across = float(rng.uniform(-0.02, 1.02) * width - camera.principal_point[0]) / camera.focal * depth
            spot, turn = (across, depth), float(rng.uniform(0, 2 * np.pi))
        pixels, far = camera.project(np.array([[*spot, 0.3], [*spot, 1.2]]))
        seen = (pixels[:, 1] > 0) & (pixels[:, 1] < height) & (pixels[:, 0] > -10) & (pixels[:, 0] < width + 10)
        apart = all((spot[0] - x) ** 2 + (spot[1] - y) ** 2 > 0.12 for (x, y), _ in spots)
        if seen.any() and far[0] > 0.5 and apart:
            spots.append((spot, turn))
    return spots


def _foreground(rng: Rng, canvas: Canvas, clutter: float) -> None:
    """Things that stand nearer than the people and hide parts of them."""
    height, width = canvas.owner.shape
    for _ in range(int(rng.poisson(0.7 * min(clutter, 2.0)))):
        before = canvas.colour.copy()
        y = height * rng.uniform(0.55, 1.25)
        draw_thing(rng, canvas.colour, rng.uniform(0, 1) * width, y, height * rng.uniform(0.2, 1.0))
        canvas.owner[(canvas.colour != before).any(axis=2)] = 0
    if rng.random() < 0.06:  # bars of a fence or a window
        step, paint = int(rng.integers(12, 60)), rng.uniform(15, 225)
        for x in range(int(rng.integers(step)), width, step):
            cv2.line(canvas.colour, (x, 0), (x, height), (paint, paint, paint), 2)
            canvas.owner[:, max(0, x - 1) : x + 1] = 0
