"""What stands in an area: walls with door openings, floor, furniture, and what hides people from a camera."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.raycast import BALL, BOX, CYLINDER

if TYPE_CHECKING:
    from ingest.synthetic.world import Door

F64 = NDArray[np.float64]

DOOR_M = 2.3
"""Height of a door opening."""
HALF_DOOR_M = 0.95


@dataclass(frozen=True, slots=True)
class Solid:
    """A box, an upright cylinder or an ellipsoid, in the area's own axes."""

    kind: int
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    surface: str
    colour: F64
    other: F64
    size_m: float = 0.5
    """Size of the surface's pattern."""
    yaw: float = 0.0
    glow: float = 0.0
    """Light of its own: lamps and screens."""


def _box(x: Sequence[float], y: Sequence[float], z: Sequence[float], *look: object) -> Solid:
    """A box from its extents."""
    centre = tuple((a + b) / 2 for a, b in (x, y, z))
    half = tuple(max(1e-3, (b - a) / 2) for a, b in (x, y, z))
    return Solid(BOX, centre, half, *look)  # type: ignore[arg-type]


def _colour(rng: np.random.Generator, low: float, high: float, colourful: float) -> F64:
    """A grey between low and high, moved towards a random hue, warm ones rather than others, by `colourful`."""
    hue = rng.random(3) * (1.0, 0.9, 0.75) + 0.15
    grey = rng.uniform(low, high)
    return np.asarray(np.clip(grey * (1 - colourful + colourful * hue / hue.mean()), 0.03, 0.95))


def shell(
    rng: np.random.Generator, style: str, width: float, length: float, height: float, doors: "Sequence[Door]"
) -> list[Solid]:
    """Floor, walls and ceiling of an area, with openings at its doors and a dim corridor behind each."""
    side, wide = width / 2, width / 2 + 9
    floor_surface = str(rng.choice(_FLOORS[style]))
    floor = _colour(rng, 0.3, 0.68, 0.12) * (np.array([1.15, 0.95, 0.7]) if floor_surface == "planks" else 1.0)
    accent = np.clip(floor * rng.uniform(0.6, 1.3), 0, 1)
    ground: tuple[object, ...] = (floor_surface, floor, accent, rng.uniform(0.3, 0.9))
    solids = [_box((-wide, wide), (-4, length + 9), (-0.2, 0.0), *ground)]
    if style == "street":
        return solids + _street(rng, side, length, height, doors)
    wall_surface = str(rng.choice(["plain", "panels", "bricks", "tiles", "glass", "panels"]))
    wall: tuple[object, ...] = (
        wall_surface,
        _colour(rng, 0.5, 0.85, 0.13),
        _colour(rng, 0.25, 0.7, 0.35),
        rng.uniform(0.4, 0.9),
    )
    far_wall: tuple[object, ...] = (
        str(rng.choice(["plain", "glass", "panels", "bricks", wall_surface])),
        _colour(rng, 0.45, 0.85, 0.18),
        _colour(rng, 0.25, 0.7, 0.35),
        rng.uniform(0.4, 0.9),
    )
    solids.append(_box((-wide, wide), (-4, length + 9), (height, height + 0.2), "tiles", *_pair(0.72), 0.6))
    left, right, far = doors
    for x, door in ((-side, left), (side, right)):
        edge = (x - 0.2, x) if x < 0 else (x, x + 0.2)
        at = float(door.outside[1])
        solids += [
            _box(edge, (-0.2, at - HALF_DOOR_M), (0, height), *wall),
            _box(edge, (at + HALF_DOOR_M, length), (0, height), *wall),
            _box(edge, (at - HALF_DOOR_M, at + HALF_DOOR_M), (DOOR_M, height), *wall),
        ]
        back = (x - 2.4, x - 2.2) if x < 0 else (x + 2.2, x + 2.4)
        solids.append(_box(back, (at - 6, at + 6), (0, height), "panels", *_pair(0.45), 0.6))
    at = float(far.outside[0])
    solids += [
        _box((-side - 0.2, at - HALF_DOOR_M), (length, length + 0.2), (0, height), *far_wall),
        _box((at + HALF_DOOR_M, side + 0.2), (length, length + 0.2), (0, height), *far_wall),
        _box((at - HALF_DOOR_M, at + HALF_DOOR_M), (length, length + 0.2), (DOOR_M, height), *far_wall),
        _box((at - 7, at + 7), (length + 2.2, length + 2.4), (0, height), "plain", *_pair(0.5), 0.6),
        _box((-side - 0.2, side + 0.2), (-0.25, -0.05), (0, height), *wall),
    ]
    for x in np.arange(-side + 1.4, side - 0.6, 2.8):
        for y in np.arange(1.8, length, 3.0):
            lamp = ("plain", np.full(3, 0.97), np.full(3, 0.97), 1.0, 0.0, 1.0)
            solids.append(_box((x - 0.6, x + 0.6), (y - 0.15, y + 0.15), (height - 0.03, height - 0.01), *lamp))
    return solids + _on_walls(rng, style, side, length, doors)


_FLOORS = {
    "lobby": ["tiles", "speckle", "tiles", "planks"],
    "shop": ["planks", "tiles", "plain", "speckle"],
    "station": ["tiles", "speckle", "speckle"],
    "corridor": ["speckle", "tiles", "plain", "planks"],
    "street": ["tiles", "speckle", "tiles"],
}


def _pair(grey: float) -> tuple[F64, F64]:
    return np.full(3, grey), np.full(3, grey * 0.8)


def _street(
    rng: np.random.Generator, side: float, length: float, height: float, doors: "Sequence[Door]"
) -> list[Solid]:
    """A facade with shop windows and a door, houses left and right of it, a strip of road before the camera."""
    at = float(doors[2].outside[0])
    look: tuple[object, ...] = (
        str(rng.choice(["bricks", "plain", "bricks", "glass"])),
        _colour(rng, 0.4, 0.75, 0.2),
        _colour(rng, 0.3, 0.7, 0.3),
        rng.uniform(0.4, 0.8),
    )
    shop: tuple[object, ...] = (
        str(rng.choice(["glass", "goods", "glass", "glass"])),
        _colour(rng, 0.2, 0.5, 0.5),
        _colour(rng, 0.2, 0.5, 0.5),
        rng.uniform(0.8, 1.2),
    )
    sign = _colour(rng, 0.25, 0.6, 0.6)
    solids = []
    for low, high in ((-side - 9, at - HALF_DOOR_M), (at + HALF_DOOR_M, side + 9)):
        solids += [
            _box((low, high), (length, length + 0.3), (0, 2.7), *shop),
            _box((low, high), (length - 0.12, length + 0.3), (2.7, 3.2), "plain", sign, sign, 1.0),
        ]
    solids += [
        _box((-side - 9, side + 9), (length, length + 0.3), (3.2, height), *look),
        _box((at - HALF_DOOR_M, at + HALF_DOOR_M), (length, length + 0.3), (DOOR_M, 3.2), *look),
        _box((at - 4, at + 4), (length + 2.0, length + 2.2), (0, 4), "plain", *_pair(0.25), 0.6),
        _box((-side - 9, side + 9), (-4, 2.6), (0.0, 0.012), "road", *_pair(rng.uniform(0.2, 0.32)), 1.0),
    ]
    for x in np.arange(-side + 1.2, side, rng.uniform(2.4, 3.4)):
        pane = ("glass", np.full(3, 0.75), np.full(3, 0.5), 0.7)
        solids.append(_box((x - 0.6, x + 0.6), (length - 0.05, length), (4.2, 6.0), *pane))
    return solids


def _on_walls(rng: np.random.Generator, style: str, side: float, length: float, doors: "Sequence[Door]") -> list[Solid]:
    """Posters, notice boards, shelves and machines along the walls, away from the doors."""
    solids: list[Solid] = []
    for wall in range(3):
        at = float(doors[wall].outside[0 if wall == 2 else 1])
        low, high = (-side + 0.6, side - 0.6) if wall == 2 else (3.0, length - 0.6)
        spot = low + rng.uniform(0.2, 1.0)
        while spot < high - 0.8:
            span = rng.uniform(0.5, 1.6)
            if abs(spot + span / 2 - at) > HALF_DOOR_M + span / 2 + 0.35:
                what = str(rng.choice(["poster", "shelf", "machine", "none"], p=_WALL_ODDS[style]))
                if what != "none":
                    solids.append(_against(rng, what, wall, spot, span, side, length))
            spot += span + rng.uniform(0.3, 1.8)
    return solids


_WALL_ODDS = {
    "lobby": [0.4, 0.05, 0.15, 0.4],
    "shop": [0.15, 0.65, 0.1, 0.1],
    "station": [0.5, 0.05, 0.25, 0.2],
    "corridor": [0.45, 0.05, 0.1, 0.4],
}


def _against(
    rng: np.random.Generator, what: str, wall: int, spot: float, span: float, side: float, length: float
) -> Solid:
    depth, bottom, top = {"poster": (0.03, 1.0, 2.0), "shelf": (0.35, 0.0, 1.9), "machine": (0.5, 0.0, 1.85)}[what]
    surface = {"poster": "poster", "shelf": "goods", "machine": "body"}[what]
    along, height = (spot, spot + span), (bottom, top * rng.uniform(0.85, 1.1))
    if wall == 2:
        extents = (along, (length - depth, length))
    else:
        extents = ((-side, -side + depth) if wall == 0 else (side - depth, side), along)
    return _box(*extents, height, surface, _colour(rng, 0.25, 0.7, 0.6), _colour(rng, 0.2, 0.8, 0.6), span * 0.9)


def furnish(
    rng: np.random.Generator, style: str, width: float, length: float, height: float, keep_free: F64, many: bool
) -> tuple[list[Solid], F64]:
    """Free-standing pieces and the discs (K, 3) that people walk round; `keep_free` are discs that stay empty."""
    solids: list[Solid] = []
    taken = keep_free.copy()
    discs: list[list[float]] = []
    pieces = _PIECES[style]
    for _ in range(int(rng.integers(3, 6)) + 2 * many):
        name = str(rng.choice(list(pieces)))
        radius, build = _BUILDERS[name]
        for _ in range(20):
            x = rng.uniform(-width / 2 + radius + 0.2, width / 2 - radius - 0.2)
            # What is tall stands far enough from the camera not to fill its picture.
            y = rng.uniform(6.0 if name in _TALL else 3.6, length - 1.2)
            apart = np.hypot(taken[:, 0] - x, taken[:, 1] - y) - taken[:, 2] - radius
            if apart.min() > 0.9:
                solids += build(rng, x, y, height)
                taken = np.concatenate([taken, [[x, y, radius]]])
                discs.append([x, y, radius])
                break
    return solids, np.array(discs).reshape(-1, 3)


_TALL = ("pillar", "machine", "tree", "rack", "sign")
_PIECES = {
    "lobby": ("pillar", "plant", "table", "sofa", "desk", "plant", "sign"),
    "shop": ("rack", "table", "bin", "rack", "plant", "sign", "pillar"),
    "station": ("pillar", "bench", "bin", "sign", "machine", "pillar"),
    "corridor": ("plant", "bin", "bench"),
    "street": ("tree", "post", "bench", "bin", "planter", "post"),
}


def _pillar(rng: np.random.Generator, x: float, y: float, height: float) -> list[Solid]:
    radius = rng.uniform(0.2, 0.32)
    look = (
        str(rng.choice(["plain", "tiles", "speckle"])),
        _colour(rng, 0.4, 0.85, 0.2),
        _colour(rng, 0.3, 0.6, 0.3),
        0.4,
    )
    kind = int(rng.choice([CYLINDER, BOX]))
    return [Solid(kind, (x, y, height / 2), (radius, radius, height / 2), *look)]


def _plant(rng: np.random.Generator, x: float, y: float, height: float) -> list[Solid]:
    pot = _colour(rng, 0.2, 0.7, 0.4)
    solids = [Solid(CYLINDER, (x, y, 0.22), (0.22, 0.22, 0.22), "plain", pot, pot)]
    return solids + _foliage(rng, x, y, rng.uniform(0.5, 0.8), rng.uniform(0.9, 1.5), 0.28, 6)


def _foliage(
    rng: np.random.Generator, x: float, y: float, low: float, high: float, spread: float, count: int
) -> list[Solid]:
    green = np.array([rng.uniform(0.15, 0.35), rng.uniform(0.35, 0.55), rng.uniform(0.1, 0.25)])
    out = []
    for _ in range(count):
        dx, dy = rng.normal(0, spread * 0.6, 2)
        half = spread * rng.uniform(0.5, 1.0)
        centre = (x + dx, y + dy, rng.uniform(low, high))
        out.append(Solid(BALL, centre, (half, half, half * rng.uniform(0.7, 1.5)), "leaves", green, green * 1.5))
    return out


def _tree(rng: np.random.Generator, x: float, y: float, height: float) -> list[Solid]:
    bark = np.array([0.3, 0.24, 0.18])
    trunk = Solid(CYLINDER, (x, y, 1.5), (0.14, 0.14, 1.5), "speckle", bark, bark * 0.6)
    return [trunk, *_foliage(rng, x, y, 2.6, 4.4, 0.9, 9)]


def _table(rng: np.random.Generator, x: float, y: float, height: float) -> list[Solid]:
    top, leg = _colour(rng, 0.3, 0.75, 0.4), np.full(3, rng.uniform(0.1, 0.5))
    if rng.random() < 0.5:
        return [
            Solid(CYLINDER, (x, y, 0.74), (0.5, 0.5, 0.03), "planks", top, top),
            Solid(CYLINDER, (x, y, 0.36), (0.06, 0.06, 0.36), "plain", leg, leg),
            Solid(CYLINDER, (x, y, 0.02), (0.28, 0.28, 0.02), "plain", leg, leg),
        ]
    yaw = rng.uniform(0, math.pi)
    return [
        Solid(BOX, (x, y, 0.73), (0.65, 0.4, 0.03), "planks", top, top, 0.5, yaw),
        Solid(BOX, (x, y, 0.35), (0.5, 0.05, 0.35), "plain", leg, leg, 0.5, yaw),
    ]


def _sofa(rng: np.random.Generator, x: float, y: float, height: float) -> list[Solid]:
    cloth, yaw = _colour(rng, 0.2, 0.6, 0.6), float(rng.choice([0, math.pi / 2, math.pi, -math.pi / 2]))
    c, s = math.cos(yaw), math.sin(yaw)
    back = (x - s * 0.3, y + c * 0.3, 0.42)
    look = ("speckle", cloth, cloth * 0.8, 0.5, yaw)
    return [Solid(BOX, (x, y, 0.22), (0.75, 0.38, 0.22), *look), Solid(BOX, back, (0.75, 0.1, 0.42), *look)]


def _desk(rng: np.random.Generator, x: float, y: float, height: float) -> list[Solid]:
    wood, yaw = _colour(rng, 0.3, 0.7, 0.4), rng.uniform(-0.4, 0.4)
    screen = Solid(BOX, (x, y, 1.25), (0.25, 0.02, 0.16), "plain", *_pair(0.12), 0.5, yaw)
    return [Solid(BOX, (x, y, 0.53), (0.8, 0.35, 0.53), "panels", wood, wood * 0.7, 0.6, yaw), screen]


def _rack(rng: np.random.Generator, x: float, y: float, height: float) -> list[Solid]:
    frame, yaw = _colour(rng, 0.3, 0.8, 0.2), float(rng.choice([0.0, math.pi / 2]))
    return [Solid(BOX, (x, y, 0.65), (0.8, 0.3, rng.uniform(0.55, 0.7)), "goods", frame, frame, 0.5, yaw)]


def _bench(rng: np.random.Generator, x: float, y: float, height: float) -> list[Solid]:
    wood, yaw = _colour(rng, 0.3, 0.6, 0.4), rng.uniform(0, math.pi)
    legs = Solid(BOX, (x, y, 0.2), (0.6, 0.12, 0.2), "plain", *_pair(0.25), 0.5, yaw)
    return [Solid(BOX, (x, y, 0.44), (0.8, 0.22, 0.04), "planks", wood, wood, 0.3, yaw), legs]


def _bin(rng: np.random.Generator, x: float, y: float, height: float) -> list[Solid]:
    tin = _colour(rng, 0.15, 0.6, 0.5)
    return [Solid(CYLINDER, (x, y, 0.42), (0.24, 0.24, 0.42), "panels", tin, tin * 0.6, 0.2)]


def _sign(rng: np.random.Generator, x: float, y: float, height: float) -> list[Solid]:
    yaw = rng.uniform(-0.6, 0.6)
    look = ("poster", _colour(rng, 0.3, 0.8, 0.9), _colour(rng, 0.3, 0.8, 0.9), 0.6, yaw)
    return [Solid(BOX, (x, y, 0.85), (0.32, 0.03, 0.75), *look), Solid(BOX, (x, y, 0.05), (0.35, 0.2, 0.05), *look)]


def _machine(rng: np.random.Generator, x: float, y: float, height: float) -> list[Solid]:
    paint = _colour(rng, 0.2, 0.7, 0.55)
    return [Solid(BOX, (x, y, 0.9), (0.45, 0.4, 0.9), "body", paint, paint * 0.6, 0.9)]


def _post(rng: np.random.Generator, x: float, y: float, height: float) -> list[Solid]:
    steel = np.full(3, rng.uniform(0.15, 0.5))
    return [Solid(CYLINDER, (x, y, 2.5), (0.07, 0.07, 2.5), "plain", steel, steel)]


def _planter(rng: np.random.Generator, x: float, y: float, height: float) -> list[Solid]:
    stone = _colour(rng, 0.4, 0.7, 0.1)
    box = Solid(BOX, (x, y, 0.25), (0.6, 0.35, 0.25), "speckle", stone, stone * 0.7)
    return [box, *_foliage(rng, x, y, 0.55, 0.9, 0.35, 8)]


_BUILDERS: dict[str, tuple[float, Callable[[np.random.Generator, float, float, float], list[Solid]]]] = {
    "pillar": (0.35, _pillar), "plant": (0.4, _plant), "tree": (0.3, _tree), "table": (0.7, _table), "sofa": (0.8, _sofa),
    "desk": (0.85, _desk), "rack": (0.85, _rack), "bench": (0.8, _bench), "bin": (0.3, _bin), "sign": (0.4, _sign),
    "machine": (0.6, _machine), "post": (0.15, _post), "planter": (0.7, _planter),
}  # fmt: skip
