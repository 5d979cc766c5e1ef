"""Training-time transforms of whole batches: uint8 pictures in, float pictures in [0, 1] out.

Random numbers come from the generator that is handed in (a CPU one) and from nothing else, and as many are drawn for every
picture whatever happens to it; pixels are worked on where the pictures are. Geometry is one affine map per picture, resampled
once, straight to the size that the network takes.

`Augment` is what the published methods use, `CropAugment` what the shipped OSNet was trained with, `SceneAugment` is for frames.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stream.model import IMAGENET_MEAN, IMAGENET_STD

ERASED = tuple(mean + std * mean for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
"""Colour of an erased rectangle: `IMAGENET_MEAN` after `normalise`, which is what the reference code of random erasing writes there."""
LEFT_RIGHT = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
"""Which of COCO's 17 joints each one becomes in a mirror."""
UNLABELLED = 255
"""Part label of every pixel of a picture that has none."""
ENLARGE = 1.125
PAD = 10
TRIES = 100
"""For a rectangle that fits into its picture."""
Uniform = Callable[..., Tensor]
"""(low, high, *shape) -> (B, *shape), one draw per picture."""


def normalise(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] RGB -> minus mean, over standard deviation."""
    mean, std = (pictures.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (pictures - mean) / std


@dataclass(frozen=True, slots=True)
class Augmented:
    """A batch after `Augment`."""

    pictures: Tensor
    """(B, 3, H, W) float32 in [0, 1]."""
    joints: Tensor | None
    """(B, 17, 3) float32: x, y in [0, 1] of the new picture, beyond it where the joint was cropped off; score as it was."""
    parts: Tensor | None
    """(B, H, W) uint8 labels, 0 where the picture was padded, 255 throughout for pictures without labels."""


@dataclass(frozen=True, slots=True)
class Augment:
    """The field's transforms of crops, in the field's order: mirror, crop, patch, jitter, erase. Probabilities are per picture."""

    size_hw: tuple[int, int]
    flip_p: float = 0.5
    crop: Literal["none", "pad", "enlarge"] = "none"
    """``pad``: 10 black pixels on every side, cut back at a random place. ``enlarge``: with probability 0.5 resized to 1.125 times
    the size and cut back at a random place."""
    patch_p: float = 0.0
    """Random patch: a piece of another picture of the batch, 1 to 50 % of the area, mirrored and turned at times, is pasted in."""
    brightness: float = 0.0
    contrast: float = 0.0
    """Jitter: factors within 1 +- these."""
    erase_p: float = 0.0
    """Random erasing (Z. Zhong et al., AAAI 2020): see `erasing`."""

    def __call__(
        self, pictures: Tensor, generator: torch.Generator, *, joints: Tensor | None = None, parts: Tensor | None = None
    ) -> Augmented:
        """(B, H, W, 3) uint8, (B, 17, 3) as in `Augmented`, (B, h, w) uint8 -> all of them moved alike.

        Patches, jitter and erasing change the picture alone.
        """
        uniform = _uniform(len(pictures), generator, pictures.device)
        mirrored, scale, shift = self._window(uniform)
        side = torch.where(mirrored, -1.0, 1.0)
        step = torch.stack([side * scale[:, 0], scale[:, 1]], 1)
        out = resample(pictures, self.size_hw, step, shift)
        if self.crop == "pad":
            out = out * _inside(self.size_hw, step, shift)[:, None]
        if self.patch_p:
            out = _patch(out, uniform, self.patch_p)
        if self.brightness or self.contrast:
            out = _colour(out, uniform, self.brightness, self.contrast, 0.0)
        out = out.clamp(0, 1)
        if self.erase_p:
            hit = erasing(len(out), self.size_hw, self.erase_p, generator).to(out.device)
            out = torch.where(hit[:, None], out.new_tensor(ERASED)[:, None, None], out)
        return Augmented(
            out,
            None if joints is None else _move_joints(joints, mirrored, step, shift),
            None if parts is None else _move_parts(parts, self.size_hw, step, shift),
        )

    def _window(self, uniform: Uniform) -> tuple[Tensor, Tensor, Tensor]:
        """Mirrored or not (B,), and what `resample` takes: scale and shift, (B, 2) each, x first; places are whole pixels."""
        mirrored = uniform(0, 1) < self.flip_p
        size = torch.tensor([self.size_hw[1], self.size_hw[0]], device=mirrored.device)
        if self.crop == "none":
            still = torch.zeros(len(mirrored), 2, device=mirrored.device)
            return mirrored, still + 1, still
        if self.crop == "pad":
            offset = torch.floor(uniform(0, 2 * PAD + 1, 2)) - PAD
            return mirrored, torch.ones_like(offset), 2 * offset / size
        large = torch.round(size * ENLARGE)
        large = torch.where(uniform(0, 1)[:, None] < 0.5, large, size)
        offset = torch.floor(uniform(0, 1, 2) * (large - size + 1))
        scale = size / large
        return mirrored, scale, 2 * offset / large + scale - 1  # the window's middle, the picture's being 0


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
        uniform = _uniform(len(pictures), generator, pictures.device)
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
        uniform = _uniform(len(pictures), generator, pictures.device)
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
    return F.grid_sample(planes, _grid(size_hw, scale, shift), padding_mode="border", align_corners=False)


def erasing(count: int, size_hw: tuple[int, int], p: float, generator: torch.Generator) -> Tensor:
    """(count, H, W) bool: with probability `p` a rectangle of 2 to 40 % of the area, height to width 0.3 to 3.3, at a random place."""
    uniform = _uniform(count, generator)
    top, left, high, wide = _rectangles(uniform, size_hw, (0.02, 0.4), (0.3, 1 / 0.3))
    hit = _within(size_hw, top, left, high, wide)
    return hit & (uniform(0, 1) < p)[:, None, None]


def _rectangles(
    uniform: Uniform, size_hw: tuple[int, int], areas: tuple[float, float], aspects: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width, (B,) whole pixels each: the first of 100 tries that is smaller than the picture, else nothing."""
    height, width = size_hw
    area, aspect = uniform(*areas, TRIES) * height * width, uniform(*aspects, TRIES)
    high, wide = torch.round((area * aspect).sqrt()), torch.round((area / aspect).sqrt())  # (B, tries)
    fits = (high < height) & (wide < width)
    first = fits.int().argmax(1, keepdim=True)
    some = fits.any(1)
    high, wide = (torch.where(some, side.gather(1, first)[:, 0], 0.0) for side in (high, wide))
    top = torch.floor(uniform(0, 1) * (height - high + 1))
    left = torch.floor(uniform(0, 1) * (width - wide + 1))
    return top, left, high, wide


def _within(size_hw: tuple[int, int], top: Tensor, left: Tensor, high: Tensor, wide: Tensor) -> Tensor:
    """(B, H, W) bool: the pixels of one rectangle per picture."""
    y, x = (torch.arange(side, device=top.device)[None] for side in size_hw)
    rows = (y >= top[:, None]) & (y < (top + high)[:, None])  # (B, H)
    columns = (x >= left[:, None]) & (x < (left + wide)[:, None])  # (B, W)
    return rows[:, :, None] & columns[:, None, :]


def _patch(pictures: Tensor, uniform: Uniform, p: float) -> Tensor:
    """Random patch (K. Zhou et al., OSNet, ICCV 2019): pieces of 1 to 50 % of the area, height to width 0.1 to 10.

    The piece comes from another picture of the batch, whatever its own place there; every second one is mirrored, every second one
    turned by up to 10 degrees about its middle, black where nothing is left. No pool outlives the batch, so a resumed run needs none.
    """
    count, _, height, width = pictures.shape
    top, left, high, wide = _rectangles(uniform, (height, width), (0.01, 0.5), (0.1, 10.0))
    from_top = torch.floor(uniform(0, 1) * (height - high + 1))
    from_left = torch.floor(uniform(0, 1) * (width - wide + 1))
    donor = (torch.arange(count, device=top.device) + 1 + (uniform(0, 1) * (count - 1)).long()) % count
    side = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    angle = torch.where(uniform(0, 1) < 0.5, uniform(-10, 10), 0.0).deg2rad()
    hit = (uniform(0, 1) < p)[:, None, None] & _within((height, width), top, left, high, wide)

    of_row, y, x = torch.nonzero(hit, as_tuple=True)  # the (n,) pixels that change, of all pictures
    middle_y, middle_x = (high[of_row] - 1) / 2, (wide[of_row] - 1) / 2
    v, u = y - top[of_row] - middle_y, (x - left[of_row] - middle_x) * side[of_row]
    sine, cosine = angle[of_row].sin(), angle[of_row].cos()
    inner_y = torch.round(middle_y + cosine * v - sine * u)
    inner_x = torch.round(middle_x + sine * v + cosine * u)
    known = (inner_y >= 0) & (inner_y < high[of_row]) & (inner_x >= 0) & (inner_x < wide[of_row])
    source_y = (from_top[of_row] + inner_y).long().clamp(0, height - 1)
    source_x = (from_left[of_row] + inner_x).long().clamp(0, width - 1)
    out = pictures.clone()
    out[of_row, :, y, x] = pictures[donor[of_row], :, source_y, source_x] * known[:, None]
    return out


def _grid(size_hw: tuple[int, int], scale: Tensor, shift: Tensor) -> Tensor:
    """(B, H, W, 2): where each pixel comes from, x first, -1 to 1 being the picture."""
    theta = torch.zeros(len(scale), 2, 3, device=scale.device)
    theta[:, 0, 0], theta[:, 1, 1] = scale[:, 0], scale[:, 1]
    theta[:, :, 2] = shift
    with torch.autocast(scale.device.type, enabled=False):  # which would give coordinates 8 bits
        return F.affine_grid(theta, [len(scale), 3, *size_hw], align_corners=False)


def _inside(size_hw: tuple[int, int], scale: Tensor, shift: Tensor) -> Tensor:
    """(B, H, W) bool: the pixels that come from within the picture."""
    return (_grid(size_hw, scale, shift).abs() < 1).all(-1)


def _move_joints(joints: Tensor, mirrored: Tensor, step: Tensor, shift: Tensor) -> Tensor:
    place = ((joints[..., :2] * 2 - 1 - shift[:, None]) / step[:, None] + 1) / 2
    moved = torch.cat([place, joints[..., 2:]], -1)
    return torch.where(mirrored[:, None, None], moved[:, list(LEFT_RIGHT)], moved)


def _move_parts(parts: Tensor, size_hw: tuple[int, int], step: Tensor, shift: Tensor) -> Tensor:
    grid = _grid(size_hw, step, shift)
    moved = F.grid_sample(parts[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    background = torch.where(parts[:, 0, 0] == UNLABELLED, UNLABELLED, 0)[:, None, None]
    return torch.where(_inside(size_hw, step, shift), moved[:, 0], background).to(torch.uint8)


def _uniform(count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Uniform:
    def draw(low: float, high: float, *shape: int) -> Tensor:
        return (low + (high - low) * torch.rand(count, *shape, generator=generator)).to(device)

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
    hit = _within((height, width), top, left, high, wide) & (uniform(0, 1) < p)[:, None, None]
    return torch.where(hit[:, None], uniform(0, 1, 3, 1, 1), pictures)
