"""A person-search bundle asked as a person would: who is in these pictures, and what do the people in these boxes look like.

On the stream's own pixels: pictures are letterboxed and boxes brought back as `detector.detector` does it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deploy import backends
from deploy.backends.query import QueryRuntime
from deploy.bundle import Bundle
from deploy.settings import Runtime
from detector.letterbox import letterbox
from detector.nms import select
from stream.errors import BundleError
from trainer.search_metrics import MIN_SCORE

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

QUERY_BOXES, QUERY_EMBEDDING = "query_boxes", "query_embedding"
"""In golden.npz: (n, k, 4) boxes in the golden pictures, and (n, k, D) their vectors."""


class Searcher:
    """Both graphs of a bundle. Raises `BundleError` where either is not what it was when the bundle was made."""

    def __init__(self, bundle: Bundle, threads: int = 1, backend: Runtime = "onnxruntime") -> None:
        """Scenes are searched by `backend`; given boxes are described in ONNX Runtime."""
        self.backend = backends.load(bundle, threads, backend)
        self.query = QueryRuntime(bundle.query, bundle.card, threads)
        cosine, least = golden_cosine(self.query, bundle), backends.served_limits(bundle.card).cosine
        if not cosine >= least:
            raise BundleError(
                f"{bundle.query}: this machine does not give the bundle's golden outputs: embedding has cosine {cosine:.3f} "
                f"(at least {least}); copy or make the bundle again"
            )

    def close(self) -> None:
        """Free the backend; the query's session goes with this object."""
        self.backend.close()

    def search(self, images: Sequence[U8], min_score: float = MIN_SCORE, /) -> tuple[list[F32], list[F32], list[F32]]:
        """Frames (h, w, 3) RGB -> per frame boxes (n, 4) in its pixels, scores (n,), unit vectors (n, D)."""
        boxes, scores, vectors = [], [], []
        for image in images:
            batch, (scale,) = letterbox([image], self.backend.card.input_hw)
            found = self.backend.infer(batch)
            xyxy, sure, places = select(
                found["boxes"][0],
                found["scores"][0],
                scale=float(scale),
                image_hw=(image.shape[0], image.shape[1]),
                min_score=min_score,
                max_iou=1.0,  # the graph has dropped the doubles
            )
            boxes.append(xyxy)
            scores.append(sure)
            vectors.append(found["embedding"][0][places])
        return boxes, scores, vectors

    def embed(self, images: Sequence[U8], boxes: Sequence[F32], /) -> list[F32]:
        """Frames and boxes (n, 4) in their pixels -> per frame unit vectors (n, D)."""
        return [embed(self.query, image, xyxy) for image, xyxy in zip(images, boxes, strict=True)]


def golden_cosine(query: QueryRuntime, bundle: Bundle) -> float:
    """The least cosine of what `query` gives for the bundle's golden boxes to what was given for them when it was exported."""
    golden, (pictures, _) = bundle.golden(), bundle.answers()
    if not {QUERY_BOXES, QUERY_EMBEDDING} <= golden.keys():
        raise BundleError(f"{bundle.path}: golden.npz holds no answers of {bundle.query.name}; export it again")
    boxes = golden[QUERY_BOXES].astype(np.float32)
    have = np.stack([query.infer(*asked) for asked in zip(pictures, boxes, strict=True)])
    return float((have * golden[QUERY_EMBEDDING].astype(np.float32)).sum(-1).min())


def embed(query: QueryRuntime, image: U8, boxes: F32) -> F32:
    """A frame of any size and boxes (n, 4) in its pixels -> (n, D)."""
    batch, (scale,) = letterbox([image], query.card.input_hw)
    return query.infer(batch[0], boxes * scale)
