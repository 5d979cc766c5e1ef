"""Losses: functions of tensors, computed in float32 whatever the network ran in, inside an autocast block too."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stream.errors import UsageError


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.1) -> Tensor:
    """Mean cross-entropy of (B, K) logits against (B,) labels whose target keeps 1 - smoothing and spreads the rest over K."""
    log_p = F.log_softmax(logits.float(), 1)
    right = -log_p.gather(1, labels[:, None])[:, 0]
    return ((1 - smoothing) * right - smoothing * log_p.mean(1)).mean()


def batch_hard_triplet(features: Tensor, labels: Tensor, margin: float | None = 0.3) -> Tensor:
    """Furthest of the same person against nearest of another, per anchor (Hermans et al., arXiv 1703.07737).

    `features` (B, D), Euclidean; `margin` None takes the soft margin, log(1 + exp(positive - negative)). A batch needs two people.
    """
    features = features.float()
    with torch.autocast(features.device.type, enabled=False):  # else the product below is one of half floats
        squares = (features * features).sum(1)
        squared = squares[:, None] + squares[None] - 2 * features @ features.T
    distance = squared.clamp_min(1e-12).sqrt()
    same = labels[:, None] == labels[None]
    if bool(same.all()):
        raise UsageError("a triplet needs two people in the batch, got one: sample at least 2 people per batch")
    positive = distance.masked_fill(~same, 0.0).amax(1)  # the anchor itself is among them, at 0
    negative = distance.masked_fill(same, torch.inf).amin(1)
    if margin is None:
        return F.softplus(positive - negative).mean()
    return F.relu(margin + positive - negative).mean()


def supervised_contrastive(features: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Mean over the anchors, and over each one's own people, of -log softmax of the cosine over the rest of the batch.

    Khosla et al., NeurIPS 2020, equation 2. `features` (B, D) of any length, `labels` (B,); an anchor whose person nobody else in
    the batch shows does not count.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float())
        similar = unit @ unit.T / temperature
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same = (labels[:, None] == labels[None]) & ~itself
    log_p = similar - torch.logsumexp(similar.masked_fill(itself, -torch.inf), 1, keepdim=True)
    companions = same.sum(1)
    per_anchor = -(log_p * same).sum(1) / companions.clamp_min(1)
    return per_anchor.sum() / (companions > 0).sum().clamp_min(1)


class CentreLoss(nn.Module):
    """Mean squared distance of (B, D) features to their person's centre (Wen et al., ECCV 2016).

    The centres are buffers that follow the features by plain gradient descent on this loss, unweighted, at `rate`: what a second
    optimiser would do, but it needs none. They move once per call in training mode, after the loss was taken.
    """

    centres: Tensor

    def __init__(self, features: int, classes: int, rate: float = 0.5) -> None:
        super().__init__()
        self.register_buffer("centres", torch.randn(classes, features))
        self.rate = rate

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, D) and (B,) -> mean over the batch; weigh it by 0.0005 beside a cross-entropy."""
        away = features.float() - self.centres[labels]  # (B, D)
        if self.training:
            self.centres = self.centres.index_add(0, labels, away.detach(), alpha=2 * self.rate / len(labels))
        return away.square().sum(1).mean()


class CosineSoftmax(nn.Module):
    """Cross-entropy over `scale` times the cosine between a feature and one learned direction per class."""

    def __init__(self, features: int, classes: int, scale: float = 20.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, features))
        # of length 1: Adam's steps then turn it by degrees, not by minutes
        nn.init.normal_(self.weight, std=features**-0.5)
        self.scale = scale

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, D) and (B,) -> mean loss."""
        with torch.autocast(features.device.type, enabled=False):
            cosine = F.normalize(features.float()) @ F.normalize(self.weight).T
        return F.cross_entropy(self.scale * cosine, labels)


def pair_iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al., CVPR 2019) of boxes (..., 4) xyxy, pair by pair."""
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    inner = (high - low).clamp_min(0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    union = (areas - inner).clamp_min(1e-6)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1).clamp_min(1e-6)
    iou = inner / union
    return iou, iou - (hull - union) / hull


def quality_focal(logits: Tensor, target: Tensor, beta: float = 2.0) -> Tensor:
    """Focal loss against a target in [0, 1] (the IoU of the predicted box; 0 where nobody is), element by element."""
    p = torch.sigmoid(logits)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none") * (target - p).abs().pow(beta)
