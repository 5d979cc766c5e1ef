"""Close calls of a tracker, and how they are settled once the people are seen clearly again.

Two tracks are in doubt when exchanged names would have cost nearly the same.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from detector.looks import SIZE, swap_evidence

Look = NDArray[np.float64]  # (24,) of `detector.looks`

CLEAR_FRAMES = 2  # clear of others and of the picture's sides, before a doubt is settled
PATIENCE_S = 3.0  # who is not seen clearly for so long is given a new name: shares of wrong boxes fall by a fifth
COLOUR_WEIGHT = 8.0  # nats for colours that could not say it more clearly
KEEP, SWAP = 2.0, -4.0  # nats: keep the names at 12 % doubt or less, exchange them at 2 %; between: new names for both


class Verdict(Enum):
    """What becomes of the names of those in doubt."""

    KEEP = "keep"
    SWAP = "swap"
    END = "end"


@dataclass(slots=True)
class _Doubt:
    """What each looked like before, and since they are clear."""

    since_s: float
    before: dict[int, Look]
    margin: float
    clear: int = 0
    now: dict[int, Look] = field(default_factory=dict)


class Doubts:
    """All open doubts of one tracker, by pairs of track ids, the smaller first."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], _Doubt] = {}

    def add(self, now_s: float, one: int, other: int, margin: float, before: Mapping[int, Look]) -> None:
        """Doubt `one` and `other`; `before` holds what is known of their looks, which are not to be judged or learnt now.

        `margin` in nats: how much likelier the names are as they stand. A doubt that is open already keeps its looks of then.
        """
        pair = (min(one, other), max(one, other))
        doubt = self._open.setdefault(pair, _Doubt(now_s, dict(before), margin))
        doubt.margin = min(doubt.margin, margin)
        doubt.clear, doubt.now = 0, {}

    def everybody(self) -> set[int]:
        """Tracks in any doubt."""
        return {one for pair in self._open for one in pair}

    def settle(
        self, now_s: float, alive: Collection[int], clear: Mapping[int, Look], apart: Collection[tuple[int, int]]
    ) -> list[tuple[tuple[int, int], Verdict]]:
        """Take what `clear` people look like in this frame; verdicts on doubts that have seen enough.

        `alive` are the tracks there are, `apart` the pairs (both orders) of clear ones that do not touch. A doubt about
        somebody who is gone is settled by the one who is left; with nobody left it is dropped.
        """
        verdicts = []
        for pair in sorted(self._open):
            doubt = self._open[pair]
            left = [one for one in pair if one in alive]
            if not left:
                del self._open[pair]
                continue
            if not all(one in clear for one in left) or (len(left) == 2 and pair not in apart):
                if now_s - doubt.since_s >= PATIENCE_S:
                    del self._open[pair]
                    verdicts.append((pair, Verdict.END))
                continue
            doubt.clear += 1
            for one in left:
                doubt.now[one] = doubt.now.get(one, np.zeros(SIZE)) + clear[one] / CLEAR_FRAMES
            if doubt.clear == CLEAR_FRAMES:
                del self._open[pair]
                verdicts.append((pair, _verdict(doubt, pair)))
        return verdicts


def _verdict(doubt: _Doubt, pair: tuple[int, int]) -> Verdict:
    total = doubt.margin + COLOUR_WEIGHT * _colours_say_kept(doubt, pair)
    if total >= KEEP:
        return Verdict.KEEP
    return Verdict.SWAP if total <= SWAP and len(doubt.now) == 2 else Verdict.END


def _colours_say_kept(doubt: _Doubt, pair: tuple[int, int]) -> float:
    """[-1, 1]: `swap_evidence` of what is known of both people, 0 where too little is."""
    keep = swap = 0.0
    for one, other in (pair, pair[::-1]):
        if one not in doubt.before or one not in doubt.now:
            continue
        own = doubt.before[one]
        if other in doubt.before:
            keep += float(((doubt.now[one] - own) ** 2).sum())
            swap += float(((doubt.now[one] - doubt.before[other]) ** 2).sum())
        elif other in doubt.now:  # the other began in doubt: nobody knows its colours from before
            keep += float(((doubt.now[one] - own) ** 2).sum())
            swap += float(((doubt.now[other] - own) ** 2).sum())
    return swap_evidence(keep, swap)
