import pytest
from prometheus_client import REGISTRY

from matcher.merge import CAPACITY, Merge, Place
from stream.messages import CameraState, Embeddings
from stream.transport import Record

CAMERAS = ["a", "b", "c"]


def frame(camera, ms, offset=None, stream=0):
    at = ms * 10**6
    message = Embeddings(
        site="s", camera=camera, stream=stream, sequence=ms, captured_at=at, ingested_at=at, clock="file",
        width=64, height=36, status="ok", model="m",
    )  # fmt: skip
    return Record(message, CAMERAS.index(camera), ms if offset is None else offset)


def state(camera, ms, kind):
    message = CameraState(site="s", camera=camera, stream=0, captured_at=ms * 10**6, ingested_at=0, state=kind)
    return Record(message, CAMERAS.index(camera), ms)


def merge(cameras="abc", live=False, **options):
    return Merge(list(cameras), live=live, lateness_s=0.3, **options)


def out(merger, now=0.0, **options):
    return [(r.message.camera, r.message.captured_at // 10**6) for r in merger.pop(now, **options)]


def test_files_come_out_in_order_of_capture_at_any_speed():
    merger = merge("ab")
    for ms in (0, 200, 400):
        merger.push(frame("a", ms), 0)
    assert out(merger, now=1e9) == []
    merger.push(frame("b", 100), 0)
    assert out(merger, now=1e9) == [("a", 0), ("b", 100)]
    merger.push(frame("b", 300), 0)
    assert out(merger, now=1e9) == [("a", 200), ("b", 300)]


def test_a_file_that_has_ended_is_not_waited_for():
    merger = merge("ab")
    merger.push(frame("a", 0), 0)
    merger.push(frame("a", 200), 0)
    merger.push(frame("b", 100), 0)
    merger.push(state("b", 100, "end"), 0)
    assert out(merger) == [("a", 0), ("b", 100), ("b", 100), ("a", 200)]


@pytest.mark.parametrize("restarted", [False, True])
def test_files_that_are_played_once_more_under_another_start_wait_for_each_other_again(restarted):
    first = merge("ab")
    for ms in (0, 100):
        for camera in "ab":
            first.push(frame(camera, ms), 0)
    for camera in "ab":
        first.push(state(camera, 100, "end"), 0)
    assert len(out(first)) == 6
    merger = merge("ab", places={camera: Place(0, 100, ended=True) for camera in "ab"}) if restarted else first
    merger.push(frame("a", 5000, stream=5000), 0)
    merger.push(frame("a", 5200, stream=5000), 0)
    assert out(merger) == []
    merger.push(frame("b", 5100, stream=5100), 0)
    assert out(merger) == [("a", 5000), ("b", 5100)]


def test_a_file_that_has_ended_stays_so_while_another_one_goes_on_under_another_start():
    merger = merge("ab")
    merger.push(frame("b", 0), 0)
    merger.push(state("b", 0, "end"), 0)
    merger.push(frame("a", 100), 0)
    merger.push(frame("a", 5000, stream=5000), 0)
    assert out(merger) == [("b", 0), ("b", 0), ("a", 100), ("a", 5000)]


def test_files_do_not_wait_for_a_camera_that_the_site_file_lacks_and_know_how_far_it_was_taken():
    merger = merge("ab", places={"c": Place(0, 100)})
    merger.push(frame("c", 100), 0)  # taken before its camera was taken out
    merger.push(frame("c", 150), 0)  # and it never said that it ended
    merger.push(frame("a", 200), 0)
    merger.push(frame("b", 300), 0)
    assert out(merger) == [("c", 150), ("a", 200)]


def test_a_file_that_begins_again_is_waited_for_again():
    merger = merge("ab")
    for record in (frame("b", 0), state("b", 0, "end"), frame("b", 100, stream=1), frame("a", 50), frame("a", 200)):
        merger.push(record, 0)
    assert out(merger) == [("b", 0), ("b", 0), ("a", 50), ("b", 100)]


def test_the_end_of_an_earlier_stream_said_again_ends_nothing():
    merger = merge("ab", places={"b": Place(7, 0)})
    merger.push(frame("a", 100), 0)
    merger.push(state("b", 0, "end"), 0)
    assert out(merger) == [("b", 0)]


def test_when_the_input_has_ended_nothing_is_waited_for():
    merger = merge("ab")
    merger.push(frame("a", 0), 0)
    assert out(merger) == []
    assert out(merger, finished=True) == [("a", 0)]


def test_records_of_one_time_come_out_in_the_order_of_the_cameras():
    merger = merge("ab")
    merger.push(frame("b", 0), 0)
    merger.push(frame("a", 0), 0)
    merger.push(frame("b", 1), 0)
    merger.push(frame("a", 1), 0)
    assert out(merger, finished=True) == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


@pytest.mark.parametrize(
    "late", [pytest.param(True, id="after the other's frame"), pytest.param(False, id="before it")]
)
def test_a_file_s_end_comes_before_another_camera_s_frame_of_its_time_whenever_it_arrives(late):
    merger, got = merge("ab"), []
    pushes = [frame("a", 0), state("a", 0, "end"), frame("b", 0)]
    for record in [pushes[0], pushes[2], pushes[1]] if late else pushes:
        merger.push(record, 0)
        got += [record.message for record in merger.pop(0)]
    assert [(message.camera, isinstance(message, CameraState)) for message in got] == [
        ("a", False),
        ("a", True),
        ("b", False),
    ]


def test_a_live_camera_is_waited_for_up_to_the_lateness_from_arrival():
    merger = merge("ab", live=True)
    merger.push(frame("a", 0), 10.0)
    assert out(merger, now=10.29) == []
    assert out(merger, now=10.31) == [("a", 0)]


def test_a_live_camera_that_never_sent_anything_blocks_nobody_beyond_the_lateness():
    merger = merge("abc", live=True)
    for n in range(50):
        merger.push(frame("a", 200 * n), 0.2 * n)
        merger.push(frame("b", 200 * n + 100), 0.2 * n + 0.1)
        waiting = out(merger, now=0.2 * n + 0.1)
        assert n < 3 or len(waiting) >= 1
    assert out(merger, now=0.2 * 49 + 0.41) != []
    assert merger.offsets() == {0: 200 * 49 + 1, 1: 200 * 49 + 101}


def test_an_idle_camera_holds_nobody_back():
    merger = merge("ab", live=True)
    merger.push(frame("a", 100), 0)
    merger.push(state("b", 500, "idle"), 0)
    assert out(merger, now=0.01) == [("a", 100)]


def test_what_comes_later_than_the_lateness_comes_out_late():
    merger = merge("ab", live=True)
    merger.push(frame("a", 1000), 0)
    assert out(merger, now=0.31) == [("a", 1000)]
    merger.push(frame("b", 500), 0.4)
    assert out(merger, now=0.4) == [("b", 500)]


def test_a_live_record_from_the_future_is_dropped_counted_and_said_once(caplog):
    def dropped():
        return REGISTRY.get_sample_value("sightline_future_records_total", {"camera": "b"}) or 0

    before, merger = dropped(), merge("ab", live=True)
    merger.push(frame("a", 1000, offset=0), 1.0)
    for ms in (86_400_000, 86_400_200):
        merger.push(frame("b", ms, offset=ms), 1.0)
    merger.push(frame("a", 1200, offset=1), 1.3)
    merger.push(frame("b", 1300, offset=86_400_201), 1.3)  # the clock was set right
    assert out(merger, now=2.0) == [("a", 1000), ("a", 1200), ("b", 1300)]
    assert dropped() == before + 2
    assert merger.offsets()[1] == 86_400_202  # what was dropped is consumed
    assert caplog.text.count("camera b: its records are dated 86399 s ahead of this machine's clock") == 1
    assert "if the ingest worker's was just set back, restart ingest" in caplog.text


def test_a_live_camera_whose_stream_began_before_the_last_one_is_said_once_with_the_remedy(caplog):
    merger = merge("ab", live=True, places={"a": Place(30 * 10**9, 99)})
    said = "camera a: its frames are dropped as seen before: their stream began 30 s before the last one that was taken"
    for ms in range(0, 60_000, 200):
        merger.push(frame("a", ms), ms / 1000)
        assert (said in caplog.text) == (ms >= 10_000)
    assert out(merger, now=60.0) == []
    assert caplog.text.count(said) == 1
    assert "restart ingest once that clock is past 1970-01-01 00:00:31 UTC" in caplog.text
    merger.push(frame("a", 60_000, stream=60 * 10**9), 60.0)  # it was restarted
    assert out(merger, now=61.0) == [("a", 60_000)]


def test_frames_of_an_earlier_stream_that_a_worker_repeats_are_no_clock_set_back(caplog):
    merger = merge("a", live=True, places={"a": Place(30 * 10**9, 99)})
    for ms in range(0, 60_000, 5000):
        merger.push(frame("a", 1), 31 + ms / 1000)
        merger.push(frame("a", 31_000 + ms, stream=30 * 10**9), 31 + ms / 1000)
    assert "set back" not in caplog.text


def test_a_backlog_that_comes_camera_after_camera_is_still_merged():
    merger = merge("ab", live=True)
    for ms in range(0, 1000, 200):
        merger.push(frame("a", ms), 100.0)
    assert out(merger, now=100.0) == []
    for ms in range(100, 1100, 200):
        merger.push(frame("b", ms), 100.05)
    merged = out(merger, now=100.05)
    assert merged == sorted(merged, key=lambda item: item[1])
    assert len(merged) == 9


def test_frames_seen_before_are_dropped_and_counted():
    before = REGISTRY.get_sample_value("sightline_repeats_total", {"camera": "a"}) or 0
    merger = merge("a", places={"a": Place(0, 400)})
    for ms in (200, 400, 600, 600):
        merger.push(frame("a", ms), 0)
    assert out(merger) == [("a", 600)]
    assert REGISTRY.get_sample_value("sightline_repeats_total", {"camera": "a"}) == before + 3
    assert merger.offsets() == {0: 601}


def test_a_camera_of_which_everything_was_seen_before_is_named():
    merger = merge("ab", places={"a": Place(5, 400), "b": Place(5, 400)})
    merger.push(frame("a", 200, stream=5), 0)
    merger.push(frame("a", 400, stream=5), 0)
    merger.push(frame("b", 400, stream=5), 0)
    merger.push(frame("b", 600, stream=5), 0)
    assert merger.repeated() == {"a": 2}


def test_a_new_start_of_the_same_file_is_no_repeat():
    merger = merge("a", places={"a": Place(5, 400)})
    merger.push(frame("a", 0, stream=6), 0)
    assert out(merger) == [("a", 0)]
    assert merger.repeated() == {}


def test_records_that_wait_are_not_consumed():
    merger = merge("ab")
    for n, ms in enumerate((0, 200, 400)):
        merger.push(frame("a", ms, offset=7 + n), 0)
    assert merger.offsets() == {0: 7}
    merger.push(frame("b", 300, offset=3), 0)
    out(merger)
    assert merger.offsets() == {0: 9, 1: 4}


def test_a_restarted_merge_knows_which_files_have_ended():
    merger = merge("ab", places={"b": Place(0, 9, ended=True)})
    merger.push(frame("a", 0), 0)
    assert out(merger) == [("a", 0)]


def test_a_partition_with_256_waiting_records_is_full_until_half_are_gone():
    merger = merge("ab")
    for n in range(CAPACITY):
        assert merger.full() == set()
        merger.push(frame("a", n), 0)
    assert CAPACITY == 256
    assert merger.full() == {0}
    assert merger.drained() == set()
    merger.push(frame("b", CAPACITY // 2 - 1), 0)
    out(merger)
    assert merger.drained() == {0, 1}


def test_the_wait_of_each_record_is_measured():
    count, total = "sightline_merge_wait_seconds_count", "sightline_merge_wait_seconds_sum"
    before = REGISTRY.get_sample_value(count), REGISTRY.get_sample_value(total)
    merger = merge("ab", live=True)
    merger.push(frame("a", 0), 5.0)
    merger.push(frame("b", 100), 5.15)
    out(merger, now=5.15)
    assert REGISTRY.get_sample_value(count) == before[0] + 1
    assert REGISTRY.get_sample_value(total) == pytest.approx(before[1] + 0.15)


def test_a_site_of_files_says_whom_it_waits_for(caplog):
    merger = merge("ab")
    merger.push(frame("a", 0), 0)
    assert out(merger, now=0) == []
    assert out(merger, now=25) == []
    assert not caplog.records
    assert out(merger, now=31) == []
    assert "waits for frames, or the end, of b" in caplog.text


def test_partitions_may_have_any_numbers():
    merger = merge("ab")
    for n, ms in enumerate((0, 200)):
        merger.push(Record(frame("a", ms).message, 7, n), 0)
    merger.push(Record(frame("b", 100).message, 3, 0), 0)
    assert out(merger) == [("a", 0), ("b", 100)]
    assert merger.offsets() == {3: 1, 7: 1}


def test_a_camera_that_was_given_another_s_partition_loses_it_nothing():
    merger = merge("ab")
    merger.push(Record(frame("a", 200).message, 0, 5), 0)
    merger.push(Record(frame("b", 100).message, 0, 6), 0)
    assert out(merger) == [("b", 100)]
    assert merger.offsets() == {0: 5}


def test_a_camera_that_was_given_another_partition_loses_nothing():
    merger = merge("ab")
    merger.push(Record(frame("a", 0).message, 0, 5), 0)
    merger.push(Record(frame("a", 200).message, 2, 0), 0)
    assert merger.offsets() == {0: 5, 2: 0}
    merger.push(frame("b", 100), 0)
    assert out(merger) == [("a", 0), ("b", 100)]
    assert merger.offsets() == {0: 6, 1: 101, 2: 0}
