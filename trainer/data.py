"""What training and scoring read: crops of people, and whole scenes with everybody's box."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
STORED_HW = (160, 80)
"""Size at which crops are kept for training: a quarter more than the network takes at 128x64, so zooming in has something to show."""
LEAST_VISIBLE = 0.3
"""People of whom less can be seen are neither people nor background to a detector, neither right nor wrong in a score."""
UNLABELLED = 5555
"""Identity of a person in a scene whom nobody named."""
NOBODY = -1
"""Identity of a place in `Scenes.people` that holds no box."""


class Pictures(Protocol):
    """(N, H, W, 3) uint8 RGB, read by row numbers; an array or memory maps."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: I64, /) -> Any:
        """(n,) -> (n, H, W, 3) uint8."""
        ...


class Picked:
    """Some rows of other pictures."""

    def __init__(self, pictures: Pictures, rows: I64) -> None:
        self._pictures, self._rows = pictures, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: I64, /) -> Any:
        """See `Pictures`."""
        return self._pictures[self._rows[rows]]


@dataclass(frozen=True, slots=True)
class Crops:
    """One person per picture, who it is and which camera saw it."""

    images: Pictures
    people: I64
    """(N,); two pictures with the same number show the same person. In a gallery 0 is a distractor: nobody who is asked for."""
    cameras: I64
    """(N,)."""
    joints: F32 | None = None
    """(N, 17, 3): COCO joints, x and y in [0, 1] of the picture (outside where a joint is), score in [0, 1]; NaN in pictures without."""
    parts: Pictures | None = None
    """parts[rows] -> (n, h, w) uint8: 0 background, 1 head, 2 torso, 3 upper arm, 4 lower arm, 5 upper leg, 6 lower leg, 7 foot;
    255 everywhere in pictures without."""
    names: Sequence[str] | None = None
    """N paths below the data set's root, for reports."""

    def take(self, rows: I64) -> "Crops":
        """Some of the crops, in the order of `rows` (n,); pictures are still read when they are asked for."""
        return Crops(
            Picked(self.images, rows),
            self.people[rows],
            self.cameras[rows],
            None if self.joints is None else self.joints[rows],
            None if self.parts is None else Picked(self.parts, rows),
            None if self.names is None else [self.names[row] for row in rows],
        )


@dataclass(frozen=True, slots=True)
class Scenes:
    """Whole pictures with everybody's box."""

    images: Pictures
    """Of one size: images[rows] -> (n, H, W, 3); of several: a list of n (H, W, 3)."""
    xyxy: F32
    """(N, G, 4) pixels; NaN where a picture has fewer people than G. A box may reach beyond the picture."""
    visible: F32
    """(N, G) share of the person that can be seen; 1 where that is not known."""
    people: I64 | None = None
    """(N, G) who it is, `UNLABELLED`, or `NOBODY` where xyxy is NaN."""
    cameras: I64 | None = None
    """(N,)."""
    names: Sequence[str] | None = None
    """N paths below the data set's root."""

    def take(self, rows: I64) -> "Scenes":
        """Some of the pictures, in the order of `rows` (n,)."""
        return Scenes(
            Picked(self.images, rows),
            self.xyxy[rows],
            self.visible[rows],
            None if self.people is None else self.people[rows],
            None if self.cameras is None else self.cameras[rows],
            None if self.names is None else [self.names[row] for row in rows],
        )


def pad_people(pictures: Iterable[tuple[F32, F32]], most: int) -> tuple[F32, F32]:
    """Per picture (n, 4) boxes and (n,) visible shares -> (N, most, 4) and (N, most), the rest NaN and 0; the largest are kept."""
    boxes, visible = [], []
    for xyxy, seen in pictures:
        area = (xyxy[:, 2:] - xyxy[:, :2]).prod(-1)
        kept = np.sort(np.argsort(-area, kind="stable")[:most])
        rest = most - len(kept)
        boxes.append(np.concatenate([xyxy[kept].reshape(-1, 4), np.full((rest, 4), np.nan)]))
        visible.append(np.concatenate([seen[kept], np.zeros(rest)]))
    return np.array(boxes, np.float32), np.array(visible, np.float32)
