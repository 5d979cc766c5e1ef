"""Bodies' measures and where their joints lie at rest.

Every length is a share of the person's height unless its name ends in `_m`; proportions follow what anatomy books for
artists teach (the body is seven and a half heads tall, the arm spans the height, the crotch is just below half).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.body import BONES, CHEST, FOOT, FOREARM, GRIP, HEAD, PELVIS, SHIN, SPINE, THIGH, UPPER_ARM

Points = NDArray[np.float64]

CROTCH, HIP, WAIST, SHOULDER, NECK, CHIN, CROWN = 0.475, 0.525, 0.615, 0.808, 0.845, 0.872, 1.0
ELBOW, WRIST, KNEE, ANKLE = 0.632, 0.478, 0.285, 0.045


@dataclass(frozen=True, slots=True)
class Build:
    """A body's measures.

    Args:
        height_m: sole to crown.
        girth: thickness of everything, 1 is average.
        shoulder, hip, waist: widths, 1 is average.
        belly, bust: what stands out in front, shares of the height.
        head: size of the head, 1 is average.
    """

    height_m: float
    girth: float
    shoulder: float
    hip: float
    waist: float
    belly: float
    bust: float
    head: float

    @property
    def shoulder_x(self) -> float:
        """Half the distance between the shoulder joints."""
        return 0.100 * self.shoulder * (0.85 + 0.15 * self.girth)

    @property
    def hip_x(self) -> float:
        """Half the distance between the hip joints."""
        return 0.049 * self.hip * (0.7 + 0.3 * self.girth)


def draw_build(rng: np.random.Generator) -> Build:
    """A random body, from slight to heavy, of a grown-up or now and then a child."""
    curves = rng.random()  # 0 broad shoulders, 1 wide hips
    height = rng.normal(1.765 - 0.115 * curves, 0.065)
    head = rng.normal(1.0, 0.04)
    if rng.random() < 0.05:
        height, head = rng.uniform(1.15, 1.5), 1.2
    girth = float(np.clip(np.exp(rng.normal(0.02, 0.15)), 0.78, 1.5))
    return Build(
        height_m=float(np.clip(height, 1.1, 2.02)),
        girth=girth,
        shoulder=float(rng.normal(1.06 - 0.12 * curves, 0.04)),
        hip=float(rng.normal(0.96 + 0.12 * curves, 0.04)),
        waist=float(rng.normal(1.03 - 0.12 * curves, 0.05)),
        belly=float(max(0.0, rng.normal(0.03 * (girth - 0.95) * 2.5, 0.006))),
        bust=float(max(0.0, rng.normal(0.012 * curves, 0.004))),
        head=float(head),
    )


def pivots(build: Build) -> Points:
    """(16, 3) metres, where each bone begins at rest."""
    points = np.zeros((BONES, 3))
    points[PELVIS] = 0, 0, 0.53
    points[SPINE] = 0, -0.008, 0.58
    points[CHEST] = 0, -0.008, 0.66
    points[HEAD] = 0, -0.006, 0.84
    for side, sign in ((0, 1.0), (1, -1.0)):
        points[UPPER_ARM[side]] = sign * build.shoulder_x, -0.004, SHOULDER - 0.012
        points[FOREARM[side]] = sign * build.shoulder_x, -0.004, ELBOW
        points[THIGH[side]] = sign * build.hip_x, 0, HIP
        points[SHIN[side]] = sign * build.hip_x, 0, KNEE
        points[FOOT[side]] = sign * build.hip_x, -0.006, ANKLE
        points[GRIP[side]] = sign * build.shoulder_x, 0.0, 0.415
    return points * build.height_m


def landmarks(build: Build) -> Points:
    """(17, 3) metres, the COCO joints at rest."""
    h = build.head
    points = [(0.0, 0.060 * h, CHIN + 0.058 * h)]
    points += [(s * 0.018 * h, 0.051 * h, CHIN + 0.072 * h) for s in (-1, 1)]
    points += [(s * 0.043 * h, -0.002, CHIN + 0.062 * h) for s in (-1, 1)]
    for x, y, z in (
        (build.shoulder_x, -0.004, SHOULDER - 0.012),
        (build.shoulder_x, -0.004, ELBOW),
        (build.shoulder_x, -0.004, WRIST),
        (build.hip_x, 0.0, HIP),
        (build.hip_x, 0.0, KNEE),
        (build.hip_x, -0.006, ANKLE),
    ):
        points += [(-x, y, z), (x, y, z)]
    return np.array(points) * build.height_m
