"""Drawn people: somebody with a body, clothes and things to carry, who looks the same to every camera."""

from __future__ import annotations

import numpy as np

from ingest.synthetic import clothes
from ingest.synthetic.accessories import add_bag, add_head, wrap_scarf
from ingest.synthetic.body import Appearance
from ingest.synthetic.build import landmarks, pivots
from ingest.synthetic.colours import Wardrobe, draw_wardrobe
from ingest.synthetic.outfit import dress, dress_feet
from ingest.synthetic.tailor import Tailor


def draw_appearance(rng: np.random.Generator, wardrobe: Wardrobe | None = None) -> Appearance:
    """Draw a person: body, skin, hair, clothes, patterns, bags and hat.

    Args:
        wardrobe: the clothes' colours; people drawn from one wardrobe look alike and differ in build, cut, pattern and
            what they carry. None draws one.
    """
    tailor = Tailor(rng, draw_wardrobe(rng) if wardrobe is None else wardrobe)
    dress(tailor)
    dress_feet(tailor)
    add_head(tailor)
    if rng.random() < (0.1 if tailor.thick else 0.04):
        wrap_scarf(tailor)
    add_bag(tailor)
    build = tailor.build
    hip = rng.normal(0.38, 0.045)
    spread = 0.08 + 0.10 * (build.girth - 1) + (0.05 if tailor.thick else 0)
    gait = [
        hip, rng.normal(0.98, 0.1), rng.normal(0.42, 0.13), rng.normal(0.32, 0.14), max(0.02, rng.normal(spread, 0.035)),
        max(-0.05, rng.normal(0.06, 0.06)), rng.normal(0.04, 0.02), rng.normal(0.12, 0.09),
    ]  # fmt: skip
    fine, coarse = tailor.grids.meshes()
    return Appearance(
        height_m=build.height_m,
        stride_m=float(4 * 0.49 * build.height_m * np.sin(hip)),
        pivots=pivots(build).astype(np.float32),
        landmarks=landmarks(build).astype(np.float32),
        gait=np.array(gait, np.float32),
        fine=fine,
        coarse=coarse,
        textures=clothes.levels(tailor.textures),
        tints=np.ones((len(tailor.textures), 3), np.float32),
        traits=tailor.traits,
    )
