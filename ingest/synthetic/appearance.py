"""Drawn people: who wears what, put together from shapes and cloth."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from . import clothes, colours, shape
from .body import (
    CHEST,
    FOOT,
    FOOT_PART,
    FOREARM,
    GRIP,
    HEAD,
    HEAD_PART,
    LOWER_ARM_PART,
    LOWER_LEG_PART,
    PELVIS,
    SHIN,
    SPINE,
    THIGH,
    TORSO_PART,
    UPPER_ARM,
    UPPER_ARM_PART,
    UPPER_LEG_PART,
    Appearance,
)
from .clothes import Sheet, Texture
from .colours import Wardrobe, draw_wardrobe
from .grids import Grids
from .shape import ANKLE, CHIN, CROTCH, ELBOW, HIP, KNEE, WAIST, WRIST

Lower = Literal["trousers", "leggings", "shorts", "skirt"]
Points = NDArray[np.float64]


def draw_appearance(rng: np.random.Generator, wardrobe: Wardrobe | None = None) -> Appearance:
    """Draw a person: body, skin, hair, clothes, patterns, bags and hat.

    Args:
        wardrobe: the clothes' colours; people drawn from one wardrobe look alike and differ in build, cut, pattern and
            what they carry. None draws one.
    """
    return _Tailor(rng, draw_wardrobe(rng) if wardrobe is None else wardrobe).finish()


class _Tailor:
    """Dresses one person from the skin outwards."""

    def __init__(self, rng: np.random.Generator, wardrobe: Wardrobe) -> None:
        self.rng = rng
        self.wardrobe = wardrobe
        self.build = shape.draw_build(rng)
        self.feminine = bool(rng.random() < np.clip((1.06 - self.build.shoulder) / 0.12, 0.05, 0.95))
        self.skin = colours.draw_skin(rng)
        self.hair = colours.draw_hair(rng)
        self.grids = Grids(self.build.height_m)
        self.textures: list[Texture] = []
        self.traits: dict[str, str] = {}
        self.skin_id = self._texture(clothes.skin_sheet(rng, self.skin), "smooth", 0.4)

    def finish(self) -> Appearance:
        rng, build = self.rng, self.build
        backpack, sling = self._choose_bag()
        self._dress_top(backpack, sling)
        self._shoes()
        self._head()
        self._carry(backpack, sling)
        hip = rng.normal(0.38, 0.045)
        gait = [
            hip, rng.normal(0.98, 0.1), rng.normal(0.42, 0.13), rng.normal(0.32, 0.14),
            max(0.02, rng.normal(0.08 + 0.10 * (build.girth - 1) + (0.05 if self.thick else 0), 0.035)),
            max(-0.05, rng.normal(0.06, 0.06)), rng.normal(0.04, 0.02), rng.normal(0.12, 0.09),
        ]  # fmt: skip
        fine, coarse = self.grids.meshes()
        return Appearance(
            height_m=build.height_m,
            stride_m=float(4 * 0.49 * build.height_m * np.sin(hip)),
            pivots=shape.pivots(build).astype(np.float32),
            landmarks=shape.landmarks(build).astype(np.float32),
            gait=np.array(gait, np.float32),
            fine=fine,
            coarse=coarse,
            textures=clothes.levels(self.textures),
            tints=np.ones((len(self.textures), 3), np.float32),
            traits=self.traits,
        )

    def _texture(self, sheet: Sheet, folds: clothes.Folds, depth: float = 1.0) -> int:
        self.textures.append(clothes.finish(self.rng, sheet, folds, depth))
        return len(self.textures) - 1

    def _choose_bag(self) -> tuple[Sheet | None, bool | None]:
        """A backpack's straps or the side a sling bag hangs on (True is the left), or neither."""
        self.bag_colour = (
            colours.draw_bottom_colour(self.rng) if self.rng.random() < 0.75 else colours.draw_top_colour(self.rng)
        )
        kind = self.rng.choice(
            ["none", "backpack", "sling", "hand", "tote", "case"], p=[0.46, 0.21, 0.12, 0.11, 0.06, 0.04]
        )
        self.traits["bag"] = str(kind)
        strap = np.clip(self.bag_colour * self.rng.uniform(0.6, 1.0), 10, 230)
        return (strap if kind == "backpack" else None), (
            bool(self.rng.random() < 0.5) if kind in ("sling", "tote") else None
        )

    def _dress_top(self, backpack: Sheet | None, sling: bool | None) -> None:
        rng = self.rng
        kinds = ["tee", "shirt", "sweater", "tank", "dress", "jacket", "open jacket", "coat", "open coat"]
        share = np.array([0.24, 0.15, 0.17, 0.03, 0.09 if self.feminine else 0.0, 0.15, 0.12, 0.08, 0.06])
        kind = str(rng.choice(kinds, p=share / share.sum()))
        self.traits["top"] = kind
        self.thick = kind in ("jacket", "open jacket", "coat", "open coat", "sweater")
        outer = kind in ("jacket", "open jacket", "coat", "open coat")
        colour = self.wardrobe.outer if outer else self.wardrobe.top
        pattern = clothes.draw_pattern(rng) if not outer or rng.random() < 0.35 else "plain"
        self.traits["pattern"] = pattern
        sheet = clothes.cloth(rng, colour, pattern)
        if kind in ("tee", "sweater") and rng.random() < 0.34:
            clothes.add_print(rng, sheet, colour, front=True)
            self.traits["print"] = "chest"
        if kind in ("tee", "sweater", "jacket") and rng.random() < 0.1:
            clothes.add_print(rng, sheet, colour, front=False)
        if kind.startswith("open"):
            inner = clothes.cloth(rng, self.wardrobe.top, clothes.draw_pattern(rng))
            if rng.random() < 0.3:
                clothes.add_print(rng, inner, self.wardrobe.top, front=True)
            clothes.add_collar(rng, inner, self.skin, rng.uniform(3, 7), str(rng.choice(["round", "v", "shirt"])))
            clothes.open_front(rng, sheet, inner, rng.uniform(0.05, 0.14))
        elif kind in ("tee", "tank", "dress"):
            clothes.add_collar(rng, sheet, self.skin, rng.uniform(3, 9), str(rng.choice(["round", "v"])))
        else:
            clothes.add_collar(rng, sheet, self.skin, 3, "shirt" if kind == "shirt" else "high")
        if outer or rng.random() < 0.2:
            clothes.add_details(rng, sheet, "jacket")
        clothes.add_hems(rng, sheet)
        if backpack is not None:
            clothes.add_straps(sheet, np.asarray(backpack))
        if sling is not None and self.traits["bag"] == "sling":
            clothes.add_sling(sheet, np.clip(self.bag_colour * 0.8, 8, 230), sling, rng.uniform(0.012, 0.03))
        folds: clothes.Folds = (
            "puffer"
            if kind == "jacket" and rng.random() < 0.3
            else "knit"
            if kind == "sweater" and rng.random() < 0.5
            else "torso"
        )
        depth = rng.uniform(0.5, 1.3)
        body_id = self._texture(sheet, folds, depth)
        sleeve_colour = colours.partner(rng, colour) if rng.random() < 0.06 else colour
        sleeve_sheet = clothes.plain(sleeve_colour)
        if pattern not in ("plain", "two-tone", "bands", "fade"):  # the trunk's side goes round the arm
            sleeve_sheet = np.tile(sheet[:, 8:24], (1, 4, 1))
            sleeve_sheet[:14] = sleeve_sheet[20:34]
        clothes.add_hems(rng, sleeve_sheet)
        sleeve_id = self._texture(sleeve_sheet, "puffer" if folds == "puffer" else "limb", depth)

        ease = {"tee": 0.005, "shirt": 0.006, "sweater": 0.010, "tank": 0.003, "dress": 0.004}.get(
            kind, 0.013
        ) + rng.uniform(0, 0.006)
        ease += 0.006 if folds == "puffer" else 0.0
        if "coat" in kind:
            bottom = rng.uniform(0.20, 0.43)
        elif kind == "dress":
            bottom = rng.uniform(0.12, 0.40)
        elif outer:
            bottom = rng.uniform(0.45, 0.53)
        else:
            bottom = rng.uniform(0.465, 0.525) if rng.random() < 0.75 else 0.60
        tucked = bottom > 0.58
        flare = rng.uniform(0.0, 0.045) if bottom < 0.43 else 0.0
        boxy = 0.0 if tucked else rng.uniform(0.0, 0.35) if self.feminine else rng.uniform(0.2, 0.8)
        self._lower(bottom, kind)
        self._trunk(body_id, 0.846, bottom, ease, flare, boxy, rows=17)
        if kind != "tank":
            long = outer or kind == "sweater" or (kind in ("shirt", "dress") and rng.random() < 0.55)
            hem = WRIST + rng.uniform(-0.012, 0.012) if long else rng.uniform(0.655, 0.735)
            if long and not outer and rng.random() < 0.2:
                hem = ELBOW - rng.uniform(0.0, 0.05)  # rolled up
            self._sleeves(sleeve_id, hem, ease * 0.75 + 0.001, rng.uniform(0, 0.007) if not long else 0.0)
        else:
            hem = 0.82
        self._arms(hem)
        if kind in ("shirt", "jacket", "coat", "open jacket", "open coat", "sweater") and rng.random() < 0.8:
            self._collar(body_id, sleeve_id, hood=kind in ("sweater", "jacket", "open jacket") and rng.random() < 0.3)
        if rng.random() < (0.14 if outer else 0.04):
            self._scarf()

    def _trunk(
        self, texture: int, top: float, bottom: float, ease: float, flare: float, boxy: float, rows: int
    ) -> None:
        grid = shape.torso(self.build, top, bottom, ease, rows=rows, columns=20, flare=flare, boxy=boxy)
        level = grid[..., 2] / self.build.height_m
        side = np.abs(np.sin(2 * np.pi * np.arange(21) / 20)) ** 4
        shade = 1 - 0.25 * side * np.clip((0.80 - level) / 0.06, 0, 1) * np.clip((level - 0.5) / 0.1, 0, 1)
        part = np.where(level > CROTCH + 0.02, TORSO_PART, np.where(level > KNEE, UPPER_LEG_PART, LOWER_LEG_PART))
        self.grids.add(
            grid, texture, part, [HEAD, CHEST, SPINE, PELVIS], [0.846, 0.66, 0.575], half=0.035,
            sway=np.clip((0.53 - level) / 0.12, 0, 1), occlusion=shade, inside_top=True,
        )  # fmt: skip

    def _sleeves(self, texture: int, hem: float, ease: float, flare: float) -> None:
        for side in (0, 1):
            grid = shape.arm(self.build, side, 0.822, hem, ease, rows=13, columns=12, flare=flare)
            self._limb(grid, texture, side)

    def _limb(self, grid: Points, texture: int, side: int) -> None:
        level = grid[..., 2] / self.build.height_m
        inner = np.clip(
            (self.build.shoulder_x * self.build.height_m - np.abs(grid[..., 0])) / (0.03 * self.build.height_m), 0, 1
        )
        shade = 1 - 0.3 * inner * np.clip((0.80 - level) / 0.03, 0, 1)
        part = np.where(level > ELBOW, UPPER_ARM_PART, LOWER_ARM_PART)
        self.grids.add(
            grid, texture, part, [CHEST, UPPER_ARM[side], FOREARM[side]], [0.812, ELBOW], half=0.018, occlusion=shade
        )

    def _arms(self, hem: float) -> None:
        for side in (0, 1):
            if hem > WRIST + 0.03:
                self._limb(
                    shape.arm(self.build, side, min(hem + 0.03, 0.822), WRIST - 0.004, 0.0, rows=11, columns=10),
                    self.skin_id,
                    side,
                )
            grid = shape.hand(self.build, side, rows=7, columns=8)
            self.grids.add(grid, self.skin_id, LOWER_ARM_PART, [FOREARM[side]], [])

    def _collar(self, body: int, sleeve: int, hood: bool) -> None:
        k = self.build.height_m
        thick = self.rng.uniform(0.007, 0.014)
        grid = shape.ring((0, -0.007 * k, 0.843 * k), (0.036 * k, 0.036 * k), thick * k, rows=7, columns=14)
        self.grids.add(grid, sleeve, TORSO_PART, [HEAD, CHEST], [0.86], half=0.02, occlusion=0.92)
        if hood:
            grid = shape.box(
                (0, -0.062 * k, 0.825 * k), (0.055 * k, 0.028 * k, 0.035 * k), rows=7, columns=12, square=2.2
            )
            self.grids.add(grid, sleeve, TORSO_PART, [CHEST], [])

    def _scarf(self) -> None:
        k, rng = self.build.height_m, self.rng
        colour = colours.draw_top_colour(rng)
        sheet = clothes.cloth(rng, colour, clothes.draw_pattern(rng))
        texture = self._texture(sheet, "limb", 1.3)
        self.traits["scarf"] = "yes"
        self.grids.add(
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
            self.grids.add(end, texture, TORSO_PART, [CHEST], [])

    def _lower(self, top_hem: float, top: str) -> None:
        rng, build = self.rng, self.build
        if top == "dress":
            self.traits["lower"] = "dress"
            self._bare_legs()
            return
        share = np.array([0.68, 0.10 if self.feminine else 0.02, 0.13, 0.22 if self.feminine else 0.0])
        lower: Lower = rng.choice(["trousers", "leggings", "shorts", "skirt"], p=share / share.sum())
        if "coat" in top and lower == "shorts":
            lower = "trousers"
        self.traits["lower"] = str(lower)
        colour = self.wardrobe.bottom
        pattern = clothes.draw_pattern(rng) if rng.random() < (0.5 if lower == "skirt" else 0.22) else "plain"
        if lower == "skirt":
            sheet = clothes.cloth(rng, colour, pattern)
            clothes.add_hems(rng, sheet)
            self._trunk(
                self._texture(sheet, "skirt", rng.uniform(0.6, 1.4)),
                WAIST,
                rng.uniform(0.08, 0.42),
                0.006,
                rng.uniform(0, 0.06),
                0.0,
                rows=11,
            )
            self._bare_legs()
            return
        waist = clothes.cloth(rng, colour, pattern)
        clothes.add_details(rng, waist, "waist")
        self._trunk(self._texture(waist, "smooth"), min(WAIST, top_hem + 0.08), CROTCH - 0.012, 0.003, 0.0, 0.0, rows=7)
        sheet = clothes.cloth(rng, colour, pattern)
        clothes.add_details(rng, sheet, "leg")
        clothes.add_hems(rng, sheet, rows=2)
        texture = self._texture(sheet, "trousers" if lower != "leggings" else "smooth", rng.uniform(0.5, 1.3))
        loose = 0.001 if lower == "leggings" else rng.choice([0.003, 0.008, 0.014], p=[0.4, 0.42, 0.18])
        bottom = (
            rng.uniform(0.24, 0.40)
            if lower == "shorts"
            else rng.uniform(0.025, 0.05)
            if rng.random() < 0.75
            else rng.uniform(0.07, 0.13)
        )
        flare = rng.uniform(0.0, 0.018) * (loose > 0.005)
        for side in (0, 1):
            self._leg(shape.leg(build, side, 0.53, bottom, loose, rows=17, columns=14, flare=flare), texture, side)
            if bottom > 0.055:
                self._leg(
                    shape.leg(build, side, bottom + 0.03, 0.03, 0.0, rows=11, columns=10),
                    self._stocking() if side == 0 else self._sock,
                    side,
                )

    def _stocking(self) -> int:
        """The texture of what shows under shorts or cropped trousers: skin, or socks up to some height."""
        sheet = clothes.skin_sheet(self.rng, self.skin)
        if self.rng.random() < 0.5:
            sheet[int(self.rng.integers(38, 60)) :] = (
                225.0 if self.rng.random() < 0.6 else colours.draw_bottom_colour(self.rng)
            )
        self._sock = self._texture(sheet, "smooth", 0.5)
        return self._sock

    def _bare_legs(self) -> None:
        rng = self.rng
        if rng.random() < 0.4:
            colour = np.full(3, 30.0) if rng.random() < 0.6 else colours.draw_bottom_colour(rng)
            texture = self._texture(clothes.plain(colour * 0.8 + 0.2 * self.skin), "smooth", 0.4)
        else:
            texture = self.skin_id
        for side in (0, 1):
            self._leg(shape.leg(self.build, side, 0.53, 0.03, 0.0, rows=17, columns=12), texture, side)

    def _leg(self, grid: Points, texture: int, side: int) -> None:
        level = grid[..., 2] / self.build.height_m
        middle = self.build.hip_x * self.build.height_m
        inner = np.clip((middle - np.abs(grid[..., 0])) / (0.04 * self.build.height_m), 0, 1)
        shade = 1 - 0.32 * inner * np.clip((level - 0.15) / 0.3, 0, 1)
        part = np.where(level > KNEE, UPPER_LEG_PART, LOWER_LEG_PART)
        self.grids.add(
            grid,
            texture,
            part,
            [PELVIS, THIGH[side], SHIN[side], FOOT[side]],
            [HIP - 0.01, KNEE, ANKLE - 0.01],
            half=0.022,
            occlusion=shade,
        )

    def _shoes(self) -> None:
        rng = self.rng
        kind = str(rng.choice(["low", "high", "boots", "sandals"], p=[0.62, 0.17, 0.14, 0.07]))
        ankle = {"low": 0.052, "high": 0.072, "sandals": 0.048}.get(kind, rng.uniform(0.12, 0.24))
        sheet = clothes.shoe_sheet(rng, self.skin if kind == "sandals" else self.wardrobe.shoes)
        texture = self._texture(sheet, "smooth")
        for side in (0, 1):
            grid = shape.shoe(self.build, side, rows=9, columns=12, sole=rng.uniform(0, 0.002), ankle=ankle)
            level = grid[..., 2] / self.build.height_m
            part = np.where(level > 0.07, LOWER_LEG_PART, FOOT_PART)
            shade = np.clip(0.75 + level / 0.1, 0.75, 1.0)
            self.grids.add(
                grid, texture, part, [SHIN[side], FOOT[side]], [0.062], half=0.02, occlusion=shade, inside_top=True
            )

    def _head(self) -> None:
        rng, build = self.rng, self.build
        beard = 0.0 if self.feminine or rng.random() < 0.55 else float(rng.choice([0.25, 0.55, 0.9]))
        glasses = bool(rng.random() < 0.2)
        texture = self._texture(clothes.face(rng, self.skin, self.hair, beard, glasses), "smooth", 0.3)
        grid = shape.head(build, rows=21, columns=20)
        level = (grid[..., 2] / build.height_m - CHIN) / build.head
        shade = np.where(level < 0, 0.78 + 0.1 * np.clip(-level / 0.05, 0, 1), 1.0)
        self.grids.add(grid, texture, HEAD_PART, [HEAD, CHEST], [0.838], half=0.015, occlusion=shade)
        hat = str(
            rng.choice(["none", "cap", "beanie", "brim", "hood", "scarf"], p=[0.79, 0.08, 0.055, 0.025, 0.03, 0.02])
        )
        self.traits["hat"] = hat
        self._hair(hat)
        if hat != "none":
            self._hat(hat)

    def _hair(self, hat: str) -> None:
        rng, build, k = self.rng, self.build, self.build.height_m
        share = (
            [0.02, 0.13, 0.18, 0.34, 0.15, 0.10, 0.08]
            if self.feminine
            else [0.15, 0.66, 0.07, 0.03, 0.015, 0.005, 0.07]
        )
        kind = str(rng.choice(["bald", "short", "bob", "long", "pony", "bun", "curly"], p=share))
        self.traits["hair"] = kind
        if hat in ("hood", "scarf") or kind == "bald":
            return
        sheet = clothes.plain(self.hair) * np.linspace(1.08, 0.85, clothes.SIZE)[:, None, None]
        if rng.random() < 0.1:
            sheet[int(rng.integers(25, 45)) :] = colours.draw_hair(rng)
        texture = self._texture(sheet, "curls" if kind == "curly" else "hair", rng.uniform(0.7, 1.3))
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
        self.grids.add(grid, texture, HEAD_PART, [HEAD, CHEST], [0.79], half=0.05)
        z = CHIN + 0.085 * build.head
        if kind == "pony":
            tail = np.linspace(0, 1, 7)
            length = rng.uniform(0.07, 0.15)
            grid = shape.rings(
                (z - 0.01 - length * tail**1.2) * k, np.interp(tail, [0, 0.3, 1], [0.008, 0.016, 0.004]) * k,
                np.interp(tail, [0, 0.3, 1], [0.008, 0.014, 0.004]) * k, np.interp(tail, [0, 0.3, 1], [0.008, 0.014, 0.004]) * k,
                rows=9, columns=8, y=(-0.062 - 0.025 * np.sqrt(tail)) * k, cap_top=True, cap_bottom=True,
            )  # fmt: skip
            self.grids.add(grid, texture, HEAD_PART, [HEAD], [])
        elif kind == "bun":
            at, size = (0.0, -0.062, z) if rng.random() < 0.6 else (0.0, -0.03, z + 0.045), rng.uniform(0.017, 0.028)
            grid = shape.box([c * k for c in at], [size * k] * 3, rows=7, columns=10, square=2.0)
            self.grids.add(grid, texture, HEAD_PART, [HEAD], [])

    def _hat(self, hat: str) -> None:
        rng, build, k = self.rng, self.build, self.build.height_m
        colour = colours.draw_top_colour(rng) if rng.random() < 0.6 else colours.draw_bottom_colour(rng)
        sheet = clothes.cloth(rng, colour, "plain" if rng.random() < 0.75 else clothes.draw_pattern(rng))
        if hat == "cap" and rng.random() < 0.4:
            sheet[24:44, 27:37] = colours.partner(rng, colour)
        texture = self._texture(sheet, "knit" if hat == "beanie" else "smooth")
        edges = {
            "cap": (0.088, 0.080, 0.062, 0.007, 0.008),
            "beanie": (0.086, 0.068, 0.045, 0.009, rng.uniform(0.008, 0.02)),
            "brim": (0.090, 0.085, 0.075, 0.008, 0.018),
            "hood": (0.098, -0.01, -0.04, 0.014, 0.014),
            "scarf": (0.095, -0.02, -0.05, 0.010, 0.010),
        }[hat]
        grid = shape.on_head(build, *edges, rows=9, columns=16, drop=0.0)
        self.grids.add(grid, texture, HEAD_PART, [HEAD, CHEST], [0.83], half=0.02)
        z = CHIN + 0.086 * build.head
        if hat == "cap":
            front = 1.0 if rng.random() < 0.9 else -1.0
            grid = shape.box(
                (0, front * 0.082 * k, z * k), (0.040 * k, 0.036 * k, 0.003 * k), rows=7, columns=12, square=2.6
            )
            self.grids.add(grid, texture, HEAD_PART, [HEAD], [])
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
            self.grids.add(grid, texture, HEAD_PART, [HEAD], [], occlusion=0.9)

    def _carry(self, backpack: Sheet | None, sling: bool | None) -> None:
        rng, build, k, kind = self.rng, self.build, self.build.height_m, self.traits["bag"]
        if kind == "none":
            return
        texture = self._texture(
            clothes.bag_sheet(rng, self.bag_colour), "torso" if rng.random() < 0.5 else "smooth", 0.8
        )
        if backpack is not None:
            half = (rng.uniform(0.07, 0.095), rng.uniform(0.03, 0.055), rng.uniform(0.085, 0.135))
            back = 0.06 * build.girth + (0.015 if self.thick else 0.005) + half[1]
            grid = shape.box(
                (0, -back * k, (0.80 - half[2]) * k), [h * k for h in half], rows=9, columns=14, square=3.2, tilt=0.06
            )
            self.grids.add(grid, texture, TORSO_PART, [CHEST, SPINE], [0.64], half=0.03, body=False)
        elif sling is not None:
            side = -1 if sling else 1
            high = 0.56 if kind == "tote" else rng.uniform(0.47, 0.56)
            half = (rng.uniform(0.022, 0.04), rng.uniform(0.06, 0.095), rng.uniform(0.045, 0.095))
            x = side * (0.098 * build.hip * (0.4 + 0.6 * build.girth) + half[0] + 0.012)
            grid = shape.box(
                (x * k, rng.uniform(-0.03, 0.02) * k, high * k), [h * k for h in half], rows=9, columns=12, square=4.0
            )
            self.grids.add(grid, texture, 0, [PELVIS], [], body=False)
            if kind == "tote":
                self._handles(texture, (x * 0.99, 0.0, high + half[2]), (build.shoulder_x * 0.85 * side, -0.006, 0.828))
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
            self.grids.add(grid, texture, 0, [GRIP[side]], [], body=False)
            self._handles(texture, (x, 0.005, drop + half[2]), (x, 0.005, 0.405), GRIP[side])

    def _handles(
        self, texture: int, low: tuple[float, float, float], high: tuple[float, float, float], bone: int = CHEST
    ) -> None:
        k = self.build.height_m
        z = np.array([high[2], low[2] - 0.01])
        grid = shape.rings(
            z * k, 0.004 * k, 0.011 * k, 0.011 * k, rows=5, columns=6,
            x=np.array([high[0], low[0]]) * k, y=np.array([high[1], low[1]]) * k,
        )  # fmt: skip
        self.grids.add(grid, texture, 0, [bone], [], body=False)
