"""Small real videos for tests, each picture telling its own number."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

BITS = 12
"""The top eighth of each picture shows its number, black and white, lowest bit first."""


def numbered_picture(number: int, size_hw: tuple[int, int] = (240, 320)) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: the number above, a red square that moves below."""
    height, width = size_hw
    image = np.full((height, width, 3), 90, np.uint8)
    for bit in range(BITS):
        shade = 235 if number >> bit & 1 else 16
        image[: height // 8, width * bit // BITS : width * (bit + 1) // BITS] = shade
    x = number * 4 % (width - width // 8)
    image[height // 2 : height // 2 + height // 4, x : x + width // 8] = (220, 30, 30)
    return image


def number_in(image: NDArray[np.uint8]) -> int:
    """The number that `numbered_picture` wrote, at any size."""
    height, width = image.shape[:2]
    centres = [int(width * (bit + 0.5) / BITS) for bit in range(BITS)]
    return sum((int(image[height // 16, x].mean()) > 125) << bit for bit, x in enumerate(centres))


def write_clip(
    path: Path,
    *,
    codec: str = "libx264",
    fps: float = 25,
    frames: int = 50,
    size_hw: tuple[int, int] = (240, 320),
    container: str | None = None,
    times: Sequence[float] | None = None,
    picture: Callable[[int, tuple[int, int]], NDArray[np.uint8]] = numbered_picture,
    first: int = 0,
    rotate: float = 0,
) -> Path:
    """Encode `frames` pictures, numbered from `first`, at `fps` or at the given `times` in seconds."""
    options = {
        "libx264": {"preset": "ultrafast", "x264-params": "aud=1:bframes=0:keyint=10"},
        "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    }.get(codec, {})
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width = size_hw
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90000)
        if rotate:
            stream.set_display_rotation(rotate)
        for k in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(first + k, size_hw), "rgb24")
            frame.pts = round((times[k] if times is not None else k / fps) * 90000)
            frame.time_base = Fraction(1, 90000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path
