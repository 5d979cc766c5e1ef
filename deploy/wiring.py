"""Settings -> source, stage and sink of every worker: the only file that names concrete classes."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from deploy.bundle import Bundle, load_bundle, synthetic_only_warning
from deploy.buses import Bus, FromCamera, FromPerceive, MemoryBus
from deploy.settings import Settings
from deploy.state import key_of, opened_state
from deploy.together import Group, Paced, together
from stream.errors import BundleError, EpochLost, UsageError
from stream.messages import MatchEvent
from stream.model import Kind
from stream.stage import Chain, Pass, as_messages, as_records, run
from stream.transport import Sink, Source

log = logging.getLogger(__name__)

M = TypeVar("M")
SECOND = 1_000_000_000  # nanoseconds


class Watched(Generic[M]):
    """A sink that also shows every message to somebody: a live view, a score."""

    def __init__(self, sink: Sink[M], watch: Callable[[M], None]) -> None:
        self._sink, self._watch = sink, watch

    def send(self, messages: Iterable[M]) -> None:
        """See `stream.transport.Sink`."""
        for message in messages:
            self._sink.send((message,))
            self._watch(message)

    def flush(self) -> None:
        """See `stream.transport.Sink`."""
        self._sink.flush()

    def close(self) -> None:
        """See `stream.transport.Sink`."""
        self._sink.close()


def ingest(settings: Settings, bus: Bus, stop: threading.Event, *, only: Sequence[str] = ()) -> None:
    """Cameras -> frames, until all files have ended or `stop`. `only`: ids of the cameras to serve; none: all."""
    from ingest.cameras import Cameras

    places = settings.partitions
    if unknown := [camera for camera in only if camera not in places]:
        raise UsageError(f"--camera {unknown[0]}: no such camera in the site file; known: {', '.join(places)}")
    chosen = [
        camera.model_copy(update={"partition": places[camera.id]})
        for camera in settings.camera
        if not only or camera.id in only
    ]
    source: Source[FromCamera] = Cameras(settings.site.name, chosen)
    if not settings.live:
        source = Paced(source, partial(_larger, bus.frames_lag, bus.embeddings_lag), bus.most_lag, bus.ask_every_s)
    with closing(source), closing(bus.frames_sink()) as sink:
        run(source, Pass[FromCamera](), sink, prepare=as_messages, name="ingest", stop=stop)


def perceive(
    settings: Settings, bus: Bus, stop: threading.Event, *, watch: Callable[[FromPerceive], None] | None = None
) -> None:
    """Frames -> embeddings, with models of its own. `watch` sees every record that is sent."""
    from deploy.backends import load
    from detector.detector import Detector
    from detector.jpeg import decode_frames
    from reid.embedder import Embedder

    with ExitStack() as held:
        eyes = held.enter_context(closing(load(bundle_of(settings, "detector"))))
        looks = held.enter_context(closing(load(bundle_of(settings, "embedder"))))
        source = held.enter_context(closing(bus.frames_source()))
        sink = held.enter_context(closing(bus.embeddings_sink()))
        if not (bus.lasting or settings.live):
            source = Paced(source, bus.embeddings_lag, bus.most_lag)
        stage = Chain(Detector(eyes, settings.detector), Embedder(looks, settings.reid))
        shown = Watched(sink, watch) if watch else sink
        run(source, stage, shown, prepare=decode_frames, name="perceive", stop=stop)


def match(
    settings: Settings,
    bus: Bus,
    redis_url: str,
    key: bytes,
    stop: threading.Event,
    *,
    takeover: bool = False,
    skip_lost: bool = False,
    told: Callable[[MatchEvent], None] | None = None,
) -> None:
    """Embeddings -> match events in the gallery's outbox. `told` hears of each event once it is stored."""
    from matcher.redis_gallery import RedisGallery
    from matcher.rules import Calibration, Rules
    from matcher.start import start

    bundle = bundle_of(settings, "embedder")
    if bundle.links is None:
        raise BundleError(
            f"{bundle.path}: has no links.json, so the matcher cannot judge a similarity; adopt or export it again"
        )
    retention_ns = settings.site.retention.gallery_s * SECOND
    site, live, model = settings.site.name, settings.live, bundle.card.id
    with closing(RedisGallery(redis_url, site, model=model, retention_ns=retention_ns, live=live)) as gallery:
        if settings.redis is not None:
            for cost in gallery.warnings():
                log.warning("%s", cost)
        try:
            started = start(
                gallery,
                bus.embeddings_source,
                Rules(Calibration(bundle.links), len(settings.camera), retention_ns, settings.matcher.false_links),
                site=site,
                cameras=_by_partition(settings),
                key=key,
                model=model,
                live=live,
                lateness_s=settings.matcher.lateness_s,
                lasting=bus.lasting,
                takeover=takeover,
                skip_lost=skip_lost,
                stop=stop,
                told=told,
            )
        except EpochLost:
            if stop.is_set():  # asked to stop while another matcher held the site
                return
            raise
        with closing(started.source), closing(started.sink):
            run(started.source, started.matcher, started.sink, prepare=as_records, name="match", stop=stop)
        for camera, frames in started.matcher.repeated().items():
            log.warning(
                "camera %s: all %s frames were seen before: give this camera another start", camera, f"{frames:,}"
            )


def run_site(
    settings: Settings,
    stop: threading.Event,
    *,
    workers: int = 1,
    state: Path | None = None,
    watch: Callable[[FromPerceive], None] | None = None,
    told: Callable[[MatchEvent], None] | None = None,
) -> None:
    """All stages in this process, until all files have ended or `stop`. The first failure of any stops all and is raised.

    `watch` sees every record between perceive and match, `told` every match event once it is stored; both are called from
    the workers' threads. `workers`: perceive workers, each with models of its own.
    """
    warn_of_synthetic_models(settings)
    with gallery_of(settings, state) as (redis_url, key):
        bus = MemoryBus(settings)
        perceiving = partial(perceive, settings, bus, watch=watch)
        together(
            [
                Group("ingest", [partial(ingest, settings, bus)], bus.frames_end),
                Group("perceive", [perceiving] * min(workers, len(settings.camera)), bus.embeddings_end),
                Group("match", [partial(match, settings, bus, redis_url, key, told=told)]),
            ],
            stop,
        )


@contextmanager
def gallery_of(settings: Settings, state: Path | None) -> Iterator[tuple[str, bytes]]:
    """(address, site key) of the site's Redis: the settings' own, else one embedded in the state folder."""
    from matcher.server import EmbeddedRedis

    with opened_state(settings, state) as folder:
        key = key_of(settings, folder)
        if settings.redis is not None:
            yield settings.redis.url, key
        else:
            with EmbeddedRedis(folder) as server:
                yield server.url, key


def bundle_of(settings: Settings, kind: Kind) -> Bundle:
    """The site's bundle of a kind. Raises `BundleError`."""
    return load_bundle(settings.detector.bundle if kind == "detector" else settings.reid.bundle, kind)


def warn_of_synthetic_models(settings: Settings) -> None:
    """One line per model that saw drawn people only and serves a real camera."""
    real = any(camera.kind != "synthetic" for camera in settings.camera)
    kinds: tuple[Kind, ...] = ("detector", "embedder")
    for kind in kinds:
        if warning := synthetic_only_warning(bundle_of(settings, kind).card, real):
            log.warning("%s", warning)


def _by_partition(settings: Settings) -> list[str]:
    places = settings.partitions
    return sorted(places, key=lambda camera: places[camera])


def _larger(*lags: Callable[[], Mapping[int, int]]) -> Mapping[int, int]:
    """Per partition the largest of several lags."""
    found = [lag() for lag in lags]
    return {partition: max(lag.get(partition, 0) for lag in found) for partition in set().union(*found)}
