"""Heads with hair and hats, scarves, and what people carry."""

from __future__ import annotations

import numpy as np

from ingest.synthetic import clothes, colours, shape
from ingest.synthetic.body import CHEST, GRIP, HEAD, HEAD_PART, PELVIS, SPINE, TORSO_PART
from ingest.synthetic.build import CHIN
from ingest.synthetic.tailor import Tailor

Place = tuple[float, float, float]

_HAIR = ("bald", "short", "bob", "long", "pony", "bun", "curly")
_HAIR_SHARE = {True: (0.02, 0.13, 0.18, 0.34, 0.15, 0.10, 0.08), False: (0.15, 0.66, 0.07, 0.03, 0.015, 0.005, 0.07)}


def add_head(tailor: Tailor) -> None:
    """Add neck and head with a face, hair and perhaps a hat."""
    rng, build = tailor.rng, tailor.build
    beard = 0.0 if tailor.feminine or rng.random() < 0.55 else float(rng.choice([0.25, 0.55, 0.9]))
    glasses = bool(rng.random() < 0.2)
    kind = str(rng.choice(_HAIR, p=_HAIR_SHARE[tailor.feminine]))
    tailor.traits["hair"] = kind
    face = clothes.face(rng, tailor.skin, tailor.hair, bald=kind == "bald", beard=beard, glasses=glasses)
    texture = tailor.texture(face, "smooth", 0.3)
    grid = shape.head(build, rows=21, columns=20)
    level = (grid[..., 2] / build.height_m - CHIN) / build.head
    shade = np.where(level < 0, 0.78 + 0.1 * np.clip(-level / 0.05, 0, 1), 1.0)
    tailor.grids.add(grid, texture, HEAD_PART, [HEAD, CHEST], [0.838], half=0.015, occlusion=shade)
    hat = str(rng.choice(["none", "cap", "beanie", "brim", "hood", "scarf"], p=[0.79, 0.08, 0.055, 0.025, 0.03, 0.02]))
    tailor.traits["hat"] = hat
    if kind != "bald" and hat not in ("hood", "scarf"):
        _hair(tailor, kind, hat)
    if hat != "none":
        _hat(tailor, hat)


def _hair(tailor: Tailor, kind: str, hat: str) -> None:
    rng, build, k = tailor.rng, tailor.build, tailor.build.height_m
    sheet = clothes.plain(tailor.hair) * np.linspace(1.08, 0.85, clothes.SIZE)[:, None, None]
    if rng.random() < 0.1:
        sheet[int(rng.integers(25, 45)) :] = colours.draw_hair(rng)
    texture = tailor.texture(sheet, "curls" if kind == "curly" else "hair", rng.uniform(0.7, 1.3))
    front = rng.uniform(0.085, 0.108)
    side, back, lift, top = {
        "short": (
            rng.uniform(0.045, 0.075),
            rng.uniform(0.0, 0.03),
            rng.uniform(0.002, 0.005),
            rng.uniform(0.003, 0.013),
        ),
        "bob": (rng.uniform(-0.01, 0.03), rng.uniform(-0.03, 0.0), rng.uniform(0.007, 0.012), 0.009),
        "long": (
            rng.uniform(-0.16, -0.03),
            rng.uniform(-0.26, -0.09),
            rng.choice([0.008, 0.02]),
            rng.uniform(0.006, 0.014),
        ),
        "curly": (
            rng.uniform(0.0, 0.05),
            rng.uniform(-0.03, 0.01),
            rng.uniform(0.012, 0.028),
            rng.uniform(0.012, 0.03),
        ),
    }.get(kind, (0.055, 0.005, 0.004, 0.006))
    if hat != "none":
        lift, top = min(lift, 0.006), 0.001
    grid = shape.on_head(
        build, front, side, back, lift, top, rows=13, columns=18, drop=0.006 if kind == "long" else 0.0
    )
    tailor.grids.add(grid, texture, HEAD_PART, [HEAD, CHEST], [0.79], half=0.05)
    z = CHIN + 0.085 * build.head
    if kind == "pony":
        tail = np.linspace(0, 1, 7)
        length = rng.uniform(0.07, 0.15)
        grid = shape.rings(
            (z - 0.01 - length * tail**1.2) * k, np.interp(tail, [0, 0.3, 1], [0.008, 0.016, 0.004]) * k,
            np.interp(tail, [0, 0.3, 1], [0.008, 0.014, 0.004]) * k, np.interp(tail, [0, 0.3, 1], [0.008, 0.014, 0.004]) * k,
            rows=9, columns=8, y=(-0.062 - 0.025 * np.sqrt(tail)) * k, cap_top=True, cap_bottom=True,
        )  # fmt: skip
        tailor.grids.add(grid, texture, HEAD_PART, [HEAD], [])
    elif kind == "bun":
        at, size = (0.0, -0.062, z) if rng.random() < 0.6 else (0.0, -0.03, z + 0.045), rng.uniform(0.017, 0.028)
        grid = shape.box([c * k for c in at], [size * k] * 3, rows=7, columns=10, square=2.0)
        tailor.grids.add(grid, texture, HEAD_PART, [HEAD], [])


def _hat(tailor: Tailor, hat: str) -> None:
    rng, build, k = tailor.rng, tailor.build, tailor.build.height_m
    colour = colours.draw_top_colour(rng) if rng.random() < 0.6 else colours.draw_bottom_colour(rng)
    sheet = clothes.cloth(rng, colour, "plain" if rng.random() < 0.75 else clothes.draw_pattern(rng))
    if hat == "cap" and rng.random() < 0.4:
        sheet[24:44, 27:37] = colours.partner(rng, colour)
    texture = tailor.texture(sheet, "knit" if hat == "beanie" else "smooth")
    edges = {
        "cap": (0.088, 0.080, 0.062, 0.007, 0.008),
        "beanie": (0.086, 0.068, 0.045, 0.009, rng.uniform(0.008, 0.02)),
        "brim": (0.090, 0.085, 0.075, 0.008, 0.018),
        "hood": (0.098, -0.01, -0.04, 0.014, 0.014),
        "scarf": (0.095, -0.02, -0.05, 0.010, 0.010),
    }[hat]
    grid = shape.on_head(build, *edges, rows=9, columns=16, drop=0.0)
    tailor.grids.add(grid, texture, HEAD_PART, [HEAD, CHEST], [0.83], half=0.02)
    z = CHIN + 0.086 * build.head
    if hat == "cap":
        front = 1.0 if rng.random() < 0.9 else -1.0
        grid = shape.box(
            (0, front * 0.082 * k, z * k), (0.040 * k, 0.036 * k, 0.003 * k), rows=7, columns=12, square=2.6
        )
        tailor.grids.add(grid, texture, HEAD_PART, [HEAD], [])
    elif hat == "brim":
        wide = rng.uniform(0.08, 0.12)
        size = np.array([0.05, wide, wide, 0.05]) * k
        grid = shape.rings(
            np.array([z + 0.004, z + 0.001, z - 0.002, z - 0.003]) * k,
            size,
            size * 1.05,
            size * 1.05,
            rows=7,
            columns=16,
        )
        tailor.grids.add(grid, texture, HEAD_PART, [HEAD], [], occlusion=0.9)


def wrap_scarf(tailor: Tailor) -> None:
    """Wrap a scarf round the neck."""
    k, rng = tailor.build.height_m, tailor.rng
    colour = colours.draw_top_colour(rng)
    sheet = clothes.cloth(rng, colour, clothes.draw_pattern(rng))
    texture = tailor.texture(sheet, "limb", 1.3)
    tailor.traits["scarf"] = "yes"
    tailor.grids.add(
        shape.ring((0, -0.004 * k, 0.85 * k), (0.043 * k, 0.046 * k), 0.018 * k, rows=7, columns=14),
        texture, TORSO_PART, [HEAD, CHEST], [0.865], half=0.02,
    )  # fmt: skip
    if rng.random() < 0.6:
        side = rng.choice([-1, 1])
        end = shape.box(
            (side * 0.03 * k, 0.075 * k, 0.76 * k),
            (0.024 * k, 0.008 * k, rng.uniform(0.05, 0.1) * k),
            rows=7,
            columns=8,
        )
        tailor.grids.add(end, texture, TORSO_PART, [CHEST], [])


def add_bag(tailor: Tailor) -> None:
    """Hang the bag on back, shoulder or hand."""
    rng, build, k, kind = tailor.rng, tailor.build, tailor.build.height_m, tailor.bag
    if kind == "none":
        return
    texture = tailor.texture(
        clothes.bag_sheet(rng, tailor.bag_colour), "torso" if rng.random() < 0.5 else "smooth", 0.8
    )
    if kind == "backpack":
        half = (rng.uniform(0.07, 0.095), rng.uniform(0.03, 0.055), rng.uniform(0.085, 0.135))
        back = 0.06 * build.girth + (0.015 if tailor.thick else 0.005) + half[1]
        grid = shape.box(
            (0, -back * k, (0.80 - half[2]) * k), [h * k for h in half], rows=9, columns=14, square=3.2, tilt=0.06
        )
        tailor.grids.add(grid, texture, TORSO_PART, [CHEST, SPINE], [0.64], half=0.03, body=False)
    elif kind in ("sling", "tote"):
        side = -1 if tailor.bag_left else 1
        high = 0.56 if kind == "tote" else rng.uniform(0.47, 0.56)
        half = (rng.uniform(0.022, 0.04), rng.uniform(0.06, 0.095), rng.uniform(0.045, 0.095))
        x = side * (0.098 * build.hip * (0.4 + 0.6 * build.girth) + half[0] + 0.012)
        grid = shape.box(
            (x * k, rng.uniform(-0.03, 0.02) * k, high * k), [h * k for h in half], rows=9, columns=12, square=4.0
        )
        tailor.grids.add(grid, texture, 0, [PELVIS], [], body=False)
        if kind == "tote":
            _handles(tailor, texture, (x * 0.99, 0.0, high + half[2]), (build.shoulder_x * 0.85 * side, -0.006, 0.828))
    else:
        side = int(rng.integers(2))
        half = (rng.uniform(0.02, 0.04), rng.uniform(0.07, 0.11), rng.uniform(0.05, 0.10))
        x = build.shoulder_x * (-1 if side else 1)
        drop = 0.40 - half[2] - (rng.uniform(0.03, 0.10) if kind == "hand" else 0.015)
        grid = shape.box(
            (x * k, 0.005 * k, drop * k),
            [h * k for h in half],
            rows=9,
            columns=12,
            square=3.5 if kind == "hand" else 7.0,
        )
        tailor.grids.add(grid, texture, 0, [GRIP[side]], [], body=False)
        _handles(tailor, texture, (x, 0.005, drop + half[2]), (x, 0.005, 0.405), GRIP[side])


def _handles(tailor: Tailor, texture: int, low: Place, high: Place, bone: int = CHEST) -> None:
    """A strap from the bag's top up to a shoulder or a hand, both in shares of the height."""
    k = tailor.build.height_m
    z = np.array([high[2], low[2] - 0.01])
    grid = shape.rings(
        z * k, 0.004 * k, 0.011 * k, 0.011 * k, rows=5, columns=6,
        x=np.array([high[0], low[0]]) * k, y=np.array([high[1], low[1]]) * k,
    )  # fmt: skip
    tailor.grids.add(grid, texture, 0, [bone], [], body=False)
