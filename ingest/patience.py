"""How long a camera is waited for, and when it is tried again."""

import math
import random
from dataclasses import dataclass

FORGET_S = 300.0
"""A long gap between pictures counts for less and less, over about this time."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits in seconds. The defaults suit cameras in a building; tests are less patient."""

    open_s: float = 10.0
    """For connecting, and again for the first bytes of video; doubled each time it was not enough."""
    silence_s: float = 15.0
    """Between pictures while the camera's own rhythm is not known yet; doubled each time it was not enough."""
    least_silence_s: float = 3.0
    most_s: float = 120.0
    """No wait for a picture grows beyond this."""
    most_open_s: float = 30.0
    """No wait for a connection grows beyond this: a camera that is back shall be found soon."""
    first_retry_s: float = 0.5
    last_retry_s: float = 15.0
    settled_s: float = 5.0
    """A connection that delivered for so long was good: the next retry is quick again."""


class Watchdog:
    """Decides when a connected camera has died, from its own rhythm: one that sends a picture every 20 s is not dead."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._initial_s = patience.silence_s
        self.open_s = patience.open_s
        """Time-out for opening."""
        self._longest_s = 0.0
        self._observed_s = 0.0

    @property
    def silence_s(self) -> float:
        """Time-out between pictures: four times the longest recent gap, once enough has been seen."""
        if self._observed_s < self._patience.silence_s:
            return self._initial_s
        return min(max(4 * self._longest_s, self._patience.least_silence_s), self._patience.most_s)

    def saw_gap(self, gap_s: float) -> None:
        """A picture came this long after the one before it."""
        self._longest_s = max(gap_s, self._longest_s * math.exp(-gap_s / FORGET_S))
        self._observed_s += gap_s
        if self._observed_s >= self._patience.silence_s:  # the rhythm is known, also to the next connection
            self._initial_s = max(self._patience.silence_s, self.silence_s)

    def gave_up(self) -> None:
        """A time-out struck: it may have been too short, so the next one is longer."""
        self._longest_s, self._observed_s = 0.0, 0.0
        self._initial_s = min(2 * self._initial_s, self._patience.most_s)
        self.open_s = min(2 * self.open_s, self._patience.most_open_s)


class Backoff:
    """Waits between attempts: doubled each time, bounded, and never the same for two cameras behind one switch."""

    def __init__(self, patience: Patience, rng: random.Random) -> None:
        self._patience, self._rng = patience, rng
        self._next_s = patience.first_retry_s

    def wait_s(self) -> float:
        """Seconds until the next attempt, 0.5 to 1 times the current step."""
        step, self._next_s = self._next_s, min(2 * self._next_s, self._patience.last_retry_s)
        return step * self._rng.uniform(0.5, 1.0)

    def longest_s(self) -> float:
        """For a camera that refuses our password: asking often locks accounts."""
        self._next_s = self._patience.last_retry_s
        return self.wait_s() * 2

    def reset(self) -> None:
        """The camera was fine for a while."""
        self._next_s = self._patience.first_retry_s
