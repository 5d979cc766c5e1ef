"""People and things drawn with perspective into colour, depth, owner and part, triangle by triangle.

A triangle raster over textured grids: at 120 pixels a person of 2,000 triangles takes about half a millisecond, and
normals, hems and prints come out smoother than from a few hundred spheres.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.body import Figure
from ingest.synthetic.camera import NEAR_M, Pinhole
from ingest.synthetic.triangles import cast_shadow, darken, darken_around, extent, fill, place

Float32 = NDArray[np.float32]

FINE_PX = 150.0
"""A person taller than this is drawn from the fine mesh, a smaller one from every second row and column of it."""

TEXELS_PER_PX = 1.4
"""How many texels may fall on a pixel before the next coarser texture is taken."""


class Canvas:
    """A picture in the making.

    Attributes:
        colour: (h, w, 3) uint8, RGB.
        depth: (h, w) float32, metres along the camera's middle ray, inf where nothing was drawn.
        owner: (h, w) int32, who is seen: 0 is the scene, the rest are the ids given to `draw_figure`.
        part: (h, w) uint8: 0 background, 1 head, 2 torso, 3 upper arm, 4 lower arm, 5 upper leg, 6 lower leg, 7 foot.
    """

    def __init__(self, height: int, width: int) -> None:
        self.colour = np.zeros((height, width, 3), np.uint8)
        self.depth = np.full((height, width), np.inf, np.float32)
        self.owner = np.zeros((height, width), np.int32)
        self.part = np.zeros((height, width), np.uint8)
        self._touched = np.zeros((height, width), np.int32)
        self._stamp = 0

    def reset(self, colour: NDArray[np.uint8], depth: Float32 | None = None) -> None:
        """Begin again from a scene without people: its colours and, where it has solid things, their depth."""
        self.colour[...] = colour
        self.depth[...] = np.inf if depth is None else depth
        self.owner[...] = 0
        self.part[...] = 0
        self._touched[...] = 0
        self._stamp = 0

    def next_stamp(self) -> int:
        """A number that marks the pixels one draw call has touched, so that each counts once."""
        self._stamp += 1
        return self._stamp


@dataclass(frozen=True, slots=True, eq=False)
class Light:
    """Light from some directions and from everywhere.

    Args:
        directions: (L, 3) float32, unit vectors in the world from a lit thing to each light; folds are shaded by the first.
        colours: (L, 3) float32, RGB strength of each; 1.0 shows a cloth in its own colour when it faces the light.
        ambient: (3,) float32, RGB strength of what comes from everywhere, more of it from above.
    """

    directions: Float32 = field(default_factory=lambda: np.array([[0.4, -0.5, 0.77]], np.float32))
    colours: Float32 = field(default_factory=lambda: np.full((1, 3), 0.6, np.float32))
    ambient: Float32 = field(default_factory=lambda: np.full(3, 0.55, np.float32))


class Drawn(NamedTuple):
    """What one drawn person covers.

    Args:
        xyxy: (4,) float32 pixels, the box of the whole body, hidden parts and those outside the picture included, bags not.
        pixels: how many pixels of the picture the person covers when nobody stands in front.
    """

    xyxy: Float32
    pixels: int


def draw_light(rng: np.random.Generator, contrast: float = 1.0) -> Light:
    """A random light: one or two directions, warmer or colder, and the rest from everywhere."""
    count = int(rng.integers(1, 4))
    turn, height = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.25, 1.4, count)
    directions = np.stack([np.cos(turn) * np.cos(height), np.sin(turn) * np.cos(height), np.sin(height)], axis=1)
    share = rng.uniform(0.25, 0.6) * contrast
    strength = rng.dirichlet(np.full(count, 1.5)) * share * 1.7
    warmth = rng.normal(0, 0.06, (count, 1)) * np.array([1.0, 0.0, -1.0])
    colours = strength[:, None] * (1 + warmth)
    ambient = (1.05 - share) * (1 + rng.normal(0, 0.03) * np.array([1.0, 0.0, -1.0]))
    return Light(directions.astype(np.float32), colours.astype(np.float32), ambient.astype(np.float32))


def draw_figure(
    canvas: Canvas,
    figure: Figure,
    heading: float,
    position: tuple[float, float],
    camera: Pinhole,
    light: Light,
    owner: int,
) -> Drawn | None:
    """Draw a person who stands at `position` (metres on the floor) and faces `heading` into the canvas.

    Args:
        heading: radians, counter-clockwise from the world's x axis: the person walks towards (cos, sin).
        owner: the id to write into `canvas.owner`, at least 1.

    Returns:
        None if nothing of the person lies in front of the camera.
    """
    mesh = figure.appearance.fine
    turn, spot = _frame(heading, position)
    view, eye, lens = _view(camera)
    box = np.empty(4, np.float32)
    middle = camera.to_camera([position[0], position[1], 0.9])[2]
    height_px = camera.focal * figure.appearance.height_m / max(float(middle), NEAR_M)
    vertices, frames = figure.vertices, figure.frames
    if height_px <= FINE_PX:
        mesh = figure.appearance.coarse
        vertices, frames = vertices[mesh.pick], frames[mesh.pick]
    screen, attributes = place(
        vertices, frames, mesh.uv, mesh.occlusion, mesh.texture, figure.appearance.tints, turn, spot, view, eye, lens,
        light.directions, light.colours, light.ambient,
    )  # fmt: skip
    if not extent(screen, mesh.is_body, box):
        return None
    level = int(
        np.clip(np.log2(64 * TEXELS_PER_PX * 2.2 / max(height_px, 1.0)), 0, len(figure.appearance.textures) - 1)
    )
    pixels = fill(
        canvas.colour, canvas.depth, canvas.owner, canvas.part, canvas._touched, canvas.next_stamp(),
        screen, attributes, mesh.triangles, mesh.triangle_texture, mesh.triangle_part,
        figure.appearance.textures[level], owner, True,
    )  # fmt: skip
    return Drawn(box, pixels)


def draw_shadow(
    canvas: Canvas,
    figure: Figure,
    heading: float,
    position: tuple[float, float],
    camera: Pinhole,
    light: Light,
    strength: float = 0.35,
) -> None:
    """Darken the floor (z = 0) under a person and away from the first light. Call it before people are drawn.

    Args:
        strength: share of the light that the deepest shadow takes, 0 to 1.
    """
    mesh = figure.appearance.coarse
    turn, spot = _frame(heading, position)
    view, eye, lens = _view(camera)
    screen = cast_shadow(figure.vertices[mesh.pick], turn, spot, view, eye, lens, light.directions[0])
    stamp = canvas.next_stamp()
    sharp = float(np.clip(light.colours[0].mean() / (light.colours.sum() / 3 + light.ambient.mean()), 0.1, 0.7))
    darken(
        canvas.colour,
        canvas.depth,
        canvas._touched,
        stamp,
        screen,
        mesh.triangles,
        np.float32(1 - strength * sharp * 1.3),
    )
    for foot in figure.feet:
        lift = max(float(foot[2]), 0.0)
        if lift > 0.3:
            continue
        spread = 0.16 + 0.5 * lift
        middle = turn.T @ foot * np.array([1, 1, 0], np.float32) + spot
        darken_around(
            canvas.colour,
            canvas.depth,
            middle.astype(np.float32),
            np.float32(spread * 1.5),
            view,
            eye,
            lens,
            np.float32(strength),
        )


def _frame(heading: float, position: tuple[float, float]) -> tuple[Float32, Float32]:
    """Rows: the person's right, forward and up in the world; and the place of the feet."""
    cos, sin = np.cos(heading), np.sin(heading)
    turn = np.array([[sin, -cos, 0], [cos, sin, 0], [0, 0, 1]], np.float32)
    return turn, np.array([position[0], position[1], 0], np.float32)


def _view(camera: Pinhole) -> tuple[Float32, Float32, Float32]:
    lens = np.array([camera.focal, camera.principal_point[0], camera.principal_point[1]], np.float32)
    return camera.rotation.astype(np.float32), camera.position.astype(np.float32), lens
