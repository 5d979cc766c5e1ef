"""Person crops for training: the same drawn people seen by many drawn cameras.

Person p of a seed is the same person whatever range is asked for, so disjoint ranges are disjoint people. Fifty people
share a site of cameras; every camera has its own light, effects, height and places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import cv2
import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.appearance import draw_appearance
from ingest.synthetic.backdrop import draw_place
from ingest.synthetic.body import HANDS, Appearance, Figure, Hands, pose
from ingest.synthetic.camera import Pinhole, look_at
from ingest.synthetic.colours import draw_wardrobe
from ingest.synthetic.effects import CameraEffects, draw_effects
from ingest.synthetic.raster import Canvas, Light, draw_figure, draw_light, draw_shadow
from ingest.synthetic.things import draw_thing

Image = NDArray[np.uint8]
Rng = np.random.Generator

SITE_PEOPLE = 50
"""How many people walk past the same cameras."""

_DRAWN_HW = (256, 128)
_HANDS_SHARE = np.array([0.66, 0.08, 0.04, 0.06, 0.06, 0.03, 0.03, 0.04])


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """Pictures of people and who they are.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        person: (N,) int64. camera: (N,) int64, unique over all sites of a seed.
        keypoints: (N, 17, 3) float32 x, y in pixels of the crop and score (0 out of the picture, 0.05 hidden, 0.9 seen).
        parts: (N, H, W) uint8, the labels of `raster.Canvas.part`; none when labels were not asked for.
    """

    images: Image
    person: NDArray[np.int64]
    camera: NDArray[np.int64]
    keypoints: NDArray[np.float32]
    parts: Image | None


@dataclass(frozen=True, slots=True, eq=False)
class _CropCamera:
    """How one camera shows people.

    `turned`: which way they mostly walk, radians; `lean`: spread of their tilt in the picture, radians; `tight`: boxes
    are as narrow as the people and get stretched; `motion`: share of pictures blurred by movement.
    """

    effects: CameraEffects
    light: Light
    elevation: float
    places: tuple[Image, ...]
    turned: float
    lean: float
    tight: bool
    motion: float


def draw_crops(
    seed: int,
    people: range,
    *,
    size_hw: tuple[int, int] = (256, 128),
    per_person: int = 16,
    cameras: int = 24,
    passes: int = 4,
    shift: float = 1.0,
    look_alikes: float = 0.1,
    labels: bool = False,
    workers: int = 1,
) -> Crops:
    """Draw `per_person` crops of each person, spread evenly over `passes` different cameras.

    Args:
        size_hw: height and width of the crops in pixels; they are drawn and filmed at 256x128 and resized last.
        cameras: how many cameras each site of fifty people has.
        shift: how far cameras differ in light and colour, see `effects.draw_effects`.
        look_alikes: the share of people who wear another's colours.
        labels: also return part labels.
        workers: processes that draw; the result does not depend on it.
    """
    if workers > 1 and len(people) > 1:
        step = -(-len(people) // (workers * 4))
        chunks = [people[i : i + step] for i in range(0, len(people), step)]
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            jobs = [
                pool.submit(
                    draw_crops, seed, chunk, size_hw=size_hw, per_person=per_person, cameras=cameras, passes=passes,
                    shift=shift, look_alikes=look_alikes, labels=labels,
                )
                for chunk in chunks
            ]  # fmt: skip
            return _joined([job.result() for job in jobs])
    count = len(people) * per_person
    images = np.empty((count, *size_hw, 3), np.uint8)
    parts = np.empty((count, *size_hw), np.uint8) if labels else None
    person, camera = np.empty(count, np.int64), np.empty(count, np.int64)
    keypoints = np.empty((count, 17, 3), np.float32)
    site, at = None, 0
    for who in people:
        if site is None or site.index != who // SITE_PEOPLE:
            site = Site(seed, who // SITE_PEOPLE, cameras, shift)
        for shot in site.shots(who, per_person, passes, look_alikes):
            images[at] = _resized(shot.image, size_hw)
            scale = np.array([size_hw[1] / _DRAWN_HW[1], size_hw[0] / _DRAWN_HW[0], 1.0])
            person[at], camera[at], keypoints[at] = who, shot.camera, shot.keypoints * scale
            if parts is not None:
                parts[at] = cv2.resize(shot.parts, size_hw[::-1], interpolation=cv2.INTER_NEAREST)
            at += 1
    return Crops(images, person, camera, keypoints, parts)


def _joined(pieces: Sequence[Crops]) -> Crops:
    parts = [piece.parts for piece in pieces if piece.parts is not None]
    return Crops(
        np.concatenate([piece.images for piece in pieces]),
        np.concatenate([piece.person for piece in pieces]),
        np.concatenate([piece.camera for piece in pieces]),
        np.concatenate([piece.keypoints for piece in pieces]),
        np.concatenate(parts) if parts else None,
    )


def _resized(image: Image, size_hw: tuple[int, int]) -> Image:
    if image.shape[:2] == size_hw:
        return image
    way = cv2.INTER_AREA if size_hw[0] < image.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size_hw[::-1], interpolation=way), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One crop, 256x128: picture, (17, 3) keypoints, part labels and the camera's number."""

    image: Image
    keypoints: NDArray[np.float64]
    parts: Image
    camera: int


def draw_person(seed: int, who: int, look_alikes: float) -> Appearance:
    """Person number `who` of a seed; a share of `look_alikes` wears the colours of the one before."""
    pair = np.random.default_rng([seed, 2, who // 2])
    shared = draw_wardrobe(pair) if pair.random() < look_alikes else None
    return draw_appearance(np.random.default_rng([seed, 1, who]), shared)


class Site:
    """The cameras that fifty people walk past, and strangers who get into the picture."""

    def __init__(self, seed: int, index: int, cameras: int, shift: float = 1.0) -> None:
        rng = np.random.default_rng([seed, 3, index, cameras])
        self.seed = seed
        self.index = index
        self.cameras = [_draw_camera(rng, shift) for _ in range(cameras)]
        self.strangers = [draw_appearance(rng) for _ in range(8)]

    def shots(self, who: int, count: int, passes: int, look_alikes: float = 0.0) -> Iterator[Shot]:
        """`count` crops of person `who` in passes by different cameras, each with its own direction and activity."""
        appearance = draw_person(self.seed, who, look_alikes)
        rng = np.random.default_rng([self.seed, 4, who])
        seen_by = rng.permutation(len(self.cameras))[:passes]
        for part, number in enumerate(seen_by):
            camera = self.cameras[number]
            heading = (
                camera.turned + rng.choice([0, np.pi]) + rng.normal(0, 0.35)
                if rng.random() < 0.6
                else rng.uniform(0, 2 * np.pi)
            )
            stride = 0.0 if rng.random() < 0.25 else rng.uniform(0.7, 1.2)
            hands: Hands = HANDS[rng.choice(len(HANDS), p=_HANDS_SHARE)]
            for _ in range(count // passes + (part < count % passes)):
                turn = heading + float(rng.normal(0, 0.3))
                image, keypoints, parts = self._shoot(rng, appearance, camera, turn, stride, hands)
                yield Shot(image, keypoints, parts, self.index * len(self.cameras) + int(number))

    def _shoot(
        self, rng: Rng, appearance: Appearance, camera: _CropCamera, heading: float, stride: float, hands: Hands
    ) -> tuple[Image, NDArray[np.float64], Image]:
        figure = pose(appearance, rng.random(), stride, hands, look=float(rng.normal(0, 0.25)))
        view = _frame_person(rng, figure, heading, camera)
        canvas = Canvas(*view.size_hw)
        canvas.reset(_background(rng, camera, view.size_hw))
        others = []
        if rng.random() < 0.30:
            for _ in range(int(rng.integers(1, 3))):
                other = self.strangers[rng.integers(len(self.strangers))]
                spot = (float(rng.choice([-1, 1]) * rng.uniform(0.38, 0.95)), float(rng.uniform(-1.2, 2.5)))
                walks = pose(other, rng.random(), stride if rng.random() < 0.7 else 0.0)
                others.append(
                    (walks, heading + rng.normal(0, 0.3) if rng.random() < 0.5 else rng.uniform(0, 6.3), spot)
                )
        for walks, turn, spot in [(figure, heading, (0.0, 0.0)), *others]:
            draw_shadow(canvas, walks, turn, spot, view, camera.light)
        draw_figure(canvas, figure, heading, (0.0, 0.0), view, camera.light, 1)
        for number, (walks, turn, spot) in enumerate(others):
            draw_figure(canvas, walks, turn, spot, view, camera.light, 2 + number)
        if rng.random() < 0.10:
            _occlude(rng, canvas)
        seen = canvas.colour if rng.random() > camera.motion else _moved(rng, canvas.colour)
        image = _resized(camera.effects.jittered(rng).apply(seen, rng), _DRAWN_HW)
        parts = np.where(canvas.owner == 1, canvas.part, 0).astype(np.uint8)
        parts = np.asarray(cv2.resize(parts, _DRAWN_HW[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
        pixels, _ = view.project(figure.joints_at(heading, (0.0, 0.0)))
        keypoints = _score(pixels, canvas) * np.array([_DRAWN_HW[1] / view.size_hw[1], 1.0, 1.0])
        return image, keypoints, parts


def _draw_camera(rng: Rng, shift: float) -> _CropCamera:
    clutter = float(rng.uniform(0.2, 1.5))
    horizon = float(rng.uniform(0.0, 0.5))
    return _CropCamera(
        effects=draw_effects(rng, shift),
        light=draw_light(rng),
        elevation=float(np.radians(rng.uniform(0, 32) if rng.random() < 0.8 else rng.uniform(30, 52))),
        places=tuple(draw_place(rng, (320, 420), horizon, clutter) for _ in range(2)),
        turned=float(rng.uniform(0, 2 * np.pi)),
        lean=float(rng.choice([0.03, 0.14], p=[0.65, 0.35])),  # wide lenses let people lean at the picture's sides
        tight=bool(rng.random() < 0.6),
        motion=float(rng.choice([0.0, 0.3], p=[0.6, 0.4])),
    )


def _frame_person(rng: Rng, figure: Figure, heading: float, camera: _CropCamera) -> Pinhole:
    """A camera whose picture is the box around a person at the origin, as loosely and badly cut as detectors do.

    256 pixels high; its width is the box's at cameras with tight boxes, else about half the height.
    """
    distance = float(np.exp(rng.uniform(np.log(2.6), np.log(14.0))))
    elevation = float(np.clip(camera.elevation + rng.normal(0, 0.05), -0.05, 1.1))
    middle = np.array([0.0, 0.0, 0.5 * figure.appearance.height_m])
    eye = middle + distance * np.array([0.0, -np.cos(elevation), np.sin(elevation)])
    eye[2] = max(eye[2], 0.25)
    height = _DRAWN_HW[0]
    view = look_at(eye, middle, 1000.0, _DRAWN_HW, roll=float(rng.normal(0, camera.lean)))
    pixels, _ = view.project(figure.outline_at(heading, (0.0, 0.0)))
    (left, top), (right, foot) = pixels.min(axis=0), pixels.max(axis=0)
    tall = foot - top
    margin = rng.normal(0.03, 0.03, 4)
    low, high = top - margin[0] * tall, foot + margin[1] * tall
    if rng.random() < 0.12:  # legs cut off by the picture's edge or by furniture
        high = foot - rng.uniform(0.1, 0.5) * tall
    if camera.tight:
        left, right = left - margin[2] * tall, right + margin[3] * tall
    else:
        wide = (high - low) * rng.uniform(0.42, 0.56)
        centre = (left + right) / 2 + rng.normal(0, 0.03) * tall
        left, right = centre - wide / 2, centre + wide / 2
    scale = height / (high - low)
    width = int(np.clip(round((right - left) * scale), 72, 256))
    return view.moved((float(left), float(low)), float(scale), (height, width))


def _moved(rng: Rng, image: Image) -> Image:
    """The picture of somebody who moved while the shutter was open."""
    length, turn = rng.uniform(3, 9), rng.normal(0, 0.5)
    line = np.zeros((15, 15), np.float32)
    reach = length / 2 * np.array([np.cos(turn), np.sin(turn)])
    ends = [tuple(int(v) for v in np.round(7 + sign * reach)) for sign in (-1, 1)]
    cv2.line(line, ends[0], ends[1], (1.0,))
    return np.asarray(cv2.filter2D(image, -1, line / line.sum()), np.uint8)


def _background(rng: Rng, camera: _CropCamera, size_hw: tuple[int, int]) -> Image:
    place = camera.places[rng.integers(len(camera.places))]
    high = int(place.shape[0] * rng.uniform(0.3, 0.95))
    wide = min(place.shape[1], int(high * rng.uniform(0.42, 0.62)))
    y, x = int(rng.integers(place.shape[0] - high + 1)), int(rng.integers(place.shape[1] - wide + 1))
    window = place[y : y + high, x : x + wide]
    return np.asarray(cv2.resize(window, size_hw[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def _occlude(rng: Rng, canvas: Canvas) -> None:
    """Something stands between camera and person: a counter, a post, a plant. It hides less than half of the person."""
    before, person = canvas.colour.copy(), canvas.owner == 1
    height, width = before.shape[:2]
    if rng.random() < 0.4:
        top = int(height * rng.uniform(0.6, 0.95))
        canvas.colour[top:] = np.clip(rng.uniform(20, 220) + rng.normal(0, 10, 3), 0, 255)
    else:
        across = float(rng.choice([-0.1, 0.1, 0.9, 1.1])) * width
        draw_thing(rng, canvas.colour, across, height * rng.uniform(0.9, 1.3), height * rng.uniform(0.6, 1.1))
    hidden = (canvas.colour != before).any(axis=2)
    if (hidden & person).sum() > 0.5 * person.sum():
        canvas.colour[...] = before
    else:
        canvas.owner[hidden] = 0


def _score(pixels: NDArray[np.float64], canvas: Canvas) -> NDArray[np.float64]:
    """Keypoints (17, 3) with scores: 0 outside, 0.05 where something else is seen, else 0.9."""
    height, width = canvas.owner.shape
    out = np.zeros((17, 3))
    out[:, :2] = pixels
    for joint, (x, y) in enumerate(np.round(pixels).astype(np.int64)):
        if 0 <= x < width and 0 <= y < height:
            near = canvas.owner[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            out[joint, 2] = 0.9 if (near == 1).any() else 0.05
    return out
