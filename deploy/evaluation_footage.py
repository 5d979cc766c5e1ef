"""Scores on real footage: how far a model agrees with another one, and with who is where."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.evaluation_models import Model
from ingest.clock import WallClock
from ingest.decode import open_video
from ingest.settings import CameraSettings
from reid.crops import to_batch
from stream.errors import DataError, UsageError
from trainer import evaluate
from trainer.metrics import BoxScore

U8 = NDArray[np.uint8]

SILENCE_S = 10.0
MAX_VIDEO_WIDTH = 1920
PEOPLE_COLUMNS = ("frame", "x1", "y1", "x2", "y2", "person")


def on_video(model: Model, other: Model, other_name: str, video: Path, people: Path | None) -> dict[str, float]:
    """A detector's agreement with the boxes of `other`; of an embedder also with `people`, a CSV of who is where."""
    frames = _frames(video)
    on = f"{video.name}/{other_name}"
    if model.kind == "detector":
        score = evaluate.box_agreement(model.infers, model.input_hw, other.infers, other.input_hw, frames)
        return box_scores(f"agreement_{on}", score)
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


def box_scores(on: str, score: BoxScore) -> dict[str, float]:
    """A detector's scores by name."""
    return {
        f"{on}/AP50": score.average_precision,
        f"{on}/recall_at_0.4": score.recall,
        f"{on}/precision_at_0.4": score.precision,
    }
