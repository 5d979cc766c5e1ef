"""Match events for whoever acts on them.

    from matcher.events import events

    for event in events("127.0.0.1:9092", site="shop"):
        if event.kind == "link":
            print(event.identity, event.previous_camera, "->", event.camera)

Two identities may turn out to be one person: of a ``merge``, `event.merged` was `event.identity` all along and is never named
again, so rename it in what you keep.

Each event comes once, in the order of its number. Store the last number together with what you did, begin again with
``after=number``, and you act exactly once on each, whatever is killed in between; `OffsetGone` says what cannot be had
any more. docs/events.md tells all of it, with a consumer to begin from.
"""

import contextlib
import itertools
import logging
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from pydantic import ValidationError

from matcher.outbox import Outbox
from matcher.redis_client import shown
from matcher.redis_gallery import RedisEvents
from matcher.server import EmbeddedRedis, embedded_url, holds_gallery
from stream.codec import MATCHES
from stream.errors import (
    BrokerUnreachable,
    GalleryError,
    GalleryUnreachable,
    OffsetGone,
    SightlineError,
    TransportError,
    UsageError,
)
from stream.kafka import KafkaSource
from stream.messages import EventKind, MatchEvent
from stream.settings import KafkaSettings, RedisSettings
from stream.telemetry import mask
from stream.transport import Record

log = logging.getLogger(__name__)

Where = str | Path | KafkaSettings | RedisSettings
Start = Literal["earliest", "latest"] | datetime

SITE_POLL_S = 1.0  # who waits for a site to begin looks this often
REPEATS = 1000  # a relay that starts again repeats fewer; a number further back says that the site's numbers began anew
FROM_THE_START = "leave out after= (--after) to go on with the oldest event that is left"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def events(
    where: Where,
    *,
    site: str,
    start: Start = "earliest",
    after: int | None = None,
    group: str | None = None,
    follow: bool = True,
    camera: str | None = None,
    identity: str | None = None,
    kind: EventKind | None = None,
    stop: threading.Event | None = None,
) -> Iterator[MatchEvent]:
    """Iterate over a site's events.

    where   ``host:port`` of Kafka or its `KafkaSettings`; ``redis://...`` or `RedisSettings`; the state folder of an
            embedded gallery (a `Path`). Of a site that has ended it is read with ``follow=False`` alone, and the folder is
            in use until the last event is read or the iterator closed: a matcher that starts meanwhile is refused it
    start   ``earliest`` that is kept, ``latest`` (only what comes from now on), or a time (captured then or later)
    after   a number, from 0 on: everything behind it
    group   Kafka alone: one reader of a group gets all events and the others stand by; when it goes, another one goes
            on where the group stopped. An event is done when the next one is asked for: at least once, and what
            retention took from the group is logged and counted. Without a group every reader gets all
    follow  wait for more, and for a site that has not begun; otherwise end with the newest event of now
    camera, identity, kind
            only events of this one; an identity's merge is one of them, and the last
    stop    when set, nothing more is yielded and the iteration ends within a second, or the time-out of a broker or Redis
            that does not answer

    But for a group nothing is left out in silence: raises `OffsetGone` where the next number is not there any more, and
    where the newest one is below `after`, for then the site's numbers began anew. `OffsetGone.after` is where to go on.
    """
    if after is not None and (start != "earliest" or group is not None):
        raise UsageError("after=NUMBER says where to begin: give neither start nor group with it")
    if after is not None and after < 0:
        raise UsageError(f"after={after} is no number of an event: expected 0 or more")
    if not isinstance(start, datetime) and start not in ("earliest", "latest"):
        raise UsageError(f'start={start!r}: expected "earliest", "latest", or a datetime with its time zone')
    if isinstance(start, datetime) and start.tzinfo is None:
        raise UsageError(f"start {start} has no time zone: give datetime(..., tzinfo=timezone.utc)")
    if group is not None and start == "latest":
        raise UsageError("a group goes on where it stopped: give it no start=latest")
    if kind not in (None, *get_args(EventKind)):
        raise UsageError(f"kind={kind!r}: expected one of {', '.join(get_args(EventKind))}")
    if identity is not None and not re.fullmatch("[0-9a-f]{32}", identity):
        raise UsageError(f"identity={identity!r}: expected all 32 hexadecimal digits, in small letters")
    since = (start - _EPOCH) // timedelta(microseconds=1) * 1000 if isinstance(start, datetime) else 0
    stop = stop or threading.Event()
    place = _place(where, follow)
    if isinstance(place, KafkaSettings):
        found = _from_kafka(place, site, start == "latest", after, group, follow, stop)
    elif group is not None:
        raise UsageError("groups are Kafka's: without it keep the last number yourself and give after=NUMBER")
    elif isinstance(place, Path):
        found = _from_ended(place, site, start == "latest", after, stop)
    else:
        found = _from_outbox(place, site, start == "latest", after, follow, stop)
    return (
        event
        for event in found
        if event.captured_at >= since
        and camera in (None, event.camera)
        and identity in (None, event.identity, event.merged)
        and kind in (None, event.kind)
    )


def last_number(settings: KafkaSettings, topic: str) -> int | None:
    """Number of the newest event on a matches topic, where the relay goes on; None when that is empty or missing."""
    source = KafkaSource(settings, topic, None, MATCHES, partitions=[0], letters=False)
    try:
        if not source.exists():
            return None
        end = source.ends([0])[0]
        return _newest(source, source.position()[0], end)
    finally:
        source.close()


def _place(where: Where, follow: bool) -> KafkaSettings | str | Path:
    """Where to ask; the folder itself where its gallery has to be started to be read."""
    if isinstance(where, KafkaSettings):
        return where
    if isinstance(where, RedisSettings):
        return where.url
    if isinstance(where, Path):
        try:
            return embedded_url(where)
        except GalleryUnreachable as error:
            if not holds_gallery(where):
                raise
            if follow:
                raise GalleryUnreachable(f"{error}; what it left there is read without follow (--follow)") from None
            return where
    if where.startswith(("redis://", "rediss://", "unix://")):
        return where
    try:
        return KafkaSettings(bootstrap_servers=where.removeprefix("kafka://"))
    except ValidationError:
        raise UsageError(
            f'where "{mask(where)}" is no address: expected host:port of Kafka, redis://host:port/db, or the state '
            f"folder of an embedded gallery as a Path: events(Path(folder), ...)"
        ) from None


def _from_ended(
    folder: Path, site: str, latest: bool, after: int | None, stop: threading.Event
) -> Iterator[MatchEvent]:
    """Out of a state folder whose gallery nobody runs."""
    with EmbeddedRedis(folder) as server:
        yield from _from_outbox(server.url, site, latest, after, False, stop)


def _from_outbox(
    url: str, site: str, latest: bool, after: int | None, follow: bool, stop: threading.Event
) -> Iterator[MatchEvent]:
    reader = RedisEvents(url, site)
    try:
        begun, missing = reader.exists(), f"{shown(url)} holds nothing of a site {site} yet"
        if not begun and not _begins(reader.exists, missing, GalleryError, follow, stop):
            return
        latest = latest and begun  # what came while it was waited for is new
        first, newest = reader.numbers()
        if after is not None:
            _check_known(site, after, newest)
            _check_next(site, after, first)
        last = newest if latest else after
        outbox = Outbox(reader, first - 1 if last is None else last, clock=None)
        if not follow:
            outbox.close_input()
        for batch in outbox.batches():
            for record in batch:
                number = record.message.number
                if stop.is_set() or (not follow and number > newest):
                    return
                _check_next(site, last, number)
                last = number
                yield record.message
            if stop.is_set():
                return
            if not batch and last is not None:  # silence, or a gallery that was emptied meanwhile
                with contextlib.suppress(GalleryUnreachable):
                    first, there = reader.numbers()
                    _check_known(site, last, there)
                    _check_next(site, last, first)
    finally:
        reader.close()


def _from_kafka(
    settings: KafkaSettings,
    site: str,
    latest: bool,
    after: int | None,
    group: str | None,
    follow: bool,
    stop: threading.Event,
) -> Iterator[MatchEvent]:
    topic = f"{settings.prefix}{site}.matches"
    partitions = [0] if group is None else None
    source = KafkaSource(settings, topic, group, MATCHES, partitions=partitions, letters=False, remedy=FROM_THE_START)
    last = after
    before: int | None = None  # of the last record read: who looks for its place begins to read in front of it
    try:
        begun, missing = source.exists(), f"topic {topic} is not at {settings.bootstrap_servers} yet"
        if not begun and not _begins(source.exists, missing, TransportError, follow, stop):
            return
        latest = latest and begun  # what came while it was waited for is new
        end = source.ends([0])[0]
        if latest:
            source.seek({0: end})
        elif after is not None:
            _seek_behind(source, site, after, end, follow)
        for record in _until(source, None if follow else end, stop, group):
            number = record.message.number
            if before is not None and number <= before - REPEATS:
                if group is None:
                    _check_known(site, before, number)
                log.warning("site %s: its numbers began anew with %d behind %d", site, number, before)
                last = None
            before = number
            if last is None or number > last:  # else it was relayed twice
                if group is None:
                    _check_next(site, last, number)
                last = number
                yield record.message
            source.commit([record])
    finally:
        source.close()


def _begins(
    exists: Callable[[], bool], missing: str, otherwise: type[SightlineError], follow: bool, stop: threading.Event
) -> bool:
    """Wait until what a site's events stand in `exists`; False when stopped. Raises `otherwise` when not to `follow`."""
    if not follow:
        raise otherwise(f"{missing}: start the site, or correct site=, [kafka] prefix or [redis] url")
    log.warning("waiting: %s", missing)
    while not stop.wait(SITE_POLL_S):
        with contextlib.suppress(BrokerUnreachable, GalleryUnreachable):  # it was there when this began
            if exists():
                return True
    return False


def _seek_behind(source: "KafkaSource[MatchEvent]", site: str, after: int, end: int, follow: bool) -> None:
    """Go on behind event `after`. Raises `OffsetGone` where that cannot be."""
    start = source.position()[0]
    newest = _newest(source, start, end, after)
    if newest is not None or end == 0:
        _check_known(site, after, newest or 0)
    elif end > after and not follow:  # who follows sees by the next number whether it is so
        raise OffsetGone(
            f"site {site}: its topic is empty now and has held {end} records: events behind {after} may be gone with "
            f"their retention; leave out after= (--after) to go on with what comes next"
        )
    begin, number = end, after
    for records in _ever_earlier(source, start, end):
        for first in itertools.islice(records, 1):
            begin, number = first.offset, first.message.number
        if number <= after + 1 and begin < end:
            break
    _check_next(site, after, number)
    source.seek({0: begin})


def _newest(source: "KafkaSource[MatchEvent]", start: int, end: int, known: int = 0) -> int | None:
    """Largest number among the last records between two offsets; None where there is none.

    Where that is below the `known` one it looks behind repeats: a relay that was held up leaves some last.
    """
    newest = None
    for records in _ever_earlier(source, start, end):
        numbers = [record.message.number for record in records]
        newest = max(numbers, default=None)
        if newest is not None and (newest >= known or len(numbers) > REPEATS):
            break
    return newest


def _ever_earlier(source: "KafkaSource[MatchEvent]", start: int, end: int) -> Iterator[Iterator[Record[MatchEvent]]]:
    """The records from ever earlier offsets to `end`: the last 16, 256, 4,096, ..., at last all from `start` on."""
    begin, look = end, 16
    while begin > start:
        begin, look = max(start, end - look), look * 16
        source.seek({0: begin})
        yield _until(source, end, threading.Event())


def _until(
    source: "KafkaSource[MatchEvent]", end: int | None, stop: threading.Event, group: str | None = None
) -> Iterator[Record[MatchEvent]]:
    """Records before offset `end`, or all that ever come."""
    for batch in source.batches():
        for record in batch:
            if stop.is_set() or (end is not None and record.offset >= end):
                return
            yield record
        if stop.is_set() or (end is not None and source.drained({0: end})):
            return
        if end is not None and source.stands_by():
            raise UsageError(
                f"group {group} has another reader, and one reader of a group gets all events: end that one, name "
                f"another group, or stand by with follow=True"
            )


def _check_known(site: str, after: int, newest: int) -> None:
    """Raise `OffsetGone` where event `after` was never said."""
    if after > newest:
        raise OffsetGone(
            f"site {site}: event {after} was read before, its newest is {newest}: its numbers began anew with another "
            f"gallery or topic; forget yours and leave out after= (--after) to read from the start"
        )


def _check_next(site: str, last: int | None, number: int) -> None:
    """Raise `OffsetGone` where `number` leaves some out behind `last`; None: nothing was read yet."""
    if last is not None and number > last + 1:
        raise OffsetGone(
            f"site {site}: events {last + 1} to {number - 1} are gone with their retention, or could not be read; "
            f"after={number - 1} goes on with event {number}",
            after=number - 1,
        )
