"""Exact search over the gallery's exemplars in memory: dense float32 rows per camera, insertion and deletion in O(1).

Cosines are taken after the mean of the exemplar's own camera was removed, without storing the centred rows:
``(e - m) . x / |e - m|`` needs ``e . x`` per query, and a number per row that changes only with the means.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

TIE = 0.02  # log-odds; float32 tells apart no better


@dataclass(slots=True)
class _Block:
    """The exemplars of one camera; rows 0 to `count` are in use."""

    rows: F32
    slots: I64
    square: F32
    """|row|^2"""
    scale: F32
    """1 / |row - mean|"""
    count: int = 0
    owners: list[tuple[int, str]] = field(default_factory=list)
    stale: bool = True
    """Rows have changed since the scales were computed."""


class Mirror:
    """Finds who looks like a query. Holds nothing that the state does not hold; rebuilt from it after a restart."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._blocks: dict[str, _Block] = {}
        self._where: dict[tuple[int, str], tuple[str, int]] = {}
        self._slot_of: dict[int, int] = {}
        self._tracklets: dict[int, set[str]] = {}
        self._index = np.zeros(64, np.int64)
        self._last = np.zeros(64, np.int64)
        self._used = np.zeros(64, np.int64)
        self._version = -1

    def put(self, identity: int, tracklet: str, camera: str, vector: F32, last: int) -> None:
        """Insert the exemplar of (identity, tracklet), or overwrite it."""
        key = (identity, tracklet)
        block = self._blocks.get(camera)
        if block is None:
            block = self._blocks[camera] = _Block(
                np.zeros((64, self._size), np.float32), np.zeros(64, np.int64), *np.zeros((2, 64), np.float32)
            )
        if key in self._where:
            row = self._where[key][1]
        else:
            if block.count == len(block.rows):
                block.rows, block.slots = _doubled(block.rows), _doubled(block.slots)
                block.square, block.scale = _doubled(block.square), _doubled(block.scale)
            row = block.count
            block.count += 1
            block.owners.append(key)
            self._where[key] = (camera, row)
            slot = self._slot(identity, last)
            block.slots[row] = slot
            self._used[slot] += 1
            self._tracklets.setdefault(identity, set()).add(tracklet)
        block.rows[row], block.square[row] = vector, vector @ vector
        block.stale = True

    def drop(self, identity: int, tracklet: str) -> None:
        """Remove one exemplar; the last row takes its place. An identity without exemplars is not found any more."""
        camera, row = self._where.pop((identity, tracklet))
        block = self._blocks[camera]
        end = block.count - 1
        if row != end:
            block.rows[row], block.slots[row] = block.rows[end], block.slots[end]
            block.square[row], block.scale[row] = block.square[end], block.scale[end]
            block.owners[row] = block.owners[end]
            self._where[block.owners[row]] = (camera, row)
        block.rows[end] = 0  # what was dropped is gone from memory too
        block.owners.pop()
        block.count = end
        slot = self._slot_of[identity]
        self._used[slot] -= 1
        self._tracklets[identity].discard(tracklet)
        if not self._tracklets[identity]:
            del self._tracklets[identity]
            self._free(identity, slot)

    def touch(self, identity: int, last: int) -> None:
        """Note when an identity was last seen."""
        slot = self._slot_of.get(identity)
        if slot is not None:
            self._last[slot] = last

    def oldest(self, spared: set[int]) -> int | None:
        """Who was last seen longest ago, the smaller number where that ties; None when all are spared."""
        count = len(self._slot_of)
        index, last = self._index[:count], self._last[:count]
        free = ~np.isin(index, np.fromiter(spared, np.int64, len(spared)))
        if not free.any():
            return None
        index, last = index[free], last[free]
        return int(index[last == last.min()].min())

    def search(
        self,
        queries: F64,
        mean: Callable[[str], F64],
        version: int,
        *,
        fit: Callable[[str], tuple[float, float, float]],
        need: Callable[[int, I64, I64], F64],
        most: int,
    ) -> list[list[int]]:
        """For each of (R, D) centred unit queries the identities whose appearance may speak for them as much as they need.

        Appearance is ``clip(a + b * (largest + mean cosine) / 2)`` with `fit` giving (a, b, clip) for a nearest exemplar of a
        camera. ``need(r, index, last)`` gives what query r needs of each of (I,) identities last seen at (I,) nanoseconds.
        Beyond `most`, only those that exceed their need by as much as the `most`-th does. `mean` gives each camera's, and
        `version` changes with them. Float32: callers leave a margin.
        """
        cosines, slots, cameras = self._cosines(queries.astype(np.float32), mean, version)
        fits = np.array([fit(camera) for camera in self._blocks], np.float64).reshape(-1, 3)
        offset, slope, clip = fits.T
        count = len(self._slot_of)
        found = []
        for r, cosine in enumerate(cosines):
            needed = need(r, self._index[:count], self._last[:count])
            # the mean is no larger than the largest, so an identity of which no row passes does not
            score = np.clip(offset[cameras] + slope[cameras] * cosine, -clip[cameras], clip[cameras])
            passed = np.zeros(count, bool)
            passed[slots[score >= needed[slots]]] = True
            if np.count_nonzero(passed) > most:
                rows = np.flatnonzero(passed[slots])
                passed = self._best(cosine[rows], slots[rows], cameras[rows], fits, needed, most)
            found.append(self._index[:count][passed].tolist())
        return found

    def _best(
        self, cosine: F32, slot: I64, camera: NDArray[np.intp], fits: F64, needed: F64, most: int
    ) -> NDArray[np.bool_]:
        """(I,) of the identities that these rows are all exemplars of, the `most` that exceed their need by most."""
        largest = np.full(len(needed), -2.0, np.float32)
        np.maximum.at(largest, slot, cosine)
        mean = np.bincount(slot, cosine, len(needed)) / np.maximum(self._used[: len(needed)], 1)
        is_largest = cosine == largest[slot]
        excess = np.full(len(needed), -np.inf)
        offset, slope, clip = fits[camera[is_largest]].T
        where = slot[is_largest]
        similarity = (largest[where] + mean[where]) / 2
        np.maximum.at(excess, where, np.clip(offset + slope * similarity, -clip, clip) - needed[where])
        bar = np.partition(excess, -most)[-most]
        return np.asarray((excess >= max(bar - TIE, 0)) & (excess > -np.inf))

    def _cosines(self, queries: F32, mean: Callable[[str], F64], version: int) -> tuple[F32, I64, NDArray[np.intp]]:
        """(R, N) cosines to all rows, (N,) their identities' slots and (N,) their cameras' places in `_blocks`."""
        moved, self._version = version != self._version, version
        cosines, slots = [np.zeros((len(queries), 0), np.float32)], [np.zeros(0, np.int64)]
        for camera, block in self._blocks.items():
            n, centre = block.count, mean(camera).astype(np.float32)
            rescale = moved or block.stale
            vectors = np.concatenate([queries, centre[None]]) if rescale else queries
            dots = (block.rows[:n] @ vectors.T).T  # (R or R + 1, n); the other way round takes 1.5 times as long
            if rescale:
                block.stale = False
                square = block.square[:n] - 2 * dots[-1] + centre @ centre
                block.scale[:n] = 1 / np.sqrt(np.maximum(square, 1e-12))
            cosines.append((dots[: len(queries)] - (queries @ centre)[:, None]) * block.scale[:n])
            slots.append(block.slots[:n])
        counts = [block.count for block in self._blocks.values()]
        return np.concatenate(cosines, 1), np.concatenate(slots), np.repeat(np.arange(len(counts)), counts)

    def _slot(self, identity: int, last: int) -> int:
        slot = self._slot_of.get(identity)
        if slot is None:
            slot = self._slot_of[identity] = len(self._slot_of)
            if slot == len(self._index):
                self._index, self._last, self._used = map(_doubled, (self._index, self._last, self._used))
            self._index[slot], self._last[slot], self._used[slot] = identity, last, 0
        return slot

    def _free(self, identity: int, slot: int) -> None:
        del self._slot_of[identity]
        end = len(self._slot_of)
        if slot == end:
            return
        moved = int(self._index[end])
        self._index[slot], self._last[slot], self._used[slot] = moved, self._last[end], self._used[end]
        self._slot_of[moved] = slot
        for tracklet in self._tracklets[moved]:
            camera, row = self._where[moved, tracklet]
            self._blocks[camera].slots[row] = slot


def _doubled(array: NDArray[T]) -> NDArray[T]:
    return np.concatenate([array, np.zeros_like(array)])
