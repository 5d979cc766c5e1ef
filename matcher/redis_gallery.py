"""The gallery on a Redis or Valkey server, under ``sightline:{site}:``, one hash tag per site (Redis Cluster keeps it together).

meta       hash: epoch, owner, commit, number, model, topic, offset/P, place/C, relayed/T; no word about anybody, so it stays
lease      string: who writes, for 10 s from the last commit
events     stream: the outbox; entry ``<number>-0`` holds one event as JSON; trimmed by retention
state      hash: the policy's entities that go together
index      set: the keys of those entities that hold their own expiry (identity/I, exemplar/I/T)

Event time decides about expiry; on a live site every key but meta also expires on the server, should the matcher not come back.
"""

import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator, Sequence

from matcher.gallery import LEASE_S, Snapshot, numbered, refuse_other_model
from matcher.matcher import Change, Step
from matcher.merge import Place
from matcher.redis_client import connect, durability, redis_errors, shown
from matcher.scripts import ACQUIRE, COMMIT, RELEASE
from stream.codec import MATCHES, decode, encode
from stream.errors import EpochLost, GalleryError
from stream.messages import MatchEvent

log = logging.getLogger(__name__)

OWN_KEY = ("identity/", "exemplar/")
POLL_S = 0.25  # who waits for the lease looks this often
RENEW_S = 2.0  # without anything to store, the lease is renewed this often
MS = 1_000_000  # nanoseconds
FORMAT = 1  # of everything stored; another one is refused


def site_prefix(site: str) -> str:
    """In front of every key of a site."""
    return f"sightline:{{{site}}}:"


def stored_place(value: bytes) -> Place:
    """A field ``place/C`` of meta."""
    stream, sequence, ended = (int(part) for part in value.split())
    return Place(stream, sequence, bool(ended))


class RedisEvents:
    """The outbox of a site, for whoever reads it. Errors are GalleryUnreachable and GalleryRefused."""

    def __init__(self, url: str, site: str) -> None:
        self._url, self._site = url, site
        self._client = connect(url)
        self._prefix = site_prefix(site)
        self._meta, self._events = self._prefix + "meta", self._prefix + "events"

    def exists(self) -> bool:
        """Whether a matcher ever had the site here."""
        with redis_errors(self._url):
            return bool(self._client.exists(self._meta))

    def events(self, after: int, *, limit: int = 500, wait_s: float = 0.0) -> Sequence[MatchEvent]:
        """See `Gallery`."""
        with redis_errors(self._url):
            if wait_s > 0:
                found = self._client.xread({self._events: f"{after}-0"}, limit, max(1, _ms(wait_s)))
                entries = _entries(found)
            else:
                entries = self._client.xrange(self._events, f"({after}-0", "+", limit)
        return [decode(fields[b"event"], MATCHES) for _, fields in entries]

    def numbers(self) -> tuple[int, int]:
        """See `Gallery`."""
        with redis_errors(self._url):
            last = int(self._client.hget(self._meta, "number") or 0)
            first = self._client.xrange(self._events, count=1)
        return (int(first[0][0].partition(b"-")[0]) if first else last + 1), last

    def close(self) -> None:
        """Disconnect; safe to call twice."""
        self._client.close()


class RedisGallery(RedisEvents):
    """See `matcher.gallery.Gallery`. Errors are GalleryUnreachable, GalleryRefused, ModelMismatch, EpochLost."""

    def __init__(
        self,
        url: str,
        site: str,
        *,
        model: str,
        retention_ns: int,
        live: bool,
    ) -> None:
        """`live` sites also expire by the server's clock."""
        super().__init__(url, site)
        self.topic: str | None = None
        self._model = model
        self._retention_ns, self._live = retention_ns, live
        self._keys = [self._prefix + name for name in ("meta", "lease", "events", "state", "index")]
        self._state, self._index = self._keys[3:]
        self._owner = f"{platform.node()} (process {os.getpid()}, {secrets.token_hex(4)})"
        self._epoch = 0
        self._commit = self._number = 0
        self._renewed_s = 0.0
        self._acquire_script = self._client.register_script(ACQUIRE)
        self._commit_script = self._client.register_script(COMMIT)
        self._release_script = self._client.register_script(RELEASE)

    def warnings(self) -> list[str]:
        """What the server's settings cost, one line each."""
        return durability(self._client, self._url)

    def acquire(self, *, takeover: bool = False, stop: threading.Event | None = None) -> Snapshot:
        """See `Gallery`."""
        self._check()  # before another matcher waits for, or is taken over by, one that cannot go on
        said = None
        while True:
            with redis_errors(self._url):
                answer = self._acquire_script(self._keys, [self._owner, _ms(LEASE_S), int(takeover)])
            if answer[0]:
                break
            holder = answer[1].decode()
            if holder != said:
                said = holder
                log.warning(
                    "site %s has a matcher, %s: waiting until its lease of %g s has run out; --takeover does not wait",
                    *(self._site, holder, LEASE_S),
                )
            if (stop or threading.Event()).wait(POLL_S):
                raise EpochLost(f"stopped while waiting for the matcher of site {self._site}: {holder}")
        self._epoch = int(answer[0])
        try:
            snapshot = self._load(self._check())
        except BaseException:
            self.release()
            raise
        self._renewed_s = time.monotonic()
        return snapshot

    def _check(self) -> dict[str, bytes]:
        """The fields of meta. Raises `GalleryError` for a gallery that this matcher cannot go on from."""
        where = shown(self._url)
        with redis_errors(self._url):
            meta = {key.decode(): value for key, value in self._client.hgetall(self._meta).items()}
            if (found := int(meta.get("format", FORMAT))) != FORMAT:
                raise GalleryError(
                    f"the gallery of site {self._site} at {where} was written by another version (format {found}, this one "
                    f"reads {FORMAT}): go on with an empty gallery (another --state folder, or another [redis] database)"
                )
            held = meta["model"].decode() if "model" in meta else self._model
            if held != self._model:
                refuse_other_model(self._site, where, held, self._model, self._entities()[0])
        return meta

    def _entities(self) -> tuple[dict[str, bytes], list[bytes]]:
        """What is stored, and the keys of the index that the server's clock has taken."""
        entities = {key.decode(): value for key, value in self._client.hgetall(self._state).items()}
        gone = []
        for chunk in _batched(sorted(self._client.smembers(self._index)), 500):
            for key, value in zip(chunk, self._client.mget(chunk), strict=True):
                if value is None:
                    gone.append(key)
                else:
                    entities[key.decode().removeprefix(self._prefix)] = value
        return entities, gone

    def _load(self, meta: dict[str, bytes]) -> Snapshot:
        with redis_errors(self._url):
            entities, gone = self._entities()
            for chunk in _batched(gone, 500):
                self._client.srem(self._index, *chunk)
        self._commit, self._number = int(meta.get("commit", 0)), int(meta.get("number", 0))
        offsets = {int(key[7:]): int(value) for key, value in meta.items() if key.startswith("offset/")}
        places = {key[6:]: stored_place(value) for key, value in meta.items() if key.startswith("place/")}
        topic = meta["topic"].decode() if meta.get("topic") else None
        return Snapshot(entities, offsets, places, topic, self._number)

    def commit(self, steps: Sequence[Step]) -> Sequence[MatchEvent]:
        """See `Gallery`."""
        if not steps and time.monotonic() - self._renewed_s < RENEW_S:
            return []
        events = numbered(steps, self._number)
        number, commit = self._number + len(events), self._commit + bool(steps)
        keys, arguments = self._arguments(steps, events, number, commit)
        with redis_errors(self._url):
            answer = self._commit_script(keys, arguments)
        if answer == b"":
            raise GalleryError(
                f"the gallery of site {self._site} at {shown(self._url)} has lost what was stored: Redis was emptied, or began "
                f"again without its last writes; start the matcher again: it goes on from what is there"
            )
        if answer != 1:
            raise EpochLost(
                f"site {self._site} was taken over by {answer.decode()}: this matcher stops, the other goes on"
            )
        self._number, self._commit, self._renewed_s = number, commit, time.monotonic()
        return events

    def _arguments(
        self, steps: Sequence[Step], events: Sequence[MatchEvent], number: int, commit: int
    ) -> tuple[list[str], list[str | int | bytes]]:
        changes: dict[str, Change] = {}
        meta: dict[str, str | int | bytes] = {
            "format": FORMAT,
            "number": number,
            "model": self._model,
            "topic": self.topic or "",
        }
        clock_ns = steps[-1].clock_ns if steps else 0
        for step in steps:
            changes |= step.changes
            meta |= {f"offset/{partition}": offset for partition, offset in step.offsets.items()}
            meta |= {f"place/{camera}": _packed(place) for camera, place in step.places.items()}
        own = {key: change for key, change in changes.items() if key.startswith(OWN_KEY)}
        shared = {key: change.value for key, change in changes.items() if key not in own}
        kept = {key: value for key, value in shared.items() if value is not None}
        held = {key: change for key, change in own.items() if change.value is not None}
        gone = [key for key, change in own.items() if change.value is None]
        expiry = (clock_ns + self._retention_ns) // MS if self._live else 0
        arguments: list[str | int | bytes] = [
            *(self._epoch, self._owner, _ms(LEASE_S), self._commit, commit),
            *(clock_ns, clock_ns - self._retention_ns, expiry),
            *(len(events), len(meta), len(kept), len(shared) - len(kept), len(held), len(gone)),
        ]
        for event in events:
            arguments += [event.number, encode(event)]
        for pairs in (meta, kept):
            for field, value in pairs.items():
                arguments += [field, value]
        arguments += [key for key, value in shared.items() if value is None]
        for change in held.values():
            at = change.expires_ns // MS if self._live and change.expires_ns is not None else 0
            arguments += [change.value or b"", at]
        return [*self._keys, *(self._prefix + key for key in [*held, *gone])], arguments

    def relayed(self, topic: str) -> int | None:
        """See `Gallery`."""
        with redis_errors(self._url):
            number = self._client.hget(self._meta, f"relayed/{topic}")
        return None if number is None else int(number)

    def note_relayed(self, topic: str, number: int) -> None:
        """See `Gallery`."""
        with redis_errors(self._url):
            self._client.hset(self._meta, f"relayed/{topic}", number)

    def release(self) -> None:
        """See `Gallery`."""
        try:
            with redis_errors(self._url):
                self._release_script(self._keys, [self._epoch, self._owner])
        except GalleryError as error:
            log.debug("the lease of site %s runs out by itself: %s", self._site, error)


def _entries(found: object) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of the one stream that XREAD was asked for."""
    streams = list(found.items()) if isinstance(found, dict) else list(found or [])  # type: ignore[call-overload]
    entries = streams[0][1] if streams else []
    if entries and isinstance(entries[0], list):  # RESP3 nests once more
        entries = entries[0]
    return list(entries)


def _batched(keys: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _packed(place: Place) -> str:
    return f"{place.stream} {place.sequence} {int(place.ended)}"


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
