"""What a camera is and delivers, or in one line why not: for `sightline doctor`."""

import time
from dataclasses import dataclass

from ingest.clock import WallClock
from ingest.decode import open_video
from ingest.scene import clips
from ingest.settings import CameraSettings
from stream.errors import CameraError
from stream.messages import Clock

LOOK_S = 2.0
"""How long a live camera is watched: long enough for a rate; its sender reports may come later than that."""
MOST_PICTURES = 100


@dataclass(frozen=True, slots=True)
class CameraReport:
    """One camera, looked at once."""

    camera: str
    url: str
    """Without its password."""
    error: str | None = None
    """One line; everything below is then empty."""
    codec: str = ""
    width: int = 0
    height: int = 0
    """Of the first picture, before scaling."""
    fps: float | None = None
    """Measured, or for a file without times what it is taken as; None where one picture was all."""
    latency_s: float | None = None
    """From opening to the first decoded picture."""
    clock: Clock = "arrival"
    """Where the times of its frames will come from."""

    def describe(self) -> str:
        """The report in one line."""
        if self.error is not None:
            return self.error
        rate = f"{self.fps:.3g} pictures per second" if self.fps else "one picture"
        times = {"rtcp": "its own clock (RTCP)", "file": "the file", "arrival": "its arrival"}[self.clock]
        return (
            f"camera {self.camera}: {self.url}: {self.codec} {self.width}x{self.height}, {rate}, "
            f"first picture after {self.latency_s or 0:.2f} s, dated by {times}"
        )


def probe(camera: CameraSettings, timeout_s: float = 10.0) -> CameraReport:
    """Open the camera, look at a few pictures, close it. Never raises for what is wrong with the camera."""
    try:
        return _look(camera, timeout_s)
    except CameraError as error:
        return CameraReport(camera.id, camera.shown_url, error=str(error))


def _look(camera: CameraSettings, timeout_s: float) -> CameraReport:
    wall, began_s = WallClock(), time.monotonic()
    path = next(clips(camera))[0] if camera.kind == "synthetic" else None
    seen: list[tuple[int | None, int]] = []
    clock: Clock = "file" if camera.is_file else "arrival"
    latency_s, width, height = 0.0, 0, 0
    with open_video(camera, wall, timeout_s, timeout_s, path) as video:
        for picture in video.pictures(lambda: timeout_s):
            if not seen:
                latency_s, width, height = time.monotonic() - began_s, picture.frame.width, picture.frame.height
            if picture.utc_ns is not None:
                clock = "rtcp"
            seen.append((picture.time_ns, picture.arrival_ns))
            if len(seen) >= MOST_PICTURES or time.monotonic() - began_s > latency_s + LOOK_S:
                break
        if not seen:
            raise CameraError(f"camera {camera.id}: {camera.shown_url} holds no picture that can be decoded")
        if camera.kind == "file" and not video.has_times:
            fps: float | None = camera.raw_fps
        else:
            fps = _rate(seen, timed=video.has_times)
        return CameraReport(
            camera.id, camera.shown_url, None, video.codec, width, height, fps, latency_s, clock
        )  # fmt: skip


def _rate(seen: list[tuple[int | None, int]], timed: bool) -> float | None:
    """Pictures per second by the stream's own times, else by arrival."""
    times = [time_ns for time_ns, _ in seen if time_ns is not None] if timed else [arrival for _, arrival in seen]
    span_ns = times[-1] - times[0] if len(times) > 1 else 0
    return (len(times) - 1) * 1e9 / span_ns if span_ns > 0 else None
