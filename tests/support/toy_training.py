"""A small image set, a small network, and masks for it: what the tests of training train."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.data import Dataset, Split

COUNT, BATCH = 45, 16  # the last batch holds 13


def toy(train: int = COUNT, augmentation: str = "none") -> Dataset:
    stream = torch.Generator().manual_seed(3)
    halves = []
    for size in (train, 20):
        labels = torch.arange(size) % 4
        images = torch.randint(0, 120, (size, 1, 8, 8), dtype=torch.uint8, generator=stream)
        images[torch.arange(size), 0, 2 * labels] += 100  # a bright row tells the class
        halves.append(Split(images, labels))
    return Dataset("toy", *halves, tuple("abcd"), (0.4,), (0.3,), augmentation)


class Net(nn.Module):
    """A convolution, a normalisation, dropout and two linear layers."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(4 * 16, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = functional.max_pool2d(functional.relu(self.norm(self.conv(images))), 2)
        return self.head(functional.relu(self.hidden(self.dropout(maps.flatten(1)))))


def fresh(dropout: float = 0.0) -> Net:
    torch.manual_seed(0)
    return Net(dropout)


def half_cut(model: nn.Module) -> dict[str, Tensor]:
    stream = torch.Generator().manual_seed(5)
    return {
        name: torch.rand(parameter.shape, generator=stream) < 0.4
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1
    }


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
