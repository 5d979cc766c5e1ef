"""What `sightline evaluate` does: a bundle or a checkpoint, scored on drawn, labelled or real pictures."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from deploy import backends
from deploy.bundle import load_bundle
from deploy.training import Bar
from ingest.clock import WallClock
from ingest.decode import open_video
from ingest.settings import CameraSettings
from reid.crops import to_batch
from stream.errors import DataError, UsageError
from stream.model import Kind
from trainer import checkpoint, drawn, evaluate
from trainer.data import read_market
from trainer.evaluate import Infers
from trainer.metrics import BoxScore
from trainer.serving import ServedDetector, TorchBackend, served

U8 = NDArray[np.uint8]

SILENCE_S = 10.0
MAX_VIDEO_WIDTH = 1920
PEOPLE_COLUMNS = ("frame", "x1", "y1", "x2", "y2", "person")


@dataclass(frozen=True, slots=True)
class Model:
    """Anything that can be scored."""

    infers: Infers
    kind: Kind
    input_hw: tuple[int, int]


def open_model(name: str, threads: int) -> Model:
    """A checkpoint by its path (.pt), else a bundle by name or folder."""
    if name.endswith(".pt"):
        module, size_hw = served(checkpoint.load(Path(name)))
        return Model(TorchBackend(module), "detector" if isinstance(module, ServedDetector) else "embedder", size_hw)
    bundle = load_bundle(name)
    return Model(backends.load(bundle, threads), bundle.card.kind, bundle.card.input_hw)


def evaluate_model(
    name: str,
    data: str,
    video: Path | None,
    reference: str | None,
    people: Path | None,
    threads: int | None,
    console: Console,
) -> dict[str, float]:
    """Scores by name, each saying on what; also printed."""
    cores = threads or os.cpu_count() or 1
    torch.set_num_threads(cores)
    model = open_model(name, cores)
    if video is not None:
        if reference is None:
            raise UsageError("--video needs --reference: a bundle of the same kind whose answers are compared")
        other = open_model(reference, cores)
        if other.kind != model.kind:
            raise UsageError(f"--reference {reference} is of kind {other.kind}, {name} of kind {model.kind}")
        scores = _on_video(model, other, reference, video, people)
    elif model.kind == "detector":
        scores = _detector_on_drawn(model, data, cores, console)
    else:
        scores = _embedder(model, data, cores, console)
    for key, value in scores.items():
        console.print(f"{key:48} {value:.4f}")
    return scores


def _detector_on_drawn(model: Model, data: str, workers: int, console: Console) -> dict[str, float]:
    if data != "synthetic":
        raise UsageError(f"--data {data}: detectors are scored on synthetic scenes, or on --video")
    scores: dict[str, float] = {}
    for name, scenes in _drawn(drawn.test_scenes, workers, console):
        scores |= _box_scores(f"synthetic_{name}", evaluate.score_detector(model.infers, scenes, model.input_hw))
    return scores


def _embedder(model: Model, data: str, workers: int, console: Console) -> dict[str, float]:
    if data == "synthetic":
        sets = {
            f"synthetic_{name}": evaluate.split(crops) for name, crops in _drawn(drawn.test_crops, workers, console)
        }
    else:
        sets = {Path(data).name: (read_market(Path(data), "query"), read_market(Path(data), "gallery"))}
    scores: dict[str, float] = {}
    for name, (query, gallery) in sets.items():
        score = evaluate.score_embedder(model.infers, query, gallery, model.input_hw)
        scores |= {
            f"{name}/rank1": score.ranking.rank1,
            f"{name}/mAP": score.ranking.mean_ap,
            f"{name}/rank1_camera_means_removed": score.centred.rank1,
            f"{name}/mAP_camera_means_removed": score.centred.mean_ap,
        }
    return scores


def _drawn(draw: Any, workers: int, console: Console) -> Any:
    with Bar(console, "drawing") as bar:
        return draw(workers, lambda done, of: bar.at(done / of, f"{done} of {of} shards")).items()


def _on_video(model: Model, other: Model, other_name: str, video: Path, people: Path | None) -> dict[str, float]:
    frames = _frames(video)
    on = f"{video.name}/{other_name}"
    if model.kind == "detector":
        score = evaluate.box_agreement(model.infers, model.input_hw, other.infers, other.input_hw, frames)
        return _box_scores(f"agreement_{on}", score)
    if people is None:
        raise UsageError("an embedder on --video needs --people: a CSV of who is where in it")
    crops, who, when = _labelled(frames, people)
    ours, theirs = (m.infers.infer(to_batch(crops, m.input_hw))["embedding"] for m in (model, other))
    agreement = evaluate.crop_agreement(ours, theirs, who, when)
    return {
        f"{video.name}/rank1": agreement.rank1,
        f"{video.name}/separation": agreement.separation,
        f"{on}/rank1": agreement.reference_rank1,
        f"{on}/separation": agreement.reference_separation,
        f"agreement_{on}/spearman": agreement.correlation,
    }


def _box_scores(on: str, score: BoxScore) -> dict[str, float]:
    return {
        f"{on}/AP50": score.average_precision,
        f"{on}/recall_at_0.4": score.recall,
        f"{on}/precision_at_0.4": score.precision,
    }


def _frames(video: Path) -> Iterator[U8]:
    camera = CameraSettings(id="video", url=str(video))
    with open_video(camera, WallClock(), SILENCE_S) as opened:
        for picture in opened.pictures(lambda: SILENCE_S):
            yield np.ascontiguousarray(picture.pixels(MAX_VIDEO_WIDTH)[..., ::-1])


def _labelled(frames: Iterator[U8], people: Path) -> tuple[list[U8], NDArray[np.int64], NDArray[np.int64]]:
    """Crops of the labelled boxes, who each shows, and in which frame."""
    try:
        with people.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if tuple(table.fieldnames or ()) != PEOPLE_COLUMNS:
                raise DataError(f"{people}: the first line is {table.fieldnames}, expected {','.join(PEOPLE_COLUMNS)}")
            rows = [[int(row[column]) for column in PEOPLE_COLUMNS] for row in table]
    except OSError as error:
        raise DataError(f"{people} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnicodeDecodeError) as error:
        raise DataError(f"{people}: expected six whole numbers per line ({','.join(PEOPLE_COLUMNS)})") from error
    by_frame: dict[int, list[list[int]]] = {}
    for row in rows:
        by_frame.setdefault(row[0], []).append(row)
    crops: list[U8] = []
    labels: list[tuple[int, int]] = []
    for place, frame in enumerate(frames):
        for _, x1, y1, x2, y2, person in by_frame.pop(place, ()):
            crop = frame[max(0, y1) : y2, max(0, x1) : x2]
            if not crop.size:
                raise DataError(f"{people}: the box of person {person} in frame {place} lies outside the picture")
            crops.append(crop)
            labels.append((person, place))
    if by_frame:
        raise DataError(f"{people} labels frame {min(by_frame)}, which the video does not have")
    found = np.array(labels)
    return crops, found[:, 0], found[:, 1]
