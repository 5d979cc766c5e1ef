"""Frame -> Detections: who stands where, tracked within each camera."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.boxes import Boxes
from detector.letterbox import infer_letterboxed
from detector.looks import looks_of
from detector.nms import select
from detector.quality import quality
from detector.scenery import Scenery
from detector.settings import DetectorSettings
from detector.tracker import Tracker
from stream.messages import CameraState, DecodedFrame, Detections, Frame, Status
from stream.model import Backend
from stream.telemetry import FRAMES_DROPPED, PEOPLE, REPEATS, STILL

F32 = NDArray[np.float32]
SURE = 0.1  # a box that scores so much more than one that begins a tracklet is a person, even if nothing moves
Found = tuple[Boxes, F32, F32 | None]  # xyxy (N, 4) of the frame, scores (N,), of a person search vectors (N, D)


@dataclass(slots=True)
class _Camera:
    """The stream that a camera is in, and how far."""

    stream: int
    first_sequence: int
    last_sequence: int
    tracker: Tracker
    scenery: Scenery


class Detector:
    """A stage: exactly one Detections per frame, in its order; CameraState passes in its place.

    The backend holds a detector or a person search; with the latter, Detections carry the vectors of the people in them.

    Pictures of all cameras share the model's batches. Files are never shed. Live cameras are, when this worker lags, that is
    when the oldest live frame of a batch has waited `lag_s` since it was ingested (by `clock`, seconds since the epoch): then
    the newest frame of each is inferred and the others come out as ``skipped``; one older than `max_live_age_s` is always
    skipped. A skipped frame does not step the tracker, for which it is a frame not sampled: it works in event time.

    A tracker lasts as long as a camera's stream. A frame that it has seen (one delivered again) is counted and comes out as
    ``skipped``, for the matcher has its record. Only one from before the tracker's first, or that one, begins a new tracker,
    which names its tracklets as a worker that started there would.
    """

    def __init__(self, backend: Backend, settings: DetectorSettings, clock: Callable[[], float] = time.time) -> None:
        self._backend = backend
        self._settings = settings
        self._clock = clock
        self._cameras: dict[str, _Camera] = {}

    def process(self, batch: Sequence[DecodedFrame | CameraState]) -> Iterator[Detections | CameraState]:
        """Detect and track a batch of any cameras."""
        found = self._infer(self._wanted(batch))
        for item in batch:
            if isinstance(item, CameraState):
                if item.state == "end":
                    self._cameras.pop(item.camera, None)
                yield item
            elif item.image is None:
                FRAMES_DROPPED.labels(item.frame.camera, "undecodable").inc()
                yield _nobody(item.frame, "undecodable")
            elif id(item) not in found:
                FRAMES_DROPPED.labels(item.frame.camera, "skipped").inc()
                yield _nobody(item.frame, "skipped")
            else:
                yield self._track(item.frame, item.image, *found[id(item)])

    def finish(self) -> Iterator[Detections | CameraState]:
        """Nothing is owed."""
        return iter(())

    def _wanted(self, batch: Sequence[DecodedFrame | CameraState]) -> list[DecodedFrame]:
        """The frames to infer: all, or of live cameras the newest when this worker lags."""
        frames = [item for item in batch if isinstance(item, DecodedFrame) and item.image is not None]
        if max((self._waited_s(item.frame) for item in frames), default=0) <= self._settings.lag_s:
            return frames
        newest = {item.frame.camera: id(item) for item in frames}
        return [item for item in frames if item.frame.clock == "file" or newest[item.frame.camera] == id(item)]

    def _waited_s(self, frame: Frame) -> float:
        return 0.0 if frame.clock == "file" else self._clock() - frame.ingested_at / 1e9

    def _infer(self, frames: Sequence[DecodedFrame]) -> dict[int, Found]:
        """Boxes and scores by the frame's id(); of frames that are not too old when their turn comes."""
        settings, found = self._settings, {}
        for start in range(0, len(frames), settings.max_batch):
            part = [
                item
                for item in frames[start : start + settings.max_batch]
                if self._waited_s(item.frame) <= settings.max_live_age_s
            ]
            images = [item.image for item in part if item.image is not None]
            raw, scales = infer_letterboxed(self._backend, images)
            vectors = raw.get("embedding", [None] * len(part))
            for item, image, boxes, scores, described, scale in zip(
                part, images, raw["boxes"], raw["scores"], vectors, scales.tolist(), strict=True
            ):
                xyxy, kept_scores, places = select(
                    boxes,
                    scores,
                    scale=scale,
                    image_hw=(image.shape[0], image.shape[1]),
                    min_score=settings.low_score,
                    max_iou=settings.nms_iou,
                )
                found[id(item)] = xyxy, kept_scores, None if described is None else described[places]
        return found

    def _track(
        self, frame: Frame, image: NDArray[np.uint8], xyxy: Boxes, scores: F32, vectors: F32 | None
    ) -> Detections:
        camera = self._cameras.get(frame.camera)
        if camera is None or camera.stream != frame.stream or frame.sequence <= camera.first_sequence:
            tracker, scenery = Tracker(self._settings), Scenery(self._settings.still_s)
            camera = _Camera(frame.stream, frame.sequence, frame.sequence, tracker, scenery)
            self._cameras[frame.camera] = camera
        elif frame.sequence <= camera.last_sequence:
            REPEATS.labels(frame.camera).inc()
            return _nobody(frame, "skipped")
        camera.last_sequence = frame.sequence
        size_hw = (image.shape[0], image.shape[1])
        now_s = (frame.captured_at - frame.stream) / 1e9
        weak = np.flatnonzero(scores < self._settings.new_score + SURE)
        things = weak[camera.scenery.unchanged(now_s, image, xyxy[weak])]
        STILL.labels(frame.camera).inc(len(things))
        xyxy, scores = np.delete(xyxy, things, 0), np.delete(scores, things)
        vectors = None if vectors is None else np.delete(vectors, things, 0)
        crops = [_crop(image, box) for box in xyxy]
        tracked = camera.tracker.step(now_s, xyxy, scores, looks_of(crops), size_hw)
        people = tracked.boxes
        PEOPLE.labels(frame.camera).inc(len(people))
        begin = f"{frame.camera}/{frame.stream}/{camera.first_sequence}"
        return Detections(
            frame=frame,
            status="ok",
            xyxy=xyxy[people],
            scores=scores[people],
            tracklets=tuple(f"{begin}/{number}" for number in tracked.numbers.tolist()),
            quality=quality(xyxy, crops, size_hw)[people],
            ambiguous=tracked.ambiguous,
            crops=tuple(crops[place] for place in people.tolist()),
            vectors=None if vectors is None else vectors[people],
        )


def _crop(image: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The view of a box, whole pixels, never empty."""
    x1, y1 = int(box[0]), int(box[1])
    return image[y1 : max(y1 + 1, int(np.ceil(box[3]))), x1 : max(x1 + 1, int(np.ceil(box[2])))]


def _nobody(frame: Frame, status: Status) -> Detections:
    none = np.zeros(0, np.float32)
    return Detections(
        frame=frame,
        status=status,
        xyxy=np.zeros((0, 4), np.float32),
        scores=none,
        tracklets=(),
        quality=none,
        ambiguous=np.zeros(0, bool),
        crops=(),
    )
