"""Whole scenes as a person-search data set in the layout of PRW (Zheng et al., Person Re-identification in the Wild, CVPR 2017).

frames/c1s1_000151.jpg            camera 1, scene 1, frame 151
annotations/c1s1_000151.jpg.mat   box_new: rows id, x, y, w, h in pixels; id -2: a person nobody labelled
frame_train.mat, frame_test.mat   img_index_train, img_index_test: names of frames, without .jpg
query_info.txt                    pid x y w h frame, a line each, CRLF
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.io
import simplejpeg
from numpy.typing import NDArray

from ingest.synthetic.scene import SceneSettings
from ingest.synthetic.truth import pictures, truth
from stream.errors import DataError

MIN_VISIBLE = 0.25
"""Less of a person than this is written as nobody's box, and half of this not at all."""


def write_prw(
    root: Path, train: Sequence[SceneSettings], test: Sequence[SceneSettings], frames_per_second: float = 1.0
) -> None:
    """Draw scenes and write them. People of different scenes are different; ids count from 1 through train, then test.

    Raises DataError when `root` holds something already.
    """
    if root.exists() and any(root.iterdir()):
        raise DataError(f"{root}: expected a new or empty folder to write a data set into")
    (root / "frames").mkdir(parents=True)
    (root / "annotations").mkdir()
    first_id = 1
    queries: list[str] = []
    for name, scenes in (("train", train), ("test", test)):
        index: list[str] = []
        for settings in scenes:
            scene = 1 + (len(train) if name == "test" else 0) + scenes.index(settings)
            boxes = _write_scene(root, settings, scene, first_id, frames_per_second)
            index += boxes
            if name == "test":
                queries += _queries(boxes)
            first_id += settings.people
        names = np.array([[np.array([frame])] for frame in index] or np.zeros((0, 1)), dtype=object).reshape(-1, 1)
        scipy.io.savemat(root / f"frame_{name}.mat", {f"img_index_{name}": names})
    (root / "query_info.txt").write_bytes("".join(line + "\r\n" for line in queries).encode())


def _write_scene(
    root: Path, settings: SceneSettings, scene: int, first_id: int, frames_per_second: float
) -> dict[str, NDArray[np.float64]]:
    """Frame name -> its boxes."""
    known = truth(settings)
    every = max(1, round(settings.fps / frames_per_second))
    written: dict[str, NDArray[np.float64]] = {}
    for camera in range(settings.cameras):
        for frame, picture in pictures(settings, camera, every):
            here = known.cameras[camera].at(frame)
            seen = here.visible >= MIN_VISIBLE / 2
            ids = np.where(here.visible >= MIN_VISIBLE, here.person + first_id, -2)[seen]
            xyxy = here.xyxy[seen].astype(np.float64)
            boxes = np.column_stack([ids, xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]]).reshape(-1, 5)
            name = f"c{camera + 1}s{scene}_{frame + 1:06d}"
            (root / "frames" / f"{name}.jpg").write_bytes(simplejpeg.encode_jpeg(picture, quality=92))
            scipy.io.savemat(root / "annotations" / f"{name}.jpg.mat", {"box_new": boxes})
            written[name] = boxes
    return written


def _queries(boxes: dict[str, NDArray[np.float64]]) -> list[str]:
    """One query per person and camera: the largest box; people whom one camera alone saw cannot be searched."""
    best: dict[tuple[int, str], tuple[float, str]] = {}
    for frame, rows in boxes.items():
        for who, x, y, w, h in rows[rows[:, 0] > 0]:
            key = (int(who), frame.split("s")[0])
            line = f"{int(who)} {x:.2f} {y:.2f} {w:.2f} {h:.2f} {frame}"
            best[key] = max(best.get(key, (0.0, "")), (w * h, line))
    cameras_of: dict[int, int] = {}
    for who, _ in best:
        cameras_of[who] = cameras_of.get(who, 0) + 1
    return [line for (who, _), (_, line) in sorted(best.items()) if cameras_of[who] > 1]
