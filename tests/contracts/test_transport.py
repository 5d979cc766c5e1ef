"""One suite over both transports: what `stream.transport` promises, kept by memory and by a real Kafka."""

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

import pytest
from kafka import KafkaProducer
from services import wait_for

from stream.codec import DEAD_LETTERS, EMBEDDINGS, FRAMES, MATCHES
from stream.errors import OffsetGone, TransportError
from stream.kafka import KafkaSink, KafkaSource, TopicSpec, ensure_topics, group_lag
from stream.memory import MemoryTopic
from stream.messages import DeadLetter, Embeddings, Frame, MatchEvent
from stream.settings import KafkaSettings
from stream.stage import Pass, as_messages, run


def frame(sequence: int, camera: int = 0, *, size: int = 100, clock: str = "file") -> Frame:
    return Frame(
        site="yard", camera=f"cam-{camera}", stream=0, sequence=sequence, captured_at=sequence * 10**8 + camera,
        ingested_at=0, clock=clock, width=4, height=4, image=bytes(size),
    )  # fmt: skip


def camera_of(message: Frame) -> int:
    return int(message.camera.removeprefix("cam-"))


class MemoryRig:
    """A topic in memory, and what a test needs to know about it."""

    def __init__(self, kinds=FRAMES, partitions: int = 2) -> None:
        self.topic = MemoryTopic(f"yard-{uuid.uuid4().hex[:8]}", kinds, partitions)
        self.name = self.topic.name
        self._readers = self.topic.dead.source("test")

    def source(self, group: str = "g", **options):
        return self.topic.source(group, **options)

    def sink(self, partition_of=camera_of):
        return self.topic.sink(partition_of)

    def put(self, partition: int, data: bytes) -> None:
        self.topic.put(partition, data)

    def lag(self, group: str = "g") -> dict[int, int]:
        return self.topic.lag(group)

    def dead_letters(self, count: int) -> list[DeadLetter]:
        return read(self._readers, count)

    def close(self) -> None:
        pass


class KafkaRig:
    """The same on a real broker."""

    def __init__(self, server: str, kinds=FRAMES, partitions: int = 2) -> None:
        self.settings = KafkaSettings(bootstrap_servers=server, prefix="", connect_timeout_s=30)
        self.name, self._kinds = f"yard-{uuid.uuid4().hex[:8]}", kinds
        self.spec = TopicSpec(self.name, partitions, retention_s=600)
        ensure_topics(self.settings, [self.spec])
        self._open = contextlib.ExitStack()

    def source(self, group: str = "g", **options):
        source = KafkaSource(self.settings, self.name, f"{self.name}-{group}", self._kinds, **options)
        self._open.callback(source.close)
        return source

    def sink(self, partition_of=camera_of, **options):
        sink = KafkaSink(self.settings, self.spec, partition_of, **options)
        self._open.callback(sink.close)
        return sink

    def put(self, partition: int, data: bytes) -> None:
        with contextlib.closing(
            KafkaProducer(
                bootstrap_servers=self.settings.bootstrap_servers, enable_idempotence=False, max_request_size=80 << 20
            )
        ) as producer:
            producer.send(self.name, data, partition=partition).get(timeout=30)

    def lag(self, group: str = "g") -> dict[int, int]:
        return group_lag(self.settings, self.name, f"{self.name}-{group}")

    def dead_letters(self, count: int) -> list[DeadLetter]:
        source = KafkaSource(self.settings, f"{self.name}.dead", None, DEAD_LETTERS, partitions=[0])
        with contextlib.closing(source):
            return read(source, count)

    def close(self) -> None:
        self._open.close()


@pytest.fixture(params=["memory", "kafka"])
def make_rig(request) -> Iterator[Callable[..., MemoryRig | KafkaRig]]:
    made: list[MemoryRig | KafkaRig] = []

    def make(kinds=FRAMES, partitions: int = 2):
        if request.param == "memory":
            made.append(MemoryRig(kinds, partitions))
        else:
            made.append(KafkaRig(request.getfixturevalue("kafka_server"), kinds, partitions))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make_rig):
    return make_rig()


def read_records(source, count: int, *, commit: bool = True, timeout_s: float = 60) -> list:
    """The next `count` records at least, batch by batch."""
    records: list = []
    deadline = time.monotonic() + timeout_s
    for batch in source.batches():
        records += batch
        if commit:
            source.commit(batch)
        if len(records) >= count:
            return records
        assert time.monotonic() < deadline, f"{len(records)} of {count} records within {timeout_s:g} s"
    return records


def read(source, count: int, **options) -> list:
    return [record.message for record in read_records(source, count, **options)]


def settle(source) -> list:
    """Let a source tell the broker what was handed over for commit. Returns what it yields meanwhile, committed too."""
    records: list = []
    for _, batch in zip(range(3), source.batches(), strict=False):
        records += batch
        source.commit(batch)
    return [record.message for record in records]


def by_camera(messages: Sequence[Frame]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for message in messages:
        found.setdefault(message.camera, []).append(message.sequence)
    return found


def test_messages_arrive_in_order_per_partition(rig):
    sink = rig.sink()
    sink.send(frame(n, camera) for n in range(50) for camera in range(2))
    sink.flush()
    assert by_camera(read(rig.source(), 100)) == {"cam-0": list(range(50)), "cam-1": list(range(50))}


def test_a_batch_is_cut_by_count_and_by_captured_time(rig):
    rig.sink().send(frame(n) for n in range(30))
    sizes = [len(batch) for batch in _some(rig.source("count", max_records=7, max_span_s=100), 30)]
    assert max(sizes) == 7
    for batch in _some(rig.source("time", max_records=100, max_span_s=0.4), 30):
        assert batch[-1].message.captured_at - batch[0].message.captured_at <= 400_000_000


def _some(source, count: int) -> list:
    batches, seen = [], 0
    for batch in source.batches():
        if batch:
            batches.append(batch)
            seen += len(batch)
        if seen >= count:
            break
    return batches


def test_silence_comes_as_empty_batches(rig):
    batches = rig.source().batches()
    assert [len(next(batches)) for _ in range(3)] == [0, 0, 0]


def test_a_reader_that_crashes_is_followed_from_the_last_commit(rig):
    sink = rig.sink()
    sink.send(frame(n) for n in range(10))
    sink.flush()
    first = rig.source(max_records=5, max_span_s=100)
    batches = first.batches()
    one = next(batch for batch in batches if batch)
    first.commit(one)
    two = next(batch for batch in batches if batch)  # processed, never committed
    settle_one = next(batches)
    assert settle_one is not None
    first.close()
    assert read(rig.source(), 10 - len(one))[0].sequence == two[0].message.sequence


def test_groups_read_independently(rig):
    a, b = rig.source("a"), rig.source("b")
    rig.sink().send([frame(0), frame(1)])
    assert [m.sequence for m in read(a, 2)] == [0, 1]
    assert [m.sequence for m in read(b, 2)] == [0, 1]


def test_position_is_the_next_offset_to_be_yielded_and_seek_goes_back(rig):
    rig.sink().send([frame(0), frame(1), frame(2), frame(0, camera=1)])
    source = rig.source(**({"partitions": [0, 1]} if isinstance(rig, KafkaRig) else {}))
    read(source, 4, commit=False)
    assert source.position() == {0: 3, 1: 1}
    source.seek({0: 3, 1: 1})  # the end is a place too: there a reader of everything goes on
    assert source.position() == {0: 3, 1: 1}
    source.seek({0: 1})
    assert source.position() == {0: 1, 1: 1}
    assert [m.sequence for m in read(source, 2, commit=False)] == [1, 2]


@pytest.mark.parametrize("offset", [99, 10**6])
def test_seeking_what_is_not_there_says_what_is(rig, offset):
    rig.sink().send([frame(0)])
    source = rig.source(**({"partitions": [0, 1]} if isinstance(rig, KafkaRig) else {}))
    read(source, 1, commit=False)
    with pytest.raises(OffsetGone, match=rf"partition 0 holds offsets 0 to 1, {offset} was to be read next"):
        source.seek({0: offset})


def test_a_paused_partition_yields_nothing_until_it_is_resumed(rig):
    sink = rig.sink()
    sink.send([frame(0, 0), frame(0, 1)])
    source = rig.source()
    read(source, 2)
    source.pause([0])
    sink.send(frame(n, camera) for n in range(1, 4) for camera in range(2))
    sink.flush()
    assert {m.camera for m in read(source, 3)} == {"cam-1"}
    assert not any(batch for _, batch in zip(range(3), source.batches(), strict=False))
    source.resume([0])
    assert by_camera(read(source, 3)) == {"cam-0": [1, 2, 3]}


def test_lag_is_what_a_group_has_not_committed(rig):
    sink = rig.sink()
    sink.send(frame(n, 1) for n in range(5))
    sink.flush()
    source = rig.source()
    assert rig.lag() == {0: 0, 1: 5}
    read(source, 5)
    settle(source)
    wait_for(lambda: rig.lag() == {0: 0, 1: 0}, "all committed")


GARBAGE = [
    pytest.param(FRAMES, b"", id="nothing on frames"),
    pytest.param(FRAMES, b"\x00\xff garbage", id="garbage on frames"),
    pytest.param(EMBEDDINGS, b"SL\x01\x00\xc1", id="garbage in an envelope on embeddings"),
    pytest.param(EMBEDDINGS, b"SL\x63\x00\x80", id="unknown major version on embeddings"),
    pytest.param(MATCHES, b"not json", id="garbage on matches"),
]
GOOD = {
    FRAMES: frame(7),
    EMBEDDINGS: Embeddings(
        site="yard", camera="cam-0", stream=0, sequence=7, captured_at=7, ingested_at=0, clock="file", width=4, height=4,
        status="ok", model="m",
    ),
    MATCHES: MatchEvent(
        site="yard", number=7, kind="new", identity="0" * 32, camera="cam-0", tracklet="t", first_seen=0, captured_at=7, model="m"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kinds", "garbage"), GARBAGE)
def test_garbage_goes_to_the_dead_letters_and_the_stream_goes_on(make_rig, kinds, garbage):
    rig = make_rig(kinds)
    rig.put(1, garbage)
    sink = rig.sink(lambda _: 1)
    sink.send([GOOD[kinds]])
    sink.flush()
    assert read(rig.source(), 1) == [GOOD[kinds]]
    (letter,) = rig.dead_letters(1)
    assert (letter.topic, letter.partition, letter.offset) == (rig.name, 1, 0)
    assert letter.reason
    assert letter.payload == (garbage if kinds == MATCHES else None), "images and vectors leave no payload"


def test_garbage_at_the_end_is_committed_with_what_stands_before_it(rig):
    sink = rig.sink()
    sink.send([frame(0)])
    sink.flush()
    rig.put(0, b"garbage")
    rig.put(1, b"garbage")
    source = rig.source()
    read(source, 1)
    rig.dead_letters(2)
    settle(source)
    wait_for(lambda: rig.lag() == {0: 0, 1: 0}, "garbage committed too")


def test_a_message_of_50_mb_is_a_dead_letter(rig):
    if isinstance(rig, KafkaRig):
        _allow_large_messages(rig)
    source = rig.source()
    rig.put(0, bytes(50 << 20))
    assert not any(settle(source))
    rig.sink().send([frame(1)])
    assert [m.sequence for m in read(source, 1)] == [1]
    (letter,) = rig.dead_letters(1)
    assert "52,428,800 bytes where at most 16,777,216 are expected" in letter.reason


def test_two_readers_share_the_partitions_and_no_committed_work_is_lost(rig):
    """A second reader joins in the middle; between them everything is read, and what was committed only once."""
    sink = rig.sink()
    sink.send(frame(n, camera) for n in range(40) for camera in range(2))
    sink.flush()
    first, second = rig.source(max_records=8), rig.source(max_records=8) if isinstance(rig, KafkaRig) else None
    seen: list[Frame] = read(first, 20)
    seen += settle(first)
    second = second or rig.source(max_records=8)
    stop = threading.Event()
    lists: list[list[Frame]] = [[], []]

    class Into:
        def __init__(self, place: int) -> None:
            self.place = place

        def send(self, messages) -> None:
            lists[self.place] += messages

        def flush(self) -> None: ...

        def close(self) -> None: ...

    threads = [
        threading.Thread(
            target=run, args=(source, Pass(), Into(n)), kwargs={"prepare": as_messages, "name": "t", "stop": stop}
        )
        for n, source in enumerate((first, second))
    ]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(first.position()) == len(second.position()) == 1, "one partition each", 60)
        sink.send(frame(n, camera) for n in range(40, 60) for camera in range(2))
        sink.flush()
        everything = {(camera, n) for camera in range(2) for n in range(60)}
        wait_for(lambda: {(camera_of(m), m.sequence) for m in seen + lists[0] + lists[1]} == everything, "all read", 60)
        assert all(lists), "both have read"
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    again = {(m.camera, m.sequence) for m in seen} & {(m.camera, m.sequence) for m in lists[0] + lists[1]}
    assert not again, "what was committed before the rebalance is not read again"
    # at least once: what was being processed while partitions moved may come twice, in order
    for read_by_one in (seen + lists[0], lists[1]):
        for sequences in by_camera(read_by_one).values():
            firsts = list(dict.fromkeys(sequences))
            assert firsts == sorted(firsts)


def test_a_message_for_a_partition_that_is_not_there_is_refused(rig):
    with pytest.raises(TransportError, match="has 2 partitions, a message asks for 5"):
        rig.sink(lambda _: 5).send([frame(0)])


def test_closing_a_source_ends_its_batches_and_may_be_repeated(rig):
    source = rig.source()
    batches = source.batches()
    next(batches)
    threading.Timer(0.3, source.close).start()
    assert not any(batches)
    source.close()


def _allow_large_messages(rig: KafkaRig) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=rig.settings.bootstrap_servers)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, rig.name, {"max.message.bytes": str(64 << 20)})])
    admin.close()
