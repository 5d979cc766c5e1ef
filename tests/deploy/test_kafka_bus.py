"""Kafka behind a site's workers."""

import threading
import time
import uuid
from contextlib import closing
from pathlib import Path

import pytest
from services import free_port

from deploy.kafka_bus import KafkaBus
from deploy.settings import Settings, load
from deploy.wiring import run_site
from stream.errors import BrokerUnreachable
from stream.kafka import group_lag
from stream.messages import Embeddings, Frame
from stream.telemetry import FRAMES_DROPPED
from tests.deploy.sites import write_site


def _settings() -> Settings:
    return Settings.model_validate(
        {
            "site": {"name": "away"},
            "camera": [{"id": "c1", "url": "synthetic://?seed=1"}],
            "kafka": {"bootstrap_servers": f"127.0.0.1:{free_port()}", "connect_timeout_s": 1},
        }
    )


def test_live_ingest_gets_its_bus_without_a_broker_and_sheds_until_there_is_one(refused_connections: None) -> None:
    settings = _settings()
    assert settings.kafka
    started = time.monotonic()
    with closing(KafkaBus(settings, settings.kafka, threading.Event(), wait_for_broker=False)) as bus:
        assert bus.frames.name.endswith("away.frames")
    assert time.monotonic() - started < 30


@pytest.mark.timeout(600)
def test_a_camera_taken_out_of_the_site_file_keeps_nobody_from_going_on(
    kafka_server: str, redis_server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places = {"SIGHTLINE_REDIS__URL": redis_server, "SIGHTLINE_KAFKA__BOOTSTRAP_SERVERS": kafka_server}
    places["SIGHTLINE_SITE__NAME"] = name = f"site-{uuid.uuid4().hex[:8]}"
    path = write_site(tmp_path, cameras=("north", "south", "yard"), frames=50)
    before = load(path, places)
    run_site(before, threading.Event())
    taken_out = '[[camera]]\nid = "yard"\nurl = "yard.mp4"\n'
    path.write_text(path.read_text().replace(taken_out, ""))
    after = load(path, places)
    assert after.kafka
    late = Frame(
        site=name, camera="yard", stream=10**18, sequence=0, captured_at=10**18, ingested_at=0, clock="file",
        width=4, height=4, image=b"",
    )  # fmt: skip
    nobody = Embeddings(
        site=name, camera="yard", stream=10**18, sequence=0, captured_at=10**18, ingested_at=0, clock="file",
        width=4, height=4, status="ok", model="m",
    )  # fmt: skip
    with closing(KafkaBus(before, after.kafka, threading.Event())) as bus:
        with closing(bus.frames_sink()) as frames:  # of ingest that still had the former site file
            frames.send([late] * 3)
        with closing(bus.embeddings_sink()) as embeddings:
            embeddings.send([nobody])
    dropped = FRAMES_DROPPED.labels("yard", "unknown")
    counted = dropped._value.get()
    run_site(after, threading.Event())
    assert dropped._value.get() == counted + 3
    assert caplog.text.count("camera yard: is not in this worker's site file") == 1
    lag = group_lag(after.kafka, f"sightline.{name}.frames", f"sightline.{name}.perceive")
    assert lag == {0: 0, 1: 0, 2: 0}


def test_everybody_else_says_that_no_broker_answers(refused_connections: None) -> None:
    settings = _settings()
    assert settings.kafka
    with pytest.raises(BrokerUnreachable, match=settings.kafka.bootstrap_servers):
        KafkaBus(settings, settings.kafka, threading.Event())
