"""Topics inside one process: bounded, with the same bytes, offsets, groups and dead letters as on a broker."""

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from stream.codec import DEAD_LETTERS, dead_letter, decode, encode, size_limit
from stream.cursors import Cursors
from stream.errors import DeliveryFailed, MessageError, MessageTooLarge, OffsetGone, TransportError
from stream.messages import DeadLetter, Frame, Inner, MatchEvent
from stream.telemetry import FRAMES_DROPPED, FRAMES_SENT, QUEUE_DEPTH
from stream.transport import Record

T = TypeVar("T", bound=Inner | MatchEvent | DeadLetter)
Policy = Literal["wait", "shed"]

POLL_S = 0.1  # a source without records says so this often


@dataclass(slots=True)
class _Stored:
    offset: int
    data: bytes
    live_camera: str | None
    """Set for a frame of a live camera, which may be shed."""


class _Partition:
    def __init__(self) -> None:
        self.records: deque[_Stored] = deque()
        self.size = 0
        self.end = 0
        """Offset of the next record."""

    @property
    def start(self) -> int:
        return self.records[0].offset if self.records else self.end


class MemoryTopic(Generic[T]):
    """A topic in this process. A record is kept until every group has committed it; with no group, while there is room.

    `kinds` are the messages it carries (`stream.codec.FRAMES` and its neighbours). Bounds hold per partition, for a bound
    over all would let one camera's records keep out the very record of another that the reader waits for.
    """

    def __init__(
        self,
        name: str,
        kinds: tuple[type[T], ...],
        partitions: int,
        *,
        capacity_records: int = 256,
        capacity_bytes: int = 32 << 20,
    ) -> None:
        self.name, self.kinds = name, kinds
        self.capacity_records, self.capacity_bytes = capacity_records, capacity_bytes
        self.id = uuid.uuid4().hex
        """Another one for every topic ever made: offsets stored with it mean nothing elsewhere."""
        self.dead: MemoryTopic[DeadLetter] | None = None
        if kinds != DEAD_LETTERS:
            self.dead = MemoryTopic(f"{name}.dead", DEAD_LETTERS, 1, capacity_records=capacity_records)
        self._partitions = [_Partition() for _ in range(partitions)]
        self._groups: dict[str, dict[int, int]] = {}
        self._members: dict[str, list[MemorySource[T]]] = {}
        self._ended = False
        self._changed = threading.Condition()
        self._depth = QUEUE_DEPTH.labels(name)

    @property
    def partitions(self) -> int:
        """How many there are."""
        return len(self._partitions)

    def source(self, group: str, *, max_records: int = 64, max_span_s: float = 1.0) -> "MemorySource[T]":
        """A reader. Readers of one group share the partitions; a new group begins with the oldest record kept."""
        return MemorySource(self, group, Cursors(max_records, max_span_s))

    def sink(self, partition_of: Callable[[T], int], policy: Policy = "wait") -> "MemorySink[T]":
        """A writer. A full partition makes it wait, or lose its oldest frames of live cameras (`shed`)."""
        return MemorySink(self, partition_of, policy)

    def close_input(self) -> None:
        """Nothing more will be written: readers end after what is there."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def lag(self, group: str) -> dict[int, int]:
        """Partition -> records that the group has not committed."""
        with self._changed:
            committed = self._groups.get(group, {})
            return {
                number: sum(record.offset >= committed.get(number, 0) for record in partition.records)
                for number, partition in enumerate(self._partitions)
            }

    def put(self, number: int, data: bytes, live_camera: str | None = None, *, policy: Policy = "wait") -> bool:
        """Append any bytes; False where a live camera's frame found no room.

        Raises `DeliveryFailed` when the partition is full and nobody has read of it for 1 s.
        """
        if not 0 <= number < len(self._partitions):
            raise TransportError(
                f"topic {self.name} has {len(self._partitions)} partitions, a message asks for {number}"
            )
        partition = self._partitions[number]
        with self._changed:
            seen, deadline = partition.start, time.monotonic() + 1
            while not self._has_room(partition, len(data)):
                if not self._groups:
                    self._forget_first(partition)
                elif policy == "shed" and (camera := self._shed_oldest(number)):
                    FRAMES_DROPPED.labels(camera, "queue").inc()
                elif policy == "shed" and live_camera:
                    FRAMES_DROPPED.labels(live_camera, "queue").inc()
                    return False
                else:
                    if partition.start != seen:
                        seen, deadline = partition.start, time.monotonic() + 1
                    elif time.monotonic() > deadline:
                        raise DeliveryFailed(
                            f"topic {self.name}: partition {number} is full with {len(partition.records)} records "
                            f"and nobody has read of it for 1 s"
                        )
                    self._changed.wait(POLL_S)
            partition.records.append(_Stored(partition.end, data, live_camera))
            partition.size += len(data)
            partition.end += 1
            self._depth.inc()
            self._changed.notify_all()
        return True

    def _has_room(self, partition: _Partition, size: int) -> bool:
        room = len(partition.records) < self.capacity_records and partition.size + size <= self.capacity_bytes
        return room or not partition.records

    def _shed_oldest(self, number: int) -> str | None:
        """Lose the oldest live frame that nobody has fetched yet. Returns its camera, or None where there is none."""
        members = [member for group in self._members.values() for member in group]
        fetched = max((member._cursors.fetching().get(number, 0) for member in members), default=0)
        partition = self._partitions[number]
        for place, record in enumerate(partition.records):
            if record.live_camera is not None and record.offset >= fetched:
                del partition.records[place]
                partition.size -= len(record.data)
                self._depth.dec()
                return record.live_camera
        return None

    def _forget_first(self, partition: _Partition) -> None:
        partition.size -= len(partition.records.popleft().data)
        self._depth.dec()

    def _forget_committed(self) -> None:
        for number, partition in enumerate(self._partitions):
            done = min(committed.get(number, 0) for committed in self._groups.values())
            while partition.records and partition.records[0].offset < done:
                self._forget_first(partition)
        self._changed.notify_all()


class MemorySink(Generic[T]):
    """Writes to a `MemoryTopic`; what `send` took is delivered."""

    def __init__(self, topic: MemoryTopic[T], partition_of: Callable[[T], int], policy: Policy) -> None:
        self._topic, self._partition_of, self._policy = topic, partition_of, policy
        self._limit = size_limit(topic.kinds)

    def send(self, messages: Iterable[T]) -> None:
        """See `stream.transport.Sink`."""
        for message in messages:
            data = encode(message)
            if len(data) > self._limit:
                raise MessageTooLarge(
                    f"topic {self._topic.name}: a message of {len(data):,} bytes, at most {self._limit:,}"
                )
            live = message.camera if isinstance(message, Frame) and message.clock != "file" else None
            taken = self._topic.put(self._partition_of(message), data, live, policy=self._policy)
            if taken and isinstance(message, Frame):
                FRAMES_SENT.labels(message.camera).inc()

    def flush(self) -> None:
        """Nothing is outstanding."""

    def close(self) -> None:
        """The topic stays: others may write, and `MemoryTopic.close_input` says when nobody does."""


class MemorySource(Generic[T]):
    """Reads a `MemoryTopic` as one member of a group; see `stream.transport.Source` for the promises."""

    def __init__(self, topic: MemoryTopic[T], group: str, cursors: Cursors[T]) -> None:
        self._topic, self._group, self._cursors = topic, group, cursors
        self._closed = False
        with topic._changed:
            self._committed = topic._groups.setdefault(
                group, {number: partition.start for number, partition in enumerate(topic._partitions)}
            )
            self._members = topic._members.setdefault(group, [])
            self._members.append(self)
            self._share_out()

    def topic_id(self) -> str:
        """Identity of the topic that offsets belong to."""
        return self._topic.id

    def batches(self) -> Iterator[Sequence[Record[T]]]:
        """See `stream.transport.Source`."""
        while not self._closed:
            fetched, epochs = self._fetch()
            for number, record in fetched:
                self._cursors.fetched(number, record.offset, self._read(number, record), epochs[number])
            batch = self._cursors.take()
            if not batch and self._at_end():
                return
            if batch or not fetched:
                yield batch

    def commit(self, batch: Sequence[Record[T]]) -> None:
        """See `stream.transport.Source`."""
        with self._topic._changed:
            self._committed.update(self._cursors.commit(batch))
            self._topic._forget_committed()

    def position(self) -> dict[int, int]:
        """See `stream.transport.Source`."""
        return self._cursors.position()

    def seek(self, offsets: Mapping[int, int]) -> None:
        """See `stream.transport.Source`."""
        with self._topic._changed:
            for number, offset in offsets.items():
                partition = self._topic._partitions[number]
                if not partition.start <= offset <= partition.end:
                    raise OffsetGone(
                        f"topic {self._topic.name}: partition {number} holds offsets {partition.start} to {partition.end}, "
                        f"{offset} was to be read next"
                    )
            self._cursors.seek(offsets)

    def pause(self, partitions: Iterable[int]) -> None:
        """See `stream.transport.Source`."""
        self._cursors.pause(partitions)

    def resume(self, partitions: Iterable[int]) -> None:
        """See `stream.transport.Source`."""
        self._cursors.resume(partitions)

    def close(self) -> None:
        """See `stream.transport.Source`."""
        with self._topic._changed:
            self._closed = True
            if self in self._members:
                self._members.remove(self)
                self._share_out()
            self._topic._changed.notify_all()

    def _share_out(self) -> None:
        """Partition p belongs to member p modulo their number; who gets one goes on from its last commit."""
        for rank, member in enumerate(self._members):
            mine = set(range(rank, self._topic.partitions, len(self._members)))
            held = set(member._cursors.fetching())
            for number in held - mine:
                member._cursors.revoke(number)
            for number in mine - held:
                member._cursors.assign(number, self._committed[number])

    def _fetch(self) -> tuple[list[tuple[int, _Stored]], dict[int, int]]:
        """Records from where this source stands; waits up to the poll time-out for the first."""
        deadline = time.monotonic() + POLL_S
        with self._topic._changed:
            while True:
                found = [
                    (number, record)
                    for number, offset in self._cursors.wanted().items()
                    for record in self._after(number, offset)
                ]
                left = deadline - time.monotonic()
                if found or left <= 0 or self._closed or self._cursors.ready() or self._at_end():
                    return found, self._cursors.epochs()
                self._topic._changed.wait(left)

    def _after(self, number: int, offset: int) -> list[_Stored]:
        records = [record for record in self._topic._partitions[number].records if record.offset >= offset]
        return records[: self._cursors.max_records]

    def _at_end(self) -> bool:
        with self._topic._changed:
            partitions, fetching = self._topic._partitions, self._cursors.fetching()
            read = all(offset >= partitions[number].end for number, offset in fetching.items())
            return self._topic._ended and read and self._cursors.empty()

    def _read(self, number: int, record: _Stored) -> T | None:
        try:
            return decode(record.data, self._topic.kinds)
        except MessageError as error:
            if self._topic.dead is not None:
                letter = dead_letter(
                    self._topic.name, number, record.offset, str(error), record.data, self._topic.kinds
                )
                self._topic.dead.put(0, encode(letter))
            return None
