"""What a person sees while the stream runs: a table of cameras and the latest links, or plain lines without a terminal."""

import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stream.messages import Embeddings, MatchEvent

LATEST = 8  # links on the screen
FPS_WINDOW = 15  # frames over which a camera's rate is taken
PLAIN_EVERY_S = 10.0


def short(identity: str) -> str:
    """Four of an identity's 32 digits: enough for a screen."""
    return identity[:4]


@dataclass(slots=True)
class _Camera:
    frames: int = 0
    skipped: int = 0
    people: int = 0
    times: deque[int] = field(default_factory=lambda: deque(maxlen=FPS_WINDOW))

    @property
    def fps(self) -> float:
        span = (self.times[-1] - self.times[0]) / 1e9 if len(self.times) > 1 else 0
        return (len(self.times) - 1) / span if span else 0.0


class View:
    """Fed by readers of the topics from their own threads; drawn four times a second."""

    def __init__(self, cameras: Sequence[str], console: Console, title: str, seconds: float | None = None) -> None:
        self._cameras = {camera: _Camera() for camera in cameras}
        self._console, self._title, self._seconds = console, title, seconds
        self._latest: deque[Text] = deque(maxlen=LATEST)
        self._kinds: Counter[str] = Counter()
        self._identities: set[str] = set()
        self._first_at: int | None = None
        self._last_at = 0
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._live = (
            Live(get_renderable=self._draw, console=console, refresh_per_second=4) if console.is_terminal else None
        )
        self._plain = threading.Thread(target=self._print_lines, name="view", daemon=True)

    def __enter__(self) -> "View":
        if self._live:
            self._live.start()
        else:
            self._plain.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._live:
            self._live.stop()
        else:
            self._plain.join()
            self._console.print(self._line())

    def frame(self, record: Embeddings) -> None:
        """One analysed or skipped frame."""
        with self._lock:
            camera = self._cameras[record.camera]
            camera.frames += 1
            camera.skipped += record.status != "ok"
            if record.status == "ok":
                camera.people = len(record.people)
            camera.times.append(record.captured_at)
            self._first_at = min(self._first_at or record.captured_at, record.captured_at)
            self._last_at = max(self._last_at, record.captured_at)

    def event(self, event: MatchEvent) -> None:
        """One match event."""
        with self._lock:
            self._kinds[event.kind] += 1
            self._identities.add(event.identity)
            if event.merged is not None:
                self._identities.discard(event.merged)
            if event.kind in ("link", "merge"):
                self._latest.append(self._say(event))

    def _say(self, event: MatchEvent) -> Text:
        seconds = (event.captured_at - (self._first_at or event.captured_at)) / 1e9
        gap = event.evidence.gap_s if event.evidence else None
        after = f" after {gap:.0f} s" if gap is not None and gap > 0 else ""  # 0 or less: on both cameras at once
        text = Text(f"{seconds:6.1f} s  ")
        text.append(short(event.identity), style="bold cyan")
        if event.merged is None:
            text.append(f"  {event.previous_camera or '?'} → {event.camera}{after}")
        else:
            text.append(f"  was also {short(event.merged)}")
        text.append(f"  {event.probability:.2f}" if event.probability is not None else "", style="dim")
        return text

    def _line(self) -> str:
        with self._lock:
            elapsed = (self._last_at - self._first_at) / 1e9 if self._first_at else 0.0
            frames = sum(camera.frames for camera in self._cameras.values())
            skipped = sum(camera.skipped for camera in self._cameras.values())
            people = sum(camera.people for camera in self._cameras.values())
            return (
                f"{elapsed:6.1f} s  {frames} frames, {skipped} skipped, {people} people in view, "
                f"{len(self._identities)} identities, {self._kinds['link']} links"
            )

    def _print_lines(self) -> None:
        while not self._done.wait(PLAIN_EVERY_S):
            self._console.print(self._line())

    def _draw(self) -> Group:
        line = self._line()
        with self._lock:
            table = Table(title=self._title, title_justify="left", expand=False)
            for heading in ("camera", "fps", "frames", "skipped", "people"):
                table.add_column(heading, justify="left" if heading == "camera" else "right")
            for name, camera in self._cameras.items():
                table.add_row(name, f"{camera.fps:.1f}", str(camera.frames), str(camera.skipped), str(camera.people))
            of = "" if self._seconds is None else f"  (of {self._seconds:.0f} s)"
            progress = Text(line + of, overflow="fold", no_wrap=False)  # narrow terminals would lose its end
            return Group(table, progress, Text("latest links", style="bold"), *self._latest)
