"""Bounds of topics in memory, and what is lost at them."""

import functools
import threading
import time

import frames
import pytest

from stream.codec import FRAMES, encode
from stream.errors import DeliveryFailed, MessageTooLarge, OffsetGone
from stream.memory import MemoryTopic
from stream.messages import CameraState, Frame
from stream.telemetry import FRAMES_DROPPED, FRAMES_SENT

frame = functools.partial(frames.frame, clock="arrival")


def idle(captured_at: int) -> CameraState:
    return CameraState(site="yard", camera="gate", stream=0, captured_at=captured_at, ingested_at=0, state="idle")


def topic(**bounds: int) -> MemoryTopic:
    return MemoryTopic("yard.frames", FRAMES, 1, **bounds)


def sequences(source, *, commit: bool = True) -> list[int]:
    found: list[int] = []
    for batch in source.batches():
        found += [record.message.sequence for record in batch if isinstance(record.message, Frame)]
        if commit:
            source.commit(batch)
        if not batch:
            return found
    return found


def dropped(camera: str) -> float:
    return FRAMES_DROPPED.labels(camera, "queue")._value.get()


@pytest.mark.parametrize("bounds", [{"capacity_records": 3}, {"capacity_bytes": 700}], ids=["records", "bytes"])
def test_a_full_topic_refuses_after_a_second_without_readers_progress(bounds):
    full = topic(**bounds)
    full.source("g")
    started = time.monotonic()
    with pytest.raises(
        DeliveryFailed, match=r"partition 0 is full with [23] records and nobody has read of it for 1 s"
    ):
        full.sink(lambda _: 0).send(frame(n) for n in range(10))
    assert 1 <= time.monotonic() - started < 5


def test_a_writer_goes_on_as_soon_as_its_records_are_committed():
    full = topic(capacity_records=2)
    source = full.source("g")
    writer = threading.Thread(target=lambda: full.sink(lambda _: 0).send(frame(n) for n in range(20)))
    writer.start()
    found: list[int] = []
    for batch in source.batches():
        found += [record.message.sequence for record in batch]
        source.commit(batch)
        if len(found) == 20:
            break
    writer.join(5)
    assert found == list(range(20))


def test_a_live_camera_loses_its_oldest_unread_frames_and_they_are_counted():
    full = topic(capacity_records=4)
    source = full.source("g")
    sink = full.sink(lambda _: 0, "shed")
    before = dropped("oldest")
    sink.send(frame(n, camera="oldest") for n in range(10))
    assert dropped("oldest") - before == 6
    assert sequences(source) == [6, 7, 8, 9]


def test_what_is_being_read_is_not_taken_away():
    full = topic(capacity_records=2)
    source = full.source("g")
    sink = full.sink(lambda _: 0, "shed")
    sink.send([frame(0, camera="busy"), frame(1, camera="busy")])
    batch = next(source.batches())
    before = dropped("busy")
    sink.send([frame(2, camera="busy")])
    assert dropped("busy") - before == 1, "the new one is the one to lose"
    assert FRAMES_SENT.labels("busy")._value.get() == 2
    assert [record.offset for record in batch] == [0, 1]
    source.commit(batch)
    sink.send([frame(3, camera="busy")])
    assert sequences(source) == [3]


def test_files_and_camera_states_are_never_shed():
    full = topic(capacity_records=2)
    source = full.source("g")
    sink = full.sink(lambda _: 0, "shed")
    with pytest.raises(DeliveryFailed):
        sink.send([idle(1), frame(0, clock="file"), frame(1, clock="file")])
    assert sequences(source) == [0]


def test_without_a_reader_the_oldest_are_forgotten():
    full = topic(capacity_records=3)
    full.sink(lambda _: 0).send(frame(n) for n in range(10))
    assert sequences(full.source("g")) == [7, 8, 9]


def test_a_slow_group_holds_the_records_of_a_fast_one():
    full = topic(capacity_records=3)
    fast, slow = full.source("fast"), full.source("slow")
    full.sink(lambda _: 0).send(frame(n) for n in range(3))
    assert sequences(fast) == [0, 1, 2]
    with pytest.raises(DeliveryFailed):
        full.sink(lambda _: 0).send([frame(3)])
    assert sequences(slow) == [0, 1, 2]
    full.sink(lambda _: 0).send([frame(3)])
    assert sequences(fast) == sequences(slow) == [3]


def test_what_every_group_has_committed_is_gone():
    kept = topic()
    source = kept.source("g")
    kept.sink(lambda _: 0).send(frame(n) for n in range(3))
    assert sequences(source) == [0, 1, 2]
    with pytest.raises(OffsetGone, match="partition 0 holds offsets 3 to 3, 2 was to be read next"):
        source.seek({0: 2})


def test_a_message_larger_than_its_topic_carries_is_refused():
    with pytest.raises(MessageTooLarge, match="at most 16,777,216"):
        topic().sink(lambda _: 0).send([frame(0, size=17 << 20)])


def test_readers_end_after_the_input_was_closed_and_read():
    ended = topic()
    source = ended.source("g")
    ended.sink(lambda _: 0).send([frame(0), frame(1)])
    ended.close_input()
    assert [len(batch) for batch in source.batches()] == [2]


def test_a_paused_reader_does_not_end():
    ended = topic()
    source = ended.source("g")
    ended.sink(lambda _: 0).send([frame(0)])
    ended.close_input()
    source.pause([0])
    batches = source.batches()
    assert [len(next(batches)) for _ in range(3)] == [0, 0, 0]
    source.resume([0])
    assert [len(batch) for batch in batches] == [1]


def test_every_topic_has_an_identity_of_its_own():
    assert topic().source("g").topic_id() != topic().source("g").topic_id()


def test_bytes_are_kept_as_they_would_travel():
    kept = topic()
    kept.put(0, encode(frame(5)))
    assert sequences(kept.source("g")) == [5]
