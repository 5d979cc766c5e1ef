"""What a training method is to the loop."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from stream.errors import UsageError
from trainer.ahead import Ahead
from trainer.sampler import Sampler
from trainer.settings import Recipe
from trainer.weights import Matched


class Task(ABC):
    """A method with its data: what the loop trains.

    Random numbers come from the `generator` that `losses` is given (a CPU one) or, where torch's global one cannot be avoided
    (dropout), from that; the loop sets both from seed and step. Counters and tables that must outlive a stop are buffers of
    `network` or `head`.
    """

    recipe: Recipe
    network: nn.Module
    """Exported and evaluated; its eval forward takes normalised (B, 3, H, W) and gives the embedding (B, D) before L2."""
    head: nn.Module
    """What only training needs: classifiers, tables, teachers. `nn.Identity()` if nothing."""
    sampler: Sampler
    pictures: Sequence[Ahead] = ()
    """What `losses` reads its rows from, if it can be read ahead."""
    counts: Mapping[str, int] = {}
    """How many "pictures" and, where they have names, "people" it learns from: a run goes on with as many."""
    seen: Sequence[str] = ()
    """Data sets behind the weights that it begins with (`Checkpoint.data_sets`)."""
    notes: Sequence[str] = ()
    """What is worth saying before training, one line each: annotation that a loss misses."""

    def fill(self, weights: str) -> Matched:
        """Put in the recipe's `weights`: called once where it names some, never for a run that goes on."""
        raise UsageError(f"weights = {weights!r}: {self.recipe.method} begins with none: leave them out")

    @abstractmethod
    def optimiser(self) -> torch.optim.Optimizer:
        """A new one over network and head, made once they are on their device.

        A parameter group may carry "factor" (1.0): its rate is `learning_rate()` times that.
        """

    @abstractmethod
    def learning_rate(self, epoch: int, fraction: float) -> float:
        """The rate when `fraction` in [0, 1) of `epoch` (from 0) is done."""

    def begin_epoch(self, epoch: int) -> None:  # noqa: B027 - most methods have nothing to do
        """Freeze, thaw or switch stages. Everything is in train mode before; also called after a resume in mid-epoch."""

    @abstractmethod
    def losses(self, rows: Tensor, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
        """Weighted terms by name, float32 scalars, over the samples `rows` (B,) int64; the loop adds them up."""
