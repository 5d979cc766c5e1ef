"""A paused partition goes on where it was, also when nothing else moves."""

import uuid
from contextlib import closing

from stream.codec import FRAMES
from stream.kafka import KafkaSink, KafkaSource, TopicSpec, ensure_topics
from stream.messages import CameraState, Frame
from stream.settings import KafkaSettings

EACH = 300
Message = Frame | CameraState


def state(camera: int, number: int) -> CameraState:
    return CameraState(site="s", camera=f"c{camera}", stream=0, captured_at=number, ingested_at=0, state="idle")


def test_records_fetched_before_a_pause_come_after_it_though_the_other_partition_is_silent(kafka_server: str) -> None:
    settings = KafkaSettings(bootstrap_servers=kafka_server)
    topic = f"pause-{uuid.uuid4().hex[:8]}"
    spec = TopicSpec(topic, 2, 600)
    ensure_topics(settings, [spec])
    with closing(KafkaSink[Message](settings, spec, lambda message: int(message.camera[1:]))) as sink:
        sink.send(state(camera, number) for number in range(EACH) for camera in (0, 1))
        sink.flush()
    source: KafkaSource[Message] = KafkaSource(settings, topic, None, FRAMES, partitions=[0, 1])
    got = {0: 0, 1: 0}
    with closing(source):
        silent = 0
        for batch in source.batches():
            for record in batch:
                got[record.partition] += 1
            silent = 0 if batch else silent + 1
            if got[1] < EACH and got[0] >= EACH // 3:
                source.pause([0])  # while its fetched records wait
            if got[1] == EACH and silent > 3:
                source.resume([0])
            if sum(got.values()) == 2 * EACH or silent > 50:
                break
    assert got == {0: EACH, 1: EACH}
