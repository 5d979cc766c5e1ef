"""A training run on disk: everything that is needed to go on as if it had never stopped."""

import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stream.errors import DataError, TrainingError

VERSION = 4
UNTOLD = 2
"""Checkpoints of version 2 did not say what their weights had seen before: their recipe's data set stands for it."""
UNCOUNTED = 3
"""Checkpoints of version 3 did not say how much they were trained on: they go on without that being compared."""
FIRST = 1
"""Checkpoints of version 1 counted steps, not epochs: their networks are read, their runs cannot go on."""
UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    AttributeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)
"""What reading a damaged file of `torch.save` may raise."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State of a run between two steps. Tensors and plain values only, so it loads with `weights_only`.

    Random numbers need no state: each step's are a function of seed, process and step.
    """

    recipe: dict[str, Any]
    """The recipe's keys and values, as JSON would hold them."""
    progress: float
    """Place in the schedule, 0 to 1."""
    step: int
    network: dict[str, Tensor]
    """What is exported."""
    head: dict[str, Tensor] = field(default_factory=dict)
    """What only training needs: classifiers, tables."""
    optimiser: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    """Loss scale of fp16."""
    sampler: dict[str, int] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    """Rows of the curves."""
    epoch: dict[str, float] = field(default_factory=dict)
    """Sums of the losses of the epoch that has begun, and "count"."""
    best: dict[str, float] = field(default_factory=dict)
    """What stands in best.pt: "epoch" and "mAP" or the losses."""
    counts: dict[str, int] = field(default_factory=dict)
    """What it is trained on, as `Task.counts` has it."""
    data_sets: list[str] = field(default_factory=list)
    """What the network has seen, oldest first, in the runs before this one too, as `seen` and `origin` name it."""
    file: str = field(default="the checkpoint", compare=False)
    """Where it was read from, for messages; not written."""


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write it whole or not at all, into a folder that is there; where the disk is full, what was there before stays."""
    new = path.with_suffix(".new")
    content = {name: getattr(checkpoint, name) for name in Checkpoint.__dataclass_fields__ if name != "file"}
    content["recipe"] = json.dumps(checkpoint.recipe)
    if path.is_dir():
        raise TrainingError(f"{path} is a folder, and a checkpoint is a file: name one, such as {path / 'mean.pt'}")
    with writing(path):
        with new.open("wb") as file:
            torch.save({"version": VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the disk says while something of a run is written, as a `TrainingError`; half of path.new is taken away."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch wraps what the disk says while it unwinds
        cause = error if isinstance(error, OSError) else error.__context__
        why = cause.strerror if isinstance(cause, OSError) else str(error).splitlines()[0]
        path.with_suffix(".new").unlink(missing_ok=True)
        raise TrainingError(
            f"{path} cannot be written ({why}): make room or name another place, then the same command goes on; "
            "a checkpoint that was there is whole"
        ) from error


def altered_part(path: Path) -> str | None:
    """The first part of a file of `torch.save` that lacks its checksum, which torch itself does not compare; None: all have theirs.

    Raises one of `UNREADABLE` where it is no such file.
    """
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def file_of(path: Path) -> Path:
    """The file that `path` means: a training's output folder stands for the checkpoint.pt in it."""
    last = path / "checkpoint.pt"
    return last if last.is_file() else path


def load(path: Path) -> Checkpoint:
    """Read one that `save` wrote, by `file_of`; nothing in the file is executed. Anything else is a DataError."""
    path = file_of(path)
    if not path.is_file():
        raise DataError(f"no checkpoint at {path}: `sightline train` writes checkpoint.pt into its --output folder")
    try:
        altered = altered_part(path)
        if altered is not None:
            raise _damaged(path, f"its part {altered} is not what was written")
        content = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, dict) and content and "version" not in content:
            raise DataError(
                f"{path} is no checkpoint of this program, which have a version: if it holds somebody's weights, "
                f"`sightline train METHOD --weights {path}` begins with them"
            )
        version = content.pop("version")
        content["recipe"] = json.loads(content["recipe"])
        if version == FIRST:
            content = _from_first(content)
        elif version not in (UNTOLD, UNCOUNTED, VERSION):
            raise DataError(f"{path} is a checkpoint of version {version}, this program reads up to version {VERSION}")
        saved = Checkpoint(**content | {"file": str(path)})
    except UNREADABLE as error:
        raise _damaged(path, type(error).__name__) from error
    wrong = _wrong_field(saved)
    if wrong:
        raise _damaged(path, wrong)
    if saved.data_sets:
        return saved
    weights = str(saved.recipe.get("weights") or "")
    return replace(saved, data_sets=seen(saved.recipe, origin(weights) if weights else []))


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path} is not a checkpoint of this program or is damaged ({why}): train again")


def _wrong_field(saved: Checkpoint) -> str:
    """The first field that does not hold what `Checkpoint` says, in words; "" where all do."""
    going_on = bool(saved.optimiser)
    sound = {
        "recipe": isinstance(saved.recipe, dict) and isinstance(saved.recipe.get("method"), str),
        "progress": isinstance(saved.progress, int | float),
        "step": isinstance(saved.step, int),
        "network": _maps_to(saved.network, Tensor),
        "head": _maps_to(saved.head, Tensor),
        "optimiser": isinstance(saved.optimiser, dict),
        "scaler": isinstance(saved.scaler, dict),
        "sampler": _maps_to(saved.sampler, int) and (not going_on or saved.sampler.keys() == {"epoch", "place"}),
        "history": isinstance(saved.history, list) and all(_maps_to(row, int | float) for row in saved.history),
        "epoch": _maps_to(saved.epoch, int | float),
        "best": _maps_to(saved.best, int | float),
        "counts": _maps_to(saved.counts, int),
        "data_sets": isinstance(saved.data_sets, list) and all(isinstance(name, str) for name in saved.data_sets),
    }
    return next((f"its {name} is not one" for name, good in sound.items() if not good), "")


def _maps_to(found: object, kind: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(value, kind) for value in found.values())


def seen(recipe: Mapping[str, Any], before: Iterable[str]) -> list[str]:
    """What a network has seen that had seen `before` and is trained by a recipe: names of data sets, each once."""
    name = str(recipe.get("data", "unknown"))
    if name == "folder":  # its own name alone could be that of another set
        name = f"folder {Path(str(recipe.get('root', ''))).name}"
    return list(dict.fromkeys([*before, name]))


def origin(weights: str) -> list[str]:
    """What `weights`, as a recipe names them, have seen. Our checkpoints say it; of other files nobody knows."""
    if weights == "imagenet":
        return ["imagenet (weights of torchvision)"]
    try:
        return load(Path(weights)).data_sets
    except DataError:
        return [f"unknown (weights {Path(weights).name})"]


def average(paths: Sequence[Path]) -> Checkpoint:
    """The mean of the networks of checkpoints of one method; the recipe is the last one's.

    Between a network and what it became when it was trained on, the mean often does better than both, above all on pictures
    unlike those of the last training (Wortsman et al., CVPR 2022, arXiv 2109.01903). Raises `DataError` where they do not fit.
    """
    first, *others = (load(path) for path in paths)
    for path, other in zip(paths[1:], others, strict=True):
        if other.recipe["method"] != first.recipe["method"]:
            raise DataError(
                f"{path} is of {other.recipe['method']}, {paths[0]} of {first.recipe['method']}: no mean of two methods"
            )
        if _shapes(other) != _shapes(first):
            raise DataError(
                f"{path} is of another size than {paths[0]}: no mean of them; train both with one recipe's network"
            )
    each = [first, *others]
    network = {
        name: torch.stack([one.network[name] for one in each]).mean(0) if value.is_floating_point() else value
        for name, value in each[-1].network.items()
    }
    names = dict.fromkeys(name for one in each for name in one.data_sets)
    return Checkpoint(each[-1].recipe, progress=1.0, step=each[-1].step, network=network, data_sets=list(names))


def _shapes(saved: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in saved.network.items()}


def _from_first(content: dict[str, Any]) -> dict[str, Any]:
    """Weights and recipe without its length; without the state that going on would need."""
    kept = {name: content[name] for name in ("recipe", "progress", "step", "network", "head")}
    del kept["recipe"]["steps"]
    return kept


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], file: str, remedy: str) -> None:
    """Copy weights into a network. Raises a `DataError` with `file`, the first layer that does not fit, and `remedy`."""
    expected = {name: value.shape for name, value in network.state_dict().items()}
    missing = [name for name in expected if name not in weights]
    unknown = [name for name in weights if name not in expected]
    if missing:
        raise DataError(
            f"{file}: lacks {len(missing)} of its network's {len(expected)} weights, first {missing[0]}: {remedy}"
        )
    if unknown:
        raise DataError(f"{file}: holds {len(unknown)} weights that its network has not, first {unknown[0]}: {remedy}")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise DataError(f"{file}: {name} is {tuple(weights[name].shape)}, expected {tuple(shape)}: {remedy}")
    network.load_state_dict(weights, strict=True)
