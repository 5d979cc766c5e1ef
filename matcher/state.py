"""What the linking policy remembers of one site, and which parts of it a step has changed.

While a tracklet is open, its identity's last sighting there is the tracklet's own: the identity is stored again only
when it is decided, frozen, closed, meets somebody, or a quarter of its retention has passed.
"""

import bisect
import heapq
from collections.abc import Mapping
from typing import Any

import numpy as np

from matcher.entities import F32, F64, Exemplar, Identity, Mean, Point, Pool, Site, Tracklet, pack, unpack
from matcher.mirror import Mirror
from matcher.rules import SECOND, Rules

ARRIVALS_NS = 600 * SECOND  # newcomers are counted over this long


class State:
    """Everything that `policy.step` reads and changes; `dirty` names the entities changed since it was last emptied."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.site = Site()
        self.arrivals: list[tuple[int, float]] = []
        self.means: dict[str, Mean] = {}
        self.streams: dict[str, int] = {}
        self.ended: dict[str, dict[str, int]] = {}
        self.open: dict[str, Tracklet] = {}
        self.pools: dict[str, Pool] = {}
        self.identities: dict[int, Identity] = {}
        self.exemplars: dict[int, dict[str, Exemplar]] = {}
        self.dirty: set[str] = set()
        # derived, rebuilt by `restore`
        self.mirror = Mirror(len(rules.calibration.links.mean))
        self._recent: dict[str, list[tuple[int, int]]] = {}
        """Per camera, (last seen there, identity), sorted."""
        self._open_in: dict[str, set[str]] = {}
        self._expiry: list[tuple[int, int, str]] = []
        self._means_version = 0
        self._centres: dict[str, F64] = {}
        self.centroids: dict[int, F64] = {}
        """Kept by `matcher.evidence`, forgotten here when exemplars or means change."""

    # tracklets

    def tracklets_of(self, camera: str) -> list[Tracklet]:
        """Open ones by (first seen, name)."""
        names = self._open_in.get(camera, ())
        return sorted((self.open[name] for name in names), key=lambda t: (t.first, t.name))

    def open_tracklet(self, tracklet: Tracklet) -> None:
        """A new one, pending."""
        self.open[tracklet.name] = tracklet
        self._open_in.setdefault(tracklet.camera, set()).add(tracklet.name)
        self.pools[tracklet.name] = Pool(np.zeros(len(self.rules.calibration.links.mean), np.float32))
        self.dirty |= {f"tracklet/{tracklet.name}", f"pool/{tracklet.name}"}

    def close_tracklet(self, tracklet: Tracklet) -> None:
        """It may not open again; an identity that nothing is left of goes with it."""
        del self.open[tracklet.name], self.pools[tracklet.name]
        self._open_in[tracklet.camera].discard(tracklet.name)
        self.ended.setdefault(tracklet.camera, {})[tracklet.name] = self.site.clock
        self.dirty |= {
            f"tracklet/{tracklet.name}",
            f"pool/{tracklet.name}",
            f"ended/{tracklet.camera}/{tracklet.name}",
        }
        if tracklet.identity is not None:
            self.save(self.identities[tracklet.identity])
            self._release(tracklet.identity)

    def open_stream(self, camera: str, stream: int) -> None:
        """Names of an earlier stream cannot come again."""
        self.streams[camera] = stream
        self.dirty |= {f"camera/{camera}"} | {f"ended/{camera}/{name}" for name in self.ended.pop(camera, {})}

    # identities

    def found(self, tracklet: Tracklet) -> Identity:
        """A new identity with this tracklet as its first."""
        identity = Identity(self.site.next_index, tracklet.name, tracklet.last)
        self.site.next_index += 1
        self.identities[identity.index] = identity
        self.exemplars[identity.index] = {}
        return identity

    def remove(self, index: int) -> None:
        """Forget an identity and everything that points at it."""
        for tracklet in list(self.exemplars[index]):
            self._drop(index, tracklet)
        identity = self.identities.pop(index)
        del self.exemplars[index]
        for camera, time in identity.seen.items():
            _discard(self._recent[camera], (time, index))
        for other in identity.met & self.identities.keys():
            self.identities[other].met.discard(index)
        self.dirty.add(f"identity/{index}")

    def unite(self, index: int, other: int) -> None:
        """`other` was `index` all along: everything of it is moved, and it is forgotten."""
        mine, theirs, exemplars = self.identities[index], self.identities[other], list(self.exemplars[other].values())
        self.remove(other)
        for tracklet in self.open.values():
            if tracklet.identity == other:
                tracklet.identity = index
                self.dirty.add(f"tracklet/{tracklet.name}")
        for exemplar in exemplars:
            self.put_exemplar(index, exemplar)
        for camera, time in theirs.seen.items():
            self.sight(mine, camera, time, theirs.pos[camera])
        for stranger in theirs.met & self.identities.keys():
            self.meet([index, stranger])
        self.save(mine)

    def save(self, identity: Identity) -> None:
        """Mark for storing."""
        identity.saved = self.site.clock
        self.dirty.add(f"identity/{identity.index}")

    def sight(self, identity: Identity, camera: str, time: int, pos: Point) -> None:
        """Its last sighting moves forward only."""
        if time > identity.last:
            identity.last = time
            self.mirror.touch(identity.index, time)
        if time >= identity.seen.get(camera, -1):
            recent = self._recent.setdefault(camera, [])
            if camera in identity.seen:
                _discard(recent, (identity.seen[camera], identity.index))
            bisect.insort(recent, (time, identity.index))
            identity.seen[camera], identity.pos[camera] = time, pos
        if time - identity.saved >= self.rules.retention_ns // 4:
            self.save(identity)

    def seen_since(self, camera: str, time: int) -> list[int]:
        """Identities that this camera saw at `time` or later."""
        recent = self._recent.get(camera, [])
        return [index for _, index in recent[bisect.bisect_left(recent, (time, -1)) :]]

    def meet(self, indexes: list[int]) -> None:
        """These were in one picture, so no two of them are one person."""
        for index in indexes:
            identity = self.identities[index]
            strangers = set(indexes) - identity.met - {index}
            if strangers:
                identity.met |= strangers
                self.save(identity)

    def busy(self) -> set[int]:
        """Identities with an open tracklet."""
        return {t.identity for t in self.open.values() if t.identity is not None}

    # exemplars

    def put_exemplar(self, index: int, exemplar: Exemplar) -> None:
        """Add or overwrite the one of its tracklet."""
        known = exemplar.tracklet in self.exemplars[index]
        self.exemplars[index][exemplar.tracklet] = exemplar
        self.centroids.pop(index, None)
        self._mirror(index, exemplar)
        if not known:
            heapq.heappush(self._expiry, (exemplar.time, index, exemplar.tracklet))
        self.dirty.add(f"exemplar/{index}/{exemplar.tracklet}")

    def drop_exemplar(self, index: int, tracklet: str) -> None:
        """Make room."""
        self._drop(index, tracklet)

    def _mirror(self, index: int, exemplar: Exemplar) -> None:
        last = self.identities[index].last
        self.mirror.put(index, exemplar.tracklet, exemplar.camera, exemplar.vector, last)

    def _drop(self, index: int, tracklet: str) -> None:
        del self.exemplars[index][tracklet]
        self.centroids.pop(index, None)
        self.mirror.drop(index, tracklet)
        self.dirty.add(f"exemplar/{index}/{tracklet}")

    def _release(self, index: int) -> None:
        if not self.exemplars[index] and index not in self.busy():
            self.remove(index)

    # camera means

    def centre(self, camera: str) -> F64:
        """(D,) what an average person looks like in this camera: its own mean, drawn to the site's, drawn to training's."""
        centre = self._centres.get(camera)
        if centre is None:
            prior, size = self.rules.mean_prior, len(self.rules.calibration.links.mean)
            none = Mean(np.zeros(size))
            site, own = self.means.get("", none), self.means.get(camera, none)
            general = (prior * self.rules.calibration.mean + site.total) / (prior + site.count)
            centre = self._centres[camera] = (prior * general + own.total) / (prior + own.count)
        return centre

    @property
    def means_version(self) -> int:
        """Changes whenever any `centre` may."""
        return self._means_version

    def teach_mean(self, camera: str, vector: F32, time: int) -> None:
        """Add an identity's first pooled vector in this camera."""
        for name in ("", camera):
            mean = self.means.setdefault(name, Mean(np.zeros(len(vector)), 0.0, time))
            mean.add(vector, time, self.rules.retention_ns)
            self.dirty.add(f"mean/{name}")
        self._means_changed()

    def _means_changed(self) -> None:
        self._means_version += 1
        self._centres.clear()
        self.centroids.clear()

    # retention

    def expire(self) -> None:
        """Nothing outlives its retention, by the site's clock."""
        horizon = self.site.clock - self.rules.retention_ns
        while self._expiry and self._expiry[0][0] <= horizon:
            _, index, name = heapq.heappop(self._expiry)
            exemplar = self.exemplars.get(index, {}).get(name)
            if exemplar is None:
                continue
            if exemplar.time > horizon:  # it grew since
                heapq.heappush(self._expiry, (exemplar.time, index, name))
                continue
            self._drop(index, name)
            self._release(index)
        for camera, names in self.ended.items():
            gone = _oldest(names, horizon)
            for name in gone:
                del names[name]
            self.dirty.update(f"ended/{camera}/{name}" for name in gone)
        for camera in [camera for camera, mean in self.means.items() if mean.time <= horizon]:
            del self.means[camera]
            self.dirty.add(f"mean/{camera}")
            self._means_changed()
        if self.arrivals and self.arrivals[0][0] <= self.site.clock - ARRIVALS_NS:
            self.arrivals = [a for a in self.arrivals if a[0] > self.site.clock - ARRIVALS_NS]
            self.dirty.add("arrivals")

    def count(self, what: str) -> None:
        """One more of it."""
        self.site.counters[what] = self.site.counters.get(what, 0) + 1

    # storing

    def entity(self, key: str) -> Any:
        """The entity of this key, or None when it is gone."""
        kind, _, name = key.partition("/")
        match kind:
            case "site":
                return self.site
            case "arrivals":
                return self.arrivals
            case "mean":
                return self.means.get(name)
            case "camera":
                return self.streams.get(name)
            case "ended":
                camera, _, tracklet = name.partition("/")
                return self.ended.get(camera, {}).get(tracklet)
            case "tracklet":
                return self.open.get(name)
            case "pool":
                return self.pools.get(name)
            case "identity":
                return self.identities.get(int(name))
            case _:
                index, _, tracklet = name.partition("/")
                return self.exemplars.get(int(index), {}).get(tracklet)

    def changes(self) -> dict[str, bytes | None]:
        """What changed since the last call, as stored; None: gone."""
        keys, self.dirty = sorted(self.dirty), set()
        found = ((key, self.entity(key)) for key in keys)
        return {key: None if entity is None else pack(entity) for key, entity in found}

    def expires(self, key: str) -> int | None:
        """When an entity that holds its own expiry must be gone, nanoseconds; None: with the whole state."""
        entity = self.entity(key)
        if isinstance(entity, Exemplar):
            return entity.time + self.rules.retention_ns
        if isinstance(entity, Identity):
            return max(entity.last, entity.saved) + self.rules.retention_ns
        return None


def restore(rules: Rules, entities: Mapping[str, bytes]) -> State:
    """The state that wrote these entities, to the last bit of every number."""
    state = State(rules)
    for key, data in entities.items():
        entity = unpack(key, data)
        kind, _, name = key.partition("/")
        match kind:
            case "site":
                state.site = entity
            case "arrivals":
                state.arrivals = entity
            case "mean":
                state.means[name] = entity
            case "camera":
                state.streams[name] = entity
            case "ended":
                camera, _, tracklet = name.partition("/")
                state.ended.setdefault(camera, {})[tracklet] = entity
            case "tracklet":
                state.open[name] = entity
            case "pool":
                state.pools[name] = entity
            case "identity":
                state.identities[entity.index] = entity
                state.exemplars.setdefault(entity.index, {})
            case _:
                state.exemplars.setdefault(int(name.partition("/")[0]), {})[entity.tracklet] = entity
    _rebuild(state)
    return state


def _rebuild(state: State) -> None:
    for index in state.exemplars.keys() - state.identities.keys():  # its identity's backstop was first
        del state.exemplars[index]
    for camera, names in state.ended.items():
        state.ended[camera] = dict(sorted(names.items(), key=lambda item: item[1]))
    for index in sorted(state.exemplars):
        for _, exemplar in sorted(state.exemplars[index].items()):
            state._mirror(index, exemplar)
            heapq.heappush(state._expiry, (exemplar.time, index, exemplar.tracklet))
    for identity in state.identities.values():
        for camera, time in identity.seen.items():
            bisect.insort(state._recent.setdefault(camera, []), (time, identity.index))
    for tracklet in sorted(state.open.values(), key=lambda t: (t.last, t.name)):
        state._open_in.setdefault(tracklet.camera, set()).add(tracklet.name)
        if tracklet.identity is None:
            continue
        if tracklet.identity not in state.identities:  # the backstop took it: the tracklet is judged again
            tracklet.identity, tracklet.probability, tracklet.fresh = None, 0.0, True
        elif not tracklet.frozen:
            state.sight(state.identities[tracklet.identity], tracklet.camera, tracklet.last, tracklet.pos)
    for index in list(state.identities):  # the backstop of its last exemplar may have been first
        state._release(index)


def _oldest(names: dict[str, int], horizon: int) -> list[str]:
    gone = []
    for name, time in names.items():  # in order of time
        if time > horizon:
            break
        gone.append(name)
    return gone


def _discard(recent: list[tuple[int, int]], entry: tuple[int, int]) -> None:
    place = bisect.bisect_left(recent, entry)
    if place < len(recent) and recent[place] == entry:
        del recent[place]
