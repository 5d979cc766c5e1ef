"""Small hand-made sites for the policy's tests: people as vectors, cameras at 5 fps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matcher.policy import Decision, Seen, Sighting, step
from matcher.rules import SECOND, Calibration, Rules
from matcher.state import State
from stream.model import LinkRow, Links

SIZE = 16
FPS = 5
FAR = 1e30  # a prior that no vector moves: camera means stay where training put them


def e(axis: int) -> NDArray[np.float32]:
    """Unit vector of an axis."""
    vector = np.zeros(SIZE, np.float32)
    vector[axis] = 1
    return vector


def like(cosine: float, axis: int) -> NDArray[np.float32]:
    """Cosine `cosine` to the first axis, the rest along its own."""
    vector = cosine * e(1) + np.sqrt(1 - cosine**2) * e(axis)
    return np.asarray(vector, np.float32)


def links(size: int = SIZE) -> Links:
    """The rows of a middling embedder."""
    return Links(
        mean=[0.0] * size,
        same=LinkRow(a=-6.28, b=25.96, same_pairs=1000),
        other=LinkRow(a=-4.57, b=25.45, same_pairs=1000),
        fitted_on="a middling embedder",
    )


def rules(cameras: int = 2, size: int = SIZE, **changes: object) -> Rules:
    """The linking sheet's: camera means off, decided by a single crop or after 5 s unless asked for."""
    one_crop = {"sure_crops": 1, "stranger_crops": 1, "least_crops": 1}
    plain = one_crop | {"mean_prior": FAR, "min_weight": 0.6, "floor": 0.6, "tau_s": 30.0, "wait_ns": 5 * SECOND}
    return Rules(Calibration(links(size)), cameras, **(plain | changes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Track:
    """Somebody in one camera from `start` to `end` seconds, both included; a crop in every record."""

    name: str
    camera: str
    vector: NDArray[np.float32] | None
    start: float
    end: float
    quality: float = 0.8
    foot: tuple[float, float] = (0.5, 0.5)


def records(*tracks: Track, stream: int = 0) -> list[Sighting]:
    """What the cameras say, in order of time and camera."""
    people: dict[tuple[int, str], list[Seen]] = {}
    for track in tracks:
        for n in range(round(track.start * FPS), round(track.end * FPS) + 1):
            time = n * SECOND // FPS
            people.setdefault((time, track.camera), []).append(
                Seen(f"{track.camera}/{stream}/{track.name}", track.foot, track.quality, track.vector)
            )
    return [Sighting("people", camera, stream, time, tuple(p)) for (time, camera), p in sorted(people.items())]


def play(state: State, sightings: Sequence[Sighting]) -> list[Decision]:
    """All decisions, in order."""
    return [decision for sighting in sightings for decision in step(state, sighting)]


def said(decisions: Sequence[Decision]) -> list[tuple[str, str, float]]:
    """Kind, tracklet's own name and seconds of each decision, ends left out."""
    return [(d.kind, d.tracklet.split("/")[-1], round(d.time / SECOND, 3)) for d in decisions if d.kind != "end"]


A = Track("a", "A", e(1), 0, 4)
