"""MGRe: features of four depths, each from body regions of its own size (K. Yang, J. Yang, X. Tian, Learning multi-granularity
features from multi-granularity regions for person re-identification, Neurocomputing 432, 2021, 206-215).

A person's picture in, four 512-d vectors out, weighted and put side by side. The first three stages of a ResNet-50-IBN-a say
themselves, through a small regressor each, where four parts, two halves and the whole body are; a differentiable sampler cuts
these regions out of the same maps, and a residual block reads each. Joints of a pose model teach the regressors in training
and are not needed afterwards. 37,697,308 parameters without classifiers, 7.89 G multiply-accumulates at 256x128.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from stream.errors import DataError
from trainer.augment import Augment, normalise
from trainer.blocks import BNNeck, classifier
from trainer.data import F32, I64, Crops
from trainer.losses import batch_hard_triplet, smoothed_cross_entropy
from trainer.regions import REGIONS, Locator, Region, given_boxes, joint_boxes, location_loss, prior_boxes, sample
from trainer.resnet_ibn import CHANNELS, Backbone, ResNetTrunk
from trainer.sampler import PKSampler
from trainer.schedules import warm_steps
from trainer.settings import Count, Recipe, Share, Side, Weight
from trainer.task import Task
from trainer.weights import Matched

PAPER = (
    "K. Yang, J. Yang, X. Tian, Learning multi-granularity features from multi-granularity regions, Neurocomputing 2021"
)
LOSSES = ("identity", "triplet", "location")
ABLATIONS: Mapping[str, Mapping[str, object]] = {
    "baseline": {"stages": ()},
    "baseline+1": {"stages": (1,)},
    "baseline+2": {"stages": (2,)},
    "baseline+3": {"stages": (3,)},
    "baseline+2+3": {"stages": (2, 3)},
    "single-grained features": {"features": "last"},
    "single-grained regions": {"regions": "whole"},
    "baseline+joint optimisation": {"regions": "loss"},
    "without joint optimisation": {"regions": "joints"},
    "baseline, resnet101": {"stages": (), "backbone": "resnet101", "weights": "imagenet"},
    "baseline, resnet152": {"stages": (), "backbone": "resnet152", "weights": "imagenet"},
    "baseline, resnest101": {"stages": (), "backbone": "resnest101", "weights": "resnest101-22405ba7.pth"},
    "baseline, resnest200": {"stages": (), "backbone": "resnest200", "weights": "resnest200-75117900.pth"},
    "baseline, resnest269": {"stages": (), "backbone": "resnest269", "weights": "resnest269-0cc87c48.pth"},
    "1024 values": {"embed_dim": 1024},
    "4096 values": {"embed_dim": 4096},
    "whole image at stage 3": {"stage3_region": "image"},
    "without guidance": {"guidance": False},
    "located on raw maps": {"loc_input": "raw"},
    "boxes detached": {"detach_loc": True},
    "residual block at stage 4": {"fe4": True},
    "pools side by side": {"pool": "concat"},
}
"""Rows of the paper's tables 4, 5, 7, 8 and figure 5, then the choices that it leaves open."""


class MGReRecipe(Recipe):
    """The paper's recipe; what it does not state is the strong baseline's (H. Luo et al., Bag of Tricks, CVPRW 2019)."""

    method: Literal["mgre"] = "mgre"
    input_hw: tuple[Side, Side] = (256, 128)
    weights: str = "resnet50_ibn_a-d9d0bb7b.pth"
    """Of the trunk: the file of the IBN-Net authors' release (ResNeSt's too have one); plain trunks take torchvision's ``imagenet``;
    empty: from scratch."""
    epochs: Count = 240
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3.5e-4
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 5e-4
    warmup_epochs: Annotated[int, Field(ge=0)] = 10
    """Epochs over which the rate rises from a hundredth of itself."""
    milestones: tuple[Count, ...] = (120, 150, 180, 210)
    lr_gamma: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Factor of the rate at each milestone ("decayed by 0.3"; 0.7 is the other reading)."""
    batch_people: Annotated[int, Field(ge=2)] = 16
    batch_pictures: Annotated[int, Field(ge=2)] = 4
    flip_p: Share = 0.5
    erase_p: Share = 0.5
    pad_crop: bool = False
    """Ten black pixels around the picture, cut back at a random place."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    margin: Weight = 0.3
    """Of the batch-hard triplets."""
    lam: Weight = 1.0
    """Weight of the losses of stages 1 to 3 against those of stage 4 (the paper's lambda, not published)."""
    visible_score: Share = 0.3
    """A joint below this score is not seen: 0.3 for `sightline data annotate` and drawn people, 0.1 for EANet's files."""

    backbone: Backbone = "resnet50-ibn-a"
    stages: tuple[Literal[1, 2, 3], ...] = (1, 2, 3)
    """Those with regions; none: the baseline, a 2048-d vector of the last map alone."""
    regions: Literal["located", "joints", "whole", "loss"] = "located"
    """``joints``: boxes come from joints, in tests too. ``whole``: every stage takes its whole map. ``loss``: the baseline, whose maps
    are taught where regions are, but nothing is cut out of them."""
    features: Literal["multi", "last"] = "multi"
    """``last``: all regions are located on and cut out of the last map."""
    stage3_region: Literal["body", "image"] = "body"
    embed_dim: Annotated[int, Field(ge=4, multiple_of=4)] = 2048
    """Of the whole vector; each stage has a quarter of it."""
    stage_weights: tuple[Weight, Weight, Weight, Weight] = (0.35, 0.5, 0.7, 0.8)
    """Of the four unit vectors in the embedding (equation 6)."""
    guidance: bool = True
    """The last map, enlarged, is added to the first two."""
    fast_guidance: bool = False
    """Channels first, then size: the same sums with 1.4 G multiply-accumulates less at 256x128."""
    loc_input: Literal["guided", "raw"] = "guided"
    """Map on which regions are located; they are cut out of the guided one either way."""
    detach_loc: bool = False
    """Identity and triplet losses do not move the regions."""
    fe4: bool = False
    """A residual block behind the last map too."""
    pool: Literal["sum", "concat"] = "sum"
    """How a region's mean and maximum are put together."""

    @model_validator(mode="after")
    def _stages_rise(self) -> Self:
        if list(self.stages) != sorted(set(self.stages)):
            raise ValueError(f"stages are {self.stages}, expected some of 1, 2, 3 in this order")
        return self

    @property
    def is_baseline(self) -> bool:
        """Whether the embedding is that of the last map alone."""
        return not self.stages or self.regions == "loss"


def regions_of(recipe: MGReRecipe) -> dict[int, tuple[Region, ...]]:
    """The regions that a recipe cuts out or locates, by stage; stages that take their whole map have none."""
    cut: dict[int, tuple[Region, ...]] = {}
    if recipe.regions != "whole":
        cut = {stage: REGIONS[stage] for stage in recipe.stages}
    if recipe.stage3_region == "image":
        cut.pop(3, None)
    return cut


class Stage(nn.Module):
    """Map of one depth, cut into regions -> its vector (B, D), before the norm and behind it.

    A residual block for each region (section 3.1, feature extraction), mean plus maximum of each, side by side, one linear
    layer (figure 3). Without regions the whole map is the one there is.
    """

    def __init__(self, channels: int, regions: Sequence[Region], dim: int, *, extract: bool, concat: bool) -> None:
        super().__init__()
        self._regions, self._concat = tuple(regions), concat
        count = max(1, len(regions))
        self.extract = nn.ModuleList(Bottleneck(channels, channels // 4) for _ in range(count if extract else 0))
        self.embed = nn.Linear(channels * count * (2 if concat else 1), dim, bias=False)
        self.neck = BNNeck(dim)

    def forward(self, x: Tensor, boxes: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, channels, H, W) and (B, R, 4), or None where there are no regions, -> twice (B, D)."""
        parts = [x] if boxes is None else [sample(x, boxes[:, r], self._cells(r, x)) for r in range(len(self._regions))]
        if self.extract:
            parts = [block(part) for block, part in zip(self.extract, parts, strict=True)]
        pools = [(F.adaptive_avg_pool2d(part, 1), F.adaptive_max_pool2d(part, 1)) for part in parts]
        vectors = [torch.cat(pair, 1) if self._concat else pair[0] + pair[1] for pair in pools]
        pooled = self.embed(torch.cat(vectors, 1).flatten(1))
        return pooled, self.neck(pooled)

    def _cells(self, region: int, x: Tensor) -> tuple[int, int]:
        width, height = self._regions[region].size_wh
        return max(1, round(height * x.shape[2])), max(1, round(width * x.shape[3]))


@dataclass(frozen=True, slots=True)
class Described:
    """A batch of pictures in training, by stage."""

    maps: tuple[Tensor, ...]
    """C1 to C4, as they leave the trunk."""
    boxes: dict[int, Tensor]
    """(B, R, 4) located regions, as a `Locator` gives them."""
    pooled: dict[int, Tensor]
    """(B, D) before the norm: what triplets compare."""
    necked: dict[int, Tensor]
    """(B, D) behind it: what is classified, and what the embedding is made of."""


class MGRe(nn.Module):
    """Normalised picture (B, 3, H, W) -> (B, D): the weighted unit vectors of the stages side by side (equation 6).

    All embeddings have the same length. The baseline gives the vector of its one stage, of any length. `boxes` (B, 7, 4),
    regions in the order of `REGIONS`, are for recipes whose regions come from joints; the expected places stand in for none.
    """

    def __init__(self, recipe: MGReRecipe) -> None:
        super().__init__()
        self._recipe = recipe
        self._regions = {} if recipe.is_baseline else regions_of(recipe)
        self.trunk = ResNetTrunk(recipe.backbone)
        stages = () if recipe.is_baseline else recipe.stages
        channels: dict[int, int] = {stage: CHANNELS[3 if recipe.features == "last" else stage - 1] for stage in stages}
        guided = [stage for stage in stages if stage < 3 and recipe.guidance and recipe.features == "multi"]
        self.guides = nn.ModuleDict(
            {str(stage): nn.Conv2d(CHANNELS[3], channels[stage], 1, bias=False) for stage in guided}
        )
        located = self._regions if recipe.regions == "located" else {}
        self.locators = nn.ModuleDict(
            {str(stage): Locator(channels[stage], regions) for stage, regions in located.items()}
        )
        dim, concat = recipe.embed_dim // 4, recipe.pool == "concat"
        self.stages = nn.ModuleDict(
            {
                str(stage): Stage(channels[stage], self._regions.get(stage, ()), dim, extract=True, concat=concat)
                for stage in stages
            }
        )
        if recipe.is_baseline:
            self.neck = BNNeck(CHANNELS[3])
        else:
            self.stages["4"] = Stage(CHANNELS[3], (), dim, extract=recipe.fe4, concat=concat)
        self.dim = CHANNELS[3] if recipe.is_baseline else dim * len(self.stages)
        """Length of the embedding."""
        self.takes_joints = recipe.regions == "joints" and not recipe.is_baseline
        """Whether `forward` wants `boxes_of` joints."""

    def forward(self, x: Tensor, boxes: Tensor | None = None) -> Tensor:
        """See the class."""
        necked = self.describe(x, boxes).necked
        if self._recipe.is_baseline:
            return necked[4]
        weights = self._recipe.stage_weights
        return torch.cat([weights[stage - 1] * F.normalize(v.float(), eps=1e-12) for stage, v in necked.items()], 1)

    def boxes_of(self, joints: Tensor) -> Tensor:
        """Joints (B, 17, 3) as in `Crops.joints` -> the boxes (B, 7, 4) that `forward` takes."""
        return given_boxes(joints, self._recipe.visible_score)

    def describe(self, x: Tensor, boxes: Tensor | None = None) -> Described:
        """The same with everything that losses stand on."""
        maps = self.trunk(x)
        if self._recipe.is_baseline:
            vector = F.adaptive_avg_pool2d(maps[3], 1).flatten(1)
            return Described(maps, {}, {4: vector}, {4: self.neck(vector)})
        located: dict[int, Tensor] = {}
        pooled: dict[int, Tensor] = {}
        necked: dict[int, Tensor] = {}
        for name, module in self.stages.items():
            stage = int(name)
            raw = maps[3] if self._recipe.features == "last" else maps[stage - 1]
            source = self._guide(name, raw, maps[3])
            if name in self.locators:
                located[stage] = self.locators[name](raw if self._recipe.loc_input == "raw" else source)
            pooled[stage], necked[stage] = module(source, self._boxes(stage, located, boxes, x))
        return Described(maps, located, pooled, necked)

    def _guide(self, stage: str, fine: Tensor, coarse: Tensor) -> Tensor:
        """The last map, enlarged and brought to as many channels, is added to a fine one (figure 2)."""
        if stage not in self.guides:
            return fine
        size = fine.shape[-2:]
        if self._recipe.fast_guidance:
            return fine + F.interpolate(self.guides[stage](coarse), size, mode="bilinear", align_corners=False)
        out: Tensor = fine + self.guides[stage](F.interpolate(coarse, size, mode="bilinear", align_corners=False))
        return out

    def _boxes(self, stage: int, located: dict[int, Tensor], given: Tensor | None, x: Tensor) -> Tensor | None:
        """Where this stage's regions are, (B, R, 4); None: it takes its whole map."""
        if stage not in self._regions:
            return None
        if stage in located:
            return located[stage].detach() if self._recipe.detach_loc else located[stage]
        if given is None:
            return prior_boxes(self._regions[stage]).to(x.device).expand(x.shape[0], -1, -1)
        first = sum(len(regions) for number, regions in REGIONS.items() if number < stage)
        return given[:, first : first + len(self._regions[stage])]


class MGReHead(nn.Module):
    """What only training needs: a classifier for each stage, and the locators of a baseline that is taught where regions are."""

    def __init__(self, recipe: MGReRecipe, classes: int) -> None:
        super().__init__()
        features = {"4": CHANNELS[3]} if recipe.is_baseline else {}
        if not recipe.is_baseline:
            features = {str(stage): recipe.embed_dim // 4 for stage in (*recipe.stages, 4)}
        self.classifiers = nn.ModuleDict({stage: classifier(size, classes) for stage, size in features.items()})
        taught = regions_of(recipe) if recipe.regions == "loss" else {}
        self.locators = nn.ModuleDict(
            {str(stage): Locator(CHANNELS[stage - 1], regions) for stage, regions in taught.items()}
        )


def build(recipe: MGReRecipe, classes: int) -> tuple[MGRe, MGReHead]:
    """Network and head with random weights."""
    return MGRe(recipe), MGReHead(recipe, classes)


def embedder(recipe: MGReRecipe) -> nn.Module:
    """The network that is served: (B, 3, H, W) -> (B, D)."""
    return MGRe(recipe)


def tune_weights(recipe: MGReRecipe, vectors: F32, score: Callable[[F32], float]) -> tuple[tuple[float, ...], float]:
    """The `stage_weights` with the best score, and that score: one at a time in steps of 0.05, until none helps any more.

    `vectors` (N, D) are embeddings under positive weights, of people held out of training (`val_ids`); `score` judges such
    vectors under other weights. The weights act at test only, so nothing is trained again.
    """
    present = [stage - 1 for stage in (*recipe.stages, 4)]
    unit = vectors.reshape(len(vectors), len(present), -1)
    unit = unit / np.linalg.norm(unit, axis=2, keepdims=True).clip(1e-12)

    def judge(weights: Sequence[float]) -> float:
        scale = np.array([weights[place] for place in present], np.float32)
        return score((scale[:, None] * unit).reshape(vectors.shape))

    weights = list(recipe.stage_weights)
    best, before = judge(weights), -math.inf
    while best > before:
        before = best
        for place in present:
            for value in np.linspace(0, 1, 21).round(2).tolist():
                tried = [*weights[:place], value, *weights[place + 1 :]]
                if any(tried[place] for place in present) and (found := judge(tried)) > best:
                    weights, best = tried, found
    return tuple(weights), best


def _coverage(recipe: MGReRecipe, joints: F32 | None, people: I64) -> list[str]:
    """One line where pictures lack the joints that the recipe learns regions from."""
    regions = [region for regions in regions_of(recipe).values() for region in regions]
    if not regions:
        return []
    taught = 0
    if joints is not None:
        taught = int(joint_boxes(torch.from_numpy(joints), regions, recipe.visible_score)[1].any(1).sum())
    if taught == len(people):
        return []
    instead = "expected places stand in" if recipe.regions == "joints" else "identities alone teach where regions are"
    return [
        f"{taught} of {len(people)} training pictures have the joints of a region; for the others {instead} "
        "(`sightline data annotate` finds joints)"
    ]


class MGReTask(Task):
    """Equation 9: location, identity and triplet losses of stages 1 to 3, identity and triplet loss of stage 4, from the first
    epoch on."""

    recipe: MGReRecipe
    network: MGRe
    head: MGReHead

    def __init__(self, recipe: MGReRecipe, data: Crops) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self._data = recipe, data
        people, self._labels = np.unique(data.people, return_inverse=True)
        self.network, self.head = build(recipe, len(people))
        if self.network.takes_joints and data.joints is None:
            raise DataError(
                "regions = 'joints', but these pictures have none: find them with `sightline data annotate --every-split`"
            )
        self.notes = _coverage(recipe, data.joints, data.people)
        self.sampler = PKSampler(self._labels, recipe.batch_people, recipe.batch_pictures, recipe.seed)
        self._augment = Augment(
            recipe.input_hw,
            flip_p=recipe.flip_p,
            crop="pad" if recipe.pad_crop else "none",
            erase_p=recipe.erase_p,
        )

    def fill(self, weights: str) -> Matched:
        """See `Task`."""
        return self.network.trunk.fill(weights)

    def optimiser(self) -> torch.optim.Optimizer:
        """Adam over all that learns, biases and norms alike."""
        parameters = [p for module in (self.network, self.head) for p in module.parameters() if p.requires_grad]
        return torch.optim.Adam(
            parameters,
            lr=self.recipe.learning_rate,
            betas=(0.9, 0.999),
            weight_decay=self.recipe.weight_decay,
            fused=True,
        )

    def learning_rate(self, epoch: int, fraction: float) -> float:
        """The strong baseline's rise, then `lr_gamma` at each milestone; steps once an epoch, counted from 1."""
        recipe = self.recipe
        return warm_steps(
            recipe.learning_rate,
            epoch + 1,
            warmup=recipe.warmup_epochs,
            start=0.01,
            milestones=recipe.milestones,
            gamma=recipe.lr_gamma,
        )

    def losses(self, rows: Tensor, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
        """See `Task`: `stage_losses`, added up over the stages."""
        losses: dict[str, Tensor] = {}
        for (kind, _), value in self.stage_losses(rows, generator, device).items():
            losses[kind] = losses[kind] + value if kind in losses else value
        return losses

    def stage_losses(
        self, rows: Tensor, generator: torch.Generator, device: torch.device
    ) -> dict[tuple[str, int], Tensor]:
        """The weighted terms of equation 9 by kind (one of `LOSSES`) and stage."""
        recipe, chosen = self.recipe, rows.numpy()
        joints = torch.full((len(rows), 17, 3), torch.nan)
        if self._data.joints is not None:
            joints = torch.from_numpy(self._data.joints[chosen])
        pictures = torch.from_numpy(self._data.images[chosen]).to(device)
        batch = self._augment(pictures, generator, joints=joints.to(device))
        assert batch.joints is not None  # noqa: S101 - for the type checker: joints in, joints out
        labels = torch.from_numpy(self._labels[chosen]).to(device)
        given = self.network.boxes_of(batch.joints) if self.network.takes_joints else None
        described = self.network.describe(normalise(batch.pictures).to(memory_format=torch.channels_last), given)
        terms: dict[tuple[str, int], Tensor] = {}
        for stage, pooled in described.pooled.items():
            weight = recipe.lam if stage < 4 else 1.0
            logits = self.head.classifiers[str(stage)](described.necked[stage])
            terms["identity", stage] = weight * smoothed_cross_entropy(logits, labels, recipe.smoothing)
            terms["triplet", stage] = weight * batch_hard_triplet(pooled, labels, recipe.margin)
        taught = {int(stage): locator(described.maps[int(stage) - 1]) for stage, locator in self.head.locators.items()}
        for stage, boxes in (described.boxes | taught).items():
            targets, valid = joint_boxes(batch.joints, REGIONS[stage], recipe.visible_score)
            terms["location", stage] = recipe.lam * location_loss(boxes, targets, valid)
        return terms


RECIPE, TASK = MGReRecipe, MGReTask
