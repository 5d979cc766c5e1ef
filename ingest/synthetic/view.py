"""What one camera of the site sees: the standing scene, people in it, and the truth about each picture."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.appearance import draw_appearance
from ingest.synthetic.body import Appearance, Figure, Hands, pose
from ingest.synthetic.colours import draw_wardrobe
from ingest.synthetic.effects import CameraEffects, draw_effects
from ingest.synthetic.raster import Canvas, Drawn, Light, draw_figure, draw_shadow
from ingest.synthetic.scene import SceneSettings
from ingest.synthetic.standing import Standing, draw_standing
from ingest.synthetic.walk import Walk, build_walk
from ingest.synthetic.world import Area, World, build_world

F32 = NDArray[np.float32]

BRISK_MPS = 1.35
"""At this speed a person takes steps of full length."""


@dataclass(frozen=True, slots=True)
class FrameTruth:
    """Everybody in one picture, R people."""

    person: NDArray[np.int32]
    """(R,) index of the person, 0 to settings.people - 1."""
    xyxy: F32
    """(R, 4) pixels: the whole body cut at the picture's border, whatever stands in front of it."""
    visible: F32
    """(R,) share of the whole body that can be seen, in [0, 1]."""
    joints: F32
    """(R, 17, 3): COCO joints, x and y in pixels and 1 where the joint can be seen, else 0."""


@lru_cache(maxsize=4)
def site(settings: SceneSettings) -> tuple[World, Walk]:
    """The world and who walks in it: built once per process."""
    world = build_world(settings)
    return world, build_walk(settings, world)


@lru_cache(maxsize=256)
def person(settings: SceneSettings, index: int) -> Appearance:
    """How somebody looks; a look-alike wears the colours of the person before."""
    rng = settings.rng("looks", index)
    twin = index % 2 == 1 and rng.random() < 2 * settings.lookalikes
    return draw_appearance(rng, draw_wardrobe(settings.rng("wardrobe", index - twin)))


class View:
    """One camera's pictures. Not for several threads at once: it draws into one canvas."""

    def __init__(self, settings: SceneSettings, camera: int, standing: Standing | None = None) -> None:
        self.settings, self.camera = settings, camera
        self.world, self.walk = site(settings)
        self.area: Area = self.world.areas[self.world.area_of[camera]]
        self.pinhole = self.world.cameras[camera]
        self.standing = standing or standing_scene(settings, camera)
        self.light = _light(self.area)
        self.effects = _installed(draw_effects(settings.rng("effects", camera), settings.lighting))
        self.crf = int(settings.rng("codec", camera).integers(23, 30))
        """How hard this camera's encoder compresses: 23 is clean, 29 shows blocks."""
        self.canvas = Canvas(settings.height, settings.width)

    def draw(self, frame: int) -> tuple[NDArray[np.uint8], FrameTruth]:
        """The picture (H, W, 3) RGB as this camera delivers it before compression, and its truth."""
        truth = self._draw(frame)
        rng = self.settings.rng("noise", self.camera, frame)
        return self.effects.apply(self.canvas.colour, rng, compress=False), truth

    def parts(self, frame: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """(H, W) index of the person each pixel shows, -1 for none, and (H, W) its body part.

        0 background, 1 head, 2 torso, 3 upper arm, 4 lower arm, 5 upper leg, 6 lower leg, 7 foot.
        """
        self._draw(frame)
        return self.canvas.owner - 1, self.canvas.part.copy()

    def _draw(self, frame: int) -> FrameTruth:
        time_s = self.settings.time_s(self.camera, frame)
        position, heading, distance, speed, area = self.walk.at(time_s)
        self.canvas.reset(self.standing.rgb, self.standing.depth)
        figures = {
            index: _figure(self.settings, index, float(distance[index]), float(speed[index]), time_s)
            for index in np.flatnonzero(area == self.area.index).tolist()
            if self._may_show(position[index])
        }
        for index, figure in figures.items():
            draw_shadow(self.canvas, figure, heading[index], tuple(position[index]), self.pinhole, self.light)
        drawn = {
            index: draw_figure(
                self.canvas, figure, heading[index], tuple(position[index]), self.pinhole, self.light, index + 1
            )
            for index, figure in figures.items()
        }
        return self._truth(figures, drawn, heading, position)

    def _may_show(self, position: NDArray[np.float64]) -> bool:
        """Whether any of a person at `position` can fall into the picture."""
        ring = position + np.array([[-0.7, 0.0], [0.7, 0.0], [0.0, -0.7], [0.0, 0.7]])
        points = np.concatenate([np.column_stack([ring, np.full(4, z)]) for z in (0.0, 2.0)])
        pixels, depth = self.pinhole.project(points)
        if depth.max() < 0.3:
            return False
        if depth.min() < 0.3:
            return True
        height, width = self.pinhole.size_hw
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        return bool(low[0] < width and low[1] < height and high[0] > 0 and high[1] > 0)

    def _truth(
        self,
        figures: dict[int, Figure],
        drawn: dict[int, Drawn | None],
        heading: NDArray[np.float64],
        position: NDArray[np.float64],
    ) -> FrameTruth:
        height, width = self.pinhole.size_hw
        rows: list[tuple[int, F32, float, F32]] = []
        for index, what in drawn.items():
            if what is None or what.pixels == 0:
                continue
            x1, y1, x2, y2 = (float(edge) for edge in what.xyxy)
            cut = np.array([max(x1, 0), max(y1, 0), min(x2 + 1, width), min(y2 + 1, height)], np.float32)
            if cut[2] - cut[0] < 1 or cut[3] - cut[1] < 1:
                continue
            inside = float((cut[2] - cut[0]) * (cut[3] - cut[1])) / ((x2 + 1 - x1) * (y2 + 1 - y1))
            # What a person carries may reach out of the box: a bag's width on each side is looked through too.
            left, top = int(max(0, cut[0] - 0.3 * (y2 - y1))), int(max(0, cut[1] - 0.2 * (y2 - y1)))
            around = self.canvas.owner[top : int(cut[3] + 0.2 * (y2 - y1)), left : int(cut[2] + 0.3 * (y2 - y1))]
            shown = np.count_nonzero(around == index + 1)
            visible = min(1.0, shown / what.pixels) * min(1.0, inside)
            joints = self._joints(figures[index], heading[index], position[index])
            rows.append((index, cut, visible, joints))
        return FrameTruth(
            np.array([row[0] for row in rows], np.int32),
            np.array([row[1] for row in rows], np.float32).reshape(-1, 4),
            np.array([row[2] for row in rows], np.float32),
            np.array([row[3] for row in rows], np.float32).reshape(-1, 17, 3),
        )

    def _joints(self, figure: Figure, heading: float, position: NDArray[np.float64]) -> F32:
        """A joint can be seen where nothing stands more than a limb's thickness before it."""
        cos, sin = np.cos(heading), np.sin(heading)
        own = figure.joints.astype(np.float64)
        world = np.column_stack([own[:, 0] * sin + own[:, 1] * cos, own[:, 1] * sin - own[:, 0] * cos, own[:, 2]])
        pixels, depth = self.pinhole.project(world + np.array([position[0], position[1], 0.0]))
        height, width = self.pinhole.size_hw
        place = np.nan_to_num(pixels, nan=-1.0, posinf=-1.0, neginf=-1.0)
        x, y = np.floor(place[:, 0] + 0.5), np.floor(place[:, 1] + 0.5)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        column, row = np.where(inside, x, 0).astype(int), np.where(inside, y, 0).astype(int)
        seen = inside & (self.canvas.depth[row, column] > depth - 0.16)
        return np.column_stack([place, seen]).astype(np.float32)


def standing_scene(settings: SceneSettings, camera: int) -> Standing:
    """What the camera sees of an empty site."""
    world, _ = site(settings)
    return draw_standing(world.areas[world.area_of[camera]], world.cameras[camera], settings.seed * 101 + camera)


@lru_cache(maxsize=256)
def _habits(settings: SceneSettings, index: int) -> tuple[Hands, Hands, float, float]:
    """What somebody does with his hands walking and waiting, where his steps begin, and how fast he looks around."""
    rng = settings.rng("habits", index)
    walking: Hands = rng.choice(["swing", "phone", "carry", "pockets", "call"], p=[0.74, 0.08, 0.06, 0.08, 0.04])
    waiting: Hands = rng.choice(["swing", "phone", "folded", "pockets", "behind"], p=[0.3, 0.25, 0.15, 0.2, 0.1])
    return walking, waiting, rng.random(), rng.uniform(0.3, 0.9)


def _figure(settings: SceneSettings, index: int, distance: float, speed: float, time_s: float) -> Figure:
    """The person's pose: legs follow the metres walked, arms and head a habit of their own."""
    appearance = person(settings, index)
    walking, waiting, start, turning = _habits(settings, index)
    stride = min(1.2, speed / BRISK_MPS) if speed > 0.15 else 0.0
    phase = start + distance / appearance.stride_m + 0.06 * time_s * (stride == 0)
    look = 0.35 * float(np.sin(time_s * turning + 6.28 * start))
    return pose(appearance, phase % 1.0, stride, walking if stride > 0.3 else waiting, look=look)


def _installed(effects: CameraEffects) -> CameraEffects:
    """A camera that somebody has focused: of the crops' range of sharpness, noise and resolution, the better part."""
    return replace(
        effects,
        resolution=max(0.7, effects.resolution),
        blur_px=min(0.6, effects.blur_px),
        noise=min(5.0, effects.noise),
    )


def _light(area: Area) -> Light:
    light = area.light
    return Light(
        light.direction.astype(np.float32)[None],
        (light.strength * light.tint).astype(np.float32)[None],
        np.full(3, light.ambient, np.float32),
    )
