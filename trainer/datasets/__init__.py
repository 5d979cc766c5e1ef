"""Data sets, read where users already have them, in their own layouts: `load_reid` for crops, `load_search` for scenes."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from stream.errors import DataError, UsageError
from trainer import drawn, supervision
from trainer.cache import ShardReport
from trainer.data import STORED_HW, Crops
from trainer.datasets import synthetic
from trainer.datasets.counts import count_listing, count_scenes, differing
from trainer.datasets.listing import Listed, Listing
from trainer.datasets.pictures import Resized
from trainer.datasets.search import relabelled
from trainer.datasets.sets import ReidData, SearchData
from trainer.datasets.table import MIX, REID, SEARCH, SYNTHETIC

REID_NAMES = (SYNTHETIC, MIX, *REID)
MIX_PEOPLE = 2000
SEARCH_NAMES = (SYNTHETIC, *SEARCH)


def load_reid(
    name: str,
    root: str | Path = "",
    size_hw: tuple[int, int] = STORED_HW,
    *,
    people: int = 0,
    sites: int = 0,
    seed: int = 1,
    val_ids: int = 0,
    train: bool = True,
    own: bool = False,
    workers: int = 1,
    report: ShardReport = lambda done, of: None,
) -> ReidData:
    """A data set of crops by its name in `table`; pictures are decoded when they are asked for, never kept.

    Args:
        size_hw: to which every picture is brought, by the house's one resize; a score takes the network's own input size.
        people: how many training identities, 0: all (synthetic: 300).
        sites: `synthetic-mix` only: drawn sites besides.
        seed: of what is drawn, and of who is held out.
        val_ids: so many training identities are held out as `ReidData.validation`.
        train: False for scoring alone: of `synthetic` nothing is drawn to learn from, and nobody is in `ReidData.train`.
        own: the user's own pictures in the set's layout, whose counts are not held beside the published ones.
        workers, report: of what has to be drawn first.

    Raises:
        UsageError: no such set, or one of scenes.
        DataError: the folder lacks something, or holds nobody.
    """
    if sites and name != MIX:
        raise UsageError(f"sites = {sites}: {MIX} alone draws sites besides, data is {name}")
    if name == SYNTHETIC:
        data = synthetic.reid(people, seed, size_hw, workers, report, train=train)
    elif name == MIX:
        data = _mix(people, sites, seed, size_hw, workers, report)
    else:
        if name not in REID:
            raise UsageError(unknown(name, REID_NAMES, SEARCH_NAMES, "whole scenes", "crops of people"))
        known = REID[name]
        listing = known.read(folder_of(name, root))
        data = opened(listing, size_hw)
        if not own:
            data.notes.extend(_unlike(name, root, differing(count_listing(listing), known.published)))
        if known.warning:
            data.notes.insert(0, known.warning)
        if people:
            data = replace(data, train=data.train.take(np.flatnonzero(data.train.people < people)))
    return _held_out(data, val_ids, seed) if val_ids else data


def load_search(
    name: str,
    root: str | Path = "",
    *,
    people: int = 0,
    seed: int = 1,
    train: bool = True,
    workers: int = 1,
    report: ShardReport = lambda done, of: None,
) -> SearchData:
    """A data set of scenes by its name in `table`; see `load_reid`.

    With `people` (of a real set) the others' boxes keep no name, and training frames that show none of these people are left out.
    """
    if name == SYNTHETIC:
        return synthetic.search(people, seed, workers, report, train=train)
    if name not in SEARCH:
        raise UsageError(unknown(name, SEARCH_NAMES, REID_NAMES, "crops of people", "whole scenes"))
    found = SEARCH[name].read(folder_of(name, root))
    data = found.data
    unlike = _unlike(name, root, differing(count_scenes(data), SEARCH[name].published))
    learnt, identities = relabelled(data.train, people) if people else (data.train, data.identities)
    return replace(data, train=learnt, identities=identities, notes=[*data.notes, *map(str, found.problems), *unlike])


def _unlike(name: str, root: str | Path, differences: Sequence[str]) -> list[str]:
    """One line where a set has not the published counts: scores of half a set, or of another, are no paper's."""
    if not differences:
        return []
    return [f"not as published ({'; '.join(differences)}): sightline data inspect {name} {root} says more"]


def folder_of(name: str, root: str | Path) -> Path:
    """The folder that the user named for a set of files; UsageError without one."""
    if not os.fspath(root):
        raise UsageError(f"{name} is read from a folder: name it (--root, or behind the set's name)")
    return Path(root).expanduser()


def unknown(name: str, names: Sequence[str], others: Sequence[str] = (), other_kind: str = "", kind: str = "") -> str:
    """What to say of a `name` that is none of `names`; `others` are known names of another kind."""
    if name in others:
        return f"data set {name} is one of {other_kind}, this needs {kind}: {', '.join(names)}"
    near = difflib.get_close_matches(name, names, 2, 0.5)
    return f"no data set is named {name}: " + (
        f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names)}"
    )


def opened(listing: Listing, size_hw: tuple[int, int]) -> ReidData:
    """The listing with its pictures and annotations; train people become 0 to P-1 in order."""
    notes = [*listing.notes, *map(str, listing.problems)]

    def crops(split: Listed, what: str) -> Crops:
        found = supervision.find(listing.root, split.source, size_hw)
        notes.extend(found.coverage(what))
        if found.bad:
            notes.append(f"{what}: {len(found.bad)} annotation files are malformed and not used, first {found.bad[0]}")
        people = np.unique(split.people, return_inverse=True)[1] if split is listing.train else split.people
        images = Resized(split.source, size_hw)
        return Crops(images, people, split.cameras, found.joints, found.parts, split.source.names)

    notes += supervision.pickles(listing.root)
    train, query, gallery = (
        crops(split, what)
        for split, what in ((listing.train, "train"), (listing.query, "query"), (listing.gallery, "gallery"))
    )
    if train.joints is None and train.parts is None:
        notes.append(
            "train: no joints, no part labels (MGRe and MagnifierNet use them; sightline data annotate writes them)"
        )
    return ReidData(train, query, gallery, notes)


def _mix(people: int, sites: int, seed: int, size_hw: tuple[int, int], workers: int, report: ShardReport) -> ReidData:
    """What the shipped embedder learns from: single people of everywhere, and those of sites; judged on unseen sites."""
    count = people or MIX_PEOPLE
    train = _sized(drawn.train_crops(count, sites, seed, workers, report), size_hw)
    test = _sized(drawn.test_crops(workers, report)["sites"], size_hw)
    pairs = np.stack([test.people, test.cameras], 1)
    first = np.unique(pairs, axis=0, return_index=True)[1]
    rest = np.setdiff1d(np.arange(len(pairs)), first)
    notes = [f"drawn at {STORED_HW[0]}x{STORED_HW[1]}: {count} people and those of {sites} sites"]
    return ReidData(train, test.take(np.sort(first)), test.take(rest), notes)


def _sized(crops: Crops, size_hw: tuple[int, int]) -> Crops:
    return crops if size_hw == STORED_HW else replace(crops, images=synthetic.Scaled(crops.images, size_hw))


def _held_out(data: ReidData, count: int, seed: int) -> ReidData:
    train = data.train
    known = np.unique(train.people)
    if not 0 < count < len(known):
        raise DataError(f"val_ids = {count} of {len(known)} training people: at least one has to stay")
    held = np.isin(train.people, np.random.default_rng([seed, 6]).choice(known, count, replace=False))
    rest = train.take(np.flatnonzero(~held))
    labels = np.unique(rest.people, return_inverse=True)[1]
    return replace(data, train=replace(rest, people=labels), validation=train.take(np.flatnonzero(held)))
