"""A topic of each test's own on the broker that all share."""

import uuid
from typing import TYPE_CHECKING

import pytest

from stream.settings import KafkaSettings

# kafka-python warns as it is imported, and pytest reads this file before it hears which warnings are known
if TYPE_CHECKING:
    from stream.kafka import TopicSpec


@pytest.fixture
def settings(kafka_server: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=kafka_server, prefix="")


@pytest.fixture
def spec() -> "TopicSpec":
    """Not made yet."""
    from stream.kafka import TopicSpec

    return TopicSpec(f"yard-{uuid.uuid4().hex[:8]}", 2, 600)
