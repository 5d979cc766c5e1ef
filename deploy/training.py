"""What `sightline train` does: recipe, data, loop, with progress on a terminal and plain lines elsewhere."""

from __future__ import annotations

import importlib.util
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from stream.cores import usable_cores
from stream.errors import UsageError

if TYPE_CHECKING:
    from trainer.settings import Recipe

SYNTHETIC = "synthetic"
LINE_EVERY_S = 30.0
"""Between plain lines, where no terminal shows a bar."""


def require_torch(verb: str) -> None:
    """Raise `UsageError` where the training extra is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError(
            f"sightline {verb} needs torch, which is not installed: pip install -c constraints.txt -e '.[train]'"
        )


def check_output(folder: Path) -> None:
    """Raises `UsageError` where files cannot be written into `folder`, there or not yet; leaves nothing behind."""
    near = folder.absolute()
    try:
        while not near.exists():
            near = near.parent
        if not near.is_dir():
            raise UsageError(f"--output {folder}: {near} is a file; name a folder")
        with tempfile.TemporaryFile(dir=near):
            pass
    except OSError as error:
        raise UsageError(
            f"--output {folder}: nothing can be written there ({error.strerror}); name another folder"
        ) from error


class Bar:
    """A bar with a few words on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, what: str) -> None:
        self._console, self._what, self._said = console, what, time.monotonic()
        self._unsaid = ""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[words]}", markup=False),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._progress.add_task(what, total=1.0, words="")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()
        if self._unsaid:
            self._console.print(self._unsaid)

    def at(self, share: float, words: str) -> None:
        """Show that `share` in [0, 1] is done."""
        self._progress.update(self._task, completed=share, words=words)
        if self._console.is_terminal:
            return
        self._unsaid = f"{self._what}: {share:.1%} {words}"
        if time.monotonic() - self._said > LINE_EVERY_S or share >= 1:
            self._console.print(self._unsaid)
            self._said, self._unsaid = time.monotonic(), ""


def overrides_of(named: Mapping[str, Any], settings: Sequence[str], *, from_scratch: bool) -> dict[str, Any]:
    """Keys of a recipe as the command line gives them; those of `settings` (key=value) are read as TOML, else as text."""
    overrides = {key: value for key, value in named.items() if value is not None}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {setting}: expected KEY=VALUE, such as --set learning_rate=1e-3")
        try:
            overrides[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            overrides[key.strip()] = text.strip()
    for key in ("weights", "start"):
        if from_scratch and overrides.get(key):
            raise UsageError(f"--from-scratch and {key} = {overrides[key]!r}: take one of them")
    return overrides | ({"weights": "", "start": ""} if from_scratch else {})


def make_recipe(method: str, path: Path | None, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe file with what the command line says, or the method's own values.

    Drawn people are small and need no photographs to begin with: without a recipe file they are trained on from scratch, at half the
    method's size or as its `DRAWN` says.
    """
    from trainer.datasets.table import MIX
    from trainer.methods import method_module
    from trainer.settings import make_recipe, read_recipe

    if "method" in overrides:
        raise UsageError(
            f"--set method={overrides['method']}: the method is the command's first word, which is {method}; "
            "leave it out here"
        )
    if path is not None:
        recipe = read_recipe(path, overrides, method)
        if recipe.method != method:
            raise UsageError(f"{path} is a recipe for {recipe.method}, asked is {method}")
    else:
        recipe = make_recipe({"method": method, **overrides}, "the command line")
        if recipe.data == SYNTHETIC and method != "detector":
            small = {"input_hw": [side // 32 * 16 for side in recipe.input_hw]}
            drawn = getattr(method_module(method), "DRAWN", small)
            recipe = make_recipe({"method": method, "weights": "", **drawn, **overrides}, "the command line")
    # where the command line says --data synthetic, the folder in a recipe file is that of the file's own data
    named = "root" in overrides or "data" not in overrides
    if recipe.root and named and recipe.data in (SYNTHETIC, MIX):
        raise UsageError(
            f"root = {recipe.root!r}: data is {recipe.data}, which is drawn and read from no folder: name the set that lies there with "
            "--data, or leave --root out"
        )
    return recipe


def run_training(
    method: str,
    recipe_path: Path | None,
    overrides: Mapping[str, Any],
    output: Path,
    max_minutes: float | None,
    threads: int | None,
    console: Console,
) -> dict[str, Any] | None:
    """Train, or go on training; returns what is reported, None in all but the first of torchrun's processes."""
    import torch

    from trainer import distributed

    with distributed.processes():
        first = distributed.rank() == 0
        cores = threads or max(1, usable_cores() // distributed.world())
        torch.set_num_threads(cores)
        told = console if first else Console(quiet=True)
        recipe = make_recipe(method, recipe_path, overrides)
        report = _train(recipe, output, max_minutes, cores, told)
        return report if first else None


def _train(recipe: Recipe, output: Path, max_minutes: float | None, cores: int, console: Console) -> dict[str, Any]:
    import torch

    from trainer import checkpoint, distributed
    from trainer.loop import Progress as Now
    from trainer.loop import train
    from trainer.run import check_same
    from trainer.tasks import prepare

    called = time.monotonic()
    path = output / "checkpoint.pt"
    check_output(output)
    if path.is_dir():
        raise UsageError(f"--output {output}: {path} is a folder; name another --output")
    resumed = path.exists()
    if resumed:  # what it began with is behind it, and decided what it froze
        saved = checkpoint.load(path)
        have = saved.recipe
        recipe = recipe.model_copy(update={key: have[key] for key in ("start", "weights") if key in have})
        check_same(path, saved, recipe)
        del saved  # before the data are read: its tensors are as large as the run's
    height, width = recipe.input_hw
    begins = "goes on" if resumed else f"from {recipe.start or recipe.weights or 'scratch'}"
    console.print(
        f"{recipe.method} on {recipe.data} at {height}x{width}, {begins}, {recipe.epochs} epochs, {recipe.precision}",
        markup=False,
    )
    with distributed.first_alone(), Bar(console, "drawing") as bar:
        prepared = prepare(
            recipe, workers=cores, report=lambda done, of: bar.at(done / of, f"{done} of {of} shards"), resumed=resumed
        )
    for note in prepared.notes:
        console.print(note, markup=False)
    started = time.monotonic()
    if max_minutes is not None:  # drawing counts too
        max_minutes = max(0.0, max_minutes - (started - called) / 60)
    last: dict[str, Any] = {}
    try:
        with Bar(console, f"training {recipe.method}") as bar:

            def tell(now: Now) -> None:
                last.update(
                    step=now.step,
                    progress=now.progress,
                    loss=now.loss,
                    losses=dict(now.losses),
                    pictures_per_s=now.pictures_per_s,
                    waiting=now.waiting,
                )
                pace = f"{now.pictures_per_s:.{0 if now.pictures_per_s >= 10 else 1}f}"
                terms = " + ".join(f"{name} {value:.3f}" for name, value in now.losses.items())
                bar.at(
                    now.progress,
                    f"epoch {now.epoch + 1} of {recipe.epochs}, step {now.step}: loss {now.loss:.3f} = {terms}; {pace} "
                    f"pictures/s, {now.waiting:.0%} of the time waiting for data, {duration(now.left_s)} left",
                )

            finished = train(prepared.task, output, max_minutes=max_minutes, judge=prepared.judge, report=tell)
    except KeyboardInterrupt:  # behind the bar, which prints what it has not said yet
        if path.exists():
            console.print(f"{path} is saved; the same command goes on", markup=False)
        raise
    if not last:
        console.print("nothing was left to do: for more, raise --epochs")
    console.print(
        f"{path}: schedule {'complete' if finished else 'not complete; the same command goes on'}", markup=False
    )
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cores} CPU cores"
    seconds = time.monotonic() - started
    return {"checkpoint": str(path), "finished": finished, "seconds": seconds, "on": where, **last}


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"
