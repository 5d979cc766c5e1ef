"""A contact sheet: what a data set looks like at a glance, with its labels drawn in."""

import colorsys

import cv2
import numpy as np
from numpy.typing import NDArray

from reid.crops import to_batch
from stream.errors import DataError
from trainer.data import NOBODY, UNLABELLED, Crops, Scenes

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

PEOPLE, PICTURES = 10, 12
CROP_HW = (128, 64)
FRAMES = 12
FRAME_WIDTH = 480
MARGIN = 4
SEEN = 0.3
LIMBS = (
    *((5, 7), (7, 9), (6, 8), (8, 10), (5, 6), (5, 11), (6, 12), (11, 12)),
    *((11, 13), (13, 15), (12, 14), (14, 16), (0, 1), (0, 2), (1, 3), (2, 4)),
)
PART_COLOURS = np.array(
    [
        [0, 0, 0],
        [240, 70, 70],
        [70, 160, 240],
        [250, 200, 60],
        [240, 130, 40],
        [90, 200, 90],
        [40, 140, 90],
        [190, 90, 220],
    ],
    np.uint8,
)


def crops_sheet(crops: Crops) -> U8:
    """(H, W, 3) RGB: a row per person, ten people by lot, up to twelve pictures each; joints and part labels where known."""
    rng = np.random.default_rng(0)
    known = np.unique(crops.people)
    rows = []
    for person in np.sort(rng.choice(known, min(PEOPLE, len(known)), replace=False)):
        chosen = np.sort(rng.permutation(np.flatnonzero(crops.people == person))[:PICTURES])
        pictures = to_batch(list(crops.images[chosen]), CROP_HW)
        if crops.parts is not None:
            pictures = _tinted(pictures, crops.parts[chosen])
        if crops.joints is not None:
            for picture, joints in zip(pictures, crops.joints[chosen], strict=True):
                _skeleton(picture, joints)
        rows.append(_beside(list(pictures), PICTURES, CROP_HW))
    return np.concatenate(rows)


def scenes_sheet(scenes: Scenes) -> U8:
    """(H, W, 3) RGB: twelve frames by lot; named people in a colour of their own with their number, others grey."""
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(scenes.xyxy), min(FRAMES, len(scenes.xyxy)), replace=False))
    people = scenes.people if scenes.people is not None else np.full(scenes.xyxy.shape[:2], UNLABELLED)
    tiles = []
    for row in chosen:
        image = scenes.images[np.array([row])][0]
        scale = FRAME_WIDTH / image.shape[1]
        tile = to_batch([image], (round(image.shape[0] * scale), FRAME_WIDTH))[0]
        for xyxy, person in zip(scenes.xyxy[row], people[row].tolist(), strict=True):
            if person != NOBODY:
                _box(tile, xyxy * scale, person)
        tiles.append(tile)
    high = max(tile.shape[0] for tile in tiles)
    across = 3
    return np.concatenate(
        [_beside(tiles[start : start + across], across, (high, FRAME_WIDTH)) for start in range(0, len(tiles), across)]
    )


def stacked(upper: U8, lower: U8) -> U8:
    """One sheet above the other, white beside the narrower one."""
    wide = max(upper.shape[1], lower.shape[1])
    padded = [np.pad(s, ((0, 0), (0, wide - s.shape[1]), (0, 0)), constant_values=255) for s in (upper, lower)]
    return np.concatenate(padded)


def png(image: U8) -> bytes:
    """An RGB picture as PNG bytes."""
    done, packed = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    if not done:
        raise DataError("the contact sheet cannot be written as PNG")
    return packed.tobytes()


def _beside(tiles: list[U8], count: int, size_hw: tuple[int, int]) -> U8:
    """Up to `count` tiles side by side on white."""
    height, width = size_hw
    sheet = np.full((height + MARGIN, count * (width + MARGIN), 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        left = place * (width + MARGIN)
        sheet[: tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet


def _tinted(pictures: U8, parts: U8) -> U8:
    out = pictures.copy()
    for picture, labels in zip(out, parts, strict=True):
        scaled = cv2.resize(labels, CROP_HW[::-1], interpolation=cv2.INTER_NEAREST)
        body = (scaled > 0) & (scaled < len(PART_COLOURS))
        picture[body] = picture[body] // 2 + PART_COLOURS[scaled[body]] // 2
    return out


def _skeleton(picture: U8, joints: F32) -> None:
    if not np.isfinite(joints).all():
        return
    at = np.round(joints[:, :2] * np.array(CROP_HW[::-1])).astype(int)
    for one, other in LIMBS:
        if min(joints[one, 2], joints[other, 2]) > SEEN:
            cv2.line(picture, tuple(at[one].tolist()), tuple(at[other].tolist()), (255, 255, 255), 1, cv2.LINE_AA)


def _box(tile: U8, xyxy: F32, person: int) -> None:
    x1, y1, x2, y2 = np.round(xyxy).astype(int).tolist()
    if person == UNLABELLED:
        cv2.rectangle(tile, (x1, y1), (x2, y2), (160, 160, 160), 1)
        return
    red, green, blue = colorsys.hsv_to_rgb(person * 0.618 % 1, 0.9, 1.0)
    colour = (255 * red, 255 * green, 255 * blue)
    cv2.rectangle(tile, (x1, y1), (x2, y2), colour, 2)
    cv2.putText(tile, str(person), (x1, max(10, y1 - 3)), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)
