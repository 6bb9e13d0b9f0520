"""VGG for 32×32 images: the convolutions of the paper, five poolings, and a single linear classifier.

The layers of `features` are numbered as in torchvision, so that checkpoints of its convolutions fit by name.
"""

from __future__ import annotations

from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.models.init import kaiming
from secateur.models.registry import model

POOL = 0
VGG_STAGES = {  # output channels of each 3×3 convolution
    11: (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL),
    13: (64, 64, POOL, 128, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL),
    16: (64, 64, POOL, 128, 128, POOL, *3 * (256,), POOL, *3 * (512,), POOL, *3 * (512,), POOL),
    19: (64, 64, POOL, 128, 128, POOL, *4 * (256,), POOL, *4 * (512,), POOL, *4 * (512,), POOL),
}


class VGG(nn.Module):
    """A VGG of `depth` 11, 13, 16 or 19; images [N, C, H, W] of 32×32 or more → logits [N, num_classes].

    `width` multiplies every channel count. Larger images are averaged to one pixel before the classifier.
    """

    def __init__(
        self, depth: int, *, batch_norm: bool, num_classes: int = 10, in_channels: int = 3, width: float = 1.0
    ) -> None:
        """Make the layers."""
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for base in VGG_STAGES[depth]:
            if base == POOL:
                layers.append(nn.MaxPool2d(2))
                continue
            inputs, channels = channels, max(1, round(base * width))
            layers.append(nn.Conv2d(inputs, channels, 3, padding=1))
            layers += [nn.BatchNorm2d(channels)] if batch_norm else []
            layers.append(nn.ReLU())
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        kaiming(self)

    def forward(self, images: Tensor) -> Tensor:
        """Classify `images` [N, C, H, W]."""
        return self.classifier(self.avgpool(self.features(images)).flatten(1))  # type: ignore[no-any-return]


def _register(depth: int, batch_norm: bool) -> None:
    name = f"vgg{depth}_bn" if batch_norm else f"vgg{depth}"
    summary = f"{depth} weight layers{' with BatchNorm' if batch_norm else ''}, single linear classifier"

    @model(name, input_shape=(3, 32, 32), summary=summary, paper="Simonyan & Zisserman 2015")
    def factory(
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: tuple[int, int] = (32, 32),
        width: float = 1.0,
    ) -> nn.Module:
        if min(image_size) < 32:
            raise InputError(
                f"{name} needs images of 32×32 or more, not {image_size[0]}×{image_size[1]}: try convnet."
            )
        if not width > 0:
            raise InputError(
                f"The width of {name} multiplies its channel counts and must be above 0, not {width}."
            )
        return VGG(
            depth, batch_norm=batch_norm, num_classes=num_classes, in_channels=in_channels, width=width
        )


for _depth in VGG_STAGES:
    for _batch_norm in (False, True):
        _register(_depth, _batch_norm)
