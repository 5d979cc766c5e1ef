"""A frame as a detector takes it: scaled to fit, top left, the rest filled with 114 (`stream.model`)."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.model import LETTERBOX_FILL, Backend, PictureBackend


def scale_of(image_hw: tuple[int, int], input_hw: tuple[int, int]) -> float:
    """Pixels of the detector's picture per pixel of the frame."""
    return min(input_hw[0] / image_hw[0], input_hw[1] / image_hw[1])


def fitted_hw(image_hw: tuple[int, int], input_hw: tuple[int, int]) -> tuple[int, int]:
    """What a frame is scaled to, whole pixels."""
    (h, w), (height, width) = image_hw, input_hw
    scale = scale_of(image_hw, input_hw)
    return min(height, max(1, round(h * scale))), min(width, max(1, round(w * scale)))


def letterbox(
    images: Sequence[NDArray[np.uint8]], input_hw: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Frames (h, w, 3) of any size -> batch (N, H, W, 3) uint8 and (N,) scales: frame pixels = boxes / scale."""
    height, width = input_hw
    batch = np.full((len(images), height, width, 3), LETTERBOX_FILL, np.uint8)
    scales = np.ones(len(images), np.float32)
    for place, image in enumerate(images):
        h, w = image.shape[:2]
        scale = scale_of((h, w), input_hw)
        fit_h, fit_w = fitted_hw((h, w), input_hw)
        # INTER_AREA when shrinking: bilinear skips pixels below half size, and thin limbs break up
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        if (fit_h, fit_w) == (h, w):
            batch[place, :h, :w] = image
        else:
            batch[place, :fit_h, :fit_w] = cv2.resize(image, (fit_w, fit_h), interpolation=how)
        scales[place] = scale
    return batch, scales


def infer_letterboxed(
    backend: Backend, images: Sequence[NDArray[np.uint8]]
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """What a model gives for frames of any size, and the (N,) scales of `letterbox`; a backend that scales pictures gets them as they are."""
    if isinstance(backend, PictureBackend):
        scales = [scale_of((image.shape[0], image.shape[1]), backend.card.input_hw) for image in images]
        return backend.infer_pictures(images, "letterbox"), np.array(scales, np.float32)
    batch, scaled = letterbox(images, backend.card.input_hw)
    return backend.infer(batch), scaled
