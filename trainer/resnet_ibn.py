"""ResNet trunks for re-identification: four maps out, last stride 1, plain or with instance norm beside batch norm.

IBN-a (X. Pan, P. Luo, J. Shi, X. Tang, Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net, ECCV 2018,
arXiv 1807.09441): in the first three stages the norm after a block's first convolution is an instance norm for half of the
channels, which takes a picture's contrast and tint out of them, and a batch norm for the other half. The parameters are as
many as before and named as in the authors' release, so its weights load.
"""

from typing import Any, Literal

import torch
import torchvision.models.resnet as torchvision_resnet
from torch import Tensor, nn

from trainer.resnest import BLOCKS, ResNeSt
from trainer.weights import Matched, pretrained

Backbone = Literal["resnet50-ibn-a", "resnet50", "resnet101", "resnet152", "resnest101", "resnest200", "resnest269"]
CHANNELS = (256, 512, 1024, 2048)
"""Of the four maps."""
_LAYERS: dict[str, list[int]] = {
    "resnet50-ibn-a": [3, 4, 6, 3],
    "resnet50": [3, 4, 6, 3],
    "resnet101": [3, 4, 23, 3],
    "resnet152": [3, 8, 36, 3],
}
_IMAGENET = {
    "resnet50": torchvision_resnet.ResNet50_Weights.IMAGENET1K_V1,
    "resnet101": torchvision_resnet.ResNet101_Weights.IMAGENET1K_V1,
    "resnet152": torchvision_resnet.ResNet152_Weights.IMAGENET1K_V1,
}


class IBN(nn.Module):
    """Instance norm of the first half of the channels, batch norm of the second, both with learned scale and shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.IN = nn.InstanceNorm2d(channels // 2, affine=True)
        self.BN = nn.BatchNorm2d(channels - channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape; H * W is at least 2 in training."""
        half = self.IN.num_features
        return torch.cat([self.IN(x[:, :half]), self.BN(x[:, half:])], 1)


class ResNetTrunk(nn.Module):
    """Normalised picture (B, 3, H, W) -> its maps C1 to C4 of `CHANNELS` channels and 1/4, 1/8, 1/16, 1/16 of the sides.

    torchvision's residual network without its classifier, or a ResNeSt; the last stage keeps the resolution of the one before it (Luo et
    al., Bag of Tricks and a Strong Baseline, CVPR workshops 2019, section 3.5).
    """

    def __init__(self, backbone: Backbone = "resnet50-ibn-a") -> None:
        super().__init__()
        self._imagenet = _IMAGENET.get(backbone)
        whole: Any = ResNeSt(BLOCKS[backbone]) if backbone in BLOCKS else _resnet(backbone)
        self.conv1, self.bn1, self.relu, self.maxpool = whole.conv1, whole.bn1, whole.relu, whole.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See the class."""
        c1 = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))  # (B, 256, H/4, W/4)
        c2 = self.layer2(c1)  # (B, 512, H/8, W/8)
        c3 = self.layer3(c2)  # (B, 1024, H/16, W/16)
        return c1, c2, c3, self.layer4(c3)  # (B, 2048, H/16, W/16)

    def fill(self, source: str) -> Matched:
        """Take the weights of ``imagenet`` (torchvision has none with IBN-a) or of a file, such as the releases of IBN-Net's and ResNeSt's authors."""
        return pretrained(source, self, imagenet=self._imagenet)


def _resnet(backbone: Backbone) -> nn.Module:
    whole: Any = torchvision_resnet.ResNet(torchvision_resnet.Bottleneck, _LAYERS[backbone])
    whole.layer4[0].conv2.stride = whole.layer4[0].downsample[0].stride = (1, 1)
    if backbone == "resnet50-ibn-a":
        for layer in (whole.layer1, whole.layer2, whole.layer3):
            for block in layer:
                block.bn1 = IBN(block.bn1.num_features)
    network: nn.Module = whole
    return network
