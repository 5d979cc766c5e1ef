"""A group whose members come and go: what was handed over for commit, what stays, and what is taken away."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from frames import frame
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import MemberToRemove
from kafka.errors import RequestTimedOutError
from services import wait_for

from stream.codec import FRAMES
from stream.kafka import KafkaSink, KafkaSource, TopicSpec, ensure_topics, group_lag
from stream.messages import Frame
from stream.settings import KafkaSettings
from stream.telemetry import RECORDS_EXPIRED
from stream.transport import Record

pytestmark = pytest.mark.usefixtures("refused_connections")

Batches = Iterator[Sequence[Record[Frame]]]


@pytest.fixture
def member(settings, spec) -> Iterator[Callable[..., KafkaSource[Frame]]]:
    """Makes members of one group."""
    ensure_topics(settings, [spec])
    with contextlib.ExitStack() as held:

        def join(kind: type[KafkaSource[Frame]] = KafkaSource, **options: int) -> KafkaSource[Frame]:
            return held.enter_context(
                contextlib.closing(kind(settings, spec.name, f"{spec.name}-g", FRAMES, **options))
            )

        yield join


def send(settings: KafkaSettings, spec: TopicSpec, sequences: Sequence[int], *partitions: int) -> None:
    for partition in partitions:
        with contextlib.closing(KafkaSink(settings, spec, lambda _, to=partition: to)) as sink:
            sink.send(frame(n) for n in sequences)
            sink.flush()


def lag(settings: KafkaSettings, spec: TopicSpec) -> dict[int, int]:
    return group_lag(settings, spec.name, f"{spec.name}-g")


def take(batches: Batches, count: int) -> list[Record[Frame]]:
    found: list[Record[Frame]] = []
    deadline = time.monotonic() + 60
    while len(found) < count:
        found += next(batches)
        assert time.monotonic() < deadline, found
    return found


@contextlib.contextmanager
def reading(*sources: KafkaSource[Frame]) -> Iterator[list[list[Record[Frame]]]]:
    """Each source read in a thread of its own meanwhile, nothing committed; what each got."""
    got: list[list[Record[Frame]]] = [[] for _ in sources]
    stop = threading.Event()

    def read(source: KafkaSource[Frame], into: list[Record[Frame]]) -> None:
        for batch in source.batches():
            into += batch
            if stop.is_set():
                return

    threads = [threading.Thread(target=read, args=pair) for pair in zip(sources, got, strict=True)]
    for thread in threads:
        thread.start()
    try:
        yield got
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)


def shared_out(*sources: KafkaSource[Frame]) -> bool:
    return all(len(source.position()) == 1 for source in sources)


def test_a_partition_that_stays_goes_on_where_it_was_though_another_reader_joins(settings, spec, member):
    send(settings, spec, range(10), 0, 1)
    first, second = member(), member()
    first.commit(take(first.batches(), 20)[:10])  # five of each; the rest is in work
    with reading(first, second) as (mine, others):
        wait_for(lambda: shared_out(first, second), "one partition each")
        [stayed] = first.position()
        send(settings, spec, range(10, 15), stayed)
        wait_for(lambda: len(mine) >= 5 and len(others) >= 5, "both read on")
    assert [(r.partition, r.message.sequence) for r in mine] == [(stayed, n) for n in range(10, 15)]
    assert RECORDS_EXPIRED.labels(spec.name, str(stayed))._value.get() == 0, "what is in work is not lost"
    assert [(r.partition, r.message.sequence) for r in others] == [(1 - stayed, n) for n in range(5, 10)]


class LateHandingOver(KafkaSource[Frame]):
    """As if each commit came while the broker is asked already, so that no fetch takes it along."""

    def _commit_now(self) -> None: ...


def test_what_was_handed_over_for_commit_reaches_the_broker_before_another_reader_takes_the_partition(
    settings, spec, member
):
    send(settings, spec, range(10), 0, 1)
    first, second = member(LateHandingOver), member()
    first.commit(take(first.batches(), 20))
    assert lag(settings, spec) == {0: 10, 1: 10}
    with reading(first, second) as (_, others):
        wait_for(lambda: shared_out(first, second), "one partition each")
        [mine] = second.position()
        send(settings, spec, [10], mine)
        wait_for(lambda: bool(others), "the new one reads on")
    assert [(r.partition, r.message.sequence) for r in others] == [(mine, 10)], "nothing that was done is done again"


def half_in_work(source: KafkaSource[Frame], batches: Batches, settings, spec) -> list[Record[Frame]]:
    """Of ten records; the first five are committed."""
    source.commit(take(batches, 5))
    in_work = take(batches, 5)
    wait_for(lambda: not next(batches) and lag(settings, spec)[0] == 5, "half of it is committed")
    return in_work


def give_up(source: KafkaSource[Frame], settings, spec) -> str:
    """As the group does with a reader that is silent for too long; the name that it had."""
    name: str = source._consumer.group_metadata().member_id
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)) as admin:
        admin.remove_group_members(f"{spec.name}-g", [MemberToRemove(member_id=name)])
    return name


def test_a_reader_that_was_taken_for_dead_begins_again_at_the_last_commit(settings, spec, member):
    send(settings, spec, range(10), 0)
    source = member(max_records=5)
    batches = source.batches()
    half_in_work(source, batches, settings, spec)
    wait_for(lambda: not next(batches) and not source._consumer._coordinator.need_rejoin(), "it heard of all else")
    give_up(source, settings, spec)
    assert [record.message.sequence for record in take(batches, 5)] == [5, 6, 7, 8, 9]


def test_a_reader_that_was_taken_for_dead_and_hears_of_a_rebalance_first_goes_on_with_what_it_has(
    settings, spec, member
):
    send(settings, spec, range(10), 0)
    source = member(max_records=5)
    batches = source.batches()
    in_work = half_in_work(source, batches, settings, spec)
    source._consumer._coordinator.request_rejoin()
    before = give_up(source, settings, spec)
    wait_for(
        lambda: not next(batches) and source._consumer.group_metadata().member_id not in ("", before),
        "it is a member again, and is given nothing twice",
    )
    source.commit(in_work)
    wait_for(lambda: not next(batches) and lag(settings, spec)[0] == 0, "its commit counts")
    send(settings, spec, [10], 0)
    assert [record.message.sequence for record in take(batches, 1)] == [10]


def handed_over(source: KafkaSource[Frame]) -> dict[int, int]:
    return {place.partition: offset.offset for place, offset in source._take_commits().items()}


def test_a_commit_that_failed_is_tried_again(settings, spec, member):
    send(settings, spec, range(4), 0)
    source = member()
    batches = source.batches()
    source.commit(take(batches, 4))
    source._committed(source._assignment, source._take_commits(), RequestTimedOutError())
    wait_for(lambda: not next(batches) and lag(settings, spec)[0] == 0, "committed at the second attempt")


def test_a_commit_that_failed_never_takes_back_a_later_one(settings, spec, member):
    send(settings, spec, range(4), 0)
    source = member(max_records=2)
    batches = source.batches()
    source.commit(take(batches, 2))
    failed = source._take_commits()
    source.commit(take(batches, 2))
    source._committed(source._assignment, failed, RequestTimedOutError())
    assert handed_over(source) == {0: 4}


@pytest.mark.parametrize("failed_before", [False, True], ids=["handed over before", "failed after"])
def test_a_commit_for_a_partition_that_went_to_another_reader_is_dropped(settings, spec, member, failed_before):
    send(settings, spec, range(4), 0)
    source = member()
    source.commit(take(source.batches(), 4))
    assignment, failed = source._assignment, source._take_commits() if failed_before else {}
    source._forget({0})
    source._committed(assignment, failed, RequestTimedOutError())
    assert handed_over(source) == {}


def test_a_commit_of_a_partition_that_another_reader_has_never_reaches_the_broker(settings, spec, member):
    send(settings, spec, range(4), 0, 1)
    first, second = member(), member()
    with reading(first, second):
        wait_for(lambda: shared_out(first, second), "one partition each")
        [mine] = first.position()
        first._to_commit.update({mine: 4, 1 - mine: 4})  # as when partitions change hands this very moment
        wait_for(lambda: lag(settings, spec)[mine] == 0, "its own is committed")
    assert lag(settings, spec) == {mine: 0, 1 - mine: 4}


def test_who_gets_nothing_stands_by_until_another_reader_goes(settings, spec, member):
    sources = [member() for _ in range(3)]
    sources[0].ends([0])
    assert not sources[0].stands_by(), "it is connected, and no member yet"

    def standing_by() -> list[KafkaSource[Frame]]:
        return [source for source in sources if source.stands_by()]

    with reading(*sources):
        wait_for(lambda: len(standing_by()) == 1 and sum(len(s.position()) for s in sources) == 2, "one has none")
        next(source for source in sources if not source.stands_by()).close()
        wait_for(lambda: not standing_by(), "it has a partition now")


def test_nothing_is_left_running_by_a_reader_that_kept_dead_letters(settings, spec, member):
    send(settings, spec, [0], 0)
    with contextlib.closing(
        KafkaProducer(bootstrap_servers=settings.bootstrap_servers, enable_idempotence=False)
    ) as producer:
        producer.send(spec.name, b"garbage", partition=0).get(timeout=30)
    source = member()
    batches = source.batches()
    dead = f"deliver {spec.name}.dead"
    wait_for(lambda: next(batches) is not None and dead in _threads(), "the dead letter is on its way")
    source.close()
    assert dead not in _threads()


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_where_a_group_stands_is_asked_before_anything_is_counted_as_lost(settings, spec, member):
    send(settings, spec, range(10), 0)
    source = member(max_records=4)
    source.commit(take(source.batches(), 4))
    source.close()
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)) as admin:
        admin.delete_records({TopicPartition(spec.name, 0): 2})  # done already: nothing is lost
    again = member()
    assert [record.message.sequence for record in take(again.batches(), 6)] == [4, 5, 6, 7, 8, 9]
