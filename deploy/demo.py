"""`sightline demo`: draws a scene, plays it while it is watched, and says how well people were linked."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy.doctor import servers
from deploy.models import detector_of, embedder_of
from deploy.play import against_truth, figures, judge, picture, play, site
from deploy.report import write_report
from deploy.score import majority_truth
from deploy.view import View
from detector.settings import DetectorSettings
from ingest.synthetic.clip import Renderer, render_ahead
from ingest.synthetic.scene import SceneSettings
from reid.settings import EmbedderSettings
from stream.cores import usable_cores
from stream.errors import SightlineError

MARGIN_S = 8.0  # of the scene drawn beyond what the measured rate asks for: machines are not steady
SKIPPED_AT_MOST = 0.01  # of the frames sampled, before a run says that its machine was too slow
SHARED = 0.5  # of the measured drawing rate that is left while the stream runs beside it on two cores


def run_demo(
    scene: SceneSettings,
    console: Console,
    *,
    fast: bool = False,
    workers: int = 1,
    report: Path | None = None,
    kafka: str | None = None,
    redis: str | None = None,
    detector: str | None = None,
    embedder: str | None = None,
) -> dict[str, Any]:
    """Draw, play, judge, print, and write `report` if asked. Returns what report.json holds.

    `detector` and `embedder` name bundles in place of those that ship; a person search is the detector alone.
    """
    # a shared broker or gallery may still hold another demo's people
    name = f"demo-{time.time_ns() // 10**9:x}" if kafka or redis else "demo"
    settings = site(scene, fast=fast, kafka=kafka, redis=redis, name=name)
    if detector:
        settings = settings.model_copy(update={"detector": DetectorSettings(bundle=detector)})
    if embedder:
        settings = settings.model_copy(update={"reid": EmbedderSettings(bundle=embedder)})
    for find in (detector_of, embedder_of):  # what is wrong with a model is said before anything is drawn
        find(settings.detector, settings.reid)
    for finding in servers(settings):  # and what is wrong with a server
        if finding.status == "failed":
            raise SightlineError(finding.found)
    title = f"{scene.cameras} cameras, {scene.people} people, seed {scene.seed}"
    with (
        drawn(scene, console, workers=usable_cores(), ahead=not fast),
        View([camera.id for camera in settings.camera], console, title, scene.seconds) as view,
    ):
        played = play(settings, threading.Event(), workers=workers, view=view)
    frames = against_truth(scene, played.records)
    found = figures(scene, played, judge(frames, played.events), fast=fast, workers=workers)
    console.print(score_table(found))
    if hint := too_slow(found):
        console.print(hint)
    if report is not None:
        paths = write_report(
            report, found, played.events, frames, majority_truth(frames), lambda record: picture(scene, record)
        )
        console.print("report: " + ", ".join(str(path) for path in paths))
    return found


@contextmanager
def drawn(scene: SceneSettings, console: Console, *, workers: int, ahead: bool) -> Iterator[None]:
    """The scene's clips, drawn with progress: all of them, or with `ahead` as much as playing in real time needs.

    The workers go on below the priority of what plays until the block ends; else each camera would draw for itself.
    """
    with ExitStack() as held:
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
            console=console, disable=not console.is_terminal, transient=True,
        ) as bar:  # fmt: skip
            drawing = held.enter_context(_Drawing(scene, workers, bar))
            said = console.is_terminal
            while not drawing.renderer.wait(drawing.needed_s() if ahead else scene.seconds, timeout_s=0.5):
                if not said:
                    console.print(f"drawing the scene ({scene.cameras} cameras, {scene.seconds:g} s)")
                said = True
        yield


class _Drawing:
    """A renderer and how fast it is."""

    def __init__(self, scene: SceneSettings, workers: int, bar: Progress) -> None:
        self._scene, self._bar = scene, bar
        self._task = bar.add_task("drawing the scene", total=1.0)
        self._first: tuple[float, int] | None = None
        self._rate = 0.0  # scene seconds drawn per second
        self.renderer: Renderer = render_ahead(scene, workers, self._progress)

    def __enter__(self) -> "_Drawing":
        return self

    def __exit__(self, *_: object) -> None:
        self.renderer.close()

    def _progress(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done / total)
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        elif now - self._first[0] > 2:  # the first pieces wait for the compiler
            self._rate = (done - self._first[1]) / total * self._scene.seconds / (now - self._first[0])

    def needed_s(self) -> float:
        """How much must be there so that drawing the rest stays ahead of playing it."""
        if not self._rate:
            return self._scene.seconds
        behind = max(0.0, 1 - SHARED * self._rate) * self._scene.seconds
        return min(self._scene.seconds, behind + MARGIN_S)


def score_table(found: dict[str, Any]) -> Table:
    """The figures that a person asks for first."""
    latency = found["latency_ms"]
    table = Table(title="scored against the truth", title_justify="left", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    rows = {
        "people seen / identities given": f"{found['people_true']} / {found['identities']}",
        "links, of them right": f"{found['links']}, {_percent(found['link_precision'])}",
        "moves between cameras, kept": f"{found['transitions']}, {_percent(found['link_recall'])}",
        "IDF1 over all cameras": f"{found['idf1']:.3f}",
        "MOTA": f"{found['mota']:.3f}",
        "frames analysed / dropped": f"{found['frames_analysed']} / {found['frames_dropped']}",
        "capture to event, p50 / p95 / p99": "not live"
        if latency is None
        else (f"{latency['p50']:.0f} / {latency['p95']:.0f} / {latency['p99']:.0f} ms"),
        "times real time": f"{found['realtime_factor']:.2f}",
        "CPU per camera and second": f"{found['cpu_ms_per_camera_second']:.0f} ms",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def too_slow(found: dict[str, Any]) -> str | None:
    """What to say of a run that skipped so much that its figures are the machine's, not the models'; else None."""
    skipped = found["frames_dropped"]
    sampled = found["frames_analysed"] + skipped
    if skipped <= SKIPPED_AT_MOST * sampled:
        return None
    return (
        f"this machine was too slow or too busy: {skipped} of {sampled} frames were skipped; "
        "sightline demo --fast shows the stream without time pressure"
    )


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"
