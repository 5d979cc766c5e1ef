"""Market-1501, DukeMTMC-reID and CUHK03-NP: three folders of pictures whose names say person and camera; and a plain folder."""

import re
from collections.abc import Sequence
from pathlib import Path

from stream.errors import DataError
from trainer.datasets.listing import Finding, Listed, Listing, find_root, listed, several
from trainer.datasets.pictures import ENDINGS

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
NAME = re.compile(r"^(-?\d+)_c(\d+)")
Row = tuple[str, int, int]


def read_market(root: Path, folders: Sequence[str], title: str) -> Listing:
    """The three folders; `0002_c1s1_000451_03.jpg` is person 2 seen by camera 1. Person -1 is junk and left out."""
    root = find_root(root, folders, FOLDERS, title)
    splits, problems, junk = [], [], 0
    for folder in FOLDERS:
        rows: list[Row] = []
        odd: list[str] = []
        for path in sorted((root / folder).iterdir()):
            match = NAME.match(path.name)
            if path.suffix.lower() not in ENDINGS:
                continue
            if not match:
                odd.append(path.name)
            elif int(match[1]) < 0:
                junk += 1
            else:
                rows.append((f"{folder}/{path.name}", int(match[1]), int(match[2]) - 1))
        problems += several(odd, f"pictures in {folder} are not named PERSON_cCAMERA and left out")
        splits.append(listed(root, rows, folder))
    train, query, gallery = splits
    return Listing(root, train, query, gallery, junk, problems=problems)


def read_folder(root: Path) -> Listing:
    """`identity/camera_*.jpg`: a folder per person, each picture's name begins with its camera's.

    With folders train and test below `root`, each of which holds such folders, people of the one train and those of the other are
    asked for and searched; without, the same people serve for both. Everybody's first picture per camera asks, the others answer.
    """
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; ROOT (for train and evaluate: --root) names the folder of folders, one per person"
        )
    apart = (root / "train").is_dir() and (root / "test").is_dir()
    cameras: dict[str, int] = {}
    odd: list[str] = []
    train = _people(root, root / "train" if apart else root, cameras, odd)
    test = _people(root, root / "test", cameras, odd) if apart else train
    asked: set[tuple[int, int]] = set()
    query: list[Row] = []
    gallery: list[Row] = []
    for row in test:
        (gallery if row[1:] in asked else query).append(row)
        asked.add(row[1:])
    known = ", ".join(sorted(cameras)[:8])
    notes = [f"{len(cameras)} cameras, by the pictures' names: {known}"]
    if not apart:
        notes.append("no folders train and test: the people who are scored are those who are trained on")
    return Listing(
        root,
        listed(root, train, "train"),
        _listed_or_none(root, query),
        _listed_or_none(root, gallery),
        notes=notes,
        problems=[
            *_market_like(root),
            *several(odd, "pictures are not named CAMERA_*.jpg in a person's folder and left out"),
        ],
    )


def _market_like(root: Path) -> list[Finding]:
    """What to say of a folder of folders that holds those of Market-1501."""
    if not all((root / folder).is_dir() for folder in FOLDERS):
        return []
    return [
        Finding(
            f"this looks like Market-1501's layout, whose folders {', '.join(FOLDERS)} are read as people here: its name is market1501 "
            f"(sightline data inspect market1501 {root})"
        )
    ]


def _people(root: Path, folder: Path, cameras: dict[str, int], odd: list[str]) -> list[Row]:
    rows: list[Row] = []
    homes = sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in RESERVED)
    for person, home in enumerate(homes, start=1):
        for path in sorted(home.iterdir()):
            camera, underscore, _ = path.name.partition("_")
            name = path.relative_to(root).as_posix()
            if path.suffix.lower() not in ENDINGS:
                continue
            if underscore and camera:
                rows.append((name, person, cameras.setdefault(camera, len(cameras))))
            else:
                odd.append(name)
    return rows


RESERVED = ("keypoints", "segmentation")
"""Annotations, not people."""


def _listed_or_none(root: Path, rows: list[Row]) -> Listed:
    if rows:
        return listed(root, rows, "test")
    raise DataError(f"{root}: everybody has one picture per camera at most, so nothing is left to search: add pictures")
