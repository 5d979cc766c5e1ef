"""The record of a site: what the matcher knows, how far it has read, and the events it has said. One matcher writes it.

`RedisGallery` keeps it on a server, `MemoryGallery` in this process; tests/contracts/test_gallery.py holds for both.
"""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from matcher.matcher import Step
from matcher.merge import Place
from stream.codec import MATCHES, decode, encode
from stream.errors import EpochLost, ModelMismatch
from stream.messages import MatchEvent

LEASE_S = 10.0  # a matcher that has not been heard of for so long has lost its site to whoever waits for it
VECTORS = ("exemplar/", "pool/", "mean/")  # entities made of a model's vectors


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a matcher goes on from."""

    entities: Mapping[str, bytes]
    """For `matcher.state.restore`."""
    offsets: Mapping[int, int]
    """Partition -> next offset of the embeddings topic."""
    places: Mapping[str, Place]
    """Camera -> how far it has been taken."""
    topic: str | None
    """Identity of the topic that the offsets belong to; None: nothing has been read, or from memory."""
    number: int
    """Of the last event."""


class Gallery(Protocol):
    """Steps are stored whole and in order, or not at all; events get the next numbers as they are stored."""

    topic: str | None
    """Identity of the topic that the offsets to be stored belong to; None: they mean nothing to another process."""

    def acquire(self, *, takeover: bool = False, stop: threading.Event | None = None) -> Snapshot:
        """Become the site's matcher. Waits, and says for whom, while another one's lease runs, unless `takeover`.

        Raises `EpochLost` when stopped while waiting, `ModelMismatch` when it holds vectors of another model.
        """
        ...

    def commit(self, steps: Sequence[Step]) -> Sequence[MatchEvent]:
        """Store all of `steps` at once, renew the lease, and return their events with their numbers.

        With no steps only the lease is renewed. Raises `EpochLost` when another matcher has taken the site over.
        Called again with the same steps after `GalleryUnreachable`, it stores them once.
        """
        ...

    def events(self, after: int, *, limit: int = 500, wait_s: float = 0.0) -> Sequence[MatchEvent]:
        """Events in order from the first kept number above `after`; waits up to `wait_s` for one."""
        ...

    def numbers(self) -> tuple[int, int]:
        """(first, last) number that is kept; (last + 1, last) when none is, (1, 0) in the beginning."""
        ...

    def relayed(self, topic: str) -> int | None:
        """Number of the last event that the matches topic of this identity is known to have had; None: nothing is known."""
        ...

    def note_relayed(self, topic: str, number: int) -> None:
        """Remember that the matches topic of this identity has had all events up to `number`."""
        ...

    def release(self) -> None:
        """Let the next matcher begin at once. Raises nothing; safe to call twice."""
        ...

    def close(self) -> None:
        """Free everything here; what was stored stays. Safe to call twice."""
        ...


def numbered(steps: Sequence[Step], number: int) -> list[MatchEvent]:
    """The events of `steps`, counted on from `number`."""
    events = [event for step in steps for event in step.events]
    return [msgspec.structs.replace(event, number=number + n) for n, event in enumerate(events, start=1)]


def refuse_other_model(site: str, where: str, held: str | None, model: str, entities: Mapping[str, bytes]) -> None:
    """Vectors of different models never meet. Raises `ModelMismatch` with the remedy."""
    if held not in (None, model) and any(key.startswith(VECTORS) for key in entities):
        raise ModelMismatch(
            f"the gallery of site {site} at {where} holds vectors of {held}, this matcher's are of {model}: go on with "
            f"the former [reid] bundle until retention has emptied the gallery, or begin with an empty one "
            f"(another --state folder, or another [redis] database), whose events are numbered from 1: over Kafka delete the "
            f"matches topic too"
        )


@dataclass
class _Store:
    """What outlives one `MemoryGallery`; others that are given the same one are other matchers of the site."""

    epoch: int = 0
    owner: "MemoryGallery | None" = None
    model: str | None = None
    topic: str | None = None
    number: int = 0
    entities: dict[str, bytes] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    outbox: deque[tuple[int, int, bytes]] = field(default_factory=deque)
    """(clock, number, encoded event)"""
    relayed: dict[str, int] = field(default_factory=dict)
    """Identity of a matches topic -> last number that it had."""
    changed: threading.Condition = field(default_factory=threading.Condition)


class MemoryGallery:
    """A gallery that lives as long as its process, with the same stored bytes. The lease ends with `release`."""

    def __init__(
        self,
        site: str,
        *,
        model: str,
        retention_ns: int,
        beside: "MemoryGallery | None" = None,
    ) -> None:
        """`beside`: another matcher's gallery of the same site."""
        self.topic: str | None = None
        self._site, self._model, self._retention_ns = site, model, retention_ns
        self._store: _Store = beside._store if beside else _Store()
        self._epoch = 0

    def acquire(self, *, takeover: bool = False, stop: threading.Event | None = None) -> Snapshot:
        """See `Gallery`."""
        store = self._store
        with store.changed:
            while store.owner not in (None, self) and not takeover:
                if stop is not None and stop.is_set():
                    raise EpochLost(f"stopped while waiting for another matcher of site {self._site}")
                store.changed.wait(0.05)
            refuse_other_model(self._site, "memory", store.model, self._model, store.entities)
            store.epoch += 1
            store.owner, store.model, self._epoch = self, self._model, store.epoch
            return Snapshot(dict(store.entities), dict(store.offsets), dict(store.places), store.topic, store.number)

    def commit(self, steps: Sequence[Step]) -> Sequence[MatchEvent]:
        """See `Gallery`."""
        store = self._store
        with store.changed:
            if self._epoch != store.epoch:
                raise EpochLost(
                    f"site {self._site} was taken over by another matcher: this one stops, the other goes on"
                )
            events = numbered(steps, store.number)
            for step in steps:
                for key, change in step.changes.items():
                    if change.value is None:
                        store.entities.pop(key, None)
                    else:
                        store.entities[key] = change.value
                store.offsets.update(step.offsets)
                store.places.update(step.places)
            if steps:
                store.topic = self.topic
                clock = steps[-1].clock_ns
                store.outbox.extend((clock, event.number, encode(event)) for event in events)
                while store.outbox and store.outbox[0][0] <= clock - self._retention_ns:
                    store.outbox.popleft()
            store.number += len(events)
            store.changed.notify_all()
            return events

    def events(self, after: int, *, limit: int = 500, wait_s: float = 0.0) -> Sequence[MatchEvent]:
        """See `Gallery`."""
        store = self._store
        with store.changed:
            store.changed.wait_for(lambda: store.number > after, wait_s)
            kept = [data for _, number, data in store.outbox if number > after]
        return [decode(data, MATCHES) for data in kept[:limit]]

    def numbers(self) -> tuple[int, int]:
        """See `Gallery`."""
        with self._store.changed:
            return (self._store.outbox[0][1] if self._store.outbox else self._store.number + 1), self._store.number

    def relayed(self, topic: str) -> int | None:
        """See `Gallery`."""
        with self._store.changed:
            return self._store.relayed.get(topic)

    def note_relayed(self, topic: str, number: int) -> None:
        """See `Gallery`."""
        with self._store.changed:
            self._store.relayed[topic] = number

    def release(self) -> None:
        """See `Gallery`."""
        with self._store.changed:
            if self._store.owner is self:
                self._store.owner = None
                self._store.changed.notify_all()

    def close(self) -> None:
        """See `Gallery`."""
