"""Person search: find everybody in a whole scene and describe each, in one network.

Stefan et al., Deep Learning-based Person Search with Visual Attention Embedding: a trunk cut at stride 16 (GoogLeNet, ResNet-50 or
DenseNet-121), region proposals, a 14x14 map per region, a soft mask on it, the rest of the trunk, and three linear layers: person or
not, box, embedding. It follows Xiao et al., CVPR 2017, whose loss (OIM) it takes. Scenes in; boxes, scores and unit vectors out.

On a data set of crops (CUHK03 in the paper's tables) each picture is one region and OIM the only loss: nothing is detected.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torchvision import models, ops
from torchvision.models.detection._utils import BoxCoder

from stream.errors import DataError
from stream.model import IMAGENET_MEAN, IMAGENET_STD
from trainer.attention import REGION, SpatialTransformer, attention
from trainer.augment import normalise
from trainer.data import NOBODY, UNLABELLED, Crops, Scenes
from trainer.oim import BACKGROUND, OIM, UNLABELED
from trainer.proposals import OTHER_IOU, proposal_network, sample_regions
from trainer.sampler import ShuffleSampler
from trainer.scene_batch import SceneAugmentation, SceneBatch, clip, collate, fitted, flip, read, resized, scale_boxes
from trainer.settings import Count, Recipe
from trainer.task import Task
from trainer.weights import Matched, pretrained

PAPER = "Stefan et al., Deep Learning-based Person Search with Visual Attention Embedding"
LOSSES = ("rpn_score", "rpn_box", "score", "box", "oim")
STRIDE = 16
MIN_SCORE, MAX_IOU = 0.5, 0.4
"""What is reported: boxes of at least this score, none overlapping a better one by more (OIM's code)."""
BIAS_FACTOR = 2.0
"""Biases learn twice as fast (OIM's prototxt)."""

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Pixels = Annotated[int, Field(ge=32, le=4096)]


class PersonSearchRecipe(Recipe):
    """Defaults: the paper where it says something, OIM's code elsewhere."""

    method: Literal["person-search"] = "person-search"
    input_hw: tuple[Pixels, Pixels] = (900, 1500)
    """A scene's short side becomes the first, or its long side the second where that is smaller. Crops: height and width."""
    epochs: Count = 50
    milestones: tuple[Count, ...] = (25,)
    """Epochs from which on the rate is a tenth of what it was."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 5e-4
    weights: str = "imagenet"
    batch: Count = 2
    """Scenes, or crops."""
    backbone: Literal["googlenet", "resnet50", "densenet121"] = "densenet121"
    attention: Literal["none", "spatial", "channel", "both"] = "spatial"
    attention_place: Literal["roi", "stem"] = "roi"
    attention_scope: Literal["shared", "id"] = "shared"
    """Score and box see the masked map too, or the embedding alone does; then the head runs twice."""
    spatial_transformer: bool = False
    """An affine map of its own moves each region's map (Jaderberg et al., NeurIPS 2015)."""
    rpn_variant: Literal["torchvision", "caffe"] = "torchvision"
    anchor_sizes: tuple[Count, Count, Count] = (128, 256, 512)
    """Square roots of the anchors' areas, in pixels of a scene whose short side is 900; they shrink and grow with `input_hw`."""
    max_proposals_test: Count = 300
    roi_op: Literal["align", "pool"] = "align"
    rois: Annotated[int, Field(ge=4)] = 128
    """Regions per scene that the head is trained on."""
    fg_iou: Annotated[float, Field(ge=OTHER_IOU, lt=1)] = 0.5
    """Overlap with a person's box from which on a region shows that person."""
    stem: Literal["auto", "frozen", "trained"] = "auto"
    """Frozen: the stem's first convolution and its batch norms keep what they began with. Auto: where that was trained before."""
    head_bn: Literal["train", "frozen"] = "train"
    embed_dim: Count = 256
    queue: Annotated[int, Field(ge=0)] = 2048
    """Unlabelled people that OIM remembers."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    augment: Literal["flip", "full"] = "flip"
    """Full: the paper's list too, see `SceneAugmentation`."""

    @property
    def frozen_stem(self) -> bool:
        """Whether the stem keeps its statistics and first filters."""
        return self.stem == "frozen" or (self.stem == "auto" and bool(self.weights or self.start))

    @property
    def anchors(self) -> tuple[int, int, int]:
        """`anchor_sizes` in pixels of the scaled scene."""
        small, middle, large = (max(1, round(size * self.input_hw[0] / 900)) for size in self.anchor_sizes)
        return small, middle, large


ABLATIONS: Mapping[str, Mapping[str, object]] = {
    "GoogLeNet": {"backbone": "googlenet", "attention": "none"},
    "ResNet-50": {"backbone": "resnet50", "attention": "none"},
    "DenseNet-121": {"backbone": "densenet121", "attention": "none"},
    "GoogLeNet + attention": {"backbone": "googlenet", "attention": "spatial"},
    "ResNet-50 + attention": {"backbone": "resnet50", "attention": "spatial"},
    "DenseNet-121 + attention": {"backbone": "densenet121", "attention": "spatial"},
    "attention on the stem": {"attention_place": "stem"},
    "attention for the embedding alone": {"attention_scope": "id"},
    "channel attention": {"attention": "channel"},
    "channel and spatial attention": {"attention": "both"},
    "paper's wording": {"augment": "full", "roi_op": "pool", "fg_iou": 0.75},
}
"""Tables I and II, the other readings of its attention, then its text to the letter (0.75 is its overlap for evaluation too)."""


DRAWN: Mapping[str, object] = {
    "input_hw": (352, 640), "anchor_sizes": (80, 160, 320), "rois": 64, "max_proposals_test": 100, "learning_rate": 3e-3,
    "clip_norm": 10.0,
}  # fmt: skip
"""Drawn scenes at their own size, with anchors as large as people are there: 39 to 103 pixels (roots of areas, 90 % of them)."""


class InputMap(nn.Module):
    """Normalised pictures -> mean 0.5 and deviation 0.5, which torchvision's GoogLeNet was trained on."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> same."""
        mean, std = (x.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        return x * (std / 0.5) + (mean - 0.5) / 0.5


def trunk(backbone: str) -> tuple[nn.Sequential, nn.Sequential, int, int]:
    """Stem to stride 16, the rest to be run on regions, and the channels of both; children have torchvision's names.

    DenseNet is cut before its third transition: 1024 channels at stride 16, as section III says of the regions.
    """
    whole: Any
    if backbone == "googlenet":
        whole, ends = models.googlenet(aux_logits=False, init_weights=False), ("conv1", "maxpool4", "avgpool")
        channels, size = 832, 1024
    elif backbone == "resnet50":
        whole, ends = models.resnet50(), ("conv1", "layer4", "avgpool")
        channels, size = 1024, 2048
    else:
        whole, ends = models.densenet121().features, ("conv0", "transition3", "")
        channels, size = 1024, 1024
    children = dict(whole.named_children())
    names = [*children, ""]
    first, cut, end = (names.index(name) for name in ends)
    stem = nn.Sequential()
    if backbone == "googlenet":
        stem.add_module("input", InputMap())
    for name in names[first:cut]:
        stem.add_module(name, children[name])
    head = nn.Sequential()
    for name in names[cut:end]:
        head.add_module(name, children[name])
    if backbone == "densenet121":
        head.add_module("relu5", nn.ReLU(inplace=True))  # torchvision has it as a function
    return stem, head, channels, size


class PersonSearch(nn.Module):
    """The network. `search` and `embed` take pictures as they are read; `forward` takes whole pictures as regions."""

    def __init__(self, recipe: PersonSearchRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self._shared = recipe.attention_scope == "shared" or recipe.attention == "none"
        self.stem, self.head, channels, size = trunk(recipe.backbone)
        self.proposals = proposal_network(channels, recipe.rpn_variant, recipe.anchors, recipe.max_proposals_test)
        self.transformer = SpatialTransformer(channels) if recipe.spatial_transformer else nn.Identity()
        self.attention = attention(recipe.attention, channels)
        self.score = nn.Linear(size, 2)
        self.box = nn.Linear(size, 8)  # four of them for the background, as in the paper's detector
        self.identity = nn.Linear(size, recipe.embed_dim)
        self.coder = BoxCoder((10.0, 10.0, 5.0, 5.0))  # deviations of 0.1, 0.1, 0.2, 0.2
        for layer in (self.score, self.box):
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)
        nn.init.kaiming_normal_(self.identity.weight)
        nn.init.zeros_(self.identity.bias)
        if recipe.frozen_stem:
            next(self.stem.parameters()).requires_grad_(False)  # the first convolution
        for module in self._frozen_norms():
            module.requires_grad_(False)

    def _frozen_norms(self) -> list[nn.Module]:
        parts = [self.stem] * self.recipe.frozen_stem + [self.head] * (self.recipe.head_bn == "frozen")
        return [module for part in parts for module in part.modules() if isinstance(module, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> "PersonSearch":
        """As any module, but frozen norms stay as they are: two scenes have no statistics worth having."""
        super().train(mode)
        for module in self._frozen_norms():
            module.eval()
        return self

    def maps(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised (B, 3, H, W), sides multiples of 32 -> float32 maps at stride 16: where people are, and who they are."""
        plain = self.stem(planes).float()
        if self.recipe.attention_place == "roi":
            return plain, plain
        masked = self.attention(plain).float()
        return (masked if self._shared else plain), masked

    def regions(self, maps: tuple[Tensor, Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes (n, 4) per picture -> (N, C, 14, 14) twice: for score and box, and for the embedding."""
        seen = self.transformer(self._pooled(maps[0], boxes))
        if self.recipe.attention_place == "roi":
            masked = self.attention(seen)
            return (masked if self._shared else seen), masked
        return seen, seen if self._shared else self.transformer(self._pooled(maps[1], boxes))

    def _pooled(self, maps: Tensor, boxes: list[Tensor]) -> Tensor:
        if self.recipe.roi_op == "pool":
            pooled: Tensor = ops.roi_pool(maps, boxes, REGION, 1 / STRIDE)
        else:
            pooled = ops.roi_align(maps, boxes, REGION, 1 / STRIDE, sampling_ratio=2, aligned=True)
        return pooled

    def vectors(self, regions: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Region maps -> (N, D) twice: what score and box are read from, and what the embedding is."""
        first = self._vector(regions[0])
        return first, first if self._shared else self._vector(regions[1])

    def _vector(self, region: Tensor) -> Tensor:
        pooled: Tensor = self.head(region).float().mean((2, 3))
        return pooled

    def embedding(self, vectors: Tensor) -> Tensor:
        """(N, D) -> (N, embed_dim), unit length."""
        return F.normalize(self.identity(vectors).float(), eps=1e-12)

    def forward(self, planes: Tensor) -> Tensor:
        """Normalised (B, 3, H, W), each picture one region -> (B, embed_dim) before L2."""
        height, width = planes.shape[2:]
        boxes = planes.new_tensor([[0.0, 0.0, width, height]]).expand(len(planes), 1, 4)
        _, masked = self.regions(self.maps(planes), list(boxes))
        embedding: Tensor = self.identity(self._vector(masked))
        return embedding

    def found(self, batch: SceneBatch, min_score: float, max_iou: float) -> tuple[Tensor, Tensor, Tensor]:
        """Who is in a batch of one: boxes (n, 4) in its pixels, scores (n,), unit vectors (n, embed_dim), best first.

        The embedding is that of the proposal, the box the proposal's corrected one (OIM's code: no second look).
        """
        maps = self.maps(batch.tensors)
        (proposals,), _ = self.proposals(batch, {"stem": maps[0]})
        seen, masked = self.regions(maps, [proposals])
        vectors = self._vector(seen)
        scores = torch.softmax(self.score(vectors).float(), 1)[:, 1]
        boxes = self.coder.decode_single(self.box(vectors).float(), proposals)[:, 4:]
        boxes = ops.clip_boxes_to_image(boxes, batch.image_sizes[0])
        sure = torch.where((scores >= min_score) & (boxes[:, 2:] > boxes[:, :2]).all(1))[0]
        kept = sure[ops.nms(boxes[sure], scores[sure], max_iou)]
        who = vectors[kept] if self._shared else self._vector(masked[kept])
        return boxes[kept], scores[kept], self.embedding(who)

    @torch.inference_mode()
    def search(
        self, images: Sequence[U8], min_score: float = MIN_SCORE, max_iou: float = MAX_IOU
    ) -> tuple[list[F32], list[F32], list[F32]]:
        """Pictures (H, W, 3) uint8 RGB of any size -> per picture boxes (n, 4) xyxy in its pixels, scores (n,), unit vectors (n, D).

        One at a time, so that what is found does not depend on the others. In eval mode.
        """
        boxes, scores, vectors = [], [], []
        for image in images:
            batch = self._read(image)
            box, score, vector = self.found(batch, min_score, max_iou)
            y, x = batch.scales[0]
            boxes.append(scale_boxes(box, (1 / y, 1 / x)).cpu().numpy())
            scores.append(score.cpu().numpy())
            vectors.append(vector.cpu().numpy())
        return boxes, scores, vectors

    @torch.inference_mode()
    def embed(self, images: Sequence[U8], boxes: Sequence[F32]) -> list[F32]:
        """Pictures and boxes (n, 4) xyxy in their pixels -> per picture unit vectors (n, D). In eval mode."""
        vectors = []
        for image, box in zip(images, boxes, strict=True):
            batch = self._read(image)
            regions = scale_boxes(torch.from_numpy(np.array(box, np.float32)).to(batch.tensors.device), batch.scales[0])
            _, masked = self.regions(self.maps(batch.tensors), [regions.reshape(-1, 4)])
            vectors.append(self.embedding(self._vector(masked)).cpu().numpy())
        return vectors

    def _read(self, image: U8) -> SceneBatch:
        return read([image], self.recipe.input_hw, self.score.weight.device)


def build(recipe: PersonSearchRecipe, classes: int) -> tuple[PersonSearch, OIM]:
    """The network and, for `classes` labelled people, OIM's table and queue; random weights."""
    return PersonSearch(recipe), OIM(classes, recipe.embed_dim, recipe.queue, recipe.temperature)


def embedder(recipe: PersonSearchRecipe) -> PersonSearch:
    """The network alone; a checkpoint's weights load strictly."""
    return PersonSearch(recipe)


def begin_with(network: PersonSearch, backbone: str, source: str) -> Matched:
    """Fill stem and head with a classifier's weights: ``imagenet`` or a file with torchvision's names; the rest stays random."""
    enums = {
        "googlenet": models.GoogLeNet_Weights.IMAGENET1K_V1,
        "resnet50": models.ResNet50_Weights.IMAGENET1K_V1,
        "densenet121": models.DenseNet121_Weights.IMAGENET1K_V1,
    }
    parts = nn.ModuleDict({**dict(network.stem.named_children()), **dict(network.head.named_children())})

    def rename(name: str) -> str:  # DenseNet's file is older than its code: norm.1 is norm1 today
        return re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", name.removeprefix("features."))

    return pretrained(source, parts, imagenet=enums[backbone], rename=rename)


class PersonSearchTask(Task):
    """Five terms of weight 1: score and box of the proposals, score and box of the head, identity."""

    recipe: PersonSearchRecipe
    network: PersonSearch
    head: OIM

    def __init__(self, recipe: PersonSearchRecipe, data: Scenes | Crops) -> None:
        if data.people is None:
            raise DataError("these scenes say where people are but not who: person search needs identities")
        torch.manual_seed(recipe.seed)
        self.recipe, self._data = recipe, data
        labelled, self._labels = relabelled(data.people)
        self.network, self.head = build(recipe, labelled)
        self.sampler = ShuffleSampler(len(data.images), recipe.batch, recipe.seed)

    def fill(self, weights: str) -> Matched:
        """See `Task`."""
        return begin_with(self.network, self.recipe.backbone, weights)

    def optimiser(self) -> torch.optim.Optimizer:
        """SGD with momentum 0.9; no decay on biases, which learn at twice the rate, nor on norms (OIM's prototxt)."""
        groups: dict[str, list[nn.Parameter]] = {"weights": [], "biases": [], "norms": []}
        for module in self.network.modules():
            for name, parameter in module.named_parameters(recurse=False):
                kind = "norms" if isinstance(module, nn.BatchNorm2d) else "biases" if name == "bias" else "weights"
                if parameter.requires_grad:
                    groups[kind].append(parameter)
        return torch.optim.SGD(
            [
                {"params": groups["weights"], "weight_decay": self.recipe.weight_decay},
                {"params": groups["biases"], "weight_decay": 0.0, "factor": BIAS_FACTOR},
                {"params": groups["norms"], "weight_decay": 0.0},
            ],
            lr=self.recipe.learning_rate,
            momentum=0.9,
            fused=self.recipe.precision != "fp16",  # as OSNet's
        )

    def learning_rate(self, epoch: int, fraction: float) -> float:
        """A tenth from each milestone on."""
        rate: float = self.recipe.learning_rate * 0.1 ** sum(epoch >= m for m in self.recipe.milestones)
        return rate

    def losses(self, rows: Tensor, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
        """See `Task`; crops have `oim` alone."""
        if isinstance(self._data, Crops):
            planes = self._crops(self._data, rows.numpy(), generator, device)
            labels = torch.from_numpy(self._labels[rows.numpy()]).to(device)
            return {"oim": self.head(F.normalize(self.network(planes).float(), eps=1e-12), labels)}
        batch, boxes, people = self._scenes(self._data, rows.numpy(), generator, device)
        network = self.network
        maps = network.maps(batch.tensors)
        proposals, rpn = network.proposals(batch, {"stem": maps[0]}, [{"boxes": each} for each in boxes])
        sampled = [
            sample_regions(*each, self.recipe.rois, self.recipe.fg_iou)
            for each in zip(proposals, boxes, people, strict=True)
        ]
        seen, who = network.vectors(network.regions(maps, [region for region, _, _ in sampled]))
        region, label, truth = (torch.cat(column) for column in zip(*sampled, strict=True))
        person = label != BACKGROUND
        wanted = network.coder.encode_single(truth[person], region[person])
        offsets = network.box(seen).float()[person, 4:]
        return {
            "rpn_score": rpn["loss_objectness"],
            "rpn_box": rpn["loss_rpn_box_reg"],
            "score": F.cross_entropy(network.score(seen).float(), person.long()),
            "box": F.smooth_l1_loss(offsets, wanted, reduction="sum") / len(label),
            "oim": self.head(network.embedding(who), label),
        }

    def _scenes(
        self, scenes: Scenes, rows: NDArray[np.int64], generator: torch.Generator, device: torch.device
    ) -> tuple[SceneBatch, list[Tensor], list[Tensor]]:
        """A batch with, per scene, boxes (n, 4) in its pixels and labels (n,); people hardly to be seen are left out."""
        pictures, scales, boxes, people = [], [], [], []
        augment = SceneAugmentation(generator) if self.recipe.augment == "full" else None
        for image, row in zip(scenes.images[rows], rows, strict=True):
            height, width = image.shape[:2]
            size = fitted(height, width, self.recipe.input_hw)
            scale = (size[0] / height, size[1] / width)
            there = np.isfinite(scenes.xyxy[row]).all(1)
            picture = resized(image, size, device)
            box = scale_boxes(torch.from_numpy(scenes.xyxy[row][there]).float(), scale)
            if torch.rand((), generator=generator) < 0.5:
                picture, box = flip(picture, box)
            if augment is not None:
                picture, box = augment(picture, box)
            box, seen = clip(box, torch.from_numpy(scenes.visible[row][there]).float(), size)
            pictures.append(picture)
            scales.append(scale)
            boxes.append(box[seen].to(device))
            people.append(torch.from_numpy(self._labels[row][there])[seen].to(device))
        return collate(pictures, scales), boxes, people

    def _crops(self, crops: Crops, rows: NDArray[np.int64], generator: torch.Generator, device: torch.device) -> Tensor:
        """Normalised planes (B, 3, *input_hw), half of them mirrored."""
        images = torch.from_numpy(np.asarray(crops.images[rows])).to(device).permute(0, 3, 1, 2).float() / 255
        planes = F.interpolate(images, size=self.recipe.input_hw, mode="bilinear", align_corners=False)
        mirrored = (torch.rand(len(planes), generator=generator) < 0.5).to(device)
        return normalise(torch.where(mirrored[:, None, None, None], planes.flip(3), planes))


def relabelled(people: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]]:
    """How many people have an identity, and OIM's labels: those in order from 0, `UNLABELED` for unlabelled people and empty places."""
    known = np.setdiff1d(people, [UNLABELLED, NOBODY])
    if not len(known):
        raise DataError("nobody in the data has an identity: there is nothing to tell apart")
    return len(known), np.where(np.isin(people, known), np.searchsorted(known, people), UNLABELED)


RECIPE, TASK = PersonSearchRecipe, PersonSearchTask
