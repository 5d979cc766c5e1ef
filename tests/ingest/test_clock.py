import random

import pytest

from ingest.clock import SECOND_NS, FileClock, LiveClock, Pacer, WallClock

UTC_NS = 1_790_000_000 * SECOND_NS
FRAME_NS = SECOND_NS // 25


def ms(value: float) -> int:
    return round(value * 1e6)


def test_only_jitter_is_left_of_a_camera_that_is_hours_off() -> None:
    clock, rng = LiveClock(), random.Random(1)
    captured = []
    for k in range(500):
        delay = ms(40) + ms(rng.expovariate(1 / 20))
        captured.append(clock.stamp(UTC_NS + k * FRAME_NS + delay, k * FRAME_NS).captured_ns)
    settled = [time - (UTC_NS + k * FRAME_NS) for k, time in enumerate(captured)][100:]
    assert max(settled) - min(settled) < ms(2)  # arrivals scatter by 100 ms
    assert all(ms(40) <= late < ms(42) for late in settled)


def test_no_picture_is_dated_ahead_of_its_arrival() -> None:
    clock, rng = LiveClock(clock_offset_ns=ms(500)), random.Random(2)
    for k in range(200):
        arrival = UTC_NS + k * FRAME_NS + ms(rng.uniform(0, 300))
        assert clock.stamp(arrival, k * FRAME_NS).captured_ns <= arrival


def test_a_known_delay_is_taken_off_by_clock_offset() -> None:
    clock = LiveClock(clock_offset_ns=-ms(250))
    assert clock.stamp(UTC_NS, 0).captured_ns == UTC_NS - ms(250)


@pytest.mark.parametrize(
    ("jump_s", "arrives_after_s"),
    [
        pytest.param(-30.0, 0.04, id="back"),
        pytest.param(-1.5, 0.04, id="a little back"),
        pytest.param(3600.0, 0.04, id="ahead"),
    ],
)
def test_a_jump_of_the_cameras_clock_begins_a_new_stream(jump_s: float, arrives_after_s: float) -> None:
    clock = LiveClock()
    for k in range(50):
        before = clock.stamp(UTC_NS + k * FRAME_NS, k * FRAME_NS)
        assert before.jump_s is None
    arrival = UTC_NS + 49 * FRAME_NS + round(arrives_after_s * 1e9)
    stamp = clock.stamp(arrival, 50 * FRAME_NS + round(jump_s * 1e9))
    assert stamp.jump_s == pytest.approx(jump_s, abs=0.1)
    assert before.captured_ns < stamp.captured_ns <= arrival
    after = clock.stamp(arrival + FRAME_NS, 51 * FRAME_NS + round(jump_s * 1e9))
    assert (after.captured_ns - stamp.captured_ns, after.jump_s) == (FRAME_NS, None)


def test_pictures_that_a_stalled_network_brings_late_are_no_jump() -> None:
    clock = LiveClock()
    for k in range(50):
        clock.stamp(UTC_NS + k * FRAME_NS, k * FRAME_NS)
    stalled = [clock.stamp(UTC_NS + 50 * FRAME_NS + 3 * SECOND_NS, k * FRAME_NS) for k in range(50, 120)]
    assert [stamp.captured_ns for stamp in stalled] == [UTC_NS + k * FRAME_NS for k in range(50, 120)]
    assert {stamp.jump_s for stamp in stalled} == {None}


def test_a_camera_that_stays_late_for_a_minute_has_a_new_offset() -> None:
    clock = LiveClock()
    clock.stamp(UTC_NS, 0)
    stamps = [clock.stamp(UTC_NS + k * SECOND_NS + 2 * SECOND_NS, k * SECOND_NS) for k in range(1, 70)]
    jumps = [stamp.jump_s for stamp in stamps if stamp.jump_s is not None]
    assert jumps == [-2.0]
    assert stamps[-1].captured_ns == UTC_NS + 71 * SECOND_NS


def test_a_drifting_clock_is_followed() -> None:
    clock, slow = LiveClock(), 1 - 200e-6  # 200 parts in a million behind
    for k in range(25 * 300):
        stamp = clock.stamp(UTC_NS + k * FRAME_NS, round(k * FRAME_NS * slow))
        assert stamp.jump_s is None
        assert 0 <= UTC_NS + k * FRAME_NS - stamp.captured_ns <= ms(13)  # a minute's drift


def test_nothing_moves_when_the_cameras_utc_becomes_known() -> None:
    clock, hours = LiveClock(), 7 * 3600 * SECOND_NS
    clock.stamp(UTC_NS, 0)
    clock.shift(hours)
    stamp = clock.stamp(UTC_NS + FRAME_NS, hours + FRAME_NS)
    assert (stamp.captured_ns, stamp.jump_s) == (UTC_NS + FRAME_NS, None)


def test_a_file_is_dated_by_its_start_and_its_own_time() -> None:
    clock = FileClock(UTC_NS)
    assert [clock.stamp(k * FRAME_NS).captured_ns for k in range(3)] == [UTC_NS + k * FRAME_NS for k in range(3)]


def test_a_file_whose_time_goes_back_goes_on_from_there() -> None:
    clock = FileClock(UTC_NS)
    clock.stamp(10 * SECOND_NS)
    back = clock.stamp(0)
    assert (back.captured_ns, back.jump_s) == (UTC_NS + 10 * SECOND_NS, -10.0)
    assert clock.stamp(FRAME_NS).captured_ns == UTC_NS + 10 * SECOND_NS + FRAME_NS


def test_a_file_whose_time_begins_below_zero_begins_at_its_start() -> None:
    clock = FileClock(UTC_NS)
    assert [clock.stamp(time_ns).captured_ns for time_ns in (-FRAME_NS, 0)] == [UTC_NS, UTC_NS + FRAME_NS]


def test_a_gap_in_a_file_stays_a_gap() -> None:
    clock = FileClock(UTC_NS)
    clock.stamp(0)
    stamp = clock.stamp(3600 * SECOND_NS)
    assert (stamp.captured_ns, stamp.jump_s) == (UTC_NS + 3600 * SECOND_NS, None)


def test_the_wall_clock_never_goes_back() -> None:
    wall_ns, steady_ns = [UTC_NS], [0]
    clock = WallClock(lambda: wall_ns[0], lambda: steady_ns[0])
    wall_ns[0] -= 3600 * SECOND_NS  # somebody sets the machine's clock back
    steady_ns[0] += SECOND_NS
    assert clock.now_ns() == UTC_NS + SECOND_NS
    wall_ns[0] += 7200 * SECOND_NS
    assert clock.now_ns() == UTC_NS + 3600 * SECOND_NS


def test_a_thread_that_is_held_up_while_it_reads_the_clock_does_not_push_it_ahead() -> None:
    steady_ns = [0]

    def slow_wall() -> int:
        now = UTC_NS + steady_ns[0]
        steady_ns[0] += 50_000_000  # somebody else runs for 50 ms
        return now

    clock = WallClock(slow_wall, lambda: steady_ns[0])
    for _ in range(10):
        assert clock.now_ns() <= UTC_NS + steady_ns[0]


def test_a_burst_is_handed_on_at_its_own_pace() -> None:
    pacer = Pacer()
    now = UTC_NS
    assert pacer.wait_ns(now, 0) == 0
    assert pacer.wait_ns(now, ms(40)) == ms(40)
    assert pacer.wait_ns(now + ms(30), ms(80)) == ms(50)
    assert pacer.wait_ns(now + ms(500), ms(120)) == 0  # late, but less than a second: catches up
    assert pacer.wait_ns(now + ms(500), ms(520)) == ms(20)
    assert pacer.wait_ns(now + ms(5000), ms(560)) == 0  # far too late: starts over
    assert pacer.wait_ns(now + ms(5000), ms(600)) == ms(40)
