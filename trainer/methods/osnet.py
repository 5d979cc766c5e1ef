"""OSNet, the omni-scale network (K. Zhou, Y. Yang, A. Cavallaro, T. Xiang, ICCV 2019, arXiv 1905.00953).

A person's picture in, a 512-d vector out. Every block runs four streams of one to four stacked light 3x3 convolutions,
which see 3, 5, 7 and 9 pixels, and sums them under one shared gate that is computed from the picture, per channel: features
of every scale are mixed anew for every person. Light: 2,169,508 parameters without the classifier at width 1.0, 201,864 at
0.25. Structure and names of the parameters are those of torchreid, so weights interchange.
"""

import shutil
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from stream.errors import UsageError
from trainer.augment import Augment, CropAugment, normalise
from trainer.data import Crops
from trainer.losses import (
    CentreLoss,
    CosineSoftmax,
    batch_hard_triplet,
    smoothed_cross_entropy,
    supervised_contrastive,
)
from trainer.sampler import PKSampler, ShuffleSampler, sites_of
from trainer.schedules import cosine, steps
from trainer.settings import Count, Recipe, Share, Side, Weight
from trainer.task import Task
from trainer.weights import Matched, pretrained

PAPER = "K. Zhou, Y. Yang, A. Cavallaro, T. Xiang, Omni-Scale Feature Learning for Person Re-Identification, ICCV 2019"
LOSSES = ("softmax", "triplet", "contrastive", "centre")

CHANNELS = (64, 256, 384, 512)
FEATURES = 512
WIDTHS = (1.0, 0.75, 0.5, 0.25)
GATE_REDUCTION = 16


class OSNetRecipe(Recipe):
    """How OSNet is built and trained; the defaults are the paper's, from scratch."""

    method: Literal["osnet"] = "osnet"
    input_hw: tuple[Side, Side] = (256, 128)
    width: float = 1.0
    """1.0, 0.75, 0.5 or 0.25 times the channels."""
    ibn: bool = False
    """Instance norm in the stem and in the first stage: for data sets never seen."""
    conv: Literal["lite", "full"] = "lite"
    fusion: Literal["unified", "separate", "stream", "fixed", "add", "concat"] = "unified"
    """How a block's streams become one: one gate for all; a gate each; one gate that weighs a stream as a whole; weights that do not
    depend on the picture; a plain sum; side by side."""
    depths: Annotated[tuple[Annotated[int, Field(ge=1, le=8)], ...], Field(min_length=1, max_length=4)] = (1, 2, 3, 4)
    """Convolutions in each stream."""
    epochs: Count = 350
    optimiser: Literal["sgd", "amsgrad", "adamw"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 0.065
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 5e-4
    schedule: Literal["steps", "cosine"] = "steps"
    milestones: tuple[int, ...] = (150, 225, 300)
    """Epochs from which on the rate is a tenth of what it was (steps)."""
    warmup: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of the schedule over which the rate rises from 0; then it falls to 0 (cosine)."""
    freeze_epochs: Annotated[int, Field(ge=0)] = 0
    """In the first epochs only the classifier learns: for weights that were trained before."""
    augment: Literal["flip", "flip_erase", "flip_crop_patch", "flip_crop_erase", "flip_jitter", "drawn"] = (
        "flip_crop_patch"
    )
    """``drawn``: `CropAugment`, mild, for drawn people."""
    sampler: Literal["shuffle", "people", "sites"] = "shuffle"
    """``people``: so many people per batch, so many pictures of each; ``sites``: these from two sites, whose cameras saw them all;
    ``shuffle``: as many pictures, anybody's."""
    batch_people: Annotated[int, Field(ge=2)] = 16
    batch_pictures: Annotated[int, Field(ge=2)] = 4
    softmax: Literal["linear", "cosine"] = "linear"
    """``linear``: label-smoothed, as in the paper. ``cosine``: of angles alone; the triplet then sees unit vectors too."""
    softmax_weight: Weight = 1.0
    softmax_from: Share = 0.0
    """Share of the schedule after which the softmax joins."""
    softmax_scale: Annotated[float, Field(gt=0)] = 20.0
    """Of the cosines."""
    triplet_weight: Weight = 0.0
    triplet_from: Share = 0.0
    """Share of the schedule after which the triplet joins."""
    contrastive_weight: Weight = 0.0
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Of the contrastive loss."""
    centre_weight: Weight = 0.0
    """Of the squared distance to one's person's centre; where it is used at all, 0.0005 is."""
    compile: bool = False
    """The network is compiled by torch: a minute or two first, and a C++ compiler is needed; then a step takes less."""


FINE_TUNED: Mapping[str, object] = {
    "weights": "osnet_x1_0_imagenet.pth",
    "epochs": 150,
    "optimiser": "amsgrad",
    "learning_rate": 1.5e-3,
    "milestones": (60, 120),
    "freeze_epochs": 10,
    "augment": "flip_erase",
}
"""From torchreid's ImageNet weights, which torchvision does not have: `weights` names the file."""
SMALL: Mapping[str, object] = {"batch_people": 32, "learning_rate": 3e-3, "epochs": 180, "milestones": (80, 160)}
"""What torchreid changes for the two narrow widths."""

ABLATIONS: Mapping[str, Mapping[str, object]] = {
    "OSNet": {},
    "fine-tuned": FINE_TUNED,
    "fine-tuned x0.75": {**FINE_TUNED, "width": 0.75, "weights": "osnet_x0_75_imagenet.pth"},
    "fine-tuned x0.5": {**FINE_TUNED, **SMALL, "width": 0.5, "weights": "osnet_x0_5_imagenet.pth"},
    "fine-tuned x0.25": {**FINE_TUNED, **SMALL, "width": 0.25, "weights": "osnet_x0_25_imagenet.pth"},
    "fine-tuned, cosine": {**FINE_TUNED, "epochs": 250, "schedule": "cosine"},
    "fine-tuned, softmax and triplet": {**FINE_TUNED, "triplet_weight": 1.0, "sampler": "people"},
    "x0.75": {"width": 0.75},
    "x0.5": {"width": 0.5},
    "x0.25": {"width": 0.25},
    "IBN, cross-domain": {"ibn": True, "augment": "flip_jitter"},
    "full 3x3 convolutions": {"conv": "full"},
    "separate gates": {"fusion": "separate"},
    "stream-wise gate": {"fusion": "stream"},
    "fixed gates": {"fusion": "fixed"},
    "addition": {"fusion": "add"},
    "concatenation": {"fusion": "concat"},
    "T = 3": {"depths": (1, 2, 3)},
    "T = 2": {"depths": (1, 2)},
    "T = 1": {"depths": (1,), "fusion": "add"},
    "four streams of depth 1": {"depths": (1, 1, 1, 1)},
    "four streams of depth 2": {"depths": (2, 2, 2, 2)},
    "four streams of depth 3": {"depths": (3, 3, 3, 3)},
    "four streams of depth 4": {"depths": (4, 4, 4, 4)},
    "192x96": {"input_hw": (192, 96)},
    "128x64": {"input_hw": (128, 64)},
    "64x32": {"input_hw": (64, 32)},
    "softmax and triplet": {"triplet_weight": 1.0, "sampler": "people"},
    "erasing instead of patches": {"augment": "flip_crop_erase"},
}
"""Rows of the paper's tables (its ablation is from scratch), then those of torchreid's model zoo and documentation."""


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


class Conv3x3(nn.Module):
    """An ordinary 3x3 convolution, batch norm, ReLU: what the light one is compared with."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W), not negative."""
        return torch.relu(self.bn(self.conv(x)))


class ChannelGate(nn.Module):
    """A weight in (0, 1) per channel, computed from the picture; `outputs` 1 gives one weight for the whole stream."""

    def __init__(self, channels: int, outputs: int | None = None) -> None:
        super().__init__()
        hidden = max(1, channels // GATE_REDUCTION)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, outputs or channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, each channel scaled."""
        gate = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(gate))))


class FixedGate(nn.Module):
    """A learned weight in (0, 1) per channel that is the same for every picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, each channel scaled."""
        return x * torch.sigmoid(self.weight)


class OSBlock(nn.Module):
    """Streams of several depths, fused, inside a residual bottleneck; fusions are those of `OSNetRecipe`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        instance_norm: bool = False,
        conv: Literal["lite", "full"] = "lite",
        fusion: str = "unified",
        depths: Sequence[int] = (1, 2, 3, 4),
    ) -> None:
        super().__init__()
        mid = outputs // 4
        unit = LightConv3x3 if conv == "lite" else Conv3x3
        self._streams = [f"conv2{letter}" for letter, _ in zip("abcd", depths, strict=False)]
        self._concat = fusion == "concat"
        self.conv1 = Conv1x1(inputs, mid)
        for name, depth in zip(self._streams, depths, strict=True):
            units = [unit(mid, mid) for _ in range(depth)]
            setattr(self, name, units[0] if depth == 1 else nn.Sequential(*units))
        self.gate = ChannelGate(mid, 1 if fusion == "stream" else mid) if fusion in ("unified", "stream") else None
        own = {"separate": ChannelGate, "fixed": FixedGate}.get(fusion)
        self.gates = None if own is None else nn.ModuleList(own(mid) for _ in depths)
        self.conv3 = Conv1x1Linear(mid * len(depths) if fusion == "concat" else mid, outputs)
        self.downsample = Conv1x1Linear(inputs, outputs) if inputs != outputs else None
        self.IN = nn.InstanceNorm2d(outputs, affine=True) if instance_norm else None

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Before the shortcut is added (`trainer.calm`)."""
        return self.conv3.bn

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W), not negative."""
        narrow = self.conv1(x)  # (B, outputs / 4, H, W)
        streams = [getattr(self, name)(narrow) for name in self._streams]
        if self.gate is not None:
            streams = [self.gate(stream) for stream in streams]
        elif self.gates is not None:
            streams = [gate(stream) for gate, stream in zip(self.gates, streams, strict=True)]
        mixed = torch.cat(streams, 1) if self._concat else sum(streams[1:], start=streams[0])
        out = self.conv3(mixed) + (x if self.downsample is None else self.downsample(x))
        if self.IN is not None:
            out = self.IN(out)
        return torch.relu(out)


def _stage(inputs: int, outputs: int, *, shrink: bool, **options: Any) -> nn.Sequential:
    blocks: list[nn.Module] = [OSBlock(inputs, outputs, **options), OSBlock(outputs, outputs, **options)]
    if shrink:
        blocks.append(nn.Sequential(Conv1x1(outputs, outputs), nn.AvgPool2d(2, stride=2)))
    return nn.Sequential(*blocks)


class OSNet(nn.Module):
    """Normalised picture (B, 3, H, W), at least 32x16, -> vector (B, 512), not negative and not yet of unit length."""

    def __init__(self, recipe: OSNetRecipe) -> None:
        super().__init__()
        if recipe.width not in WIDTHS:
            raise UsageError(f"OSNet has no width {recipe.width}: expected one of {', '.join(map(str, WIDTHS))}")
        stem, second, third, fourth = (int(channels * recipe.width) for channels in CHANNELS)
        blocks = {"conv": recipe.conv, "fusion": recipe.fusion, "depths": recipe.depths}
        self.conv1 = ConvLayer(3, stem, instance_norm=recipe.ibn)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = _stage(stem, second, shrink=True, instance_norm=recipe.ibn, **blocks)
        self.conv3 = _stage(second, third, shrink=True, **blocks)
        self.conv4 = _stage(third, fourth, shrink=False, **blocks)
        self.conv5 = Conv1x1(fourth, fourth)
        self.fc = nn.Sequential(nn.Linear(fourth, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU())
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


class LinearSoftmax(nn.Module):
    """Label-smoothed cross-entropy over a linear classifier; its weights are named as torchreid names them."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(FEATURES, classes)
        self.apply(_initialise)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, 512) and (B,) -> mean loss."""
        with torch.autocast(features.device.type, enabled=False):
            return smoothed_cross_entropy(self.classifier(features.float()), labels)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)
        nn.init.zeros_(module.bias)


def build(recipe: OSNetRecipe, classes: int) -> tuple[OSNet, nn.Module]:
    """Network and training head, random weights."""
    head: nn.Module = LinearSoftmax(classes)
    if recipe.softmax == "cosine":
        head = CosineSoftmax(FEATURES, classes, recipe.softmax_scale)
    if recipe.centre_weight:
        head.centre = CentreLoss(FEATURES, classes)
    return OSNet(recipe), head


def embedder(recipe: OSNetRecipe) -> OSNet:
    """The network that serves."""
    return OSNet(recipe)


class OSNetTask(Task):
    """Softmax, and batch-hard triplet, contrastive and centre loss beside it or before it if asked for.

    On drawn people a triplet from the first step on stood still for minutes (every distance fell to 0): there it joins later.
    """

    recipe: OSNetRecipe

    def __init__(self, recipe: OSNetRecipe, data: Crops) -> None:
        _check(recipe)
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        people, self._labels = np.unique(data.people, return_inverse=True)
        if len(people) < 2:
            raise UsageError(f"nobody to tell apart: training needs pictures of 2 people, got {len(people)}")
        self._images = data.images
        self.network, self.head = build(recipe, len(people))
        if recipe.sampler == "shuffle":
            self.sampler = ShuffleSampler(len(self._labels), recipe.batch_people * recipe.batch_pictures, recipe.seed)
        else:
            sites = sites_of(data.people, data.cameras) if recipe.sampler == "sites" else None
            self.sampler = PKSampler(self._labels, recipe.batch_people, recipe.batch_pictures, recipe.seed, sites)
        self._augment = _augment(recipe)
        self._forward = _compiled(self.network) if recipe.compile else self.network
        self._with_softmax, self._with_triplet = True, False

    def fill(self, weights: str) -> Matched:
        """See `Task`."""
        return pretrained(weights, self.network)

    def begin_epoch(self, epoch: int) -> None:
        """First all but the classifier is frozen, batch norms' statistics too; softmax or triplet may join late."""
        recipe = self.recipe
        frozen = epoch < recipe.freeze_epochs
        self.network.requires_grad_(not frozen)
        if frozen:
            self.network.eval()
        self._with_softmax = recipe.softmax_weight > 0 and epoch >= recipe.softmax_from * recipe.epochs
        self._with_triplet = recipe.triplet_weight > 0 and epoch >= recipe.triplet_from * recipe.epochs

    def optimiser(self) -> torch.optim.Optimizer:
        """SGD with momentum 0.9 or AMSGrad, which decay everything, or AdamW, which spares norms and biases."""
        recipe = self.recipe
        parameters = [*self.network.parameters(), *self.head.parameters()]
        rate, decay = recipe.learning_rate, recipe.weight_decay
        if recipe.optimiser == "sgd":
            fused = recipe.precision != "fp16"  # the loss scale may skip step 1: a fused momentum is rubbish then
            return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay, fused=fused)
        if recipe.optimiser == "amsgrad":
            return torch.optim.Adam(
                parameters, lr=rate, betas=(0.9, 0.999), weight_decay=decay, amsgrad=True, fused=True
            )
        return torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=rate,
            fused=True,  # the plain one takes an eighth of an OSNet step on a CPU
        )

    def learning_rate(self, epoch: int, fraction: float) -> float:
        """Steps by whole epochs, the frozen ones included, or half a cosine."""
        recipe = self.recipe
        if recipe.schedule == "steps":
            return steps(recipe.learning_rate, epoch, recipe.milestones)
        return cosine(recipe.learning_rate, (epoch + fraction) / recipe.epochs, recipe.warmup)

    def losses(self, rows: Tensor, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
        """See `trainer.task.Task`."""
        recipe, chosen = self.recipe, rows.numpy()
        pictures = self._augment(torch.from_numpy(self._images[chosen]).to(device), generator)
        labels = torch.from_numpy(self._labels[chosen]).to(device)
        vectors = self._forward(normalise(pictures).to(memory_format=torch.channels_last)).float()
        terms: dict[str, Tensor] = {}
        if self._with_softmax:
            terms["softmax"] = recipe.softmax_weight * self.head(vectors, labels)
        if self._with_triplet:
            measured = F.normalize(vectors) if recipe.softmax == "cosine" else vectors
            terms["triplet"] = recipe.triplet_weight * batch_hard_triplet(measured, labels)
        if recipe.contrastive_weight:
            terms["contrastive"] = recipe.contrastive_weight * supervised_contrastive(
                vectors, labels, recipe.temperature
            )
        if recipe.centre_weight:
            terms["centre"] = recipe.centre_weight * self.head.centre(vectors, labels)  # type: ignore[operator]
        return terms


def _compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    compiler = any(shutil.which(each) for each in ("g++", "clang++"))
    if not compiler or not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise UsageError(
            f"compile = true: torch needs {'Python.h' if compiler else 'a C++ compiler'} for that, and there is none: "
            "apt-get install g++ python3-dev, or leave it out"
        )
    compiled: Callable[[Tensor], Tensor] = torch.compile(network)
    return compiled


def _check(recipe: OSNetRecipe) -> None:
    softmax = recipe.softmax_weight and not recipe.softmax_from
    if not (softmax or recipe.contrastive_weight or (recipe.triplet_weight and not recipe.triplet_from)):
        raise UsageError("nothing is learnt in the first epoch: softmax, triplet or contrastive loss must begin there")
    if recipe.freeze_epochs and not softmax:
        raise UsageError("freeze_epochs trains the classifier alone: the softmax must begin at once")
    if recipe.triplet_weight and recipe.sampler == "shuffle":
        raise UsageError(
            f"triplet_weight = {recipe.triplet_weight} with sampler = 'shuffle': a triplet needs pictures of the same person and of "
            "others in every batch, which chance does not give: take sampler = people or sites"
        )


def _augment(recipe: OSNetRecipe) -> Callable[[Tensor, torch.Generator], Tensor]:
    if recipe.augment == "drawn":
        return CropAugment(recipe.input_hw)
    chosen = {
        "flip": Augment(recipe.input_hw),
        "flip_erase": Augment(recipe.input_hw, erase_p=0.5),
        "flip_crop_patch": Augment(recipe.input_hw, crop="enlarge", patch_p=0.5),
        "flip_crop_erase": Augment(recipe.input_hw, crop="enlarge", erase_p=0.5),
        "flip_jitter": Augment(recipe.input_hw, brightness=0.2, contrast=0.15),
    }[recipe.augment]
    return lambda pictures, generator: chosen(pictures, generator).pictures


RECIPE, TASK = OSNetRecipe, OSNetTask
