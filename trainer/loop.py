"""The training loop: one for every method. It goes on exactly where it stopped, so a run may be made of many pieces."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from stream.errors import DataError, UsageError
from trainer import checkpoint
from trainer.checkpoint import Checkpoint
from trainer.task import Task

SAVE_EVERY_S = 120.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run tells while it goes."""

    step: int
    progress: float
    losses: Mapping[str, float]
    """Terms, means since the last report."""
    learning_rate: float
    samples_per_s: float

    @property
    def loss(self) -> float:
        """Sum of the terms."""
        return sum(self.losses.values())


def train(
    task: Task,
    output: Path,
    *,
    max_minutes: float | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    report_every_s: float = 10.0,
) -> bool:
    """Train until the schedule ends (True) or `max_minutes` have passed (False), writing output/checkpoint.pt.

    A checkpoint that is already there is continued: same recipe, but `epochs` may differ. On one machine the result is that of
    an uninterrupted run, bit for bit.
    """
    recipe = task.recipe
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, head = task.network.to(device, memory_format=torch.channels_last), task.head.to(device)  # type: ignore[call-overload]
    optimiser, sampler = task.optimiser(), task.sampler
    generator = torch.Generator().manual_seed(recipe.seed)
    path = output / "checkpoint.pt"
    step = 0
    if path.exists():
        saved = checkpoint.load(path)
        step = saved.step
        _restore(saved, task, optimiser, generator, path)

    def save() -> None:
        checkpoint.save(
            path,
            Checkpoint(
                recipe=recipe.model_dump(mode="json"),
                progress=_progress(task),
                step=step,
                network=network.state_dict(),
                head=head.state_dict(),
                optimiser=optimiser.state_dict(),
                sampler=sampler.state(),
                generator=generator.get_state(),
            ),
        )

    started = reported = saved_at = time.monotonic()
    begun = -1
    sums: dict[str, float] = {}
    count, samples = 0, 0
    while sampler.epoch < recipe.epochs:
        if sampler.epoch != begun:
            begun = sampler.epoch
            network.train()
            head.train()
            task.begin_epoch(begun)
        rate = task.learning_rate(sampler.epoch, sampler.place / len(sampler))
        for group in optimiser.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        rows = torch.from_numpy(sampler.next())
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            terms = task.losses(rows, generator, device)
        values = dict(zip(terms, torch.stack([*terms.values()]).tolist(), strict=True))
        for name, value in values.items():
            if not math.isfinite(value):
                raise DataError(
                    f"the {name} loss is {value} at step {step}: take a smaller learning_rate than {recipe.learning_rate}"
                )
        optimiser.zero_grad(set_to_none=True)
        sum(terms.values()).backward()  # type: ignore[union-attr, no-untyped-call]
        if recipe.clip_norm:
            parameters = [p for group in optimiser.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimiser.step()
        step += 1
        sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
        count, samples = count + 1, samples + len(rows)
        now = time.monotonic()
        stop = max_minutes is not None and now - started > 60 * max_minutes
        if now - reported > report_every_s or stop or sampler.epoch >= recipe.epochs:
            means = {name: total / count for name, total in sums.items()}
            report(Progress(step, _progress(task), means, rate, samples / max(1e-9, now - reported)))
            sums, count, samples, reported = {}, 0, 0, now
        if stop:
            break
        if now - saved_at > SAVE_EVERY_S:
            save()
            saved_at = time.monotonic()
    save()
    return sampler.epoch >= recipe.epochs


def _progress(task: Task) -> float:
    sampler = task.sampler
    return min(1.0, (sampler.epoch + sampler.place / len(sampler)) / task.recipe.epochs)


def _restore(
    saved: Checkpoint, task: Task, optimiser: torch.optim.Optimizer, generator: torch.Generator, path: Path
) -> None:
    wanted, have = task.recipe.model_dump(mode="json"), saved.recipe
    differs = sorted(key for key in wanted.keys() | have.keys() if key != "epochs" and wanted.get(key) != have.get(key))
    if differs:
        key = differs[0]
        raise UsageError(
            f"{path} was trained with {key} = {have.get(key)!r}, asked is {wanted.get(key)!r}: "
            "continue it with its own recipe or name another --output"
        )
    checkpoint.load_weights(task.network, saved.network)
    checkpoint.load_weights(task.head, saved.head)
    optimiser.load_state_dict(saved.optimiser)
    task.sampler.restore(saved.sampler)
    if saved.generator is not None:
        generator.set_state(saved.generator)
