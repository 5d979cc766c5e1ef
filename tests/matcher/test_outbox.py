import threading
from functools import partial

import pytest
from prometheus_client import REGISTRY
from services import RedisServer, valkey_binary, wait_for

from matcher.gallery import MemoryGallery
from matcher.matcher import Step
from matcher.outbox import Outbox, observe_latency, relay_from
from matcher.redis_gallery import RedisGallery
from stream.codec import MATCHES
from stream.errors import GalleryUnreachable, OffsetGone
from stream.memory import MemoryTopic
from stream.messages import MatchEvent
from stream.stage import Pass, as_messages, run

SECOND = 10**9


def event(captured_at=0, kind="new"):
    return MatchEvent(
        site="s", number=0, kind=kind, identity="0" * 32, camera="c", tracklet="t", first_seen=0,
        captured_at=captured_at, probability=1.0, model="m",
    )  # fmt: skip


@pytest.fixture
def gallery():
    made = MemoryGallery("s", model="m", retention_ns=60 * SECOND)
    made.acquire()
    return made


def say(gallery, count, clock=0):
    gallery.commit([Step(clock, {}, {}, {}, tuple(event() for _ in range(count)))])


def relay(gallery, topic, after, note=None):
    outbox = Outbox(gallery, after, clock=None, note=note)
    outbox.close_input()
    run(outbox, Pass(), topic.sink(lambda _: 0), prepare=as_messages, name="relay")


def everything(topic, group):
    source = topic.source(group, max_records=1000)
    return [record.message.number for batch in source.batches() for record in batch]


def test_the_relay_goes_on_behind_the_last_number_in_matches(gallery):
    topic = MemoryTopic("s.matches", MATCHES, 1, capacity_records=1000)
    say(gallery, 100)
    relay(gallery, topic, relay_from(gallery, None, "s", "t"))
    say(gallery, 50)
    relay(gallery, topic, relay_from(gallery, 100, "s", "t"))
    topic.close_input()
    assert everything(topic, "reader") == list(range(1, 151))


def test_a_new_topic_gets_all_that_is_kept(gallery):
    say(gallery, 3, clock=0)
    say(gallery, 2, clock=61 * SECOND)
    gallery.note_relayed("former", 4)
    assert relay_from(gallery, None, "s", "t") == 3


def test_a_topic_that_retention_has_emptied_gets_what_it_has_not_had(gallery):
    note = partial(gallery.note_relayed, "t")
    before, after = (MemoryTopic("s.matches", MATCHES, 1, capacity_records=2000) for _ in "ab")
    say(gallery, 1500)
    relay(gallery, before, relay_from(gallery, None, "s", "t"), note)
    say(gallery, 50)
    relay(gallery, after, relay_from(gallery, None, "s", "t"), note)
    after.close_input()
    assert everything(after, "reader") == list(range(1501, 1551))


def test_a_gallery_that_is_away_when_a_delivery_is_noted_does_not_end_the_relay(gallery):
    def away(number):
        raise GalleryUnreachable("gone")

    topic = MemoryTopic("s.matches", MATCHES, 1, capacity_records=1000)
    say(gallery, 100)
    relay(gallery, topic, 0, away)
    topic.close_input()
    assert everything(topic, "reader") == list(range(1, 101))


def test_a_gallery_that_never_said_what_matches_holds_is_refused(gallery):
    say(gallery, 3)
    with pytest.raises(OffsetGone, match=r"ends with event 9, the gallery has said only 3: .*--state"):
        relay_from(gallery, 9, "s", "t")


def test_events_that_expired_before_the_relay_came_back_are_counted(gallery, caplog):
    say(gallery, 5, clock=0)
    say(gallery, 2, clock=61 * SECOND)
    before = REGISTRY.get_sample_value("sightline_records_expired_total", {"topic": "outbox", "partition": "0"}) or 0
    outbox = Outbox(gallery, 2, clock=None)
    outbox.close_input()
    assert [[r.message.number for r in batch] for batch in outbox.batches()] == [[6, 7]]
    assert (
        REGISTRY.get_sample_value("sightline_records_expired_total", {"topic": "outbox", "partition": "0"})
        == before + 3
    )
    assert "events 3 to 5 went with their retention" in caplog.text


def test_it_waits_for_more_until_it_is_closed(gallery):
    outbox, got = Outbox(gallery, clock=None), []
    thread = threading.Thread(target=lambda: got.extend(r.message.number for b in outbox.batches() for r in b))
    thread.start()
    say(gallery, 2)
    say(gallery, 1)
    outbox.close_input()
    thread.join(10)
    assert got == [1, 2, 3]
    closed = Outbox(gallery, clock=None)
    closed.close()
    assert list(closed.batches()) == []


def test_what_is_said_while_its_end_is_asked_for_still_comes(gallery):
    class Late:
        def events(self, after, **options):
            found = gallery.events(after, **options)
            if gallery.numbers() == (1, 0):  # between this look and the next
                say(gallery, 1)
                outbox.close_input()
            return found

    outbox = Outbox(Late(), clock=None)
    assert [r.message.number for batch in outbox.batches() for r in batch] == [1]


def test_a_gallery_that_goes_away_is_waited_for_and_every_event_comes_once(tmp_path, caplog):
    server = RedisServer(valkey_binary(), tmp_path)
    server.start()
    there = RedisGallery(server.url, "s", model="m", retention_ns=60 * SECOND, live=False)
    there.acquire()
    say(there, 3)
    outbox = Outbox(there, clock=None)
    batches = outbox.batches()
    assert [record.message.number for record in next(batches)] == [1, 2, 3]
    for _ in range(2):
        server.kill()
        assert [next(batches), next(batches)] == [[], []]
        server.start()
        wait_for(lambda: not next(batches) and not outbox._away, "it answers again")
    assert caplog.text.count("waiting: no Redis answers") == 2, "each time once, not each attempt"
    say(there, 2)
    assert [record.message.number for record in next(batches)] == [4, 5]
    there.close()
    server.kill()


def test_what_is_paused_or_resumed_elsewhere_is_not_its_business(gallery):
    say(gallery, 1)
    outbox = Outbox(gallery, clock=None)
    batches = outbox.batches()
    outbox.pause([0])
    outbox.resume([1])
    assert next(batches) == []
    outbox.resume([0])
    outbox.pause([1])
    assert [record.offset for record in next(batches)] == [1]
    outbox.seek({1: 7})
    assert outbox.position() == {0: 2}


def test_a_camera_whose_clock_is_ahead_takes_nothing_off_the_time_to_delivery():
    total = REGISTRY.get_sample_value("sightline_capture_to_event_seconds_sum")
    observe_latency(event(100 * SECOND), 99.0)
    assert REGISTRY.get_sample_value("sightline_capture_to_event_seconds_sum") == total


def test_it_is_a_source_whose_offsets_are_numbers(gallery):
    say(gallery, 5)
    outbox = Outbox(gallery, clock=None)
    outbox.seek({0: 4})
    assert outbox.position() == {0: 4}
    outbox.pause([0])
    batches = outbox.batches()
    assert next(batches) == []
    outbox.resume([0])
    assert [r.offset for r in next(batches)] == [4, 5]
    assert outbox.position() == {0: 6}
    say(gallery, 1, clock=61 * SECOND)
    with pytest.raises(OffsetGone, match="event 2 is gone"):
        outbox.seek({0: 2})


def test_the_time_from_capture_to_delivery_is_measured_but_for_ends(gallery):
    name = "sightline_capture_to_event_seconds"
    count, total = (REGISTRY.get_sample_value(f"{name}_{what}") for what in ("count", "sum"))
    at = 100 * SECOND
    gallery.commit([Step(at, {}, {}, {}, (event(at), event(at, "end")))])
    outbox = Outbox(gallery, clock=lambda: 100.25)
    batch = next(outbox.batches())
    outbox.commit(batch)
    assert REGISTRY.get_sample_value(f"{name}_count") == count + 1
    assert REGISTRY.get_sample_value(f"{name}_sum") == pytest.approx(total + 0.25)
