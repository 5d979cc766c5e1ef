"""MagnifierNet: a global, a semantic adversarial and a semantic fusion branch on one ResNet-50.

S. Lan, Y. Liu, X. Zhou, M. Tian, X. Zhang, S. Yi, H. Li, BMVC 2020. A person's picture in, 4096 values out. The global branch sees
everything. The adversarial branch (SAB) learns from maps of which some body parts were wiped, the same ones for a whole batch, so
that no part is relied on alone. The fusion branch (SFB) pools each part by itself and reads the eight vectors in turn with a GRU.
Part labels are needed for training only: a small mask head learns to predict them. In a second stage the semantic diversity (SD)
loss turns the parts' vectors away from each other.

docs/methods/magnifiernet.md says where the paper and its authors' code differ, and which is followed.
"""

import logging
from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet50_Weights

from trainer.augment import UNLABELLED, Augment, normalise
from trainer.blocks import BNNeck, classifier
from trainer.data import Crops
from trainer.losses import batch_hard_triplet, smoothed_cross_entropy
from trainer.resnet_ibn import ResNetTrunk
from trainer.sampler import PKSampler
from trainer.schedules import strong_baseline
from trainer.settings import Count, Recipe, Side, Weight
from trainer.task import Task
from trainer.weights import Matched, pretrained

PAPER = (
    "S. Lan, Y. Liu, X. Zhou, M. Tian, X. Zhang, S. Yi, H. Li, MagnifierNet: Towards Semantic Adversary and Fusion for "
    "Person Re-identification, BMVC 2020"
)
LOSSES = ("global_id", "global_triplet", "sab_id", "sab_triplet", "sfb_id", "sfb_triplet", "regions", "mask", "sd")

REGIONS = 8
"""0 background, 1 head, 2 torso, 3 upper arm, 4 lower arm, 5 upper leg, 6 lower leg, 7 foot."""
UPPER, LOWER = (1, 2, 3, 4), (5, 6, 7)
FIRST, SECOND = zip(*combinations(range(REGIONS), 2), strict=True)
"""The 28 pairs of regions."""
DEEP, SHALLOW = 2048, 1024
"""Channels of the trunk's last map and of the one before, from which SAB and SFB start."""
LABEL_STRIDE = 8
"""Labels and predicted masks have an eighth of the picture's sides, the trunk's maps a sixteenth."""
PAPER_STAGE2_RATE = 1e-3
"""Section 4.1."""

log = logging.getLogger(__name__)


class MagnifierNetRecipe(Recipe):
    """How MagnifierNet is built and trained; the defaults are the paper's full model and its 500 epochs."""

    method: Literal["magnifiernet"] = "magnifiernet"
    input_hw: tuple[Side, Side] = (384, 192)
    weights: str = "imagenet"
    epochs: Count = 500
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3.5e-4
    milestones: tuple[int, ...] = (40, 70)
    """Epochs, counted from 1, from which on the rate is a tenth of what it was. The authors' files for CUHK03 have 40 alone."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 5e-4
    batch_people: Annotated[int, Field(ge=2)] = 16
    batch_pictures: Annotated[int, Field(ge=2)] = 4
    mask: bool = True
    """The mask head and its loss."""
    mask_weight: Weight = 2.0
    """Lambda of Eq. 4."""
    mask_resize: Literal["bilinear", "nearest"] = "bilinear"
    """How the regions' masks come to the maps' size: soft at the borders (section 3.1), or every second label (the code)."""
    sab: bool = True
    """The semantic adversarial branch."""
    sab_strategy: Literal["random_torso", "random_baseline"] = "random_torso"
    """What is wiped: drawn from upper and lower body apart, or from the whole body. Never the background."""
    khat: Annotated[int, Field(ge=1, le=7)] = 4
    """How many of the seven body regions are kept; `random_torso` keeps half of them above and half below: 2, 4 or 6."""
    sab_triplet: bool = True
    """Eq. 4 has a triplet on every branch; the code gives SAB none."""
    sfb: Literal["gru", "lstm", "ab", "none"] = "gru"
    """The semantic fusion branch: what reads the regions' vectors. ``lstm``: as the code; ``ab``: section 4.4's ablation branch,
    a 1x1 convolution per region and their outputs side by side."""
    region_weight: Weight = 0.0125
    """Of the cross-entropy on each region's own vector."""
    use_beta: bool = True
    """The code weighs SAB and the regions by the sigmoid of their share of the pixels; Eq. 4 does not."""
    sd: bool = True
    """The second stage with the semantic diversity loss."""
    sd_weight: Weight = 2e-3
    """Gamma of Eq. 4. The authors' files: 0.01 for Market-1501 and CUHK03 labeled, 0.001 for detected."""
    stage2_from: Annotated[int, Field(ge=0)] = 460
    """First epoch, counted from 0, of the second stage."""
    stage2_lr: Literal["paper", "code"] | Annotated[float, Field(gt=0, lt=1)] = "paper"
    """Rate of the second stage, constant: ``paper`` 1e-3, ``code`` what the first stage ended with, or a number."""
    classifier_bias: bool = False
    """The code's classifiers have one."""
    sb_stem: bool = False
    """The code's stem lacks the ReLU behind its first norm."""

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.sab_strategy == "random_torso" and self.khat not in (2, 4, 6):
            raise ValueError(
                f"khat = {self.khat}: random_torso keeps as many regions above as below, expected 2, 4 or 6"
            )
        if self.sfb != "none" and not self.mask:
            raise ValueError(
                f'sfb = "{self.sfb}" needs mask = true: in test nothing else tells it where the regions are'
            )
        if self.sd and self.sfb == "none":
            raise ValueError(
                'sd = true needs the regions\' vectors of the fusion branch, got sfb = "none": set sd = false'
            )
        return self


_GLOBAL: dict[str, object] = {"mask": False, "sab": False, "sfb": "none", "sd": False}
ABLATIONS: Mapping[str, Mapping[str, object]] = {
    "G": _GLOBAL,
    "G + M": _GLOBAL | {"mask": True},
    "G + M + SAB": _GLOBAL | {"mask": True, "sab": True},
    "G + M + SFB": _GLOBAL | {"mask": True, "sfb": "gru"},
    "G + M + SAB + SFB": {"sd": False},
    "MagnifierNet": {},
    "AB in place of SFB": {"sd": False, "sfb": "ab"},
    **{f"random_torso, khat {k}": {"sd": False, "khat": k} for k in (2, 4, 6)},
    **{
        f"random_baseline, khat {k}": {"sd": False, "sab_strategy": "random_baseline", "khat": k} for k in range(1, 8)
    },
    "as the authors' code": {
        "sfb": "lstm", "classifier_bias": True, "sb_stem": True, "mask_resize": "nearest", "sab_triplet": False,
        "stage2_lr": "code",
    },
}  # fmt: skip
"""Table 2, figure 4, figure 5, and the code where it differs from the text."""


class MaskHead(nn.Module):
    """Which region each pixel belongs to (section 3.1; H. Huang et al., EANet, 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(DEEP, 256, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.bn = nn.BatchNorm2d(256)
        self.conv = nn.Conv2d(256, REGIONS, 1)
        nn.init.normal_(self.deconv.weight, std=0.001)
        nn.init.normal_(self.conv.weight, std=0.001)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, deep: Tensor) -> Tensor:
        """(B, 2048, h, w) -> logits (B, 8, 2h, 2w)."""
        out: Tensor = self.conv(torch.relu(self.bn(self.deconv(deep))))
        return out


def region_masks(ids: Tensor, resize: str) -> Tensor:
    """Labels (B, 2h, 2w) int64 in 0..7 -> masks (B, 8, h, w) float32 that sum to 1 at every pixel; `UNLABELLED` is in none.

    ``bilinear``: the mean of 2x2 one-hot labels, which at half the size is what bilinear interpolation gives. ``nearest``: every
    second label.
    """
    regions = torch.arange(REGIONS, device=ids.device)[:, None, None]
    if resize == "nearest":
        return (ids[:, None, ::2, ::2] == regions).float()
    return F.avg_pool2d((ids[:, None] == regions).float(), 2)


def erased_regions(strategy: str, khat: int, generator: torch.Generator) -> list[int]:
    """The regions that are wiped from one batch, so that `khat` body regions are left; see `MagnifierNetRecipe.sab_strategy`."""

    def draw(regions: tuple[int, ...], kept: int) -> list[int]:
        order = torch.randperm(len(regions), generator=generator)[: len(regions) - kept]
        return [regions[place] for place in order.tolist()]

    if strategy == "random_torso":
        return draw(UPPER, khat // 2) + draw(LOWER, khat // 2)
    return draw(UPPER + LOWER, khat)


def kept_share(masks: Tensor, erased: list[int]) -> Tensor:
    """Masks (B, 8, h, w) and wiped regions -> what is left of each pixel (B, 1, h, w) in [0, 1]; all of it where no label is."""
    return 1 - masks[:, erased].sum(1, keepdim=True)


class AdversarialBranch(nn.Module):
    """SAB, section 3.2: what is left of the map once some regions are wiped, pooled by maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(SHALLOW, SHALLOW // 4)
        self.reduce = nn.Linear(SHALLOW, SHALLOW, bias=False)
        self.neck = BNNeck(SHALLOW)

    def forward(self, shallow: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, 1024, h, w) and the kept share of each pixel (B, 1, h, w), None: everything -> (B, 1024) before the norm."""
        x = self.bottleneck(shallow)
        if keep is not None:
            x = x * keep
        out: Tensor = self.reduce(_maximum(x))
        return out


class FusionBranch(nn.Module):
    """SFB, section 3.3: every region's maximum by itself, then one vector of the eight.

    `width` is the size of a region's vector as its own classifier sees it.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(SHALLOW, SHALLOW // 4)
        self.recurrent: nn.GRU | nn.LSTM | None = None
        if kind == "ab":
            self.width = SHALLOW // REGIONS
            self.reduce = nn.ModuleList(nn.Linear(SHALLOW, self.width, bias=False) for _ in range(REGIONS))
        else:
            self.width = SHALLOW
            self.recurrent = (nn.LSTM if kind == "lstm" else nn.GRU)(SHALLOW, SHALLOW, batch_first=True)
        self.neck = BNNeck(SHALLOW)

    def pool(self, shallow: Tensor, masks: Tensor) -> Tensor:
        """(B, 1024, h, w) and (B, 8, h, w) -> (B, 8, 1024) float32, not negative; 0 for a region that is not there."""
        y = self.bottleneck(shallow)
        pooled = [_maximum(y * masks[:, k : k + 1]) for k in range(REGIONS)]
        return torch.stack(pooled, 1).float()

    def fuse(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 8, 1024) -> the fused vector (B, 1024) before its norm, and the regions' own (B, 8, width)."""
        if self.recurrent is None:
            own = torch.stack([reduce(regions[:, k]) for k, reduce in enumerate(self.reduce)], 1)
            return own.flatten(1), own
        output, _ = self.recurrent(regions)
        return output[:, -1], regions


class MagnifierNet(nn.Module):
    """Normalised picture (B, 3, H, W) -> (B, D), the branches' vectors behind their norms, side by side, not of unit length.

    D is 2048, and 1024 more with SAB and with SFB each.
    """

    def __init__(self, recipe: MagnifierNetRecipe) -> None:
        super().__init__()
        self.mask_resize = recipe.mask_resize
        self.trunk = ResNetTrunk("resnet50")
        if recipe.sb_stem:
            self.trunk.relu = nn.Identity()
        self.neck = BNNeck(DEEP)
        self.mask = MaskHead() if recipe.mask else None
        self.sab = AdversarialBranch() if recipe.sab else None
        self.sfb = FusionBranch(recipe.sfb) if recipe.sfb != "none" else None

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> (B, 1024, H/16, W/16), from which SAB and SFB start, and (B, 2048, H/16, W/16)."""
        _, _, shallow, deep = self.trunk(x)
        return shallow, deep

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, D); `ids` (B, H/8, W/8) int64 stand in for the regions that the mask head would find."""
        shallow, deep = self.maps(x)
        vectors = [self.neck(_mean(deep))]
        if self.sab is not None:
            vectors.append(self.sab.neck(self.sab(shallow)))
        if self.sfb is not None and self.mask is not None:
            if ids is None:
                ids = self.mask(deep).argmax(1)
            fused, _ = self.sfb.fuse(self.sfb.pool(shallow, region_masks(ids, self.mask_resize)))
            vectors.append(self.sfb.neck(fused))
        return torch.cat(vectors, 1)


class MagnifierHead(nn.Module):
    """What only training needs: a classifier per branch and, for SFB, a norm and a classifier per region."""

    def __init__(self, recipe: MagnifierNetRecipe, network: MagnifierNet, classes: int) -> None:
        super().__init__()
        bias = recipe.classifier_bias
        self.whole = classifier(DEEP, classes, bias=bias)
        self.sab = classifier(SHALLOW, classes, bias=bias) if network.sab is not None else None
        self.sfb = classifier(SHALLOW, classes, bias=bias) if network.sfb is not None else None
        width, count = (network.sfb.width, REGIONS) if network.sfb is not None else (0, 0)
        self.region_necks = nn.ModuleList(BNNeck(width) for _ in range(count))
        self.regions = nn.ModuleList(classifier(width, classes, bias=bias) for _ in range(count))

    def region_logits(self, own: Tensor) -> list[Tensor]:
        """(B, 8, width) -> eight times (B, classes)."""
        pairs = zip(self.region_necks, self.regions, strict=True)
        return [classify(neck(own[:, k])) for k, (neck, classify) in enumerate(pairs)]


def mask_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of (B, 8, h, w) against labels (B, h, w), mean per region first, then over the regions that occur (EANet).

    `UNLABELLED` pixels count for nothing; without any other the loss is 0.
    """
    entropy = F.cross_entropy(logits.float(), ids, reduction="none", ignore_index=UNLABELLED)
    regions = torch.arange(REGIONS, device=ids.device)[:, None, None]
    where = (ids[:, None] == regions).float()  # (B, 8, h, w)
    count = where.sum((0, 2, 3))
    mean = (where * entropy[:, None]).sum((0, 2, 3)) / count.clamp_min(1)
    return mean.sum() / (count > 0).sum().clamp_min(1)


def semantic_diversity(regions: Tensor, eps: float = 1e-6) -> Tensor:
    """SD loss, Eq. 3 with i < j: mean cosine between the vectors of a picture's regions, (B, K, D) -> scalar.

    A pair with an empty region has cosine 0 and no gradient, and stays in the count.
    """
    first, second = torch.triu_indices(regions.shape[1], regions.shape[1], 1, device=regions.device)
    x = regions.float()
    norm = torch.linalg.vector_norm(x, dim=2)
    length = norm[:, first] * norm[:, second]  # (B, pairs)
    cosine = (x[:, first] * x[:, second]).sum(2) / length.clamp_min(eps)
    return torch.where(length > 0, cosine, 0.0).mean()


def _mean(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C) float32."""
    return maps.float().mean((2, 3))


def _maximum(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C); `max` keeps only places for its gradient, where `amax` would keep every wiped map."""
    return maps.flatten(2).max(2).values


def build(recipe: MagnifierNetRecipe, classes: int) -> tuple[MagnifierNet, MagnifierHead]:
    """Network and training head with random weights; `classes` is the number of people."""
    network = MagnifierNet(recipe)
    return network, MagnifierHead(recipe, network, classes)


def embedder(recipe: MagnifierNetRecipe) -> MagnifierNet:
    """The network alone, as it is exported and evaluated."""
    return MagnifierNet(recipe)


class MagnifierNetTask(Task):
    """Training in two stages: everything but the SD loss, then everything, with the same optimiser (sections 3.4 and 4.1).

    Where a picture has no part labels there is no mask loss, nothing is wiped, and the regions are the mask head's own.
    """

    recipe: MagnifierNetRecipe
    network: MagnifierNet
    head: MagnifierHead

    def __init__(self, recipe: MagnifierNetRecipe, data: Crops) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        people, self._labels = np.unique(data.people, return_inverse=True)
        self._images = data.images
        self._parts = data.parts if recipe.mask or recipe.sab else None
        self.network, self.head = build(recipe, len(people))
        self.sampler = PKSampler(self._labels, recipe.batch_people, recipe.batch_pictures, recipe.seed)
        self._augment = Augment(recipe.input_hw, crop="pad", erase_p=0.5)
        self._sd_weight = 0.0
        if data.parts is None and (recipe.mask or recipe.sab):
            log.warning(
                "no picture of %s has part labels: the mask head learns nothing and nothing is wiped; "
                "`sightline data annotate` makes labels",
                recipe.data,
            )

    def fill(self, weights: str) -> Matched:
        """See `Task`."""
        return pretrained(weights, self.network.trunk, imagenet=ResNet50_Weights.IMAGENET1K_V1)

    def optimiser(self) -> torch.optim.Optimizer:
        """Adam over all that is learned, biases and norms too (reid-strong-baseline)."""
        parameters = [p for part in (self.network, self.head) for p in part.parameters() if p.requires_grad]
        return torch.optim.Adam(
            parameters, lr=self.recipe.learning_rate, weight_decay=self.recipe.weight_decay, fused=True
        )

    def learning_rate(self, epoch: int, fraction: float) -> float:
        """Strong baseline's, stepped once per epoch; constant in the second stage."""
        recipe = self.recipe
        second = recipe.sd and epoch >= recipe.stage2_from
        if second and recipe.stage2_lr == "paper":
            return PAPER_STAGE2_RATE
        if second and not isinstance(recipe.stage2_lr, str):
            return recipe.stage2_lr
        # the code steps its schedule when an epoch starts, so its epoch 0 is never trained; its second stage stays at the last rate
        counted = min(epoch, recipe.stage2_from) + 1 if recipe.sd else epoch + 1
        return strong_baseline(recipe.learning_rate, counted, recipe.milestones)

    def begin_epoch(self, epoch: int) -> None:
        """The SD loss joins in the second stage."""
        self._sd_weight = self.recipe.sd_weight if self.recipe.sd and epoch >= self.recipe.stage2_from else 0.0

    def losses(self, rows: Tensor, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
        """See `Task`; the terms are some of `LOSSES`."""
        chosen = rows.numpy()
        pictures = torch.from_numpy(self._images[chosen]).to(device)
        parts = None if self._parts is None else torch.from_numpy(self._parts[chosen]).to(device)
        batch = self._augment(pictures, generator, parts=parts)
        people = torch.from_numpy(self._labels[chosen]).to(device)
        if batch.parts is None:
            height, width = self.recipe.input_hw
            ids = people.new_full((len(chosen), height // LABEL_STRIDE, width // LABEL_STRIDE), UNLABELLED)
        else:
            ids = batch.parts[:, ::LABEL_STRIDE, ::LABEL_STRIDE].long()
        erased = erased_regions(self.recipe.sab_strategy, self.recipe.khat, generator)
        x = normalise(batch.pictures).contiguous(memory_format=torch.channels_last)
        return self.branch_losses(x, people, ids, erased)

    def branch_losses(self, x: Tensor, people: Tensor, ids: Tensor, erased: list[int]) -> dict[str, Tensor]:
        """The terms of one batch.

        `x` (B, 3, H, W) normalised, `people` (B,) class numbers, `ids` (B, H/8, W/8) int64 labels in 0..7 or `UNLABELLED`,
        `erased` the regions that SAB does not get to see.
        """
        recipe, network, head = self.recipe, self.network, self.head
        shallow, deep = network.maps(x)
        terms: dict[str, Tensor] = {}

        feature = _mean(deep)
        terms["global_id"] = smoothed_cross_entropy(head.whole(network.neck(feature)), people)
        terms["global_triplet"] = batch_hard_triplet(feature, people)

        known = ids
        if network.mask is not None:
            logits = network.mask(deep)
            terms["mask"] = recipe.mask_weight * mask_loss(logits, ids)
            known = torch.where(ids == UNLABELLED, logits.detach().argmax(1), ids)

        if network.sab is not None and head.sab is not None:
            keep = kept_share(region_masks(ids, recipe.mask_resize), erased)
            weight = keep.mean().sigmoid() if recipe.use_beta else 1.0
            feature = network.sab(shallow, keep)
            terms["sab_id"] = weight * smoothed_cross_entropy(head.sab(network.sab.neck(feature)), people)
            if recipe.sab_triplet:
                terms["sab_triplet"] = weight * batch_hard_triplet(feature, people)

        if network.sfb is not None and head.sfb is not None:
            masks = region_masks(known, recipe.mask_resize)
            regions = network.sfb.pool(shallow, masks)
            with torch.autocast(x.device.type, enabled=False):  # eight small steps; not every device has them in bf16
                feature, own = network.sfb.fuse(regions)
            terms["sfb_id"] = smoothed_cross_entropy(head.sfb(network.sfb.neck(feature)), people)
            terms["sfb_triplet"] = batch_hard_triplet(feature, people)
            each = torch.stack([smoothed_cross_entropy(logits, people) for logits in head.region_logits(own)])
            betas = masks.mean((0, 2, 3)).sigmoid() if recipe.use_beta else torch.ones_like(each)
            terms["regions"] = recipe.region_weight * (betas * each).sum()
            if self._sd_weight:
                terms["sd"] = self._sd_weight * semantic_diversity(regions)
        return terms


RECIPE, TASK = MagnifierNetRecipe, MagnifierNetTask
