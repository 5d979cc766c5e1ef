"""Source and Sink: where messages come from and where they go, with the guarantees in words.

Implemented by `stream.memory` (one process) and `stream.kafka`, under one contract suite (tests/contracts/test_transport.py);
cameras are a Source too. At least once: an input is committed only after everything made from it was delivered.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)
M_contra = TypeVar("M_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Record(Generic[M_co]):
    """A message and its place in its topic."""

    message: M_co
    partition: int
    offset: int


class Source(Protocol[M]):
    """Messages in order per partition, from the last commit (or `seek`) on."""

    def batches(self) -> Iterator[Sequence[Record[M]]]:
        """Batches as they come; an empty one when nothing came for the poll time-out (100 ms), so that waiting stages can act.

        Ends when the input ends (files, a closed memory topic) or after `close`. Undecodable bytes are dead-lettered and
        counted here, never yielded. Several batches may be fetched ahead of the one being processed.
        """
        ...

    def commit(self, batch: Sequence[Record[M]]) -> None:
        """Forget everything up to and including `batch`. Partitions lost in a rebalance are left to their new owner."""
        ...

    def position(self) -> dict[int, int]:
        """Next offset to be yielded, per partition."""
        ...

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Yield from these offsets next. Raises `OffsetGone` where retention has removed them."""
        ...

    def pause(self, partitions: Iterable[int]) -> None:
        """Yield nothing more of these partitions until `resume`; already fetched records are kept back too."""
        ...

    def resume(self, partitions: Iterable[int]) -> None:
        """Undo `pause`."""
        ...

    def close(self) -> None:
        """Leave the group and free everything; safe to call twice and from another thread."""
        ...


class Sink(Protocol[M_contra]):
    """Takes messages in order; what was sent is safe only after `flush` returned."""

    def send(self, messages: Iterable[M_contra]) -> None:
        """Hand over; blocks only for the byte budget, never past the delivery time-out."""
        ...

    def flush(self) -> None:
        """Return when everything sent is delivered. Raises `DeliveryFailed` if something was not, within the delivery time-out."""
        ...

    def close(self) -> None:
        """Flush what can be and free everything; safe to call twice."""
        ...
