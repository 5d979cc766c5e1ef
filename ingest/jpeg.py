"""Pictures as they travel: JPEG."""

import msgspec
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from stream.messages import Frame

QUALITY = 85
LOW_QUALITY = 60
MAX_BYTES = 890_000
"""What a picture may weigh, so that its frame is below 900 kB, and that below Kafka's usual limit of 1 MiB."""


def encode(image: NDArray[np.uint8], quality: int = QUALITY) -> bytes:
    """(H, W, 3) BGR uint8, C-contiguous -> JPEG with halved colour resolution."""
    return bytes(simplejpeg.encode_jpeg(image, quality=quality, colorspace="BGR", colorsubsampling="420"))


def shrink(frame: Frame, max_bytes: int = MAX_BYTES) -> Frame | None:
    """The same picture in at most `max_bytes`: at lower quality, else at half its size too; None where even that is more.

    Width and height of the result are those of its picture. Also None where the picture cannot be read.
    """
    try:
        image = simplejpeg.decode_jpeg(frame.image, colorspace="BGR")
    except ValueError:
        return None
    small = encode(image, LOW_QUALITY)
    if len(small) > max_bytes:
        image = _halved(image)
        small = encode(image, LOW_QUALITY)
    if len(small) > max_bytes:
        return None
    return msgspec.structs.replace(frame, image=small, height=image.shape[0], width=image.shape[1])


def _halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Each pixel the mean of four; an odd last row or column is cut off."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    fours = image[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    halved: NDArray[np.uint8] = fours.mean(axis=(1, 3)).astype(np.uint8)
    return halved
