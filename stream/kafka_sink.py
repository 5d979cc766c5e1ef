"""Messages to a Kafka topic, in order, within a byte budget, with every loss counted.

kafka-python's producer has no bound on memory and cannot take back what it was given, so messages wait here and are handed
over in rounds: of each partition as much as fits one Kafka batch, then all of it is awaited. A round that fails goes back to
the front of the queue as it was. Idempotence is off (with it a hung broker leaves sends unresolved for ever), so order rests on
one request in flight and on one batch per partition and round.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError, RetriableError

from stream.codec import encode
from stream.errors import BrokerUnreachable, DeliveryFailed, MessageTooLarge, TransportError
from stream.kafka_admin import TopicSpec, ensure_topics
from stream.kafka_client import (
    MAX_BATCH_BYTES,
    MAX_RECORD_BYTES,
    REQUEST_TIMEOUT_S,
    build,
    client_config,
    connect,
    kafka_errors,
)
from stream.messages import CameraState, DeadLetter, Frame, Inner, MatchEvent
from stream.settings import KafkaSettings
from stream.telemetry import DELIVERIES_FAILED, FRAMES_DROPPED, FRAMES_SENT, QUEUE_BYTES, Seldom

T = TypeVar("T", bound=Inner | MatchEvent | DeadLetter)
Policy = Literal["wait", "shed"]

_SHED_FLUSH_S = 1.0
_RETRY_S = 0.2

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Outgoing:
    data: bytes
    partition: int
    camera: str | None
    """Of a frame."""
    live: bool
    """May be shed: a frame of a live camera, or that it is idle, which what it says later makes superfluous."""


class KafkaSink(Generic[T]):
    """See `stream.transport.Sink`. Makes its topic as `spec` says, as soon as a broker answers; connecting blocks nobody.

    `policy` says what happens while the broker is away: ``wait`` keeps everything, `send` blocks when the byte budget is
    full; ``shed`` loses the oldest frames of live cameras then (counted, reason ``broker``), and `flush` returns after 1 s.
    `shrink` makes a message smaller that is over 900 kB, or returns None where it cannot; then it is refused and counted
    (reason ``too_large``), or, where it is no frame, `MessageTooLarge` is raised.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        spec: TopicSpec,
        partition_of: Callable[[T], int],
        *,
        policy: Policy = "wait",
        shrink: Callable[[T], T | None] | None = None,
    ) -> None:
        client_config(settings)  # says at once what is wrong without a broker
        self._settings, self._spec, self._policy = settings, spec, policy
        self._partition_of, self._shrink = partition_of, shrink
        self._budget = settings.buffer_mib << 20
        self._waiting: deque[_Outgoing] = deque()
        self._flying = 0
        self._size = 0
        """Bytes waiting and in flight."""
        self._failed: Exception | None = None
        self._closed = False
        self._away = False
        """The last round failed."""
        self._changed = threading.Condition()
        self._bytes = QUEUE_BYTES.labels(spec.name)
        self._say_too_large, self._say_trouble = Seldom(), Seldom()
        self._thread = threading.Thread(target=self._run, name=f"deliver {spec.name}", daemon=True)
        self._thread.start()

    def send(self, messages: Iterable[T]) -> None:
        """Queue messages. Raises `DeliveryFailed`, without having taken the message, when there is no room for as long as the
        delivery time-out; what a wrong address, password or permission causes is raised here too."""
        for message in messages:
            data = self._encode(message)
            if data is None:
                continue
            partition = self._partition_of(message)
            if not 0 <= partition < self._spec.partitions:
                raise TransportError(
                    f"topic {self._spec.name} has {self._spec.partitions} partitions, a message asks for {partition}"
                )
            camera = message.camera if isinstance(message, Frame) else None
            self._enqueue(_Outgoing(data, partition, camera, _may_be_shed(message)))

    def flush(self) -> None:
        """Return when everything sent is acknowledged. Raises `DeliveryFailed` after the delivery time-out; what is not
        delivered stays queued, so that `flush` may be called again. With ``shed`` it returns after 1 s at the latest."""
        timeout_s = _SHED_FLUSH_S if self._policy == "shed" else self._settings.delivery_timeout_s
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._waiting or self._flying:
                self._raise_failure()
                left = deadline - time.monotonic()
                if left <= 0:
                    if self._policy == "shed":
                        return
                    raise DeliveryFailed(
                        f"topic {self._spec.name}: {len(self._waiting) + self._flying} messages not acknowledged within "
                        f"{timeout_s:g} s by {self._settings.bootstrap_servers}"
                    )
                self._changed.wait(left)
            self._raise_failure()

    def close(self) -> None:
        """Give what is queued the delivery time-out, unless the broker is away already, and disconnect; safe to call twice."""
        if not (self._closed or self._away):
            with contextlib.suppress(Exception):  # said when it happened, or counted below
                self.flush()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=self._settings.delivery_timeout_s + REQUEST_TIMEOUT_S)
        with self._changed:
            lost, self._waiting = self._waiting, deque()
        if lost:
            DELIVERIES_FAILED.labels(self._spec.name).inc(len(lost))
            log.warning("closed with messages undelivered", extra={"topic": self._spec.name, "messages": len(lost)})
        for outgoing in lost:
            _count_shed(outgoing)

    def _encode(self, message: T) -> bytes | None:
        data = encode(message)
        if len(data) > MAX_RECORD_BYTES and self._shrink is not None:
            smaller = self._shrink(message)
            data = data if smaller is None else encode(smaller)
        if len(data) <= MAX_RECORD_BYTES:
            return data
        DELIVERIES_FAILED.labels(self._spec.name).inc()
        said = f"topic {self._spec.name}: a message of {len(data):,} bytes, at most {MAX_RECORD_BYTES:,} are taken"
        if not isinstance(message, Frame):
            raise MessageTooLarge(said)
        FRAMES_DROPPED.labels(message.camera, "too_large").inc()
        self._say_too_large(log, "%s: set a smaller width", said, camera=message.camera)
        return None

    def _enqueue(self, outgoing: _Outgoing) -> None:
        deadline = time.monotonic() + self._settings.delivery_timeout_s
        with self._changed:
            while self._size and self._size + len(outgoing.data) > self._budget:
                self._raise_failure()
                if self._policy == "shed" and self._shed_oldest():
                    continue
                if self._policy == "shed" and outgoing.live:  # all the rest is in flight
                    _count_shed(outgoing)
                    return
                left = deadline - time.monotonic()
                if left <= 0:
                    raise DeliveryFailed(
                        f"topic {self._spec.name}: {self._size >> 20} MiB wait for {self._settings.bootstrap_servers}, which is "
                        f"all that [kafka] buffer_mib allows"
                    )
                self._changed.wait(left)
            self._raise_failure()
            self._waiting.append(outgoing)
            self._size += len(outgoing.data)
            self._bytes.set(self._size)
            self._changed.notify_all()

    def _shed_oldest(self) -> bool:
        for place, outgoing in enumerate(self._waiting):
            if outgoing.live:
                del self._waiting[place]
                self._size -= len(outgoing.data)
                _count_shed(outgoing)
                return True
        return False

    def _raise_failure(self) -> None:
        if self._closed:
            raise TransportError(f"topic {self._spec.name}: this sink is closed")
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        """The delivering thread: connect once, then one round after the other."""
        producer = None
        try:
            what = f"topic {self._spec.name}"
            ensure_topics(self._settings, [self._spec], lambda: self._closed)
            producer = connect(self._settings, what, self._producer, lambda: self._closed)
            while round_ := self._next_round():
                with kafka_errors(self._settings, what):
                    self._deliver(producer, round_)
                if self._away:
                    self._find_topic_again()
        except Exception as error:  # handed to the thread that sends or flushes, which raises it
            with self._changed:
                self._failed = error
                self._changed.notify_all()
        finally:
            if producer is not None:
                with contextlib.suppress(KafkaTimeoutError):  # unflushed: counted by `close`
                    producer.close(timeout=1)

    def _find_topic_again(self) -> None:
        """Wait for a broker that is away, and make the topic again where somebody has deleted it or taken partitions off."""
        try:
            ensure_topics(self._settings, [self._spec], lambda: self._closed)
        except BrokerUnreachable:
            pass  # that nothing is acknowledged was said
        except TransportError as error:  # a new password, or no right to make it: somebody else has to mend that
            self._say_trouble(log, "%s; tried again", error)
        with self._changed:
            self._changed.wait_for(lambda: self._closed, _RETRY_S)

    def _producer(self) -> Any:
        delivery_ms = int(self._settings.delivery_timeout_s * 1000)
        config = {
            **client_config(self._settings),
            "request_timeout_ms": int(min(REQUEST_TIMEOUT_S, self._settings.delivery_timeout_s / 2) * 1000),
            "enable_idempotence": False,
            "max_in_flight_requests_per_connection": 1,
            "acks": "all",
            "retries": delivery_ms // 100,  # one each 100 ms of back-off: bounded, and the time-out ends them first
            "delivery_timeout_ms": delivery_ms,
            "max_block_ms": 1000,
            "batch_size": MAX_BATCH_BYTES,
            "max_request_size": 16 << 20,  # one round of many partitions
            "linger_ms": 1,  # a round's messages of one partition become one batch
            "metrics_enabled": False,
        }
        return build(KafkaProducer, config)

    def _next_round(self) -> list[_Outgoing]:
        """Up to one batch per partition, in order; empty when the sink is closed."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return []
                self._changed.wait()
            if self._closed:
                return []
            taken: list[_Outgoing] = []
            kept: deque[_Outgoing] = deque()
            sizes: dict[int, int] = {}
            for outgoing in self._waiting:
                size = sizes.get(outgoing.partition, 0) + len(outgoing.data) + 100  # Kafka's own fields of a record
                sizes[outgoing.partition] = size
                (taken if size <= MAX_RECORD_BYTES + 100 else kept).append(outgoing)
            self._waiting, self._flying = kept, len(taken)
            return taken

    def _deliver(self, producer: Any, round_: list[_Outgoing]) -> None:
        """Send a round and wait for it. What failed goes back, unless something behind it in its partition got through."""
        futures = []
        for outgoing in round_:
            try:
                futures.append(producer.send(self._spec.name, outgoing.data, partition=outgoing.partition))
            except (RetriableError, ValueError):
                break  # the topic, or this partition of it, is not known: nothing of the rest was taken
        deadline = time.monotonic() + self._settings.delivery_timeout_s + REQUEST_TIMEOUT_S
        for future in futures:
            with contextlib.suppress(Exception):
                future.get(timeout=max(0.0, deadline - time.monotonic()))
        succeeded = [future.succeeded() for future in futures] + [False] * (len(round_) - len(futures))
        last_good = {outgoing.partition: place for place, outgoing in enumerate(round_) if succeeded[place]}
        again, final = [], None
        for place, outgoing in enumerate(round_):
            if succeeded[place]:
                if outgoing.camera is not None:
                    FRAMES_SENT.labels(outgoing.camera).inc()
                continue
            DELIVERIES_FAILED.labels(self._spec.name).inc()
            again.append(outgoing)
            error = futures[place].exception if place < len(futures) else None
            if error is not None and not isinstance(error, RetriableError):
                final = final or error
            elif place < last_good.get(outgoing.partition, -1):
                final = final or TransportError(
                    f"topic {self._spec.name}: a message was overtaken by the one behind it and is lost"
                )
        with self._changed:
            self._waiting.extendleft(reversed(again))
            self._flying = 0
            before, self._away = self._away, bool(again)
            self._size -= sum(len(outgoing.data) for outgoing, good in zip(round_, succeeded, strict=True) if good)
            self._bytes.set(self._size)
            self._changed.notify_all()
        if final is not None:
            raise final
        if self._away != before:
            self._say_away_or_back(len(again))

    def _say_away_or_back(self, failed: int) -> None:
        if self._away:
            log.warning(
                "topic %s: not acknowledged by %s; tried again until it is",
                self._spec.name, self._settings.bootstrap_servers, extra={"messages": failed},
            )  # fmt: skip
        else:
            log.info("topic %s: %s takes messages again", self._spec.name, self._settings.bootstrap_servers)


def _may_be_shed(message: Inner | MatchEvent | DeadLetter) -> bool:
    if isinstance(message, CameraState):
        return message.state == "idle"
    return isinstance(message, Frame) and message.clock != "file"


def _count_shed(outgoing: _Outgoing) -> None:
    if outgoing.live and outgoing.camera is not None:
        FRAMES_DROPPED.labels(outgoing.camera, "broker").inc()
