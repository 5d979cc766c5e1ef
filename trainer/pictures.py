"""What happens to a drawn picture on its way to a model: a codec, and a box that is not quite right."""

import numpy as np
import simplejpeg
from numpy.typing import NDArray

U8 = NDArray[np.uint8]


def compress(image: U8, rng: np.random.Generator) -> U8:
    """Roughly what a camera's codec does: JPEG of any quality."""
    data = simplejpeg.encode_jpeg(image, int(rng.integers(35, 95)), "RGB", "420")
    return np.asarray(simplejpeg.decode_jpeg(data, "RGB"))


def missed(xyxy: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    """A box (4,) whose edges miss by some 4 %, as a detector's do."""
    moved: NDArray[np.float64] = xyxy + rng.normal(0, 0.04, 4) * np.tile(xyxy[2:] - xyxy[:2], 2)
    return moved


def cut_out(image: U8, xyxy: NDArray[np.float32], rng: np.random.Generator) -> U8 | None:
    """The person in a box that is a little off; None where too little is left."""
    moved = np.round(missed(xyxy, rng)).astype(int)
    x1, y1 = np.maximum(moved[:2], 0)
    crop = image[y1 : moved[3], x1 : moved[2]]
    return crop if min(crop.shape[:2]) >= 8 else None
