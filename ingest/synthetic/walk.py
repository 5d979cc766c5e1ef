"""Who walks where and when: people come into areas through doors, cross them, wait, go, and return.

The walk depends on seed, people, cameras and crowd alone, not on how it is filmed or for how long: a longer scene begins
like a shorter one. Everybody's plan is drawn in advance; a small step-by-step simulation lets them make way for each other.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.scene import SceneSettings
from ingest.synthetic.world import Area, World

F64 = NDArray[np.float64]

STEP_S = 0.1
WARM_UP_S = 45.0
"""Simulated before the scene begins, so that it begins in the middle of a day."""
_CLOSE_M = 0.34
"""A waypoint counts as reached from here."""
_PATIENCE_S = 4.0
"""Somebody who came no nearer for this long goes on to the next point."""


@dataclass(frozen=True, slots=True)
class Walk:
    """Everybody's motion on a grid of STEP_S from scene time 0. T steps, P people."""

    position: F64
    """(T, P, 2) plan metres."""
    heading: F64
    """(T, P) radians, anticlockwise from east, unwrapped."""
    distance: F64
    """(T, P) metres walked: drives the gait."""
    speed: F64
    """(T, P) metres per second."""
    area: NDArray[np.int16]
    """(T, P) index of the area, -1 while unseen between areas."""

    def at(self, time_s: float) -> tuple[F64, F64, F64, F64, NDArray[np.int16]]:
        """position (P, 2), heading (P,), distance (P,), speed (P,) and area (P,) at a scene time, interpolated."""
        place = min(max(time_s / STEP_S, 0.0), len(self.area) - 1.001)
        low = int(place)
        share = place - low

        def between(values: F64) -> F64:
            return np.asarray(values[low] * (1 - share) + values[low + 1] * share)

        stays = self.area[low] == self.area[low + 1]
        area = np.where(stays, self.area[low], -1).astype(np.int16)
        return between(self.position), between(self.heading), between(self.distance), between(self.speed), area


@dataclass(frozen=True, slots=True)
class _Visit:
    """One stay in an area: in by the first points, out by the last."""

    area: int
    points: F64
    """(K, 2)"""
    pauses: F64
    """(K,) seconds to stand at each point."""
    facing: F64
    """(K,) radians to look at while standing."""
    unseen_s: float
    """From leaving to the next visit."""


@dataclass(slots=True)
class _Walker:
    visits: list[_Visit]
    leader: int
    starts_s: float
    lag_s: float
    visit: int = -1
    point: int = 0
    wakes_s: float = 0.0
    left_s: list[float] = field(default_factory=list)
    """When each next visit begins, for those who walk along."""
    nearest_m: float = math.inf
    progress_s: float = 0.0


def build_walk(settings: SceneSettings, world: World) -> Walk:
    """Simulate everybody for the length of the scene."""
    seconds = settings.seconds + 2 / settings.fps + 1.0
    people = settings.people
    walkers, speeds, aside = _cast(settings, world, seconds)
    steps, warm = math.ceil(seconds / STEP_S) + 2, round(WARM_UP_S / STEP_S)
    out = Walk(
        np.zeros((steps, people, 2)), np.zeros((steps, people)), np.zeros((steps, people)), np.zeros((steps, people)),
        np.full((steps, people), -1, np.int16),
    )  # fmt: skip
    crowd = _Crowd(walkers, speeds, aside, world)
    for step in range(-warm, steps):
        crowd.step(step * STEP_S)
        if step >= 0:
            out.position[step], out.heading[step], out.distance[step] = crowd.position, crowd.heading, crowd.distance
            out.speed[step], out.area[step] = np.hypot(*crowd.velocity.T), crowd.area
    return out


class _Crowd:
    """The state of everybody, one step after the other."""

    def __init__(self, walkers: list[_Walker], speeds: F64, aside: F64, world: World) -> None:
        people = len(walkers)
        self.walkers, self.speeds, self.aside, self.world = walkers, speeds, aside, world
        self.position, self.velocity, self.target = np.zeros((people, 2)), np.zeros((people, 2)), np.zeros((people, 2))
        self.heading, self.distance, self.look = np.zeros(people), np.zeros(people), np.zeros(people)
        self.standing = np.zeros(people, bool)
        self.area = np.full(people, -1, np.int16)
        for walker in walkers:
            walker.wakes_s = walker.starts_s

    def step(self, now: float) -> None:
        for person, walker in enumerate(self.walkers):
            if now >= walker.wakes_s:
                self._think(person, walker, now)
        present = np.flatnonzero(self.area >= 0)
        if len(present):
            self._move(present)

    def _think(self, person: int, walker: _Walker, now: float) -> None:
        """Come in, go on to the next point, stand, or leave."""
        if self.area[person] < 0:
            walker.visit, walker.point = (walker.visit + 1) % len(walker.visits), 1
            visit = walker.visits[walker.visit]
            self.area[person] = visit.area
            self.position[person] = visit.points[0] + self._shift(person, visit, 0)
            way = visit.points[1] - visit.points[0]
            self.heading[person] = math.atan2(way[1], way[0])
            self.velocity[person] = 0.0
            self._aim(person, walker, visit, now)
            return
        visit = walker.visits[walker.visit]
        if self.standing[person]:  # has waited long enough
            self.standing[person] = False
            walker.point += 1
            self._aim(person, walker, visit, now)
            return
        gap = float(np.hypot(*(self.target[person] - self.position[person])))
        if gap < walker.nearest_m - 0.1:
            walker.nearest_m, walker.progress_s = gap, now
        if gap > _CLOSE_M and now - walker.progress_s < _PATIENCE_S:
            return
        if walker.point == len(visit.points) - 1:
            self._leave(person, walker, visit, now)
        elif visit.pauses[walker.point] > 0:
            self.standing[person], self.look[person] = True, visit.facing[walker.point]
            walker.wakes_s = now + visit.pauses[walker.point]
        else:
            walker.point += 1
            self._aim(person, walker, visit, now)

    def _aim(self, person: int, walker: _Walker, visit: _Visit, now: float) -> None:
        self.target[person] = visit.points[walker.point] + self._shift(person, visit, walker.point)
        walker.nearest_m, walker.progress_s = math.inf, now

    def _shift(self, person: int, visit: _Visit, point: int) -> F64:
        """People of a group walk side by side."""
        before, after = visit.points[max(0, point - 1)], visit.points[min(len(visit.points) - 1, point + 1)]
        way = after - before
        length = max(1e-6, float(np.hypot(*way)))
        doorway = 0.6 if point < 2 or point >= len(visit.points) - 2 else 1.0
        return np.asarray(np.array([way[1], -way[0]]) / length * self.aside[person] * doorway)

    def _leave(self, person: int, walker: _Walker, visit: _Visit, now: float) -> None:
        self.area[person], self.velocity[person] = -1, 0.0
        leader = self.walkers[walker.leader]
        together = leader is not walker and len(leader.left_s) > len(walker.left_s)
        walker.wakes_s = leader.left_s[len(walker.left_s)] + walker.lag_s if together else now + visit.unseen_s
        walker.wakes_s = max(walker.wakes_s, now + 1.0)
        walker.left_s.append(walker.wakes_s)

    def _move(self, present: NDArray[np.int64]) -> None:
        position, velocity = self.position[present], self.velocity[present]
        way = self.target[present] - position
        length = np.maximum(np.hypot(way[:, 0], way[:, 1]), 1e-6)[:, None]
        wish = way / length * self.speeds[present][:, None]
        wish[self.standing[present]] = 0.0

        apart = position[:, None] - position[None]
        gap = np.hypot(apart[..., 0], apart[..., 1]) + 1e-6
        strangers = (self.area[present][:, None] == self.area[present][None]) & ~np.eye(len(present), dtype=bool)
        push = np.where(strangers, np.exp(-(gap - 0.55) / 0.22), 0.0)
        push = np.minimum(push, 3.0) * 0.9
        away = apart / gap[..., None]
        # To the right of the other as well as away: two who meet head on pass, instead of both stopping.
        right = np.stack([away[..., 1], -away[..., 0]], axis=-1)
        force = ((away + 0.5 * right) * push[..., None]).sum(axis=1)
        force[self.standing[present]] *= 0.25

        velocity += (wish + force - velocity) * (STEP_S / 0.4)
        fast = np.hypot(velocity[:, 0], velocity[:, 1])
        velocity *= np.minimum(1.0, 1.25 * self.speeds[present] / np.maximum(fast, 1e-6))[:, None]
        position = position + velocity * STEP_S
        position = self._out_of_things(position, self.area[present])
        moved = position - self.position[present]
        self.position[present], self.velocity[present] = position, moved / STEP_S
        self.distance[present] += np.hypot(moved[:, 0], moved[:, 1])

        pace = np.hypot(moved[:, 0], moved[:, 1]) / STEP_S
        facing = np.where(pace > 0.25, np.arctan2(moved[:, 1], moved[:, 0]), self.heading[present])
        facing = np.where(self.standing[present] & (pace < 0.5), self.look[present], facing)
        turn = (facing - self.heading[present] + math.pi) % (2 * math.pi) - math.pi
        self.heading[present] += np.clip(turn * (STEP_S / 0.25), -4.0 * STEP_S, 4.0 * STEP_S)

    def _out_of_things(self, position: F64, areas: NDArray[np.int16]) -> F64:
        for index in np.unique(areas):
            here = areas == index
            for x, y, radius in self.world.areas[index].obstacles:
                offset = position[here] - (x, y)
                gap = np.hypot(offset[:, 0], offset[:, 1])
                outwards = np.maximum(0.0, radius + 0.22 - gap) / np.maximum(gap, 1e-6)
                position[here] += offset * outwards[:, None]
        return position


def _cast(settings: SceneSettings, world: World, seconds: float) -> tuple[list[_Walker], F64, F64]:
    """Plans, speeds (P,) and sideways places within the group (P,) of everybody."""
    rng = settings.rng("cast")
    walkers: list[_Walker] = []
    speeds, aside = np.zeros(settings.people), np.zeros(settings.people)
    person = 0
    while person < settings.people:
        size = min(int(rng.choice([1, 2, 3], p=[0.72, 0.22, 0.06])), settings.people - person)
        late = rng.random() < 0.12
        starts = rng.uniform(0.0, 30.0) if late else rng.uniform(-WARM_UP_S, -WARM_UP_S + 25.0)
        speed = rng.uniform(1.2, 1.6)
        visits = _plan(settings, world, person, speed, seconds + WARM_UP_S)
        for k in range(size):
            walkers.append(_Walker(visits, person, starts + 0.5 * k, lag_s=rng.uniform(0.2, 0.9)))
            speeds[person + k] = speed * rng.uniform(0.97, 1.03)
            aside[person + k] = (k - (size - 1) / 2) * rng.uniform(0.65, 0.85) if size > 1 else rng.uniform(-0.15, 0.15)
        person += size
    return walkers, speeds, aside


def _plan(settings: SceneSettings, world: World, person: int, speed: float, seconds: float) -> list[_Visit]:
    """Visits until well after the end of the scene."""
    rng = settings.rng("plan", person)
    cameras_in = np.bincount(world.area_of, minlength=len(world.areas)).astype(float)
    first = int(rng.choice(len(world.areas), p=cameras_in / cameras_in.sum()))
    area, entry = first, int(rng.integers(3))
    visits: list[_Visit] = []
    total = 0.0
    while total < seconds + 60:
        here = world.areas[area]
        exit_ = int(rng.choice([door for door in range(3) if door != entry])) if rng.random() < 0.9 else entry
        following, door = _next(rng, world, area, here.doors[exit_].aside)
        way = float(np.hypot(*(world.areas[following].doors[door].aside - here.doors[exit_].aside)))
        unseen = way / speed + rng.exponential(1.2)
        if rng.random() < 0.08:  # goes away, and returns
            unseen += rng.uniform(10.0, 25.0)
        unseen = min(max(unseen / settings.crowd, 3.0), 40.0)
        visit = _visit(rng, world, here, entry, exit_, unseen)
        visits.append(visit)
        walked = np.hypot(*np.diff(visit.points, axis=0).T).sum() / speed
        total += float(walked + visit.pauses.sum()) + unseen
        area, entry = following, door
    return visits


def _next(rng: np.random.Generator, world: World, area: int, place: F64) -> tuple[int, int]:
    """Another area, rather a near one, and the door to enter by; now and then the same area again."""
    ways: list[tuple[int, int]] = []
    odds: list[float] = []
    for other in world.areas:
        for door, gate in enumerate(other.doors):
            weight = world.area_of.count(other.index) * (0.12 if other.index == area else 1.0)
            ways.append((other.index, door))
            odds.append(math.exp(-float(np.hypot(*(gate.aside - place))) / 12.0) * weight)
    if len(world.areas) == 1:
        odds = [1.0] * len(ways)
    return ways[int(rng.choice(len(ways), p=np.array(odds) / sum(odds)))]


def _visit(rng: np.random.Generator, world: World, area: Area, entry: int, exit_: int, unseen_s: float) -> _Visit:
    first, last = area.doors[entry], area.doors[exit_]
    filming = [camera for camera, index in enumerate(world.area_of) if index == area.index]
    points = [first.aside, first.outside, first.inside]
    for _ in range(int(rng.choice([0, 1, 1, 1]))):
        points.append(_spot(rng, world, area, filming, points[-1]))
    if not _is_free(area, points[-1], last.inside):
        points.append(_spot(rng, world, area, filming, points[-1], towards=last.inside))
    points += [last.inside, last.outside, last.aside]
    pauses = np.zeros(len(points))
    if len(points) > 6 and rng.random() < 0.25:
        pauses[int(rng.integers(3, len(points) - 3))] = rng.uniform(1.5, 4.5)
    return _Visit(area.index, np.array(points), pauses, rng.uniform(-math.pi, math.pi, len(points)), unseen_s)


def _spot(
    rng: np.random.Generator, world: World, area: Area, filming: list[int], start: F64, towards: F64 | None = None
) -> F64:
    """A free place before a camera that can be reached in a straight line, as far as forty tries find one."""
    best, best_worth = start, -1.0
    for _ in range(40):
        local = np.array([rng.uniform(-0.5, 0.5) * (area.width_m - 1.6), rng.uniform(3.4, area.length_m - 0.9)])
        spot = area.to_plan(local)
        worth = 2.0 * any(world.sees(camera, spot) for camera in filming) + 1.5 * _is_free(area, start, spot)
        worth += min(1.0, float(np.hypot(*(spot - start))) / 4.0)
        if towards is not None:
            worth += 1.5 * _is_free(area, spot, towards)
        if worth > best_worth:
            best, best_worth = spot, worth
    return best


def _is_free(area: Area, start: F64, end: F64) -> bool:
    """Whether the straight way passes all obstacles."""
    if not len(area.obstacles):
        return True
    way = end - start
    offset = area.obstacles[:, :2] - start
    along = np.clip(offset @ way / max(1e-9, float(way @ way)), 0, 1)
    gap = np.hypot(*(offset - along[:, None] * way).T)
    return bool((gap > area.obstacles[:, 2] + 0.3).all())
