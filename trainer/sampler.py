"""P people x K pictures per batch, reproducible: an epoch's order is a function of (seed, epoch) alone."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stream.errors import UsageError


class Sampler(ABC):
    """Batches of indices without end. Its whole state is (epoch, place): two integers of a checkpoint."""

    epoch: int
    """That of the batch which `next` gives, from 0."""
    place: int
    """Of that batch within its epoch, in [0, len)."""

    def __init__(self) -> None:
        self.epoch, self.place, self._batches = 0, 0, self.order(0)

    @abstractmethod
    def order(self, epoch: int) -> NDArray[np.int64]:
        """(batches, batch size) indices of one epoch, at least one batch."""

    def __len__(self) -> int:
        """Batches of the current epoch; epochs may differ."""
        return len(self._batches)

    def next(self) -> NDArray[np.int64]:
        """The next batch; epochs follow each other."""
        batch: NDArray[np.int64] = self._batches[self.place]
        self.place += 1
        self._turn()
        return batch

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return {"epoch": self.epoch, "place": self.place}

    def restore(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken."""
        self.epoch, self.place = state["epoch"], state["place"]
        self._batches = self.order(self.epoch)
        self._turn()

    def _turn(self) -> None:
        """Behind an epoch's last batch the next epoch begins."""
        if self.place >= len(self._batches):
            self.epoch, self.place = self.epoch + 1, 0
            self._batches = self.order(self.epoch)


class PKSampler(Sampler):
    """Batches of `people` x `pictures`.

    Per epoch and person: the pictures are shuffled (fewer than `pictures`: that many are drawn with replacement), cut into groups,
    the remainder dropped; batches draw people without replacement and take one group of each, until too few people have any left.
    Where the data hold fewer people than a batch takes, every batch takes them all.

    With `sites`, (N,) each picture's, half of a batch's people are of one site and half of another (the rest of more, where those
    have too few): people whom the same cameras saw in the same light are the hard ones to tell apart, and in the stream everybody is.
    """

    def __init__(
        self,
        labels: Sequence[int] | NDArray[np.int64],
        people: int,
        pictures: int,
        seed: int,
        sites: NDArray[np.int64] | None = None,
    ) -> None:
        if people < 2 or pictures < 1:
            raise UsageError(f"a batch needs 2 people with 1 picture at least, asked are {people} with {pictures}")
        labels = np.asarray(labels)
        self._members = {int(pid): np.flatnonzero(labels == pid) for pid in np.unique(labels)}
        if len(self._members) < 2:
            raise UsageError(f"nobody to tell apart: training needs pictures of 2 people, got {len(self._members)}")
        self._people, self._pictures, self._seed = min(people, len(self._members)), pictures, seed
        self._site = {pid: 0 if sites is None else int(sites[rows[0]]) for pid, rows in self._members.items()}
        self._per_site = self._people if sites is None else -(-self._people // 2)
        super().__init__()

    def order(self, epoch: int) -> NDArray[np.int64]:
        """(batches, people * pictures) indices; the pictures of one person stand together."""
        rng = np.random.default_rng([self._seed, epoch])
        groups: dict[int, list[NDArray[np.int64]]] = {}
        for pid, members in self._members.items():
            if len(members) < self._pictures:
                members = rng.choice(members, self._pictures, replace=True)
            shuffled = rng.permutation(members)
            usable = len(shuffled) - len(shuffled) % self._pictures
            groups[pid] = list(shuffled[:usable].reshape(-1, self._pictures))
        batches = []
        left = list(self._members)
        while len(left) >= self._people:
            drawn = self._draw(rng, left)
            batches.append(np.concatenate([groups[int(pid)].pop() for pid in drawn]))
            left = [pid for pid in left if groups[pid]]
        return np.stack(batches)

    def _draw(self, rng: np.random.Generator, left: list[int]) -> NDArray[np.int64]:
        """A batch's people out of those `left`, at most `_per_site` of a site as long as there are other sites."""
        if self._per_site == self._people:
            return rng.choice(left, self._people, replace=False)
        drawn: list[int] = []
        rest = rng.permutation(left).tolist()  # the site of a random person: large ones come more often
        while len(drawn) < self._people:
            site = self._site[rest[0]]
            some = [pid for pid in rest if self._site[pid] == site][: min(self._per_site, self._people - len(drawn))]
            drawn += some
            taken = set(some)
            rest = [pid for pid in rest if self._site[pid] != site] or [pid for pid in rest if pid not in taken]
        return np.array(drawn)


def sites_of(people: NDArray[np.int64], cameras: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) people and cameras of pictures -> (N,) site of each, from 0: cameras that saw the same people are of one site."""
    _, person = np.unique(people, return_inverse=True)
    _, camera = np.unique(cameras, return_inverse=True)
    count = int(person.max()) + 1
    size = count + int(camera.max()) + 1
    edges = coo_array((np.ones(len(person), np.int8), (person, count + camera)), shape=(size, size))
    return connected_components(edges, directed=False)[1][person].astype(np.int64)


class ShuffleSampler(Sampler):
    """Plain shuffling of `count` items into batches of `batch` (or of all there are), the remainder dropped."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        if count < 1:
            raise UsageError("there is nothing to train on: the data hold no sample")
        self._count, self._batch, self._seed = count, min(batch, count), seed
        super().__init__()

    def order(self, epoch: int) -> NDArray[np.int64]:
        """(batches, batch) indices."""
        shuffled = np.random.default_rng([self._seed, epoch]).permutation(self._count)
        return shuffled[: self._count - self._count % self._batch].reshape(-1, self._batch)
