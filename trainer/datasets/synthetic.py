"""The synthetic world as a data set: drawn where it is needed, kept in the cache, with joints and part labels.

Shaped like the field's protocols. Crops: training people walk past six cameras, twelve pictures each; test people, 150 more of
other wardrobes before six other cameras, ask with their first picture per camera; a fifth as many again are distractors. A fifth of
all wear the colours of somebody else, in three of ten pictures strangers stand beside or before the person, in one of ten a thing
does. Frames: sites of 24 people, of whom every eighth has no name, filmed by six cameras; test sites are other sites.

Few people (`people` below `TRAIN_PEOPLE`) make a smaller test as well, half as many, so that a trial takes seconds.
"""

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.crops import Site
from ingest.synthetic.scene import SceneSettings
from ingest.synthetic.view import View
from reid.crops import to_batch
from trainer.cache import Rows, ShardReport, drawn
from trainer.data import UNLABELLED, Crops, Pictures, Scenes
from trainer.datasets.listing import padded
from trainer.datasets.search import all_frames, named, people_of, relabelled
from trainer.datasets.sets import ALL_FRAMES, Queries, ReidData, SearchData
from trainer.pictures import compress

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Shard = dict[str, NDArray[Any]]

SEEDS = 1_000_000
"""Seed n of a recipe draws from n * SEEDS on."""
TRAIN_CROPS, TEST_CROPS, TRAIN_FRAMES, TEST_FRAMES = 500_000, 950_000, 600_000, 970_000
"""Seeds within; test pictures are the same for every seed of a recipe. `trainer.drawn` keeps to others."""
TRAIN_PEOPLE, TEST_PEOPLE, DISTRACTORS = 300, 150, 5
CAMERAS = 6
PICTURES_PER_PERSON = 12
PEOPLE_PER_SHARD = 4
LOOK_ALIKES = 0.2
DRAWN_HW = (256, 128)

SITE_PEOPLE = 24
NAMED_PER_SITE = 21
"""The other three of a site's people pass without a name."""
SITE_SECONDS = 120.0
FRAME_HW = (360, 640)
FRAMES_PER_CAMERA = 20
TRIAL_CAMERAS, TRIAL_FRAMES = 3, 8
"""Of the one site that fewer than `NAMED_PER_SITE` people get."""
MIN_VISIBLE = 0.25
"""Less of a person than this is a box without a name, less than half of this none."""
MIN_QUERY_VISIBLE = 0.5


def reid(
    people: int, seed: int, size_hw: tuple[int, int], workers: int, report: ShardReport, *, train: bool
) -> ReidData:
    """`people` training identities, 0: `TRAIN_PEOPLE`; without `train` they are not drawn and the set has none."""
    count = people or TRAIN_PEOPLE
    asked = test_count(count)
    everybody = _crops(TEST_CROPS, asked + asked // DISTRACTORS, size_hw, workers, report)
    test = replace(everybody, people=np.where(everybody.people < asked, everybody.people + 1, 0))
    pairs = np.stack([everybody.people, everybody.cameras], 1)
    first = np.zeros(len(pairs), dtype=bool)
    first[np.unique(pairs, axis=0, return_index=True)[1]] = True
    first &= test.people > 0
    learning = f"{count} people to learn, " if train else ""
    notes = [f"drawn: {learning}{asked} others and {asked // DISTRACTORS} distractors, {CAMERAS} cameras each"]
    if asked < TEST_PEOPLE:
        notes.append(
            f"a trial: scores are comparable from people = {TRAIN_PEOPLE} on, when {TEST_PEOPLE} are asked for"
        )
    nobody = test.take(np.arange(0))
    learnt = _crops(seed * SEEDS + TRAIN_CROPS, count, size_hw, workers, report) if train else nobody
    return ReidData(learnt, test.take(np.flatnonzero(first)), test.take(np.flatnonzero(~first)), notes)


def search(people: int, seed: int, workers: int, report: ShardReport, *, train: bool) -> SearchData:
    """Frames with about `people` named training identities (whole sites of 21), 0: `TRAIN_PEOPLE`; see `reid`."""
    count = people or TRAIN_PEOPLE
    test = _frames(TEST_FRAMES, test_count(count), workers, report)
    learnt, identities, learning = test.take(np.arange(0)), 0, ""
    if train:
        learnt, identities = relabelled(_frames(seed * SEEDS + TRAIN_FRAMES, count, workers, report))
        learning = f"{len(learnt.xyxy)} frames with {identities} people to learn, "
    notes = [f"drawn: {learning}{len(test.xyxy)} test frames"]
    queries = _queries(test)
    return SearchData(learnt, test, queries, (ALL_FRAMES,), all_frames(test, queries), ALL_FRAMES, identities, notes)


def test_count(people: int) -> int:
    """How many people are asked for when `people` are learnt."""
    return min(TEST_PEOPLE, max(4, people // 2))


class Scaled:
    """Drawn crops at the size that is asked for."""

    def __init__(self, pictures: Pictures, size_hw: tuple[int, int]) -> None:
        self._pictures, self._size_hw = pictures, size_hw

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, rows: I64, /) -> U8:
        found = self._pictures[rows]
        if found.ndim == 4:
            return to_batch(list(found), self._size_hw)
        scaled = [cv2.resize(labels, self._size_hw[::-1], interpolation=cv2.INTER_NEAREST) for labels in found]
        return np.array(scaled, np.uint8).reshape(len(found), *self._size_hw)


def _crops(first: int, people: int, size_hw: tuple[int, int], workers: int, report: ShardReport) -> Crops:
    key = {"seed": first, "people": PEOPLE_PER_SHARD, "pictures": PICTURES_PER_PERSON, "look_alikes": LOOK_ALIKES}
    shards = -(-people // PEOPLE_PER_SHARD)
    parts = drawn("identities", partial(_draw_crops, first), shards, key=key, workers=workers, report=report)
    who, cameras = np.concatenate(parts["people"]), np.concatenate(parts["cameras"])
    crops = Crops(
        Scaled(Rows(parts["images"]), size_hw),
        who,
        cameras,
        np.concatenate(parts["joints"]),
        Scaled(Rows(parts["parts"]), size_hw),
        [
            f"{person:04d}_c{camera + 1}_{row:05d}"
            for row, (person, camera) in enumerate(zip(who, cameras, strict=True))
        ],
    )
    return crops.take(np.flatnonzero(who < people))


@lru_cache(maxsize=1)
def _site(seed: int) -> Site:
    return Site(seed, 0, CAMERAS)


def _draw_crops(seed: int, shard: int) -> Shard:
    first = shard * PEOPLE_PER_SHARD
    shots = [
        (who, shot)
        for who in range(first, first + PEOPLE_PER_SHARD)
        for shot in _site(seed).shots(who, PICTURES_PER_PERSON, CAMERAS, LOOK_ALIKES)
    ]
    size = np.array([DRAWN_HW[1], DRAWN_HW[0], 1])
    return {
        "images": np.stack([shot.image for _, shot in shots]),
        "people": np.array([who for who, _ in shots]),
        "cameras": np.array([shot.camera for _, shot in shots]),
        "joints": np.stack([shot.keypoints / size for _, shot in shots]).astype(np.float32),
        "parts": np.stack([shot.parts for _, shot in shots]),
    }


def _frames(first: int, people: int, workers: int, report: ShardReport) -> Scenes:
    """Whole sites; people and cameras of different sites are different, people from 1."""
    trial = people < NAMED_PER_SITE
    per_site = people if trial else NAMED_PER_SITE
    cameras, frames = (TRIAL_CAMERAS, TRIAL_FRAMES) if trial else (CAMERAS, FRAMES_PER_CAMERA)
    draw = partial(_draw_frames, first, per_site, cameras, frames)
    key = {"first": first, "named": per_site, "cameras": cameras, "frames": frames, "size": FRAME_HW}
    parts = drawn("frames", draw, -(-people // per_site), key=key, workers=workers, report=report)
    boxes, who, seen, shown_by, names = [], [], [], [], []
    for site, (xyxy, person, visible, camera, frame) in enumerate(
        zip(*(parts[name] for name in ("xyxy", "people", "visible", "cameras", "frames")), strict=True)
    ):
        for row in range(len(xyxy)):
            there = np.isfinite(xyxy[row, :, 0])
            mine = person[row, there]
            boxes.append(xyxy[row, there])
            who.append(np.where(mine == UNLABELLED, UNLABELLED, mine + 1 + site * per_site))
            seen.append(visible[row, there])
        shown_by.append(camera + site * cameras)
        names += [f"s{site + 1}/c{c + 1}_{f:06d}" for c, f in zip(camera, frame, strict=True)]
    return Scenes(Rows(parts["images"]), *padded(boxes, who, seen), np.concatenate(shown_by), names)


def _draw_frames(first: int, with_name: int, cameras: int, frames: int, shard: int) -> Shard:
    rng = np.random.default_rng([first + shard, 5])
    settings = SceneSettings(
        seed=first + shard,
        people=with_name + with_name // 7,
        cameras=cameras,
        seconds=SITE_SECONDS,
        width=FRAME_HW[1],
        height=FRAME_HW[0],
        crowd=2.0,
        lookalikes=LOOK_ALIKES,
    )
    images, boxes, people, seen, taken = [], [], [], [], []
    for camera in range(cameras):
        view = View(settings, camera)
        for frame in np.sort(rng.choice(settings.frames(), frames, replace=False)):
            image, truth = view.draw(int(frame))
            shown = truth.visible >= MIN_VISIBLE / 2
            known = (truth.visible >= MIN_VISIBLE) & (truth.person < with_name)
            images.append(compress(image, rng))
            boxes.append(truth.xyxy[shown])
            people.append(np.where(known, truth.person, UNLABELLED)[shown].astype(np.int64))
            seen.append(truth.visible[shown])
            taken.append((camera, int(frame)))
    xyxy, visible, who = padded(boxes, people, seen)
    taken_by, at = np.array(taken).T
    return {
        "images": np.stack(images),
        "xyxy": xyxy,
        "people": who,
        "visible": visible,
        "cameras": taken_by,
        "frames": at,
    }


def _queries(test: Scenes) -> Queries:
    """Everybody's largest box per camera, of those whom two cameras saw."""
    people, best = people_of(test), dict[tuple[int, int], tuple[float, int, int]]()
    for row, place in zip(*np.nonzero(named(people) & (test.visible >= MIN_QUERY_VISIBLE)), strict=True):
        x1, y1, x2, y2 = test.xyxy[row, place].tolist()
        key = (int(people[row, place]), int(test.cameras[row]) if test.cameras is not None else 0)
        best[key] = max(best.get(key, (0.0, 0, 0)), ((x2 - x1) * (y2 - y1), int(row), int(place)))
    cameras_of: dict[int, set[int]] = {}
    for person, camera in best:
        cameras_of.setdefault(person, set()).add(camera)
    asked = [(who, row, place) for (who, _), (_, row, place) in sorted(best.items()) if len(cameras_of[who]) > 1]
    who, rows, places = (np.array(column, np.int64) for column in (zip(*asked, strict=True) if asked else ((), (), ())))
    return Queries(rows, test.xyxy[rows, places].reshape(-1, 4), who)
