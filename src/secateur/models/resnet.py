"""The ImageNet ResNets with a stem for small images: a 3×3 convolution of stride 1 and no pooling."""

from __future__ import annotations

from torch import nn

from secateur.core.extras import need
from secateur.models.init import kaiming
from secateur.models.registry import model

RESNET_PAPER = "He et al. 2016; stem for 32×32 images"


@model(
    "resnet18",
    input_shape=(3, 32, 32),
    summary="torchvision's ResNet-18 with a stem for small images",
    paper=RESNET_PAPER,
)
def resnet18(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Build ResNet-18; images [N, C, H, W] → logits [N, num_classes]."""
    return _small_stem("BasicBlock", [2, 2, 2, 2], num_classes, in_channels)


@model(
    "resnet50",
    input_shape=(3, 32, 32),
    summary="torchvision's ResNet-50 with a stem for small images",
    paper=RESNET_PAPER,
)
def resnet50(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Build ResNet-50; images [N, C, H, W] → logits [N, num_classes]."""
    return _small_stem("Bottleneck", [3, 4, 6, 3], num_classes, in_channels)


def _small_stem(block: str, layers: list[int], num_classes: int, in_channels: int) -> nn.Module:
    resnet = need("torchvision.models.resnet", for_="A ResNet for small images")
    net: nn.Module = resnet.ResNet(getattr(resnet, block), layers, num_classes=num_classes)
    net.conv1 = kaiming(nn.Conv2d(in_channels, 64, 3, padding=1, bias=False))
    net.maxpool = nn.Identity()
    return net
