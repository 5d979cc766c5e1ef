"""Topics: made when missing, given partitions when cameras come, measured by how far a group lags."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import (
    CoordinatorNotAvailableError,
    InvalidPartitionsError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
)

from stream.errors import TransportError
from stream.kafka_client import MAX_BATCH_BYTES, build, client_config, connect, kafka_errors
from stream.settings import KafkaSettings
from stream.telemetry import CONSUMER_LAG

R = TypeVar("R")

DEAD = ".dead"
"""Behind a topic's name: where its dead letters go."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What a topic must be like."""

    name: str
    partitions: int
    retention_s: int
    dead_retention_s: int = 600
    """Of ``<name>.dead``; dead letters are kept as long as frames."""

    @property
    def configs(self) -> dict[str, str]:
        """Kafka's own settings of it."""
        return _configs(self.retention_s)


def _configs(retention_s: int) -> dict[str, str]:
    return {
        "retention.ms": str(retention_s * 1000),
        "segment.ms": str(max(retention_s * 250, 1000)),  # a segment goes as a whole: a quarter late at most
        "max.message.bytes": str(MAX_BATCH_BYTES),
        "message.timestamp.type": "LogAppendTime",  # retention counts from arrival; captured_at may be years ago
        "cleanup.policy": "delete",
    }


def ensure_topics(
    settings: KafkaSettings, specs: Iterable[TopicSpec], stopped: Callable[[], bool] = lambda: False
) -> None:
    """Make the topics and their ``.dead`` ones, and add partitions where there are fewer than asked for.

    Tries for ``connect_timeout_s``, then raises `BrokerUnreachable`. A topic that is there keeps its own retention: where that
    is another one and this client may know it, it is said.
    """
    wanted: dict[str, tuple[int, dict[str, str]]] = {}
    for spec in specs:
        wanted[spec.name] = (spec.partitions, spec.configs)
        if not spec.name.endswith(DEAD):
            wanted[spec.name + DEAD] = (1, _configs(spec.dead_retention_s))

    def ensure(admin: Any) -> None:
        there = {topic["name"]: topic for topic in admin.describe_topics(list(wanted)) if topic["error_code"] == 0}
        for name, (partitions, configs) in wanted.items():
            have = len(there[name]["partitions"]) if name in there else 0
            if name not in there:
                try:
                    admin.create_topics(
                        {
                            name: {
                                "num_partitions": partitions,
                                "replication_factor": settings.replication,
                                "configs": configs,
                            }
                        }
                    )
                    log.info("topic created", extra={"topic": name, "partitions": partitions})
                except TopicAlreadyExistsError:
                    pass  # another worker of the site was first
            elif have < partitions:
                try:
                    admin.create_partitions({name: partitions})
                    log.info("partitions added", extra={"topic": name, "before": have, "now": partitions})
                except InvalidPartitionsError:
                    pass  # likewise
        admin.wait_for_topics(list(wanted))
        _say_other_retention(admin, settings, {name: configs for name, (_, configs) in wanted.items() if name in there})

    _with_admin(
        settings, f"creating topics {', '.join(spec for spec in wanted if not spec.endswith(DEAD))}", ensure, stopped
    )


def _say_other_retention(admin: Any, settings: KafkaSettings, wanted: Mapping[str, Mapping[str, str]]) -> None:
    """Warn of topics that keep their records for longer or shorter than asked; of one whose settings are secret nothing is known."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, ["retention.ms"]) for name in wanted]
    described = admin.describe_configs(asked, config_filter="all") if asked else {}
    for name, configs in described.get("topic", {}).items():
        found, want = configs.get("retention.ms", {}).get("value"), wanted[name]["retention.ms"]
        if found not in (None, want):
            log.warning(
                "topic %s has retention.ms %s, the site asks for %s, and a topic that is there is left as it is; to alter it: "
                "kafka-configs --bootstrap-server %s --alter --entity-type topics --entity-name %s --add-config "
                "retention.ms=%s,segment.ms=%s",
                name, found, want, settings.bootstrap_servers, name, want, wanted[name]["segment.ms"],
            )  # fmt: skip


def topic_id(settings: KafkaSettings, topic: str) -> str:
    """Identity of a topic: another one after it was deleted and made again. Raises `TransportError` when it is missing."""

    return _with_admin(settings, f"topic {topic}", partial(_asked_for, settings, topic))


def _asked_for(settings: KafkaSettings, topic: str, admin: Any) -> str:
    (found,) = admin.describe_topics([topic])
    if found["error_code"] == TopicAuthorizationFailedError.errno:
        raise TopicAuthorizationFailedError
    if found["error_code"]:
        raise TransportError(f"topic {topic} does not exist at {settings.bootstrap_servers}: start ingest first")
    return str(found["topic_id"])


def trouble_with(settings: KafkaSettings, topic: str) -> str:
    """Why `topic` cannot be read now, in one line; empty where it can. One attempt of a few seconds."""
    try:
        _with_admin(settings, f"topic {topic}", partial(_asked_for, settings, topic), lambda: True)
    except TransportError as error:
        return str(error)
    return ""


def group_lag(settings: KafkaSettings, topic: str, group: str) -> dict[int, int]:
    """Partition -> records that the group has not committed; all of them where it never committed.

    Sets the `CONSUMER_LAG` gauge. One call takes a few milliseconds and a connection of its own: ask once a second at most,
    or keep a `LagMeter`.
    """
    meter = LagMeter(settings, topic, group)
    try:
        return meter.measure()
    finally:
        meter.close()


class LagMeter:
    """Asks for a group's lag again and again over one connection."""

    def __init__(self, settings: KafkaSettings, topic: str, group: str) -> None:
        self._settings, self._topic, self._group = settings, topic, group
        self._admin: Any = None

    def measure(self) -> dict[int, int]:
        """Partition -> records not committed. Raises `BrokerUnreachable` within seconds where no broker answers."""
        with kafka_errors(self._settings, f"lag of {self._group}"):
            if self._admin is None:
                self._admin = build(KafkaAdminClient, client_config(self._settings))
            try:
                return self._measure(self._admin)
            except Exception:
                self.close()
                raise

    def close(self) -> None:
        """Disconnect; safe to call twice."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def _measure(self, admin: Any) -> dict[int, int]:
        (found,) = admin.describe_topics([self._topic])
        if found["error_code"] == TopicAuthorizationFailedError.errno:
            raise TopicAuthorizationFailedError
        places = [TopicPartition(self._topic, partition["partition_index"]) for partition in found["partitions"]]
        if not places:
            return {}
        ends = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
        starts = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.EARLIEST))
        try:
            committed = admin.list_group_offsets({self._group: places}).get(self._group, {})
        except CoordinatorNotAvailableError:
            committed = {}  # no group has ever committed anything on this cluster
        lags = {}
        for place in places:
            done = committed[place].offset if place in committed else -1
            lags[place.partition] = max(0, ends[place].offset - max(done, starts[place].offset))
            CONSUMER_LAG.labels(self._topic, str(place.partition)).set(lags[place.partition])
        return lags


def _with_admin(
    settings: KafkaSettings, what: str, act: Callable[[Any], R], stopped: Callable[[], bool] = lambda: False
) -> R:
    def once() -> R:
        admin = build(KafkaAdminClient, client_config(settings))
        try:
            return act(admin)
        finally:
            admin.close()

    return connect(settings, what, once, stopped)
