"""What a linker was worth, against a world whose truth is known.

Boxes are paired with true boxes by IoU >= 0.5, one to one. True boxes under 30 % visible are ignored: neither required nor
punished. A tracklet belongs to the person that most of its paired boxes show, its majority truth.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.boxes import iou
from stream.messages import Embeddings, MatchEvent

MIN_IOU = 0.5
MIN_VISIBLE = 0.3
MIN_VISIT_S = 1.0  # a shorter glimpse is no visit that somebody could be asked to link: five frames at 5 fps
VISIT_GAP_S = 2.0  # out of sight longer than this, and coming back is another visit


@dataclass(frozen=True, slots=True)
class TrueBoxes:
    """Who is where in one frame."""

    person: NDArray[np.int64]
    """(N,)"""
    xyxy: NDArray[np.float32]
    """(N, 4) pixels of the frame that was analysed."""
    visible: NDArray[np.float32]
    """(N,) fraction in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Linking:
    """What a linker decided: an identity per tracklet, and every link as (tracklet, the identity's tracklet before it).

    A merge is a link between the latest tracklets of both identities, and renames all of the one that is gone.
    """

    identities: Mapping[str, str]
    links: Sequence[tuple[str, str]]

    @classmethod
    def of(cls, events: Iterable[MatchEvent]) -> "Linking":
        """From match events in the order of their numbers."""
        identities: dict[str, str] = {}
        links: list[tuple[str, str]] = []
        latest: dict[str, str] = {}
        for event in sorted(events, key=lambda event: event.number):
            if event.kind == "end":
                continue
            if event.merged is not None:
                links.append((latest.pop(event.merged), latest[event.identity]))
                identities = {t: event.identity if i == event.merged else i for t, i in identities.items()}
                continue
            if event.kind == "link" and event.identity in latest:
                links.append((event.tracklet, latest[event.identity]))
            identities[event.tracklet] = event.identity
            latest[event.identity] = event.tracklet
        return cls(identities, links)


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Figures in [0, 1] unless said; None where there was nothing to judge."""

    people_true: int
    identities: int
    tracklets: int
    links: int
    transitions: int
    link_precision: float | None
    """Links whose two tracklets have one majority truth, of all links."""
    link_recall: float | None
    """True moves between cameras after which the person kept an identity, of all such moves."""
    idf1: float
    """Over all cameras, one identity space."""
    mota: float
    """At most 1, may be negative."""
    detection_recall: float
    detection_precision: float
    tracklet_purity: float
    """Paired boxes that show their tracklet's majority truth."""


def score(frames: Sequence[tuple[Embeddings, TrueBoxes]], linking: Linking) -> Score:
    """Judge a linking of the tracklets in `frames` (every frame that was sent, skipped ones too)."""
    frames = sorted(frames, key=lambda pair: (pair[0].captured_at, pair[0].camera))
    pairings = [_pair(record, true) for record, true in frames]
    votes = _votes(frames, pairings)
    majority = {tracklet: _most(count) for tracklet, count in votes.items()}
    right = sum(majority.get(a, -1) == majority.get(b, -2) for a, b in linking.links)
    moves = _transitions(frames)
    kept = _kept(moves, frames, majority, linking)
    paired = sum(len(pairing.paired) for pairing in pairings)
    boxes = paired + sum(len(pairing.extra) for pairing in pairings)
    required = paired + sum(len(pairing.missed) for pairing in pairings)
    idf1, mota = _clear_and_id(frames, pairings, linking)
    return Score(
        people_true=len({int(p) for _, true in frames for p in true.person[true.visible >= MIN_VISIBLE]}),
        identities=len(set(linking.identities.values())),
        tracklets=len({person.tracklet for record, _ in frames for person in record.people}),
        links=len(linking.links),
        transitions=len(moves),
        link_precision=right / len(linking.links) if linking.links else None,
        link_recall=kept / len(moves) if moves else None,
        idf1=idf1,
        mota=mota,
        detection_recall=paired / required if required else 1.0,
        detection_precision=paired / boxes if boxes else 1.0,
        tracklet_purity=sum(max(count.values()) for count in votes.values()) / paired if paired else 1.0,
    )


def majority_truth(frames: Sequence[tuple[Embeddings, TrueBoxes]]) -> dict[str, int]:
    """Tracklet -> the person that most of its paired boxes show; a tracklet that shows nobody is absent."""
    votes = _votes(frames, [_pair(record, true) for record, true in frames])
    return {tracklet: _most(count) for tracklet, count in votes.items()}


@dataclass(frozen=True, slots=True)
class _Pairing:
    """Indices into a frame's people and true boxes."""

    paired: list[tuple[int, int]]
    extra: list[int]
    missed: list[int]
    distances: NDArray[np.float64]
    """(people, true) 1 - IoU, NaN where too far."""


def _pair(record: Embeddings, true: TrueBoxes) -> _Pairing:
    from scipy.optimize import linear_sum_assignment

    boxes = np.array([person.xyxy for person in record.people], np.float32).reshape(-1, 4)
    overlap = iou(boxes, true.xyxy.reshape(-1, 4))
    rows, columns = linear_sum_assignment(np.where(overlap >= MIN_IOU, 1 - overlap, 1e3))
    pairs = [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if overlap[r, c] >= MIN_IOU]
    required = {int(i) for i in np.flatnonzero(true.visible >= MIN_VISIBLE)}
    found = {r for r, _ in pairs}
    return _Pairing(
        paired=[(r, c) for r, c in pairs if c in required],
        extra=[r for r in range(len(boxes)) if r not in found],
        missed=sorted(required - {c for _, c in pairs}),
        distances=np.where(overlap >= MIN_IOU, 1.0 - overlap, np.nan).astype(np.float64),
    )


def _votes(frames: Sequence[tuple[Embeddings, TrueBoxes]], pairings: Sequence[_Pairing]) -> dict[str, Counter[int]]:
    """Tracklet -> how often it shows whom."""
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    for (record, true), pairing in zip(frames, pairings, strict=True):
        for box, truth in pairing.paired:
            votes[record.people[box].tracklet][int(true.person[truth])] += 1
    return votes


def _most(count: Counter[int]) -> int:
    return max(count, key=lambda person: (count[person], -person))


def _clear_and_id(
    frames: Sequence[tuple[Embeddings, TrueBoxes]], pairings: Sequence[_Pairing], linking: Linking
) -> tuple[float, float]:
    """IDF1 and MOTA by motmetrics; a box whose tracklet never got an identity was never told to anybody: it is no answer."""
    import motmetrics

    numbers: dict[str, int] = {}
    accumulator = motmetrics.MOTAccumulator()
    for index, ((record, true), pairing) in enumerate(zip(frames, pairings, strict=True)):
        ignored = set(range(len(record.people))) - {r for r, _ in pairing.paired} - set(pairing.extra)
        told = [i for i, p in enumerate(record.people) if i not in ignored and p.tracklet in linking.identities]
        hypotheses = [numbers.setdefault(linking.identities[record.people[i].tracklet], len(numbers) + 1) for i in told]
        required = np.flatnonzero(true.visible >= MIN_VISIBLE)
        # A matrix of our own: the package's IoU function fails on numpy 2.
        accumulator.update(true.person[required], hypotheses, pairing.distances[told][:, required].T, frameid=index)
    computed = motmetrics.metrics.create().compute(accumulator, metrics=["idf1", "mota"], return_dataframe=False)
    return (float(np.nan_to_num(computed["idf1"])), float(np.nan_to_num(computed["mota"])))


@dataclass(frozen=True, slots=True)
class _Visit:
    person: int
    camera: str
    first: int
    last: int


def _transitions(frames: Sequence[tuple[Embeddings, TrueBoxes]]) -> list[tuple[_Visit, _Visit]]:
    """Consecutive visits of a person to two different cameras."""
    seen: dict[tuple[int, str], list[int]] = defaultdict(list)
    for record, true in frames:
        for person in true.person[true.visible >= MIN_VISIBLE]:
            seen[int(person), record.camera].append(record.captured_at)
    visits: dict[int, list[_Visit]] = defaultdict(list)
    for (person, camera), times in seen.items():
        cuts = np.flatnonzero(np.diff(times) > VISIT_GAP_S * 1e9) + 1
        for part in np.split(np.array(times, np.int64), cuts):
            if part[-1] - part[0] >= MIN_VISIT_S * 1e9:
                visits[person].append(_Visit(person, camera, int(part[0]), int(part[-1])))
    moves = []
    for visited in visits.values():
        visited.sort(key=lambda visit: (visit.first, visit.camera))
        moves += [(a, b) for a, b in pairwise(visited) if a.camera != b.camera]
    return moves


def _kept(
    moves: Sequence[tuple[_Visit, _Visit]],
    frames: Sequence[tuple[Embeddings, TrueBoxes]],
    majority: Mapping[str, int],
    linking: Linking,
) -> int:
    """Moves with an identity that the person had in both visits."""
    spans: dict[str, tuple[int, int]] = {}
    for record, _ in frames:
        for person in record.people:
            first, _last = spans.get(person.tracklet, (record.captured_at, 0))
            spans[person.tracklet] = (first, record.captured_at)
    by_place: dict[tuple[int, str], list[str]] = defaultdict(list)
    for tracklet in linking.identities:
        if tracklet in majority:
            by_place[majority[tracklet], tracklet.split("/", 1)[0]].append(tracklet)

    def identities(visit: _Visit) -> set[str]:
        return {
            linking.identities[tracklet]
            for tracklet in by_place[visit.person, visit.camera]
            if spans[tracklet][0] <= visit.last and visit.first <= spans[tracklet][1]
        }

    return sum(bool(identities(a) & identities(b)) for a, b in moves)


def latency_ms(delivered: Iterable[tuple[MatchEvent, int]]) -> dict[str, float] | None:
    """p50, p95 and p99 from the capture of the settling frame to delivery, for (event, wall clock ns at the subscriber).

    `end` events are left out: they wait for the absence of a person. None without events.
    """
    values = [(at - event.captured_at) / 1e6 for event, at in delivered if event.kind != "end"]
    if not values:
        return None
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"p50": round(float(p50), 1), "p95": round(float(p95), 1), "p99": round(float(p99), 1)}
