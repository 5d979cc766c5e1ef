"""The pinhole camera of the drawn world.

World axes: metres, x east, y north, z up, the floor at z = 0. Camera axes: x right, y down, z forward. Pixel (0, 0) is
the middle of the top left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

NEAR_M = 0.15
"""Nothing nearer to the camera than this is drawn, metres."""


@dataclass(frozen=True, slots=True, eq=False)
class Pinhole:
    """A camera without lens distortion.

    Args:
        focal: focal length in pixels, the same for both axes.
        principal_point: (2,) float64, x and y in pixels.
        rotation: (3, 3) float64, world to camera: its rows are the camera's right, down and forward axes in the world.
        position: (3,) float64, metres in the world.
        size_hw: height and width of the picture in pixels.
    """

    focal: float
    principal_point: NDArray[np.float64]
    rotation: NDArray[np.float64]
    position: NDArray[np.float64]
    size_hw: tuple[int, int]

    def to_camera(self, points: ArrayLike) -> NDArray[np.float64]:
        """(..., 3) points of the world in camera axes, metres."""
        return (np.asarray(points, np.float64) - self.position) @ self.rotation.T

    def project(self, points: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixels (..., 2) and depths (...) in metres of world points (..., 3).

        A point that is not at least `NEAR_M` in front of the camera has NaN for its pixels; its depth still tells.
        """
        seen = self.to_camera(points)
        depth = seen[..., 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = self.focal * seen[..., :2] / depth[..., None] + self.principal_point
        pixels[depth < NEAR_M] = np.nan
        return pixels, depth

    def floor_point(self, pixel: ArrayLike) -> NDArray[np.float64]:
        """Where the rays through pixels (..., 2) meet the floor: (..., 3) metres, NaN for rays that never do."""
        offset = (np.asarray(pixel, np.float64) - self.principal_point) / self.focal
        ray = np.concatenate([offset, np.ones((*offset.shape[:-1], 1))], axis=-1) @ self.rotation
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = -self.position[2] / ray[..., 2:]
        point = self.position + distance * ray
        point[(distance <= 0)[..., 0]] = np.nan
        return np.asarray(point)

    def moved(self, shift_xy: tuple[float, float], scale: float, size_hw: tuple[int, int]) -> Pinhole:
        """The same view cut and enlarged: pixel p of this camera is pixel `(p - shift_xy) * scale` of the new one."""
        point = (self.principal_point - np.asarray(shift_xy, np.float64)) * scale
        return Pinhole(self.focal * scale, point, self.rotation, self.position, size_hw)


def look_at(
    position: ArrayLike, target: ArrayLike, focal: float, size_hw: tuple[int, int], roll: float = 0.0
) -> Pinhole:
    """A camera at `position` whose middle ray goes through `target` (metres), level but for `roll` (radians).

    Raises:
        ValueError: position and target are the same point.
    """
    position = np.asarray(position, np.float64)
    forward = np.asarray(target, np.float64) - position
    length = float(np.linalg.norm(forward))
    if length < 1e-9:
        raise ValueError(f"a camera cannot look at its own position {position.tolist()}: give it another target")
    forward /= length
    up = np.array([0.0, 0.0, 1.0]) if abs(forward[2]) < 0.999 else np.array([0.0, 1.0, 0.0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cos, sin = np.cos(roll), np.sin(roll)
    rotation = np.stack([cos * right + sin * down, cos * down - sin * right, forward])
    height, width = size_hw
    return Pinhole(focal, np.array([(width - 1) / 2, (height - 1) / 2]), rotation, position, size_hw)
