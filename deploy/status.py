"""How a running site is doing, as its gallery and its topics say it."""

import time
from pathlib import Path

import msgspec

from deploy.settings import Settings
from deploy.state import kept_state
from matcher.overview import Overview, overview
from matcher.server import embedded_url
from stream.kafka import group_lag

LIVE_AGE_S = 10.0
"""Of a live camera's last record; with idle records in between, an older one says that something stands."""


class CameraStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One camera, as far as the matcher has taken it."""

    camera: str
    last_ns: int | None
    """captured_at of its last frame; None: nothing yet."""
    ended: bool
    """Its file is through."""
    frames_lag: int | None
    """Frames that no perceive worker has done; None without Kafka."""
    embeddings_lag: int | None

    def age_s(self, now_ns: int) -> float | None:
        """Seconds since its last frame was captured."""
        return None if self.last_ns is None else (now_ns - self.last_ns) / 1e9


class SiteStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole site."""

    site: str
    at_ns: int
    matcher: str | None
    """Who has the site; None: nobody."""
    epoch: int
    last_number: int
    relayed_number: int | None
    """Of the newest event on the matches topic; None without Kafka, or when it is empty."""
    identities: int
    model: str | None
    cameras: list[CameraStatus]


def status(settings: Settings, state: Path | None) -> SiteStatus:
    """Ask Redis, and Kafka where the site has one. Raises their errors."""
    site = settings.site.name
    url = settings.redis.url if settings.redis else embedded_url(kept_state(settings, state))
    known = overview(url, site)
    frames_lag: dict[int, int] = {}
    embeddings_lag: dict[int, int] = {}
    relayed = None
    if settings.kafka:
        from matcher.events import last_number

        base = f"{settings.kafka.prefix}{site}"
        frames_lag = group_lag(settings.kafka, f"{base}.frames", f"{base}.perceive")
        embeddings_lag = group_lag(settings.kafka, f"{base}.embeddings", f"{base}.match")
        relayed = last_number(settings.kafka, f"{base}.matches")
    fps = {camera.id: camera.fps for camera in settings.camera}
    return SiteStatus(
        site=site,
        at_ns=time.time_ns(),
        matcher=known.holder,
        epoch=known.epoch,
        last_number=known.number,
        relayed_number=relayed,
        identities=known.identities,
        model=known.model,
        cameras=[
            CameraStatus(
                camera=camera,
                last_ns=_last_ns(known, camera, fps[camera]),
                ended=camera in known.places and known.places[camera].ended,
                frames_lag=frames_lag.get(partition),
                embeddings_lag=embeddings_lag.get(partition),
            )
            for camera, partition in settings.partitions.items()
        ],
    )


def _last_ns(known: Overview, camera: str, fps: float) -> int | None:
    """A stream's beginning and the place on its sampling grid give the time."""
    place = known.places.get(camera)
    return None if place is None or place.sequence < 0 else place.stream + round(place.sequence / fps * 1e9)
