"""A small person detector: anchor-free, one class, strides 8, 16 and 32, about a million parameters.

The recipe follows FCOS (Tian et al., ICCV 2019, arXiv 1904.01355): every cell of three feature maps says how far a box's four
sides are and how sure it is; and Generalised Focal Loss (Li et al., NeurIPS 2020, arXiv 2006.04388): the score is trained to be
the IoU of the box it stands beside, so sorting by score sorts by quality. Fully convolutional: any input whose sides are
multiples of 32 is served by the same weights.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from trainer.augment import SceneAugment, normalise
from trainer.data import LEAST_VISIBLE, Scenes
from trainer.losses import pair_iou, quality_focal
from trainer.sampler import ShuffleSampler
from trainer.schedules import cosine
from trainer.settings import Count, Recipe, Side, Weight
from trainer.task import Task

PAPER = "Z. Tian et al., FCOS, ICCV 2019; X. Li et al., Generalized Focal Loss, NeurIPS 2020 (a recipe after them)"
ABLATIONS: Mapping[str, Mapping[str, object]] = {}
LOSSES = ("score", "box")

STRIDES = (8, 16, 32)
WIDTH = 64
"""Channels of the neck and of the head."""
HEIGHTS = ((0.0, 80.0), (56.0, 176.0), (112.0, 1e9))
"""Box heights in input pixels that each stride answers for; they overlap, so that a box at a border trains both."""
RADIUS = 1.5
"""Cells within this many strides of a box's centre are its positives."""


class DetectorRecipe(Recipe):
    """What the detector adds."""

    method: Literal["detector"] = "detector"
    input_hw: tuple[Side, Side] = (256, 416)
    scenes: Count = 6000
    """Drawn random pictures."""
    sites: Annotated[int, Field(ge=0)] = 40
    """Drawn sites, each with 80 pictures more from its cameras."""
    epochs: Count = 9
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.01
    clip_norm: Weight = 5.0
    """The first steps' gradients are long."""
    warmup: Annotated[float, Field(ge=0, lt=0.5)] = 0.02
    """Share of the schedule over which the rate rises from 0; then it falls to 0 along a cosine."""
    batch: Count = 16
    box_weight: Annotated[float, Field(gt=0)] = 2.0


class Conv(nn.Module):
    """Convolution, batch norm, ReLU (which runtimes fold into the convolution; SiLU costs 40 % more there)."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return F.relu(self.bn(self.conv(x)))


class Residual(nn.Module):
    """Pointwise to half the channels, 3x3 back, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = Conv(channels, channels // 2, 1)
        self.wide = Conv(channels // 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        out: Tensor = x + self.wide(self.narrow(x))
        return out


class Context(nn.Module):
    """Three chained 5x5 maxima beside the input: the coarsest cells see most of the picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = Conv(channels, channels // 2, 1)
        self.wide = Conv(channels * 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        views = [self.narrow(x)]
        for _ in range(3):
            views.append(F.max_pool2d(views[-1], 5, stride=1, padding=2))
        out: Tensor = self.wide(torch.cat(views, 1))
        return out


class PersonDetector(nn.Module):
    """Normalised picture (B, 3, H, W), sides multiples of 32, -> (scores (B, A) as logits, distances (B, A, 4)).

    A counts the cells of the three maps, finest first, row by row. Distances are pixels of the input picture from the cell's
    centre to the left, top, right and bottom side, positive.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(Conv(3, 16, stride=2), Conv(16, 32, stride=2))
        self.stage8 = nn.Sequential(Conv(32, 64, stride=2), Residual(64), Residual(64))
        self.stage16 = nn.Sequential(Conv(64, 128, stride=2), Residual(128), Residual(128))
        self.stage32 = nn.Sequential(Conv(128, 192, stride=2), Residual(192), Context(192))
        self.lateral = nn.ModuleList(Conv(c, WIDTH, 1) for c in (64, 128, 192))
        self.smooth = nn.ModuleList(Conv(WIDTH, WIDTH) for _ in range(2))
        self.down = nn.ModuleList(Conv(WIDTH, WIDTH, stride=2) for _ in range(2))
        self.head = Conv(WIDTH, WIDTH)
        self.head_score = Conv(WIDTH, WIDTH)
        self.head_box = Conv(WIDTH, WIDTH)
        self.score = nn.Conv2d(WIDTH, 1, 1)
        self.box = nn.Conv2d(WIDTH, 4, 1)
        self.scale = nn.Parameter(torch.zeros(len(STRIDES)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.score.weight, 0.0, 0.01)
        nn.init.constant_(_bias(self.score), -math.log(99))  # a prior of 1 %: most cells hold nobody
        nn.init.normal_(self.box.weight, 0.0, 0.01)
        nn.init.constant_(_bias(self.box), math.log(2))  # two cells to each side

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        c8 = self.stage8(self.stem(x))
        c16 = self.stage16(c8)
        c32 = self.stage32(c16)
        p8, p16, p32 = (lateral(c) for lateral, c in zip(self.lateral, (c8, c16, c32), strict=True))
        p16 = self.smooth[0](p16 + F.interpolate(p32, scale_factor=2.0))
        p8 = self.smooth[1](p8 + F.interpolate(p16, scale_factor=2.0))
        p16 = p16 + self.down[0](p8)
        p32 = p32 + self.down[1](p16)
        scores, distances = [], []
        for level, (stride, feature) in enumerate(zip(STRIDES, (p8, p16, p32), strict=True)):
            shared = self.head(feature)
            score = self.score(self.head_score(shared))  # (B, 1, h, w)
            box = self.box(self.head_box(shared)).float() + self.scale[level]  # (B, 4, h, w)
            scores.append(score.float().flatten(1))
            distances.append((stride * box.clamp(-4, 4).exp()).flatten(2).transpose(1, 2))
        return torch.cat(scores, 1), torch.cat(distances, 1)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None  # noqa: S101 - for the type checker: a convolution has one unless told otherwise
    return layer.bias


def centres(size_hw: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """(A, 3) float32: x and y of each cell's centre in input pixels and its stride, in the order of the outputs."""
    cells = []
    for stride in STRIDES:
        ys = (torch.arange(size_hw[0] // stride, device=device) + 0.5) * stride
        xs = (torch.arange(size_hw[1] // stride, device=device) + 0.5) * stride
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        cells.append(torch.stack([x.flatten(), y.flatten(), torch.full_like(x.flatten(), stride)], 1))
    return torch.cat(cells)


def to_xyxy(cells: Tensor, distances: Tensor) -> Tensor:
    """Cells (A, 3) and distances (..., A, 4) -> boxes (..., A, 4) xyxy in input pixels."""
    x, y = cells[:, 0], cells[:, 1]
    left, top, right, bottom = distances.unbind(-1)
    return torch.stack([x - left, y - top, x + right, y + bottom], -1)


def assign(cells: Tensor, boxes: Tensor, usable: Tensor) -> Tensor:
    """Which box each cell answers for: (B, A) index into G, -1 background, -2 not to be judged.

    `cells` (A, 3), `boxes` (B, G, 4) with NaN where there is none, `usable` (B, G) False for boxes that are hardly visible. A cell
    inside several boxes takes the smallest; inside a box without being its centre it is not punished for a high score there only
    where the box is not usable.
    """
    x, y, stride = (cells[:, i][None, None] for i in range(3))  # (1, 1, A)
    x1, y1, x2, y2 = (boxes[..., i][..., None] for i in range(4))  # (B, G, 1)
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)  # (B, G, A), False for NaN
    near = ((x - (x1 + x2) / 2).abs() < RADIUS * stride) & ((y - (y1 + y2) / 2).abs() < RADIUS * stride)
    low, high = torch.zeros_like(stride), torch.zeros_like(stride)
    for level, (least, most) in zip(STRIDES, HEIGHTS, strict=True):
        low = torch.where(stride == level, least, low)
        high = torch.where(stride == level, most, high)
    height = y2 - y1
    positive = inside & near & (height >= low) & (height < high) & usable[..., None]
    area = ((x2 - x1) * height).expand_as(positive)
    smallest, index = torch.where(positive, area, torch.inf).min(1)  # (B, A)
    unjudged = (inside & ~usable[..., None]).any(1)
    return torch.where(smallest.isfinite(), index, torch.where(unjudged, -2, -1))


def embedder(recipe: DetectorRecipe) -> PersonDetector:
    """The network alone, as every method's module gives it; this one describes nobody, it finds people."""
    return PersonDetector()


class DetectorTask(Task):
    """How the detector is trained here: quality-focal loss on every cell, generalised IoU on the positive ones."""

    recipe: DetectorRecipe

    def __init__(self, recipe: DetectorRecipe, data: Scenes) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        self._scenes = data
        self.network = PersonDetector()
        self.head = nn.Identity()
        self.sampler = ShuffleSampler(len(data.images), recipe.batch, recipe.seed)
        self._augment = SceneAugment(recipe.input_hw)

    def optimiser(self) -> torch.optim.Optimizer:
        """AdamW; norms and biases do not decay."""
        parameters = list(self.network.parameters())
        return torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.recipe.weight_decay},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=self.recipe.learning_rate,
            fused=True,
        )

    def learning_rate(self, epoch: int, fraction: float) -> float:
        """Rises over `warmup`, then falls to 0 along half a cosine."""
        return cosine(self.recipe.learning_rate, (epoch + fraction) / self.recipe.epochs, self.recipe.warmup)

    def losses(self, rows: Tensor, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
        """See `trainer.task.Task`."""
        chosen = rows.numpy()
        scenes = self._scenes
        images, boxes, visible = (
            torch.from_numpy(each[chosen]).to(device) for each in (scenes.images, scenes.xyxy, scenes.visible)
        )
        pictures, boxes = self._augment(images, boxes, generator)
        boxes, usable = clip(boxes, visible, self.recipe.input_hw)
        logits, distances = self.network(normalise(pictures).contiguous(memory_format=torch.channels_last))
        score, box = detection_loss(logits, distances, centres(self.recipe.input_hw, device), boxes, usable)
        return {"score": score, "box": self.recipe.box_weight * box}


def clip(boxes: Tensor, visible: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes cut to the picture, and which are still visible enough; what is left of one outside is NaN."""
    limit = boxes.new_tensor([size_hw[1], size_hw[0]] * 2)
    cut = torch.minimum(boxes.clamp_min(0), limit)
    sides = (cut[..., 2:] - cut[..., :2]).clamp_min(0)
    whole = (boxes[..., 2:] - boxes[..., :2]).prod(-1).clamp_min(1e-6)
    seen = visible * sides.prod(-1) / whole
    cut = torch.where((sides.amin(-1) > 1)[..., None], cut, torch.nan)
    return cut, seen >= LEAST_VISIBLE


def detection_loss(
    logits: Tensor, distances: Tensor, cells: Tensor, boxes: Tensor, usable: Tensor
) -> tuple[Tensor, Tensor]:
    """Scores (B, A), distances (B, A, 4) and truth (B, G, 4) -> loss of scores and of boxes, means per positive cell."""
    owner = assign(cells, boxes, usable)  # (B, A)
    positive = owner >= 0
    predicted = to_xyxy(cells, distances)
    truth = boxes.gather(1, owner.clamp_min(0)[..., None].expand(-1, -1, 4))
    iou, giou = pair_iou(predicted[positive], truth[positive])
    target = torch.zeros_like(logits)
    target[positive] = iou.detach().clamp(0, 1)
    count = positive.sum().clamp_min(1)
    score = (quality_focal(logits, target) * (owner != -2)).sum() / count
    weight = iou.detach().clamp_min(0.1)  # the better a cell's box, the more often suppression will keep it
    box = ((1 - giou) * weight).sum() / weight.sum().clamp_min(1e-6)
    return score, box


RECIPE, TASK = DetectorRecipe, DetectorTask
