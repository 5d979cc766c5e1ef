"""Where people may be: region proposals on a map of stride 16, and the regions that a head is trained on.

Ren et al., Faster R-CNN, NeurIPS 2015, section 3, on torchvision's parts. Two variants: torchvision's rules, and those of Caffe's
py-faster-rcnn, which OIM and the person search paper build on: a softmax over two classes, no training on anchors that cross the
picture's border, no proposals that are tiny.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision import ops
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork

from stream.errors import DataError
from trainer.oim import BACKGROUND
from trainer.scene_batch import SceneBatch

CHANNELS = 512
RATIOS = (0.5, 1.0, 2.0)
"""Height over width of anchors: 2 is tall."""
ANCHORS = 9
"""Per cell: three sizes by three ratios."""
SMALLEST_PX = 16
"""Caffe: sides of a proposal, in pixels of the picture as it was read."""
OTHER_IOU = 0.5
"""Regions that overlap everybody less are background."""
PEOPLE_SHARE = 0.25
"""Of the regions that the head is trained on, at most so many show somebody."""


class ProposalHead(nn.Module):
    """3x3 convolution to 512 channels, then a score and four offsets per anchor.

    torchvision's own keeps the map's channels in the 3x3, the paper's detector has 512. `classes` 1: a logit per anchor; 2: a logit
    each for background and person, whose difference is the same thing.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self._classes = classes
        self.conv = nn.Conv2d(channels, CHANNELS, 3, padding=1)
        self.score = nn.Conv2d(CHANNELS, classes * ANCHORS, 1)
        self.box = nn.Conv2d(CHANNELS, 4 * ANCHORS, 1)
        for layer, deviation in ((self.conv, 0.01), (self.score, 0.001), (self.box, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps (B, C, h, w) -> float32 logits (B, 9, h, w) and offsets (B, 36, h, w) of each; boxes need more than 8 bits."""
        logits, offsets = [], []
        for each in maps:
            hidden = torch.relu(self.conv(each))
            score = self.score(hidden).float()
            if self._classes == 2:
                background, person = score.chunk(2, 1)
                score = person - background
            logits.append(score)
            offsets.append(self.box(hidden).float())
        return logits, offsets


class CaffeProposals(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's network with py-faster-rcnn's two rules about borders and about tiny proposals."""

    _batch: SceneBatch

    def forward(
        self, images: SceneBatch, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> Any:
        """As torchvision's."""
        self._batch = images  # both rules need sizes that torchvision does not hand on
        return super().forward(images, features, targets)

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels (1, 0, -1 not to be judged) and boxes per anchor; an anchor that reaches beyond its picture is not judged."""
        labels, boxes = [], []
        for each, target, (height, width) in zip(anchors, targets, self._batch.image_sizes, strict=True):
            inside = (each[:, :2] >= 0).all(1) & (each[:, 2] <= width) & (each[:, 3] <= height)
            if not bool(inside.any()):
                raise DataError(
                    f"no anchor lies inside a scene of {height}x{width}: take smaller anchor_sizes or a larger input_hw"
                )
            (label,), (box,) = super().assign_targets_to_anchors([each[inside]], [target])
            labels.append(label.new_full((len(each),), -1.0).masked_scatter(inside, label))
            boxes.append(each.masked_scatter(inside[:, None], box))
        return labels, boxes

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The best proposals and their scores, per picture."""
        kept, scores = [], []
        for place, logits in enumerate(objectness.reshape(len(proposals), -1)):
            self.min_size = SMALLEST_PX * min(self._batch.scales[place])
            (boxes,), (score,) = super().filter_proposals(
                proposals[place : place + 1], logits, image_shapes[place : place + 1], num_anchors_per_level
            )
            kept.append(boxes)
            scores.append(score)
        return kept, scores


def proposal_network(
    channels: int, variant: Literal["torchvision", "caffe"], anchor_sizes: tuple[int, int, int], most: int
) -> RegionProposalNetwork:
    """Takes a `SceneBatch`, {"stem": maps} and in training [{"boxes": (n, 4)}]; gives a list of (m, 4) proposals and two losses.

    Training keeps 2000 of the 12000 best proposals, inference `most` of the 6000 best (py-faster-rcnn).
    """
    kind = CaffeProposals if variant == "caffe" else RegionProposalNetwork
    return kind(
        AnchorGenerator((anchor_sizes,), (RATIOS,)),
        ProposalHead(channels, 2 if variant == "caffe" else 1),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 12000, "testing": 6000},
        post_nms_top_n={"training": 2000, "testing": most},
        nms_thresh=0.7,
    )


def sample_regions(
    proposals: Tensor, boxes: Tensor, labels: Tensor, count: int, fg_iou: float
) -> tuple[Tensor, Tensor, Tensor]:
    """At most `count` of one picture's proposals (m, 4) and people's boxes (n, 4): regions, their labels, their people's boxes.

    A region that overlaps somebody by `fg_iou` or more has that person's of the `labels` (n,); one below `OTHER_IOU` is `BACKGROUND`
    and its box is itself; those between are left out. Drawn by torch's global generator.
    """
    regions = torch.cat([proposals, boxes])
    if len(boxes):
        owner = Matcher(fg_iou, OTHER_IOU)(ops.box_iou(boxes, regions))  # -1 background, -2 between
    else:
        owner = torch.full((len(regions),), Matcher.BELOW_LOW_THRESHOLD, device=regions.device)
    kind = torch.where(owner >= 0, 1, torch.where(owner == Matcher.BELOW_LOW_THRESHOLD, 0, -1))
    (people,), (others,) = BalancedPositiveNegativeSampler(count, PEOPLE_SHARE)([kind])
    chosen = (people | others).bool()
    regions, owner = regions[chosen], owner[chosen]
    shown = torch.cat([labels, labels.new_full((1,), BACKGROUND)])[owner.clamp_min(-1)]
    return regions, shown, torch.where((owner >= 0)[:, None], torch.cat([boxes, boxes.new_zeros(1, 4)])[owner], regions)
