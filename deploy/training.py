"""What `sightline train` does: recipe, data, loop, with progress on a terminal and plain lines elsewhere."""

import importlib.util
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from stream.errors import UsageError

LINE_EVERY_S = 30.0
"""Between plain lines, where no terminal shows a bar."""


def require_torch(verb: str) -> None:
    """Raise `UsageError` where the training extra is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError(f'sightline {verb} needs torch, which is not installed: pip install "sightline[train]"')


class Bar:
    """A bar with a few words on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, what: str) -> None:
        self._console, self._what, self._said = console, what, time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[words]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._progress.add_task(what, total=1.0, words="")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def at(self, share: float, words: str) -> None:
        """Show that `share` in [0, 1] is done."""
        self._progress.update(self._task, completed=share, words=words)
        if not self._console.is_terminal and (time.monotonic() - self._said > LINE_EVERY_S or share >= 1):
            self._said = time.monotonic()
            self._console.print(f"{self._what}: {share:.1%} {words}")


def run_training(
    method: str,
    recipe_path: Path | None,
    overrides: dict[str, Any],
    output: Path,
    max_minutes: float | None,
    threads: int | None,
    console: Console,
) -> dict[str, Any]:
    """Train, or go on training; returns what is reported."""
    import torch

    from trainer.loop import Progress as TrainingProgress
    from trainer.loop import train
    from trainer.settings import make_recipe, read_recipe
    from trainer.tasks import make_task

    if recipe_path is None:
        recipe = make_recipe({"method": method, **overrides}, "the command line")
    else:
        recipe = read_recipe(recipe_path, overrides)
    if recipe.method != method:
        raise UsageError(f"{recipe_path} is a recipe for {recipe.method}, asked is {method}")
    cores = threads or os.cpu_count() or 1
    torch.set_num_threads(cores)
    with Bar(console, "drawing") as bar:
        task = make_task(recipe, workers=cores, report=lambda done, of: bar.at(done / of, f"{done} of {of} shards"))
    started = time.monotonic()
    last: dict[str, float] = {}
    with Bar(console, f"training {method}") as bar:

        def tell(now: TrainingProgress) -> None:
            last.update(step=now.step, progress=now.progress, loss=now.loss)
            bar.at(now.progress, f"step {now.step}, loss {now.loss:.3f}, {now.pictures_per_s:.0f} pictures/s")

        finished = train(task, output, max_minutes=max_minutes, report=tell)
    path = output / "checkpoint.pt"
    console.print(f"{path}: schedule {'complete' if finished else 'not complete; the same command goes on'}")
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cores} CPU cores"
    return {"checkpoint": str(path), "finished": finished, "seconds": time.monotonic() - started, "on": where, **last}
