"""Drawn people and scenes, for training and for judging, out of the cache.

Two sources each: single people and random pictures, which differ in everything that can differ, and seeded sites, which are what a
synthetic camera shows. Training draws shards from 0 up and judging from `TEST` up: other people, wardrobes, cameras, sites. Both are
far from the small seeds that demos use.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.crops import draw_crops
from ingest.synthetic.detector_scenes import draw_scene
from ingest.synthetic.scene import SceneSettings
from ingest.synthetic.view import View
from reid.crops import to_batch
from trainer.cache import Draw, Rows, ShardReport, drawn
from trainer.data import LEAST_VISIBLE, STORED_HW, Crops, Scenes, pad_people
from trainer.pictures import compress, cut_out

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
Shard = dict[str, NDArray[Any]]

TEST = 900_000
"""First shard of what training never sees."""
SEEDS = 1_000_000
"""Shards per seed of a recipe; shard s of seed n is drawn from n * SEEDS + s."""

SCENES_PER_SHARD = 80
MOST_PEOPLE = 24
CALIBRATION_SITES = 4

PEOPLE_PER_SHARD = 50
PICTURES_PER_PERSON = 16
SITE_PEOPLE = 24
SITE_SECONDS = 120.0
SITE_PICTURES_PER_PERSON = 32


def train_scenes(
    count: int, sites: int, seed: int, size_hw: tuple[int, int], workers: int, report: ShardReport
) -> Scenes:
    """About `count` random scenes, in whole shards, and 80 windows from each of `sites` sites, all of `size_hw`."""
    first = seed * SEEDS
    free = _scenes("scenes", _draw_scenes, first, max(1, round(count / SCENES_PER_SHARD)), size_hw, workers, report)
    return (
        _join_scenes(free, _scenes("sites", _draw_windows, first, sites, size_hw, workers, report)) if sites else free
    )


def test_scenes(workers: int, report: ShardReport) -> dict[str, Scenes]:
    """Unseen scenes by name: random ones, and sites filmed at 640x360 and at 1280x720."""
    return {
        "scenes": _scenes("scenes", _draw_scenes, TEST, 4, (256, 416), workers, report),
        "sites_640x360": _scenes("sites", _draw_sites, TEST, 4, (360, 640), workers, report),
        "sites_1280x720": _scenes("sites", _draw_sites, TEST + 4, 2, (720, 1280), workers, report),
    }


def train_crops(people: int, sites: int, seed: int, workers: int, report: ShardReport) -> Crops:
    """Pictures of about `people` single people, in whole shards, and of the 24 people of each of `sites` sites."""
    first = seed * SEEDS
    free = _crops("people", first, max(1, round(people / PEOPLE_PER_SHARD)), workers, report)
    return _join_crops(free, _crops("walkers", first, sites, workers, report)) if sites else free


def test_crops(workers: int, report: ShardReport) -> dict[str, Crops]:
    """Unseen people by name: single ones, and those of sites."""
    return {
        "people": _crops("people", TEST, 4, workers, report),
        "sites": _crops("walkers", TEST, 6, workers, report),
    }


@cache
def golden_pictures(kind: str, count: int) -> tuple[U8, ...]:
    """A few unseen crops, or scenes with somebody in them, for a bundle's golden set: drawn once per process."""
    return tuple(_some(kind, count, TEST + 100))


def training_pictures(kind: str, count: int) -> list[U8]:
    """The same of what training may see, scenes of several sites: for the ranges of a network's values."""
    if kind == "crops":
        return _some(kind, count, SEEDS)
    sites = np.array_split(np.arange(count), CALIBRATION_SITES)
    return [image for site, part in enumerate(sites) for image in _some(kind, len(part), SEEDS + site)]


def _some(kind: str, count: int, seed: int) -> list[U8]:
    if kind == "crops":
        return list(draw_crops(seed, range(count), size_hw=STORED_HW, per_person=1).images)
    rng = np.random.default_rng([seed, 1])
    settings = _site(rng, seed, (360, 640))
    views = [View(settings, camera) for camera in range(min(count, settings.cameras))]
    found: list[U8] = []
    while len(found) < count:
        image, truth = views[len(found) % len(views)].draw(int(rng.integers(settings.frames())))
        if (truth.visible >= LEAST_VISIBLE).any():
            found.append(image)
    return found


def _scenes(
    kind: str,
    draw: Callable[[tuple[int, int], int], Shard],
    first: int,
    shards: int,
    size_hw: tuple[int, int],
    workers: int,
    report: ShardReport,
) -> Scenes:
    parts = drawn(
        kind,
        partial(_shifted, partial(draw, size_hw), first),
        shards,
        key={"first": first, "size": size_hw},
        workers=workers,
        report=report,
    )
    return Scenes(Rows(parts["images"]), np.concatenate(parts["xyxy"]), np.concatenate(parts["visible"]))


def _crops(kind: str, first: int, shards: int, workers: int, report: ShardReport) -> Crops:
    draw = _draw_people if kind == "people" else _draw_walkers
    parts = drawn(kind, partial(_shifted, draw, first), shards, key={"first": first}, workers=workers, report=report)
    # people and cameras of different shards are different
    people = np.concatenate([p + 1000 * s for s, p in enumerate(parts["people"])])
    cameras = np.concatenate([c + 1000 * s for s, c in enumerate(parts["cameras"])])
    return Crops(Rows(parts["images"]), people + 1, cameras)


def _shifted(draw: Draw, first: int, shard: int) -> Shard:
    return draw(first + shard)


def _join_scenes(a: Scenes, b: Scenes) -> Scenes:
    return Scenes(Rows([a.images, b.images]), np.concatenate([a.xyxy, b.xyxy]), np.concatenate([a.visible, b.visible]))


def _join_crops(a: Crops, b: Crops) -> Crops:
    people, cameras = b.people + int(a.people.max()), b.cameras + int(a.cameras.max()) + 1
    return Crops(Rows([a.images, b.images]), np.concatenate([a.people, people]), np.concatenate([a.cameras, cameras]))


def _draw_people(seed: int) -> Shard:
    """Fifty people, each in four passes by four of the 24 cameras of their own site."""
    crops = draw_crops(seed, range(PEOPLE_PER_SHARD), size_hw=STORED_HW, per_person=PICTURES_PER_PERSON)
    return {"images": crops.images, "people": crops.person, "cameras": crops.camera}


def _draw_scenes(size_hw: tuple[int, int], seed: int) -> Shard:
    """Random pictures, nothing in them the same twice."""
    rng = np.random.default_rng([seed, 3])
    drawn_ = [draw_scene(rng, size_hw) for _ in range(SCENES_PER_SHARD)]
    xyxy, visible = pad_people([(boxes, seen) for _, boxes, seen in drawn_], MOST_PEOPLE)
    return {"images": np.stack([image for image, _, _ in drawn_]), "xyxy": xyxy, "visible": visible}


def _draw_sites(size_hw: tuple[int, int], seed: int) -> Shard:
    """One site filmed at `size_hw`, a share of the pictures from each of its four cameras."""
    return _filmed(np.random.default_rng([seed, 1]), seed, size_hw)


def _draw_windows(size_hw: tuple[int, int], seed: int) -> Shard:
    """A window of `size_hw` out of each picture of a site, which is filmed an eighth higher, at 16:9."""
    rng = np.random.default_rng([seed, 1])
    site = _filmed(rng, seed, (size_hw[0] * 9 // 8, size_hw[0] * 2))
    return windows(site["images"], site["xyxy"], site["visible"], size_hw, rng)


def _filmed(rng: np.random.Generator, seed: int, size_hw: tuple[int, int]) -> Shard:
    settings = _site(rng, seed, size_hw)
    images, people = [], []
    for camera in range(settings.cameras):
        view = View(settings, camera)
        for frame in rng.choice(settings.frames(), SCENES_PER_SHARD // settings.cameras, replace=False):
            image, truth = view.draw(int(frame))
            images.append(compress(image, rng))
            people.append((truth.xyxy, truth.visible))
    xyxy, visible = pad_people(people, MOST_PEOPLE)
    return {"images": np.stack(images), "xyxy": xyxy, "visible": visible}


def windows(images: U8, xyxy: F32, visible: F32, size_hw: tuple[int, int], rng: np.random.Generator) -> Shard:
    """A window of `size_hw` out of each picture, anywhere; boxes move with it and may reach beyond it."""
    height, width = size_hw
    top = rng.integers(0, images.shape[1] - height + 1, len(images))
    left = rng.integers(0, images.shape[2] - width + 1, len(images))
    cut = [image[y : y + height, x : x + width] for image, y, x in zip(images, top, left, strict=True)]
    shift = np.stack([left, top, left, top], 1)[:, None]
    return {"images": np.stack(cut), "xyxy": (xyxy - shift).astype(np.float32), "visible": visible}


def _draw_walkers(seed: int) -> Shard:
    """The people of one site, cut out of pictures of its four cameras as a detector would."""
    rng = np.random.default_rng([seed, 2])
    settings = _site(rng, seed, (720, 1280) if rng.random() < 0.3 else (360, 640))
    cut: dict[int, list[tuple[int, U8]]] = {}
    for camera in range(settings.cameras):
        view = View(settings, camera)
        for frame in rng.choice(settings.frames(), round(SITE_SECONDS), replace=False):
            image, truth = view.draw(int(frame))
            image = compress(image, rng)
            for who, box, visible in zip(truth.person, truth.xyxy, truth.visible, strict=True):
                crop = cut_out(image, box, rng)
                if visible >= LEAST_VISIBLE and crop is not None:
                    cut.setdefault(int(who), []).append((camera, crop))
    rows = [
        (who, *found[place])
        for who, found in sorted(cut.items())
        for place in rng.choice(len(found), min(len(found), SITE_PICTURES_PER_PERSON), replace=False)
    ]
    people, cameras, crops = zip(*rows, strict=True)
    return {"images": to_batch(crops, STORED_HW), "people": np.array(people), "cameras": np.array(cameras)}


def _site(rng: np.random.Generator, seed: int, size_hw: tuple[int, int]) -> SceneSettings:
    return SceneSettings(
        seed=seed,
        people=SITE_PEOPLE,
        seconds=SITE_SECONDS,
        width=size_hw[1],
        height=size_hw[0],
        crowd=float(rng.uniform(0.7, 2.0)),
        lighting=float(rng.uniform(0.5, 1.5)),
    )
