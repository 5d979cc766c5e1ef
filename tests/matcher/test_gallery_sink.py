"""Where the matcher's steps go: each is stored once, told once, and the site handed on at the end."""

import pytest
from prometheus_client import REGISTRY

from matcher.gallery import MemoryGallery
from matcher.gallery_sink import GallerySink
from matcher.matcher import Step
from stream.errors import EpochLost
from stream.messages import MatchEvent


def a_step(kind: str = "new") -> Step:
    said = MatchEvent(
        site="sunk", number=0, kind=kind, identity="0" * 32, camera="c", tracklet="t", first_seen=0, captured_at=0,
        probability=1.0, model="m",
    )  # fmt: skip
    return Step(0, {}, {}, {}, (said,))


@pytest.fixture
def gallery():
    made = MemoryGallery("sunk", model="m", retention_ns=10**18)
    made.acquire()
    return made


def test_what_was_flushed_is_stored_told_and_counted_once_however_often_it_is_flushed_again(gallery):
    told: list[int] = []
    sink = GallerySink(gallery, told=lambda event: told.append(event.number))
    labels = {"site": "sunk", "kind": "link"}
    before = REGISTRY.get_sample_value("sightline_match_events_total", labels) or 0
    sink.send([a_step("link"), a_step("link")])
    assert not told, "not before it is stored"
    for _ in range(3):
        sink.flush()
    sink.send([a_step("link")])
    sink.flush()
    assert told == [1, 2, 3]
    assert [event.number for event in gallery.events(0)] == [1, 2, 3]
    assert REGISTRY.get_sample_value("sightline_match_events_total", labels) == before + 3


def test_of_what_another_matcher_did_not_let_be_stored_nothing_is_told(gallery):
    told: list[int] = []
    sink = GallerySink(gallery, told=lambda event: told.append(event.number))
    MemoryGallery("sunk", model="m", retention_ns=10**18, beside=gallery).acquire(takeover=True)
    sink.send([a_step()])
    with pytest.raises(EpochLost):
        sink.flush()
    assert not told


def test_closing_hands_the_site_to_the_next_matcher(gallery):
    sink = GallerySink(gallery)
    sink.send([a_step()])
    sink.flush()
    sink.close()
    after = MemoryGallery("sunk", model="m", retention_ns=10**18, beside=gallery)
    assert after._store.owner is None
    assert after.acquire().number == 1
