"""Sightline's commands as processes of their own, as an operator starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-c", "from deploy.cli import main; main()")


def sightline(
    *arguments: str, folder: Path, environment: Mapping[str, str] | None = None, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """One command until its end. State, cache and logs go under `folder`."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=_environment(folder, environment),
        timeout=timeout_s,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a person reads at the end; whatever is wrong must stand there, whole, and nowhere as a traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines, f"nothing was said; status {done.returncode}"
    return lines[-1]


class Worker:
    """A command that runs until it is told to stop; its log is kept beside the site file.

    `head`: its standard output is read by somebody who leaves after the first line.
    """

    def __init__(
        self, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None, head: bool = False
    ) -> None:
        self.name = arguments[0]
        self._log = folder / f"{'-'.join(arguments[:1])}-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if head else log,
                stderr=log,
                cwd=folder,
                env=_environment(folder, environment),
            )
        if self.process.stdout:
            self.process.stdout.readline()
            self.process.stdout.close()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait(self, timeout_s: float = 60) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} goes on after {timeout_s:g} s:\n{self.log[-3000:]}") from None

    def terminate(self) -> int:
        """SIGTERM, as systemd, Docker and Kubernetes say it. Returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(30)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()


def end(workers: Sequence[Worker]) -> None:
    """Whatever happened, nobody is left behind."""
    for worker in workers:
        if worker.process.poll() is None:
            worker.kill()


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file that may be being written."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _environment(folder: Path, given: Mapping[str, str] | None) -> dict[str, str]:
    own = {name: str(folder / name.lower()) for name in ("XDG_STATE_HOME", "XDG_DATA_HOME")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")}
    own["SIGHTLINE_COMPUTE__BACKEND"] = "onnxruntime"
    return {**kept, **own, "COLUMNS": "200", "NO_COLOR": "1", **(given or {})}
