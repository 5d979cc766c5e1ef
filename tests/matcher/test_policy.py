"""Each check of the linking policy's sheet, by hand-made sites."""

import math

import numpy as np
import pytest

from matcher import evidence
from matcher.entities import Exemplar, Identity
from matcher.policy import Seen, Sighting, step
from matcher.rules import SECOND
from matcher.state import State, restore

from .sites import A, Track, e, like, play, records, rules, said


def site(*tracks, **changes):
    state = State(rules(**changes))
    return state, play(state, records(*tracks))


def s(seconds):
    return round(seconds * SECOND)


def test_the_first_person_of_an_empty_gallery_is_new_at_once():
    assert said(site(A)[1]) == [("new", "a", 0.0)]


def test_a_weak_first_crop_waits_for_a_second():
    assert said(site(Track("a", "A", e(1), 0, 4, quality=0.5))[1]) == [("new", "a", 0.2)]


def test_who_returns_is_linked():
    _, decisions = site(A, Track("b", "A", like(0.6, 2), 60, 61))
    assert said(decisions) == [("new", "a", 0.0), ("link", "b", 60.0)]
    link = decisions[-1]
    assert link.founder == "A/0/a"
    assert link.previous_camera == "A"
    assert link.evidence.reason == "sure"
    assert link.evidence.similarity == pytest.approx(0.6, abs=1e-6)
    assert link.evidence.row == "same/bundle"
    assert link.evidence.appearance_log_odds == pytest.approx(-6.28 + 25.96 * 0.6, abs=1e-4)
    assert link.evidence.gap_s == 56.0
    assert link.evidence.exemplars == ("A/0/a",)


def test_two_cameras_that_overlap_share_a_person():
    _, decisions = site(A, Track("b", "B", like(0.5, 2), 1, 4))
    assert said(decisions) == [("new", "a", 0.0), ("link", "b", 1.0)]
    assert decisions[-1].previous_camera == "A"


def test_whom_another_camera_still_sees_has_not_been_away():
    _, decisions = site(A, Track("b", "B", like(0.5, 2), 1, 4), sure_crops=4)
    link = decisions[-1]
    assert (link.kind, link.time, link.evidence.gap_s) == ("link", s(1.6), pytest.approx(-0.6))
    assert link.evidence.time_log_odds == pytest.approx(math.log(1 / 30 / (7 / 61.6)))


def test_the_camera_before_is_the_one_that_saw_the_identity_last():
    _, decisions = site(A, Track("b", "B", e(1), 20, 21), Track("c", "A", e(1), 40, 41))
    assert [d.previous_camera for d in decisions if d.kind == "link"] == ["A", "B"]


def test_newcomers_are_counted_by_how_probable_they_are():
    state, decisions = site(A, Track("b", "B", like(0.25, 2), 20, 30))
    assert [d.probability for d in decisions] == [1.0, pytest.approx(0.3868, abs=5e-5)]
    assert evidence.newcomers_per_s(state, s(30)) == pytest.approx(7.3868 / 90, abs=1e-6)


def test_a_link_waits_for_as_many_crops_as_it_is_told():
    _, decisions = site(A, Track("r", "A", like(0.6, 2), 60, 64), sure_crops=4)
    assert said(decisions) == [("new", "a", 0.0), ("link", "r", 60.6)]


def test_a_stranger_waits_for_as_many_crops_as_it_is_told():
    _, decisions = site(A, Track("o", "B", e(2), 20, 24), stranger_crops=4)
    assert said(decisions) == [("new", "a", 0.0), ("new", "o", 20.6)]


def test_a_look_alike_is_new_after_the_wait():
    _, decisions = site(A, Track("b", "B", like(0.25, 2), 20, 30))
    assert said(decisions) == [("new", "a", 0.0), ("new", "b", 25.0)]
    assert decisions[-1].probability == pytest.approx(0.3868, abs=5e-5)
    assert decisions[-1].evidence.reason == "unsure"
    assert decisions[-1].evidence.runner_up.identity == "A/0/a"
    assert decisions[-1].evidence.runner_up.same_person == pytest.approx(1 - 0.3868, abs=5e-5)


def test_between_two_people_nobody_is_linked():
    both = np.asarray((e(1) + e(2)) / np.sqrt(2), np.float32)
    _, decisions = site(A, Track("b", "A", e(2), 0, 4, foot=(0.9, 0.9)), Track("c", "B", both, 20, 30))
    assert said(decisions)[2:] == [("new", "c", 25.0)]
    assert decisions[-1].probability == pytest.approx(0.0007, abs=5e-5)
    assert decisions[-1].evidence.reason == "ambiguous"


def test_twins_that_come_together_are_both_new():
    _, decisions = site(A, Track("b", "B", like(0.6, 2), 20, 30), Track("c", "B", like(0.6, 3), 20, 30))
    assert said(decisions) == [("new", "a", 0.0), ("new", "b", 25.0), ("new", "c", 25.0)]


def test_of_two_that_come_together_the_one_who_looks_like_it_is_linked():
    _, decisions = site(A, Track("b", "B", like(0.6, 2), 20, 30), Track("c", "B", like(0.2, 3), 20, 30))
    assert said(decisions) == [("new", "a", 0.0), ("link", "b", 20.0), ("new", "c", 20.2)]


@pytest.mark.parametrize(
    ("foot", "expected"),
    [
        pytest.param((0.5, 0.5), ("link", "b", 11.0), id="where it stopped"),
        pytest.param((0.9, 0.9), ("new", "b", 16.0), id="elsewhere in the picture"),
    ],
)
def test_a_cut_track_goes_on_where_it_stopped(foot, expected):
    long = Track("a", "A", e(1), 0, 10)
    assert said(site(long, Track("b", "A", like(0.35, 2), 11, 20, foot=foot))[1])[1:] == [expected]


def test_a_tracker_that_switches_people_is_frozen_and_the_true_owner_links_beside_it():
    state, decisions = site(
        Track("a", "A", e(1), 0, 2.8),
        Track("a", "A", e(2), 3, 8),
        Track("b", "A", e(1), 3.6, 8, foot=(0.4, 0.5)),
    )
    assert said(decisions) == [("new", "a", 0.0), ("link", "b", 3.6)]
    assert state.open["A/0/a"].frozen
    assert np.allclose(state.exemplars[0]["A/0/a"].vector, e(1), atol=1e-6)
    assert state.site.counters["frozen"] == 1


def test_crops_of_somebody_else_that_do_not_come_in_a_row_freeze_nobody():
    looks = [e(1), e(1), e(1), e(2), e(2), e(1), e(2), e(2), e(1)]
    state, _ = site(*(Track("a", "A", look, n / 5, n / 5) for n, look in enumerate(looks)))
    assert not state.open["A/0/a"].frozen
    assert state.pools["A/0/a"].crops == 5


def test_three_crops_of_somebody_else_begin_a_pending_tracklet_anew():
    weak = Track("a", "A", e(1), 0, 0.2, quality=0.25)
    state, decisions = site(weak, Track("a", "A", e(2), 0.4, 0.8, quality=0.26))
    assert said(decisions) == [("new", "a", 0.8)]
    assert np.allclose(state.exemplars[0]["A/0/a"].vector, e(2), atol=1e-6)


def test_poor_crops_found_nobody():
    assert said(site(Track("a", "A", e(1), 0, 10, quality=0.2))[1]) == []
    assert said(site(Track("a", "A", e(1), 0, 0, quality=0.3))[1]) == []


def test_many_poor_crops_are_as_good_as_few_good_ones():
    far = Track("a", "A", e(1), 0, 4, quality=0.3)
    assert said(site(far, min_weight=9.0, many_crops=8, stranger_crops=9)[1]) == [("new", "a", 1.4)]
    assert said(site(far, min_weight=9.0, many_crops=30)[1]) == []


def test_one_poor_crop_may_link_where_that_is_enough():
    _, decisions = site(A, Track("b", "B", e(1), 20, 20, quality=0.3))
    assert said(decisions)[1:] == [("link", "b", 20.0)]
    assert decisions[-1].probability == pytest.approx(0.9987, abs=5e-5)


@pytest.mark.parametrize(
    ("end", "linked"), [pytest.param(20.2, False, id="two crops"), pytest.param(20.4, True, id="three crops")]
)
def test_a_glimpse_is_linked_to_nobody_when_it_has_left(end, linked):
    glimpse = Track("b", "B", e(1), 20, end, quality=0.25)
    state, decisions = site(A, glimpse, Track("x", "B", e(5), 30, 30), least_crops=3)
    assert ("link", "b", 20.4) in said(decisions) if linked else "b" not in [name for _, name, _ in said(decisions)]
    assert state.site.counters.get("left_undecided", 0) == (0 if linked else 1)


def test_a_late_record_supports_an_open_tracklet_and_opens_none():
    a, x = Seen("A/0/a", (0.5, 0.5), 0.5, e(1)), Seen("A/0/x", (0.5, 0.5), 0.5, e(2))
    silent = Seen("A/0/a", (0.5, 0.5), 0.5, None)
    state = State(rules())
    decisions = play(
        state,
        [
            Sighting("people", "A", 0, s(0), (a,)),
            Sighting("people", "B", 0, s(0.4)),
            Sighting("people", "A", 0, s(0.2), (a, x)),
            Sighting("people", "A", 0, s(0.3), (silent, x)),
            Sighting("people", "A", 0, s(0.6), (silent,)),
        ],
    )
    assert said(decisions) == [("new", "a", 0.6)]
    assert set(state.open) == {"A/0/a"}
    assert state.site.counters["late"] == 2


@pytest.mark.parametrize(
    ("start", "kind"), [pytest.param(62, "new", id="after it"), pytest.param(60.8, "link", id="before it")]
)
def test_nobody_is_known_after_the_retention(start, kind):
    _, decisions = site(Track("a", "A", e(1), 0, 1), Track("b", "B", e(1), start, start + 1), retention_ns=60 * SECOND)
    assert said(decisions)[1:] == [(kind, "b", start)]


def test_a_full_gallery_lets_go_whom_it_has_not_seen_for_longest():
    tracks = [Track(str(n), "A", e(axis), 10 * n, 10 * n + 1) for n, axis in enumerate([1, 2, 3])]
    state, decisions = site(*tracks, Track("again", "A", e(1), 40, 41), max_identities=2)
    assert [kind for kind, *_ in said(decisions)] == ["new"] * 4
    assert state.site.counters["evicted"] == 2
    assert len(state.identities) == 2


def test_eviction_spares_whoever_is_in_sight():
    here, nobody_s_double = Track("a", "A", e(1), 0, 30), Track("b", "B", like(-0.5, 2), 10, 20)
    state, decisions = site(here, nobody_s_double, max_identities=1)
    assert said(decisions) == [("new", "a", 0.0)]
    assert "evicted" not in state.site.counters


def test_eviction_spares_a_candidate_of_the_same_decision():
    # both known people are candidates of the newcomer, so nobody can be let go and it stays pending
    state, decisions = site(
        Track("a", "A", e(1), 0, 1),
        Track("b", "A", e(2), 10, 11),
        Track("c", "B", np.asarray((e(1) + e(2)) / np.sqrt(2), np.float32), 20, 30),
        max_identities=2,
    )
    assert [name for _, name, _ in said(decisions)] == ["a", "b"]
    assert "evicted" not in state.site.counters
    assert state.open["B/0/c"].identity is None


def test_a_camera_opens_no_more_tracklets_than_it_may():
    state, decisions = site(A, Track("b", "A", e(2), 0, 4), Track("c", "A", e(3), 1, 9), max_open=2)
    assert said(decisions)[2:] == [("new", "c", 6.2)]
    assert state.site.counters["too_many_open"] == 26


def test_who_stands_beside_a_known_person_is_not_that_person():
    assert said(site(A, Track("b", "A", e(1), 2, 4))[1]) == [("new", "a", 0.0), ("new", "b", 2.0)]


def test_credit_from_sure_links_buys_an_unsure_one_that_leaves_no_exemplar():
    first = Track("a", "A", e(1), 0, 1)
    last = Track("z", "B", like(0.33, 2), 100, 110)
    assert said(site(first, last)[1])[1:] == [("new", "z", 105.0)]
    returns = [Track(f"r{n}", "BA"[n % 2], e(1), 10 + 10 * n, 11 + 10 * n) for n in range(6)]
    state, decisions = site(first, *returns, last)
    assert said(decisions)[-1] == ("link", "z", 105.0)
    assert decisions[-1].probability == pytest.approx(0.7708, abs=5e-5)
    assert decisions[-1].evidence.reason == "credit"
    assert "B/0/z" not in state.exemplars[0]


def test_credit_is_kept_up_to_one_false_link():
    returns = [Track(f"r{n}", "BA"[n % 2], e(1), 10 + 10 * n, 11 + 10 * n) for n in range(8)]
    _, decisions = site(A, *returns, false_links=0.2)
    kept = [d.evidence.credit for d in decisions if d.kind == "link"]
    assert kept == sorted(kept)
    assert kept[-1] == 1.0


def doubtful(camera, start, axis=2):
    """Somebody whose first crops look little like the first axis, and who then turns out to look very much like it."""
    name = f"b{start}"
    return (
        Track(name, camera, like(0.2, axis), start, start),
        Track(name, camera, like(0.9, axis), start + 0.2, start + 8),
    )


def test_who_was_founded_in_doubt_is_merged_when_all_of_the_tracklet_was_seen():
    state, decisions = site(A, *doubtful("B", 20), Track("x", "B", e(5), 31, 31), wait_ns=0)
    assert said(decisions) == [("new", "a", 0.0), ("new", "b20", 20.0), ("merge", "b20", 31.0), ("new", "x", 31.0)]
    merge = next(d for d in decisions if d.kind == "merge")
    assert (merge.founder, merge.merged) == ("A/0/a", "B/0/b20")
    assert merge.probability > 0.99
    assert merge.evidence.reason == "alike"
    assert merge.evidence.exemplars == ("A/0/a", "B/0/b20")
    assert set(state.identities) == {0, 2}
    assert set(state.exemplars[0]) == {"A/0/a", "B/0/b20"}
    assert state.identities[0].seen == {"A": s(4), "B": s(28)}
    again = play(state, records(Track("again", "A", e(1), 40, 41)))
    assert [(d.kind, d.founder) for d in again] == [("end", "A/0/a"), ("link", "A/0/a")]


def test_a_tracklet_that_goes_on_under_a_merged_identity_ends_as_the_one_that_stays():
    longer = Track("b20", "C", like(0.9, 2), 28.2, 40)
    tracks = [*doubtful("B", 20), *doubtful("C", 20), longer, Track("x", "B", e(5), 31, 31)]
    state, decisions = site(A, *tracks, wait_ns=0)
    assert [(d.kind, d.tracklet, d.founder) for d in decisions if d.kind in ("link", "merge")] == [
        ("link", "C/0/b20", "B/0/b20"),
        ("merge", "B/0/b20", "A/0/a"),
    ]
    assert state.open["C/0/b20"].identity == 0
    [end] = [d for d in step(state, Sighting("end", "C", 0, s(41))) if d.kind == "end"]
    assert end.founder == "A/0/a"


def test_two_who_were_seen_together_are_never_merged():
    beside = Track("beside", "B", like(0.9, 3), 20, 28)
    state, decisions = site(A, beside, *doubtful("B", 20), Track("x", "B", e(5), 31, 31), wait_ns=0)
    assert "merge" not in [kind for kind, *_ in said(decisions)]
    assert state.identities[0].met


def test_a_merged_identity_keeps_no_more_exemplars_than_it_may():
    tracks = [Track(str(n), camera, e(1), 10 * n, 10 * n + 1) for n, camera in enumerate("ABA")]
    state, decisions = site(*tracks, *doubtful("B", 40), Track("x", "B", e(5), 51, 51), wait_ns=0, exemplars=3)
    assert [d.kind for d in decisions].count("merge") == 1
    assert len(state.exemplars[0]) == 3


@pytest.mark.parametrize(
    ("met", "expected"), [pytest.param(False, 0.9986, id="one person twice"), pytest.param(True, 0.4994, id="have met")]
)
def test_two_identities_that_may_be_one_person_do_not_compete(met, expected):
    state = State(rules())
    for index, vector in enumerate([e(1), like(0.6, 2)]):
        state.identities[index] = Identity(index, f"t{index}", 0, met={1 - index} if met else set())
        state.exemplars[index] = {}
        state.put_exemplar(index, Exemplar(f"t{index}", "A", vector, 1.0, 0))
    odds = np.exp([[6.0, 6.0]])
    assert evidence.probability(state, odds, [0, 1], 0, 0) == pytest.approx(expected, abs=5e-5)


def test_camera_means_start_from_training_and_lean_towards_their_own_people():
    state, _ = site(A, mean_prior=3.0)
    assert np.allclose(state.centre("A"), 0.4375 * e(1))
    assert np.allclose(state.centre("B"), 0.25 * e(1))


def test_looks_are_compared_without_each_camera_s_mean():
    _, decisions = site(A, Track("b", "B", like(0.6, 2), 60, 61), mean_prior=3.0)
    assert decisions[-1].kind == "link"
    # of camera B a quarter of the first axis is common to all
    assert decisions[-1].evidence.similarity == pytest.approx(0.35 / math.hypot(0.35, 0.8), abs=1e-3)


def test_an_identity_teaches_each_camera_mean_once():
    state, decisions = site(
        A, Track("b", "A", e(1), 20, 21), Track("c", "B", e(1), 40, 41), mean_prior=3.0, retention_ns=10**9 * SECOND
    )
    assert [kind for kind, *_ in said(decisions)] == ["new", "link", "link"]
    assert state.means["A"].count == 1
    assert state.means["B"].count == 1
    assert state.means[""].count == pytest.approx(2)


def test_a_link_at_the_end_of_a_tracklet_says_where_the_identity_was_seen():
    # too little for a decision while it was there; its last chance is two seconds after
    state, decisions = site(
        A,
        Track("b", "B", like(0.32, 2), 20, 21, quality=0.3, foot=(0.2, 0.9)),
        Track("r1", "A", e(1), 10, 11),
        Track("r2", "A", e(1), 14, 15),
        Track("r3", "A", e(1), 18, 19),
        Track("x", "B", e(5), 24, 24),
    )
    link = next(d for d in decisions if d.tracklet == "B/0/b")
    assert (link.kind, link.time) == ("link", s(24))
    assert state.identities[0].seen["B"] == s(21)
    assert state.identities[0].pos["B"] == (0.2, 0.9)
    assert state.identities[0].last == s(21)


def test_a_weak_link_gains_its_exemplar_with_a_later_crop():
    state, decisions = site(A, Track("b", "B", e(1), 20, 20, quality=0.3))
    assert said(decisions)[-1] == ("link", "b", 20.0)
    assert "B/0/b" not in state.exemplars[0]
    play(state, records(Track("b", "B", e(1), 20.2, 20.2, quality=0.4)))
    assert state.exemplars[0]["B/0/b"].weight == pytest.approx(0.7)


def test_the_end_of_a_file_decides_who_is_pending():
    state, decisions = site(A, Track("b", "B", like(0.25, 2), 20, 21))
    assert said(decisions) == [("new", "a", 0.0)]
    out = step(state, Sighting("end", "B", 0, s(21)))
    assert [(d.kind, d.tracklet, d.time) for d in out] == [("new", "B/0/b", s(21)), ("end", "B/0/b", s(21))]


def test_the_end_of_a_file_that_comes_late_closes_its_tracklets_too():
    state, _ = site(A, Track("b", "B", e(5), 2, 10))
    assert [d.kind for d in step(state, Sighting("end", "A", 0, s(4)))] == ["end"]
    assert not state.tracklets_of("A")


def test_a_new_stream_ends_what_the_old_one_left_open():
    state, _ = site(A)
    out = step(state, Sighting("people", "A", s(9), s(9), (Seen("A/9/a", (0.5, 0.5), 0.8, e(1)),)))
    assert [(d.kind, d.tracklet) for d in out] == [("end", "A/0/a"), ("link", "A/9/a")]
    assert out[0].time == s(4)


def test_a_new_stream_ends_what_the_old_one_left_open_though_it_was_seen_just_now():
    state, _ = site(A)
    out = step(state, Sighting("people", "A", s(4.4), s(4.4)))
    assert [(d.kind, d.tracklet, d.time) for d in out] == [("end", "A/0/a", s(4))]
    assert not state.open


def test_a_new_stream_forgets_the_names_of_the_old_one_where_they_are_stored_too():
    state, _ = site(A)
    step(state, Sighting("idle", "A", 0, s(6)))
    assert state.changes()["ended/A/A/0/a"] is not None
    step(state, Sighting("people", "A", s(9), s(9)))
    assert state.changes()["ended/A/A/0/a"] is None


def test_the_end_of_an_earlier_stream_said_again_ends_nothing():
    state, _ = site(A)
    step(state, Sighting("people", "A", s(9), s(9), (Seen("A/9/a", (0.5, 0.5), 0.8, e(1)),)))
    assert step(state, Sighting("end", "A", 0, s(10))) == []
    assert set(state.open) == {"A/9/a"}


def test_a_camera_that_is_idle_ends_who_left():
    state, _ = site(A)
    assert step(state, Sighting("idle", "A", 0, s(5.8))) == []
    assert [d.kind for d in step(state, Sighting("idle", "A", 0, s(6)))] == ["end"]


def test_a_name_that_has_ended_does_not_open_again():
    state, _ = site(A)
    step(state, Sighting("idle", "A", 0, s(6)))
    play(state, records(Track("a", "A", e(1), 10, 11)))
    assert not state.open
    assert set(state.ended["A"]) == {"A/0/a"}


def test_a_tracklet_with_nothing_to_judge_is_counted_when_it_leaves():
    state, decisions = site(Track("a", "A", None, 0, 4), Track("b", "A", e(1), 10, 10))
    assert [d.tracklet for d in decisions] == ["A/0/b"]
    assert state.site.counters["left_undecided"] == 1


def test_at_its_limit_an_identity_trades_its_oldest_exemplar_of_the_busiest_camera():
    tracks = [Track(str(n), camera, e(1), 10 * n, 10 * n + 1) for n, camera in enumerate("ABBA")]
    state, _ = site(*tracks, exemplars=3)
    assert set(state.exemplars[0]) == {"A/0/0", "B/0/2", "A/0/3"}


def test_whoever_is_in_sight_is_never_expired_by_the_server():
    state, expiry = State(rules(retention_ns=60 * SECOND)), {}
    for sighting in records(Track("a", "A", e(1), 0, 10), Track("a", "A", None, 10.2, 200)):
        step(state, sighting)
        expires = {key: state.expires(key) for key in state.dirty}
        expiry.update({key: expires[key] for key in state.changes()})
        known = [at for key, at in expiry.items() if at is not None and state.entity(key) is not None]
        assert known
        assert all(at > state.site.clock for at in known)


def test_nothing_outlives_its_retention():
    retention = 60 * SECOND
    state, _ = site(A, Track("b", "B", e(2), 0, 4), Track("c", "A", e(3), 3, 8), retention_ns=retention, mean_prior=3.0)
    assert state.open
    # neither camera ever sends again but for one that sees nobody
    out = step(state, Sighting("people", "C", 0, s(8) + retention))
    assert {(d.kind, d.tracklet) for d in out} == {("end", "A/0/c"), ("end", "B/0/b")}
    assert not state.open
    assert not state.pools
    assert not state.identities
    assert not state.exemplars
    assert not state.means
    step(state, Sighting("people", "C", 0, s(68) + retention))
    assert not any(state.ended.values())
    stored = {key for key, value in state.changes().items() if value is not None}
    assert stored <= {"site", "arrivals", "camera/A", "camera/B", "camera/C"}


def test_whose_looks_the_server_forgot_first_is_not_kept_after_a_restart():
    state, _ = site(A, Track("b", "B", e(2), 0, 4), Track("c", "A", e(3), 5, 9))
    stored = {key: value for key, value in state.changes().items() if value and not key.startswith("exemplar/")}
    restored = restore(rules(), stored)
    assert {t.name: t.identity for t in restored.open.values()} == {"A/0/c": 2, "B/0/b": 1}
    assert set(restored.identities) == {1, 2}
