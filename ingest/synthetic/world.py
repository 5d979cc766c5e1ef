"""The seeded site: a floor plan of rooms and streets with doors, furniture and the cameras that film them.

Each block of four cameras films three areas: the first two share a hall and overlap, the others are alone. Between
areas people walk unseen, as long as the way on the plan is. Metres; x east, y north, z up, the floor at z = 0.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.camera import Pinhole, look_at
from ingest.synthetic.furniture import Solid, furnish, shell
from ingest.synthetic.raycast import rows, trace
from ingest.synthetic.scene import SceneSettings

F64 = NDArray[np.float64]

PITCH_M = 14.0
"""Distance between the middles of neighbouring areas: 2 to 8 s on foot from door to door."""
NEAREST_M = 3.3
"""Nobody is sent nearer than this to a camera: at 640x360 they would be taller than 250 pixels."""


@dataclass(frozen=True, slots=True)
class Door:
    """A way in and out of an area: the points one passes, on the plan."""

    inside: F64
    """(2,) a step inside."""
    outside: F64
    """(2,) behind the wall."""
    aside: F64
    """(2,) round the corner, where no camera sees."""


@dataclass(frozen=True, slots=True)
class Light:
    """How an area is lit."""

    ambient: float
    direction: F64
    """(3,) unit, towards the light."""
    strength: float
    tint: F64
    """(3,) of the direct light."""


@dataclass(frozen=True, slots=True)
class Area:
    """One room or stretch of street."""

    index: int
    style: str
    origin: F64
    """(2,) where the middle of its southern edge (before turning) lies on the plan."""
    turn: float
    """Radians, a multiple of a right angle: its own axes to the plan's."""
    width_m: float
    length_m: float
    height_m: float
    doors: tuple[Door, ...]
    solids: tuple[Solid, ...]
    """In the area's own axes: x across, y from the first camera's wall to the far one."""
    obstacles: F64
    """(K, 3) discs on the plan that people walk round: x, y, radius."""
    light: Light

    def to_plan(self, points: F64) -> F64:
        """(..., 2 or 3) points of the area's own axes on the plan."""
        return _turned(points, self.turn) + np.pad(self.origin, (0, points.shape[-1] - 2))

    def to_own(self, points: F64) -> F64:
        """(..., 2 or 3) points of the plan in the area's own axes."""
        return _turned(points - np.pad(self.origin, (0, points.shape[-1] - 2)), -self.turn)

    def rows(self) -> F64:
        """The solids as `raycast` takes them."""
        return rows(
            [s.kind for s in self.solids],
            [s.centre for s in self.solids],
            [s.half for s in self.solids],
            [s.yaw for s in self.solids],
        )


@dataclass(frozen=True, slots=True)
class World:
    """Everything that stands still."""

    areas: tuple[Area, ...]
    cameras: tuple[Pinhole, ...]
    area_of: tuple[int, ...]
    """Per camera."""

    def sees(self, camera: int, point: F64, margin: float = 0.04) -> bool:
        """Whether somebody who stands at `point` (2,) would be in the camera's picture from knee to head."""
        pinhole = self.cameras[camera]
        pixels, depth = pinhole.project(np.array([[*point, 0.45], [*point, 1.7]]))
        height, width = pinhole.size_hw
        across, down = pixels[:, 0] / width, pixels[:, 1] / height
        inside = (across > margin) & (across < 1 - margin) & (down > -0.02) & (down < 1)
        return bool(depth.min() > NEAREST_M * 0.8 and inside.all())


def build_world(settings: SceneSettings) -> World:
    """The site of these settings; its plan depends on seed and cameras alone."""
    areas: list[Area] = []
    cameras: list[Pinhole] = []
    area_of: list[int] = []
    for camera in range(settings.cameras):
        shares = camera % 4 == 1
        if not shares:
            areas.append(_area(settings, len(areas), hall=camera % 4 == 0 and camera + 1 < settings.cameras))
        area_of.append(len(areas) - 1)
        cameras.append(_pose(settings, camera, areas[-1], second=shares))
    filmed_by = [[cameras[c] for c, index in enumerate(area_of) if index == area.index] for area in areas]
    areas = [_with_hidden_exits(area, pinholes) for area, pinholes in zip(areas, filmed_by, strict=True)]
    return World(tuple(areas), tuple(cameras), tuple(area_of))


def _with_hidden_exits(area: Area, pinholes: list[Pinhole]) -> Area:
    """Move the points where people vanish until no camera sees them: to the other side of the door, or further away."""
    doors = []
    for door in area.doors:
        way = door.aside - door.outside
        tries = [door.outside + way * factor for factor in (1.0, -1.0, 1.6, -1.6, 2.2, -2.2, 3.0, 5.0, 8.0)]
        hidden = (point for point in tries if not any(_in_sight(area, pinhole, point) for pinhole in pinholes))
        doors.append(replace(door, aside=next(hidden, tries[-1])))
    return replace(area, doors=tuple(doors))


def _in_sight(area: Area, pinhole: Pinhole, point: F64) -> bool:
    """Whether any of somebody who stands there is in the picture with nothing before it."""
    ring = point + 0.35 * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    body = np.concatenate([np.column_stack([ring, np.full(5, z)]) for z in (0.1, 0.9, 1.75)])
    pixels, depth = pinhole.project(body)
    height, width = pinhole.size_hw
    inside = (depth > 0.2) & (pixels >= 0).all(axis=1) & (pixels < (width, height)).all(axis=1)
    if not inside.any():
        return False
    eye = area.to_own(pinhole.position)
    rays = np.ascontiguousarray((area.to_own(body[inside]) - eye)[None])
    solids = area.rows()
    distance, owner, normal = np.empty(rays.shape[:2]), np.empty(rays.shape[:2], np.int64), np.zeros(rays.shape)
    everywhere = np.tile([0, 0, rays.shape[1], 1], (len(solids), 1))
    trace(eye, rays, solids, everywhere, distance, owner, normal)
    return bool((distance > 0.999).any())


def _turned(points: F64, angle: float) -> F64:
    cos, sin = round(math.cos(angle)), round(math.sin(angle))
    out = points.copy()
    out[..., 0] = cos * points[..., 0] - sin * points[..., 1]
    out[..., 1] = sin * points[..., 0] + cos * points[..., 1]
    return out


def _area(settings: SceneSettings, index: int, hall: bool) -> Area:
    rng = settings.rng("area", index)
    style = str(rng.choice(["lobby", "shop", "station"] if hall else ["corridor", "street", "shop", "lobby", "street"]))
    if hall:
        width, length = rng.uniform(9.5, 11.5), rng.uniform(11.0, 12.5)
    elif style == "corridor":
        width, length = rng.uniform(5.0, 6.5), rng.uniform(11.0, 12.5)
    else:
        width, length = rng.uniform(8.0, 10.0), rng.uniform(10.0, 12.0)
    height = {"corridor": rng.uniform(2.8, 3.3), "street": 9.0}.get(style, rng.uniform(3.3, 4.6))
    turn = float(rng.integers(4)) * math.pi / 2
    columns = 2
    cell = np.array([index % columns, index // columns]) * PITCH_M + rng.uniform(-1, 1, 2)
    origin = cell - _turned(np.array([0.0, length / 2]), turn)

    gaps = _gaps(rng, style, width, length)
    solids = shell(rng, style, width, length, height, gaps)
    keep_free = np.array([[*gap.inside, 1.0] for gap in gaps] + [[0.0, 0.0, 2.9]])
    pieces, discs = furnish(rng, style, width, length, height, keep_free, many=hall)
    area = Area(
        index, style, origin, turn, width, length, height, (), (*solids, *pieces), np.zeros((0, 3)), _light(rng, style)
    )
    doors = tuple(Door(*(area.to_plan(p) for p in (gap.inside, gap.outside, gap.aside))) for gap in gaps)
    obstacles = np.concatenate([area.to_plan(discs[:, :2]), discs[:, 2:]], axis=1)
    return Area(index, style, origin, turn, width, length, height, doors, area.solids, obstacles, area.light)


def _gaps(rng: np.random.Generator, style: str, width: float, length: float) -> list[Door]:
    """Doors in the area's own axes: left, right, and one in the far wall or facade."""
    side, far = width / 2, rng.uniform(-0.3, 0.3) * width
    left, right = rng.uniform(5.0, length - 2.0), rng.uniform(5.0, length - 2.0)
    if style == "street":  # its ends are open: people walk out of the picture
        left, right = rng.uniform(5.0, 8.5), rng.uniform(5.0, 8.5)
        ways = [
            ([-side - 0.5, left], [-side - 2.0, left], [-side - 3.2, left]),
            ([side + 0.5, right], [side + 2.0, right], [side + 3.2, right]),
        ]
    else:
        ways = [
            ([-side + 0.6, left], [-side - 0.9, left], [-side - 0.9, left - 2.2]),
            ([side - 0.6, right], [side + 0.9, right], [side + 0.9, right - 2.2]),
        ]
    ways.append(([far, length - 0.6], [far, length + 0.9], [far + (2.2 if far < 0 else -2.2), length + 0.9]))
    return [Door(*(np.array(point) for point in way)) for way in ways]


def _light(rng: np.random.Generator, style: str) -> Light:
    azimuth = rng.uniform(0, 2 * math.pi)
    if style == "street":
        height, ambient, strength = rng.uniform(0.6, 1.2), rng.uniform(0.5, 0.7), rng.uniform(0.4, 0.7)
        tint = np.array([1.0, rng.uniform(0.93, 1.0), rng.uniform(0.82, 0.97)])
    else:
        height, ambient, strength = rng.uniform(1.6, 3.5), rng.uniform(0.7, 0.85), rng.uniform(0.3, 0.45)
        tint = np.array([1.0, rng.uniform(0.94, 1.0), rng.uniform(0.86, 1.02)])
    direction = np.array([math.cos(azimuth), math.sin(azimuth), height])
    return Light(ambient, direction / np.linalg.norm(direction), strength, tint)


def _pose(settings: SceneSettings, camera: int, area: Area, second: bool) -> Pinhole:
    rng = settings.rng("pose", camera)
    width, length = area.width_m, area.length_m
    field = math.radians(rng.uniform(62, 76))
    height = min(rng.uniform(2.6, 3.5), area.height_m - 0.35)
    if second:  # from a far corner across the hall: the middle is seen by both
        side = rng.choice([-1.0, 1.0])
        position = np.array([side * (width / 2 - 0.35), length - 0.35, height])
        target = np.array([-side * rng.uniform(0.05, 0.2) * width, rng.uniform(0.3, 0.42) * length, 0.9])
    else:
        reach = 0.38 if area.style != "corridor" else 0.3
        position = np.array([rng.uniform(-reach, reach) * width, 0.3, height])
        target = np.array([rng.uniform(-0.1, 0.1) * width - 0.25 * position[0], rng.uniform(0.55, 0.64) * length, 0.9])
    focal = settings.width / 2 / math.tan(field / 2)
    roll = math.radians(rng.normal(0, 0.8))
    return look_at(area.to_plan(position), area.to_plan(target), focal, (settings.height, settings.width), roll)
