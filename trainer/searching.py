"""What a person-search model can do: everybody found in whole frames, and one person found again among them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stream.errors import DataError
from trainer.datasets.sets import ALL_FRAMES, Gallery, SearchData
from trainer.evaluate import Report, silent
from trainer.search_metrics import (
    MIN_SCORE,
    STANDARD,
    STRICT,
    Found,
    FoundScore,
    SearchScore,
    score_found,
    score_original,
    score_search,
)

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
RULES = {"": STANDARD, "_iou75": STRICT}
"""Endings of the scores' names, and when a box counts."""


class Searches(Protocol):
    """What is needed of a model."""

    def search(self, images: Sequence[U8], min_score: float = ..., /) -> tuple[list[F32], list[F32], list[F32]]:
        """Frames (h, w, 3) RGB -> per frame boxes (n, 4) in its pixels, scores (n,), unit vectors (n, D)."""
        ...

    def embed(self, images: Sequence[U8], boxes: Sequence[F32], /) -> list[F32]:
        """Frames and boxes (n, 4) in their pixels -> per frame unit vectors (n, D)."""
        ...


@dataclass(frozen=True, slots=True)
class SearcherScore:
    """Of a person-search model on a data set of scenes."""

    found: dict[str, FoundScore]
    """By the endings of `RULES`."""
    search: dict[str, dict[str, SearchScore]]
    """By gallery, then by the endings of `RULES`: `gallery_100` and the like for CUHK-SYSU; where cameras are known `seqnet` (every
    frame but the query's), `cross_cam` (other cameras' frames) and `original` (PRW's first protocol, which has one rule)."""
    vectors: F32
    """(Q, D) of the queries."""
    boxes: list[Found]
    """What was found in each test frame."""


def score_searcher(model: Searches, data: SearchData, report: Report = silent) -> SearcherScore:
    """Searches every test frame once, embeds the queries' given boxes in their whole frames, and counts by every protocol."""
    frames = len(data.test.images)
    by_camera = "cross_cam" in galleries(data)
    found = []
    for frame in range(frames):
        (xyxy,), (scores,), (described,) = model.search(_frame(data, frame), 0.0 if by_camera else MIN_SCORE)
        found.append(Found(xyxy, scores, described))
        report(frame + 1, frames + len(data.queries.frames))
    if not sum(len(one.scores) for one in found):
        raise DataError("the model found nobody in any test frame: train it longer, or begin with trained weights")
    asked: dict[int, F32] = {}
    for frame in np.unique(data.queries.frames):
        rows = np.flatnonzero(data.queries.frames == frame)
        (described,) = model.embed(_frame(data, int(frame)), [data.queries.xyxy[rows]])
        asked |= dict(zip(rows.tolist(), described, strict=True))
        report(frames + len(asked), frames + len(data.queries.frames))
    vectors = np.stack([asked[row] for row in range(len(asked))])
    search: dict[str, dict[str, SearchScore]] = {}
    for name in galleries(data):
        search[name] = {
            ending: score_search(vectors, found, gallery_of(data, name), rule) for ending, rule in RULES.items()
        }
    if by_camera:
        search["original"] = {"": score_original(vectors, data.queries, found, data.test)}
    return SearcherScore(
        {ending: score_found(found, data.test, rule) for ending, rule in RULES.items()}, search, vectors, found
    )


def galleries(data: SearchData) -> list[str]:
    """Names of the galleries that `score_search` is asked about, the headline first."""
    if data.gallery_sizes == (ALL_FRAMES,):
        several = data.test.cameras is not None and len(np.unique(data.test.cameras)) > 1
        return ["seqnet", "cross_cam"] if several else ["gallery_all"]
    sizes = [data.headline, *(size for size in data.gallery_sizes if size != data.headline)]
    return ["gallery_all" if size == ALL_FRAMES else f"gallery_{size}" for size in sizes]


def gallery_of(data: SearchData, name: str) -> Iterator[Gallery]:
    """Each query's gallery, one at a time: together PRW's take 300 MB."""
    size = int(name.removeprefix("gallery_")) if name[-1].isdigit() else ALL_FRAMES
    for query, frame in enumerate(data.queries.frames):
        whole = data.gallery(size, query)
        if name == "cross_cam" and data.test.cameras is not None:
            others = data.test.cameras[whole.frames] != data.test.cameras[frame]
            whole = Gallery(whole.frames[others], whole.xyxy[others])
        yield whole


def _frame(data: SearchData, row: int) -> list[Any]:
    return list(data.test.images[np.array([row])])
