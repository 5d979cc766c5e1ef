"""Pictures that a thread reads while the network computes."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data import Pictures

I64 = NDArray[np.int64]


class Ahead:
    """The same rows as those of `pictures`; rows that were announced are there at once, or sooner than without."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._coming: tuple[I64, Future[Any]] | None = None
        self.waited_s = 0.0
        """How long readers waited, all in all."""

    def __len__(self) -> int:
        return len(self._pictures)

    def expect(self, rows: I64) -> None:
        """Begin to read (n,) rows: the next that will be asked for."""
        self._coming = rows, self._pool.submit(self._pictures.__getitem__, rows)

    def __getitem__(self, rows: I64) -> Any:
        """(n,) -> what `pictures` gives for them."""
        started = time.perf_counter()
        coming, self._coming = self._coming, None
        found = coming[1].result() if coming is not None and np.array_equal(coming[0], rows) else self._pictures[rows]
        self.waited_s += time.perf_counter() - started
        return found
