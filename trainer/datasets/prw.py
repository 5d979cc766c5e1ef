"""PRW (Zheng et al., Person Re-identification in the Wild, CVPR 2017): frames of six cameras with everybody's box."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream.errors import DataError
from trainer.data import UNLABELLED, Scenes
from trainer.datasets.listing import Finding, SearchListing, find_root, padded, read_mat, several, text
from trainer.datasets.pictures import AsTheyAre, Files
from trainer.datasets.search import all_frames, relabelled
from trainer.datasets.sets import ALL_FRAMES, Queries, SearchData

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
NEEDED = ("frames", "annotations", "frame_train.mat", "frame_test.mat", "query_info.txt")
BOX_KEYS = ("box_new", "anno_file", "anno_previous")
CAMERA = re.compile(r"c(\d+)")


def read_prw(root: Path) -> SearchListing:
    """Train, test and queries. Boxes' corners below 0 become 0; id -2 is a person whom nobody named."""
    root = find_root(root, ["PRW-v16.04.20", "PRW", "prw"], NEEDED, "PRW")
    problems: list[Finding] = []
    train, identities = relabelled(_frames(root, "train", problems))
    test = _frames(root, "test", problems)
    row_of = {name: row for row, name in enumerate(test.names or [])}
    queries = _queries(root / "query_info.txt", row_of, problems)
    data = SearchData(train, test, queries, (ALL_FRAMES,), all_frames(test, queries), ALL_FRAMES, identities)
    return SearchListing(data, problems)


def _frames(root: Path, split: str, problems: list[Finding]) -> Scenes:
    index = read_mat(root / f"frame_{split}.mat", f"img_index_{split}")
    names = [f"frames/{text(cell)}.jpg" for cell in index.ravel()]
    there = [name for name in names if (root / name).is_file()]
    problems += several(sorted(set(names) - set(there)), f"pictures of frame_{split}.mat are missing")
    if not there:
        raise DataError(f"{root}: none of the {len(names)} pictures that frame_{split}.mat names is in frames")
    boxes, people, empty = [], [], []
    for name in there:
        rows = _annotation(root / "annotations" / f"{Path(name).name}.mat")
        sound = rows[(rows[:, 3:] > 0).all(1)]
        corner = np.clip(sound[:, 1:3], 0, None)
        boxes.append(np.concatenate([corner, corner + sound[:, 3:]], 1).astype(np.float32))
        people.append(np.where(sound[:, 0] > 0, sound[:, 0], UNLABELLED).astype(np.int64))
        if len(sound) < len(rows):
            empty.append(name)
    problems += several(empty, "annotations hold boxes without width or height, left out")
    cameras = [int(match[1]) - 1 if (match := CAMERA.match(Path(name).name)) else 0 for name in there]
    return Scenes(AsTheyAre(Files(root, there)), *padded(boxes, people), np.array(cameras, np.int64), there)


def _annotation(path: Path) -> NDArray[np.float64]:
    """(n, 5): id, x, y, w, h."""
    rows = read_mat(path, *BOX_KEYS)
    if rows.size == 0:
        return np.zeros((0, 5))
    if rows.ndim != 2 or rows.shape[1] != 5 or rows.dtype.kind not in "iuf":
        raise DataError(f"{path}: expected rows of id, x, y, w, h, got an array of {rows.shape}")
    return rows.astype(np.float64)


def _queries(path: Path, row_of: dict[str, int], problems: list[Finding]) -> Queries:
    """Lines of pid x y w h frame."""
    frames, boxes, people, missing = [], [], [], []
    try:
        for line in filter(str.strip, path.read_text(encoding="utf-8").splitlines()):
            who, x, y, w, h, frame = line.split()
            row = row_of.get(f"frames/{frame.removesuffix('.jpg')}.jpg")
            if row is None:
                missing.append(frame)
                continue
            left, top, wide, high = (float(value) for value in (x, y, w, h))
            frames.append(row)
            boxes.append(np.clip([left, top, left + wide, top + high], 0, None))
            people.append(int(who))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected lines of pid x y w h frame ({error})") from error
    problems += several(missing, "queries are asked from frames that are not in frame_test.mat")
    if not frames:
        raise DataError(f"{path}: no query lies in a frame of frame_test.mat")
    return Queries(np.array(frames, np.int64), np.array(boxes, np.float32), np.array(people, np.int64))
