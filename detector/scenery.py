"""What stands in a room for ever: a weak box in which nothing changes is a thing, not a person.

A sign or a mannequin looks somewhat like a person in every frame, and a tracklet of somebody who walks past may stay with it for minutes. What
tells them apart is time: whoever stands or sits still changes some spot of the picture within seconds. Confident boxes are
believed all the same, so that only somebody who is hard to see and wholly unmoved is taken for a thing, until they move.
"""

from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.boxes import Boxes

EVERY_S = 1.0
"""A picture is kept to compare with this often."""
SPAN_S = 3.0
"""Pictures are looked at for so long after they are old enough: somebody who passes hides a place for a moment."""
SHRINK = 4
"""Pictures are compared at a quarter of their size, which averages noise away."""
CHANGE = 12
"""Grey levels, mean of the colours, that one spot must change by; 8 to 20 do as well (benchmarks/results.md)."""


class Scenery:
    """The last seconds of one stream of one camera, small: at 640x360 some 40 kB a second."""

    def __init__(self, still_s: float) -> None:
        self._still_s = still_s
        self._kept: deque[tuple[float, NDArray[np.uint8]]] = deque()

    def unchanged(self, now_s: float, image: NDArray[np.uint8], xyxy: Boxes) -> NDArray[np.bool_]:
        """(N,) which boxes (N, 4) of an image (H, W, 3) show what stood there `still_s` earlier or up to `SPAN_S` before that.

        To be called with each frame, in order of its time. Only the middle half of a box counts: the rest is the room.
        """
        still = np.zeros(len(xyxy), bool)
        if self._still_s == 0:
            return still
        while self._kept and now_s - self._kept[0][0] > self._still_s + SPAN_S:
            self._kept.popleft()
        hw = (max(1, image.shape[0] // SHRINK), max(1, image.shape[1] // SHRINK))
        old = [kept for at, kept in self._kept if now_s - at >= self._still_s and kept.shape[:2] == hw]
        if old:
            for place, box in enumerate(xyxy / SHRINK):
                y1, y2, x1, x2 = _middle(box, hw)
                now = _shrunk(image, y1, y2, x1, x2)
                still[place] = any(_most_changed(now, kept[y1:y2, x1:x2]) <= CHANGE for kept in old)
        if not self._kept or now_s - self._kept[-1][0] >= EVERY_S:
            self._kept.append((now_s, _shrunk(image, 0, hw[0], 0, hw[1])))
        return still


def _shrunk(image: NDArray[np.uint8], y1: int, y2: int, x1: int, x2: int) -> NDArray[np.uint8]:
    """Rows y1 to y2 and columns x1 to x2 of the image at 1 / `SHRINK` of its size: the same pixels, whichever part is asked."""
    part = image[y1 * SHRINK : y2 * SHRINK, x1 * SHRINK : x2 * SHRINK]
    return np.asarray(cv2.resize(part, (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA), np.uint8)


def _middle(box: NDArray[np.float32], hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """y1, y2, x1, x2 of the middle half of a box within a picture of size `hw`, at least one pixel."""
    left, top, right, bottom = box.tolist()
    quarter = (right - left) / 4
    y1, x1 = min(int(top), hw[0] - 1), min(int(left + quarter), hw[1] - 1)
    return y1, min(hw[0], max(y1 + 1, int(bottom))), x1, min(hw[1], max(x1 + 1, int(right - quarter)))


def _most_changed(now: NDArray[np.uint8], then: NDArray[np.uint8]) -> float:
    """Grey levels by which the spot changed that changed most."""
    return float(cv2.absdiff(now, then).mean(-1).max())
