"""The two ways in which frames and embeddings travel: through this process's memory, and over Kafka."""

from collections.abc import Mapping
from typing import Protocol

from deploy.settings import Settings
from matcher.start import EmbeddingsSource
from stream.codec import EMBEDDINGS, FRAMES
from stream.memory import MemoryTopic
from stream.messages import CameraState, Embeddings, Frame
from stream.transport import Sink, Source

FromCamera = Frame | CameraState
FromPerceive = Embeddings | CameraState

PERCEIVE, MATCH = "perceive", "match"  # groups of readers


class Bus(Protocol):
    """Each topic has one kind of writer and one kind of reader. Partitions are cameras."""

    @property
    def most_lag(self) -> int:
        """Records that a reader may lag in one partition before file ingest pauses that camera."""
        ...

    @property
    def ask_every_s(self) -> float:
        """How often asking for a lag is cheap enough."""
        ...

    @property
    def lasting(self) -> bool:
        """Whether topics outlive this process. Those that do not are bounded: who writes to them has to be paced."""
        ...

    def frames_sink(self) -> Sink[FromCamera]:
        """Ingest writes here."""
        ...

    def frames_source(self) -> Source[FromCamera]:
        """A perceive worker reads here; all of them share the partitions."""
        ...

    def frames_lag(self) -> Mapping[int, int]:
        """Partition -> records that no perceive worker has done."""
        ...

    def frames_end(self) -> None:
        """Nothing more will be written: readers end after what is there."""
        ...

    def embeddings_sink(self) -> Sink[FromPerceive]:
        """Perceive workers write here."""
        ...

    def embeddings_source(self) -> EmbeddingsSource:
        """The matcher reads here."""
        ...

    def embeddings_lag(self) -> Mapping[int, int]:
        """Partition -> records that the matcher has not done."""
        ...

    def embeddings_end(self) -> None:
        """Nothing more will be written: readers end after what is there."""
        ...


class MemoryBus:
    """Bounded topics in this process, with the same bytes as on a broker. Live cameras lose their oldest frames when full."""

    lasting, ask_every_s = False, 0.0
    most_lag = 32  # two batches of 64 may be on their way beside it, and no partition of 256 records is ever full

    def __init__(self, settings: Settings) -> None:
        self._partitions, self._live = settings.partitions, settings.live
        count = max(self._partitions.values()) + 1
        self._frames: MemoryTopic[FromCamera] = MemoryTopic("frames", FRAMES, count)
        self._embeddings: MemoryTopic[FromPerceive] = MemoryTopic("embeddings", EMBEDDINGS, count)

    def frames_sink(self) -> Sink[FromCamera]:
        """See `Bus`."""
        return self._frames.sink(self._partition, "shed" if self._live else "wait")

    def frames_source(self) -> Source[FromCamera]:
        """See `Bus`."""
        return self._frames.source(PERCEIVE)

    def frames_lag(self) -> Mapping[int, int]:
        """See `Bus`."""
        return self._frames.lag(PERCEIVE)

    def frames_end(self) -> None:
        """See `Bus`."""
        self._frames.close_input()

    def embeddings_sink(self) -> Sink[FromPerceive]:
        """See `Bus`."""
        return self._embeddings.sink(self._partition)

    def embeddings_source(self) -> EmbeddingsSource:
        """See `Bus`."""
        return self._embeddings.source(MATCH)

    def embeddings_lag(self) -> Mapping[int, int]:
        """See `Bus`."""
        return self._embeddings.lag(MATCH)

    def embeddings_end(self) -> None:
        """See `Bus`."""
        self._embeddings.close_input()

    def _partition(self, message: FromCamera | FromPerceive) -> int:
        return self._partitions[message.camera]
