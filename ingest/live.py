"""What does not end: cameras on the network and on this machine. They come and go; the thread stays."""

import logging
import random
import threading

from ingest.clock import SECOND_NS, LiveClock, Pacer, Stamp, WallClock
from ingest.decode import CameraSilent, Picture, open_video
from ingest.frames import FrameWriter
from ingest.patience import Backoff, Patience, Watchdog
from ingest.queues import CameraQueue
from ingest.settings import CameraSettings
from stream.errors import CameraError, CameraUnauthorised, CameraUnreachable
from stream.messages import Clock
from stream.telemetry import (
    CAMERA_CONNECTED,
    CAMERA_RECONNECTS,
    CLOCK_JUMPS,
    CLOCK_OFFSET,
    FRAMES_DROPPED,
)

log = logging.getLogger(__name__)


class LiveCamera:
    """Connects, delivers, and tries again for as long as it takes."""

    def __init__(
        self,
        camera: CameraSettings,
        writer: FrameWriter,
        queue: CameraQueue,
        wall: WallClock,
        patience: Patience,
        stop: threading.Event,
    ) -> None:
        self._camera, self._writer, self._queue = camera, writer, queue
        self._wall, self._patience, self._stop = wall, patience, stop
        self._watchdog = Watchdog(patience)
        self._connected = CAMERA_CONNECTED.labels(camera.id)
        self._delivered_ns = 0  # how long the last connection delivered

    def run(self) -> None:
        """Until it is stopped."""
        backoff = Backoff(self._patience, random.Random())
        said = ""
        while not self._stop.is_set():
            failure = self._connection()
            self._queue.away()
            self._writer.break_off()
            self._connected.set(0)
            if self._stop.is_set():
                return
            CAMERA_RECONNECTS.labels(self._camera.id, _REASONS.get(type(failure), "unusable")).inc()
            if str(failure) != said or self._delivered_ns:  # one line per change, not one per attempt
                log.warning("%s; trying again until it is back", failure, exc_info=failure.__cause__)
                said = str(failure)
            if self._delivered_ns > self._patience.settled_s * SECOND_NS:
                backoff.reset()
            self._stop.wait(backoff.longest_s() if isinstance(failure, CameraUnauthorised) else backoff.wait_s())

    def _connection(self) -> CameraError:
        """Deliver until the connection ends; returns why."""
        self._delivered_ns = 0
        try:
            self._deliver()
            return CameraUnreachable(f"camera {self._camera.id}: {self._camera.shown_url} ended its stream")
        except CameraSilent as error:
            self._watchdog.gave_up()
            return error
        except CameraError as error:
            return error
        except Exception as error:  # ours, of this camera alone: the others go on
            failure = CameraError(
                f"camera {self._camera.id}: {self._camera.shown_url}: unexpected {type(error).__name__}: {error}. "
                "This is a mistake of ours: please report it"
            )
            failure.__cause__ = error
            return failure

    def _deliver(self) -> None:
        camera, dating = self._camera, _Dating(self._camera, self._wall, self._stop)
        began_ns = before_ns = 0
        offset, jumps = CLOCK_OFFSET.labels(camera.id), CLOCK_JUMPS.labels(camera.id)
        with open_video(camera, self._wall, self._watchdog.open_s) as video:
            for picture in video.pictures(lambda: self._watchdog.silence_s):
                if began_ns:
                    self._watchdog.saw_gap((picture.arrival_ns - before_ns) / 1e9)
                else:
                    began_ns = picture.arrival_ns
                    self._connected.set(1)
                    log.info("camera %s: %s: %s", camera.id, camera.shown_url, video.describe())
                before_ns = picture.arrival_ns
                self._delivered_ns = before_ns - began_ns + 1
                stamp = dating.stamp(picture, video.has_times)
                if self._stop.is_set():
                    return
                if stamp is None:
                    continue
                offset.set(dating.offset_s)
                if stamp.jump_s is not None:
                    jumps.inc()
                    log.warning("camera %s: its clock jumped by %+.1f s; a new stream begins", camera.id, stamp.jump_s)
                    self._writer.break_off()
                self._writer.take(picture, stamp.captured_ns, dating.source)


class _Dating:
    """Dates the pictures of one connection by the best clock that the stream has shown so far."""

    def __init__(self, camera: CameraSettings, wall: WallClock, stop: threading.Event) -> None:
        self._bursts = camera.kind == "http"  # HLS comes a segment at a time
        self._wall, self._stop = wall, stop
        self._clock, self._pacer = LiveClock(round(camera.clock_offset * 1e9)), Pacer()
        self._untimed = FRAMES_DROPPED.labels(camera.id, "untimed")
        self.source: Clock = "arrival"

    @property
    def offset_s(self) -> float:
        """What is added to the stream's own time."""
        return self._clock.offset_ns / 1e9

    def stamp(self, picture: Picture, has_times: bool) -> Stamp | None:
        """The picture's date, at the moment when it is due; None for the first of an RTSP stream, which has no time."""
        arrival_ns = picture.arrival_ns
        if not has_times:
            return self._clock.stamp(arrival_ns, arrival_ns)
        if picture.time_ns is None:
            self._untimed.inc()
            return None
        if picture.utc_ns is not None:
            if self.source == "arrival":
                self._clock.shift(picture.utc_ns - picture.time_ns)
                self.source = "rtcp"
            return self._clock.stamp(arrival_ns, picture.utc_ns)
        if self._bursts:
            self._stop.wait(self._pacer.wait_ns(self._wall.now_ns(), picture.time_ns) / 1e9)
            arrival_ns = self._wall.now_ns()
        return self._clock.stamp(arrival_ns, picture.time_ns)


_REASONS: dict[type[CameraError], str] = {
    CameraSilent: "silent",
    CameraUnreachable: "unreachable",
    CameraUnauthorised: "unauthorised",
}
