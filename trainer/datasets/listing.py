"""What a reader finds in a data set's folders before any picture is opened."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from stream.errors import DataError
from trainer.data import NOBODY
from trainer.datasets.pictures import Files, Source
from trainer.datasets.sets import SearchData

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
SHOWN = 3
"""Examples in a line that tells of many files."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not fit; `names` are the files or people that it is true of, all of them."""

    what: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.names:
            return self.what
        shown = ", ".join(self.names[:SHOWN]) + (", ..." if len(self.names) > SHOWN else "")
        return f"{len(self.names)} {self.what}: {shown}"


@dataclass(frozen=True, slots=True)
class Listed:
    """One split: its pictures, who they show, and which camera (from 0) took them."""

    source: Source
    people: I64
    cameras: I64


@dataclass(frozen=True, slots=True)
class Listing:
    """A data set of crops."""

    root: Path
    """Folder that the pictures' names start from; annotations lie beside them."""
    train: Listed
    query: Listed
    gallery: Listed
    junk: int = 0
    """Pictures of nobody in particular (-1), which are left out."""
    notes: list[str] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SearchListing:
    """A data set of scenes, and what is odd about its files."""

    data: SearchData
    problems: list[Finding] = field(default_factory=list)


def find_root(root: Path, names: Sequence[str], needed: Sequence[str], title: str) -> Path:
    """`root` or the first of its folders `names` that holds all of `needed`; DataError says what is missing where."""
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; ROOT (for train and evaluate: --root) names the folder that holds {title}"
        )
    for folder in (root, *(root / name for name in names)):
        if all((folder / each).exists() for each in needed):
            return folder
    near = next((root / name for name in names if (root / name).is_dir()), root)
    missing = ", ".join(each for each in needed if not (near / each).exists())
    raise DataError(
        f"{near}: {missing} missing; {title} has {', '.join(needed)} in the folder that ROOT (for train and evaluate: --root) names"
    )


def listed(root: Path, rows: Sequence[tuple[str, int, int]], what: str) -> Listed:
    """Rows of (name below root, person, camera) as one split; DataError when there is none."""
    if not rows:
        raise DataError(f"{root}: {what} holds nobody: no picture is named as the layout asks")
    names, people, cameras = zip(*rows, strict=True)
    return Listed(Files(root, names), np.array(people, np.int64), np.array(cameras, np.int64))


def several(names: Iterable[str], what: str) -> list[Finding]:
    """One finding for all `names`; none for none."""
    every = tuple(names)
    return [Finding(what, every)] if every else []


def read_mat(path: Path, *keys: str) -> NDArray[Any]:
    """The first of `keys` that a MATLAB file (up to version 7) holds."""
    found = open_mat(path)
    for key in keys:
        if key in found:
            return np.asarray(found[key])
    raise DataError(f"{path}: holds {', '.join(k for k in found if k[0] != '_')}, expected {' or '.join(keys)}")


def open_mat(path: Path) -> dict[str, Any]:
    """All arrays of a MATLAB file by name; DataError when it is missing or none."""
    if not path.is_file():
        raise DataError(f"{path} is missing: copy the data set again")
    try:
        return dict(scipy.io.loadmat(path))
    except Exception as error:  # a damaged file makes scipy raise whatever its bytes happen to break
        raise DataError(f"{path} cannot be read as a MATLAB file: {error or type(error).__name__}") from error


def text(cell: object) -> str:
    """The string in however many cells MATLAB wrapped around it."""
    while isinstance(cell, np.ndarray):
        if cell.size == 0:
            return ""
        cell = cell.ravel()[0]
    return str(cell)


def numbers(cell: object) -> NDArray[np.float64]:
    """The numbers in however many cells, flat; empty for an empty cell."""
    while isinstance(cell, np.ndarray) and cell.dtype == object and cell.size:
        cell = cell.ravel()[0]
    flat = np.asarray(cell).ravel()
    return flat.astype(np.float64) if flat.size and flat.dtype != object else np.zeros(0)


def padded(boxes: Sequence[F32], people: Sequence[I64], seen: Sequence[F32] | None = None) -> tuple[F32, F32, I64]:
    """Per picture (n, 4), (n,) and shares (n,) -> xyxy (N, G, 4), visible (N, G) and people (N, G) as `Scenes` keeps them.

    Without `seen` everybody counts as wholly visible.
    """
    most = max((len(each) for each in boxes), default=0)
    xyxy = np.full((len(boxes), most, 4), np.nan, np.float32)
    visible = np.zeros((len(boxes), most), np.float32)
    who = np.full((len(boxes), most), NOBODY, np.int64)
    for row, (box, person) in enumerate(zip(boxes, people, strict=True)):
        xyxy[row, : len(box)], who[row, : len(box)] = box, person
        visible[row, : len(box)] = 1.0 if seen is None else seen[row]
    return xyxy, visible, who
