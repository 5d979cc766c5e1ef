"""A training run on disk: everything that is needed to go on as if it had never stopped."""

import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stream.errors import DataError

VERSION = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State of a run between two steps. Tensors and plain values only, so it loads with `weights_only`."""

    recipe: dict[str, Any]
    """The recipe's keys and values, as JSON would hold them."""
    progress: float
    """Place in the schedule, 0 to 1."""
    step: int
    network: dict[str, Tensor]
    """What is exported."""
    head: dict[str, Tensor] = field(default_factory=dict)
    """What only training needs: classifiers."""
    optimiser: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, int] = field(default_factory=dict)
    generator: Tensor | None = None
    """State of the random generator that augmentation draws from."""


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    content = {name: getattr(checkpoint, name) for name in Checkpoint.__dataclass_fields__}
    content["recipe"] = json.dumps(checkpoint.recipe)
    torch.save({"version": VERSION, **content}, new)
    new.replace(path)


def load(path: Path) -> Checkpoint:
    """Read one that `save` wrote; nothing in the file is executed. Anything else is a DataError."""
    if not path.is_file():
        raise DataError(f"no checkpoint at {path}: `sightline train` writes checkpoint.pt into its --output folder")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        version = content.pop("version")
        content["recipe"] = json.loads(content["recipe"])
        if version != VERSION:
            raise DataError(f"{path} is a checkpoint of version {version}, this program reads version {VERSION}")
        return Checkpoint(**content)
    except (RuntimeError, EOFError, KeyError, TypeError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{path} is not a checkpoint of this program or is damaged ({type(error).__name__}): train again"
        ) from error


def load_weights(network: nn.Module, weights: dict[str, Tensor], skip: tuple[str, ...] = ()) -> None:
    """Copy weights into a network: every entry must fit, but for those whose names begin with one of `skip`."""
    wanted = {name: value for name, value in weights.items() if not name.startswith(skip)} if skip else weights
    expected = {
        name: value.shape for name, value in network.state_dict().items() if not (skip and name.startswith(skip))
    }
    missing, unknown = sorted(expected.keys() - wanted.keys()), sorted(wanted.keys() - expected.keys())
    shapes = [name for name in expected.keys() & wanted.keys() if expected[name] != wanted[name].shape]
    for kind, names in (("lacks", missing), ("has unknown", unknown), ("has of another shape", sorted(shapes))):
        if names:
            raise DataError(
                f"the checkpoint {kind} {len(names)} of the network's {len(expected)} entries, first {names[0]}: was it trained with another recipe?"
            )
    network.load_state_dict(wanted, strict=not skip)
