"""Drawn scenes and who is in them: what a person search's link rows are fitted on. Needs no torch.

A person search sees people amid their surroundings, so crops will not do. The sites are those of `trainer.tracklets`, of which a
picture every other second is taken: scenes are too large to be kept, and each is looked at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.scene import SceneSettings
from ingest.synthetic.view import View
from trainer.pictures import compress, missed
from trainer.tracklets import FIRST_S, FIRST_SITE, GAP_S, LEAST_VISIBLE, PEOPLE, SECONDS, Stay

SITES = 3
FPS = 1.0
"""Pictures that are drawn: a stay ends where a person is not seen for `GAP_S`."""
EVERY = 2
"""Of these every so many-th is shown."""
LEAST_PX = 8.0
DESCRIPTION = f"scenes of {SITES} drawn sites of {PEOPLE} people and 4 cameras that no training saw, {SECONDS:g} s each"


@dataclass(frozen=True, slots=True)
class LabelledScene:
    """One picture and the people in it who have not stayed long."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    xyxy: NDArray[np.float32]
    """(n, 4) pixels, as far off as a detector's boxes are."""
    stays: tuple[tuple[int, Stay], ...]
    """n of them, each with its number."""


def synthetic_scenes() -> Iterator[tuple[float, LabelledScene]]:
    """The share of the drawing that is done, and a scene; they come in order of site, camera and time."""
    number = 0
    for site in range(SITES):
        settings = SceneSettings(seed=FIRST_SITE + site, people=PEOPLE, seconds=SECONDS, fps=FPS, crowd=2.0)
        rng = np.random.default_rng([settings.seed, 6])
        for camera in range(settings.cameras):
            view = View(settings, camera)
            open_: dict[int, tuple[int, float, float]] = {}  # person -> stay, begin and last sight in seconds
            for frame in range(settings.frames()):
                time_s = settings.time_s(camera, frame)
                image, truth = view.draw(frame)
                boxes, stays = [], []
                for who, box, visible in zip(truth.person.tolist(), truth.xyxy, truth.visible, strict=True):
                    if visible < LEAST_VISIBLE:
                        continue
                    stay, begin_s, last_s = open_.get(who, (-1, 0.0, -np.inf))
                    if time_s - last_s > GAP_S:
                        stay, begin_s, number = number, time_s, number + 1
                    open_[who] = (stay, begin_s, time_s)
                    seen = np.clip(missed(box, rng), 0, [settings.width, settings.height] * 2).astype(np.float32)
                    if time_s - begin_s <= FIRST_S and (seen[2:] - seen[:2]).min() >= LEAST_PX:
                        boxes.append(seen)
                        stays.append((stay, Stay(site, who, camera)))
                if boxes and frame % EVERY == 0:
                    done = (site + (camera + frame / settings.frames()) / settings.cameras) / SITES
                    yield done, LabelledScene(compress(image, rng), np.stack(boxes), tuple(stays))
