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
begin new ones (`detector.doubts`).

Deterministic: the same boxes at the same times give the same names; nothing is shared between cameras.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from detector.boxes import Boxes, hidden, intersection
from detector.doubts import Doubts, Verdict
from detector.kalman import FREEDOM, Filters, size_of, to_xywh
from detector.looks import SAME, SIZE
from detector.settings import DetectorSettings

NEW_COST = 1.0  # -ln density, in heights, from which on a box is rather a newcomer's; 0 or 2 mixes or breaks more (benchmarks/track.py)
CUT = 3.0  # nats for a width or height that is quite another: legs or a side are hidden
WEAK_S = 3.0  # weak boxes alone keep a tracklet for so long: what a room shows for ever where somebody stood is nobody
MAX_SIGMA = 4.5  # a box further from where a track is expected cannot be its
SIZE_RATIO = 3.5  # nor one so much higher or lower; hidden legs halve a box
CLOSE = 3.0  # nats: exchanged names would be 5 % likely; a close call
COLOUR = 4.0  # nats per e-fold of colour distance: 2.2 where two looks of one person differ twice as much as usual
SOLID = 0.25  # share hidden up to which colours are the person's own
SIDE = 0.02  # a box within this share of the picture's width from its left or right side is cut off there


@dataclass(frozen=True, slots=True)
class Tracked:
    """Who is where in one frame: M people, in the order of their boxes."""

    boxes: NDArray[np.intp]
    """(M,) places in the boxes given."""
    numbers: NDArray[np.int64]
    """(M,) from 1: the n-th tracklet of this tracker."""
    ambiguous: NDArray[np.bool_]
    """(M,) a close call in this frame, or a doubt not yet settled."""


class Tracker:
    """Tracks of one unbroken stream of one camera."""

    def __init__(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self._filters = Filters()
        self._ids = np.zeros(0, np.int64)  # a track's own name, never reused
        self._numbers = np.zeros(0, np.int64)  # the tracklet's public number
        self._seen_s = np.zeros(0)
        self._sure_s = np.zeros(0)  # last seen by a confident box
        self._looks = np.zeros((0, SIZE))  # running mean while alone
        self._looked = np.zeros(0)  # how many looks are in it
        self._doubts = Doubts()
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
        track_of, close = self._associate(now_s, cost, scores, before_s)

        boxes = np.flatnonzero(track_of >= 0)
        rows = track_of[boxes]
        self._filters.update(rows, xywh[boxes])
        self._seen_s[rows] = now_s
        self._sure_s[rows[scores[boxes] >= self._settings.high_score]] = now_s
        clear = (overlap <= SOLID) & (xyxy[:, 0] > SIDE * size_hw[1]) & (xyxy[:, 2] < (1 - SIDE) * size_hw[1])
        self._doubt(now_s, cost, rows, boxes, close)
        self._look(rows, looks[boxes], clear[boxes])
        self._settle(now_s, rows[clear[boxes]], xyxy[boxes][clear[boxes]], looks[boxes][clear[boxes]])

        close[boxes] |= self._in_doubt(rows)
        born = np.flatnonzero((track_of < 0) & (scores >= self._settings.new_score))
        track_of[born] = len(self._ids) + np.arange(len(born))
        self._add(xywh[born], now_s)
        boxes = np.flatnonzero(track_of >= 0)
        return Tracked(boxes, self._numbers[track_of[boxes]].copy(), close[boxes])

    def _drop(self, now_s: float, size_hw: tuple[int, int]) -> None:
        """Forget tracks that are out of sight for too long, or have walked out of the picture."""
        away = now_s - self._seen_s
        x, y = self._filters.value[:, 0], self._filters.value[:, 1]
        h = self._filters.value[:, 3]
        outside = (x < 0) | (x > size_hw[1]) | (y + h < 0) | (y > size_hw[0])
        keep = (away <= self._settings.max_lost_s + 1e-6) & ~(outside & (away > 0))
        self._filters.keep(keep)
        self._ids, self._numbers = self._ids[keep], self._numbers[keep]
        self._seen_s, self._sure_s = self._seen_s[keep], self._sure_s[keep]
        self._looks, self._looked = self._looks[keep], self._looked[keep]

    def _cost(self, xywh: NDArray[np.float64]) -> NDArray[np.float64]:
        """Boxes (N, 4) -> (T, N) -ln density of each under each track, in heights; inf where it cannot be."""
        height, size = self._filters.value[:, 3:], size_of(self._filters.value)  # (T, 1)
        residual, variance = self._filters.innovation(xywh)  # (T, N, 4), (T, 4)
        squared = residual**2 / variance[:, None]  # (T, N, 4)
        tails = (FREEDOM + 1) / 2 * np.log1p(squared / FREEDOM)  # (T, N, 4)
        tails[..., 2:] = np.minimum(tails[..., 2:], CUT)
        cost: NDArray[np.float64] = tails.sum(-1) + 0.5 * np.log(2 * np.pi * variance / size**2).sum(-1)[:, None]
        ratio = xywh[None, :, 3] / height  # (T, N)
        far = (squared[..., :2].max(-1, initial=0) > MAX_SIGMA**2) | (ratio > SIZE_RATIO) | (ratio < 1 / SIZE_RATIO)
        cost[far] = np.inf
        return cost

    def _colour_cost(self, looks: NDArray[np.float32], overlap: NDArray[np.float32]) -> NDArray[np.float64]:
        """Looks (N, 24) -> (T, N) nats against each being each track's; less for boxes whose colours are another's."""
        apart = ((self._looks[:, None] - looks[None]) ** 2).mean(-1) / SAME**2  # (T, N)
        nats: NDArray[np.float64] = COLOUR * np.log1p(apart / FREEDOM)
        return np.where(self._looked[:, None] > 0, nats * (1 - overlap), COLOUR * np.log1p(1 / FREEDOM))

    def _associate(
        self, now_s: float, cost: NDArray[np.float64], scores: NDArray[np.float32], before_s: float | None
    ) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """(N,) row of each box's track or -1, and (N,) whether another choice was nearly as good."""
        track_of = np.full(len(scores), -1, np.intp)
        high = scores >= self._settings.high_score
        in_sight = (self._seen_s == before_s) & (now_s - self._sure_s <= WEAK_S)
        taken = np.zeros(len(cost), bool)
        for those, these in ((np.ones(len(cost), bool), high), (in_sight, ~high)):
            free_rows = np.flatnonzero(those & ~taken)
            free_boxes = np.flatnonzero(these & (track_of < 0))
            gain = np.minimum(cost[np.ix_(free_rows, free_boxes)] - NEW_COST, 0)
            chosen_rows, chosen_boxes = linear_sum_assignment(gain)
            good = gain[chosen_rows, chosen_boxes] < 0
            track_of[free_boxes[chosen_boxes[good]]] = free_rows[chosen_rows[good]]
            taken[free_rows[chosen_rows[good]]] = True
        close = np.zeros(len(scores), bool)
        fresh = np.flatnonzero((track_of < 0) & (scores >= self._settings.new_score))
        if len(fresh):  # the track might as well have taken the box that now begins another
            boxes = np.flatnonzero(track_of >= 0)
            rows = track_of[boxes]
            close[boxes] = cost[np.ix_(rows, fresh)].min(1) - cost[rows, boxes] < CLOSE
        return track_of, close

    def _doubt(
        self,
        now_s: float,
        cost: NDArray[np.float64],
        rows: NDArray[np.intp],
        boxes: NDArray[np.intp],
        close: NDArray[np.bool_],
    ) -> None:
        """Put pairs in doubt whose exchange would have cost less than `CLOSE` more."""
        capped = np.minimum(cost, NEW_COST)
        own = capped[rows, boxes]
        margin = np.full((len(cost), len(cost)), np.inf)
        across = capped[np.ix_(rows, boxes)]
        margin[np.ix_(rows, rows)] = across + across.T - own[:, None] - own[None, :]
        lost = np.setdiff1d(np.arange(len(cost)), rows)  # it might be the lost one who stands there
        margin[np.ix_(rows, lost)] = (cost[np.ix_(lost, boxes)] - own[None, :]).T
        np.fill_diagonal(margin, np.inf)
        box_of = dict(zip(rows.tolist(), boxes.tolist(), strict=True))
        for row, other in np.argwhere(margin < CLOSE).tolist():
            close[box_of[row]] = True
            known = {int(self._ids[one]): self._looks[one].copy() for one in (row, other) if self._looked[one] > 0}
            self._doubts.add(now_s, int(self._ids[row]), int(self._ids[other]), float(margin[row, other]), known)

    def _in_doubt(self, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """(M,) which of the tracks at `rows` are in any doubt."""
        doubtful = self._doubts.everybody()
        return np.array([one in doubtful for one in self._ids[rows].tolist()], bool)

    def _look(self, rows: NDArray[np.intp], looks: NDArray[np.float32], clear: NDArray[np.bool_]) -> None:
        """Learn the colours of who is clear to see and in no doubt; the last five frames count most."""
        learn = clear & ~self._in_doubt(rows)
        rows, looks = rows[learn], looks[learn]
        self._looked[rows] = np.minimum(self._looked[rows] + 1, 5)
        self._looks[rows] += (looks - self._looks[rows]) / self._looked[rows, None]

    def _settle(self, now_s: float, rows: NDArray[np.intp], xyxy: Boxes, looks: NDArray[np.float32]) -> None:
        """Settle doubts by people who are clear to see: `rows` with their boxes and looks."""
        ids = self._ids[rows].tolist()
        padded = _padded(xyxy)
        free = np.argwhere(intersection(padded, padded) == 0).tolist()
        verdicts = self._doubts.settle(
            now_s,
            set(self._ids.tolist()),
            dict(zip(ids, looks.astype(np.float64), strict=True)),
            {(ids[one], ids[other]) for one, other in free},
        )
        for pair, verdict in verdicts:
            mine = np.flatnonzero(np.isin(self._ids, pair))
            if verdict is Verdict.SWAP and len(mine) == 2:
                for array in (self._ids, self._numbers, self._sure_s, self._looks, self._looked):
                    array[mine] = array[mine[::-1]]
            elif verdict is not Verdict.KEEP:
                self._ids[mine] = [self._next_id() for _ in mine]
                self._numbers[mine] = self._next_numbers(len(mine))
                self._looked[mine] = 0

    def _add(self, xywh: NDArray[np.float64], now_s: float) -> None:
        """Begin tracks at (N, 4) boxes."""
        n = len(xywh)
        self._filters.add(xywh)
        self._ids = np.append(self._ids, [self._next_id() for _ in range(n)]).astype(np.int64)
        self._numbers = np.append(self._numbers, self._next_numbers(n))
        self._seen_s = np.append(self._seen_s, np.full(n, now_s))
        self._sure_s = np.append(self._sure_s, np.full(n, now_s))
        self._looks = np.concatenate([self._looks, np.zeros((n, SIZE))])
        self._looked = np.append(self._looked, np.zeros(n))

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _next_numbers(self, n: int) -> NDArray[np.int64]:
        self._last_number += n
        return np.arange(self._last_number - n, self._last_number) + 1


def _padded(xyxy: Boxes) -> Boxes:
    """Boxes a tenth of their width larger on either side: people who still touch are not apart."""
    pad = 0.1 * (xyxy[:, 2:3] - xyxy[:, 0:1])
    return xyxy + pad * np.array([-1, 0, 1, 0], np.float32)
