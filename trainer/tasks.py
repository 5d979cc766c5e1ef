"""Recipe -> something the loop can train: the one place that knows where every method's pictures come from."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from stream.errors import UsageError
from trainer import drawn
from trainer.ahead import Ahead
from trainer.cache import ShardReport
from trainer.calm import calm
from trainer.checkpoint import Checkpoint, load, load_weights, origin
from trainer.data import Crops, Scenes
from trainer.datasets import load_reid, load_search
from trainer.datasets.search import named
from trainer.datasets.table import REID
from trainer.methods import method_module
from trainer.methods.detector import DetectorRecipe
from trainer.run import Judge
from trainer.settings import Recipe
from trainer.task import Task
from trainer.validation import crops_judge
from trainer.weights import IMAGENET, read

SEARCHES = ("person-search",)
"""Methods that learn from whole scenes with identities, or from a data set of crops; all others but the detector from crops alone."""
STORED = 1.25
"""Pictures come so much larger than the network's input: zooming in has something to show."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A task, and what was found on the way."""

    task: Task
    judge: Judge | None = None
    notes: Sequence[str] = field(default_factory=list)
    """One line each, of the data set."""


def prepare(recipe: Recipe, *, workers: int, report: ShardReport, resumed: bool = False) -> Prepared:
    """The method of `recipe` with its data; drawn data that is not in the cache is drawn by `workers` processes.

    A `resumed` run will bring its own weights: none are read.
    """
    if not resumed and recipe.weights not in ("", IMAGENET):
        read(Path(recipe.weights))  # what is wrong with it is said now: drawing may take ten minutes
    begun = load(Path(recipe.start)) if recipe.start and not resumed else None
    data, held_out, notes = _data(recipe, workers, report)
    pictures: list[Ahead] = [Ahead(data.images)]
    wrapped: Crops | Scenes = replace(data, images=pictures[0])
    if isinstance(wrapped, Crops) and wrapped.parts is not None:
        pictures.append(Ahead(wrapped.parts))
        wrapped = replace(wrapped, parts=pictures[1])
    task: Task = method_module(recipe.method).TASK(recipe, wrapped)
    task.pictures, task.counts = pictures, _counts(data)
    notes = [*notes, *task.notes]
    if recipe.calm and not resumed:
        calm(task.network)
    if recipe.weights and not resumed:
        notes = [*notes, f"weights = {recipe.weights}: {task.fill(recipe.weights)}"]
        task.seen = origin(recipe.weights)
    if begun is not None:
        notes = [*notes, f"start = {recipe.start}: {_begin(task, begun)}"]
    return Prepared(task, None if held_out is None else crops_judge(held_out, recipe.input_hw), notes)


def _data(recipe: Recipe, workers: int, report: ShardReport) -> tuple[Crops | Scenes, Crops | None, Sequence[str]]:
    """What is trained on, who is held out, and the set's notes."""
    drawn_as = {"people": recipe.people, "seed": recipe.seed, "workers": workers, "report": report}
    if isinstance(recipe, DetectorRecipe):
        if recipe.data != "synthetic":
            raise UsageError(f"data = {recipe.data!r}: the detector is trained on synthetic scenes only")
        return drawn.train_scenes(recipe.scenes, recipe.sites, recipe.seed, recipe.input_hw, workers, report), None, []
    if recipe.method in SEARCHES and recipe.data not in REID:
        if recipe.val_ids:
            raise UsageError(f"val_ids = {recipe.val_ids}: people are held out of crops only, not of whole scenes")
        scenes = load_search(recipe.data, recipe.root, **cast(Any, drawn_as))
        return scenes.train, None, scenes.notes
    height, width = recipe.input_hw
    if recipe.method in SEARCHES and width > height:
        raise UsageError(
            f"input_hw = [{height}, {width}] is for scenes, and {recipe.data} has crops of people, which are upright: take "
            "--set input_hw=[256,128] --set batch=64 --set queue=0"
        )
    crops = load_reid(
        recipe.data,
        recipe.root,
        (round(height * STORED), round(width * STORED)),
        sites=recipe.sites,
        val_ids=recipe.val_ids,
        **cast(Any, drawn_as),
    )
    return crops.train, crops.validation, crops.notes


def _counts(data: Crops | Scenes) -> dict[str, int]:
    """See `Task.counts`."""
    if data.people is None:
        return {"pictures": len(data.images)}
    people = data.people if isinstance(data, Crops) else data.people[named(data.people)]
    return {"pictures": len(data.images), "people": len(np.unique(people))}


def _begin(task: Task, begun: Checkpoint) -> str:
    """Give a task the weights of another run; its head too, where it tells the same number of people apart."""
    remedy = "begin with a checkpoint of this recipe's network, or leave start out"
    load_weights(task.network, begun.network, begun.file, remedy)
    task.seen = [*task.seen, *begun.data_sets]
    have = {name: value.shape for name, value in task.head.state_dict().items()}
    fits = have == {name: value.shape for name, value in begun.head.items()}
    if fits:
        task.head.load_state_dict(begun.head)
    return f"network{' and head' if fits else '; the head is new, for it tells other people apart'}"
