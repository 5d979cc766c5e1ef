"""Raw detector outputs to boxes of people: threshold, non-maximum suppression, back to pixels of the frame."""

import numpy as np
from numpy.typing import NDArray

from detector.boxes import Boxes, iou

MAX_CANDIDATES = 512  # the best scores of one picture; a crowd of 100 people has some 400 above 0.1 before suppression


def select(
    boxes: Boxes,
    scores: NDArray[np.float32],
    *,
    scale: float,
    image_hw: tuple[int, int],
    min_score: float,
    max_iou: float,
) -> tuple[Boxes, NDArray[np.float32], NDArray[np.intp]]:
    """(A, 4) xyxy of the detector's picture and (A,) -> xyxy (N, 4) of the frame, inside it, scores, best first, and places in A.

    Boxes that are not finite or thinner than 2 pixels are dropped.
    """
    candidates = np.flatnonzero(scores >= min_score)
    order = np.argsort(-scores[candidates], kind="stable")[:MAX_CANDIDATES]
    candidates = candidates[order]
    limits = np.array([image_hw[1], image_hw[0]] * 2, np.float32)
    scaled = boxes[candidates] / scale
    xyxy = np.clip(scaled, 0, limits)
    solid = np.isfinite(scaled).all(1) & (xyxy[:, 2] - xyxy[:, 0] >= 2) & (xyxy[:, 3] - xyxy[:, 1] >= 2)
    xyxy, kept_scores = xyxy[solid].astype(np.float32), np.minimum(scores[candidates][solid], 1).astype(np.float32)
    keep = suppress(xyxy, max_iou)
    return xyxy[keep], kept_scores[keep], candidates[solid][keep]


def suppress(xyxy: Boxes, max_iou: float) -> NDArray[np.intp]:
    """Greedy non-maximum suppression of boxes sorted best first: indices of those that stay, ascending."""
    overlaps = iou(xyxy, xyxy) > max_iou
    alive = np.ones(len(xyxy), bool)
    for place in range(len(xyxy)):
        if alive[place]:
            alive[place + 1 :] &= ~overlaps[place, place + 1 :]
    return np.flatnonzero(alive)
