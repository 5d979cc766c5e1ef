"""Whole scenes on their way to person search: scaled, padded, and altered for training; boxes go with them.

Pictures are (3, H, W) float32 RGB in [0, 1] until `collate` normalises them; boxes are (n, 4) float32 xyxy in pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from trainer.augment import normalise
from trainer.data import LEAST_VISIBLE

STRIDE = 32
"""Sides of a batch are multiples of this (person search paper, section III)."""


@dataclass(frozen=True, slots=True)
class SceneBatch:
    """What a network takes; torchvision's region proposals read `tensors` and `image_sizes` of it."""

    tensors: Tensor
    """(B, 3, H, W) float32, normalised, zeros right of and below each picture."""
    image_sizes: list[tuple[int, int]]
    """(height, width) of each picture without the padding."""
    scales: list[tuple[float, float]]
    """Pixels of the batch per pixel of the picture as it was read, along y and along x."""


def fitted(height: int, width: int, limit: tuple[int, int]) -> tuple[int, int]:
    """The size whose short side is limit[0], or whose long side is limit[1] where that is smaller; rounded down."""
    scale = min(limit[0] / min(height, width), limit[1] / max(height, width))
    return max(1, int(height * scale + 1e-6)), max(1, int(width * scale + 1e-6))


def resized(image: NDArray[np.uint8], size_hw: tuple[int, int], device: torch.device) -> Tensor:
    """(H, W, 3) uint8 -> a picture of `size_hw` on `device`, bilinear."""
    planes = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(planes, size=size_hw, mode="bilinear", align_corners=False)[0]


def collate(pictures: Sequence[Tensor], scales: Sequence[tuple[float, float]]) -> SceneBatch:
    """Normalised and zero-padded at the right and the bottom to one size, whose sides are multiples of `STRIDE`."""
    sizes = [(picture.shape[1], picture.shape[2]) for picture in pictures]
    height, width = (math.ceil(max(side) / STRIDE) * STRIDE for side in zip(*sizes, strict=True))
    tensors = pictures[0].new_zeros(len(pictures), 3, height, width)
    for place, (picture, (h, w)) in enumerate(zip(pictures, sizes, strict=True)):
        tensors[place, :, :h, :w] = normalise(picture[None])[0]
    return SceneBatch(tensors.contiguous(memory_format=torch.channels_last), sizes, list(scales))


def read(images: Sequence[NDArray[np.uint8]], limit: tuple[int, int], device: torch.device) -> SceneBatch:
    """Pictures as they are judged: each (H, W, 3) uint8 scaled to fit `limit`, and nothing else."""
    pictures, scales = [], []
    for image in images:
        height, width = image.shape[:2]
        size = fitted(height, width, limit)
        pictures.append(resized(image, size, device))
        scales.append((size[0] / height, size[1] / width))
    return collate(pictures, scales)


def scale_boxes(boxes: Tensor, scale: tuple[float, float]) -> Tensor:
    """(n, 4) boxes times a scale along y and along x."""
    y, x = scale
    return boxes * boxes.new_tensor([x, y, x, y])


def flip(picture: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right exchanged."""
    width = picture.shape[2]
    x1, y1, x2, y2 = boxes.unbind(1)
    return picture.flip(2), torch.stack([width - x2, y1, width - x1, y2], 1)


def clip(boxes: Tensor, visible: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes cut to the picture, and which of them are kept (n,): at least `LEAST_VISIBLE` of the person is still to be seen.

    `visible` (n,): share of the person that can be seen inside the box.
    """
    height, width = size_hw
    cut = torch.minimum(boxes.clamp_min(0), boxes.new_tensor([width, height, width, height]))
    sides = (cut[:, 2:] - cut[:, :2]).clamp_min(0)
    whole = (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp_min(1e-6)
    return cut, (visible * sides.prod(1) / whole >= LEAST_VISIBLE) & (sides.amin(1) >= 1)


def warp(picture: Tensor, boxes: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Seen through `matrix` (3, 3), from places of the result to places of the picture, both from -1 to 1; outside is black.

    Boxes become the upright boxes around where their corners come to lie; they are not clipped.
    """
    height, width = picture.shape[1:]
    ys = (torch.arange(height, device=picture.device) * 2 + 1) / height - 1
    xs = (torch.arange(width, device=picture.device) * 2 + 1) / width - 1
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    grid = _project(torch.stack([x, y], -1), matrix.to(picture.device))
    seen = F.grid_sample(picture[None], grid[None], padding_mode="zeros", align_corners=False)[0]
    half = boxes.new_tensor([width, height]) / 2
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2) / half - 1
    moved = (_project(corners, torch.linalg.inv(matrix).to(boxes.device)) + 1) * half
    return seen, torch.cat([moved.amin(1), moved.amax(1)], 1)


def _project(points: Tensor, matrix: Tensor) -> Tensor:
    """(..., 2) points through a homography."""
    mapped = torch.cat([points, torch.ones_like(points[..., :1])], -1) @ matrix.T
    return mapped[..., :2] / mapped[..., 2:]


class SceneAugmentation:
    """The paper's list (section IV.B) with strengths of ours, each with probability one half; all numbers from one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def __call__(self, picture: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """A picture and its boxes -> both altered, of the same size; boxes are not clipped. In float32 under autocast too."""
        with torch.autocast(picture.device.type, enabled=False):  # else boxes of a large scene are off by ten pixels
            picture, boxes = warp(picture, boxes, self._matrix(picture.shape[1], picture.shape[2]))
            return self._look(picture), boxes

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self._generator)

    def _maybe(self) -> bool:
        return bool(torch.rand((), generator=self._generator) < 0.5)

    def _matrix(self, height: int, width: int) -> Tensor:
        """Crop or pad by up to 10 % a side, rotation by 5 degrees, scale 0.9 to 1.1, perspective that moves corners by a tenth."""
        matrix = torch.eye(3)
        if self._maybe():
            left, top, right, bottom = self._uniform(-0.2, 0.2, 4).tolist()  # the picture is 2 wide
            matrix = matrix @ torch.tensor(
                [
                    [1 - (left + right) / 2, 0, (left - right) / 2],
                    [0, 1 - (top + bottom) / 2, (top - bottom) / 2],
                    [0, 0, 1],
                ]
            )
        if self._maybe():
            angle, zoom = math.radians(float(self._uniform(-5, 5))), float(self._uniform(0.9, 1.1))
            cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
            matrix = matrix @ torch.tensor([[cos, -sin * height / width, 0], [sin * width / height, cos, 0], [0, 0, 1]])
        if self._maybe():
            tilt_x, tilt_y = self._uniform(-0.05, 0.05, 2).tolist()
            matrix = matrix @ torch.tensor([[1.0, 0, 0], [0, 1, 0], [tilt_x, tilt_y, 1]])
        return matrix

    def _look(self, picture: Tensor) -> Tensor:
        """Contrast, saturation 0.8 to 1.2, hue 0.02, blur sigma 0.1 to 1.5, noise 0.02, 1 to 4 rectangles of 2 % of the area."""
        height, width = picture.shape[1:]
        if self._maybe():
            picture = V.adjust_contrast(picture, float(self._uniform(0.8, 1.2)))
        if self._maybe():
            picture = V.adjust_saturation(picture, float(self._uniform(0.8, 1.2)))
            picture = V.adjust_hue(picture, float(self._uniform(-0.02, 0.02)))
        if self._maybe():
            picture = V.gaussian_blur(picture, [9, 9], [float(self._uniform(0.1, 1.5))] * 2)
        if self._maybe():
            picture = picture + 0.02 * torch.randn(picture.shape, generator=self._generator).to(picture.device)
        if self._maybe():
            picture = picture.clone()
            for _ in range(int(self._uniform(1, 5))):
                aspect = math.exp(float(self._uniform(-1, 1)))
                h, w = (round(math.sqrt(0.02 * height * width * side)) for side in (aspect, 1 / aspect))
                top, left = (int(self._uniform(0, max(1, side))) for side in (height - h, width - w))
                picture[:, top : top + h, left : left + w] = 0
        return picture.clamp(0, 1)
