"""Where the tests of subscribers have their events said."""

import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from matcher.matcher import Step
from matcher.redis_gallery import RedisGallery
from stream.messages import MatchEvent
from stream.settings import KafkaSettings


@pytest.fixture
def site():
    return f"s-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Place:
    """Where a test's events are said: a topic or an outbox."""

    where: str
    say: Callable[[Sequence[MatchEvent]], None]
    forget: Callable[[], None]
    """Retention takes all that was said."""


@pytest.fixture(params=["kafka", "redis"])
def place(request, site):
    from kafka import KafkaAdminClient, TopicPartition  # not before tests/conftest.py has seen to its warnings

    from stream.kafka import KafkaSink, TopicSpec, ensure_topics

    if request.param == "kafka":
        settings = KafkaSettings(bootstrap_servers=request.getfixturevalue("kafka_server"))
        spec = TopicSpec(f"sightline.{site}.matches", 1, 600)
        ensure_topics(settings, [spec])
        sink = KafkaSink(settings, spec, lambda _: 0)

        def say(messages):
            sink.send(messages)
            sink.flush()

        def forget():
            with contextlib.closing(KafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)) as admin:
                admin.delete_records({TopicPartition(spec.name, 0): -1})

        yield Place(settings.bootstrap_servers, say, forget)
        sink.close()
    else:
        url = request.getfixturevalue("redis_server")
        gallery = RedisGallery(url, site, model="m", retention_ns=10**18, live=False)
        gallery.acquire()

        def say(messages):
            gallery.commit([Step(messages[-1].captured_at, {}, {}, {}, tuple(messages))])

        def forget():
            gallery.commit([Step(4 * 10**18, {}, {}, {}, ())])

        yield Place(url, say, forget)
        gallery.close()
