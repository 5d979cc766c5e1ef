"""Frames, embeddings and match events over Kafka: one topic each per site, made when missing."""

import threading
from collections.abc import Mapping

from deploy.buses import FromCamera, FromPerceive
from deploy.settings import Settings
from ingest.jpeg import shrink
from matcher.events import last_number
from matcher.start import EmbeddingsSource
from stream.codec import EMBEDDINGS, FRAMES
from stream.errors import BrokerUnreachable
from stream.kafka import KafkaSink, KafkaSource, LagMeter, TopicSpec, ensure_topics, topic_id
from stream.kafka_sink import Policy
from stream.messages import Frame, MatchEvent
from stream.settings import KafkaSettings
from stream.transport import Sink, Source

DRAIN_POLL_S = 0.2


class KafkaBus:
    """See `deploy.buses.Bus`. Topics are ``<prefix><site>.frames``, ``.embeddings``, ``.matches``; groups end likewise."""

    lasting = True
    most_lag, ask_every_s = 500, 1.0

    def __init__(
        self, settings: Settings, kafka: KafkaSettings, stop: threading.Event, *, wait_for_broker: bool = True
    ) -> None:
        """Makes missing topics and partitions. Raises `BrokerUnreachable` when no broker answers in time.

        Without `wait_for_broker` the sinks make their topics once there is a broker: live cameras shed until then.
        """
        self._settings, self._kafka, self._stop = settings, kafka, stop
        self._partitions = settings.partitions
        keep, count = settings.site.retention, max(self._partitions.values()) + 1
        self.base = f"{kafka.prefix}{settings.site.name}"
        self.frames = TopicSpec(f"{self.base}.frames", count, keep.frames_s, keep.frames_s)
        self.embeddings = TopicSpec(f"{self.base}.embeddings", count, keep.embeddings_s, keep.frames_s)
        self.matches = TopicSpec(f"{self.base}.matches", 1, keep.matches_s, keep.frames_s)
        self._frames_lag = _Lag(LagMeter(kafka, self.frames.name, self.perceive_group))
        self._embeddings_lag = _Lag(LagMeter(kafka, self.embeddings.name, self.match_group))
        self._frames_sources: list[KafkaSource[FromCamera]] = []
        self._embeddings_sources: list[KafkaSource[FromPerceive]] = []
        if wait_for_broker:
            ensure_topics(kafka, [self.frames, self.embeddings, self.matches], stop.is_set)

    @property
    def perceive_group(self) -> str:
        """Of all perceive workers: they share the frames."""
        return f"{self.base}.perceive"

    @property
    def match_group(self) -> str:
        """Shows how far the matcher is; it keeps its own offsets in the gallery."""
        return f"{self.base}.match"

    def frames_sink(self) -> Sink[FromCamera]:
        """See `Bus`."""
        policy: Policy = "shed" if self._settings.live else "wait"
        return KafkaSink(self._kafka, self.frames, self._partition, policy=policy, shrink=_smaller)

    def frames_source(self) -> Source[FromCamera]:
        """See `Bus`."""
        source = KafkaSource(self._kafka, self.frames.name, self.perceive_group, FRAMES)
        self._frames_sources.append(source)
        return source

    def frames_lag(self) -> Mapping[int, int]:
        """See `Bus`."""
        return self._frames_lag.measure()

    def frames_end(self) -> None:
        """See `Bus`. The topic stays open: the readers of this process end when they have caught up."""
        self._drain(self._frames_lag)
        for source in self._frames_sources:
            source.close()

    def embeddings_sink(self) -> Sink[FromPerceive]:
        """See `Bus`."""
        return KafkaSink(self._kafka, self.embeddings, self._partition)

    def embeddings_source(self) -> EmbeddingsSource:
        """See `Bus`."""
        places = range(self.embeddings.partitions)
        remedy = "start the matcher with --skip-lost, or give the topic a longer retention"
        source = KafkaSource(
            self._kafka, self.embeddings.name, self.match_group, EMBEDDINGS, partitions=places, remedy=remedy
        )
        self._embeddings_sources.append(source)
        return source

    def embeddings_lag(self) -> Mapping[int, int]:
        """See `Bus`."""
        return self._embeddings_lag.measure()

    def embeddings_end(self) -> None:
        """See `Bus`."""
        self._drain(self._embeddings_lag)
        for source in self._embeddings_sources:
            source.close()

    def matches_sink(self) -> Sink[MatchEvent]:
        """The relay writes here."""
        return KafkaSink(self._kafka, self.matches, lambda _: 0)

    def last_number(self) -> int | None:
        """Number of the newest event in matches; None when it holds none."""
        return last_number(self._kafka, self.matches.name)

    def matches_id(self) -> str:
        """Identity of the matches topic: another one after it was deleted and made again."""
        return topic_id(self._kafka, self.matches.name)

    def close(self) -> None:
        """Disconnect what measures; safe to call twice."""
        self._frames_lag.close()
        self._embeddings_lag.close()

    def _partition(self, message: FromCamera | FromPerceive) -> int:
        return self._partitions[message.camera]

    def _drain(self, lag: "_Lag") -> None:
        mine = range(self.embeddings.partitions)  # what is left of a camera that was taken out nobody reads
        while not self._stop.wait(DRAIN_POLL_S):
            left = lag.now()
            if left is not None and not any(records for partition, records in left.items() if partition in mine):
                return


class _Lag:
    """A group's lag; while no broker answers, what it was."""

    def __init__(self, meter: LagMeter) -> None:
        self._meter = meter
        self._lock = threading.Lock()
        self._known: Mapping[int, int] = {}

    def measure(self) -> Mapping[int, int]:
        self.now()
        return self._known

    def now(self) -> Mapping[int, int] | None:
        """None while no broker answers: what it was says nothing about an end."""
        with self._lock:
            try:
                self._known = self._meter.measure()
            except BrokerUnreachable:
                return None
            return self._known

    def close(self) -> None:
        with self._lock:
            self._meter.close()


def _smaller(message: FromCamera) -> FromCamera | None:
    return shrink(message) if isinstance(message, Frame) else None
