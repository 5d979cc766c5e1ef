"""Exact search over the gallery's exemplars in memory: dense float32 rows per camera, insertion and deletion in O(1).

Cosines are taken after the mean of the exemplar's own camera was removed, without storing the centred rows:
``(e - m) . x / |e - m|`` needs ``e . x`` per query and two numbers per row that change only with the means.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(slots=True)
class _Block:
    """The exemplars of one camera; rows 0 to `count` are in use."""

    rows: F32
    slots: I64
    shift: F32
    """row . mean"""
    scale: F32
    """1 / |row - mean|"""
    count: int = 0
    owners: list[tuple[int, str]] = field(default_factory=list)
    stale: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Scores:
    """Similarities of R queries to I identities, in float32: good for choosing whom to look at exactly."""

    index: I64
    """(I,) identities."""
    last: I64
    """(I,) when each was last seen, nanoseconds."""
    best: F32
    """(R, I) largest cosine over the identity's exemplars."""
    mean: F32
    """(R, I) mean cosine."""
    nearest: NDArray[np.int32]
    """(R, I) camera (place in `cameras`) of the exemplar with the largest cosine; the query's own where it ties."""
    cameras: list[str]


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
                block.shift, block.scale = _doubled(block.shift), _doubled(block.scale)
            row = block.count
            block.count += 1
            block.owners.append(key)
            self._where[key] = (camera, row)
            slot = self._slot(identity, last)
            block.slots[row] = slot
            self._used[slot] += 1
            self._tracklets.setdefault(identity, set()).add(tracklet)
        block.rows[row] = vector
        block.stale.add(row)

    def drop(self, identity: int, tracklet: str) -> None:
        """Remove one exemplar; the last row takes its place. An identity without exemplars is not found any more."""
        camera, row = self._where.pop((identity, tracklet))
        block = self._blocks[camera]
        end = block.count - 1
        if row != end:
            block.rows[row], block.slots[row] = block.rows[end], block.slots[end]
            block.shift[row], block.scale[row] = block.shift[end], block.scale[end]
            block.owners[row] = block.owners[end]
            self._where[block.owners[row]] = (camera, row)
            if end in block.stale:
                block.stale.add(row)
            else:
                block.stale.discard(row)
        block.stale.discard(end)
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

    def search(self, queries: F64, camera: str, mean: Callable[[str], F64], version: int) -> Scores:
        """Score (R, D) centred unit vectors of one camera; `mean` gives each camera's, `version` names their state."""
        identities = len(self._slot_of)
        cameras = sorted(self._blocks)
        cosines, slots, of = [np.zeros((len(queries), 0), np.float32)], [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
        for place, name in enumerate(cameras):
            block, centre = self._blocks[name], mean(name).astype(np.float32)
            self._centre(block, centre, range(block.count) if version != self._version else sorted(block.stale))
            n = block.count
            dots = queries.astype(np.float32) @ block.rows[:n].T  # (R, n)
            shifted = dots - (queries.astype(np.float32) @ centre)[:, None]
            cosines.append(shifted * block.scale[:n])
            slots.append(block.slots[:n])
            of.append(np.full(n, place, np.int32))
        self._version = version
        cosine, slot, place_of = np.concatenate(cosines, 1), np.concatenate(slots), np.concatenate(of)
        best = np.full((len(queries), identities), -2, np.float32)
        total = np.zeros((len(queries), identities), np.float32)
        nearest = np.zeros((len(queries), identities), np.int32)
        own = cameras.index(camera) if camera in self._blocks else -1
        for row in range(len(queries)):
            np.maximum.at(best[row], slot, cosine[row])
            total[row] = np.bincount(slot, cosine[row], identities)
            hits = np.flatnonzero(cosine[row] == best[row][slot])
            nearest[row][slot[hits]] = place_of[hits]
            hits = hits[place_of[hits] == own]
            nearest[row][slot[hits]] = own
        return Scores(
            self._index[:identities],
            self._last[:identities],
            best,
            np.asarray(total / np.maximum(self._used[:identities], 1), np.float32),
            nearest,
            cameras,
        )

    def _centre(self, block: _Block, centre: F32, which: Iterable[int]) -> None:
        block.stale.clear()
        if isinstance(which, range):
            rows: F32 = block.rows[: block.count]
            target: slice | list[int] = slice(0, block.count)
        else:
            target = list(which)
            rows = block.rows[target]
        if not len(rows):
            return
        shift = rows @ centre
        square = np.einsum("nd,nd->n", rows, rows) - 2 * shift + centre @ centre
        block.shift[target] = shift
        block.scale[target] = 1 / np.sqrt(np.maximum(square, 1e-12))

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
