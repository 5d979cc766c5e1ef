"""People who walk about on a floor before one camera, as boxes a detector would give, with the truth.

For tests and `benchmarks/track.py`: no pixels. Whoever is hidden is missed or cut short, boxes jitter, strong overlaps are
suppressed, and colours are mixed with those of who stands in front.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.boxes import hidden, iou
from detector.looks import SIZE
from detector.nms import suppress

SIZE_HW = (360, 640)
FOCAL, CAMERA_HEIGHT_M, DOWN = 420.0, 2.8, 0.25  # pixels, metres, radians
FLOOR_M = ((-5.0, 4.0), (5.0, 14.0))  # corners; x to the right, y away from the camera


@dataclass(frozen=True)
class Seen:
    """One frame: boxes (N, 4), scores (N,), looks (N, 24) and the person (N,) behind each box."""

    now_s: float
    xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    looks: NDArray[np.float32]
    people: NDArray[np.intp]


def walk(seed: int, people: int, seconds: float, fps: float) -> Iterator[Seen]:
    """`people` walkers for `seconds`; they turn, stop, leave the picture and come back."""
    rng = np.random.default_rng(seed)
    low, high = np.array(FLOOR_M)
    place, goal = rng.uniform(low, high, (2, people, 2))
    speed, tall = rng.uniform(0.8, 1.7, people), rng.uniform(1.55, 1.9, people)
    waits = np.zeros(people)
    colours = rng.normal(0.45, 0.1, (people, SIZE))  # apart by 0.14 rms: as real people in one room are
    for frame in range(int(seconds * fps)):
        for _ in range(5):
            step = 1 / fps / 5
            way = goal - place
            left = np.linalg.norm(way, axis=1)
            there = left < 0.3
            waits = np.where(there, rng.choice([0.0, 0.0, 3.0], people), np.maximum(waits - step, 0))
            goal[there] = rng.uniform(low, high, (int(there.sum()), 2))
            moving = (waits <= 0) & ~there
            place += np.where(moving, speed * step / np.maximum(left, 1e-6), 0)[:, None] * way
        yield _see(rng, frame / fps, place, tall, colours)


def _see(
    rng: np.random.Generator,
    now_s: float,
    place: NDArray[np.float64],
    tall: NDArray[np.float64],
    colours: NDArray[np.float64],
) -> Seen:
    foot, head = _project(place, np.zeros(len(place))), _project(place, tall)
    height = foot[:, 1] - head[:, 1]
    half = 0.17 * height * rng.uniform(0.85, 1.15, len(place))
    whole = np.stack([head[:, 0] - half, head[:, 1], head[:, 0] + half, foot[:, 1]], 1).astype(np.float32)
    limits = np.array([SIZE_HW[1], SIZE_HW[0]] * 2, np.float32)
    inside = whole.clip(0, limits)
    share = (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1]) / ((whole[:, 2:] - whole[:, :2]).prod(1))
    covered = hidden(whole)
    order = np.argsort(-whole[:, 3], kind="stable")  # nearest first
    scores = np.clip(0.95 - 0.9 * covered**1.5 + rng.normal(0, 0.05, len(place)), 0, 1)
    found = (share > 0.3) & (scores > 0.15) & (rng.random(len(place)) > 0.02)
    xyxy = inside + rng.normal(0, 0.02, inside.shape) * height[:, None]
    cut = (covered > 0.3) & (rng.random(len(place)) < 0.5)
    xyxy[cut, 3] -= 0.4 * height[cut]
    xyxy = np.clip(xyxy, 0, limits).astype(np.float32)
    overlap = iou(whole, whole) * (whole[:, 3][None] > whole[:, 3][:, None])
    front = overlap.argmax(1)
    mixed = colours * (1 - covered[:, None]) + colours[front] * covered[:, None]
    noise = 0.06 * np.exp(rng.normal(0, 0.35, (len(place), 1)))  # pose and light; measured on a real clip
    looks = (mixed + noise * rng.normal(0, 1, mixed.shape)).astype(np.float32)
    solid = (xyxy[:, 2] - xyxy[:, 0] > 4) & (xyxy[:, 3] - xyxy[:, 1] > 8)
    order = order[(found & solid)[order]]
    order = order[np.argsort(-scores[order], kind="stable")]
    order = order[suppress(xyxy[order], 0.6)]
    return Seen(now_s, xyxy[order], scores[order].astype(np.float32), looks[order], order)


def _project(place: NDArray[np.float64], up: NDArray[np.float64]) -> NDArray[np.float64]:
    y, z = place[:, 1], up - CAMERA_HEIGHT_M
    depth = y * np.cos(DOWN) - z * np.sin(DOWN)
    down = -(z * np.cos(DOWN) + y * np.sin(DOWN))
    return np.stack([place[:, 0] / depth * FOCAL + SIZE_HW[1] / 2, down / depth * FOCAL + SIZE_HW[0] / 2], 1)
