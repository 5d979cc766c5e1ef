"""What is Kafka's alone: topics and their settings, sizes, offsets that are gone, takeover."""

import contextlib
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from frames import frame
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from prometheus_client import REGISTRY
from services import wait_for

from stream import kafka_client
from stream.codec import DEAD_LETTERS, FRAMES, encode
from stream.errors import DeliveryFailed, MessageTooLarge, OffsetGone, TransportError
from stream.kafka import KafkaSink, KafkaSource, LagMeter, TopicSpec, ensure_topics, group_lag, topic_id
from stream.messages import Embeddings, Frame
from stream.settings import KafkaSettings
from stream.telemetry import FRAMES_DROPPED, RECORDS_EXPIRED

pytestmark = pytest.mark.usefixtures("refused_connections")


@pytest.fixture
def admin(kafka_server) -> Iterator[KafkaAdminClient]:
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=kafka_server)) as admin:
        yield admin


def send(settings: KafkaSettings, spec: TopicSpec, *messages: Frame, partition: int = 0) -> None:
    with contextlib.closing(KafkaSink(settings, spec, lambda _: partition)) as sink:
        sink.send(messages)
        sink.flush()


def read(source: KafkaSource[Frame], count: int) -> list[int]:
    found: list[int] = []
    deadline = time.monotonic() + 60
    for batch in source.batches():
        found += [record.message.sequence for record in batch]
        source.commit(batch)
        assert time.monotonic() < deadline, found
        if len(found) >= count:
            break
    return found


def configs(admin: KafkaAdminClient, topic: str) -> dict[str, str]:
    described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
    (found,) = described["topic"].values()
    return {name: entry["value"] for name, entry in found.items()}


def test_a_missing_topic_is_made_with_its_dead_letters_and_all_that_it_needs(settings, spec, admin):
    ensure_topics(settings, [TopicSpec(spec.name, 3, retention_s=3600, dead_retention_s=600)])
    made = configs(admin, spec.name)
    assert made["retention.ms"] == "3600000"
    assert int(made["segment.ms"]) <= 3600000 / 4
    assert made["message.timestamp.type"] == "LogAppendTime"
    assert made["cleanup.policy"] == "delete"
    assert int(made["max.message.bytes"]) >= 1_000_000
    dead = configs(admin, f"{spec.name}.dead")
    assert (dead["retention.ms"], dead["segment.ms"]) == ("600000", "150000")
    assert [len(topic["partitions"]) for topic in admin.describe_topics([spec.name, f"{spec.name}.dead"])] == [3, 1]


def test_a_topic_that_keeps_its_records_longer_than_asked_is_said_with_what_alters_it(settings, spec, admin, caplog):
    ensure_topics(settings, [TopicSpec(spec.name, 1, retention_s=3600)])
    ensure_topics(settings, [TopicSpec(spec.name, 1, retention_s=3600)])
    assert "retention.ms" not in caplog.text
    ensure_topics(settings, [TopicSpec(spec.name, 1, retention_s=600)])
    (line,) = [line for line in caplog.messages if "retention.ms" in line]
    assert f"topic {spec.name} has retention.ms 3600000, the site asks for 600000" in line
    assert f"--entity-name {spec.name} --add-config retention.ms=600000,segment.ms=150000" in line
    assert configs(admin, spec.name)["retention.ms"] == "3600000"


def test_partitions_are_added_when_cameras_come_and_a_reader_sees_them(settings, spec, admin):
    source = KafkaSource(settings, spec.name, f"{spec.name}-g", FRAMES)
    with contextlib.closing(source):
        send(settings, spec, frame(0))
        assert read(source, 1) == [0]
        more = TopicSpec(spec.name, 4, 600)
        send(settings, more, frame(1), partition=3)
        assert len(admin.describe_topics([spec.name])[0]["partitions"]) == 4
        assert read(source, 1) == [1]


def test_fewer_cameras_leave_the_partitions_as_they_are(settings, spec, admin):
    ensure_topics(settings, [spec])
    ensure_topics(settings, [TopicSpec(spec.name, 1, 600)])
    assert len(admin.describe_topics([spec.name])[0]["partitions"]) == 2


def test_the_brokers_clock_stamps_records(settings, spec):
    before = time.time() * 1000 - 5000
    send(settings, spec, frame(0))
    consumer = KafkaConsumer(bootstrap_servers=settings.bootstrap_servers)
    with contextlib.closing(consumer):
        place = TopicPartition(spec.name, 0)
        consumer.assign([place])
        consumer.seek_to_beginning(place)
        ((record,),) = consumer.poll(timeout_ms=10000).values()
    assert record.timestamp_type == 1, "LogAppendTime"
    assert record.timestamp > before, "not captured_at, which is in 1970 here"


def test_a_frame_over_900_kb_is_encoded_again_smaller(settings, spec):
    def smaller(message: Frame) -> Frame:
        return frame(message.sequence, size=500_000)

    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0, shrink=smaller)) as sink:
        sink.send([frame(0, size=2_000_000)])
        sink.flush()
    with contextlib.closing(KafkaSource(settings, spec.name, None, FRAMES, partitions=[0])) as source:
        batch = next(batch for batch in source.batches() if batch)
    assert len(batch[0].message.image) == 500_000


@pytest.mark.parametrize(
    "shrink",
    [
        pytest.param(None, id="nobody can make it smaller"),
        pytest.param(lambda _: None, id="it cannot be made smaller"),
        pytest.param(lambda message: message, id="it is still too large"),
    ],
)
def test_a_frame_that_stays_too_large_is_refused_and_counted(settings, spec, shrink):
    camera = f"camera-{spec.name}"
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0, shrink=shrink)) as sink:
        sink.send([frame(0, size=2_000_000, camera=camera), frame(1, camera=camera)])
        sink.flush()
    assert FRAMES_DROPPED.labels(camera, "too_large")._value.get() == 1
    with contextlib.closing(KafkaSource(settings, spec.name, None, FRAMES, partitions=[0])) as source:
        assert read(source, 1) == [1]


def test_anything_else_that_is_too_large_is_an_error(settings, spec):
    crowd = Embeddings(
        site="yard", camera="gate", stream=0, sequence=0, captured_at=0, ingested_at=0, clock="file", width=4, height=4,
        status="ok", model="m" * 1_000_000,
    )  # fmt: skip
    with (
        contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink,
        pytest.raises(MessageTooLarge, match="at most 900,000"),
    ):
        sink.send([crowd])


def test_a_topic_that_takes_less_than_we_send_is_said_with_the_remedy(settings, spec, admin):
    ensure_topics(settings, [spec])
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, spec.name, {"max.message.bytes": "1000"})])
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
        sink.send([frame(0, size=10_000)])
        with pytest.raises(MessageTooLarge, match=r"raise the topic's max\.message\.bytes"):
            sink.flush()


def test_offsets_that_retention_took_are_gone_with_the_remedy(settings, spec, admin):
    send(settings, spec, *(frame(n) for n in range(10)))
    admin.delete_records({TopicPartition(spec.name, 0): 6})
    own = KafkaSource(settings, spec.name, None, FRAMES, partitions=[0, 1], remedy="ask the archive")
    with contextlib.closing(own), pytest.raises(OffsetGone, match=r"retention removed it; ask the archive$"):
        own.seek({0: 2})
    with contextlib.closing(KafkaSource(settings, spec.name, None, FRAMES, partitions=[0, 1])) as source:
        with pytest.raises(
            OffsetGone,
            match=r"holds offsets 6 to 10, 2 was to be read next: retention removed it; go on with the oldest",
        ):
            source.seek({0: 2})
        source.seek({0: 7})
        assert read(source, 3) == [7, 8, 9]


def test_offsets_that_retention_takes_under_a_reader_are_gone_too(settings, spec, admin):
    send(settings, spec, *(frame(n) for n in range(10)))
    with contextlib.closing(KafkaSource(settings, spec.name, None, FRAMES, partitions=[0, 1], max_records=2)) as source:
        source.seek({0: 1})
        source.pause([0])
        batches = source.batches()
        next(batches)
        admin.delete_records({TopicPartition(spec.name, 0): 10})
        source.resume([0])
        with pytest.raises(OffsetGone, match="1 was to be read next: retention removed it"):
            list(itertools.islice(batches, 100))


def test_a_topic_made_again_has_another_identity_and_its_offsets_are_gone(settings, spec, admin):
    send(settings, spec, *(frame(n) for n in range(5)))
    with contextlib.closing(KafkaSource(settings, spec.name, None, FRAMES, partitions=[0])) as source:
        before = source.topic_id()
    assert topic_id(settings, spec.name) == before, "it stays the same"
    admin.delete_topics([spec.name])
    wait_for(lambda: spec.name not in admin.list_topics(), "the topic is deleted")
    ensure_topics(settings, [spec])
    with contextlib.closing(KafkaSource(settings, spec.name, None, FRAMES, partitions=[0])) as source:
        assert source.topic_id() != before
        with pytest.raises(OffsetGone, match="holds offsets 0 to 0, 5 was to be read next: the topic was deleted"):
            source.seek({0: 5})


def deleted(admin: KafkaAdminClient, topic: str) -> None:
    admin.delete_topics([topic])
    wait_for(lambda: topic not in admin.list_topics(), "the topic is deleted")


def test_a_topic_that_is_deleted_under_its_writer_is_made_again(settings, spec, admin):
    impatient = settings.model_copy(update={"delivery_timeout_s": 1.0})
    with contextlib.closing(KafkaSink(impatient, spec, lambda _: 1)) as sink:
        sink.send([frame(0)])
        sink.flush()
        deleted(admin, spec.name)
        sink.send([frame(1)])

        def delivered() -> bool:
            with contextlib.suppress(DeliveryFailed):
                sink.flush()
                return True
            return False

        wait_for(delivered, "delivered to the new topic")
    assert len(admin.describe_topics([spec.name])[0]["partitions"]) == spec.partitions
    assert configs(admin, spec.name)["retention.ms"] == "600000"


def test_a_writer_whose_topic_was_made_again_with_fewer_partitions_adds_them(settings, spec, admin):
    impatient = settings.model_copy(update={"delivery_timeout_s": 1.0})
    with contextlib.closing(KafkaSink(impatient, spec, lambda _: 1)) as sink:
        sink.send([frame(0)])
        sink.flush()
        deleted(admin, spec.name)
        admin.create_topics({spec.name: {"num_partitions": 1, "replication_factor": 1}})
        sink.send([frame(1)])
        with contextlib.suppress(DeliveryFailed):
            sink.flush()
        wait_for(lambda: not sink._size, "delivered to the new topic")
    assert len(admin.describe_topics([spec.name])[0]["partitions"]) == spec.partitions


@pytest.mark.parametrize("partitions", [2, 1])
def test_a_reader_that_keeps_its_own_offsets_is_told_of_a_topic_made_again(settings, spec, admin, partitions):
    for partition in range(2):
        send(settings, spec, *(frame(n) for n in range(5)), partition=partition)
    source = KafkaSource(settings, spec.name, None, FRAMES, partitions=[0, 1], remedy="ask the archive")
    with contextlib.closing(source):
        assert len(read(source, 10)) == 10
        deleted(admin, spec.name)
        ensure_topics(settings, [TopicSpec(spec.name, partitions, 600)])
        with pytest.raises(OffsetGone, match=r"the topic was deleted and made again[;,]|made again with fewer"):
            list(itertools.islice(source.batches(), 600))


def test_workers_that_add_partitions_at_the_same_time_do_not_trip_over_each_other(settings, spec):
    ensure_topics(settings, [spec])
    for count in (4, 6, 8, 10):
        more = TopicSpec(spec.name, count, 600)
        with ThreadPoolExecutor(4) as workers:
            list(workers.map(lambda _, more=more: ensure_topics(settings, [more]), range(4)))


def test_the_lag_of_what_was_read_to_its_end_is_zero_though_nothing_more_comes(settings, spec):
    def lag(partition: int) -> float | None:
        return REGISTRY.get_sample_value("sightline_consumer_lag", {"topic": spec.name, "partition": str(partition)})

    send(settings, spec, *(frame(n) for n in range(5)))
    with contextlib.closing(KafkaSource(settings, spec.name, f"{spec.name}-g", FRAMES, max_records=2)) as source:
        batches = source.batches()
        wait_for(lambda: bool(next(batches)), "the first batch")
        assert lag(0) == 5
        wait_for(lambda: not next(batches) and lag(0) == 0, "all is read")
        source._forget({0})
        assert lag(0) is None, "another worker has the partition, and measures it"


def test_garbage_between_good_records_is_said_seldom_and_kept_whole(settings, spec, caplog):
    ensure_topics(settings, [spec])
    producer = KafkaProducer(bootstrap_servers=settings.bootstrap_servers, enable_idempotence=False)
    with contextlib.closing(producer):
        for n in range(200):
            producer.send(spec.name, encode(frame(n)) if n % 10 == 0 else b"garbage", partition=0)
        producer.flush()
    with contextlib.closing(KafkaSource(settings, spec.name, f"{spec.name}-g", FRAMES)) as source:
        assert read(source, 20) == list(range(0, 200, 10))
        dead = KafkaSource(settings, f"{spec.name}.dead", None, DEAD_LETTERS, partitions=[0])
        with contextlib.closing(dead):
            letters: list[int] = []
            wait_for(
                lambda: letters.extend(r.message.offset for r in next(dead.batches())) or len(letters) >= 171, "kept"
            )
    assert letters[:171] == [n for n in range(191) if n % 10]
    assert caplog.text.count("dead letter: ") <= 2


def test_a_group_that_retention_overtook_counts_what_it_lost_and_goes_on(settings, spec, admin):
    send(settings, spec, *(frame(n) for n in range(10)))
    group = f"{spec.name}-g"
    with contextlib.closing(KafkaSource(settings, spec.name, group, FRAMES, max_records=3)) as source:
        first = next(batch for batch in source.batches() if batch)
        source.commit(first)
    admin.delete_records({TopicPartition(spec.name, 0): 8})
    with contextlib.closing(KafkaSource(settings, spec.name, group, FRAMES)) as source:
        assert read(source, 2) == [8, 9]
    assert RECORDS_EXPIRED.labels(spec.name, "0")._value.get() == 8 - len(first)


def test_a_missing_topic_is_one_line(settings):
    with pytest.raises(TransportError, match="topic nowhere does not exist at"):
        topic_id(settings, "nowhere")


def test_a_missing_topic_is_said_to_who_reads_named_partitions(settings, spec):
    with contextlib.closing(KafkaSource(settings, spec.name, None, FRAMES, partitions=[0, 1])) as source:
        assert not source.exists()
        with pytest.raises(TransportError, match=f"topic {spec.name} does not exist at .*: start the site first"):
            source.ends([0])
        send(settings, spec, frame(0))
        assert source.exists()
        assert read(source, 1) == [0]


def test_a_reader_may_start_before_its_topic_exists(settings, spec):
    with contextlib.closing(KafkaSource(settings, spec.name, f"{spec.name}-g", FRAMES)) as source:
        batches = source.batches()
        assert not any(len(next(batches)) for _ in range(3))
        send(settings, spec, frame(0))
        assert read(source, 1) == [0]


def test_the_lag_of_a_reader_that_keeps_its_own_offsets_is_seen_too(settings, spec):
    group = f"{spec.name}-match"
    send(settings, spec, *(frame(n) for n in range(4)))
    meter = LagMeter(settings, spec.name, group)
    with (
        contextlib.closing(meter),
        contextlib.closing(KafkaSource(settings, spec.name, group, FRAMES, partitions=[0, 1])) as source,
    ):
        assert meter.measure() == {0: 4, 1: 0}
        read(source, 4)
        source.close()
        assert meter.measure() == {0: 0, 1: 0}


_CRASHING = """
import os, sys
from stream.codec import FRAMES
from stream.kafka import KafkaSource
from stream.settings import KafkaSettings
source = KafkaSource(KafkaSettings(bootstrap_servers=sys.argv[1]), sys.argv[2], sys.argv[3], FRAMES, max_records=5)
committed = 0
for batch in source.batches():
    source.commit(batch)
    committed += len(batch)
    print(committed, flush=True)
"""


def test_a_killed_reader_is_followed_within_its_session_time_out(settings, spec):
    group = f"{spec.name}-g"
    send(settings, spec, *(frame(n) for n in range(10)))
    command = [sys.executable, "-W", "ignore", "-c", _CRASHING, settings.bootstrap_servers, spec.name, group]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as reader:
        assert reader.stdout is not None
        for line in reader.stdout:
            if line.strip() == "10":
                break
        wait_for(lambda: group_lag(settings, spec.name, group)[0] == 0, "committed")
        reader.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    send(settings, spec, frame(10))
    with contextlib.closing(KafkaSource(settings, spec.name, group, FRAMES)) as source:
        assert read(source, 1) == [10], "from the last commit on"
    assert time.monotonic() - killed < 15, "session time-out of 6 s, and the rebalance"


def test_without_crc32c_the_remedy_is_said(settings, monkeypatch):
    monkeypatch.setattr(kafka_client.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TransportError, match=r"the crc32c package is missing.*pip install crc32c"):
        KafkaSource(settings, "yard", "g", FRAMES)


def test_an_embeddings_record_fits_beside_others_in_one_round(settings, spec):
    """Many partitions at once stay within what one request may carry."""
    many = TopicSpec(spec.name, 12, 600)
    with contextlib.closing(KafkaSink(settings, many, lambda m: m.sequence % 12)) as sink:
        sink.send(frame(n, size=800_000) for n in range(36))
        sink.flush()
    with contextlib.closing(KafkaSource(settings, spec.name, None, FRAMES, partitions=range(12))) as source:
        assert sorted(read(source, 36)) == list(range(36))
    assert len(encode(frame(0, size=800_000))) < kafka_client.MAX_RECORD_BYTES
