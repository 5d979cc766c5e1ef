"""Training in several processes, as `torchrun` starts them; alone, everything here does nothing.

Every process holds the whole state and draws the same order of batches, of which each trains on its own share: what they
exchange are gradients, buffers and a few numbers per step.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stream.errors import TrainingError, UsageError

PATIENCE = timedelta(hours=12)
"""The others wait so long for process 0, which may draw for hours; torchrun ends them at once where one of them fails."""


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    """This process's GPU, else the processor; `UsageError` where torchrun started more processes here than there are GPUs."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    place, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if place >= gpus:
        raise UsageError(
            f"torchrun started {place + 1} processes or more and torch sees {gpus} GPUs: take --nproc-per-node {gpus}"
        )
    return torch.device("cuda", place)


@contextmanager
def processes() -> Iterator[None]:
    """Join the other processes where torchrun started this one: over NCCL with GPUs, else over gloo.

    Where one of them fails the others cannot know why: they raise `TrainingError`, which says where to look.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):  # gloo's are plain ones
            raise
        raise TrainingError(
            f"process {rank()} no longer reaches the others: one of them has ended, and what that one said is the reason"
        ) from error
    finally:
        dist.destroy_process_group()


@contextmanager
def first_alone() -> Iterator[None]:
    """Process 0 does the block before all others do."""
    if rank() > 0:
        dist.barrier()
    yield
    if rank() == 0 and world() > 1:
        dist.barrier()


def mean(values: Tensor) -> Tensor:
    """Mean over the processes of a tensor that has the same shape in each."""
    if world() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world()


def gathered(values: Tensor) -> Tensor:
    """(n, ...) of each process, n the same in all, -> (world * n, ...) in the order of the processes; carries no gradient."""
    if world() == 1:
        return values.detach()
    parts = [torch.empty_like(values) for _ in range(world())]
    dist.all_gather(parts, values.detach().contiguous())
    return torch.cat(parts)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Give every process the mean gradient; a process without one counts as 0, a parameter without any keeps none."""
    if world() == 1:
        return
    there = mean(torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)).tolist()
    used = [p for p, share in zip(parameters, there, strict=True) if share]
    for p in used:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    _average([p.grad for p in used if p.grad is not None])


def average_buffers(*modules: nn.Module) -> None:
    """Give every process the mean of running statistics; of counters and other whole numbers that of process 0."""
    if world() == 1:
        return
    buffers = [buffer for module in modules for buffer in module.buffers()]
    _average([buffer for buffer in buffers if buffer.is_floating_point()])
    for buffer in buffers:
        if not buffer.is_floating_point():
            dist.broadcast(buffer, 0)


def _average(tensors: list[Tensor]) -> None:
    """In place, in one exchange."""
    if not tensors:
        return
    flat = mean(torch.cat([tensor.detach().float().reshape(-1) for tensor in tensors]))
    place = 0
    for tensor in tensors:
        tensor.copy_(flat[place : place + tensor.numel()].view_as(tensor))
        place += tensor.numel()
