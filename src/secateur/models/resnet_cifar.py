"""The residual networks of He et al. 2016, section 4.2, for 32×32 images: 6n + 2 layers, 16 to 64 channels.

Shortcuts are option A: at the start of a stage, the identity is subsampled and padded with zero channels, so that
shortcuts hold no parameters. Modules are named as in public checkpoints (`conv1`, `bn1`, `layer1.0.conv1`, …,
`linear`).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from secateur.models.init import kaiming
from secateur.models.registry import model


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: [N, inputs, H, W] → [N, outputs, ⌈H / stride⌉, ⌈W / stride⌉]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Make the layers; the first convolution has the `stride`."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else ZeroPad(stride, (outputs - inputs) // 2)

    def forward(self, features: Tensor) -> Tensor:
        """Return ReLU(residual + shortcut)."""
        residual = F.relu(self.bn1(self.conv1(features)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.shortcut(features))


class ZeroPad(nn.Module):
    """Option A: every `stride`-th pixel, with `pad` channels of zeros before and after the present ones."""

    def __init__(self, stride: int, pad: int) -> None:
        """Store the sizes; the two pads may differ once channels are removed."""
        super().__init__()
        self.stride = stride
        self.pad = (pad, pad)

    def forward(self, features: Tensor) -> Tensor:
        """Subsample and widen `features` [N, C, H, W]."""
        return F.pad(features[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.pad))


class CifarResNet(nn.Module):
    """A residual network of `depth` 6n + 2; images [N, C, H, W] → logits [N, num_classes]."""

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3) -> None:
        """Make the layers."""
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        kaiming(self)

    def forward(self, images: Tensor) -> Tensor:
        """Classify `images` [N, C, H, W]."""
        features = F.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.linear(features.mean((2, 3)))  # type: ignore[no-any-return]


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)


def _register(depth: int) -> None:
    summary = f"{depth} layers, option-A shortcuts"

    @model(f"resnet{depth}", input_shape=(3, 32, 32), summary=summary, paper="He et al. 2016, section 4.2")
    def factory(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
        return CifarResNet(depth, num_classes, in_channels)


for _depth in (20, 32, 44, 56, 110):
    _register(_depth)
