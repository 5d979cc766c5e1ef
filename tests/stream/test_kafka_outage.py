"""The broker goes away and comes back: nothing hangs, live frames are shed and counted, the rest is kept and delivered in order."""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Iterator

import pytest
from frames import frame
from services import KafkaBroker, free_port, wait_for

from stream.codec import FRAMES
from stream.errors import BrokerUnreachable, DeliveryFailed
from stream.kafka import KafkaSink, KafkaSource, TopicSpec, ensure_topics, group_lag
from stream.messages import CameraState
from stream.settings import KafkaSettings
from stream.stage import Pass, as_messages, run
from stream.telemetry import DELIVERIES_FAILED, FRAMES_DROPPED, FRAMES_SENT

RECOVERY_S = 10.0

pytestmark = pytest.mark.usefixtures("refused_connections")


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[KafkaBroker]:
    """A broker of this file's own, to be stopped and started."""
    broker = KafkaBroker(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def settings(broker) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers=broker.address, prefix="", connect_timeout_s=60, delivery_timeout_s=3, buffer_mib=2
    )


@pytest.fixture
def spec() -> TopicSpec:
    return TopicSpec(f"yard-{uuid.uuid4().hex[:8]}", 1, 600)


def sequences(settings: KafkaSettings, topic: str, last: int, timeout_s: float = 60) -> list[int]:
    """What lies on the topic, up to the frame `last`."""
    found: list[int] = []
    deadline = time.monotonic() + timeout_s
    with contextlib.closing(KafkaSource(settings, topic, None, FRAMES, partitions=[0])) as source:
        for batch in source.batches():
            found += [record.message.sequence for record in batch]
            if last in found:
                return found
            assert time.monotonic() < deadline, found
    return found


def dropped(camera: str) -> float:
    return FRAMES_DROPPED.labels(camera, "broker")._value.get()


def sent(camera: str) -> float:
    return FRAMES_SENT.labels(camera)._value.get()


def test_a_wrong_port_is_one_line_within_the_time_out():
    settings = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}", connect_timeout_s=1)
    started = time.monotonic()
    with pytest.raises(
        BrokerUnreachable, match=r"no Kafka broker answers at 127\.0\.0\.1:.*bootstrap_servers"
    ) as caught:
        ensure_topics(settings, [TopicSpec("yard", 1, 600)])
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 10
    with contextlib.closing(KafkaSink(settings, TopicSpec("yard", 1, 600), lambda _: 0)) as sink:
        sink.send([frame(0)])
        with pytest.raises(BrokerUnreachable, match="no Kafka broker answers"):
            sink.flush()
    with pytest.raises(BrokerUnreachable, match="no Kafka broker answers"):
        next(KafkaSource(settings, "yard", "g", FRAMES).batches())


def test_a_broker_that_is_away_at_start_is_waited_for(broker, settings, spec):
    broker.kill()
    camera = f"live-{spec.name}"
    live = KafkaSink(settings, spec, lambda _: 0, policy="shed")
    waiting = KafkaSink(settings, spec, lambda _: 0)
    try:
        waiting.send([frame(0)])
        with pytest.raises(DeliveryFailed, match="not acknowledged within 3 s"):
            waiting.flush()
        for n in range(1, 40):  # 4 MB into a budget of 2
            live.send([frame(n, clock="arrival", size=100_000, camera=camera)])
        live.flush()
        assert dropped(camera) >= 19
    finally:
        broker.start()
    back = time.monotonic()

    def delivered() -> bool:
        with contextlib.suppress(DeliveryFailed):
            waiting.flush()
            return True
        return False

    wait_for(delivered, "what a file sent delivered", RECOVERY_S)
    wait_for(lambda: not live._waiting and not live._flying, "live frames delivered", RECOVERY_S)
    assert time.monotonic() - back < RECOVERY_S
    found = sequences(settings, spec.name, 39)
    assert 0 in found, "what a file sent was kept"
    kept = [n for n in found if n]
    assert kept == list(range(40 - len(kept), 40)), "of a live camera the newest were kept, in order"
    assert dropped(camera) == 39 - len(kept)
    live.close()
    waiting.close()


@pytest.mark.parametrize("how", ["killed", "hung"])
def test_a_file_waits_for_a_broker_that_went_away_and_nothing_is_lost(broker, settings, spec, how):
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
        sink.send(frame(n) for n in range(20))
        sink.flush()
        broker.kill() if how == "killed" else broker.pause()
        started = time.monotonic()
        sink.send(frame(n) for n in range(20, 60))
        with pytest.raises(DeliveryFailed, match="not acknowledged within 3 s"):
            sink.flush()
        assert time.monotonic() - started < 2 * settings.delivery_timeout_s, "nothing hangs past its time-out"
        with pytest.raises(DeliveryFailed):
            sink.flush()
        broker.start() if how == "killed" else broker.resume()
        back = time.monotonic()
        while True:
            with contextlib.suppress(DeliveryFailed):
                sink.flush()
                break
            assert time.monotonic() - back < RECOVERY_S
        assert time.monotonic() - back < RECOVERY_S
        assert sink._size == 0, "each message counts against the budget once, however often it was tried"
    found = sequences(settings, spec.name, 59)
    assert list(dict.fromkeys(found)) == list(range(60)), "in order, none missing; repeats are dropped by who reads"
    assert DELIVERIES_FAILED.labels(spec.name)._value.get() > 0, "what was not acknowledged in time shows"


def test_a_budget_bounds_what_waits_for_the_broker(broker, settings, spec):
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
        sink.send([frame(0)])
        sink.flush()
        broker.pause()
        try:
            started = time.monotonic()
            with pytest.raises(DeliveryFailed, match=r"all that \[kafka\] buffer_mib allows"):
                sink.send(frame(n, size=100_000) for n in range(1, 40))
            assert time.monotonic() - started < 2 * settings.delivery_timeout_s
            assert sink._size <= 2 << 20
        finally:
            broker.resume()


def test_live_frames_are_shed_while_the_broker_hangs_and_the_newest_arrive(broker, settings, spec):
    camera = f"live-{spec.name}"
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0, policy="shed")) as sink:
        sink.send([frame(0, clock="rtcp", camera=camera)])
        sink.flush()
        broker.pause()
        try:
            started = time.monotonic()
            sink.send(frame(n, clock="rtcp", size=100_000, camera=camera) for n in range(1, 60))
            assert time.monotonic() - started < settings.delivery_timeout_s, "a live camera never waits"
            sink.flush()
            assert time.monotonic() - started < 2 * settings.delivery_timeout_s
        finally:
            broker.resume()
        found = sequences(settings, spec.name, 59)
    assert dropped(camera) == 60 - len(set(found))
    assert dropped(camera) > 30
    assert list(dict.fromkeys(found)) == sorted(set(found))


def test_cameras_that_are_idle_while_there_is_no_broker_hold_nobody_up():
    """Each says so four times a second, and nothing else: a night of that is more than the budget."""
    settings = KafkaSettings(
        bootstrap_servers=f"127.0.0.1:{free_port()}", connect_timeout_s=60, delivery_timeout_s=1, buffer_mib=2
    )
    sink = KafkaSink(settings, TopicSpec("yard", 1, 600), lambda _: 0, policy="shed")
    with contextlib.closing(sink):
        sink.send(
            CameraState(site="yard", camera="gate", stream=0, captured_at=n, ingested_at=0, state="idle")
            for n in range(30_000)
        )
        assert sink._size <= 2 << 20
        assert dropped("gate") == 0, "no frame was lost"


def test_an_outage_is_said_when_it_begins_and_when_it_ends(broker, settings, spec, caplog):
    with (
        caplog.at_level(logging.INFO, logger="stream.kafka_sink"),
        contextlib.closing(KafkaSink(settings, spec, lambda _: 0, policy="shed")) as sink,
    ):
        sink.send([frame(0)])
        wait_for(lambda: sent("gate") > 0 and not sink._size, "delivered")
        broker.pause()
        try:
            sink.send([frame(1)])
            wait_for(lambda: "tried again until it is" in caplog.text, "the outage is said")
        finally:
            broker.resume()
        wait_for(lambda: not sink._size, "delivered after all")
        wait_for(lambda: "takes messages again" in caplog.text, "its end is said")
    assert len([record for record in caplog.records if record.name == "stream.kafka_sink"]) == 2, "not each attempt"


def test_a_reader_says_once_why_nothing_comes(broker, settings, spec, caplog):
    ensure_topics(settings, [spec])
    impatient = settings.model_copy(update={"connect_timeout_s": 1.0})
    with (
        caplog.at_level(logging.INFO, logger="stream.kafka_source"),
        contextlib.closing(KafkaSource(impatient, spec.name, f"{spec.name}-g", FRAMES)) as source,
    ):
        batches = source.batches()
        next(batches)
        broker.pause()
        try:
            wait_for(lambda: not next(batches) and "no Kafka broker answers" in caplog.text, "the outage is said")
        finally:
            broker.resume()
        wait_for(lambda: not next(batches) and "can be read again" in caplog.text, "its end is said")
    assert caplog.text.count("no Kafka broker answers") == 1, "not each attempt"


def test_a_reader_that_waits_for_its_topic_says_so(broker, settings, spec, caplog):
    impatient = settings.model_copy(update={"connect_timeout_s": 1.0})
    with contextlib.closing(KafkaSource(impatient, spec.name, f"{spec.name}-g", FRAMES)) as source:
        batches = source.batches()
        wait_for(lambda: not next(batches) and "does not exist" in caplog.text, "said")
        ensure_topics(settings, [spec])
        with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
            sink.send([frame(0)])
            sink.flush()
        wait_for(lambda: bool(next(batches)), "read all the same")


def test_closing_while_the_broker_hangs_is_bounded_and_counts_what_is_lost(broker, settings, spec):
    camera = f"live-{spec.name}"
    sink = KafkaSink(settings, spec, lambda _: 0, policy="shed")
    sink.send([frame(0, clock="rtcp", camera=camera)])
    wait_for(lambda: sent(camera) == 1, "the first frame is delivered")
    broker.pause()
    try:
        sink.send(frame(n, clock="rtcp", camera=camera) for n in range(1, 6))
        started = time.monotonic()
        sink.close()
        sink.close()
        assert time.monotonic() - started < 3 * settings.delivery_timeout_s
    finally:
        broker.resume()
    assert (sent(camera), dropped(camera)) == (1, 5)


def test_closing_does_not_wait_for_a_broker_that_is_known_to_be_away(broker, settings, spec):
    patient = settings.model_copy(update={"delivery_timeout_s": 10.0})
    sink = KafkaSink(patient, spec, lambda _: 0)
    sink.send([frame(0)])
    sink.flush()
    broker.kill()
    try:
        sink.send([frame(1)])
        wait_for(lambda: sink._away, "the first delivery fails")
        failed, started = DELIVERIES_FAILED.labels(spec.name)._value.get(), time.monotonic()
        sink.close()
        assert time.monotonic() - started < patient.delivery_timeout_s
    finally:
        broker.start()
    assert DELIVERIES_FAILED.labels(spec.name)._value.get() == failed + 1, "what is lost is counted"


def test_a_reader_closes_though_the_broker_is_gone_and_what_it_could_not_commit_is_read_again(broker, settings, spec):
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
        sink.send([frame(0)])
        sink.flush()
    source = KafkaSource(settings, spec.name, f"{spec.name}-g", FRAMES)
    batch = next(batch for batch in source.batches() if batch)
    broker.kill()
    try:
        source.commit(batch)
        started = time.monotonic()
        source.close()
        source.close()
        assert time.monotonic() - started < settings.connect_timeout_s / 2, "a commit and a farewell may take 2 s each"
    finally:
        broker.start()
    with contextlib.closing(KafkaSource(settings, spec.name, f"{spec.name}-g", FRAMES)) as source:
        again = next(batch for batch in source.batches() if batch)
    assert [record.message.sequence for record in again] == [0]


def test_a_reader_goes_on_after_the_broker_came_back(broker, settings, spec):
    ensure_topics(settings, [spec])
    got: list[int] = []
    stop = threading.Event()

    class Into:
        def send(self, messages) -> None:
            got.extend(message.sequence for message in messages)

        def flush(self) -> None: ...

        def close(self) -> None: ...

    source = KafkaSource(settings, spec.name, f"{spec.name}-g", FRAMES)
    kwargs = {"prepare": as_messages, "name": "t", "stop": stop}
    reader = threading.Thread(target=run, args=(source, Pass(), Into()), kwargs=kwargs)
    reader.start()
    try:
        with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
            sink.send([frame(0)])
            sink.flush()
            wait_for(lambda: got == [0], "the first frame is read")
            broker.kill()
            time.sleep(1)
            broker.start()
            back = time.monotonic()
            sink.send([frame(1)])
            wait_for(lambda: 1 in got, "reading goes on", RECOVERY_S)
            assert time.monotonic() - back < RECOVERY_S
        wait_for(lambda: group_lag(settings, spec.name, f"{spec.name}-g") == {0: 0}, "committed after the outage")
    finally:
        stop.set()
        reader.join(20)
        source.close()
    assert not reader.is_alive()
