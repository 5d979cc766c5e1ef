"""What the policy remembers: who has met, what goes once nothing is left of it, and what is stored of that."""

import numpy as np
import pytest

from matcher.policy import Seen, Sighting, step
from matcher.rules import SECOND
from matcher.state import State, restore

from .sites import A, Track, e, like, play, records, rules


def s(seconds: float) -> int:
    return round(seconds * SECOND)


def site(*tracks, **changes):
    state = State(rules(**changes))
    return state, play(state, records(*tracks))


def store(stored: dict[str, bytes], state: State) -> None:
    """Apply what a step has changed, as a gallery does."""
    for key, value in state.changes().items():
        if value is None:
            stored.pop(key, None)
        else:
            stored[key] = value


def met(state: State) -> dict[str, set[str]]:
    """Founder -> founders of those it has met."""
    of = {index: identity.founder for index, identity in state.identities.items()}
    return {of[index]: {of[other] for other in identity.met} for index, identity in state.identities.items()}


def doubtful(camera: str, start: float) -> tuple[Track, Track]:
    """Founded in doubt, and sure to be the person of the first axis once all of it was seen."""
    return (
        Track("twice", camera, like(0.2, 2), start, start),
        Track("twice", camera, like(0.9, 2), start + 0.2, start + 8),
    )


def test_of_three_in_one_picture_each_has_met_the_two_others():
    state, _ = site(*(Track(name, "A", e(axis), 0, 2) for axis, name in enumerate("abc", start=1)))
    assert met(state) == {
        "A/0/a": {"A/0/b", "A/0/c"},
        "A/0/b": {"A/0/a", "A/0/c"},
        "A/0/c": {"A/0/a", "A/0/b"},
    }


def test_who_joins_two_that_have_met_is_known_to_both():
    state, _ = site(A, Track("b", "A", e(2), 0, 4), Track("c", "A", e(3), 2, 4))
    assert met(state)["A/0/c"] == {"A/0/a", "A/0/b"}
    assert met(state)["A/0/a"] == {"A/0/b", "A/0/c"}


def test_whom_either_of_two_had_met_the_merged_one_has_met():
    beside = Track("beside", "B", e(4), 20, 24)
    state, decisions = site(A, *doubtful("B", 20), beside, Track("x", "B", e(5), 31, 31), wait_ns=0)
    assert [d.kind for d in decisions].count("merge") == 1
    assert met(state) == {"A/0/a": {"B/0/beside"}, "B/0/beside": {"A/0/a"}, "B/0/x": set()}


def test_who_is_let_go_is_forgotten_by_those_it_had_met():
    together = [Track(name, "A", e(axis), 0, end) for axis, name, end in [(1, "a", 2), (2, "b", 10)]]
    state, _ = site(*together, Track("c", "B", e(3), 30, 31), max_identities=2)
    assert state.site.counters["evicted"] == 1
    assert met(state) == {"A/0/b": set(), "B/0/c": set()}


def test_an_identity_of_which_nothing_is_left_goes_with_its_last_tracklet():
    # the tracker goes on with somebody else: that teaches nothing, so its looks expire while it is still in sight
    state, _ = site(Track("a", "A", e(1), 0, 2.8), Track("a", "A", e(2), 3, 80), retention_ns=60 * SECOND)
    assert state.open["A/0/a"].frozen
    assert (set(state.identities), state.exemplars) == ({0}, {0: {}})
    state.changes()
    step(state, Sighting("idle", "A", 0, s(83)))
    assert not state.identities
    assert state.changes()["identity/0"] is None


def test_looks_whose_identity_the_server_forgot_first_are_forgotten_and_its_tracklet_is_judged_again_at_once():
    state, _ = site(A)
    stored = {key: value for key, value in state.changes().items() if value and not key.startswith("identity/")}
    restored = restore(rules(), stored)
    assert (restored.identities, restored.exemplars) == ({}, {})
    no_crop = Seen("A/0/a", (0.5, 0.5), 0.8, None)
    [decision] = step(restored, Sighting("people", "A", 0, s(4.2), (no_crop,)))
    assert (decision.kind, decision.tracklet) == ("new", "A/0/a")


def test_whose_tracklet_is_open_elsewhere_is_stored_under_the_identity_it_was_merged_with():
    longer = Track("twice", "C", like(0.9, 2), 28.2, 40)
    sightings = records(A, *doubtful("B", 20), *doubtful("C", 20), longer, Track("x", "B", e(5), 31, 31))
    state, stored = State(rules(wait_ns=0)), {}
    for sighting in sightings:
        decisions = step(state, sighting)
        store(stored, state)
        if "merge" in [d.kind for d in decisions]:
            break
    assert state.open["C/0/twice"].identity == 0
    assert restore(rules(), stored).open["C/0/twice"].identity == 0


def test_names_that_have_ended_are_forgotten_in_time_in_whatever_order_they_were_stored():
    state, _ = site(A, retention_ns=60 * SECOND)
    step(state, Sighting("idle", "A", 0, s(6)))
    play(state, records(Track("b", "A", e(2), 50, 51)))
    step(state, Sighting("idle", "A", 0, s(53)))
    stored = {key: value for key, value in state.changes().items() if value}
    ended = sorted((key for key in stored if key.startswith("ended/")), reverse=True)
    restored = restore(rules(retention_ns=60 * SECOND), {key: stored[key] for key in [*ended, *stored]})
    step(restored, Sighting("idle", "A", 0, s(70)))
    assert set(restored.ended["A"]) == {"A/0/b"}


def test_newcomers_that_count_no_more_are_forgotten_where_they_are_stored_too():
    state, _ = site(A)
    stored: dict[str, bytes] = {}
    store(stored, state)
    assert len(restore(rules(), stored).arrivals) == 1
    step(state, Sighting("people", "A", 0, s(601)))
    store(stored, state)
    assert restore(rules(), stored).arrivals == state.arrivals == []


def test_whom_a_camera_saw_six_seconds_before_is_looked_at_whatever_the_search_finds():
    state, _ = site(A, Track("b", "A", e(2), 2, 6))
    assert state.seen_since("A", s(4)) == [0, 1]
    assert state.seen_since("A", s(4) + 1) == [1]
    assert state.seen_since("B", 0) == []


@pytest.mark.parametrize("behind_s", [0, 1.2])
def test_a_crop_that_comes_late_does_not_shorten_the_life_of_its_looks(behind_s):
    state, _ = site(A)
    last = state.exemplars[0]["A/0/a"].time
    step(state, Sighting("people", "B", 0, s(4)))
    late = Seen("A/0/a", (0.5, 0.5), 0.8, e(1))
    step(state, Sighting("people", "A", 0, s(4 - behind_s), (late,)))
    exemplar = state.exemplars[0]["A/0/a"]
    assert exemplar.time == last
    assert np.allclose(exemplar.vector, e(1), atol=1e-6)
