"""What a writer owes: the order of a partition, an acknowledgement for all that was flushed, an end within its time."""

import contextlib
import logging
import time

import pytest
from frames import frame
from kafka import KafkaAdminClient, TopicPartition
from services import free_port

from stream.codec import FRAMES
from stream.errors import TransportError
from stream.kafka import KafkaSink, KafkaSource, LagMeter, TopicSpec, ensure_topics
from stream.settings import KafkaSettings
from stream.telemetry import DELIVERIES_FAILED, FRAMES_SENT

pytestmark = pytest.mark.usefixtures("refused_connections")


def sequences(settings: KafkaSettings, spec: TopicSpec, count: int) -> list[int]:
    found: list[int] = []
    deadline = time.monotonic() + 60
    with contextlib.closing(KafkaSource(settings, spec.name, None, FRAMES, partitions=[0])) as source:
        for batch in source.batches():
            found += [record.message.sequence for record in batch]
            if len(found) >= count:
                break
            assert time.monotonic() < deadline, found
    return found


def test_a_small_message_does_not_overtake_a_large_one_that_waits_for_the_next_round(settings, spec):
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:  # all are queued before it is connected
        sink.send([frame(0, size=500_000), frame(1, size=500_000), frame(2), frame(3, size=500_000), frame(4)])
        sink.flush()
    assert sequences(settings, spec, 5) == [0, 1, 2, 3, 4]


def test_a_flush_returns_with_the_acknowledgement_also_of_what_is_on_its_way_already(settings, spec):
    camera = f"camera-{spec.name}"
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
        for n in range(5):
            sink.send([frame(n, size=800_000, camera=camera)])
            while sink._waiting:
                time.sleep(0)
            sink.flush()
            assert FRAMES_SENT.labels(camera)._value.get() == n + 1


def test_what_was_sent_and_not_flushed_is_delivered_when_the_writer_closes(settings, spec):
    sink = KafkaSink(settings, spec, lambda _: 0)
    sink.send([frame(0), frame(1)])
    sink.close()
    assert sequences(settings, spec, 2) == [0, 1]


def test_the_byte_budget_is_free_again_once_all_is_delivered(settings, spec):
    with contextlib.closing(KafkaSink(settings, spec, lambda message: message.sequence % 2)) as sink:
        sink.send(frame(n, size=400_000) for n in range(6))
        sink.flush()
        assert sink._size == 0


@pytest.mark.parametrize("partition", [-1, 2])
def test_a_partition_that_is_not_there_is_refused_before_anything_is_queued(settings, spec, partition):
    with contextlib.closing(KafkaSink(settings, spec, lambda _: partition)) as sink:
        with pytest.raises(TransportError, match=f"has 2 partitions, a message asks for {partition}"):
            sink.send([frame(0)])
        assert sink._size == 0


def test_nothing_is_sent_through_a_writer_that_was_closed(settings, spec):
    sink = KafkaSink(settings, spec, lambda _: 0)
    sink.close()
    with pytest.raises(TransportError, match="this sink is closed"):
        sink.send([frame(0)])


def test_a_writer_that_never_found_a_broker_counts_what_it_lost_and_leaves_nothing_running(spec, caplog):
    settings = KafkaSettings(
        bootstrap_servers=f"127.0.0.1:{free_port()}", connect_timeout_s=60, delivery_timeout_s=1, buffer_mib=2
    )
    sink = KafkaSink(settings, spec, lambda _: 0)
    sink.send([frame(0), frame(1)])
    with caplog.at_level(logging.WARNING, logger="stream.kafka_sink"):
        sink.close()
    assert DELIVERIES_FAILED.labels(spec.name)._value.get() == 2
    assert "closed with messages undelivered" in caplog.text
    assert not sink._thread.is_alive(), "it does not go on looking for a broker"


def test_acknowledged_means_by_all_replicas_and_in_the_order_of_sending(settings, spec):
    """One broker cannot show it; several that fail over would."""
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
        producer = sink._producer()
        with contextlib.closing(producer):
            assert producer.config["acks"] == -1
            assert producer.config["max_in_flight_requests_per_connection"] == 1


def test_lag_counts_nothing_that_retention_has_taken(settings, spec):
    ensure_topics(settings, [spec])
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
        sink.send(frame(n) for n in range(10))
        sink.flush()
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)) as admin:
        admin.delete_records({TopicPartition(spec.name, 0): 6})
    with contextlib.closing(LagMeter(settings, spec.name, f"{spec.name}-g")) as meter:
        assert meter.measure() == {0: 4, 1: 0}
