"""What a data set on disk really holds: counts beside the published ones, everything that does not fit, and a look at it."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream.errors import DataError, UsageError
from trainer import supervision
from trainer.data import NOBODY, Scenes
from trainer.datasets import REID_NAMES, SEARCH_NAMES, folder_of, load_reid, load_search, opened, unknown
from trainer.datasets.counts import count_crops, count_listing, count_scenes, differing
from trainer.datasets.listing import Finding, Listed, Listing, SearchListing, several
from trainer.datasets.pictures import Source, workers
from trainer.datasets.search import named, people_of
from trainer.datasets.sheet import CROP_HW, crops_sheet, scenes_sheet, stacked
from trainer.datasets.table import REID, SEARCH, ReidSet
from trainer.metrics import answerable

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]
Report = Callable[[int, int], None]
"""(pictures opened, of how many)."""
Done = Callable[[int], None]
CHUNK = 32
SEEN = 0.3
"""A joint of this score is said to be visible."""
SMALL = 16
"""A picture of a person with a shorter side is hardly one."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """The result for one data set."""

    title: str
    counts: Mapping[str, int]
    published: Mapping[str, int]
    """As many of the same names as the authors publish."""
    notes: list[str] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)


def inspect(name: str, root: Path | None, people: int, processes: int, report: Report) -> tuple[Inspection, U8 | None]:
    """Look into a set of the table by its name; also its contact sheet (H, W, 3), if its pictures allow one.

    `people` limits how many are drawn where the set is drawn.
    """
    known = REID.get(name) or SEARCH.get(name)
    if known is None:
        if name not in REID_NAMES:
            raise UsageError(unknown(name, (*REID_NAMES, *SEARCH)))
        if root is not None:
            raise UsageError(
                f"{name} is drawn and read from no folder: leave {root} out, or name the set that lies there"
            )
        return _inspect_drawn(name, people, processes, report)
    if isinstance(known, ReidSet):
        listing = known.read(folder_of(name, root or ""))
        found = inspect_crops(listing, known.title, known.published, report)
        found.notes[:0] = [known.warning] if known.warning else []
        return found, _sheet(found, lambda: crops_sheet(opened(listing, CROP_HW).train))
    scenes = known.read(folder_of(name, root or ""))
    found = inspect_scenes(scenes, known.title, known.published, report)
    return found, _sheet(found, lambda: scenes_sheet(scenes.data.train))


def _sheet(found: Inspection, draw: Callable[[], U8]) -> U8 | None:
    try:
        return draw()
    except DataError as error:
        found.problems.append(Finding(f"no contact sheet: {error}"))
        return None


def _inspect_drawn(name: str, people: int, processes: int, report: Report) -> tuple[Inspection, U8]:
    crops = load_reid(name, people=people, size_hw=CROP_HW, workers=processes, report=report)
    cameras = np.concatenate([crops.train.cameras, crops.query.cameras, crops.gallery.cameras])
    counts = count_crops(crops.train.people, crops.query.people, crops.gallery.people, cameras, 0)
    sheet, notes = crops_sheet(crops.train), crops.notes
    if name in SEARCH_NAMES:
        scenes = load_search(name, people=people, workers=processes, report=report)
        counts |= {f"scenes: {what}": number for what, number in count_scenes(scenes).items()}
        sheet, notes = stacked(sheet, scenes_sheet(scenes.train)), [*notes, *scenes.notes]
    return Inspection("the synthetic world", counts, {}, notes), sheet


def inspect_crops(listing: Listing, title: str, published: Mapping[str, int], report: Report) -> Inspection:
    """Open every picture and annotation of a set of crops and hold its labels against each other."""
    splits = {"train": listing.train, "query": listing.query, "gallery": listing.gallery}
    counts = count_listing(listing)
    problems = [*listing.problems, *map(Finding, differing(counts, published)), *_labels(listing)]
    notes = [*listing.notes]
    total = sum(len(split.people) for split in splits.values())
    done, seen = 0, dict[str, str]()
    for name, split in splits.items():
        problems += _pictures(name, split.source, seen, partial(_told, report, done, total))
        done += len(split.people)
        found = supervision.find(listing.root, split.source, (64, 32))
        notes += found.coverage(name)
        problems += _annotations(name, found)
    problems += map(Finding, supervision.pickles(listing.root))
    return Inspection(title, counts, published, notes, problems)


def inspect_scenes(listing: SearchListing, title: str, published: Mapping[str, int], report: Report) -> Inspection:
    """Open every frame of a set of scenes and hold its boxes against it."""
    data = listing.data
    counts = count_scenes(data)
    problems = [*listing.problems, *map(Finding, differing(counts, published))]
    total, done = len(data.train.xyxy) + len(data.test.xyxy), 0
    for name, scenes in (("train", data.train), ("test", data.test)):
        problems += _boxes(name, scenes, partial(_told, report, done, total))
        done += len(scenes.xyxy)
    lonely = [
        int(person)
        for number, person in enumerate(data.queries.people)
        if np.isnan(data.gallery(data.gallery_sizes[-1], number).xyxy[:, 0]).all()
    ]
    problems += several([str(each) for each in lonely], "queries whose person is in no other frame")
    return Inspection(title, counts, published, data.notes, problems)


def _told(report: Report, before: int, total: int, done: int) -> None:
    report(before + done, total)


def _labels(listing: Listing) -> list[Finding]:
    """What the labels alone tell."""
    test = Listed(
        listing.query.source,
        np.concatenate([listing.query.people, listing.gallery.people]),
        np.concatenate([listing.query.cameras, listing.gallery.cameras]),
    )
    problems = []
    for name, split in (("train", listing.train), ("query and gallery", test)):
        pairs = np.unique(np.stack([split.people, split.cameras], 1), axis=0)[:, 0]
        who, under = np.unique(pairs if name == "train" else pairs[pairs != 0], return_counts=True)
        problems += several([str(each) for each in who[under == 1]], f"people of {name} are seen by one camera alone")
    query, gallery = listing.query, listing.gallery
    answered = answerable(query.people, query.cameras, gallery.people, gallery.cameras)
    unanswered = [query.source.names[row] for row in np.flatnonzero(~answered).tolist()]
    return problems + several(unanswered, "queries have no right answer under another camera and are not scored")


def _pictures(split: str, source: Source, seen: dict[str, str], report: Done) -> list[Finding]:
    """Decode every picture; `seen` remembers contents from split to split."""
    problems: list[Finding] = []
    small: list[str] = []
    twice: list[str] = []

    def look(row: int) -> tuple[str, tuple[int, ...]] | str:
        try:
            image = source.read(row)
        except DataError as error:
            return str(error)
        return hashlib.sha256(image.tobytes()).hexdigest(), image.shape

    for row, found in enumerate(workers().map(look, range(len(source.names)))):
        report(row + 1)
        if isinstance(found, str):
            problems.append(Finding(found))
            continue
        digest, shape = found
        name = source.names[row]
        if min(shape[:2]) < SMALL:
            small.append(name)
        if digest in seen and seen[digest] != name:
            twice.append(f"{name} = {seen[digest]}")
        seen.setdefault(digest, name)
    problems += several(small, f"pictures of {split} have a side below {SMALL} pixels")
    return problems + several(twice, f"pictures of {split} are there twice")


def _annotations(split: str, found: supervision.Supervision) -> list[Finding]:
    """Files that are malformed, and those whose form is right and whose content is not."""
    problems = several(found.bad, f"annotation files of {split} are malformed and count as missing")
    if found.joints is not None:
        seen = found.joints[..., 2] > SEEN
        inside = (np.abs(found.joints[..., :2] - 0.5) <= 0.6).all(-1)
        outside = int((seen & ~inside).any(1).sum())
        if outside:
            problems.append(Finding(f"{outside} pictures of {split} have visible joints outside the picture"))
    if found.parts is not None:
        wrong = [str(path) for path in found.parts.paths if path is not None and supervision.read_parts(path) is None]
        problems += several(wrong, f"part label files of {split} hold other labels than 0 to 7 and count as missing")
    return problems


def _boxes(split: str, scenes: Scenes, report: Done) -> list[Finding]:
    problems: list[Finding] = []
    names = scenes.names or [str(row) for row in range(len(scenes.xyxy))]
    people = people_of(scenes)
    outside: list[str] = []
    for start in range(0, len(names), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(names)))
        for row, size in zip(rows.tolist(), _sizes(scenes, rows, problems), strict=True):
            if size is not None:
                xyxy = scenes.xyxy[row, people[row] != NOBODY]
                if len(xyxy) and (xyxy.min() < 0 or (xyxy[:, 2:] > np.array(size[::-1]) + 1).any()):
                    outside.append(names[row])
        report(int(rows[-1]) + 1)
    twice = [
        names[row]
        for row in range(len(names))
        if (np.unique(people[row, named(people[row])], return_counts=True)[1] > 1).any()
    ]
    empty = [names[row] for row in np.flatnonzero((people == NOBODY).all(1)).tolist()]
    problems += several(outside, f"{split} frames have boxes that reach beyond the picture")
    problems += several(twice, f"{split} frames show the same identity twice")
    return problems + several(empty, f"{split} frames have no box")


def _sizes(scenes: Scenes, rows: I64, problems: list[Finding]) -> list[tuple[int, int] | None]:
    """Height and width of each frame; one that cannot be read is said and gives None."""
    try:
        return [image.shape[:2] for image in scenes.images[rows]]
    except DataError as error:
        if len(rows) == 1:
            problems.append(Finding(str(error)))
            return [None]
        return [size for place in range(len(rows)) for size in _sizes(scenes, rows[place : place + 1], problems)]
