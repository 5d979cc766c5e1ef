import hmac
import re

import msgspec
import numpy as np
import pytest
from prometheus_client import REGISTRY

from matcher.matcher import Matcher, identity_id
from matcher.merge import CAPACITY, Place
from matcher.state import State
from stream.codec import decode, encode
from stream.messages import CameraState, Embeddings, MatchEvent, Person
from stream.transport import Record

from .sites import SIZE, e, rules

SECOND = 10**9
KEY = b"site key" * 4


def matcher(cameras=("c",), live=False, **options):
    given = {"key": KEY, "model": "m", "live": live} | options
    return Matcher("shop", list(cameras), State(rules(len(cameras))), **given)


def person(name="c/0/0/0", vector=None, **changes):
    data = (e(1) if vector is None else vector).astype("<f2").tobytes()
    given = {"xyxy": (10.0, 20.0, 30.0, 90.0), "score": 0.9, "tracklet": name, "quality": 0.8, "vector": data}
    return Person(**(given | changes))


def record(n, *people, camera="c", partition=0, **changes):
    at = n * SECOND // 5
    given = {
        "site": "shop", "camera": camera, "stream": 0, "sequence": n, "captured_at": at, "ingested_at": at, "clock": "file",
        "width": 100, "height": 100, "status": "ok", "model": "m", "people": people,
    }  # fmt: skip
    return Record(Embeddings(**(given | changes)), partition, n)


def events(steps):
    return [event for step in steps for event in step.events]


def counter(name, **labels):
    return REGISTRY.get_sample_value(name, labels) or 0


def test_an_identity_is_named_by_the_site_key_and_its_founding_tracklet():
    [event] = events(matcher().process([record(0, person())]))
    assert event.identity == hmac.new(KEY, b"c/0/0/0", "sha256").hexdigest()[:32]
    assert re.fullmatch("[0-9a-f]{32}", event.identity)
    assert identity_id(b"another", "c/0/0/0") != event.identity
    assert (event.site, event.kind, event.camera, event.tracklet, event.model) == ("shop", "new", "c", "c/0/0/0", "m")
    assert (event.first_seen, event.captured_at, event.probability) == (0, 0, 1.0)
    assert counter("sightline_gallery_identities", site="shop") == 1


def test_a_runner_up_is_named_like_any_identity():
    twin = person("c/0/0/1", np.asarray(0.25 * e(1) + np.sqrt(1 - 0.25**2) * e(2)))
    records = [record(0, person()), *(record(n, twin) for n in range(100, 130))]
    new = [event for event in events(matcher().process(records)) if event.kind == "new"]
    assert new[1].evidence.runner_up.identity == new[0].identity
    assert (new[1].first_seen, new[1].captured_at) == (20 * SECOND, 25 * SECOND)


def test_a_link_names_the_camera_before():
    made = matcher("ab")
    found = events(made.process([record(0, person("a/0/0/0"), camera="a")]))
    found += events(made.process([record(50, person("b/0/0/0"), camera="b", partition=1)]))
    found += events(made.finish())
    [link] = [event for event in found if event.kind == "link"]
    assert (link.camera, link.previous_camera) == ("b", "a")


def test_a_merge_names_both_identities_as_they_were_named():
    doubtful, sure = (person("c/0/0/1", np.asarray(x * e(1) + np.sqrt(1 - x**2) * e(2))) for x in (0.2, 0.9))
    records = [record(n, person()) for n in range(20)]
    records += [record(100, doubtful), *(record(n, sure) for n in range(101, 141)), record(155)]
    made = Matcher("shop", ["c"], State(rules(1, wait_ns=0)), key=KEY, model="m", live=False)
    found = events(made.process(records))
    [first, second] = [event for event in found if event.kind == "new"]
    [merge] = [event for event in found if event.kind == "merge"]
    assert (merge.identity, merge.merged) == (first.identity, second.identity)


def test_a_foot_point_is_a_share_of_the_frame_s_sides():
    state = State(rules(1))
    made = Matcher("shop", ["c"], state, key=KEY, model="m", live=False)
    made.process([record(0, person(xyxy=(10.0, 20.0, 30.0, 90.0)), width=200, height=100)])
    assert state.open["c/0/0/0"].pos == (0.1, 0.9)


def test_an_event_is_a_valid_message_once_it_has_its_number():
    for event in events(matcher().process([record(n, person()) for n in (0, 1)] + [record(20)])):
        numbered = msgspec.structs.replace(event, number=1)
        assert decode(encode(numbered), (MatchEvent,)) == numbered


def test_skipped_and_undecodable_frames_are_taken_but_say_nothing():
    made = matcher()
    made.process([record(0, person())])
    steps = list(made.process([record(n, status=s) for n, s in ((40, "skipped"), (60, "undecodable"))]))
    assert not events(steps)  # nobody was seen to leave
    assert dict(steps[-1].offsets) == {0: 61}
    assert steps[-1].places["c"] == (0, 60, False)


@pytest.mark.parametrize(
    ("people", "model", "reason"),
    [
        pytest.param(person(), "other", "model", id="of another model"),
        pytest.param(person(vector=np.ones(SIZE - 1) / 4), "m", "size", id="too short"),
        pytest.param(person(vector=2 * e(1)), "m", "norm", id="twice as long"),
        pytest.param(person(vector=np.full(SIZE, np.nan)), "m", "norm", id="not a number"),
        pytest.param(person(vector=np.zeros(SIZE)), "m", "norm", id="zero"),
    ],
)
def test_a_vector_that_is_no_unit_vector_of_this_model_is_not_used(people, model, reason, caplog):
    before = counter("sightline_vectors_refused_total", camera="c", reason=reason)
    made = matcher()
    assert not events(made.process([record(0, people, model=model), record(1, people, model=model)]))
    assert counter("sightline_vectors_refused_total", camera="c", reason=reason) == before + 2
    assert len(caplog.records) == 1
    assert "[reid] bundle" in caplog.text


def test_a_float16_unit_vector_is_near_enough():
    vector = np.random.default_rng(0).normal(size=SIZE)
    assert events(matcher().process([record(0, person(vector=vector / np.linalg.norm(vector)))]))


def test_what_a_step_stores_is_exactly_what_changed():
    made = matcher()
    [step] = made.process([record(0, person())])
    assert set(step.changes) == {
        "site", "arrivals", "mean/", "mean/c", "camera/c", "tracklet/c/0/0/0", "pool/c/0/0/0", "identity/0",
        "exemplar/0/c/0/0/0",
    }  # fmt: skip
    [step] = made.process([record(1, msgspec.structs.replace(person(), vector=None))])
    assert set(step.changes) == {"site", "tracklet/c/0/0/0"}
    [step] = made.process([record(2)])
    assert set(step.changes) == {"site"}
    assert list(made.process([])) == []


def test_late_records_are_counted():
    before = counter("sightline_late_records_total", camera="a")
    now = [10.0]
    made = matcher("ab", live=True, clock=lambda: now[0])
    made.process([record(5, camera="b", partition=1)])
    now[0] = 10.4
    assert list(made.process([]))
    made.process([record(1, camera="a", partition=0)])
    now[0] = 10.8
    made.process([])
    assert counter("sightline_late_records_total", camera="a") == before + 1


def test_a_partition_is_paused_at_256_waiting_records_and_resumed_at_half():
    class Source:
        def __init__(self):
            self.said = []

        def pause(self, partitions):
            self.said.append(("pause", set(partitions)))

        def resume(self, partitions):
            self.said.append(("resume", set(partitions)))

    source = Source()
    made = matcher("ab", source=source)
    made.process([record(n, camera="a") for n in range(CAPACITY - 1)])
    assert source.said == []
    made.process([record(CAPACITY - 1, camera="a")])
    made.process([record(1, camera="b", partition=1)])
    assert source.said == [("pause", {0})]
    made.process([record(CAPACITY // 2 + 1, camera="b", partition=1)])
    assert source.said == [("pause", {0}), ("resume", {0})]


def test_tracklets_that_leave_without_an_identity_are_counted_once():
    before = counter("sightline_tracklets_dropped_total", reason="left_undecided")
    state = State(rules(1))
    for start in (0, 200):  # the second matcher goes on with what the first one stored
        made = Matcher("shop", ["c"], state, key=KEY, model="m", live=False)
        for n in (start, start + 100):
            made.process([record(n, person(f"c/0/0/{n}", quality=0.1)), record(n + 15)])
    assert counter("sightline_tracklets_dropped_total", reason="left_undecided") == before + 4


def test_the_end_of_the_input_waits_for_nobody():
    made = matcher("ab")
    made.process([record(0, person("a/0/0/0"), camera="a")])
    assert [event.kind for event in events(made.finish())] == ["new"]


def end_of(stream, offset=1):
    state = CameraState(site="shop", camera="c", stream=stream, state="end", captured_at=0, ingested_at=0)
    return Record(state, 0, offset)


def test_a_camera_is_still_where_the_last_matcher_left_it_when_all_it_says_is_that_it_ended():
    steps = list(matcher(places={"c": Place(5, 9)}).process([end_of(5)]))
    assert steps[-1].places["c"] == (5, 9, True)


def test_the_end_of_an_earlier_stream_said_again_does_not_end_the_file():
    steps = list(matcher().process([record(0, stream=7), end_of(0)]))
    assert steps[-1].places["c"] == (7, 0, False)


def test_a_file_that_ended_is_known_as_ended():
    steps = list(matcher().process([record(0, person()), end_of(0)]))
    assert steps[-1].places["c"] == (0, 0, True)
    assert [event.kind for event in events(steps)] == ["new", "end"]
