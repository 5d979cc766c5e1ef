"""ResNeSt trunks: residual networks whose 3x3 convolutions are split in two and mixed by attention (H. Zhang et al., ResNeSt:
Split-Attention Networks, CVPR workshops 2022, arXiv 2004.08955).

Radix 2, cardinality 1, deep stem, means instead of strides, as in the authors' release, whose names the parameters have.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BLOCKS = {"resnest101": [3, 4, 23, 3], "resnest200": [3, 24, 36, 3], "resnest269": [3, 30, 48, 8]}
"""Per stage."""
RADIX = 2
EXPANSION = 4
STEM = 64
"""Width of the stem of ResNeSt-101 and larger."""


class SplitAttention(nn.Module):
    """A grouped 3x3 convolution into two splits, summed with weights computed from their mean (section 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels * RADIX // 4, 32)
        self.conv = nn.Conv2d(channels, channels * RADIX, 3, padding=1, groups=RADIX, bias=False)
        self.bn0 = nn.BatchNorm2d(channels * RADIX)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.fc2 = nn.Conv2d(hidden, channels * RADIX, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        splits = torch.relu(self.bn0(self.conv(x))).chunk(RADIX, 1)
        mean = sum(splits[1:], splits[0]).mean((2, 3), keepdim=True)  # (B, channels, 1, 1)
        weights = self.fc2(torch.relu(self.bn1(self.fc1(mean)))).chunk(RADIX, 1)
        shares = torch.stack(weights).softmax(0)  # (2, B, channels, 1, 1)
        return shares[0] * splits[0] + shares[1] * splits[1]


class Block(nn.Module):
    """A bottleneck with a split-attention convolution; a mean over 3x3 shrinks it, one over 2x2 its shortcut."""

    def __init__(self, inputs: int, planes: int, stride: int, *, average: bool) -> None:
        super().__init__()
        outputs = planes * EXPANSION
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = SplitAttention(planes)
        self.avd_layer = nn.AvgPool2d(3, stride, padding=1) if average else nn.Identity()
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Identity() if inputs == outputs else _shortcut(inputs, outputs, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Before the shortcut is added (`trainer.calm`)."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 4 planes, H / stride, W / stride), not negative."""
        out = self.avd_layer(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(self.bn3(self.conv3(out)) + self.downsample(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    mean = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(mean, nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class ResNeSt(nn.Sequential):
    """The parts up to the last map: (B, 3, H, W) -> (B, 2048, H/16, W/16); the last stage has stride 1."""

    def __init__(self, blocks: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, STEM, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(STEM),
            nn.ReLU(inplace=True),
            nn.Conv2d(STEM, STEM, 3, padding=1, bias=False),
            nn.BatchNorm2d(STEM),
            nn.ReLU(inplace=True),
            nn.Conv2d(STEM, 2 * STEM, 3, padding=1, bias=False),
        )
        self.bn1 = nn.BatchNorm2d(2 * STEM)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = 2 * STEM
        for place, (count, planes, stride) in enumerate(zip(blocks, (64, 128, 256, 512), (1, 2, 2, 1), strict=True)):
            stage = nn.Sequential()
            for block in range(count):
                first = block == 0
                stage.append(Block(inputs, planes, stride if first else 1, average=first and place > 0))
                inputs = planes * EXPANSION
            self.add_module(f"layer{place + 1}", stage)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
