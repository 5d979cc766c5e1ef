"""Kafka behind a site's workers."""

import threading
import time
from contextlib import closing

import pytest
from services import free_port

from deploy.kafka_bus import KafkaBus
from deploy.settings import Settings
from stream.errors import BrokerUnreachable


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


def test_everybody_else_says_that_no_broker_answers(refused_connections: None) -> None:
    settings = _settings()
    assert settings.kafka
    with pytest.raises(BrokerUnreachable, match=settings.kafka.bootstrap_servers):
        KafkaBus(settings, settings.kafka, threading.Event())
