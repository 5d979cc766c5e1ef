"""What a camera does to a picture: exposure, colour, sharpness, noise and compression, fixed per camera."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from ingest.synthetic.kernel import kernel

Image = NDArray[np.uint8]
_GRAIN = 1 << 20


@dataclass(frozen=True, slots=True)
class CameraEffects:
    """One camera's way of seeing.

    Args:
        gain: exposure, 1 leaves it.
        white_balance: factors of red, green and blue.
        gamma: above 1 darkens the middle tones.
        saturation: 0 is grey, 1 leaves it.
        offset: what is added to red, green and blue, of 255.
        blur_px: sigma of the lens's blur in pixels of a picture 256 high; scaled with the picture.
        resolution: native resolution as a share of the picture's, up to 1.
        noise: sigma of the sensor's noise, of 255.
        jpeg: quality 1 to 100 of the camera's own compression.
        vignette: how much darker the corners are, 0 to 1.
    """

    gain: float = 1.0
    white_balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    saturation: float = 1.0
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    blur_px: float = 0.0
    resolution: float = 1.0
    noise: float = 0.0
    jpeg: int = 92
    vignette: float = 0.0

    def jittered(self, rng: np.random.Generator, amount: float = 1.0) -> CameraEffects:
        """The same camera a moment later: exposure, colour, focus and compression wander a little."""

        def near(value: float, spread: float) -> float:
            return float(value * np.exp(rng.normal(0, spread * amount)))

        red, green, blue = self.white_balance
        return replace(
            self,
            gain=near(self.gain, 0.06),
            white_balance=(near(red, 0.015), near(green, 0.01), near(blue, 0.015)),
            gamma=near(self.gamma, 0.03),
            saturation=near(self.saturation, 0.05),
            blur_px=near(self.blur_px, 0.3),
            resolution=min(1.0, near(self.resolution, 0.12)),
            noise=near(self.noise, 0.2),
            jpeg=int(np.clip(round(near(self.jpeg, 0.08)), 10, 95)),
        )

    def apply(self, image: Image, rng: np.random.Generator, *, compress: bool = True) -> Image:
        """Film an RGB picture (h, w, 3) uint8; the result is a new one of the same size.

        Args:
            compress: False leaves the JPEG out, for pictures that a video encoder compresses anyway.
        """
        height, width = image.shape[:2]
        seen = image
        small = self.resolution < 0.97
        if small:
            size = max(8, round(width * self.resolution)), max(8, round(height * self.resolution))
            seen = cv2.resize(seen, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        sigma = self.blur_px * seen.shape[0] / 256
        if sigma > 0.2:
            seen = cv2.GaussianBlur(seen, (0, 0), sigma)  # type: ignore[assignment]
        seen = np.ascontiguousarray(seen) if seen is not image else image.copy()
        _expose(
            seen,
            self._curves(),
            np.float32(self.saturation),
            _grain(),
            int(rng.integers(_GRAIN)),
            np.float32(self.noise),
            np.float32(self.vignette),
        )
        if compress:
            packed = simplejpeg.encode_jpeg(
                np.ascontiguousarray(seen), quality=self.jpeg, colorspace="RGB", colorsubsampling="420"
            )
            seen = simplejpeg.decode_jpeg(packed, colorspace="RGB")
        if small:
            seen = cv2.resize(seen, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
        return seen

    def _curves(self) -> NDArray[np.float32]:
        """(256, 3): what each level of each channel becomes."""
        level = np.linspace(0, 1, 256)[:, None]
        curve = 255 * np.clip(level * self.gain * np.array(self.white_balance), 0, 4) ** self.gamma
        curve = np.where(curve > 215, 215 + 40 * np.tanh((curve - 215) / 40), curve) + np.array(self.offset)
        return np.asarray(curve, np.float32)


def draw_effects(rng: np.random.Generator, shift: float = 1.0) -> CameraEffects:
    """A random camera. `shift` scales how far its light and colour lie from a neutral camera's; 0 is neutral."""
    wide = rng.uniform(0.3, 1.0)  # some cameras are odd, most are not
    balance = np.exp(
        rng.normal(0, 0.10 * wide * shift) * np.array([1.0, 0.0, -1.0])
        + rng.normal(0, 0.04 * wide * shift) * np.array([-0.5, 1.0, -0.5])
    )
    red, green, blue = (float(b) for b in balance)
    haze = rng.uniform(0, 22) if rng.random() < 0.4 else rng.uniform(-10, 6)
    tint = rng.normal(0, 3, 3)
    return CameraEffects(
        gain=float(np.exp(rng.uniform(np.log(0.68), np.log(1.55)) * shift)),
        white_balance=(red, green, blue),
        gamma=float(np.exp(rng.normal(0, 0.17) * shift)),
        saturation=float(1 + (rng.uniform(0.45, 1.25) - 1) * shift),
        offset=(float(haze + tint[0]) * shift, float(haze + tint[1]) * shift, float(haze + tint[2]) * shift),
        blur_px=float(rng.gamma(2.0, 0.35)),
        resolution=float(rng.uniform(0.35, 1.0)),
        noise=float(rng.gamma(1.5, 2.2)),
        jpeg=int(rng.integers(25, 93)),
        vignette=float(rng.uniform(0, 0.25)),
    )


@lru_cache(maxsize=1)
def _grain() -> NDArray[np.float32]:
    """A million normal numbers, of which each picture takes its noise from another place."""
    return np.random.default_rng(7).standard_normal(_GRAIN).astype(np.float32)


@kernel
def _expose(image, curves, saturation, grain, start, noise, vignette):  # type: ignore[no-untyped-def]
    """Vignette, saturation, the channels' curves and noise in one pass, in place."""
    height, width = image.shape[:2]
    size = len(grain)
    at = start
    for y in range(height):
        away_y = (np.float32(y) - np.float32(height) * np.float32(0.5)) / np.float32(height) * np.float32(1.4)
        for x in range(width):
            away_x = (np.float32(x) - np.float32(width) * np.float32(0.5)) / np.float32(width) * np.float32(1.4)
            dim = np.float32(1.0) - vignette * (away_x * away_x + away_y * away_y)
            red, green, blue = np.float32(image[y, x, 0]), np.float32(image[y, x, 1]), np.float32(image[y, x, 2])
            grey = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
            common = grain[(at + 3 * width) % size] * noise * np.float32(0.8)
            for c in range(3):
                level = (grey + saturation * (np.float32(image[y, x, c]) - grey)) * dim
                low = min(255, max(0, int(level + np.float32(0.5))))
                value = curves[low, c] + common + grain[at % size] * noise * np.float32(0.6)
                at += 1
                image[y, x, c] = np.uint8(min(np.float32(255.0), max(np.float32(0.0), value)))
