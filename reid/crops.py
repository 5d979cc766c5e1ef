"""The one resize of people: serving, training and evaluation see the same pixels."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.model import Backend, PictureBackend


def shrinks(crop_hw: tuple[int, int], size_hw: tuple[int, int]) -> bool:
    """Whether both sides get smaller, so that areas are averaged."""
    return crop_hw[0] > size_hw[0] and crop_hw[1] > size_hw[1]


def to_batch(crops: Sequence[NDArray[np.uint8]], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Crops (h, w, 3) of any sizes -> (N, H, W, 3) uint8, stretched to `size_hw`; N may be 0.

    Averaging over areas where both sides shrink, bilinear elsewhere: bilinear alone skips pixels below half size.
    """
    height, width = size_hw
    batch = np.empty((len(crops), height, width, 3), np.uint8)
    for place, crop in enumerate(crops):
        how = cv2.INTER_AREA if shrinks((crop.shape[0], crop.shape[1]), size_hw) else cv2.INTER_LINEAR
        cv2.resize(crop, (width, height), dst=batch[place], interpolation=how)
    return batch


def embed(backend: Backend, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Crops of any sizes -> (N, D) unit vectors; a backend that scales pictures gets them as they are."""
    if isinstance(backend, PictureBackend):
        return backend.infer_pictures(crops, "stretch")["embedding"]
    return backend.infer(to_batch(crops, backend.card.input_hw))["embedding"]
