"""MagnifierNet in small: its recipe, two people of two colours with labelled stripes, and one batch."""

import numpy as np
import torch

from trainer.data import Crops
from trainer.methods import magnifiernet as m

HW = (64, 32)


def recipe(**keys):
    small = {"input_hw": HW, "batch_people": 2, "batch_pictures": 2, "precision": "fp32", "weights": ""}
    return m.MagnifierNetRecipe(**small | keys)


def crops(people=2, pictures=2, parts=True):
    """People of two colours each, with the eight regions as stripes from top to bottom."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (people * pictures, 80, 40, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(people), pictures)
    colours = rng.integers(0, 190, (people, 2, 3), dtype=np.uint8)
    images[:, :40] += colours[labels, 0][:, None, None]
    images[:, 40:] += colours[labels, 1][:, None, None]
    stripes = np.broadcast_to(np.repeat(np.arange(8, dtype=np.uint8), 10)[:, None], (len(images), 80, 40)).copy()
    return Crops(images, labels, np.tile(np.arange(pictures), people), parts=stripes if parts else None)


def task(parts=True, **keys):
    return m.MagnifierNetTask(recipe(**keys), crops(parts=parts))


def trained():
    """The full model, in training."""
    torch.set_num_threads(1)
    full = task(stage2_from=1)
    full.network.train()
    full.head.train()
    return full


def batch():
    """Four normalised pictures of two people, all labelled with stripes of one region per row."""
    torch.manual_seed(0)
    return {
        "x": torch.randn(4, 3, *HW),
        "people": torch.tensor([0, 0, 1, 1]),
        "ids": torch.arange(8)[:, None].expand(4, 8, 4),
        "erased": [1, 2, 5],
    }
