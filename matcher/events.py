"""Match events for whoever acts on them.

    from matcher.events import events

    for event in events("127.0.0.1:9092", site="shop"):
        if event.kind == "link":
            print(event.identity, event.previous_camera, "->", event.camera)

Two identities may turn out to be one person: of a ``merge``, `event.merged` was `event.identity` all along and is never named
again, so rename it in what you keep.

Each event comes once, in the order of its number. Store the last number together with what you did, begin again with
``after=number``, and you act exactly once on each, whatever is killed in between.
"""

import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from matcher.outbox import Outbox
from matcher.redis_gallery import RedisEvents
from matcher.server import embedded_url
from stream.codec import MATCHES
from stream.errors import OffsetGone, UsageError
from stream.kafka import KafkaSource
from stream.messages import EventKind, MatchEvent
from stream.settings import KafkaSettings, RedisSettings
from stream.transport import Record

Where = str | Path | KafkaSettings | RedisSettings
Start = Literal["earliest", "latest"] | datetime


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
            embedded gallery (a `Path`)
    start   ``earliest`` that is kept, ``latest`` (only what comes from now on), or a time (captured then or later)
    after   a number: everything behind it. Raises `OffsetGone` when retention took some of that
    group   Kafka alone: readers of one group share the events and go on where the group stopped. An event is done when the
            next one is asked for: at least once. Without a group every reader gets all
    follow  wait for more; otherwise end with the newest event there is now
    stop    when set, ends the iteration within a second
    """
    if after is not None and (start != "earliest" or group is not None):
        raise UsageError("after=NUMBER says where to begin: give neither start nor group with it")
    if isinstance(start, datetime) and start.tzinfo is None:
        raise UsageError(f"start {start} has no time zone: give datetime(..., tzinfo=timezone.utc)")
    if group is not None and start == "latest":
        raise UsageError("a group goes on where it stopped: give it no start=latest")
    since = round(start.timestamp() * 1e9) if isinstance(start, datetime) else 0
    stop = stop or threading.Event()
    place = _place(where)
    if isinstance(place, KafkaSettings):
        found = _from_kafka(place, site, start == "latest", after, group, follow, stop)
    elif group is not None:
        raise UsageError("groups are Kafka's: without it keep the last number yourself and give after=NUMBER")
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
    """Number of the newest event on a matches topic; None when it is empty. The relay goes on from there."""
    source = KafkaSource(settings, topic, None, MATCHES, partitions=[0])
    try:
        end = source.ends([0])[0]
        first, look = source.position()[0], 16
        while end > first:
            begin = max(first, end - look)
            source.seek({0: begin})
            if numbers := [record.message.number for record in _until(source, end, threading.Event())]:
                return numbers[-1]
            if begin == first:
                break
            look *= 16  # nothing but bytes that are no events
    finally:
        source.close()
    return None


def _place(where: Where) -> KafkaSettings | str:
    if isinstance(where, KafkaSettings):
        return where
    if isinstance(where, RedisSettings):
        return where.url
    if isinstance(where, Path):
        return embedded_url(where)
    if where.startswith(("redis://", "rediss://", "unix://")):
        return where
    return KafkaSettings(bootstrap_servers=where.removeprefix("kafka://"))


def _from_outbox(
    url: str, site: str, latest: bool, after: int | None, follow: bool, stop: threading.Event
) -> Iterator[MatchEvent]:
    reader = RedisEvents(url, site)
    try:
        first, last = reader.numbers()
        begin = last if latest else first - 1 if after is None else after
        _check_kept(site, after, first)
        outbox = Outbox(reader, begin, clock=None)
        if not follow:
            outbox.close_input()
        for batch in outbox.batches():
            for record in batch:
                if not follow and record.message.number > last:
                    return
                yield record.message
            if stop.is_set():
                return
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
    source = KafkaSource(settings, topic, group, MATCHES, partitions=[0] if group is None else None)
    last = after or 0
    try:
        end = source.ends([0])[0]
        if latest:
            source.seek({0: end})
        elif after is not None:
            _seek_behind(source, site, after, end, stop)
        for record in _until(source, None if follow else end, stop):
            if record.message.number > last:
                last = record.message.number
                yield record.message
            source.commit([record])
    finally:
        source.close()


def _seek_behind(source: "KafkaSource[MatchEvent]", site: str, after: int, end: int, stop: threading.Event) -> None:
    """Numbers have no gaps, and repeats only add records, so event `after` lies at least this far behind the first."""
    begin = source.position()[0]
    for record in _until(source, end, stop):
        first = record.message.number
        _check_kept(site, after, first)
        begin = min(end, record.offset + max(0, after - first))
        break
    source.seek({0: begin})


def _until(source: "KafkaSource[MatchEvent]", end: int | None, stop: threading.Event) -> Iterator[Record[MatchEvent]]:
    """Records before offset `end`, or all that ever come."""
    for batch in source.batches():
        for record in batch:
            if end is not None and record.offset >= end:
                return
            yield record
        if stop.is_set() or (end is not None and source.drained({0: end})):
            return


def _check_kept(site: str, after: int | None, first: int) -> None:
    if after and first > after + 1:
        raise OffsetGone(
            f"site {site}: events {after + 1} to {first - 1} are gone with their retention; "
            f"leave out after= to go on with event {first}"
        )
