"""Body regions of a map: where they are expected, located, cut out, and how joints teach where they are.

The location and sampling modules of MGRe (K. Yang, J. Yang, X. Tian, Neurocomputing 432, 2021, section 3.1). Boxes are centre x,
centre y, width, height in widths and heights of the picture unless their name says xyxy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MARGIN = 0.05
"""What a region has around its joints, in widths and heights of the picture (the paper's section 3.1)."""
SIZE_RANGE = (0.05, 2.0)
"""Of a located region's sides; the paper has none, but a logarithm needs one."""
LEAST_JOINTS = 2
"""Visible joints that a region needs to be taught."""
POOLED_HW = (8, 4)
"""Cells that a locator's map is pooled to."""
LOCATOR_HIDDEN = 64


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the body: where it is expected, in widths and heights of the picture, and which of COCO's joints lie in it."""

    name: str
    centre_xy: tuple[float, float]
    size_wh: tuple[float, float]
    """First guess; also the region's share of the map's cells after sampling, so that the first guess is cut out cell by cell."""
    joints: tuple[int, ...]


REGIONS: Mapping[int, tuple[Region, ...]] = {
    1: (
        Region("head", (1 / 2, 1 / 12), (1 / 4, 1 / 8), (0, 1, 2, 3, 4)),
        Region("half left torso", (1 / 2, 1 / 3), (1 / 2, 1 / 2), (5, 7, 9, 11)),
        Region("half right torso", (1 / 2, 1 / 3), (1 / 2, 1 / 2), (6, 8, 10, 12)),
        Region("legs", (1 / 2, 3 / 4), (1, 3 / 8), (11, 12, 13, 14, 15, 16)),
    ),
    2: (
        Region("upper body", (1 / 2, 1 / 3), (1, 1 / 2), tuple(range(13))),
        Region("lower body", (1 / 2, 3 / 4), (1, 1 / 2), (11, 12, 13, 14, 15, 16)),
    ),
    3: (Region("whole body", (1 / 2, 1 / 2), (1, 1), tuple(range(17))),),
}
"""By stage: the paper's table 1. Left and right are the person's own."""


def prior_boxes(regions: Sequence[Region]) -> Tensor:
    """(R, 4) float32 centre x, centre y, width, height in [0, 1]: where regions are expected."""
    return torch.tensor([(*region.centre_xy, *region.size_wh) for region in regions])


class Locator(nn.Module):
    """Map (B, channels, H, W) -> boxes (B, R, 4), centre x, centre y, width, height in widths and heights of the picture.

    The location module (section 3.1, equation 1). Its last layer starts at zero, so the first boxes are the expected ones.
    Centres are less than 1 from theirs and may leave the picture; sides are within `SIZE_RANGE`.
    """

    centres: Tensor

    def __init__(self, channels: int, regions: Sequence[Region]) -> None:
        super().__init__()
        prior = prior_boxes(regions)
        self.register_buffer("centres", prior[:, :2], persistent=False)
        self.conv = nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels // 2)
        self.hidden = nn.Linear(channels // 2 * math.prod(POOLED_HW), LOCATOR_HIDDEN)
        self.out = nn.Linear(LOCATOR_HIDDEN, 4 * len(regions))
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.out.bias.copy_(torch.cat([torch.zeros_like(prior[:, :2]), prior[:, 2:].log()], 1).flatten())

    def forward(self, x: Tensor) -> Tensor:
        """See the class; float32 under autocast too."""
        x = self.bn(torch.relu(self.conv(x)))  # (B, channels / 2, H, W)
        x = torch.relu(self.hidden(_max_cells(x, POOLED_HW).flatten(1)))  # (B, 64)
        raw = (F.linear(x, self.out.weight).float() + self.out.bias).reshape(x.shape[0], -1, 4)  # (B, R, 4)
        low, high = SIZE_RANGE
        size = raw[..., 2:].clamp(math.log(low), math.log(high)).exp()
        return torch.cat([self.centres + raw[..., :2].tanh(), size], -1)


def _max_cells(x: Tensor, cells_hw: tuple[int, int]) -> Tensor:
    """Adaptive max pooling, (B, C, H, W) -> (B, C, *cells_hw). Sides that are no multiples go in slices: torch's own does not export."""
    if x.shape[2] % cells_hw[0] == 0 and x.shape[3] % cells_hw[1] == 0:
        return F.max_pool2d(x, (x.shape[2] // cells_hw[0], x.shape[3] // cells_hw[1]))
    for axis, cells in zip((2, 3), cells_hw, strict=True):
        side = x.shape[axis]
        ends = [(i * side // cells, -(-(i + 1) * side // cells)) for i in range(cells)]
        x = torch.stack([x.narrow(axis, start, end - start).amax(axis) for start, end in ends], axis)
    return x


def sample(x: Tensor, boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """What lies in one box per picture: map (B, C, H, W) and boxes (B, 4), centre and size, -> (B, C, *size_hw) float32.

    Equations 4 and 5: bilinear, 0 outside, differentiable in the map and in the boxes. The grid is made of two ramps, since
    runtimes know GridSample but few know AffineGrid.
    """
    centre_x, centre_y, width, height = boxes.float()[:, :, None].unbind(1)  # (B, 1) each
    columns = 2 * centre_x - 1 + width * _ramp(size_hw[1], x.device)  # (B, M), -1 to 1 over the map
    rows = 2 * centre_y - 1 + height * _ramp(size_hw[0], x.device)  # (B, N)
    columns, rows = columns[:, None, :].expand(-1, size_hw[0], -1), rows[:, :, None].expand(-1, -1, size_hw[1])
    grid = torch.stack([columns, rows], -1)  # (B, N, M, 2)
    return F.grid_sample(x.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _ramp(cells: int, device: torch.device) -> Tensor:
    """Centres of `cells` cells between -1 and 1."""
    return (2 * torch.arange(cells, device=device, dtype=torch.float32) + 1) / cells - 1


def joint_boxes(joints: Tensor, regions: Sequence[Region], visible_score: float) -> tuple[Tensor, Tensor]:
    """Joints (B, 17, 3) as in `Crops.joints` -> boxes (B, R, 4) xyxy around the visible ones, and which are valid (B, R).

    A box has `MARGIN` on each side and may reach beyond the picture. It is valid with `LEAST_JOINTS` visible joints; else it is 0.
    """
    seen = joints[..., 2] > visible_score  # (B, 17); NaN is not
    boxes, valid = [], []
    for region in regions:
        places = list(region.joints)
        here, xy = seen[:, places], joints[:, places, :2]  # (B, J), (B, J, 2)
        low = torch.where(here[..., None], xy, torch.inf).amin(1) - MARGIN
        high = torch.where(here[..., None], xy, -torch.inf).amax(1) + MARGIN
        enough = here.sum(1) >= LEAST_JOINTS
        boxes.append(torch.where(enough[:, None], torch.cat([low, high], 1), 0.0))
        valid.append(enough)
    return torch.stack(boxes, 1), torch.stack(valid, 1)


def location_loss(boxes: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Equation 3: squared distances of four sides, averaged over the pictures that know them, summed over regions.

    `boxes` (B, R, 4) centre and size, `targets` (B, R, 4) xyxy and `valid` (B, R) of `joint_boxes` -> scalar; 0 if none is valid.
    """
    squared = ((to_xyxy(boxes) - targets) ** 2).sum(-1)  # (B, R)
    return ((squared * valid).sum(0) / valid.sum(0).clamp_min(1)).sum()


def to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre and size -> x1, y1, x2, y2 (equation 2)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def given_boxes(joints: Tensor, visible_score: float) -> Tensor:
    """Joints (B, 17, 3) -> (B, 7, 4) boxes of all `REGIONS`, the expected ones where too few joints are visible."""
    every = [region for regions in REGIONS.values() for region in regions]
    xyxy, valid = joint_boxes(joints, every, visible_score)
    low, high = xyxy[..., :2], xyxy[..., 2:]
    boxes = torch.cat([(low + high) / 2, high - low], -1)
    return torch.where(valid[..., None], boxes, prior_boxes(every).to(boxes))
