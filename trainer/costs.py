"""What a method's network weighs and costs, counted on torch's meta device: no memory, no arithmetic, no weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from trainer.attention import REGION
from trainer.methods import method_module
from trainer.settings import Recipe

CLASSES = 751
"""People of Market-1501's training set: with so many the papers count the parameters of training."""
COUNTED = ("convolution", "addmm", "mm")
"""Convolutions and linear layers (recurrent ones too); products of two feature maps, as in attention, are not counted."""
SAME_SHAPE = (Tensor.normal_, Tensor.uniform_, functional.batch_norm, functional.relu)
"""They give what they were given, as to shape, and nothing of them is counted."""
CELL = 32
"""Sides of a scene are padded to multiples of it."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a recipe's network at its input size, batch 1."""

    embedding: int | None
    """Values; None: it gives none."""
    parameters: int
    """Of the network that serves."""
    training_parameters: int
    """With the training head for `CLASSES` people."""
    multiply_adds: int
    """Of one picture; of person search one scene with all its proposals."""


class _Sketch(TorchFunctionMode):
    """Leaves out what no count depends on, drawing weights and what keeps a shape: on the meta device, too, they take half the time."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__ or func in SAME_SHAPE:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def cost(recipe: Recipe) -> Cost:
    """Count it."""
    module = method_module(recipe.method)
    with torch.device("meta"), torch.no_grad(), _Sketch():
        network = module.embedder(recipe).eval()
        built = module.build(recipe, CLASSES) if hasattr(module, "build") else network
        parts = built if isinstance(built, tuple) else (built,)
        trained = {id(p): p.numel() for part in parts for p in part.parameters()}
        work, out = _scene(network, recipe) if hasattr(network, "proposals") else _picture(network, recipe)
        return Cost(
            embedding=out.shape[1] if isinstance(out, Tensor) else None,
            parameters=sum(p.numel() for p in network.parameters()),
            training_parameters=sum(trained.values()),
            multiply_adds=work,
        )


def _picture(network: nn.Module, recipe: Recipe) -> tuple[int, Any]:
    return _counted(network, torch.empty(1, 3, *recipe.input_hw))


def _scene(network: Any, recipe: Any) -> tuple[int, Any]:
    """Trunk and proposals once; what is done to a region, as often as there are proposals."""
    scene = torch.empty(1, 3, *(-(-side // CELL) * CELL for side in recipe.input_hw))
    trunk, maps = _counted(network.maps, scene)
    proposals, _ = _counted(network.proposals.head, [maps[0]])
    region = maps[0].new_empty(1, maps[0].shape[1], REGION, REGION)
    per_region, out = _counted(lambda x: _region(network, recipe, x), region)
    return trunk + proposals + recipe.max_proposals_test * per_region, out


def _region(network: Any, recipe: Any, region: Tensor) -> Tensor:
    moved = network.transformer(region)
    masked = network.attention(moved) if recipe.attention_place == "roi" else moved
    first, second = network.vectors((masked if recipe.attention_scope == "shared" else moved, masked))
    network.score(first)
    network.box(first)
    out: Tensor = network.identity(second)
    return out


def _counted(forward: Any, *inputs: Any) -> tuple[int, Any]:
    """Multiply-adds of a call, and what it gave."""
    with FlopCounterMode(display=False) as counter:
        out = forward(*inputs)
    by_operator = counter.get_flop_counts()["Global"]
    flops = sum(count for operator, count in by_operator.items() if str(operator).split(".")[-1] in COUNTED)
    return flops // 2, out
