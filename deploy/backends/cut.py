"""What backends do alike: look at what they are given, and cut a batch into the sizes that they were compiled for."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from stream.model import ModelCard


def check_images(images: NDArray[np.generic], card: ModelCard) -> None:
    """Raises `ValueError` unless it is what the card takes: (N, H, W, 3) uint8."""
    if images.ndim != 4 or images.shape[1:] != (*card.input_hw, 3) or images.dtype != np.uint8:
        raise ValueError(
            f"{card.name} takes (N, {card.input_hw[0]}, {card.input_hw[1]}, 3) uint8, got {images.shape} {images.dtype}"
        )


def powers_of_two(most: int) -> list[int]:
    """Those up to `most`, largest first."""
    return [1 << power for power in range(most.bit_length() - 1, -1, -1)]


def cut(n: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where each part of a batch of n begins, and its size: the largest that fits each time. `sizes`: largest first, 1 among them."""
    start = 0
    for size in sizes:
        while n - start >= size:
            yield start, size
            start += size
