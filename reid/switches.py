"""Whose tracklet it still is: where the looks say that a tracker went on with somebody else, the tracklet gets another name.

Two people who cross may leave a tracker with one box, and then with the other person in it. What comes after would be linked to
the wrong identity for good, so the first crop that is surely not the tracklet's person begins another tracklet, which is linked
by its own looks. Over twelve drawn scenes this mends a third of the boxes in tracklets of somebody else.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from reid.budget import FORGET_S
from stream.model import Links

F64 = NDArray[np.float64]

SURE = -4.0  # log-odds of one person below which a crop begins another tracklet; -2 and -3 change little
LEAST_CROPS = 2  # before that nobody knows what the tracklet's person looks like


@dataclass(slots=True)
class _Looks:
    """What one tracker's name has shown so far."""

    last_s: float
    total: F64
    weight: float = 0.0
    crops: int = 0
    switches: int = 0


@dataclass(slots=True)
class Switches:
    """One camera's stream: names of a tracker -> names of tracklets, ``+k`` behind the k-th switch. Frames come in order."""

    links: Links
    _mean: F64 = field(init=False)
    _looks: dict[str, _Looks] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._mean = np.asarray(self.links.mean)

    def rename(
        self, now_s: float, tracklets: tuple[str, ...], quality: NDArray[np.float32], vectors: dict[int, bytes]
    ) -> tuple[str, ...]:
        """The N people of a frame, their (N,) quality, and by place the float16 unit vectors of those that were embedded."""
        names = []
        for place, name in enumerate(tracklets):
            looks = self._looks.get(name)
            if looks is None:
                looks = self._looks[name] = _Looks(now_s, np.zeros_like(self._mean))
            looks.last_s = now_s
            if place in vectors:
                self._see(looks, np.frombuffer(vectors[place], "<f2").astype(np.float64), float(quality[place]))
            names.append(f"{name}+{looks.switches}" if looks.switches else name)
        self._looks = {name: looks for name, looks in self._looks.items() if now_s - looks.last_s < FORGET_S}
        return tuple(names)

    def _see(self, looks: _Looks, vector: F64, quality: float) -> None:
        if not np.isfinite(vector).all():
            return  # of a network that went out of its numbers' range; the matcher refuses and counts it
        if looks.crops >= LEAST_CROPS:
            known, seen = looks.total / looks.weight - self._mean, vector - self._mean
            lengths = max(float(np.linalg.norm(known) * np.linalg.norm(seen)), 1e-12)
            row = self.links.same
            if row.a + row.b * float(known @ seen) / lengths < SURE:
                looks.total, looks.weight, looks.crops = np.zeros_like(self._mean), 0.0, 0
                looks.switches += 1
        looks.total = looks.total + quality * vector
        looks.weight += quality
        looks.crops += 1
