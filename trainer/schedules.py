"""Learning rates: pure functions of the place in the schedule, so a resumed run has the rate of an uninterrupted one.

`epoch` is whatever a recipe counts with, from 0 or from 1, or a fraction of epochs: where a method's code steps its schedule at
an epoch's start, the method passes epoch + 1.
"""

import math
from collections.abc import Sequence


def steps(rate: float, epoch: float, milestones: Sequence[float], gamma: float = 0.1) -> float:
    """`rate`, times `gamma` from each milestone on."""
    return rate * gamma ** sum(epoch >= milestone for milestone in milestones)


def warm_steps(
    rate: float, epoch: float, *, warmup: float, start: float, milestones: Sequence[float], gamma: float = 0.1
) -> float:
    """`steps`, behind a linear rise from `start` times the rate at epoch 0 to the whole rate at epoch `warmup`."""
    rise = start + (1 - start) * min(1.0, epoch / warmup) if warmup else 1.0
    return steps(rate * rise, epoch, milestones, gamma)


def strong_baseline(rate: float, epoch: float, milestones: Sequence[float]) -> float:
    """Ten epochs from a hundredth of the rate, then steps (H. Luo et al., Bag of Tricks, CVPRW 2019, section 3.1)."""
    return warm_steps(rate, epoch, warmup=10, start=0.01, milestones=milestones)


def cosine(rate: float, progress: float, warmup: float = 0.0) -> float:
    """Half a cosine from `rate` to 0 over `progress` in [0, 1], behind a linear rise from 0 over its share `warmup`."""
    if progress < warmup:
        return rate * progress / warmup
    return rate * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
