"""Link rows for an adopted embedder: from somebody's labelled crops, else from drawn people."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.links import fit_links
from stream.cores import usable_cores
from stream.errors import DataError
from stream.model import Backend, Links
from trainer.tracklets import DESCRIPTION, LabelledTracklet, synthetic_tracklets

NAME = re.compile(r"^(\d+)_c(\d+)s(\d+)_(\d+)")  # Market-1501: person, camera, sequence, frame
FRAMES_PER_S = 25.0  # Market-1501's cameras
FIRST_S, GAP_S = 6.0, 2.0  # a tracklet's crops that count, and the pause that begins another
MAX_CROPS = 50_000
MAX_BYTES = 1 << 24

THIN = 2  # of the drawn crops, 2 a second, every second one is taken: as many as the matcher gets, in half the time
CHUNK = 64  # crops between two reports

Fit = Callable[[Backend], Links]
Report = Callable[[float, str], None]
"""Called with the share that is done, and of what."""


def fitter(crops: Path | None, report: Report) -> Fit:
    """What fits the rows: on the labelled `crops`, read now so that a mistake is said at once, or on drawn people."""
    given = labelled_tracklets(crops) if crops is not None else None

    def fit(backend: Backend) -> Links:
        if given is None or crops is None:
            drawn = synthetic_tracklets(usable_cores(), lambda done, of: report(done / of, "people drawn"))
            thinned = [dataclasses.replace(one, crops=one.crops[::THIN]) for one in drawn]
            return fit_links(_Reporting(backend, thinned, report), thinned, fitted_on=DESCRIPTION)
        people = len({one.person for one in given})
        said = f"{crops.name}: {len(given)} tracklets of {people} people"
        return fit_links(_Reporting(backend, given, report), given, fitted_on=said)

    return fit


class _Reporting:
    """A backend that says how far it is with the crops of `tracklets`: some thousand take minutes."""

    def __init__(self, backend: Backend, tracklets: Sequence[LabelledTracklet], report: Report) -> None:
        self.card = backend.card
        self._backend, self._report = backend, report
        self._done, self._total = 0, sum(len(one.crops) for one in tracklets)

    def infer(self, images: NDArray[np.uint8], /) -> dict[str, NDArray[np.float32]]:
        """(N, H, W, 3) -> the card's outputs."""
        parts = []
        for start in range(0, len(images), CHUNK):
            parts.append(self._backend.infer(images[start : start + CHUNK]))
            self._done += len(images[start : start + CHUNK])
            self._report(self._done / self._total, f"{self._done} of {self._total} crops embedded")
        return {name: np.concatenate([part[name] for part in parts]) for name in self.card.outputs}


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
            tracklets.append(LabelledTracklet(0, person, camera, [read_picture(path) for path in stay]))
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


def read_picture(path: Path) -> NDArray[np.uint8]:
    """RGB (H, W, 3). Raises `DataError` for what is no picture or larger than one."""
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES >> 20} MiB, which no picture is")
    picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise DataError(f"{path}: is no picture; remove it")
    return np.asarray(picture, np.uint8)
