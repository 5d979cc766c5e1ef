"""Link rows for an adopted embedder: from somebody's labelled crops, else from drawn people."""

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.links import fit_links
from stream.errors import DataError
from stream.model import Backend, Links
from trainer.tracklets import LabelledTracklet

NAME = re.compile(r"^(\d+)_c(\d+)s(\d+)_(\d+)")  # Market-1501: person, camera, sequence, frame
FRAMES_PER_S = 25.0  # Market-1501's cameras
FIRST_S, GAP_S = 6.0, 2.0  # a tracklet's crops that count, and the pause that begins another
MAX_CROPS = 50_000
MAX_BYTES = 1 << 24

Fit = Callable[[Backend], Links]


def fitter(crops: Path | None, report: Callable[[int, int], None]) -> Fit:
    """What fits the rows: on the labelled `crops`, read now so that a mistake is said at once, or on drawn people."""
    if crops is None:
        return lambda backend: fit_links(backend, report=report)
    tracklets = labelled_tracklets(crops)
    people = len({one.person for one in tracklets})
    return lambda backend: fit_links(
        backend, tracklets, fitted_on=f"{crops.name}: {len(tracklets)} tracklets of {people} people"
    )


def labelled_tracklets(folder: Path) -> list[LabelledTracklet]:
    """Pictures named as in Market-1501 (``0002_c1s1_000451_03.jpg``) -> each person's stays before each camera.

    Person 0 and names with -1 are distractors there and left out. Raises `DataError` where there is nothing to read.
    """
    found: dict[tuple[int, int, int], list[tuple[int, Path]]] = defaultdict(list)
    for path in sorted(folder.glob("*.jpg")) + sorted(folder.glob("*.png")):
        match = NAME.match(path.name)
        if match and int(match[1]) > 0:
            found[int(match[1]), int(match[2]), int(match[3])].append((int(match[4]), path))
    if sum(map(len, found.values())) not in range(1, MAX_CROPS):
        raise DataError(
            f"{folder}: {sum(map(len, found.values()))} pictures named like 0002_c1s1_000451_03.jpg, "
            f"expected 1 to {MAX_CROPS}"
        )
    tracklets = []
    for (person, camera, _), pictures in sorted(found.items()):
        for stay in _stays(sorted(pictures)):
            tracklets.append(LabelledTracklet(0, person, camera, [_read(path) for path in stay]))
    return tracklets


def _stays(pictures: list[tuple[int, Path]]) -> list[list[Path]]:
    """Pictures in order of frames, cut where nothing was seen for a while; the first seconds of each part."""
    stays: list[list[Path]] = []
    first = last = 0
    for frame, path in pictures:
        if not stays or frame - last > GAP_S * FRAMES_PER_S:
            stays.append([])
            first = frame
        if frame - first <= FIRST_S * FRAMES_PER_S:
            stays[-1].append(path)
        last = frame
    return stays


def _read(path: Path) -> NDArray[np.uint8]:
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES >> 20} MiB, which no crop is")
    picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise DataError(f"{path}: is no picture; remove it")
    return np.asarray(picture, np.uint8)
