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
from ingest.synthetic.kernel import kernel

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
    place = _frame(heading, position)
    view, eye, lens = _view(camera)
    box = np.empty(4, np.float32)
    middle = camera.to_camera([position[0], position[1], 0.9])[2]
    height_px = camera.focal * figure.appearance.height_m / max(float(middle), NEAR_M)
    vertices, frames = figure.vertices, figure.frames
    if height_px <= FINE_PX:
        mesh = figure.appearance.coarse
        vertices, frames = vertices[mesh.pick], frames[mesh.pick]
    screen, attributes = _place(
        vertices, frames, mesh.uv, mesh.occlusion, mesh.texture, figure.appearance.tints, *place, view, eye, lens,
        light.directions, light.colours, light.ambient,
    )  # fmt: skip
    if not _extent(screen, mesh.is_body, box):
        return None
    level = int(
        np.clip(np.log2(64 * TEXELS_PER_PX * 2.2 / max(height_px, 1.0)), 0, len(figure.appearance.textures) - 1)
    )
    pixels = _fill(
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
    screen = _cast(figure.vertices[mesh.pick], turn, spot, view, eye, lens, light.directions[0])
    stamp = canvas.next_stamp()
    sharp = float(np.clip(light.colours[0].mean() / (light.colours.sum() / 3 + light.ambient.mean()), 0.1, 0.7))
    _darken(
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
        _blob(
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


@kernel
def _place(vertices, frames, uv, occlusion, texture, tints, turn, spot, view, eye, lens, directions, colours, ambient):  # type: ignore[no-untyped-def]
    """Pixels, inverse depths and shading of a mesh: (V, 3) and (V, 7) u, v, red, green, blue, bump across, bump along."""
    count = len(vertices)
    screen = np.empty((count, 3), np.float32)
    attributes = np.empty((count, 7), np.float32)
    world = np.empty(3, np.float32)
    axes = np.empty((3, 3), np.float32)
    for i in range(count):
        for c in range(3):
            world[c] = spot[c]
            for d in range(3):
                world[c] += vertices[i, d] * turn[d, c]
            for a in range(3):
                axes[a, c] = 0.0
                for d in range(3):
                    axes[a, c] += frames[i, 3 * a + d] * turn[d, c]
        x = world[0] - eye[0]
        y = world[1] - eye[1]
        z = world[2] - eye[2]
        depth = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z
        if depth > np.float32(NEAR_M):
            inverse = np.float32(1.0) / depth
            screen[i, 0] = lens[0] * (view[0, 0] * x + view[0, 1] * y + view[0, 2] * z) * inverse + lens[1]
            screen[i, 1] = lens[0] * (view[1, 0] * x + view[1, 1] * y + view[1, 2] * z) * inverse + lens[2]
            screen[i, 2] = inverse
        else:
            screen[i, 2] = np.float32(-1.0)
        distance = np.sqrt(x * x + y * y + z * z) + np.float32(1e-6)
        facing = -(axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z) / distance
        rim = np.float32(0.72) + np.float32(0.28) * min(np.float32(1.0), max(np.float32(0.0), facing) * np.float32(1.6))
        sky = np.float32(0.78) + np.float32(0.22) * axes[0, 2]
        across = np.float32(0.0)
        along = np.float32(0.0)
        for c in range(3):
            attributes[i, 2 + c] = ambient[c] * sky
        for k in range(len(directions)):
            lit = axes[0, 0] * directions[k, 0] + axes[0, 1] * directions[k, 1] + axes[0, 2] * directions[k, 2]
            lit = max(np.float32(0.0), (lit + np.float32(0.25)) * np.float32(0.8))
            for c in range(3):
                attributes[i, 2 + c] += colours[k, c] * lit
        for c in range(3):
            across += axes[1, c] * directions[0, c]
            along += axes[2, c] * directions[0, c]
            attributes[i, 2 + c] *= rim * occlusion[i] * tints[texture[i], c]
        attributes[i, 0] = uv[i, 0]
        attributes[i, 1] = uv[i, 1]
        attributes[i, 5] = across
        attributes[i, 6] = along
    return screen, attributes


@kernel
def _extent(screen, counts, box):  # type: ignore[no-untyped-def]
    """The box around the vertices that count; False if any of them lies behind the camera or none counts."""
    box[0] = box[1] = np.float32(1e9)
    box[2] = box[3] = np.float32(-1e9)
    seen = False
    for i in range(len(screen)):
        if counts[i] and screen[i, 2] > 0:
            seen = True
            box[0] = min(box[0], screen[i, 0])
            box[1] = min(box[1], screen[i, 1])
            box[2] = max(box[2], screen[i, 0])
            box[3] = max(box[3], screen[i, 1])
    return seen


@kernel
def _fill(  # type: ignore[no-untyped-def]
    colour,
    depth,
    owner,
    part,
    touched,
    stamp,
    screen,
    attributes,
    triangles,
    triangle_texture,
    triangle_part,
    textures,
    who,
    cull,
):
    """Fill triangles front to back by depth. Returns how many pixels they cover, whatever stands before them."""
    height, width = depth.shape
    texture_h, texture_w = textures.shape[1], textures.shape[2]
    covered = 0
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        za, zb, zc = screen[a, 2], screen[b, 2], screen[c, 2]
        if za <= 0 or zb <= 0 or zc <= 0:
            continue
        xa, ya = screen[a, 0], screen[a, 1]
        xb, yb = screen[b, 0], screen[b, 1]
        xc, yc = screen[c, 0], screen[c, 1]
        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        if area == 0 or (cull and area < 0):
            continue
        low_y = max(0, int(np.ceil(min(ya, yb, yc))))
        high_y = min(height - 1, int(np.floor(max(ya, yb, yc))))
        low_x = max(0, int(np.ceil(min(xa, xb, xc))))
        high_x = min(width - 1, int(np.floor(max(xa, xb, xc))))
        if low_y > high_y or low_x > high_x:
            continue
        inverse = np.float32(1.0) / area
        sheet = triangle_texture[t]
        label = triangle_part[t]
        for y in range(low_y, high_y + 1):
            for x in range(low_x, high_x + 1):
                wa = ((xb - x) * (yc - y) - (xc - x) * (yb - y)) * inverse
                wb = ((xc - x) * (ya - y) - (xa - x) * (yc - y)) * inverse
                wc = np.float32(1.0) - wa - wb
                if wa < 0 or wb < 0 or wc < 0:
                    continue
                if touched[y, x] != stamp:
                    touched[y, x] = stamp
                    covered += 1
                z = np.float32(1.0) / (wa * za + wb * zb + wc * zc)
                if z >= depth[y, x]:
                    continue
                depth[y, x] = z
                owner[y, x] = who
                part[y, x] = label
                pa, pb, pc = wa * za * z, wb * zb * z, wc * zc * z
                u = pa * attributes[a, 0] + pb * attributes[b, 0] + pc * attributes[c, 0]
                v = pa * attributes[a, 1] + pb * attributes[b, 1] + pc * attributes[c, 1]
                column = int(np.floor((u - np.floor(u)) * texture_w)) % texture_w
                row = int(np.floor((v - np.floor(v)) * texture_h)) % texture_h
                across = pa * attributes[a, 5] + pb * attributes[b, 5] + pc * attributes[c, 5]
                along = pa * attributes[a, 6] + pb * attributes[b, 6] + pc * attributes[c, 6]
                bump = (textures[sheet, row, column, 3] - np.float32(128)) * across
                bump += (textures[sheet, row, column, 4] - np.float32(128)) * along
                bump = min(np.float32(1.7), max(np.float32(0.35), np.float32(1.0) - bump * np.float32(0.008)))
                for k in range(3):
                    shade = pa * attributes[a, 2 + k] + pb * attributes[b, 2 + k] + pc * attributes[c, 2 + k]
                    value = textures[sheet, row, column, k] * shade * bump
                    colour[y, x, k] = np.uint8(min(np.float32(255), value))
    return covered


@kernel
def _cast(vertices, turn, spot, view, eye, lens, direction):  # type: ignore[no-untyped-def]
    """Where the shadows of vertices fall on the floor, in pixels and inverse depth."""
    screen = np.empty((len(vertices), 3), np.float32)
    rise = max(direction[2], np.float32(0.35))  # a low light would throw shadows across the whole floor
    for i in range(len(vertices)):
        lift = vertices[i, 2] / rise
        x = spot[0] + vertices[i, 0] * turn[0, 0] + vertices[i, 1] * turn[1, 0] - direction[0] * lift - eye[0]
        y = spot[1] + vertices[i, 0] * turn[0, 1] + vertices[i, 1] * turn[1, 1] - direction[1] * lift - eye[1]
        z = -eye[2]
        depth = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z
        if depth > np.float32(NEAR_M):
            inverse = np.float32(1.0) / depth
            screen[i, 0] = lens[0] * (view[0, 0] * x + view[0, 1] * y + view[0, 2] * z) * inverse + lens[1]
            screen[i, 1] = lens[0] * (view[1, 0] * x + view[1, 1] * y + view[1, 2] * z) * inverse + lens[2]
            screen[i, 2] = inverse
        else:
            screen[i, 2] = np.float32(-1.0)
    return screen


@kernel
def _darken(colour, depth, touched, stamp, screen, triangles, factor):  # type: ignore[no-untyped-def]
    """Darken each pixel under the triangles once, unless something solid stands before the floor there."""
    height, width = depth.shape
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        if screen[a, 2] <= 0 or screen[b, 2] <= 0 or screen[c, 2] <= 0:
            continue
        xa, ya = screen[a, 0], screen[a, 1]
        xb, yb = screen[b, 0], screen[b, 1]
        xc, yc = screen[c, 0], screen[c, 1]
        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        if area == 0:
            continue
        inverse = np.float32(1.0) / area
        near = np.float32(1.0) / max(screen[a, 2], screen[b, 2], screen[c, 2])
        for y in range(max(0, int(np.ceil(min(ya, yb, yc)))), min(height - 1, int(np.floor(max(ya, yb, yc)))) + 1):
            for x in range(max(0, int(np.ceil(min(xa, xb, xc)))), min(width - 1, int(np.floor(max(xa, xb, xc)))) + 1):
                wa = ((xb - x) * (yc - y) - (xc - x) * (yb - y)) * inverse
                wb = ((xc - x) * (ya - y) - (xa - x) * (yc - y)) * inverse
                if wa < 0 or wb < 0 or wa + wb > 1 or touched[y, x] == stamp:
                    continue
                touched[y, x] = stamp
                if depth[y, x] > near * np.float32(0.985):
                    for k in range(3):
                        colour[y, x, k] = np.uint8(colour[y, x, k] * factor)


@kernel
def _blob(colour, depth, middle, radius, view, eye, lens, strength):  # type: ignore[no-untyped-def]
    """Darken the floor softly within `radius` metres of a point of it: the shadow where a shoe meets the ground."""
    height, width = depth.shape
    x, y, z = middle[0] - eye[0], middle[1] - eye[1], -eye[2]
    near = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z
    if near <= np.float32(2 * NEAR_M) or z >= 0:
        return
    column = lens[0] * (view[0, 0] * x + view[0, 1] * y + view[0, 2] * z) / near + lens[1]
    line = lens[0] * (view[1, 0] * x + view[1, 1] * y + view[1, 2] * z) / near + lens[2]
    reach = lens[0] * radius / near * np.float32(1.1)
    for row in range(max(0, int(line - reach)), min(height, int(line + reach) + 2)):
        for col in range(max(0, int(column - reach)), min(width, int(column + reach) + 2)):
            p = (col - lens[1]) / lens[0]
            q = (row - lens[2]) / lens[0]
            down = p * view[0, 2] + q * view[1, 2] + view[2, 2]
            if down >= 0:
                continue
            far = -eye[2] / down
            if depth[row, col] < far * np.float32(0.985):
                continue
            dx = eye[0] + far * (p * view[0, 0] + q * view[1, 0] + view[2, 0]) - middle[0]
            dy = eye[1] + far * (p * view[0, 1] + q * view[1, 1] + view[2, 1]) - middle[1]
            fall = np.float32(1.0) - (dx * dx + dy * dy) / (radius * radius)
            if fall > 0:
                for k in range(3):
                    colour[row, col, k] = np.uint8(colour[row, col, k] * (np.float32(1.0) - strength * fall * fall))
