"""The one loop that moves everything, and what it moves things through."""

import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from stream.errors import DeliveryFailed
from stream.telemetry import BATCH_SIZE, STAGE_SECONDS
from stream.transport import Record, Sink, Source

log = logging.getLogger(__name__)

M = TypeVar("M")
X = TypeVar("X")
Y = TypeVar("Y")
Z = TypeVar("Z")
X_contra = TypeVar("X_contra", contravariant=True)
Y_co = TypeVar("Y_co", covariant=True)

_SAY_AGAIN_S = 10.0


class Stage(Protocol[X_contra, Y_co]):
    """One verb. A stage has never heard of Kafka, engines or settings files; its return values are its only outputs."""

    def process(self, batch: Sequence[X_contra]) -> Iterable[Y_co]:
        """Outputs of a batch, in order. An empty batch means that nothing came for a while."""
        ...

    def finish(self) -> Iterable[Y_co]:
        """Outputs still owed when the input has ended; not called when a run is stopped."""
        ...


class Chain(Generic[X, Y, Z]):
    """Two stages in one process; swapped ones are a type error."""

    def __init__(self, first: Stage[X, Y], second: Stage[Y, Z]) -> None:
        self.first = first
        self.second = second

    def process(self, batch: Sequence[X]) -> Iterable[Z]:
        """Both in turn."""
        return self.second.process(list(self.first.process(batch)))

    def finish(self) -> Iterable[Z]:
        """What the first still owes goes through the second, then what that one owes."""
        yield from self.second.process(list(self.first.finish()))
        yield from self.second.finish()


class Pass(Generic[X]):
    """Hands on what it gets."""

    def process(self, batch: Sequence[X]) -> Iterable[X]:
        """The batch itself."""
        return batch

    def finish(self) -> Iterable[X]:
        """Nothing is owed."""
        return ()


def as_records(batch: Sequence[Record[M]]) -> Sequence[Record[M]]:
    """For stages that need each message's place in its topic (the matcher commits it)."""
    return batch


def as_messages(batch: Sequence[Record[M]]) -> Sequence[M]:
    """For stages that need the messages alone."""
    return [record.message for record in batch]


def run(
    source: Source[M],
    stage: Stage[X, Y],
    sink: Sink[Y],
    *,
    prepare: Callable[[Sequence[Record[M]]], Sequence[X]],
    name: str,
    stop: threading.Event | None = None,
) -> None:
    """Move messages until the source ends or `stop` is set: send outputs, flush, commit, in this order.

    At least once: an input is committed only after every output made from it was delivered; outputs are named after
    their inputs, so a repeat is harmless. `prepare` (decoding) and fetching run one batch ahead in a thread of their own.
    `stage.finish` is called when the source ends by itself. `name` labels the metrics. Errors of any part end the run, but for
    `DeliveryFailed`: the sink keeps what it was given, so the run waits on, says so, and gives up only when it is stopped.
    """
    stop = stop or threading.Event()
    ahead = _Ahead(source, prepare, stop)
    batch_size, seconds = BATCH_SIZE.labels(name), STAGE_SECONDS.labels(name)
    try:
        for batch, prepared in ahead:
            started = time.perf_counter()
            if not _deliver(sink, stage.process(prepared), name, stop):
                return
            source.commit(batch)
            if batch:
                seconds.observe(time.perf_counter() - started)
                batch_size.observe(len(batch))
        if not stop.is_set():
            _deliver(sink, stage.finish(), name, stop)
    finally:
        ahead.close()


def _deliver(sink: Sink[Y], outputs: Iterable[Y], name: str, stop: threading.Event) -> bool:
    """Send and flush, again and again while the sink cannot deliver. False when stopped before all was delivered."""
    for output in outputs:
        if not _patiently(functools.partial(sink.send, (output,)), name, stop):
            return False
    return _patiently(sink.flush, name, stop)


def _patiently(act: Callable[[], None], name: str, stop: threading.Event) -> bool:
    said_at = 0.0
    while True:
        try:
            act()
        except DeliveryFailed as error:
            if stop.is_set():
                log.warning("stopped before everything was delivered; it will be made again", extra={"stage": name})
                return False
            if time.monotonic() - said_at > _SAY_AGAIN_S:
                said_at = time.monotonic()
                log.warning("waiting: %s", error, extra={"stage": name})
        else:
            return True


class _Ahead(Generic[M, X]):
    """Fetches and prepares one batch while the one before it is processed."""

    def __init__(
        self, source: Source[M], prepare: Callable[[Sequence[Record[M]]], Sequence[X]], stop: threading.Event
    ) -> None:
        self._source, self._prepare, self._stop = source, prepare, stop
        self._queue: queue.Queue[tuple[Sequence[Record[M]], Sequence[X]] | BaseException | None] = queue.Queue(1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fetch, name="fetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[Sequence[Record[M]], Sequence[X]]]:
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stop fetching; what was fetched and not processed stays uncommitted."""
        self._closed.set()
        self._thread.join(timeout=10)

    def _fetch(self) -> None:
        try:
            for batch in self._source.batches():
                self._put((batch, self._prepare(batch)))
                if self._closed.is_set():
                    return
            self._put(None)
        except BaseException as error:  # handed to the thread that runs the loop, which raises it
            self._put(error)

    def _put(self, item: tuple[Sequence[Record[M]], Sequence[X]] | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return
            except queue.Full:
                continue
