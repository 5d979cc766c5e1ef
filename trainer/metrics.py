"""Scores, in plain numpy: CMC and mAP of a ranking, average precision of boxes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.errors import DataError

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
QUERY_CHUNK = 256  # queries ranked at a time: 16k gallery items make 16 MB of similarities


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well queries find their person, as Market-1501's protocol counts it."""

    cmc: NDArray[np.float64]
    """(max_rank,) share of queries with a hit among the first k + 1."""
    mean_ap: float
    queries: int
    """Those that have a right answer in the gallery; the others do not count."""

    @property
    def rank1(self) -> float:
        """Share of queries whose nearest picture is the same person on another camera."""
        return float(self.cmc[0])


def rank(
    query: F32,
    query_people: I64,
    query_cameras: I64,
    gallery: F32,
    gallery_people: I64,
    gallery_cameras: I64,
    *,
    max_rank: int = 50,
) -> Ranking:
    """Vectors (Q, D) and (G, D), compared by dot product (unit vectors: by cosine), stable order.

    Gallery pictures of the query's person on the query's camera are left out; distractors are people no query shows.
    """
    max_rank = min(max_rank, len(gallery))
    curves: list[NDArray[np.float64]] = []
    precisions: list[float] = []
    for start in range(0, len(query), QUERY_CHUNK):
        similarity = query[start : start + QUERY_CHUNK] @ gallery.T
        for row, (person, camera) in enumerate(
            zip(query_people[start : start + QUERY_CHUNK], query_cameras[start : start + QUERY_CHUNK], strict=True)
        ):
            keep = (gallery_people != person) | (gallery_cameras != camera)
            order = np.argsort(-similarity[row][keep], kind="stable")
            hits = (gallery_people[keep] == person)[order]
            scored = score_hits(hits, max_rank)
            if scored is not None:
                curves.append(scored[0])
                precisions.append(scored[1])
    if not curves:
        raise DataError(
            "no query has its person on another camera in the gallery: at least two cameras must show someone"
        )
    return Ranking(np.mean(curves, 0), float(np.mean(precisions)), len(curves))


def score_hits(hits: NDArray[np.bool_], max_rank: int) -> tuple[NDArray[np.float64], float] | None:
    """CMC (max_rank,) and average precision of one ranked list without junk; None when nothing in it is right.

    Precision is taken at each hit (not the trapezoid of Market's first script); a list shorter than `max_rank` keeps its last value.
    """
    places = np.flatnonzero(hits)
    if not len(places):
        return None
    cmc = np.zeros(max_rank)
    cmc[places[0] :] = 1.0
    return cmc, float(np.mean(np.arange(1, len(places) + 1) / (places + 1)))


def iou_matrix(a: F32, b: F32) -> F32:
    """(N, 4) and (M, 4) xyxy -> (N, M) intersection over union."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inner = np.clip(high - low, 0, None).prod(-1)
    areas = (a[:, 2:] - a[:, :2]).prod(-1)[:, None] + (b[:, 2:] - b[:, :2]).prod(-1)[None] - inner
    result: F32 = (inner / np.maximum(areas, 1e-9)).astype(np.float32)
    return result


@dataclass(frozen=True, slots=True)
class Detected:
    """One picture: what was found and what is there."""

    xyxy: F32
    scores: F32
    truth: F32
    """(G, 4)."""
    counted: NDArray[np.bool_]
    """(G,) False for people hardly visible: finding them is neither right nor wrong."""


@dataclass(frozen=True, slots=True)
class BoxScore:
    """Of a detector over many pictures."""

    average_precision: float
    recall: float
    """At the asked score threshold, as is precision."""
    precision: float
    people: int


def score_boxes(pictures: Sequence[Detected], *, overlap: float = 0.5, threshold: float = 0.4) -> BoxScore:
    """Average precision (area under the envelope of precision over recall) at IoU `overlap`, and both at one score.

    In each picture detections are matched in order of score, each to the free truth it overlaps most; one that matches only an
    uncounted truth is dropped.
    """
    right: list[bool] = []
    scores: list[float] = []
    people = 0
    for picture in pictures:
        people += int(picture.counted.sum())
        free = np.ones(len(picture.truth), dtype=bool)
        overlaps = iou_matrix(picture.xyxy, picture.truth)
        for place in np.argsort(-picture.scores, kind="stable"):
            row = np.where(free & picture.counted, overlaps[place], 0)
            best = int(row.argmax()) if len(row) else -1
            if best >= 0 and row[best] >= overlap:
                free[best] = False
                right.append(True)
            elif (np.where(picture.counted, 0, overlaps[place]) >= overlap).any():
                continue
            else:
                right.append(False)
            scores.append(float(picture.scores[place]))
    if not people:
        raise DataError("none of the pictures shows a person: nothing can be scored")
    order = np.argsort(-np.asarray(scores), kind="stable")
    hits = np.asarray(right, dtype=np.float64)[order]
    found = np.cumsum(hits)
    recall = found / people
    precision = found / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(recall, prepend=0.0)
    kept = int((np.asarray(scores) >= threshold).sum())
    return BoxScore(
        average_precision=float((envelope * steps).sum()),
        recall=float(recall[kept - 1]) if kept else 0.0,
        precision=float(precision[kept - 1]) if kept else 0.0,
        people=people,
    )
