"""What a reader of named partitions owes: nothing left out when it seeks, its end found, no more held than it has room for."""

import contextlib
import threading
import time
from typing import Any

import pytest
from frames import frame
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from services import wait_for

from stream import kafka_admin, kafka_source
from stream.codec import FRAMES
from stream.errors import OffsetGone
from stream.kafka import KafkaSink, KafkaSource, TopicSpec, ensure_topics
from stream.messages import Frame
from stream.settings import KafkaSettings
from stream.telemetry import RECORDS_EXPIRED

pytestmark = pytest.mark.usefixtures("refused_connections")


def send(settings: KafkaSettings, spec: TopicSpec, count: int) -> None:
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
        sink.send(frame(n) for n in range(count))
        sink.flush()


def garbage(settings: KafkaSettings, spec: TopicSpec) -> None:
    producer = KafkaProducer(bootstrap_servers=settings.bootstrap_servers, enable_idempotence=False)
    with contextlib.closing(producer):
        producer.send(spec.name, b"garbage", partition=0).get(timeout=30)


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


class SoughtMeanwhile(KafkaSource[Frame]):
    """As if its reader sought while records are on their way."""

    wanted: dict[int, int] | None = None

    def _take_in(self, partition: int, record: Any, epoch: int | None) -> None:
        wanted, self.wanted = self.wanted, None
        if wanted is not None:
            self.seek(wanted)
        super()._take_in(partition, record, epoch)


def test_records_that_were_on_their_way_when_the_reader_sought_are_read_again_and_none_counts_as_lost(settings, spec):
    send(settings, spec, 10)
    with contextlib.closing(SoughtMeanwhile(settings, spec.name, None, FRAMES, partitions=[0])) as source:
        source.wanted = {0: 0}
        found: list[int] = []
        batches = source.batches()
        wait_for(lambda: found.extend(r.message.sequence for r in next(batches)) or 9 in found, "all is read")
    assert found == list(range(10))
    assert RECORDS_EXPIRED.labels(spec.name, "0")._value.get() == 0


def test_where_a_reader_of_named_partitions_begins_is_known_before_its_first_batch(settings, spec):
    send(settings, spec, 3)
    with contextlib.closing(KafkaSource(settings, spec.name, None, FRAMES, partitions=[0, 1])) as source:
        assert source.position() == {0: 0, 1: 0}


def test_a_seek_that_fails_for_one_partition_moves_none(settings, spec):
    send(settings, spec, 3)
    with contextlib.closing(KafkaSource(settings, spec.name, None, FRAMES, partitions=[0, 1])) as source:
        with pytest.raises(OffsetGone, match="partition 1 holds offsets 0 to 0, 9 was to be read next"):
            source.seek({0: 2, 1: 9})
        assert source.position() == {0: 0, 1: 0}


def test_a_topic_is_drained_when_the_last_record_was_handed_out_and_not_before(settings, spec):
    send(settings, spec, 3)
    source = KafkaSource(settings, spec.name, None, FRAMES, partitions=[0], max_span_s=0)
    with contextlib.closing(source):
        ends = source.ends([0])
        assert ends == {0: 3}
        assert not source.drained(ends)
        batches, taken = source.batches(), 0
        while taken < 3:
            taken += len(next(batches))
            assert source.drained(ends) == (taken == 3)


def test_a_paused_reader_holds_no_more_than_it_has_room_for(settings, spec):
    send(settings, spec, 100)
    source = KafkaSource(settings, spec.name, None, FRAMES, partitions=[0], max_records=5)
    with contextlib.closing(source):
        source.pause([0])
        batches = source.batches()
        assert not any(next(batches) for _ in range(10))
        assert source._cursors.fetching()[0] <= 5


def test_a_reader_that_may_not_write_says_what_it_skipped_and_keeps_no_letter(settings, spec, caplog):
    ensure_topics(settings, [spec])
    garbage(settings, spec)
    send(settings, spec, 1)
    source = KafkaSource(settings, spec.name, None, FRAMES, partitions=[0], letters=False)
    with contextlib.closing(source):
        batches = source.batches()
        wait_for(lambda: bool(next(batches)), "the good record")
        assert f"deliver {spec.name}.dead" not in threads()
    assert f"skipped: topic {spec.name}, offset 0" in caplog.text


def test_a_dead_letter_is_kept_before_anything_behind_it_is_handed_out(settings, spec):
    ensure_topics(settings, [spec])
    with contextlib.closing(KafkaSource(settings, spec.name, None, FRAMES, partitions=[0])) as source:
        batches = source.batches()
        garbage(settings, spec)
        wait_for(lambda: not next(batches) and source._letters and not source._letters._size, "the first is kept")
        for _ in range(5):
            garbage(settings, spec)
            send(settings, spec, 1)
            wait_for(lambda: bool(next(batches)), "the record behind it")
            assert source._letters is not None
            assert source._letters._size == 0


def test_where_dead_letters_cannot_be_kept_it_is_said_and_the_stream_goes_on(settings, spec, caplog):
    ensure_topics(settings, [spec])
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)) as admin:
        small = ConfigResource(ConfigResourceType.TOPIC, f"{spec.name}.dead", {"max.message.bytes": "10"})
        admin.alter_configs([small])
    with contextlib.closing(KafkaSource(settings, spec.name, None, FRAMES, partitions=[0])) as source:
        batches = source.batches()

        def said() -> bool:
            garbage(settings, spec)
            next(batches)
            return f"dead letters not kept: topic {spec.name}.dead: larger than the broker takes" in caplog.text

        wait_for(said, "said")
        send(settings, spec, 1)
        wait_for(lambda: bool(next(batches)), "the stream goes on")


def test_why_nothing_comes_is_asked_once_in_a_connect_time_out_and_not_at_each_poll(settings, spec, monkeypatch):
    ensure_topics(settings, [spec])
    impatient, asked = settings.model_copy(update={"connect_timeout_s": 1.0}), []

    def ask(*about: Any) -> str:
        asked.append(time.monotonic())
        return kafka_admin.trouble_with(*about)

    monkeypatch.setattr(kafka_source, "trouble_with", ask)
    with contextlib.closing(KafkaSource(impatient, spec.name, None, FRAMES, partitions=[0])) as source:
        batches = source.batches()
        wait_for(lambda: not next(batches) and len(asked) == 2, "asked twice")
    assert asked[1] - asked[0] >= 1.0


def test_a_reader_neither_commits_what_nobody_processed_nor_makes_its_topic(settings, spec):
    """A broker that makes topics by itself would give it one partition, and keep its records for a week."""
    with contextlib.closing(KafkaSource(settings, spec.name, "g", FRAMES)) as source:
        consumer = source._make_consumer()
        with contextlib.closing(consumer):
            assert consumer.config["enable_auto_commit"] is False
            assert consumer.config["allow_auto_create_topics"] is False
