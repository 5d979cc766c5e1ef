"""What person search may do to a region's map: weigh its places or channels by a soft mask, or move it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REGION = 14
"""Sides of a region's map (Stefan et al., section III, local features)."""


class SpatialAttention(nn.Module):
    """A weight in (0, 1) per place: 1x1 to a sixteenth of the channels, batch norm, ReLU, 1x1 to one, sigmoid.

    Starts at 0.982 everywhere, so training begins with the network that has no attention.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels // 16)
        self.last = nn.Conv2d(channels // 16, 1, 1)
        _start_open(self.last)

    def mask(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1, H, W)."""
        return torch.sigmoid(self.last(torch.relu(self.norm(self.narrow(x)))))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same."""
        return x * self.mask(x)


class ChannelAttention(nn.Module):
    """A weight in (0, 1) per channel (squeeze and excitation, Hu et al., CVPR 2018); starts at 0.982 too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(channels, channels // 16)
        self.last = nn.Linear(channels // 16, channels)
        _start_open(self.last)

    def mask(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1)."""
        return torch.sigmoid(self.last(torch.relu(self.narrow(x.mean((2, 3))))))[..., None, None]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same."""
        return x * self.mask(x)


def _start_open(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, 4.0)  # type: ignore[arg-type]


def attention(kind: str, channels: int) -> nn.Module:
    """None, spatial, channel, or both, channels first."""
    if kind == "both":
        return nn.Sequential(ChannelAttention(channels), SpatialAttention(channels))
    kinds = {"none": lambda _: nn.Identity(), "spatial": SpatialAttention, "channel": ChannelAttention}
    return kinds[kind](channels)


class SpatialTransformer(nn.Module):
    """Moves a region's map by six numbers found in it; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, 32, 1)
        self.last = nn.Linear(32 * (REGION // 2) ** 2, 6)
        nn.init.zeros_(self.last.weight)
        self.last.bias.data = torch.tensor([1.0, 0, 0, 0, 1, 0])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 14, 14) -> same."""
        numbers = self.last(F.avg_pool2d(torch.relu(self.narrow(x)), 2).flatten(1)).float()
        with torch.autocast(x.device.type, enabled=False):  # which would give coordinates 8 bits
            grid = F.affine_grid(numbers.view(-1, 2, 3), list(x.shape), align_corners=False)
        return F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)
