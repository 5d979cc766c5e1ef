"""Residual networks that begin as their shortcuts alone: deep ones learn from scratch much sooner."""

from torch import nn
from torchvision.models.efficientnet import MBConv
from torchvision.models.resnet import Bottleneck

from stream.errors import UsageError


def calm(network: nn.Module) -> None:
    """Set the scale of every residual block's last norm to 0 (P. Goyal et al., arXiv 1706.02677, section 5.1).

    Blocks are torchvision's, and ours that have a `last_norm`. Raises `UsageError` where the network has none.
    """
    found = [norm for block in network.modules() if (norm := _last_norm(block)) is not None]
    if not found:
        raise UsageError(f"calm = true: {type(network).__name__} has no residual blocks here: leave it out")
    for norm in found:
        nn.init.zeros_(norm.weight)


def _last_norm(block: nn.Module) -> nn.BatchNorm2d | None:
    norm: object = None
    if isinstance(block, Bottleneck):
        norm = block.bn3
    elif isinstance(block, MBConv):
        norm = block.block[-1][1] if block.use_res_connect else None
    else:
        norm = getattr(block, "last_norm", None)
    return norm if isinstance(norm, nn.BatchNorm2d) else None
