"""Pictures of a ranking: queries with what came first, and the CMC curve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from reid.crops import to_batch
from stream.errors import DataError

U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]

TILE_HW = (192, 96)
FRAME, GAP, LINE = 5, 6, 16
"""Pixels: a tile's frame, the space between tiles, a line of words below."""
RIGHT, WRONG, PAPER, INK = (26, 152, 80), (215, 48, 39), (255, 255, 255), (40, 40, 40)
DASH = 8
"""Wrong ones have a dashed frame: red and green look alike to one man in twelve."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture of a row."""

    image: U8
    """(h, w, 3) RGB."""
    words: str
    """One short line, in ASCII."""
    right: bool | None = None
    """None for a query: it has no frame."""


def draw_ranked(path: Path, rows: Sequence[tuple[Tile, Sequence[Tile]]]) -> None:
    """A PNG with a row per query: the query, then what was found, best first; right ones framed green, wrong ones dashed red."""
    columns = 1 + max(len(tiles) for _, tiles in rows)
    height, width = TILE_HW[0] + 2 * FRAME + LINE + GAP, TILE_HW[1] + 2 * FRAME + GAP
    sheet = np.full((GAP + len(rows) * height, 3 * GAP + columns * width, 3), PAPER, np.uint8)
    for row, (query, tiles) in enumerate(rows):
        for column, tile in enumerate((query, *tiles)):
            top, left = GAP + row * height, GAP + column * width + (2 * GAP if column else 0)
            picture = _framed(tile)
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            words = (left, top + picture.shape[0] + LINE - 4)
            cv2.putText(sheet, tile.words, words, cv2.FONT_HERSHEY_SIMPLEX, 0.36, INK, 1, cv2.LINE_AA)
    _write(path, sheet)


def _framed(tile: Tile) -> U8:
    framed = np.full((TILE_HW[0] + 2 * FRAME, TILE_HW[1] + 2 * FRAME, 3), PAPER, np.uint8)
    if tile.right is not None:
        framed[:] = RIGHT if tile.right else WRONG
        if not tile.right:
            rows, columns = np.indices(framed.shape[:2])
            framed[(rows + columns) // DASH % 2 == 1] = PAPER
    framed[FRAME:-FRAME, FRAME:-FRAME] = to_batch([tile.image], TILE_HW)[0]
    return framed


def _write(path: Path, image: U8) -> None:
    _, data = cv2.imencode(".png", image[..., ::-1])
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error


def draw_cmc(path: Path, curves: Mapping[str, F64]) -> None:
    """A PNG of CMC curves by name, each (max_rank,) from rank 1 on."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in curves.items():
        axes.plot(range(1, len(curve) + 1), curve, label=name, marker="." if len(curve) <= 20 else "")
    axes.set_xlabel("rank")
    axes.set_ylabel("share of queries found by then")
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=100)
