"""A person search that is trained in seconds and finds people: a trunk of five layers and a head of two in place of GoogLeNet."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from deploy import export_search
from deploy.bundle import Bundle, write_bundle
from deploy.searcher import QUERY_BOXES, QUERY_EMBEDDING
from stream.model import LinkRow, Links, ModelCard
from trainer.attention import attention
from trainer.data import Scenes
from trainer.methods.person_search import PersonSearch, PersonSearchRecipe, PersonSearchTask
from trainer.proposals import proposal_network

SIZE_HW = (64, 96)
MOST, EMBEDDING = 12, 32
STEPS, BATCH, LEARNING_RATE = 150, 4, 5e-3
PEOPLE = 8
RECIPE = PersonSearchRecipe(
    backbone="googlenet", weights="", input_hw=SIZE_HW, anchor_sizes=(350, 450, 550), rois=16, queue=0, precision="fp32",
    max_proposals_test=MOST, embed_dim=EMBEDDING,
)  # fmt: skip


class TinySearch(PersonSearch):
    """The recipe's network with a trunk of its own."""

    def __init__(self) -> None:
        super().__init__(RECIPE)
        self.stem = nn.Sequential(
            _layer(3, 16, 2), _layer(16, 24, 2), _layer(24, 32, 2), _layer(32, 48, 2), _layer(48, 48)
        )
        self.head = nn.Sequential(_layer(48, 64, 2), _layer(64, 64))
        self.proposals = proposal_network(48, "torchvision", RECIPE.anchors, MOST)
        self.attention = attention("spatial", 48)
        self.score, self.box, self.identity = nn.Linear(64, 2), nn.Linear(64, 8), nn.Linear(64, EMBEDDING)


def _layer(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class _Rows(list[np.ndarray]):
    def __getitem__(self, rows):  # type: ignore[no-untyped-def, override]
        return [list.__getitem__(self, int(row)) for row in rows]


def scenes(count: int, seed: int) -> Scenes:
    """Two of eight people each, in two colours of their own, on noise of some brightness."""
    rng = np.random.default_rng(seed)
    colours = np.random.default_rng(99).integers(60, 255, (PEOPLE, 2, 3))
    height, width = SIZE_HW
    images, boxes, people = _Rows(), [], []
    for _ in range(count):
        image = np.clip(rng.integers(20, 50) + rng.integers(-12, 12, (height, width, 3)), 0, 255).astype(np.uint8)
        pair = rng.choice(PEOPLE, 2, replace=False)
        for place, who in enumerate(pair):
            x, y, tall = (
                4 + width // 2 * place + int(rng.integers(20)),
                int(rng.integers(2, 12)),
                int(rng.integers(40, 50)),
            )
            image[y : y + tall // 2, x : x + tall // 2] = colours[who, 0]
            image[y + tall // 2 : y + tall, x : x + tall // 2] = colours[who, 1]
            boxes.append((x, y, x + tall // 2, y + tall))
        images.append(image)
        people.append(pair + 1)
    return Scenes(
        images, np.array(boxes, np.float32).reshape(-1, 2, 4), np.ones((count, 2), np.float32), np.array(people, np.int64),
        np.zeros(count, np.int64),
    )  # fmt: skip


def pictures(count: int, seed: int) -> np.ndarray:
    """(count, *SIZE_HW, 3) uint8."""
    return np.stack(list(scenes(count, seed).images))


def trained() -> TinySearch:
    """Knows 32 scenes by heart; some 15 seconds of one core."""
    torch.manual_seed(0)
    task = PersonSearchTask(RECIPE, scenes(32, seed=0))
    task.network = network = TinySearch()
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    network.train()
    task.head.train()
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 if step < 0.6 * STEPS else 0.1)
        rows = torch.randperm(32, generator=generator)[:BATCH]
        optimiser.zero_grad()
        sum(task.losses(rows, generator, torch.device("cpu")).values()).backward()  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()
    return network.eval()


def write(folder: Path, network: PersonSearch, golden: np.ndarray) -> Bundle:
    """The bundle of a network; link rows say nothing."""
    model, query = export_search.to_graphs(network, SIZE_HW)
    boxes = np.broadcast_to(np.array([[8, 8, 30, 54], [56, 6, 80, 52]], np.float32), (len(golden), 2, 4)).copy()
    expected, described = export_search.in_torch(network, SIZE_HW, golden, boxes)
    card = ModelCard(
        name="tiny", version="1", kind="person-search", input_hw=SIZE_HW, max_batch=1, embedding_size=EMBEDDING,
        outputs={name: values.shape[1:] for name, values in expected.items()}, synthetic_only=True, licence="MIT", digest="",
    )  # fmt: skip
    row = LinkRow(a=0.0, b=1.0, same_pairs=1)
    links = Links(mean=[0.0] * EMBEDDING, same=row, other=row, fitted_on="nothing")
    arrays = {"inputs": golden, **expected, QUERY_BOXES: boxes, QUERY_EMBEDDING: described}
    return write_bundle(folder, model, card, arrays, links, export_search.sharing(model, query))
