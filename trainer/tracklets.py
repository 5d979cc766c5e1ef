"""Labelled tracklets of drawn sites: what link rows are fitted on where nobody has labelled real ones. Needs no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.scene import SceneSettings
from ingest.synthetic.view import View
from reid.crops import to_batch
from trainer.cache import drawn
from trainer.pictures import compress, cut_out

U8 = NDArray[np.uint8]

FIRST_SITE = 800_000
"""Seeds of the sites: neither training (from a million on) nor a demo comes near them."""
SITES = 6
PEOPLE = 24
SECONDS = 150.0
FPS = 2.0
"""Crops per second and person: the embedder takes a new tracklet at each chance and a settled one every other second."""
FIRST_S = 6.0
GAP_S = 2.0
LEAST_VISIBLE = 0.35
STORED_HW = (256, 128)
DESCRIPTION = f"{SITES} drawn sites of {PEOPLE} people and 4 cameras that no training saw, {SECONDS:g} s each"


@dataclass(frozen=True, slots=True)
class Stay:
    """One person before one camera."""

    site: int
    """People and cameras of different sites are never compared."""
    person: int
    camera: int


@dataclass(frozen=True, slots=True)
class LabelledTracklet(Stay):
    """The first seconds of a stay."""

    crops: Sequence[U8]
    """(h, w, 3) RGB, in order of time."""


def synthetic_tracklets(workers: int, report: Callable[[int, int], None]) -> list[LabelledTracklet]:
    """Everybody's stays on `SITES` drawn sites; drawn within minutes by so many processes at first, out of the cache later."""
    key = {"first": FIRST_SITE, "people": PEOPLE, "seconds": SECONDS, "fps": FPS}
    rows = drawn("tracklets", partial(_draw, FIRST_SITE), SITES, key=key, workers=workers, report=report)
    found = []
    for site, (images, labels) in enumerate(zip(rows["images"], rows["labels"], strict=True)):
        for stay in np.unique(labels[:, 0]):
            mine = np.flatnonzero(labels[:, 0] == stay)
            person, camera = labels[mine[0], 1:].tolist()
            found.append(LabelledTracklet(site, person, camera, [np.asarray(images[place]) for place in mine]))
    return found


def _draw(first: int, site: int) -> dict[str, NDArray[Any]]:
    """`images` (N, 256, 128, 3) and `labels` (N, 3): tracklet, person, camera."""
    settings = SceneSettings(seed=first + site, people=PEOPLE, seconds=SECONDS, fps=FPS, crowd=2.0)
    rng = np.random.default_rng([first + site, 5])
    crops: list[U8] = []
    labels: list[tuple[int, int, int]] = []
    tracklets = 0
    for camera in range(settings.cameras):
        view = View(settings, camera)
        open_: dict[int, tuple[int, float, float]] = {}  # person -> tracklet, begin and last sight in seconds
        for frame in range(settings.frames()):
            time_s = settings.time_s(camera, frame)
            image, truth = view.draw(frame)
            image = compress(image, rng)
            for who, box, visible in zip(truth.person.tolist(), truth.xyxy, truth.visible, strict=True):
                crop = cut_out(image, box, rng)
                if visible < LEAST_VISIBLE or crop is None:
                    continue
                tracklet, begin_s, last_s = open_.get(who, (-1, 0.0, -np.inf))
                if time_s - last_s > GAP_S:
                    tracklet, begin_s, tracklets = tracklets, time_s, tracklets + 1
                open_[who] = (tracklet, begin_s, time_s)
                if time_s - begin_s <= FIRST_S:
                    crops.append(crop)
                    labels.append((tracklet, who, camera))
    return {"images": to_batch(crops, STORED_HW), "labels": np.array(labels)}
