"""The integrators' client, over a real Kafka, a real outbox and an embedded one."""

import itertools
import secrets
import threading
import time
from datetime import UTC, datetime

import msgspec
import pytest

from matcher.events import events, last_number
from matcher.matcher import Step
from matcher.outbox import Outbox, relay_from
from matcher.redis_gallery import RedisGallery
from matcher.server import EmbeddedRedis
from stream.errors import GalleryUnreachable, OffsetGone, UsageError
from stream.kafka import KafkaSink, TopicSpec, ensure_topics
from stream.messages import MatchEvent
from stream.settings import KafkaSettings, RedisSettings
from stream.stage import Pass, as_messages, run

SECOND = 10**9
BASE = 1_900_000_000 * SECOND


def event(number, camera="c1", identity="a", kind="new"):
    return MatchEvent(
        site="s", number=number, kind=kind, identity=identity * 32, camera=camera, tracklet="t", first_seen=0,
        captured_at=BASE + number * SECOND, probability=1.0, model="m",
    )  # fmt: skip


def ten(first=1):
    return [event(n, f"c{n % 2}", "ab"[n % 2], "new" if n < 5 else "link") for n in range(first, first + 10)]


@pytest.fixture
def site():
    return f"s-{secrets.token_hex(4)}"


class Places:
    """Where a test's ten events are said: a topic or an outbox."""

    def __init__(self, where, say):
        self.where, self.say = where, say


@pytest.fixture(params=["kafka", "redis"])
def place(request, site):
    if request.param == "kafka":
        settings = KafkaSettings(bootstrap_servers=request.getfixturevalue("kafka_server"))
        spec = TopicSpec(f"sightline.{site}.matches", 1, 600)
        ensure_topics(settings, [spec])
        sink = KafkaSink(settings, spec, lambda _: 0)

        def say(messages):
            sink.send(messages)
            sink.flush()

        yield Places(settings.bootstrap_servers, say)
        sink.close()
    else:
        url = request.getfixturevalue("redis_server")
        gallery = RedisGallery(url, site, model="m", retention_ns=10**18, live=False)
        gallery.acquire()
        yield Places(
            url, lambda messages: gallery.commit([Step(messages[-1].captured_at, {}, {}, {}, tuple(messages))])
        )
        gallery.close()


def numbers(found):
    return [e.number for e in found]


def test_all_events_come_in_order_until_now(place, site):
    place.say(ten())
    assert list(events(place.where, site=site, follow=False)) == ten()


def test_only_what_is_asked_for_comes(place, site):
    place.say(ten())
    assert numbers(events(place.where, site=site, follow=False, camera="c1")) == [1, 3, 5, 7, 9]
    assert numbers(events(place.where, site=site, follow=False, identity="a" * 32)) == [2, 4, 6, 8, 10]
    assert numbers(events(place.where, site=site, follow=False, kind="link", camera="c0")) == [6, 8, 10]
    since = datetime.fromtimestamp((BASE + 8 * SECOND) / SECOND, UTC)
    assert numbers(events(place.where, site=site, follow=False, start=since)) == [8, 9, 10]


def test_who_asks_for_an_identity_hears_that_it_was_merged(place, site):
    place.say([*ten(), msgspec.structs.replace(event(11, identity="b", kind="merge"), merged="a" * 32)])
    assert numbers(events(place.where, site=site, follow=False, identity="a" * 32)) == [2, 4, 6, 8, 10, 11]


@pytest.mark.parametrize("after", [0, 4, 9, 10, 12])
def test_a_reader_goes_on_behind_the_number_it_kept(place, site, after):
    place.say(ten())
    assert numbers(events(place.where, site=site, follow=False, after=after)) == list(range(after + 1, 11))


def test_a_follower_hears_of_what_is_said_later(place, site):
    place.say(ten())
    stop, got = threading.Event(), []

    def follow():
        for found in events(place.where, site=site, start="latest", stop=stop):
            got.append(found.number)

    thread = threading.Thread(target=follow)
    thread.start()
    deadline = time.monotonic() + 20
    said = 10
    while not got and time.monotonic() < deadline:  # "latest" begins whenever it connects
        said += 1
        place.say([event(said)])
        time.sleep(0.05)
    stop.set()
    thread.join(10)
    assert got
    assert got[0] > 10


def test_nothing_was_said_yet(place, site):
    assert list(events(place.where, site=site, follow=False)) == []


def test_repeats_in_the_topic_come_once(kafka_server, site):
    settings = KafkaSettings(bootstrap_servers=kafka_server)
    spec = TopicSpec(f"sightline.{site}.matches", 1, 600)
    ensure_topics(settings, [spec])
    sink = KafkaSink(settings, spec, lambda _: 0)
    sink.send([*ten()[:6], *ten()[3:]])
    sink.close()
    assert numbers(events(settings, site=site, follow=False)) == list(range(1, 11))
    assert numbers(events(settings, site=site, follow=False, after=5)) == [6, 7, 8, 9, 10]
    assert last_number(settings, spec.name) == 10


def test_a_group_goes_on_where_it_stopped(kafka_server, site):
    settings = KafkaSettings(bootstrap_servers=kafka_server)
    spec = TopicSpec(f"sightline.{site}.matches", 1, 600)
    ensure_topics(settings, [spec])
    sink = KafkaSink(settings, spec, lambda _: 0)
    sink.send(ten())
    sink.close()
    group = f"g-{site}"
    first = events(settings, site=site, group=group)
    assert numbers(itertools.islice(first, 4)) == [1, 2, 3, 4]
    first.close()  # the fourth was never finished: it comes again
    second = events(settings, site=site, group=group)
    assert numbers(itertools.islice(second, 3)) == [4, 5, 6]
    second.close()


def test_the_last_number_is_found_behind_bytes_that_are_no_events(kafka_server, site):
    from kafka import KafkaProducer

    settings = KafkaSettings(bootstrap_servers=kafka_server)
    spec = TopicSpec(f"sightline.{site}.matches", 1, 600)
    ensure_topics(settings, [spec])
    assert last_number(settings, spec.name) is None
    producer = KafkaProducer(bootstrap_servers=kafka_server, enable_idempotence=False)
    producer.send(spec.name, b"no event", partition=0).get(10)
    assert last_number(settings, spec.name) is None
    sink = KafkaSink(settings, spec, lambda _: 0)
    sink.send(ten())
    sink.close()
    for _ in range(20):
        producer.send(spec.name, b"no event", partition=0).get(10)
    producer.close()
    assert last_number(settings, spec.name) == 10
    assert numbers(events(settings, site=site, follow=False)) == list(range(1, 11))


def test_the_relay_brings_each_event_to_kafka_once_though_it_starts_again(kafka_server, redis_server, site):
    settings = KafkaSettings(bootstrap_servers=kafka_server)
    spec = TopicSpec(f"sightline.{site}.matches", 1, 600)
    ensure_topics(settings, [spec])
    gallery = RedisGallery(redis_server, site, model="m", retention_ns=10**18, live=False)
    gallery.acquire()
    for _ in range(3):
        gallery.commit([Step(BASE, {}, {}, {}, tuple(ten()))])
        outbox = Outbox(gallery, relay_from(gallery, last_number(settings, spec.name), site), clock=None)
        outbox.close_input()
        sink = KafkaSink(settings, spec, lambda _: 0)
        run(outbox, Pass(), sink, prepare=as_messages, name="relay")
        sink.close()
    assert numbers(events(settings, site=site, follow=False)) == list(range(1, 31))
    gallery.close()


def test_a_gap_that_retention_made_is_said(redis_server, site):
    gallery = RedisGallery(redis_server, site, model="m", retention_ns=60 * SECOND, live=False)
    gallery.acquire()
    gallery.commit([Step(BASE, {}, {}, {}, tuple(ten()))])
    gallery.commit([Step(BASE + 61 * SECOND, {}, {}, {}, tuple(ten()))])
    settings = RedisSettings(url=redis_server)
    with pytest.raises(OffsetGone, match="events 4 to 10 are gone"):
        list(events(settings, site=site, follow=False, after=3))
    assert numbers(events(settings, site=site, follow=False, after=10)) == list(range(11, 21))
    assert numbers(events(settings, site=site, follow=False)) == list(range(11, 21))
    gallery.close()


def test_an_embedded_gallery_is_read_by_its_folder(tmp_path, site):
    with EmbeddedRedis(tmp_path) as server:
        gallery = RedisGallery(server.url, site, model="m", retention_ns=10**18, live=False)
        gallery.acquire()
        gallery.commit([Step(BASE, {}, {}, {}, tuple(ten()))])
        assert numbers(events(tmp_path, site=site, follow=False)) == list(range(1, 11))
        gallery.close()
    with pytest.raises(GalleryUnreachable, match="no gallery runs in"):
        events(tmp_path, site=site)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        pytest.param({"after": 3, "group": "g"}, "after=NUMBER says where to begin", id="after and group"),
        pytest.param({"start": datetime(2026, 1, 1)}, "has no time zone", id="naive time"),  # noqa: DTZ001
        pytest.param({"start": "latest", "group": "g"}, "no start=latest", id="latest in a group"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(wrong, says):
    with pytest.raises(UsageError, match=says):
        events("127.0.0.1:9092", site="s", **wrong)


def test_a_group_without_kafka_is_refused():
    with pytest.raises(UsageError, match="groups are Kafka's"):
        events("redis://127.0.0.1", site="s", group="g")
