"""A small residual network, and a method that prunes it in a few steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur import METHODS, Masks
from secateur.methods import Method, start

STEPS = 12
QUICK: dict[str, Any] = {"every": 3, "strength": 1e-3}
"""Options that make a method do something in a few steps, for those that have them."""


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.norm = nn.Linear(width, 2 * width), nn.BatchNorm1d(2 * width)
        self.outer = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(functional.relu(self.norm(self.inner(x))))


class Net(nn.Module):
    """Residual blocks with a normalisation, so that every method finds what it looks for."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(10, 8)
        self.blocks = nn.Sequential(Block(8), Block(8), Block(8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def fresh(seed: int = 0, dtype: torch.dtype = torch.float32) -> Net:
    torch.manual_seed(seed)
    return Net().to(dtype)


def optimizer_of(model: nn.Module, kind: str = "sgd") -> torch.optim.Optimizer:
    if kind == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def begin(
    name: str, model: nn.Module, optimizer: torch.optim.Optimizer, amount: float = 0.6, **more: Any
) -> Method:
    entry = METHODS[name]
    options = {option: value for option, value in QUICK.items() if option in entry.options}
    given = {} if entry.make.amount == "none" else {"amount": amount}
    inputs = torch.ones(2, 10, dtype=next(model.parameters()).dtype)
    return start(
        name, model, optimizer, steps=STEPS, **{"example_inputs": inputs, **given, **options, **more}
    )


def batch(step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(step)
    return torch.randn(16, 10, generator=stream, dtype=dtype), torch.randint(0, 4, (16,), generator=stream)


def advance(
    model: nn.Module, optimizer: torch.optim.Optimizer, method: Method, first: int = 0, last: int = STEPS
) -> None:
    model.train()
    for step in range(first, last):
        inputs, labels = batch(step, next(model.parameters()).dtype)
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(inputs), labels) + method.penalty()
        loss.backward()
        optimizer.step()


def whole(name: str, **more: Any) -> tuple[Net, Masks]:
    model = fresh()
    optimizer = optimizer_of(model)
    method = begin(name, model, optimizer, **more)
    advance(model, optimizer, method)
    return model, method.finish()


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)
