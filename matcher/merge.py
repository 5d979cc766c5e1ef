"""The event-time merge: records of all cameras in the order of captured_at, each camera's in the order it was sent.

Files wait for each other until their `end`, so the order is the same at any speed; once all have ended, the next frame
begins another playing, in which all are waited for again. Live cameras wait for one another up to
the lateness, counted from a record's arrival here; then the merge goes on without the slower one, whose record comes out
late and serves as evidence alone. A camera that is idle or has ended is not waited for; one that has never sent anything
holds a live site back by the lateness at most.
"""

import logging
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple

from stream.messages import CameraState, Embeddings
from stream.telemetry import FUTURE, MERGE_WAIT, QUEUE_DEPTH, REPEATS
from stream.transport import Record

log = logging.getLogger(__name__)

CAPACITY = 256  # records that wait per partition; then it is paused, until half of them are gone
AHEAD_S = 10.0  # a live record dated further ahead of the wall clock comes from a machine whose clock is wrong
SAY_S = 30.0  # a file site that has waited this long for a camera says for which
OLDER_S = 10.0  # of frames of earlier streams; a worker that starts again repeats such for a moment only

Item = Embeddings | CameraState


class Place(NamedTuple):
    """How far a camera has been taken."""

    stream: int
    sequence: int
    """Of its last frame; -1 before the first."""
    ended: bool = False
    """Its file is through: it is not waited for."""


@dataclass(slots=True)
class _Queue:
    camera: str
    order: int
    """Which camera is first where times are equal."""
    waiting: deque[tuple[Record[Item], float]] = field(default_factory=deque)
    """Each with the wall clock of its arrival, seconds."""
    heard: int = -1
    """captured_at of the newest record: nothing older will come in order."""
    ended: bool = False
    named: bool = True
    """By the site file; else it was taken out of it, or added by others, and files do not wait for it."""
    next: dict[int, int] = field(default_factory=dict)
    """Partition -> offset behind the newest record. One partition, unless a camera was given another."""
    last: tuple[int, int] = (-1, -1)
    """(stream, sequence) of the newest frame taken in."""
    frames: int = 0
    repeats: int = 0
    ahead: bool = False
    """Its newest record was dated in the future."""
    older_since: float | None = None
    """Wall clock since when all its frames were of streams before the last one; infinity once that was said."""

    def offsets(self) -> dict[int, int]:
        """Partition -> offset of the first record that has not come out."""
        found = dict(self.next)
        for record, _ in reversed(self.waiting) if len(self.next) > 1 else islice(self.waiting, 1):
            found[record.partition] = record.offset
        return found


class Merge:
    """`push` records as they come, `pop` them in order. Knows no clock: the wall clock comes with each call, in seconds."""

    def __init__(
        self,
        cameras: Sequence[str],
        *,
        live: bool,
        lateness_s: float,
        places: Mapping[str, Place] | None = None,
    ) -> None:
        """`cameras` of the site, whom files wait for; `places` of those that were taken in part already."""
        self._live, self._lateness_s = live, lateness_s
        self._places = places or {}
        self._queues: dict[str, _Queue] = {}
        for camera in cameras:
            self._begin(camera)
        self._said_at: float | None = None
        self._depth = QUEUE_DEPTH.labels("merge")

    def push(self, record: Record[Item], now_s: float) -> None:
        """Take in one record. Dropped and counted: a frame that was seen before; of live cameras what is dated in the
        future, for it would be the time of the whole site: all others late, and everybody forgotten. A live camera that
        keeps sending frames of a stream before its last one counts as seen before too, and that is said."""
        message = record.message
        queue = self._queues.get(message.camera) or self._begin(message.camera, named=False)
        queue.next[record.partition] = record.offset + 1
        if self._live and self._from_the_future(queue, message.captured_at / 1e9 - now_s):
            return
        if isinstance(message, Embeddings):
            key = (message.stream, message.sequence)
            if key <= queue.last:
                queue.repeats += 1
                REPEATS.labels(message.camera).inc()
                if self._live and message.stream < queue.last[0]:
                    self._say_older(queue, message.stream, now_s)
                return
            queue.last = key
            queue.older_since = None
            queue.frames += 1
            if queue.ended and all(other.ended for other in self._queues.values() if other.named):
                for other in self._queues.values():
                    other.ended = False
            queue.ended = False
        elif message.stream >= queue.last[0]:  # else said again, of a stream that is over
            queue.ended = message.state == "end"
        queue.heard = max(queue.heard, message.captured_at)
        queue.waiting.append((record, now_s))

    def _begin(self, camera: str, *, named: bool = True) -> _Queue:
        place = self._places.get(camera, Place(-1, -1))
        queue = _Queue(camera, len(self._queues), named=named, last=(place.stream, place.sequence), ended=place.ended)
        self._queues[camera] = queue
        return queue

    def _from_the_future(self, queue: _Queue, ahead_s: float) -> bool:
        was, queue.ahead = queue.ahead, ahead_s > AHEAD_S
        if queue.ahead:
            FUTURE.labels(queue.camera).inc()
            if not was:
                log.warning(
                    "camera %s: its records are dated %.0f s ahead of this machine's clock and are dropped: set the clocks of "
                    "its ingest worker and of this machine by NTP; if the ingest worker's was just set back, restart ingest: while "
                    "it runs it keeps to the time it had",
                    queue.camera,
                    ahead_s,
                )
        return queue.ahead

    def _say_older(self, queue: _Queue, stream: int, now_s: float) -> None:
        if queue.older_since is None:
            queue.older_since = now_s
        elif now_s - queue.older_since >= OLDER_S:
            queue.older_since = math.inf
            log.warning(
                "camera %s: its frames are dropped as seen before: their stream began %.0f s before the last one that was "
                "taken, so the clock of its ingest worker was set back; restart ingest once that clock is past %s",
                queue.camera,
                (queue.last[0] - stream) / 1e9,
                datetime.fromtimestamp(queue.last[0] // 10**9 + 1, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            )

    def pop(self, now_s: float, *, finished: bool = False) -> Iterator[Record[Item]]:
        """Records whose turn has come; all that wait when the input has `finished`."""
        while queues := [queue for queue in self._queues.values() if queue.waiting]:
            first = min(queues, key=lambda queue: (queue.waiting[0][0].message.captured_at, queue.order))
            record, arrived_s = first.waiting[0]
            if not finished and not self._turn(first, now_s):
                break
            first.waiting.popleft()
            MERGE_WAIT.observe(max(0.0, now_s - arrived_s))
            yield record
        self._depth.set(sum(len(queue.waiting) for queue in self._queues.values()))

    def offsets(self) -> dict[int, int]:
        """Partition -> offset of the first record that has not come out: where reading goes on after a restart."""
        found: dict[int, int] = {}
        for queue in self._queues.values():
            for partition, offset in queue.offsets().items():
                found[partition] = min(offset, found.get(partition, offset))
        return dict(sorted(found.items()))

    def full(self) -> set[int]:
        """Partitions to pause."""
        return {partition for q in self._queues.values() if len(q.waiting) >= CAPACITY for partition in q.next}

    def drained(self) -> set[int]:
        """Partitions that may be resumed."""
        return {partition for q in self._queues.values() if len(q.waiting) <= CAPACITY // 2 for partition in q.next}

    def repeated(self) -> dict[str, int]:
        """Cameras of which every frame so far was seen before, and how many: a file played again under the same start."""
        return {q.camera: q.repeats for q in self._queues.values() if q.repeats and not q.frames}

    def _turn(self, first: _Queue, now_s: float) -> bool:
        record, arrived_s = first.waiting[0]
        time = record.message.captured_at

        def may_come_first(queue: _Queue) -> bool:
            # a file's end has the time of its last frame, so after that frame it is still to come
            tie = not self._live and queue.order < first.order
            return queue.heard < time or (tie and queue.heard == time)

        awaited = [queue for queue in self._queues.values() if queue.named or self._live]
        slower = [q for q in awaited if not q.waiting and not q.ended and may_come_first(q)]
        if not slower or (self._live and now_s - arrived_s >= self._lateness_s):
            self._said_at = None
            return True
        if not self._live:
            self._say(slower, now_s)
        return False

    def _say(self, slower: Sequence[_Queue], now_s: float) -> None:
        if self._said_at is None:
            self._said_at = now_s
        elif now_s - self._said_at >= SAY_S:
            self._said_at = now_s
            names = ", ".join(queue.camera for queue in slower)
            log.warning("the merge waits for frames, or the end, of %s: files are taken in order of capture", names)
