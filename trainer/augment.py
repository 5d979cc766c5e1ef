"""Training-time transforms of whole batches: uint8 pictures in, float pictures in [0, 1] out.

Random numbers come from the generator that is handed in and from nothing else. Geometry is one affine map per picture,
resampled once, straight to the size that the network takes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
Uniform = Callable[..., Tensor]
"""(low, high, *shape) -> (B, *shape), one draw per picture."""


def normalise(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] RGB -> minus mean, over standard deviation."""
    mean, std = (pictures.new_tensor(v)[:, None, None] for v in (MEAN, STD))
    return (pictures - mean) / std


@dataclass(frozen=True, slots=True)
class CropAugment:
    """For crops of people. Ranges are relative to the picture; probabilities per picture."""

    size_hw: tuple[int, int]
    shift: float = 0.06
    zoom: float = 0.08
    brightness: float = 0.15
    contrast: float = 0.1
    colour: float = 0.03
    grey_p: float = 0.03
    erase_p: float = 0.15
    blur_p: float = 0.05

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, 3, *size_hw) float32 in [0, 1]."""
        uniform = _uniform(len(pictures), generator)
        flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
        scale = uniform(1 - self.zoom, 1 + self.zoom, 2)
        shift = uniform(-2 * self.shift, 2 * self.shift, 2)  # the sampling grid is 2 wide
        out = resample(pictures, self.size_hw, torch.stack([flip * scale[:, 0], scale[:, 1]], 1), shift)
        out = _colour(out, uniform, self.brightness, self.contrast, self.colour)
        grey = (uniform(0, 1) < self.grey_p)[:, None, None, None]
        out = torch.where(grey, out.mean(1, keepdim=True), out)
        soft = (uniform(0, 1) < self.blur_p)[:, None, None, None]
        out = torch.where(soft, F.avg_pool2d(out, 3, stride=1, padding=1, count_include_pad=False), out)
        return _erase(out.clamp(0, 1), uniform, self.erase_p)


@dataclass(frozen=True, slots=True)
class SceneAugment:
    """For whole pictures with boxes."""

    size_hw: tuple[int, int]
    zoom_low: float = 0.6
    zoom_high: float = 1.7
    brightness: float = 0.3
    contrast: float = 0.3
    colour: float = 0.08
    grey_p: float = 0.06

    def __call__(self, pictures: Tensor, boxes: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B, H, W, 3) uint8, (B, G, 4) xyxy pixels -> (B, 3, *size_hw) in [0, 1], boxes in its pixels, not clipped."""
        height, width = pictures.shape[1:3]
        uniform = _uniform(len(pictures), generator)
        flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
        zoom = torch.exp(uniform(0, 1) * (math.log(self.zoom_high) - math.log(self.zoom_low)) + math.log(self.zoom_low))
        scale = 1 / zoom[:, None].expand(-1, 2)  # zoomed in: the window is smaller than the picture
        shift = uniform(-1, 1, 2) * (1 - scale).abs()
        step = torch.stack([flip, torch.ones_like(flip)], 1) * scale
        out = _colour(
            resample(pictures, self.size_hw, step, shift), uniform, self.brightness, self.contrast, self.colour
        )
        grey = (uniform(0, 1) < self.grey_p)[:, None, None, None]
        out = torch.where(grey, out.mean(1, keepdim=True), out).clamp(0, 1)

        source = boxes.new_tensor([width, height, width, height])
        target = boxes.new_tensor([self.size_hw[1], self.size_hw[0]] * 2)
        grid = boxes / source * 2 - 1  # the grid's coordinates, -1 to 1
        grid = (grid - shift.repeat(1, 2)[:, None]) / step.repeat(1, 2)[:, None]
        moved = (grid + 1) / 2 * target
        x = moved[..., [0, 2]].sort(-1).values  # a flip swaps left and right
        return out, torch.stack([x[..., 0], moved[..., 1], x[..., 1], moved[..., 3]], -1)


def resample(pictures: Tensor, size_hw: tuple[int, int], scale: Tensor, shift: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 seen through a window of `scale` (B, 2) and `shift` (B, 2), x first, in units of half the picture.

    Scale 1 and shift 0 is the whole picture, a negative scale mirrors. Outside is the nearest edge.
    """
    planes = pictures.permute(0, 3, 1, 2).float() / 255
    theta = torch.zeros(len(pictures), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale[:, 0], scale[:, 1]
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, [len(pictures), 3, *size_hw], align_corners=False)
    return F.grid_sample(planes, grid, padding_mode="border", align_corners=False)


def _uniform(count: int, generator: torch.Generator) -> Uniform:
    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    return draw


def _colour(pictures: Tensor, uniform: Uniform, brightness: float, contrast: float, colour: float) -> Tensor:
    gain = uniform(1 - brightness, 1 + brightness, 1, 1, 1) * uniform(1 - colour, 1 + colour, 3, 1, 1)
    mean = pictures.mean((1, 2, 3), keepdim=True)
    return ((pictures - mean) * uniform(1 - contrast, 1 + contrast, 1, 1, 1) + mean) * gain


def _erase(pictures: Tensor, uniform: Uniform, p: float) -> Tensor:
    """One rectangle of 2 to 40 % of the area, aspect 0.3 to 3.3, filled with a random colour."""
    height, width = pictures.shape[2:]
    area, log_aspect = uniform(0.02, 0.4) * height * width, uniform(math.log(0.3), -math.log(0.3))
    high = (area * log_aspect.exp()).sqrt().clamp(max=height * 0.95)
    wide = (area / log_aspect.exp()).sqrt().clamp(max=width * 0.95)
    top, left = uniform(0, 1) * (height - high), uniform(0, 1) * (width - wide)
    y, x = torch.arange(height)[None], torch.arange(width)[None]
    rows = (y >= top[:, None]) & (y < (top + high)[:, None])  # (B, H)
    columns = (x >= left[:, None]) & (x < (left + wide)[:, None])  # (B, W)
    hit = (uniform(0, 1) < p)[:, None, None] & rows[:, :, None] & columns[:, None, :]
    return torch.where(hit[:, None], uniform(0, 1, 3, 1, 1), pictures)
