"""What ends: files, and synthetic scenes at either pace."""

import logging
import threading
from collections.abc import Callable, Iterator

from ingest.clock import SECOND_NS, FileClock, WallClock
from ingest.decode import Picture, Video, file_path, open_video
from ingest.frames import FrameWriter
from ingest.queues import CameraQueue
from ingest.scene import LiveScene, clips
from ingest.settings import CameraSettings
from stream.errors import CameraError, NotAVideo
from stream.telemetry import CAMERA_CONNECTED, CLOCK_JUMPS

log = logging.getLogger(__name__)
READ_TIMEOUT_S = 60.0
"""For one packet of a file: network shares stall."""


def play_file(camera: CameraSettings, writer: FrameWriter, wall: WallClock, stop: threading.Event) -> None:
    """Every picture, as fast as the queue takes them, dated by the file's own time. Raises CameraError when it cannot."""
    clock = FileClock(camera.start_ns)
    writer.begin(camera.start_ns)
    for picture, time_ns in _pictures(camera, wall):
        stamp = clock.stamp(time_ns)
        if stamp.jump_s is not None:
            CLOCK_JUMPS.labels(camera.id).inc()
            log.warning(
                "camera %s: the time in %s goes back by %.1f s; the film goes on from there without a gap",
                camera.id, camera.shown_url, -stamp.jump_s,
            )  # fmt: skip
        writer.take(picture, stamp.captured_ns, "file")
        if stop.is_set():
            return
    writer.finish()


def play_scene(
    camera: CameraSettings,
    writer: FrameWriter,
    queue: CameraQueue,
    wall: WallClock,
    stop: threading.Event,
    scene: LiveScene,
) -> None:
    """A synthetic camera in real time: every picture when it is due, dated by the scene's clock."""
    start_ns = scene.start_ns(camera)
    if start_ns is None:
        return
    queue.heard(start_ns, wall.now_ns())
    for picture, time_ns in _pictures(camera, wall):
        captured_ns = start_ns + time_ns
        if stop.wait(max(0, captured_ns - wall.now_ns()) / 1e9):
            return
        writer.take(picture, captured_ns, "arrival")
    writer.finish()


def _pictures(camera: CameraSettings, wall: WallClock) -> Iterator[tuple[Picture, int]]:
    """Pictures with their time since the beginning, over all clips."""
    sources = iter([(file_path(camera.url), 0)]) if camera.kind == "file" else clips(camera)
    for path, begin_ns in sources:
        with open_video(camera, wall, READ_TIMEOUT_S, path=path) as video:
            times = _container_times if video.has_times else _counted_times
            for picture, time_ns in _to_its_end(camera, video, times):
                yield picture, begin_ns + time_ns


def _container_times(camera: CameraSettings, video: Video) -> Iterator[tuple[Picture, int]]:
    time_ns = latest_ns = 0
    for picture in video.pictures(lambda: READ_TIMEOUT_S):
        time_ns = time_ns if picture.time_ns is None else picture.time_ns
        latest_ns = max(latest_ns, time_ns)
        yield picture, time_ns
    if latest_ns and video.duration_ns is not None and latest_ns < video.duration_ns - SECOND_NS:
        log.warning(
            "camera %s: %s is cut off: it says %.1f s and ends after %.1f s; what is there is used",
            camera.id, camera.shown_url, video.duration_ns / 1e9, latest_ns / 1e9,
        )  # fmt: skip


def _counted_times(camera: CameraSettings, video: Video) -> Iterator[tuple[Picture, int]]:
    said = camera.source_fps is not None or "fps" in camera.model_fields_set
    log.log(
        logging.INFO if said else logging.WARNING,
        "camera %s: %s has no times: taken as %g pictures per second, %s",
        camera.id, camera.shown_url, camera.raw_fps, "as set" if said else "for want of a setting: set source_fps",
    )  # fmt: skip
    for number, picture in enumerate(video.pictures(lambda: READ_TIMEOUT_S)):
        yield picture, round(number * SECOND_NS / camera.raw_fps)


def _to_its_end(
    camera: CameraSettings, video: Video, times: Callable[[CameraSettings, Video], Iterator[tuple[Picture, int]]]
) -> Iterator[tuple[Picture, int]]:
    """What a broken file still holds is used, and that is said; one with nothing in it is an error."""
    count = 0
    try:
        for item in times(camera, video):
            CAMERA_CONNECTED.labels(camera.id).set(1)
            count += 1
            yield item
    except CameraError as error:
        if count:
            log.warning("%s; the %d pictures before that are used", error, count)
    if count == 0:
        raise NotAVideo(f"camera {camera.id}: {camera.shown_url} holds no picture that can be decoded")
