"""When a picture was taken, in UTC nanoseconds: the only time that decisions read."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

SECOND_NS = 1_000_000_000
JUMP_NS = SECOND_NS
"""A clock that moves further than this at once has jumped; anything less is jitter or drift."""
WINDOW_NS = 60 * SECOND_NS


class WallClock:
    """UTC that never goes back in this process, though the machine's clock may be set back."""

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, steady_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._wall_ns, self._steady_ns = wall_ns, steady_ns
        self._lock = threading.Lock()
        self._ahead_ns = wall_ns() - steady_ns()

    def now_ns(self) -> int:
        """Nanoseconds since 1970."""
        with self._lock:
            # in this order: a thread that is held up between the two reads gets too little, which the next read mends
            wall = self._wall_ns()
            steady = self._steady_ns()
            self._ahead_ns = max(self._ahead_ns, wall - steady)
            return steady + self._ahead_ns

    def now_s(self) -> float:
        """Seconds since 1970."""
        return self.now_ns() / SECOND_NS


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a clock says about one picture."""

    captured_ns: int
    jump_s: float | None = None
    """Set where the camera's clock jumped by this much: a new stream begins with this picture."""


class LiveClock:
    """Dates the pictures of one connection to a live camera.

    A camera's own clock may be off by hours, but it ticks evenly. Its offset is the smallest arrival minus stream time of
    the last minute: what the quickest picture needed. So only jitter is left, and no picture is dated ahead of its arrival.
    """

    def __init__(self, clock_offset_ns: int = 0) -> None:
        self._added = clock_offset_ns
        self._smallest: deque[tuple[int, int]] = deque()  # (arrival, lag), both increasing: the first is the minimum
        self._stream_ns: int | None = None

    @property
    def offset_ns(self) -> int:
        """What is added to stream time, without the site file's clock_offset."""
        return self._smallest[0][1]

    def stamp(self, arrival_ns: int, stream_ns: int) -> Stamp:
        """Date a picture by its stream time (any zero) and its arrival (UTC, never going back)."""
        jump = self._jump(arrival_ns, stream_ns)
        if jump is not None:
            self._smallest.clear()
        self._stream_ns = stream_ns
        self._add(arrival_ns, arrival_ns - stream_ns)
        captured = min(stream_ns + self.offset_ns + self._added, arrival_ns)
        return Stamp(max(0, captured), None if jump is None else jump / SECOND_NS)

    def shift(self, by_ns: int) -> None:
        """From now on stream times are `by_ns` larger, as when the camera's UTC becomes known; nothing moves."""
        self._smallest = deque((arrival, lag - by_ns) for arrival, lag in self._smallest)
        if self._stream_ns is not None:
            self._stream_ns += by_ns

    def _jump(self, arrival_ns: int, stream_ns: int) -> int | None:
        """How far the camera's clock has jumped, None where it has not. A late picture is no jump: the network stalled."""
        if self._stream_ns is None:
            return None
        if stream_ns < self._stream_ns - JUMP_NS:
            return stream_ns - self._stream_ns
        lag, offset = arrival_ns - stream_ns, self.offset_ns
        if lag < offset - JUMP_NS:
            return offset - lag
        while self._smallest and self._smallest[0][0] < arrival_ns - WINDOW_NS:
            self._smallest.popleft()
        smallest = min(lag, self.offset_ns) if self._smallest else lag
        if smallest > offset + JUMP_NS:  # for a whole minute: the clock lost time, or the way became longer for good
            return offset - smallest
        return None

    def _add(self, arrival_ns: int, lag: int) -> None:
        while self._smallest and self._smallest[-1][1] >= lag:
            self._smallest.pop()
        self._smallest.append((arrival_ns, lag))


class FileClock:
    """Dates the pictures of a file: its start plus container time. The same file gives the same times, always."""

    def __init__(self, start_ns: int) -> None:
        self._start = start_ns
        self._shift = 0
        self._last: int | None = None

    def stamp(self, time_ns: int) -> Stamp:
        """Date a picture by its time since the file's beginning; where that jumps back, the film goes on from there."""
        if self._last is None:
            self._last = 0
            self._shift = max(0, -time_ns)
        elapsed = time_ns + self._shift
        jump = None
        if elapsed < self._last - JUMP_NS:
            jump = (elapsed - self._last) / SECOND_NS
            self._shift += self._last - elapsed
            elapsed = self._last
        self._last = max(self._last, elapsed)
        return Stamp(self._start + elapsed, jump)


class Pacer:
    """Says how long to wait so that pictures that come in bursts (HLS, clips) are handed on at their own pace."""

    def __init__(self) -> None:
        self._ahead_ns: int | None = None

    def wait_ns(self, now_ns: int, time_ns: int) -> int:
        """Nanoseconds until the picture at `time_ns` is due; 0 for one that is late. Too late or a jump: start over."""
        due = now_ns if self._ahead_ns is None else time_ns + self._ahead_ns
        if self._ahead_ns is None or due < now_ns - JUMP_NS or due > now_ns + WINDOW_NS:
            self._ahead_ns = now_ns - time_ns
            return 0
        return max(0, due - now_ns)
