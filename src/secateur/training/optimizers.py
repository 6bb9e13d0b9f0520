"""Optimisers by name, built from a `TrainConfig`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from secateur.registry import Registry
from secateur.training.config import TrainConfig

Parameters = Iterable[nn.Parameter]
OPTIMIZERS: Registry[Callable[[Parameters, TrainConfig], torch.optim.Optimizer]] = Registry("optimizer")


@OPTIMIZERS.register("sgd")
def sgd(parameters: Parameters, config: TrainConfig) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum, Nesterov's if asked."""
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        weight_decay=config.weight_decay,
    )


@OPTIMIZERS.register("adam")
def adam(parameters: Parameters, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015); the penalty is part of the gradient."""
    return torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay)


@OPTIMIZERS.register("adamw")
def adamw(parameters: Parameters, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019); decoupled weight decay."""
    return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
