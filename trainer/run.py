"""A task on its way: its steps, and everything that a checkpoint holds between two of them."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from stream.errors import DataError, TrainingError, UsageError
from trainer import checkpoint, distributed
from trainer.checkpoint import Checkpoint
from trainer.sampler import Sampler
from trainer.settings import Recipe
from trainer.task import Task

MAY_DIFFER = ("epochs", "root", "start", "weights")
"""Keys of a recipe that do not matter to a run that has begun: it may be made longer, and its data may lie elsewhere."""

Judge = Callable[[nn.Module, torch.device], float]
"""(network in eval mode, device) -> mAP on people held out. Called by all processes together."""


def check_same(path: Path, saved: Checkpoint, recipe: Recipe) -> None:
    """Raises `UsageError` where `saved`, read from `path`, is no run that goes on by `recipe`."""
    have, wanted = saved.recipe, recipe.model_dump(mode="json")
    with suppress(ValidationError):  # keys that are newer than the checkpoint have their defaults
        have = type(recipe).model_validate(have).model_dump(mode="json")
    for key in ("method", *sorted(wanted)):
        if key not in MAY_DIFFER and wanted[key] != have.get(key):
            raise UsageError(
                f"{path} was trained with {key} = {have.get(key)!r}, asked is {wanted[key]!r}: "
                "continue it with its own recipe or name another --output"
            )
    if not saved.optimiser:
        raise UsageError(f"{path} holds weights, but no run to go on with: begin with it (--start) in another --output")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the optimiser."""

    epoch: int
    fraction: float
    """Of the epoch that is done before it."""
    batches: list[NDArray[np.int64]]
    """Rows of this process's batches, whose gradients are averaged."""
    after: dict[str, int]
    """State of the sampler once it is done."""
    last: bool
    """Of its epoch."""


def steps(sampler: Sampler, epochs: int, accumulate: int) -> Iterator[Step]:
    """The steps that are left. All processes draw the same batches; each takes its share, and too few for all are passed over."""
    processes = distributed.world()
    while sampler.epoch < epochs:
        epoch, fraction = sampler.epoch, sampler.place / len(sampler)
        count = min(accumulate, (len(sampler) - sampler.place) // processes)
        if not count:
            raise UsageError(
                f"an epoch has {len(sampler)} batches for {processes} processes: take fewer, or smaller batches"
            )
        drawn = [sampler.next() for _ in range(count * processes)]
        while sampler.epoch == epoch and len(sampler) - sampler.place < processes:
            sampler.next()
        yield Step(epoch, fraction, drawn[distributed.rank() :: processes], sampler.state(), sampler.epoch > epoch)


@dataclass(slots=True)
class Means:
    """Sums of losses over some steps."""

    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    pictures: int = 0

    def add(self, losses: Mapping[str, float], pictures: int) -> None:
        """Those of a step."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps, self.pictures = self.steps + 1, self.pictures + pictures

    def means(self) -> dict[str, float]:
        """Per step."""
        return {name: total / self.steps for name, total in self.sums.items()}


def _told(counts: Mapping[str, int]) -> str:
    """As in "36 pictures, 12 people"."""
    return ", ".join(f"{number} {what}" for what, number in counts.items())


class Run:
    """A task on its way: everything that a checkpoint holds, between two steps."""

    def __init__(self, task: Task, output: Path) -> None:
        """Raises `UsageError` where output/checkpoint.pt is of another recipe, method or data, or not the same to all processes."""
        self.task, self.recipe, self.path = task, task.recipe, output / "checkpoint.pt"
        self.device = distributed.device()
        task.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        task.head.to(self.device)
        self.optimiser = task.optimiser()
        self.parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.recipe.precision == "fp16")
        self._generator = torch.Generator()
        self.step, self.rate, self.sampled = 0, 0.0, task.sampler.state()
        self.history: list[dict[str, float]] = []
        self.epoch = Means()
        self.best: dict[str, float] = {}
        self.data_sets = checkpoint.seen(self.recipe.model_dump(), task.seen)
        if self.path.exists():
            self._restore(checkpoint.load(self.path))
        self._check_together()

    @property
    def progress(self) -> float:
        """Place in the schedule, 0 to 1."""
        return min(1.0, self.epochs_done() / self.recipe.epochs)

    def epochs_done(self) -> float:
        """As `sampled` says; the sampler itself is one step ahead."""
        length = len(self.task.sampler)
        return self.sampled["epoch"] + min(1.0, self.sampled["place"] / length)

    def take(self, step: Step, following: Step | None, flags: list[bool]) -> tuple[dict[str, float], list[bool]]:
        """One step of the optimiser -> mean losses, and the flags that are set in any process."""
        self.rate = self.task.learning_rate(step.epoch, step.fraction)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * group.get("factor", 1.0)
        self._draw_anew()
        self.optimiser.zero_grad(set_to_none=True)
        batches = [*step.batches, *(following.batches[:1] if following else [])]
        found = Means()
        for place, rows in enumerate(step.batches):
            with torch.autocast(self.device.type, self._arithmetic(), enabled=self.recipe.precision != "fp32"):
                terms = self.task.losses(torch.from_numpy(rows), self._generator, self.device)
            for pictures in self.task.pictures:
                if place + 1 < len(batches):
                    pictures.expect(batches[place + 1])
            losses = torch.stack(list(terms.values()))
            told = torch.cat([losses.detach(), losses.new_tensor(flags)])
            values = distributed.mean(told).tolist()  # waits for the forward pass, not for the backward one
            flags = [value > 0 for value in values[len(terms) :]]
            found.add(dict(zip(terms, values, strict=False)), len(rows))
            self._check(found)
            self.scaler.scale(losses.sum() / len(step.batches)).backward()  # type: ignore[no-untyped-call]
        distributed.average_gradients(self.parameters)
        if self.recipe.clip_norm:
            self.scaler.unscale_(self.optimiser)
            torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        distributed.average_buffers(self.task.network, self.task.head)
        self.step, self.sampled = self.step + 1, step.after
        self.epoch.add(found.means(), found.pictures)
        return found.means(), flags

    def judged(self, judge: Judge | None) -> float | None:
        """Ends an epoch: score on the people held out, if it was time; best.pt is written if it is the best so far."""
        losses, self.epoch = self.epoch.means(), Means()
        epoch = self.sampled["epoch"]
        score = None
        if judge is None:
            best = {name: value for name, value in self.best.items() if name != "epoch"}
            # another set of terms is another scale
            better = losses.keys() != best.keys() or sum(losses.values()) < sum(best.values())
            found = losses
        else:
            if epoch % self.recipe.val_every and epoch < self.recipe.epochs:
                return None
            self.task.network.eval()
            score = judge(self.task.network, self.device)
            better, found = score > self.best.get("mAP", -1.0), {"mAP": score}
        if better:
            self.best = {"epoch": float(epoch), **found}
            self._write(self.path.with_name("best.pt"), everything=False)
        return score

    def save(self) -> None:
        """Write checkpoint.pt; never one that holds numbers which are none."""
        self._write(self.path, everything=True)

    def _write(self, path: Path, *, everything: bool) -> None:
        if not bool(torch.stack([p.isfinite().all() for p in self.parameters]).all()):
            raise TrainingError(
                f"weights are no longer finite after step {self.step}: the gradient overflowed; {path} was not written: "
                f"take a smaller learning_rate than {self.recipe.learning_rate}, or precision = fp32"
            )
        if distributed.rank():
            return
        saved = Checkpoint(
            recipe=self.recipe.model_dump(mode="json"),
            progress=self.progress,
            step=self.step,
            network=self.task.network.state_dict(),
            head=self.task.head.state_dict(),
            best=self.best,
            data_sets=self.data_sets,
        )
        if everything:
            saved.optimiser.update(self.optimiser.state_dict())
            saved.scaler.update(self.scaler.state_dict())
            saved.sampler.update(self.sampled)
            saved.history.extend(self.history)
            saved.counts.update(self.task.counts)
            saved.epoch.update(self.epoch.sums, count=float(self.epoch.steps))
        checkpoint.save(path, saved)

    def _restore(self, saved: Checkpoint) -> None:
        check_same(self.path, saved, self.recipe)
        if saved.counts and self.task.counts and saved.counts != self.task.counts:
            raise UsageError(
                f"{self.path} was trained on {_told(saved.counts)}, {self.recipe.data} holds {_told(self.task.counts)} now: put them back "
                "as they were, or name another --output and begin with its weights (--start)"
            )
        remedy = "it is of another number of people or of another Sightline: name another --output and begin with its weights (--start)"
        checkpoint.load_weights(self.task.network, saved.network, saved.file, remedy)
        checkpoint.load_weights(self.task.head, saved.head, saved.file, remedy)
        self.task.sampler.restore(saved.sampler)
        if self.task.sampler.state() != saved.sampler:
            raise UsageError(
                f"{self.path} was trained on more pictures than {self.recipe.data} holds now: name another --output"
            )
        try:
            self.optimiser.load_state_dict(saved.optimiser)
            self.scaler.load_state_dict(saved.scaler)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{self.path} holds another optimiser's state ({type(error).__name__}): name another --output and begin with "
                "its weights (--start)"
            ) from error
        self.data_sets = checkpoint.seen(self.recipe.model_dump(), saved.data_sets)
        self.step, self.sampled, self.history, self.best = saved.step, saved.sampler, saved.history, saved.best
        sums = dict(saved.epoch)
        self.epoch = Means(steps=int(sums.pop("count", 0)), sums=sums)

    def _check_together(self) -> None:
        """Each process looked for its own checkpoint, and on another machine it may have found another or none."""
        place = torch.tensor([[self.step, self.sampled["epoch"], self.sampled["place"]]], device=self.device)
        steps_done = distributed.gathered(place)
        if bool((steps_done != place).any()):
            raise UsageError(
                f"{self.path} is not the same to all processes: they begin after the steps {steps_done[:, 0].tolist()}: on several "
                "machines name an --output that all of them share, or copy the newest checkpoint.pt to each"
            )

    def _draw_anew(self) -> None:
        """Random numbers of a step are a function of seed, process and step: nothing has to be saved to go on with the same."""
        key = np.random.SeedSequence([self.recipe.seed, distributed.rank(), self.step])
        own, torchs = (int(word) for word in key.generate_state(2))
        self._generator.manual_seed(own)
        torch.manual_seed(torchs)

    def _arithmetic(self) -> torch.dtype:
        return torch.float16 if self.recipe.precision == "fp16" else torch.bfloat16

    def _check(self, found: Means) -> None:
        for name, value in found.sums.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss {name} is {value} at step {self.step}: take a smaller learning_rate than "
                    f"{self.recipe.learning_rate} or precision = fp32; {self.path} is of before, if it is there"
                )
