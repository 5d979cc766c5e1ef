"""The integrators' client, over a real Kafka, a real outbox and an embedded one."""

import contextlib
import itertools
import re
import threading
import time
from datetime import UTC, datetime

import msgspec
import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer
from services import wait_for

from matcher.events import SITE_POLL_S, events, last_number
from matcher.matcher import Step
from matcher.outbox import Outbox, relay_from
from matcher.redis_gallery import RedisGallery
from matcher.server import EmbeddedRedis
from stream import codec
from stream.errors import GalleryError, GalleryRefused, GalleryUnreachable, OffsetGone, TransportError, UsageError
from stream.kafka import KafkaSink, KafkaSource, TopicSpec, ensure_topics
from stream.messages import MatchEvent
from stream.settings import KafkaSettings, RedisSettings
from stream.stage import Pass, as_messages, run
from stream.telemetry import DEAD_LETTERS

SECOND = 10**9
BASE = 1_900_000_000 * SECOND


def event(number, camera="c1", identity="a", kind="new"):
    return MatchEvent(
        site="s", number=number, kind=kind, identity=identity * 32, camera=camera, tracklet="t", first_seen=0,
        captured_at=BASE + number * SECOND, probability=1.0, model="m",
    )  # fmt: skip


def ten(first=1):
    return [event(n, f"c{n % 2}", "ab"[n % 2], "new" if n < 5 else "link") for n in range(first, first + 10)]


def numbers(found):
    return [e.number for e in found]


def until_gone(found):
    """The numbers that came, and the error that ended them."""
    got = []
    with pytest.raises(OffsetGone) as gone:
        got.extend(e.number for e in found)
    return got, gone.value


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


@pytest.mark.parametrize("after", [0, 4, 9, 10])
def test_a_reader_goes_on_behind_the_number_it_kept(place, site, after):
    place.say(ten())
    assert numbers(events(place.where, site=site, follow=False, after=after)) == list(range(after + 1, 11))


def test_a_reader_finds_its_place_among_many_however_far_behind(place, site):
    for first in range(1, 300, 10):
        place.say(ten(first))
    for after in (0, 1, 150, 283, 284, 299, 300):
        assert numbers(events(place.where, site=site, follow=False, after=after)) == list(range(after + 1, 301))


def test_a_reader_finds_its_place_though_it_has_to_look_back_over_a_thousand_others(kafka_server, site):
    settings = KafkaSettings(bootstrap_servers=kafka_server)
    spec = TopicSpec(f"sightline.{site}.matches", 1, 600)
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
        sink.send(event(number) for number in range(1, 1501))
    for after in (300, 1100, 1200):  # 16, 256, 4,096 from the end are looked at
        assert numbers(events(settings, site=site, follow=False, after=after)) == list(range(after + 1, 1501))


def test_repeats_that_came_last_do_not_hide_that_more_was_said(kafka_server, site):
    settings = KafkaSettings(bootstrap_servers=kafka_server)
    spec = TopicSpec(f"sightline.{site}.matches", 1, 600)
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
        sink.send(event(number) for number in range(1, 101))
        sink.send(event(number) for number in range(31, 95))  # a relay that stood still meanwhile
    assert list(events(settings, site=site, follow=False, after=100)) == []
    assert numbers(events(settings, site=site, follow=False, after=60)) == list(range(61, 101))


def test_what_retention_took_behind_the_kept_number_is_gone_and_where_to_go_on_is_said(place, site):
    place.say(ten())
    place.forget()
    place.say(ten(11))
    for after in (0, 5):
        said = f"site {site}: events {after + 1} to 10 are gone .*after=10 goes on with event 11"
        with pytest.raises(OffsetGone, match=said) as gone:
            list(events(place.where, site=site, follow=False, after=after))
        assert gone.value.after == 10
    assert numbers(events(place.where, site=site, follow=False, after=10)) == list(range(11, 21))
    assert numbers(events(place.where, site=site, follow=False)) == list(range(11, 21)), "who kept none misses none"


def test_what_retention_took_is_gone_where_nothing_is_left_too(place, site):
    place.say(ten())
    place.forget()
    with pytest.raises(OffsetGone, match=f"site {site}: .*gone with their retention"):
        list(events(place.where, site=site, follow=False, after=5))
    assert list(events(place.where, site=site, follow=False, after=10)) == []


def test_who_waits_where_nothing_is_left_is_told_by_the_next_number(place, site):
    place.say(ten())
    place.forget()
    caught, waiting = [], threading.Event()

    def wait():
        try:
            next(events(place.where, site=site, after=5))
        except OffsetGone as gone:
            caught.append(gone.after)

    thread = threading.Thread(target=wait)
    thread.start()
    number = 11
    while thread.is_alive() and number < 1000:
        place.say([event(number)])
        number += 1
        waiting.wait(0.05)
    thread.join(10)
    assert caught == [10]


@pytest.mark.parametrize("said", [0, 10])
@pytest.mark.parametrize("follow", [True, False], ids=["follow", "until now"])
def test_a_number_ahead_of_the_site_is_not_waited_for(place, site, said, follow):
    if said:
        place.say(ten())
    lines = rf"event 12 was read before, its newest is {said}: its numbers began anew .*forget yours and leave out after= \(--after\)"
    with pytest.raises(OffsetGone, match=lines) as gone:
        list(events(place.where, site=site, follow=follow, after=12))
    assert gone.value.after is None


def test_a_gallery_that_is_emptied_under_a_follower_is_said(redis_server, site):
    gallery = RedisGallery(redis_server, site, model="m", retention_ns=10**18, live=False)
    gallery.acquire()
    gallery.commit([Step(BASE, {}, {}, {}, tuple(ten()))])
    follower = events(redis_server, site=site)
    assert numbers(itertools.islice(follower, 10)) == list(range(1, 11))
    with contextlib.closing(redis.Redis.from_url(redis_server)) as client:
        client.delete(*client.keys(f"sightline:{{{site}}}:*"))
    with pytest.raises(OffsetGone, match="event 10 was read before, its newest is 0"):
        next(follower)
    gallery.close()


def test_a_follower_of_an_outbox_that_retention_overtakes_is_told(redis_server, site):
    gallery = RedisGallery(redis_server, site, model="m", retention_ns=60 * SECOND, live=False)
    gallery.acquire()
    gallery.commit([Step(BASE, {}, {}, {}, tuple(ten()))])
    follower = events(redis_server, site=site)
    assert next(follower).number == 1
    gallery.commit([Step(BASE, {}, {}, {}, tuple(ten() * 10))])
    gallery.commit([Step(BASE + 61 * SECOND, {}, {}, {}, (event(0),))])
    got, gone = until_gone(follower)
    assert got == list(range(2, 11)), "what it had fetched"
    assert "events 11 to 110 are gone with their retention" in str(gone)
    assert gone.after == 110
    gallery.close()


def test_a_follower_that_retention_overtakes_goes_on_where_it_is_told_to(place, site):
    place.say(ten())
    follower = events(place.where, site=site)
    assert numbers(itertools.islice(follower, 10)) == list(range(1, 11))
    place.say(ten(11))
    place.forget()
    place.say(ten(21))
    _, gone = until_gone(follower)
    assert re.search(r"leave out after= \(--after\) to go on with the oldest|after=20 goes on with event 21", str(gone))
    assert numbers(events(place.where, site=site, follow=False, after=gone.after)) == list(range(21, 31))


def test_a_gap_in_the_topic_is_said_whatever_is_asked_for(kafka_server, site):
    settings = KafkaSettings(bootstrap_servers=kafka_server)
    spec = TopicSpec(f"sightline.{site}.matches", 1, 600)
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
        sink.send([event(1), event(2), event(7, camera="c2"), event(8)])
    got, gone = until_gone(events(settings, site=site, follow=False))
    assert got == [1, 2]
    assert "events 3 to 6 are gone" in str(gone)
    assert numbers(events(settings, site=site, follow=False, after=gone.after)) == [7, 8]
    assert until_gone(events(settings, site=site, follow=False, camera="c2"))[0] == []


def test_nothing_comes_once_it_was_stopped(place, site):
    place.say(ten())
    stop, got = threading.Event(), []
    for found in events(place.where, site=site, stop=stop):
        got.append(found.number)
        stop.set()
    assert got == [1]


def test_an_event_captured_at_the_very_start_is_not_left_out(redis_server, site):
    start = datetime(2026, 11, 21, 22, 38, 32, 123457, tzinfo=UTC)
    exact = 1795300712123457000
    assert round(start.timestamp() * 1e9) > exact, "what floats make of it"
    gallery = RedisGallery(redis_server, site, model="m", retention_ns=10**18, live=False)
    gallery.acquire()
    at = [msgspec.structs.replace(event(0), captured_at=exact + n) for n in (-1, 0)]
    gallery.commit([Step(exact, {}, {}, {}, tuple(at))])
    assert numbers(events(redis_server, site=site, follow=False, start=start)) == [2]
    gallery.close()


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


def test_who_follows_hears_that_the_numbers_began_anew(kafka_server, site):
    settings = KafkaSettings(bootstrap_servers=kafka_server)
    spec = TopicSpec(f"sightline.{site}.matches", 1, 600)
    ensure_topics(settings, [spec])
    sink = KafkaSink(settings, spec, lambda _: 0)
    sink.send([*ten(5001), *ten(1)])
    sink.close()
    with pytest.raises(OffsetGone, match="event 5010 was read before, its newest is 1: its numbers began anew"):
        list(events(settings, site=site))
    in_group = numbers(events(settings, site=site, group=f"g-{site}", follow=False))
    assert in_group == [*range(5001, 5011), *range(1, 11)], "a group keeps no number: it gets all"


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


def test_one_reader_of_a_group_works_and_the_others_stand_by_or_are_refused(kafka_server, site):
    settings = KafkaSettings(bootstrap_servers=kafka_server)
    spec = TopicSpec(f"sightline.{site}.matches", 1, 600)
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
        sink.send(ten())
    group, left = f"g-{site}", threading.Event()
    # Kafka gives the partition to the first of the members' names, and ours begin with "sightline"
    first = KafkaConsumer(
        spec.name, bootstrap_servers=kafka_server, group_id=group, client_id="a", enable_auto_commit=False,
        metadata_max_age_ms=1000,  # it may ask before the broker tells everybody of the new topic
    )  # fmt: skip

    def work():
        while not left.is_set():
            first.poll(timeout_ms=1000)  # kafka-python forgets a join that outlasts its poll
        first.close()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        wait_for(lambda: bool(first.assignment()), "the first reader works")
        with pytest.raises(UsageError, match=f"group {group} has another reader, and one .* gets all .*follow=True"):
            list(events(settings, site=site, group=group, follow=False))
        threading.Timer(0.5, left.set).start()
        assert numbers(itertools.islice(events(settings, site=site, group=group), 10)) == list(range(1, 11))
    finally:
        left.set()
        worker.join(20)


def test_a_follower_waits_for_the_topic_of_a_site_that_has_not_begun(kafka_server, site, caplog):
    settings = KafkaSettings(bootstrap_servers=kafka_server)
    spec = TopicSpec(f"sightline.{site}.matches", 1, 600)
    for group in (None, f"g-{site}"):
        missing = (
            rf"topic {spec.name} is not at {kafka_server} yet: start the site, or correct site=, \[kafka\] prefix or"
        )
        with pytest.raises(TransportError, match=missing):
            list(events(settings, site=site, group=group, follow=False))
    assert last_number(settings, spec.name) is None
    got = []

    def follow():
        got.extend(numbers(itertools.islice(events(settings, site=site), 10)))

    thread = threading.Thread(target=follow)
    thread.start()
    wait_for(lambda: "waiting: topic" in caplog.text, "it says what it waits for")
    time.sleep(3 * SITE_POLL_S)
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
        sink.send(ten())
    thread.join(30)
    assert got == list(range(1, 11))
    assert caplog.text.count("waiting: topic") == 1


def test_who_asks_for_the_latest_of_a_site_that_has_not_begun_gets_all_of_it(kafka_server, redis_server, site, caplog):
    settings = KafkaSettings(bootstrap_servers=kafka_server)
    with pytest.raises(
        GalleryError, match=f"redis://.* holds nothing of a site {site} yet: start the site, or correct"
    ):
        list(events(redis_server, site=site, follow=False))
    got = {}

    def follow(where):
        got[where] = numbers(itertools.islice(events(where, site=site, start="latest"), 10))

    threads = [threading.Thread(target=follow, args=(where,)) for where in (kafka_server, redis_server)]
    for thread in threads:
        thread.start()
    wait_for(lambda: caplog.text.count("waiting: ") == 2, "both say what they wait for")
    gallery = RedisGallery(redis_server, site, model="m", retention_ns=10**18, live=False)
    gallery.acquire()
    gallery.commit([Step(BASE, {}, {}, {}, tuple(ten()))])
    with contextlib.closing(KafkaSink(settings, TopicSpec(f"sightline.{site}.matches", 1, 600), lambda _: 0)) as sink:
        sink.send(ten())
    for thread in threads:
        thread.join(30)
    assert got == {where: list(range(1, 11)) for where in (kafka_server, redis_server)}
    gallery.close()


def test_who_waits_for_a_topic_can_be_stopped(kafka_server, site, caplog):
    stop = threading.Event()
    thread = threading.Thread(target=lambda: list(events(kafka_server, site=site, stop=stop)))
    thread.start()
    wait_for(lambda: "waiting: topic" in caplog.text, "it says what it waits for")
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_bytes_that_are_no_events_are_skipped_counted_and_said_but_nothing_is_written(kafka_server, site, caplog):
    settings = KafkaSettings(bootstrap_servers=kafka_server)
    spec = TopicSpec(f"sightline.{site}.matches", 1, 600)
    ensure_topics(settings, [spec])
    with contextlib.closing(KafkaProducer(bootstrap_servers=kafka_server, enable_idempotence=False)) as producer:
        producer.send(spec.name, b"no event", partition=0).get(10)
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
        sink.send(ten())
    for _ in range(3):
        assert numbers(events(settings, site=site, follow=False)) == list(range(1, 11))
    assert last_number(settings, spec.name) == 10
    assert f"skipped: topic {spec.name}, offset 0: no MatchEvent" in caplog.text
    assert DEAD_LETTERS.labels(spec.name, "undecodable")._value.get() >= 3
    dead = KafkaSource(settings, f"{spec.name}.dead", None, codec.DEAD_LETTERS, partitions=[0])
    with contextlib.closing(dead):
        assert dead.ends([0]) == {0: 0}


def test_the_last_number_is_found_behind_bytes_that_are_no_events(kafka_server, site):
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
        outbox = Outbox(gallery, relay_from(gallery, last_number(settings, spec.name), site, "t"), clock=None)
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
    for _ in range(2):  # the folder is free again afterwards
        assert numbers(events(tmp_path, site=site, follow=False, after=3)) == list(range(4, 11))
    assert numbers(events(tmp_path, site=site, follow=False, start="latest")) == []
    with pytest.raises(GalleryUnreachable, match=r"no gallery runs in .*; what it left there is read without follow"):
        events(tmp_path, site=site)


def test_who_reads_a_part_of_an_ended_site_gives_its_folder_back(tmp_path, site):
    with EmbeddedRedis(tmp_path) as server:
        gallery = RedisGallery(server.url, site, model="m", retention_ns=10**18, live=False)
        gallery.acquire()
        gallery.commit([Step(BASE, {}, {}, {}, tuple(ten()))])
        gallery.close()
    found = events(tmp_path, site=site, follow=False)
    assert next(found).number == 1
    with pytest.raises(GalleryRefused, match="is in use by process"):
        EmbeddedRedis(tmp_path).start()
    del found
    with EmbeddedRedis(tmp_path):
        pass
