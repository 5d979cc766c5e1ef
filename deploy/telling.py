"""Match events as a person reads them, and as lines of JSON for programs."""

import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

from rich.console import Console
from rich.text import Text

from deploy.output import STDOUT, Output, written
from deploy.settings import Settings
from deploy.state import kept_state
from stream.codec import encode
from stream.errors import SightlineError, UsageError
from stream.messages import MatchEvent

log = logging.getLogger(__name__)

COLOURS: Mapping[str, str] = {"new": "green", "link": "cyan", "merge": "magenta", "end": "dim"}


def line(event: MatchEvent) -> Text:
    """One event on one line."""
    at = datetime.fromtimestamp(event.captured_at / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    text = Text(f"{event.number:>6}  {at}  ")
    text.append(f"{event.kind:<5}", style=COLOURS[event.kind])
    text.append(f"  {event.identity[:8]}  ", style="bold")
    if event.merged is not None:
        text.append(f"was also {event.merged[:8]}  ")
    came_from = f"{event.previous_camera} → " if event.previous_camera else ""
    text.append(f"{came_from}{event.camera}")
    gap_s = event.evidence.gap_s if event.kind == "link" and event.evidence else None
    if gap_s is not None and gap_s > 0:  # 0 or less: on both cameras at once
        text.append(f" after {gap_s:.1f} s")
    if event.probability is not None:
        text.append(f"  {event.probability:.2f}", style="dim")
    return text


def when(text: str) -> Literal["earliest", "latest"] | datetime:
    """What ``--from`` says. A time without a zone is UTC. Raises `UsageError`."""
    if text == "earliest":
        return "earliest"
    if text == "latest":
        return "latest"
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--from {text}: expected earliest, latest, or a time like 2026-01-31T08:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def print_events(
    settings: Settings,
    stop: threading.Event,
    json_path: Path | None,
    state: Path | None,
    *,
    follow: bool,
    camera: str | None,
    identity: str,
    after: int | None,
    start: Literal["earliest", "latest"] | datetime,
) -> None:
    """``sightline events``: `identity` is how the identity begins; JSON goes out line by line."""
    from matcher.events import events

    output = Output(json_path)
    where = settings.kafka or settings.redis or kept_state(settings, state)
    with _lines(json_path) as lines:
        found = events(
            where, site=settings.site.name, start=start, after=after, follow=follow, camera=camera, stop=stop
        )
        for event in found:
            if not any(name.startswith(identity) for name in (event.identity, event.merged or "")):
                continue
            if json_path != STDOUT:
                output.console.print(line(event))
            if lines and not written(lines, encode(event) + b"\n"):
                return


@contextmanager
def _lines(json_path: Path | None) -> Iterator[IO[bytes] | None]:
    if json_path is None:
        yield None
    elif json_path == STDOUT:
        yield sys.stdout.buffer
    else:
        with json_path.open("wb") as file:
            yield file


def _ends_within_a_line(path: Path) -> bool:
    """Whether its writer was cut short: the disk was full, or the power gone."""
    if not path.is_file() or not os.access(path, os.R_OK):
        return False
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        return file.read() not in (b"", b"\n")


class EventLog:
    """Called with every event: appends it to a file, prints its line, counts. Safe from any thread.

    A terminal or a pipe that is gone ends the printing alone.
    """

    def __init__(self, console: Console, path: Path | None = None) -> None:
        self._console, self._path = console, path
        self._file: IO[bytes] | None = None
        self._kinds: Counter[str] = Counter()
        self._last = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        if self._path:
            self._file = sys.stdout.buffer if self._path == STDOUT else self._path.open("ab")
            if self._path != STDOUT and _ends_within_a_line(self._path):
                self._file.write(b"\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file and self._path != STDOUT:
            with suppress(OSError):  # of an event that could not be written, as was said
                self._file.close()

    def __call__(self, event: MatchEvent) -> None:
        """One event, in the order of their numbers. Raises `SightlineError` where it cannot be appended."""
        with self._lock:
            self._kinds[event.kind] += 1
            self._last = event.number
            if self._file:
                self._append(self._file, event)
            try:
                self._console.print(line(event))
            except (OSError, SystemExit):
                log.warning("nobody reads standard output any more: events are no longer printed; the run goes on")
                self._console = Console(quiet=True)

    def _append(self, file: IO[bytes], event: MatchEvent) -> None:
        try:
            if written(file, encode(event) + b"\n"):
                return
            reason = "whoever read it is gone"
        except OSError as error:
            reason = f"{(error.strerror or 'it cannot be written').lower()}; free some room, or name another file"
        raise SightlineError(f"--events {self._path}: ends before event {event.number}: {reason}")

    def counts(self) -> dict[str, int]:
        """Events by kind, as data; every ``new`` is an identity."""
        return {**{kind: self._kinds[kind] for kind in COLOURS}, "last_number": self._last}

    def summary(self) -> str:
        """Events by kind, in a line."""
        said = {"new": "people seen anew", "link": "links", "merge": "merges", "end": "ends"}
        return ", ".join(f"{self._kinds[kind]} {words}" for kind, words in said.items())
