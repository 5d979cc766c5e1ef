"""The second graph of a person search on ONNX Runtime: a scene and boxes to vectors."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.backends.onnxruntime import first_line, open_session
from stream.errors import BundleError
from stream.model import ModelCard

F32 = NDArray[np.float32]


class QueryRuntime:
    """Holds query.onnx. `model` is its path (its weights lie in model.onnx beside it) or the bytes of a graph that has its own."""

    def __init__(self, model: Path | bytes, card: ModelCard, threads: int = 1) -> None:
        self.card = card
        self._where = str(model) if isinstance(model, Path) else card.name
        self._session = open_session(model, self._where, threads)
        names = {one.name for one in self._session.get_inputs()}
        if names != {"images", "boxes"}:
            raise BundleError(f"{self._where}: takes {', '.join(sorted(names))}, a query takes boxes, images")

    def infer(self, image: NDArray[np.uint8], boxes: F32) -> F32:
        """(H, W, 3) RGB of the card's size and boxes (n, 4) xyxy in its pixels -> (n, D) unit vectors; n may be 0."""
        if not len(boxes):
            return np.zeros((0, self.card.embedding_size or 0), np.float32)
        given = {"images": image[None], "boxes": boxes.astype(np.float32, copy=False)}
        try:
            return np.asarray(self._session.run(["embedding"], given)[0], np.float32)
        except Exception as error:  # onnxruntime's classes have no common base but this
            raise BundleError(f"{self._where}: fails on {len(boxes)} boxes ({first_line(error)})") from error
