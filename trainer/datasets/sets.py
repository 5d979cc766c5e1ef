"""What a data set gives: crops to tell people apart, or scenes to find people in."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trainer.data import Crops, Scenes

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
ALL_FRAMES = -1
"""Size of the gallery that holds every test frame."""


@dataclass(frozen=True, slots=True)
class ReidData:
    """A data set of crops. Cameras count from 0."""

    train: Crops
    """`people` are 0 to P-1, in the order of the set's own numbers."""
    query: Crops
    gallery: Crops
    """`people` of query and gallery are the set's own numbers, 0 a distractor; junk (-1) is left out."""
    notes: list[str] = field(default_factory=list)
    """One line each: which split was taken, who withdrew the set, how many pictures have joints and part labels."""
    validation: Crops | None = None
    """The `val_ids` people that were held out of `train`."""


@dataclass(frozen=True, slots=True)
class Queries:
    """Q people to find."""

    frames: I64
    """(Q,) rows of `SearchData.test`."""
    xyxy: F32
    """(Q, 4) pixels of that frame."""
    people: I64
    """(Q,)."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Where one query is looked for: F frames."""

    frames: I64
    """(F,) rows of `SearchData.test`, in the protocol's order."""
    xyxy: F32
    """(F, 4) pixels: the query's person there, NaN where the person is not."""


@dataclass(frozen=True, slots=True)
class SearchData:
    """A data set of scenes. Cameras count from 0."""

    train: Scenes
    """`people` are 0 to T-1, or UNLABELLED."""
    test: Scenes
    """`people` are the set's own numbers, or UNLABELLED."""
    queries: Queries
    gallery_sizes: tuple[int, ...]
    """Sizes for which `gallery` answers: CUHK-SYSU's 50 to 4000 as far as they are there, and ALL_FRAMES, which is every test frame but
    the query's own; its cameras are `test.cameras`, from which PRW's other modes follow."""
    gallery: Callable[[int, int], Gallery]
    """(size, query number) -> its gallery."""
    headline: int
    """The size whose score stands for the set: 100 for CUHK-SYSU, else ALL_FRAMES."""
    identities: int
    """T: how many people are named in `train`."""
    notes: list[str] = field(default_factory=list)
