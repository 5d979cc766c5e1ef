"""What the workers of a site are given: where the relay begins, and which clock they read."""

import threading
import uuid
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, TopicPartition

from deploy import wiring
from deploy.buses import MemoryBus
from deploy.settings import load
from ingest.clock import SECOND_NS, WallClock
from matcher.events import events
from matcher.overview import overview
from stream.codec import MATCHES
from stream.kafka import KafkaSource
from stream.messages import Embeddings
from tests.deploy.sites import write_site


@pytest.mark.timeout(600)
def test_a_site_of_files_run_again_after_its_matches_expired_tells_no_follower_anything_twice(
    kafka_server: str, redis_server: str, tmp_path: Path
) -> None:
    name = f"site-{uuid.uuid4().hex[:8]}"
    places = {"SIGHTLINE_REDIS__URL": redis_server, "SIGHTLINE_KAFKA__BOOTSTRAP_SERVERS": kafka_server}
    path = write_site(tmp_path, frames=50)
    settings = load(path, places | {"SIGHTLINE_SITE__NAME": name})
    assert settings.kafka
    wiring.run_site(settings, threading.Event())
    topic = f"{settings.kafka.prefix}{name}.matches"
    said = [event.number for event in events(settings.kafka, site=name, follow=False)]
    assert said
    with closing(KafkaAdminClient(bootstrap_servers=kafka_server)) as admin:
        admin.delete_records({TopicPartition(topic, 0): -1})
    wiring.run_site(settings, threading.Event())
    with closing(KafkaSource(settings.kafka, topic, None, MATCHES, partitions=[0], letters=False)) as source:
        assert source.ends([0]) == {0: len(said)}


def test_a_machine_whose_clock_is_set_back_goes_on_matching(
    redis_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"site-{uuid.uuid4().hex[:8]}"
    path = write_site(tmp_path, cameras=("yard",), frames=1)
    path.write_text(path.read_text().replace("yard.mp4", "synthetic://?seed=1"))
    settings = load(path, {"SIGHTLINE_REDIS__URL": redis_server, "SIGHTLINE_SITE__NAME": name})
    machine_ns = WallClock.now_ns  # what a clock reads that began before the machine's was set back by 30 s:
    monkeypatch.setattr(WallClock, "now_ns", lambda clock: machine_ns(clock) + 30 * SECOND_NS)
    bus, now_ns = MemoryBus(settings), WallClock().now_ns()
    with closing(bus.embeddings_sink()) as sink:
        sink.send(
            [
                Embeddings(
                    site=name, camera="yard", stream=now_ns, sequence=7, captured_at=now_ns, ingested_at=now_ns,
                    clock="arrival", width=4, height=4, status="ok", model="m",
                )
            ]
        )  # fmt: skip
    bus.embeddings_end()
    wiring.match(settings, bus, wiring.GalleryPlace(redis_server, b"k" * 16), threading.Event())
    place = overview(redis_server, name).places["yard"]
    assert (place.stream, place.sequence) == (now_ns, 7)
