"""Privacy masks: painted black before a picture leaves the worker."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray


class Masks:
    """Polygons in relative coordinates, burnt into pictures of any size."""

    def __init__(self, polygons: Sequence[Sequence[tuple[float, float]]]) -> None:
        self._relative = [np.array(polygon, np.float64) for polygon in polygons]  # (P, 2) in [0, 1]
        self._size_hw = (0, 0)
        self._pixels: list[NDArray[np.int32]] = []

    def burn(self, image: NDArray[np.uint8]) -> None:
        """Paint into (H, W, 3) uint8, in place."""
        if not self._relative:
            return
        if image.shape[:2] != self._size_hw:
            height, width = self._size_hw = image.shape[0], image.shape[1]
            last = np.array([width - 1, height - 1], np.float64)
            self._pixels = [np.rint(polygon * last).astype(np.int32) for polygon in self._relative]
        for polygon in self._pixels:  # one by one: filled together, what two of them cover would be left open
            cv2.fillPoly(image, [polygon], (0, 0, 0))
        # one pixel more: scaling has mixed what lies on the border with what lies beside it
        cv2.polylines(image, self._pixels, isClosed=True, color=(0, 0, 0), thickness=3)
