"""Puts one person together, grid by grid: who it is, and where trunk, arms and legs of skin and cloth hang."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic import clothes, colours, shape
from ingest.synthetic.body import (
    CHEST,
    FOOT,
    FOREARM,
    HEAD,
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
)
from ingest.synthetic.build import ANKLE, CROTCH, ELBOW, HIP, KNEE, draw_build
from ingest.synthetic.clothes import Sheet, Texture
from ingest.synthetic.colours import Wardrobe
from ingest.synthetic.grids import Grids

Points = NDArray[np.float64]


class Tailor:
    """One person in the making.

    Attributes:
        build, skin, hair, feminine: who it is.
        bag: what is carried: none, backpack, sling, hand, tote or case; bag_colour, and bag_left: on which side.
        thick: wears something that holds the arms off the body.
        grids, textures, traits: what was put on so far; skin_id is the texture of bare skin.
    """

    def __init__(self, rng: np.random.Generator, wardrobe: Wardrobe) -> None:
        self.rng = rng
        self.wardrobe = wardrobe
        self.build = draw_build(rng)
        self.feminine = bool(rng.random() < np.clip((1.06 - self.build.shoulder) / 0.12, 0.05, 0.95))
        self.skin = colours.draw_skin(rng)
        self.hair = colours.draw_hair(rng)
        self.thick = False
        bags, share = ["none", "backpack", "sling", "hand", "tote", "case"], [0.46, 0.21, 0.12, 0.11, 0.06, 0.04]
        self.bag = str(rng.choice(bags, p=share))
        self.bag_left = bool(rng.random() < 0.5)
        self.bag_colour = colours.draw_bottom_colour(rng) if rng.random() < 0.75 else colours.draw_top_colour(rng)
        self.grids = Grids(self.build.height_m)
        self.textures: list[Texture] = []
        self.traits: dict[str, str] = {"bag": self.bag}
        self.skin_id = self.texture(clothes.skin_sheet(rng, self.skin), "smooth", 0.4)

    def texture(self, sheet: Sheet, folds: clothes.Folds, depth: float = 1.0) -> int:
        """Keep a painted sheet with folds of a kind and depth; returns its number."""
        self.textures.append(clothes.finish(self.rng, sheet, folds, depth))
        return len(self.textures) - 1

    def trunk(self, texture: int, top: float, bottom: float, ease: float, flare: float, boxy: float, rows: int) -> None:
        """Add what goes round trunk and hips, `top` to `bottom`: see `shape.torso`."""
        grid = shape.torso(self.build, top, bottom, ease, rows=rows, columns=20, flare=flare, boxy=boxy)
        level = grid[..., 2] / self.build.height_m
        side = np.abs(np.sin(2 * np.pi * np.arange(21) / 20)) ** 4
        shade = 1 - 0.25 * side * np.clip((0.80 - level) / 0.06, 0, 1) * np.clip((level - 0.5) / 0.1, 0, 1)
        part = np.where(level > CROTCH + 0.02, TORSO_PART, np.where(level > KNEE, UPPER_LEG_PART, LOWER_LEG_PART))
        self.grids.add(
            grid, texture, part, [HEAD, CHEST, SPINE, PELVIS], [0.846, 0.66, 0.575], half=0.035,
            sway=np.clip((0.53 - level) / 0.12, 0, 1), occlusion=shade, inside_top=True,
        )  # fmt: skip

    def limb(self, grid: Points, texture: int, side: int) -> None:
        """Add a piece of an arm or sleeve."""
        level = grid[..., 2] / self.build.height_m
        inner = np.clip(
            (self.build.shoulder_x * self.build.height_m - np.abs(grid[..., 0])) / (0.03 * self.build.height_m), 0, 1
        )
        shade = 1 - 0.3 * inner * np.clip((0.80 - level) / 0.03, 0, 1)
        part = np.where(level > ELBOW, UPPER_ARM_PART, LOWER_ARM_PART)
        self.grids.add(
            grid, texture, part, [CHEST, UPPER_ARM[side], FOREARM[side]], [0.812, ELBOW], half=0.018, occlusion=shade
        )

    def leg(self, grid: Points, texture: int, side: int) -> None:
        """Add a piece of a leg, trouser leg or stocking."""
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
