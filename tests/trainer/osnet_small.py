"""OSNet in small: its recipe, networks, and a training on four people of two colours."""

import numpy as np
import torch

from trainer.data import Crops
from trainer.methods import osnet
from trainer.methods.osnet import OSNetRecipe, OSNetTask


def recipe(**values):
    return OSNetRecipe(**({"input_hw": (64, 32), "width": 0.25, "precision": "fp32"} | values))


def network(**values):
    torch.manual_seed(0)
    return osnet.embedder(recipe(**values)).eval()


def crops(people=4, pictures=4):
    """People who differ in the colours of their halves."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (people * pictures, 64, 32, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(people), pictures)
    colours = rng.integers(0, 190, (people, 2, 3), dtype=np.uint8)
    images[:, :32] += colours[labels, 0][:, None, None]
    images[:, 32:] += colours[labels, 1][:, None, None]
    return Crops(images, labels, np.tile(np.arange(pictures), people))


def task(**values):
    return OSNetTask(recipe(**({"batch_people": 4, "batch_pictures": 4} | values)), crops())


def parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def on_meta(**values):
    with torch.device("meta"):
        return osnet.build(OSNetRecipe(**values), 751)
