"""The matcher's stage: merge the cameras in event time, take each record through the policy, and say what is to be stored."""

import hmac
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from matcher.merge import Item, Merge, Place
from matcher.policy import Decision, Seen, Sighting, step
from matcher.state import State
from stream.messages import CameraState, Embeddings, MatchEvent, Person
from stream.telemetry import IDENTITIES, LATE, TRACKLETS_DROPPED, VECTORS_REFUSED
from stream.transport import Record

log = logging.getLogger(__name__)

UNIT_TOLERANCE = 0.01  # float16 of 512 numbers is within 0.001


class Pausable(Protocol):
    """The part of a Source that holds partitions back."""

    def pause(self, partitions: Iterable[int]) -> None:
        """Yield nothing more of these."""
        ...

    def resume(self, partitions: Iterable[int]) -> None:
        """Undo `pause`."""
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """One entity of the state, as stored."""

    value: bytes | None
    """None: gone."""
    expires_ns: int | None
    """Event time at which it must be gone by itself; None: with the whole state."""


@dataclass(frozen=True, slots=True)
class Step:
    """What some records, taken in order, have changed. Stored as a whole or not at all."""

    clock_ns: int
    """Event time reached."""
    changes: Mapping[str, Change]
    """By entity key of `matcher.entities`."""
    offsets: Mapping[int, int]
    """Partition -> next offset of the embeddings topic; what waits in the merge is not consumed."""
    places: Mapping[str, Place]
    """Cameras that moved on, and how far."""
    events: tuple[MatchEvent, ...]
    """Without their numbers: those are given when they are stored."""


def identity_id(key: bytes, founder: str) -> str:
    """32 hexadecimal digits: random to whoever lacks the site's key, the same for the same founding tracklet."""
    return hmac.new(key, founder.encode(), sha256).hexdigest()[:32]


class Matcher:
    """Record[Embeddings | CameraState] -> Step."""

    def __init__(
        self,
        site: str,
        cameras: Sequence[str],
        state: State,
        *,
        key: bytes,
        model: str,
        live: bool,
        lateness_s: float = 0.3,
        places: Mapping[str, Place] | None = None,
        source: Pausable | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`cameras` of the site, `state` and `places` as the gallery had them, `model` of the rows' bundle.

        `key` is the site's, `source` is what may be paused, `clock` the wall clock in seconds, which only the merge of a live
        site reads.
        """
        self._site, self._state, self._key, self._model, self._clock = site, state, key, model, clock
        self._merge = Merge(cameras, live=live, lateness_s=lateness_s, places=places)
        self._places = dict(places or {})
        self._source, self._paused = source, set[int]()
        self._offsets: dict[int, int] = {}
        self._size = len(state.rules.calibration.links.mean)
        self._refused: set[tuple[str, str]] = set()
        self._counted = dict(state.site.counters)

    def process(self, batch: Sequence[Record[Item]]) -> Iterable[Step]:
        """One step of all records whose turn has come; none when none has and nothing was consumed."""
        now_s = self._clock()
        for record in batch:
            self._merge.push(record, now_s)
        steps = self._take(self._merge.pop(now_s))
        self._hold_back()
        return steps

    def finish(self) -> Iterable[Step]:
        """The input has ended: nothing is waited for any more."""
        return self._take(self._merge.pop(self._clock(), finished=True))

    def repeated(self) -> dict[str, int]:
        """Cameras of which all frames were seen before, and how many: each needs another `start`."""
        return self._merge.repeated()

    def _take(self, records: Iterable[Record[Item]]) -> list[Step]:
        events: list[MatchEvent] = []
        moved: dict[str, Place] = {}
        for record in records:
            message = record.message
            moved[message.camera] = self._places[message.camera] = self._place(message)
            if isinstance(message, Embeddings) and message.status != "ok":
                continue
            if isinstance(message, Embeddings) and message.captured_at < self._state.site.clock:
                LATE.labels(message.camera).inc()
            events += [self._event(decision) for decision in step(self._state, self._sighting(message))]
        offsets = self._merge.offsets()
        if offsets == self._offsets:
            return []
        self._offsets = offsets
        self._count()
        expires = {key: self._state.expires(key) for key in self._state.dirty}
        changes = {key: Change(value, expires[key]) for key, value in self._state.changes().items()}
        return [Step(self._state.site.clock, changes, offsets, moved, tuple(events))]

    def _place(self, message: Item) -> Place:
        if isinstance(message, Embeddings):
            return Place(message.stream, message.sequence)
        before = self._places.get(message.camera, Place(-1, -1))
        return before._replace(ended=message.state == "end") if message.stream >= before.stream else before

    def _sighting(self, message: Item) -> Sighting:
        if isinstance(message, CameraState):
            return Sighting(message.state, message.camera, message.stream, message.captured_at)
        people = []
        for person in message.people:
            x1, _, x2, y2 = person.xyxy
            foot = ((x1 + x2) / 2 / message.width, y2 / message.height)
            people.append(Seen(person.tracklet, foot, person.quality, self._vector(message, person)))
        return Sighting("people", message.camera, message.stream, message.captured_at, tuple(people))

    def _vector(self, message: Embeddings, person: Person) -> NDArray[np.float32] | None:
        """(D,) or None, where there is none or it is not one of this model's unit vectors."""
        if person.vector is None:
            return None
        if message.model != self._model:
            self._refuse(message, "model", f"it is of {message.model}, the gallery's are of {self._model}")
            return None
        if len(person.vector) != 2 * self._size:
            self._refuse(message, "size", f"it has {len(person.vector)} bytes, expected {2 * self._size}")
            return None
        vector = np.frombuffer(person.vector, "<f2").astype(np.float32)
        if not abs(float(vector @ vector) - 1) <= 2 * UNIT_TOLERANCE:
            self._refuse(message, "norm", "it is no unit vector")
            return None
        return vector

    def _refuse(self, message: Embeddings, reason: str, detail: str) -> None:
        VECTORS_REFUSED.labels(message.camera, reason).inc()
        if (message.camera, reason) not in self._refused:
            self._refused.add((message.camera, reason))
            remedy = "run perceive and match with the same [reid] bundle"
            log.warning("camera %s: a person's vector is not used, %s: %s", message.camera, detail, remedy)

    def _event(self, decision: Decision) -> MatchEvent:
        card = decision.evidence
        if card.runner_up is not None:
            other = identity_id(self._key, card.runner_up.identity)
            card = msgspec.structs.replace(card, runner_up=msgspec.structs.replace(card.runner_up, identity=other))
        return MatchEvent(
            site=self._site,
            number=0,
            kind=decision.kind,
            identity=identity_id(self._key, decision.founder),
            merged=None if decision.merged is None else identity_id(self._key, decision.merged),
            camera=decision.camera,
            previous_camera=decision.previous_camera,
            tracklet=decision.tracklet,
            first_seen=decision.first_seen,
            captured_at=decision.time,
            probability=decision.probability,
            evidence=card,
            model=self._model,
        )

    def _hold_back(self) -> None:
        if self._source is None:
            return
        if more := self._merge.full() - self._paused:
            self._source.pause(more)
            self._paused |= more
        if fewer := self._merge.drained() & self._paused:
            self._source.resume(fewer)
            self._paused -= fewer

    def _count(self) -> None:
        IDENTITIES.labels(self._site).set(len(self._state.identities))
        for what, total in self._state.site.counters.items():
            if what in ("left_undecided", "too_many_open") and total > self._counted.get(what, 0):
                TRACKLETS_DROPPED.labels(what).inc(total - self._counted.get(what, 0))
        self._counted = dict(self._state.site.counters)
