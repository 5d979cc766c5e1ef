"""What a site's settings become: topics and their retention, who sheds and who waits, what the relay and the matcher are told."""

import _thread
import threading
import uuid
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from services import free_port, wait_for

from deploy import wiring
from deploy.kafka_bus import KafkaBus
from deploy.settings import Settings
from deploy.together import Group, Paced, together
from ingest.jpeg import shrink
from matcher.matcher import Step
from matcher.redis_gallery import RedisGallery
from stream.codec import FRAMES, MATCHES
from stream.errors import BrokerUnreachable, BundleError, OffsetGone, SightlineError
from stream.kafka import KafkaSource, topic_id
from stream.memory import MemoryTopic
from stream.messages import CameraState, Embeddings, Frame, MatchEvent
from tests.deploy.sites import write_bundles

NOW = 10**18


def site(servers: str, url: str = "synthetic://?seed=1", **more: object) -> Settings:
    """Two cameras over Kafka; `url` of both."""
    data = {
        "site": {"name": f"site-{uuid.uuid4().hex[:8]}", "key": "0123456789abcdef"},
        "camera": [{"id": "c1", "url": url}, {"id": "c2", "url": url, "partition": 4}],
        "kafka": {"bootstrap_servers": servers, "connect_timeout_s": 1},
    }
    return Settings.model_validate(data | more)


def bus_of(settings: Settings, *, there: bool = True) -> KafkaBus:
    assert settings.kafka
    return KafkaBus(settings, settings.kafka, threading.Event(), wait_for_broker=there)


def test_each_topic_keeps_what_the_site_asks_for_and_no_dead_letter_outlives_the_frames() -> None:
    retention = {"frames_s": 60, "embeddings_s": 120, "matches_s": 240, "gallery_s": 480}
    settings = site(f"127.0.0.1:{free_port()}", site={"name": "yard", "retention": retention})
    with closing(bus_of(settings, there=False)) as bus:
        kept = {spec.name: spec.retention_s for spec in (bus.frames, bus.embeddings, bus.matches)}
        assert kept == {
            "sightline.yard.frames": 60,
            "sightline.yard.embeddings": 120,
            "sightline.yard.matches": 240,
        }
        assert {spec.dead_retention_s for spec in (bus.frames, bus.embeddings, bus.matches)} == {60}


def test_a_pinned_partition_is_there_though_there_are_fewer_cameras() -> None:
    with closing(bus_of(site(f"127.0.0.1:{free_port()}"), there=False)) as bus:
        assert [spec.partitions for spec in (bus.frames, bus.embeddings, bus.matches)] == [5, 5, 1]


@pytest.mark.parametrize(
    ("url", "policy"),
    [pytest.param("synthetic://?seed=1", "shed", id="live"), pytest.param("a.mp4", "wait", id="files")],
)
def test_live_cameras_shed_while_the_broker_is_away_and_files_wait(
    refused_connections: None, url: str, policy: str
) -> None:
    settings = site(f"127.0.0.1:{free_port()}", url)
    with closing(bus_of(settings, there=False)) as bus, closing(bus.frames_sink()) as frames:
        assert frames._policy == policy  # type: ignore[attr-defined]
        with closing(bus.embeddings_sink()) as embeddings:
            assert embeddings._policy == "wait"  # type: ignore[attr-defined]


def test_where_no_broker_answers_a_lag_is_what_it_was(refused_connections: None) -> None:
    with closing(bus_of(site(f"127.0.0.1:{free_port()}"), there=False)) as bus:
        assert bus.frames_lag() == {}
        assert bus.embeddings_lag() == {}


@pytest.mark.parametrize("end", ["frames_end", "embeddings_end"])
def test_what_cannot_be_measured_is_not_taken_for_read(refused_connections: None, end: str) -> None:
    settings, stop = site(f"127.0.0.1:{free_port()}", "a.mp4"), threading.Event()
    assert settings.kafka
    with closing(KafkaBus(settings, settings.kafka, stop, wait_for_broker=False)) as bus:
        waiting = threading.Thread(target=getattr(bus, end))
        waiting.start()
        waiting.join(5)  # long enough for the first answer, that there is no broker
        assert waiting.is_alive(), "its readers would be closed before they had read anything"
        stop.set()
        waiting.join(30)
        assert not waiting.is_alive()


def test_a_frame_too_large_for_a_topic_goes_there_smaller(kafka_server: str) -> None:
    settings = site(kafka_server)
    noise = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    picture = Frame(
        site=settings.site.name, camera="c2", stream=NOW, sequence=0, captured_at=NOW, ingested_at=NOW, clock="arrival",
        width=1920, height=1080, image=simplejpeg.encode_jpeg(noise, quality=95),
    )  # fmt: skip
    assert len(picture.image) > 900_000
    assert settings.kafka
    with closing(bus_of(settings)) as bus:
        with closing(bus.frames_sink()) as frames:
            frames.send([picture])
            frames.flush()
        with closing(KafkaSource(settings.kafka, bus.frames.name, None, FRAMES, partitions=[4])) as source:
            [record] = next(batch for batch in source.batches() if batch)
    assert record.message == shrink(picture)


def test_both_lags_are_those_of_the_groups_that_read_there(kafka_server: str) -> None:
    settings = site(kafka_server)
    with closing(bus_of(settings)) as bus:
        with closing(bus.embeddings_sink()) as sink:
            sink.send(nobody(settings, n) for n in range(3))
            sink.flush()
        with closing(bus.frames_sink()) as frames:
            frames.send([idle(NOW)])
            frames.flush()
        wait_for(lambda: (bus.frames_lag().get(0), bus.embeddings_lag().get(0)) == (1, 3), "both are measured")
        with closing(bus.embeddings_source()) as embeddings:
            embeddings.commit(next(batch for batch in embeddings.batches() if batch))
        with closing(bus.frames_source()) as read:
            read.commit(next(batch for batch in read.batches() if batch))
        wait_for(lambda: (bus.frames_lag()[0], bus.embeddings_lag()[0]) == (0, 0), "both have read all")


def idle(captured_at: int) -> CameraState:
    return CameraState(site="s", camera="c1", stream=0, captured_at=captured_at, ingested_at=0, state="idle")


def nobody(settings: Settings, sequence: int) -> Embeddings:
    return Embeddings(
        site=settings.site.name, camera="c1", stream=NOW, sequence=sequence, captured_at=NOW + sequence, ingested_at=NOW,
        clock="file", width=4, height=4, status="ok", model="m",
    )  # fmt: skip


def event() -> MatchEvent:
    return MatchEvent(
        site="s", number=0, kind="new", identity="0" * 32, camera="c1", tracklet="t", first_seen=NOW, captured_at=NOW,
        probability=1.0, model="m",
    )  # fmt: skip


@pytest.fixture
def embedder(tmp_path: Path) -> str:
    write_bundles(tmp_path)
    return str(tmp_path / "mean-colour")


def gallery(settings: Settings, redis_server: str, embedder: str) -> RedisGallery:
    bundle = wiring.embedder_of(settings.detector, settings.reid)
    return RedisGallery(redis_server, settings.site.name, model=bundle.card.id, retention_ns=NOW, live=False)


def test_a_relay_that_was_killed_between_a_delivery_and_its_note_notes_it_when_it_comes_back(
    kafka_server: str, redis_server: str, embedder: str
) -> None:
    settings = site(kafka_server, "a.mp4", reid={"bundle": embedder})
    at = wiring.GalleryPlace(redis_server, b"k" * 16)
    with closing(gallery(settings, redis_server, embedder)) as record, closing(bus_of(settings)) as bus:
        record.acquire()
        record.commit([Step(NOW, {}, {}, {}, tuple(event() for _ in range(5)))])
        topic = topic_id(bus._kafka, bus.matches.name)
        for _ in range(2):
            relay = wiring.Relay(settings, bus, at, None)
            relay.begun.set()
            relay.end()
            relay.run(threading.Event())
            assert record.relayed(topic) == 5
            record._client.hdel(record._meta, f"relayed/{topic}")  # the kill
        with closing(KafkaSource(bus._kafka, bus.matches.name, None, MATCHES, partitions=[0], letters=False)) as source:
            assert source.ends([0]) == {0: 5}, "nothing is delivered twice"
        record.release()


@pytest.mark.parametrize("skip_lost", [False, True])
@pytest.mark.parametrize("takeover", [False, True])
def test_the_matcher_is_told_whether_to_take_over_and_whether_to_skip_what_is_lost(
    kafka_server: str, redis_server: str, embedder: str, takeover: bool, skip_lost: bool
) -> None:
    settings = site(kafka_server, "a.mp4", reid={"bundle": embedder})
    at, stop = wiring.GalleryPlace(redis_server, b"k" * 16), threading.Event()
    with closing(gallery(settings, redis_server, embedder)) as former, closing(bus_of(settings)) as bus:
        former.topic = "a topic that was deleted"
        former.acquire()
        former.commit([Step(NOW, {}, {0: 5}, {}, ())])
        if not takeover:
            former.release()
        groups = wiring.matching(settings, bus, at, takeover=takeover, skip_lost=skip_lost)
        [match] = groups[0].workers
        if skip_lost:
            worker = threading.Thread(target=match, args=(stop,))
            worker.start()
            try:
                relay = groups[1].workers[0].__self__  # type: ignore[attr-defined]
                assert relay.begun.wait(30), "it has the site, and goes on with what the topic holds"
            finally:
                stop.set()
                worker.join(30)
        else:
            with pytest.raises(OffsetGone, match=r"made anew .*--skip-lost"):
                match(stop)


def test_file_ingest_waits_for_the_slower_of_both_readers() -> None:
    assert wiring._larger(lambda: {0: 7, 1: 0}, lambda: {0: 2, 1: 9, 2: 1}) == {0: 7, 1: 9, 2: 1}


def test_a_lag_that_is_dear_is_asked_for_seldom() -> None:
    topic: MemoryTopic[Frame | CameraState] = MemoryTopic("paced", FRAMES, 1)
    topic.sink(lambda _: 0).send(idle(n) for n in range(10))
    topic.close_input()
    asked: list[int] = []

    def lag() -> dict[int, int]:
        asked.append(1)
        return {0: 0}

    for every_s, times in ((1000.0, 1), (0.0, 11)):
        asked.clear()
        source = Paced(topic.source(f"every {every_s}", max_records=1), lag, 5, every_s)
        assert sum(len(batch) for batch in source.batches()) == 10
        assert len(asked) == times


def test_an_interrupt_stops_all_workers() -> None:
    ended, begun = [], threading.Barrier(3)

    def worker(stop: threading.Event) -> None:
        begun.wait(20)
        assert stop.wait(20)
        ended.append("stopped")

    def interrupt() -> None:
        begun.wait(20)
        _thread.interrupt_main()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        together([Group("a", [worker]), Group("b", [worker])], threading.Event(), grace_s=5)
    wait_for(lambda: ended == ["stopped"] * 2, "both are told", 10)


def test_of_several_failures_the_first_is_the_one_that_is_told() -> None:
    def first(_: threading.Event) -> None:
        raise BundleError("the cause")

    def second(stop: threading.Event) -> None:
        assert stop.wait(20)
        raise SightlineError("what came of it")

    with pytest.raises(BundleError, match="the cause"):
        together([Group("second", [second]), Group("first", [first])], threading.Event())


def test_what_comes_after_a_group_that_fails_fails_the_site() -> None:
    def then() -> None:
        raise BrokerUnreachable("gone while it was drained")

    with pytest.raises(BrokerUnreachable, match="drained"):
        together([Group("a", [lambda _: None], then)], threading.Event())


def test_the_reader_of_a_group_is_told_when_its_last_worker_has_ended_and_not_before() -> None:
    told, go_on = threading.Event(), threading.Event()

    def slow(_: threading.Event) -> None:
        assert go_on.wait(20)
        assert not told.is_set()

    def quick(_: threading.Event) -> None:
        threading.Timer(0.2, go_on.set).start()

    together([Group("a", [slow, quick], told.set)], threading.Event())
    assert told.is_set()
