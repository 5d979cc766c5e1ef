"""How much a crop can be trusted, in [0, 1]: size x visibility x sharpness x border."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.boxes import Boxes, hidden

FULL_HEIGHT_PX = 96.0  # from this height on, size takes nothing off; an embedder sees 256 pixels of it anyway
LEAST_HEIGHT_PX = 24.0  # at it, nothing is left
SHARP = 60.0  # variance of the Laplacian (grey levels squared, at 64 pixels height) from which blur takes nothing off
BLURRED = 0.5  # what is left of a crop that is nothing but blur
HIDDEN_MOST = 0.7  # hidden to this share by others: nothing is left
BORDER = 0.02  # a box that ends within this share of its own height from the picture's edge is cut off there
CUT = 0.4  # what is left of a crop that the picture's edge cuts


def quality(xyxy: Boxes, crops: Sequence[NDArray[np.uint8]], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Boxes (N, 4) of one frame of `size_hw` and their N crops (h, w, 3) -> (N,) float32 in [0, 1]."""
    height = xyxy[:, 3] - xyxy[:, 1]
    size = ((height - LEAST_HEIGHT_PX) / (FULL_HEIGHT_PX - LEAST_HEIGHT_PX)).clip(0, 1)
    visible = (1 - hidden(xyxy) / HIDDEN_MOST).clip(0, 1)
    sharp = BLURRED + (1 - BLURRED) * (np.array([_sharpness(crop) for crop in crops]) / SHARP).clip(0, 1)
    margin = BORDER * height
    limits = np.array([size_hw[1], size_hw[0]], np.float32)
    cut = (xyxy[:, :2] < margin[:, None]).any(1) | (xyxy[:, 2:] > limits - margin[:, None]).any(1)
    trust: NDArray[np.float32] = (size * visible * sharp * np.where(cut, CUT, 1.0)).astype(np.float32)
    return trust


def _sharpness(crop: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of a crop brought to 64 x 32, so that near and far people compare."""
    grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (32, 64), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())
