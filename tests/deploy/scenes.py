"""Labelled scenes for link rows that take seconds: three people at a time on noise, in colours of their own that one camera shifts."""

from collections.abc import Iterator

import numpy as np

from trainer.stays import LabelledScene
from trainer.tracklets import Stay

PEOPLE = 210


def labelled_scenes(size_hw: tuple[int, int]) -> Iterator[tuple[float, LabelledScene]]:
    """Sites of thirty people, everybody twice before each of two cameras, once each time."""
    rng = np.random.default_rng(1)
    height, width = size_hw
    x = np.linspace(0.04, 0.7, 3) * width
    boxes = np.stack([x, 0 * x + 0.1 * height, x + 0.24 * width, 0 * x + 0.9 * height], 1).astype(np.float32)
    number = 0
    for first in range(0, PEOPLE, 3):
        colours = rng.integers(30, 190, (3, 3))
        for camera in (0, 1):
            for _ in range(2):
                image = rng.integers(0, 25, (height, width, 3)) + 30 * camera
                for (x1, y1, x2, y2), colour in zip(boxes.astype(int), colours, strict=True):
                    image[y1:y2, x1:x2] += colour
                stays = tuple((number + n, Stay((first + n) // 30, first + n, camera)) for n in range(3))
                number += 3
                yield first / PEOPLE, LabelledScene(image.astype(np.uint8), boxes, stays)
