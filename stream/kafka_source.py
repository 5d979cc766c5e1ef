"""Messages from a Kafka topic: as a member of a group, or of named partitions from named offsets."""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from kafka import AsyncConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.coordinator.base import MemberState
from kafka.errors import IllegalStateError, KafkaError, TopicAuthorizationFailedError
from kafka.structs import OffsetAndMetadata

from stream.codec import dead_letter, decode
from stream.cursors import Cursors
from stream.errors import BrokerUnreachable, MessageError, OffsetGone, SightlineError, TransportError
from stream.kafka_admin import DEAD, TopicSpec, topic_id, trouble_with
from stream.kafka_client import build, client_config, connect, kafka_errors
from stream.kafka_sink import KafkaSink
from stream.messages import DeadLetter, Inner, MatchEvent
from stream.settings import KafkaSettings
from stream.telemetry import CONSUMER_LAG, RECORDS_EXPIRED, Seldom
from stream.transport import Record

T = TypeVar("T", bound=Inner | MatchEvent | DeadLetter)

POLL_S = 0.1
SESSION_TIMEOUT_S = 6.0
"""A worker that was killed has its partitions taken over after this."""
_FETCH_BYTES = 16 << 20
_PARTITION_FETCH_BYTES = 4 << 20
_COMMIT_TIMEOUT_S = 2.0
_CHANGING_HANDS = (IllegalStateError, KeyError)
"""What kafka-python raises for a partition that its own thread gives up this very moment."""

log = logging.getLogger(__name__)


class KafkaSource(Generic[T]):
    """See `stream.transport.Source`.

    Without `partitions` it is a member of `group`, which shares the topic out and remembers what was committed. With
    `partitions` it reads exactly those, from the oldest record or from where `seek` says, and its reader keeps the offsets;
    a `group` given as well is told them, so that others can see the lag. `kinds` are what the topic carries (`stream.codec`).
    Without `letters` bytes that cannot be read are counted and logged, but not kept as dead letters: for readers who
    may not write. `remedy` is what its reader's user can do about `OffsetGone`.

    While no broker answers it yields empty batches; one that never answered within ``connect_timeout_s`` is an error.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        group: str | None,
        kinds: tuple[type[T], ...],
        *,
        partitions: Iterable[int] | None = None,
        max_records: int = 64,
        max_span_s: float = 1.0,
        letters: bool = True,
        remedy: str = "go on with the oldest record that is left, or give the topic a longer retention",
    ) -> None:
        client_config(settings)  # says at once what is wrong without a broker
        self._settings, self._topic, self._group, self._kinds = settings, topic, group, kinds
        self._partitions = None if partitions is None else sorted(partitions)
        self._cursors: Cursors[T] = Cursors(max_records, max_span_s)
        self._consumer: Any = None
        self._using = threading.RLock()
        """Held around every use of the consumer, which is not thread-safe."""
        self._to_commit: dict[int, int] = {}
        self._assignment = 0
        """Counts what came between: a commit that failed is not tried again under another assignment."""
        self._handing_over = threading.Lock()
        self._keeps_letters, self._remedy = letters, remedy
        self._letters: KafkaSink[DeadLetter] | None = None
        self._unburied: list[DeadLetter] = []
        self._say_unreadable, self._say_unkept = Seldom(), Seldom()
        self._heard_s = time.monotonic()
        self._away = False
        self._closed = False

    def topic_id(self) -> str:
        """Identity of the topic that offsets belong to; another one after the topic was deleted and made again."""
        return topic_id(self._settings, self._topic)

    def exists(self) -> bool:
        """Whether the topic is there; a reader of named partitions cannot begin before. Raises `TransportError`.

        While it is not, each call takes a connection of its own: ask once a second at most.
        """
        with self._using, kafka_errors(self._settings, f"topic {self._topic}"):
            self._open()
            if self._consumer is None or self._consumer.partitions_for_topic(self._topic):
                return self._consumer is not None
            # a consumer that asks for all topics is not told which of them it may not see
            with contextlib.closing(build(KafkaAdminClient, client_config(self._settings))) as admin:
                (found,) = admin.describe_topics([self._topic])
            if found["error_code"] == TopicAuthorizationFailedError.errno:
                raise TopicAuthorizationFailedError
        return False

    def stands_by(self) -> bool:
        """True for a member of a group whose others have all partitions: it gets nothing until one of them goes."""
        with self._using:
            if self._consumer is None or self._partitions is not None:
                return False
            return self._consumer.group_metadata().state is MemberState.STABLE and not self._consumer.assignment()

    def batches(self) -> Iterator[Sequence[Record[T]]]:
        """See `stream.transport.Source`."""
        self._connect()
        while not self._closed:
            if not self._cursors.ready():
                self._poll()
            batch = self._cursors.take()
            yield batch

    def commit(self, batch: Sequence[Record[T]]) -> None:
        """See `stream.transport.Source`. Handed to the thread that fetches, which tells the broker before its next fetch."""
        news = self._cursors.commit(batch)
        with self._handing_over:
            self._to_commit.update(news)

    def position(self) -> dict[int, int]:
        """See `stream.transport.Source`. Of named partitions it is known before the first batch."""
        if self._partitions is not None and not self._cursors.fetching():
            self._connect()
        return self._cursors.position()

    def seek(self, offsets: Mapping[int, int]) -> None:
        """See `stream.transport.Source`."""
        self._connect()
        places = [TopicPartition(self._topic, partition) for partition in offsets]
        with self._using, kafka_errors(self._settings, f"topic {self._topic}"):
            starts = self._consumer.beginning_offsets(places, timeout_ms=5000)
            ends = self._consumer.end_offsets(places, timeout_ms=5000)
            for place in places:
                wanted = offsets[place.partition]
                if not starts[place] <= wanted <= ends[place]:
                    raise self._gone(place.partition, wanted, starts[place], ends[place])
            for place in places:
                self._consumer.seek(place, offsets[place.partition])
                self._cursors.assign(place.partition, offsets[place.partition])

    def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """Offset behind the newest record of each partition, now: for readers that stop there."""
        self._connect()
        places = [TopicPartition(self._topic, partition) for partition in partitions]
        with self._using, kafka_errors(self._settings, f"topic {self._topic}"):
            ends = self._consumer.end_offsets(places, timeout_ms=5000)
        return {place.partition: ends[place] for place in places}

    def drained(self, ends: Mapping[int, int]) -> bool:
        """True when everything before these offsets was handed out, or was no message."""
        fetching = self._cursors.fetching()
        return self._cursors.empty() and all(fetching.get(partition, -1) >= end for partition, end in ends.items())

    def pause(self, partitions: Iterable[int]) -> None:
        """See `stream.transport.Source`."""
        self._cursors.pause(partitions)

    def resume(self, partitions: Iterable[int]) -> None:
        """See `stream.transport.Source`."""
        self._cursors.resume(partitions)

    def close(self) -> None:
        """See `stream.transport.Source`. What was handed over for commit is committed first, if a broker answers."""
        self._closed = True
        with self._using:
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                self._consumer_closing(consumer)
        if self._letters is not None:
            self._letters.close()

    def _consumer_closing(self, consumer: Any) -> None:
        with contextlib.suppress(KafkaError):
            if offsets := self._take_commits():
                consumer.commit(offsets, timeout_ms=int(_COMMIT_TIMEOUT_S * 1000))
        with contextlib.suppress(KafkaError):
            consumer.close(autocommit=False, timeout_ms=int(_COMMIT_TIMEOUT_S * 1000))

    def _open(self) -> None:
        if self._consumer is None and not self._closed:
            self._consumer = connect(self._settings, f"topic {self._topic}", self._make_consumer, lambda: self._closed)

    def _connect(self) -> None:
        with self._using:
            self._open()
            if self._consumer is None or self._partitions is None or self._consumer.assignment():
                return
            if not self.exists():
                servers = self._settings.bootstrap_servers
                raise TransportError(f"topic {self._topic} does not exist at {servers}: start the site first")
            places = [TopicPartition(self._topic, partition) for partition in self._partitions]
            with kafka_errors(self._settings, f"topic {self._topic}"):
                starts = self._consumer.beginning_offsets(places, timeout_ms=5000)
                self._consumer.assign(places)
                for place in places:
                    self._consumer.seek(place, starts[place])
                    self._cursors.assign(place.partition, starts[place])

    def _make_consumer(self) -> Any:
        config = {
            **client_config(self._settings),
            "group_id": self._group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest" if self._partitions is None else "none",
            "allow_auto_create_topics": False,
            "session_timeout_ms": int(SESSION_TIMEOUT_S * 1000),
            "heartbeat_interval_ms": int(SESSION_TIMEOUT_S * 1000 / 4),
            "max_poll_interval_ms": 300_000,
            "max_poll_records": self._cursors.max_records,
            "fetch_max_wait_ms": int(POLL_S * 1000),
            "fetch_max_bytes": _FETCH_BYTES,
            "max_partition_fetch_bytes": _PARTITION_FETCH_BYTES,
            "receive_message_max_bytes": 100_000_000,  # Kafka's own bound of a request
            "metrics_enabled": False,
        }
        return build(KafkaConsumer, config)

    def _poll(self) -> None:
        """Commit what was handed over, then fetch once."""
        started = time.monotonic()
        fetched: dict[TopicPartition, list[Any]] = {}
        with self._using:
            if self._consumer is None:
                return
            try:
                with kafka_errors(self._settings, f"topic {self._topic}"):
                    self._commit_now()
                    if self._partitions is not None or self._subscribe():
                        self._start_what_is_new()
                        self._pause_what_has_no_room()
                        fetched = self._consumer.poll(timeout_ms=int(POLL_S * 1000))
            except BrokerUnreachable as error:
                log.debug("%s", error)
            except OffsetGone:
                with contextlib.suppress(BrokerUnreachable):  # then nobody says what is left
                    self._raise_gone()
                raise
            for place in fetched.keys() & self._consumer.assignment():
                if place.partition not in self._cursors.fetching():  # assigned within this very poll
                    self._cursors.assign(place.partition, self._committed_or(place, fetched[place][0].offset))
            epochs = self._cursors.epochs()
        for place, records in fetched.items():
            for record in records:
                self._take_in(place.partition, record, epochs.get(place.partition))
        self._deliver_letters()
        self._measure_lag()
        self._ask_after_silence(bool(fetched))
        if not fetched and (left := POLL_S - (time.monotonic() - started)) > 0:
            time.sleep(left)  # a broker that refuses connections answers at once

    def _ask_after_silence(self, fetched: bool) -> None:
        """Nothing comes from an empty topic, and from a broker that is away or wants us no more: ask which, and say it once."""
        if not fetched and time.monotonic() - self._heard_s < self._settings.connect_timeout_s:
            return
        trouble = "" if fetched else trouble_with(self._settings, self._topic)
        self._heard_s = time.monotonic()
        if trouble and not self._away:
            log.warning("%s; asked again until it can be read", trouble)
        elif self._away and not trouble:
            log.info("topic %s can be read again", self._topic)
        self._away = bool(trouble)

    def _subscribe(self) -> bool:
        """Join the group once the topic is known: who leads a group without knowing it shares out nothing, for good."""
        if not self._consumer.subscription():
            if not self._consumer.partitions_for_topic(self._topic):
                return False
            self._consumer.subscribe([self._topic], listener=_Rebalance(self))
        if self._consumer.group_metadata().state is MemberState.REBALANCING:
            # A join that outlasts one poll is forgotten by kafka-python 3.0 when metadata alone had asked for it: the broker then
            # drops this member, which goes on believing in its old partitions. Asking again makes the next poll finish it.
            self._consumer._coordinator.request_rejoin()
        return True

    def _start_what_is_new(self) -> None:
        for place in self._consumer.assignment():
            if place.partition not in self._cursors.fetching():
                with contextlib.suppress(*_CHANGING_HANDS):
                    offset = self._consumer.position(place, timeout_ms=500)
                    if offset is not None:  # beyond the commit where a poll has found that retention overtook it
                        self._cursors.assign(place.partition, self._committed_or(place, offset))

    def _committed_or(self, place: TopicPartition, first: int) -> int:
        """Where the group stopped; `first`, the first offset there is to read, where it never committed or nobody can say."""
        if self._group is None:
            return first
        with self._using, contextlib.suppress(KafkaError):
            committed = self._consumer.committed(place, timeout_ms=int(_COMMIT_TIMEOUT_S * 1000))
            return first if committed is None else min(first, int(committed))
        return first

    def _forget(self, partitions: set[int]) -> None:
        for partition in partitions:
            self._cursors.revoke(partition)
            CONSUMER_LAG.remove(self._topic, str(partition))  # its new reader measures it
        with self._handing_over:
            self._assignment += 1
            for partition in partitions:
                self._to_commit.pop(partition, None)

    def _pause_what_has_no_room(self) -> None:
        assigned, wanted = self._consumer.assignment(), self._cursors.wanted()
        known = self._cursors.fetching()
        full = {place for place in assigned if place.partition in known and place.partition not in wanted}
        paused = self._consumer.paused()
        for place in full ^ paused:
            with contextlib.suppress(*_CHANGING_HANDS):
                (self._consumer.pause if place in full else self._consumer.resume)(place)
        # kafka-python 3.0.12 puts a paused partition's fetched records aside, and takes them up again only while this slot is
        # None; one that was read to its end stays in it, so with all other partitions silent the records would lie for ever
        # (tests/stream/test_kafka_pause.py)
        fetcher = self._consumer._fetcher
        if not fetcher._next_partition_records:
            fetcher._next_partition_records = None

    def _take_in(self, partition: int, record: Any, epoch: int | None) -> None:
        if self._cursors.epochs().get(partition) != epoch:
            return
        expected = self._cursors.fetching().get(partition)
        if expected is not None and record.offset > expected:  # retention was faster than this reader
            RECORDS_EXPIRED.labels(self._topic, str(partition)).inc(record.offset - expected)
            log.warning(
                "records expired before they were read",
                extra={"topic": self._topic, "partition": partition, "records": record.offset - expected},
            )
        data = record.value or b""
        try:
            message = decode(data, self._kinds)
        except MessageError as error:
            letter = dead_letter(self._topic, partition, record.offset, str(error), data, self._kinds)
            if self._keeps_letters:
                self._bury(letter)
            else:
                self._say_unreadable(log, "skipped: topic %s, offset %d: %s", self._topic, record.offset, error)
            self._cursors.fetched(partition, record.offset, None, epoch)
        else:
            self._cursors.fetched(partition, record.offset, message, epoch)

    def _bury(self, letter: DeadLetter) -> None:
        place = {"topic": self._topic, "partition": letter.partition, "offset": letter.offset}
        self._say_unreadable(log, "dead letter: %s", letter.reason, **place)
        self._unburied.append(letter)

    def _deliver_letters(self) -> None:
        """Those of one fetch together, before anything of it can be committed."""
        letters, self._unburied = self._unburied, []
        if not letters:
            return
        if self._letters is None:
            spec = TopicSpec(self._topic + DEAD, 1, 600)
            self._letters = KafkaSink(self._settings, spec, lambda _: 0, policy="shed")
        try:
            self._letters.send(letters)
            self._letters.flush()
        except SightlineError as error:  # the letters are counted and logged; the stream goes on
            self._say_unkept(log, "dead letters not kept: %s", error)

    def _measure_lag(self) -> None:
        """Of every partition each time: one that is silent now was read to its end meanwhile."""
        with self._using:
            if self._consumer is None:
                return
            for partition, offset in self._cursors.position().items():
                with contextlib.suppress(*_CHANGING_HANDS):
                    if (end := self._consumer.highwater(TopicPartition(self._topic, partition))) is not None:
                        CONSUMER_LAG.labels(self._topic, str(partition)).set(max(0, end - offset))

    def _take_commits(self) -> dict[TopicPartition, OffsetAndMetadata]:
        with self._handing_over:
            taken, self._to_commit = self._to_commit, {}
        if self._group is None:
            return {}
        return {TopicPartition(self._topic, p): OffsetAndMetadata(offset, "", -1) for p, offset in taken.items()}

    def _commit_now(self) -> None:
        mine = self._consumer.assignment()
        if offsets := {place: offset for place, offset in self._take_commits().items() if place in mine}:
            self._consumer.commit_async(offsets, functools.partial(self._committed, self._assignment))

    def _committed(self, assignment: int, offsets: dict[TopicPartition, OffsetAndMetadata], answer: object) -> None:
        """A commit that failed is tried again, unless a later one has been handed over or partitions changed hands."""
        if isinstance(answer, Exception):
            log.debug("commit failed: %s", answer)
            with self._handing_over:
                if assignment == self._assignment:
                    for place, offset in offsets.items():
                        self._to_commit.setdefault(place.partition, offset.offset)

    def _gone(self, partition: int, wanted: int, start: int, end: int) -> OffsetGone:
        why = "retention removed it" if wanted < start else "the topic was deleted and made again"
        return OffsetGone(
            f"topic {self._topic}: partition {partition} holds offsets {start} to {end}, {wanted} was to be read next: {why}; "
            f"{self._remedy}"
        )

    def _raise_gone(self) -> None:
        places = [TopicPartition(self._topic, partition) for partition in self._cursors.fetching()]
        try:
            with kafka_errors(self._settings, f"topic {self._topic}"):
                starts = self._consumer.beginning_offsets(places, timeout_ms=5000)
                ends = self._consumer.end_offsets(places, timeout_ms=5000)
        except KeyError:  # kafka-python's word for a partition that is no more
            raise OffsetGone(
                f"topic {self._topic}: it was deleted and made again with fewer partitions; {self._remedy}"
            ) from None
        for place in places:
            wanted = self._cursors.fetching()[place.partition]
            if not starts[place] <= wanted <= ends[place]:
                raise self._gone(place.partition, wanted, starts[place], ends[place]) from None


class _Rebalance(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Called on the consumer's own thread while partitions change hands. Those that stay keep their position.

    So do those of a reader that was taken for dead and hears of a rebalance before it hears of that: it joins again under another
    name and is told of nothing lost. What another reader did in between is done again then, and nothing is left out.
    """

    def __init__(self, source: KafkaSource[Any]) -> None:
        self._source = source

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Commit all that was handed over while we still may."""
        source = self._source
        consumer, offsets = source._consumer, source._take_commits()
        if consumer is not None and offsets:
            try:
                await consumer.commit_async(offsets)
            except KafkaError as error:  # it will be read again by the next owner
                log.warning("commit before a rebalance failed: %s", error, extra={"topic": source._topic})

    async def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        """We were taken for dead: others have these, and commits of them are theirs."""
        self._source._forget({place.partition for place in lost})

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """What is not ours any more is forgotten; what is new starts at its last commit, in the next poll."""
        mine = {place.partition for place in assigned}
        self._source._forget(set(self._source._cursors.fetching()) - mine)
