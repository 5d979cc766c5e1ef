"""Small worlds whose figures can be worked out by hand."""

import msgspec
import numpy as np
import pytest

from deploy.score import Linking, TrueBoxes, latency_ms, score
from stream.messages import Embeddings, MatchEvent, Person

SECOND = 1_000_000_000


def _box(lane: int) -> tuple[float, float, float, float]:
    return (100.0 * lane, 0.0, 100.0 * lane + 40, 80.0)


def _frame(camera: str, second: float, people: dict[str, int], true: dict[int, int], visible: float = 1.0):
    """`people`: tracklet -> lane, `true`: person -> lane."""
    record = Embeddings(
        site="s",
        camera=camera,
        stream=0,
        sequence=int(second * 5),
        captured_at=int(second * SECOND),
        ingested_at=0,
        clock="file",
        width=640,
        height=360,
        status="ok",
        model="m",
        people=tuple(Person(xyxy=_box(lane), score=0.9, tracklet=t, quality=1.0) for t, lane in people.items()),
    )
    boxes = TrueBoxes(
        np.array(list(true), np.int64),
        np.array([_box(lane) for lane in true.values()], np.float32).reshape(-1, 4),
        np.full(len(true), visible, np.float32),
    )
    return record, boxes


def _walk(camera: str, start: float, tracklets: dict[str, int], true: dict[int, int], frames: int = 10):
    return [_frame(camera, start + i / 5, tracklets, true) for i in range(frames)]


def test_a_perfect_linker_scores_one_everywhere():
    frames = _walk("a", 0, {"a/0/0/1": 0}, {7: 0}) + _walk("b", 5, {"b/0/0/1": 1}, {7: 1})
    result = score(frames, Linking({"a/0/0/1": "x", "b/0/0/1": "x"}, [("b/0/0/1", "a/0/0/1")]))
    assert (result.link_precision, result.link_recall, result.idf1, result.mota) == (1, 1, 1, 1)
    assert (result.people_true, result.identities, result.transitions, result.links) == (1, 1, 1, 1)


def test_calling_a_returning_person_new_costs_recall_and_half_of_idf1():
    frames = _walk("a", 0, {"a/0/0/1": 0}, {7: 0}) + _walk("b", 5, {"b/0/0/1": 1}, {7: 1})
    result = score(frames, Linking({"a/0/0/1": "x", "b/0/0/1": "y"}, []))
    assert result.link_precision is None
    assert result.link_recall == 0
    assert result.idf1 == pytest.approx(0.5)  # 10 of 20 boxes under the better one of the two names


def test_two_people_linked_crosswise_are_two_wrong_links():
    frames = _walk("a", 0, {"a/0/0/1": 0, "a/0/0/2": 2}, {1: 0, 2: 2})
    frames += _walk("b", 5, {"b/0/0/1": 0, "b/0/0/2": 2}, {1: 0, 2: 2})
    identities = {"a/0/0/1": "x", "a/0/0/2": "y", "b/0/0/1": "y", "b/0/0/2": "x"}
    result = score(frames, Linking(identities, [("b/0/0/1", "a/0/0/2"), ("b/0/0/2", "a/0/0/1")]))
    assert result.link_precision == 0
    assert result.link_recall == 0
    assert result.idf1 == pytest.approx(0.5)


def test_a_broken_track_that_is_linked_again_counts_as_one_person():
    frames = _walk("a", 0, {"a/0/0/1": 0}, {7: 0}) + _walk("a", 2, {"a/0/0/2": 0}, {7: 0})
    result = score(frames, Linking({"a/0/0/1": "x", "a/0/0/2": "x"}, [("a/0/0/2", "a/0/0/1")]))
    assert (result.link_precision, result.idf1) == (1, 1)
    assert result.transitions == 0
    assert result.link_recall is None


def test_missed_people_and_ghosts_show_in_mota_and_detection_figures():
    frames = _walk("a", 0, {"a/0/0/1": 0, "a/0/0/9": 4}, {7: 0, 8: 2})
    result = score(frames, Linking({"a/0/0/1": "x", "a/0/0/9": "g"}, []))
    assert result.detection_recall == pytest.approx(0.5)
    assert result.detection_precision == pytest.approx(0.5)
    assert result.mota == pytest.approx(0.0)  # 20 true boxes, 10 missed, 10 ghosts


def test_hardly_visible_people_are_neither_required_nor_punished():
    found = [_frame("a", i / 5, {"a/0/0/1": 0, "a/0/0/2": 2}, {7: 0}) for i in range(10)]
    hidden = [_frame("a", i / 5, {}, {8: 2}, visible=0.2) for i in range(10)]
    frames = []
    for (record, seen), (_, faint) in zip(found, hidden, strict=True):
        both = TrueBoxes(
            np.concatenate([seen.person, faint.person]),
            np.concatenate([seen.xyxy, faint.xyxy]),
            np.concatenate([seen.visible, faint.visible]),
        )
        frames.append((record, both))
    result = score(frames, Linking({"a/0/0/1": "x", "a/0/0/2": "y"}, []))
    assert (result.mota, result.idf1, result.people_true) == (1, 1, 1)


def test_boxes_that_never_got_an_identity_are_missed_not_wrong():
    frames = _walk("a", 0, {"a/0/0/1": 0}, {7: 0})
    result = score(frames, Linking({}, []))
    assert result.idf1 == 0
    assert result.mota == 0
    assert result.detection_recall == 1


def test_a_tracklet_that_jumps_to_another_person_belongs_to_whom_it_shows_most():
    frames = _walk("a", 0, {"a/0/0/1": 0}, {7: 0}, frames=8) + _walk("a", 1.6, {"a/0/0/1": 0}, {8: 0}, frames=2)
    frames += _walk("b", 5, {"b/0/0/1": 0}, {7: 0})
    result = score(frames, Linking({"a/0/0/1": "x", "b/0/0/1": "x"}, [("b/0/0/1", "a/0/0/1")]))
    assert result.link_precision == 1
    assert result.tracklet_purity == pytest.approx(18 / 20)


def _event(number: int, kind: str, tracklet: str, identity: str, second: float = 0) -> MatchEvent:
    return MatchEvent(
        site="s",
        number=number,
        kind=kind,
        identity=identity * 32,
        camera=tracklet.split("/")[0],
        tracklet=tracklet,
        first_seen=0,
        captured_at=int(second * SECOND),
        model="m",
    )


def test_events_become_links_to_the_identity_s_tracklet_before():
    events = [
        _event(1, "new", "a/0/0/1", "1"),
        _event(2, "new", "a/0/0/2", "2"),
        _event(3, "link", "b/0/0/1", "1"),
        _event(4, "end", "a/0/0/1", "1"),
        _event(5, "link", "c/0/0/1", "1"),
    ]
    linking = Linking.of(reversed(events))
    assert linking.links == [("b/0/0/1", "a/0/0/1"), ("c/0/0/1", "b/0/0/1")]
    assert set(linking.identities) == {"a/0/0/1", "a/0/0/2", "b/0/0/1", "c/0/0/1"}


def test_a_merge_is_a_link_of_two_identities_and_renames_one():
    events = [
        _event(1, "new", "a/0/0/1", "1"),
        _event(2, "new", "b/0/0/1", "2"),
        _event(3, "link", "b/0/0/2", "2"),
        msgspec.structs.replace(_event(4, "merge", "b/0/0/2", "1"), merged="2" * 32),
        _event(5, "link", "c/0/0/1", "1"),
    ]
    linking = Linking.of(events)
    assert linking.links == [("b/0/0/2", "b/0/0/1"), ("b/0/0/2", "a/0/0/1"), ("c/0/0/1", "a/0/0/1")]
    assert set(linking.identities.values()) == {"1" * 32}


def test_latency_leaves_end_events_out():
    delivered = [
        (_event(1, "new", "a/0/0/1", "1", 1), 1_200_000_000),
        (_event(2, "end", "a/0/0/1", "1", 1), 9 * SECOND),
    ]
    assert latency_ms(delivered) == {"p50": 200.0, "p95": 200.0, "p99": 200.0}
    assert latency_ms([]) is None
