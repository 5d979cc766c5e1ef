"""What people wear: shirts, jackets, coats and dresses, trousers, shorts and skirts, socks and shoes."""

from __future__ import annotations

import numpy as np

from ingest.synthetic import clothes, colours, shape
from ingest.synthetic.body import (
    CHEST,
    FOOT,
    FOOT_PART,
    FOREARM,
    HEAD,
    LOWER_ARM_PART,
    LOWER_LEG_PART,
    SHIN,
    TORSO_PART,
)
from ingest.synthetic.build import CROTCH, ELBOW, WAIST, WRIST
from ingest.synthetic.clothes import Folds, Sheet
from ingest.synthetic.tailor import Tailor

_TOPS = ("tee", "shirt", "sweater", "tank", "dress", "jacket", "open jacket", "coat", "open coat")
_OUTER = ("jacket", "open jacket", "coat", "open coat")
_EASE = {"tee": 0.005, "shirt": 0.006, "sweater": 0.010, "tank": 0.003, "dress": 0.004}  # shares of the height
_BARE_SHOULDER = 0.82


def dress(tailor: Tailor) -> None:
    """Put on a shirt, jacket, coat or dress with its sleeves and collar, and what goes below it."""
    rng = tailor.rng
    share = np.array([0.24, 0.15, 0.17, 0.03, 0.09 if tailor.feminine else 0.0, 0.15, 0.12, 0.08, 0.06])
    kind = str(rng.choice(_TOPS, p=share / share.sum()))
    tailor.traits["top"] = kind
    tailor.thick = kind in _OUTER or kind == "sweater"
    colour = tailor.wardrobe.outer if kind in _OUTER else tailor.wardrobe.top
    pattern = clothes.draw_pattern(rng) if kind not in _OUTER or rng.random() < 0.35 else "plain"
    tailor.traits["pattern"] = pattern
    sheet = _paint_top(tailor, kind, colour, pattern)
    folds: Folds = "torso"
    if kind == "jacket" and rng.random() < 0.3:
        folds = "puffer"
    elif kind == "sweater" and rng.random() < 0.5:
        folds = "knit"
    depth = rng.uniform(0.5, 1.3)
    trunk = tailor.texture(sheet, folds, depth)
    sleeve = tailor.texture(
        _paint_sleeve(rng, sheet, colour, pattern), "puffer" if folds == "puffer" else "limb", depth
    )

    ease = _EASE.get(kind, 0.013) + rng.uniform(0, 0.006) + (0.006 if folds == "puffer" else 0.0)
    bottom = _hem(rng, kind)
    _dress_below(tailor, bottom, kind)
    flare = rng.uniform(0.0, 0.045) if bottom < 0.43 else 0.0
    boxy = rng.uniform(0.0, 0.35) if tailor.feminine else rng.uniform(0.2, 0.8)
    tailor.trunk(trunk, 0.846, bottom, ease, flare, boxy if bottom < 0.58 else 0.0, rows=17)
    _dress_arms(tailor, kind, sleeve, ease)
    if kind in ("shirt", "sweater", *_OUTER) and rng.random() < 0.8:
        _add_collar(tailor, sleeve, hood=kind in ("sweater", "jacket", "open jacket") and rng.random() < 0.3)


def _paint_top(tailor: Tailor, kind: str, colour: colours.Colour, pattern: str) -> Sheet:
    """The trunk's cloth with prints, neck, pockets, hem and the straps that lie on it."""
    rng = tailor.rng
    sheet = clothes.cloth(rng, colour, pattern)
    if kind in ("tee", "sweater") and rng.random() < 0.34:
        clothes.add_print(rng, sheet, colour, front=True)
        tailor.traits["print"] = "chest"
    if kind in ("tee", "sweater", "jacket") and rng.random() < 0.1:
        clothes.add_print(rng, sheet, colour, front=False)
    if kind.startswith("open"):
        inner = clothes.cloth(rng, tailor.wardrobe.top, clothes.draw_pattern(rng))
        if rng.random() < 0.3:
            clothes.add_print(rng, inner, tailor.wardrobe.top, front=True)
        clothes.add_collar(rng, inner, tailor.skin, rng.uniform(3, 7), str(rng.choice(["round", "v", "shirt"])))
        clothes.open_front(rng, sheet, inner, rng.uniform(0.05, 0.14))
    elif kind in ("tee", "tank", "dress"):
        clothes.add_collar(rng, sheet, tailor.skin, rng.uniform(3, 9), str(rng.choice(["round", "v"])))
    else:
        clothes.add_collar(rng, sheet, tailor.skin, 3, "shirt" if kind == "shirt" else "high")
    if kind in _OUTER or rng.random() < 0.2:
        clothes.add_details(rng, sheet, "jacket")
    clothes.add_hems(rng, sheet)
    if tailor.bag == "backpack":
        clothes.add_straps(sheet, np.clip(tailor.bag_colour * rng.uniform(0.6, 1.0), 10, 230))
    elif tailor.bag == "sling":
        clothes.add_sling(sheet, np.clip(tailor.bag_colour * 0.8, 8, 230), tailor.bag_left, rng.uniform(0.012, 0.03))
    return sheet


def _paint_sleeve(rng: np.random.Generator, trunk: Sheet, colour: colours.Colour, pattern: str) -> Sheet:
    sheet = clothes.plain(colours.partner(rng, colour) if rng.random() < 0.06 else colour)
    if pattern not in ("plain", "two-tone", "bands", "fade"):  # the trunk's side goes round the arm
        sheet = np.tile(trunk[:, 8:24], (1, 4, 1))
        sheet[:14] = sheet[20:34]
    clothes.add_hems(rng, sheet)
    return sheet


def _hem(rng: np.random.Generator, kind: str) -> float:
    """Where the trunk's cloth ends, as a share of the height; above the waist it is tucked in."""
    if "coat" in kind:
        return float(rng.uniform(0.20, 0.43))
    if kind == "dress":
        return float(rng.uniform(0.12, 0.40))
    if kind in _OUTER:
        return float(rng.uniform(0.45, 0.53))
    return float(rng.uniform(0.465, 0.525)) if rng.random() < 0.75 else 0.60


def _dress_arms(tailor: Tailor, kind: str, texture: int, ease: float) -> None:
    """Sleeves to the wrist, rolled up, short or none; bare arms below them, and hands."""
    rng, build = tailor.rng, tailor.build
    hem, flare = _BARE_SHOULDER, 0.0
    if kind in _OUTER or kind == "sweater" or (kind in ("shirt", "dress") and rng.random() < 0.55):
        hem = WRIST + rng.uniform(-0.012, 0.012)
        if kind not in _OUTER and rng.random() < 0.2:
            hem = ELBOW - rng.uniform(0.0, 0.05)
    elif kind != "tank":
        hem, flare = rng.uniform(0.655, 0.735), rng.uniform(0, 0.007)
    for side in (0, 1):
        if hem < _BARE_SHOULDER:
            grid = shape.arm(build, side, 0.822, hem, ease * 0.75 + 0.001, rows=13, columns=12, flare=flare)
            tailor.limb(grid, texture, side)
        if hem > WRIST + 0.03:
            bare = shape.arm(build, side, min(hem + 0.03, 0.822), WRIST - 0.004, 0.0, rows=11, columns=10)
            tailor.limb(bare, tailor.skin_id, side)
        hand = shape.hand(build, side, rows=7, columns=8)
        tailor.grids.add(hand, tailor.skin_id, LOWER_ARM_PART, [FOREARM[side]], [])


def _add_collar(tailor: Tailor, texture: int, hood: bool) -> None:
    k = tailor.build.height_m
    thick = tailor.rng.uniform(0.007, 0.014)
    grid = shape.ring((0, -0.007 * k, 0.843 * k), (0.036 * k, 0.036 * k), thick * k, rows=7, columns=14)
    tailor.grids.add(grid, texture, TORSO_PART, [HEAD, CHEST], [0.86], half=0.02, occlusion=0.92)
    if hood:
        middle, half = (0, -0.062 * k, 0.825 * k), (0.055 * k, 0.028 * k, 0.035 * k)
        grid = shape.box(middle, half, rows=7, columns=12, square=2.2)
        tailor.grids.add(grid, texture, TORSO_PART, [CHEST], [])


def _dress_below(tailor: Tailor, top_hem: float, top: str) -> None:
    """Trousers, leggings, shorts or a skirt, and bare legs or stockings where cloth ends."""
    rng = tailor.rng
    if top == "dress":
        tailor.traits["lower"] = "dress"
        _bare_legs(tailor)
        return
    share = np.array([0.68, 0.10 if tailor.feminine else 0.02, 0.13, 0.22 if tailor.feminine else 0.0])
    kind = str(rng.choice(["trousers", "leggings", "shorts", "skirt"], p=share / share.sum()))
    if "coat" in top and kind == "shorts":
        kind = "trousers"
    tailor.traits["lower"] = kind
    pattern = clothes.draw_pattern(rng) if rng.random() < (0.5 if kind == "skirt" else 0.22) else "plain"
    sheet = clothes.cloth(rng, tailor.wardrobe.bottom, pattern)
    if kind == "skirt":
        clothes.add_hems(rng, sheet)
        texture = tailor.texture(sheet, "skirt", rng.uniform(0.6, 1.4))
        tailor.trunk(texture, WAIST, rng.uniform(0.08, 0.42), 0.006, rng.uniform(0, 0.06), 0.0, rows=11)
        _bare_legs(tailor)
        return
    waist = sheet.copy()
    clothes.add_details(rng, waist, "waist")
    top_edge = min(WAIST, top_hem + 0.08)
    tailor.trunk(tailor.texture(waist, "smooth"), top_edge, CROTCH - 0.012, 0.003, 0.0, 0.0, rows=7)
    _dress_legs(tailor, kind, sheet)


def _dress_legs(tailor: Tailor, kind: str, sheet: Sheet) -> None:
    rng = tailor.rng
    clothes.add_details(rng, sheet, "leg")
    clothes.add_hems(rng, sheet, rows=2)
    texture = tailor.texture(sheet, "trousers" if kind != "leggings" else "smooth", rng.uniform(0.5, 1.3))
    loose = 0.001 if kind == "leggings" else float(rng.choice([0.003, 0.008, 0.014], p=[0.4, 0.42, 0.18]))
    hem = rng.uniform(0.025, 0.05) if rng.random() < 0.75 else rng.uniform(0.07, 0.13)
    if kind == "shorts":
        hem = rng.uniform(0.24, 0.40)
    flare = rng.uniform(0.0, 0.018) if loose > 0.005 else 0.0
    below = _sock(tailor) if hem > 0.055 else None
    for side in (0, 1):
        tailor.leg(shape.leg(tailor.build, side, 0.53, hem, loose, rows=17, columns=14, flare=flare), texture, side)
        if below is not None:
            tailor.leg(shape.leg(tailor.build, side, hem + 0.03, 0.03, 0.0, rows=11, columns=10), below, side)


def _sock(tailor: Tailor) -> int:
    """The texture of what shows under shorts or cropped trousers: skin, or socks up to some height."""
    rng = tailor.rng
    sheet = clothes.skin_sheet(rng, tailor.skin)
    if rng.random() < 0.5:
        sheet[int(rng.integers(38, 60)) :] = 225.0 if rng.random() < 0.6 else colours.draw_bottom_colour(rng)
    return tailor.texture(sheet, "smooth", 0.5)


def _bare_legs(tailor: Tailor) -> None:
    """Legs under a skirt: skin or tights."""
    rng, texture = tailor.rng, tailor.skin_id
    if rng.random() < 0.4:
        colour = np.full(3, 30.0) if rng.random() < 0.6 else colours.draw_bottom_colour(rng)
        texture = tailor.texture(clothes.plain(colour * 0.8 + 0.2 * tailor.skin), "smooth", 0.4)
    for side in (0, 1):
        tailor.leg(shape.leg(tailor.build, side, 0.53, 0.03, 0.0, rows=17, columns=12), texture, side)


def dress_feet(tailor: Tailor) -> None:
    """Put on low or high shoes, boots or sandals."""
    rng = tailor.rng
    kind = str(rng.choice(["low", "high", "boots", "sandals"], p=[0.62, 0.17, 0.14, 0.07]))
    ankle = {"low": 0.052, "high": 0.072, "sandals": 0.048}.get(kind, rng.uniform(0.12, 0.24))
    sheet = clothes.shoe_sheet(rng, tailor.skin if kind == "sandals" else tailor.wardrobe.shoes)
    texture, sole = tailor.texture(sheet, "smooth"), rng.uniform(0, 0.002)
    for side in (0, 1):
        grid = shape.shoe(tailor.build, side, rows=9, columns=12, sole=sole, ankle=ankle)
        level = grid[..., 2] / tailor.build.height_m
        part = np.where(level > 0.07, LOWER_LEG_PART, FOOT_PART)
        shade = np.clip(0.75 + level / 0.1, 0.75, 1.0)
        bones = [SHIN[side], FOOT[side]]
        tailor.grids.add(grid, texture, part, bones, [0.062], half=0.02, occlusion=shade, inside_top=True)
