"""Scores, in plain numpy: CMC and mAP of a ranking, average precision of boxes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.boxes import iou
from stream.errors import DataError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
MATCHED = 0.5
"""Overlap from which on a box shows a person."""
SURE = 0.4
"""Score from which on a detector's box counts, where precision and recall are asked at one."""
QUERY_CHUNK = 256  # queries ranked at a time: 16k gallery items make 16 MB of similarities


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well queries find their person, as Market-1501's protocol counts it."""

    cmc: F64
    """(max_rank,) share of queries with a hit among the first k + 1."""
    mean_ap: float
    mean_inp: float
    """Mean of hits / rank of the last hit (M. Ye et al., TPAMI 2021, equation 4): how far one must look to find all."""
    queries: int
    """Those that have a right answer in the gallery; the others do not count."""
    left_out: int = 0
    """The others."""

    @property
    def rank1(self) -> float:
        """Share of queries whose nearest picture is the same person on another camera."""
        return float(self.cmc[0])

    def at(self, rank: int) -> float:
        """CMC@rank, counted from 1; beyond the curve its last value."""
        return float(self.cmc[min(rank, len(self.cmc)) - 1])


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
    """Vectors (Q, D) and (G, D), compared by dot product (unit vectors: by cosine, the order of Euclidean distance).

    Gallery pictures of the query's person on the query's camera are left out; distractors are people no query shows.
    """
    rows = similarity_rows(query, gallery)
    return rank_rows(rows, query_people, query_cameras, gallery_people, gallery_cameras, max_rank=max_rank)


def similarity_rows(query: F32, gallery: F32) -> Iterator[F32]:
    """Dot products of (Q, D) with (G, D), (at most `QUERY_CHUNK`, G) at a time; a vector that is not finite is a DataError."""
    for what, vectors in (("query", query), ("gallery", gallery)):
        broken = np.flatnonzero(~np.isfinite(vectors).all(1))
        if len(broken):
            raise DataError(
                f"{len(broken)} of {len(vectors)} {what} vectors are not finite (the first is row {broken[0]}): "
                "the model cannot be scored; was its training cut off by an overflow?"
            )
    for start in range(0, len(query), QUERY_CHUNK):
        with np.errstate(over="ignore", invalid="ignore"):
            rows = query[start : start + QUERY_CHUNK] @ gallery.T
        check_finite(rows)
        yield rows


def check_finite(similarities: F32) -> None:
    """Raises `DataError` where a similarity is not finite: whatever it is compared with, a ranking by it means nothing."""
    if not np.isfinite(similarities).all():
        raise DataError(
            "similarities of vectors are not finite, though the vectors are: these are too long, so the model cannot be scored; "
            "was its training cut off by an overflow?"
        )


def euclidean_rows(query: F32, gallery: F32) -> Iterator[F32]:
    """As `similarity_rows`, of vectors of any length: per query, minus half their squared distances and a constant."""
    with np.errstate(over="ignore"):  # `rank_rows` looks at what comes of it
        halves = (gallery * gallery).sum(1) / 2
    for rows in similarity_rows(query, gallery):
        with np.errstate(over="ignore"):
            away = rows - halves
        yield away


def rank_rows(
    rows: Iterable[F32],
    query_people: I64,
    query_cameras: I64,
    gallery_people: I64,
    gallery_cameras: I64,
    *,
    max_rank: int = 50,
) -> Ranking:
    """The same from similarities: (n, G) at a time, larger is nearer, in the order of the queries; equal ones keep the gallery's order."""
    max_rank = min(max_rank, len(gallery_people))
    by_person = np.argsort(gallery_people, kind="stable")
    first, last = (np.searchsorted(gallery_people[by_person], query_people, side) for side in ("left", "right"))
    firsts, precisions, penalties = [], [], []
    for place, row in enumerate(row for chunk in rows for row in chunk):
        check_finite(row)
        own = by_person[first[place] : last[place]]
        junk = gallery_cameras[own] == query_cameras[place]
        if junk.all():  # also where there is none
            continue
        places = _places(row, own[~junk], own[junk])
        firsts.append(places[0])
        precisions.append(float(np.mean(np.arange(1, len(places) + 1) / (places + 1))))
        penalties.append(len(places) / (places[-1] + 1))
    if not firsts:
        alone = len(np.union1d(query_cameras, gallery_cameras)) == 1
        seen = "all pictures are of one camera" if alone else "nobody is on two cameras"
        raise DataError(
            f"no query has its person on another camera in the gallery ({seen}): nothing is left after pictures of the query's own "
            "camera are taken out, as the protocol asks; at least two cameras must show someone"
        )
    hits = np.bincount(np.minimum(firsts, max_rank), minlength=max_rank + 1)[:max_rank]
    return Ranking(
        cmc=np.cumsum(hits) / len(firsts),
        mean_ap=float(np.mean(precisions)),
        mean_inp=float(np.mean(penalties)),
        queries=len(firsts),
        left_out=len(query_people) - len(firsts),
    )


def _places(row: F32, right: I64, junk: I64) -> I64:
    """Where the gallery items `right` come in the ranked list without `junk`, ascending, from 0.

    A place is counted, not sorted for: a person has some 15 pictures, and 15 passes over a row that stays in cache take a
    seventeenth of the time of sorting it (3,368 x 15,913: 0.2 s against 3.3 s).
    """
    places = [
        np.count_nonzero(row[:item] >= row[item]) + np.count_nonzero(row[item + 1 :] > row[item]) for item in right
    ]
    junk_before = (row[junk] > row[right][:, None]) | ((row[junk] == row[right][:, None]) & (junk < right[:, None]))
    return np.sort(np.array(places) - junk_before.sum(1))


def answerable(query_people: I64, query_cameras: I64, gallery_people: I64, gallery_cameras: I64) -> NDArray[np.bool_]:
    """(Q,) which queries have their person on another camera in the gallery."""
    cameras_of: dict[int, set[int]] = {}
    for person, camera in zip(gallery_people.tolist(), gallery_cameras.tolist(), strict=True):
        cameras_of.setdefault(person, set()).add(camera)
    asked = zip(query_people.tolist(), query_cameras.tolist(), strict=True)
    return np.array([bool(cameras_of.get(person, set()) - {camera}) for person, camera in asked], bool)


@dataclass(frozen=True, slots=True)
class CameraPair:
    """Queries of one camera in the pictures of another."""

    query_camera: int
    gallery_camera: int
    ranking: Ranking


def camera_pairs(
    query: F32, query_people: I64, query_cameras: I64, gallery: F32, gallery_people: I64, gallery_cameras: I64
) -> list[CameraPair]:
    """A ranking for every ordered pair of cameras that share a person, by camera numbers."""
    pairs = []
    for a in np.unique(query_cameras):
        ask = query_cameras == a
        for b in np.unique(gallery_cameras):
            answer = gallery_cameras == b
            if a == b or not len(np.intersect1d(query_people[ask], gallery_people[answer])):
                continue
            ranking = rank(
                query[ask], query_people[ask], query_cameras[ask],
                gallery[answer], gallery_people[answer], gallery_cameras[answer],
            )  # fmt: skip
            pairs.append(CameraPair(int(a), int(b), ranking))
    return pairs


def nearest(
    row: F32, person: int, camera: int, gallery_people: I64, gallery_cameras: I64, count: int = 10
) -> NDArray[np.intp]:
    """The first `count` gallery items of one query's ranked list: similarities (G,) -> rows, best first, without junk."""
    kept = np.flatnonzero((gallery_people != person) | (gallery_cameras != camera))
    return kept[np.argsort(-row[kept], kind="stable")[:count]]


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
    """At the score `SURE`, as is precision."""
    precision: float
    people: int


def score_boxes(pictures: Sequence[Detected]) -> BoxScore:
    """Average precision (area under the envelope of precision over recall) at IoU 0.5, and both at one score.

    In each picture detections are matched in order of score, each to the free truth it overlaps most; one that matches only an
    uncounted truth is dropped.
    """
    right: list[bool] = []
    scores: list[float] = []
    people = 0
    for picture in pictures:
        people += int(picture.counted.sum())
        free = np.ones(len(picture.truth), dtype=bool)
        overlaps = iou(picture.xyxy, picture.truth)
        for place in np.argsort(-picture.scores, kind="stable"):
            row = np.where(free & picture.counted, overlaps[place], 0)
            best = int(row.argmax()) if len(row) else -1
            if best >= 0 and row[best] >= MATCHED:
                free[best] = False
                right.append(True)
            elif (np.where(picture.counted, 0, overlaps[place]) >= MATCHED).any():
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
    kept = int((np.asarray(scores) >= SURE).sum())
    return BoxScore(
        average_precision=float((envelope * steps).sum()),
        recall=float(recall[kept - 1]) if kept else 0.0,
        precision=float(precision[kept - 1]) if kept else 0.0,
        people=people,
    )
