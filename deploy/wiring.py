"""Settings -> source, stage and sink of every worker: the only file that names concrete classes."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from deploy.bundle import Bundle
from deploy.buses import Bus, FromCamera, FromPerceive, MemoryBus
from deploy.kafka_bus import KafkaBus
from deploy.known import Known
from deploy.models import detector_of, embedder_of, say_backends, warn_of_synthetic_models
from deploy.settings import Settings
from deploy.sinks import Repeats, Watched, all_seen
from deploy.state import key_of, opened_state
from deploy.thresholds import with_defaults
from deploy.together import GRACE_S, Group, Paced, together
from ingest.clock import WallClock
from stream.errors import BundleError, EpochLost, GalleryError, SettingsError, UsageError
from stream.messages import CameraState, DecodedFrame, MatchEvent
from stream.settings import KafkaSettings
from stream.stage import Chain, Pass, Stage, as_messages, as_records, run
from stream.transport import Source

if TYPE_CHECKING:
    from matcher.outbox import Outbox
    from matcher.redis_gallery import RedisGallery

log = logging.getLogger(__name__)

M = TypeVar("M")
SECOND = 1_000_000_000  # nanoseconds

Perceive = Stage[DecodedFrame | CameraState, FromPerceive]
"""Detector and embedder."""


def ingest(
    settings: Settings, bus: Bus, stop: threading.Event, *, only: Sequence[str] = (), url: str | None = None
) -> None:
    """Cameras -> frames, until all files have ended or `stop`.

    `only`: ids of the cameras to serve, of those in `settings`; none: all. `url`: of the gallery, to say which files it has taken before.
    """
    from ingest.cameras import Cameras

    places = settings.partitions
    chosen = [
        camera.model_copy(update={"partition": places[camera.id]})
        for camera in settings.camera
        if not only or camera.id in only
    ]
    source: Source[FromCamera] = Cameras(settings.site.name, chosen)
    if not settings.live:
        source = Paced(source, partial(_larger, bus.frames_lag, bus.embeddings_lag), bus.most_lag, bus.ask_every_s)
    sink = bus.frames_sink()
    if url and not settings.live:
        sink = Repeats(sink, _places(url, settings.site.name))
    with closing(source), closing(sink):
        run(source, Pass[FromCamera](), sink, prepare=as_messages, name="ingest", stop=stop)


def perceive(
    settings: Settings,
    bus: Bus,
    stop: threading.Event,
    *,
    stage: Perceive | None = None,
    source: Source[FromCamera] | None = None,
    watch: Callable[[FromPerceive], None] | None = None,
) -> None:
    """Frames -> embeddings, with models of its own. `watch` sees every record that is sent.

    `stage` and `source`: opened and closed by the caller, who wants the models loaded, and all workers to have their cameras,
    before the first frame comes.
    """
    from detector.jpeg import decode_frames

    known = Known(settings.partitions)
    with ExitStack() as held:
        stage = stage or held.enter_context(loaded(settings))
        source = source or held.enter_context(closing(bus.frames_source()))
        sink = held.enter_context(closing(bus.embeddings_sink()))
        if not (bus.lasting or settings.live):
            source = Paced(source, bus.embeddings_lag, bus.most_lag)
        shown = Watched(sink, watch) if watch else sink
        run(source, stage, shown, prepare=lambda batch: decode_frames(known(batch)), name="perceive", stop=stop)


@contextmanager
def loaded(settings: Settings) -> Iterator[Perceive]:
    """Detector and embedder of a worker, their models loaded: seconds where a runtime compiles them."""
    from deploy.backends import load
    from detector.detector import Detector
    from reid.embedder import Embedder

    compute, models = settings.compute, (settings.detector, settings.reid)
    with ExitStack() as held:
        eyes = looks = load(detector_of(*models), backend=compute.backend, checkpoint=compute.detector_checkpoint)
        held.enter_context(closing(eyes))
        if eyes.card.kind == "detector":  # else a person search, which has described whom it has found
            looks = load(embedder_of(*models), backend=compute.backend, checkpoint=compute.embedder_checkpoint)
            held.enter_context(closing(looks))
        finds = Detector(eyes, with_defaults(settings.detector, eyes.card))
        yield Chain(finds, Embedder(looks, settings.reid, embedder_of(*models).links))


def match(
    settings: Settings,
    bus: Bus,
    at: "GalleryPlace",
    stop: threading.Event,
    *,
    takeover: bool = False,
    skip_lost: bool = False,
    begun: threading.Event | None = None,
    told: Callable[[MatchEvent], None] | None = None,
) -> None:
    """Embeddings -> match events in the gallery's outbox. `told` hears of each event once it is stored there.

    Waits while another matcher has the site; `begun` is set when this one has it.
    """
    from matcher.rules import Calibration, Rules
    from matcher.start import start

    bundle = embedder_of(settings.detector, settings.reid)
    if bundle.links is None:
        raise BundleError(
            f"{bundle.path}: has no links.json, so the matcher cannot judge a similarity; adopt or export it again"
        )
    asked = with_defaults(settings.matcher, bundle.card)
    wall = WallClock()  # as ingest's: on a machine whose clock is set back both go on by the time they had
    with closing(_gallery(settings, bundle, at)) as gallery:
        if settings.redis is not None:
            for cost in gallery.warnings():
                log.warning("%s", cost)
        retention_ns = settings.site.retention.gallery_s * SECOND
        try:
            started = start(
                gallery,
                bus.embeddings_source,
                Rules(Calibration(bundle.links), len(settings.camera), retention_ns, asked.false_links),
                site=settings.site.name,
                cameras=_by_partition(settings),
                key=at.key,
                model=bundle.card.id,
                live=settings.live,
                lateness_s=asked.lateness_s,
                lasting=bus.lasting,
                takeover=takeover,
                skip_lost=skip_lost,
                stop=stop,
                told=told,
                clock=wall.now_s,
            )
        except EpochLost:
            if stop.is_set():  # asked to stop while another matcher had the site
                return
            raise
        if begun:
            begun.set()
        with closing(started.source), closing(started.sink):
            run(started.source, started.matcher, started.sink, prepare=as_records, name="match", stop=stop)
        for camera, frames in started.matcher.repeated().items():
            log.warning("%s", all_seen(camera, frames))


class Relay:
    """The gallery's outbox -> the matches topic, beside the matcher that fills it."""

    def __init__(
        self, settings: Settings, bus: KafkaBus, at: "GalleryPlace", told: Callable[[MatchEvent], None] | None
    ) -> None:
        self._settings, self._bus, self._at, self._told = settings, bus, at, told
        self.begun, self._matched = threading.Event(), threading.Event()

    def end(self) -> None:
        """The matcher has ended: end after what it has said."""
        self._matched.set()

    def run(self, stop: threading.Event) -> None:
        """Wait until this process's matcher has the site, then relay until it has ended or `stop`."""
        from matcher.outbox import Outbox, relay_from

        while not self.begun.wait(0.05):
            if stop.is_set() or self._matched.is_set():
                return
        bundle = embedder_of(self._settings.detector, self._settings.reid)
        with closing(_gallery(self._settings, bundle, self._at)) as gallery, closing(self._bus.matches_sink()) as sink:
            topic = self._bus.matches_id()
            after = relay_from(gallery, self._bus.last_number(), self._settings.site.name, topic)
            note = partial(gallery.note_relayed, topic)
            note(after)  # a kill may have come between a delivery and its note
            outbox = Outbox(gallery, after, clock=time.time if self._settings.live else None, note=note)
            ending = threading.Thread(target=self._end_of, args=(outbox, stop), name="relay end", daemon=True)
            ending.start()
            shown = Watched(sink, self._told) if self._told else sink
            run(outbox, Pass[MatchEvent](), shown, prepare=as_messages, name="relay", stop=stop)

    def _end_of(self, outbox: "Outbox", stop: threading.Event) -> None:
        while not (self._matched.wait(0.1) or stop.is_set()):
            pass
        outbox.close_input()


def matching(
    settings: Settings,
    bus: Bus,
    at: "GalleryPlace",
    *,
    takeover: bool = False,
    skip_lost: bool = False,
    told: Callable[[MatchEvent], None] | None = None,
) -> list[Group]:
    """The matcher, and over Kafka the relay. `told` hears of each event once subscribers can have it."""
    work = partial(match, settings, bus, at, takeover=takeover, skip_lost=skip_lost)
    if isinstance(bus, KafkaBus):
        relay = Relay(settings, bus, at, told)
        return [Group("match", [partial(work, begun=relay.begun)], relay.end), Group("relay", [relay.run])]
    if settings.live:
        told = partial(_timed, told)
    return [Group("match", [partial(work, told=told)])]


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

    `watch` sees every record between perceive and match, `told` every match event once it is delivered; both are called from
    the workers' threads. `workers`: perceive workers, each with models of its own.
    """
    warn_of_synthetic_models(settings)
    say_backends(settings)
    count = min(workers, len(settings.camera))
    with opened_bus(settings, stop) as bus, gallery_of(settings, state) as at, ExitStack() as held:
        # in memory a camera never changes workers: tracklets would begin anew, and files give other events than with one
        sources = [None if bus.lasting else held.enter_context(closing(bus.frames_source())) for _ in range(count)]
        stages = [held.enter_context(loaded(settings)) for _ in range(count)]  # before any live camera begins
        together(
            [
                Group("ingest", [partial(ingest, settings, bus)], bus.frames_end),
                Group(
                    "perceive",
                    [
                        partial(perceive, settings, bus, stage=stage, source=source, watch=watch)
                        for stage, source in zip(stages, sources, strict=True)
                    ],
                    bus.embeddings_end,
                ),
                *matching(settings, bus, at, told=told),
            ],
            stop,
            _grace_s(settings),
        )


def ingest_worker(settings: Settings, stop: threading.Event, only: Sequence[str] = ()) -> None:
    """``sightline ingest``"""
    kafka, known = _kafka(settings, "ingest"), settings.partitions
    if unknown := [camera for camera in only if camera not in known]:
        raise UsageError(f"--camera {unknown[0]}: no such camera in the site file; known: {', '.join(known)}")
    with closing(KafkaBus(settings, kafka, stop, wait_for_broker=not settings.live)) as bus:
        ingest(settings, bus, stop, only=only, url=settings.redis.url if settings.redis else None)


def perceive_worker(settings: Settings, stop: threading.Event) -> None:
    """``sightline perceive``"""
    kafka = _kafka(settings, "perceive")  # before models are measured
    warn_of_synthetic_models(settings)
    say_backends(settings)
    with closing(KafkaBus(settings, kafka, stop)) as bus:
        perceive(settings, bus, stop)


def match_worker(
    settings: Settings, stop: threading.Event, *, state: Path | None, takeover: bool, skip_lost: bool
) -> None:
    """``sightline match``"""
    with (
        closing(KafkaBus(settings, _kafka(settings, "match"), stop)) as bus,
        gallery_of(settings, state, lasting=True) as at,
    ):
        together(matching(settings, bus, at, takeover=takeover, skip_lost=skip_lost), stop, _grace_s(settings))


def _grace_s(settings: Settings) -> float:
    """How long a stop may take: one delivery that waits for its time-out, and a little."""
    return GRACE_S + (settings.kafka.delivery_timeout_s if settings.kafka else 0.0)


@dataclass(frozen=True, slots=True)
class GalleryPlace:
    """Where the gallery is, and the key that identities are named with."""

    url: str = field(repr=False)
    key: bytes = field(repr=False)


@contextmanager
def gallery_of(settings: Settings, state: Path | None, *, lasting: bool = False) -> Iterator[GalleryPlace]:
    """The site's Redis: the settings' own, else one embedded in the state folder. `lasting`: not in a fresh folder."""
    from matcher.server import EmbeddedRedis

    with opened_state(settings, state, lasting=lasting) as folder:
        key = key_of(settings, folder)
        if settings.redis is not None:
            yield GalleryPlace(settings.redis.url, key)
        else:
            with EmbeddedRedis(folder, retention_s=settings.site.retention.gallery_s) as server:
                yield GalleryPlace(server.url, key)


@contextmanager
def opened_bus(settings: Settings, stop: threading.Event) -> Iterator[Bus]:
    """Kafka where the settings name it, else this process's memory."""
    if settings.kafka is None:
        yield MemoryBus(settings)
    else:
        with closing(KafkaBus(settings, settings.kafka, stop)) as bus:
            yield bus


def _gallery(settings: Settings, bundle: Bundle, at: GalleryPlace) -> "RedisGallery":
    from matcher.redis_gallery import RedisGallery

    retention_ns = settings.site.retention.gallery_s * SECOND
    return RedisGallery(at.url, settings.site.name, model=bundle.card.id, retention_ns=retention_ns, live=settings.live)


def _places(url: str, site: str) -> dict[str, tuple[int, int]]:
    """Camera -> last frame that the gallery has taken; nothing while it cannot be asked: ingest does not need it."""
    from matcher.overview import overview

    try:
        return {camera: (place.stream, place.sequence) for camera, place in overview(url, site).places.items()}
    except GalleryError as error:
        log.info("whether files were played before is not known: %s", error)
        return {}


def _kafka(settings: Settings, verb: str) -> KafkaSettings:
    if settings.kafka is None:
        raise SettingsError(
            f"sightline {verb} moves messages over Kafka, and the site file has no [kafka] section: add one "
            'with bootstrap_servers = "host:9092", or use sightline run'
        )
    return settings.kafka


def _timed(told: Callable[[MatchEvent], None] | None, event: MatchEvent) -> None:
    """Without a relay, an event is delivered when it is stored."""
    from matcher.outbox import observe_latency

    observe_latency(event, time.time())
    if told:
        told(event)


def _by_partition(settings: Settings) -> list[str]:
    places = settings.partitions
    return sorted(places, key=lambda camera: places[camera])


def _larger(*lags: Callable[[], Mapping[int, int]]) -> Mapping[int, int]:
    """Per partition the largest of several lags."""
    found = [lag() for lag in lags]
    return {partition: max(lag.get(partition, 0) for lag in found) for partition in set().union(*found)}
