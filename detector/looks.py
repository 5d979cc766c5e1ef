"""What a person looks like to the tracker: colours from head to foot, good for telling two people of one camera apart.

Not an embedding: it only settles who is who after two tracks met, within seconds, in the same light.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

STRIPES = 8  # from head to foot
SIZE = STRIPES * 3
SAME = 0.06  # rms difference, in shares of full scale, of two looks of one person; of two people 0.14 (a real clip)


def looks_of(crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Crops (h, w, 3) -> (N, 24) float32 in [0, 1]: mean colours of 8 stripes of the middle half of each crop."""
    looks = np.zeros((len(crops), STRIPES, 3), np.float32)
    for place, crop in enumerate(crops):
        w = crop.shape[1]
        middle = crop[:, w // 4 : max(w // 4 + 1, w - w // 4)]
        looks[place] = cv2.resize(middle, (1, STRIPES), interpolation=cv2.INTER_AREA).reshape(STRIPES, 3)
    looks /= 255
    return looks.reshape(-1, SIZE)


def swap_evidence(keep: float, swap: float) -> float:
    """Squared distances of looks if names are kept or swapped -> [-1, 1]: 1 says kept, -1 swapped, 0 cannot tell.

    Both get the distance that one person has to himself, so that differences within noise decide nothing.
    """
    floor = 2 * SAME**2 * SIZE
    return (swap - keep) / (swap + keep + floor)
