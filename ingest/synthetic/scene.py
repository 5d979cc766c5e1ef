"""What a synthetic scene is asked to be, and the `synthetic://` address that says so.

Two scenes with equal settings are equal to the pixel; everything random in them comes from `SceneSettings.rng`.
"""

import difflib
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from stream.errors import SettingsError

Number = TypeVar("Number", int, float)
Pace = Literal["live", "fast"]


@cache
def drawing_code() -> str:
    """Digest of everything that draws, so that no clip of an older version is played for a newer one."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class SceneSettings:
    """One seeded site and how it is filmed. Camera poses, rooms, people and clothes all follow from the seed."""

    seed: int = 1
    people: int = 16
    cameras: int = 4
    seconds: float = 60.0
    width: int = 640
    height: int = 360
    fps: float = 10.0
    crowd: float = 1.0
    """How busy the cameras are, 0.25 to 4: the time that people spend unseen between cameras is divided by it."""
    lighting: float = 1.0
    """How far cameras differ in exposure, white balance, gamma and noise: 0 not at all, 1 as usual, 2 twice that."""
    lookalikes: float = 0.1
    """Share of the people, 0 to 1, who wear the colours that somebody else wears."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingsError(f"synthetic scene: {name} is {value:g}, expected {low:g} to {high:g}")
        if self.width % 2 or self.height % 2:
            raise SettingsError(
                f"synthetic scene: size is {self.width}x{self.height}, expected even numbers (H.264 stores colour by pairs)"
            )

    def rng(self, purpose: str, *index: int) -> np.random.Generator:
        """Randomness of its own for each purpose, so that one more person moves no wall."""
        return np.random.default_rng([self.seed, zlib.crc32(purpose.encode()), *index])

    @property
    def key(self) -> str:
        """Name of the scene in the cache: the same for the same pixels."""
        text = f"{drawing_code()} {sorted(asdict(self).items())}"
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def phase_s(self, camera: int) -> float:
        """When the camera takes its first picture: a fraction of the frame interval, another for every camera."""
        share = (camera + self.rng("phase", camera).uniform(0.1, 0.9)) / self.cameras
        return float(share) / self.fps

    def frames(self) -> int:
        """Pictures per camera."""
        return max(1, round(self.seconds * self.fps))

    def time_s(self, camera: int, frame: int) -> float:
        """Scene time of a picture, in seconds."""
        return self.phase_s(camera) + frame / self.fps

    def url(self, camera: int = 0, pace: Pace = "live") -> str:
        """The address that `parse_url` turns back into these settings."""
        query = [
            f"{f.name}={getattr(self, f.name):g}" if f.name != "seed" else f"seed={self.seed}"
            for f in fields(self)
            if f.name not in ("width", "height")
        ]
        query += [f"size={self.width}x{self.height}", f"camera={camera}"]
        return "synthetic://?" + "&".join([*query, "pace=fast"] if pace == "fast" else query)


_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "people": (0, 200),
    "cameras": (1, 16),
    "seconds": (0.1, 3600),
    "width": (160, 1920),
    "height": (90, 1088),
    "fps": (1, 60),
    "crowd": (0.25, 4),
    "lighting": (0, 2),
    "lookalikes": (0, 1),
}
_WHOLE = ("seed", "people", "cameras")
_KEYS = ("seed", "people", "cameras", "seconds", "size", "fps", "crowd", "lighting", "lookalikes", "camera", "pace")


def parse_url(url: str) -> tuple[SceneSettings, int, Pace]:
    """Read ``synthetic://?seed=1&people=16&cameras=4&seconds=60&size=640x360&fps=10&camera=0``.

    Further keys: ``crowd``, ``lighting``, ``lookalikes`` and ``pace=fast`` (played like a file, not like a camera).
    Returns the settings, the camera's index and the pace; raises SettingsError with one line that says what is wrong.
    """
    parts = urlsplit(url)
    if parts.scheme != "synthetic" or parts.netloc or parts.path.strip("/"):
        raise SettingsError(
            f"{url}: expected synthetic://?key=value&key=value, for example synthetic://?seed=1&camera=0"
        )
    numbers: dict[str, float] = {}
    camera, pace = 0, "live"
    for key, text in parse_qsl(parts.query, keep_blank_values=True):
        if key not in _KEYS:
            raise SettingsError(_unknown(url, key))
        if key == "size":
            numbers["width"], numbers["height"] = _size(url, text)
        elif key == "camera":
            camera = _number(url, key, text, int)
        elif key == "pace":
            pace = text
        else:
            numbers[key] = _number(url, key, text, int if key in _WHOLE else float)
    try:
        settings = SceneSettings(**numbers)  # type: ignore[arg-type]  # whole numbers are int by _WHOLE and _size
    except SettingsError as error:
        raise SettingsError(f"{url}: {error}") from None
    if not 0 <= camera < settings.cameras:
        raise SettingsError(
            f"{url}: camera is {camera}, expected 0 to {settings.cameras - 1} (cameras={settings.cameras})"
        )
    if pace not in ("live", "fast"):
        raise SettingsError(f'{url}: pace is "{pace}", expected live or fast')
    return settings, camera, "fast" if pace == "fast" else "live"


def _unknown(url: str, key: str) -> str:
    near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_KEYS)}"
    return f'{url}: unknown key "{key}": {hint}'


def _number(url: str, key: str, text: str, kind: Callable[[str], Number]) -> Number:
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise SettingsError(f'{url}: {key} is "{text}", expected {what}') from None


def _size(url: str, text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise SettingsError(f'{url}: size is "{text}", expected WIDTHxHEIGHT, for example 640x360')
    return int(width), int(height)
