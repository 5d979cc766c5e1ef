"""What must hold for any site: found by random ones."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from matcher import evidence
from matcher.entities import pack
from matcher.policy import Sighting, step
from matcher.rules import SECOND
from matcher.state import State, restore

from .sites import SIZE, Track, play, records, rules

SMALL = {"retention_ns": 40 * SECOND, "max_identities": 6, "exemplars": 3, "mean_prior": 3.0}


@st.composite
def sites(draw):
    """Sightings of a few people who come, go, return, look alike, are mixed up, and are reported late."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    people = rng.normal(size=(5, SIZE)) + 1.0 * rng.normal(size=SIZE)
    people[4] = people[3] + 0.3 * rng.normal(size=SIZE)  # twins
    tracks = []
    for n in range(draw(st.integers(5, 14))):
        start = float(rng.uniform(0, 60))
        who = int(rng.integers(5))
        vector = people[who] + rng.normal(size=SIZE) * rng.choice([0.2, 0.6])
        foot = (float(rng.uniform(0, 1)), float(rng.uniform(0, 1)))
        tracks.append(
            Track(
                f"t{n}",
                "ABC"[rng.integers(3)],
                _unit(vector),
                start,
                start + rng.uniform(0, 8),
                float(rng.uniform(0.2, 0.9)),
                foot,
            )
        )
        if rng.random() < 0.2:  # the tracker goes on with somebody else
            tracks.append(Track(f"t{n}", tracks[-1].camera, _unit(people[rng.integers(5)]), start + 9, start + 11))
    sightings = _one_per_name(records(*tracks))
    for n in range(len(sightings) - 1):
        if rng.random() < 0.05:
            sightings[n], sightings[n + 1] = sightings[n + 1], sightings[n]
    ends = [Sighting("end", camera, 0, sightings[-1].time) for camera in "ABC"]
    return sightings + ends


def _unit(vector):
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def _one_per_name(sightings):
    return [
        Sighting(s.kind, s.camera, s.stream, s.time, tuple({p.tracklet: p for p in s.people}.values()))
        for s in sightings
    ]


@settings(max_examples=20, deadline=None)
@given(sites(), st.randoms(use_true_random=False))
def test_the_order_of_people_in_a_record_changes_nothing(sightings, shuffle):
    shuffled = []
    for s in sightings:
        people = list(s.people)
        shuffle.shuffle(people)
        shuffled.append(Sighting(s.kind, s.camera, s.stream, s.time, tuple(people)))
    assert play(State(rules(3, **SMALL)), shuffled) == play(State(rules(3, **SMALL)), sightings)


@settings(max_examples=20, deadline=None)
@given(sites(), st.integers(1, 20))
def test_a_state_stored_by_its_changes_and_restored_goes_on_as_if_nothing_had_happened(sightings, every):
    steady, stored, decisions, expected = State(rules(3, **SMALL)), {}, [], []
    restored = State(rules(3, **SMALL))
    for n, sighting in enumerate(sightings):
        expected += step(steady, sighting)
        decisions += step(restored, sighting)
        for key, value in restored.changes().items():
            if value is None:
                stored.pop(key, None)
            else:
                stored[key] = value
        if n % every == 0:
            restored = restore(rules(3, **SMALL), stored)
    assert decisions == expected


@settings(max_examples=20, deadline=None)
@given(sites())
def test_what_is_stored_is_what_the_state_holds_and_nothing_more(sightings):
    state, stored = State(rules(3, **SMALL)), {}
    for sighting in sightings:
        step(state, sighting)
        for key, value in state.changes().items():
            if value is None:
                stored.pop(key, None)
            else:
                stored[key] = value
        again = restore(rules(3, **SMALL), stored)
        held = {"site"} | {f"{kind}/{name}" for kind, names in _named(state) for name in names}
        assert stored.keys() - {"arrivals"} == held
        assert again.arrivals == state.arrivals
        assert {name: pack(t) for name, t in again.open.items()} == {name: pack(t) for name, t in state.open.items()}
        for index, identity in state.identities.items():
            assert again.identities[index].met & state.identities.keys() == identity.met
            assert all(index in state.identities[other].met for other in identity.met - {index})
            assert index not in identity.met


def _named(state):
    yield "mean", state.means
    yield "camera", state.streams
    yield "ended", [f"{camera}/{name}" for camera, names in state.ended.items() for name in names]
    yield "tracklet", state.open
    yield "pool", state.pools
    yield "identity", state.identities
    yield "exemplar", [f"{index}/{name}" for index, mine in state.exemplars.items() for name in mine]


@settings(max_examples=20, deadline=None)
@given(sites(), st.sampled_from([0.01, 0.05, 0.2]))
def test_the_asked_rate_of_false_links_is_never_spent_twice(sightings, asked):
    state, doubt, links = State(rules(3, false_links=asked, **SMALL)), 0.0, 0
    for sighting in sightings:
        for decision in step(state, sighting):
            if decision.kind == "link":
                doubt, links = doubt + 1 - decision.probability, links + 1
                assert doubt <= asked * links + 1e-9
                assert decision.probability >= 0.6


@settings(max_examples=20, deadline=None)
@given(sites())
def test_every_tracklet_is_decided_at_most_once_and_ends_after_that(sightings):
    state = State(rules(3, **SMALL))
    decided, ended, founders = {}, set(), []
    for decision in play(state, sightings):
        if decision.merged is not None:
            assert founders.index(decision.founder) < founders.index(decision.merged)
            founders.remove(decision.merged)
            for tracklet in [t for t, founder in decided.items() if founder == decision.merged]:
                decided[tracklet] = decision.founder
            continue
        if decision.kind == "end":
            assert decided[decision.tracklet] == decision.founder
            ended.add(decision.tracklet)
            continue
        assert decision.tracklet not in decided
        assert decision.tracklet not in ended
        decided[decision.tracklet] = decision.founder
        if decision.kind == "new":
            assert decision.founder == decision.tracklet
            founders.append(decision.founder)
        else:
            assert decision.founder in founders
    assert set(decided) == ended
    assert not state.open


@settings(max_examples=15, deadline=None)
@given(sites())
def test_the_search_finds_whom_looking_at_everybody_finds(sightings):
    state = State(rules(3, max_candidates=3, mean_prior=3.0))
    for sighting in sightings:
        for tracklet in state.tracklets_of(sighting.camera):
            if state.pools[tracklet.name].weight == 0:
                continue
            [found] = evidence.compare(state, [tracklet], sighting.time).found
            query = evidence.centred(state, state.pools[tracklet.name].vector, tracklet.camera)
            rate = evidence.newcomers_per_s(state, sighting.time)
            [everybody] = evidence.judge(state, [tracklet], query[None], state.identities, rate)
            best = sorted((c for c in everybody if c.log_odds >= -6), key=lambda c: (-c.log_odds, c.identity))
            assert found == best[:3]
        step(state, sighting)


@settings(max_examples=15, deadline=None)
@given(sites())
def test_the_likeliest_twin_is_the_one_that_looking_at_everybody_finds(sightings):
    state = State(rules(3, false_links=1e-9, mean_prior=3.0))  # nobody is merged: twins stay to be found
    for n, sighting in enumerate(sightings):
        step(state, sighting)
        for index in [i for i, mine in state.exemplars.items() if mine] if n % 10 == 0 else []:
            everybody = [
                (evidence.same_person(state, index, other), -other)
                for other, theirs in state.exemplars.items()
                if theirs and other != index
            ]
            found = evidence.likeliest_twin(state, index)
            if found is None:
                assert max(everybody, default=(0, 0))[0] < 0.5 + 1e-4
            elif found[1] > 0.5:
                assert (found[1], -found[0]) == max(everybody)


@settings(max_examples=15, deadline=None)
@given(sites())
def test_the_mirror_holds_exactly_what_the_state_holds(sightings):
    state = State(rules(3, **SMALL))
    for n, sighting in enumerate(sightings):
        step(state, sighting)
        if n % 10 == 0:
            held = {}

            def need(row, index, last, held=held):
                held.update(zip(index.tolist(), last.tolist(), strict=True))
                return np.full(len(index), 0.1)

            query = state.centre("A") + np.ones(SIZE) / 4
            [found] = state.mirror.search(
                query[None], state.centre, state.means_version, fit=lambda _: (0.0, 1.0, 8.0), need=need, most=100
            )
            assert held == {index: state.identities[index].last for index, mine in state.exemplars.items() if mine}
            for index in held:
                rows = [exemplar.vector - state.centre(exemplar.camera) for exemplar in state.exemplars[index].values()]
                largest = max(float(row @ query / np.linalg.norm(row)) for row in rows)
                assert (index in found) == (largest >= 0.1) or abs(largest - 0.1) < 1e-4


def test_the_same_site_gives_the_same_decisions_twice():
    rng = random.Random(3)
    tracks = [
        Track(f"t{n}", "AB"[n % 2], _unit(np.array([rng.gauss(0, 1) for _ in range(SIZE)])), n, n + 3)
        for n in range(20)
    ]
    assert play(State(rules()), records(*tracks)) == play(State(rules()), records(*tracks))
