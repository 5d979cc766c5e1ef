import gc
import itertools
import logging
import re
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from feeds import HASTY, MjpegCamera, black_hole, frames_of, http_server, number_of, watch, watch_source
from prometheus_client import REGISTRY
from services import wait_for

from ingest.cameras import Cameras
from ingest.clock import WallClock
from ingest.patience import Patience
from ingest.queues import CameraQueue
from ingest.settings import CameraSettings
from stream.messages import CameraState, Frame

S = 1_000_000_000
NOW = 1_790_000_000 * S


def camera(url: str, name: str = "hall", **more: object) -> CameraSettings:
    return CameraSettings.model_validate({"id": name, "url": url, **more})


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"sightline_{name}", labels) or 0.0


def frame(captured_ns: int, sequence: int = 0) -> Frame:
    return Frame(
        site="site", camera="hall", stream=NOW, sequence=sequence, captured_at=captured_ns, ingested_at=captured_ns,
        clock="arrival", width=2, height=2, image=b"",
    )  # fmt: skip


def queue(**more: object) -> CameraQueue:
    changed = threading.Condition()
    changed.acquire()  # as the source does
    return CameraQueue("site", camera("rtsp://host/x", **more), changed, NOW)


class ShortCamera(MjpegCamera):
    """Hangs up after five pictures."""

    interval_s = 0.05
    pictures = 5


def test_one_dead_camera_never_slows_another_nor_does_starting_wait_for_it() -> None:
    with http_server(MjpegCamera) as address, black_hole() as nowhere:
        cameras = [camera(f"rtsp://{nowhere}/x", "dead"), camera(f"http://{address}/", "alive")]
        began = time.monotonic()
        seen = watch(cameras, lambda m: len(frames_of(m, "alive")) == 5)
        first = time.monotonic() - began
    assert first < 4
    numbers = [number_of(f) for f in frames_of(seen, "alive")]
    assert numbers[-1] - numbers[0] <= 10  # none was held up
    assert {type(m) for m in seen if m.camera == "dead"} == {CameraState}


def test_a_mistake_of_ours_in_one_camera_s_thread_is_told_and_costs_the_others_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = iter(range(3))

    def wall_ns() -> int:
        if threading.current_thread().name == "camera broken" and next(failures, None) is not None:
            raise ZeroDivisionError("nobody thought of this")
        return time.time_ns()

    before = metric("camera_reconnects_total", camera="broken", reason="unusable")
    with http_server(MjpegCamera) as address:
        cameras = [camera(f"http://{address}/", "broken"), camera(f"http://{address}/", "whole")]
        with closing(Cameras("site", cameras, patience=HASTY, wall=WallClock(wall_ns))) as source:
            watch_source(source, lambda m: bool(frames_of(m, "broken")) and bool(frames_of(m, "whole")))
    assert metric("camera_reconnects_total", camera="broken", reason="unusable") - before == 3
    told, *_ = [record for record in caplog.records if "unexpected" in record.message]
    assert f"camera broken: http://{address}/: unexpected ZeroDivisionError: nobody thought of this." in told.message
    assert told.exc_info is not None
    assert isinstance(told.exc_info[1], ZeroDivisionError)  # with its traceback


def test_a_camera_that_is_away_says_so_all_the_while_under_one_name() -> None:
    with black_hole() as nowhere:
        pass
    states = watch([camera(f"rtsp://{nowhere}/x")], lambda m: len(m) == 6)
    assert all(isinstance(m, CameraState) and m.state == "idle" for m in states)
    assert len({m.stream for m in states}) == 1
    times = [m.captured_at for m in states]
    assert times == sorted(set(times))
    assert all(m.captured_at <= m.ingested_at for m in states)
    gaps_s = [(b - a) / S for a, b in itertools.pairwise(times)]
    assert all(0.2 < gap < 1.0 for gap in gaps_s)


def test_a_camera_that_hangs_up_is_called_again_and_each_connection_is_a_stream() -> None:
    before = metric("camera_reconnects_total", camera="short", reason="unreachable")
    with http_server(ShortCamera) as address:
        seen = watch([camera(f"http://{address}/", "short")], lambda m: len({f.stream for f in frames_of(m)}) == 4)
    frames = frames_of(seen)
    assert metric("camera_reconnects_total", camera="short", reason="unreachable") - before >= 3
    assert all(f.sequence == 0 for f in frames if f.captured_at == f.stream)
    keys = [(f.stream, f.sequence) for f in frames]
    assert keys == sorted(set(keys))
    times = [m.captured_at for m in seen]
    assert times == sorted(times)


def test_a_camera_is_connected_while_it_delivers_and_no_longer() -> None:
    def connected() -> float:
        return metric("camera_connected", camera="gauge")

    with http_server(MjpegCamera) as address:
        with closing(Cameras("site", [camera(f"http://{address}/", "gauge")], patience=HASTY)) as source:
            watch_source(source, lambda m: len(frames_of(m)) >= 1)
            assert connected() == 1
        wait_for(lambda: connected() == 0, "its thread has ended")


def test_a_known_delay_is_taken_off_every_picture() -> None:
    with http_server(MjpegCamera) as address:
        seen = watch([camera(f"http://{address}/", clock_offset=-2.0)], lambda m: len(frames_of(m)) >= 3)
    assert all(f.ingested_at - f.captured_at >= 2 * S for f in frames_of(seen))


def test_a_reader_that_stalls_gets_the_newest_frames_and_the_others_are_counted() -> None:
    class Quick(MjpegCamera):
        interval_s = 0.02

    before = metric("frames_dropped_total", camera="quick", reason="queue")
    with (
        http_server(Quick) as address,
        closing(Cameras("site", [camera(f"http://{address}/", "quick", fps=50)])) as source,
    ):
        watch_source(source, lambda m: len(frames_of(m)) >= 1)
        time.sleep(1.5)
        batch = frames_of([record.message for record in next(source.batches())])
    assert len(batch) <= 8
    assert time.time() - batch[-1].captured_at / S < 1.0
    assert metric("frames_dropped_total", camera="quick", reason="queue") - before > 20


def _resident_kib() -> int:
    gc.collect()
    match = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1])


REASONS = ("unreachable", "unusable", "silent")
RESTLESS = Patience(open_s=1, silence_s=1, first_retry_s=0.0005, last_retry_s=0.001)


@pytest.mark.parametrize("dead", ["nobody there", "hangs up after five pictures", "a web page"])
def test_memory_stays_flat_against_a_camera_that_is_dead_for_good(dead: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # pytest keeps every line

    class HangsUp(MjpegCamera):
        interval_s = 0.0
        pictures = 5

    class Page(MjpegCamera):
        def do_GET(self) -> None:  # noqa: N802
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>" * 500)

    with http_server(Page if dead == "a web page" else HangsUp) as address:
        url = "rtsp://127.0.0.1:1/x" if dead == "nobody there" else f"http://{address}/"
        name = dead.replace(" ", "-")
        with closing(Cameras("site", [camera(url, name)], patience=RESTLESS)) as source:
            batches = source.batches()

            def attempts(count: int) -> int:
                deadline = time.monotonic() + 20
                while sum(metric("camera_reconnects_total", camera=name, reason=r) for r in REASONS) < count:
                    next(batches)
                    assert time.monotonic() < deadline
                return _resident_kib()

            settled = attempts(100)
            later = attempts(250)
    assert later - settled < 4096  # 150 decoders of this size would be 100 MB


def test_closing_does_not_wait_for_a_camera_that_never_answers() -> None:
    with black_hole() as nowhere:
        source = Cameras("site", [camera(f"rtsp://{nowhere}/x", "mute")], patience=HASTY)
        next(source.batches())
        began = time.monotonic()
        source.close()
        assert time.monotonic() - began < 4


# What a queue says about silence, to the nanosecond.


def test_a_connected_camera_whose_pictures_are_not_due_is_idle_up_to_its_last_picture() -> None:
    q = queue()
    q.begin(NOW)
    q.put(frame(NOW))
    q.pop(NOW)
    q.heard(NOW + 280_000_000, NOW + 290_000_000)
    assert q.idle(NOW + 200_000_000) is None  # too soon
    state = q.idle(NOW + 300_000_000)
    assert state is not None
    assert (state.stream, state.captured_at) == (NOW, NOW + 280_000_000)
    assert q.idle(NOW + 400_000_000) is None  # just said
    assert q.idle(NOW + 600_000_000) is None  # nothing new to say


def test_a_connected_camera_that_is_silent_is_idle_up_to_a_second_ago() -> None:
    q = queue()
    q.begin(NOW)
    q.heard(NOW, NOW)
    state = q.idle(NOW + 5 * S)
    assert state is not None
    assert state.captured_at == NOW + 4 * S


def test_a_lost_camera_is_idle_up_to_now_and_what_it_says_next_is_newer() -> None:
    q = queue()
    q.begin(NOW)
    q.away()
    state = q.idle(NOW + 5 * S)
    assert state is not None
    assert state.captured_at == NOW + 5 * S
    assert q.begin(NOW + 5 * S - 1000) == NOW + 5 * S + 1  # its first picture was being decoded meanwhile


def test_a_known_delay_is_taken_off_what_is_called_idle() -> None:
    state = queue(clock_offset=-2.0).idle(NOW + 5 * S)
    assert state is not None
    assert state.captured_at == NOW + 3 * S


def test_a_known_delay_is_taken_off_the_silence_of_a_connected_camera_too() -> None:
    q = queue(clock_offset=-2.0)
    q.begin(NOW - 2 * S)
    q.heard(NOW - 2 * S, NOW)
    state = q.idle(NOW + 5 * S)
    assert state is not None
    assert state.captured_at == NOW + 2 * S


def test_what_was_called_idle_is_dropped_and_counted_when_it_comes_after_all() -> None:
    q = queue()
    q.begin(NOW)
    q.heard(NOW, NOW)
    assert q.idle(NOW + 5 * S) is not None
    before = metric("frames_dropped_total", camera="hall", reason="late")
    q.put(frame(NOW + 3 * S, 1))
    q.put(frame(NOW + 4 * S, 2))
    q.put(frame(NOW + 4 * S + 1, 3))
    assert metric("frames_dropped_total", camera="hall", reason="late") - before == 2
    assert q.head_ns() == NOW + 4 * S + 1


def test_a_camera_with_something_to_send_is_not_idle() -> None:
    q = queue()
    q.begin(NOW)
    q.put(frame(NOW))
    assert q.idle(NOW + 5 * S) is None
