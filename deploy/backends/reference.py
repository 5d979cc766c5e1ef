"""Models without weights, in numpy: doubles that tests and examples run on. They keep the house contract to the letter."""

import cv2
import numpy as np
from numpy.typing import NDArray

from reid.crops import to_batch
from stream.model import Kind, ModelCard

SLOTS = 64  # boxes the reference detector can report per picture
GRID_HW = (4, 2)  # cells of a crop whose mean colours the reference embedder returns


def _card(name: str, kind: Kind, input_hw: tuple[int, int], outputs: dict[str, tuple[int, ...]]) -> ModelCard:
    size = outputs["embedding"][-1] if "embedding" in outputs else None
    return ModelCard(
        name=name,
        version="1",
        kind=kind,
        input_hw=input_hw,
        outputs=outputs,
        max_batch=64,
        embedding_size=size,
        synthetic_only=True,
        licence="Apache-2.0",
        source="deploy/backends/reference.py",
        digest="0" * 64,
    )


class ReferenceDetector:
    """Finds patches of one strong colour on a grey picture: a "person" is a connected patch with max - min channel > 60.

    The score is the share of its box that a patch fills, so a rectangle scores 1.
    """

    def __init__(self, input_hw: tuple[int, int] = (256, 416)) -> None:
        self.card = _card("reference-detector", "detector", input_hw, {"boxes": (SLOTS, 4), "scores": (SLOTS,)})

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """(N, H, W, 3) -> boxes (N, SLOTS, 4), scores (N, SLOTS); unused slots score 0."""
        boxes = np.zeros((len(images), SLOTS, 4), np.float32)
        scores = np.zeros((len(images), SLOTS), np.float32)
        for image, slots, score in zip(images, boxes, scores, strict=True):
            saturated = (image.max(-1).astype(int) - image.min(-1) > 60).astype(np.uint8)
            _, _, stats, _ = cv2.connectedComponentsWithStats(saturated)
            x, y, w, h, area = np.asarray(stats)[1 : SLOTS + 1].T  # row 0 is the background
            slots[: len(x)] = np.stack([x, y, x + w, y + h], 1)
            score[: len(x)] = area / (w * h)
        return {"boxes": boxes, "scores": scores}

    def close(self) -> None:
        """Nothing is held."""


class ReferenceEmbedder:
    """Mean colours of a 4 x 2 grid, centred on grey and scaled to unit length: colour alone, and no more."""

    def __init__(self) -> None:
        self.card = _card("reference-embedder", "embedder", (64, 32), {"embedding": (GRID_HW[0] * GRID_HW[1] * 3,)})

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """(N, H, W, 3) -> embedding (N, 24), unit norm."""
        n, h, w, _ = images.shape
        rows, columns = GRID_HW
        cells = images.reshape(n, rows, h // rows, columns, w // columns, 3).mean((2, 4), dtype=np.float32)
        vectors = cells.reshape(n, rows * columns * 3) - 127.0
        vectors[:, 0] += 1e-3  # a crop that is grey all over still has a direction
        return {"embedding": vectors / np.linalg.norm(vectors, axis=1, keepdims=True)}

    def close(self) -> None:
        """Nothing is held."""


class ReferencePersonSearch:
    """Finds as `ReferenceDetector` does and describes whom it found as `ReferenceEmbedder` does, in one."""

    def __init__(self, input_hw: tuple[int, int] = (256, 416)) -> None:
        self._finds, self._describes = ReferenceDetector(input_hw), ReferenceEmbedder()
        outputs = self._finds.card.outputs | {"embedding": (SLOTS, *self._describes.card.outputs["embedding"])}
        self.card = _card("reference-search", "person-search", input_hw, outputs)

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """(N, H, W, 3) -> boxes (N, SLOTS, 4), scores (N, SLOTS), embedding (N, SLOTS, 24); unused slots are zeros."""
        found = self._finds.infer(images)
        vectors = np.zeros((len(images), *self.card.outputs["embedding"]), np.float32)
        for image, boxes, scores, slots in zip(images, found["boxes"], found["scores"], vectors, strict=True):
            crops = [image[y1:y2, x1:x2] for x1, y1, x2, y2 in boxes[scores > 0].astype(int).tolist()]
            slots[: len(crops)] = self._describes.infer(to_batch(crops, self._describes.card.input_hw))["embedding"]
        return found | {"embedding": vectors}

    def close(self) -> None:
        """Nothing is held."""
