"""What one camera has ready to be sent: bounded, and honest about silence."""

import threading
from collections import deque

from ingest.settings import CameraSettings
from stream.messages import CameraState, Frame
from stream.telemetry import FRAMES_DROPPED, QUEUE_DEPTH

LIVE_LENGTH = 8
"""Frames; at 5 per second more would be older than anybody wants a live picture."""
FILE_LENGTH = 16
IDLE_NS = 250_000_000
"""A live camera that had nothing to send for so long says up to when it has been heard."""
STALE_NS = 1_000_000_000
"""A picture that comes later than this is of no use to anybody: a connected camera's silence is called idle up to there."""


class CameraQueue:
    """Filled by one camera's thread, emptied by the source. Live drops its oldest frame, a file waits for room.

    All queues of a source share one condition, so that it can wait for any of them.
    """

    def __init__(self, site: str, camera: CameraSettings, changed: threading.Condition, now_ns: int) -> None:
        self.camera, self.live = camera.id, not camera.is_file
        self.error: BaseException | None = None
        """What ended the camera's thread, other than its last frame."""
        self.ended = False
        """Nothing more will be put."""
        self._site, self._changed = site, changed
        self._ready: deque[Frame | CameraState] = deque()
        self._length = LIVE_LENGTH if self.live else FILE_LENGTH
        self._closed = False
        self._connected = False
        self._stream = now_ns  # of a camera that was never there: grows over restarts, and is below its first frame's
        self._sent_ns = now_ns  # wall clock when the last message was taken
        self._heard_ns = now_ns  # wall clock when the last picture came
        self._promised_ns = 0  # captured_at that the last message reached
        self._decoded_ns = 0  # captured_at of the last picture, sampled or not
        self._added_ns = round(min(0.0, camera.clock_offset) * 1e9)  # where it makes pictures older
        self._depth = QUEUE_DEPTH.labels(f"camera {camera.id}")
        self._dropped = FRAMES_DROPPED.labels(camera.id, "queue")
        self._late = FRAMES_DROPPED.labels(camera.id, "late")

    def put(self, message: Frame | CameraState) -> None:
        """Add; a file's thread waits here for room, until the queue is closed. What was called idle already is dropped."""
        with self._changed:
            if self.live and isinstance(message, Frame) and message.captured_at <= self._promised_ns:
                self._late.inc()
                return
            if self.live and len(self._ready) >= self._length:
                self._ready.popleft()
                self._dropped.inc()
            elif not self.live:
                self._changed.wait_for(lambda: len(self._ready) < self._length or self._closed)
            self._ready.append(message)
            self._stream = message.stream
            self._depth.set(len(self._ready))
            self._changed.notify_all()

    def begin(self, captured_ns: int) -> int:
        """A stream's first picture is there: its captured_at, moved behind what was called idle while it was decoded."""
        with self._changed:
            self._connected = True
            self._decoded_ns = self._promised_ns
            return max(captured_ns, self._promised_ns + 1)

    def heard(self, captured_ns: int, now_ns: int) -> None:
        """A picture was decoded, sampled or not: nothing older will come."""
        with self._changed:
            self._connected = True
            self._decoded_ns, self._heard_ns = captured_ns, now_ns

    def away(self) -> None:
        """The connection is lost."""
        with self._changed:
            self._connected = False

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will be put; `error` ends the whole source."""
        with self._changed:
            self.ended, self.error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Let a waiting thread go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # The rest is called by the source, which holds the condition.

    def head_ns(self) -> int | None:
        """captured_at of the next message, None when there is none."""
        return self._ready[0].captured_at if self._ready else None

    def pop(self, now_ns: int) -> Frame | CameraState:
        """The next message."""
        message = self._ready.popleft()
        self._sent_ns, self._promised_ns = now_ns, message.captured_at
        self._depth.set(len(self._ready))
        self._changed.notify_all()
        return message

    def idle(self, now_ns: int) -> CameraState | None:
        """For a live camera with nothing to send: up to when it has been heard, at most every 250 ms."""
        if not self.live or self.ended or self._ready or now_ns - self._sent_ns < IDLE_NS:
            return None
        if not self._connected:
            until = now_ns + self._added_ns  # whatever comes after a reconnect is dated then
        elif now_ns - self._heard_ns < IDLE_NS:
            until = self._decoded_ns  # pictures come, none was due
        else:
            until = max(self._decoded_ns, now_ns - STALE_NS + self._added_ns)
        if until <= self._promised_ns:
            return None
        self._sent_ns, self._promised_ns = now_ns, until
        return CameraState(
            site=self._site,
            camera=self.camera,
            stream=self._stream,
            captured_at=until,
            ingested_at=now_ns,
            state="idle",
        )
