"""What a writer owes: the order of a partition, an acknowledgement for all that was flushed, an end within its time."""

import contextlib
import logging
import threading
import time
from typing import Any

import pytest
from frames import frame
from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import RequestTimedOutError
from kafka.future import Future
from services import free_port, wait_for

from stream.codec import FRAMES, encode
from stream.errors import BrokerUnreachable, DeliveryFailed, TransportError
from stream.kafka import KafkaSink, KafkaSource, LagMeter, TopicSpec, ensure_topics
from stream.messages import CameraState, Frame
from stream.settings import KafkaSettings
from stream.telemetry import DELIVERIES_FAILED, FRAMES_DROPPED, FRAMES_SENT, QUEUE_BYTES

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
        assert QUEUE_BYTES.labels(spec.name)._value.get() == 0


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


@pytest.fixture
def nowhere() -> KafkaSettings:
    """No broker is there."""
    return KafkaSettings(
        bootstrap_servers=f"127.0.0.1:{free_port()}", connect_timeout_s=60, delivery_timeout_s=1, buffer_mib=2
    )


def test_who_sends_hears_of_what_the_delivering_thread_could_not_do(nowhere, spec):
    impatient = nowhere.model_copy(update={"connect_timeout_s": 1.0})
    with contextlib.closing(KafkaSink(impatient, spec, lambda _: 0, policy="shed")) as sink:
        sink._thread.join(30)
        with pytest.raises(BrokerUnreachable, match="no Kafka broker answers"):
            sink.send([frame(0, clock="rtcp")])


def test_of_a_live_camera_frames_are_shed_and_nothing_else(nowhere, spec):
    camera = f"camera-{spec.name}"
    ended = CameraState(site="yard", camera=camera, stream=0, captured_at=0, ingested_at=0, state="end")
    sink = KafkaSink(nowhere, spec, lambda _: 0, policy="shed")
    with contextlib.closing(sink):
        sink.send([ended, frame(0, camera=camera)])
        sink.send(frame(n, clock="rtcp", size=100_000, camera=camera) for n in range(1, 60))
        assert [outgoing.live for outgoing in list(sink._waiting)[:3]] == [False, False, True]
        assert sink._waiting[0].data == encode(ended)
        shed = FRAMES_DROPPED.labels(camera, "broker")._value.get()
        assert shed == 61 - len(sink._waiting)
        with pytest.raises(DeliveryFailed, match="buffer_mib"):
            sink.send(frame(n, size=100_000, camera=camera) for n in range(60, 120))
        waiting = sum(outgoing.live for outgoing in sink._waiting)
    assert waiting == 0, "a file's frames take the place of a live camera's"
    assert FRAMES_DROPPED.labels(camera, "broker")._value.get() == 59, (
        "a file's are not counted as shed: it sends them again"
    )


class LearningOfAPartition(KafkaSink[Frame]):
    """As if the producer knew nothing of partition 1 in the first round."""

    rounds = 0

    def _deliver(self, producer: Any, round_: list[Any]) -> None:
        class Producer:
            def send(self, topic: str, data: bytes, partition: int) -> Any:
                if partition == 1:
                    raise ValueError("Unrecognized partition")
                return producer.send(topic, data, partition=partition)

        self.rounds += 1
        super()._deliver(Producer() if self.rounds == 1 else producer, round_)


def test_a_round_that_could_not_be_sent_whole_goes_on_where_it_stopped_in_the_same_order(settings, spec):
    with contextlib.closing(LearningOfAPartition(settings, spec, lambda message: message.sequence % 2)) as sink:
        sink.send(frame(n) for n in range(10))  # all are queued before it is connected
        sink.flush()
        assert sink.rounds == 2
    found: dict[int, list[int]] = {0: [], 1: []}
    with contextlib.closing(KafkaSource(settings, spec.name, None, FRAMES, partitions=[0, 1])) as source:
        ends, batches = source.ends([0, 1]), source.batches()
        while not source.drained(ends):
            for record in next(batches):
                found[record.partition].append(record.message.sequence)
    assert found == {0: [0, 2, 4, 6, 8], 1: [1, 3, 5, 7, 9]}


class Unanswered(KafkaSink[Frame]):
    """As if the broker hung until it is let go."""

    let_go = threading.Event()

    def _deliver(self, producer: Any, round_: list[Any]) -> None:
        self.let_go.wait(30)
        super()._deliver(producer, round_)


def test_a_live_camera_does_not_wait_either_where_all_that_could_be_shed_is_on_its_way(settings, spec):
    camera = f"camera-{spec.name}"
    tight = settings.model_copy(update={"buffer_mib": 2, "delivery_timeout_s": 2.0})
    three = TopicSpec(spec.name, 3, 600)
    with contextlib.closing(Unanswered(tight, three, lambda message: message.sequence % 3, policy="shed")) as sink:
        sink.send(frame(n, clock="rtcp", size=690_000, camera=camera) for n in range(3))
        wait_for(lambda: sink._flying == 3, "all are on their way")
        sink.send([frame(3, clock="rtcp", size=100_000, camera=camera)])
        sink.let_go.set()
    assert FRAMES_DROPPED.labels(camera, "broker")._value.get() == 1
    assert FRAMES_SENT.labels(camera)._value.get() == 3


class LosingTheFirst(KafkaSink[Frame]):
    """As if the first message of a round were lost on its way, and those behind it got through."""

    def _deliver(self, producer: Any, round_: list[Any]) -> None:
        class Producer:
            def send(self, topic: str, data: bytes, partition: int) -> Any:
                if data == round_[0].data:
                    return Future().failure(RequestTimedOutError())
                return producer.send(topic, data, partition=partition)

        super()._deliver(Producer(), round_)


def test_a_message_that_was_overtaken_is_an_error_and_is_not_sent_behind_the_other(settings, spec):
    with contextlib.closing(LosingTheFirst(settings, spec, lambda _: 0)) as sink:
        sink.send([frame(0), frame(1)])  # both are queued before it is connected
        with pytest.raises(TransportError, match="overtaken by the one behind it and is lost"):
            sink.flush()
    assert sequences(settings, spec, 1) == [1]


def test_a_writer_that_never_found_a_broker_counts_what_it_lost_and_leaves_nothing_running(nowhere, spec, caplog):
    sink = KafkaSink(nowhere, spec, lambda _: 0)
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
