"""Looks at everything that a site needs and says what to do about what it finds. Changes nothing."""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from deploy.settings import Runtime, Settings, compute_of
from deploy.state import keeps_state
from detector.settings import DetectorSettings
from ingest.settings import CameraSettings
from ingest.synthetic.scene import parse_url
from matcher.settings import MatcherSettings
from reid.settings import EmbedderSettings
from stream.cores import usable_cores
from stream.errors import BundleError, GalleryRefused, NotAVideo, SettingsError, SightlineError
from stream.settings import KafkaSettings

if TYPE_CHECKING:
    from deploy.bundle import Bundle

Status = Literal["ok", "warning", "failed"]

WATCH_S = 2.0  # each camera is watched this long
FRAMES = 50  # or for so many pictures, whichever comes first: a file gives them at once
SILENCE_S = 10.0
LATE_FIRST_PICTURE_S = 4.0  # beyond, the camera sends key frames too rarely to come back quickly
LEAST_FPS = 2.0  # of the real clip's seven people five are found at 6 fps, four at 3 and at 2, nobody at 1
DISK_FREE = 2 << 30


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    check: str
    status: Status
    found: str
    remedy: str = ""
    """What to do; empty where nothing is, or where `found` is an error, which says it itself."""


def examine(settings: Settings | None, state: Path) -> Iterator[Finding]:
    """Findings as they come; without settings those of the machine and the shipped bundles alone."""
    kept = settings is None or keeps_state(settings)
    yield machine(state, _caches(settings) if settings else (), keeps=kept)
    yield from bundles(settings)
    if settings is None:
        return
    yield from servers(settings)
    with ThreadPoolExecutor(len(settings.camera), "doctor") as pool:
        yield from pool.map(camera, settings.camera)


def _caches(settings: Settings) -> set[Path]:
    """Folders of the scenes that its cameras show."""
    drawn = [parse_url(camera.url)[0] for camera in settings.camera if camera.kind == "synthetic"]
    if not drawn:
        return set()
    from ingest.synthetic.clip import scene_folder  # with numba, which must keep what it compiles somewhere

    return {scene_folder(scene) for scene in drawn}


def machine(state: Path, caches: Iterable[Path] = (), *, keeps: bool = True) -> Finding:
    """Processors and disk; that the state folder, where the site `keeps` anything, and `caches` of drawn scenes may be written."""
    states = [(state, "--state")] if keeps else []
    for folder, option in (*states, *((cache, "SIGHTLINE_CACHE") for cache in caches)):
        there = _nearest(folder)
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            said = f"{folder} cannot be made or written: {there} is {'not ours to write' if there.is_dir() else 'no folder'}"
            return Finding(check="machine", status="failed", found=said, remedy=f"give another folder by {option}")
    there = _nearest(state)
    free = shutil.disk_usage(there).free
    found = f"{usable_cores()} cores, {free / 1e9:.1f} GB free at {there}"
    if free < DISK_FREE:
        return Finding(check="machine", status="warning", found=found, remedy="free some disk, or give --state another")
    return Finding(check="machine", status="ok", found=found)


def _nearest(folder: Path) -> Path:
    """The folder, or of those above it the first that is there."""
    return next(each for each in (folder, *folder.parents) if os.access(each, os.F_OK))


def bundles(settings: Settings | None) -> Iterator[Finding]:
    """The models: intact, right on this machine, how fast, and whether they ever saw a real person."""
    from deploy.models import detector_of, embedder_of

    eyes, looks = (settings.detector, settings.reid) if settings else (DetectorSettings(), EmbedderSettings())
    sections = (eyes, settings.matcher if settings else MatcherSettings())
    compute = settings.compute if settings else compute_of(os.environ)
    real = settings is not None and any(c.kind != "synthetic" for c in settings.camera)
    find = partial(detector_of, eyes, looks)
    yield bundle(eyes.bundle, find, real, compute.backend, compute.detector_checkpoint, sections)
    with suppress(BundleError, SettingsError):  # said by then
        if detector_of(eyes, looks).card.kind == "person-search":
            return
    find = partial(embedder_of, eyes, looks)
    yield bundle(looks.bundle, find, real, compute.backend, compute.embedder_checkpoint, sections)


def bundle(
    name: str,
    find: "Callable[[], Bundle]",
    camera_is_real: bool,
    runtime: Runtime,
    checkpoint: Path | None,
    sections: Sequence[DetectorSettings | MatcherSettings],
) -> Finding:
    """One model, on the runtime that the site's workers will take, with the thresholds that the site's `sections` leave it."""
    from deploy.backends import choose, load
    from deploy.backends.auto import clock_for, one_call_ms
    from deploy.bundle import synthetic_only_warning
    from deploy.thresholds import told

    def look() -> Finding:
        found = find()
        chosen = choose(found, 1, runtime, checkpoint)
        backend = load(found, 1, runtime, checkpoint)
        image = np.zeros((1, *found.card.input_hw, 3), np.uint8)
        each_ms = one_call_ms(backend, image, clock_for([chosen], 1))
        backend.close()
        card = found.card
        said = f"{card.id}, {card.kind}, {card.input_hw[0]}x{card.input_hw[1]} (height x width), {each_ms:.1f} ms on one core in {chosen.name}"
        said += f" ({chosen.remark})" if chosen.remark else ""
        said += "".join(f", {each}" for each in told(card, *sections))
        if card.embedding_size is not None and found.links is None:
            remedy = "adopt or export it again: without links.json the matcher cannot judge a similarity"
            return Finding(check=f"bundle {name}", status="failed", found=f"{said}; has no link rows", remedy=remedy)
        warning = synthetic_only_warning(card, camera_is_real)
        if warning:
            return Finding(check=f"bundle {name}", status="warning", found=said, remedy=warning)
        return Finding(check=f"bundle {name}", status="ok", found=said)

    return _translated(f"bundle {name}", look)


def servers(settings: Settings) -> Iterator[Finding]:
    """The Redis and the Kafka of a site that has them."""
    if settings.redis:
        yield gallery(settings.redis.url)
    if settings.kafka:
        yield broker(settings, settings.kafka)


def gallery(url: str) -> Finding:
    """The Redis that keeps the gallery: answers, allows what is needed, keeps what it was given."""
    from matcher.redis_client import connect, durability, redis_errors

    def look() -> Finding:
        with closing(connect(url)) as client:
            with redis_errors(url):
                started = time.perf_counter()
                client.ping()
                answer_ms = (time.perf_counter() - started) * 1000
            try:
                with redis_errors(url):
                    version = client.info("server").get("redis_version", "unknown")
            except GalleryRefused:  # the stream needs no such right
                version = "unknown"
            found = f"version {version}, answers in {answer_ms:.1f} ms"
            costs = durability(client, url)
        return Finding(check="redis", status="warning" if costs else "ok", found=found, remedy="; ".join(costs))

    return _translated("redis", look)


def broker(settings: Settings, kafka: KafkaSettings) -> Finding:
    """The Kafka that moves everything: answers, lets us in, and has the site's topics."""
    from stream.kafka import group_lag

    frames = f"{kafka.prefix}{settings.site.name}.frames"

    def look() -> Finding:
        started = time.perf_counter()
        partitions = len(group_lag(kafka, frames, f"{kafka.prefix}{settings.site.name}.perceive"))
        answer_ms = (time.perf_counter() - started) * 1000
        wanted = max(settings.partitions.values()) + 1
        found = f"answers in {answer_ms:.0f} ms; topic {frames} has {partitions} partition(s), {wanted} wanted"
        remedy = "" if partitions >= wanted else "nothing: the first worker makes what is missing, where it may"
        return Finding(check="kafka", status="ok", found=found, remedy=remedy)

    return _translated("kafka", look)


def camera(settings: CameraSettings) -> Finding:
    """Open a camera like ingest does, watch it for two seconds, let it go."""
    check = f"camera {settings.id}"
    return _translated(check, lambda: _synthetic(settings) if settings.kind == "synthetic" else _watch(settings))


def _synthetic(settings: CameraSettings) -> Finding:
    scene, _, pace = parse_url(settings.url)
    found = f"drawn here: {scene.width}x{scene.height} at {scene.fps:g} fps, {scene.seconds:g} s, pace {pace}"
    return Finding(check=f"camera {settings.id}", status="ok", found=found)


def _watch(settings: CameraSettings) -> Finding:
    from ingest.clock import WallClock
    from ingest.decode import open_video

    started = time.monotonic()
    arrivals: list[int] = []
    times: list[int] = []
    delays: list[int] = []
    with open_video(settings, WallClock(), SILENCE_S) as video:
        opened_s = time.monotonic() - started
        for picture in video.pictures(lambda: SILENCE_S):
            arrivals.append(picture.arrival_ns)
            if picture.time_ns is not None:
                times.append(picture.time_ns)
            if picture.utc_ns is not None:
                delays.append(picture.arrival_ns - picture.utc_ns)
            if len(arrivals) == 1:
                first_s = time.monotonic() - started
                height, width = picture.pixels(1 << 14).shape[:2]
            if len(arrivals) >= FRAMES or time.monotonic() - started - first_s > WATCH_S:
                break
        if not arrivals:
            raise NotAVideo(f"{settings.shown_url} opens but has no picture in it: record or copy it again")
        codec, has_times = video.codec, video.has_times
    stamps = times if len(times) > 1 else ([] if settings.is_file else arrivals)
    span_s = (max(stamps) - min(stamps)) / 1e9 if stamps else 0.0
    fps = (len(stamps) - 1) / span_s if span_s > 0 else None
    said = f"{codec} {width}x{height}" + (f" at {fps:.1f} fps" if fps else "")
    if not settings.is_file:
        said += f", opened in {opened_s:.1f} s, first picture after {first_s:.1f} s"
        said += f", {min(delays) / 1e6:.0f} ms behind its own clock" if delays else ""
    return _judged(settings, said, fps, first_s, has_times)


def _judged(settings: CameraSettings, said: str, fps: float | None, first_s: float, has_times: bool) -> Finding:
    """What of a camera that works could be better."""
    remedy = ""
    if settings.is_file and not has_times and settings.source_fps is None and "fps" not in settings.model_fields_set:
        remedy = f"the file has no times, {settings.raw_fps:g} fps are taken: set source_fps"
    elif fps is not None and fps < LEAST_FPS:
        remedy = f"people are lost below {LEAST_FPS:g} fps: raise the camera's rate"
    elif fps is not None and fps < settings.fps * 0.9:
        remedy = f"{settings.fps:g} fps are asked for: raise the camera's rate, or lower fps"
    elif not settings.is_file and first_s > LATE_FIRST_PICTURE_S:
        remedy = "set the camera's key frame interval to 1 or 2 s: it comes back quicker after a break"
    status: Status = "warning" if remedy else "ok"
    return Finding(check=f"camera {settings.id}", status=status, found=said, remedy=remedy)


def _translated(check: str, look: Callable[[], Finding]) -> Finding:
    """An error is a finding; its own line says what to do."""
    try:
        return look()
    except SightlineError as error:
        return Finding(check=check, status="failed", found=str(error).removeprefix(f"{check}: "))
