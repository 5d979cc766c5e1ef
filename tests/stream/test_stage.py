"""The one loop: order, commit after flush, stopping, errors, waiting for a broker."""

import threading
from collections.abc import Iterable, Sequence

import pytest

from stream.codec import FRAMES
from stream.errors import CameraUnreachable, DeliveryFailed
from stream.memory import MemoryTopic
from stream.messages import Frame
from stream.stage import Chain, Pass, as_messages, as_records, run
from stream.transport import Record


def frame(sequence: int, camera: str = "gate") -> Frame:
    return Frame(
        site="yard", camera=camera, stream=0, sequence=sequence, captured_at=sequence * 10**9, ingested_at=0, clock="file",
        width=4, height=4, image=b"picture",
    )  # fmt: skip


def topic(count: int = 0, **bounds: int) -> MemoryTopic:
    made = MemoryTopic("yard.frames", FRAMES, 1, **bounds)
    made.sink(lambda _: 0).send(frame(n) for n in range(count))
    return made


class Journal:
    """Writes down what a run does, in order: a sink, and the ear of a source."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def send(self, messages: Iterable[Frame]) -> None:
        self.lines += [f"send {message.sequence}" for message in messages]

    def flush(self) -> None:
        self.lines.append("flush")

    def close(self) -> None:
        self.lines.append("close")


class Overheard:
    """A source whose commits are written down."""

    def __init__(self, source, journal: Journal) -> None:
        self._source, self._journal = source, journal

    def __getattr__(self, name):
        return getattr(self._source, name)

    def commit(self, batch) -> None:
        self._journal.lines += [f"commit {record.message.sequence}" for record in batch]
        self._source.commit(batch)


def test_a_batch_is_committed_only_after_its_output_is_flushed():
    frames, journal = topic(3), Journal()
    frames.close_input()
    run(Overheard(frames.source("g", max_records=2), journal), Pass(), journal, prepare=as_messages, name="t")
    assert journal.lines == [
        "send 0",
        "send 1",
        "flush",
        "commit 0",
        "commit 1",
        "send 2",
        "flush",
        "commit 2",
        "flush",
    ]


def test_a_run_that_fails_to_flush_commits_nothing():
    class Broken(Journal):
        def flush(self) -> None:
            raise CameraUnreachable("gone")

    frames, journal = topic(2), Broken()
    with pytest.raises(CameraUnreachable):
        run(Overheard(frames.source("g"), journal), Pass(), journal, prepare=as_messages, name="t")
    assert not [line for line in journal.lines if line.startswith("commit")]
    assert frames.lag("g") == {0: 2}


def test_what_a_stage_still_owes_comes_at_the_end_of_the_input():
    class Last(Pass):
        def finish(self):
            return [frame(99)]

    frames, journal = topic(1), Journal()
    frames.close_input()
    run(frames.source("g"), Chain(Last(), Pass()), journal, prepare=as_messages, name="t")
    assert journal.lines == ["send 0", "flush", "send 99", "flush"]


def test_what_the_first_of_two_stages_owes_goes_through_the_second_before_what_that_one_owes():
    class Last(Pass):
        def finish(self):
            return [frame(98)]

    class Next(Pass):
        def process(self, batch):
            return [frame(message.sequence + 1) for message in batch]

        def finish(self):
            return [frame(7)]

    frames, journal = topic(1), Journal()
    frames.close_input()
    run(frames.source("g"), Chain(Last(), Next()), journal, prepare=as_messages, name="t")
    assert journal.lines == ["send 1", "flush", "send 99", "send 7", "flush"]


def test_a_stopped_run_owes_nothing_more():
    stop = threading.Event()

    class Stopper(Pass):
        def process(self, batch):
            stop.set()
            return batch

        def finish(self):
            raise AssertionError("the input has not ended")

    frames, journal = topic(1), Journal()
    run(frames.source("g"), Stopper(), journal, prepare=as_messages, name="t", stop=stop)
    assert journal.lines == ["send 0", "flush"]


def test_silence_keeps_a_stage_alive():
    stop, calls = threading.Event(), []

    class Waiting(Pass):
        def process(self, batch: Sequence[Frame]):
            calls.append(len(batch))
            if len(calls) == 3:
                stop.set()
            return batch

    run(topic().source("g"), Waiting(), Journal(), prepare=as_messages, name="t", stop=stop)
    assert calls == [0, 0, 0]


@pytest.mark.parametrize("part", ["source", "prepare", "stage", "finish", "sink"])
def test_an_error_of_any_part_ends_the_run(part):
    def fail(*_: object):
        raise ZeroDivisionError(part)

    frames, journal, stage = topic(2), Journal(), Pass()
    frames.close_input()
    source = frames.source("g")
    if part == "source":
        source.batches = fail
    elif part == "stage":
        stage.process = fail
    elif part == "finish":
        stage.finish = fail
    elif part == "sink":
        journal.send = fail
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError, match=part):
        run(source, stage, journal, prepare=fail if part == "prepare" else as_messages, name="t")
    assert threading.active_count() == before, "the fetching thread has ended"


@pytest.mark.parametrize("part", ["send", "flush"])
def test_a_run_waits_for_a_sink_that_cannot_deliver_and_loses_nothing(part):
    class Away(Journal):
        failures = 3

        def fail(self, now: str) -> None:
            if self.failures and now == part:
                self.failures -= 1
                raise DeliveryFailed("the broker is away")

        def send(self, messages: Iterable[Frame]) -> None:
            self.fail("send")
            super().send(messages)

        def flush(self) -> None:
            self.fail("flush")
            super().flush()

    frames, journal = topic(2), Away()
    frames.close_input()
    run(Overheard(frames.source("g"), journal), Pass(), journal, prepare=as_messages, name="t")
    assert [line for line in journal.lines if line.startswith("send")] == ["send 0", "send 1"]
    assert frames.lag("g") == {0: 0}


def test_a_run_that_waits_for_a_sink_can_be_stopped_and_commits_nothing():
    stop = threading.Event()

    class Away(Journal):
        def flush(self) -> None:
            stop.set()
            raise DeliveryFailed("the broker is away")

    frames, journal = topic(2), Away()
    run(Overheard(frames.source("g"), journal), Pass(), journal, prepare=as_messages, name="t", stop=stop)
    assert frames.lag("g") == {0: 2}


def test_no_more_is_fetched_than_one_batch_ahead_and_one_on_its_way():
    asked, went_on = [], threading.Event()

    class Endless:
        def batches(self):
            for number in range(100):
                asked.append(number)
                if number == 3:
                    went_on.set()
                yield [Record(frame(number), 0, number)]

        def commit(self, batch) -> None:
            pass

    class Slow(Pass):
        def process(self, batch):
            if batch[0].sequence == 0:
                assert not went_on.wait(0.3), "the first is not done, one waits, one is on its way"
            return batch

    run(Endless(), Slow(), Journal(), prepare=as_messages, name="t")
    assert asked == list(range(100))


def test_a_full_topic_holds_its_writer_back_until_it_is_read():
    frames, slow = topic(40), topic(capacity_records=2)
    frames.close_input()
    done: list[int] = []

    class Slow(Journal):
        def send(self, messages: Iterable[Frame]) -> None:
            done.extend(message.sequence for message in messages)

    reader = threading.Thread(
        target=run, args=(slow.source("g"), Pass(), Slow()), kwargs={"prepare": as_messages, "name": "r"}
    )
    reader.start()
    run(frames.source("g"), Pass(), slow.sink(lambda _: 0), prepare=as_messages, name="w")
    slow.close_input()
    reader.join(20)
    assert done == list(range(40))


def test_records_say_where_they_lie():
    class Places(Journal):
        def send(self, messages) -> None:
            self.lines += [f"{record.partition}:{record.offset}" for record in messages]

    frames, journal = topic(2), Places()
    frames.close_input()
    run(frames.source("g"), Pass(), journal, prepare=as_records, name="t")
    assert [line for line in journal.lines if line != "flush"] == ["0:0", "0:1"]
