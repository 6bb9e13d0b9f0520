"""The two LeNets of the pruning literature, with ReLU for tanh and max pooling for averages."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.models.init import kaiming
from secateur.models.registry import InputShape, model

LECUN = "LeCun et al. 1998"


@model(
    "lenet300", input_shape=(1, 28, 28), summary="fully connected 300-100, any input flattened", paper=LECUN
)
class LeNet300(nn.Module):
    """Two hidden layers of 300 and 100 units; inputs [N, …], flattened → logits [N, num_classes]."""

    def __init__(self, num_classes: int = 10, input_shape: InputShape = (1, 28, 28)) -> None:
        """Make the layers for inputs of `input_shape`."""
        super().__init__()
        self.fc1 = nn.Linear(math.prod(input_shape), 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Classify `inputs` [N, …]."""
        hidden = F.relu(self.fc1(inputs.flatten(1)))
        return self.fc3(F.relu(self.fc2(hidden)))  # type: ignore[no-any-return]


@model("lenet5", input_shape=(1, 28, 28), summary="two convolutions, three linear layers", paper=LECUN)
class LeNet5(nn.Module):
    """Convolutions of 6 and 16 channels (5×5), then 120-84; images [N, C, H, W] → logits [N, num_classes].

    The paper's images are 32×32. Smaller ones are padded by 2 pixels a side, so 28×28 becomes 32×32.
    Raises `InputError` for images under 12×12.
    """

    def __init__(
        self, num_classes: int = 10, in_channels: int = 1, image_size: tuple[int, int] = (28, 28)
    ) -> None:
        """Make the layers for images of `image_size` (height, width)."""
        super().__init__()
        if min(image_size) < 12:
            height, width = image_size
            raise InputError(
                f"lenet5 needs images of 12×12 or more, not {height}×{width}: try convnet or lenet300."
            )
        padding = 2 if min(image_size) < 32 else 0
        height, width = (((size + 2 * padding - 4) // 2 - 4) // 2 for size in image_size)
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=padding)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * height * width, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)
        kaiming(self)

    def forward(self, images: Tensor) -> Tensor:
        """Classify `images` [N, C, H, W]."""
        features = F.max_pool2d(F.relu(self.conv1(images)), 2)
        features = F.max_pool2d(F.relu(self.conv2(features)), 2)
        hidden = F.relu(self.fc1(features.flatten(1)))
        return self.fc3(F.relu(self.fc2(hidden)))  # type: ignore[no-any-return]
