"""CUHK-SYSU (Xiao et al., Joint Detection and Identification Feature Learning for Person Search, CVPR 2017)."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.errors import DataError
from trainer.data import UNLABELLED, Scenes
from trainer.datasets.listing import Finding, SearchListing, find_root, numbers, padded, read_mat, several, text
from trainer.datasets.pictures import AsTheyAre, Files
from trainer.datasets.search import relabelled
from trainer.datasets.sets import ALL_FRAMES, Gallery, Queries, SearchData

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
PICTURES = "Image/SSM"
LISTS = "annotation/test/train_test"
NEEDED = (PICTURES, "annotation/Images.mat", "annotation/pool.mat", f"{LISTS}/Train.mat", f"{LISTS}/TestG50.mat")
SIZES = (50, 100, 500, 1000, 2000, 4000)
HEADLINE = 100
Boxes = dict[str, NDArray[np.float64]]
"""Picture -> (n, 4) x, y, w, h."""


def read_cuhk_sysu(root: Path) -> SearchListing:
    """Train (all pictures that pool.mat does not name), test, and the queries of TestG50.mat.

    An identity's boxes are found by their exact x, y, w, h in Images.mat; every other box is a person without a name. Test people are
    numbered from 1 in the order of the queries, training people in the order of Train.mat.
    """
    root = find_root(root, ["CUHK-SYSU", "cuhk_sysu", "dataset"], NEEDED, "CUHK-SYSU")
    problems: list[Finding] = []
    boxes = _boxes(root / "annotation" / "Images.mat", problems)
    pool = {text(cell) for cell in read_mat(root / "annotation" / "pool.mat", "pool").ravel()}
    train_names, test_names = (
        _there(root, sorted(name for name in boxes if (name in pool) == tested), problems) for tested in (False, True)
    )
    people = {name: np.full(len(box), UNLABELLED, np.int64) for name, box in boxes.items()}
    unmatched = _name_train(root / LISTS / "Train.mat", boxes, people)
    train = _scenes(root, train_names, boxes, people)

    items = read_mat(root / LISTS / "TestG50.mat", "TestG50").ravel()
    queries, missed = _name_test(items, boxes, people, {name: row for row, name in enumerate(test_names)})
    problems += several(unmatched + missed, "named boxes are not in Images.mat, left without a name")
    test = _scenes(root, test_names, boxes, people)

    row_of = {name: row for row, name in enumerate(test_names)}
    sizes = tuple(size for size in SIZES if (root / LISTS / f"TestG{size}.mat").is_file())

    @lru_cache(maxsize=1)  # TestG4000.mat takes minutes to parse
    def lists(size: int) -> Any:
        return read_mat(root / LISTS / f"TestG{size}.mat", f"TestG{size}").ravel()

    def gallery(size: int, query: int) -> Gallery:
        return _gallery(
            lists(sizes[0] if size == ALL_FRAMES else size)[query], row_of, size, int(queries.frames[query])
        )

    train, identities = relabelled(train)
    data = SearchData(
        train, test, queries, (*sizes, ALL_FRAMES), gallery, HEADLINE if HEADLINE in sizes else sizes[0], identities
    )
    return SearchListing(data, problems)


def _boxes(path: Path, problems: list[Finding]) -> Boxes:
    found: Boxes = {}
    flat: list[str] = []
    for item in read_mat(path, "Img").ravel():
        name = text(item[0])
        rows = np.array([numbers(box[0]) for box in item[2].ravel()], np.float64).reshape(-1, 4)
        sound = rows[(rows[:, 2:] > 0).all(1)]
        if len(sound) < len(rows):
            flat.append(name)
        found[name] = sound
    problems += several(flat, "pictures have boxes without width or height, left out")
    if not found:
        raise DataError(f"{path}: names no picture")
    return found


def _there(root: Path, names: list[str], problems: list[Finding]) -> list[str]:
    there = [name for name in names if (root / PICTURES / name).is_file()]
    problems += several(sorted(set(names) - set(there)), f"pictures of Images.mat are not in {PICTURES}")
    if not there:
        raise DataError(f"{root / PICTURES}: none of the {len(names)} pictures of one split is there")
    return there


def _assign(boxes: Boxes, people: dict[str, I64], name: str, box: NDArray[np.float64], person: int) -> bool:
    """Name the first box that equals `box`; False when there is none."""
    if name not in boxes or len(box) != 4:
        return False
    equal = np.flatnonzero((boxes[name] == box).all(1))
    if len(equal):
        people[name][equal[0]] = person
    return len(equal) > 0


def _name_train(path: Path, boxes: Boxes, people: dict[str, I64]) -> list[str]:
    unmatched = []
    for person, item in enumerate(read_mat(path, "Train").ravel()):
        for scene in item.ravel()[0][2].ravel():
            name = text(scene[0])
            if not _assign(boxes, people, name, numbers(scene[1]), person):
                unmatched.append(name)
    return unmatched


def _name_test(
    items: NDArray[Any], boxes: Boxes, people: dict[str, I64], row_of: dict[str, int]
) -> tuple[Queries, list[str]]:
    frames, asked, unmatched = [], [], []
    for person, item in enumerate(items, start=1):
        query = item["Query"].ravel()[0]
        name, box = text(query["imname"]), numbers(query["idlocate"])
        if name not in row_of or len(box) != 4:
            raise DataError(f"TestG50.mat: query {person} is asked from {name}, which is no test picture with a box")
        frames.append(row_of[name])
        asked.append([box[0], box[1], box[0] + box[2], box[1] + box[3]])
        if not _assign(boxes, people, name, box, person):
            unmatched.append(name)
        for frame in item["Gallery"].ravel():
            box = numbers(frame["idlocate"])
            if not len(box):  # the pictures that show the person stand first
                break
            if not _assign(boxes, people, text(frame["imname"]), box, person):
                unmatched.append(text(frame["imname"]))
    if not frames:
        raise DataError("TestG50.mat: holds no query")
    return (
        Queries(np.array(frames, np.int64), np.array(asked, np.float32), np.arange(1, len(frames) + 1)),
        unmatched,
    )


def _scenes(root: Path, names: list[str], boxes: Boxes, people: dict[str, I64]) -> Scenes:
    corners = [
        np.concatenate([boxes[n][:, :2], boxes[n][:, :2] + boxes[n][:, 2:]], 1).astype(np.float32) for n in names
    ]
    paths = [f"{PICTURES}/{name}" for name in names]
    cameras = np.zeros(len(names), np.int64)  # street photographs and films: the set has no cameras
    return Scenes(AsTheyAre(Files(root, paths)), *padded(corners, [people[n] for n in names]), cameras, paths)


def _gallery(item: Any, row_of: dict[str, int], size: int, own: int) -> Gallery:
    """The pictures listed for a query; for ALL_FRAMES all others behind them."""
    rows, places = [], []
    for frame in item["Gallery"].ravel():
        row = row_of.get(text(frame["imname"]))
        if row is not None:
            box = numbers(frame["idlocate"])
            rows.append(row)
            places.append([box[0], box[1], box[0] + box[2], box[1] + box[3]] if len(box) == 4 else [np.nan] * 4)
    if size == ALL_FRAMES:
        rest = sorted(set(row_of.values()) - set(rows) - {own})
        rows += rest
        places += [[np.nan] * 4] * len(rest)
    return Gallery(np.array(rows, np.int64), np.array(places, np.float32).reshape(-1, 4))
