"""Sinks around sinks: one that is watched, and one that says when a file is played which the gallery has taken before."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from deploy.buses import FromCamera
from stream.messages import Frame
from stream.transport import Sink

log = logging.getLogger(__name__)

M = TypeVar("M")


class Watched(Generic[M]):
    """A sink that shows every message to somebody once it is delivered: a live view, a score."""

    def __init__(self, sink: Sink[M], watch: Callable[[M], None]) -> None:
        self._sink, self._watch = sink, watch
        self._sent: list[M] = []

    def send(self, messages: Iterable[M]) -> None:
        """See `stream.transport.Sink`."""
        for message in messages:
            self._sink.send((message,))
            self._sent.append(message)

    def flush(self) -> None:
        """See `stream.transport.Sink`."""
        self._sink.flush()
        delivered, self._sent = self._sent, []
        for message in delivered:
            self._watch(message)

    def close(self) -> None:
        """See `stream.transport.Sink`."""
        self._sink.close()


class Repeats:
    """Counts the frames which the matcher has taken before: nothing would come of them, and nobody would know why."""

    def __init__(self, sink: Sink[FromCamera], places: Mapping[str, tuple[int, int]]) -> None:
        """`places`: camera -> (stream, sequence) of the last frame taken."""
        self._sink, self._places = sink, places
        self._sent: Counter[str] = Counter()
        self._repeated: Counter[str] = Counter()

    def send(self, messages: Iterable[FromCamera]) -> None:
        """See `stream.transport.Sink`."""
        for message in messages:
            self._sink.send((message,))
            if isinstance(message, Frame):
                self._sent[message.camera] += 1
                place = self._places.get(message.camera)
                self._repeated[message.camera] += place is not None and (message.stream, message.sequence) <= place

    def flush(self) -> None:
        """See `stream.transport.Sink`."""
        self._sink.flush()

    def close(self) -> None:
        """See `stream.transport.Sink`; and say of which cameras all frames were repeats."""
        self._sink.close()
        for camera, frames in self._sent.items():
            if frames == self._repeated[camera]:
                log.warning("%s", all_seen(camera, frames))
        self._sent.clear()


def all_seen(camera: str, frames: int) -> str:
    """The line itself."""
    return f"camera {camera}: all {frames:,} frames were seen before: give this camera another start"
