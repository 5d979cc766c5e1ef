"""Geometry of boxes: xyxy (N, 4) float32, x1 < x2, y1 < y2."""

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]


def area(xyxy: Boxes) -> NDArray[np.float32]:
    """(N,) pixels."""
    pixels: NDArray[np.float32] = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    return pixels


def intersection(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """(N, 4), (M, 4) -> (N, M) pixels that both cover."""
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])  # (N, M)
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])  # (N, M)
    pixels: NDArray[np.float32] = width.clip(0) * height.clip(0)
    return pixels


def iou(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """(N, 4), (M, 4) -> (N, M) intersection over union; 0 where both are empty."""
    both = intersection(a, b)
    union = area(a)[:, None] + area(b)[None, :] - both
    share: NDArray[np.float32] = both / np.maximum(union, 1e-9)
    return share


def hidden(xyxy: Boxes) -> NDArray[np.float32]:
    """(N, 4) -> (N,) share of each box covered by boxes of others nearer to the camera: feet lower in the picture.

    Covers that overlap each other are added up, so this is an upper bound, at most 1.
    """
    nearer = xyxy[None, :, 3] > xyxy[:, None, 3]  # (N, N): column stands before row
    covered = (intersection(xyxy, xyxy) * nearer).sum(1)
    share: NDArray[np.float32] = np.minimum(covered / np.maximum(area(xyxy), 1e-9), 1.0)
    return share
