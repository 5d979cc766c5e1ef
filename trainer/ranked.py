"""Pictures of a ranking: queries with what came first, and the CMC curve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from reid.crops import to_batch
from stream.errors import DataError
from trainer.data import Crops
from trainer.datasets.sets import SearchData
from trainer.metrics import answerable, nearest
from trainer.search_metrics import Found, ranked_boxes
from trainer.searching import gallery_of

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

TILE_HW = (192, 96)
FRAME, GAP, LINE = 5, 6, 16
"""Pixels: a tile's frame, the space between tiles, a line of words below."""
RIGHT, WRONG, PAPER, INK = (26, 152, 80), (215, 48, 39), (255, 255, 255), (40, 40, 40)
SHOWN = 10
"""Queries of a picture, and places of each one's list."""
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


def crop_rows(query: Crops, gallery: Crops, query_vectors: F32, gallery_vectors: F32) -> list[tuple[Tile, list[Tile]]]:
    """For `draw_ranked`: some queries, evenly spread over those that have a right answer, and what is nearest to each."""
    askable = np.flatnonzero(answerable(query.people, query.cameras, gallery.people, gallery.cameras))
    rows = []
    for row in _spread(askable.tolist()):
        person, camera = int(query.people[row]), int(query.cameras[row])
        similarity = gallery_vectors @ query_vectors[row]
        first = nearest(similarity, person, camera, gallery.people, gallery.cameras, SHOWN)
        tiles = [
            Tile(image, f"cam {gallery.cameras[i] + 1} {similarity[i]:.2f}", bool(gallery.people[i] == person))
            for i, image in zip(first, gallery.images[first], strict=True)
        ]
        rows.append((Tile(query.images[np.array([row])][0], f"{person} cam {camera + 1}"), tiles))
    return rows


def box_rows(data: SearchData, vectors: F32, found: Sequence[Found], gallery: str) -> list[tuple[Tile, list[Tile]]]:
    """The same for a person search: given boxes, and the boxes that are nearest to each in one of `searching.galleries`."""
    chosen = _spread(range(len(vectors)))
    galleries = (one for number, one in enumerate(gallery_of(data, gallery)) if number in set(chosen))
    lists = ranked_boxes(vectors[chosen], found, galleries, count=SHOWN)
    rows = []
    for number, boxes in zip(chosen, lists, strict=True):
        query = _cut(data, int(data.queries.frames[number]), data.queries.xyxy[number])
        tiles = [
            Tile(_cut(data, box.frame, box.xyxy), f"frame {box.frame} {box.similarity:.2f}", box.right) for box in boxes
        ]
        rows.append((Tile(query, f"person {data.queries.people[number]}"), tiles))
    return rows


def _spread(rows: Sequence[int]) -> list[int]:
    return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(int))]


def _cut(data: SearchData, frame: int, xyxy: F32) -> U8:
    image = np.asarray(data.test.images[np.array([frame])][0])
    height, width = image.shape[:2]
    x1, y1 = np.clip(np.floor(xyxy[:2]), 0, [width - 1, height - 1]).astype(int)
    x2, y2 = np.clip(np.ceil(xyxy[2:]), [x1 + 1, y1 + 1], [width, height]).astype(int)
    return image[y1:y2, x1:x2]
