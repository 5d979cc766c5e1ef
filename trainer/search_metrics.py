"""Scores of person search, in plain numpy: finding everybody in whole pictures, and one person among all that were found.

The protocols are those of CUHK-SYSU (T. Xiao et al., CVPR 2017) and PRW (L. Zheng et al., CVPR 2017) as they are counted today,
and PRW's first program (`score_original`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.boxes import iou
from stream.errors import DataError
from trainer.data import UNLABELLED, Scenes
from trainer.datasets.sets import Gallery, Queries
from trainer.metrics import similarity_rows

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

MIN_SCORE = 0.5
"""Detections below are not counted; only PRW's first program takes all."""
LAST_RANK = 1000
"""Hits behind it do not count in PRW's first program."""
IGNORED, WRONG = -2, -1
"""In place of an identity: a box that is neither right nor wrong, and one that shows nobody."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a model found in one frame."""

    xyxy: F32
    """(n, 4) pixels of the frame."""
    scores: F32
    """(n,) in [0, 1]."""
    vectors: F32
    """(n, D) unit vectors."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When a box is the person's."""

    overlap: float
    """Least intersection over union."""
    small: bool
    """Searching, a person of w x h pixels needs only wh / ((w + 10)(h + 10)) where that is less."""
    strict: bool
    """The overlap itself is not enough."""

    def matches(self, overlaps: F32, truth: F32 | None = None) -> Mask:
        """Overlaps with one true box (4,), or where the size does not matter with any."""
        if self.strict:
            return overlaps > self.overlap
        least = self.overlap
        if self.small and truth is not None:
            width, height = float(truth[2] - truth[0]), float(truth[3] - truth[1])
            least = min(least, width * height / ((width + 10) * (height + 10)))
        return overlaps >= np.float32(least)


STANDARD = Rule(0.5, small=True, strict=False)
"""What everybody reports."""
STRICT = Rule(0.75, small=False, strict=True)
"""What Stefan et al. report: overlap above 0.75, for small people too."""


@dataclass(frozen=True, slots=True)
class FoundScore:
    """Of finding people."""

    average_precision: float
    """Times recall, as the protocol wants it."""
    recall: float
    people: int


@dataclass(frozen=True, slots=True)
class SearchScore:
    """Of finding one person."""

    mean_ap: float
    top: dict[int, float]
    """Share of queries with a right box among the first 1, 5, 10."""
    queries: int
    left_out: int
    """Queries that are nowhere in their gallery."""


TOP = (1, 5, 10)


def score_found(found: Sequence[Found], scenes: Scenes, rule: Rule = STANDARD) -> FoundScore:
    """Boxes against everybody in the scenes, named or not; a box is right where it and a person overlap each other most."""
    right, scores, people = [], [], 0
    for place, one in enumerate(found):
        truth = _there(scenes, place)
        people += len(truth)
        sure = one.scores >= MIN_SCORE
        overlaps = iou(one.xyxy[sure], truth)  # (n, G)
        hit = np.zeros(int(sure.sum()), bool)
        if overlaps.size:
            theirs = overlaps.argmax(0)  # the best box of each person
            best = overlaps.argmax(1)  # the best person of each box
            hit = (theirs[best] == np.arange(len(hit))) & rule.matches(overlaps.max(1))
        right.append(hit)
        scores.append(one.scores[sure])
    if not people:
        raise DataError("none of the scenes shows a person: nothing can be scored")
    hits, sureness = np.concatenate(right), np.concatenate(scores)
    recall = float(hits.sum() / people)
    return FoundScore(average_precision(hits, sureness) * recall, recall, people)


def average_precision(hits: Mask, scores: F32) -> float:
    """Mean over hits of the precision among everything that scores at least as high; 0 without a hit."""
    if not hits.any():
        return 0.0
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    # a place stands for all that score the same: its threshold lets all of them in
    last = np.searchsorted(-ordered, -ordered, side="right")
    precision = np.cumsum(hits[order])[last - 1] / last
    return float(precision[hits[order]].mean())


def score_search(
    vectors: F32, found: Sequence[Found], galleries: Iterable[Gallery], rule: Rule = STANDARD
) -> SearchScore:
    """Query vectors (Q, D), what was found in every frame, and each query's gallery.

    In a frame that shows the person the most similar box that matches is right, all others are wrong; a person who was not found
    lowers the average precision by recall.
    """
    precisions, ranks = [], []
    left_out = 0
    for items, similarity, right, shown in _listed(vectors, _Boxes(found, MIN_SCORE), galleries, rule):
        if not shown:
            left_out += 1
            continue
        precisions.append(average_precision(right, similarity) * right.sum() / shown)
        first = np.flatnonzero(right[np.argsort(-similarity, kind="stable")[: max(TOP)]])
        ranks.append(int(first[0]) if len(first) else len(items) + max(TOP))
    return _summary(precisions, ranks, left_out)


@dataclass(frozen=True, slots=True)
class RankedBox:
    """One place in a query's list."""

    frame: int
    xyxy: F32
    """(4,) pixels of the frame."""
    similarity: float
    right: bool


def ranked_boxes(
    vectors: F32, found: Sequence[Found], galleries: Iterable[Gallery], count: int = 10
) -> list[list[RankedBox]]:
    """Each query's first boxes, best first, judged as `score_search` does."""
    boxes = _Boxes(found, MIN_SCORE)
    lists = []
    for items, similarity, right, _ in _listed(vectors, boxes, galleries, STANDARD):
        order = np.argsort(-similarity, kind="stable")[:count]
        lists.append(
            [
                RankedBox(int(boxes.frames[items[i]]), boxes.xyxy[items[i]], float(similarity[i]), bool(right[i]))
                for i in order
            ]
        )
    return lists


def _listed(
    vectors: F32, boxes: "_Boxes", galleries: Iterable[Gallery], rule: Rule
) -> Iterator[tuple[NDArray[np.intp], F32, Mask, int]]:
    """Per query: the boxes of its gallery, how similar each is, which are right, and how many frames show the person."""
    rows = (row for chunk in similarity_rows(vectors, boxes.vectors) for row in chunk)
    for row, gallery in zip(rows, galleries, strict=True):
        listed = np.zeros(boxes.frame_count, bool)
        listed[gallery.frames] = True
        items = np.flatnonzero(listed[boxes.frames])
        shown = np.flatnonzero(np.isfinite(gallery.xyxy).all(1))
        hits = [boxes.hit(row, int(gallery.frames[i]), gallery.xyxy[i], rule) for i in shown]
        yield items, row[items], np.isin(items, [hit for hit in hits if hit is not None]), len(shown)


def score_original(vectors: F32, queries: Queries, found: Sequence[Found], scenes: Scenes) -> SearchScore:
    """PRW's first protocol: all boxes of all frames in one list, across cameras only, whatever their score.

    A box has the identity of the person it overlaps most, by at least 0.5 (sides counted with both edge pixels). Neither right nor
    wrong are: the query's person on the query's camera, unnamed people, boxes that overlap somebody by 0.3 to 0.5, and all but the
    best box of a person in a frame. People who were not found count as missed. Trapezoid average precision.
    """
    if scenes.people is None or scenes.cameras is None:
        raise DataError("these scenes do not say who is there and which camera saw it: nothing can be searched for")
    boxes = _Boxes(found, 0.0)
    labelled = [_identities(found[i].xyxy, _there(scenes, i), _names(scenes, i)) for i in range(len(found))]
    who = np.concatenate([ids for ids, _ in labelled])
    cameras = scenes.cameras[boxes.frames]
    missed = np.array([(p, scenes.cameras[i]) for i, (_, lost) in enumerate(labelled) for p in lost]).reshape(-1, 2)
    precisions, ranks, left_out = [], [], 0
    rows = (row for chunk in similarity_rows(vectors, boxes.vectors) for row in chunk)
    for row, person, frame in zip(rows, queries.people, queries.frames, strict=True):
        camera = scenes.cameras[frame]
        counted = np.flatnonzero((who != IGNORED) & ~((who == person) & (cameras == camera)))
        order = counted[np.argsort(-row[counted], kind="stable")]
        right = who[order] == person
        lost = int(((missed[:, 0] == person) & (missed[:, 1] != camera)).sum())
        if not right.any() and not lost:
            left_out += 1
            continue
        places = np.flatnonzero(right[:LAST_RANK])
        precisions.append(trapezoid_precision(places, int(right.sum()) + lost))
        ranks.append(int(np.append(places, LAST_RANK)[0]))
    return _summary(precisions, ranks, left_out)


def trapezoid_precision(places: NDArray[np.intp], people: int) -> float:
    """Places of hits from 0, ascending, and how many there are to find: mean of precision just before and at each hit."""
    count = np.arange(1, len(places) + 1)
    now = count / (places + 1)
    before = np.where(places > 0, (count - 1) / np.maximum(places, 1), 1.0)
    return float((now + before).sum() / (2 * people))


class _Boxes:
    """All counted boxes of all frames in one row."""

    def __init__(self, found: Sequence[Found], min_score: float) -> None:
        sure = [one.scores >= min_score for one in found]
        self.vectors = np.concatenate([one.vectors[s] for one, s in zip(found, sure, strict=True)])
        self.xyxy = np.concatenate([one.xyxy[s] for one, s in zip(found, sure, strict=True)])
        counts = [int(s.sum()) for s in sure]
        self.frames = np.repeat(np.arange(len(found)), counts)
        self.frame_count = len(found)
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def hit(self, row: F32, frame: int, truth: F32, rule: Rule) -> int | None:
        """The box of `frame` that matches `truth` and is most similar by `row`."""
        start, end = self._starts[frame], self._starts[frame + 1]
        matching = np.flatnonzero(rule.matches(iou(self.xyxy[start:end], truth[None])[:, 0], truth))
        return int(start + matching[row[start:end][matching].argmax()]) if len(matching) else None


def _identities(xyxy: F32, truth: F32, people: I64) -> tuple[I64, I64]:
    """One frame: who each box (n, 4) shows, IGNORED or WRONG; and the named people whom no box shows."""
    who = np.full(len(xyxy), WRONG, np.int64)
    if not len(xyxy) or not len(truth):
        return who, people[people != UNLABELLED]
    edge = np.array([0, 0, 1, 1], np.float32)
    overlaps = iou(xyxy + edge, truth + edge)
    best, person = overlaps.max(1), overlaps.argmax(1)
    who[best >= 0.3] = IGNORED
    on = (best >= 0.5) & (people[person] != UNLABELLED)
    for named in np.unique(people[person[on]]):
        its = np.flatnonzero(on & (people[person] == named))
        who[its[best[its].argmax()]] = named
    shown = person[best >= 0.5]
    lost = np.setdiff1d(np.arange(len(truth)), shown)
    return who, people[lost][people[lost] != UNLABELLED]


def _summary(precisions: list[float], ranks: list[int], left_out: int) -> SearchScore:
    if not precisions:
        raise DataError("no query's person is in any frame of its gallery: nothing can be scored")
    top = {k: float(np.mean(np.array(ranks) < k)) for k in TOP}
    return SearchScore(float(np.mean(precisions)), top, len(precisions), left_out)


def _there(scenes: Scenes, place: int) -> F32:
    truth: F32 = scenes.xyxy[place]
    return truth[np.isfinite(truth).all(1)]


def _names(scenes: Scenes, place: int) -> I64:
    if scenes.people is None:
        raise DataError("these scenes do not say who is there: nothing can be searched for")
    people: I64 = scenes.people[place][np.isfinite(scenes.xyxy[place]).all(1)]
    return people
