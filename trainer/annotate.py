"""Joints and part labels by torchvision's keypoint R-CNN and mask R-CNN (both trained on COCO), written as `trainer.supervision` reads them.

Joints: the picture is brought to 384 pixels on its longer side; of the people found the one with the largest score x area is taken. A
joint's score is the logistic function of the network's own (unbounded) one: 0.5 where that is 0.

Part labels are geometry, not the parsing network of MagnifierNet's paper: capsules around the bones of the visible joints, cut
with the mask of the person of the largest score x area. W is the larger of the shoulders' width and 0.6 of the torso's length (from
the side the shoulders lie behind each other). Limbs are W x 0.12 thick on each side of the bone, at least 3 pixels; the torso is the hull of
shoulders and hips, grown by as much; the head is a disc around the mean of nose, eyes and ears with radius 0.3 W; a foot is a disc of
1.2 limb's thickness just below the ankle. Later ones lie above earlier ones: torso, arms, legs, feet, head. What the mask shows beyond
stays background. A picture in which one of the networks finds nobody gets files that say so (NaN, 255): it is not asked again.
"""

import contextlib
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models.detection import (
    KeypointRCNN_ResNet50_FPN_Weights,
    MaskRCNN_ResNet50_FPN_Weights,
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
)

from stream.errors import DataError
from trainer import supervision
from trainer.datasets.listing import Listed
from trainer.supervision import KEYPOINTS, SEGMENTATION, UNKNOWN
from trainer.weights import download

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

Answer = dict[str, torch.Tensor]
"""What torchvision's detectors say of one picture."""

SIDE = 384
VISIBLE = 0.3
NETWORK: dict[str, Any] = {
    "weights": None,
    "weights_backbone": None,
    "min_size": SIDE,
    "max_size": SIDE,  # torchvision would enlarge a picture until the shorter side has min_size
    "rpn_post_nms_top_n_test": 100,  # a crop shows one person: of torchvision's 1000 proposals and 100 people most is work for nothing
    "box_detections_per_img": 10,
}
PERSON = 1
"""COCO's class of people."""
BATCH = 8
LIMBS = (  # label, joints at both ends; in the order of painting
    *((3, 5, 7), (3, 6, 8), (4, 7, 9), (4, 8, 10)),
    *((5, 11, 13), (5, 12, 14), (6, 13, 15), (6, 14, 16)),
)


@dataclass(frozen=True, slots=True)
class Teachers:
    """Both networks, in eval mode on one device; they take lists of (3, h, w) in [0, 1] and answer as torchvision's do."""

    keypoints: nn.Module
    masks: nn.Module


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of `pictures`, how many have joints and how many part labels now; `written` of them are new."""

    pictures: int
    written: int
    joints: int
    parts: int


def load_teachers(keypoint_file: Path | None, mask_file: Path | None, device: torch.device) -> Teachers:
    """Networks with torchvision's weights (downloaded once, their hash checked), or those of files that hold their state dicts."""
    for option, file in (("--keypoint-weights", keypoint_file), ("--mask-weights", mask_file)):
        if file is not None and not file.is_file():
            raise DataError(f"{option} {file}: there is no such file")
    keypoints = keypointrcnn_resnet50_fpn(**NETWORK)
    _fill(keypoints, keypoint_file, KeypointRCNN_ResNet50_FPN_Weights.COCO_V1, "--keypoint-weights")
    masks = maskrcnn_resnet50_fpn(**NETWORK)
    _fill(masks, mask_file, MaskRCNN_ResNet50_FPN_Weights.COCO_V1, "--mask-weights")
    return Teachers(keypoints.to(device).eval(), masks.to(device).eval())


def _fill(network: nn.Module, file: Path | None, published: Any, option: str) -> None:
    where = published.url if file is None else f"{option} {file}"
    try:
        if file is None:
            weights = _published(published, option)
        else:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict(weights)  # all of them; names of 2019, which the published files have, are translated
    except DataError:
        raise
    except Exception as error:  # torch raises whatever a foreign file's bytes happen to break
        why = textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")
        raise DataError(f"{where} holds no weights of {published.url} ({why})") from error
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.0  # as torchvision has it for these weights: they were trained before its layers had one


def _published(published: Any, option: str) -> Mapping[str, Any]:
    try:
        return download(published)
    except DataError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        reason = getattr(error.__cause__, "reason", error.__cause__)
        raise DataError(
            f"{published.url} cannot be had ({reason}): name the file with {option}, "
            f"or put it into {torch.hub.get_dir()}/checkpoints"
        ) from error


def annotate(root: Path, splits: Sequence[Listed], teachers: Teachers, report: Callable[[int, int], None]) -> Coverage:
    """Write joints and part labels of all pictures that lack either; one that cannot be read is a DataError.

    Every file is written whole or not at all, so a run that is cut short goes on where it was.
    """
    device = next(teachers.keypoints.parameters()).device
    wanted = [(split, row) for split in splits for row in range(len(split.people))]
    folders = supervision.part_folders(root)
    lacking = [_lacking(root, folders, split.source.names[row]) for split, row in wanted]
    todo = [(*each, paths) for each, paths in zip(wanted, lacking, strict=True) if any(paths)]
    for start in range(0, len(todo), BATCH):
        report(len(wanted) - len(todo) + start, len(wanted))
        chosen = todo[start : start + BATCH]
        pictures = [split.source.read(row) for split, row, _ in chosen]
        for (_, _, (joints_at, parts_at)), (joints, parts) in zip(
            chosen, label(pictures, teachers, device), strict=True
        ):
            if joints_at is not None:
                _save(joints_at, joints)
            if parts_at is not None:
                _save(parts_at, parts)
    report(len(wanted), len(wanted))
    found = [supervision.find(root, split.source, (SIDE, SIDE)) for split in splits]
    with_joints = sum(int(np.isfinite(each.joints[:, 0, 2]).sum()) for each in found if each.joints is not None)
    return Coverage(
        len(wanted), len(todo), with_joints, sum(each.parts.covered() for each in found if each.parts is not None)
    )


@torch.no_grad()
def label(pictures: Sequence[U8], teachers: Teachers, device: torch.device) -> list[tuple[F32, U8]]:
    """Pictures (h, w, 3) -> (17, 3) joints in their pixels and (h, w) part labels; NaN and 255 where nobody is found.

    Only pictures of one size share a batch: torchvision pads a batch to its largest, and what is found depends on the padding.
    """
    shown = [_enlarged(picture) for picture in pictures]
    found: dict[int, tuple[F32, U8]] = {}
    for shape in {picture.shape for picture in shown}:
        rows = [row for row, picture in enumerate(shown) if picture.shape == shape]
        batch = [torch.from_numpy(shown[row]).permute(2, 0, 1).to(device).float() / 255 for row in rows]
        for row, people, masks in zip(rows, teachers.keypoints(batch), teachers.masks(batch), strict=True):
            found[row] = _labelled(pictures[row], shape, people, masks)
    return [found[row] for row in range(len(pictures))]


def _labelled(picture: U8, shape: tuple[int, ...], people: Answer, masks: Answer) -> tuple[F32, U8]:
    """What the networks found in the picture enlarged to `shape`, in the picture's own pixels."""
    joints, parts = np.full((17, 3), np.nan, np.float32), np.full(picture.shape[:2], UNKNOWN, np.uint8)
    who, which = _largest(people), _largest(masks)
    if who is not None:
        score = torch.sigmoid(people["keypoints_scores"][who].float())
        joints = torch.cat([people["keypoints"][who, :, :2].float(), score[:, None]], 1).cpu().numpy()
    if who is not None and which is not None:
        painted = paint_parts(joints, (masks["masks"][which, 0] > 0.5).cpu().numpy())
        parts = np.asarray(cv2.resize(painted, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
    back = np.array([picture.shape[1] / shape[1], picture.shape[0] / shape[0], 1], np.float32)
    return (joints * back).astype(np.float32), parts


def paint_parts(joints: F32, mask: NDArray[np.bool_]) -> U8:
    """Joints (17, 3) in pixels and a person's mask (h, w) -> (h, w) uint8 part labels, as the file's head says."""
    labels = np.zeros(mask.shape, np.uint8)
    seen = joints[:, 2] > VISIBLE
    shoulders = float(np.linalg.norm(joints[5, :2] - joints[6, :2])) if seen[[5, 6]].all() else 0.0
    torso = [j for j in (5, 6, 12, 11) if seen[j]]
    if any(j in torso for j in (5, 6)) and any(j in torso for j in (11, 12)):
        upper = joints[[j for j in torso if j < 7], :2].mean(0)
        shoulders = max(shoulders, 0.6 * float(np.linalg.norm(upper - joints[[j for j in torso if j > 7], :2].mean(0))))
    radius = max(3.0, 0.12 * shoulders)
    at = np.round(joints[:, :2]).astype(int)
    thick = round(2 * radius)
    if len(torso) > 2:
        hull = cv2.convexHull(at[torso].astype(np.int32))
        cv2.fillConvexPoly(labels, hull, 2)
        cv2.polylines(labels, [hull], isClosed=True, color=2, thickness=thick)
    for part, one, other in LIMBS:
        if seen[one] and seen[other]:
            cv2.line(labels, tuple(at[one].tolist()), tuple(at[other].tolist()), part, thick)
    for ankle in (15, 16):
        if seen[ankle]:
            centre = (int(at[ankle, 0]), int(at[ankle, 1] + round(radius)))
            cv2.circle(labels, centre, round(1.2 * radius), 7, -1)
    if seen[:5].any():
        x, y = np.round(joints[:5][seen[:5], :2].mean(0)).astype(int).tolist()
        cv2.circle(labels, (x, y), round(max(2 * radius, 0.3 * shoulders)), 1, -1)
    labels[~mask] = 0
    return labels


def _enlarged(picture: U8) -> U8:
    scale = SIDE / max(picture.shape[:2])
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _largest(found: Answer) -> int | None:
    """Which of the people found has the largest score x area."""
    boxes = found["boxes"]
    worth = found["scores"] * (boxes[:, 2:] - boxes[:, :2]).prod(1) * (found["labels"] == PERSON)
    return int(worth.argmax()) if len(worth) and float(worth.max()) > 0 else None


def _lacking(root: Path, folders: Sequence[tuple[Path, str]], name: str) -> tuple[Path | None, Path | None]:
    """Where joints and part labels of a picture are to be written; None for what somebody has written already."""
    return (
        None if supervision.joints_file(root, name) else root / KEYPOINTS / f"{name}.npy",
        None if supervision.parts_file(folders, name) else root / SEGMENTATION / f"{name}.npy",
    )


def _save(path: Path, array: NDArray[Any]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise DataError(
            f"{path} cannot be written ({error.strerror}): make room or make the folder writable; the same command goes on"
        ) from error
