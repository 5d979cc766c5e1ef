"""The training loop: one for every method. It goes on exactly where it stopped, so a run may be made of many pieces."""

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch

from stream.errors import TrainingError, UsageError
from trainer import checkpoint, distributed
from trainer.curves import LOSS, SCORE, draw_curves
from trainer.events import EventFile
from trainer.run import Judge, Means, Run, steps
from trainer.task import Task

SAVE_EVERY_S = 120.0
ROWS = 500
"""Points of a run's curves, about."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run tells while it goes."""

    step: int
    epoch: int
    progress: float
    """Place in the schedule, 0 to 1."""
    losses: Mapping[str, float]
    """Terms, means since the last report."""
    learning_rate: float
    pictures_per_s: float
    waiting: float
    """Share of the time that was spent waiting for data."""
    left_s: float
    """Time to the end of the schedule at this pace."""

    @property
    def loss(self) -> float:
        """Sum of the terms."""
        return sum(self.losses.values())


def train(
    task: Task,
    output: Path,
    *,
    max_minutes: float | None = None,
    judge: Judge | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    report_every_s: float = 1.0,
) -> bool:
    """Train until the schedule ends (True) or `max_minutes` have passed (False).

    Writes into `output`: checkpoint.pt (the last state), best.pt, log/ for TensorBoard and, in the end, curves.png. A checkpoint that
    is already there is continued: same recipe, but for `MAY_DIFFER`. On one machine the result is that of an uninterrupted run, bit for
    bit. Ctrl-C ends the step, saves, and is raised again then. Raises `UsageError` where another training is at work in `output`.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{output} cannot be made ({error.strerror}): name another --output") from error
    run = Run(task, output)
    started = reported = saved = time.monotonic()
    begun, from_progress, waited = -1, run.progress, 0.0
    since_report, since_row = Means(), Means()
    row_every = max(1, len(task.sampler) * task.recipe.epochs // (ROWS * task.recipe.accumulate * distributed.world()))
    stop = False
    order = steps(task.sampler, task.recipe.epochs, task.recipe.accumulate)
    upcoming = next(order, None)
    with _alone(output), _log(output) as scalars, _interrupts() as interrupted, _memory_errors(run):
        while upcoming is not None and not stop:
            step, upcoming = upcoming, next(order, None)
            if step.epoch != begun:
                begun = step.epoch
                task.network.train()
                task.head.train()
                task.begin_epoch(begun)
            now = time.monotonic()
            late = max_minutes is not None and now - started >= 60 * max_minutes
            losses, (stop, save) = run.take(step, upcoming, [late or interrupted(), now - saved > SAVE_EVERY_S])
            for means in (since_report, since_row):
                means.add(losses, sum(map(len, step.batches)) * distributed.world())
            score = run.judged(judge) if step.last else None
            now = time.monotonic()
            ends = stop or upcoming is None
            if now - reported >= report_every_s or ends:
                waiting = sum(pictures.waited_s for pictures in task.pictures)
                done = run.progress - from_progress
                told = Progress(
                    step=run.step,
                    epoch=step.epoch,
                    progress=run.progress,
                    losses=since_report.means(),
                    learning_rate=run.rate,
                    pictures_per_s=since_report.pictures / max(1e-9, now - reported),
                    waiting=min(1.0, (waiting - waited) / max(1e-9, now - reported)),
                    left_s=(1 - run.progress) * (now - started) / max(1e-9, done),
                )
                report(told)
                since_report, reported, waited = Means(), now, waiting
            if run.step % row_every == 0 or score is not None or ends:
                row = {"step": float(run.step), "epoch": run.epochs_done(), "rate": run.rate}
                row |= {LOSS + name: value for name, value in since_row.means().items()}
                row |= {} if score is None else {SCORE + "mAP": score}
                run.history.append(row)
                if scalars is not None:
                    scalars.write(run.step, {k: v for k, v in row.items() if k != "step"})
                since_row = Means()
            if save and not ends:
                run.save()
                saved = time.monotonic()
        run.save()
    if distributed.rank() == 0:
        with checkpoint.writing(output / "curves.png"):
            draw_curves(output / "curves.png", run.history)
    if interrupted():
        raise KeyboardInterrupt
    return upcoming is None


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Holds the folder, which the system gives back with the process, however that ends; `UsageError` where another training has it."""
    if distributed.rank():
        yield
        return
    folder = os.open(output, os.O_RDONLY)
    try:
        with suppress(OSError):  # of a network's disk that locks no folders
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"another training writes into {output} now: wait for its end, or name another --output"
                ) from None
        yield
    finally:
        os.close(folder)


def _log(output: Path) -> AbstractContextManager[EventFile | None]:
    return EventFile(output / "log") if distributed.rank() == 0 else nullcontext()


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came; the second one ends the program at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: asked
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _memory_errors(run: Run) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        recipe = run.recipe.model_dump()
        sizes = ", ".join(f"{key} = {value}" for key, value in recipe.items() if key.startswith("batch"))
        raise TrainingError(
            f"the GPU's memory is full at step {run.step}: lower the batch ({sizes}) and raise accumulate = {recipe['accumulate']} by as "
            f"much, or take precision = bf16 (now {recipe['precision']}) or a smaller input_hw = {list(recipe['input_hw'])}"
        ) from error
