"""The training loop: one for every method. It goes on exactly where it stopped, so a run may be made of many pieces."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from stream.errors import DataError, UsageError
from trainer import checkpoint
from trainer.checkpoint import Checkpoint
from trainer.sampler import Sampler
from trainer.settings import AnyRecipe

SAVE_EVERY_S = 120.0
CLIP_NORM = 5.0
"""Gradients longer than this are shortened: the first steps of a detector are."""


class Task(Protocol):
    """A method with its data: what the loop trains."""

    @property
    def recipe(self) -> AnyRecipe:
        """What was asked for."""
        ...

    @property
    def network(self) -> nn.Module:
        """What is exported."""
        ...

    @property
    def head(self) -> nn.Module:
        """Parameters that only training needs; may have none."""
        ...

    @property
    def sampler(self) -> Sampler:
        """Which samples come next."""
        ...

    def loss(self, indices: Tensor, progress: float, generator: torch.Generator, device: torch.device) -> Tensor:
        """Mean loss over the samples of `indices`; random numbers come from `generator` (a CPU one) alone."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run tells while it goes."""

    step: int
    progress: float
    loss: float
    """Mean since the last report."""
    learning_rate: float
    samples_per_s: float


def learning_rate(recipe: AnyRecipe, progress: float) -> float:
    """Rises linearly over `warmup`, then falls to 0 along half a cosine."""
    if progress < recipe.warmup:
        return recipe.learning_rate * progress / recipe.warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - recipe.warmup) / (1 - recipe.warmup)))


def train(
    task: Task,
    output: Path,
    *,
    max_minutes: float | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    report_every_s: float = 10.0,
) -> bool:
    """Train until the schedule ends (True) or `max_minutes` have passed (False), writing output/checkpoint.pt.

    A checkpoint that is already there is continued: same recipe, but `steps` may differ (the rest of the schedule is then run
    in steps of the new length). On one machine the result is that of an uninterrupted run, bit for bit.
    """
    recipe = task.recipe
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, head = task.network.to(device, memory_format=torch.channels_last), task.head.to(device)  # type: ignore[call-overload]
    parameters = [*network.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},  # norms and biases
        ],
        lr=recipe.learning_rate,
        fused=True,  # the plain one takes an eighth of an OSNet step on a CPU
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    path = output / "checkpoint.pt"
    progress, step = 0.0, 0
    if path.exists():
        saved = checkpoint.load(path)
        progress, step = _restore(saved, task, optimiser, generator, path), saved.step

    def save() -> None:
        checkpoint.save(
            path,
            Checkpoint(
                recipe=recipe.model_dump(mode="json"),
                progress=progress,
                step=step,
                network=network.state_dict(),
                head=head.state_dict(),
                optimiser=optimiser.state_dict(),
                sampler=task.sampler.state(),
                generator=generator.get_state(),
            ),
        )

    network.train()
    head.train()
    started = reported = saved_at = time.monotonic()
    total, count, samples = 0.0, 0, 0
    while progress < 1 - 1e-9:
        rate = learning_rate(recipe, progress)
        for group in optimiser.param_groups:
            group["lr"] = rate
        indices = torch.from_numpy(task.sampler.next())
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = task.loss(indices, progress, generator, device)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        value = float(loss.detach())
        if not math.isfinite(value) or not math.isfinite(float(norm)):
            raise DataError(
                f"the loss is {value} at step {step}: take a smaller learning_rate than {recipe.learning_rate}"
            )
        optimiser.step()
        step, progress = step + 1, progress + 1 / recipe.steps
        total, count, samples = total + value, count + 1, samples + len(indices)
        now = time.monotonic()
        stop = max_minutes is not None and now - started > 60 * max_minutes
        if now - reported > report_every_s or stop or progress >= 1 - 1e-9:
            report(Progress(step, min(1.0, progress), total / count, rate, samples / max(1e-9, now - reported)))
            total, count, samples, reported = 0.0, 0, 0, now
        if stop:
            break
        if now - saved_at > SAVE_EVERY_S:
            save()
            saved_at = time.monotonic()
    save()
    return progress >= 1 - 1e-9


def _restore(
    saved: Checkpoint, task: Task, optimiser: torch.optim.Optimizer, generator: torch.Generator, path: Path
) -> float:
    wanted, have = task.recipe.model_dump(mode="json"), saved.recipe
    differs = sorted(key for key in wanted.keys() | have.keys() if key != "steps" and wanted.get(key) != have.get(key))
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
    return saved.progress
