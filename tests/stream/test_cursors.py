"""Where a source stands: batches, commits, dead letters, and partitions that change hands meanwhile."""

from dataclasses import dataclass

import pytest

from stream.cursors import Cursors


@dataclass(frozen=True)
class Message:
    captured_at: int


def cursors(max_records: int = 10, max_span_s: float = 10.0, partitions: int = 2) -> Cursors[Message]:
    made: Cursors[Message] = Cursors(max_records, max_span_s)
    for partition in range(partitions):
        made.assign(partition, 0)
    return made


def fetch(where: Cursors[Message], partition: int, *offsets: int, dead: tuple[int, ...] = ()) -> None:
    for offset in offsets:
        message = None if offset in dead else Message(offset * 10**9 + partition)
        where.fetched(partition, offset, message, where.epochs().get(partition))


def places(batch) -> list[tuple[int, int]]:
    return [(record.partition, record.offset) for record in batch]


def test_partitions_come_in_the_order_of_capture():
    where = cursors()
    fetch(where, 1, 0, 1, 2)
    fetch(where, 0, 0, 1, 2)
    assert places(where.take()) == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize(("count", "span_s", "size"), [(3, 100.0, 3), (100, 2.0, 3), (100, 0.0, 1)])
def test_a_batch_ends_at_its_count_or_its_span(count, span_s, size):
    where = cursors(count, span_s)
    fetch(where, 0, *range(10))
    assert len(where.take()) == size


def test_a_batch_s_span_begins_with_the_oldest_record_of_all_partitions():
    where = cursors(100, 2.0)
    fetch(where, 0, *range(10))
    fetch(where, 1, 8, 9)
    assert places(where.take()) == [(0, 0), (0, 1), (0, 2)]


def test_within_a_partition_the_topics_order_holds_whatever_the_times():
    where = cursors()
    for offset, captured_at in enumerate([5, 1, 3]):
        where.fetched(0, offset, Message(captured_at), where.epochs()[0])
    assert places(where.take()) == [(0, 0), (0, 1), (0, 2)]


def test_a_commit_passes_the_dead_letters_behind_it():
    where = cursors()
    fetch(where, 0, 0, 1, 2, 3, 4, dead=(0, 2, 3))
    assert where.commit([]) == {0: 1}, "what stands in front needs no message"
    batch = where.take()
    assert where.commit(batch[:1]) == {0: 4}
    assert where.commit(batch[:1]) == {}, "no news"
    assert where.commit(batch) == {0: 5}


def test_dead_letters_that_were_passed_are_forgotten():
    where = cursors(partitions=1)
    for first in range(0, 100, 10):
        fetch(where, 0, *range(first, first + 10), dead=(first + 3, first + 4, first + 9))
        where.commit(where.take())
    assert where.position() == {0: 100}
    assert not where._cursors[0].dead, "or they would pile up as long as somebody writes garbage between good records"


def test_what_holds_no_message_is_not_waited_for():
    where = cursors(partitions=1)
    fetch(where, 0, 0, 1, 2, dead=(1, 2))
    where.take()
    assert where.position() == {0: 3}


def test_commits_of_a_lost_partition_are_left_to_its_new_owner():
    where = cursors()
    fetch(where, 0, 0, 1)
    batch = where.take()
    where.revoke(0)
    assert where.commit(batch) == {}


def test_a_late_commit_never_takes_a_partition_back():
    where = cursors()
    fetch(where, 0, 0, 1)
    batch = where.take()
    where.revoke(0)
    where.assign(0, 7)  # another reader had it and came this far
    assert where.commit(batch) == {}


@pytest.mark.parametrize("meanwhile", ["lost", "lost and regained", "sought"])
def test_records_on_their_way_while_a_partition_changed_hands_are_not_taken_in(meanwhile):
    where = cursors()
    epochs = where.epochs()
    if meanwhile == "sought":
        where.seek({0: 1})
    else:
        where.revoke(0)
        if meanwhile == "lost and regained":
            where.assign(0, 1)
    where.fetched(0, 5, Message(5), epochs[0])
    assert not where.take()
    assert where.fetching().get(0, 1) == 1, "what lies between will be fetched"


def test_what_is_fetched_a_second_time_is_taken_in_once():
    where = cursors()
    fetch(where, 0, 0, 1)
    fetch(where, 0, 0, 1, 2)
    assert places(where.take()) == [(0, 0), (0, 1), (0, 2)]


def test_a_paused_partition_keeps_what_was_fetched_and_wants_no_more():
    where = cursors()
    fetch(where, 0, 0)
    fetch(where, 1, 0)
    where.pause([0])
    assert places(where.take()) == [(1, 0)]
    assert set(where.wanted()) == {1}
    assert not where.ready()
    assert not where.empty()
    where.resume([0])
    assert places(where.take()) == [(0, 0)]


def test_partitions_are_paused_and_resumed_each_by_itself():
    where = cursors(partitions=3)
    where.pause([0])
    where.pause([1, 2])
    assert set(where.wanted()) == set()
    where.resume([1])
    assert set(where.wanted()) == {1}


def test_a_full_partition_wants_no_more_until_it_is_taken():
    where = cursors(max_records=2)
    fetch(where, 0, 0, 1)
    assert where.wanted() == {1: 0}
    where.take()
    assert where.wanted() == {0: 2, 1: 0}


def test_position_is_what_comes_next():
    where = cursors(max_records=1)
    fetch(where, 0, 0, 1)
    where.take()
    assert where.position() == {0: 1, 1: 0}
    where.seek({0: 9})
    assert where.position() == {0: 9, 1: 0}
