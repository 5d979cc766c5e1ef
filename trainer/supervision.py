"""Joints and part labels that lie beside a data set's pictures, one small file per picture.

<root>/keypoints/<path of the picture>.npy      (17, 3) float32: x, y in pixels of the original picture, score; COCO's order
<root>/segmentation/<path of the picture>.npy   (h, w) uint8 at the picture's size, labels as in `trainer.data.Crops.parts`
<root>_ps_label/<path>.png                      the same as grey PNG, as EANet publishes them; beside or below the root

The picture's own ending stays (0002_c1s1_000451_03.jpg.npy) or is left out. A file that is missing or not of this form means that
its picture has no annotation: what would be learnt from it is masked, and the number is reported. Nothing is ever unpickled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.datasets.pictures import Source, workers

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

KEYPOINTS, SEGMENTATION, EANET = "keypoints", "segmentation", "_ps_label"
UNKNOWN = 255
"""Part label of every pixel of a picture without annotation."""
LAST_PART = 7
MAX_BYTES = 1 << 25
GREY_8 = b"\x08\x00"
"""Bits and colour type in a PNG's head: 8, grey. One with a palette is read as its colours, not as its numbers."""


@dataclass(frozen=True, slots=True)
class Supervision:
    """What was found for N pictures; `bad` lists files that are not of the form above."""

    joints: F32 | None
    """(N, 17, 3) as in `Crops.joints`; None where the data set has none at all."""
    parts: "PartFiles | None"
    bad: list[str]

    def coverage(self, what: str) -> list[str]:
        """A line for each of the two, for people."""
        lines = []
        if self.joints is not None:
            lines.append(
                f"{what}: {np.isfinite(self.joints[:, 0, 2]).sum()} of {len(self.joints)} pictures have joints"
            )
        if self.parts is not None:
            lines.append(f"{what}: {self.parts.covered()} of {len(self.parts)} pictures have part labels")
        return lines


class PartFiles:
    """Part labels as `Pictures`: labels[rows] -> (n, h, w) uint8, brought to one size without mixing labels."""

    def __init__(self, paths: Sequence[Path | None], size_hw: tuple[int, int]) -> None:
        self.paths, self._size_hw = paths, size_hw

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: I64, /) -> U8:
        batch = np.full((len(rows), *self._size_hw), UNKNOWN, np.uint8)

        def fill(place: int) -> None:
            path = self.paths[int(rows[place])]
            labels = read_parts(path) if path else None
            if labels is not None:
                batch[place] = cv2.resize(labels, self._size_hw[::-1], interpolation=cv2.INTER_NEAREST)

        for _ in workers().map(fill, range(len(rows))):
            pass
        return batch

    def covered(self) -> int:
        """How many pictures have labels."""
        return sum(path is not None for path in self.paths)


def find(root: Path, source: Source, size_hw: tuple[int, int]) -> Supervision:
    """The annotation of all pictures of `source`; its files are looked for below and beside `root`."""
    bad: list[str] = []
    joints, parts = None, None
    if (root / KEYPOINTS).is_dir():
        joints = np.full((len(source.names), 17, 3), np.nan, np.float32)

        def fill(row: int) -> None:
            path = joints_file(root, source.names[row])
            found = read_joints(path) if path else None
            if found is not None:
                height, width = source.size_hw(row)
                joints[row] = found / np.array([width, height, 1], np.float32)
            elif path:
                bad.append(str(path))

        for _ in workers().map(fill, range(len(source.names))):
            pass
    folders = part_folders(root)
    if folders:
        paths = [parts_file(folders, name) for name in source.names]
        bad += [str(path) for path in paths if path and is_labelled(path) is None]
        parts = PartFiles([path if path and is_labelled(path) else None for path in paths], size_hw)
    return Supervision(joints, parts, sorted(bad))


def joints_file(root: Path, name: str) -> Path | None:
    """Where the joints of the picture `name` are, if there is a file."""
    return _beside(root / KEYPOINTS, name, ".npy")


def part_folders(root: Path) -> list[tuple[Path, str]]:
    """Folders with part labels, ours first, each with the ending of its files."""
    eanet = [root.parent / f"{root.name}{EANET}", *sorted(root.glob(f"*{EANET}"))]
    every = [(root / SEGMENTATION, ".npy"), *((folder, ".png") for folder in eanet)]
    return [(folder, ending) for folder, ending in every if folder.is_dir()]


def parts_file(folders: Sequence[tuple[Path, str]], name: str) -> Path | None:
    """Where the part labels of the picture `name` are, if there is a file in one of `part_folders`."""
    return next((path for folder, ending in folders if (path := _beside(folder, name, ending))), None)


def pickles(root: Path) -> list[str]:
    """A line for each file of pickled labels: never read, and how to get ours."""
    return [
        f"{path}: a pickle, which could run anything and is never read; sightline data annotate writes joints and part labels"
        for pattern in ("*.pkl", "*.pickle", "*/*.pkl")
        for path in sorted(root.glob(pattern))
    ]


def read_joints(path: Path) -> F32 | None:
    """(17, 3) float32 pixels and score; None if the file holds anything else. NaN throughout: looked at, nobody found."""
    joints = _array(path)
    if joints is None or joints.shape != (17, 3) or joints.dtype.kind not in "fiu":
        return None
    return joints.astype(np.float32)


def read_parts(path: Path) -> U8 | None:
    """(h, w) uint8 labels; None if the file holds anything else."""
    labels = _array(path) if path.suffix == ".npy" else cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2 or labels.dtype != np.uint8 or not labels.size:
        return None
    known = np.asarray(labels, np.uint8)
    return None if np.any((known > LAST_PART) & (known != UNKNOWN)) else known


def _array(path: Path) -> NDArray[np.generic] | None:
    try:
        return None if path.stat().st_size > MAX_BYTES else np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def is_labelled(path: Path) -> bool | None:
    """Whether a file of part labels holds any, None if it is malformed; by its head alone: there are tens of thousands of them."""
    try:
        if path.suffix != ".npy":
            with path.open("rb") as file:
                head = file.read(26)
            return (head[:8] == b"\x89PNG\r\n\x1a\n" and head[24:] == GREY_8) or None
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    sound = mapped.ndim == 2 and mapped.dtype == np.uint8 and mapped.size > 0
    return bool(mapped[0, 0] != UNKNOWN) if sound else None


def _beside(folder: Path, name: str, ending: str) -> Path | None:
    with_ending, without = folder / f"{name}{ending}", folder / PurePosixPath(name).with_suffix(ending)
    return with_ending if with_ending.is_file() else without if without.is_file() else None
