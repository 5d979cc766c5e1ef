"""Recipe -> something the loop can train: the one place that knows where every method's pictures come from."""

from pathlib import Path

from stream.errors import UsageError
from trainer import drawn
from trainer.cache import ShardReport
from trainer.checkpoint import load, load_weights
from trainer.data import read_market
from trainer.methods import method_module
from trainer.methods.detector import DetectorRecipe, DetectorTask
from trainer.settings import Recipe
from trainer.task import Task

SYNTHETIC = "synthetic"


def make_task(recipe: Recipe, *, workers: int, report: ShardReport) -> Task:
    """The method of `recipe` with its data; drawn data that is not in the cache is drawn by `workers` processes."""
    task = _task(recipe, workers, report)
    if recipe.start:
        begun = load(Path(recipe.start))
        load_weights(task.network, begun.network)
        if {name: w.shape for name, w in begun.head.items()} == {
            name: w.shape for name, w in task.head.state_dict().items()
        }:
            load_weights(task.head, begun.head)  # the same people: their directions are known
    return task


def task_type(method: str) -> type[Task]:
    """The task class in the method's module."""
    module = method_module(method)
    for kind in vars(module).values():
        if isinstance(kind, type) and issubclass(kind, Task) and kind.__module__ == module.__name__:
            return kind
    raise TypeError(f"{module.__name__} has no Task")


def _task(recipe: Recipe, workers: int, report: ShardReport) -> Task:
    if isinstance(recipe, DetectorRecipe):
        if recipe.data != SYNTHETIC:
            raise UsageError(f"data = {recipe.data!r}: the detector is trained on {SYNTHETIC} scenes only")
        return DetectorTask(recipe, drawn.train_scenes(recipe.scenes, recipe.sites, recipe.seed, workers, report))
    if recipe.data == SYNTHETIC:
        crops = drawn.train_crops(recipe.people, recipe.sites, recipe.seed, workers, report)
    else:
        crops = read_market(Path(recipe.root), "train")
    build = task_type(recipe.method)
    return build(recipe, crops)  # type: ignore[call-arg]
