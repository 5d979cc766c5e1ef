"""What a site will ask of its network, its disks and its processors: arithmetic on the settings, and on the models timed here."""

from math import ceil

import msgspec
import numpy as np

from deploy.backends.auto import Clock, one_call_ms
from deploy.settings import Settings
from matcher.rules import EXEMPLARS
from stream.model import Backend

JPEG_BYTES_PER_PIXEL = 0.12  # quality 85: empty corridors take 0.06, crowds in daylight 0.15
DECODE_MS_PER_MEGAPIXEL = 2.2  # H.264 on one core, each source frame
CODEC_MS_PER_MEGAPIXEL = 3.9  # conversion, JPEG there and JPEG back, each sampled frame
MATCH_MS_PER_RECORD = 0.5
SOURCE_FPS = 25
RECORD_BYTES, PERSON_BYTES, EVENT_BYTES = 160, 140, 700
SEGMENTS_KEPT = 1.25  # Kafka removes whole segments, a quarter of the retention long
BUSY = 0.7  # a worker that is to keep up leaves this much of its core to peaks
ASSUMED_HW = (720, 1280)
CROPS_PER_CALL = 8  # of the embedder, when its time is taken


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of one core."""

    detect_ms: float
    """Per frame."""
    embed_ms: float
    """Per crop."""
    embedding_size: int


class CameraPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One camera's share."""

    camera: str
    width: int
    height: int
    fps: float
    frames_mb_s: float
    cpu_ms_per_s: float


class TopicPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One topic of the site."""

    topic: str
    partitions: int
    mb_s: float
    retention_s: int
    disk_mb: float


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, in data."""

    people_per_camera: float
    events_per_hour: float
    costs: Costs
    cameras: list[CameraPlan]
    topics: list[TopicPlan]
    gallery_mb: float
    ingest_cores: float
    perceive_cores: float
    match_cores: float
    perceive_workers: int
    """Never more than there are cameras: a camera is one partition."""


def measure(detector: Backend, embedder: Backend, clock: Clock) -> Costs:
    """Time both models on this machine by `clock`, one thread each; the quickest of several turns.

    One that is both costs nothing per crop.
    """

    def milliseconds(backend: Backend, n: int) -> float:
        return one_call_ms(backend, np.zeros((n, *backend.card.input_hw, 3), np.uint8), clock) / n

    size = embedder.card.embedding_size or 0
    embed_ms = 0.0 if embedder is detector else milliseconds(embedder, CROPS_PER_CALL)
    return Costs(detect_ms=milliseconds(detector, 1), embed_ms=embed_ms, embedding_size=size)


def plan(settings: Settings, costs: Costs, people: float, visits_per_hour: float) -> Plan:
    """The arithmetic. `people`: in one camera's view at a time; `visits_per_hour`: people entering any camera's view."""
    cameras = []
    crops_per_s = people / settings.reid.every_s  # of one camera, when all are settled
    ingest_ms = perceive_ms = match_ms = 0.0
    for camera in settings.camera:
        width = camera.width
        height = round(width * ASSUMED_HW[0] / ASSUMED_HW[1])
        megapixels = width * height / 1e6
        fps = float(camera.fps)
        taking = (
            SOURCE_FPS * DECODE_MS_PER_MEGAPIXEL * ASSUMED_HW[0] * ASSUMED_HW[1] / 1e6
            + fps * 0.5 * CODEC_MS_PER_MEGAPIXEL * megapixels
        )
        seeing = fps * (0.5 * CODEC_MS_PER_MEGAPIXEL * megapixels + costs.detect_ms) + crops_per_s * costs.embed_ms
        ingest_ms, perceive_ms, match_ms = (
            ingest_ms + taking,
            perceive_ms + seeing,
            match_ms + fps * MATCH_MS_PER_RECORD,
        )
        cameras.append(
            CameraPlan(
                camera=camera.id,
                width=width,
                height=height,
                fps=fps,
                frames_mb_s=fps * megapixels * JPEG_BYTES_PER_PIXEL,
                cpu_ms_per_s=taking + seeing + fps * MATCH_MS_PER_RECORD,
            )
        )
    records_s = sum(camera.fps for camera in cameras)
    vector_bytes = 2 * costs.embedding_size  # float16
    embeddings_mb_s = (
        records_s * (RECORD_BYTES + people * PERSON_BYTES) + len(cameras) * crops_per_s * vector_bytes
    ) / 1e6
    events_per_hour = 2 * visits_per_hour  # a new or link, and an end
    keep, name = settings.site.retention, settings.site.name
    partitions = max(settings.partitions.values()) + 1
    prefix = settings.kafka.prefix if settings.kafka else ""
    topics = [
        _topic(f"{prefix}{name}.frames", partitions, sum(camera.frames_mb_s for camera in cameras), keep.frames_s),
        _topic(f"{prefix}{name}.embeddings", partitions, embeddings_mb_s, keep.embeddings_s),
        _topic(f"{prefix}{name}.matches", 1, events_per_hour * EVENT_BYTES / 3.6e9, keep.matches_s),
    ]
    identities = min(visits_per_hour * keep.gallery_s / 3600, 10_000)
    return Plan(
        people_per_camera=people,
        events_per_hour=events_per_hour,
        costs=costs,
        cameras=cameras,
        topics=topics,
        gallery_mb=identities * EXEMPLARS * (4 * costs.embedding_size + 200) / 1e6,
        ingest_cores=ingest_ms / 1000,
        perceive_cores=perceive_ms / 1000,
        match_cores=match_ms / 1000,
        perceive_workers=min(len(cameras), ceil(perceive_ms / 1000 / BUSY)),
    )


def _topic(name: str, partitions: int, mb_s: float, retention_s: int) -> TopicPlan:
    return TopicPlan(
        topic=name,
        partitions=partitions,
        mb_s=mb_s,
        retention_s=retention_s,
        disk_mb=mb_s * retention_s * SEGMENTS_KEPT,
    )
