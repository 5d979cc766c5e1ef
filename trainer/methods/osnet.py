"""OSNet, the omni-scale network (K. Zhou, Y. Yang, A. Cavallaro, T. Xiang, ICCV 2019, arXiv 1905.00953).

A person's picture in, a 512-d vector out. Every block runs four streams of one to four stacked light 3x3 convolutions,
which see 3, 5, 7 and 9 pixels, and sums them under one shared gate that is computed from the picture, per channel: features
of every scale are mixed anew for every person. Light: 2,169,508 parameters without the classifier at width 1.0, 201,864 at
0.25. Structure and names of the parameters are those of torchreid, so weights interchange.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn

from stream.errors import UsageError
from trainer.augment import CropAugment, normalise
from trainer.data import Crops
from trainer.losses import CosineSoftmax, batch_hard_triplet
from trainer.sampler import PKSampler
from trainer.schedules import cosine
from trainer.settings import Count, Recipe, Share, Side, Weight
from trainer.task import Task

PAPER = "K. Zhou, Y. Yang, A. Cavallaro, T. Xiang, Omni-Scale Feature Learning for Person Re-Identification, ICCV 2019"
LOSSES = ("softmax", "triplet")
ABLATIONS: Mapping[str, Mapping[str, object]] = {}

CHANNELS = (64, 256, 384, 512)
FEATURES = 512
WIDTHS = (1.0, 0.75, 0.5, 0.25)
GATE_REDUCTION = 16


class OSNetRecipe(Recipe):
    """What OSNet adds."""

    method: Literal["osnet"] = "osnet"
    width: float = 0.25
    input_hw: tuple[Side, Side] = (128, 64)
    people: Annotated[int, Field(ge=0)] = 2000
    sites: Annotated[int, Field(ge=0)] = 12
    """Drawn sites, each with 24 people more, cut out of its cameras' pictures."""
    epochs: Count = 33
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.01
    clip_norm: Weight = 5.0
    warmup: Annotated[float, Field(ge=0, lt=0.5)] = 0.02
    """Share of the schedule over which the rate rises from 0; then it falls to 0 along a cosine."""
    batch_people: Annotated[int, Field(ge=2)] = 24
    batch_pictures: Annotated[int, Field(ge=2)] = 4
    softmax_scale: Annotated[float, Field(gt=0)] = 20.0
    triplet_weight: Weight = 0.5
    triplet_from: Share = 0.15
    """Share of the schedule after which the triplet joins: from the first step on it collapses."""


class Conv1x1(nn.Module):
    """Pointwise convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W), not negative."""
        return torch.relu(self.bn(self.conv(x)))


class Conv1x1Linear(nn.Module):
    """Pointwise convolution and batch norm, no activation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        out: Tensor = self.bn(self.conv(x))
        return out


class ConvLayer(nn.Module):
    """The stem's 7x7 convolution of stride 2, its norm (batch norm, or instance norm in the IBN variant) and ReLU."""

    def __init__(self, inputs: int, outputs: int, *, instance_norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 7, stride=2, padding=3, bias=False)
        self.bn = nn.InstanceNorm2d(outputs, affine=True) if instance_norm else nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H/2, W/2)."""
        return torch.relu(self.bn(self.conv(x)))


class LightConv3x3(nn.Module):
    """Pointwise first, then depthwise 3x3 (the reverse of MobileNet), one batch norm after both, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W), not negative."""
        return torch.relu(self.bn(self.conv2(self.conv1(x))))


class ChannelGate(nn.Module):
    """A weight in (0, 1) per channel, computed from the picture; one gate serves the four streams of a block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // GATE_REDUCTION)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, each channel scaled."""
        gate = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(gate))))


class OSBlock(nn.Module):
    """Four streams of growing depth, summed under the shared gate, inside a residual bottleneck."""

    def __init__(self, inputs: int, outputs: int, *, instance_norm: bool = False) -> None:
        super().__init__()
        mid = outputs // 4
        self.conv1 = Conv1x1(inputs, mid)
        self.conv2a = LightConv3x3(mid, mid)
        self.conv2b = nn.Sequential(*(LightConv3x3(mid, mid) for _ in range(2)))
        self.conv2c = nn.Sequential(*(LightConv3x3(mid, mid) for _ in range(3)))
        self.conv2d = nn.Sequential(*(LightConv3x3(mid, mid) for _ in range(4)))
        self.gate = ChannelGate(mid)
        self.conv3 = Conv1x1Linear(mid, outputs)
        self.downsample = Conv1x1Linear(inputs, outputs) if inputs != outputs else None
        self.IN = nn.InstanceNorm2d(outputs, affine=True) if instance_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W), not negative."""
        narrow = self.conv1(x)  # (B, outputs / 4, H, W)
        mixed = self.gate(self.conv2a(narrow))
        for stream in (self.conv2b, self.conv2c, self.conv2d):
            mixed = mixed + self.gate(stream(narrow))
        out = self.conv3(mixed) + (x if self.downsample is None else self.downsample(x))
        if self.IN is not None:
            out = self.IN(out)
        return torch.relu(out)


def _stage(inputs: int, outputs: int, *, instance_norm: bool, shrink: bool) -> nn.Sequential:
    blocks: list[nn.Module] = [
        OSBlock(inputs, outputs, instance_norm=instance_norm),
        OSBlock(outputs, outputs, instance_norm=instance_norm),
    ]
    if shrink:
        blocks.append(nn.Sequential(Conv1x1(outputs, outputs), nn.AvgPool2d(2, stride=2)))
    return nn.Sequential(*blocks)


class OSNet(nn.Module):
    """Normalised picture (B, 3, H, W), at least 32x16, -> vector (B, 512), not negative and not yet of unit length.

    `classes` adds torchreid's linear classifier; `forward` does not use it (`logits` does), so that training heads of another
    kind can stand beside the network.
    """

    def __init__(self, channels: Sequence[int] = CHANNELS, *, ibn: bool = False, classes: int | None = None) -> None:
        super().__init__()
        stem, second, third, fourth = channels
        self.conv1 = ConvLayer(3, stem, instance_norm=ibn)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = _stage(stem, second, instance_norm=ibn, shrink=True)
        self.conv3 = _stage(second, third, instance_norm=False, shrink=True)
        self.conv4 = _stage(third, fourth, instance_norm=False, shrink=False)
        self.conv5 = Conv1x1(fourth, fourth)
        self.fc = nn.Sequential(nn.Linear(fourth, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU())
        if classes is not None:
            self.classifier = nn.Linear(FEATURES, classes)
        self.apply(_initialise)

    def featuremaps(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H/16, W/16)."""
        x = self.maxpool(self.conv1(x))  # (B, stem, H/4, W/4)
        out: Tensor = self.conv5(self.conv4(self.conv3(self.conv2(x))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 512)."""
        vector: Tensor = self.fc(self.featuremaps(x).mean((2, 3)))
        return vector

    def logits(self, vector: Tensor) -> Tensor:
        """(B, 512) -> (B, classes); only where the network was built with `classes`."""
        out: Tensor = self.classifier(vector)
        return out


def build(width: float = 1.0, *, ibn: bool = False, classes: int | None = None) -> OSNet:
    """OSNet of one of the published widths (`WIDTHS`); the vector has 512 values at every width."""
    if width not in WIDTHS:
        raise UsageError(f"OSNet has no width {width}: expected one of {', '.join(map(str, WIDTHS))}")
    return OSNet([int(c * width) for c in CHANNELS], ibn=ibn, classes=classes)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)
        nn.init.zeros_(module.bias)


class OSNetTask(Task):
    """How OSNet is trained here: cosine softmax, after a first share of the schedule batch-hard triplet beside it.

    Plain softmax with a triplet from the first step on stood still for minutes (every distance fell to 0).
    """

    recipe: OSNetRecipe

    def __init__(self, recipe: OSNetRecipe, data: Crops) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        people, self._labels = np.unique(data.people, return_inverse=True)
        self._images = data.images
        self.network = build(recipe.width)
        self.head = CosineSoftmax(FEATURES, len(people), recipe.softmax_scale)
        self.sampler = PKSampler(self._labels, recipe.batch_people, recipe.batch_pictures, recipe.seed)
        self._augment = CropAugment(recipe.input_hw)
        self._with_triplet = False

    def begin_epoch(self, epoch: int) -> None:
        """The triplet joins."""
        recipe = self.recipe
        self._with_triplet = recipe.triplet_weight > 0 and epoch >= recipe.triplet_from * recipe.epochs

    def optimiser(self) -> torch.optim.Optimizer:
        """AdamW; norms and biases do not decay."""
        parameters = [*self.network.parameters(), *self.head.parameters()]
        return torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.recipe.weight_decay},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=self.recipe.learning_rate,
            fused=True,  # the plain one takes an eighth of an OSNet step on a CPU
        )

    def learning_rate(self, epoch: int, fraction: float) -> float:
        """Rises over `warmup`, then falls to 0 along half a cosine."""
        return cosine(self.recipe.learning_rate, (epoch + fraction) / self.recipe.epochs, self.recipe.warmup)

    def losses(self, rows: Tensor, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
        """See `trainer.task.Task`."""
        chosen = rows.numpy()
        pictures = self._augment(torch.from_numpy(self._images[chosen]), generator)
        labels = torch.from_numpy(self._labels[chosen]).to(device)
        vectors = self.network(normalise(pictures).to(device, memory_format=torch.channels_last)).float()
        terms: dict[str, Tensor] = {"softmax": self.head(vectors, labels)}
        if self._with_triplet:
            terms["triplet"] = self.recipe.triplet_weight * batch_hard_triplet(F.normalize(vectors), labels)
        return terms


def embedder(recipe: OSNetRecipe) -> nn.Module:
    """The network that serves."""
    return build(recipe.width)
