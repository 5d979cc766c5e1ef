"""Tracklets to identities: the same person, a new one, or not sure yet. Pure: reads no clock and does no I/O.

A tracklet is pending until enough crops speak for a link or for somebody new; three seconds after its first frame the better
guess will do. Then it is linked or new; then ended. A glimpse of less than three crops is linked to nobody. Doubt founds
somebody new, so one person may have several identities: whenever a tracklet has ended, its identity is compared with all others
and merged with one that is surely the same person. A step takes one record in order of event time and changes the state alone;
the same state and record give the same decisions, on any machine run of the same versions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from matcher.entities import Exemplar, Point, Pool, Tracklet
from matcher.evidence import LEAST, Candidate, centred, compare, likeliest_twin, likeness, probability, same_person
from matcher.state import State
from stream.messages import EventKind, Evidence, RunnerUp

NEVER = 1e6  # cost of what is not to be assigned
CLOSE = 3.0  # log-odds between the two best candidates below which a newcomer is called ambiguous
HELD = 3  # crops in a row of somebody else


@dataclass(frozen=True, slots=True)
class Seen:
    """One person in one record."""

    tracklet: str
    foot: Point
    """Bottom centre of the box, as a share of the frame's width and height."""
    quality: float
    vector: NDArray[np.float32] | None
    """(D,) unit norm, or not embedded this time."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """One record of one camera: who was there, that it is idle until `time`, or that its file has ended."""

    kind: Literal["people", "idle", "end"]
    camera: str
    stream: int
    time: int
    people: tuple[Seen, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """An event without its number. Identities are named by the tracklet that founded them."""

    kind: EventKind
    founder: str
    camera: str
    previous_camera: str | None
    tracklet: str
    first_seen: int
    time: int
    probability: float | None
    evidence: Evidence
    merged: str | None = None
    """Of a merge: who founded the identity that is gone."""


def step(state: State, record: Sighting) -> list[Decision]:
    """Take one record; returns the decisions that it settles, in order."""
    time, camera = record.time, record.camera
    if record.kind == "end" and record.stream < state.streams.get(camera, -1):
        return []  # said again, of a stream that is over
    late = time < state.site.clock
    if state.site.first < 0:
        state.site.first = time
    state.site.clock = max(state.site.clock, time)
    state.dirty.add("site")
    out: list[Decision] = []
    if not late:
        out += _forget(state, time)
    if record.kind != "idle" and state.streams.get(camera) != record.stream:
        out += _close(state, state.tracklets_of(camera), time)
        state.open_stream(camera, record.stream)
    if record.kind == "end":
        out += _close(state, state.tracklets_of(camera), time)
    _see(state, record, late)
    if late:
        state.count("late")
        return out
    out += _close(state, [t for t in state.tracklets_of(camera) if time - t.last >= state.rules.left_ns], time)
    pending = [t for t in state.tracklets_of(camera) if t.identity is None and state.pools[t.name].weight > 0]
    for tracklet in pending:
        if not tracklet.due and time - tracklet.first >= state.rules.wait_ns:
            tracklet.due = tracklet.fresh = True
    if any(tracklet.fresh for tracklet in pending):
        out += _assign(state, pending, time, final=False)
        for tracklet in pending:
            if tracklet.fresh:
                tracklet.fresh = False
                state.dirty.add(f"tracklet/{tracklet.name}")
    return out


def _forget(state: State, time: int) -> list[Decision]:
    """Nothing outlives its retention, a tracklet of a camera that never came back neither."""
    gone = [t for t in state.open.values() if t.last <= time - state.rules.retention_ns]
    out = [end for t in sorted(gone, key=lambda t: (t.first, t.name)) for end in _end(state, t)]
    state.expire()
    return out


def _see(state: State, record: Sighting, late: bool) -> None:
    """Put what was seen into the open tracklets; a late record opens none."""
    present = []
    names = {t.name for t in state.tracklets_of(record.camera)} if record.people else set()
    for person in sorted(record.people, key=lambda p: p.tracklet):
        tracklet = state.open.get(person.tracklet)
        if tracklet is None:
            if late or person.tracklet in state.ended.get(record.camera, {}):
                continue
            if len(names) >= state.rules.max_open:
                state.count("too_many_open")
                continue
            tracklet = Tracklet(person.tracklet, record.camera, record.time, record.time, person.foot, person.foot)
            state.open_tracklet(tracklet)
            names.add(tracklet.name)
        state.dirty.add(f"tracklet/{tracklet.name}")
        if record.time >= tracklet.last:
            tracklet.last, tracklet.pos = record.time, person.foot
        if person.vector is not None and person.quality >= state.rules.min_quality and not tracklet.frozen:
            _add(state, tracklet, person.quality, person.vector, record.time)
        if tracklet.identity is not None and not tracklet.frozen:
            state.sight(state.identities[tracklet.identity], record.camera, record.time, person.foot)
            present.append(tracklet.identity)
    if len(present) > 1:
        state.meet(present)


def _add(state: State, tracklet: Tracklet, quality: float, vector: NDArray[np.float32], time: int) -> None:
    """Pool one crop, unless it looks like somebody else: three such in a row say that the tracker switched people."""
    pool = state.pools[tracklet.name]
    state.dirty.add(f"pool/{tracklet.name}")
    if pool.crops >= 2 and _like(state, tracklet.camera, pool, vector) < state.rules.switch_log_odds:
        pool.held.append((quality, vector))
        if len(pool.held) == HELD:
            if tracklet.identity is None:
                state.pools[tracklet.name] = _pooled(pool.held)
                tracklet.fresh, tracklet.last_crop = True, time
            else:
                tracklet.frozen = True
                state.count("frozen")
                state.save(state.identities[tracklet.identity])
            pool.held = []
        return
    pool.held = []
    pool.total = pool.total + np.float32(quality) * vector
    pool.weight += quality
    pool.crops += 1
    tracklet.fresh, tracklet.last_crop = True, max(tracklet.last_crop, time)
    if tracklet.identity is not None:
        _show(state, tracklet)


def _like(state: State, camera: str, pool: Pool, vector: NDArray[np.float32]) -> float:
    """Log-odds that a crop shows the person of the pool."""
    row, _ = state.rules.calibration.row(camera, camera)
    return row.a + row.b * float(centred(state, pool.vector, camera) @ centred(state, vector, camera))


def _pooled(held: list[tuple[float, NDArray[np.float32]]]) -> Pool:
    total = sum((np.float32(quality) * vector for quality, vector in held[1:]), np.float32(held[0][0]) * held[0][1])
    return Pool(total, sum(quality for quality, _ in held), len(held))


def _show(state: State, tracklet: Tracklet) -> None:
    """Let a tracklet leave its exemplar at its identity, past a gate that is stricter than linking."""
    pool, rules, index = state.pools[tracklet.name], state.rules, tracklet.identity
    if index is None or tracklet.frozen or tracklet.probability < rules.gate or not _well_seen(state, pool):
        return
    mine = state.exemplars[index]
    if tracklet.name not in mine and len(mine) >= rules.exemplars and not _spare(state, index):
        return  # tried again at the next crop
    state.put_exemplar(index, Exemplar(tracklet.name, tracklet.camera, pool.vector, pool.weight, tracklet.last_crop))


def _well_seen(state: State, pool: Pool) -> bool:
    """Whether a pool says enough to stand for somebody."""
    return pool.weight >= state.rules.min_weight or pool.crops >= state.rules.many_crops


def _spare(state: State, index: int) -> bool:
    """Drop the exemplar of an identity that tells least: the oldest in the camera with most. Those of open tracklets stay."""
    mine, counts = state.exemplars[index], dict[str, int]()
    for exemplar in mine.values():
        counts[exemplar.camera] = counts.get(exemplar.camera, 0) + 1
    ended = [e for e in mine.values() if e.tracklet not in state.open]
    if ended:
        state.drop_exemplar(index, min(ended, key=lambda e: (-counts[e.camera], e.time, e.tracklet)).tracklet)
    return bool(ended)


def _close(state: State, tracklets: Sequence[Tracklet], time: int) -> list[Decision]:
    out = []
    for tracklet in tracklets:
        if tracklet.identity is None and state.pools[tracklet.name].weight > 0:
            out += _assign(state, [tracklet], time, final=True)
        out += _end(state, tracklet)
        out += _merge(state, tracklet, time)
    return out


def _end(state: State, tracklet: Tracklet) -> list[Decision]:
    out = []
    if tracklet.identity is None:
        state.count("left_undecided")
    else:
        pool = state.pools[tracklet.name]
        card = Evidence(reason="left", crops=pool.crops, weight=pool.weight)
        out.append(_decision(state, "end", tracklet, tracklet.last, None, None, card))
    state.close_tracklet(tracklet)
    return out


def _merge(state: State, tracklet: Tracklet, time: int) -> list[Decision]:
    """Now that all of a tracklet was seen: unite its identity with who is surely the same person; the older one stays."""
    out: list[Decision] = []
    index, sure = tracklet.identity, 1 - state.rules.false_links
    while index is not None and state.exemplars.get(index):
        twin = likeliest_twin(state, index)
        if twin is None or twin[1] < sure:
            break
        other, p = twin
        index, other = min(index, other), max(index, other)
        names = tuple(sorted([*state.exemplars[index], *state.exemplars[other]]))
        card = Evidence(reason="alike", similarity=likeness(state, index, other), exemplars=names)
        gone = state.identities[other].founder
        state.unite(index, other)
        while len(state.exemplars[index]) > state.rules.exemplars and _spare(state, index):
            pass
        tracklet.identity = index
        decision = _decision(state, "merge", tracklet, time, None, p, card)
        out.append(replace(decision, merged=gone))
    return out


def _assign(state: State, rows: Sequence[Tracklet], time: int, *, final: bool) -> list[Decision]:
    """Decide pending tracklets of one camera together, at most one per identity."""
    rules = state.rules
    compared = compare(state, rows, time)
    found, columns = compared.found, compared.columns
    odds, partner = np.exp(compared.log_odds), _hungarian(compared.log_odds)
    out = []
    for i, tracklet in enumerate(rows):
        pool, due = state.pools[tracklet.name], final or tracklet.due
        p_new = 1 / (1 + float(odds[i].sum()))
        j = partner[i]
        if j is not None and pool.crops >= rules.least_crops:
            p = probability(state, odds, columns, i, j)
            credit = state.site.credit + rules.false_links - (1 - p)
            sure = p >= 1 - rules.false_links
            if (sure and (due or pool.crops >= rules.sure_crops)) or (due and p >= rules.floor and credit >= 0):
                state.site.credit = min(1.0, credit)
                competition = float(odds[:, j].sum()) - float(odds[i, j])
                out.append(_link(state, tracklet, found[i], columns[j], p, p_new, competition, sure, time))
                continue
        stranger = p_new >= 1 - rules.false_links
        soon = stranger and (pool.crops >= rules.stranger_crops or not state.identities)
        if (soon or due) and _well_seen(state, pool) and _room(state, columns):
            out.append(_new(state, tracklet, found[i], p_new, stranger, time))
    return out


def _hungarian(log_odds: NDArray[np.float64]) -> list[int | None]:
    """For each row its column, or None: nobody at a cost of 0."""
    rows, columns = log_odds.shape
    cost = np.full((rows, columns + rows), NEVER)
    cost[:, :columns] = np.where(log_odds >= LEAST, -log_odds + 1e-9 * np.arange(columns), NEVER)
    cost[np.arange(rows), columns + np.arange(rows)] = 0
    _, chosen = linear_sum_assignment(cost)
    return [int(j) if j < columns else None for j in chosen]


def _room(state: State, columns: Sequence[int]) -> bool:
    """Make room for one more identity; False when nobody can be let go now."""
    if len(state.identities) < state.rules.max_identities:
        return True
    oldest = state.mirror.oldest(state.busy() | set(columns))
    if oldest is None:
        return False
    state.remove(oldest)
    state.count("evicted")
    return True


def _link(
    state: State,
    tracklet: Tracklet,
    found: list[Candidate],
    index: int,
    p: float,
    p_new: float,
    competition: float,
    sure: bool,
    time: int,
) -> Decision:
    chosen = next(c for c in found if c.identity == index)
    identity, other = state.identities[index], next((c for c in found if c.identity != index), None)
    previous = max(identity.seen, key=lambda camera: (identity.seen[camera], camera), default=None)
    names = tuple(sorted(state.exemplars[index]))
    runner_up = None if other is None else _runner_up(state, other, same_person(state, index, other.identity))
    _decide(state, tracklet, index, p, time)
    pool = state.pools[tracklet.name]
    card = Evidence(
        reason="sure" if sure else "credit",
        similarity=chosen.similarity,
        runner_up=runner_up,
        gap_s=chosen.gap_s,
        new_probability=p_new,
        appearance_log_odds=chosen.appearance,
        time_log_odds=chosen.time,
        competition=competition,
        row=chosen.row,
        credit=state.site.credit,
        crops=pool.crops,
        weight=pool.weight,
        exemplars=names,
    )
    return _decision(state, "link", tracklet, time, previous, p, card)


def _new(state: State, tracklet: Tracklet, found: list[Candidate], p_new: float, stranger: bool, time: int) -> Decision:
    state.arrivals.append((time, p_new))
    state.dirty.add("arrivals")
    best = found[0] if found else None
    runner_up = None if best is None else _runner_up(state, best, min(1.0, math.exp(best.log_odds) * p_new))
    _decide(state, tracklet, state.found(tracklet).index, 1.0, time)
    pool = state.pools[tracklet.name]
    ambiguous = len(found) > 1 and found[0].log_odds - found[1].log_odds <= CLOSE
    card = Evidence(
        reason="stranger" if stranger else "ambiguous" if ambiguous else "unsure",
        runner_up=runner_up,
        new_probability=p_new,
        credit=state.site.credit,
        crops=pool.crops,
        weight=pool.weight,
    )
    return _decision(state, "new", tracklet, time, None, p_new, card)


def _decide(state: State, tracklet: Tracklet, index: int, p: float, time: int) -> None:
    identity = state.identities[index]
    first_here = tracklet.camera not in identity.seen
    tracklet.identity, tracklet.probability = index, p
    state.dirty.add(f"tracklet/{tracklet.name}")
    state.sight(identity, tracklet.camera, tracklet.last, tracklet.pos)
    state.save(identity)
    if first_here:
        state.teach_mean(tracklet.camera, state.pools[tracklet.name].vector, time)
    _show(state, tracklet)


def _runner_up(state: State, other: Candidate, same: float) -> RunnerUp:
    founder = state.identities[other.identity].founder
    return RunnerUp(identity=founder, similarity=other.similarity, log_odds=other.log_odds, same_person=same)


def _decision(
    state: State,
    kind: EventKind,
    tracklet: Tracklet,
    time: int,
    previous_camera: str | None,
    p: float | None,
    card: Evidence,
) -> Decision:
    founder = state.identities[_decided(tracklet)].founder
    return Decision(kind, founder, tracklet.camera, previous_camera, tracklet.name, tracklet.first, time, p, card)


def _decided(tracklet: Tracklet) -> int:
    if tracklet.identity is None:
        raise ValueError(f"tracklet {tracklet.name} has no identity yet")
    return tracklet.identity
