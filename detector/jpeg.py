"""JPEG bytes to pixels; the only import of the JPEG codec in this package."""

from collections.abc import Sequence

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from stream.messages import CameraState, DecodedFrame, Frame
from stream.transport import Record

MOST_PIXELS = 7680 * 4320
"""A message within Kafka's limit may unpack to a hundred times its size; what cameras give is smaller than this."""


def decode_frames(batch: Sequence[Record[Frame | CameraState]]) -> list[DecodedFrame | CameraState]:
    """Decode every frame of a batch in its place; runs one batch ahead of the stage (`stream.stage.run`'s `prepare`).

    A JPEG that cannot be decoded, or whose size is not the frame's, gives an image of None and no error: the frame is
    still accounted for, as ``undecodable``.
    """
    return [
        DecodedFrame(record.message, decode(record.message)) if isinstance(record.message, Frame) else record.message
        for record in batch
    ]


def decode(frame: Frame) -> NDArray[np.uint8] | None:
    """(H, W, 3) RGB, or None. The header is looked at first: other than the frame says, or above `MOST_PIXELS`, stays packed."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(frame.image)
        if (height, width) != (frame.height, frame.width) or height * width > MOST_PIXELS:
            return None
        return np.asarray(simplejpeg.decode_jpeg(frame.image, colorspace="RGB"), np.uint8)
    except ValueError:  # what simplejpeg raises for bytes that are no JPEG
        return None
