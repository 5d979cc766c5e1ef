"""Boxes of one camera to tracklets: who is the same person from frame to frame.

Two-stage association as in ByteTrack (Zhang et al., ECCV 2022, arXiv 2110.06864): confident boxes choose among all tracks
first, then tracks that are still without one may go on with a weak box, so a half-hidden person is not lost; only confident
boxes begin tracks. Assignment is optimal (Hungarian), over a cost made for cameras sampled at some 5 frames a second, where a
walker's boxes may overlap by a third only and a runner's not at all: not IoU but minus the log-density of the box under the
track's Kalman prediction, in units of the person's height and of real time, with heavy tails (Student, since hidden legs and
merged boxes are no Gaussian noise). The wider the prediction after a gap, the weaker its claim, with no parameter for it.

Two people who cross are the enemy: a switched name mixes two people for good, a tracklet that ends is linked again by what
the person looks like. So every close call (names exchanged would cost nearly the same) puts the two tracks in doubt; once
they are clear of each other, geometry and colours together keep the names, exchange them back, or end both tracklets and
begin new ones (`_settle`).

Deterministic: the same boxes at the same times give the same names; nothing is shared between cameras.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from detector.boxes import Boxes, hidden, intersection
from detector.kalman import FREEDOM, Filters, size_of, to_xywh
from detector.looks import SAME, SIZE, swap_evidence
from detector.settings import DetectorSettings

NEW_COST = 1.0  # -ln density of a newcomer: one per 20 squared heights, height and width known within 0.5 and 0.3
CUT = 3.0  # nats for a width or height that is quite another: legs or a side are hidden
MAX_SIGMA = 4.5  # a box further from where a track is expected cannot be its
SIZE_RATIO = 2.6  # nor one so much higher or lower; hidden legs halve a box
TENTATIVE_S = 0.45  # a new track must get its second box within it: two frames at 5 fps
CLOSE = 3.0  # nats: exchanged names would be 5 % likely; a close call
CLEAR_FRAMES = 2  # without overlap, before a doubt is settled
COLOUR = 4.0  # nats per e-fold of colour distance: 2.2 where two looks of one person differ twice as much as usual
COLOUR_WEIGHT = 8.0  # nats for colours that could not say it more clearly
KEEP, SWAP = 2.0, -4.0  # nats: keep the names at 12 % doubt or less, exchange them back at 2 %; between: new names
SOLID = 0.25  # share hidden up to which colours are the person's own


@dataclass(frozen=True, slots=True)
class Tracked:
    """Who is where in one frame: M people, in the order of their boxes."""

    boxes: NDArray[np.intp]
    """(M,) places in the boxes given."""
    numbers: NDArray[np.int64]
    """(M,) from 1: the n-th tracklet of this tracker."""
    ambiguous: NDArray[np.bool_]
    """(M,) a close call in this frame, or a doubt not yet settled."""


@dataclass(slots=True)
class _Doubt:
    """Two tracks that may have exchanged their people: what each looked like before, and since they are apart."""

    before: dict[int, NDArray[np.float64]]
    margin: float = CLOSE
    clear: int = 0
    now: dict[int, NDArray[np.float64]] = field(default_factory=dict)


class Tracker:
    """Tracks of one unbroken stream of one camera."""

    def __init__(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self._filters = Filters()
        self._ids = np.zeros(0, np.int64)  # a track's own name, never reused
        self._numbers = np.zeros(0, np.int64)  # the tracklet's public number; 0 until confirmed by a second box
        self._seen_s = np.zeros(0)
        self._looks = np.zeros((0, SIZE))  # running mean while alone
        self._looked = np.zeros(0)  # how many looks are in it
        self._doubts: dict[tuple[int, int], _Doubt] = {}
        self._now_s: float | None = None
        self._last_id = 0
        self._last_number = 0

    def step(
        self,
        now_s: float,
        xyxy: Boxes,
        scores: NDArray[np.float32],
        looks: NDArray[np.float32],
        size_hw: tuple[int, int],
    ) -> Tracked:
        """Take the boxes (N, 4), scores (N,) and `looks_of` (N, 24) of a frame at `now_s`, later than the last one's."""
        before_s = self._now_s
        self._filters.predict(0.0 if before_s is None else now_s - before_s)
        self._now_s = now_s
        self._drop(now_s, size_hw)
        xywh = to_xywh(xyxy)
        overlap = hidden(xyxy)
        cost = self._cost(xywh) + self._colour_cost(looks, overlap)
        track_of, close = self._associate(cost, scores, before_s)

        boxes = np.flatnonzero(track_of >= 0)
        rows = track_of[boxes]
        self._filters.update(rows, xywh[boxes])
        self._seen_s[rows] = now_s
        tentative = rows[self._numbers[rows] == 0]
        self._numbers[tentative] = self._next_numbers(len(tentative))
        self._doubt(cost, rows, boxes, close)
        self._look(rows, boxes, looks, overlap)
        self._settle(rows, xyxy[boxes], looks[boxes].astype(np.float64), overlap[boxes])

        doubtful = {one for pair in self._doubts for one in pair}
        ambiguous = close[boxes] | np.isin(self._ids[rows], list(doubtful))
        tracked = Tracked(boxes, self._numbers[rows].copy(), ambiguous)
        born = np.flatnonzero((track_of < 0) & (scores >= self._settings.new_score))
        self._add(xywh[born], now_s)
        return tracked

    def _drop(self, now_s: float, size_hw: tuple[int, int]) -> None:
        """Forget tracks that are out of sight for too long, or have walked out of the picture."""
        away = now_s - self._seen_s
        x, y = self._filters.value[:, 0], self._filters.value[:, 1]
        h = self._filters.value[:, 3]
        outside = (x < 0) | (x > size_hw[1]) | (y + h < 0) | (y > size_hw[0])
        limit = np.where(self._numbers > 0, self._settings.max_lost_s, TENTATIVE_S)
        keep = (away <= limit + 1e-6) & ~(outside & (away > 0))
        self._filters.keep(keep)
        self._ids, self._numbers, self._seen_s = self._ids[keep], self._numbers[keep], self._seen_s[keep]
        self._looks, self._looked = self._looks[keep], self._looked[keep]

    def _cost(self, xywh: NDArray[np.float64]) -> NDArray[np.float64]:
        """Boxes (N, 4) -> (T, N) -ln density of each under each track, in heights; inf where it cannot be."""
        height, size = self._filters.value[:, 3:], size_of(self._filters.value)  # (T, 1)
        residual, variance = self._filters.innovation(xywh)  # (T, N, 4), (T, 4)
        squared = residual**2 / variance[:, None]  # (T, N, 4)
        tails = (FREEDOM + 1) / 2 * np.log1p(squared / FREEDOM)  # (T, N, 4)
        tails[..., 2:] = np.minimum(tails[..., 2:], CUT)
        cost = tails.sum(-1) + 0.5 * np.log(2 * np.pi * variance / size**2).sum(-1)[:, None]
        ratio = xywh[None, :, 3] / height  # (T, N)
        far = (squared[..., :2].max(-1, initial=0) > MAX_SIGMA**2) | (ratio > SIZE_RATIO) | (ratio < 1 / SIZE_RATIO)
        return np.where(far, np.inf, cost)

    def _colour_cost(self, looks: NDArray[np.float32], overlap: NDArray[np.float32]) -> NDArray[np.float64]:
        """Looks (N, 24) -> (T, N) nats against each being each track's; less for boxes whose colours are another's."""
        apart = ((self._looks[:, None] - looks[None]) ** 2).mean(-1) / SAME**2  # (T, N)
        nats = COLOUR * np.log1p(apart / FREEDOM)
        return np.where(self._looked[:, None] > 0, nats * (1 - overlap), COLOUR * np.log1p(1 / FREEDOM))

    def _associate(
        self, cost: NDArray[np.float64], scores: NDArray[np.float32], before_s: float | None
    ) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """(N,) row of each box's track or -1, and (N,) whether another choice was nearly as good."""
        track_of = np.full(len(scores), -1, np.intp)
        high = scores >= self._settings.high_score
        confirmed, in_sight = self._numbers > 0, self._seen_s == before_s
        for those, these in ((confirmed, high), (confirmed & in_sight, ~high), (~confirmed, high)):
            free_rows = np.flatnonzero(those & ~np.isin(np.arange(len(those)), track_of))
            free_boxes = np.flatnonzero(these & (track_of < 0))
            gain = np.minimum(cost[np.ix_(free_rows, free_boxes)] - NEW_COST, 0)
            chosen_rows, chosen_boxes = linear_sum_assignment(gain)
            good = gain[chosen_rows, chosen_boxes] < 0
            track_of[free_boxes[chosen_boxes[good]]] = free_rows[chosen_rows[good]]
        close = np.zeros(len(scores), bool)
        fresh = np.flatnonzero((track_of < 0) & (scores >= self._settings.new_score))
        if len(fresh):  # the track might as well have taken the box that now begins another
            boxes = np.flatnonzero(track_of >= 0)
            rows = track_of[boxes]
            close[boxes] = cost[np.ix_(rows, fresh)].min(1) - cost[rows, boxes] < CLOSE
        return track_of, close

    def _doubt(
        self, cost: NDArray[np.float64], rows: NDArray[np.intp], boxes: NDArray[np.intp], close: NDArray[np.bool_]
    ) -> None:
        """Put pairs in doubt whose exchange would have cost less than `CLOSE` more."""
        capped = np.minimum(cost, NEW_COST)
        own = capped[rows, boxes]
        margin = np.full((len(cost), len(cost)), np.inf)
        across = capped[np.ix_(rows, boxes)]
        margin[np.ix_(rows, rows)] = across + across.T - own[:, None] - own[None, :]
        lost = np.setdiff1d(np.flatnonzero(self._numbers > 0), rows)  # it might be the lost one who stands there
        margin[np.ix_(rows, lost)] = (cost[np.ix_(lost, boxes)] - own[None, :]).T
        np.fill_diagonal(margin, np.inf)
        box_of = dict(zip(rows.tolist(), boxes.tolist(), strict=True))
        for row, other in np.argwhere(margin < CLOSE).tolist():
            close[box_of[row]] = True
            pair = (int(self._ids[row]), int(self._ids[other]))
            pair = (min(pair), max(pair))
            if pair not in self._doubts:
                known = [one for one in (row, other) if self._looked[one] > 0]
                self._doubts[pair] = _Doubt({int(self._ids[one]): self._looks[one].copy() for one in known})
            doubt = self._doubts[pair]
            doubt.margin = min(doubt.margin, float(margin[row, other]))
            doubt.clear, doubt.now = 0, {}

    def _look(
        self,
        rows: NDArray[np.intp],
        boxes: NDArray[np.intp],
        looks: NDArray[np.float32],
        overlap: NDArray[np.float32],
    ) -> None:
        """Learn the colours of who is alone and in no doubt; the last second counts most."""
        doubtful = np.array([one for pair in self._doubts for one in pair], np.int64)
        alone = (overlap[boxes] < SOLID) & ~np.isin(self._ids[rows], doubtful)
        rows, boxes = rows[alone], boxes[alone]
        self._looked[rows] = np.minimum(self._looked[rows] + 1, 5)
        self._looks[rows] += (looks[boxes] - self._looks[rows]) / self._looked[rows, None]

    def _settle(
        self,
        rows: NDArray[np.intp],
        xyxy: Boxes,
        looks: NDArray[np.float64],
        overlap: NDArray[np.float32],
    ) -> None:
        """Decide every doubt whose people are seen apart: keep the names, exchange them, or begin new tracklets."""
        if not self._doubts:
            return
        row_of = {int(one): row for row, one in enumerate(self._ids)}
        place_of = {int(self._ids[row]): place for place, row in enumerate(rows)}
        for pair in sorted(self._doubts):
            doubt = self._doubts.get(pair)
            alive = [one for one in pair if one in row_of]
            if doubt is None or not alive:
                self._doubts.pop(pair, None)
                continue
            places = [place_of[one] for one in alive if one in place_of]
            if len(places) < len(alive) or (overlap[places] > SOLID).any():
                continue
            padded = _padded(xyxy[places])
            if len(places) == 2 and intersection(padded[:1], padded[1:])[0, 0] > 0:
                continue
            doubt.clear += 1
            for one, place in zip(alive, places, strict=True):
                doubt.now[one] = doubt.now.get(one, np.zeros(SIZE)) + looks[place] / CLEAR_FRAMES
            if doubt.clear >= CLEAR_FRAMES:
                del self._doubts[pair]
                self._decide(doubt, [row_of[one] for one in alive], pair)

    def _decide(self, doubt: _Doubt, rows: list[int], pair: tuple[int, int]) -> None:
        """Settle one doubt of the tracks at `rows`, those of the pair that are still alive."""
        total = doubt.margin + COLOUR_WEIGHT * _colours_say_kept(doubt, pair)
        if total >= KEEP:
            return
        if total <= SWAP and len(rows) == 2:
            for array in (self._ids, self._numbers, self._looks, self._looked):
                array[rows] = array[rows[::-1]]
            return
        for row in rows:
            self._ids[row], self._looked[row] = self._next_id(), 0
            self._numbers[row] = self._next_numbers(1)[0]

    def _add(self, xywh: NDArray[np.float64], now_s: float) -> None:
        """Begin tracks at (N, 4) boxes, unconfirmed."""
        n = len(xywh)
        self._filters.add(xywh)
        self._ids = np.append(self._ids, [self._next_id() for _ in range(n)]).astype(np.int64)
        self._numbers = np.append(self._numbers, np.zeros(n, np.int64))
        self._seen_s = np.append(self._seen_s, np.full(n, now_s))
        self._looks = np.concatenate([self._looks, np.zeros((n, SIZE))])
        self._looked = np.append(self._looked, np.zeros(n))

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _next_numbers(self, n: int) -> NDArray[np.int64]:
        self._last_number += n
        return np.arange(self._last_number - n, self._last_number) + 1


def _colours_say_kept(doubt: _Doubt, pair: tuple[int, int]) -> float:
    """[-1, 1]: `swap_evidence` of what is known of both people, 0 where too little is."""
    keep = swap = 0.0
    for one, other in (pair, pair[::-1]):
        if one not in doubt.before:
            continue
        own = doubt.before[one]
        if one in doubt.now and other in doubt.before:
            keep += float(((doubt.now[one] - own) ** 2).sum())
            swap += float(((doubt.now[one] - doubt.before[other]) ** 2).sum())
        elif one in doubt.now and other in doubt.now:  # the other began in doubt: nobody knows its colours from before
            keep += float(((doubt.now[one] - own) ** 2).sum())
            swap += float(((doubt.now[other] - own) ** 2).sum())
    return swap_evidence(keep, swap)


def _padded(xyxy: Boxes) -> Boxes:
    """Boxes a tenth of their width larger on either side: people who still touch are not apart."""
    pad = 0.1 * (xyxy[:, 2:3] - xyxy[:, 0:1])
    return xyxy + pad * np.array([-1, 0, 1, 0], np.float32)
