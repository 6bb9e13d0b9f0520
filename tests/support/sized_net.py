"""A network whose size stands in its code, for tests that build it again in another process."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Sizes in code, tied weights, a buffer the file does not hold, a frozen layer."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Linear(8 * 16, 6)
        self.again = self.last
        self.norm.requires_grad_(False)
        self.register_buffer("shift", torch.arange(8.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x))) + self.shift[:, None, None]
        return self.last(x.view(-1, 8 * 16))


IMAGES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
