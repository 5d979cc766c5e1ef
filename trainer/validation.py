"""How good a network is while it is trained: mAP on people held out, each process embedding its share of the pictures."""

import numpy as np
import torch
from torch import nn

from stream.errors import DataError
from trainer import distributed
from trainer.data import Crops
from trainer.evaluate import embed, split
from trainer.metrics import answerable, rank
from trainer.run import Judge
from trainer.serving import ServedEmbedder, TorchBackend


def crops_judge(crops: Crops, input_hw: tuple[int, int]) -> Judge:
    """Everybody's first picture per camera is looked for among the others, as `sightline evaluate` does.

    Raises `DataError` where none of them has an answer there: better now than at the end of an epoch.
    """
    query, gallery = split(crops)
    if not answerable(query.people, query.cameras, gallery.people, gallery.cameras).any():
        count = len(np.unique(crops.people))
        raise DataError(
            f"val_ids = {count}: none of these people can be searched for: that takes two cameras, one of which has two pictures or more "
            "of the person; hold out more people, or none (val_ids = 0)"
        )

    def judge(network: nn.Module, device: torch.device) -> float:
        model = TorchBackend(ServedEmbedder(network))
        found = [_shared_embed(model, part, input_hw, device) for part in (query, gallery)]
        return rank(found[0], query.people, query.cameras, found[1], gallery.people, gallery.cameras).mean_ap

    return judge


def _shared_embed(
    model: TorchBackend, crops: Crops, input_hw: tuple[int, int], device: torch.device
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """(N, D), of which each process computes every `world`-th row."""
    world = distributed.world()
    rows = np.arange(-(-len(crops.people) // world) * world) % len(crops.people)  # the same number for everybody
    own = embed(model, crops.take(rows[distributed.rank() :: world]), input_hw)
    parts = distributed.gathered(torch.from_numpy(own).to(device)).cpu().numpy()
    return parts.reshape(world, -1, parts.shape[-1]).swapaxes(0, 1).reshape(len(rows), -1)[: len(crops.people)]
