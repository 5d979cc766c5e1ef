"""A method small enough to be trained in milliseconds: two layers with dropout on 8x4 pictures of one colour per person."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from trainer.ahead import Ahead
from trainer.data import Crops
from trainer.sampler import PKSampler
from trainer.settings import Recipe
from trainer.task import Task


class ToyRecipe(Recipe):
    """Two people with two pictures a batch."""

    method: Literal["osnet"] = "osnet"
    input_hw: tuple[int, int] = (8, 4)
    epochs: int = 4
    learning_rate: float = 0.01
    weight_decay: float = 1e-3
    precision: Literal["bf16", "fp16", "fp32"] = "fp32"
    batch_people: int = 2
    batch_pictures: int = 2
    dropout: float = 0.5
    noise: float = 0.1


def crops(people=4, pictures=5):
    """Everybody on two cameras."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(people), pictures)
    images = rng.integers(0, 60, (people, 1, 1, 3))[labels] * 3 + rng.integers(0, 60, (len(labels), 8, 4, 3))
    return Crops(images.astype(np.uint8), labels, np.tile(np.arange(pictures) % 2, people))


class Network(nn.Module):
    """(B, 3, 8, 4) -> (B, 6)."""

    def __init__(self, dropout=0.0, *, norm=True):
        super().__init__()
        self.first = nn.Linear(96, 8)
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(8, 6)

    def forward(self, x):
        return self.last(self.dropout(torch.tanh(self.norm(self.first(x.flatten(1))))))


class Head(nn.Module):
    """A classifier, and a table that remembers the last vector of everybody."""

    def __init__(self, classes):
        super().__init__()
        self.classifier = nn.Linear(6, classes, bias=False)
        self.register_buffer("table", torch.zeros(classes, 6))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))


class ToyTask(Task):
    """Softmax from the start; from epoch 2 on vectors are drawn to the table. The first layer is frozen for one epoch."""

    def __init__(self, recipe, data=None, *, norm=True):
        data = data or crops()
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        self._labels = torch.from_numpy(data.people)
        self.pictures = [Ahead(data.images)]
        self.network = Network(recipe.dropout, norm=norm)
        self.head = Head(int(data.people.max()) + 1)
        self.sampler = PKSampler(data.people, recipe.batch_people, recipe.batch_pictures, recipe.seed)
        self.drawn_to_table = False
        self.trained_on = []

    def optimiser(self):
        groups = [{"params": self.network.parameters()}, {"params": self.head.parameters(), "factor": 2.0}]
        return torch.optim.Adam(groups, weight_decay=self.recipe.weight_decay)

    def learning_rate(self, epoch, fraction):
        return self.recipe.learning_rate * (1 - (epoch + fraction) / self.recipe.epochs / 2)

    def begin_epoch(self, epoch):
        for p in self.network.first.parameters():
            p.requires_grad_(epoch > 0)
        self.drawn_to_table = epoch >= 2

    def losses(self, rows, generator, device):
        self.trained_on.append(rows.tolist())
        pictures = torch.from_numpy(self.pictures[0][rows.numpy()]).permute(0, 3, 1, 2).float() / 255
        pictures = pictures + self.recipe.noise * torch.randn(pictures.shape, generator=generator)
        vectors = self.network(pictures.to(device)).float()
        labels = self._labels[rows].to(device)
        terms = {"softmax": F.cross_entropy(self.head.classifier(vectors), labels)}
        if self.drawn_to_table:
            terms["table"] = 0.1 * (vectors - self.head.table[labels]).square().mean()
        self.head.table[labels] = vectors.detach()
        self.head.seen += len(rows)
        return terms
