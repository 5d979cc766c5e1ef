"""Drawn people as a labelled data set in Market-1501's layout, joints and body parts beside the pictures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import simplejpeg

from ingest.synthetic.crops import Site

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"


def write_market(
    root: Path,
    *,
    seed: int,
    train_people: int = 500,
    test_people: int = 100,
    per_person: int = 12,
    cameras: int = 6,
    look_alikes: float = 0.1,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write crops of 256x128 to `root` and return how many.

    People 1 to `train_people` go to bounding_box_train. Of each later one the first crop under each camera is a query,
    the rest are the gallery in bounding_box_test. Beside them lie keypoints/<same path>.npy, (17, 3) float32 x and y in
    pixels and score, and segmentation/<same path>.npy, (256, 128) uint8 part labels.

    Args:
        cameras: at most 9, the names have one digit for it. All people walk past the same ones.
        progress: told how many people are written and of how many.

    Raises:
        ValueError: more cameras than the layout can name, or fewer than two.
        FileExistsError: `root` holds a data set already.
    """
    if not 2 <= cameras <= 9:
        raise ValueError(f"the Market layout names 2 to 9 cameras, {cameras} were asked for")
    for name in (TRAIN, QUERY, GALLERY):
        if (root / name).exists():
            raise FileExistsError(f"{root / name} exists: give another folder or remove the old data set")
        for beside in (".", "keypoints", "segmentation"):
            (root / beside / name).mkdir(parents=True)
    people = train_people + test_people
    step = max(1, min(25, people // max(workers, 1)))
    chunks = [range(first, min(first + step, people)) for first in range(0, people, step)]
    told, written = 0, 0
    if workers <= 1:
        for chunk in chunks:
            written += _write_people(root, seed, chunk, train_people, per_person, cameras, look_alikes)
            told += len(chunk)
            if progress is not None:
                progress(told, people)
        return written
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = {
            pool.submit(_write_people, root, seed, c, train_people, per_person, cameras, look_alikes): len(c)
            for c in chunks
        }
        for job in as_completed(jobs):
            written += job.result()
            told += jobs[job]
            if progress is not None:
                progress(told, people)
    return written


def _write_people(
    root: Path, seed: int, people: range, train_people: int, per_person: int, cameras: int, look_alikes: float
) -> int:
    site = Site(seed, 0, cameras)
    written = 0
    for who in people:
        asked: set[int] = set()
        for number, shot in enumerate(site.shots(who, per_person, min(cameras, per_person), look_alikes)):
            camera = shot.camera + 1
            folder = TRAIN if who < train_people else GALLERY if camera in asked else QUERY
            asked.add(camera)
            path = f"{folder}/{who + 1:04d}_c{camera}s1_{1 + who * 50 + number:06d}_{1 + number % 9:02d}.jpg"
            (root / path).write_bytes(simplejpeg.encode_jpeg(shot.image, quality=95, colorspace="RGB"))
            np.save(root / "keypoints" / f"{path}.npy", shot.keypoints.astype(np.float32))
            np.save(root / "segmentation" / f"{path}.npy", shot.parts)
            written += 1
    return written
