"""What the site file says about a camera."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AwareDatetime, ConfigDict, Field, field_validator, model_validator

from ingest.synthetic.scene import parse_url
from stream.errors import SettingsError
from stream.settings import Section
from stream.telemetry import hide_url, mask

Kind = Literal["rtsp", "http", "device", "file", "synthetic"]
Point = tuple[float, float]
Polygon = Annotated[tuple[Point, ...], Field(min_length=3, max_length=256)]

_SCHEMES: Mapping[str, Kind] = {
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "http": "http",
    "https": "http",
    "file": "file",
    "synthetic": "synthetic",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FILE_START = datetime(2000, 1, 1, tzinfo=UTC)
"""When a file without `start` begins: any fixed moment will do, but the same one every time."""
RAW_FPS = 25.0
"""Taken for a file without times when nothing else is said."""


class CameraSettings(Section):
    """One ``[[camera]]``. Where a password stands in the url, only `shown_url` may be printed."""

    model_config = ConfigDict(hide_input_in_errors=True)

    id: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    url: str = Field(min_length=1, max_length=4096, repr=False)
    """rtsp://, rtsps://, http://, https://, /dev/video0, synthetic://, or the path of a video file."""
    fps: float = Field(default=5.0, ge=1, le=60)
    """Pictures per second to analyse; a slower camera gives what it has. People are followed well at 5, with losses at 3 and 2 (docs/cameras.md)."""
    source_fps: float | None = Field(default=None, gt=0, le=240)
    """Pictures per second of a file without times (raw H.264, H.265 or MJPEG)."""
    width: int = Field(default=1280, ge=64, le=7680, multiple_of=2)
    """Pixels to scale down to; a narrower camera keeps its own width. The height follows."""
    masks: tuple[Polygon, ...] = Field(default=(), max_length=64)
    """Polygons in relative coordinates, (0, 0) top left to (1, 1) bottom right, painted black."""
    clock_offset: float = Field(default=0.0, ge=-3600, le=3600)
    """Seconds added to a live camera's capture times: minus its delay, where that is known."""
    start: AwareDatetime | None = None
    """When a file begins, with its time zone; 2000-01-01T00:00:00Z unless said."""
    partition: int | None = Field(default=None, ge=0, lt=4096)
    """Pins the camera's partition; unless said, its place in the site file."""

    @property
    def kind(self) -> Kind:
        """What the url points at."""
        if self.url.startswith("/dev/"):
            return "device"
        scheme, separator, _ = self.url.partition("://")
        return _SCHEMES[scheme.lower()] if separator else "file"

    @property
    def is_file(self) -> bool:
        """Whether nothing of it may be lost and it ends: a file, or a synthetic camera with ``pace=fast``."""
        return self.kind == "file" or (self.kind == "synthetic" and parse_url(self.url)[2] == "fast")

    @property
    def shown_url(self) -> str:
        """Where the url leads: without user, password, and the query's values."""
        return mask(self.url)

    @property
    def start_ns(self) -> int:
        """`start` in nanoseconds of UTC."""
        return ((self.start or FILE_START) - _EPOCH) // timedelta(microseconds=1) * 1000

    @property
    def raw_fps(self) -> float:
        """Rate of a file without times: `source_fps`, else `fps` where the site file gives it, else 25."""
        if self.source_fps is not None:
            return self.source_fps
        return self.fps if "fps" in self.model_fields_set else RAW_FPS

    @field_validator("url", mode="before")
    @classmethod
    def _hidden(cls, url: object) -> object:
        if isinstance(url, str):
            hide_url(url)
        return url

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        scheme, separator, rest = url.partition("://")
        if separator and scheme.lower() not in _SCHEMES:
            known = "://, ".join(_SCHEMES)
            raise ValueError(f"{scheme}:// is not supported: expected {known}://, /dev/videoN or the path of a file")
        if separator and _SCHEMES[scheme.lower()] in ("rtsp", "http") and not _has_host(url):
            raise ValueError(
                f"no host in {scheme}://: expected {scheme}:// with [user:password@]host[:port]/path behind it"
            )
        if separator and not rest:
            raise ValueError(f"nothing after {scheme}://")
        if separator and scheme.lower() == "synthetic":
            try:
                parse_url(url)
            except SettingsError as error:
                raise ValueError(str(error)) from None
        return url

    @field_validator("masks")
    @classmethod
    def _inside_the_frame(cls, masks: tuple[Polygon, ...]) -> tuple[Polygon, ...]:
        for number, polygon in enumerate(masks, 1):
            for x, y in polygon:
                if not (0 <= x <= 1 and 0 <= y <= 1):
                    raise ValueError(
                        f"mask {number} has a point outside the frame, ({x:g}, {y:g}): "
                        "points are shares of width and height, from 0 to 1"
                    )
        return masks

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        if self.start is not None and not self.is_file:
            raise ValueError("start is for files; a live camera's pictures are dated when they are taken: remove it")
        if self.source_fps is not None and self.kind != "file":
            raise ValueError("source_fps is for files without times; this camera brings its own: remove it")
        if self.clock_offset and self.is_file:
            raise ValueError("clock_offset is for live cameras; shift a file with start instead")
        if self.start is not None and self.start < _EPOCH:
            raise ValueError(f"start is {self.start.isoformat()}: expected 1970 or later")
        return self


def partitions(cameras: Sequence[CameraSettings]) -> dict[str, int]:
    """Camera id -> partition: what is pinned, else the place in the site file, from 0.

    Raises SettingsError where two cameras share an id or a partition.
    """
    placed: dict[str, int] = {}
    owners: dict[int, str] = {}
    for place, camera in enumerate(cameras):
        partition = place if camera.partition is None else camera.partition
        if camera.id in placed:
            raise SettingsError(f'two cameras have the id "{camera.id}": give each camera an id of its own')
        if partition in owners:
            raise SettingsError(
                f"cameras {owners[partition]} and {camera.id} both have partition {partition}: "
                "pin one of them to a free partition with partition ="
            )
        placed[camera.id], owners[partition] = partition, camera.id
    return placed


def _has_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:  # a password with brackets that are not percent-encoded
        return False
