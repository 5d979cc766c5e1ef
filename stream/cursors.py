"""Where a source stands in each partition: what it has fetched, handed out and may commit. Shared by all transports."""

import heapq
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from stream.transport import Record


class Timed(Protocol):
    """Every message says when it was captured."""

    @property
    def captured_at(self) -> int:
        """UTC, nanoseconds."""
        ...


T = TypeVar("T", bound=Timed)


@dataclass(slots=True)
class _Cursor(Generic[T]):
    fetch: int
    """Next offset to fetch."""
    committed: int
    waiting: deque[Record[T]] = field(default_factory=deque)
    dead: deque[int] = field(default_factory=deque)
    """Offsets at or after `committed` that hold no message, so that a commit may pass them; they grow."""


class Cursors(Generic[T]):
    """One cursor per assigned partition. Safe to use from the thread that fetches and the one that processes.

    A batch has at most `max_records`, and spans at most `max_span_s` of captured time; across partitions it is in the order
    of capture, within a partition always in the order of the topic.
    """

    def __init__(self, max_records: int, max_span_s: float) -> None:
        self.max_records, self._span_ns = max_records, int(max_span_s * 1e9)
        self._cursors: dict[int, _Cursor[T]] = {}
        self._paused: set[int] = set()
        self._epochs: dict[int, int] = {}
        """Counts how often a partition was begun or given up: what was fetched before belongs to another reading of it."""
        self._lock = threading.Lock()

    def assign(self, partition: int, offset: int) -> None:
        """Read `partition` from `offset` on; what was fetched of it before is forgotten."""
        with self._lock:
            self._cursors[partition] = _Cursor(offset, offset)
            self._epochs[partition] = self._epochs.get(partition, 0) + 1

    def revoke(self, partition: int) -> None:
        """Another reader has it now; commits of it are ignored from here on."""
        with self._lock:
            self._cursors.pop(partition, None)
            self._epochs[partition] = self._epochs.get(partition, 0) + 1

    def wanted(self) -> dict[int, int]:
        """Partition -> next offset to fetch, of those that are not paused and have room."""
        with self._lock:
            return {
                partition: cursor.fetch
                for partition, cursor in self._cursors.items()
                if partition not in self._paused and len(cursor.waiting) < self.max_records
            }

    def epochs(self) -> dict[int, int]:
        """Of each partition; to be taken when records are fetched, and given to `fetched` with them."""
        with self._lock:
            return dict(self._epochs)

    def fetched(self, partition: int, offset: int, message: T | None, epoch: int | None) -> None:
        """Take in what lay at `offset`; None stands for bytes that were dead-lettered."""
        with self._lock:
            cursor = self._cursors.get(partition)
            if cursor is None or self._epochs[partition] != epoch or offset < cursor.fetch:
                return  # revoked or sought while it was on its way
            cursor.fetch = offset + 1
            if message is None:
                cursor.dead.append(offset)
            else:
                cursor.waiting.append(Record(message, partition, offset))

    def take(self) -> Sequence[Record[T]]:
        """The next batch; empty when nothing waits."""
        with self._lock:
            heads = [
                (cursor.waiting[0].message.captured_at, partition)
                for partition, cursor in self._cursors.items()
                if cursor.waiting and partition not in self._paused
            ]
            heapq.heapify(heads)
            batch: list[Record[T]] = []
            end = heads[0][0] + self._span_ns if heads else 0
            while heads and heads[0][0] <= end and len(batch) < self.max_records:
                _, partition = heapq.heappop(heads)
                cursor = self._cursors[partition]
                batch.append(cursor.waiting.popleft())
                if cursor.waiting:
                    heapq.heappush(heads, (cursor.waiting[0].message.captured_at, partition))
            return batch

    def commit(self, batch: Sequence[Record[T]]) -> dict[int, int]:
        """Partition -> offset that may be committed now, where that is news: past `batch` and the dead letters behind it."""
        with self._lock:
            before = {partition: cursor.committed for partition, cursor in self._cursors.items()}
            for record in batch:
                if cursor := self._cursors.get(record.partition):
                    cursor.committed = max(cursor.committed, record.offset + 1)
            news = {}
            for partition, cursor in self._cursors.items():
                while cursor.dead and cursor.dead[0] <= cursor.committed:
                    cursor.committed = max(cursor.committed, cursor.dead.popleft() + 1)
                if cursor.committed != before[partition]:
                    news[partition] = cursor.committed
            return news

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Hand out from these offsets next."""
        for partition, offset in offsets.items():
            self.assign(partition, offset)

    def position(self) -> dict[int, int]:
        """Next offset to be handed out, per partition; that of the next fetch where nothing waits."""
        with self._lock:
            return {
                partition: cursor.waiting[0].offset if cursor.waiting else cursor.fetch
                for partition, cursor in self._cursors.items()
            }

    def pause(self, partitions: Iterable[int]) -> None:
        """Hand out nothing of these, what is fetched already included."""
        with self._lock:
            self._paused.update(partitions)

    def resume(self, partitions: Iterable[int]) -> None:
        """Undo `pause`."""
        with self._lock:
            self._paused.difference_update(partitions)

    def fetching(self) -> dict[int, int]:
        """Next offset to fetch, of every partition that is read here."""
        with self._lock:
            return {partition: cursor.fetch for partition, cursor in self._cursors.items()}

    def ready(self) -> bool:
        """True when `take` would return something."""
        with self._lock:
            return any(c.waiting and partition not in self._paused for partition, c in self._cursors.items())

    def empty(self) -> bool:
        """True when nothing fetched waits to be handed out."""
        with self._lock:
            return not any(cursor.waiting for cursor in self._cursors.values())
