"""Recipe -> something the loop can train: the one place that knows every method and where its pictures come from."""

from pathlib import Path

from stream.errors import UsageError
from trainer import drawn
from trainer.cache import ShardReport
from trainer.data import read_market
from trainer.loop import Task
from trainer.methods.detector import DetectorTask
from trainer.methods.osnet import OSNetTask
from trainer.settings import AnyRecipe, DetectorRecipe

SYNTHETIC = "synthetic"


def make_task(recipe: AnyRecipe, *, workers: int, report: ShardReport) -> Task:
    """The method of `recipe` with its data; drawn data that is not in the cache is drawn by `workers` processes."""
    if isinstance(recipe, DetectorRecipe):
        if recipe.data != SYNTHETIC:
            raise UsageError(f"data = {recipe.data!r}: the detector is trained on {SYNTHETIC} scenes only")
        return DetectorTask(recipe, drawn.train_scenes(recipe.scenes, recipe.sites, recipe.seed, workers, report))
    if recipe.data == SYNTHETIC:
        crops = drawn.train_crops(recipe.people, recipe.sites, recipe.seed, workers, report)
    else:
        crops = read_market(Path(recipe.data), "train")
    return OSNetTask(recipe, crops)
