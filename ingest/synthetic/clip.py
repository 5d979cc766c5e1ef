"""A scene as H.264 clips of a few seconds, drawn when they are asked for and kept in the cache.

A segment is named by camera and index and depends on nothing but the settings, so any worker may draw it, in any order.
It is written beside its place and moved there whole; a lock that dies with its holder keeps two from drawing the same one.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import platformdirs

from ingest.synthetic.scene import SceneSettings, parse_url
from ingest.synthetic.standing import Standing
from ingest.synthetic.view import FrameTruth, View, standing_scene
from stream.errors import CameraError, SettingsError

SEGMENT_S = 3.0
"""Short enough that four cameras show their first pictures soon, long enough that opening files costs nothing."""
KEEP_SCENES = 24
"""Older scenes are removed from the cache; one of 60 s takes about 25 MB."""
GONE = ".gone-"
"""Before the name of a scene that is being removed."""

Progress = Callable[[int, int], None]
"""Called with how many segments of the scene are there, and how many there will be."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A few seconds of one camera."""

    camera: int
    index: int
    path: Path
    """H.264 in MP4; its own times begin at 0."""
    start_s: float
    """Scene time of its first frame, the camera's phase included."""
    first_frame: int
    """Place of its first frame in the camera's whole clip."""
    frames: int


def plan(settings: SceneSettings, camera: int) -> list[Segment]:
    """The camera's segments in order of time, drawn or not."""
    step = max(1, round(SEGMENT_S * settings.fps))
    folder = scene_folder(settings)
    return [
        Segment(
            camera, index, folder / f"camera{camera:02d}-{index:04d}.mp4", settings.time_s(camera, first), first,
            min(step, settings.frames() - first),
        )
        for index, first in enumerate(range(0, settings.frames(), step))
    ]  # fmt: skip


def segments(settings: SceneSettings, camera: int) -> Iterator[Segment]:
    """The camera's segments in order of time. Each is drawn here unless it is there or somebody else is drawing it."""
    prepare(settings)
    draw = _Drawing(settings)
    for segment in plan(settings, camera):
        draw.ensure(segment, wait=True)
        yield segment


def scene_folder(settings: SceneSettings) -> Path:
    """Where the scene's clips and truth are kept: below $SIGHTLINE_CACHE, else the user's cache folder."""
    root = os.environ.get("SIGHTLINE_CACHE")
    base = Path(root) if root else platformdirs.user_cache_path("sightline")
    return base / "synthetic" / settings.key


def prepare(settings: SceneSettings) -> None:
    """Make the scene's folder, and room for it. SettingsError where the cache cannot be written."""
    folder = scene_folder(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        _make_room(folder.parent)
    except OSError as error:
        raise SettingsError(
            f"{folder}: the cache cannot be written ({error.strerror}): point SIGHTLINE_CACHE to a folder that can"
        ) from None


def _make_room(cache: Path) -> None:
    """Remove the scenes that were not asked for the longest, each under another name first: its clips never outlive its truth."""
    with suppress(FileNotFoundError):  # another process makes room as well
        scenes = sorted(
            (p for p in cache.iterdir() if p.is_dir() and not p.name.startswith(GONE)), key=lambda p: p.stat().st_mtime
        )
        for old in scenes[:-KEEP_SCENES]:
            old.rename(old.with_name(GONE + old.name))
    for gone in cache.glob(f"{GONE}*"):
        shutil.rmtree(gone, ignore_errors=True)


class _Drawing:
    """Draws segments; a camera's view is built when its first missing segment is asked for."""

    def __init__(self, settings: SceneSettings) -> None:
        self.settings = settings
        self.views: dict[int, View] = {}

    def ensure(self, segment: Segment, wait: bool) -> bool:
        """Have the segment drawn; False where somebody else is at it and `wait` is off."""
        if segment.path.exists():
            return True
        with _locked(segment.path.with_suffix(".lock"), wait) as mine:
            if mine and not segment.path.exists():
                if segment.camera not in self.views:
                    self.views[segment.camera] = View(
                        self.settings, segment.camera, _kept_standing(self.settings, segment.camera)
                    )
                _draw_segment(self.views[segment.camera], segment)
            return mine


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[bool]:
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
        # Whoever waits for the removed file gets its lock, and then finds the segment in its place.
        path.unlink(missing_ok=True)


def _kept_standing(settings: SceneSettings, camera: int) -> Standing:
    """The camera's standing scene, from the cache or into it."""
    path = scene_folder(settings) / f"camera{camera:02d}.npz"
    with _locked(path.with_suffix(".lock"), wait=True):
        if not path.exists():
            standing = standing_scene(settings, camera)
            with _whole(path) as beside, beside.open("wb") as file:
                np.savez(file, rgb=standing.rgb, depth=standing.depth)
            return standing
    with np.load(path, allow_pickle=False) as kept:
        return Standing(kept["rgb"], kept["depth"])


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file that is there completely or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _draw_segment(view: View, segment: Segment) -> None:
    """Write the segment's truth, then its clip: a clip that is there has its truth."""
    settings = view.settings
    rate = Fraction(settings.fps).limit_denominator(1000)
    truths: list[FrameTruth] = []
    with _whole(segment.path) as beside:
        with av.open(str(beside), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=rate)
            stream.width, stream.height, stream.pix_fmt = settings.width, settings.height, "yuv420p"
            stream.codec_context.time_base = 1 / rate
            stream.codec_context.thread_count = 1
            stream.codec_context.gop_size = segment.frames
            stream.options = {"preset": "superfast", "crf": str(view.crf), "bf": "0"}
            for k in range(segment.frames):
                picture, truth = view.draw(segment.first_frame + k)
                truths.append(truth)
                planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420), np.uint8)
                image = av.VideoFrame.from_ndarray(planes, format="yuv420p")
                image.pts, image.time_base = k, 1 / rate
                container.mux(stream.encode(image))
            container.mux(stream.encode(None))
        rows = [len(truth.person) for truth in truths]
        with _whole(segment.path.with_suffix(".npz")) as truth_beside, truth_beside.open("wb") as file:
            np.savez(
                file,
                frame=np.repeat(np.arange(segment.frames, dtype=np.int32) + segment.first_frame, rows),
                person=np.concatenate([truth.person for truth in truths]),
                xyxy=np.concatenate([truth.xyxy for truth in truths]),
                visible=np.concatenate([truth.visible for truth in truths]),
                joints=np.concatenate([truth.joints for truth in truths]),
            )


class Renderer:
    """Worker processes that draw all cameras' segments in order of time, below the priority of what plays them."""

    def __init__(self, settings: SceneSettings, workers: int, progress: Progress | None = None) -> None:
        prepare(settings)
        self._segments = _in_order_of_time(settings)
        self._progress = progress
        self._stop = threading.Event()
        missing = not all(segment.path.exists() for segment in self._segments)
        command = [sys.executable, "-m", "ingest.synthetic.clip", settings.url(), settings.key]
        self._workers = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for _ in range(workers * missing)
        ]
        self._watch = threading.Thread(target=self._report, name="render-progress", daemon=True)
        self._watch.start()

    def done(self) -> int:
        """How many segments are there."""
        return sum(segment.path.exists() for segment in self._segments)

    def wait(self, until_s: float = float("inf"), timeout_s: float = float("inf")) -> bool:
        """Wait until all cameras are drawn up to a scene time. False when `timeout_s` ran out.

        Raises CameraError with the worker's own last line when drawing failed.
        """
        wanted = [segment.path for segment in self._segments if segment.index * SEGMENT_S <= until_s]
        deadline = time.monotonic() + timeout_s
        while not all(path.exists() for path in wanted):
            self._check()
            if self._stop.wait(0.05) or time.monotonic() > deadline:
                return False
        return True

    def close(self) -> None:
        """Stop the workers; what they have not finished is drawn when it is asked for again."""
        self._stop.set()
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.communicate()
        self._watch.join()

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        for worker in self._workers:
            if worker.poll() not in (None, 0) and worker.stderr is not None:
                last = worker.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
                raise CameraError(
                    f"drawing the synthetic scene failed: {''.join(last) or f'exit status {worker.returncode}'}"
                )

    def _report(self) -> None:
        last, total = -1, len(self._segments)
        while True:
            stopped, done = self._stop.wait(0.2), self.done()
            if self._progress is not None and done != last:
                self._progress(done, total)
            last = done
            if stopped or done == total:
                return


def render_ahead(settings: SceneSettings, workers: int = 1, progress: Progress | None = None) -> Renderer:
    """Draw the whole scene in `workers` processes while it is already played; close the Renderer when done."""
    return Renderer(settings, workers, progress)


def _in_order_of_time(settings: SceneSettings) -> list[Segment]:
    every = [segment for camera in range(settings.cameras) for segment in plan(settings, camera)]
    return sorted(every, key=lambda segment: (segment.index, segment.camera))


def work(settings: SceneSettings) -> None:
    """What a worker process does: draw whatever nobody has drawn or is drawing, in order of time, then end."""
    parent = os.getppid()
    os.nice(10)
    cv2.setNumThreads(1)
    drawing = _Drawing(settings)
    for segment in _in_order_of_time(settings):
        if os.getppid() != parent:
            return
        drawing.ensure(segment, wait=False)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who plays; it ends us
    scene = parse_url(sys.argv[1])[0]
    if scene.key != sys.argv[2]:
        sys.exit("the code that draws has changed since this process was started: start it again")
    work(scene)
