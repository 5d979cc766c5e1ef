"""Match events as a person reads them, and as lines of JSON for programs."""

import threading
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from rich.console import Console
from rich.text import Text

from stream.codec import encode
from stream.messages import MatchEvent

COLOURS: Mapping[str, str] = {"new": "green", "link": "cyan", "end": "dim"}


def line(event: MatchEvent) -> Text:
    """One event on one line."""
    at = datetime.fromtimestamp(event.captured_at / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    text = Text(f"{event.number:>6}  {at}  ")
    text.append(f"{event.kind:<4}", style=COLOURS[event.kind])
    text.append(f"  {event.identity[:8]}  ", style="bold")
    came_from = f"{event.previous_camera} → " if event.previous_camera else ""
    text.append(f"{came_from}{event.camera}")
    gap_s = event.evidence.gap_s if event.kind == "link" and event.evidence else None
    if gap_s is not None and gap_s > 0:  # 0 or less: on both cameras at once
        text.append(f" after {gap_s:.1f} s")
    if event.probability is not None:
        text.append(f"  {event.probability:.2f}", style="dim")
    return text


class EventLog:
    """Called with every event: prints its line, appends it to a file, counts. Safe from any thread."""

    def __init__(self, console: Console, path: Path | None = None) -> None:
        self._console, self._path = console, path
        self._file: IO[bytes] | None = None
        self._kinds: Counter[str] = Counter()
        self._last = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._file = self._path.open("ab") if self._path else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    def __call__(self, event: MatchEvent) -> None:
        """One event, in the order of their numbers."""
        with self._lock:
            self._kinds[event.kind] += 1
            self._last = event.number
            self._console.print(line(event))
            if self._file:
                self._file.write(encode(event) + b"\n")
                self._file.flush()

    def counts(self) -> dict[str, int]:
        """Events by kind, as data; every ``new`` is an identity."""
        return {**{kind: self._kinds[kind] for kind in COLOURS}, "last_number": self._last}

    def summary(self) -> str:
        """Events by kind, in a line."""
        return f"{self._kinds['new']} people seen anew, {self._kinds['link']} links, {self._kinds['end']} ends"
