"""What all sets of scenes share: identities in order, and the gallery of every frame."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stream.errors import DataError
from trainer.data import NOBODY, UNLABELLED, Scenes
from trainer.datasets.sets import Gallery, Queries

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


def people_of(scenes: Scenes) -> I64:
    """(N, G) identities; DataError where the scenes have boxes only."""
    if scenes.people is None:
        raise DataError(
            "these scenes have boxes but no identities: a person search needs PRW, CUHK-SYSU or drawn frames"
        )
    return scenes.people


def named(people: I64) -> NDArray[np.bool_]:
    """Which places hold somebody with a name."""
    known: NDArray[np.bool_] = (people != NOBODY) & (people != UNLABELLED)
    return known


def relabelled(scenes: Scenes, most: int = 0) -> tuple[Scenes, int]:
    """The scenes with identities 0 to T-1 in order, and T.

    With `most` only the first so many keep their names, and frames that show none of these are left out.
    """
    people = people_of(scenes)
    known = np.unique(people[named(people)])
    if not len(known):
        raise DataError("no training frame shows anybody with an identity: there is nobody to learn")
    kept = known[:most] if most else known
    mine = named(people) & np.isin(people, kept)
    renamed = np.where(named(people), UNLABELLED, people)
    renamed[mine] = np.searchsorted(kept, people[mine])
    scenes = replace(scenes, people=renamed)
    return (scenes.take(np.flatnonzero(mine.any(1))) if most else scenes), len(kept)


def place_of(scenes: Scenes, person: int) -> F32:
    """(N, 4) where a person is in each frame, NaN where not."""
    there = people_of(scenes) == person
    first = there.argmax(1)
    xyxy: F32 = scenes.xyxy[np.arange(len(first)), first].copy()
    xyxy[~there.any(1)] = np.nan
    return xyxy


def all_frames(test: Scenes, queries: Queries) -> Callable[[int, int], Gallery]:
    """The gallery of every test frame but the query's own."""

    def gallery(size: int, query: int) -> Gallery:
        others = np.delete(np.arange(len(test.xyxy)), queries.frames[query])
        return Gallery(others, place_of(test, int(queries.people[query]))[others])

    return gallery
