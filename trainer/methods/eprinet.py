"""EPRI-Net: EfficientNet-B0 with a pixel-level feature pyramid and position attention.

J. Lin, S. Zhang, J. Chen, X. Wu, Q. Zhou, "Efficient Person Re-Identification with Multi-Scale Feature Fusion". A normalised
picture in, 1280 values out. Three stages of the backbone whose maps are of one size (a sixteenth of the sides) feed a pyramid of
1x1 convolutions; what comes out of it multiplies the backbone's last map, pixel by pixel, instead of standing beside it. Light:
7,414,109 parameters with the classifiers of 751 people.

The paper leaves widths, placements and one formula open. Each choice here is the one that satisfies its text and meets the five
parameter counts of its Table II; docs/methods/eprinet.md gives the reasons.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.models import EfficientNet_B0_Weights, efficientnet_b0

from trainer.augment import Augment, normalise
from trainer.blocks import BNNeck
from trainer.data import Crops
from trainer.losses import batch_hard_triplet, smoothed_cross_entropy
from trainer.sampler import PKSampler
from trainer.schedules import warm_steps
from trainer.settings import Count, Recipe, Side, Weight
from trainer.task import Task
from trainer.weights import Matched, pretrained

PAPER = "J. Lin, S. Zhang, J. Chen, X. Wu, Q. Zhou, Efficient Person Re-Identification with Multi-Scale Feature Fusion"
LOSSES = ("ce_b", "ce_s", "triplet")

STAGE_CHANNELS = (32, 16, 24, 40, 80, 112, 192, 320, 1280)
"""What EfficientNet-B0's nine stages put out; 4 to 8 at a sixteenth of the picture's sides."""
FEATURES = STAGE_CHANNELS[-1]
PYRAMID = 320
"""Channels everywhere in the pixel-level pyramid."""
FPB_WIDTH = 192
PAM_STAGE = {"literal": 4, "danet": 5, "fpb": 5}
"""After which stage the attention stands: the one whose width gives the paper's 4.99 M and 7.41 M."""


class EPRINetRecipe(Recipe):
    """How EPRI-Net is built and trained; the defaults are the paper's full model and its schedule for Market-1501."""

    method: Literal["eprinet"] = "eprinet"
    input_hw: tuple[Side, Side] = (384, 192)
    weights: str = "imagenet"
    epochs: Count = 120
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3.5e-5
    """The peak, after the warm-up. The paper prints this value; `ABLATIONS["EPRI-Net, fpb_lr"]` has one ten times larger."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    """The rate rises from a tenth of the peak in the first epoch to the peak in the last of these."""
    milestones: tuple[int, ...] = (60, 90)
    """Epochs from which on the rate is a tenth of what it was."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 1.625e-4
    batch_people: Annotated[int, Field(ge=2)] = 16
    batch_pictures: Annotated[int, Field(ge=2)] = 4
    triplet_epochs: Annotated[int, Field(ge=0)] = 10
    """So many epochs know the triplet loss alone."""
    alpha: Weight = 1.0
    """Weight of the cross-entropy on the embedding."""
    beta: Weight = 1.0
    """Weight of the cross-entropy on the branch's feature; without a branch there is none."""
    triplet_weight: Weight | None = None
    """Lambda of Eq. 1; None: 6.375 with a branch, 1 without one."""
    branch: Literal["pfpb", "fpb", "none"] = "pfpb"
    taps: tuple[int, int, int] = (4, 5, 6)
    """Stages the branch looks at, shallow to deep; `fpb` takes the first two."""
    pam: Literal["literal", "danet", "fpb", "off"] = "literal"
    fuse: Literal["mul", "mul_sigmoid", "one_plus"] = "mul"
    """Backbone map F times g: F g, F sigmoid(g), F (1 + g)."""
    fp_source: Literal["G", "P"] = "G"
    """The branch's feature is pooled from the multiplier G (1280 channels) or from the pyramid's map P (320)."""
    ce_b_input: Literal["M", "F_b"] = "M"
    """`alpha`'s cross-entropy judges the product M or the backbone's own map."""
    tri_input: Literal["concat", "product"] = "concat"
    """The triplet compares both unit vectors side by side, or the unit vector of their product."""
    concat: bool = False
    """The embedding is both unit vectors side by side; with `branch = "fpb"`, which multiplies nothing, it always is."""
    stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of training steps that pass over the last residual block, less for earlier ones; torchvision's own is 0.2."""

    @model_validator(mode="after")
    def _options_fit_the_branch(self) -> Self:
        if not 4 <= self.taps[0] < self.taps[1] < self.taps[2] <= 7:
            raise ValueError(f"taps = {self.taps}: expected three rising stages of 4 to 7, whose maps are of one size")
        for key, plain in (("fuse", "mul"), ("fp_source", "G"), ("ce_b_input", "M"), ("tri_input", "concat")):
            if self.branch != "pfpb" and getattr(self, key) != plain:
                raise ValueError(f'{key} = "{getattr(self, key)}" needs branch = "pfpb", got "{self.branch}"')
        if self.branch == "none" and self.concat:
            raise ValueError('concat needs a branch whose feature it can add, got branch = "none"')
        if self.tri_input == "product" and self.fp_source == "P":
            raise ValueError('tri_input = "product" multiplies 1280 values with 1280: fp_source = "P" gives 320')
        if self.triplet_weight == 0 and (self.triplet_epochs or not self.alpha):
            raise ValueError("triplet_weight = 0 leaves no loss: it needs triplet_epochs = 0 and an alpha above 0")
        return self


ABLATIONS: Mapping[str, Mapping[str, object]] = {
    "baseline": {"branch": "none", "pam": "off"},
    "baseline + FPB": {"branch": "fpb", "pam": "off"},
    "baseline + PFPB": {"branch": "pfpb", "pam": "off"},
    "baseline + PAM": {"branch": "none", "pam": "literal"},
    "EPRI-Net": {},
    "EPRI-Net, PAM as in DANet": {"pam": "danet"},
    "EPRI-Net, PAM as in FPB": {"pam": "fpb"},
    "EPRI-Net, fpb_lr": {"learning_rate": 3.5e-4},
}
"""Table II, then what the paper leaves open: the other two forms of attention, and the rate of the code it extends."""


class PositionAttention(nn.Module):
    """Every pixel adds what the pixels like it hold: x + gamma * v S^T, S the softmax of q^T k over all pixels.

    Section III.C, with the sum and the learned gamma (0 at first) of DANet (J. Fu et al., CVPR 2019), which it builds on. `literal`:
    q, k and v are convolution, norm, ReLU at full width, as the text says. `danet`: plain convolutions, q and k an eighth as wide.
    `fpb`: as `danet`, and what is added is normed (S. Zhang et al., FPB, 2021).
    """

    def __init__(self, channels: int, form: str) -> None:
        super().__init__()
        self.query, self.key, self.value = (
            _conv_bn(channels, channels, nn.ReLU()) if form == "literal" else nn.Conv2d(channels, width, 1)
            for width in (channels // 8, channels // 8, channels)
        )
        self.norm = nn.BatchNorm2d(channels) if form == "fpb" else nn.Identity()
        self.gamma = nn.Parameter(torch.zeros(1))

    def attention(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, N) float32, N = H * W; each row sums to 1."""
        query, key = self.query(x).flatten(2), self.key(x).flatten(2)  # (B, C', N)
        return torch.softmax((query.transpose(1, 2) @ key).float(), -1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        value = self.value(x).flatten(2)  # (B, C, N)
        gathered = (value @ self.attention(x).to(value.dtype).transpose(1, 2)).view_as(x)
        out: Tensor = x + self.norm(self.gamma * gathered)
        return out


class PixelPyramid(nn.Module):
    """PFPB, section III.B: down through three levels and up again, 1x1 convolutions only, nothing is resampled.

    `lateral`, `residual`, `down` and `up` each hold one block per level; `down` and `up` together are the paper's six filters.
    """

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_conv_bn(c, PYRAMID, nn.SiLU()) for c in channels)
        self.down, self.up, self.residual = (
            nn.ModuleList(_conv_bn(PYRAMID, PYRAMID, nn.SiLU()) for _ in range(3)) for _ in range(3)
        )

    def forward(self, shallow: Tensor, middle: Tensor, deep: Tensor) -> Tensor:
        """Three maps (B, C, H, W), each of its own width -> (B, 320, H, W)."""
        lateral = [block(x) for block, x in zip(self.lateral, (shallow, middle, deep), strict=True)]
        top_deep = self.down[2](lateral[2])
        top_middle = self.down[1](lateral[1] + top_deep)
        top_shallow = self.down[0](lateral[0] + top_middle)
        up_shallow = self.up[0](top_shallow) + self.residual[0](lateral[0])
        up_middle = self.up[1](top_middle + up_shallow) + self.residual[1](lateral[1])
        out: Tensor = self.up[2](top_deep + up_middle) + self.residual[2](lateral[2])
        return out


class FeaturePyramid(nn.Module):
    """FPB (S. Zhang et al., 2021), the older branch that Table II compares with: two levels, 3x3 convolutions."""

    def __init__(self, channels: tuple[int, int]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_conv_bn(c, FPB_WIDTH, nn.SiLU()) for c in channels)
        self.down, self.up = (
            nn.ModuleList(_conv_bn(FPB_WIDTH, FPB_WIDTH, nn.SiLU(), kernel=3) for _ in range(2)) for _ in range(2)
        )
        self.residual = nn.ModuleList(_conv_bn(FPB_WIDTH, FPB_WIDTH, nn.SiLU()) for _ in range(2))

    def forward(self, shallow: Tensor, middle: Tensor) -> Tensor:
        """Two maps (B, C, H, W), each of its own width -> (B, 192, H, W)."""
        low, high = self.lateral[0](shallow), self.lateral[1](middle)
        top_middle = self.down[1](high)
        top_shallow = self.down[0](low + top_middle)
        up_shallow = self.up[0](top_shallow) + self.residual[0](low)
        out: Tensor = self.up[1](top_middle + up_shallow) + self.residual[1](high)
        return out


class Views(NamedTuple):
    """What the losses look at."""

    pooled: Tensor
    """f_g (B, 1280): the mean over the fused map."""
    necked: Tensor
    """f_b (B, 1280): `pooled` (or the backbone's own mean) after the norm."""
    branch: Tensor | None
    """f_p (B, 1280, 320 or 192): the branch's mean; None without a branch."""


class EPRINet(nn.Module):
    """Normalised picture (B, 3, H, W), sides of multiples of 16 -> vector (B, D) that is not yet of unit length.

    `features` is named as torchvision names it, so its weights fit; only the stride of stage 6 differs, which has no weights.
    """

    def __init__(self, recipe: EPRINetRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.features: nn.Sequential = efficientnet_b0(stochastic_depth_prob=recipe.stochastic_depth).features
        depthwise = self.features[6][0].block[1][0]
        depthwise.stride = (1, 1)
        # torchvision counts all channels as a depthwise layer's fan; its maps then have a variance near 1/C, which running statistics
        # that begin at 1 take a hundred steps to reach, while every picture gets the same vector in eval mode
        for layer in self.features.modules():
            if isinstance(layer, nn.Conv2d) and layer.groups > 1:
                nn.init.normal_(layer.weight, std=(2 / layer.weight[0].numel()) ** 0.5)
        shallow, middle, deep = (STAGE_CHANNELS[stage] for stage in recipe.taps)
        self.branch: nn.Module | None = None
        if recipe.branch == "pfpb":
            self.branch = PixelPyramid((shallow, middle, deep))
            self.expand = nn.Conv2d(PYRAMID, FEATURES, 1, bias=False)  # G; with a norm Table II's 7.39 would be 7.40
        elif recipe.branch == "fpb":
            self.branch = FeaturePyramid((shallow, middle))
        self.pam: nn.Module | None = None
        if recipe.pam != "off":
            self.pam = PositionAttention(STAGE_CHANNELS[PAM_STAGE[recipe.pam]], recipe.pam)
        self.neck = BNNeck(FEATURES)  # not in the paper
        for name, part in self.named_children():
            if name != "features":
                part.apply(_initialise)

    def views(self, x: Tensor) -> Views:
        """(B, 3, H, W) -> what the losses look at."""
        recipe = self.recipe
        taps = []
        for stage, block in enumerate(self.features):
            x = block(x)
            if self.pam is not None and stage == PAM_STAGE[recipe.pam]:
                x = self.pam(x)
            if stage in recipe.taps:
                taps.append(x)  # (B, C, H / 16, W / 16)
        if self.branch is None:
            pooled = _pool(x)
            return Views(pooled, self.neck(pooled), None)
        if recipe.branch == "fpb":
            pooled = _pool(x)
            return Views(pooled, self.neck(pooled), _pool(self.branch(*taps[:2])))
        pyramid = self.branch(*taps)  # P (B, 320, H / 16, W / 16)
        multiplier = self.expand(pyramid)  # G (B, 1280, H / 16, W / 16)
        pooled = _pool(_fuse(x, multiplier, recipe.fuse))
        judged = pooled if recipe.ce_b_input == "M" else _pool(x)
        return Views(pooled, self.neck(judged), _pool(multiplier if recipe.fp_source == "G" else pyramid))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, `embedding_size`)."""
        views = self.views(x)
        product = views.necked if self.recipe.ce_b_input == "M" else views.pooled  # else the norm has not seen it
        if views.branch is None or not (self.recipe.concat or self.recipe.branch == "fpb"):
            return product
        return torch.cat([F.normalize(product), F.normalize(views.branch)], 1)


class Classifiers(nn.Module):
    """Who it is, by the embedding (`cb`) and by the branch's feature (`cs`, if there is a branch)."""

    def __init__(self, recipe: EPRINetRecipe, classes: int) -> None:
        super().__init__()
        self.cb = nn.Linear(FEATURES, classes, bias=False)
        width = {"none": 0, "fpb": FPB_WIDTH, "pfpb": FEATURES if recipe.fp_source == "G" else PYRAMID}[recipe.branch]
        self.cs = nn.Linear(width, classes, bias=False) if width else None
        self.apply(_initialise)


def build(recipe: EPRINetRecipe, classes: int) -> tuple[EPRINet, Classifiers]:
    """Network and training head, random weights."""
    return EPRINet(recipe), Classifiers(recipe, classes)


class EPRINetTask(Task):
    """Eq. 1: alpha * CE(f_b) + beta * CE(f_p) + lambda * triplet(f_g, f_p), for the first epochs the triplet alone.

    While they are left out the cross-entropies are not in the graph at all: a gradient of zero instead of none would let Adam's
    weight decay wear the classifiers and the neck away before they have learnt anything.
    """

    recipe: EPRINetRecipe
    network: EPRINet
    head: Classifiers

    def __init__(self, recipe: EPRINetRecipe, data: Crops) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        people, self._labels = np.unique(data.people, return_inverse=True)
        self._images = data.images
        self.network, self.head = build(recipe, len(people))
        self.sampler = PKSampler(self._labels, recipe.batch_people, recipe.batch_pictures, recipe.seed)
        self._augment = Augment(recipe.input_hw, crop="enlarge", patch_p=0.5, erase_p=0.5)
        self._with_entropies = False
        default = 1.0 if recipe.branch == "none" else 6.375
        self._triplet_weight = default if recipe.triplet_weight is None else recipe.triplet_weight

    def begin_epoch(self, epoch: int) -> None:
        """The cross-entropies join."""
        self._with_entropies = epoch >= self.recipe.triplet_epochs

    def fill(self, weights: str) -> Matched:
        """See `Task`."""
        return pretrained(weights, self.network, imagenet=EfficientNet_B0_Weights.IMAGENET1K_V1)

    def optimiser(self) -> torch.optim.Optimizer:
        """Adam with its own, coupled decay."""
        parameters = [*self.network.parameters(), *self.head.parameters()]
        return torch.optim.Adam(
            [p for p in parameters if p.requires_grad],
            lr=self.recipe.learning_rate,
            betas=(0.9, 0.999),
            weight_decay=self.recipe.weight_decay,
            fused=True,
        )

    def learning_rate(self, epoch: int, fraction: float) -> float:
        """One rate per epoch: a linear rise from a tenth, then steps."""
        recipe = self.recipe
        last = max(0, recipe.warmup_epochs - 1)
        return warm_steps(recipe.learning_rate, epoch, warmup=last, start=0.1, milestones=recipe.milestones)

    def losses(self, rows: Tensor, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
        """See `trainer.task.Task`."""
        chosen = rows.numpy()
        pictures = self._augment(torch.from_numpy(self._images[chosen]).to(device), generator).pictures
        labels = torch.from_numpy(self._labels[chosen]).to(device)
        views = self.network.views(normalise(pictures).contiguous(memory_format=torch.channels_last))
        terms: dict[str, Tensor] = {}
        if self._with_entropies and self.recipe.alpha:
            terms["ce_b"] = self.recipe.alpha * smoothed_cross_entropy(self.head.cb(views.necked), labels)
        if self._with_entropies and self.recipe.beta and self.head.cs is not None:
            terms["ce_s"] = self.recipe.beta * smoothed_cross_entropy(self.head.cs(views.branch), labels)
        if self._triplet_weight:
            terms["triplet"] = self._triplet_weight * batch_hard_triplet(self._compared(views), labels)
        return terms

    def _compared(self, views: Views) -> Tensor:
        """What the triplet measures distances of; `concat` has two unit vectors, so distances reach twice the square root of 2."""
        if views.branch is None:
            return F.normalize(views.pooled)
        if self.recipe.tri_input == "product":  # of unit length again: two unit vectors' product is about 0.03 long
            return F.normalize(views.pooled * views.branch)
        return torch.cat([F.normalize(views.pooled), F.normalize(views.branch)], 1)


def embedder(recipe: EPRINetRecipe) -> nn.Module:
    """The inference network alone: (B, 3, H, W) -> (B, D)."""
    return EPRINet(recipe)


def _conv_bn(inputs: int, outputs: int, activation: nn.Module, *, kernel: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), activation)


def _pool(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C) float32."""
    return maps.float().mean((2, 3))


def _fuse(backbone: Tensor, multiplier: Tensor, how: str) -> Tensor:
    if how == "mul_sigmoid":
        return backbone * torch.sigmoid(multiplier)
    return backbone * (1 + multiplier) if how == "one_plus" else backbone * multiplier


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)


RECIPE, TASK = EPRINetRecipe, EPRINetTask
