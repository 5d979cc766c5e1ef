"""What is asked of a cluster: topics made by several at once, replicas, lags, and nothing left open."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from frames import frame
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata
from prometheus_client import REGISTRY
from services import KafkaBroker, free_port

from stream.errors import TransportError
from stream.kafka import KafkaSink, LagMeter, TopicSpec, ensure_topics, group_lag, topic_id
from stream.kafka_admin import trouble_with
from stream.settings import KafkaSettings

pytestmark = pytest.mark.usefixtures("refused_connections")


@pytest.fixture
def admin(kafka_server) -> Iterator[KafkaAdminClient]:
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=kafka_server)) as admin:
        yield admin


def test_workers_that_make_a_topic_at_the_same_time_do_not_trip_over_each_other(settings, spec):
    for attempt in range(5):
        made = TopicSpec(f"{spec.name}-{attempt}", 2, 600)
        with ThreadPoolExecutor(4) as workers:
            list(workers.map(lambda _, made=made: ensure_topics(settings, [made]), range(4)))


def test_as_many_replicas_are_asked_for_as_the_site_says(settings, spec):
    three = settings.model_copy(update={"replication": 3})
    with pytest.raises(TransportError, match=f"creating topics {spec.name}: InvalidReplicationFactor"):
        ensure_topics(three, [spec])


def test_dead_letters_have_no_dead_letters_of_their_own(settings, spec, admin):
    ensure_topics(settings, [TopicSpec(f"{spec.name}.dead", 1, 600)])
    assert [topic for topic in admin.list_topics() if topic.startswith(spec.name)] == [f"{spec.name}.dead"]


def test_a_group_that_committed_beyond_the_end_lags_by_nothing(settings, spec):
    """As after records were lost with the only broker that had them."""
    ensure_topics(settings, [spec])
    group = f"{spec.name}-g"
    consumer = KafkaConsumer(bootstrap_servers=settings.bootstrap_servers, group_id=group, enable_auto_commit=False)
    with contextlib.closing(consumer):
        consumer.assign([TopicPartition(spec.name, 0)])
        consumer.commit({TopicPartition(spec.name, 0): OffsetAndMetadata(7, "", -1)})
    assert group_lag(settings, spec.name, group) == {0: 0, 1: 0}


def test_whoever_measures_a_lag_shows_it(settings, spec):
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 1)) as sink:
        sink.send([frame(0), frame(1)])
        sink.flush()
    with contextlib.closing(LagMeter(settings, spec.name, f"{spec.name}-g")) as meter:
        assert meter.measure() == {0: 0, 1: 2}
    shown = {"topic": spec.name, "partition": "1"}
    assert REGISTRY.get_sample_value("sightline_consumer_lag", shown) == 2


def test_a_question_leaves_no_thread_and_no_connection_behind(settings, spec):
    ensure_topics(settings, [spec])
    before = set(threading.enumerate())
    topic_id(settings, spec.name)
    group_lag(settings, spec.name, f"{spec.name}-g")
    assert set(threading.enumerate()) <= before


@pytest.mark.timeout(30)
def test_what_troubles_a_topic_is_asked_once_however_long_the_site_waits_for_a_broker(spec):
    settings = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}", connect_timeout_s=300)
    assert f"topic {spec.name}: no Kafka broker answers at" in trouble_with(settings, spec.name)


def test_on_a_cluster_where_no_group_ever_committed_all_records_are_lag(tmp_path):
    broker = KafkaBroker(tmp_path)
    broker.start()
    try:
        settings = KafkaSettings(bootstrap_servers=broker.address)
        spec = TopicSpec("yard", 1, 600)
        with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
            sink.send([frame(0), frame(1)])
            sink.flush()
        assert group_lag(settings, spec.name, "nobody") == {0: 2}
    finally:
        broker.kill()
