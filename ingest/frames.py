"""From a dated picture to a frame in the camera's queue: sampled, scaled, masked, encoded."""

from ingest import jpeg
from ingest.clock import WallClock
from ingest.decode import Picture
from ingest.masks import Masks
from ingest.queues import CameraQueue
from ingest.sampling import Sampler
from ingest.settings import CameraSettings
from stream.messages import CameraState, Clock, Frame
from stream.telemetry import FRAMES_DECODED


class FrameWriter:
    """The last steps of every camera, the same for live ones and files."""

    def __init__(self, site: str, camera: CameraSettings, queue: CameraQueue, wall: WallClock) -> None:
        self._site, self._camera, self._queue, self._wall = site, camera, queue, wall
        self._masks = Masks(camera.masks)
        self._sampler: Sampler | None = None
        self._last_ns = 0
        self._sent_ns = 0
        self._decoded = FRAMES_DECODED.labels(camera.id)

    def begin(self, stream_ns: int) -> None:
        """A stream begins before its first picture: a file's, at its start."""
        self._sampler = Sampler(stream_ns, self._camera.fps)

    def break_off(self) -> None:
        """The stream is over: the next picture begins another, and names it."""
        self._sampler = None

    def take(self, picture: Picture, captured_ns: int, clock: Clock) -> None:
        """Put the picture into the queue if it is due. One not dated after the last is dated just after: time only grows."""
        self._decoded.inc()
        sampler = self._sampler
        if sampler is None:
            captured_ns = self._queue.begin(max(captured_ns, self._last_ns + 1))
            sampler = self._sampler = Sampler(captured_ns, self._camera.fps)
        captured_ns = self._last_ns = max(captured_ns, self._last_ns + 1)
        sequence = sampler.take(captured_ns)
        if sequence is not None:
            image = picture.pixels(self._camera.width)
            self._masks.burn(image)
            self._sent_ns = captured_ns
            self._queue.put(
                Frame(
                    site=self._site,
                    camera=self._camera.id,
                    stream=sampler.stream_ns,
                    sequence=sequence,
                    captured_at=captured_ns,
                    ingested_at=self._wall.now_ns(),
                    clock=clock,
                    width=image.shape[1],
                    height=image.shape[0],
                    image=jpeg.encode(image),
                )
            )
        self._queue.heard(captured_ns, self._wall.now_ns())

    def finish(self) -> None:
        """Say that the last frame has been sent."""
        if self._sampler is None:
            return
        self._queue.put(
            CameraState(
                site=self._site,
                camera=self._camera.id,
                stream=self._sampler.stream_ns,
                captured_at=self._sent_ns,
                ingested_at=self._wall.now_ns(),
                state="end",
            )
        )
