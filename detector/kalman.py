"""Constant-velocity Kalman filters for all tracks of a camera at once.

A box is (x, y, w, h): horizontal centre, top edge, width, height. The top edge, because heads are seen when feet are hidden.
Neither motion nor measurement couples these four, so each is a filter of its own with two states, value and velocity; for T
tracks everything is an array (T, 4), and no matrix is inverted. Time is in seconds, so a skipped frame is only a longer step.
All noise is in shares of the person's height, which stands for the distance to the camera; of who is cut off by the picture's
edge or by furniture it is twice the width. Walking is 0.8 heights per second.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MEASURED = np.array([0.05, 0.05, 0.1, 0.08])  # standard deviation of a box's x, y, w, h
START = np.array([0.9, 0.7, 0.1, 0.25])  # of a new track's velocity, per second
FREEDOM = 6.0  # of the Student distribution of measurements: boxes jump when people are half hidden
CHANGE = np.array([0.5, 0.25, 0.05, 0.1])  # of what the velocity gains in a second: people stop and turn


def size_of(xywh: Array) -> Array:
    """(N, 4) -> (N, 1) the person's height in pixels, as if uncut."""
    return np.maximum(xywh[:, 3:], 2 * xywh[:, 2:3])


def to_xywh(xyxy: NDArray[np.float32]) -> Array:
    """xyxy (N, 4) -> centre x, top y, width, height (N, 4)."""
    x1, y1, x2, y2 = xyxy.astype(np.float64).T
    return np.stack([(x1 + x2) / 2, y1, x2 - x1, y2 - y1], axis=1)


class Filters:
    """State of T filters; row t of every array is one track."""

    def __init__(self) -> None:
        self.value = np.zeros((0, 4))
        self.velocity = np.zeros((0, 4))  # per second
        self.value_variance = np.zeros((0, 4))
        self.velocity_variance = np.zeros((0, 4))
        self.covariance = np.zeros((0, 4))  # of value and velocity

    def add(self, xywh: Array) -> None:
        """Append a filter for each of (N, 4) boxes, at rest."""
        size = size_of(xywh)
        self.value = np.concatenate([self.value, xywh])
        self.velocity = np.concatenate([self.velocity, np.zeros_like(xywh)])
        self.value_variance = np.concatenate([self.value_variance, (MEASURED * size) ** 2])
        self.velocity_variance = np.concatenate([self.velocity_variance, (START * size) ** 2])
        self.covariance = np.concatenate([self.covariance, np.zeros_like(xywh)])

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Drop the others."""
        self.value, self.velocity = self.value[rows], self.velocity[rows]
        self.value_variance, self.velocity_variance = self.value_variance[rows], self.velocity_variance[rows]
        self.covariance = self.covariance[rows]

    def predict(self, elapsed_s: float) -> None:
        """Move all to `elapsed_s` later."""
        noise = (CHANGE * size_of(self.value)) ** 2  # spectral density of white acceleration
        t = elapsed_s
        self.value = self.value + t * self.velocity
        self.value[:, 2:] = np.maximum(self.value[:, 2:], 2.0)
        self.value_variance = (
            self.value_variance + 2 * t * self.covariance + t * t * self.velocity_variance + noise * t**3 / 3
        )
        self.covariance = self.covariance + t * self.velocity_variance + noise * t * t / 2
        self.velocity_variance = self.velocity_variance + noise * t

    def innovation(self, xywh: Array) -> tuple[Array, Array]:
        """Boxes (N, 4) against all filters -> residuals (T, N, 4) and their variances (T, 4)."""
        residual = xywh[None] - self.value[:, None]
        return residual, self.value_variance + (MEASURED * size_of(self.value)) ** 2

    def update(self, rows: NDArray[np.intp], xywh: Array) -> None:
        """Measure filters `rows` (M,) by boxes (M, 4).

        A value far from the expected one counts as measured worse (the weights of a Student distribution), so a person whose
        legs are hidden for a moment does not shrink, and one who stays cut short does after some frames.
        """
        noise = (MEASURED * size_of(self.value[rows])) ** 2
        residual = xywh - self.value[rows]
        surprise = residual**2 / (self.value_variance[rows] + noise)
        variance = self.value_variance[rows] + noise * np.maximum((FREEDOM + surprise) / (FREEDOM + 1), 1)
        gain, velocity_gain = self.value_variance[rows] / variance, self.covariance[rows] / variance
        self.value[rows] += gain * residual
        self.velocity[rows] += velocity_gain * residual
        self.velocity_variance[rows] -= velocity_gain * self.covariance[rows]
        self.covariance[rows] *= 1 - gain
        self.value_variance[rows] *= 1 - gain
