"""Workers side by side in one process: ends, failures, stops, and files that begin at different times."""

import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from deploy.together import Group, Paced, together
from stream.codec import FRAMES
from stream.errors import BundleError, SightlineError
from stream.memory import MemorySource, MemoryTopic
from stream.messages import CameraState
from stream.stage import Pass, as_messages, run

Worker = Callable[[threading.Event], None]


def state(camera: str, number: int) -> CameraState:
    return CameraState(site="s", camera=camera, stream=0, captured_at=number, ingested_at=0, state="idle")


def until_stopped(stop: threading.Event) -> None:
    assert stop.wait(20)


def failing(_: threading.Event) -> None:
    raise BundleError("models/x: altered")


def test_each_group_ends_after_the_one_before_and_tells_its_reader() -> None:
    said: list[str] = []
    first_done, second_done = threading.Event(), threading.Event()

    def second(_: threading.Event) -> None:
        assert first_done.wait(20)
        said.append("second")

    groups = [
        Group("first", [lambda _: said.append("first")] * 3, first_done.set),
        Group("second", [second], second_done.set),
    ]
    together(groups, threading.Event())
    assert said == ["first"] * 3 + ["second"]
    assert second_done.is_set()


def test_one_failure_stops_all_and_is_the_one_that_is_raised() -> None:
    stop, told = threading.Event(), threading.Event()
    with pytest.raises(BundleError, match="models/x"):
        together([Group("waits", [until_stopped], told.set), Group("fails", [failing])], stop)
    assert stop.is_set()
    assert not told.is_set()


def test_a_worker_that_goes_on_after_a_stop_is_named_and_hides_no_failure() -> None:
    free = threading.Event()

    def goes_on(_: threading.Event) -> None:
        free.wait(20)

    slow = Group("slow", [goes_on])
    stop = threading.Event()
    stop.set()
    with pytest.raises(SightlineError, match=r"^slow did not stop within 0.1 s"):
        together([slow], stop, grace_s=0.1)
    with pytest.raises(BundleError, match="models/x"):
        together([slow, Group("fails", [failing])], threading.Event(), grace_s=0.1)
    free.set()


def test_a_stop_ends_all_without_calling_it_an_end() -> None:
    stop, told = threading.Event(), threading.Event()
    threading.Timer(0.1, stop.set).start()
    together([Group("a", [until_stopped, until_stopped], told.set)], stop)
    assert not told.is_set()


@pytest.mark.parametrize("workers", [1, 2])
def test_files_that_begin_years_apart_pass_through_short_queues(workers: int) -> None:
    """The reader at the end, like the matcher, takes nothing of the one before it has seen the other begin."""
    cameras, each, held = ("early", "late"), 400, 40
    partition_of: Callable[[CameraState], int] = lambda message: cameras.index(message.camera)  # noqa: E731
    first, second = (MemoryTopic(name, FRAMES, 2, capacity_records=200) for name in ("first", "second"))
    stop = threading.Event()

    def ingest(stop: threading.Event) -> None:
        sink = first.sink(partition_of)
        left = {camera: iter(range(each)) for camera in cameras}
        while left and not stop.is_set():
            lag = first.lag("pass")
            for camera in [c for c in left if lag[cameras.index(c)] <= 50]:
                number = next(left[camera], None)
                if number is None:
                    del left[camera]
                else:
                    sink.send([state(camera, number + (10**18 if camera == "late" else 0))])
            time.sleep(0)

    def hand_on(stop: threading.Event, *, reader: MemorySource[CameraState]) -> None:
        source = Paced(reader, partial(second.lag, "read"), 50)
        run(source, Pass(), second.sink(partition_of), prepare=as_messages, name="pass", stop=stop)

    # before the first record, so that each keeps its partitions
    readers = [first.source("pass") for _ in range(workers)]
    source, got = second.source("read"), dict.fromkeys(cameras, 0)

    def read(stop: threading.Event) -> None:
        buffered: dict[str, list[int]] = {camera: [] for camera in cameras}
        for batch in source.batches():
            for record in batch:
                buffered[record.message.camera].append(record.message.captured_at)
                got[record.message.camera] += 1
            source.commit(batch)
            source.pause(p for p, camera in enumerate(cameras) if got[camera] >= held and not all(got.values()))
            if all(got.values()):
                source.resume(range(2))
            if stop.is_set():
                return

    groups = [
        Group("ingest", [ingest], first.close_input),
        Group("pass", [partial(hand_on, reader=reader) for reader in readers], second.close_input),
        Group("read", [read]),
    ]
    timer = threading.Timer(30, stop.set)
    timer.start()
    together(groups, stop)
    timer.cancel()
    assert got == {"early": each, "late": each}
