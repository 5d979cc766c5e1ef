"""Plays a synthetic scene through the whole stream, exactly as `sightline run` would, and judges the answer."""

import hashlib
import os
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from deploy.backends.auto import version_of
from deploy.models import backends_of
from deploy.score import Linking, Score, TrueBoxes, latency_ms, score
from deploy.settings import Settings, compute_of, settings_of
from deploy.view import View
from deploy.wiring import run_site
from ingest.synthetic.scene import SceneSettings
from ingest.synthetic.truth import Truth, pictures, truth
from stream.messages import CameraState, Embeddings, MatchEvent

FPS = 5.0  # pictures analysed per camera and second
PACKAGES = (
    "sightline", "onnxruntime", "openvino", "av", "numpy", "opencv-python-headless", "kafka-python", "redis", "numba"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Played:
    """What came out of the stream for one scene."""

    records: Sequence[Embeddings]
    delivered: Sequence[tuple[MatchEvent, int]]
    """Events in the order of their numbers, each with the wall clock (ns) at which the subscriber had it."""
    wall_s: float
    cpu_s: float
    """Of this process and the gallery's commits in it; drawing happens in other processes."""
    decoded: int
    lost: Mapping[str, int]
    """Frames lost on purpose by reason (`sightline_frames_dropped_total`)."""
    backends: Mapping[str, str]
    """What served each model: "onnxruntime fp32" by the card's id."""

    @property
    def events(self) -> list[MatchEvent]:
        """Without their times."""
        return [event for event, _ in self.delivered]


def site(
    scene: SceneSettings, *, fast: bool, kafka: str | None = None, redis: str | None = None, name: str = "demo"
) -> Settings:
    """The site file of a scene: one camera per view, a key that follows from the seed.

    Raises `SettingsError` where `kafka` or `redis` is no address.
    """
    data: dict[str, Any] = {
        "site": {"name": name, "key": hashlib.sha256(f"{name} {scene.seed}".encode()).hexdigest()},
        "camera": [
            {
                "id": f"cam-{index + 1}",
                "url": scene.url(index, "fast" if fast else "live"),
                "fps": min(FPS, scene.fps),
                "width": scene.width,
            }
            for index in range(scene.cameras)
        ],
        **({"kafka": {"bootstrap_servers": kafka}} if kafka else {}),
        **({"redis": {"url": redis}} if redis else {}),
        "compute": compute_of(os.environ),
    }
    return settings_of(data, "the options")


def play(
    settings: Settings,
    stop: threading.Event,
    *,
    workers: int = 1,
    state: Path | None = None,
    view: View | None = None,
) -> Played:
    """Run the site until its scene has been played or `stop`, and keep what came out."""
    records: list[Embeddings] = []
    delivered: list[tuple[MatchEvent, int]] = []

    def watch(message: Embeddings | CameraState) -> None:
        if isinstance(message, Embeddings):
            records.append(message)
            if view:
                view.frame(message)

    def told(event: MatchEvent) -> None:
        delivered.append((event, time.time_ns()))
        if view:
            view.event(event)

    cameras = [camera.id for camera in settings.camera]
    before = {camera: _decoded(camera) for camera in cameras}
    lost_before = _lost(cameras)
    wall, cpu = time.monotonic(), time.process_time()
    run_site(settings, stop, workers=workers, state=state, watch=watch, told=told)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    lost = {reason: count - lost_before.get(reason, 0) for reason, count in _lost(cameras).items()}
    return Played(
        records=sorted(records, key=lambda record: (record.captured_at, record.camera)),
        delivered=sorted(delivered, key=lambda pair: pair[0].number),
        wall_s=wall,
        cpu_s=cpu,
        decoded=int(sum(_decoded(camera) - before[camera] for camera in cameras)),
        lost={reason: count for reason, count in lost.items() if count},
        backends={bundle.card.id: candidate.name for bundle, candidate in backends_of(settings)},
    )


def against_truth(scene: SceneSettings, records: Sequence[Embeddings]) -> list[tuple[Embeddings, TrueBoxes]]:
    """Each record with who was really there."""
    known = truth(scene)
    return [(record, _true_boxes(known, record)) for record in records]


def picture(scene: SceneSettings, record: Embeddings) -> NDArray[np.uint8]:
    """The decoded frame of a record, (H, W, 3) RGB."""
    camera, frame = place(scene, record)
    return next(image for index, image in pictures(scene, camera) if index == frame)


def place(scene: SceneSettings, record: Embeddings) -> tuple[int, int]:
    """(camera, frame) of the scene that a record shows."""
    camera = int(record.camera.removeprefix("cam-")) - 1
    time_s = (record.captured_at - record.stream) / 1e9
    if record.clock == "file":  # whose stream is named by the scene's start, a live one's by the camera's first picture
        time_s -= scene.phase_s(camera)
    return camera, min(max(round(time_s * scene.fps), 0), scene.frames() - 1)


def figures(scene: SceneSettings, played: Played, judged: Score, *, fast: bool, workers: int) -> dict[str, Any]:
    """report.json: what was run, how it was judged, what it cost."""
    latency = None if fast else latency_ms(played.delivered)
    analysed = sum(record.status == "ok" for record in played.records)
    camera_seconds = scene.cameras * scene.seconds
    return {
        "cameras": scene.cameras,
        "seconds": scene.seconds,
        "size": f"{scene.width}x{scene.height}",
        "seed": scene.seed,
        "workers": workers,
        "frames_decoded": played.decoded,
        "frames_analysed": analysed,
        "frames_dropped": sum(played.lost.values()),
        "dropped_by_reason": dict(played.lost),
        **{name: _rounded(value) for name, value in msgspec.structs.asdict(judged).items()},
        "latency_ms": latency,
        "realtime_factor": _rounded(scene.seconds / played.wall_s),
        "cpu_ms_per_camera_second": round(1000 * played.cpu_s / camera_seconds, 1),
        "backends": dict(played.backends),
        "versions": {"python": platform.python_version()} | {name: v for name in PACKAGES if (v := version_of(name))},
    }


def judge(frames: Sequence[tuple[Embeddings, TrueBoxes]], events: Sequence[MatchEvent]) -> Score:
    """The stream's own linking against the truth."""
    return score(frames, Linking.of(events))


def _true_boxes(known: Truth, record: Embeddings) -> TrueBoxes:
    camera, frame = place(known.settings, record)
    here = known.cameras[camera].at(frame)
    scale = record.width / known.settings.width
    return TrueBoxes(here.person.astype(np.int64), (here.xyxy * scale).astype(np.float32), here.visible)


def _decoded(camera: str) -> float:
    return REGISTRY.get_sample_value("sightline_frames_decoded_total", {"camera": camera}) or 0.0


def _lost(cameras: Sequence[str]) -> dict[str, int]:
    """Reason -> frames, over all these cameras, since the process began."""
    lost: dict[str, int] = {}
    for metric in REGISTRY.collect():
        if metric.name == "sightline_frames_dropped":
            for sample in metric.samples:
                if sample.name.endswith("_total") and sample.labels["camera"] in cameras:
                    reason = sample.labels["reason"]
                    lost[reason] = lost.get(reason, 0) + int(sample.value)
    return lost


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
