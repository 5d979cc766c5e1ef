"""The way of the events out of the gallery: a Source that the relay `run(Outbox, Pass, KafkaSink)` moves to the matches topic.

The relay goes on behind the last number in matches. Where retention has emptied that topic, the gallery knows which was
the last: it is noted after each delivery, so a kill in between leaves it a batch or two behind, never ahead.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from stream.errors import GalleryUnreachable, OffsetGone
from stream.messages import MatchEvent
from stream.telemetry import EVENT_SECONDS, RECORDS_EXPIRED
from stream.transport import Record

log = logging.getLogger(__name__)

BATCH = 64
POLL_S = 0.1
AWAY_S = 0.5  # between two attempts to reach a gallery that was there


class Events(Protocol):
    """The part of a gallery that holds what was said."""

    def events(self, after: int, *, limit: int = 500, wait_s: float = 0.0) -> Sequence[MatchEvent]:
        """See `matcher.gallery.Gallery`."""
        ...

    def numbers(self) -> tuple[int, int]:
        """See `matcher.gallery.Gallery`."""
        ...


class Relayed(Events, Protocol):
    """The part of a gallery that its relay asks where to go on."""

    def relayed(self, topic: str) -> int | None:
        """See `matcher.gallery.Gallery`."""
        ...


def relay_from(gallery: Relayed, last_in_matches: int | None, site: str, topic: str) -> int:
    """The number after which the relay goes on. Raises `OffsetGone` when the gallery never said what matches holds.

    `last_in_matches` is None when the topic is empty. One that retention has emptied gets what it has not had: it is known
    by its identity, `topic`. Any other is new and gets everything that the gallery keeps.
    """
    first, last = gallery.numbers()
    if last_in_matches is None:
        relayed = gallery.relayed(topic)
        return first - 1 if relayed is None else relayed
    if last_in_matches > last:
        raise OffsetGone(
            f"the matches topic of site {site} ends with event {last_in_matches}, the gallery has said only {last}: it was "
            f"emptied or is another one; restore it (--state, [redis] url), or delete the topic: the events of this gallery "
            f"then go to a fresh one, and subscribers begin anew"
        )
    return last_in_matches


def observe_latency(event: MatchEvent, now_s: float) -> None:
    """Note the time from the capture of the frame that settled an event to its delivery; an end has none."""
    if event.kind != "end":
        EVENT_SECONDS.observe(max(0.0, now_s - event.captured_at / 1e9))


class Outbox:
    """Source[MatchEvent]: partition 0, and an event's number is its offset."""

    def __init__(
        self,
        gallery: Events,
        after: int = 0,
        *,
        clock: Callable[[], float] | None = time.time,
        note: Callable[[int], None] | None = None,
    ) -> None:
        """Begin behind number `after`. `clock` is for the latency metric; None on a site of files. `note` is told the last
        number of each batch that was delivered; None for who reads and keeps the number elsewhere."""
        self._gallery, self._after, self._clock, self._note = gallery, after, clock, note
        self._paused = self._ending = self._away = False
        self._closed = threading.Event()

    def batches(self) -> Iterator[Sequence[Record[MatchEvent]]]:
        """See `stream.transport.Source`. Ends after `close_input` once everything said so far was yielded, or by `close`."""
        while not self._closed.is_set():
            ending = self._ending
            try:
                events = [] if self._paused else self._gallery.events(self._after, limit=BATCH, wait_s=POLL_S)
            except GalleryUnreachable as error:  # it was there when this began: wait for it, as the matcher does
                self._say_away(str(error))
                self._closed.wait(AWAY_S)
                yield []
                continue
            self._away = False
            if not events and ending:
                return
            if events:
                self._say_lost(events[0].number)
                self._after = events[-1].number
            yield [Record(event, 0, event.number) for event in events]

    def _say_away(self, reason: str) -> None:
        if not self._away:
            log.warning("waiting: %s", reason)
        self._away = True

    def _say_lost(self, first: int) -> None:
        lost = first - self._after - 1
        if lost > 0:
            RECORDS_EXPIRED.labels("outbox", "0").inc(lost)
            log.error("events %d to %d went with their retention before they were read", self._after + 1, first - 1)

    def commit(self, batch: Sequence[Record[MatchEvent]]) -> None:
        """They were delivered; where they went remembers the number, and so does who was given as `note`."""
        if batch and self._note is not None:
            with contextlib.suppress(GalleryUnreachable):  # the next batch notes more than this one would have
                self._note(batch[-1].offset)
        if self._clock is not None:
            for record in batch:
                observe_latency(record.message, self._clock())

    def position(self) -> dict[int, int]:
        """See `stream.transport.Source`."""
        return {0: self._after + 1}

    def seek(self, offsets: Mapping[int, int]) -> None:
        """See `stream.transport.Source`."""
        first, _ = self._gallery.numbers()
        wanted = offsets.get(0, self._after + 1)
        if wanted < first:
            raise OffsetGone(f"event {wanted} is gone with its retention; the gallery keeps events from {first} on")
        self._after = wanted - 1

    def pause(self, partitions: Iterable[int]) -> None:
        """See `stream.transport.Source`."""
        self._paused = self._paused or 0 in partitions

    def resume(self, partitions: Iterable[int]) -> None:
        """See `stream.transport.Source`."""
        self._paused = self._paused and 0 not in partitions

    def close_input(self) -> None:
        """Nothing more will be said: end after what is there."""
        self._ending = True

    def close(self) -> None:
        """See `stream.transport.Source`."""
        self._closed.set()
