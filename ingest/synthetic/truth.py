"""Who is where in every picture of a scene, and crops of tracklets with the truth beside them."""

from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.clip import Segment, segments
from ingest.synthetic.scene import SceneSettings
from ingest.synthetic.view import FrameTruth, View

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CameraTruth:
    """Everybody in all pictures of one camera, R rows in order of time."""

    frame: NDArray[np.int32]
    """(R,) place of the picture in the camera's clip."""
    person: NDArray[np.int32]
    """(R,)"""
    xyxy: F32
    """(R, 4) pixels: the whole body cut at the picture's border, whatever stands in front of it."""
    visible: F32
    """(R,) share of the whole body that can be seen, in [0, 1]."""
    joints: F32
    """(R, 17, 3): COCO joints, x and y in pixels and 1 where the joint can be seen, else 0."""

    def at(self, frame: int) -> FrameTruth:
        """Everybody in one picture."""
        low, high = np.searchsorted(self.frame, [frame, frame + 1])
        rows = slice(int(low), int(high))
        return FrameTruth(self.person[rows], self.xyxy[rows], self.visible[rows], self.joints[rows])


@dataclass(frozen=True, slots=True)
class Truth:
    """Everything that is known about a scene."""

    settings: SceneSettings
    cameras: tuple[CameraTruth, ...]


def truth(settings: SceneSettings) -> Truth:
    """Load the scene's truth; what has not been drawn yet is drawn, which takes as long as its clips do."""
    cameras = []
    for camera in range(settings.cameras):
        pieces = [_rows(segment) for segment in segments(settings, camera)]
        cameras.append(CameraTruth(*(np.concatenate(columns) for columns in zip(*pieces, strict=True))))
    return Truth(settings, tuple(cameras))


def parts(settings: SceneSettings, camera: int, frame: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """(H, W) index of the person that each pixel of a picture shows, -1 for none, and (H, W) its body part.

    0 background, 1 head, 2 torso, 3 upper arm, 4 lower arm, 5 upper leg, 6 lower leg, 7 foot. Draws the picture anew;
    for many pictures of a camera keep one `View` and ask its `parts`.
    """
    return View(settings, camera).parts(frame)


def _rows(segment: Segment) -> list[NDArray[np.generic]]:
    with np.load(segment.path.with_suffix(".npz"), allow_pickle=False) as kept:
        return [kept[name] for name in ("frame", "person", "xyxy", "visible", "joints")]


def pictures(settings: SceneSettings, camera: int, every: int = 1) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Every so many-th decoded picture of a camera with its place in the clip: (H, W, 3) RGB, as a stage would get it."""
    for segment in segments(settings, camera):
        with av.open(str(segment.path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for k, picture in enumerate(container.decode(video=0)):
                if (segment.first_frame + k) % every == 0:
                    yield segment.first_frame + k, np.asarray(picture.to_ndarray(format="rgb24"), np.uint8)


@dataclass(frozen=True, slots=True)
class TrackletCrops:
    """One stay of one person before one camera, as a perfect tracker would cut it."""

    person: int
    camera: int
    times_s: F32
    """(N,) scene time of each crop."""
    visible: F32
    """(N,)"""
    xyxy: F32
    """(N, 4) where each crop was cut, pixels, after the box's jitter."""
    crops: tuple[NDArray[np.uint8], ...]
    """N pictures (h, w, 3) RGB, cut from decoded frames."""


def tracklet_crops(
    settings: SceneSettings, fps: float = 5.0, min_visible: float = 0.3, gap_s: float = 2.0, jitter: float = 0.03
) -> list[TrackletCrops]:
    """All tracklets of a scene in order of their first crop, cut where a detector would see them.

    A person who is seen less than `min_visible` for `gap_s` ends a tracklet. Each edge of a box is moved by about `jitter` of
    the box's size, as a detector's are.
    """
    known = truth(settings)
    every = max(1, round(settings.fps / fps))
    found: list[TrackletCrops] = []
    for camera in range(settings.cameras):
        rng = settings.rng("jitter", camera)
        open_: dict[int, list[tuple[float, float, F32, NDArray[np.uint8]]]] = {}
        for frame, picture in pictures(settings, camera, every):
            time_s, here = settings.time_s(camera, frame), known.cameras[camera].at(frame)
            for row in np.flatnonzero(here.visible >= min_visible).tolist():
                who = int(here.person[row])
                box, crop = _cut(picture, here.xyxy[row], jitter, rng)
                if who in open_ and time_s - open_[who][-1][0] > gap_s:
                    found.append(_tracklet(who, camera, open_.pop(who)))
                open_.setdefault(who, []).append((time_s, float(here.visible[row]), box, crop))
        found += [_tracklet(who, camera, cuts) for who, cuts in open_.items()]
    return sorted(found, key=lambda tracklet: (float(tracklet.times_s[0]), tracklet.camera, tracklet.person))


def _tracklet(who: int, camera: int, cuts: list[tuple[float, float, F32, NDArray[np.uint8]]]) -> TrackletCrops:
    times, visible, boxes, crops = zip(*cuts, strict=True)
    return TrackletCrops(
        who,
        camera,
        np.array(times, np.float32),
        np.array(visible, np.float32),
        np.array(boxes, np.float32),
        tuple(crops),
    )


def _cut(
    picture: NDArray[np.uint8], xyxy: F32, jitter: float, rng: np.random.Generator
) -> tuple[F32, NDArray[np.uint8]]:
    height, width = picture.shape[:2]
    size = np.tile(xyxy[2:] - xyxy[:2], 2)
    x1, y1, x2, y2 = (xyxy + rng.normal(0, jitter, 4) * size).tolist()
    left, top = int(min(max(x1, 0), width - 2)), int(min(max(y1, 0), height - 2))
    right, bottom = int(min(max(x2, left + 2), width)), int(min(max(y2, top + 2), height))
    return np.array([left, top, right, bottom], np.float32), picture[top:bottom, left:right].copy()
