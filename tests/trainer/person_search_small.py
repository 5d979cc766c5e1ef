"""Person search in small: its recipe, scenes of coloured rectangles, and the losses of a batch."""

import numpy as np
import torch

from trainer.data import NOBODY, UNLABELLED, Scenes
from trainer.methods import person_search as ps
from trainer.methods.person_search import PersonSearchRecipe

CPU = torch.device("cpu")


def recipe(**values):
    small = {
        "backbone": "googlenet",
        "weights": "",
        "input_hw": (64, 96),
        "anchor_sizes": (225, 450, 900),
        "rois": 4,
        "max_proposals_test": 20,
        "queue": 6,
    }
    return PersonSearchRecipe(**(small | {"precision": "fp32"} | values))


class Rows(list):
    def __getitem__(self, rows):
        return [list.__getitem__(self, int(row)) for row in rows]


def scenes(people=((0, 1), (1, UNLABELLED), (2, 0), (2, NOBODY))):
    """Coloured rectangles, two a scene, differing sizes of scenes."""
    rng = np.random.default_rng(0)
    colours = rng.integers(90, 255, (10, 3))
    images, boxes = [], np.full((len(people), 2, 4), np.nan, np.float32)
    for row, pair in enumerate(people):
        images.append(rng.integers(0, 60, (64, 96 - 8 * (row % 2), 3)).astype(np.uint8))
        for place, who in enumerate(pair):
            if who != NOBODY:
                x, y = 8 + 40 * place, 6 + row
                images[row][y : y + 44, x : x + 22] = colours[who % 10]
                boxes[row, place] = (x, y, x + 22, y + 44)
    people = np.array(people, np.int64)
    return Scenes(Rows(images), boxes, np.ones(people.shape, np.float32), people, np.zeros(len(people), np.int64))


def losses(task, rows=(0, 1), seed=0):
    torch.manual_seed(seed)
    task.network.train()
    task.head.train()
    return task.losses(torch.tensor(rows), torch.Generator().manual_seed(seed), CPU)


def meta(**values):
    with torch.device("meta"):
        return ps.build(PersonSearchRecipe(**values), classes=483)[0].eval()
