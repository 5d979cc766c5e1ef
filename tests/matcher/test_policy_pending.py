"""When a pending tracklet is judged again, and whose looks are kept when an identity has as many as it may."""

import pytest

from matcher.policy import Sighting, step
from matcher.rules import SECOND
from matcher.state import State

from .sites import A, Track, e, like, play, records, rules, said


def s(seconds: float) -> int:
    return round(seconds * SECOND)


def site(*tracks, **changes):
    state = State(rules(**changes))
    return state, play(state, records(*tracks))


# on this site such a look is sure to be A's after five seconds, and a little too doubtful after one
ALMOST = like(0.3428, 2)


@pytest.mark.parametrize(
    ("again", "expected"),
    [
        pytest.param(ALMOST, ("link", "b", 5.0), id="with another crop"),
        pytest.param(None, None, id="without one"),
    ],
)
def test_a_pending_tracklet_is_judged_again_when_there_is_more_to_see(again, expected):
    tracks = [Track("b", "B", ALMOST, 1, 1), Track("b", "B", None, 1.2, 4.8), Track("b", "B", again, 5, 5)]
    state, decisions = site(A, *tracks, wait_ns=30 * SECOND)
    assert said(decisions) == [("new", "a", 0.0), *([expected] if expected else [])]
    assert (state.open["B/0/b"].identity is None) == (expected is None)


def test_when_its_time_is_up_a_pending_tracklet_is_judged_without_another_crop():
    seen, unseen = Track("b", "B", like(0.25, 2), 20, 21), Track("b", "B", None, 21.2, 30)
    assert said(site(A, seen, unseen)[1]) == [("new", "a", 0.0), ("new", "b", 25.0)]


def test_the_looks_of_who_is_still_in_sight_are_not_traded_though_they_are_older():
    unseen = Track("a", "A", None, 4.2, 30)
    sightings = records(A, unseen, Track("b", "B", e(1), 10, 11), Track("c", "B", e(1), 20, 21))
    state = State(rules(exemplars=2))
    play(state, sorted([*sightings, Sighting("idle", "B", 0, s(14))], key=lambda sighting: sighting.time))
    assert set(state.exemplars[0]) == {"A/0/a", "B/0/c"}


def test_where_all_looks_are_of_who_is_in_sight_the_next_ones_have_to_wait():
    state, _ = site(A, Track("b", "B", e(1), 2, 4), Track("c", "C", e(1), 3, 4), exemplars=2)
    assert {tracklet.identity for tracklet in state.open.values()} == {0}
    assert set(state.exemplars[0]) == {"A/0/a", "B/0/b"}
    step(state, Sighting("idle", "A", 0, s(7)))
    play(state, records(Track("c", "C", None, 4.2, 8), Track("c", "C", e(1), 8, 8)))
    assert set(state.exemplars[0]) == {"B/0/b", "C/0/c"}


def test_of_the_looks_in_the_busiest_camera_the_oldest_are_traded():
    state, _ = site(Track("0", "A", e(1), 0, 1), *(Track(str(n), "B", e(1), 10 * n, 10 * n + 1) for n in (1, 2)))
    step(state, Sighting("idle", "B", 0, s(24)))
    state.rules = rules(exemplars=3)
    play(state, records(Track("3", "A", e(1), 30, 31)))
    assert set(state.exemplars[0]) == {"A/0/0", "B/0/2", "A/0/3"}
