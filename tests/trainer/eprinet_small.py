"""EPRI-Net in small: networks, a training on a few people of two colours, and what it costs."""

import numpy as np
import torch
from torch import nn

from trainer.data import Crops
from trainer.methods import eprinet
from trainer.methods.eprinet import EPRINetRecipe, EPRINetTask

CPU = torch.device("cpu")


def parameters(*modules, trainable=False):
    return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad or not trainable)


def meta(**keys):
    with torch.device("meta"):
        return eprinet.build(EPRINetRecipe(**keys), 751)


def network(gamma=0.0, **keys):
    """In eval mode, its norms with the statistics of some pictures: with untrained ones the vectors fade to 1e-14."""
    torch.manual_seed(0)
    recipe = EPRINetRecipe(**{"input_hw": (64, 32), **keys})
    network = eprinet.embedder(recipe)
    if network.pam is not None:
        nn.init.constant_(network.pam.gamma, gamma)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean of all batches, of which there is one
    with torch.no_grad():
        network(torch.randn(8, 3, *recipe.input_hw))
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def task(people=4, pictures=2, size_hw=(64, 32), epoch=None, **keys):
    """People who differ in the colours of their halves."""
    rng = np.random.default_rng(0)
    height, width = (side * 5 // 4 for side in size_hw)
    images = rng.integers(0, 60, (people * pictures, height, width, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(people), pictures)
    colours = rng.integers(0, 190, (people, 2, 3), dtype=np.uint8)
    images[:, : height // 2] += colours[labels, 0][:, None, None]
    images[:, height // 2 :] += colours[labels, 1][:, None, None]
    keys = {"weights": "", "precision": "fp32", **keys}
    recipe = EPRINetRecipe(input_hw=size_hw, batch_people=people, batch_pictures=pictures, **keys)
    task = EPRINetTask(recipe, Crops(images, labels, np.tile(np.arange(pictures), people)))
    task.network.train()
    if epoch is not None:
        task.begin_epoch(epoch)
    return task


def losses(task):
    return task.losses(torch.from_numpy(task.sampler.order(0)[0]), torch.Generator().manual_seed(0), CPU)
