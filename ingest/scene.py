"""Synthetic scenes as cameras: their clips one after the other, and one clock for all cameras of a scene."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.clock import WallClock
from ingest.settings import CameraSettings

if TYPE_CHECKING:
    from ingest.synthetic.clip import Renderer

LEAD_S = 3.0
"""How much of a scene is drawn before it is played live, so that drawing stays ahead."""


class LiveScene:
    """One scene played in real time, begun at the same moment for all its cameras.

    Unless its beginning is drawn already (from an earlier run, or by somebody who draws ahead), it is drawn ahead in a
    process of its own.
    """

    def __init__(self, wall: WallClock) -> None:
        self._wall = wall
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._start_ns: int | None = None
        self._renderer: Renderer | None = None

    def start_ns(self, camera: CameraSettings) -> int | None:
        """UTC of scene time 0. The first to ask waits for the first clips; None when closed meanwhile."""
        from ingest.synthetic.clip import plan, render_ahead  # draws with numba: a second to import
        from ingest.synthetic.scene import parse_url

        with self._lock:
            if self._start_ns is None and not self._stopped.is_set():
                scene = parse_url(camera.url)[0]
                lead = [s for place in range(scene.cameras) for s in plan(scene, place) if s.start_s <= LEAD_S]
                if not all(segment.path.exists() for segment in lead):
                    self._renderer = render_ahead(scene)
                    while not self._renderer.wait(LEAD_S, timeout_s=0.2):
                        if self._stopped.is_set():
                            return None
                self._start_ns = self._wall.now_ns()
            return self._start_ns

    def close(self) -> None:
        """Stop drawing."""
        self._stopped.set()
        with self._lock:
            if self._renderer is not None:
                self._renderer.close()
                self._renderer = None


def clips(camera: CameraSettings) -> Iterator[tuple[Path, int]]:
    """The camera's clips in order, each with the scene time of its first picture in nanoseconds."""
    from ingest.synthetic.clip import segments
    from ingest.synthetic.scene import parse_url

    settings, index, _ = parse_url(camera.url)
    for segment in segments(settings, index):
        yield segment.path, round(segment.start_s * 1e9)
