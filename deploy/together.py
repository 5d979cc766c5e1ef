"""Workers in one process: a thread each, one failure stops them all, and the end of the input runs through them in order."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from stream.errors import SightlineError
from stream.transport import Record, Source

M = TypeVar("M")

log = logging.getLogger(__name__)

GRACE_S = 15.0
"""A worker that was asked to stop gets this long."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Group:
    """Workers of one kind. When all have ended by themselves, `then` tells whoever reads from them."""

    name: str
    workers: Sequence[Callable[[threading.Event], None]]
    """Each runs until its input ends or the event is set."""
    then: Callable[[], None] = _nothing


@dataclass(slots=True)
class _Running:
    group: Group
    left: int
    threads: list[threading.Thread] = field(default_factory=list)


def together(groups: Sequence[Group], stop: threading.Event, grace_s: float = GRACE_S) -> None:
    """Run all groups until every worker has ended or `stop` is set. The first error stops the others and is raised.

    `grace_s`: the longest step of any worker. Raises `SightlineError` where one goes on beyond it after a stop.
    """
    errors: list[BaseException] = []
    lock = threading.Lock()

    def work(running: _Running, worker: Callable[[threading.Event], None]) -> None:
        try:
            worker(stop)
            with lock:
                running.left -= 1
                last = running.left == 0
            if last and not stop.is_set():
                running.group.then()
        except BaseException as error:
            with lock:
                errors.append(error)
            stop.set()

    started = [_Running(group, len(group.workers)) for group in groups]
    for running in started:
        for number, worker in enumerate(running.group.workers):
            name = running.group.name if len(running.group.workers) == 1 else f"{running.group.name}-{number}"
            running.threads.append(threading.Thread(target=work, args=(running, worker), name=name, daemon=True))
    threads = [thread for running in started for thread in running.threads]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not stop.is_set():
            for thread in threads:
                thread.join(0.05)
    except BaseException:  # an interrupt, which may come while they begin
        stop.set()
        raise
    finally:
        stuck = _stuck([thread for thread in threads if thread.ident is not None], grace_s)
        said = f"{', '.join(stuck)} did not stop within {grace_s:g} s; what it had not committed is read again"
        if stuck:
            log.warning(said)
    if errors:
        raise errors[0]
    if stuck:
        raise SightlineError(said)


def _stuck(threads: Sequence[threading.Thread], grace_s: float) -> list[str]:
    """Let everybody end after a stop, an error or an interrupt. Names of those that do not."""
    deadline = time.monotonic() + grace_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [thread.name for thread in threads if thread.is_alive()]


class Paced(Generic[M]):
    """A source that pauses each partition while its readers lag: nothing is lost, and no full queue blocks another camera's.

    With one lag for all, a file that begins later than another could never be read: the matcher waits for its first
    record, while the records of the other fill every queue.
    """

    def __init__(
        self, source: Source[M], lag: Callable[[], Mapping[int, int]], most: int, every_s: float = 0.0
    ) -> None:
        """`lag`: partition -> records that somebody downstream has not committed; asked at most once in `every_s`."""
        self._source, self._lag, self._most, self._every_s = source, lag, most, every_s
        self._asked_at = float("-inf")

    def batches(self) -> Iterator[Sequence[Record[M]]]:
        """See `stream.transport.Source`."""
        self._pace()
        for batch in self._source.batches():
            yield batch
            self._pace()

    def _pace(self) -> None:
        if time.monotonic() - self._asked_at < self._every_s:
            return
        lag = self._lag()
        self._source.pause([partition for partition, records in lag.items() if records > self._most])
        self._source.resume([partition for partition, records in lag.items() if records <= self._most])
        self._asked_at = time.monotonic()

    def commit(self, batch: Sequence[Record[M]]) -> None:
        """See `stream.transport.Source`."""
        self._source.commit(batch)

    def position(self) -> dict[int, int]:
        """See `stream.transport.Source`."""
        return self._source.position()

    def seek(self, offsets: Mapping[int, int]) -> None:
        """See `stream.transport.Source`."""
        self._source.seek(offsets)

    def pause(self, partitions: Iterable[int]) -> None:
        """See `stream.transport.Source`."""
        self._source.pause(partitions)

    def resume(self, partitions: Iterable[int]) -> None:
        """See `stream.transport.Source`."""
        self._source.resume(partitions)

    def close(self) -> None:
        """See `stream.transport.Source`."""
        self._source.close()
