import random

from ingest.patience import Backoff, Patience, Watchdog

P = Patience()


def test_waits_double_up_to_a_bound_and_are_never_alike() -> None:
    one, other = (Backoff(P, random.Random(seed)) for seed in (1, 2))
    waits = [one.wait_s() for _ in range(12)]
    steps = [0.5, 1, 2, 4, 8, 15, 15, 15, 15, 15, 15, 15]
    assert all(step / 2 <= wait <= step for wait, step in zip(waits, steps, strict=True))
    assert waits != [other.wait_s() for _ in range(12)]


def test_a_good_connection_makes_the_next_retry_quick() -> None:
    backoff = Backoff(P, random.Random(1))
    for _ in range(10):
        backoff.wait_s()
    backoff.reset()
    assert backoff.wait_s() <= P.first_retry_s


def test_a_camera_that_refuses_the_password_is_asked_seldom() -> None:
    backoff = Backoff(P, random.Random(1))
    assert all(backoff.longest_s() >= P.last_retry_s for _ in range(5))


def test_a_camera_that_sends_25_pictures_a_second_is_missed_soon() -> None:
    watchdog = Watchdog(P)
    assert watchdog.silence_s == P.silence_s
    for _ in range(25 * 20):
        watchdog.saw_gap(0.04)
    assert watchdog.silence_s == P.least_silence_s


def test_a_camera_that_sends_a_picture_every_20_s_is_not_dead() -> None:
    watchdog, killed = Watchdog(P), 0
    for _ in range(30):
        if watchdog.silence_s < 20:
            killed += 1
            watchdog.gave_up()
        else:
            watchdog.saw_gap(20.0)
    assert killed == 1
    assert 60 <= watchdog.silence_s <= P.most_s


def test_what_comes_a_segment_at_a_time_is_given_time_for_the_next_one() -> None:
    watchdog = Watchdog(P)
    for _ in range(10):
        for _ in range(150):
            watchdog.saw_gap(0.001)
        watchdog.saw_gap(6.0)
    assert watchdog.silence_s >= 20


def test_no_time_out_grows_without_bound() -> None:
    watchdog = Watchdog(P)
    for _ in range(20):
        watchdog.gave_up()
    assert (watchdog.silence_s, watchdog.open_s) == (P.most_s, P.most_open_s)
