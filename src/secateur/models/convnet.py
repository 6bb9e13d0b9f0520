"""A small convolutional net for small images: 24 thousand parameters, trained on 8×8 digits in seconds."""

from __future__ import annotations

from torch import nn

from secateur.models.init import kaiming
from secateur.models.registry import model


@model(
    "convnet",
    input_shape=(1, 8, 8),
    summary="three 3×3 convolutions with BatchNorm, for images of 8×8 to 32×32",
)
def convnet(num_classes: int = 10, in_channels: int = 1) -> nn.Module:
    """Build 16 → 32 → pool → 64 channels → average → linear; images [N, C, H, W] → [N, num_classes]."""
    return kaiming(
        nn.Sequential(
            *_convolution(in_channels, 16),
            *_convolution(16, 32),
            nn.MaxPool2d(2),
            *_convolution(32, 64),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, num_classes),
        )
    )


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
