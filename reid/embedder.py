"""Detections -> Embeddings: what the people in each frame look like, as unit vectors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.budget import Budget
from reid.crops import embed
from reid.settings import EmbedderSettings
from reid.switches import Switches
from stream.messages import CameraState, Detections, Embeddings, Person
from stream.model import Backend, Links
from stream.telemetry import EMBEDDED


@dataclass(slots=True)
class _Stream:
    """One unbroken run of a camera."""

    stream: int
    budget: Budget
    switches: Switches | None
    sequence: int = -1
    """Of the last frame."""


class Embedder:
    """A stage: exactly one Embeddings per Detections, in its order; CameraState passes in its place.

    Crops of all cameras share the model's batches; which ones are embedded is each camera's own affair (`reid.budget`).

    People who come with vectors (a person search found them) are not embedded again: `backend` is the model that found them. The
    budget chooses among them all the same, for the matcher's rules expect as many vectors per tracklet as it gives.
    """

    def __init__(self, backend: Backend, settings: EmbedderSettings, links: Links | None = None) -> None:
        """`links` of the model's bundle: with them a tracklet that goes on with somebody else is told by its looks."""
        self._backend = backend
        self._settings = settings
        self._links = links
        self._cameras: dict[str, _Stream] = {}

    def process(self, batch: Sequence[Detections | CameraState]) -> Iterator[Embeddings | CameraState]:
        """Embed a batch of any cameras."""
        chosen = [self._choose(item) for item in batch]
        crops = [
            item.crops[place]
            for item, (places, _) in zip(batch, chosen, strict=True)
            if isinstance(item, Detections) and item.vectors is None
            for place in places
        ]
        embedded = self._embed(crops)
        for item, (places, switches) in zip(batch, chosen, strict=True):
            if isinstance(item, CameraState):
                yield item
            else:
                given = embedded if item.vectors is None else _to_bytes(item.vectors[places])
                yield self._record(item, {place: next(given) for place in places}, switches)

    def finish(self) -> Iterator[Embeddings | CameraState]:
        """Nothing is owed."""
        return iter(())

    def _choose(self, item: Detections | CameraState) -> tuple[Sequence[int], Switches | None]:
        """Places of the people to embed, and who names them; a stream's end, a new stream or a frame that goes back begins anew."""
        if isinstance(item, CameraState):
            if item.state == "end":
                self._cameras.pop(item.camera, None)
            return [], None
        if item.status != "ok":
            return [], None
        frame = item.frame
        known = self._cameras.get(frame.camera)
        if known is None or known.stream != frame.stream or frame.sequence <= known.sequence:
            switches = None if self._links is None else Switches(self._links)
            known = self._cameras[frame.camera] = _Stream(frame.stream, Budget(self._settings), switches)
        known.sequence = frame.sequence
        reasons = known.budget.choose(item)
        for reason in reasons.values():
            EMBEDDED.labels(frame.camera, reason).inc()
        return sorted(reasons), known.switches

    def _embed(self, crops: Sequence[NDArray[np.uint8]]) -> Iterator[bytes]:
        """Crops -> little-endian float16 vectors, in their order."""
        size = self._settings.max_batch
        for start in range(0, len(crops), size):
            yield from _to_bytes(embed(self._backend, crops[start : start + size]))

    def _record(self, item: Detections, vectors: dict[int, bytes], switches: Switches | None) -> Embeddings:
        frame = item.frame
        tracklets = item.tracklets
        if switches is not None:
            second = (frame.captured_at - frame.stream) / 1e9
            tracklets = switches.rename(second, item.tracklets, item.quality, vectors)
        people = zip(item.xyxy.tolist(), item.scores.tolist(), tracklets, item.quality.tolist(), strict=True)
        return Embeddings(
            site=frame.site,
            camera=frame.camera,
            stream=frame.stream,
            sequence=frame.sequence,
            captured_at=frame.captured_at,
            ingested_at=frame.ingested_at,
            clock=frame.clock,
            width=frame.width,
            height=frame.height,
            status=item.status,
            model=self._backend.card.id,
            people=tuple(
                Person(
                    xyxy=(x1, y1, x2, y2),
                    score=score,
                    tracklet=tracklet,
                    quality=quality,
                    vector=vectors.get(place),
                )
                for place, ((x1, y1, x2, y2), score, tracklet, quality) in enumerate(people)
            ),
        )


def _to_bytes(vectors: NDArray[np.float32]) -> Iterator[bytes]:
    """(N, D) -> each as little-endian float16."""
    return (vector.tobytes() for vector in vectors.astype("<f2"))
